"""A shrunk network computes what the masked one does, with as many weights less as the removed units had."""

import copy

import pytest
import torch
from torch import nn

import zoo
from maskscope.core.apply import applied, bake
from maskscope.core.cutting import cut
from maskscope.core.granularity import PerBlock, PerOutput, PerTensor, PerWeight, View
from maskscope.core.groups import PerHead, PerNeuron, Tied
from maskscope.core.layout import layout
from maskscope.core.mask import Mask, Origin
from maskscope.core.modes import evaluating
from maskscope.core.seeded import seeded
from maskscope.core.shrink import shrink

TOKENS = torch.arange(15).view(3, 5) % 11
FLOATS = torch.linspace(-1, 1, 3 * 5 * 8).view(3, 5, 8)
PICTURES = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)


def llama(queries=4, keys=2):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 11, "head_dim": 4}
    heads = {"num_attention_heads": queries, "num_key_value_heads": keys}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=2))


def neox():
    from transformers import GPTNeoXConfig, GPTNeoXModel

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return GPTNeoXModel(GPTNeoXConfig(**sizes, vocab_size=11, bos_token_id=1, eos_token_id=2))


def opt():
    from transformers import OPTConfig, OPTModel

    sizes = {
        "hidden_size": 8,
        "ffn_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 8,
    }
    return OPTModel(OPTConfig(**sizes, vocab_size=11, max_position_embeddings=8, bos_token_id=1, eos_token_id=2))


def t5(feed_forward="relu"):
    from transformers import T5Config, T5ForConditionalGeneration

    config = {"vocab_size": 11, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(
        T5Config(**config, decoder_start_token_id=0, feed_forward_proj=feed_forward, pad_token_id=0)
    )


def mlp():
    return nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3))


HIDDEN = {"0.weight": View((6, 8), (6, 1)), "0.bias": View((6,), (6,)), "2.weight": View((3, 6), (1, 6))}


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.Sigmoid(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 2),
    )


CHANNELS = (
    {
        "0.weight": View((6, 1, 3, 3), (6, 1, 1, 1)),
        "0.bias": View((6,), (6,)),
        "1.weight": View((6,), (6,)),
        "1.bias": View((6,), (6,)),
        "3.weight": View((4, 6, 3, 3), (1, 6, 1, 1)),
    },
)
LAST_CHANNELS = (
    {
        "3.weight": View((4, 6, 3, 3), (4, 1, 1, 1)),
        "4.weight": View((4,), (4,)),
        "4.bias": View((4,), (4,)),
        "7.weight": View((2, 4, 16), (1, 4, 1)),
    },
)

GROUPS = {
    "bert heads": (zoo.bert, PerHead(), 4 * 4 * 8 + 3 * 4),
    "bert neurons": (zoo.bert, PerNeuron(), 2 * 8 + 1),
    "gpt2 heads": (zoo.gpt2, PerHead(), 4 * 4 * 8 + 3 * 4),
    "gpt2 neurons": (zoo.gpt2, PerNeuron(), 2 * 8 + 1),
    "vit heads": (zoo.vit, PerHead(), 4 * 4 * 8 + 3 * 4),
    "vit neurons": (zoo.vit, PerNeuron(), 2 * 8 + 1),
    "opt heads": (opt, PerHead(), 4 * 4 * 8 + 3 * 4),
    "neox heads": (neox, PerHead(), 4 * 4 * 8 + 3 * 4),
    "neox neurons": (neox, PerNeuron(), 2 * 8 + 1),
    "llama heads": (lambda: llama(4, 4), PerHead(), 4 * 4 * 8),
    "llama groups": (llama, PerHead("group"), 2 * (2 + 1) * 4 * 8),
    "llama neurons": (llama, PerNeuron(), 3 * 8),
    "t5 neurons": (t5, PerNeuron(), 2 * 8),
    "t5 gated neurons": (lambda: t5("gated-gelu"), PerNeuron(), 3 * 8),
    "encoder neurons": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), PerNeuron(), 2 * 8 + 1),
    "mlp": (mlp, Tied((HIDDEN,), "neuron"), 8 + 1 + 3),
    "cnn": (cnn, Tied(CHANNELS, "channel"), 9 + 1 + 2 + 4 * 9),
    # Its bias is not among the named; it goes with its channel.
    "cnn to linear": (cnn, Tied(LAST_CHANNELS, "channel"), 6 * 9 + 1 + 2 + 2 * 16),
}


def built(make):
    with seeded(0):
        model = make()
        with torch.no_grad():  # so that nothing is zero: biases mostly begin so
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
            for name, buffer in model.named_buffers():
                if "running" in name:
                    buffer.add_(torch.rand_like(buffer))
    return model


