"""Reading a study file: its studies as experiments that run, resume and are reported as the paper's do."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
import tokenize
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.granularity import PerBlock, PerInput, PerOutput, PerTensor, PerWeight
from maskscope.core.groups import PerHead, PerLayer, PerNeuron
from maskscope.runs import own
from maskscope.runs.experiment import Experiment, Masking, Training
from maskscope.runs.own import OwnChoice, OwnData, OwnNetwork
from maskscope.study import Study


class StudyFileError(Exception):
    """A study file that cannot be read; the message says why, and in which line."""


@dataclass(frozen=True)
class StudyFile:
    """A file and what it defines."""

    path: Path
    studies: tuple[Study, ...]
    experiments: tuple[Experiment, ...]
    """The same, as values that are run."""


def read(path: Path) -> StudyFile:
    """Run a Python file and take every ``Study`` that it defines, in their order.

    The digest of an experiment covers the file's code, not its comments and layout, nor the files it imports. Modules beside the
    file can be imported.

    Args:
        path: The file.

    Raises:
        StudyFileError: No such file, an error in it, no study in it, or two of one name.
    """
    if not path.is_file():
        raise StudyFileError(f"no study file at {path}; it is a Python file that defines an ms.Study")
    try:
        module = _imported(path.resolve())
        source = _digest(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise StudyFileError(_told(path, error)) from error
    studies = tuple({id(value): value for value in vars(module).values() if isinstance(value, Study)}.values())
    names = [study.name for study in studies]
    if not studies or len(set(names)) < len(names):
        what = f"two studies of one name: {names}" if studies else "no ms.Study at its top level"
        raise StudyFileError(
            f"{path} defines {what}; write, for example, study = ms.Study(name=..., model=..., subtasks=...)"
        )
    for study in studies:
        own.know(source, study)
    return StudyFile(path, studies, tuple(experiment(study, source) for study in studies))


@cache
def read_once(path: Path) -> StudyFile:
    """The same, once in a process."""
    return read(path)


def experiment(study: Study, source: str) -> Experiment:
    """A study as a value that is run.

    Args:
        study: As it was defined.
        source: Digest of the file it is from.
    """
    subtasks = tuple(study.subtasks)
    masking = Masking(
        gate=study.gate
        if isinstance(study.gate, _GATES) and type(study.gate) in _GATES
        else OwnChoice(text=repr(study.gate)),
        schedule=study.schedule,
        penalty=study.penalty,
        batch=study.schedule.samples,  # the study's own batches may be of any size
        granularity=study.granularity
        if isinstance(study.granularity, _GRAINS) and type(study.granularity) in _GRAINS
        else OwnChoice(text=repr(study.granularity)),
        select=tuple(item if isinstance(item, str) else f"type:{item.__name__}" for item in study.select or ()),
        repeats=study.repeats,
        density=study.density,
    )
    return Experiment(
        name="study",
        variant=study.name,
        data=OwnData(study.name, source, subtasks, study.chance, study.solved),
        network=OwnNetwork(study.name, source, tuple(study.ends)),
        training=Training(steps=0),
        masking=masking,
        title=study.title or study.name,
    )


_GATES = (GumbelSigmoid, HardConcrete, Sigmoid, TopK)
_GRAINS = (PerWeight, PerOutput, PerInput, PerTensor, PerBlock, PerHead, PerNeuron, PerLayer)


def _digest(text: str) -> str:
    """Of the code without comments and empty lines."""
    unseen = {tokenize.COMMENT, tokenize.NL}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = "".join(f"{token.type == tokenize.INDENT:d}{token.string}" for token in tokens if token.type not in unseen)
    return hashlib.blake2b(code.encode(), digest_size=8).hexdigest()


def _imported(path: Path) -> ModuleType:
    """The file as a module, with the modules beside it in reach."""
    name = f"maskscope_study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file; its name must end in .py")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its dataclasses, and a loader's processes, find it
    spec.loader.exec_module(module)
    return module


def _told(path: Path, error: Exception) -> str:
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name
    ]
    where = f"line {lines[-1]} of {path}" if lines else str(path)
    return f"{where}: {type(error).__name__}: {error}"
