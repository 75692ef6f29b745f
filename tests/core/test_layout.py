"""Selection, granularity and layout."""

from inspect import unwrap

import pytest
import torch
from torch import nn

from maskscope.core.granularity import PerInput, PerOutput, PerTensor
from maskscope.core.layout import Layout, layout
from maskscope.core.mask import Mask
from maskscope.core.segments import Segment
from maskscope.core.select import layer, select, sites
from zoo import Tied, bert, gpt2, llama


def test_recurrent_weights_are_never_missed():
    names = layout(nn.LSTM(3, 4, 2, bidirectional=True)).names
    assert sum(name.startswith("weight_hh") for name in names) == 4
    assert sum(name.startswith("weight_ih") for name in names) == 4
    assert not any("bias" in name for name in names)


def test_fused_attention_weights_are_masked_and_their_biases_not():
    over = layout(nn.MultiheadAttention(8, 2))
    assert over.names == ("in_proj_weight", "out_proj.weight")
    assert {item.name for item in over.left_out} == {"in_proj_bias", "out_proj.bias"}


def test_normalisation_layers_are_masked_in_full_also_inside_embeddings():
    names = layout(bert()).names
    assert "bert.embeddings.LayerNorm.weight" in names
    assert "bert.embeddings.LayerNorm.bias" in names
    assert "bert.embeddings.word_embeddings.weight" not in names


def test_a_tied_output_layer_is_left_out_with_the_embedding_it_shares():
    for model in (gpt2(), llama(), Tied()):
        reasons = {item.name: item.reason for item in layout(model).left_out}
        tied = [reason for reason in reasons.values() if "tied to" in reason]
        assert len(tied) == 1, reasons


def test_every_parameter_is_either_masked_or_left_out_with_a_reason():
    model = bert()
    over = layout(model)
    listed = set(over.names) | {item.name for item in over.left_out}
    assert listed == {name for name, _ in model.named_parameters()}
    assert all(item.reason for item in over.left_out)
    assert over.weights + sum(item.weights for item in over.left_out) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["0.*"], ["0.weight", "0.bias"]),
        (["*.weight", "!2.*"], ["0.weight", "1.weight"]),
        (["!1.*"], ["0.weight", "2.weight"]),
        (["type:Linear", "!*.bias"], ["0.weight", "2.weight"]),
        (["!type:LayerNorm"], ["0.weight", "2.weight"]),
        ([nn.LayerNorm], ["1.weight", "1.bias"]),
        (["*", "!0.*", "0.bias"], ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]),
    ],
    ids=str,
)
def test_the_last_pattern_that_matches_decides(patterns, expected):
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    assert [site.name for site in select(model, patterns).chosen] == expected


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["lstn.*"], r"'lstn\.\*' matches none of 3 parameter names; nearest: "),
        (["0"], r"did you mean '0\.\*'"),
        (["type:Conv2d"], r"'type:Conv2d' matches no layer.*'Linear'"),
        ([nn.Conv2d], r"no parameter belongs to a Conv2d"),
        (["!nothing"], "'nothing' matches none"),
    ],
    ids=str,
)
def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_names(patterns, message):
    with pytest.raises(KeyError, match=message):
        select(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3, bias=False)), patterns)


def test_nothing_selected_is_an_error_that_says_why():
    with pytest.raises(ValueError, match=r"none of the 1 parameters of Embedding is selected \(embedding\)"):
        select(nn.Embedding(3, 2))
    with pytest.raises(ValueError, match="has no parameters"):
        select(nn.ReLU())
    with pytest.raises(ValueError, match="without a shape yet"):
        select(nn.LazyLinear(3))
    with pytest.raises(TypeError, match=r"write select=\['0\.\*'\]"):
        select(nn.Linear(2, 3), "0.*")


def test_the_table_says_what_is_masked_what_not_and_why():
    table = layout(nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 3)), granularity=PerOutput()).table()
    assert "not masked: embedding" in table
    assert "not masked: bias outside a normalisation layer" in table
    assert "masked: 3 units over 6 weights in 1 parameter; not masked: 13 weights in 2 parameters" in table


def counts(model, grain):
    return {
        segment.parameter: (segment.units, segment.weights_per_unit)
        for segment in layout(model, granularity=grain).segments
    }


