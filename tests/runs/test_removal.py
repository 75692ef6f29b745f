"""Experiments whose masks leave something out, end to end: what is measured, and what reports say of it."""

import io
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import pictures
import tiny
from maskscope.analysis.ablate import completed
from maskscope.core.files import load_tensors
from maskscope.core.layout import layout
from maskscope.core.mask import Mask
from maskscope.data.cifar10 import ClassRemoval
from maskscope.data.cifar10_archive import CLASSES
from maskscope.data.scan_grammar import SPLITS, halves
from maskscope.report import charts
from maskscope.report.html import write_report
from maskscope.report.load import find
from maskscope.report.paper import write_figures
from maskscope.report.tables import print_runs, table_drops
from maskscope.runs.experiment import from_json, to_json
from maskscope.runs.pipeline import Runner
from maskscope.runs.removal import drops, removal_finding
from maskscope.runs.results import Accuracy, MaskName, SeedResults
from maskscope.runs.store import folder_of
from maskscope.runs.verdict import verdict

pytestmark = pytest.mark.usefixtures("_tiny_data")


@pytest.fixture(scope="module")
def removal(tmp_path_factory, _tiny_data):
    """Ten classes removed, once."""
    root = tmp_path_factory.mktemp("cifar10")
    return root, run(root, tiny.CIFAR10)


def run(root, experiment):
    return Runner(experiment, 0, folder_of(root, experiment, 0), lambda tick: None).run()


def masks(root, experiment):
    folder = folder_of(root, experiment, 0)
    return {name: Mask.load(folder.mask(*name)) for name in experiment.masks()}


@pytest.mark.parametrize(
    "experiment", [tiny.SCAN_LSTM, tiny.SCAN_TRANSFORMER], ids=lambda experiment: experiment.variant
)
def test_scan_runs_from_end_to_end(experiment, tmp_path):
    results = run(tmp_path, experiment)
    assert {item.subtask for item in results.accuracies} == {"simple", "length", "jump", "turn left"}
    assert {item.mask.subtask for item in results.accuracies if item.mask} == {"simple", "jump", "turn left"}
    assert {item.answer for item in results.removed} == set(experiment.data.answers)
    found = find(tmp_path)
    page = write_report(found, tmp_path / "report.html", "scan").read_text(encoding="utf-8")
    assert "What is lost" in page
    assert "Weights removed per output" in page
    assert "Accuracy under each mask" in page


def test_a_network_without_masks_is_trained_and_tested(tmp_path):
    results = run(tmp_path, tiny.SCAN_BASELINE)
    assert {item.network for item in results.accuracies} == {"full network"}
    assert not results.sizes
    found = find(tmp_path)
    assert verdict(found.runs[0].experiment, found.runs[0].results).finding == "not masked"
    write_report(found, tmp_path / "report.html", "baseline")
    console = Console(file=io.StringIO(), width=100)
    print_runs(found.runs, console)
    assert "NOT MASKED" in console.file.getvalue()


def test_class_masks_take_the_output_layer_from_the_control(removal):
    root, results = removal
    found = masks(root, tiny.CIFAR10)
    control = found["all classes", 0]
    for mask in found.values():
        for name in ("out_layer.weight", "out_layer.bias"):
            assert torch.equal(mask.parameter(name), control.parameter(name))
    assert all(item.removed in (0, 0.0) or math.isnan(item.removed) for item in results.removed)
    full = [item for item in results.outcomes if item.network == "full network"]
    for name in CLASSES:
        row = [item for item in full if item.subtask == name]
        assert sum(item.value for item in row) == pytest.approx(1.0)
        right = next(
            item.value for item in results.accuracies if (item.network, item.subtask) == ("full network", name)
        )
        assert next(item.value for item in row if item.outcome == name) == right


def test_reports_of_class_removal_have_their_pictures(removal, tmp_path):
    found = find(removal[0])
    page = write_report(found, tmp_path / "report.html", "images").read_text(encoding="utf-8")
    for text in ("What images are taken for instead", "Accuracy under each mask", "What is lost", "without airplane"):
        assert text in page
    names = {path.name for path in write_figures(found, tmp_path / "figures")}
    assert {"confusions.pdf", "accuracies.svg"} <= names
    per_layer = charts.overlap_per_tensor(found.runs[0])
    assert per_layer.title == "Overlap per layer"
    assert per_layer.panels[0].series[0].x == ("features.0", "features.3", "features.6", "features.10", "out_layer")


