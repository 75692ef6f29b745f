"""The report: one file without the network, with every name escaped, and the same numbers as the terminal."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import tiny
from maskscope.core.layout import layout
from maskscope.core.mask import Mask
from maskscope.report import charts, shared_charts
from maskscope.report.collect import collect
from maskscope.report.figures import PICTURE, picture, rendered
from maskscope.report.html import write_report
from maskscope.report.load import Found, find
from maskscope.report.page import write_page
from maskscope.report.paper import drawn, write_figures
from maskscope.report.shared_tables import table_overlap, table_shares
from maskscope.report.tables import print_runs, table_one, table_outcomes
from maskscope.runs.estimates import accuracy
from maskscope.runs.pipeline import Runner
from maskscope.runs.results import ALL, Accuracy, MaskName
from maskscope.runs.store import folder_of
from maskscope.runs.verdict import verdict


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for experiment, seed in ((tiny.FNN, 0), (tiny.FNN, 1), (tiny.LSTM, 0)):
        Runner(experiment, seed, folder_of(root, experiment, seed), lambda tick: None).run()
    return root


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Addition and multiplication by two networks of different size."""
    root = tmp_path_factory.mktemp("add-mul")
    larger = replace(tiny.ADD_MUL, variant="larger", network=replace(tiny.ADD_MUL.network, hidden=(24, 12)))
    for experiment in (larger, tiny.ADD_MUL):
        Runner(experiment, 0, folder_of(root, experiment, 0), lambda tick: None).run()
    return root


@pytest.fixture(scope="module")
def page(root):
    return write_report(find(root), root / "report.html", "a <title> & more").read_text(encoding="utf-8")


def test_runs_are_found_with_all_their_seeds(root):
    found = find(root)
    assert {run.experiment.variant: len(run.seeds) for run in found.runs} == {"fnn": 2, "lstm": 1}
    assert found.unfinished == ()


def test_nothing_is_loaded_from_elsewhere(page):
    body = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)  # plotly's own source names addresses
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", body)
    assert "@import" not in body


def test_names_from_outside_are_escaped(page):
    assert "a &lt;title&gt; &amp; more" in page
    assert "<b>FNN</b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "tiny &lt;b&gt;FNN&lt;/b&gt;" in page


def test_a_page_has_everything_a_reader_needs(page):
    for text in (
        "Overlap between chance and ceiling",
        "Accuracies",
        "Other ablations and controls",
        "sampled from the complement (for the mask of pair 1)",
        "Significance",
        "Size and faithfulness",
        "Faithfulness",
        "Which weights serve how many subtasks",
        "Shared and remaining",
        "Kept weights per tensor",
        "The masks of one layer",
        "Learning curves",
        "Keep probabilities",
        "Where this comes from",
        "How to read this report",
        "optimisation step",
        "viewport",
        "@media print",
        tiny.FNN.data.full,
    ):
        assert text in page, text


def test_page_and_terminal_show_the_same_numbers(root, page):
    run = find(root).runs[0]
    console = Console(record=True, width=250, file=io.StringIO())
    print_runs([run], console)
    terminal = console.export_text()
    for cell in table_one(run).rows[0][1:]:
        assert f"<td>{cell}</td>" in page
        assert cell in terminal
    assert table_overlap(run).rows[0][1] in terminal


@pytest.mark.parametrize(("alone", "said"), [(0.9, True), (0.64, False)])
def test_masks_that_beat_the_network_are_told(root, alone, said):
    """0.04 more is not worth a word."""
    run = find(root).runs[0]
    values = {("mask", "pair 1"): alone, ("full network", None): 0.6}

    def changed(item):
        return replace(item, value=values.get((item.network, item.mask and item.mask.subtask), 0.0))

    seeds = tuple(
        replace(seed, results=replace(seed.results, accuracies=tuple(map(changed, seed.results.accuracies))))
        for seed in run.seeds
    )
    caption = table_one(replace(run, seeds=seeds)).caption
    assert ("better than the network itself (pair 1, 90.0 for 60.0 %)" in caption) == said


def test_table_one_is_the_mean_over_masks_and_seeds(root):
    run = next(run for run in find(root).runs if run.experiment.variant == "fnn")
    values = [
        item.value
        for result in run.results
        for item in result.accuracies
        if item.network == "mask" and item.mask and item.mask.subtask == "pair 1" and item.subtask == "pair 2"
    ]
    assert len(values) == 4
    found = accuracy(run.results, "mask", "pair 2", "pair 1")
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))


