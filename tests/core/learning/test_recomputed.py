"""Gradient checkpointing: the same gradients, and layers run again in backward."""

import pytest
import torch
from torch import nn

import zoo
from laws import Checkpointed
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.schedules import Schedule
from maskscope.core.objectives import Complete, cross_entropy
from maskscope.core.seeded import seeded

ONE = Schedule(steps=1, samples=2, clip=1e9)
KINDS = [kind for kind in zoo.ZOO if kind.name in {"gpt2", "llama", "bert", "vit"}]


def gradient(kind, *, saving):
    """Of the logits, and how often the layers ran in a step."""
    model, runs = kind.model().train(), []
    if saving:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    layers[0].register_forward_pre_hook(lambda *_: runs.append(layers[0].training))
    norm = next(m for name, m in layers[0].named_modules() if "norm" in name.lower() or "ln_1" in name)
    norm.register_forward_pre_hook(lambda *_: runs.append(norm.training))
    (state,) = learning(model, [kind.batch()], kind.loss, layout=layout(model), schedule=ONE)
    return state.logits.state()["adam_mean"], runs


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing_enable.*:FutureWarning"
)  # its name from transformers 6 on is another
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_hugging_face_layers_checkpoint_in_evaluation_mode(kind):
    plain, once = gradient(kind, saving=False)
    saved, twice = gradient(kind, saving=True)
    torch.testing.assert_close(saved, plain, rtol=1e-4, atol=1e-7)
    assert len(twice) > len(once) > 0
    assert not any(once + twice)


def test_a_term_about_the_complement_is_refused_with_checkpointing():
    with seeded(0):
        inner = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        batch = (torch.randn(8, 4), torch.randint(0, 3, (8,)))

    model, objective = Checkpointed(inner), Complete(cross_entropy, failed=5.0)
    with pytest.raises(RuntimeError, match=r"network\.complement cannot be used with gradient checkpointing"):
        learn_mask(model, [batch], objective, schedule=ONE)
    (state,) = learning(inner, [batch], objective, layout=layout(inner), schedule=ONE)
    assert state.loss > 0
