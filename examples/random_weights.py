"""Does a mask find a function, or create it? Every control of a mask on a small Hugging Face model.

    python examples/random_weights.py                    # about five minutes
    python examples/random_weights.py --json found.json  # and keep what was found

A BERT of two layers is trained to add two numbers modulo 12, or to multiply them. Masks of addition are learned on it, and on the
same network with its initial weights. Needs transformers: pip install maskscope[hf]
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

import maskscope as ms
from maskscope.analysis.controls import Control
from maskscope.analysis.intervals import nested
from maskscope.core.objectives import Objective
from maskscope.core.seeded import seeded

NUMBERS, ADD, MUL, WIDTH = 12, 12, 13, 48
TESTS = ("addition", "multiplication")
ENDS = ["bert.encoder.layer.0.attention.self.*", "classifier.weight"]
CHANCE = 1 / NUMBERS

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """How long, and how often."""

    networks: int = 3
    steps: int = 3000
    """Of training."""
    mask_steps: int = 1000
    json: Path | None = None
    """Where to keep what was found."""


def problems(operation: int | None, n: int, seed: int) -> Batch:
    """Sequences (number, operation, number) and the result; the operation drawn where none is given."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, NUMBERS, (2, n), generator=generator)
    drawn = torch.randint(ADD, MUL + 1, (n,), generator=generator)
    asked = drawn if operation is None else torch.full((n,), operation)
    labels = torch.where(asked == ADD, a + b, a * b) % NUMBERS
    return {"input_ids": torch.stack([a, asked, b], 1), "labels": labels}


def loss(network: Callable[..., object], batch: Batch) -> Tensor:
    """Cross-entropy of the result."""
    return functional.cross_entropy(network(input_ids=batch["input_ids"]).logits, batch["labels"])  # pyright: ignore


def right(network: Callable[..., object], batch: Batch) -> Tensor:
    """Whether the result is right."""
    said = network(input_ids=batch["input_ids"]).logits.argmax(-1)  # pyright: ignore
    return (said == batch["labels"]).float()


def trained(seed: int, steps: int) -> tuple[nn.Module, nn.Module]:
    """A network, and the same with its initial weights."""
    config = BertConfig(
        vocab_size=MUL + 1,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        num_labels=NUMBERS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with seeded(seed):
        model = BertForSequenceClassification(config)
    untrained = copy.deepcopy(model)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        adam.zero_grad()
        loss(model, problems(None, 128, 10_000 * seed + step)).backward()
        adam.step()
    return model, untrained


def tested(seed: int, settings: Settings) -> tuple[Control, ...]:
    """A mask of addition on one network, and every control."""
    model, untrained = trained(seed, settings.steps)

    def learn(network: nn.Module, objective: Objective, mask_seed: int) -> ms.Mask:
        schedule = ms.Schedule(steps=settings.mask_steps, samples=2)
        batches = lambda step: problems(ADD, 128, 1_000_000 * (mask_seed + 1) + step)  # noqa: E731
        return ms.learn_mask(network, batches, objective, schedule=schedule, penalty=3e-6, seed=mask_seed).mask

    return ms.controls(
        model,
        learn(model, loss, 0),
        {name: [problems(operation, 2000, 1)] for name, operation in zip(TESTS, (ADD, MUL), strict=True)},
        right,
        ends=ENDS,
        learn=learn,
        objective=loss,
        untrained=untrained,
    )


def shown(found: list[tuple[Control, ...]]) -> dict[str, dict[str, str]]:
    """Mean and 90 % interval over networks, for every control."""
    rows: dict[str, dict[str, str]] = {}
    for same in zip(*found, strict=True):
        rows[same[0].name] = {
            "weights kept": f"{sum(item.kept for item in same) / len(same):,.0f}",
            **{f"{test} alone": nested([[item.with_mask[test].value] for item in same]).short for test in TESTS},
            **{f"{test} without": nested([[item.without[test].value] for item in same]).short for test in TESTS},
            "cost": nested([[item.cost("addition", CHANCE)] for item in same]).short,
        }
    return rows


def main(settings: Settings) -> None:
    """Learn, test, show, keep."""
    found = [tested(seed, settings) for seed in range(settings.networks)]
    rows = shown(found)
    table = Table(title=f"A mask of addition and its controls, {settings.networks} networks")
    for column in ("", *next(iter(rows.values()))):
        table.add_column(column)
    for name, cells in rows.items():
        table.add_row(name, *cells.values())
    Console(width=160).print(table)
    if settings.json is not None:
        kept = {"settings": {**asdict(settings), "json": None}, "controls": rows}
        settings.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
