"""Do fast masks equal published ones? Learns both several times on one network, and compares every mask with every other.

Double addition, pair 1. Networks, masks and states are kept in ``--work``: stopped with Ctrl-C or killed, the same command
goes on. References take about a quarter of an hour each on one core, fast masks two minutes.

    python benchmarks/schedules.py --cases fnn lstm
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import torch
import tyro
from torch import nn

import maskscope as ms
from maskscope.core.files import load_tensors, save_tensors
from maskscope.core.learning.learned import State, read
from maskscope.core.seeded import derive, seeded
from maskscope.data.double_addition import DoubleAddition, Mode
from maskscope.models.lstm import LSTMSettings
from maskscope.models.mlp import MLPSettings
from maskscope.runs.train import Trainee, training

HERE = Path(__file__).parent
BATCH = 128
SNAPSHOTS = (250, 500, 1000, 1500, 2000, 2500, 5000, 10_000, 20_000)
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """A trained network and the subtask whose mask is learned."""

    settings: MLPSettings | LSTMSettings
    mode: Mode
    penalty: float
    train_steps: int = 8000
    subtask: str = "pair 1"


CASES = {
    "fnn": Case(MLPSettings(hidden=(800,) * 4), "separate", 4e-4 / BATCH),
    "lstm": Case(LSTMSettings(), "together", 1e-4 / BATCH),
    "small": Case(MLPSettings(hidden=(512, 512)), "separate", 4e-4 / BATCH, subtask="pair 2"),
}
"""The schedule was chosen on the first two; the third tests it."""


def _of(steps: int) -> ms.Schedule:
    """The fast schedule stretched: as far in all, in so many steps."""
    return replace(ms.FAST, steps=steps, learning_rate=ms.FAST.learning_rate * ms.FAST.steps / steps, settled=None)


_CONSTANT = replace(ms.PUBLISHED, steps=2500, learning_rate=0.1, strata=True)
"""What a plainly higher learning rate gives."""
RUNS: dict[str, tuple[ms.Schedule, int]] = {
    "published": (ms.PUBLISHED, 2),
    "fast": (ms.FAST, 2),
    "fast, bfloat16": (ms.FAST, 2),
    "fast, 1,250 steps": (_of(1250), 2),
    "fast, 2,500 steps": (_of(2500), 2),
    "fast, 5,000 steps": (_of(5000), 2),
    "fast, 10,000 steps": (_of(10_000), 2),
    "constant rate": (_CONSTANT, 2),
}
"""Schedules and how many masks of each."""


@dataclass(frozen=True)
class Settings:
    """What to run."""

    cases: tuple[str, ...] = ("fnn", "lstm", "small")
    runs: tuple[str, ...] = tuple(RUNS)
    seeds: tuple[int, ...] = (0, 1)
    """Which masks of each, so that two processes can share the work; only what is finished is compared."""
    learn: bool = True
    """False: only compare what is there."""
    threads: int = 1
    work: Path = Path("runs-schedules")
    out: Path = HERE / "results" / "schedules.json"


def network(case: Case, folder: Path) -> tuple[nn.Module, DoubleAddition]:
    """The trained network, from disk if it is there."""
    data = DoubleAddition(case.mode)
    with seeded(0):
        model = case.settings.build(data.inputs, data.outputs)
    path = folder / "network.safetensors"
    if path.exists():
        model.load_state_dict(load_tensors(path).tensors)
        return model, data
    batches, objective = data.batches("train", BATCH, 1), data.objective(data.full)
    for state in training(Trainee(model, 1e-3), batches, objective, steps=case.train_steps, clip=1.0, seed=2):
        if state.step % 1000 == 0:
            print(f"{folder.name}: trained {state.step} steps, loss {float(state.loss):.2g}", flush=True)
    save_tensors(path, model.state_dict(), {})
    return model, data


def learn(name: str, seed: int, case: Case, folder: Path) -> None:
    """Learn one mask, with snapshots and checkpoints."""
    schedule, label = RUNS[name][0], f"{name}-{seed}"
    record, checkpoint = folder / f"{label}.json", folder / f"{label}.state"
    if record.exists():
        return
    model, data = network(case, folder)
    layout = ms.layout(model)
    logits, points, before = ms.Logits(layout, schedule), {}, 0.0
    if checkpoint.exists():
        saved = load_tensors(checkpoint)
        logits.restore(saved.tensors)
        points, before = saved.header["points"], saved.header["seconds"]
    key = derive(name, seed)
    states = ms.learning(
        model,
        data.batches("train", BATCH, key),
        data.objective(case.subtask),
        layout=layout,
        schedule=schedule,
        penalty=case.penalty,
        seed=key,
        resume=logits,
        autocast=torch.bfloat16 if "bfloat16" in name else None,
    )
    start = saved_at = time.monotonic()
    for state in states:
        now = time.monotonic()
        if state.step in SNAPSHOTS or state.step == state.steps:
            points[str(state.step)] = _snapshot(state, folder / f"{label}-{state.step}.mask", before + now - start)
            print(folder.name, label, state.step, points[str(state.step)], flush=True)
        if now - saved_at > CHECKPOINT_SECONDS:
            save_tensors(checkpoint, logits.state(), {"points": points, "seconds": before + now - start})
            saved_at = now
    record.write_text(json.dumps(points))
    checkpoint.unlink(missing_ok=True)


def _snapshot(state: State, path: Path, seconds: float) -> dict[str, float]:
    ms.Mask.of(state.logits.layout, state.gate.harden(state.logits.values, state.logits.layout)).save(path)
    reading = read(state)
    return {
        "kept": reading.kept,
        "undecided": reading.undecided,
        "expected": round(reading.expected),
        "seconds": round(seconds, 1),
    }


def compare(case: Case, folder: Path) -> dict[str, object]:
    """Every mask on the tests, and every pair of masks."""
    model, data = network(case, folder)
    tests = data.tests("valid")
    other = next(name for name in data.subtasks if name != case.subtask)
    masks: dict[tuple[str, int, int], ms.Mask] = {}
    rows: list[dict[str, object]] = []
    for name in RUNS:
        for record in sorted(folder.glob(f"{name}-[0-9].json")):
            seed, points = int(record.stem[-1]), json.loads(record.read_text())
            for step, point in points.items():
                mask = masks[name, seed, int(step)] = ms.Mask.load(folder / f"{name}-{seed}-{step}.mask")
                row = {"schedule": name, "seed": seed, "step": int(step), "last": step == list(points)[-1], **point}
                for which, tested in (("mask", mask), ("complement", ~mask)):
                    for where, subtask in (("own", case.subtask), ("other", other)):
                        score = ms.evaluate(ms.masked(model, tested), tests, data.metric(subtask))
                        row[f"{which}: {where}"] = round(score.value, 4)
                rows.append(row)
    ends = {(row["schedule"], row["seed"]): row["step"] for row in rows if row["last"]}
    references = [masks["published", seed, step] for (name, seed), step in ends.items() if name == "published"]
    for row in rows:
        mine = masks[row["schedule"], row["seed"], row["step"]]
        row["IoU with references"] = [round(ms.iou(mine, r), 4) for r in references if r is not mine]
    among: dict[str, list[float]] = {}
    for a, b in product(RUNS, RUNS):
        one = [masks[name, seed, step] for (name, seed), step in ends.items() if name == a]
        two = [masks[name, seed, step] for (name, seed), step in ends.items() if name == b]
        pairs = combinations(one, 2) if a == b else product(one, two)
        if a <= b:
            among[f"{a} | {b}"] = [round(ms.iou(x, y), 4) for x, y in pairs]
    return {"units": ms.layout(model).units, "masks": rows, "IoU of final masks": among}


def main(settings: Settings) -> None:
    """Learn what is missing, compare all, write the record."""
    torch.set_num_threads(settings.threads)
    results: dict[str, object] = json.loads(settings.out.read_text()) if settings.out.exists() else {}
    for name in settings.cases:
        case, folder = CASES[name], settings.work / name
        folder.mkdir(parents=True, exist_ok=True)
        if settings.learn:
            for run in settings.runs:
                for seed in (seed for seed in settings.seeds if seed < RUNS[run][1]):
                    learn(run, seed, case, folder)
        results[name] = compare(case, folder)
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
