"""SCAN: masks learned where some combinations of words do not occur: values only.

Source: Csordas et al. 2021, SCAN; settings of the published sweeps ``scan``, ``trafo_scan`` and ``scan_baseline``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from maskscope.core.learning.schedules import FAST, PUBLISHED
from maskscope.data.scan import SPLITS, Scan
from maskscope.experiments.halves import random_halves
from maskscope.models.encoder_decoder import EncoderDecoderSettings
from maskscope.models.transformer import TransformerSettings
from maskscope.runs.experiment import Experiment, Masking, Training

_BATCH = 256
_TRAINING = Training(steps=25_000, batch=_BATCH, clip=5.0)

_TENSORS = [f"{side}.weight_{part}_l{i}" for side in ("encoder", "decoder") for i in range(2) for part in ("ih", "hh")]

LSTM = Experiment(
    name="scan",
    variant="lstm",
    title="LSTM 2×200",
    data=Scan(forcing=0.5),
    network=EncoderDecoderSettings(),
    training=_TRAINING,
    masking=Masking(penalty=3e-5 / _BATCH, batch=_BATCH, repeats=1),
    halves=random_halves([*_TENSORS, "output.weight"]),
)
TRANSFORMER = Experiment(
    name="scan",
    variant="transformer",
    title="Transformer d100, 3+3",
    data=Scan(),
    network=TransformerSettings(),
    training=_TRAINING,
    masking=Masking(penalty=6e-4 / _BATCH, batch=_BATCH, repeats=1),
)


def baselines(experiment: Experiment) -> tuple[Experiment, ...]:
    """The same network trained from scratch on each of the other splits, without masks."""
    data = cast("Scan", experiment.data)
    return tuple(
        replace(
            experiment,
            name="scan-baseline",
            variant=f"{experiment.variant}-{split.replace(' ', '-')}",
            title=f"{experiment.title}, trained on {split}",
            data=replace(data, learned=split, masked=()),
            masking=None,
        )
        for split in SPLITS
        if split != data.learned
    )


def _with(experiment: Experiment, training: int, steps: int, repeats: int) -> Experiment:
    """The same in fewer steps, with so many masks of each split; from two on there is a ceiling."""
    changed = replace(experiment, training=replace(experiment.training, steps=training))
    return changed.remasked(schedule=replace(FAST, steps=steps), repeats=repeats)


QUICK = (
    replace(
        _with(TRANSFORMER, 1200, 300, 2),
        title="Transformer d64, 2+2",
        network=TransformerSettings(width=64, encoder=2, decoder=2, feedforward=128),
    ),
)
STANDARD = (_with(LSTM, 6000, 1000, 1), _with(TRANSFORMER, 10_000, 1000, 2))
"""Fast masks; a quarter of the training steps for the LSTM, four tenths for the Transformer. The LSTM's masks are
learned once: each takes a quarter of an hour on a core."""
PAPER = tuple(item.remasked(schedule=replace(PUBLISHED, steps=25_000, clip=5.0)) for item in (LSTM, TRANSFORMER))

BASELINE_QUICK = baselines(QUICK[0])
BASELINE_STANDARD = tuple(item for network in STANDARD for item in baselines(network))
BASELINE_PAPER = tuple(item for network in PAPER for item in baselines(network))
