"""P_reuse and P_specialize from results: where numbers are known, and when one cannot tell."""

import math
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from maskscope.analysis.ablate import complement, random_like
from maskscope.analysis.compare import Overlap
from maskscope.analysis.controls import WITHOUT_ENDS
from maskscope.analysis.evaluate import evaluate
from maskscope.core.apply import masked
from maskscope.core.files import load_tensors
from maskscope.core.mask import Mask
from maskscope.core.seeded import derive
from maskscope.report.load import Run, SeedRun
from maskscope.report.tables import table_specialization
from maskscope.runs.environment import Environment
from maskscope.runs.estimates import reuse_in
from maskscope.runs.own import OwnData
from maskscope.runs.pipeline import Runner, TrainingRecord
from maskscope.runs.properties import damage, reused, specialized
from maskscope.runs.results import ALL, HIDDEN, WITHOUT_RANDOM, Accuracy, MaskName, MaskRecord, PairOverlap, SeedResults
from maskscope.runs.store import RunFolder, folder_of, read_record
from maskscope.runs.verdict import verdict

UNITS = 1000


def overlap(iou, size=100):
    """An overlap of two masks of one size with about this IoU, and no chance level."""
    both = round(2 * size * iou / (1 + iou))
    return Overlap(HIDDEN, both, size, size, UNITS, 0.0, 0.0)


def network(between, ceiling, seed=0, repeats=2, accuracies=()):
    """Results of a network whose masks overlap so; every value is drawn anew by a function."""
    names = [MaskName(subtask, r) for subtask in ("pair 1", "pair 2") for r in range(repeats)]
    pairs = tuple(
        PairOverlap(a, b, overlap(ceiling() if a.subtask == b.subtask else between()))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    )
    return SeedResults("", seed, tuple(accuracies), (), (), pairs, (), ())


def about(mean, spread, random):
    return lambda: float(np.clip(random.normal(mean, spread), 0, 1))


@pytest.mark.parametrize(("between", "expected"), [(0.05, "separate"), (0.8, "shared"), (0.4, "partly shared")])
@pytest.mark.parametrize("networks", [1, 3])
def test_plain_cases_are_told(between, expected, networks):
    random = np.random.default_rng(0)
    results = [network(about(between, 0.01, random), about(0.8, 0.01, random), seed) for seed in range(networks)]
    found = reused(results, HIDDEN)
    assert found.finding == expected
    assert found.iou.mean == pytest.approx(between / 0.8, abs=0.06)
    assert found.iou.over == ("networks" if networks > 1 else "masks")


def test_an_interval_over_a_border_cannot_tell():
    random = np.random.default_rng(1)
    results = [
        network(about(mean, 0.01, random), about(0.8, 0.01, random), i) for i, mean in enumerate((0.1, 0.3, 0.5))
    ]
    found = reused(results, HIDDEN)
    assert found.finding == "cannot tell"
    said = verdict(tiny.FNN, [*results])
    assert said.finding == "cannot tell"


@pytest.mark.parametrize(
    ("unlike", "again", "finding", "counted"),
    [
        (0.02, 0.85, "differs by pair", "Of 3 pairs: 2 separate, 1 shared."),
        (0.8, 0.85, "shared", "Of 3 pairs: 3 shared."),
        (0.02, 0.03, "cannot tell", "Of 3 pairs: 3 cannot tell."),
    ],
)
def test_more_than_two_subtasks_are_judged_pair_by_pair(unlike, again, finding, counted):
    """a and b overlap as one subtask does with itself, c with neither or as much."""
    random = np.random.default_rng(4)
    names = [MaskName(subtask, repetition) for subtask in "abc" for repetition in range(2)]
    iou = {"aa": again, "bb": again, "cc": again, "ab": min(0.8, again), "ac": unlike, "bc": unlike}
    pairs = tuple(
        PairOverlap(first, second, overlap(iou[first.subtask + second.subtask] + random.normal(0, 0.003)))
        for first, second in combinations(names, 2)
    )
    many = replace(tiny.FNN, data=OwnData("many", "", ("a", "b", "c"), 0.0, 0.0))
    said = verdict(many, [SeedResults("", 0, (), (), (), pairs, (), ())])
    assert said.finding == finding
    assert counted in said.overlap
    if finding == "differs by pair":
        assert re.search(r"P_reuse by IoU from 0\.0\d \[.*\] of [ab] and c to 0\.9\d \[.*\] of a and b\.", said.overlap)