@pytest.mark.parametrize(
    ("model", "outputs", "inputs"),
    [
        (nn.Linear(2, 3), (3, 2), (2, 3)),
        (nn.Conv2d(2, 4, 3), (4, 18), (2, 36)),
        (nn.ConvTranspose2d(2, 4, 3), (4, 18), (2, 36)),
        (nn.Conv2d(4, 6, 3, groups=2), (6, 18), (4, 27)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (6, 18), (4, 27)),
        (nn.Bilinear(2, 3, 4), (4, 6), (2, 12)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_units_of_outputs_and_inputs(model, outputs, inputs):
    assert counts(model, PerOutput())["weight"] == outputs
    assert counts(model, PerInput())["weight"] == inputs
    assert counts(model, PerTensor())["weight"] == (1, model.weight.numel())


@pytest.mark.parametrize(
    "model",
    [nn.Linear(3, 4), nn.Conv2d(4, 6, 1, groups=2), nn.ConvTranspose1d(4, 6, 1, groups=2), nn.Embedding(3, 4)],
    ids=lambda model: type(model).__name__,
)
def test_one_output_unit_silences_exactly_one_output(model):
    over = layout(model, ["weight"], granularity=PerOutput())
    if isinstance(model, nn.Embedding):
        batch = torch.arange(3)
    else:
        batch = (
            torch.randn(5, 3) if isinstance(model, nn.Linear) else torch.randn(5, 4, *([1] * (model.weight.ndim - 2)))
        )
    from maskscope.core.apply import masked

    plain, width = model(batch), over.units
    for unit in range(width):
        kept = torch.ones(width, dtype=torch.bool)
        kept[unit] = False
        axis = 1
        changed = (masked(model, Mask.of(over, kept))(batch) != plain).movedim(axis, 0).flatten(1).any(1)
        assert changed.nonzero().flatten().tolist() == [unit]


def test_hugging_faces_transposed_layers_have_their_outputs_last():
    found = counts(gpt2(), PerOutput())
    assert found["transformer.h.0.attn.c_attn.weight"] == (24, 8)


def test_input_units_of_a_bias_are_an_error_that_says_what_to_leave_out():
    with pytest.raises(ValueError, match="'bias' is a bias and has no input units; leave it out with '!bias'"):
        layout(nn.Linear(2, 3), ["*"], granularity=PerInput())


def heads() -> tuple[nn.ModuleDict, Layout]:
    """Two heads of size 4 over q, k, v and o of width 8, tied by hand: a unit is a head."""
    model = nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in "qkvo"})
    rows = {"view": (2, 4, 8), "gates": (2, 1, 1)}
    columns = {"view": (8, 2, 4), "gates": (1, 2, 1)}
    return model, Layout(
        tuple(
            Segment(f"{name}.weight", (8, 8), offset=0, kind="head", **(columns if name == "o" else rows))
            for name in "qkvo"
        )
    )


def test_a_head_is_one_unit_tied_over_q_k_v_and_o():
    _, over = heads()
    assert (over.units, over.weights) == (2, 256)
    assert over.unit_weights().tolist() == [128, 128]
    second = Mask.of(over, torch.tensor([False, True]))
    assert second.kept_weights == 128
    for name in "qkv":
        assert second.parameter(f"{name}.weight")[4:].all()
        assert not second.parameter(f"{name}.weight")[:4].any()
    assert second.parameter("o.weight")[:, 4:].all()
    assert not second.parameter("o.weight")[:, :4].any()
    assert [count.kept_units for count in second.counts()] == [1, 1, 1, 1]


def test_a_tied_head_is_learned_with_one_draw_and_the_sum_of_its_gradients():
    """Against autograd over a naive copy of the gate."""
    from maskscope.core.learning.learn import learning
    from maskscope.core.learning.schedules import Schedule
    from maskscope.core.noise import draw, uniform

    model, over = heads()
    x = torch.randn(6, 8)

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, x):
            q, k, v = (self.layers[name](x).view(6, 2, 4).transpose(0, 1) for name in "qkv")
            return self.layers["o"](nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(6, 8))

    network = Head()
    tied = Layout(
        tuple(Segment(f"layers.{s.parameter}", s.shape, s.view, s.gates, s.offset, s.kind) for s in over.segments)
    )
    schedule = Schedule(steps=1, samples=1, clip=1e9, slope="sampled")

    def objective(call, batch):
        return call(batch).square().mean()

    (state,) = learning(network, [x], objective, layout=tied, schedule=schedule, penalty=0.0)
    # Adam's first moment after one step is (1 - 0.9) times the gradient.
    found = state.logits.state()["adam_mean"] / 0.1
    logits = torch.full((2,), 2.0, requires_grad=True)
    u = uniform(torch.arange(2, dtype=torch.int32), *draw(0, 0, 0).of(tied.spans[0].name))
    soft = torch.sigmoid(logits + torch.log(u) - torch.log1p(-u))
    gates = ((u > torch.sigmoid(-logits.detach())).float() - soft).detach() + soft
    weights = {
        segment.parameter: segment.gated(network.get_parameter(segment.parameter).detach(), gates)
        for segment in tied.segments
    }
    torch.func.functional_call(network, weights, (x,)).square().mean().backward()
    torch.testing.assert_close(found, logits.grad, rtol=1e-5, atol=1e-7)


