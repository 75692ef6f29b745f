"""Heads and neurons: what their mask removes is what removing them inside the network removes."""

import warnings
from inspect import unwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from maskscope.core.apply import applied, bake, masked
from maskscope.core.granularity import PerBlock, PerInput, PerOutput, PerWeight, View
from maskscope.core.groups import PerHead, PerIndex, PerLayer, PerNeuron, Tied
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from maskscope.core.seeded import seeded


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = {"vocab_size": 11, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**config, decoder_start_token_id=0))


def gpt2_cross():
    """A decoder that attends to an encoder: queries apart, keys and values in one matrix."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**config, add_cross_attention=True))


def neox():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def falcon(**settings):
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return FalconForCausalLM(FalconConfig(**{"multi_query": False, **sizes, **ends, **settings}))


def bigcode(*, multi_query):
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPTBigCodeForCausalLM(GPTBigCodeConfig(**sizes, multi_query=multi_query, bos_token_id=1, eos_token_id=2))


def lora():
    """Adapters beside some matrices of attention and of the feed-forward network, in one layer of two."""
    import peft

    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft asks under an older name
    targets = ["q_proj", "o_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=2, target_modules=targets, layers_to_transform=[1], init_lora_weights=False)
    return peft.get_peft_model(zoo.llama(), config)


def distilbert():
    from transformers import DistilBertConfig, DistilBertModel

    return DistilBertModel(DistilBertConfig(vocab_size=11, dim=8, n_layers=2, n_heads=2, hidden_dim=16))


def multihead(**settings):
    return zoo_attention(nn.MultiheadAttention(8, 2, batch_first=True, **settings))


def zoo_attention(attention):
    model = zoo.Attention()
    model.attend = attention
    return model


TOKENS = torch.arange(15).view(3, 5) % 11
FLOATS = torch.linspace(-1, 1, 3 * 5 * 8).view(3, 5, 8)

HEADS = {
    "gpt2": (zoo.gpt2, "transformer.h.1.attn.c_proj"),
    "gpt2-cross": (gpt2_cross, "transformer.h.1.crossattention.c_proj"),
    "bert": (zoo.bert, "bert.encoder.layer.1.attention.output.dense"),
    "vit": (zoo.vit, "vit.layers.0.attention.o_proj"),
    "t5": (t5, "decoder.block.1.layer.1.EncDecAttention.o"),
    "neox": (neox, "gpt_neox.layers.1.attention.dense"),
    "distilbert": (distilbert, "transformer.layer.1.attention.out_lin"),
    "llama": (zoo.llama, "model.layers.1.self_attn.o_proj"),
    "falcon": (falcon, "transformer.h.0.self_attention.dense"),
    "lora": (lora, "base_model.model.model.layers.1.self_attn.o_proj"),
}
NEURONS = {
    "gpt2": (zoo.gpt2, "transformer.h.1.mlp.c_proj"),
    "bert": (zoo.bert, "bert.encoder.layer.1.output.dense"),
    "vit": (zoo.vit, "vit.layers.0.mlp.fc2"),
    "t5": (t5, "decoder.block.1.layer.2.DenseReluDense.wo"),
    "neox": (neox, "gpt_neox.layers.1.mlp.dense_4h_to_h"),
    "llama": (zoo.llama, "model.layers.1.mlp.down_proj"),
    "lora": (lora, "base_model.model.model.layers.1.mlp.down_proj"),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), "linear2"),
}


def built(make):
    with seeded(0):
        model = make().eval()
        with torch.no_grad():  # so that nothing is zero: biases mostly begin so
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def run(model):
    name = type(model).__name__
    with torch.no_grad():
        if name.startswith("ViT"):
            return model(torch.linspace(-1, 1, 128).view(2, 1, 8, 8)).logits
        if name.startswith("T5"):
            return model(input_ids=TOKENS, decoder_input_ids=TOKENS).logits
        if isinstance(model, nn.TransformerEncoderLayer | zoo.Attention):
            return model(FLOATS)
        if getattr(model.config, "add_cross_attention", False):
            return model(TOKENS, encoder_hidden_states=FLOATS).logits
        out = model(TOKENS)
        return out.logits if hasattr(out, "logits") else out.last_hidden_state


def silenced(model, module, start, stop):
    """The network with some inputs of a module at zero."""

    def hook(_module, inputs):
        x = inputs[0].clone()
        x[..., start:stop] = 0
        return (x, *inputs[1:])

    handle = model.get_submodule(module).register_forward_pre_hook(hook)
    try:
        return run(model)
    finally:
        handle.remove()


def without(model, over, module, unit):
    """The mask that keeps all but one unit of those over a module's weight."""
    segment = next(
        over.by_name[f"{module}{part}.weight"]
        for part in ("", ".base_layer")
        if f"{module}{part}.weight" in over.by_name
    )
    kept = torch.ones(over.units, dtype=torch.bool)
    kept[segment.offset + unit] = False
    mask = Mask.of(over, kept)
    with applied(model, mask):
        inside = run(model)
    torch.testing.assert_close(inside, run(bake(model, mask)))
    return inside


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("head", [0, 1])
def test_removing_a_head_is_silencing_it(name, head):
    make, module = HEADS[name]
    model = built(make)
    over = layout(model, granularity=PerHead())
    assert {segment.kind for segment in over.segments} == {"head"}
    expected = silenced(model, module, 4 * head, 4 * head + 4)
    torch.testing.assert_close(without(model, over, module, head), expected)
    assert not torch.allclose(expected, run(model), atol=1e-4)


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("neuron", [0, 9])
def test_removing_a_neuron_is_silencing_it(name, neuron):
    make, module = NEURONS[name]
    model = built(make)
    if isinstance(model, nn.TransformerEncoderLayer):
        model.train()  # torch's fast path in evaluation mode goes round hooks
        model.dropout.p = model.dropout1.p = model.dropout2.p = 0.0
        model.self_attn.dropout = 0.0
    over = layout(model, granularity=PerNeuron())
    expected = silenced(model, module, neuron, neuron + 1)
    torch.testing.assert_close(without(model, over, module, neuron), expected)
    assert not torch.allclose(silenced(model, module, 0, 16), run(model), atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"kdim": 8, "vdim": 8}, {"kdim": 6, "vdim": 6}])
