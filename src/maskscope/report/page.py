"""docs/experiments.md, written from result files so that it cannot drift from them.

python -m maskscope.report.page results docs/experiments.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from maskscope.report import page_tables
from maskscope.report.load import find
from maskscope.report.setting import Setting
from maskscope.runs.store import write_text

ORDER = ("quick", "standard", "paper")


def write_page(results: Path, page: Path) -> Path:
    """Write the page.

    Args:
        results: The folder of result files, ``experiment/preset/variant/seed-N`` in it.
        page: The Markdown file.

    Raises:
        FileNotFoundError: No results there.
        ValueError: Some results cannot be read.
    """
    settings: dict[str, list[Setting]] = {}
    for experiment in sorted(path for path in results.iterdir() if path.is_dir()):
        for preset in (experiment / name for name in ORDER if (experiment / name).is_dir()):
            found = find(preset)
            if found.unfinished:
                raise ValueError(f"results that cannot be read: {'; '.join(found.unfinished)}")
            runs = tuple(sorted(found.runs, key=lambda run: run.experiment.variant))
            continual = tuple(sorted(found.continual, key=lambda run: run.experiment.variant))
            settings.setdefault(experiment.name, []).append(Setting(experiment.name, preset.name, runs, continual))
    if not settings:
        raise FileNotFoundError(f"no results in {results}; make some with: maskscope collect RUNS --out {results}/...")
    templates = Templates(
        loader=PackageLoader("maskscope.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    weights = _read(results / "random-weights.json")
    shown = {
        "settings": settings,
        "tables": page_tables,
        "random_weights": weights,
        "sizes": _read(results / "sizes.json"),
    }
    write_text(page, templates.get_template("experiments.md.j2").render(shown))
    return page


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
