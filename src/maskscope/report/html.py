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

from maskscope.report import figures
from maskscope.report.load import Found, Run, SeedRun
from maskscope.report.tables import Grid, table_ablations, table_one, table_overlap, table_shares, table_sizes
from maskscope.runs.store import write_text
from maskscope.runs.study import to_json
from maskscope.runs.verdict import Verdict, verdict


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
    overview = figures.position([(section.name, section.verdict) for section in sections])
    templates = Templates(loader=PackageLoader("maskscope.report"), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        overview=_html(overview, "overview"),
        unfinished=found.unfinished,
        plotly=Markup(get_plotlyjs()),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(path, page)
    return path


def _section(run: Run, index: int) -> Section:
    anchor = f"network-{index}"
    said = verdict(run.experiment, run.results)
    first, second = run.experiment.data.subtasks[:2]
    drawn = (
        (
            "Overlap per tensor",
            f"What {first} and {second} share, against random masks of the same sizes (chance) and the same subtask "  # noqa: ISC004
            "learned again (ceiling). Error bars: standard deviation over pairs of masks.",
            figures.overlap_per_tensor(run),
        ),
        ("Kept weights per tensor", "Mean over all masks of a subtask.", figures.kept_per_tensor(run)),
        (
            "The masks of one layer",
            "Every cell is a weight (rows: outputs, columns: inputs), coloured by which subtask keeps it. The menu chooses "  # noqa: ISC004
            "the tensor; of a large one the rows and columns with most kept weights are shown.",
            figures.mask_pictures(run),
        ),
        (
            "Learning curves",
            f"Network seed {run.seeds[0].seed}. Flat ends mean that the masks have settled.",
            figures.curves(run.seeds[0]),
        ),
        (
            "Keep probabilities",
            f"Network seed {run.seeds[0].seed}, first mask of each subtask. Units in the middle are undecided.",
            figures.probabilities(run.seeds[0]),
        ),
    )
    plots = tuple(Plot(name, text, _html(figure, f"{anchor}-{i}")) for i, (name, text, figure) in enumerate(drawn))
    warned = tuple(text for result in run.results for text in result.warnings)
    tables = (table_one(run), table_ablations(run), table_overlap(run), table_shares(run), table_sizes(run))
    return Section(anchor, run.name, said, warned, tables, plots, run.seeds, to_json(run.experiment))


def _html(figure: go.Figure, identity: str) -> Markup:
    text = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{identity}",
        config={"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage"]]},
    )
    return Markup(text)