def test_sharing_is_shown_per_subtask_and_place(root):
    run = find(root).runs[0]
    grid = table_shares(run)
    assert grid.header[1:] == ("pair 1: shared", "pair 2: shared", "pair 1: remaining", "pair 2: remaining")
    values = [
        s.shared * 100
        for r in run.results
        for s in r.shares
        if (s.name.subtask, s.where) == ("pair 1", grid.rows[0][0])
    ]
    assert grid.rows[0][1].startswith(f"{np.mean(values):.1f}")


def test_confusions_are_shown_where_the_data_have_them(root, both, page):
    assert table_outcomes(find(root).runs[0]) is None
    assert "Confusions" not in page
    (run, *_) = find(both).runs
    asked = {item.subtask: item.examples for item in run.results[0].accuracies}
    assert f"on {asked['+']} (+) and {asked['*']} (*) validation examples" in table_one(run).caption
    grid = table_outcomes(run)
    assert [row[0] for row in grid.rows][:3] == ["network", "both operations (control)", "¬ both operations (control)"]
    assert grid.header[1:4] == ("asked +: result of +", "asked +: result of *", "asked +: neither")
    of_network = {
        (item.subtask, item.outcome): item.value for item in run.results[0].outcomes if item.network == "full network"
    }
    assert grid.rows[0][3] == f"{of_network['+', 'neither'] * 100:.1f}"
    assert "Confusions" in write_report(find(both), both / "r.html", "x").read_text(encoding="utf-8")


def test_networks_of_several_sizes_are_drawn_against_their_size(root, both):
    assert charts.across(find(root).runs) is None  # different data
    chart = charts.across(find(both).runs)
    left, right = chart.panels
    assert left.series[0].x == (42 * 16 + 16 * 12 + 12 * 20, 42 * 24 + 24 * 12 + 12 * 20)
    smaller = next(run for run in find(both).runs if run.experiment.variant == "fnn")
    shares = [s.shared for s in smaller.results[0].shares if (s.name.subtask, s.where) == ("+", ALL)]
    assert right.series[0].y[0] == pytest.approx(np.mean(shares))


def test_charts_are_written_for_a_paper(both, tmp_path):
    written = write_figures(find(both), tmp_path / "figures")
    names = {str(path.relative_to(tmp_path / "figures")) for path in written}
    assert names >= {"position.pdf", "across.svg", "fnn/overlap-per-tensor.png", "larger/kept-per-tensor.pdf"}
    assert all(path.stat().st_size > 2000 for path in written)
    assert len(written) == 3 * (2 + 2 * 6)
    with pytest.raises(ValueError, match="nothing to draw yet"):
        write_figures(Found((), ()), tmp_path)


def test_charts_of_many_subtasks_fit_on_paper_and_name_what_they_show():
    """A label that leaves no room for its axes is a warning, and so an error here."""
    (run,) = find(Path(__file__).parents[2] / "results" / "cifar10" / "standard" / "cnn-no-dropout").runs
    for chart in shared_charts.of_run(run):
        drawn(chart).savefig(io.BytesIO(), bbox_inches="tight")
    served = shared_charts.served(run)
    names = [str(name) for name in served.panels[1].series[0].y]
    assert names[:2] == ["all 10", "all but: without bird"]
    assert len({*names}) == len(names)
    bars = rendered(served).data[1]
    assert (bars.orientation, bars.x[0]) == ("h", run.results[0].serving[0].sets[0].units)
    shown = rendered(served).layout.yaxis2
    assert shown.showticklabels
    assert shown.autorange == "reversed"


