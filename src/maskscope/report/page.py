"""docs/experiments.md, written from result files so that it cannot drift from them.

python -m maskscope.report.page results docs/experiments.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined

from maskscope.analysis.modularity import Estimate, estimate
from maskscope.report.load import Run, find
from maskscope.report.tables import Grid, percent, table_outcomes, table_overlap
from maskscope.runs.results import ALL, ENDS, HIDDEN
from maskscope.runs.store import write_text
from maskscope.runs.verdict import accuracy, sharing, verdict

PUBLISHED: dict[str, dict[str, str]] = {
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

ORDER = ("quick", "standard", "paper")


@dataclass(frozen=True)
class Setting:
    """All runs of an experiment in one preset."""

    experiment: str
    preset: str
    runs: tuple[Run, ...]

    @property
    def command(self) -> str:
        """What made them."""
        seeds = sorted({seed.seed for run in self.runs for seed in run.seeds})
        threads = {seed.environment.threads for run in self.runs for seed in run.seeds}
        variants = " ".join(run.experiment.variant for run in self.runs)
        return (
            f"maskscope run {self.experiment} --preset {self.preset} --only {variants} "
            f"--seeds {' '.join(map(str, seeds))}"
            + "".join(f" --threads {count}" for count in threads if len(threads) == 1)
        )

    @property
    def hardware(self) -> str:
        """On what they ran."""
        environments = {
            f"{seed.environment.machine.split(',')[0]}, torch {seed.environment.torch}, {seed.environment.threads} "
            f"thread{'' if seed.environment.threads == 1 else 's'} a run"
            for run in self.runs
            for seed in run.seeds
        }
        return "; ".join(sorted(environments))

    @property
    def minutes(self) -> str:
        """How long a seed of each network took, training and masks."""
        return ", ".join(
            f"{run.name} {estimate(seed.seconds for seed in run.seeds).mean / 60:.0f} min" for run in self.runs
        )


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
            settings.setdefault(experiment.name, []).append(Setting(experiment.name, preset.name, runs))
    if not settings:
        raise FileNotFoundError(f"no results in {results}; make some with: maskscope collect RUNS --out {results}/...")
    templates = Templates(
        loader=PackageLoader("maskscope.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = {
        "settings": settings,
        "table_one": table_one,
        "complements": complements,
        "overlaps": overlaps,
        "places": places,
        "outcomes": outcomes,
        "sizes": sizes,
    }
    write_text(page, templates.get_template("experiments.md.j2").render(shown))
    return page


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _tested(setting: Setting) -> Iterator[tuple[Run, str, str, Callable[[str], str | None]]]:
    """Every network on every subtask: the subtask, the other one, and what the paper has for a column."""
    for run in setting.runs:
        published = PUBLISHED.get(run.experiment.variant, {}) if setting.preset != "quick" else {}
        first, second = list(run.experiment.data.subtasks)
        for i, (own, other) in enumerate(((first, second), (second, first)), start=1):
            yield run, own, other, lambda key, i=i, published=published: published.get(f"{key} {i}")


def table_one(setting: Setting) -> str:
    """Accuracies under each pair's mask beside the paper's."""
    rows: list[list[str]] = []
    for run, own, other, published in _tested(setting):
        cells = (
            ("full", "full network", None),
            ("own", "mask", own),
            ("other", "mask", other),
            ("own without", "complement", own),
            ("other without", "complement", other),
        )
        found = [_beside(accuracy(run.results, network, own, mask), published(key)) for key, network, mask in cells]
        masks = accuracy(run.results, "mask", own, own).n
        rows.append([run.name, own, *found, f"{len(run.seeds)} / {masks}"])
    header = ("network", "accuracy on", "network itself", "own mask", "other's mask", "¬ own mask", "¬ other's mask")
    return markdown((*header, "n networks / masks"), rows)


def complements(setting: Setting) -> str:
    """Plain inversion and inversion with the ends kept from the control mask, side by side."""
    rows: list[list[str]] = []
    for run, own, other, published in _tested(setting):
        cells: list[str] = [run.name, own]
        for key, mask in (("own without", own), ("other without", other)):
            kinds = ("complement", "complement with ends open")
            cells += [percent(accuracy(run.results, kind, own, mask)) for kind in kinds]
            cells.append(published(key) or "–")
        rows.append(cells)
    header = ("network", "accuracy on", "¬ own, plain", "ends open", "paper", "¬ other's, plain", "ends open", "paper")
    return markdown(header, rows)


def overlaps(setting: Setting) -> str:
    """Overlap in the hidden layers between chance and ceiling, and the verdict."""
    rows: list[list[str]] = []
    for run in setting.runs:
        overlap = table_overlap(run)
        if overlap is None:
            continue
        hidden = next(row for row in overlap.rows if row[0] == HIDDEN)
        rows.append([run.name, *hidden[1:], verdict(run.experiment, run.results).finding])
    header = ("network", "IoU", "chance", "ceiling", "position", "IoMin", "chance", "ceiling", "position", "verdict")
    return markdown(header, rows)


def places(setting: Setting) -> str:
    """Where masks are shared: of a mask's weights, those that the other's also keeps."""
    rows: list[list[str]] = []
    for run in setting.runs:
        for subtask in run.experiment.data.subtasks:
            cells = [percent(sharing(run.results, subtask, where)) for where in (ENDS, HIDDEN, ALL)]
            rows.append([run.name, subtask, *cells])
    return markdown(("network", "mask of", "shared in input and output layers", "in hidden layers", "in all"), rows)


def sizes(setting: Setting) -> str:
    """Accuracy under the own mask and total sharing of every network, penalty beside it."""
    rows: list[list[str]] = []
    for run in setting.runs:
        masking = run.experiment.masking
        cells = [f"{run.weights:,}", f"{masking.penalty:.2g}" if masking else "–"]
        for subtask in run.experiment.data.subtasks:
            kept = estimate(
                float(sum(tensor.kept_weights for tensor in size.tensors))
                for result in run.results
                for size in result.sizes
                if size.name.subtask == subtask
            )
            cells += [
                percent(accuracy(run.results, "mask", subtask, subtask)),
                f"{kept.mean:,.0f}",
                percent(sharing(run.results, subtask, ALL)),
            ]
        rows.append([run.name, *cells])
    subtasks = setting.runs[0].experiment.data.subtasks
    columns = (f"{name} {what}" for name in subtasks for what in ("own mask", "kept", "shared"))
    return markdown(("network", "masked weights", "penalty", *columns), rows)


def outcomes(setting: Setting) -> str:
    """The confusions of every network."""
    grids = [(run.name, table_outcomes(run)) for run in setting.runs]
    known = [(name, grid) for name, grid in grids if isinstance(grid, Grid)]
    rows = [[name, *row] for name, grid in known for row in grid.rows]
    return markdown(("of", *known[0][1].header), rows)


def _beside(ours: Estimate, theirs: str | None) -> str:
    text = percent(ours)
    return text if theirs is None else f"{text} ({theirs})"


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
