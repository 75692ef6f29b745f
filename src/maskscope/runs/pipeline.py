"""One seed of an experiment: train, learn every mask, test and compare; each step skipped if done, resumed if begun."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from maskscope.core.files import Damaged, load_tensors, save_tensors
from maskscope.core.fingerprint import Fingerprint, fingerprint
from maskscope.core.interrupts import deferred
from maskscope.core.layout import Layout, layout
from maskscope.core.learn import Learned, State, finish, is_reading, learning, origin_of, read
from maskscope.core.logits import Logits
from maskscope.core.mask import Mask
from maskscope.core.seeded import derive, seeded
from maskscope.runs.environment import Environment, environment
from maskscope.runs.results import CurvePoint, MaskName, MaskRecord, SeedResults, histogram, measure
from maskscope.runs.store import RunFolder, read_record, write_record, write_text
from maskscope.runs.study import Experiment, to_json
from maskscope.runs.train import Trainee, TrainingState, training


class Tick(NamedTuple):
    """A sign of life from a run."""

    task: str
    """Which run."""
    phase: str
    """What it is doing."""
    step: int
    steps: int
    done: str = ""
    """When the phase has ended: one line on how it went."""


Report = Callable[[Tick], None]


class Paused(KeyboardInterrupt):
    """Ctrl-C; everything up to the last step is on disk."""


class _Step(Protocol):
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def loss(self) -> Tensor: ...


S = TypeVar("S", bound=_Step)


@dataclass(frozen=True)
class TrainingRecord:
    """How training went."""

    seconds: float
    steps: int
    loss: float
    """Of the last batch."""
    digest: str
    """Of the network's weights, to see that the file is the one this record speaks of."""


def folder_of(root: Path, experiment: Experiment, seed: int) -> RunFolder:
    """Where one seed of an experiment lives under a root folder."""
    return RunFolder(root / f"{experiment.variant}-{experiment.digest}" / f"seed-{seed}")


