"""The Mathematics Dataset, a mask of the easy level: values only.

Source: Csordas et al. 2021, Mathematics Dataset; settings of the published sweeps, one for each task.
"""

from __future__ import annotations

from dataclasses import replace

from maskscope.core.learning.schedules import FAST, PUBLISHED
from maskscope.data.mathematics import Mathematics
from maskscope.data.mathematics_generation import Task
from maskscope.models.transformer import TransformerSettings
from maskscope.runs.experiment import Adam, Experiment, Masking, Training

_NETWORK = TransformerSettings(width=512, heads=8, encoder=6, decoder=6, feedforward=2048, tied=True)


def _paper(
    task: Task,
    *,
    batch: int,
    steps: int,
    penalty: float,
    mask_batch: int,
    mask_rate: float,
    mask_steps: int,
    warmup: int = 0,
) -> Experiment:
    adam = Adam(betas=(0.9, 0.995), epsilon=1e-9)
    schedule = replace(PUBLISHED, steps=mask_steps, learning_rate=mask_rate, samples=8, clip=0.1)
    return Experiment(
        name="mathematics",
        variant=task.split("__")[1].replace("_", "-"),
        title=f"{task.split('__')[1]}, Transformer d512, 6+6",
        data=Mathematics(task),
        network=_NETWORK,
        training=Training(steps=steps, learning_rate=1e-4, batch=batch, clip=0.1, optimizer=adam, warmup=warmup),
        masking=Masking(penalty=penalty / batch, batch=mask_batch, repeats=1, schedule=schedule),
    )


PAPER = (
    _paper(
        "arithmetic__add_or_sub",
        batch=256,
        steps=30_000,
        penalty=2e-5,
        mask_batch=256,
        mask_rate=0.03,
        mask_steps=30_000,
    ),
    _paper(
        "calculus__differentiate",
        batch=128,
        steps=40_000,
        penalty=1e-5,
        mask_batch=128,
        mask_rate=0.03,
        mask_steps=40_000,
    ),
    _paper(
        "algebra__linear_1d",
        batch=512,
        steps=200_000,
        penalty=1e-6,
        mask_batch=400,
        mask_rate=0.02,
        mask_steps=50_000,
        warmup=5000,
    ),
    _paper(
        "polynomials__collect",
        batch=128,
        steps=200_000,
        penalty=1e-6,
        mask_batch=256,
        mask_rate=0.02,
        mask_steps=50_000,
        warmup=5000,
    ),
    _paper(
        "comparison__sort", batch=256, steps=30_000, penalty=3e-6, mask_batch=256, mask_rate=0.03, mask_steps=30_000
    ),
)
"""The paper's Transformer on its five tasks; penalties divided by the training batch, as published."""

_SMALL = TransformerSettings(width=128, heads=4, encoder=2, decoder=2, feedforward=256, tied=True)


def _small(
    experiment: Experiment, network: TransformerSettings, training: int, steps: int, questions: int
) -> Experiment:
    """The same task for a small network, which learns faster, and under the fast schedule.

    One penalty for all tasks, 10 to 400 times the published ones: it is added up over 67 times fewer weights, in fewer steps.
    """
    data = experiment.data
    assert isinstance(data, Mathematics)
    schedule = replace(FAST, steps=steps)
    return replace(
        experiment,
        title=f"{data.task.split('__')[1]}, Transformer d{network.width}, {network.encoder}+{network.decoder}",
        data=replace(data, train=questions),
        network=network,
        training=replace(
            experiment.training, steps=training, learning_rate=1e-3, batch=128, clip=1.0, warmup=training // 20
        ),
    ).remasked(batch=128, penalty=1e-4 / 128, schedule=schedule)


STANDARD = tuple(_small(item, _SMALL, 8000, 1000, 100_000) for item in PAPER)
"""A small Transformer; the tasks are the paper's."""

QUICK = (_small(PAPER[0], replace(_SMALL, width=64, feedforward=128), 1500, 300, 20_000),)
