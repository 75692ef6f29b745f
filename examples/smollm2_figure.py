"""Where the heads lie that masks of the study smollm2.py keep: a square for each head, a panel for each ability.

python examples/smollm2_figure.py runs/smollm2/heads-*/seed-0 --figure docs/images/smollm2-heads.svg
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

import maskscope as ms

COLOURS = {"no mask": "#eeeeee", "one": "#9ecae1", "both": "#08519c"}


@dataclass(frozen=True)
class Settings:
    """What to draw."""

    run: tyro.conf.Positional[Path]
    """The folder of a seed's run."""
    figure: Path
    """The file to draw into."""


def kept(folder: Path) -> Tensor:
    """How many masks of an ability keep each head, (heads of a layer, layers)."""
    masks = [ms.Mask.load(path) for path in sorted(folder.glob("*.safetensors"))]
    layers = len(masks[0].layout.spans)
    return torch.stack([mask.kept for mask in masks]).sum(0).view(layers, -1).T


def drawn(counts: dict[str, Tensor]) -> Figure:
    """A panel for each ability."""
    figure = Figure(figsize=(6.2, 1.3 * len(counts) + 0.7), layout="constrained")
    rows = figure.subplots(len(counts), sharex=True, squeeze=False)[:, 0]
    for axes, (ability, heads) in zip(rows, counts.items(), strict=True):
        axes.pcolormesh(heads, cmap=ListedColormap(list(COLOURS.values())), vmin=0, vmax=2, edgecolor="white")
        axes.set(title=ability, ylabel="head", yticks=[0.5, heads.shape[0] - 0.5], yticklabels=[1, heads.shape[0]])
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for position in range(3, heads.shape[0], 3):  # three heads share keys and values
            axes.axhline(position, color="black", linewidth=0.5)
        axes.spines[:].set_visible(False)
    layers = next(iter(counts.values())).shape[1]
    shown = [0, *range(4, layers, 5)]
    rows[-1].set(xlabel="layer", xticks=[i + 0.5 for i in shown], xticklabels=[i + 1 for i in shown])
    keys = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=keys, title="kept by", loc="outside right center", frameon=False)
    return figure


def main(settings: Settings) -> None:
    """Read and draw."""
    folders = sorted(path for path in (settings.run / "masks").iterdir() if path.is_dir() and path.name != "all")
    settings.figure.parent.mkdir(parents=True, exist_ok=True)
    drawn({folder.name: kept(folder) for folder in folders}).savefig(settings.figure)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
