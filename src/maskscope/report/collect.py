"""What of finished runs is small enough to keep beside the code: their JSON, without weights and masks."""

from __future__ import annotations

import json
from pathlib import Path

from maskscope.report.load import Found
from maskscope.runs.store import segment, write_text


def collect(found: Found, folder: Path, *, curves: bool = True) -> tuple[Path, ...]:
    """Copy configuration, environment, results and the records of masks; ``find`` reads the copy as it reads the runs.

    Args:
        found: The runs.
        folder: Where to; one folder for each variant, one in it for each seed.
        curves: With the learning curves of masks; without them, files are also written without spaces.

    Returns:
        The seeds' folders.

    Raises:
        ValueError: Nothing is finished yet, or two runs of one variant differ in their configuration.
        OSError: The folder cannot be written to.
    """
    if found.is_empty:
        raise ValueError(f"nothing to collect yet: {'; '.join(found.unfinished) or 'no run'}")
    runs = (*found.runs, *found.continual)
    variants = [run.experiment.variant for run in runs]
    doubled = sorted({name for name in variants if variants.count(name) > 1})
    if doubled:
        raise ValueError(f"several configurations of {doubled}; name the folder of one of them")
    copies: list[Path] = []
    for run in runs:
        for seed in run.seeds:
            source, copy = seed.folder.path, folder / segment(run.experiment.variant) / seed.folder.path.name
            for path in sorted(source.rglob("*.json")):
                if "checkpoint" not in path.parts:
                    text = path.read_text(encoding="utf-8")
                    write_text(copy / path.relative_to(source), text if curves else _without_curves(text))
            copies.append(copy)
    return tuple(copies)


def _without_curves(text: str) -> str:
    record = json.loads(text)
    if "histogram" in record:  # a mask's
        record["curve"] = []
    return json.dumps(record, separators=(",", ":"))