def example(model):
    name = type(model).__name__
    if name.startswith("T5"):
        return {"input_ids": TOKENS, "decoder_input_ids": TOKENS}
    if hasattr(model, "config"):
        return {"pixel_values": PICTURES} if name.startswith("ViT") else {"input_ids": TOKENS}
    if isinstance(model, nn.TransformerEncoderLayer):
        return {"src": FLOATS}
    return {"input": PICTURES if isinstance(model[0], nn.Conv2d) else FLOATS}


def run(model):
    with torch.no_grad(), evaluating(model):
        out = model(**example(model))
    return out if isinstance(out, torch.Tensor) else out[0]


def not_every_third(over):
    """Removes runs of units that lie apart, and of no layer here all."""
    return torch.arange(over.units) % 3 != 0


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def small_of(model, granularity, kept=None):
    over = layout(model, granularity=granularity)
    mask = Mask.of(over, not_every_third(over) if kept is None else torch.as_tensor(kept))
    return shrink(model, mask, **example(model)), mask


@pytest.mark.parametrize("name", GROUPS)
def test_outputs_stay_and_the_weights_of_what_is_removed_are_gone(name):
    make, granularity, size = GROUPS[name]
    model = built(make)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    described = repr(model)
    small, mask = small_of(model, granularity)
    removed = mask.layout.units - mask.kept_units
    assert count(model) - count(small) == removed * size
    torch.testing.assert_close(run(small), run(bake(model, mask)))
    assert not torch.allclose(run(small), run(model), atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert repr(model) == described != repr(small)
    assert all(module.training for module in (*small.modules(), *model.modules()))


@pytest.mark.parametrize("name", GROUPS)
def test_a_smaller_network_is_restored_from_its_state(name):
    make, granularity, _ = GROUPS[name]
    small, _ = small_of(built(make), granularity)
    fresh = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(small.state_dict())
    torch.testing.assert_close(run(fresh), run(small), rtol=0, atol=0)


@pytest.mark.parametrize("name", GROUPS)
def test_layers_may_lose_everything(name):
    """Some are then of size zero; where a network cannot compute that, one unit stays and adds nothing."""
    make, granularity, size = GROUPS[name]
    model = built(make)
    over = layout(model, granularity=granularity)
    small, mask = small_of(model, granularity, [False] * over.units)
    left = over.units * size - (count(model) - count(small))
    assert left in (0, len(over.spans) * size)
    if name.startswith(("gpt2", "opt", "cnn")):
        assert left
    if name.startswith(("bert", "vit", "llama", "t5", "mlp")):
        assert not left
    torch.testing.assert_close(run(small), run(bake(model, mask)))


@pytest.mark.parametrize("make", [zoo.bert, zoo.gpt2, llama])
@pytest.mark.parametrize("heads_first", [True, False])
def test_heads_and_neurons_are_removed_one_after_the_other(make, heads_first):
    model = built(make)
    grains = [PerHead("group"), PerNeuron()]
    small = model
    for granularity in grains if heads_first else grains[::-1]:
        small, mask = small_of(small, granularity)
        assert layout(small, granularity=granularity).units == mask.kept_units
    masks = [layout(model, granularity=granularity) for granularity in grains]
    both = model
    for over in masks:
        both = bake(both, Mask.of(over, not_every_third(over)))
    torch.testing.assert_close(run(small), run(both))


@pytest.mark.parametrize("make", [lambda: llama(4, 4), neox, zoo.bert])
def test_heads_are_removed_twice(make):
    """The second layout sees how many are left, although the configuration has the first number."""
    model = built(make)
    once, _ = small_of(model, PerHead(), [i != 0 for i in range(layout(model, granularity=PerHead()).units)])
    over = layout(once, granularity=PerHead())
    assert over.units == layout(model, granularity=PerHead()).units - 1
    small, mask = small_of(once, PerHead(), [i != 1 for i in range(over.units)])
    torch.testing.assert_close(run(small), run(bake(once, mask)))


def test_layers_without_units_are_passed_over_by_the_next_layout():
    model = built(zoo.bert)
    small, _ = small_of(model, PerNeuron(), [False] * 16 + [True] * 16)
    assert layout(small, granularity=PerNeuron()).units == 16
    assert small.bert.encoder.layer[0].intermediate.dense.weight.shape == (0, 8)


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ("10 01 11 11", [2, 4]),  # one for each head of keys
        ("10 11 01 10", [4, 2]),  # a removed one stays in the first layer
        ("00 10 00 00", [2, 2]),  # one each, though the second layer keeps none
    ],
)
def test_keys_and_values_keep_equally_many_queries(kept, left):
    model = built(llama)
    small, mask = small_of(model, PerHead(), [bit == "1" for bit in kept if bit != " "])
    attentions = [layer.self_attn for layer in small.model.layers]
    assert [attention.num_key_value_groups for attention in attentions] == [n // 2 for n in left]
    assert [attention.q_proj.out_features for attention in attentions] == [4 * n for n in left]
    assert {attention.k_proj.out_features for attention in attentions} == {8}
    torch.testing.assert_close(run(small), run(bake(model, mask)))


def test_what_modules_say_of_their_sizes_stays_true():
    from transformers import StableLmConfig, StableLmForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 11}
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = built(lambda: StableLmForCausalLM(StableLmConfig(**sizes, **heads)))
    small, _ = small_of(model, PerHead("group"), [False, True])
    attention = small.model.layers[0].self_attn
    assert (attention.num_heads, attention.num_key_value_heads, attention.num_key_value_groups) == (2, 1, 2)
    small, mask = small_of(small, PerNeuron())
    assert small.model.layers[0].mlp.intermediate_size == mask.kept_units
    small, _ = small_of(built(zoo.bert), PerHead(), [True, False, True, True])
    attention = small.bert.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.all_head_size) == (1, 4)
    small, _ = small_of(built(zoo.gpt2), PerHead(), [True, False, True, True])
    attention = small.transformer.h[0].attn
    assert (attention.num_heads, attention.split_size, attention.c_attn.nf, attention.c_proj.nx) == (1, 4, 12, 4)


