"""P_reuse and P_specialize from results: where numbers are known, and when one cannot tell."""

import math

import numpy as np
import pytest

import tiny
from maskscope.analysis.ablate import complement
from maskscope.analysis.compare import Overlap
from maskscope.analysis.evaluate import evaluate
from maskscope.core.apply import masked
from maskscope.core.files import load_tensors
from maskscope.core.mask import Mask
from maskscope.runs.pipeline import Runner
from maskscope.runs.properties import reused, specialized
from maskscope.runs.results import HIDDEN, Accuracy, MaskName, PairOverlap, SeedResults
from maskscope.runs.store import folder_of
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


def test_masks_that_do_not_repeat_cannot_tell():
    random = np.random.default_rng(2)
    found = reused([network(about(0.1, 0.01, random), about(0.12, 0.01, random))], HIDDEN)
    assert math.isnan(found.iou.mean)
    assert found.finding == "cannot tell"


def test_single_masks_have_no_ceiling_and_no_interval():
    random = np.random.default_rng(3)
    found = reused([network(about(0.1, 0.01, random), about(0.8, 0.01, random), repeats=1)], HIDDEN)
    assert found.finding == "cannot tell"


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
        }
        return [Accuracy(network, mask, subtask, value, 100) for (network, mask, subtask), value in values.items()]

    still = lambda: 0.5  # noqa: E731
    results = [network(still, still, seed, 1, accuracies(other)) for seed, other in enumerate((1.0, 0.901, 0.802))]
    found = specialized(tiny.FNN, results, "pair 1")
    assert found.p_specialize.mean == pytest.approx(0.9)
    assert found.p_specialize.n == 3
    assert found.p_specialize.low < 0.9 < found.p_specialize.high
    assert found.necessity.mean == pytest.approx(1.0)


def test_removing_shared_weights_is_measured_as_by_hand(tmp_path):
    folder = folder_of(tmp_path, tiny.FNN, 0)
    results = Runner(tiny.FNN, 0, folder, lambda tick: None).run()
    model = tiny.FNN.network.build(tiny.FNN.data.inputs, tiny.FNN.data.outputs)
    model.load_state_dict(load_tensors(folder.model).tensors)
    assert len(results.pairs) == 2 * 3 * 2  # repetitions, what is removed, what is tested
    for item in results.pairs:
        a, b = (Mask.load(folder.mask(name.subtask, name.seed)) for name in (item.first, item.second))
        gone = {"shared": a & b, "first alone": a - b, "second alone": b - a}[item.removed]
        tests, metric = tiny.FNN.data.tests("valid", item.subtask), tiny.FNN.data.metric(item.subtask)
        assert item.value == evaluate(masked(model, complement(gone)), tests, metric).value
        assert item.weights == gone.kept_weights