def test_collected_results_are_small_and_are_read_as_the_runs_are(both, tmp_path):
    copies = collect(find(both), tmp_path / "results" / "add-mul" / "standard")
    assert sorted(str(path.relative_to(tmp_path)) for path in copies) == [
        "results/add-mul/standard/fnn/seed-0",
        "results/add-mul/standard/larger/seed-0",
    ]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json"}
    again = find(tmp_path / "results")
    assert [run.results for run in again.runs] == [run.results for run in find(both).runs]
    page = write_report(again, tmp_path / "r.html", "x").read_text(encoding="utf-8")
    assert "Confusions" in page
    assert "The masks of one layer" not in page  # there are no masks to draw
    text = write_page(tmp_path / "results", tmp_path / "page.md").read_text(encoding="utf-8")
    found = accuracy(again.runs[0].results, "mask", "+", "+")
    assert f" {found.mean * 100:.1f} ± " in text
    assert "maskscope run add-mul --preset standard --only fnn larger --seeds 0" in text
    smaller = collect(find(both), tmp_path / "smaller", curves=False)
    thin = find(tmp_path / "smaller")
    assert [run.results for run in thin.runs] == [run.results for run in again.runs]
    assert all(record.curve == () for run in thin.runs for seed in run.seeds for record in seed.records)
    sizes = [sum(path.stat().st_size for folder in made for path in folder.rglob("*")) for made in (smaller, copies)]
    assert sizes[0] < 0.7 * sizes[1]
    assert "Learning curves" not in write_report(thin, tmp_path / "thin.html", "x").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="nothing to collect yet"):
        collect(Found((), ()), tmp_path)


def test_the_page_of_experiments_is_what_its_command_writes(tmp_path):
    here = Path(__file__).parents[2]
    written = write_page(here / "results", tmp_path / "page.md").read_text(encoding="utf-8")
    assert (here / "docs" / "experiments.md").read_text(encoding="utf-8") == written, "run make experiments"


def test_an_untrained_network_is_not_judged(root):
    run = find(root).runs[0]
    said = verdict(run.experiment, run.results)
    assert said.finding == "cannot tell"
    assert "chance" in said.overlap
    assert "Without the mask" in said.ablations


def test_unfinished_runs_are_named_and_nothing_at_all_is_an_error(root, tmp_path):
    folder = folder_of(tmp_path, tiny.FNN, 0)
    folder.path.mkdir(parents=True)
    (folder.path / "config.json").write_text((folder_of(root, tiny.FNN, 0).path / "config.json").read_text())
    found = find(tmp_path)
    assert found.runs == ()
    assert "not finished; run the same command again" in found.unfinished[0]
    with pytest.raises(ValueError, match="nothing to report yet"):
        write_report(found, tmp_path / "r.html", "x")
    with pytest.raises(FileNotFoundError, match="maskscope run double-addition"):
        find(tmp_path / "none")


def test_a_picture_shows_who_keeps_what():
    over = layout(nn.Linear(2, 2))
    a = Mask.of(over, torch.tensor([True, False, True, False]))
    b = Mask.of(over, torch.tensor([True, True, False, False]))
    cells, rows, columns, whole = picture(a, b, "weight")
    assert cells.tolist() == [[3, 2], [1, 0]]
    assert (rows, columns, whole) == ([0, 1], [0, 1], (2, 2))


def test_a_picture_of_a_large_tensor_shows_its_fullest_part():
    size = PICTURE + 40
    over = layout(nn.Linear(size, size))
    kept = torch.zeros(size, size, dtype=torch.bool)
    kept[20 : 20 + PICTURE, 30 : 30 + PICTURE] = True
    cells, rows, columns, _ = picture(Mask.of(over, kept.flatten()), Mask.empty(over), "weight")
    assert (cells == 1).all()
    assert (rows[0], columns[0]) == (20, 30)


def test_means_leave_other_networks_alone():
    results = find_one()
    assert accuracy([results], "mask", "pair 1", "pair 1").n == 1


def find_one():
    from maskscope.runs.results import SeedResults

    row = Accuracy("mask", MaskName("pair 1", 0), "pair 1", 0.5, 10)
    others = (replace(row, network="complement"), replace(row, mask=None), replace(row, subtask="pair 2"))
    return SeedResults("x", 0, (row, *others), (), (), (), (), ())


def test_a_copied_run_does_not_count_twice(root, tmp_path):
    shutil.copytree(root, tmp_path / "a")
    shutil.copytree(root, tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_bytes(bytes(range(128, 200)))
    found = find(tmp_path)
    assert {run.experiment.variant: len(run.seeds) for run in found.runs} == {"fnn": 2, "lstm": 1}
    assert sum("would count twice" in note for note in found.unfinished) == 3
    assert len(found.unfinished) == 4