def test_a_layer_of_one_head_may_lose_it():
    """Where the view splits an axis, it shows along which one a single unit lies; otherwise nothing does."""
    model = built(zoo.llama)
    small, mask = small_of(model, PerHead("group"), [False, True])
    assert small.model.layers[0].self_attn.q_proj.weight.shape == (0, 8)
    torch.testing.assert_close(run(small), run(bake(model, mask)))
    alone = Tied(({"0.weight": View((6, 8), (1, 1)), "2.weight": View((3, 6), (1, 1))},))
    with pytest.raises(ValueError, match=r"units \(unit\) of '0\.weight' are not whole outputs"):
        shrunk(mlp(), alone)


def test_a_smaller_network_generates_the_same():
    model = built(zoo.gpt2).eval()
    small, mask = small_of(model, PerHead(), [True, False, True, True])
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with applied(model, mask):
        expected = model.generate(TOKENS, **settings)
    assert torch.equal(small.generate(TOKENS, **settings), expected)


def test_biases_that_were_not_masked_go_as_well():
    model = built(zoo.bert)
    over = layout(model, ["*.weight"], granularity=PerHead())
    mask = Mask.of(over, torch.tensor([False, True, True, True]))
    small = shrink(model, mask, TOKENS)
    assert small.bert.encoder.layer[0].attention.self.query.bias.shape == (4,)
    torch.testing.assert_close(run(small), run(bake(model, mask)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_have_their_own_tolerance(dtype):
    model = built(mlp).to(dtype)
    mask = Mask.of(layout(model, granularity=Tied((HIDDEN,), "neuron")), torch.arange(6) < 3)
    assert shrink(model, mask, FLOATS.to(dtype))[0].weight.dtype is dtype


def test_frozen_parameters_stay_frozen():
    model = built(mlp).requires_grad_(requires_grad=False)
    small, _ = small_of(model, Tied((HIDDEN,), "neuron"))
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_a_full_mask_gives_a_copy():
    model = built(mlp)
    small = shrink(model, Mask.full(layout(model)), FLOATS)
    assert small is not model
    assert torch.equal(run(small), run(model))


def shrunk(model, granularity, select=None, *, removed=0, **settings):
    over = layout(model, select, granularity=granularity)
    kept = torch.arange(over.units) != removed
    return shrink(model, Mask.of(over, kept), **example(model), **settings)


@pytest.mark.parametrize(
    ("granularity", "message"),
    [
        (PerWeight(), r"units \(weight\) of '0\.weight' are not whole outputs or whole inputs.*bake"),
        (PerBlock(2, 1), r"units \(block\) of '0\.weight' are not whole.*bake"),
        (PerTensor(), r"units \(tensor\) of '0\.weight' are not whole.*bake"),
        (PerOutput(), r"'0\.weight' cannot be cut: no matrix that reads them.*PerNeuron, PerHead or Tied.*bake"),
    ],
)
def test_units_that_cannot_be_cut_are_refused(granularity, message):
    model = nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 4))
    with pytest.raises(ValueError, match=message):
        shrunk(model, granularity)


def test_units_of_several_rows_lie_as_their_view_says():
    """Two units of six rows: a run of three each, or every other row."""
    runs = {
        "0.weight": View((2, 3, 8), (2, 1, 1)),
        "0.bias": View((2, 3), (2, 1)),
        "2.weight": View((3, 2, 3), (1, 2, 1)),
    }
    others = {
        "0.weight": View((3, 2, 8), (1, 2, 1)),
        "0.bias": View((3, 2), (1, 2)),
        "2.weight": View((3, 3, 2), (1, 1, 2)),
    }
    model = built(mlp)
    for parts, rows in ((runs, slice(3, 6)), (others, slice(1, 6, 2))):
        assert torch.equal(shrunk(model, Tied((parts,)))[0].weight, model[0].weight[rows])
    with pytest.raises(ValueError, match=r"units lie otherwise in '0\.bias' than in other parameters of '0'"):
        shrunk(model, Tied(({**runs, "0.bias": others["0.bias"]},)))


