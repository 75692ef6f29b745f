"""The numbers of a report as tables, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from maskscope.analysis.intervals import LEVEL, Interval
from maskscope.analysis.modularity import estimate
from maskscope.report.grid import Grid, percent, ratio, rich_table, short, turned
from maskscope.report.load import Run
from maskscope.report.shared_tables import table_overlap
from maskscope.runs.ablations import CONTROLS
from maskscope.runs.estimates import accuracy, judged_in, outcome
from maskscope.runs.experiment import Experiment
from maskscope.runs.properties import specialized
from maskscope.runs.removal import drops
from maskscope.runs.results import ALL, ENDS, FEW, HIDDEN, WITHOUT_RANDOM, HoldsOut
from maskscope.runs.verdict import Verdict, verdict


def table_one(run: Run) -> Grid:
    """Accuracies in the manner of the paper's Table 1: on each subtask, under each mask and each complement."""
    experiment, results = run.experiment, run.results
    columns = _columns(run)
    rows = tuple(
        (subtask, *(percent(accuracy(results, network, subtask, mask)) for network, mask, _ in columns))
        for subtask in experiment.data.tested
    )
    n = max(
        (accuracy(results, "mask", experiment.data.tested[0], subtask).n for subtask in experiment.subtasks), default=0
    )
    caption = (
        f"Accuracy in % on {_examples(run)} validation examples. Columns: the network as it is, then under each mask and "
        f"each complement (¬). {_over(len(run.seeds), n)}; chance is {_chance(experiment)}."
        f"{_better(run)}"
    )
    return Grid("Accuracies", caption, ("accuracy on", *(title for _, _, title in columns)), rows)


def _over(seeds: int, masks: int) -> str:
    """What means and standard deviations are over: the network's and the control mask's, and those of subtasks' masks."""
    if seeds == 1:
        return "One network seed" + (
            f"; mean ± standard deviation over the {masks} masks of a subtask" if masks > 1 else ""
        )
    more = f", of subtasks' masks over all {masks} of them" if masks > seeds else ""
    return f"Mean ± standard deviation over {seeds} network seeds{more}"


_MORE = 0.05
"""Accuracy by which a mask is better than the network that is worth a word. A convention."""


def _better(run: Run) -> str:
    """That masks do better than the network, where they do: choosing weights is learning too."""
    subtasks = [name for name in run.experiment.subtasks if name in run.experiment.data.tested]
    pairs = (
        (name, accuracy(run.results, "mask", name, name).mean, accuracy(run.results, "full network", name).mean)
        for name in subtasks
    )
    better = [
        f"{name}, {100 * alone:.1f} for {100 * whole:.1f}%" for name, alone, whole in pairs if alone > whole + _MORE
    ]
    if not better:
        return ""
    return (
        f" Masks do better than the network itself ({'; '.join(better)}): to choose weights is to learn, and what such a mask does need "
        "not be what the network does with these weights."
    )


def _chance(experiment: Experiment) -> str:
    by_subtask = {name: f"{experiment.chance(name):.0%}" for name in experiment.data.tested}
    if len(set(by_subtask.values())) == 1:
        return next(iter(by_subtask.values()))
    return ", ".join(f"{chance} of {name}" for name, chance in by_subtask.items())


def _columns(run: Run) -> list[tuple[str, str | None, str]]:
    """The network, and under each mask and each complement: what it is, whose mask, and what it is called."""
    columns: list[tuple[str, str | None, str]] = [("full network", None, "network")]
    for subtask in run.experiment.subtasks if run.experiment.masking else ():
        named = f"{subtask} (control)" if subtask == run.experiment.data.full else subtask
        columns += [("mask", subtask, named), ("complement", subtask, f"¬ {named}")]
    return columns