def test_masks_that_do_not_repeat_cannot_tell():
    random = np.random.default_rng(2)
    found = reused([network(about(0.1, 0.01, random), about(0.12, 0.01, random))], HIDDEN)
    assert math.isnan(found.iou.mean)
    assert found.finding == "cannot tell"


def test_single_masks_have_no_ceiling_and_no_interval():
    random = np.random.default_rng(3)
    found = reused([network(about(0.1, 0.01, random), about(0.8, 0.01, random), repeats=1)], HIDDEN)
    assert found.finding == "cannot tell"


def test_one_network_of_several_does_not_speak_for_the_others():
    """Its masks repeat, those of the others do not: there is no interval, and no verdict."""
    random = np.random.default_rng(5)
    results = [
        network(about(0.03, 0.01, random), about(ceiling, 0.01, random), i) for i, ceiling in enumerate((0.8, 0.1, 0.1))
    ]
    found = reused(results, HIDDEN)
    assert found.iou.mean == pytest.approx(0.03 / 0.8, abs=0.02)
    assert found.iou.of_how_many == "1 of 3 networks"
    assert math.isnan(found.iou.low)
    assert found.finding == "cannot tell"
    said = verdict(tiny.FNN, results)
    assert "Only in 1 of 3 networks masks of one subtask agree enough" in said.overlap
    assert "too little room" not in said.overlap


NOT_TRAINED = TrainingRecord(0.0, 0, math.nan, "")
NOWHERE = Environment("", "", "", "", "", 1, "")


def masks_by_luck(kind, repeats, random):
    """Overlaps of masks of two subtasks that need 200 units together and 200 each; a mask keeps a part of them, by luck."""
    kept = {}
    for subtask in ("pair 1", "pair 2"):
        for r in range(repeats):
            part = random.uniform(0.4, 1)
            common = random.random(200) < part if kind == "everywhere" else np.ones(200, dtype=bool)
            kept[MaskName(subtask, r)] = common, random.random(200) < part
    pairs = []
    for a, b in combinations(kept, 2):
        both = int((kept[a][0] & kept[b][0]).sum())
        both += int((kept[a][1] & kept[b][1]).sum()) if a.subtask == b.subtask else 0
        sizes = (int(sum(part.sum() for part in kept[name])) for name in (a, b))
        pairs.append(PairOverlap(a, b, Overlap(HIDDEN, both, *sizes, 100_000, 0.0, 0.0)))
    return SeedResults("", 0, (), (), (), tuple(pairs), (), ())


@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("kind", ["own", "everywhere"])
def test_intervals_over_the_masks_of_one_network_cover_as_they_say(kind, repeats):
    """Of two masks each they are too wide, not too narrow. The truth: a ratio of means over very many masks."""
    random = np.random.default_rng(repeats)
    many = [reuse_in([masks_by_luck(kind, 12, random)], HIDDEN).iou for _ in range(25)]
    truth = np.mean([item.between.mean for item in many]) / np.mean([item.ceiling.mean for item in many])
    intervals = [reused([masks_by_luck(kind, repeats, random)], HIDDEN).iou for _ in range(250)]
    covered = np.mean([item.low <= truth <= item.high for item in intervals])
    assert 0.82 <= covered <= (1.0 if repeats == 2 else 0.99)


def test_the_ends_alone_are_a_network_too():
    """Without hidden layers, where all layers are judged."""
    random = np.random.default_rng(6)
    result = network(about(0.8, 0.01, random), about(0.8, 0.01, random))
    nowhere = [replace(item, overlap=replace(item.overlap, where=ALL)) for item in result.overlaps]
    said = verdict(tiny.FNN, [replace(result, overlaps=tuple(nowhere))])
    assert said.finding == "shared"
    assert said.overlap.startswith("In all layers their IoU")