def test_matrices_that_only_read_are_refused():
    with pytest.raises(
        ValueError, match=r"units \(neuron\) of '2\.weight' cannot be cut: no matrix that computes them"
    ):
        shrunk(mlp(), Tied(({"2.weight": HIDDEN["2.weight"]},), "neuron"))


def test_layers_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match=r"'self_attn.in_proj_weight' cannot be cut: torch's MultiheadAttention.*bake"):
        shrunk(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), PerHead())
    with pytest.raises(ValueError, match=r"heads of 'encoder\.block\.0\.layer\.0\.SelfAttention'.*one bias.*bake"):
        shrunk(t5(), PerHead())
    grouped = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2))
    parts = {"0.weight": View((4, 1, 3, 3), (4, 1, 1, 1)), "1.weight": View((4, 2, 3, 3), (4, 1, 1, 1))}
    with pytest.raises(ValueError, match=r"'1\.weight' cannot be cut: it belongs to a Conv2d.*without groups"):
        shrunk(grouped, Tied((parts,)))
    square = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8))
    square[3].weight = square[0].weight
    parts = {"0.weight": View((8, 8), (8, 1)), "2.weight": View((8, 8), (1, 8))}
    with pytest.raises(ValueError, match=r"'0\.weight' cannot be cut: it is also '3\.weight'"):
        shrunk(square, Tied((parts,)))


def test_what_the_layout_does_not_name_is_noticed():
    unnamed = {name: view for name, view in CHANNELS[0].items() if not name.startswith("1.")}
    with pytest.raises(
        ValueError, match=r"cannot be computed \(RuntimeError.*Cut were units of Sequential.*Name it too"
    ):
        shrunk(built(cnn), Tied((unnamed,)))
    select = ["*.query.*", "*.attention.output.dense.weight"]
    with pytest.raises(ValueError, match=r"units of bert\.encoder\.layer\.0\.attention\..*Name it too"):
        shrunk(built(zoo.bert), PerHead(), select)


class Averaged(nn.Module):
    """Adds the mean of the hidden units, which a smaller layer has fewer of."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x) + self.net[:2](x).mean(-1, keepdim=True)


class Leaking(nn.Module):
    """Returns the hidden units themselves."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net[0](x)


def test_outputs_that_differ_are_noticed():
    model = built(Averaged)
    over = layout(model, granularity=Tied(({f"net.{name}": view for name, view in HIDDEN.items()},)))
    mask = Mask.of(over, torch.arange(6) != 0)
    with pytest.raises(
        ValueError, match=r"returns something else.*tensor 1 of 1 differs by up to.*tolerance of 2\.4\d?e-05"
    ):
        shrink(model, mask, FLOATS)
    assert shrink(model, mask, FLOATS, tolerance=10.0).net[0].out_features == 5
    leaking = Tied(({f"net.{name}": view for name, view in HIDDEN.items()},))
    mask = Mask.of(layout(Leaking(), granularity=leaking), torch.arange(6) != 0)
    with pytest.raises(ValueError, match=r"tensors of shapes \[\(3, 5, 5\)\], under the mask they are \[\(3, 5, 6\)\]"):
        shrink(Leaking(), mask, FLOATS)


def test_examples_are_needed():
    model = mlp()
    mask = Mask.full(layout(model))
    with pytest.raises(ValueError, match="give it what the network is called with"):
        shrink(model, mask)
    model.forward = lambda x: None
    with pytest.raises(ValueError, match="Sequential returns no tensors"):
        shrink(model, mask, FLOATS)
    with pytest.raises(KeyError, match="the mask is for another network"):
        shrink(nn.Linear(8, 2), mask, FLOATS)


def test_cutting_a_batch_norm_leaves_its_statistics():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.copy_(torch.arange(3))
    cut(norm, "outputs", torch.tensor([True, False, True]))
    assert norm.running_mean.tolist() == [0, 2]
    assert (norm.num_features, norm.num_batches_tracked.shape) == (2, ())


@pytest.mark.filterwarnings("error")
def test_what_is_cut_out_cannot_be_replaced():
    model, x = mlp(), torch.ones(1, 8)
    over = layout(model, granularity=Tied((HIDDEN,)))
    mask = Mask.of(over, torch.arange(6) < 4, Origin(replaced="9f"))
    with pytest.warns(UserWarning, match="cut out, it is as if zero"):
        assert len(shrink(model, mask, x)[0].weight) == 4
