"""The Mathematics Dataset: right answers, nothing of the tests in training, the same text for a seed, a checked cache."""

import os
import random
import re
import subprocess
import sys
from contextlib import nullcontext
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from itertools import islice

import numpy as np
import pytest
import torch

from maskscope.core.files import Damaged
from maskscope.data import mathematics_cache, mathematics_generation
from maskscope.data.mathematics import CHARACTERS, Mathematics, decode, encode, numbered
from maskscope.data.mathematics_cache import Collection, cached, read
from maskscope.data.sequences import PAD

TASKS = (
    "arithmetic__add_or_sub",
    "calculus__differentiate",
    "algebra__linear_1d",
    "polynomials__collect",
    "comparison__sort",
)
TRAIN, VALID = 12, 3


def installed():
    try:
        return version("mathematics_dataset") == mathematics_generation.RELEASE
    except PackageNotFoundError:
        return False


generated = pytest.mark.skipif(not installed(), reason="needs mathematics_dataset==1.0.1 (the extra 'mathematics')")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Every task, a few questions of each level, generated once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONHASHSEED", "1")
        found = {}
        for task in TASKS:
            collection = Collection(task, TRAIN, VALID, seed=0)
            if task == "comparison__sort":  # 150 draws find hardly any: 995 of 1,000 answers are too long
                with pytest.warns(UserWarning, match="different questions of level 'extrapolate'; going on with those"):
                    found[task] = cached(collection)
            else:
                found[task] = cached(collection)
        yield {task: (path, read(path)) for task, path in found.items()}


@pytest.fixture
def here(texts, monkeypatch):
    """The cache folder of ``texts``."""
    path, _ = texts["algebra__linear_1d"]
    monkeypatch.setenv("MASKSCOPE_CACHE", str(path.parents[2]))
    return path.parent


def everything(parts):
    return [question for part in parts.values() for question in part]


@generated
@pytest.mark.parametrize("task", TASKS)
def test_questions_are_different_in_all_levels_and_splits_and_none_is_too_long(texts, task):
    _, parts = texts[task]
    questions = [question for question, _ in everything(parts)]
    assert len(set(questions)) == len(questions)
    assert all(0 < len(question) <= 160 and 0 < len(answer) <= 30 for question, answer in everything(parts))
    for level in Mathematics(task).tested:
        if (task, level) != ("comparison__sort", "extrapolate"):
            assert len(parts["valid", level]) == VALID
        assert len(parts.get(("train", level), [])) == (TRAIN if level in {"easy", "medium", "hard"} else 0)


@generated
def test_sums_and_differences_are_right(texts):
    for question, answer in everything(texts["arithmetic__add_or_sub"][1]):
        a, b = map(Fraction, re.findall(r"(?<![\w.])-?[\d.]*\d", question))
        if re.search(r"distance|difference", question):
            expected = abs(a - b)
        elif re.search(r"less than|Subtract", question):
            expected = b - a
        elif re.search(r"minus|take away| - ", question):
            expected = a - b
        else:
            assert re.search(r"\+|Add|Put together|Sum|Total|plus", question)
            expected = a + b
        assert Fraction(answer) == expected, question


@generated
def test_sorted_numbers_are_sorted(texts):
    number = r"-?\d+(?:\.\d+|/\d+)?"
    for question, answer in everything(texts["comparison__sort"][1]):
        given, said = ([Fraction(n) for n in re.findall(number, text)] for text in (question, answer))
        assert said == sorted(given, reverse="descending" in question or "decreasing" in question), question


@generated
def test_solutions_solve_their_equations(texts):
    for question, answer in everything(texts["algebra__linear_1d"][1]):
        left, right, unknown = re.fullmatch(r"Solve (.*) = (.*) for (\w)\.", question).groups()
        for side in (left, right):
            assert re.fullmatch(r"[\d\s*+/()a-z-]+", side)
        values = [eval(side, {unknown: Fraction(answer)}) for side in (left, right)]
        assert values[0] == values[1], question


