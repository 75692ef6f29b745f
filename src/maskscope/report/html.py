"""One self-contained HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from maskscope.report import charts, figures
from maskscope.report.load import Found, Run, SeedRun
from maskscope.report.tables import (
    Grid,
    table_ablations,
    table_one,
    table_outcomes,
    table_overlap,
    table_shares,
    table_sizes,
)
from maskscope.runs.results import MaskName
from maskscope.runs.store import write_text
from maskscope.runs.study import to_json
from maskscope.runs.verdict import Verdict, verdict

_PICTURE = "The masks of one layer"
_PICTURE_CAPTION = (
    "Every cell is a weight (rows: outputs, columns: inputs), coloured by which subtask keeps it. The menu chooses the "
    "tensor; of a large one the rows and columns with most kept weights are shown."
)


@dataclass(frozen=True)
class Plot:
    """A figure with its words."""

    title: str
    caption: str
    html: Markup


@dataclass(frozen=True)
class Section:
    """One network's part of the page."""

    anchor: str
    name: str
    verdict: Verdict
    warnings: tuple[str, ...]
    tables: tuple[Grid, ...]
    plots: tuple[Plot, ...]
    seeds: tuple[SeedRun, ...]
    config: str


def write_report(found: Found, path: Path, title: str) -> Path:
    """Write the report of some runs.

    Args:
        found: What to report on.
        path: The HTML file.
        title: Its heading.

    Raises:
        ValueError: Nothing is finished yet.
        OSError: The file cannot be written.
    """
    if not found.runs:
        raise ValueError(f"nothing to report yet: {'; '.join(found.unfinished) or 'no run'}")
    sections = [_section(run, i) for i, run in enumerate(found.runs)]
    pages = [charts.position([(section.name, section.verdict) for section in sections]), charts.across(found.runs)]
    templates = Templates(loader=PackageLoader("maskscope.report"), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        overview=[_plot(chart) for chart in pages if chart is not None],
        unfinished=found.unfinished,
        plotly=Markup(get_plotlyjs()),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(path, page)
    return path


def _plot(chart: charts.Chart) -> Plot:
    return Plot(chart.title, chart.caption, _html(figures.rendered(chart), chart.name))


def _section(run: Run, index: int) -> Section:
    anchor = f"network-{index}"
    said = verdict(run.experiment, run.results)
    drawn = [(chart.title, chart.caption, figures.rendered(chart)) for chart in charts.of_run(run)]
    if all(run.seeds[0].has(MaskName(subtask, 0)) for subtask in run.experiment.data.subtasks[:2]):
        drawn.insert(2, (_PICTURE, _PICTURE_CAPTION, figures.mask_pictures(run)))
    plots = tuple(Plot(name, text, _html(figure, f"{anchor}-{i}")) for i, (name, text, figure) in enumerate(drawn))
    warned = tuple(text for result in run.results for text in result.warnings)
    tables = (
        table_one(run),
        table_outcomes(run),
        table_ablations(run),
        table_overlap(run),
        table_shares(run),
        table_sizes(run),
    )
    kept = tuple(table for table in tables if table is not None)
    return Section(anchor, run.name, said, warned, kept, plots, run.seeds, to_json(run.experiment))


def _html(figure: go.Figure, identity: str) -> Markup:
    text = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{identity}",
        config={"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage"]]},
    )
    return Markup(text)