def test_heads_of_torchs_attention(settings):
    """All heads but one removed: what is left is attention with that head alone, computed by hand."""
    with seeded(0):
        attention = nn.MultiheadAttention(8, 2, batch_first=True, **settings)
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.normal_()
    width = attention.kdim
    query, key = FLOATS, FLOATS[..., :width].contiguous()
    over = layout(attention, granularity=PerHead())
    assert over.units == 2
    kept = Mask.of(over, torch.tensor([False, True]))
    with torch.no_grad():
        found, _ = masked(attention, kept)(query, key, key)
        if attention.in_proj_weight is not None:
            matrices = attention.in_proj_weight.chunk(3)
        else:
            matrices = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        q, k, v = (
            nn.functional.linear(x, matrix[4:], None if bias is None else bias[4:])
            for x, matrix, bias in zip((query, key, key), matrices, biases, strict=True)
        )
        head = nn.functional.scaled_dot_product_attention(q, k, v)
        expected = nn.functional.linear(head, attention.out_proj.weight[:, 4:], attention.out_proj.bias)
    torch.testing.assert_close(found, expected)


def test_grouped_queries():
    """Llama with two query heads on one of keys and values."""
    model = built(zoo.llama)
    query, group = (layout(model, granularity=PerHead(shared)) for shared in ("query", "group"))
    assert (query.units, group.units) == (4, 2)
    assert not any("k_proj" in name or "v_proj" in name for name in query.names)
    assert any("k_proj" in name for name in group.names)
    module = "model.layers.0.self_attn.o_proj"
    torch.testing.assert_close(without(model, group, module, 0), silenced(model, module, 0, 8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: falcon(multi_query=True),
        lambda: falcon(new_decoder_architecture=True, num_attention_heads=4, num_kv_heads=2),
        lambda: bigcode(multi_query=True),
        lambda: bigcode(multi_query=False),
    ],
    ids=["falcon of one key", "falcon of groups", "bigcode of one key", "bigcode"],
)
def test_fused_matrices_that_lie_otherwise_are_refused(make):
    with pytest.raises(ValueError, match=r"how queries, keys and values lie in '.*' of shape .* is not known"):
        layout(make(), granularity=PerHead())


def test_layers_with_adapters_count_as_layers():
    assert layout(lora(), granularity=PerLayer()).units == layout(zoo.llama(), granularity=PerLayer()).units
    assert layout(lora(), granularity=PerHead()).units == layout(zoo.llama(), granularity=PerHead()).units


def test_names_of_shared_weights_may_be_any_of_theirs_and_unknown_ones_are_refused():
    """The output matrix of GPT-2 is its embedding."""
    model = zoo.gpt2()
    shape = tuple(model.lm_head.weight.shape)
    over = layout(model, granularity=PerIndex({"lm_head.weight": torch.arange(shape[0])[:, None]}))
    assert (over.names, over.units) == (("transformer.wte.weight",), shape[0])
    tied = {"0.weight": View((2, 3), (2, 1)), "0.biass": View((2,), (2,))}
    with pytest.raises(KeyError, match=r"'0\.biass' matches none of 2 parameter names; nearest: '0\.bias'"):
        layout(nn.Sequential(nn.Linear(3, 2)), ["0.weight"], granularity=Tied((tied,)))


