"""All runs of an experiment in one preset, and how they were made: what docs/experiments.md has a section for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from maskscope.analysis.modularity import estimate
from maskscope.experiments import Preset, experiments
from maskscope.report import calibration
from maskscope.report.load import ContinualRun, ContinualSeed, Run, SeedRun

_MANY = 12
"""Of more networks than this times are not told one by one."""


@dataclass(frozen=True)
class Setting:
    """All runs of an experiment in one preset."""

    experiment: str
    preset: str
    runs: tuple[Run, ...]
    continual: tuple[ContinualRun, ...] = ()

    @property
    def command(self) -> str:
        """What made them: a line for each set of seeds, with the variants named where they are not all there are."""
        everything = {item.variant for item in experiments(self.experiment, cast("Preset", self.preset))}
        threads = {seed.environment.threads for seed in self._seeds}
        every = [f"--threads {count}" for count in threads if len(threads) == 1]
        variants: dict[tuple[int, ...], list[str]] = {}
        for run in self._every_run:
            variants.setdefault(tuple(seed.seed for seed in run.seeds), []).append(run.experiment.variant)
        commands = (
            [
                *("maskscope run", self.experiment, "--preset", self.preset),
                *([] if set(names) == everything else ["--only", *names]),
                *("--seeds", *map(str, seeds)),
            ]
            for seeds, names in variants.items()
        )
        return "\n    ".join(" ".join([*command, *every]) for command in commands)

    @cached_property
    def planted(self) -> calibration.Groups:
        """What was recovered of planted networks."""
        return calibration.groups(self.runs)

    @property
    def hardware(self) -> str:
        """On what they ran."""
        environments = {
            f"{seed.environment.machine.split(',')[0]}, torch {seed.environment.torch}, "
            + (
                f"{seed.environment.threads} thread{'' if seed.environment.threads == 1 else 's'} a run"
                if seed.environment.device == "cpu"
                else seed.environment.device
            )
            for seed in self._seeds
        }
        return "; ".join(sorted(environments))

    @property
    def minutes(self) -> str:
        """How long a seed of each network took, training and masks."""
        runs = self._every_run
        if len(runs) > _MANY:
            minutes = [estimate(seed.seconds for seed in run.seeds).mean / 60 for run in runs]
            return f"{min(minutes):.1f} to {max(minutes):.1f} min"
        return ", ".join(f"{run.name} {estimate(seed.seconds for seed in run.seeds).mean / 60:.0f} min" for run in runs)

    @property
    def unsettled(self) -> str:
        """Which masks should have been learned for longer; empty where none."""
        late = {run.name: run.unsettled for run in self.runs if run.unsettled}
        if len(self.runs) > _MANY:
            return f"those of {len(late)} of {len(self.runs)} networks" if late else ""
        return ", ".join(f"{name} {found.masks} of {found.of} ({found.most:.0%})" for name, found in late.items())

    @property
    def _every_run(self) -> tuple[Run | ContinualRun, ...]:
        return (*self.runs, *self.continual)

    @property
    def _seeds(self) -> list[SeedRun | ContinualSeed]:
        return [seed for run in self._every_run for seed in run.seeds]
