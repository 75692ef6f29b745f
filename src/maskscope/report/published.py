"""Numbers of the paper, to stand beside ours."""

from __future__ import annotations

TABLE_ONE: dict[str, dict[str, str]] = {
    "fnn": {
        "full 1": "100 ± 0.0",
        "full 2": "100 ± 0.0",
        "own 1": "100 ± 0.0",
        "own 2": "100 ± 0.0",
        "other 1": "1 ± 0.1",
        "other 2": "1 ± 0.1",
        "own without 1": "20 ± 12.7",
        "own without 2": "21 ± 11.0",
        "other without 1": "92 ± 10.5",
        "other without 2": "94 ± 6.7",
    },
    "lstm": {
        "full 1": "100 ± 0.0",
        "full 2": "100 ± 0.0",
        "own 1": "100 ± 0.0",
        "own 2": "100 ± 0.0",
        "other 1": "1 ± 0.1",
        "other 2": "1 ± 0.1",
        "own without 1": "2 ± 0.5",
        "own without 2": "2 ± 0.3",
        "other without 1": "99 ± 3.0",
        "other without 2": "100 ± 0.2",
    },
    "lstm-forced": {
        "full 1": "100 ± 0.0",
        "full 2": "100 ± 0.1",
        "own 1": "100 ± 0.0",
        "own 2": "100 ± 0.0",
        "other 1": "1 ± 0.1",
        "other 2": "1 ± 0.1",
        "own without 1": "4 ± 0.8",
        "own without 2": "3 ± 0.6",
        "other without 1": "99 ± 0.7",
        "other without 2": "96 ± 4.1",
    },
}
"""Table 1, accuracy on pair 1 and on pair 2: mean ± sample standard deviation over 10 runs. Source: Csordas et al. 2021."""
