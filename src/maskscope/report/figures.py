"""The figures of a report, as plotly figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import UInt8
from plotly.subplots import make_subplots

from maskscope.analysis.modularity import Estimate, estimate
from maskscope.core.mask import Mask
from maskscope.report.load import Run, SeedRun
from maskscope.runs.results import HISTOGRAM_BINS, MaskName
from maskscope.runs.verdict import Verdict, reuse_in

# Okabe and Ito's palette, safe for colour-blind readers; in this order it also differs in lightness.
BLUE, ORANGE, GREEN, PINK, BLACK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#222222", "#EDEDED"
_SERIES = (BLACK, BLUE, ORANGE, GREEN, PINK)

PICTURE = 160
"""Rows and columns of a mask picture at most; more could not be told apart on a screen."""


def position(named: Sequence[tuple[str, Verdict]]) -> go.Figure:
    """Where each network's hidden-layer overlap lies between chance and ceiling."""
    figure = go.Figure()
    names = [name for name, _ in named]
    for label, colour, symbol, values in (
        ("chance: random masks of the same sizes", ORANGE, "diamond-open", [v.reuse.iou.chance for _, v in named]),
        ("the two subtasks", BLUE, "circle", [v.reuse.iou.between.mean for _, v in named]),
        (
            "ceiling: the same subtask learned again",
            BLACK,
            "line-ns-open",
            [v.reuse.iou.ceiling.mean for _, v in named],
        ),
    ):
        marker = {"color": colour, "symbol": symbol, "size": 13, "line": {"width": 3, "color": colour}}
        figure.add_scatter(x=values, y=names, mode="markers", name=label, marker=marker, hovertemplate="%{x:.3f}")
    figure.update_xaxes(title="IoU of the masks in the hidden layers", range=[-0.02, 1.02])
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _styled(figure, 170 + 60 * len(named))


def overlap_per_tensor(run: Run) -> go.Figure:
    """IoU and IoMin in every masked tensor, with chance and ceiling."""
    first, second = run.experiment.data.subtasks[:2]
    tensors = [tensor.parameter for tensor in run.results[0].sizes[0].tensors]
    figure = make_subplots(rows=1, cols=2, subplot_titles=("IoU", "IoMin"), shared_yaxes=True)
    found = [reuse_in(run.results, first, second, tensor) for tensor in tensors]
    for column, placed in enumerate(([item.iou for item in found], [item.iomin for item in found]), start=1):
        for label, colour, symbol, values in (
            (f"{first} and {second}", BLUE, "circle", [item.between for item in placed]),
            ("ceiling: same subtask again", BLACK, "line-ew-open", [item.ceiling for item in placed]),
            ("chance", ORANGE, "line-ew-open", [Estimate(item.chance, math.nan, 1) for item in placed]),
        ):
            figure.add_scatter(
                x=tensors,
                y=[value.mean for value in values],
                error_y=_error_bars(values),
                mode="markers",
                name=label,
                legendgroup=label,
                showlegend=column == 1,
                marker={"color": colour, "symbol": symbol, "size": 12, "line": {"width": 3, "color": colour}},
                row=1,
                col=column,
            )
    figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_yaxes(title="overlap, in units", row=1, col=1)
    figure.update_xaxes(title="tensor", automargin=True)
    return _styled(figure, 430)


def _error_bars(values: Iterable[Estimate]) -> dict[str, object]:
    return {"array": [0.0 if np.isnan(value.std) else value.std for value in values], "thickness": 1}


def kept_per_tensor(run: Run) -> go.Figure:
    """How many weights each mask keeps of every tensor."""
    figure = go.Figure()
    for subtask, colour in zip(run.experiment.subtasks, _SERIES, strict=False):
        sizes = [size for result in run.results for size in result.sizes if size.name.subtask == subtask]
        tensors = [tensor.parameter for tensor in sizes[0].tensors]
        kept = [estimate(float(size.tensors[i].kept_weights) for size in sizes) for i in range(len(tensors))]
        figure.add_bar(
            x=tensors,
            y=[value.mean for value in kept],
            error_y=_error_bars(kept),
            name=subtask,
            marker={"color": colour},
        )
    figure.update_xaxes(title="tensor", automargin=True)
    figure.update_yaxes(title="kept weights")
    figure.update_layout(barmode="group")
    return _styled(figure, 380)


def curves(seed: SeedRun) -> go.Figure:
    """Loss and kept units over the steps of learning, for every mask of a network."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("loss under sampled masks", "kept units"))
    subtasks = list(dict.fromkeys(record.name.subtask for record in seed.records))
    for record in seed.records:
        colour = _SERIES[subtasks.index(record.name.subtask) % len(_SERIES)]
        again = f" (again, {record.name.seed})" if record.name.seed else ""
        line = {"color": colour, "dash": "dot" if record.name.seed else "solid"}
        steps = [point.step for point in record.curve]
        for column, values in ((1, [p.loss for p in record.curve]), (2, [p.kept for p in record.curve])):
            figure.add_scatter(
                x=steps,
                y=values,
                mode="lines",
                line=line,
                name=record.name.subtask + again,
                legendgroup=record.name.subtask + again,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(title="optimisation step")
    figure.update_yaxes(title="cross-entropy (nats)", type="log", nticks=5, row=1, col=1)
    figure.update_yaxes(title="units", rangemode="tozero", row=1, col=2)
    return _styled(figure, 380)


def probabilities(seed: SeedRun) -> go.Figure:
    """Histogram of the keep probabilities that learning ended with."""
    figure = go.Figure()
    centres = (np.arange(HISTOGRAM_BINS) + 0.5) / HISTOGRAM_BINS
    subtasks = list(dict.fromkeys(record.name.subtask for record in seed.records))
    for record in seed.records:
        if record.name.seed == 0:
            colour = _SERIES[subtasks.index(record.name.subtask) % len(_SERIES)]
            figure.add_scatter(
                x=centres,
                y=[count or None for count in record.histogram],
                mode="lines",
                line={"color": colour, "shape": "hvh"},
                name=record.name.subtask,
            )
    figure.update_xaxes(title="keep probability (settled masks have all units near 0 or 1)", range=[0, 1])
    figure.update_yaxes(title="units per bin of 0.02", type="log")
    return _styled(figure, 360)


def mask_pictures(run: Run) -> go.Figure:
    """The weights of a layer, coloured by which of the first two subtasks keeps them; a menu chooses the layer."""
    first, second = run.experiment.data.subtasks[:2]
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
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.1, "x": 0},
        margin={"l": 60, "r": 20, "t": 70, "b": 60},
        colorway=list(_SERIES),
    )
    return figure