def table_specialization(run: Run) -> Grid | None:
    """Necessity, sufficiency, specificity and P_specialize of every subtask; None where what subtasks do is not tested alone."""
    experiment = run.experiment
    if experiment.masking is None or not set(experiment.data.subtasks) <= set(experiment.data.tested):
        return None
    if isinstance(experiment.data, HoldsOut) or len(experiment.data.subtasks) < 2:
        return None
    found = [specialized(experiment, run.results, subtask) for subtask in experiment.data.subtasks]
    columns = {
        "P_specialize": [item.p_specialize for item in found],
        "necessity": [item.necessity for item in found],
        "at random": [item.necessity_at_random for item in found],
        "sufficiency": [item.sufficiency for item in found],
        "specificity": [item.specificity for item in found],
        "cost": [item.cost for item in found],
    }
    if not any(interval.n for interval in columns["at random"]):  # tested before that was
        del columns["at random"]
    rows = tuple(
        (item.subtask, *_intervals([column[row] for column in columns.values()])) for row, item in enumerate(found)
    )
    caption = (
        "Of what the network can do above chance. Necessity: what removal takes from its own subtask, 1 if all; at random: what "
        "removal of as many random weights of each tensor takes. Sufficiency: what the mask alone does, 1 as the network, 0 at chance. "
        "Specificity: what removal leaves of the others. P_specialize: 1 if removal destroys its own subtask only, 0 if it harms the "
        "others as much. Cost: accuracy lost by removal, of all there could be above chance, which is defined for networks that have "
        f"not learned the subtask too. {LEVEL:.0%} intervals of Student's t; n in brackets where a number has fewer values."
    )
    return Grid("Specialization", caption, ("subtask", *columns, "n"), rows)


def _intervals(found: Sequence[Interval]) -> list[str]:
    """The intervals of a row, and how many values are behind them; with a number its own n, where it has fewer."""
    most = max(found, key=lambda interval: interval.n)
    cells = [
        interval.short
        + (f" (n={interval.n})" if 0 < interval.n < most.n or (interval.n and interval.over != most.over) else "")
        for interval in found
    ]
    return [*cells, most.of_how_many]


def table_pairs(run: Run) -> Grid | None:
    """What removing shared weights does, and removing those of one subtask alone; None where that was not measured."""
    found = [item for result in run.results for item in result.pairs]
    if not found:
        return None
    tested = run.experiment.data.tested
    groups = dict.fromkeys((item.first.subtask, item.second.subtask, item.removed) for item in found)
    rows: list[tuple[str, ...]] = []
    for first, second, removed in groups:
        mine = [i for i in found if (i.first.subtask, i.second.subtask, i.removed) == (first, second, removed)]
        words = {
            "shared": f"both {first} and {second}",
            "first alone": f"{first} alone",
            "second alone": f"{second} alone",
        }
        weights = estimate(float(item.weights) for item in mine).mean
        cells = (percent(estimate(item.value for item in mine if item.subtask == name)) for name in tested)
        rows.append((words[removed], f"{weights:,.0f}", *cells))
    caption = (
        "Accuracy in % without the weights that both masks keep, and without those that one keeps and the other does not: shared "
        "weights need not be weights that matter. Mean ± standard deviation over masks and network seeds."
    )
    return Grid("Without shared weights", caption, ("removed: kept by", "weights", *tested), tuple(rows))


def table_drops(run: Run) -> Grid | None:
    """What masks lose of what their training left out; None where that is not the question."""
    found = drops(run.experiment, run.results)
    if not found:
        return None
    rows = tuple(
        (
            drop.subtask,
            drop.held_out,
            percent(drop.network),
            percent(drop.control),
            percent(drop.mask),
            percent(drop.relative),
            f"{drop.worst_other}: {percent(drop.relative_other)}" if drop.worst_other else "–",
            ratio(drop.ratio),
        )
        for drop in found
    )
    caption = (
        "In %. Accuracy on what a mask's training left out, of the network, under the control mask and under that mask; what "
        "that is less than the control's, relative to it; what falls most among tests that have nothing of it (–: there is none); and "
        "the largest such fall under a mask over the fall of what was left out. Mean ± standard deviation over masks and network "
        "seeds."
    )
    header = ("mask of", "left out", "network", "control mask", "mask", "relative drop", "falls most besides", "ratio")
    return Grid("What is lost", caption, header, rows)


