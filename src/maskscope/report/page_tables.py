"""The tables of docs/experiments.md, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from maskscope.analysis.modularity import Estimate, estimate
from maskscope.data import scan_grammar
from maskscope.report import calibration, continual
from maskscope.report.grid import Grid, percent, ratio, words
from maskscope.report.load import ContinualRun, Run
from maskscope.report.lost_charts import cosines
from maskscope.report.published import TABLE_ONE
from maskscope.report.setting import Setting
from maskscope.report.shared_tables import PLACED, table_overlap
from maskscope.report.size_charts import table_faithfulness
from maskscope.report.tables import (
    table_drops,
    table_outcomes,
    table_pairs,
    table_specialization,
)
from maskscope.runs.estimates import accuracies, accuracy, compared, judged_in, sharing
from maskscope.runs.results import ALL, ENDS, HIDDEN
from maskscope.runs.verdict import verdict


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---" if left else "--:" for left in words(rows, len(header))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _tested(setting: Setting) -> Iterator[tuple[Run, str, str, Callable[[str], str | None]]]:
    """Every network on every subtask: the subtask, the other one, and what the paper has for a column."""
    for run in setting.runs:
        about = "double-addition" in setting.experiment and setting.preset != "quick"
        published = TABLE_ONE.get(run.experiment.variant, {}) if about else {}
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
        where = judged_in(run.results)
        judged = next(row for row in overlap.rows if row[0] == where)
        rows.append([run.name, *judged[1:], verdict(run.experiment, run.results).finding])
    return markdown(("network", *PLACED, "verdict"), rows)


def _joined(setting: Setting, table: Callable[[Run], Grid | None], first: str) -> str:
    """A report's table of every run that has it, under each other; empty where none has."""
    known = [(run.name, grid) for run in setting.runs if (grid := table(run)) is not None]
    if not known:
        return ""
    return markdown((first, *known[0][1].header), [[name, *row] for name, grid in known for row in grid.rows])


def special(setting: Setting) -> str:
    """P_specialize and what it is made of."""
    return _joined(setting, table_specialization, "network")


def shared_weights(setting: Setting) -> str:
    """What removing shared weights does; empty where no run has measured it."""
    return _joined(setting, table_pairs, "network")


def faithful(setting: Setting) -> str:
    """Areas under the curves of faithfulness by size; empty where no run has measured them."""
    return _joined(setting, table_faithfulness, "network")


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
    for run in sorted(setting.runs, key=lambda run: (run.weights, _penalty(run))):
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


def _penalty(run: Run) -> float:
    return run.experiment.masking.penalty if run.experiment.masking else 0.0


def outcomes(setting: Setting) -> str:
    """The confusions of every network."""
    return _joined(setting, table_outcomes, "of")


def _beside(ours: Estimate, theirs: str | None) -> str:
    text = percent(ours)
    return text if theirs is None else f"{text} ({theirs})"


def lost(setting: Setting) -> str:
    """What masks lose of what their training left out."""
    return _joined(setting, table_drops, "of")


def matrix(setting: Setting) -> str:
    """Accuracy of the network and under each mask, on everything tested."""
    tested = setting.runs[0].experiment.data.tested
    rows: list[list[str]] = []
    for run in setting.runs:
        kinds: list[tuple[str, str, str | None]] = [("network", "full network", None)]
        kinds += [(f"mask of {s}", "mask", s) for s in run.experiment.subtasks if run.experiment.masking]
        rows += [
            [run.name, name, *(percent(accuracy(run.results, network, item, mask)) for item in tested)]
            for name, network, mask in kinds
        ]
    return markdown(("of", "under", *tested), rows)


def besides(setting: Setting) -> str:
    """What masks of SCAN's splits leave of the others, beside what it would be if only commands of their own kind were lost."""
    rows: list[list[str]] = []
    for run in setting.runs:
        data = run.experiment.data
        tests = {
            split: frozenset(scan_grammar.halves(cast("scan_grammar.SplitName", split)).test) for split in data.tested
        }
        for out in data.subtasks:
            for other in (split for split in data.tested if split != out):
                both = len(tests[out] & tests[other]) / len(tests[other])
                network = accuracy(run.results, "full network", other).mean
                expected = network * (1 - both) + both * accuracy(run.results, "mask", out, out).mean
                found = accuracy(run.results, "mask", other, out)
                rows.append([run.name, out, other, f"{100 * both:.0f}", f"{100 * expected:.1f}", percent(found)])
    header = ("of", "mask of", "tested on", "of which left out", "right, if only that were lost", "right")
    return markdown(header, rows)


