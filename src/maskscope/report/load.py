"""Finished runs, read back from their folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from maskscope.core.learning.settling import is_unsettled
from maskscope.core.mask import Mask
from maskscope.runs.continual import Continual, ContinualResults, continual_from_json, is_continual
from maskscope.runs.environment import Environment
from maskscope.runs.experiment import Experiment, from_json
from maskscope.runs.pipeline import TrainingRecord
from maskscope.runs.results import MaskName, MaskRecord, SeedResults
from maskscope.runs.store import RunFolder, read_record


class Unsettled(NamedTuple):
    """Masks that should have been learned for longer."""

    masks: int
    of: int
    """Masks whose learning curves are there."""
    most: float
    """The largest share of units that changed at the end."""


@dataclass(frozen=True)
class SeedRun:
    """One finished seed."""

    folder: RunFolder
    seed: int
    results: SeedResults
    training: TrainingRecord
    environment: Environment
    records: tuple[MaskRecord, ...]

    @property
    def seconds(self) -> float:
        """Training and learning, without testing."""
        return self.training.seconds + sum(record.seconds for record in self.records)

    def has(self, name: MaskName) -> bool:
        """Whether a mask is there: collected results come without."""
        return self.folder.mask(name.subtask, name.seed).exists()

    def mask(self, name: MaskName) -> Mask:
        """One of its masks."""
        return Mask.load(self.folder.mask(name.subtask, name.seed))


@dataclass(frozen=True)
class Run:
    """All finished seeds of one experiment."""

    experiment: Experiment
    seeds: tuple[SeedRun, ...]

    @property
    def results(self) -> tuple[SeedResults, ...]:
        """One per network seed."""
        return tuple(seed.results for seed in self.seeds)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What stands in the way of a verdict, and whether masks should have been learned for longer."""
        late = self.unsettled
        if late is None:
            return self.reasons
        text = (
            f"{late.masks} of {late.of} masks had not settled: over the last 4% of the steps at the full learning rate up to "
            f"{late.most:.0%} of their units still changed; more steps may make masks more alike"
        )
        return (*self.reasons, text)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Warnings of all seeds, those that differ in numbers only as one: with any of them one cannot tell."""
        alike: dict[str, list[str]] = {}
        for text in (text for result in self.results for text in result.warnings):
            alike.setdefault(re.sub(r"\d[\d.,]*", "#", text), []).append(text)
        return tuple(
            texts[0] + (f" ({len(texts) - 1} more like it)" if len(texts) > 1 else "") for texts in alike.values()
        )

    @property
    def unsettled(self) -> Unsettled | None:
        """Known of masks whose learning curves are there; None where all had settled."""
        masking = self.experiment.masking
        last = [record.curve[-1].changed for seed in self.seeds for record in seed.records if record.curve]
        changed = [share for share in last if share is not None and masking and is_unsettled(share, masking.schedule)]
        return Unsettled(len(changed), len(last), max(changed)) if changed else None

    @property
    def weights(self) -> int:
        """How many are masked."""
        sizes = self.results[0].sizes
        return sum(tensor.weights for tensor in sizes[0].tensors) if sizes else 0

    @property
    def name(self) -> str:
        """For headings."""
        return self.experiment.title or f"{self.experiment.name} {self.experiment.variant}"


@dataclass(frozen=True)
class ContinualSeed:
    """One finished seed."""

    folder: RunFolder
    seed: int
    results: ContinualResults
    environment: Environment

    @property
    def seconds(self) -> float:
        """Learning, without testing."""
        return sum(task.seconds for task in self.results.tasks)


@dataclass(frozen=True)
class ContinualRun:
    """All finished seeds of tasks learned in turn."""

    experiment: Continual
    seeds: tuple[ContinualSeed, ...]

    @property
    def results(self) -> tuple[ContinualResults, ...]:
        """One per seed."""
        return tuple(seed.results for seed in self.seeds)

    @property
    def name(self) -> str:
        """For headings."""
        return self.experiment.title or f"{self.experiment.name} {self.experiment.variant}"

    @property
    def tasks(self) -> int:
        """How many."""
        return self.experiment.data.permutations


@dataclass(frozen=True)
class Found:
    """What lies under a folder."""

    runs: tuple[Run, ...]
    unfinished: tuple[str, ...]
    """Seed folders without results, as text."""
    continual: tuple[ContinualRun, ...] = ()
    """Tasks learned in turn."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is finished."""
        return not self.runs and not self.continual


def find(root: Path) -> Found:
    """Read every run under a folder: the folder of runs, of one run, or of one seed.

    Raises:
        FileNotFoundError: No run there.
    """
    configs = sorted(root.rglob("config.json"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f"no run under {root} (no config.json); make one with: maskscope run double-addition")
    runs: dict[str, tuple[Experiment, list[SeedRun]]] = {}
    continual: dict[str, tuple[Continual, list[ContinualSeed]]] = {}
    unfinished: list[str] = []
    for config in configs:
        folder = RunFolder(config.parent)
        try:
            text = config.read_text(encoding="utf-8")
            if is_continual(text):
                experiment = continual_from_json(text)
                doubled = _add(continual.setdefault(experiment.digest, (experiment, [])), _continual_seed(folder))
            else:
                experiment = from_json(text)
                doubled = _add(runs.setdefault(experiment.digest, (experiment, [])), _seed(folder, experiment))
        except (ValueError, FileNotFoundError) as error:  # damaged files are ValueErrors, undecodable ones too
            unfinished.append(f"{folder.path}: {_first_line(error)}")
            continue
        if doubled is not None:
            unfinished.append(f"{folder.path}: a second copy of seed {doubled}, which would count twice")
    return Found(
        tuple(Run(experiment, tuple(sorted(seeds, key=_order))) for experiment, seeds in runs.values() if seeds),
        tuple(unfinished),
        tuple(ContinualRun(item, tuple(sorted(seeds, key=_order))) for item, seeds in continual.values() if seeds),
    )


S = TypeVar("S", SeedRun, ContinualSeed)


def _add(known: tuple[object, list[S]], seed: S) -> int | None:
    """Take a seed in; returns its number if it is there already."""
    if any(seed.seed == other.seed for other in known[1]):
        return seed.seed
    known[1].append(seed)
    return None


def _order(seed: SeedRun | ContinualSeed) -> int:
    return seed.seed


def _continual_seed(folder: RunFolder) -> ContinualSeed:
    results = read_record(folder.results, ContinualResults)
    return ContinualSeed(folder, results.seed, results, read_record(folder.path / "env.json", Environment))


def _seed(folder: RunFolder, experiment: Experiment) -> SeedRun:
    results = read_record(folder.results, SeedResults)
    records = tuple(read_record(folder.mask_record(subtask, seed), MaskRecord) for subtask, seed in experiment.masks())
    return SeedRun(
        folder,
        results.seed,
        results,
        read_record(folder.training, TrainingRecord),
        read_record(folder.path / "env.json", Environment),
        records,
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "not finished; run the same command again to go on"
    return str(error).splitlines()[0]
