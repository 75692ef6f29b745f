"""Learned masks against scores that need no learning: how well the best weights of each do, by how many are kept.

A feed-forward network that adds two pairs of numbers; the ability is pair 1. About 6 minutes on one core.

    python examples/sizes.py --json results/sizes.json --figure docs/images/sizes.svg
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

import maskscope as ms
from maskscope.analysis import scores
from maskscope.analysis.faithfulness import Curve, curve
from maskscope.analysis.intervals import nested
from maskscope.core.seeded import derive, seeded
from maskscope.data.double_addition import DoubleAddition
from maskscope.models.mlp import MLPSettings
from maskscope.runs.experiment import Training
from maskscope.runs.train import Trainee, training

SUBTASK, BATCH = "pair 1", 128


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    networks: int = 3
    """Trained from different seeds."""
    width: int = 512
    """Units of each of the two hidden layers."""
    training: int = 1500
    """Steps."""
    batches: int = 40
    """Batches of 128 that gradients are taken of."""
    json: Path | None = None
    """A file to write the curves to."""
    figure: Path | None = None
    """A file to draw them into."""


def network(settings: Settings, data: DoubleAddition, seed: int) -> torch.nn.Module:
    """Trained on both pairs."""
    with seeded(derive(seed, "network")):
        model = MLPSettings(hidden=(settings.width,) * 2).build(data.inputs, data.outputs)
    steps = Training(steps=settings.training)
    batches = data.batches("train", BATCH, derive(seed, "train"), data.full)
    for _ in training(Trainee(model, steps), batches, data.objective(data.full), steps, seed):
        pass
    return model.eval()


def ways(
    settings: Settings, data: DoubleAddition, model: torch.nn.Module, seed: int
) -> dict[str, Callable[[], Tensor]]:
    """Scores of every weight, by how they are made."""
    over, objective = ms.layout(model), data.objective(SUBTASK)
    drawn = data.batches("train", BATCH, derive(seed, "scores"), SUBTASK)
    some = [drawn(step) for step in range(settings.batches)]

    def learned() -> Tensor:
        batches = data.batches("train", BATCH, derive(seed, "mask"), SUBTASK)
        return ms.learn_mask(
            model, batches, objective, layout=over, penalty=4e-4 / BATCH, seed=seed, subtask=SUBTASK
        ).logits

    return {
        "learned": learned,
        "gradient x weight": lambda: scores.gradient_times_weight(model, some, objective, over),
        "integrated gradients": lambda: scores.integrated_gradients(model, some, objective, over),
        "Fisher": lambda: scores.fisher(model, some, objective, over),
        "magnitude": lambda: scores.magnitude(model, over),
        "random": lambda: scores.at_random(over, seed),
    }


def main(settings: Settings) -> None:
    """Measure, print, write and draw."""
    data, found = DoubleAddition("separate"), dict[str, list[Curve]]()
    for seed in range(settings.networks):
        model = network(settings, data, seed)
        over, tests = ms.layout(model), data.tests("valid", SUBTASK)[:2]

        def right(mask: ms.Mask, model: torch.nn.Module = model, tests: list[object] = tests) -> float:  # type: ignore[assignment]
            return ms.evaluate(ms.masked(model, mask), tests, data.metric(SUBTASK)).value

        for name, score in ways(settings, data, model, seed).items():
            found.setdefault(name, []).append(curve(over, score(), right))
            last = found[name][-1]
            print(f"network {seed}, {name}: CPR {last.cpr:.3f}, CMD {last.cmd:.3f}", flush=True)  # noqa: T201
    record = {
        "settings": {"networks": settings.networks, "width": settings.width, "training": settings.training},
        "rows": [
            {
                "score": name,
                "CPR": nested([[item.cpr] for item in curves]).short,
                "CMD": nested([[item.cmd] for item in curves]).short,
                "shares": [point.share for point in curves[0].points],
                "accuracy": [[point.value for point in item.points] for item in curves],
            }
            for name, curves in found.items()
        ],
    }
    if settings.json is not None:
        settings.json.write_text(json.dumps(record, indent=1) + "\n")
    if settings.figure is not None:
        _draw(record, settings.figure)


def _draw(record: dict[str, object], path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for row in record["rows"]:  # type: ignore[attr-defined]
        mean = torch.tensor(row["accuracy"]).mean(0)
        axes.plot(
            [100 * share for share in row["shares"][1:]],
            mean[1:].tolist(),
            marker="o",
            markersize=3,
            label=row["score"],
        )
    axes.set(xscale="log", xlabel="weights kept, %", ylabel="accuracy on pair 1", ylim=(-0.02, 1.05))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main(tyro.cli(Settings))
