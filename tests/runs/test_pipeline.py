"""A run: skips what is done, resumes what is not, bit for bit, also after SIGKILL; owned by one process at a time."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny
from maskscope.core.files import load_tensors, save_tensors
from maskscope.core.mask import Mask
from maskscope.runs.ablations import Under, networks
from maskscope.runs.experiment import Experiment, from_json, to_json
from maskscope.runs.loop import Paused, Tick
from maskscope.runs.pipeline import Runner
from maskscope.runs.results import HIDDEN, MaskName, MaskRecord, SeedResults
from maskscope.runs.store import InUse, RunFolder, folder_of, read_record, segment
from maskscope.runs.train import DivergedError

WORKER = """
import sys
from pathlib import Path
import tiny
from maskscope.runs.pipeline import Runner
from maskscope.runs.store import folder_of
experiment = {name: getattr(tiny, name) for name in ("FNN", "LSTM")}[sys.argv[2]]
Runner(experiment, 0, folder_of(Path(sys.argv[1]), experiment, 0), lambda tick: None, checkpoint_seconds=0.02).run()
"""


def run(root: Path, experiment: Experiment = tiny.FNN, seed: int = 0, report=lambda tick: None) -> SeedResults:
    return Runner(experiment, seed, folder_of(root, experiment, seed), report, checkpoint_seconds=0.02).run()


def masks(root: Path, experiment: Experiment = tiny.FNN) -> list[bytes]:
    folder = folder_of(root, experiment, 0)
    return [Mask.load(folder.mask(subtask, seed)).bits for subtask, seed in experiment.masks()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    return root, run(root)


@pytest.mark.parametrize("experiment", tiny.EVERY, ids=lambda experiment: experiment.variant)
def test_every_variant_runs_from_end_to_end(experiment, tmp_path):
    results = run(tmp_path, experiment)
    assert {item.network for item in results.accuracies} >= {"full network", "mask", "complement", "first half masked"}
    assert {item.overlap.where for item in results.overlaps} >= {HIDDEN}
    assert len(results.sizes) == 5
    assert all(0 <= item.value <= 1 for item in results.accuracies)
    assert {item.examples for item in results.accuracies if item.subtask == "pair 1"} <= {300}
    halves = [item for item in results.accuracies if item.network == "first half masked"]
    assert len(halves) == 2 * max(1, len(experiment.halves))
    masks = {MaskName(subtask, seed): Mask.empty(experiment.layout()) for subtask, seed in experiment.masks()}
    keys = [item.key("right") for item in networks(experiment, 0, Under(nn.Identity(), {}), masks)]
    assert len({*keys}) == len(keys)
    asked = {item.subtask: item.examples for item in results.outcomes}
    assert sum(asked.values()) == (600 if experiment.name == "add-mul" else 0)


def test_a_variant_takes_over_the_network_of_another_that_was_trained_alike(tmp_path):
    run(tmp_path)
    other = replace(tiny.FNN, variant="other-penalty", masking=replace(tiny.FNN.masking, penalty=3e-5))
    told = []
    run(tmp_path, other, report=told.append)
    phases = {tick.phase: tick.done for tick in told if tick.done}
    assert phases["training"].startswith("network taken from ")
    first, second = (folder_of(tmp_path, item, 0) for item in (tiny.FNN, other))
    assert load_tensors(first.model).tensors.keys() == load_tensors(second.model).tensors.keys()
    assert first.training.read_text() == second.training.read_text()
    assert masks(tmp_path) != masks(tmp_path, other)
    changed = replace(other, training=replace(other.training, steps=61))
    assert changed.network_digest != tiny.FNN.network_digest


def test_surgery_on_a_network_taken_over_is_that_on_a_network_of_its_own(tmp_path):
    plain, copied = (replace(experiment, masking=None) for experiment in (tiny.FNN, tiny.COPIED))
    run(tmp_path / "beside", plain)
    told = []
    run(tmp_path / "beside", copied, report=told.append)
    assert any(tick.done.startswith("network taken from ") for tick in told)
    run(tmp_path / "alone", copied)
    beside, alone = (
        load_tensors(folder_of(tmp_path / place, copied, 0).model).tensors for place in ("beside", "alone")
    )
    assert all(torch.equal(beside[name], alone[name]) for name in alone)
    told.clear()
    run(tmp_path / "alone", plain, report=told.append)
    assert not any(tick.done.startswith("network taken from ") for tick in told)


def test_a_second_call_does_nothing_again(finished):
    root, results = finished
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    ticks: list[Tick] = []
    assert run(root, report=ticks.append) == results
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ticks == []


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_network(finished, tmp_path):
    root, results = finished
    assert run(tmp_path) == results
    assert masks(tmp_path) == masks(root)
    other = run(tmp_path, seed=1)
    assert other.accuracies != results.accuracies


def test_records_come_back_from_json(finished):
    root, results = finished
    folder = folder_of(root, tiny.FNN, 0)
    assert read_record(folder.results, SeedResults) == results
    for experiment in tiny.EVERY:
        assert from_json(to_json(experiment)) == experiment
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["phase"] == "training"] == list(range(1, 61))


def test_the_hash_covers_what_changes_numbers_and_nothing_else():
    assert replace(tiny.FNN, title="other").digest == tiny.FNN.digest
    for changed in (
        replace(tiny.FNN, training=replace(tiny.FNN.training, steps=61)),
        replace(tiny.FNN, masking=replace(tiny.FNN.masking, penalty=2e-5)),
        replace(tiny.FNN, data=replace(tiny.FNN.data, mode="together")),
    ):
        assert changed.digest != tiny.FNN.digest


def phases(folder):
    """How many phases have noted something."""
    return len(set(re.findall(r'"phase": "([^"]*)"', folder.metrics.read_text())))


@pytest.mark.parametrize("name", ["FNN", pytest.param("LSTM", marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(name, tmp_path):
    experiment = getattr(tiny, name)
    expected = tmp_path / "undisturbed"
    run(expected, experiment)
    root = tmp_path / "killed"
    dice = random.Random(name)
    here = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    folder = folder_of(root, experiment, 0)
    killed_at: list[str] = []
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(root), name], env=environment)
        # Most of a worker's life is its start; the dice begin to roll when it has written something, and later kills
        # wait for later phases: how far it gets in a given time hangs on the machine.
        begun = folder.metrics_size()
        while process.poll() is None and len(killed_at) < 5:
            if folder.metrics_size() != begun and phases(folder) > len(killed_at) // 2:
                break
            time.sleep(0.002)
        try:
            process.wait(dice.uniform(0, 0.25) if len(killed_at) < 5 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            lines = folder.metrics.read_text().splitlines()
            killed_at.append(json.loads(lines[-1])["phase"])
            continue
        assert process.returncode == 0
        break
    assert len(set(killed_at)) >= 2, f"not killed in several phases: {killed_at}"
    assert masks(root, experiment) == masks(expected, experiment)
    assert run(root, experiment) == run(expected, experiment)


def test_ctrl_c_saves_the_state_and_the_next_call_goes_on(finished, tmp_path):
    root, results = finished
    presses = iter(("training", "mask of pair 1", "mask of pair 2, learned again (1)"))
    target = next(presses)

    def press(tick: Tick) -> None:
        nonlocal target
        if tick.phase == target and not tick.done and target:
            target = next(presses, "")
            os.kill(os.getpid(), signal.SIGINT)

    paused = []
    for _ in range(4):
        runner = Runner(tiny.FNN, 0, folder_of(tmp_path, tiny.FNN, 0), press, tell_seconds=0.0)
        try:
            again = runner.run()
        except Paused as stop:
            paused.append(str(stop))
    assert len(paused) == 3
    assert paused[0].startswith("stopped in training after step 1 of 60")
    assert again == results
    assert masks(tmp_path) == masks(root)


def test_a_second_process_is_kept_out(tmp_path):
    folder = folder_of(tmp_path, tiny.FNN, 0)
    with folder.owned(), pytest.raises(InUse, match="another process is working in"):
        run(tmp_path)


@pytest.mark.parametrize("what", ["model", "mask", "mask record", "results", "checkpoint"])
def test_a_damaged_file_is_made_again_with_a_warning(what, finished, tmp_path):
    root, results = finished
    run(tmp_path)
    folder = folder_of(tmp_path, tiny.FNN, 0)
    path = {
        "model": folder.model,
        "mask": folder.mask("pair 1", 0),
        "mask record": folder.mask_record("pair 1", 0),
        "results": folder.results,
        "checkpoint": folder.checkpoint,
    }[what]
    if what == "checkpoint":
        path.write_bytes(b"cut short")
        folder.mask("pair 2", 1).unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"again|beginning"):
        assert run(tmp_path) == results
    assert masks(tmp_path) == masks(root)


def test_the_thread_count_a_run_was_begun_with_is_kept(tmp_path):
    import torch

    experiment = replace(tiny.FNN, masking=None)
    folder = folder_of(tmp_path, experiment, 0)
    seen = []
    Runner(experiment, 0, folder, lambda tick: seen.append(torch.get_num_threads()), threads=2, tell_seconds=0.0).run()
    folder.results.unlink()
    Runner(experiment, 0, folder, lambda tick: seen.append(torch.get_num_threads()), threads=1, tell_seconds=0.0).run()
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


def test_a_network_that_learned_nothing_is_a_warning(finished):
    assert any("the full network itself solves pair 1 only in" in warning for warning in finished[1].warnings)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("pair 1", "pair%201"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        ("é", "%C3%A9"),
        (".hidden", "%2Ehidden"),
        ("50%", "50%25"),
    ],
)
def test_any_name_becomes_one_path_segment(name, escaped):
    assert segment(name) == escaped
    assert "/" not in segment(name)


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        segment("")


def test_an_unwritable_folder_says_what_to_do(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="choose another with --out"), RunFolder(blocked / "run").owned():
        pass


def test_a_checkpoint_without_moments_is_not_taken_over(tmp_path):
    folder = folder_of(tmp_path, tiny.FNN, 0)

    def stop(tick):
        if tick.phase == "training" and tick.step >= 30:
            raise KeyboardInterrupt

    runner = Runner(tiny.FNN, 0, folder, stop, checkpoint_seconds=0.0, tell_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    saved = load_tensors(folder.checkpoint)
    save_tensors(folder.checkpoint, {n: t for n, t in saved.tensors.items() if "optimizer" not in n}, saved.header)
    with pytest.warns(UserWarning, match="starting training from its beginning: the checkpoint has no moments"):
        run(tmp_path)
    run(tmp_path / "whole")
    assert masks(tmp_path) == masks(tmp_path / "whole")


def test_a_torn_line_of_metrics_does_not_swallow_the_next(finished, tmp_path):
    run(tmp_path)
    folder = folder_of(tmp_path, tiny.FNN, 0)
    with folder.metrics.open("a") as file:
        file.write('{"phase": "mask of pair 1", "st')
    folder.mask("pair 1", 0).unlink()
    run(tmp_path)
    record = read_record(folder.mask_record("pair 1", 0), MaskRecord)
    assert [point.step for point in record.curve] == list(range(1, 25))


def test_a_training_that_diverges_says_so(tmp_path):
    broken = replace(tiny.FNN, training=replace(tiny.FNN.training, learning_rate=1e30))
    with pytest.raises(DivergedError, match="lower the learning rate"):
        run(tmp_path, broken)