def test_masks_of_pairs_are_compared_with_themselves_and_each_other(tmp_path):
    results = run(tmp_path, tiny.PAIRS)
    again = [item for item in results.overlaps if item.first.subtask == item.second.subtask]
    between = [item for item in results.overlaps if item.first.subtask != item.second.subtask]
    assert again
    assert between
    said = verdict(tiny.PAIRS, [results])
    assert said.reuse is not None
    assert said.reuse.iou.ceiling.n == 3
    found = find(tmp_path)
    page = write_report(found, tmp_path / "report.html", "pairs").read_text(encoding="utf-8")
    for text in ("Every two subtasks", "Which weights serve how many subtasks", "Groups of subtasks"):
        assert text in page
    (served, *_) = results.serving
    assert sum(served.degrees) == sum(
        t.units for t in results.sizes[0].tensors if t.parameter not in tiny.PAIRS.network.ends
    )


@pictures.needs_data
def test_a_network_that_comes_trained_is_taken_as_it_comes(tmp_path):
    experiment = replace(tiny.PRETRAINED, masking=None)
    results = run(tmp_path, experiment)
    folder = folder_of(tmp_path, experiment, 0)
    ours, theirs = (
        load_tensors(folder.model).tensors,
        load_file(pictures.REAL / "resnet-cifar10" / "resnet20.safetensors"),
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.endswith("num_batches_tracked"))
    mean = sum(item.value for item in results.accuracies) / len(results.accuracies)
    assert mean > 0.85  # 400 images; 91.7 % of all 3,000


@pictures.needs_data
def test_masks_of_a_trained_network_cover_all_of_it_with_the_output_layer_of_the_control_mask(tmp_path, monkeypatch):
    whole = ClassRemoval.tests
    monkeypatch.setattr(ClassRemoval, "subtasks", ClassRemoval.subtasks[:2])  # of ten
    monkeypatch.setattr(ClassRemoval, "tests", lambda *args: [tuple(part[:4] for part in whole(*args)[0])])
    results = run(tmp_path, tiny.PRETRAINED)
    folder, data = folder_of(tmp_path, tiny.PRETRAINED, 0), tiny.PRETRAINED.data
    control, *others = (Mask.load(folder.mask(name, 0)) for name in (data.full, *data.subtasks))
    assert {"bn1.weight", "bn1.bias", "conv1.weight", "linear.bias"} <= set(control.layout.names)
    for mask in others:
        assert 0 < mask.kept_units < mask.layout.units
        assert not torch.equal(mask.parameter("conv1.weight"), control.parameter("conv1.weight"))
        for name in ("linear.weight", "linear.bias"):
            assert torch.equal(mask.parameter(name), control.parameter(name))
    tested = {(item.mask.subtask, item.subtask) for item in results.accuracies if item.network == "mask"}
    assert tested == {(mask, name) for mask in (data.full, *data.subtasks) for name in data.tested}
    assert len(drops(tiny.PRETRAINED, [results])) == len(data.subtasks)


def test_mathematics_runs_from_end_to_end(tmp_path, monkeypatch):
    pytest.importorskip("mathematics_dataset", reason="the extra `mathematics` is not installed")
    monkeypatch.setenv("MASKSCOPE_CACHE", str(tmp_path / "cache"))
    results = run(tmp_path, tiny.MATHEMATICS)
    assert {item.subtask for item in results.accuracies} == set(tiny.MATHEMATICS.data.tested)
    (drop,) = drops(tiny.MATHEMATICS, [results])
    assert (drop.subtask, drop.held_out) == ("easy", "hard")
    assert "what was left out" in verdict(tiny.MATHEMATICS, [results]).headline.lower()
    write_report(find(tmp_path), tmp_path / "report.html", "mathematics")


@pytest.mark.parametrize(
    "experiment",
    [tiny.SCAN_LSTM, tiny.SCAN_BASELINE, tiny.CIFAR10, tiny.PAIRS, tiny.PRETRAINED, tiny.MATHEMATICS, tiny.PLANTED],
    ids=lambda experiment: f"{experiment.name} {experiment.variant}",
)
def test_experiments_go_to_json_and_back(experiment):
    assert from_json(to_json(experiment)) == experiment


def results_with(values, subtasks=("without airplane",)):
    """Results of CIFAR-10 with given accuracies: (network, mask, tested) to value."""
    accuracies = tuple(
        Accuracy(network, MaskName(mask, 0) if mask else None, tested, value, 10)
        for (network, mask, tested), value in values.items()
    )
    return SeedResults("", 0, accuracies, (), (), (), (), ())


