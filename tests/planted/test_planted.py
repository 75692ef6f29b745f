"""On networks built from two separate ones, masks find exactly that."""

import pytest
import torch
from torch.nn import functional

from maskscope.analysis.compare import iou
from maskscope.analysis.evaluate import evaluate
from maskscope.core.apply import masked
from maskscope.core.granularity import PerOutput
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask
from maskscope.core.learning.schedules import Schedule
from planted.planting import DIGITS, answer, both, rows_of, side_by_side, trained


@pytest.mark.parametrize("recurrent", [False, True], ids=["mlp", "lstm"])
def test_masks_per_output_keep_no_weight_of_the_other_block(recurrent):
    model = side_by_side(trained(1, recurrent=recurrent), trained(2, recurrent=recurrent), recurrent=recurrent)
    over = layout(model, granularity=PerOutput())

    def right(half):
        def metric(network, batch):
            outputs = answer(network, batch[0], recurrent=recurrent).unflatten(1, (2, DIGITS))[:, half]
            return (outputs.argmax(-1) == batch[1][:, half]).float()

        return metric

    def objective(half):
        def loss(network, batch):
            outputs = answer(network, batch[0], recurrent=recurrent).unflatten(1, (2, DIGITS))[:, half]
            return functional.cross_entropy(outputs, batch[1][:, half])

        return loss

    schedule = Schedule(steps=300, samples=4)
    masks = [
        learn_mask(model, both, objective(half), layout=over, schedule=schedule, penalty=1e-5, seed=half).mask
        for half in (0, 1)
    ]
    tests = [both(10_000, 512)]
    for half, mask in enumerate(masks):
        for name in over.names:
            segment = over.by_name[name]
            other = rows_of(1 - half, segment.units, gates=4 if name.startswith("lstm.") else 1)
            assert not (segment.own(mask.kept) & other).any(), name
        assert evaluate(masked(model, mask), tests, right(half)).value >= 0.8  # chance is 1/8; rows are coarse
        assert evaluate(masked(model, ~mask), tests, right(half)).value <= 0.4
        assert evaluate(masked(model, ~mask), tests, right(1 - half)).value >= 0.99
        assert not mask.is_empty
    assert iou(*masks) == 0


def test_blocks_are_planted_where_the_test_looks_for_them():
    whole = side_by_side(trained(1, recurrent=True), trained(2, recurrent=True), recurrent=True)
    first = rows_of(0, 128, gates=4)
    assert not whole.lstm.weight_hh_l0[first][:, 16:].any()
    assert not whole.lstm.weight_hh_l0[~first][:, :16].any()
    assert torch.equal(first.nonzero().flatten()[:17], torch.tensor([*range(16), 32]))