@dataclass(frozen=True)
class Runner:
    """Runs one seed of one experiment in its folder.

    Raises (from ``run``):
        InUse: Another process owns the folder.
        Paused: Ctrl-C; run again to go on.
        OSError: The folder cannot be written to.
    """

    experiment: Experiment
    seed: int
    folder: RunFolder
    report: Report
    threads: int = 1
    checkpoint_seconds: float = 15.0
    """How often the state of the step under way is written."""
    tell_seconds: float = 0.1
    """How often progress is told."""

    @property
    def task(self) -> str:
        """What progress calls this run."""
        return f"{self.experiment.variant} seed {self.seed}"

    def run(self) -> SeedResults:
        """Do what is not done yet, and return the results."""
        with self.folder.owned(), self._threads():
            config = self.folder.path / "config.json"
            if not config.exists():
                write_text(config, to_json(self.experiment) + "\n")
            model = self._trained()
            print_ = fingerprint(model)
            over = layout(
                model, self.experiment.masking.select or None, granularity=self.experiment.masking.granularity
            )
            masks = {
                MaskName(subtask, seed): self._mask(model, print_, over, MaskName(subtask, seed))
                for subtask, seed in self.experiment.masks()
            }
            return self._measured(model, masks)

    @contextmanager
    def _threads(self) -> Generator[None]:
        """Torch's thread count for this run: the one it was begun with, for results depend on it in the last bits."""
        path, before = self.folder.path / "env.json", torch.get_num_threads()
        try:
            known = read_record(path, Environment) if path.exists() else None
        except Damaged:
            known = None
        torch.set_num_threads(known.threads if known else self.threads)
        try:
            if known is None:
                write_record(path, environment(self.threads, datetime.now(UTC).isoformat(timespec="seconds")))
            yield
        finally:
            torch.set_num_threads(before)

    def _trained(self) -> nn.Module:
        experiment, folder = self.experiment, self.folder
        with seeded(derive(self.seed, "network")):
            model = experiment.network.build(experiment.data.inputs, experiment.data.outputs)
        if folder.model.exists() and folder.training.exists():
            try:
                record = read_record(folder.training, TrainingRecord)
                model.load_state_dict(load_tensors(folder.model).tensors)
            except (Damaged, RuntimeError) as damage:  # RuntimeError: load_state_dict's, for other names or shapes
                warnings.warn(f"training again: {damage}", stacklevel=2)
            else:
                if fingerprint(model).digest == record.digest:
                    return model
                warnings.warn(f"training again: {folder.model} is not what {folder.training.name} says", stacklevel=2)
        trainee = Trainee(model, experiment.training.learning_rate)
        states = training(
            trainee,
            experiment.data.batches("train", experiment.training.batch, derive(self.seed, "train")),
            experiment.data.objective(experiment.data.full),
            steps=experiment.training.steps,
            clip=experiment.training.clip,
            seed=self.seed,
        )
        begun = self._resumed("training", trainee.restore)
        last, seconds = self._driven(states, "training", trainee.state, _training_reading, begun)
        if experiment.surgery is not None:
            experiment.surgery.apply(model)  # pyright: ignore[reportArgumentType] - only on experiments with an MLP
        save_tensors(folder.model, model.state_dict(), {"experiment": experiment.digest, "seed": self.seed})
        record = TrainingRecord(seconds, experiment.training.steps, last, fingerprint(model).digest)
        write_record(folder.training, record)
        self._finish_phase("training", experiment.training.steps, f"trained in {seconds:.0f} s, last loss {last:.2g}")
        return model

    def _mask(self, model: nn.Module, print_: Fingerprint, over: Layout, name: MaskName) -> Mask:
        path, record_path = self.folder.mask(name.subtask, name.seed), self.folder.mask_record(name.subtask, name.seed)
        if path.exists() and record_path.exists():
            try:
                mask = Mask.load(path, model)
                read_record(record_path, MaskRecord)
                if mask.layout == over:
                    return mask
            except ValueError as damage:
                warnings.warn(f"learning the mask of {name.subtask} again: {damage}", stacklevel=2)
        learned, seconds = self._learned(model, print_, over, name)
        learned.mask.save(path)
        curve = tuple(self._curve(_phase(name)))
        expected = float(learned.probability.double().sum())
        undecided = int(((learned.probability > 0.05) & (learned.probability < 0.95)).sum())
        write_record(record_path, MaskRecord(name, seconds, undecided, expected, histogram(learned.probability), curve))
        line = f"{learned.mask.kept_units:,} of {over.units:,} units kept in {seconds:.0f} s"
        self._finish_phase(_phase(name), self.experiment.masking.schedule.steps, line)
        return learned.mask

    def _learned(self, model: nn.Module, print_: Fingerprint, over: Layout, name: MaskName) -> tuple[Learned, float]:
        masking, data = self.experiment.masking, self.experiment.data
        seed = derive(self.seed, "mask", name.subtask, name.seed)
        logits = Logits(over, masking.schedule)
        states = learning(
            model,
            data.batches("train", masking.batch, derive(seed, "batches")),
            data.objective(name.subtask),
            layout=over,
            gate=masking.gate,
            schedule=masking.schedule,
            penalty=masking.penalty,
            seed=seed,
            resume=logits,
        )

        def reading(state: State) -> Mapping[str, float | int]:
            return read(state, masking.gate)._asdict()

        phase = _phase(name)
        begun = self._resumed(phase, logits.restore)
        _, seconds = self._driven(states, phase, logits.state, reading, begun)
        origin = origin_of(
            gate=masking.gate,
            schedule=masking.schedule,
            penalty=masking.penalty,
            seed=name.seed,
            subtask=name.subtask,
            model=print_,
        )
        return finish(logits, masking.gate, origin, ()), seconds

    def _measured(self, model: nn.Module, masks: Mapping[MaskName, Mask]) -> SeedResults:
        inputs = [self.folder.model, *(self.folder.mask(name.subtask, name.seed) for name in masks)]
        path = self.folder.results
        if path.exists() and path.stat().st_mtime_ns >= max(item.stat().st_mtime_ns for item in inputs):
            try:
                return read_record(path, SeedResults)
            except Damaged as damage:
                warnings.warn(f"measuring again: {damage}", stacklevel=2)
        self.report(Tick(self.task, "testing", 0, 1))
        results = measure(self.experiment, self.seed, model, masks)
        write_record(path, results)
        self._finish_phase("testing", 1, "tested")
        return results

    def _driven(
        self,
        states: Generator[S],
        phase: str,
        tensors: Callable[[], dict[str, Tensor]],
        reading: Callable[[S], Mapping[str, float | int]],
        seconds_before: float,
    ) -> tuple[float, float]:
        """Run a loop to its end with readings, signs of life and checkpoints; returns the last loss and the seconds.

        Ctrl-C waits for the end of the step, so that a checkpoint never holds half of one.
        """
        start = saved = told = time.monotonic()
        loss = float("nan")

        def spent() -> float:
            return seconds_before + time.monotonic() - start

        with closing(states), deferred() as interrupts:
            for state in states:
                now = time.monotonic()
                if is_reading(state.step, state.steps):
                    loss = float(state.loss)
                    self.folder.append_metrics({"phase": phase, **reading(state)})
                if now - told >= self.tell_seconds:
                    self.report(Tick(self.task, phase, state.step, state.steps))
                    told = now
                if interrupts.pressed or now - saved >= self.checkpoint_seconds:
                    header = {"phase": phase, "metrics": self.folder.metrics_size(), "seconds": spent()}
                    save_tensors(self.folder.checkpoint, tensors(), header)
                    saved = now
                if interrupts.pressed:
                    raise Paused(f"stopped in {phase} after step {state.step} of {state.steps}")
        return loss, spent()

    def _resumed(self, phase: str, restore: Callable[[Mapping[str, Tensor]], None]) -> float:
        """Restore the checkpoint of a phase if there is one; returns the seconds already spent."""
        path = self.folder.checkpoint
        try:
            saved = load_tensors(path) if path.exists() else None
        except Damaged as damage:
            warnings.warn(f"starting {phase} from its beginning: {damage}", stacklevel=2)
            saved = None
        if saved is None or saved.header["phase"] != phase:
            return 0.0
        restore(saved.tensors)
        self.folder.cut_metrics(int(saved.header["metrics"]))
        return float(saved.header["seconds"])

    def _curve(self, phase: str) -> Iterator[CurvePoint]:
        """The readings of a phase; of a step done twice (after a kill) the later one."""
        points: dict[int, CurvePoint] = {}
        for line in self.folder.metrics.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # a line cut short by a power failure; its step is done again
                continue
            if record.pop("phase") == phase:
                points[record["step"]] = CurvePoint(**record)
        return iter(points[step] for step in sorted(points))

    def _finish_phase(self, phase: str, steps: int, line: str) -> None:
        self.folder.checkpoint.unlink(missing_ok=True)
        self.report(Tick(self.task, phase, steps, steps, line))


def _phase(name: MaskName) -> str:
    return f"mask of {name.subtask}" + (f", learned again ({name.seed})" if name.seed else "")


def _training_reading(state: TrainingState) -> Mapping[str, float | int]:
    return {"step": state.step, "loss": float(state.loss)}
