"""Stratified and independent noise give masks that agree as well as two seeds of one kind do."""

import pytest
from torch.nn import functional

from maskscope.analysis.compare import iou
from maskscope.analysis.modularity import estimate
from maskscope.core.learning.learn import learn_mask
from maskscope.core.learning.schedules import Schedule
from planted.planting import problems, trained


@pytest.mark.slow
def test_strata_change_a_mask_no_more_than_another_seed_does():
    model = trained(3, recurrent=False)

    def loss(network, batch):
        return functional.cross_entropy(network(batch[0]), batch[1])

    def mask(seed: int, *, strata: bool):
        schedule = Schedule(settled=None, steps=250, strata=strata)
        batches = lambda step: problems(50_000 * (seed + 1) + step)  # noqa: E731
        return learn_mask(model, batches, loss, schedule=schedule, penalty=1e-4, seed=seed).mask

    stratified = [mask(seed, strata=True) for seed in (0, 1)]
    independent = [mask(seed, strata=False) for seed in (2, 3)]
    within = estimate(iou(*kind) for kind in (stratified, independent))
    between = estimate(iou(a, b) for a in stratified for b in independent)
    assert between.mean >= within.mean - 0.05
    assert within.mean > 0.5
    sizes = [estimate(m.kept_units for m in kind).mean for kind in (stratified, independent)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.15)
