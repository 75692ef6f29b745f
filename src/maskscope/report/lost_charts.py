"""Charts of what masks lose: accuracies, confusions, removed weights, gradients."""

from __future__ import annotations

from collections.abc import Sequence

from maskscope.analysis.gradients import EVERYWHERE
from maskscope.analysis.modularity import Estimate, estimate
from maskscope.report.chart import COLOURS, Chart, Heat, Panel, Series, Style, means, stds
from maskscope.report.load import Run
from maskscope.runs.estimates import accuracy, outcome
from maskscope.runs.removal import drops
from maskscope.runs.results import FEW


def of_run(run: Run) -> tuple[Chart | None, ...]:
    """Every one; None where there is nothing to show."""
    return accuracies(run), confusions(run), removed(run), gradients(run)


def accuracies(run: Run) -> Chart | None:
    """Accuracy of the network and under each mask, on everything tested; None where there is little to see."""
    data = run.experiment.data
    if run.experiment.masking is None or len(data.tested) <= FEW:
        return None
    rows = [("network", "full network", None)]
    rows += [(_mask_of(run, subtask), "mask", subtask) for subtask in run.experiment.subtasks]
    values = tuple(
        tuple(100 * accuracy(run.results, network, tested, mask).mean for tested in data.tested)
        for _, network, mask in rows
    )
    heat = Heat("tested on", "", data.tested, tuple(name for name, _, _ in rows), values, 0.0, 100.0)
    caption = "In %, mean over masks and network seeds."
    return Chart("accuracies", "Accuracy under each mask", caption, (heat,), 150 + 34 * len(rows))


def confusions(run: Run) -> Chart | None:
    """What outputs become when something was left out, against the control mask, for the most and the least affected.

    Source: Csordas et al. 2021, CIFAR-10: differences of confusion matrices.
    """
    found = sorted(drops(run.experiment, run.results), key=lambda drop: -drop.relative.mean)
    outcomes = tuple(dict.fromkeys(item.outcome for result in run.results for item in result.outcomes))
    if not found or len(outcomes) <= FEW:
        return None
    panels: list[Heat] = []
    for drop in (found[0], found[-1]):
        before, after = (_confusion(run, mask, outcomes) for mask in (run.experiment.data.full, drop.subtask))
        values = tuple(tuple(a - b for a, b in zip(x, y, strict=True)) for x, y in zip(after, before, strict=True))
        title = f"{drop.subtask}, less control"
        panels.append(
            Heat(
                "taken for", "class", outcomes, run.experiment.data.tested, values, -100.0, 100.0, title, both_ways=True
            )
        )
    caption = (
        "Differences of confusion matrices in points of percent, mask less control mask: images of a class (rows) that are "
        "taken for each class (columns). Left: the class that is lost most; right: least."
    )
    return Chart("confusions", "What images are taken for instead", caption, tuple(panels), 560)


def _confusion(run: Run, mask: str, outcomes: Sequence[str]) -> list[list[float]]:
    return [
        [100 * outcome(run.results, "mask", tested, name, mask).mean for name in outcomes]
        for tested in run.experiment.data.tested
    ]


def removed(run: Run) -> Chart | None:
    """What each mask leaves out of the control mask in the last matrix, by the output that its rows write.

    Source: Csordas et al. 2021, SCAN: removed weights per output token.
    """
    found = [item for result in run.results for item in result.removed]
    subtasks = [
        subtask
        for subtask in run.experiment.data.subtasks
        if any(i.removed > 0 for i in found if i.name.subtask == subtask)
    ]
    if not found or not subtasks:
        return None
    answers = tuple(dict.fromkeys(item.answer for item in found))
    values: list[tuple[float, ...]] = []
    for subtask in subtasks:
        mine = [item for item in found if item.name.subtask == subtask]
        values.append(
            tuple(100 * estimate(item.removed for item in mine if item.answer == answer).mean for answer in answers)
        )
    heat = Heat("output", "", answers, tuple(_mask_of(run, subtask) for subtask in subtasks), tuple(values), 0.0, 100.0)
    caption = (
        "Of the weights that the control mask keeps in an output's row of the last matrix, in %, those that a mask does not "
        "keep; mean over masks and network seeds."
    )
    return Chart("removed-per-output", "Weights removed per output", caption, (heat,), 150 + 34 * len(subtasks))


def gradients(run: Run) -> Chart | None:
    """How the gradient at kept weights turns as more of the network is masked. Source: Csordas et al. 2021, CIFAR-10."""
    found = cosines(run)
    if not found:
        return None
    series: list[Series] = []
    for (where, values), colour in zip(reversed(found.items()), COLOURS * len(found), strict=False):
        style: Style = "line and points" if where == EVERYWHERE else "line"
        series.append(Series(where, style, colour, tuple(map(float, range(len(values)))), means(values), stds(values)))
    panel = Panel("masked layers, from the output back", "cosine", tuple(series), x_axis="whole", y_range=(-0.3, 1.05))
    caption = (
        f"Cosine of the gradients of the loss on all classes, over the weights that the mask of {run.experiment.data.subtasks[0]} "
        "keeps: of the network, and with the mask applied to its last layers."
    )
    return Chart("gradients", "Gradients of kept weights", caption, (panel,))


def cosines(run: Run) -> dict[str, list[Estimate]]:
    """Of the gradient at each weight tensor and at all together, with none, one, two ... groups of parameters masked."""
    found = [item for result in run.results for item in result.gradients]
    steps = sorted({item.masked for item in found})
    places = dict.fromkeys(item.where for item in found if item.where == EVERYWHERE or ".weight" in item.where)
    return {
        where: [estimate(i.cosine for i in found if (i.where, i.masked) == (where, step)) for step in steps]
        for where in places
    }


def _mask_of(run: Run, subtask: str) -> str:
    return f"control mask ({subtask})" if subtask == run.experiment.data.full else f"mask: {subtask}"
