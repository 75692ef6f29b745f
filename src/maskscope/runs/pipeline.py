"""One seed of an experiment: train, learn every mask, test and compare; each step skipped if done, resumed if begun."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from maskscope.analysis.ablate import completed, half
from maskscope.analysis.controls import ShuffledLabels
from maskscope.analysis.number import Number
from maskscope.core.apply import bake
from maskscope.core.batches import Batches
from maskscope.core.device import CPU
from maskscope.core.files import Damaged, load_tensors, save_tensors
from maskscope.core.fingerprint import Fingerprint, fingerprint
from maskscope.core.layout import Layout
from maskscope.core.learning.kernels import Mode, worth_compiling
from maskscope.core.learning.learn import learning
from maskscope.core.learning.learned import Reading, State, finish, origin_of, read, undecided
from maskscope.core.learning.logits import Logits
from maskscope.core.mask import Mask
from maskscope.core.replacement import Replacement, digest_of
from maskscope.core.seeded import derive, seeded
from maskscope.runs.ablations import Under
from maskscope.runs.about import about
from maskscope.runs.environment import at_work
from maskscope.runs.experiment import Experiment, Masking, from_json, hashed, to_json
from maskscope.runs.loop import Loop, Note, Report
from maskscope.runs.measure import faithfulness, histogram, measure
from maskscope.runs.own import OwnData, OwnNetwork
from maskscope.runs.results import MaskName, MaskRecord, SeedResults
from maskscope.runs.store import RunFolder, read_record, write_record
from maskscope.runs.testing import Tests
from maskscope.runs.train import Trainee, TrainingState, training


@dataclass(frozen=True)
class TrainingRecord:
    """How training went."""

    seconds: float
    steps: int
    loss: Number
    """Of the last batch."""
    digest: str
    """Of the network's weights, to see that the file is the one this record speaks of."""


