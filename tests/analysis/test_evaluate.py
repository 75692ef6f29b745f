"""Evaluation: means over examples, in evaluation mode, with every flag put back."""

import math
from inspect import unwrap

import pytest
import torch
from torch import nn

from maskscope.analysis.evaluate import Score, evaluate
from maskscope.core.apply import masked
from maskscope.core.layout import layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import accuracy, cross_entropy

BATCHES = [(torch.eye(3), torch.tensor([0, 1, 0])), (torch.eye(3)[:1], torch.tensor([0]))]


def test_every_example_counts_once():
    assert evaluate(nn.Identity(), BATCHES, accuracy) == Score(0.75, 4)


def test_all_positions_of_an_example_must_be_right():
    outputs = torch.eye(2).repeat(2, 1, 1)
    score = evaluate(lambda _: outputs, [(torch.zeros(2), torch.tensor([[0, 1], [0, 0]]))], accuracy)
    assert score.value == 0.5


@pytest.mark.parametrize("under_a_mask", [True, False])
def test_dropout_is_off_and_flags_come_back(under_a_mask):
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9), nn.Linear(3, 3)).train()
    model[2].eval()
    network = masked(model, Mask.full(layout(model))) if under_a_mask else model
    seen = []

    def spying(call, batch):
        seen.append((model.training, model[1].training))
        return accuracy(call, batch)

    evaluate(network, BATCHES, spying)
    assert seen == [(False, False)] * 2
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_nothing_to_evaluate_on_is_an_error():
    with pytest.raises(ValueError, match="there are no batches"):
        evaluate(nn.Identity(), [], accuracy)
    with pytest.raises(TypeError, match="a list or a loader, not a function of the step"):
        unwrap(evaluate)(nn.Identity(), lambda step: BATCHES[0], accuracy)
    with pytest.raises(ValueError, match="one number per example, got shape"):
        evaluate(nn.Identity(), BATCHES, lambda call, batch: torch.zeros(2, 2))


def test_a_subclass_of_a_recurrent_layer_is_evaluated_like_any_other():
    class Noisy(nn.LSTM):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x)[0], 0.5, self.training)

    model, x = Noisy(3, 4), torch.randn(5, 2, 3)
    scores = [evaluate(model, [x], lambda call, batch: call(batch).sum((1, 2))).value for _ in range(2)]
    assert scores[0] == scores[1]


def test_ignored_labels_do_not_count():
    batch = (torch.eye(2).repeat(1, 1, 1), torch.tensor([[0, -100]]))
    assert evaluate(nn.Identity(), [batch], accuracy).value == 1


def test_labels_in_a_column_are_meant_as_a_row():
    """As the loss has it: before, they were compared with every example of the batch."""
    outputs, labels = torch.eye(4), torch.arange(4)
    for shaped in (labels, labels[:, None]):
        assert evaluate(lambda inputs: outputs, [(None, shaped)], accuracy).value == 1.0
        assert float(cross_entropy(lambda inputs: outputs, (None, shaped))) == pytest.approx(0.7437, abs=1e-4)


@pytest.mark.parametrize("of", [accuracy, cross_entropy])
def test_labels_that_fit_no_output_are_refused(of):
    one_hot = torch.eye(4).long()
    with pytest.raises(ValueError, match=r"labels of shape \(4, 4\) do not fit outputs of shape \(4, 4\): .* \(4,\)"):
        of(lambda inputs: torch.eye(4), (None, one_hot))


def test_transposed_labels_are_not_taken_for_others():
    with pytest.raises(ValueError, match="do not fit"):
        accuracy(lambda inputs: torch.zeros(2, 3, 5), (None, torch.zeros(3, 2, dtype=torch.long)))


def test_nan_predicts_nothing():
    """The index of the largest output is 0 where all are NaN, and 0 is a label."""
    broken = torch.full((3, 5), math.nan)
    assert evaluate(lambda inputs: broken, [(None, torch.zeros(3, dtype=torch.long))], accuracy).value == 0.0


def test_a_metric_that_is_nan_is_told():
    with pytest.warns(UserWarning, match="the metric is NaN for some of 3 examples"):
        score = evaluate(lambda x: x, [torch.tensor([1.0, math.nan, 1.0])], lambda network, batch: network(batch))
    assert math.isnan(score.value)
