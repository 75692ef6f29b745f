"""The study of SmolLM2, on a tiny network of its kind and a few pairs."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import maskscope as ms
from maskscope.core.objectives import IGNORED, MinimalPairs
from maskscope.core.seeded import seeded
from maskscope.runs.study_file import read

transformers = pytest.importorskip("transformers")

WORDS = ["the", "cat", "cats", "dog", "dogs", "sleeps", "sleep", "often", "here", "only", "even", "ever", "would"]
PAIRS = [
    ("the cat sleeps", "the cat sleep"),
    ("the dogs sleep often here", "the dogs sleeps often here"),
    ("the cats sleep", "the cat sleep"),
    ("only cats would ever sleep", "even cats would ever sleep"),
]


def ids(sentence):
    return [WORDS.index(word) + 1 for word in sentence.split()]


ENCODED = [(ids(good), ids(bad)) for good, bad in PAIRS]


EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study():
    return example("smollm2")


@pytest.fixture(scope="module")
def model():
    """A Llama with grouped queries and tied embeddings, as SmolLM2 is."""
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with seeded(0):
        return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def blimp(study, tmp_path, monkeypatch):
    """Files of made-up pairs in place of BLiMP's, and words in place of tokens."""
    (tmp_path / "blimp").mkdir()
    for names in study.SETS.values():
        for name in names:
            rows = [
                {"sentence_good": f"{first} {noun} sleep {last}", "sentence_bad": f"{first} {noun} sleeps {last}"}
                for first in ("the", "only", "even")
                for noun in ("cats", "dogs")
                for last in WORDS
            ]
            with gzip.open(tmp_path / "blimp" / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    monkeypatch.setenv("MASKSCOPE_DATA", str(tmp_path))
    monkeypatch.setattr(study, "tokenizer", lambda: ids)
    monkeypatch.setattr(study, "ONLY", {})  # the word is not among these
    study.pairs.cache_clear()
    yield tmp_path
    study.pairs.cache_clear()


def test_the_margin_of_a_pair_is_that_of_whole_sentences_one_by_one(study, model):
    """Neither padding, nor leaving out what both begin with, nor the other sentences of a batch change it."""

    def log_probability(sentence):
        tokens = torch.tensor([[study.START, *sentence]])
        said = model(input_ids=tokens).logits.log_softmax(-1)
        return sum(said[0, i, token] for i, token in enumerate(sentence))

    with torch.no_grad():
        expected = [log_probability(good) - log_probability(bad) for good, bad in ENCODED]
        found = study.PREFER.margins(model, study.encoded(ENCODED))
    assert all(abs(margin) > 1e-3 for margin in expected)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_no_loss_sees_padding(study, model):
    inputs, targets = study.encoded(ENCODED)
    behind = torch.stack([torch.arange(inputs.shape[-1]) >= len(side) for pair in ENCODED for side in pair])
    other = torch.where(behind.view(inputs.shape), 7, inputs)
    assert (other != inputs).any()
    with torch.no_grad():
        torch.testing.assert_close(
            study.PREFER.margins(model, (other, targets)), study.PREFER.margins(model, (inputs, targets))
        )


def test_what_both_sentences_begin_with_is_ignored(study):
    inputs, targets = study.encoded(ENCODED[:2])
    assert inputs[0, 0].tolist() == [study.START, *ids("the cat"), study.START, study.START]
    assert targets[0].tolist() == [
        [IGNORED, IGNORED, *ids("sleeps"), IGNORED, IGNORED],
        [IGNORED, IGNORED, *ids("sleep"), IGNORED, IGNORED],
    ]


def test_one_token_alone_may_count(study):
    [cats] = ids("cats")
    _, targets = study.encoded([(ids("only cats sleep"), ids("even cats sleep"))], cats)
    assert targets.tolist() == [[[IGNORED, cats, IGNORED]] * 2]


def test_no_sentence_is_learned_from_and_tested_on(study, blimp):
    for ability in study.SETS:
        learn = {tuple(good) for good, _ in study.pairs(ability, test=False)}
        test = {tuple(good) for good, _ in study.pairs(ability, test=True)}
        assert learn
        assert test
        assert not learn & test


def test_batches_and_tests_are_the_same_each_time(study, blimp):
    first, again, other = study.batch("npi", 3), study.batch("npi", 3), study.batch("npi", 4)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    assert sum(len(inputs) for inputs, _ in study.tests("npi")) == len(study.pairs("npi", test=True))


def test_a_set_that_is_missing_says_where_to_get_it(study, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKSCOPE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no file npi_present_1\.jsonl\.gz in .*get it as data/NAME\.jsonl"):
        study.sentences("npi_present_1")


@pytest.mark.parametrize("grain", [ms.PerHead(), ms.PerHead("group"), ms.PerWeight()], ids=["head", "group", "weight"])
def test_masks_of_every_grain_are_learned(study, model, blimp, grain):
    """Some units leave, and the pairs are got right under what stays: more often than without it."""
    layout = ms.layout(model, granularity=grain)
    schedule = ms.Schedule(steps=60, samples=1, settled=None)
    learned = ms.learn_mask(
        model, lambda step: study.batch("npi", step), study.PREFER, layout=layout, schedule=schedule, penalty=1e-4
    )
    alone, inverted = (
        ms.evaluate(ms.masked(model, mask), study.tests("npi"), study.PREFER.right).value
        for mask in (learned.mask, ~learned.mask)
    )
    assert 0 < learned.mask.density < 1
    assert alone > inverted


@pytest.mark.parametrize("begin", ["equal", "random", "fisher"])
def test_how_a_mask_fares_is_told_on_pairs_that_it_does_not_see(study, model, blimp, monkeypatch, begin):
    monkeypatch.setattr(study, "network", lambda: model)
    beginning = example("smollm2_begin")
    settings = beginning.Settings(begin=begin, samples=2, steps=5, every=2, json=blimp / "runs.jsonl")
    kept_out = {tuple(good) for good, _ in study.pairs("agreement", test=False)[: beginning.KEPT_OUT]}
    seen, _ = beginning.batch(settings, 3)
    assert len(seen) == 2 * study.PAIRS
    assert not kept_out & {tuple(good[good != study.START].tolist()) for good in seen[:, 0]}
    beginning.main(settings)
    (line,) = (blimp / "runs.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert [item["step"] for item in record["tries"]] == [2, 4, 5]
    assert all(0 <= item["right"] <= 1 and 0 < item["kept"] <= 1 for item in record["tries"])


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
def test_what_is_not_pairs_is_refused(shape):
    with pytest.raises(ValueError, match=r"minimal pairs need targets of shape \(pairs, 2, positions\), got"):
        MinimalPairs().margins(lambda tokens: tokens, (torch.zeros(4), torch.zeros(shape, dtype=torch.long)))


def test_an_output_for_each_target_is_asked_for(study, model):
    short = MinimalPairs(outputs=lambda network, batch: study.said(network, batch)[:, 1:])
    with pytest.raises(ValueError, match="one row of classes for each target"):
        short.margins(model, study.encoded(ENCODED))


def test_the_studies_are_read_without_the_network():
    heads, weights = read(EXAMPLES / "smollm2.py").studies
    assert (heads.name, weights.name) == ("heads", "weights")
    assert set(weights.subtasks) == set(heads.subtasks) == {"agreement", "anaphora", "determiners", "npi"}


def test_the_figure_counts_the_masks_that_keep_a_head(model, tmp_path):
    """A row for each of 6 heads, a column for each of 2 layers."""
    figure, layout = example("smollm2_figure"), ms.layout(model, granularity=ms.PerHead())
    for seed, units in enumerate(([0, 7], [7, 11])):
        kept = torch.zeros(12, dtype=torch.bool)
        kept[units] = True
        ms.Mask.of(layout, kept).save(tmp_path / f"learned-seed{seed}.safetensors")
    counts = figure.kept(tmp_path)
    assert counts.tolist() == [[1, 0], [0, 2], [0, 0], [0, 0], [0, 0], [0, 1]]
    assert len(figure.drawn({"npi": counts, "anaphora": counts}).axes) == 2