def test_drops_are_relative_to_the_control_mask():
    values = {("full network", None, name): 0.9 for name in CLASSES}
    values |= {("mask", "all classes", name): 0.8 for name in CLASSES}
    for label, removed in enumerate(CLASSES):
        for name in CLASSES:
            lost = name == removed
            values["mask", f"without {removed}", name] = 0.2 if lost else (0.6 if name == CLASSES[label - 1] else 0.8)
    found = drops(tiny.CIFAR10, [results_with(values)])
    assert len(found) == 10
    for label, drop in enumerate(found):
        assert drop.held_out == CLASSES[label]
        assert drop.relative.mean == pytest.approx(0.75)
        assert drop.worst_other == CLASSES[label - 1]
        assert drop.relative_other.mean == pytest.approx(0.25)
        assert drop.ratio.mean == pytest.approx(1 / 3)
    assert removal_finding(found) == "exclusive weights"
    assert verdict(tiny.CIFAR10, [results_with(values)]).finding == "exclusive weights"


def test_the_ratio_is_of_each_network_and_what_is_not_lost_counts_as_none():
    """Different classes may fall most in different networks. Source: published code."""
    found: list[SeedResults] = []
    for most in ("cat", "dog"):
        values = {
            ("mask", mask, name): 0.8 for mask in ("all classes", *tiny.CIFAR10.data.subtasks) for name in CLASSES
        }
        values |= {("full network", None, name): 0.9 for name in CLASSES}
        values |= {("mask", "without airplane", "airplane"): 0.4, ("mask", "without airplane", most): 0.6}
        values |= {("mask", "without truck", name): 0.9 for name in CLASSES} | {("mask", "without truck", "truck"): 0.0}
        found.append(results_with(values))
    drop = {item.held_out: item for item in drops(tiny.CIFAR10, found)}
    assert drop["airplane"].relative_other.mean == pytest.approx(0.125)  # of the class that falls most in the mean
    assert drop["airplane"].ratio.mean == pytest.approx(0.5)
    assert drop["truck"].ratio.mean == 0.0
    assert math.isnan(drop["bird"].ratio.mean)  # nothing is lost of it


def test_what_falls_besides_is_told_of_tests_that_have_nothing_of_it():
    data = tiny.MATHEMATICS.data
    assert data.besides("easy") == ("easy",)
    assert tiny.SCAN_LSTM.data.besides("jump") == ()
    scan = tiny.SCAN_LSTM
    tested = scan.data.tested
    accuracies = [Accuracy("full network", None, name, 1.0, 10) for name in tested]
    for subtask in (scan.data.full, *scan.data.subtasks):
        accuracies += [
            Accuracy("mask", MaskName(subtask, 0), name, 0.2 if name == subtask != scan.data.full else 0.8, 10)
            for name in tested
        ]
    results = [SeedResults("", 0, tuple(accuracies), (), (), (), (), ())]
    (drop, *_) = drops(scan, results)
    assert (drop.worst_other, drop.relative.mean) == ("", pytest.approx(0.75))
    assert math.isnan(drop.ratio.mean)
    assert "Every other test has some of it too" in verdict(scan, results).ablations


def test_other_splits_of_scan_are_partly_what_a_split_leaves_out():
    """So that what a mask loses of them is not lost besides."""
    tests = {split: {*halves(split).test} for split in SPLITS}
    for out, other in permutations(SPLITS, 2):
        if out != "simple":
            assert len(tests[out] & tests[other]) > 0.01 * len(tests[other]), (out, other)


def test_nothing_lost_means_no_exclusive_weights():
    values = {("full network", None, name): 0.9 for name in CLASSES}
    values |= {("mask", mask, name): 0.8 for mask in ("all classes", *tiny.CIFAR10.data.subtasks) for name in CLASSES}
    assert removal_finding(drops(tiny.CIFAR10, [results_with(values)])) == "no exclusive weights"


def test_drops_where_nothing_is_held_out_are_none(tmp_path):
    assert drops(tiny.FNN, []) == ()
    assert drops(tiny.SCAN_BASELINE, []) == ()
    run(tmp_path, tiny.SCAN_BASELINE)
    assert table_drops(find(tmp_path).runs[0]) is None


def test_a_mask_over_a_part_is_completed_by_the_control():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    control = Mask.of(layout(model), torch.arange(20) % 3 == 0)
    part = Mask.full(layout(model, ["0.weight"]))
    made = completed(part, control)
    assert bool(made.parameter("0.weight").all())
    assert torch.equal(made.parameter("1.weight"), control.parameter("1.weight"))
    with pytest.raises(KeyError):
        completed(Mask.full(layout(torch.nn.Linear(2, 2))), control)
