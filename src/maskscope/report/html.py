"""One self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from maskscope.report import calibration, charts, continual, figures, shared_charts, size_charts
from maskscope.report.chart import Chart
from maskscope.report.grid import Grid, narrow
from maskscope.report.load import ContinualRun, ContinualSeed, Found, Run, SeedRun
from maskscope.report.shared_tables import table_overlap, table_shares, table_significance, table_sizes
from maskscope.report.tables import (
    table_ablations,
    table_drops,
    table_one,
    table_outcomes,
    table_pairs,
    table_specialization,
)
from maskscope.runs.experiment import to_json
from maskscope.runs.results import MaskName
from maskscope.runs.store import write_text
from maskscope.runs.verdict import Verdict, verdict

_PICTURE = "The masks of one layer"
_PICTURE_CAPTION = (
    "Every cell is a weight (rows: outputs, columns: inputs), coloured by which subtask keeps it. The menu chooses the "
    "tensor; of a large one the rows and columns with most kept weights are shown."
)


_MANY, _FIRST = 16, 4
"""A table of more rows than this shows its first ones, and all when asked."""

_DRAWN = 24
"""A page about more runs than this has no figures of each: it would not open."""


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
    why: str
    """What stands in the way where one cannot tell; empty otherwise."""
    warnings: tuple[str, ...]
    tables: tuple[Grid, ...]
    plots: tuple[Plot, ...]
    seeds: Grid
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
    if found.is_empty:
        raise ValueError(f"nothing to report yet: {'; '.join(found.unfinished) or 'no run'}")
    drawn, planted = len(found.runs) <= _DRAWN, calibration.groups(found.runs)
    sections = [_section(run, i, drawn=drawn) for i, run in enumerate(found.runs)]
    sections += [_in_turn(run, i) for i, run in enumerate(found.continual, start=len(sections))]
    templates = Templates(loader=PackageLoader("maskscope.report"), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        overview=[_plot(chart) for chart in charts.over_all(found, planted)],
        summaries=[grid for grid in (calibration.table(planted), calibration.levels(planted)) if grid is not None],
        drawn=drawn,
        unfinished=found.unfinished,
        plotly=Markup(get_plotlyjs()),
        many=_MANY,
        first=_FIRST,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(path, page)
    return path


def _plot(chart: Chart) -> Plot:
    return Plot(chart.title, chart.caption, _html(figures.rendered(chart), chart.name))


def _section(run: Run, index: int, *, drawn: bool) -> Section:
    anchor = f"network-{index}"
    said = verdict(run.experiment, run.results)
    plots = _plots(run, said, anchor) if drawn else ()
    tables = (
        table_drops(run),
        table_specialization(run),
        table_one(run),
        table_outcomes(run),
        table_ablations(run),
        table_pairs(run),
        table_overlap(run),
        table_significance(run),
        shared_charts.table_groups(run),
        size_charts.table_faithfulness(run),
        table_shares(run),
        table_sizes(run),
    )
    kept = tuple(narrow(table) for table in tables if table is not None)
    why = run.reasons[0] if run.reasons and said.finding == "cannot tell" else ""
    seeds = _table_seeds(run.seeds)
    return Section(anchor, run.name, said, why, run.warnings, kept, plots, seeds, to_json(run.experiment))


def _plots(run: Run, said: Verdict, anchor: str) -> tuple[Plot, ...]:
    drawn = [(chart.title, chart.caption, figures.rendered(chart)) for chart in charts.of_run(run)]
    pair = run.experiment.data.subtasks[:2]
    if said.reuse is not None and len(pair) == 2 and all(run.seeds[0].has(MaskName(name, 0)) for name in pair):
        drawn.insert(2, (_PICTURE, _PICTURE_CAPTION, figures.mask_pictures(run)))
    return tuple(Plot(name, text, _html(figure, f"{anchor}-{i}")) for i, (name, text, figure) in enumerate(drawn))


def _in_turn(run: ContinualRun, index: int) -> Section:
    anchor = f"network-{index}"
    plots = tuple(
        Plot(chart.title, chart.caption, _html(figures.rendered(chart), f"{anchor}-{i}"))
        for i, chart in enumerate(continual.charts(run))
    )
    said, table = continual.verdict(run), continual.table_tasks(run)
    seeds = _table_seeds(run.seeds)
    return Section(anchor, run.name, said, "", (), (table,), plots, seeds, run.experiment.to_json())


def _table_seeds(seeds: Sequence[SeedRun | ContinualSeed]) -> Grid:
    """When, where and by what each network was learned."""
    rows = tuple(
        (
            str(seed.seed),
            about.started[:16].replace("T", " "),
            f"{seed.seconds / 60:.0f} min" if seed.seconds >= 60 else f"{seed.seconds:.0f} s",
            about.maskscope,
            about.commit or "–",
            about.torch,
            about.python,
            about.machine.partition(",")[0],
            str(about.threads),
            about.device,
        )
        for seed, about in ((seed, seed.environment) for seed in seeds)
    )
    header = ("network seed", "begun (UTC)", "learning", "maskscope", "commit", "torch", "Python")
    return Grid("Where this comes from", "", (*header, "machine", "threads", "device"), rows)


def _html(figure: go.Figure, identity: str) -> Markup:
    text = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{identity}",
        config={"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage"]]},
    )
    return Markup(text)