def test_blocks_fit_into_segments():
    block = Segment("w", (4, 6), view=(2, 2, 2, 3), gates=(2, 1, 2, 1), offset=0, kind="block")
    mask = Mask.of(Layout((block,)), torch.tensor([True, False, False, True]))
    assert mask.parameter("w")[:2, :3].all()
    assert mask.parameter("w")[2:, 3:].all()
    assert mask.kept_weights == 12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"view": (5,), "gates": (5,)}, "cannot be viewed"),
        ({"view": (6,), "gates": (4,)}, "do not broadcast"),
        ({"view": (6,), "gates": (6,), "offset": -1}, "must not be negative"),
    ],
)
def test_segments_check_their_arithmetic(fields, message):
    with pytest.raises(ValueError, match=message):
        Segment(**{"parameter": "w", "shape": (2, 3), "offset": 0, "kind": "weight", **fields})


def test_layouts_refuse_gaps_overlaps_and_parameters_twice():
    def segment(name, offset, units):
        return Segment(name, (units,), (units,), (units,), offset, "weight")

    with pytest.raises(ValueError, match="appear twice"):
        Layout((segment("a", 0, 2), segment("a", 2, 2)))
    with pytest.raises(ValueError, match="start at 3, expected 2"):
        Layout((segment("a", 0, 2), segment("b", 3, 2)))
    with pytest.raises(ValueError, match="start at 1, expected 2"):
        Layout((segment("a", 0, 2), segment("b", 1, 2)))
    with pytest.raises(ValueError, match="at least one segment"):
        Layout(())


def test_layers_are_modules_and_stacked_recurrent_layers_count_one_by_one():
    assert [layer(name) for name in ("weight", "a.b.weight", "rnn.weight_ih_l1_reverse")] == [
        "weight",
        "a.b",
        "rnn.l1_reverse",
    ]


def test_what_weight_and_spectral_norm_compute_from_is_left_out():
    """Zeroing it would rescale the other weights, not remove one."""
    for normed in (
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)),
    ):
        over = layout(nn.Sequential(normed, nn.Linear(4, 2)))
        assert over.names == ("1.weight",)
        assert all("remove the parametrisation" in item.reason for item in over.left_out if "original" in item.name)


def test_empty_parameters_are_left_out():
    model = nn.Linear(3, 4)
    model.register_parameter("none", nn.Parameter(torch.zeros(0)))
    assert {item.name: item.reason for item in layout(model).left_out}["none"] == "empty"


@pytest.mark.parametrize("granularity", ["output", PerOutput], ids=str)
def test_a_granularity_is_an_object(granularity):
    with pytest.raises(TypeError, match=r"granularity takes an object such as ms.PerOutput\(\)"):
        unwrap(layout)(nn.Linear(2, 3), granularity=granularity)


@pytest.mark.parametrize(
    ("network", "got"),
    [(nn.Linear, "the class Linear"), (lambda x: x, "an object of type function")],
    ids=["class", "function"],
)
def test_what_is_no_network_is_refused(network, got):
    with pytest.raises(TypeError, match=rf"a network is an nn.Module .*, got {got}"):
        unwrap(sites)(network)
