"""Images of some of CIFAR-10's classes: split, scaled, varied, in batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskscope.data.arithmetic import Split, drawn, in_order
from maskscope.data.cifar10_archive import CLASSES, images, scaling_of_training_images
from maskscope.data.images import File, Images, Scaling, rows_of, shifted_and_mirrored

Validation = Literal["split", "test"]
"""split: a fifth of the training file is held out for validation, the test file is a split of its own. test: all of
the training file is trained on, and validation is the test file."""

Scales = Literal["dataset", "resnet", "imagenet"]
"""Mean and deviation of the channels. dataset: those of the training file (the published CNN). resnet: the constants
of the published ResNet. imagenet: those the pretrained networks were trained with."""

Labelled = tuple[Float[Tensor, "batch 3 32 32"], Int64[Tensor, " batch"]]
"""A batch: scaled images and classes."""

_CONSTANTS = {
    "resnet": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Pictures:
    """How images are split, scaled and varied, whatever their classes are wanted for."""

    validation: Validation
    augmented: bool
    scaling: Scales

    def batches(self, split: Split, size: int, seed: int, classes: tuple[int, ...]) -> Callable[[int], Labelled]:
        """Batches of some classes as a function of the step: sampling with replacement, as in the published loader."""
        (pixels, labels), rows, scaling = *self._part(split, classes), self._scaling()
        chosen = drawn(lambda places: rows[places], len(rows), size, seed)

        def batch(step: int) -> Labelled:
            here = chosen(step)
            shown = pixels[here]
            if self.augmented and split == "train":
                shown = shifted_and_mirrored(shown, np.random.default_rng([seed, step, 1]))
            return scaling(shown), labels[here].long()

        return batch

    def tests(self, split: Split, size: int, classes: tuple[int, ...]) -> list[Labelled]:
        """All images of some classes in order, as they are."""
        (pixels, labels), rows, scaling = *self._part(split, classes), self._scaling()
        return in_order(lambda places: (scaling(pixels[rows[places]]), labels[rows[places]].long()), len(rows), size)

    def _part(self, split: Split, classes: tuple[int, ...]) -> tuple[Images, Int64[Tensor, " rows"]]:
        """A file, and which of its images are those of some classes in a split."""
        file: File = "test" if split == "test" or (split == "valid" and self.validation == "test") else "train"
        whole = images(file)
        held_out = file == "train" and self.validation == "split"
        rows = rows_of(split, len(whole.labels)) if held_out and split != "test" else torch.arange(len(whole.labels))
        rows = rows[torch.isin(whole.labels[rows], torch.tensor(classes, dtype=torch.uint8))]
        if not len(rows):
            raise ValueError(f"no image of {', '.join(CLASSES[label] for label in classes)} in the {split} split")
        return whole, rows

    def _scaling(self) -> Scaling:
        if self.scaling == "dataset":
            return scaling_of_training_images()
        mean, deviation = (255 * torch.tensor(numbers) for numbers in _CONSTANTS[self.scaling])
        return Scaling(mean, deviation)