def halves(setting: Setting) -> str:
    """The control mask in half of the layers only, on its own task; over halves, where there are several, and seeds."""
    rows: list[list[str]] = []
    for run in setting.runs:
        kinds = ("mask", "first half masked", "second half masked")
        rows.append([run.name, *(percent(_on_full(run, network)) for network in kinds)])
    return markdown(("of", "control mask", "in the first half only", "in the second half only"), rows)


def _on_full(run: Run, network: str) -> Estimate:
    """Of the control mask: on the test of the whole task, or else the mean over all tests, which are parts of it."""
    full, tested = run.experiment.data.full, run.experiment.data.tested
    parts = [accuracies(run.results, network, item, full) for item in ((full,) if full in tested else tested)]
    return estimate(sum(values) / len(values) for values in zip(*parts, strict=True))


def gradients(setting: Setting) -> str:
    """Cosine of the gradients at kept weights, of the network and with more and more of it masked."""
    rows = [[run.name, where, *map(ratio, values)] for run in setting.runs for where, values in cosines(run).items()]
    return (
        markdown(("of", "gradient of", *(f"{step} masked" for step in range(len(rows[0]) - 2))), rows) if rows else ""
    )


def repeatability(setting: Setting) -> str:
    """IoU of masks of one pair of classes learned twice, and of different pairs by how many classes they have in common."""
    rows: list[list[str]] = []
    for run in setting.runs:
        for where in (HIDDEN, ENDS, ALL):
            by_common: dict[int, list[float]] = {2: [], 1: [], 0: []}  # with two in common, a pair is the same pair
            chance: list[float] = []
            for item in compared(run.results, where):
                one, other = (set(name.subtask.split(", ")) for name in (item.first, item.second))
                common = len(one & other)
                by_common[common].append(item.overlap.iou)
                if common < 2:
                    chance.append(item.overlap.chance_iou)
            cells = [f"{ratio(found)}, n = {found.n}" for found in map(estimate, by_common.values())]
            rows.append([run.name, where, *cells, f"{estimate(chance).mean:.2f}"])
    header = ("of", "where", "IoU, the same twice", "one class in common", "none in common", "chance")
    return markdown(header, rows)


def named_rows(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Rows with a name each, all of the same columns, as an example has written them."""
    columns = list(next(iter(rows.values())))
    return markdown(("control", *columns), [[name, *(row[column] for column in columns)] for name, row in rows.items()])


_SHOWN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of weights in the table of scores."""


def sized(record: Mapping[str, Any]) -> str:
    """Areas under curves of several scores, and accuracies at some sizes."""
    rows: list[list[str]] = []
    for row in record["rows"]:
        at = {share: i for i, share in enumerate(row["shares"])}
        values = [percent(estimate(curve[at[share]] for curve in row["accuracy"])) for share in _SHOWN]
        rows.append([row["score"], row["CPR"], row["CMD"], *values])
    return markdown(("score", "CPR", "CMD", *(f"{share:.1%} kept".replace(".0", "") for share in _SHOWN)), rows)


def calibrated(setting: Setting) -> str:
    """Errors of the numbers on planted networks."""
    return _whole(calibration.table(setting.planted))


def levels(setting: Setting) -> str:
    """What was found at every true level."""
    return _whole(calibration.levels(setting.planted))


def _whole(grid: Grid | None) -> str:
    return markdown(grid.header, grid.rows) if grid else ""


def in_turn(setting: Setting) -> str:
    """What tasks learned in turn share and forget."""
    layers = continual.sharable(setting.continual[0])[-3:]
    rows: list[list[str]] = []
    for run in setting.continual:
        last = run.tasks - 1
        rows.append(
            [
                run.name,
                percent(continual.new(run)),
                percent(continual.right(run, 0, 0)),
                percent(continual.right(run, 0, last)),
                percent(continual.retained(run)),
                percent(continual.old(run)),
                *(_against_chance(run, last, where) for where in layers),
                percent(continual.used_together(run, last)),
                str(len(run.seeds)),
            ]
        )
    header = (
        "of",
        "each, when learned (± over permutations)",
        "first, when learned",
        "first, in the end",
        "first, retained",
        "all earlier, in the end (± over permutations)",
    )
    shares = (f"last shares in {where} (chance)" for where in layers)
    return markdown((*header, *shares, "used of shared layers", "n"), rows)


def _against_chance(run: ContinualRun, task: int, where: str) -> str:
    found = continual.shared(run, task, where)
    return f"{percent(found)} ({percent(continual.used_before(run, task, where))})" if found.n else "–"