def test_masks_that_keep_nothing_have_no_overlap_and_that_is_said():
    empty = replace(overlap(0.5), both=0, first=0, second=0)
    names = [MaskName(subtask, r) for subtask in ("pair 1", "pair 2") for r in range(2)]
    pairs = tuple(PairOverlap(a, b, empty) for a, b in combinations(names, 2))
    said = verdict(tiny.FNN, [SeedResults("", 0, (), (), (), pairs, (), ())])
    assert said.finding == "cannot tell"
    assert said.overlap.startswith("In the hidden layers masks are empty, so that there is no overlap.")
    assert "nan" not in said.overlap


def test_where_only_iomin_cannot_be_placed_no_border_is_blamed():
    """Masks that keep most: by IoMin random ones overlap as much."""
    random = np.random.default_rng(7)
    result = network(about(0.01, 0.002, random), about(0.8, 0.01, random))
    high = [replace(item, overlap=replace(item.overlap, chance_iomin=0.85)) for item in result.overlaps]
    said = verdict(tiny.FNN, [replace(result, overlaps=tuple(high))])
    assert said.finding == "cannot tell"
    assert "By IoMin nothing can be said" in said.overlap
    assert "border" not in said.overlap


def scored(full, complements, tested=("pair 1", "pair 2"), seed=0):
    """Accuracies of the network, and without each mask, by (mask's subtask, tested)."""
    rows = [Accuracy("full network", None, name, value, 100) for name, value in zip(tested, full, strict=True)]
    for (removed, name), value in complements.items():
        mask = MaskName(removed, 0)
        rows.append(Accuracy("complement", mask, name, value, 100))
        rows.append(Accuracy("mask", mask, name, 1.0 if name == removed else 0.01, 100))
    return SeedResults("", seed, tuple(rows), (), (), (), (), ())


def test_the_full_task_is_no_other_subtask():
    values = {("pair 1", "pair 1"): 0.0, ("pair 1", "pair 2"): 1.0, ("pair 1", "all"): 0.5}
    result = scored((1.0, 1.0, 1.0), values, ("pair 1", "pair 2", "all"))
    assert specialized(tiny.FNN, [result], "pair 1").p_specialize.mean == pytest.approx(1.0)


@pytest.mark.parametrize(("random", "finding"), [(0.0, "cannot tell"), (0.1, "cannot tell"), (0.9, "found")])
def test_a_mask_is_not_found_where_as_many_random_weights_do_as_much(random, finding):
    one = replace(tiny.FNN, data=OwnData("one", "", ("a",), 0.0, 0.0))
    result = scored((1.0,), {("a", "a"): 0.0}, ("a",))
    row = Accuracy(WITHOUT_RANDOM, MaskName("a", 0), "a", random, 100)
    said = verdict(one, [replace(result, accuracies=(*result.accuracies, row))])
    assert said.finding == finding
    assert ("As many random units of each tensor, removed, harm a about as much" in said.ablations) == (
        finding != "found"
    )


@pytest.mark.parametrize(("left", "harms"), [(0.89, False), (0.82, True)])
def test_what_is_spared_is_counted_from_chance(left, harms):
    """With chance at .5, .82 of .9 is four fifths."""
    guessed = replace(tiny.FNN, data=OwnData("two", "", ("pair 1", "pair 2"), 0.5, 0.0))
    random = np.random.default_rng(8)
    result = network(about(0.03, 0.01, random), about(0.8, 0.01, random))
    scores = scored(
        (0.9, 0.9), {(a, b): 0.5 if a == b else left for a in ("pair 1", "pair 2") for b in ("pair 1", "pair 2")}
    )
    said = verdict(guessed, [replace(result, accuracies=scores.accuracies)])
    assert said.finding == "separate"
    assert ("but removing those of one harms the other" in said.headline) == harms


