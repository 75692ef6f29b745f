"""The networks of the paper's experiments: plain modules that know nothing of masks, and their settings as values."""