@dataclass(frozen=True)
class _Learner:
    """What all masks of a network are learned with."""

    experiment: Experiment
    masking: Masking
    model: nn.Module
    learned_on: Fingerprint
    over: Layout
    replacement: Replacement
    """What removed weights become."""
    replaced: str
    """Its digest."""

    def changed_since(self, mask: Mask) -> str:
        """In what a mask that was learned before does not fit what is here now; empty if it does."""
        if mask.layout != self.over:
            return "it has another layout"
        if mask.origin.replaced != self.replaced:
            return "what removed weights become is not what it was"
        before = mask.origin.model
        other = before and (before.structural_difference(self.learned_on) or before.value_difference(self.learned_on))
        return f"the network is not what it was: {other}" if other else ""

    def beside(self, control: Mask) -> tuple[nn.Module, Layout]:
        """The network and the layout of a subtask's mask: without what is taken from the control mask."""
        patterns = self.masking.from_control
        if not patterns:
            return self.model, self.over
        taken = set(self.over.matching(patterns))
        rest = [name for name in self.over.names if name not in taken]
        network = bake(self.model, half(control, patterns))
        return network, self.experiment.over(network, rest)


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
    """Of torch, if the run has not begun yet."""
    device: torch.device = CPU
    """Where to compute."""
    checkpoint_seconds: float = 15.0
    """How often the state of the step under way is written."""
    tell_seconds: float = 0.1
    """How often progress is told."""

    def run(self) -> SeedResults:
        """Do what is not done yet, and return the results."""
        experiment = self.experiment
        with at_work(self.folder, to_json(experiment), self.threads, self.device):
            model = self._trained()
            masks = {} if experiment.masking is None else self._masks(experiment.masking, model)
            return self._measured(model, masks)

    def _masks(self, masking: Masking, model: nn.Module) -> dict[MaskName, Mask]:
        """Every mask, the control first: others may take parameters from it."""
        over = self.experiment.over(model)
        becomes = self.experiment.replacement(model, over)
        learner = _Learner(self.experiment, masking, model, fingerprint(model), over, becomes, digest_of(becomes))
        masks: dict[MaskName, Mask] = {}
        for subtask, seed in self.experiment.masks():
            control = masks.get(MaskName(self.experiment.data.full, 0))
            masks[MaskName(subtask, seed)] = self._mask(MaskName(subtask, seed), learner, control)
        return masks

    def _kernel(self, over: Layout, masking: Masking) -> Mode:
        """By the work of all masks, not of one; the same for every one, whichever is learned first."""
        work = len(self.experiment.masks()) * masking.schedule.steps * masking.schedule.samples * over.units
        return "compiled" if worth_compiling(work) else "auto"

    def _batches(self, name: MaskName, masking: Masking, seed: int) -> Batches:
        data = self.experiment.data
        if isinstance(data, OwnData):
            return data.learning(name.subtask, name.seed * masking.schedule.steps)
        return data.batches("train", masking.batch, derive(seed, "batches"), name.subtask)

    def _loop(self, phase: str) -> Loop:
        task = f"{self.experiment.variant} seed {self.seed}"
        return Loop(self.folder, task, phase, self.report, self.checkpoint_seconds, self.tell_seconds)

    def _given(self, network: OwnNetwork) -> nn.Module:
        """The network of a study: looked at, not copied. If it is another than before, what was begun on that one is dropped."""
        with seeded(derive(self.seed, "network")):
            model = network.given(self.seed).to(self.device)
        digest = fingerprint(model).digest
        known = read_record(self.folder.training, TrainingRecord) if self.folder.training.exists() else None
        if known is not None and known.digest != digest:
            warnings.warn(
                f"study {network.study!r} has another network than before: masks are learned again", stacklevel=2
            )
            self.folder.checkpoint.unlink(missing_ok=True)
        if known is None or known.digest != digest:
            write_record(self.folder.training, TrainingRecord(0.0, 0, math.nan, digest))
        return model

    def _built(self) -> nn.Module:
        with seeded(derive(self.seed, "network")):
            built = self.experiment.network.build(self.experiment.data.inputs, self.experiment.data.outputs)
        return built.to(self.device)

    def _trained(self) -> nn.Module:
        if isinstance(self.experiment.network, OwnNetwork):
            return self._given(self.experiment.network)
        if self.folder.model.exists() and self.folder.training.exists():
            try:
                return self._loaded(self.folder)
            except (Damaged, RuntimeError) as damage:  # RuntimeError: load_state_dict's, for other names or shapes
                warnings.warn(f"training again: {damage}", stacklevel=2)
        return self._borrowed() or self._train()

    def _loaded(self, folder: RunFolder) -> nn.Module:
        model = self._built()
        record = read_record(folder.training, TrainingRecord)
        model.load_state_dict(load_tensors(folder.model).tensors)
        if fingerprint(model).digest != record.digest:
            raise Damaged(f"{folder.model} is not what {folder.training.name} says")
        return model

    def _borrowed(self) -> nn.Module | None:
        """The network of a variant beside this one that was trained in the same way from the same seed, if there is one."""
        if self.folder.checkpoint.exists():  # training has begun here
            return None
        for other in map(RunFolder, sorted(self.folder.path.parent.parent.glob(f"*/{self.folder.path.name}"))):
            try:
                experiment = from_json((other.path / "config.json").read_text(encoding="utf-8"))
                surgery = self.experiment.surgery
                fits = experiment.surgery in (None, surgery)
                if experiment.network_digest != self.experiment.network_digest or not fits:
                    continue
                model, record = self._loaded(other), read_record(other.training, TrainingRecord)
            except (OSError, ValueError, RuntimeError):  # not finished, or not whole
                continue
            if surgery is not None and experiment.surgery is None:
                surgery.apply(model)  # pyright: ignore[reportArgumentType] - only on experiments with an MLP
            self._keep(model, record.seconds, record.loss)
            self._loop("training").finish(record.steps, f"network taken from {other.path}")
            return model
        return None

    def _train(self) -> nn.Module:
        experiment, loop, model = self.experiment, self._loop("training"), self._built()
        if not experiment.training.steps:
            self._keep(model, 0.0, math.nan)
            return model
        trainee = Trainee(model, experiment.training)
        before = loop.resume(trainee.restore)
        states = training(
            trainee,
            experiment.data.batches(
                "train", experiment.training.batch, derive(self.seed, "train"), experiment.data.full
            ),
            experiment.data.objective(experiment.data.full),
            experiment.training,
            self.seed,
        )
        seconds = loop.run(states, trainee.state, _training_reading, before)
        if experiment.surgery is not None:
            experiment.surgery.apply(model)  # pyright: ignore[reportArgumentType] - only on experiments with an MLP
        readings = loop.readings()
        loss = float(readings[-1]["loss"]) if readings else math.nan
        self._keep(model, seconds, loss)
        loop.finish(experiment.training.steps, f"trained in {seconds:.0f} s, last loss {loss:.2g}")
        return model

    def _keep(self, model: nn.Module, seconds: float, loss: float) -> None:
        save_tensors(self.folder.model, model.state_dict(), {"experiment": self.experiment.digest, "seed": self.seed})
        record = TrainingRecord(seconds, self.experiment.training.steps, loss, fingerprint(model).digest)
        write_record(self.folder.training, record)

    def _mask(self, name: MaskName, learner: _Learner, control: Mask | None) -> Mask:
        path, record = self.folder.mask(name.subtask, name.seed), self.folder.mask_record(name.subtask, name.seed)
        if path.exists() and record.exists():
            try:
                mask = Mask.load(path)
                read_record(record, MaskRecord)
                why = learner.changed_since(mask)
                if not why:
                    return mask
            except (ValueError, KeyError) as damage:
                why = str(damage)
            warnings.warn(f"learning the mask of {name.subtask} again: {why}", stacklevel=2)
        return self._learn(name, learner, control)

    def _learn(self, name: MaskName, learner: _Learner, control: Mask | None) -> Mask:
        masking, data, gate = learner.masking, self.experiment.data, self.experiment.gate
        model, over = (learner.model, learner.over) if control is None else learner.beside(control)
        loop = self._loop(f"mask of {name.subtask}" + (f", learned again ({name.seed})" if name.seed else ""))
        seed = derive(self.seed, "mask", name.subtask, name.seed)
        working = self.experiment.working
        logits = Logits(over, masking.schedule, self.device, low_memory=working.low_memory)
        before = loop.resume(logits.restore)
        objective, batches = data.objective(name.subtask), self._batches(name, masking, seed)
        objective = ShuffledLabels(objective) if masking.shuffled_labels else objective
        initial = None if logits.step else self.experiment.initial(model, over, batches, objective)
        states = learning(
            model,
            batches,
            objective,
            layout=over,
            gate=gate,
            schedule=masking.schedule,
            penalty=masking.penalty,
            density=masking.density,
            replacement=learner.replacement,
            seed=seed,
            resume=logits,
            initial=initial,
            kernel=self._kernel(learner.over, masking),
            **working._asdict(),
            cuda_graph=data.replayable,
        )

        def reading(state: State) -> Note:
            return asdict(read(state))

        with about(f"the mask of {name.subtask}"):
            seconds = loop.run(states, logits.state, reading, before)
        origin = origin_of(
            gate=gate,
            steps=logits.step,
            penalty=logits.turned(masking.penalty),
            seed=name.seed,
            subtask=name.subtask,
            model=learner.learned_on,
            replaced=learner.replaced,
        )
        learned = finish(logits, gate, origin, ())
        mask = learned.mask if control is None else completed(learned.mask, control)
        mask.save(self.folder.mask(name.subtask, name.seed))
        probability, curve = learned.probability, tuple(Reading(**reading) for reading in loop.readings())
        expected = float(probability.double().sum())
        sizes = faithfulness(self.experiment, Under(model, learner.replacement), name, over, learned.logits)
        record = MaskRecord(name, seconds, undecided(probability), expected, histogram(probability), curve, sizes)
        write_record(self.folder.mask_record(name.subtask, name.seed), record)
        kept = f"{learned.mask.kept_units:,} of {over.units:,} units kept in {seconds:.0f} s"
        loop.finish(masking.schedule.steps, kept)
        return mask

    def _measured(self, model: nn.Module, masks: Mapping[MaskName, Mask]) -> SeedResults:
        inputs = [self.folder.training, *(self.folder.mask(name.subtask, name.seed) for name in masks)]
        path, loop, batches = self.folder.results, self._loop("testing"), self.experiment.tested_on
        if path.exists() and path.stat().st_mtime_ns >= max(item.stat().st_mtime_ns for item in inputs):
            try:
                results = read_record(path, SeedResults)
            except Damaged as damage:
                warnings.warn(f"measuring again: {damage}", stacklevel=2)
            else:
                if results.tested_on in ("", batches):
                    return results
                warnings.warn(
                    f"{loop.task} is tested on other batches than before: measuring again; its masks are those of before, and "
                    f"if what they are learned on has changed too, delete {self.folder.path}",
                    stacklevel=2,
                )
        network = read_record(self.folder.training, TrainingRecord).digest
        digest = hashed({"network": network, "masks": [mask.digest for mask in masks.values()], "batches": batches})
        tests = Tests(self.folder.tests, digest, loop.task, self.report)
        results = replace(measure(self.experiment, self.seed, model, masks, tests), tested_on=batches)
        write_record(path, results)
        tests.drop()
        loop.finish(1, "tested")
        return results


def _training_reading(state: TrainingState) -> Note:
    return {"step": state.step, "loss": float(state.loss)}
