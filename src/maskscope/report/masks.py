"""Mask files on the terminal: what one holds, and what two have in common."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from maskscope.analysis.compare import overlap, per_layer, per_tensor
from maskscope.core.mask import Mask


def wide() -> Console:
    """A console that does not cut names when piped."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def print_overlap(a: tuple[str, Mask], b: tuple[str, Mask], console: Console) -> None:
    """Overlap of two masks per tensor, per layer and pooled, with its chance level.

    Args:
        a: Where a mask is from, and the mask.
        b: Another.
        console: Where to print.

    Raises:
        ValueError: They have different layouts.
    """
    (where_a, first), (where_b, second) = a, b
    tensors, layers = per_tensor(first, second), per_layer(first, second)
    whole = overlap(first, second, where="all")
    if first.origin.model != second.origin.model:
        console.print("warning: the two masks were learned on networks with different weights", style="yellow")
    console.print(f"A: {where_a}\nB: {where_b}", markup=False, highlight=False, soft_wrap=True)
    header = ("kept by A", "kept by B", "both", "units", "IoU", "chance", "IoMin", "chance")
    table = _table("tensor", *header)
    pooled = layers if len(layers) < len(tensors) else ()
    for prefix, rows in (("", tensors), ("layer ", pooled), ("", (whole,))):
        for row in rows:
            counts = (f"{count:,}" for count in (row.first, row.second, row.both, row.units))
            shares = (f"{share:.3f}" for share in (row.iou, row.chance_iou, row.iomin, row.chance_iomin))
            table.add_row(Text(prefix + row.where), *counts, *shares)
        table.add_section()
    console.print(table)


def print_mask(mask: Mask, console: Console) -> None:
    """Where a mask comes from, and what it keeps of each tensor."""
    origin = mask.origin
    for label, value in (
        ("label", origin.label),
        ("subtask", origin.subtask),
        ("seed", origin.seed),
        ("gate", origin.gate),
        ("threshold", origin.threshold),
        ("penalty", origin.penalty),
        ("steps", origin.steps),
        ("network", origin.model and f"{len(origin.model.parameters)} parameters, digest {origin.model.digest}"),
    ):
        console.print(f"{label:<10}{'-' if value in ('', None) else value}", markup=False, highlight=False)
    table = _table("tensor", "unit", "kept units", "units", "kept weights", "weights", "density")
    for count in mask.counts():
        kind = mask.layout.by_name[count.parameter].kind
        numbers = (count.kept_units, count.units, count.kept_weights, count.weights)
        table.add_row(Text(count.parameter), kind, *(f"{number:,}" for number in numbers), f"{count.density:.1%}")
    totals = (mask.kept_units, mask.layout.units, mask.kept_weights, mask.layout.weights)
    table.add_row("all", "", *(f"{number:,}" for number in totals), f"{mask.density:.1%}")
    console.print(table)


def _table(first: str, *others: str) -> Table:
    """Names to the left, folded where they are too long; numbers to the right."""
    table = Table()
    table.add_column(first, overflow="fold", min_width=16)
    for name in others:
        table.add_column(name, justify="right")
    return table