def test_what_belongs_to_no_head_is_said():
    model = zoo.bert()
    over = layout(model, ["*.weight"], granularity=PerHead())
    reasons = {item.name: item.reason for item in over.left_out}
    assert reasons["classifier.weight"] == "belongs to no head"
    assert "bert.encoder.layer.0.attention.self.query.bias" not in over.names


def test_nobody_is_told_of_patterns_that_nobody_named():
    over = layout(zoo.bert(), granularity=PerHead())
    assert {item.reason for item in over.left_out} == {"belongs to no head"}


def test_networks_without_heads_are_refused():
    with pytest.raises(ValueError, match=r"no attention heads are recognised in Sequential.*ms\.Tied"):
        layout(nn.Sequential(nn.Linear(2, 2)), granularity=PerHead())
    with pytest.raises(ValueError, match="no feed-forward networks"):
        layout(nn.Linear(2, 2), granularity=PerNeuron())
    with pytest.raises(KeyError, match=r"'0\.wieght' matches none.*nearest: '0\.weight'"):
        layout(nn.Sequential(nn.Linear(2, 2)), granularity=Tied(({"0.wieght": View((2, 2), (2, 1))},)))


def test_a_mask_of_heads_is_learned_saved_and_loaded(tmp_path):
    model = built(zoo.gpt2)
    over = layout(model, granularity=PerHead())

    def objective(network, batch):
        return network(input_ids=batch, labels=batch).loss

    schedule = Schedule(steps=30, samples=1)
    learned = learn_mask(model, [TOKENS], objective, layout=over, penalty=1e-2, schedule=schedule)
    assert learned.logits.shape == (4,)
    assert len(set(learned.logits.tolist())) > 1
    learned.mask.save(tmp_path / "heads.safetensors")
    assert Mask.load(tmp_path / "heads.safetensors", model) == learned.mask


def test_a_block_is_its_weights():
    """A mask of blocks is the mask of weights that repeats each block's bit."""
    with seeded(1):
        model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(6, 4, 2))
    blocks, weights = layout(model, granularity=PerBlock(2, 2)), layout(model, granularity=PerWeight())
    assert blocks.units == 6 + 6 + 6
    generator = torch.Generator().manual_seed(0)
    mask = Mask.of(blocks, torch.rand(blocks.units, generator=generator) < 0.5)
    same = Mask.of(weights, torch.cat([mask.parameter(name).flatten() for name in weights.names]))
    for name in weights.names:
        assert torch.equal(mask.parameter(name), same.parameter(name))
    first = mask.parameter("0.weight")
    assert torch.equal(first[:2, :2], first[:1, :1].expand(2, 2))
    with pytest.raises(ValueError, match=r"blocks of 4 x 4 do not divide '0\.weight' of shape \(4, 6\)"):
        layout(model, granularity=PerBlock(4, 4))


def test_matrices_of_several_experts_have_no_known_outputs():
    """(experts, out, in) in some networks, (experts, in, out) in others; single weights need not know."""
    experts = nn.Module()
    experts.gate_up_proj = nn.Parameter(torch.randn(4, 6, 3))
    for grain in (PerOutput(), PerInput()):
        with pytest.raises(
            ValueError, match=r"which axis of 'gate_up_proj', of shape \(4, 6, 3\), are outputs is not known"
        ):
            layout(experts, granularity=grain)
    assert layout(experts).units == 72
    assert layout(nn.Conv1d(3, 6, 2), ["weight"], granularity=PerOutput()).units == 6


def test_what_is_not_groups_or_numbers_says_what_is_expected():
    """As users see it, without the run-time checks of the tests."""
    with pytest.raises(TypeError, match=r"write Tied\(\(group,\)\) for one"):
        Tied.__post_init__(SimpleNamespace(parts={"0.weight": View((2, 2), (2, 1))}))
    with pytest.raises(TypeError, match=r"numbers of '0\.weight' are a tensor, got ndarray; torch\.as_tensor"):
        PerIndex.__post_init__(SimpleNamespace(numbers={"0.weight": np.arange(4)}))


def test_keys_are_shared_by_each_query_or_by_the_group():
    with pytest.raises(ValueError, match="shared is 'query' or 'group', got 'keys'"):
        unwrap(PerHead.__init__)(PerHead(), "keys")
