"""Networks from sequences to sequences: what they may see, how they answer, and that they count as published."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from maskscope.core.apply import masked
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from maskscope.core.seeded import seeded
from maskscope.data.sequences import END, PAD, Sentences, padded, sentences_loss, sentences_right
from maskscope.models.attention import Ragged
from maskscope.models.encoder_decoder import EncoderDecoderSettings
from maskscope.models.transformer import TransformerSettings

LSTM = EncoderDecoderSettings(hidden=16, layers=2, embedding=6)
TRANSFORMER = TransformerSettings(width=12, heads=3, encoder=2, decoder=2, feedforward=20)
TIED = replace(TRANSFORMER, tied=True)
MATHEMATICS = TransformerSettings(width=512, heads=8, encoder=6, decoder=6, feedforward=2048, tied=True)

WORDS = 7
both = pytest.mark.parametrize("settings", [LSTM, TRANSFORMER, TIED], ids=["lstm", "transformer", "tied"])


def network(settings):
    with seeded(8):
        model = settings.build(WORDS, WORDS)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.data *= 2  # so that answers differ
    return model.eval()


def sequences(lengths):
    with seeded(1):
        return [torch.cat([torch.randint(1, WORDS, (length,)), torch.tensor([END])]) for length in lengths]


SOURCES, TARGETS = sequences((3, 1, 6, 2)), sequences((2, 7, 0, 4))
BATCH = Sentences(padded(SOURCES), padded(TARGETS))


def ways(settings):
    return (True, False) if settings is LSTM else (True,)


@pytest.mark.parametrize(
    ("settings", "words", "weights", "trainable"),
    [
        (EncoderDecoderSettings(), (14, 7), 987_000, 990_543),
        (TransformerSettings(), (14, 7), 603_700, 607_607),
        (MATHEMATICS, (96, 96), 44_070_912, 44_150_784),
    ],
    ids=["lstm", "transformer", "mathematics"],
)
def test_counts_are_the_published_ones(settings, words, weights, trainable):
    with torch.device("meta"):
        model = settings.build(*words)
    assert layout(model).weights == weights
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@both
def test_the_ends_the_read_out_and_the_first_half_are_masked_parameters(settings):
    names = layout(network(settings)).names
    assert set(settings.ends) <= set(names)
    assert set(settings.first_half) < set(names)
    assert (settings.read_out in names) == (settings is not TIED)


def test_the_first_half_of_a_transformer_is_the_published_one():
    layers = {name.rsplit(".", 2)[0] for name in TransformerSettings().first_half}
    assert {name.split(".")[0] + name.split(".")[1] for name in layers if "." in name} == {
        f"{side}{layer}" for side in ("encoder", "decoder") for layer in (0, 1)
    }
    assert "output.weight" in TransformerSettings().first_half
    assert len(TransformerSettings().first_half) == 2 * (4 + 2 + 4) + 2 * (8 + 2 + 6) + 1


@both
def test_padding_changes_nothing(settings):
    model = network(settings)
    for forced in ways(settings):
        together = model(*BATCH[:2], forced=forced)
        losses = []
        for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
            alone = model(source[None], target[None], forced=forced)
            torch.testing.assert_close(together[row, : len(target)], alone[0], atol=1e-5, rtol=1e-5)
            assert not together[row, len(target) :].any()
            losses.append(sentences_loss(model, Sentences(source[None], target[None], forced)))
        torch.testing.assert_close(sentences_loss(model, BATCH._replace(forced=forced)), torch.stack(losses).mean())
    more = Sentences(*(nn.functional.pad(side, (0, 3), value=PAD) for side in BATCH[:2]))
    torch.testing.assert_close(model(*more[:2])[:, :-3], model(*BATCH[:2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(more.source, limit=5), model(BATCH.source, limit=5), atol=1e-5, rtol=1e-5)


@both
def test_a_step_sees_no_later_token_of_the_target_and_all_earlier_ones(settings):
    model = network(settings)
    target = torch.tensor([[1, 2, 3, 4, 5, END]])
    before = model(SOURCES[2][None], target)
    for step in range(5):
        changed = target.clone()
        changed[0, step] = 6
        after = model(SOURCES[2][None], changed)
        torch.testing.assert_close(after[:, : step + 1], before[:, : step + 1], atol=1e-6, rtol=1e-6)
        assert bool((after[:, step + 1 :] != before[:, step + 1 :]).any(-1).all())


def whole(answer):
    """A decoded answer up to its end."""
    ends = (answer == END).nonzero()
    return answer[: int(ends[0]) + 1] if len(ends) else answer


@both
def test_greedy_decoding_is_the_argmax_of_teacher_forcing_on_its_own_answer(settings):
    model = network(settings)
    source = padded(sequences([1 + i % 6 for i in range(30)]))
    logits = model(source, limit=12)
    answers = [whole(answer) for answer in logits.argmax(-1)]
    assert len(set(map(len, answers))) > 1  # or this says little
    own = padded(answers)
    forced = model(source, own)
    torch.testing.assert_close(forced, logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.where(own == PAD, PAD, forced.argmax(-1)), own)
    assert bool(sentences_right(model, Sentences(source, own)).all())


def test_an_unforced_network_is_forced_on_its_own_answer():
    model = network(LSTM)
    unforced = model(*BATCH[:2], forced=False)
    said = torch.where(BATCH.target == PAD, PAD, unforced.argmax(-1))
    torch.testing.assert_close(model(BATCH.source, said), unforced, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(*BATCH[:2]), unforced)


@pytest.mark.parametrize("settings", [LSTM, TRANSFORMER], ids=["lstm", "transformer"])
def test_decoding_stops_when_every_answer_has_ended_and_at_the_limit(settings):
    model = network(settings)
    shown = []
    model.target_embedding.register_forward_hook(lambda module, tokens, output: shown.append(tokens[0].numel()))
    model.output.bias.data[END] = 1e4
    assert model(BATCH.source, limit=9).shape == (4, 1, WORDS)
    model.output.bias.data[END] = -1e4
    shown.clear()
    assert model(BATCH.source, limit=9).shape == (4, 9, WORDS)
    assert shown == [4] * 9  # past steps are not gone through again


@both
def test_decoding_keeps_no_graph(settings):
    assert not network(settings)(BATCH.source, limit=3).requires_grad


@both
def test_dropout_is_in_training_only(settings):
    model = network(settings)
    asks = [
        *(lambda forced=forced: model(*BATCH[:2], forced=forced) for forced in ways(settings)),
        lambda: model(BATCH.source, limit=4),
    ]
    for ask in asks:
        with seeded(2):
            assert torch.equal(ask(), ask())
    model.train()
    for ask in asks[:-1]:
        with seeded(2):
            assert not torch.equal(ask(), ask())


@both
def test_gradients_reach_every_parameter(settings):
    for forced in ways(settings):
        model = network(settings)
        sentences_loss(model, BATCH._replace(forced=forced)).backward()
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad or bool(parameter.grad.any()), name


def test_gradients_of_an_unforced_network_go_through_the_logits_of_every_step():
    model = network(LSTM)
    logits = model(*BATCH[:2], forced=False)
    (slopes,) = torch.autograd.grad(logits[1, 7].sum(), [model.encoder.weight_hh_l0])
    assert bool(slopes.any())


@both
def test_a_mask_that_keeps_all_is_the_network_in_all_its_ways(settings):
    model = network(settings)
    under = masked(model, Mask.full(layout(model)))
    for forced in ways(settings):
        torch.testing.assert_close(under(*BATCH[:2], forced=forced), model(*BATCH[:2], forced=forced))
    torch.testing.assert_close(under(BATCH.source, limit=6), model(BATCH.source, limit=6))


@both
def test_masks_are_learned_forced_and_not(settings):
    model = network(settings)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for forced in ways(settings):
        batch = BATCH._replace(forced=forced)
        schedule = Schedule(steps=5, samples=2, learning_rate=1.0, warmup=0.0, settled=None)
        learned = learn_mask(model, [batch], sentences_loss, penalty=1e-3, schedule=schedule)
        assert 0 < int(learned.mask.gates.sum()) < learned.mask.layout.units
        sentences_right(masked(model, learned.mask), batch)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_a_transformer_is_torchs_layers_with_the_same_weights():
    model = network(TRANSFORMER)
    source, target = BATCH[:2]
    sizes = {"d_model": 12, "nhead": 3, "dim_feedforward": 20, "dropout": 0.0, "batch_first": True}
    hidden, steps = source < 0, target.shape[1]

    def embedded(embedding, tokens):
        at = torch.arange(tokens.shape[1])[:, None] / 10_000 ** (torch.arange(0, 12, 2) / 12)
        return embedding(tokens.clamp(min=0)) + torch.stack([at.sin(), at.cos()], -1).flatten(1)

    def copy(attention, into):
        into.in_proj_weight.data = torch.cat([getattr(attention, n).weight for n in ("query", "key", "value")])
        into.in_proj_bias.data.zero_()
        into.out_proj.load_state_dict({"weight": attention.merge.weight, "bias": torch.zeros(12)})

    def copied(layer, into):
        copy(layer.attention, into.self_attn)
        pairs = [(layer.attention_norm, into.norm1), (layer.feedforward.expand, into.linear1)]
        pairs.append((layer.feedforward.contract, into.linear2))
        if hasattr(layer, "reading"):
            copy(layer.reading, into.multihead_attn)
            pairs += [(layer.reading_norm, into.norm2), (layer.feedforward_norm, into.norm3)]
        else:
            pairs.append((layer.feedforward_norm, into.norm2))
        for ours, theirs in pairs:
            theirs.load_state_dict(ours.state_dict())
        return into.train()

    x = embedded(model.source_embedding, source)
    for layer in model.encoder:
        x = copied(layer, nn.TransformerEncoderLayer(**sizes))(x, src_key_padding_mask=hidden)
    shown = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
    y = embedded(model.target_embedding, shown)
    causal = nn.Transformer.generate_square_subsequent_mask(steps).isinf()
    for layer in model.decoder:
        into = copied(layer, nn.TransformerDecoderLayer(**sizes))
        y = into(y, x, tgt_mask=causal, memory_key_padding_mask=hidden)
    expected = model.output(y) * (target >= 0).unsqueeze(-1)
    torch.testing.assert_close(model(source, target), expected, atol=1e-5, rtol=1e-5)


def test_a_tied_embedding_is_the_output_map():
    model = network(TIED)
    last = []
    model.decoder[-1].feedforward_norm.register_forward_hook(lambda module, inputs, output: last.append(output))
    logits = model(torch.tensor([[1, 2, END]]), torch.tensor([[3, 4, END]]))
    assert model.source_embedding is model.target_embedding
    assert model.output is None
    torch.testing.assert_close(logits[0], last[0] @ model.source_embedding.weight.T / 12**0.5)


def test_the_lstms_start_as_published_and_have_one_bias():
    model = network(EncoderDecoderSettings())
    for lstm in (model.encoder, model.decoder):
        for layer in range(2):
            second = getattr(lstm, f"bias_hh_l{layer}")
            assert not second.any()
            assert not second.requires_grad
            assert torch.equal(getattr(lstm, f"bias_ih_l{layer}").nonzero().squeeze(1), torch.arange(200, 400))


def test_ragged_sequences_come_back_as_they_were():
    ragged = Ragged.of(BATCH.target)
    x = torch.arange(float(len(ragged.rows)))[:, None]
    assert len(x) == sum(map(len, TARGETS))
    assert torch.equal(ragged.gathered(ragged.spread(x)), x)
    assert torch.equal(ragged.spread(x).squeeze(-1)[1], torch.arange(3.0, 11.0))


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="forced=True"):
        network(TRANSFORMER)(*BATCH[:2], forced=False)
    for settings in (LSTM, TRANSFORMER):
        with pytest.raises(ValueError, match="limit=50"):
            network(settings)(BATCH.source)
    with pytest.raises(ValueError, match="one vocabulary, got 3 inputs, 4 outputs"):
        TIED.build(3, 4)
    with pytest.raises(ValueError, match="heads=3 do not divide width=100"):
        TransformerSettings(heads=3)
