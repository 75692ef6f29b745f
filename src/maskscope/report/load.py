"""Finished runs, read back from their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskscope.core.mask import Mask
from maskscope.runs.environment import Environment
from maskscope.runs.pipeline import TrainingRecord
from maskscope.runs.results import MaskName, MaskRecord, SeedResults
from maskscope.runs.store import RunFolder, read_record
from maskscope.runs.study import Experiment, from_json


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
    def weights(self) -> int:
        """How many are masked."""
        return sum(tensor.weights for tensor in self.results[0].sizes[0].tensors)

    @property
    def name(self) -> str:
        """For headings."""
        return self.experiment.title or f"{self.experiment.name} {self.experiment.variant}"


@dataclass(frozen=True)
class Found:
    """What lies under a folder."""

    runs: tuple[Run, ...]
    unfinished: tuple[str, ...]
    """Seed folders without results, as text."""


def find(root: Path) -> Found:
    """Read every run under a folder: the folder of runs, of one run, or of one seed.

    Raises:
        FileNotFoundError: No run there.
    """
    configs = sorted(root.rglob("config.json"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f"no run under {root} (no config.json); make one with: maskscope run double-addition")
    seeds: dict[str, list[SeedRun]] = {}
    experiments: dict[str, Experiment] = {}
    unfinished: list[str] = []
    for config in configs:
        folder = RunFolder(config.parent)
        try:
            experiment = from_json(config.read_text(encoding="utf-8"))
            run = _seed(folder, experiment)
        except (ValueError, FileNotFoundError) as error:  # damaged files are ValueErrors, undecodable ones too
            unfinished.append(f"{folder.path}: {_first_line(error)}")
            continue
        if any(run.seed == other.seed for other in seeds.get(experiment.digest, ())):
            unfinished.append(f"{folder.path}: a second copy of seed {run.seed}, which would count twice")
            continue
        experiments[experiment.digest] = experiment
        seeds.setdefault(experiment.digest, []).append(run)
    runs = tuple(Run(experiments[key], tuple(sorted(seeds[key], key=lambda run: run.seed))) for key in experiments)
    return Found(runs, tuple(unfinished))


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
