"""The figures of a report as plotly figures: charts rendered, and pictures of masks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import UInt8
from plotly.subplots import make_subplots

from maskscope.core.mask import Mask
from maskscope.report.chart import (
    BLACK,
    BLUE,
    BOTH_WAYS,
    COLOURS,
    GREY,
    LINES,
    ONE_WAY,
    ORANGE,
    Chart,
    Heat,
    Panel,
    Series,
)
from maskscope.report.load import Run
from maskscope.runs.results import MaskName

PICTURE = 160
"""Rows and columns of a mask picture at most; more could not be told apart on a screen."""

_ABOVE, _BELOW, _LEGEND = 70, 60, 26
"""Pixels around a figure, and between its top and its legend."""

_DECADES = 100
"""Largest over smallest value from which a logarithmic axis names powers of ten only."""

_DASHES = {"dotted": "dot", "dashed": "dash", "dashed steps": "dash"}
_SYMBOLS = {"points": "circle", "diamonds": "diamond-open", "ticks across": "line-ew-open", "ticks up": "line-ns-open"}


def rendered(chart: Chart) -> go.Figure:
    """A chart as a plotly figure, its panels side by side."""
    figure = make_subplots(rows=1, cols=len(chart.panels), subplot_titles=[panel.title for panel in chart.panels])
    shown: set[str] = set()
    for column, panel in enumerate(chart.panels, start=1):
        named = chart.tells_names(column - 1)
        if isinstance(panel, Heat):
            figure.add_trace(_heat(panel), row=1, col=column)
            figure.update_xaxes(title=panel.x, row=1, col=column, automargin=True)
            y = {"title": panel.y if named else "", "showticklabels": named}
            figure.update_yaxes(y, row=1, col=column, automargin=True, autorange="reversed")
            continue
        for series in panel.series:
            across = panel.y_axis == "names"
            trace = _bars(series, across=across) if series.style == "bars" else _scatter(series, across=across)
            trace.update(name=series.name, legendgroup=series.name, showlegend=series.name not in shown)
            shown.add(series.name)
            figure.add_trace(trace, row=1, col=column)
        _axes(figure, panel, column, named=named)
    figure.update_layout(barmode="group")
    return _styled(figure, chart.height)


def _heat(panel: Heat) -> go.Heatmap:
    return go.Heatmap(
        z=panel.values,
        x=panel.columns,
        y=panel.rows,
        zmin=panel.low,
        zmax=panel.high,
        colorscale=BOTH_WAYS if panel.both_ways else ONE_WAY,
        showscale=False,
        texttemplate="%{z:.0f}",
        textfont={"color": BLACK},
        hovertemplate="%{y}, %{x}: %{z:.1f}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def _scatter(series: Series, *, across: bool) -> go.Scatter:
    line = {"color": series.colour}
    if series.style in LINES:
        line |= {"dash": _DASHES.get(series.style, "solid")}
        line |= {"shape": "hvh"} if "steps" in series.style else {}
        return go.Scatter(x=series.x, y=_without_nan(series.y), mode="lines", line=line)
    bars = _error_bars(series.spread)
    if series.style == "line and points":
        return go.Scatter(x=series.x, y=series.y, error_y=bars, mode="lines+markers", line=line)
    marker = {"color": series.colour, "symbol": _SYMBOLS[series.style], "size": 12}
    marker |= {"line": {"width": 3, "color": series.colour}}
    x_bars, y_bars = (bars, None) if across else (None, bars)
    return go.Scatter(x=series.x, y=series.y, error_x=x_bars, error_y=y_bars, mode="markers", marker=marker)


def _bars(series: Series, *, across: bool) -> go.Bar:
    bars, marker = _error_bars(series.spread), {"color": series.colour}
    if across:
        names = [str(name).replace("\n", "<br>") for name in series.y]
        return go.Bar(x=series.x, y=names, error_x=bars, marker=marker, orientation="h")
    return go.Bar(x=series.x, y=series.y, error_y=bars, marker=marker)


def _error_bars(spread: Sequence[float]) -> dict[str, object] | None:
    return {"array": [0.0 if math.isnan(value) else value for value in spread], "thickness": 1} if spread else None


def _without_nan(values: Sequence[float | str]) -> list[float | str | None]:
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def _axes(figure: go.Figure, panel: Panel, column: int, *, named: bool) -> None:
    x: dict[str, object] = {"title": panel.x, "automargin": True}
    y: dict[str, object] = {"title": panel.y, "automargin": True}
    if panel.x_axis == "log":
        x |= {"type": "log", "dtick": _ticks(value for series in panel.series for value in series.x)}
    if panel.x_axis == "whole":
        x |= {"tickformat": "d", "dtick": 1}
    if panel.y_axis == "log":
        y |= {"type": "log", "dtick": _ticks(value for series in panel.series for value in series.y)}
    if panel.y_axis == "names":
        y |= {"range": [len(panel.rows) - 0.4, -0.6], "showticklabels": named, "dtick": 1}
    for axis, bounds in ((x, panel.x_range), (y, panel.y_range)):
        if bounds:
            axis["range"] = list(bounds)
    figure.update_xaxes(x, row=1, col=column)
    figure.update_yaxes(y, row=1, col=column)


def _ticks(values: Iterable[float | str]) -> int | str:
    """Where a logarithmic axis has numbers, as plotly says it: at powers of ten, or also at 2 and 5 of them."""
    known = [value for value in values if isinstance(value, float) and value > 0]
    return 1 if known and max(known) >= _DECADES * min(known) else "D2"


def mask_pictures(run: Run) -> go.Figure:
    """The weights of a layer, coloured by which of the first two subtasks keeps them; a menu chooses the layer."""
    first, second = list(run.experiment.data.subtasks)[:2]
    seed = run.seeds[0]
    a, b = seed.mask(MaskName(first, 0)), seed.mask(MaskName(second, 0))
    figure = go.Figure()
    names = a.layout.names
    ends = run.experiment.network.ends
    chosen = next((i for i, name in enumerate(names) if name not in ends), 0)
    titles: list[str] = []
    for i, name in enumerate(names):
        cells, rows, columns, whole = picture(a, b, name)
        titles.append(_caption(whole, cells.shape))
        figure.add_heatmap(
            z=cells,
            x=[str(column) for column in columns],
            y=[str(row) for row in rows],
            zmin=0,
            zmax=3,
            colorscale=_steps((GREY, BLUE, ORANGE, BLACK)),
            showscale=False,
            visible=i == chosen,
            hovertemplate="output %{y}, input %{x}<extra></extra>",
        )
    for label, colour in (("neither", GREY), (f"only {first}", BLUE), (f"only {second}", ORANGE), ("both", BLACK)):
        marker = {"color": colour, "size": 12, "symbol": "square", "line": {"width": 1, "color": BLACK}}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=label, marker=marker)
    keys = [True] * 4
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [{"visible": [j == i for j in range(len(names))] + keys}, {"title.text": titles[i]}],
        }
        for i, name in enumerate(names)
    ]
    menu = {"buttons": buttons, "active": chosen, "x": 0, "xanchor": "left", "y": 1.1, "yanchor": "bottom"}
    figure.update_xaxes(title="input", showticklabels=False, type="category", showgrid=False)
    figure.update_yaxes(title="output", showticklabels=False, type="category", showgrid=False, autorange="reversed")
    _styled(figure, 640)
    figure.update_layout(
        updatemenus=[menu],
        title={"text": titles[chosen], "font": {"size": 13}, "x": 0, "xref": "paper", "y": 0.98, "yanchor": "top"},
        legend={"y": 1.01},
        margin={"t": 130},
    )
    return figure


def picture(
    a: Mask, b: Mask, name: str
) -> tuple[UInt8[np.ndarray, "rows columns"], list[int], list[int], tuple[int, int]]:
    """A tensor as cells 0 neither, 1 only a, 2 only b, 3 both; the rows and columns shown; and its whole size.

    Of a large tensor the rows and columns with most kept weights are shown, in their own order.
    """
    codes = a.parameter(name).numpy().astype(np.uint8) + 2 * b.parameter(name).numpy().astype(np.uint8)
    flat = codes.reshape(codes.shape[0], -1) if codes.ndim else codes.reshape(1, 1)
    rows = np.sort(np.argsort(-(flat > 0).sum(1), kind="stable")[:PICTURE])
    columns = np.sort(np.argsort(-(flat > 0).sum(0), kind="stable")[:PICTURE])
    return flat[np.ix_(rows, columns)], rows.tolist(), columns.tolist(), (flat.shape[0], flat.shape[1])


def _caption(whole: tuple[int, int], shown: tuple[int, ...]) -> str:
    text = f"{whole[0]} × {whole[1]}"
    return text if (shown[0], shown[1]) == whole else f"{text}; shown: the fullest {shown[0]} × {shown[1]}"


def _steps(colours: Sequence[str]) -> list[tuple[float, str]]:
    count = len(colours)
    return [(edge / count, colour) for i, colour in enumerate(colours) for edge in (i, i + 1)]


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1 + _LEGEND / (height - _ABOVE - _BELOW), "x": 0},
        margin={"l": 60, "r": 20, "t": _ABOVE, "b": _BELOW},
        colorway=list(COLOURS),
    )
    return figure
