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
from maskscope.report import chart, charts, continual, shared_charts
from maskscope.report.collect import collect
from maskscope.report.figures import PICTURE, picture, rendered
from maskscope.report.grid import narrow
from maskscope.report.html import write_report
from maskscope.report.load import Found, find
from maskscope.report.page import write_page
from maskscope.report.page_tables import repeatability
from maskscope.report.paper import drawn, write_figures
from maskscope.report.setting import Setting
from maskscope.report.shared_tables import table_overlap, table_shares, table_sizes
from maskscope.report.tables import print_runs, table_one, table_outcomes
from maskscope.runs.estimates import accuracy
from maskscope.runs.pipeline import Runner
from maskscope.runs.results import ALL, Accuracy, MaskName
from maskscope.runs.store import folder_of
from maskscope.runs.verdict import verdict

RESULTS = Path(__file__).parents[2] / "results"


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
    assert f'<td class="words">{table_one(run).rows[0][0]}</td>' in page
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
    assert ("better than the network itself (pair 1, 90.0 for 60.0%)" in caption) == said


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
    left, right = charts.across(find(both).runs).panels
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
    (run,) = find(RESULTS / "cifar10" / "standard" / "cnn-no-dropout").runs
    for one in shared_charts.of_run(run):
        drawn(one).savefig(io.BytesIO(), bbox_inches="tight")
    served = shared_charts.served(run)
    names = served.panels[0].rows
    assert names[:2] == ("all 10", "all but: without bird")
    bars = rendered(served).data[0]
    assert len(bars.y) == len(names)  # none twice
    assert (bars.orientation, bars.x[0]) == ("h", run.results[0].serving[0].sets[0].units)
    shown = rendered(served).layout.yaxis
    assert shown.showticklabels
    assert shown.range[0] > shown.range[1]  # the first on top


def test_names_of_rows_stand_at_the_left_of_a_figure_where_there_is_room_for_them():
    """Between two panels they would lie over the left one."""
    (run,) = find(RESULTS / "cifar10" / "standard" / "cnn-no-dropout").runs
    (other,) = find(RESULTS / "scan" / "standard" / "transformer").runs
    several = [one for of in (run, other) for one in charts.of_run(of) if len(one.panels) > 1]
    assert {"confusions", "serving", "matrices", "overlap-per-tensor"} <= {one.name for one in several}
    for one in several:
        assert one.tells_names(0)
        for i, panel in enumerate(one.panels[1:], start=1):
            if panel.rows:
                assert not one.tells_names(i), one.name
                assert rendered(one).layout[f"yaxis{i + 1}"].showticklabels is False


def test_the_numbers_in_cells_can_be_read_on_every_colour():
    """Black on them has the contrast that WCAG asks for, 4.5 to 1."""
    for colour in (*chart.ONE_WAY, *chart.BOTH_WAYS):
        assert (_luminance(colour) + 0.05) / (_luminance(chart.BLACK) + 0.05) > 4.5, colour


def _luminance(colour):
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_legend_lies_as_close_to_a_tall_figure_as_to_a_low_one():
    """Its place is told in heights of the axes."""
    (run,) = find(RESULTS / "scan" / "standard" / "transformer").runs
    above = []
    for one in (charts.overlap_per_tensor(run), charts.curves(run.seeds[0])):
        layout = rendered(one).layout
        above.append((layout.legend.y - 1) * (layout.height - layout.margin.t - layout.margin.b))
    assert above[0] == pytest.approx(above[1])


def test_more_masks_than_colours_have_another_dash():
    (run,) = find(RESULTS / "cifar10" / "standard" / "cnn-no-dropout").runs
    for one in (charts.curves(run.seeds[0]), charts.probabilities(run.seeds[0])):
        series = one.panels[0].series
        assert len(series) == 11
        assert len({(item.style, item.colour) for item in series}) == 11


def test_a_card_that_cannot_tell_says_why(tmp_path):
    found = find(RESULTS / "cifar10" / "standard" / "cnn-no-dropout")
    page = write_report(found, tmp_path / "r.html", "x").read_text(encoding="utf-8")
    (run,) = found.runs
    assert verdict(run.experiment, run.results).finding == "cannot tell"
    assert f"Why: {run.reasons[0]}." in page
    found = find(RESULTS / "scan" / "standard" / "transformer")
    assert found.runs[0].warnings  # that masks had not settled is no reason
    assert "Why:" not in write_report(found, tmp_path / "s.html", "x").read_text(encoding="utf-8")


def test_layers_of_which_the_last_task_keeps_nothing_are_named():
    (run,) = find(RESULTS / "permuted-mnist" / "standard" / "unprotected-one-first-layer").continual
    said = continual.verdict(run).ablations
    assert "earlier masks keep 100.0% in layers.3 (40.3% of all units there); together" in said
    assert said.endswith("It keeps nothing of layers.0 and layers.1 and layers.2.")
    (run,) = find(RESULTS / "permuted-mnist" / "standard" / "frozen").continual
    assert "keeps nothing" not in continual.verdict(run).ablations


def test_a_page_turns_tables_that_are_too_wide_where_that_makes_them_narrow(root):
    (run,) = find(RESULTS / "cifar10" / "standard" / "cnn-no-dropout").runs
    wide = table_one(run)
    assert len(wide.header) == 24
    turned = narrow(wide)
    assert turned.header == ("", *run.experiment.data.tested)
    assert [row[0] for row in turned.rows][:2] == ["network", "all classes (control)"]
    sizes = table_sizes(run)
    assert len(sizes.header) == 13
    assert narrow(sizes) is sizes  # twelve columns would be no better
    assert narrow(table_one(find(root).runs[0])).header[0] == "accuracy on"


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


def test_a_pair_of_classes_drawn_the_other_way_round_is_the_same_pair():
    (run,) = find(RESULTS / "cifar10-pairs" / "standard").runs
    turned = {"airplane, bird": "bird, airplane"}

    def again(name):
        return replace(name, subtask=turned.get(name.subtask, name.subtask)) if name.seed else name

    (result,) = run.results
    overlaps = tuple(replace(item, first=again(item.first), second=again(item.second)) for item in result.overlaps)
    assert overlaps != result.overlaps
    other = replace(run, seeds=(replace(run.seeds[0], results=replace(result, overlaps=overlaps)),))
    tables = [repeatability(Setting("cifar10-pairs", "standard", (item,))) for item in (run, other)]
    assert tables[0] == tables[1]


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