@generated
@pytest.mark.parametrize("task", ["calculus__differentiate", "polynomials__collect"])
def test_derivatives_and_collected_terms_are_right(texts, task):
    sympy = pytest.importorskip("sympy")
    order = {"first": 1, "second": 2, "third": 3}
    for question, answer in everything(texts[task][1])[::5]:
        found = re.search(
            r"(?:of|in|Differentiate) (-?[\d(a-z][\d\s*+()a-z-]*?)(?: wrt (\w)| with respect to (\w))?[.?]$", question
        )
        text, *variables = found.groups()
        letters = {letter: sympy.Symbol(letter) for letter in "abcdfghijklmnopqrstuvwxyz"}
        value = sympy.sympify(text, locals=letters)
        if task == "calculus__differentiate":
            variable = next(filter(None, variables), None) or next(iter(re.findall("[a-z]", text)), "x")
            times = next((n for word, n in order.items() if f"{word} derivative" in question), 1)
            value = sympy.diff(value, letters[variable], times)
        assert sympy.expand(value - sympy.sympify(answer, locals=letters)) == 0, question


@generated
def test_harder_questions_are_longer(texts):
    for task in TASKS:
        _, parts = texts[task]
        easy, hard = (np.mean([len(q) for q, _ in parts["train", level]]) for level in ("easy", "hard"))
        assert easy < hard, task


@generated
def test_a_seed_gives_the_same_text_whatever_the_hash_seed_and_another_gives_another(texts, tmp_path, monkeypatch):
    """Questions of linear_1d depend on string hashing, unless the program that makes them fixes it."""
    monkeypatch.setenv("MASKSCOPE_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    path, _ = texts["algebra__linear_1d"]
    same, other = (cached(Collection("algebra__linear_1d", TRAIN, VALID, seed)).read_bytes() for seed in (0, 1))
    assert same == path.read_bytes()
    first, second = (set(re.findall(rb"Solve.*", text)) for text in (same, other))
    assert len(first & second) < len(first) / 2


@generated
def test_the_random_state_of_the_caller_stays(tmp_path, monkeypatch):
    """That of ``random`` cannot be compared: beartype draws from it in tests."""

    def seeded(*numbers):
        raise AssertionError("the caller's random state was set")

    monkeypatch.setenv("MASKSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(random, "seed", seeded)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    cached(Collection("arithmetic__add_or_sub", 1, 1, 0))
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@generated
def test_neither_numpy_nor_sympy_is_changed():
    assert mathematics_generation.maker("polynomials__collect", "easy")().question
    assert "object" not in vars(np)
    assert not hasattr(np.zeros(1), "itemset")
    assert not hasattr(sys.modules["sympy.solvers.diophantine"], "base_solution_linear")


@generated
def test_draws_that_the_package_breaks_off_are_left_out(monkeypatch):
    make = mathematics_generation.maker("polynomials__collect", "easy")
    whole = list(mathematics_generation.questions("polynomials__collect", "easy", 4, 0, set()))
    share = sys.modules["mathematics_dataset.sample.polynomials"].integers_with_sum
    draws = iter(range(100))

    def broken_off_twice():
        problem = make()
        if next(draws) in (0, 2):
            share(0, 1, 1e-3)  # one coefficient, which has no entropy of its own, is given some
        return problem

    monkeypatch.setattr(mathematics_generation, "maker", lambda *_: broken_off_twice)
    found = list(mathematics_generation.questions("polynomials__collect", "easy", 2, 0, set()))
    assert [drawn[:2] for drawn in found] == [whole[1][:2], whole[3][:2]]
    assert [drawn.draws for drawn in found] == [2, 4]
    monkeypatch.setattr(mathematics_generation, "MOST_BROKEN", 1)
    draws = iter(range(100))
    with pytest.raises(AssertionError):
        list(mathematics_generation.questions("polynomials__collect", "easy", 2, 0, set()))


@generated
def test_the_levels_are_thirds_of_the_range_that_the_package_trains_on():
    for level, (low, high) in {
        "easy": (3, 3 + 7 / 3),
        "medium": (3 + 7 / 3, 3 + 14 / 3),
        "hard": (3 + 14 / 3, 10),
    }.items():
        arguments = mathematics_generation.maker("comparison__sort", level).args[0]
        assert (arguments.min_entropy, arguments.max_entropy) == pytest.approx((low, high))


@generated
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace(b"train", b"valid", 1),
        lambda text: text.replace(b'"seed": 0', b'"seed": 1'),
        lambda text: b"[1]\n" + text,
        lambda text: b"",
    ],
    ids=["cut short", "row", "header", "other header", "empty"],
)
def test_a_damaged_file_is_noticed(texts, tmp_path, damage):
    path, _ = texts["algebra__linear_1d"]
    copy = tmp_path / path.name
    copy.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Damaged, match=r"cut short, altered or renamed .* delete it and it is generated again"):
        read(copy)


