"""How a mask of one ability of SmolLM2 fares while it is learned, by where its logits begin; the study is examples/smollm2.py.

Every so many steps the mask as it is then is tried on 64 pairs for learning that it does not see. About 10 minutes on one core.

    MASKSCOPE_DATA=... python examples/smollm2_begin.py --begin fisher --samples 2 --penalty 3e-7
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import smollm2
import tyro
from rich.console import Console
from torch import Tensor, nn

import maskscope as ms
from maskscope.analysis.scores import InTurn, at_random
from maskscope.core.mask import Mask

KEPT_OUT = 64


@dataclass(frozen=True)
class Settings:
    """How to learn."""

    begin: Literal["equal", "random", "fisher"] = "equal"
    """All logits at 4; or evenly from 2 to 32, in an order that is drawn, or in that of their Fisher information."""
    ability: str = "agreement"
    samples: int = 1
    """Of the mask a step, each on eight pairs."""
    penalty: float = 1e-6
    steps: int = 300
    decay: float = 0.3
    """Share of the steps over which the learning rate falls."""
    seed: int = 0
    every: int = 50
    """Steps between two tries."""
    json: Path | None = None
    """A file to add a line to."""


@dataclass(frozen=True)
class Try:
    """The mask after some steps."""

    step: int
    loss: float
    """Under samples of the mask, mean of the steps since the last try, in nats."""
    kept: float
    """Share of the weights."""
    right: float
    """Share of the pairs kept out, under the mask itself."""


def tried(network: nn.Module, mask: Mask, settings: Settings) -> float:
    """Share of the pairs kept out that are right."""
    some = smollm2.pairs(settings.ability, test=False)[:KEPT_OUT]
    batches = [smollm2.encoded(some[i : i + 32], smollm2.ONLY.get(settings.ability)) for i in range(0, KEPT_OUT, 32)]
    return ms.evaluate(ms.masked(network, mask), batches, smollm2.PREFER.right).value


def begun(network: nn.Module, over: ms.core.layout.Layout, settings: Settings) -> Tensor | None:
    """First logits; None: all at the schedule's."""
    turn = InTurn()
    if settings.begin == "fisher":
        return turn(network, over, lambda step: batch(settings, step), smollm2.PREFER)
    if settings.begin == "random":
        return turn.first + (turn.last - turn.first) * at_random(over, settings.seed)
    return None


def batch(settings: Settings, step: int) -> tuple[Tensor, Tensor]:
    """Of the pairs that are not kept out, others at each step."""
    learn = smollm2.pairs(settings.ability, test=False)[KEPT_OUT:]
    drawn = random.Random(f"{settings.ability} {step}").sample(learn, smollm2.PAIRS * settings.samples)
    return smollm2.encoded(drawn, smollm2.ONLY.get(settings.ability))


def main(settings: Settings) -> None:
    """Learn, and say how it goes."""
    network = smollm2.network()
    over = ms.layout(network, select=("*self_attn*",))
    schedule = ms.Schedule(
        steps=settings.steps,
        samples=settings.samples,
        learning_rate=0.2,
        decay=settings.decay,
        settled=None,
        init=4.0,
    )
    losses: list[float] = []
    tries: list[Try] = []
    for state in ms.learning(
        network,
        lambda step: batch(settings, step),
        smollm2.PREFER,
        layout=over,
        schedule=schedule,
        penalty=settings.penalty,
        seed=settings.seed,
        initial=begun(network, over, settings),
    ):
        losses.append(float(state.loss))
        if state.step % settings.every and state.step != settings.steps:
            continue
        mask = Mask.of(over, state.logits.values > 0)
        since = losses[-settings.every :]
        tries.append(Try(state.step, sum(since) / len(since), mask.density, tried(network, mask, settings)))
        Console().print(tries[-1])
    if settings.json is not None:
        with settings.json.open("a", encoding="utf-8") as file:
            record = {"settings": asdict(settings) | {"json": None}, "tries": [asdict(item) for item in tries]}
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