def test_damage_is_a_mean_over_networks_that_have_learned_the_subtask():
    lost = scored((1.0, 1.0), {("pair 1", "pair 2"): 0.01})
    kept = scored((1.0, 0.4), {("pair 1", "pair 2"): 0.4}, seed=1)
    never = scored((1.0, 0.02), {("pair 1", "pair 2"): 0.01}, seed=2)
    found = damage(tiny.FNN, [lost, kept, never], "pair 1", "pair 2")
    assert found.mean == pytest.approx(0.5)
    assert found.of_how_many == "2 of 3 networks"


def test_a_number_of_fewer_networks_says_so_in_its_table():
    """Removal harms its own enough in one of three networks only: P_specialize is of that one."""
    results = [
        scored(
            (1.0, 1.0),
            {(a, b): value if a == b else 1.0 for a in ("pair 1", "pair 2") for b in ("pair 1", "pair 2")},
            seed=i,
        )
        for i, value in enumerate((0.0, 0.95, 0.95))
    ]
    run = Run(
        tiny.FNN,
        tuple(SeedRun(RunFolder(Path()), i, result, NOT_TRAINED, NOWHERE, ()) for i, result in enumerate(results)),
    )
    table = table_specialization(run)
    (row, _) = table.rows
    cells = dict(zip(table.header, row, strict=True))
    assert cells["P_specialize"] == "1.00 (n=1)"
    assert cells["n"] == "3 networks"
    assert "n=" not in cells["necessity"]


def test_p_specialize_is_that_of_the_accuracies_over_networks():
    def accuracies(other):
        name = MaskName("pair 1", 0)
        values = {
            ("full network", None, "pair 1"): 1.0,
            ("full network", None, "pair 2"): 1.0,
            ("mask", name, "pair 1"): 1.0,
            ("mask", name, "pair 2"): 0.01,
            ("complement", name, "pair 1"): 0.01,
            ("complement", name, "pair 2"): other,
            (WITHOUT_RANDOM, name, "pair 1"): other,
            (WITHOUT_RANDOM, name, "pair 2"): 0.0,  # not of its own subtask: does not count
        }
        return [Accuracy(network, mask, subtask, value, 100) for (network, mask, subtask), value in values.items()]

    still = lambda: 0.5  # noqa: E731
    results = [network(still, still, seed, 1, accuracies(other)) for seed, other in enumerate((1.0, 0.901, 0.802))]
    found = specialized(tiny.FNN, results, "pair 1")
    assert found.p_specialize.mean == pytest.approx(0.9)
    assert found.p_specialize.n == 3
    assert found.p_specialize.low < 0.9 < found.p_specialize.high
    assert found.necessity.mean == pytest.approx(1.0)
    assert found.necessity_at_random.mean == pytest.approx(0.1, abs=0.01)  # the pairs' chance is 1 %


