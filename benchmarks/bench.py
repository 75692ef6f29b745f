"""What a masked step costs, beside plain training and beside the published estimator.

In one run, on the same batches, in turns: (a) the network's own training step, fused Adam; (b) the published estimator
as ``reference.py`` has it; (c) maskscope. Medians of several rounds; a ratio is the median of the rounds' ratios.

    python benchmarks/bench.py --cases fnn800 lstm --rounds 5
    python benchmarks/bench.py --device cuda --out benchmarks/results/steps-gpu.json
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from networks import CASES, Case, case
from reference import Reference

import maskscope as ms
from maskscope.core.learning.learn import learning

HERE = Path(__file__).parent
SAMPLES = {"bert": (1, 4), "gpt2": (1, 4)}


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    cases: tuple[str, ...] = tuple(CASES)
    """Which networks."""
    rounds: int = 7
    """Timed turns of each of the three; medians are taken over them."""
    seconds: float = 1.0
    """About how long one turn lasts."""
    threads: int = 2
    device: str = "cpu"
    """Where networks, batches and masks are; cuda for a GPU."""
    parts: tuple[str, ...] = ("plain", "published", "maskscope", "bfloat16")
    """What is timed; bfloat16: maskscope with products in bfloat16."""
    out: Path = HERE / "results" / "steps.json"


def plain(case: Case) -> Callable[[], object]:
    """The network's own training step."""
    adam = torch.optim.Adam(case.model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        adam.zero_grad()
        case.objective(case.model, case.batch).backward()
        adam.step()

    return step


def masked(
    case: Case, samples: int, *, autocast: torch.dtype | None = None, low_memory: bool = False
) -> Callable[[], object]:
    """A step of ``learn_mask`` with the default schedule."""
    schedule = replace(ms.FAST, steps=10**9, samples=samples)
    states: Iterator[object] = learning(
        case.model,
        [case.batch],
        case.objective,
        layout=case.layout,
        schedule=schedule,
        penalty=4e-4 / 128,
        kernel="compiled",
        autocast=autocast,
        low_memory=low_memory,
        cuda_graph=True,
    )
    return lambda: next(states)


def published(case: Case, samples: int) -> Callable[[], object]:
    """A step of the published estimator."""
    return Reference(case, samples).step


def measure(name: str, samples: int, settings: Bench) -> dict[str, object]:
    """Rounds of the three in turn."""
    makers: dict[str, Callable[[Case], Callable[[], object]]] = {
        "plain": plain,
        "published": lambda c: published(c, samples),
        "maskscope": lambda c: masked(c, samples),
        "bfloat16": lambda c: masked(c, samples, autocast=torch.bfloat16),
    }
    subject = case(name, settings.device)
    steps: dict[str, Callable[[], object]] = {}
    repeats: dict[str, int] = {}
    first: dict[str, float] = {}
    for part in settings.parts:
        steps[part] = makers[part](case(name, settings.device))
        first[part] = _timed(steps[part], 1)
        once = min(_timed(steps[part], 1) for _ in range(3))
        repeats[part] = max(1, round(settings.seconds / once))
    rounds: dict[str, list[float]] = {part: [] for part in settings.parts}
    for _ in range(settings.rounds):
        for part, step in steps.items():
            rounds[part].append(_timed(step, repeats[part]))
    record: dict[str, object] = {
        "network": subject.name,
        "masked weights": subject.layout.weights,
        "samples": samples,
        "milliseconds": {part: [round(1e3 * t, 3) for t in times] for part, times in rounds.items()},
        "first step, seconds": {part: round(t, 2) for part, t in first.items()},
    }
    for over, under in (
        ("maskscope", "plain"),
        ("published", "plain"),
        ("published", "maskscope"),
        ("bfloat16", "plain"),
    ):
        if over in rounds and under in rounds:
            ratios = [a / b for a, b in zip(rounds[over], rounds[under], strict=True)]
            record[f"{over}/{under}"] = round(statistics.median(ratios), 3)
    return record


def _timed(step: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def machine(device: str = "cpu") -> dict[str, object]:
    """What it ran on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        name = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    if device != "cpu":
        name = torch.cuda.get_device_name(device)
    return {"processor": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def main(settings: Bench) -> None:
    """Measure, print, and write the record."""
    torch.set_num_threads(settings.threads)
    records: list[dict[str, object]] = []
    for name in settings.cases:
        for samples in SAMPLES.get(name, (4,)):
            records.append(measure(name, samples, settings))
            print(json.dumps(records[-1]), flush=True)
    settings.out.parent.mkdir(exist_ok=True, parents=True)
    settings.out.write_text(json.dumps({"machine": machine(settings.device), "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