@generated
def test_a_renamed_file_is_noticed(texts, tmp_path):
    path, _ = texts["algebra__linear_1d"]
    copy = tmp_path / Collection("algebra__linear_1d", TRAIN, VALID, seed=7).name
    copy.write_bytes(path.read_bytes())
    with pytest.raises(Damaged, match="it holds algebra__linear_1d-12-train-3-valid-seed0"):
        read(copy)


class Stopping:
    """Ctrl-C at the seventh question."""

    def __init__(self):
        self.told = []

    def add_task(self, label, total):
        return label.split()[1]

    def update(self, level, completed):
        self.told.append((level, completed))
        if completed > 6:
            raise KeyboardInterrupt


class Watching(Stopping):
    """No Ctrl-C."""

    def update(self, level, completed):
        self.told.append((level, completed))


@generated
def test_a_stopped_generation_leaves_no_process_and_goes_on_where_it_was(tmp_path, monkeypatch):
    started, popen = [], mathematics_cache.subprocess.Popen
    monkeypatch.setattr(
        mathematics_cache.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    monkeypatch.setenv("MASKSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(mathematics_cache, "_KEPT_EVERY", 5)
    collection = Collection("arithmetic__add_or_sub", 100, 10, 0)

    def generated_under(display):
        monkeypatch.setattr(mathematics_cache, "bars", lambda: nullcontext(display))
        return cached(collection)

    with pytest.raises(KeyboardInterrupt):
        generated_under(Stopping())
    assert started[0].returncode is not None
    assert not (mathematics_cache.folder() / collection.name).exists()
    watching = Watching()
    path = generated_under(watching)
    assert all(level != "easy" or found > 5 for level, found in watching.told)  # the first are not made again
    assert [path.name for path in path.parent.iterdir() if path.suffix != ".lock"] == [collection.name]
    whole = tmp_path / "whole"
    monkeypatch.setenv("MASKSCOPE_CACHE", str(whole))
    assert generated_under(Watching()).read_bytes() == path.read_bytes()


@generated
@pytest.mark.parametrize("task", ["algebra__linear_1d", "calculus__differentiate"])
def test_what_is_gone_on_with_is_what_comes_without_a_stop(task, tmp_path):
    """Also where it was stopped between two places that can be gone on from, and in the middle of a line."""

    def write(path, lines=None):
        program = [sys.executable, "-P", mathematics_generation.__file__, task, "0", str(path), "5"]
        asked = ["easy=12", "medium=9", "interpolate=2"]
        env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen([*program, *asked], stdout=subprocess.PIPE, encoding="utf-8", env=env) as process:
            told = list(islice(process.stdout, lines))
            process.kill() if lines else process.wait()
        return told

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert len(write(whole)) == 23
    write(parts, 18)
    parts.write_bytes(parts.read_bytes() + b"hard\tWhat")
    assert write(parts)[:2] == ["easy\t12\n", "medium\t6\n"]
    assert parts.read_bytes() == whole.read_bytes()


def same(text):
    return text


@generated
@pytest.mark.parametrize(
    ("note", "file", "gone_on"),
    [
        (same, same, True),
        (lambda text: text.replace('"numpy": "', '"numpy": "0.'), same, False),
        (lambda text: text[:40], same, False),
        (lambda text: "{}", same, False),
        (same, lambda text: text[:10], False),
        (same, lambda text: text.replace("easy", "hard", 1), False),
    ],
    ids=["as it was", "other versions", "cut short", "empty", "less than it says", "altered"],
)
def test_what_cannot_be_gone_on_with_is_begun_anew(tmp_path, capsys, note, file, gone_on):
    path, wanted = tmp_path / "part", {"easy": 7}

    def write():
        before = random.getstate(), np.random.get_state()
        try:
            mathematics_generation.main("arithmetic__add_or_sub", 0, path, 2, wanted)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        return capsys.readouterr().out.splitlines()

    assert write() == [f"easy\t{found}" for found in range(1, 8)]
    first = path.read_text()
    path.write_text(file(first))
    beside = mathematics_generation.beside(path)
    beside.write_text(note(beside.read_text()))
    assert write()[0] == ("easy\t7" if gone_on else "easy\t1")
    assert path.read_text() == first


@pytest.mark.parametrize("found", ["0.9", None])
def test_without_the_generator_the_command_to_install_it_is_said(tmp_path, monkeypatch, found):
    def other(package):
        if found is None:
            raise PackageNotFoundError(package)
        return found

    monkeypatch.setenv("MASKSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(mathematics_generation, "version", other)
    with pytest.raises(ImportError, match=r"found (none|release 0\.9); .*pip install mathematics_dataset==1\.0\.1"):
        Mathematics("comparison__sort").tests()
    assert not list(tmp_path.iterdir())


@generated
def test_a_failing_generator_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(mathematics_generation, "__file__", os.devnull + "-no-such-file")
    with pytest.raises(RuntimeError, match=r"failed: .*can't open file"):
        cached(Collection("comparison__sort", 1, 1, 0))


def test_what_is_encoded_is_decoded():
    assert decode(encode(CHARACTERS)) == CHARACTERS
    assert decode(numbered(["ab", "longer"])[0].long().masked_fill(numbered(["ab", "longer"])[0] == 255, PAD)) == "ab"
    assert len(set(CHARACTERS)) == len(CHARACTERS) == 95
    for text in ("é", "two\nlines", "tab\t"):
        with pytest.raises(ValueError, match="expected printable ASCII"):
            encode(text)
    with pytest.raises(ValueError, match="no characters for"):
        decode(torch.tensor([1, 96]))


@generated
def test_batches_are_questions_of_their_level_with_their_answers(texts, here):
    for task in TASKS[1:4]:
        data = Mathematics(task, train=TRAIN, valid=VALID)
        parts = texts[task][1]
        for subtask, levels in {data.full: ("easy", "medium", "hard"), "easy": ("easy",), "hard": ("hard",)}.items():
            for split in ("train", "valid", "test"):
                known = [pair for level in levels for pair in parts["train" if split == "train" else "valid", level]]
                said = [
                    (decode(source), decode(target))
                    for batch in data.tests(split, subtask, size=7)
                    for source, target in zip(batch.source, batch.target, strict=True)
                ]
                assert sorted(said) == sorted(known)
                batch = data.batches(split, 16, 3, subtask)(5)
                pairs = {(decode(s), decode(t)) for s, t in zip(batch.source, batch.target, strict=True)}
                assert pairs <= set(known)
                assert batch.source.shape == (16, max(len(question) for question, _ in pairs) + 1)
                assert batch.target.shape == (16, max(len(answer) for _, answer in pairs) + 1)
                assert batch.source.dtype == torch.int64
                assert 0 <= int(batch.source[batch.source != PAD].min()) <= int(batch.source.max()) < data.inputs


@generated
def test_batches_are_a_function_of_seed_and_step(here):
    batches = Mathematics("algebra__linear_1d", train=TRAIN, valid=VALID).batches("train", 16, seed=3, subtask="easy")
    again = Mathematics("algebra__linear_1d", train=TRAIN, valid=VALID).batches("train", 16, seed=3, subtask="easy")
    assert torch.equal(batches(5).source, again(5).source)
    assert batches(5).source.tolist() != batches(6).source.tolist()


@generated
def test_levels_that_are_only_tested_are_not_trained_on(here):
    data = Mathematics("algebra__linear_1d", train=TRAIN, valid=VALID)
    assert len(data.tests("valid", "interpolate")[0].target) == VALID
    with pytest.raises(ValueError, match="has no train questions of 'interpolate'"):
        data.batches("train", 4, 0, "interpolate")
    with pytest.raises(KeyError, match="has no subtask 'extrapolate'"):
        data.tests("valid", "extrapolate")
    assert Mathematics("arithmetic__add_or_sub").tested[-1] == "extrapolate"


@generated
def test_a_level_that_gave_no_question_says_so(texts, here):
    assert ("valid", "extrapolate") not in texts["comparison__sort"][1]
    with pytest.raises(
        ValueError, match=r"no valid questions of 'extrapolate'; .* ask for more than train=12, valid=3"
    ):
        Mathematics("comparison__sort", train=TRAIN, valid=VALID).tests("valid", "extrapolate")


@pytest.mark.parametrize("wrong", [{"train": 0}, {"valid": 0}, {"seed": -1}])
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(ValueError, match="expected at least one question"):
        Mathematics("comparison__sort", **wrong)