def test_necessity_at_random_is_nothing_where_it_was_not_tested():
    still = lambda: 0.5  # noqa: E731
    assert specialized(tiny.FNN, [network(still, still)], "pair 1").necessity_at_random.n == 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A tiny run: its folder, its network, its results."""
    folder = folder_of(tmp_path_factory.mktemp("runs"), tiny.FNN, 0)
    results = Runner(tiny.FNN, 0, folder, lambda tick: None).run()
    model = tiny.FNN.network.build(tiny.FNN.data.inputs, tiny.FNN.data.outputs)
    model.load_state_dict(load_tensors(folder.model).tensors)
    return folder, model, results


def mask_of(folder, name):
    return Mask.load(folder.mask(name.subtask, name.seed))


def test_removing_shared_weights_is_measured_as_by_hand(measured):
    folder, model, results = measured
    assert len(results.pairs) == 2 * 3 * 2  # repetitions, what is removed, what is tested
    for item in results.pairs:
        a, b = (mask_of(folder, name) for name in (item.first, item.second))
        gone = {"shared": a & b, "first alone": a - b, "second alone": b - a}[item.removed]
        tests, metric = tiny.FNN.data.tests("valid", item.subtask), tiny.FNN.data.metric(item.subtask)
        assert item.value == evaluate(masked(model, complement(gone)), tests, metric).value
        assert item.weights == gone.kept_weights


def test_controls_of_first_masks_are_measured_as_by_hand(measured):
    folder, model, results = measured
    found = [item for item in results.accuracies if item.network == WITHOUT_ENDS]
    assert {(item.mask.subtask, item.mask.seed, item.subtask) for item in found} == {
        (mask, 0, tested) for mask in tiny.FNN.data.subtasks for tested in tiny.FNN.data.tested
    }
    for item in found:
        gone = ~mask_of(folder, item.mask)
        made = gone | Mask.of(gone.layout, gone.layout.covering(["layers.1.weight"]))
        tests, metric = tiny.FNN.data.tests("valid", item.subtask), tiny.FNN.data.metric(item.subtask)
        assert item.value == evaluate(masked(model, made), tests, metric).value


def test_a_network_loses_as_many_random_units_of_each_tensor_as_each_mask_keeps(measured):
    folder, model, results = measured
    found = [item for item in results.accuracies if item.network == WITHOUT_RANDOM]
    assert {item.mask for item in found} == {MaskName(*name) for name in tiny.FNN.masks()}
    for item in found:
        gone = random_like(mask_of(folder, item.mask), derive(0, "random mask", item.mask.subtask, item.mask.seed))
        assert [count.kept_units for count in gone.counts()] == [
            count.kept_units for count in mask_of(folder, item.mask).counts()
        ]
        tests, metric = tiny.FNN.data.tests("valid", item.subtask), tiny.FNN.data.metric(item.subtask)
        assert item.value == evaluate(masked(model, complement(gone)), tests, metric).value


def test_likeness_of_predictions_is_measured_as_by_hand(measured):
    folder, model, results = measured
    assert len(results.likeness) == 3 * 2 * 2  # first masks and the control; mask and complement; what is tested
    item = next(i for i in results.likeness if (i.network, i.mask.subtask, i.subtask) == ("mask", "pair 1", "pair 2"))
    (batch,) = tiny.FNN.data.tests("valid", "pair 2")
    predictions = tiny.FNN.data.predictions("pair 2")
    with torch.no_grad():
        ours, whole = predictions(masked(model, mask_of(folder, item.mask)), batch), predictions(model, batch)
    p, q = ours.double().softmax(-1), whole.double().softmax(-1)
    middle = (p + q) / 2
    apart = ((p * (p / middle).log2()).sum(-1) + (q * (q / middle).log2()).sum(-1)) / 2
    assert item.value == pytest.approx(1 - float(apart.mean()), abs=1e-5)
    assert item.examples == len(batch.inputs)


def test_curves_of_size_end_at_the_network_and_belong_to_first_masks(measured):
    folder, model, _ = measured
    (batch,) = tiny.FNN.data.tests("valid", "pair 1")
    for subtask, seed in tiny.FNN.masks():
        record = read_record(folder.mask_record(subtask, seed), MaskRecord)
        asked = seed == 0 and subtask in tiny.FNN.data.tested
        assert (record.faithfulness is not None) == asked
        if subtask == "pair 1" and asked:
            last = record.faithfulness.points[-1]
            assert last.share == 1.0
            assert last.value == evaluate(model, [batch], tiny.FNN.data.metric(subtask)).value


def test_units_that_serve_both_are_those_of_the_overlap(measured):
    _, _, results = measured
    first = {MaskName(subtask, 0) for subtask in tiny.FNN.data.subtasks}
    for served in results.serving:
        (overlap,) = [
            item.overlap
            for item in results.overlaps
            if {item.first, item.second} == first and item.overlap.where == served.where
        ]
        assert served.degrees == (
            overlap.units - overlap.either,
            overlap.either - overlap.both,
            overlap.both,
        )


def test_shuffled_labels_reach_the_learning_of_masks(measured, tmp_path):
    other = tiny.FNN.remasked(shuffled_labels=True, repeats=1)
    folder = folder_of(tmp_path, other, 0)
    Runner(other, 0, folder, lambda tick: None).run()
    assert torch.equal(load_tensors(folder.model).tensors["layers.0.weight"], measured[1].layers[0].weight)
    assert mask_of(folder, MaskName("pair 1", 0)) != mask_of(measured[0], MaskName("pair 1", 0))
