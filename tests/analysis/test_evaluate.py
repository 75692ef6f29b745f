"""Evaluation: means over examples, in evaluation mode, with every flag put back."""

from inspect import unwrap

import pytest
import torch
from torch import nn

from maskscope.analysis.evaluate import Score, evaluate
from maskscope.core.apply import masked
from maskscope.core.layout import layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import accuracy

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