def table_ablations(run: Run) -> Grid | None:
    """The other tests: complement with the ends open, half of the layers masked, random masks of equal size."""
    experiment, results = run.experiment, run.results
    if experiment.masking is None:
        return None
    lines: list[tuple[str, str, str]] = []
    for subtask in experiment.data.subtasks:
        lines += [
            (f"¬ {subtask}, input and output layers from the control mask", "complement with ends open", subtask),
            (f"random mask, sized as that of {subtask} in every tensor", "random mask", subtask),
            (f"¬ random mask, sized as that of {subtask} in every tensor", WITHOUT_RANDOM, subtask),
            *((f"{kind} (for the mask of {subtask})", kind, subtask) for kind in CONTROLS),
        ]
    lines += [
        ("control mask in the first half of the layers only", "first half masked", experiment.data.full),
        ("control mask in the second half of the layers only", "second half masked", experiment.data.full),
    ]
    known = {(item.network, item.mask.subtask) for result in results for item in result.accuracies if item.mask}
    rows = tuple(
        (title, *(percent(accuracy(results, network, subtask, mask)) for subtask in experiment.data.tested))
        for title, network, mask in lines
        if (network, mask) in known
    )
    return Grid("Other ablations and controls", "Accuracy in %.", ("network", *experiment.data.tested), rows)


def table_outcomes(run: Run) -> Grid | None:
    """What each network's outputs are, whatever was asked for: the paper's confusion matrices; None where data has none.

    Many classes are for a picture instead.
    """
    found = [item for result in run.results for item in result.outcomes]
    if not found or len(run.experiment.data.subtasks) > FEW:
        return None
    subtasks, outcomes = run.experiment.data.subtasks, dict.fromkeys(item.outcome for item in found)
    rows: list[tuple[str, ...]] = []
    for network, mask, title in _columns(run):
        cells = [percent(outcome(run.results, network, asked, name, mask)) for asked in subtasks for name in outcomes]
        rows.append((title, *cells))
    caption = (
        "In % of the problems that ask for a subtask: how often the output is the result of either operation, or of "
        "neither. A problem where both results agree counts in both columns. Mean ± standard deviation over networks and masks."
    )
    return Grid(
        "Confusions", caption, ("network", *(f"asked {a}: {o}" for a in subtasks for o in outcomes)), tuple(rows)
    )


def _examples(run: Run) -> str:
    """How many: one number, or one for each subtask where they have problems of their own."""
    counts = {item.subtask: item.examples for item in run.results[0].accuracies}
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values())):,}"
    return " and ".join(f"{count:,} ({subtask})" for subtask, count in counts.items())


def print_runs(runs: Sequence[Run], console: Console) -> None:
    """Verdict, accuracies and overlap of every run."""
    for run in runs:
        said = verdict(run.experiment, run.results)
        console.print(Panel(Group(*_said(said, run)), title=Text(run.name), title_align="left", border_style="cyan"))


def _said(said: Verdict, run: Run) -> list[Text | Table]:
    warnings = [Text(f"Warning: {text}", style="yellow") for text in run.warnings]
    lost, overlap = table_drops(run), table_overlap(run)
    tables = [turned(table_one(run))] if lost is None else [short(lost, 6, len(lost.rows))]
    special = table_specialization(run)
    tables += [] if special is None else [short(special, 4, len(special.rows))]
    if overlap is not None:
        pooled = (HIDDEN, ENDS, ALL)  # and of pairs, where there are three subtasks; not each parameter
        judged = f"{judged_in(run.results)}: "
        rows = [row for row in overlap.rows if row[0] in pooled or row[0].startswith(judged)]
        tables.append(short(replace(overlap, rows=tuple(rows)), 5, len(rows)))
    return [
        Text.assemble((f"{said.finding.upper()}  ", "cyan"), (f"{said.headline}.", "bold")),
        Text(f"{said.overlap} {said.ablations}"),
        *warnings,
        Text(""),
        *map(rich_table, tables),
    ]
