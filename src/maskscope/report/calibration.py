"""Planted networks: what was found against what is true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from maskscope.models.planted import PlantedSettings
from maskscope.report.chart import BLACK, COLOURS, Chart, Panel, Series
from maskscope.report.grid import Grid
from maskscope.report.load import Run
from maskscope.runs.calibration import Calibration, Recovered, calibration, recovered

Value = Callable[[Recovered], float]
Groups = Mapping[str, Sequence[Recovered]]
"""As ``groups`` returns them: made once, for all that is shown."""

_ASIDE = 0.035
"""How far architectures stand from each other in the chart."""


def group(run: Run) -> str:
    """What runs that differ only in how much is shared have in common: architecture and setting."""
    return run.experiment.title.rpartition(", ")[0] or run.name


def groups(runs: Sequence[Run]) -> dict[str, list[Recovered]]:
    """Every planted network, by architecture and setting; none where nothing was planted."""
    found: dict[str, list[Recovered]] = {}
    for run in runs:
        if isinstance(run.experiment.network, PlantedSettings):
            found.setdefault(group(run), []).extend(recovered(run.experiment, run.results))
    return found


def chart(found: Groups) -> Chart | None:
    """Recovered against true P_reuse and P_specialize, a point for each network; None where nothing was planted."""
    if not found:
        return None
    values: tuple[tuple[str, Value, Value], ...] = (
        ("P_reuse by IoU", lambda item: item.truth.iou, lambda item: item.iou.mean),
        ("P_reuse by IoMin", lambda item: item.truth.iomin, lambda item: item.iomin.mean),
        ("P_specialize", lambda item: item.truth.p_specialize, lambda item: item.p_specialize),
    )
    shown = [name for name in found if ", " not in name] or list(found)
    panels: list[Panel] = []
    for title, true, told in values:
        series = [Series("true", "dotted", BLACK, (-0.05, 1.05), (-0.05, 1.05))]
        for i, (name, colour) in enumerate(zip(shown, (*COLOURS[1:], BLACK) * len(shown), strict=False)):
            items = [item for item in found[name] if not math.isnan(told(item))]
            aside = _ASIDE * (i - (len(shown) - 1) / 2)
            series.append(
                Series(name, "points", colour, tuple(true(item) + aside for item in items), tuple(map(told, items)))
            )
        panels.append(Panel("true", "found", tuple(series), title, x_range=(-0.15, 1.1)))
    caption = (
        "Each point is a network put together so that the answer is known, judged alone. True: the same numbers of what was "
        "planted; architectures stand side by side. Settings that are meant to fail are in the table only."
    )
    return Chart("calibration", "Found against true", caption, tuple(panels), 420)


def table(found: Groups) -> Grid | None:
    """Errors and verdicts by architecture and setting; None where nothing was planted."""
    if not found:
        return None
    rows = [(name, *_cells(calibration(items))) for name, items in found.items()]
    plain = [item for name, items in found.items() if ", " not in name for item in items]
    if len(rows) > 1 and plain:
        rows.append(("all architectures", *_cells(calibration(plain))))
    caption = (
        "Mean absolute error of the numbers against the truth (of those networks that gave one), and verdicts: of networks that share nothing, how many are called "
        "shared; of those that share everything, how many are called separate."
    )
    header = (
        "networks",
        "n",
        "error of P_reuse, IoU",
        "by IoMin",
        "error of P_specialize",
        "nothing shared, called shared",
        "all shared, called separate",
        "cannot tell",
    )
    return Grid("Calibration", caption, header, tuple(rows))


def _cells(found: Calibration) -> tuple[str, ...]:
    errors = (
        (found.error_iou, found.told),
        (found.error_iomin, found.told_iomin),
        (found.error_special, found.told_special),
    )
    return (
        str(found.n),
        *(_error(value, n, found.n) for value, n in errors),
        f"{found.called_shared} of {found.disjoint}",
        f"{found.called_separate} of {found.same}",
        f"{found.cannot_tell} of {found.n}",
    )


def _error(value: float, told: int, n: int) -> str:
    """With how many it is of, where some networks gave no number."""
    return "–" if math.isnan(value) else f"{value:.3f}" + (f" ({told} of {n})" if told < n else "")


def levels(found: Groups) -> Grid | None:
    """Found at every true level, by architecture and setting; None where nothing was planted."""
    rows: list[tuple[str, ...]] = []
    for name, items in found.items():
        for true in sorted({item.truth for item in items}, key=lambda truth: truth.iou):
            here = [item for item in items if item.truth == true]
            verdicts = [item.finding for item in here]
            rows.append(
                (
                    name,
                    *(_beside(true_value, [told(item) for item in here]) for true_value, told in _told(here[0])),
                    ", ".join(f"{verdicts.count(each)} {each}" for each in sorted(set(verdicts))),
                )
            )
    header = ("networks", "P_reuse by IoU: true, found", "by IoMin", "P_specialize", "verdicts")
    caption = "At each level that was planted: the true number, and the mean of those found (smallest to largest)."
    return Grid("Found at every level", caption, header, tuple(rows)) if rows else None


def _told(item: Recovered) -> tuple[tuple[float, Value], ...]:
    return (
        (item.truth.iou, lambda item: item.iou.mean),
        (item.truth.iomin, lambda item: item.iomin.mean),
        (item.truth.p_specialize, lambda item: item.p_specialize),
    )


def _beside(true: float, found: Sequence[float]) -> str:
    known = [value for value in found if not math.isnan(value)]
    if not known:
        return f"{true:.2f}: –"
    mean = sum(known) / len(known)
    return f"{true:.2f}: {mean:.2f} ({min(known):.2f} to {max(known):.2f})"
