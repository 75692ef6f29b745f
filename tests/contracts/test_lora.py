"""Networks with low-rank adapters: masks over the weights below them or over the adapters alone."""

import peft
import pytest
import torch
from torch import nn

from laws import assert_untouched, some, traces
from maskscope.core.apply import applied, bake, masked
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from maskscope.core.seeded import seeded
from zoo import ZOO

# peft 0.21 asks transformers 5 under an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


class LoRALinear(nn.Module):
    """A frozen linear layer plus a product of two small matrices, Hu et al. 2021."""

    def __init__(self, base: nn.Linear, rank: int = 2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.randn(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.lora_a.T @ self.lora_b.T


def by_hand():
    """The network with adapters, the one below them, and a batch."""
    layers = [nn.Linear(6, 8), nn.Linear(8, 4)]
    below = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    return nn.Sequential(LoRALinear(layers[0]), nn.Tanh(), LoRALinear(layers[1])), below, torch.randn(8, 6)


def by_peft(name, targets):
    """The same of a Hugging Face model; peft puts adapters into the very model that it is given, so below is another."""
    kind = next(kind for kind in ZOO if kind.name == name)
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, lora_dropout=0.1)
    return peft.get_peft_model(kind.model(), config), kind.model().eval(), kind.batch()


ADAPTED = {
    "linear": by_hand,
    "bert": lambda: by_peft("bert", ["query", "value"]),
    "llama": lambda: by_peft("llama", ["q_proj", "v_proj", "down_proj"]),
}
EVERY = pytest.mark.parametrize("name", ADAPTED)


def adapted(name):
    with seeded(0):
        model, below, batch = ADAPTED[name]()
    return model.eval(), below, batch


def outputs(network, batch):
    out = network(batch)
    return getattr(out, "logits", out)


@EVERY
def test_patterns_tell_adapters_from_the_weights_below(name):
    model, _, _ = adapted(name)
    adapters, below = layout(model, ["*lora_*"]).names, layout(model, ["!*lora_*"]).names
    assert set(adapters) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert below == tuple(name for name in layout(model).names if "lora" not in name)
    assert set(layout(model).names) == {*adapters, *below}


@EVERY
@pytest.mark.parametrize("pattern", ["*lora_*", "!*lora_*"])
@pytest.mark.filterwarnings("ignore:.*is not settled.*")
def test_either_is_learned_alone_and_the_network_left_as_it_was(name, pattern, tmp_path):
    model, _, batch = adapted(name)
    over, before, schedule = layout(model, [pattern]), traces(model), Schedule(steps=4, samples=2, init=0.0)
    logits = Logits(over, schedule)
    learned = learn_mask(
        model,
        [batch],
        lambda network, part: outputs(network, part).square().mean(),
        layout=over,
        schedule=schedule,
        penalty=0.0,
        resume=logits,
    )
    gradient = logits.state()["adam_mean"]
    assert all(span.own(gradient).any() for span in over.spans if model.get_parameter(span.name).any())
    loaded = Mask.load(learned.mask.save(tmp_path / "mask.safetensors"), model)
    assert loaded == learned.mask
    with torch.no_grad():
        under = outputs(masked(model, loaded), batch)
        torch.testing.assert_close(outputs(bake(model, loaded), batch), under)
        with applied(model, loaded):
            torch.testing.assert_close(outputs(model, batch), under)
    assert_untouched(model, before)


@EVERY
def test_without_its_adapters_a_network_is_the_one_below_them(name):
    model, below, batch = adapted(name)
    over = layout(model, ["*lora_*"])
    with torch.no_grad():
        expected = outputs(below, batch)
        torch.testing.assert_close(outputs(masked(model, Mask.empty(over)), batch), expected)
        assert not torch.allclose(outputs(masked(model, some(over)), batch), expected)
