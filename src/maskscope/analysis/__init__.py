"""Masks and networks in, records out: accuracies under masks, overlaps, chance, ceiling, verdict."""
