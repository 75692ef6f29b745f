"""SCAN: the generated splits are the original ones, nothing tested is learned, batches are what they say."""

import hashlib
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from maskscope.data.scan import WORDS_IN, WORDS_OUT, Scan
from maskscope.data.scan_grammar import SPLITS, Example, commands, halves
from maskscope.data.sequences import END, PAD

DATA = Scan()
ALL = commands()

FOLDER = Path(os.environ.get("MASKSCOPE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "scan"

ARCHIVE = "scan-original.tar.xz"
"""The original files, of github.com/brendenlake/SCAN, as they lie there."""

ORIGINALS = {
    "simple": "simple_split/tasks_{half}_simple.txt",
    "length": "length_split/tasks_{half}_length.txt",
    "jump": "add_prim_split/tasks_{half}_addprim_jump.txt",
    "turn left": "add_prim_split/tasks_{half}_addprim_turn_left.txt",
}


def examples(split, half):
    return [ALL[i] for i in getattr(halves(split), half)]


def words(batch):
    """Every example of a batch as (command, actions)."""
    for source, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True):
        yield tuple(
            " ".join(names[token] for token in tokens if token > END)
            for names, tokens in ((WORDS_IN, source), (WORDS_OUT, target))
        )


def test_the_grammar_has_every_command_once():
    assert len(ALL) == 102 + 2 * 102**2 == len({example.command for example in ALL}) == 20_910
    assert max(len(example.command.split()) for example in ALL) == 9
    assert max(len(example.actions.split()) for example in ALL) == 48
    assert {word for example in ALL for word in example.command.split()} == {*WORDS_IN} - {"<end>"}
    assert {word for example in ALL for word in example.actions.split()} == {*WORDS_OUT} - {"<end>"}


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "I_JUMP"),
        ("turn left", "I_TURN_LEFT"),
        ("walk right", "I_TURN_RIGHT I_WALK"),
        ("turn opposite left", "I_TURN_LEFT I_TURN_LEFT"),
        ("run opposite left twice", "I_TURN_LEFT I_TURN_LEFT I_RUN I_TURN_LEFT I_TURN_LEFT I_RUN"),
        ("look around right", "I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK"),
        ("jump left and walk twice", "I_TURN_LEFT I_JUMP I_WALK I_WALK"),
        ("jump left after walk twice", "I_WALK I_WALK I_TURN_LEFT I_JUMP"),
    ],
)
def test_commands_mean_what_the_paper_says(command, actions):
    assert dict(ALL)[command] == actions


@pytest.mark.parametrize(
    ("split", "half", "count", "sha256"),
    [
        ("simple", "train", 16_728, "27b5523f423fb7d4"),
        ("simple", "test", 4_182, "fbf1f87122f48f4d"),
        ("length", "train", 16_990, "b449c787a4c2e816"),
        ("length", "test", 3_920, "e9bd0b06cb972a4a"),
        ("jump", "train", 14_670, "e60be8fa7fd88b42"),
        ("jump", "test", 7_706, "af971a314cdeda91"),
        ("turn left", "train", 21_890, "7a87330ea22b31b5"),
        ("turn left", "test", 1_208, "871b1eb91236d07b"),
    ],
)
def test_splits_are_the_published_ones(split, half, count, sha256):
    lines = sorted("\t".join(example) for example in examples(split, half))
    assert len(lines) == count
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == sha256


@pytest.mark.parametrize("split", SPLITS)
def test_no_command_is_both_learned_and_tested_and_together_they_are_all(split):
    train, test = halves(split)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(range(len(ALL)))
    assert len(set(test)) == len(test)


def test_what_a_split_holds_back_is_not_learned():
    assert {e.command for e in examples("jump", "train") if "jump" in e.command.split()} == {"jump"}
    assert {e.command for e in examples("turn left", "train") if "turn left" in e.command} == {"turn left"}
    assert max(len(e.actions.split()) for e in examples("length", "train")) == 22
    assert min(len(e.actions.split()) for e in examples("length", "test")) == 24


def original(name):
    """The examples of an original file, duplicates included, in its order."""
    with tarfile.open(FOLDER / ARCHIVE) as files:
        lines = files.extractfile(name).read().decode("ascii").splitlines()
    return [Example(*line.removeprefix("IN: ").split(" OUT: ")) for line in lines]


@pytest.mark.skipif(
    not (FOLDER / ARCHIVE).exists(),
    reason=f"needs {ARCHIVE} in {FOLDER}; let MASKSCOPE_DATA name the folder that has scan/ in it",
)
@pytest.mark.parametrize("split", SPLITS)
def test_generated_and_original_splits_are_the_same(split):
    for half in ("train", "test"):
        assert Counter(original(ORIGINALS[split].format(half=half))) == Counter(examples(split, half))
    if split == "simple":
        assert sorted(original("tasks.txt")) == sorted(ALL)


@pytest.mark.parametrize("subtask", SPLITS)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_tests_are_all_of_a_split_those_with_short_answers_first(subtask, split):
    batches = DATA.tests(split, subtask)
    found = [pair for batch in batches for pair in words(batch)]
    assert Counter(found) == Counter(map(tuple, examples(subtask, "train" if split == "train" else "test")))
    lengths = [len(actions.split()) for _, actions in found]
    assert lengths == sorted(lengths)
    assert all(len(batch.source) == 1000 for batch in batches[:-1])


@pytest.mark.parametrize("subtask", [None, *SPLITS])
def test_batches_are_examples_of_the_subtask_ended_and_filled_up_to_the_longest(subtask):
    batch = DATA.batches("train", 64, seed=1, subtask=subtask)(3)
    assert set(words(batch)) <= set(map(tuple, examples(subtask or "simple", "train")))
    for side in (batch.source, batch.target):
        assert torch.equal((side == END).sum(1), torch.ones(64, dtype=torch.int64))
        ends = (side == END).int().argmax(1)
        after = torch.arange(side.shape[1]) > ends.unsqueeze(1)
        assert torch.equal(side == PAD, after)
        assert int(ends.max()) == side.shape[1] - 1


def test_batches_are_a_function_of_seed_and_step():
    batches, again = (DATA.batches("train", 16, seed=3, subtask="jump") for _ in range(2))
    assert torch.equal(batches(5).target, again(5).target)
    assert list(words(batches(5))) != list(words(batches(6)))
    assert list(words(batches(5))) != list(words(DATA.batches("train", 16, seed=4, subtask="jump")(5)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_forced_batches_is_the_one_asked_for_and_changes_no_batch(share):
    batches, always = (Scan(forcing=part).batches("train", 4, seed=7) for part in (share, 1.0))
    forced = [batches(step).forced for step in range(400)]
    assert forced == [batches(step).forced for step in range(400)]
    assert sum(forced) / 400 == pytest.approx(share, abs=0.08)
    assert torch.equal(batches(11).target, always(11).target)


def test_tokens_have_names():
    assert (DATA.inputs, DATA.outputs) == (len(DATA.words_in), len(DATA.words_out)) == (14, 7)
    assert DATA.answers == DATA.words_out


def test_unknown_splits_and_settings_are_refused():
    for ask in (DATA.objective, DATA.metric, lambda name: DATA.tests("valid", name)):
        with pytest.raises(KeyError, match=r"no subtask 'jumps'; it has \['jump', 'length'"):
            ask("jumps")
    with pytest.raises(ValueError, match=r"0 to 1, got 2\.0"):
        Scan(forcing=2.0)
    with pytest.raises(ValueError, match="masks are learned once on each split"):
        Scan(masked=("jump", "simple"))
