"""Data sets: each a frozen dataclass that makes its batches as a function of (seed, step)."""
