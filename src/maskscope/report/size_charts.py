"""Charts and tables of how faithful parts of a network are: by size, and to what the network says."""

from __future__ import annotations

from maskscope.analysis.faithfulness import Curve
from maskscope.analysis.intervals import nested
from maskscope.analysis.modularity import estimate
from maskscope.report.chart import COLOURS, Chart, Panel, Series, means, stds
from maskscope.report.grid import Grid, percent
from maskscope.report.load import Run
from maskscope.runs.results import HoldsOut


def _curves(run: Run) -> dict[str, list[Curve]]:
    """The curves of first masks, by subtask."""
    found: dict[str, list[Curve]] = {}
    for record in (record for seed in run.seeds for record in seed.records):
        if record.faithfulness is not None:
            found.setdefault(record.name.subtask, []).append(record.faithfulness)
    return found


def faithfulness(run: Run) -> Chart | None:
    """Faithfulness of the best units by their share; None where it was not measured."""
    found = _curves(run)
    if not found:
        return None
    series: list[Series] = []
    for (subtask, curves), colour in zip(found.items(), COLOURS[1:] * len(found), strict=False):
        shown = [same for same in zip(*(curve.points for curve in curves), strict=True) if same[0].share > 0]
        values = [estimate(point.faithfulness for point in same) for same in shown]
        x = tuple(100 * same[0].share for same in shown)
        series.append(Series(subtask, "line and points", colour, x, means(values), stds(values)))
    data = run.experiment.data
    panel = Panel("kept, % of all units (by keep probability)", "faithfulness", tuple(series), x_axis="log")
    caption = (
        "The network with only the units that a subtask's first mask would keep first, by how many: 1 as good as the network, 0 as "
        "bad as biases alone. Error bars: standard deviation over networks."
        + (f" Measured on {data.full}, of which every subtask is a part." if isinstance(data, HoldsOut) else "")
    )
    return Chart("faithfulness", "Size and faithfulness", caption, (panel,))


def table_faithfulness(run: Run) -> Grid | None:
    """Areas of the curves, and likeness of predictions; None where neither was measured."""
    found = _curves(run)
    alike = [item for result in run.results for item in result.likeness]
    if not found and not alike:
        return None
    tested, networks = run.experiment.data.tested, ("mask", "complement") if alike else ()
    rows: list[tuple[str, ...]] = []
    for subtask in run.experiment.data.subtasks:
        curves = found.get(subtask, [])
        areas = (nested([[curve.cpr] for curve in curves]).short, nested([[curve.cmd] for curve in curves]).short)
        cells = (
            percent(
                estimate(
                    item.value
                    for item in alike
                    if item.mask and (item.network, item.mask.subtask, item.subtask) == (network, subtask, test)
                )
            )
            for network in networks
            for test in tested
        )
        rows.append((subtask, *areas, *cells))
    caption = "CPR: area under the curve of faithfulness over the share of units kept. CMD: area between it and 1." + (
        " Then, in %, how like the network's predictions those of the first mask and of its complement are, on every subtask: 1 - "
        "Jensen-Shannon divergence."
        if alike
        else ""
    )
    kinds = {"mask": "like the network on ", "complement": "¬, on "}
    likeness = (f"{kinds[network]}{test}" for network in networks for test in tested)
    return Grid("Faithfulness", caption, ("mask of", "CPR", "CMD", *likeness), tuple(rows))
