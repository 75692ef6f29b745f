"""Reading a study file: its studies as experiments that run, resume and are reported as the paper's do."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from maskscope.core.channels import PerChannel
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

    The digest of an experiment covers the file's code, but for statements that define other studies (unless it uses their names),
    comments, docstrings and layout; and not the files it imports. Modules beside the file can be imported.

    Args:
        path: The file.

    Raises:
        StudyFileError: No such file, an error in it, no study in it, or two of one name.
    """
    if not path.is_file():
        raise StudyFileError(f"no study file at {path}; it is a Python file that defines an ms.Study")
    try:
        module = _imported(path.resolve())
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise StudyFileError(_told(path, error)) from error
    studies = tuple({id(value): value for value in vars(module).values() if isinstance(value, Study)}.values())
    names = [study.name for study in studies]
    if not studies or len(set(names)) < len(names):
        what = f"two studies of one name: {names}" if studies else "no ms.Study at its top level"
        raise StudyFileError(
            f"{path} defines {what}; write, for example, study = ms.Study(name=..., model=..., subtasks=...)"
        )
    defined = {name: value for name, value in vars(module).items() if isinstance(value, Study)}
    sources = [
        _digest(tree, {*defined}, {name for name, value in defined.items() if value is study}) for study in studies
    ]
    for study, source in zip(studies, sources, strict=True):
        own.know(source, study)
    return StudyFile(path, studies, tuple(map(experiment, studies, sources)))


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
        initial="" if study.initial is None else _named(study.initial),
    )
    return Experiment(
        name="study",
        variant=study.name,
        data=OwnData(study.name, source, subtasks, _chance(study), study.solved),
        network=OwnNetwork(study.name, source, tuple(study.ends)),
        training=Training(steps=0),
        masking=masking,
        title=study.title or study.name,
    )


def _chance(study: Study) -> float | tuple[float, ...]:
    if isinstance(study.chance, Mapping):
        return tuple(study.chance[name] for name in study.subtasks)
    return study.chance


def _named(choice: object) -> str:
    """A function or a value, the same text each time."""
    return repr(choice) if is_dataclass(choice) else str(getattr(choice, "__name__", type(choice).__name__))


_GATES = (GumbelSigmoid, HardConcrete, Sigmoid, TopK)
_GRAINS = (PerWeight, PerOutput, PerInput, PerTensor, PerBlock, PerChannel, PerHead, PerNeuron, PerLayer)


def _digest(tree: ast.Module, studies: set[str], own_names: set[str]) -> str:
    """Of the code that a study is made of.

    Args:
        tree: The file.
        studies: Names of all its studies.
        own_names: Those of this one.
    """
    wanted = set(own_names)
    while True:
        chosen = [
            statement for statement in tree.body if not (_defines(statement) & studies) or _defines(statement) & wanted
        ]
        used = {node.id for item in chosen for node in ast.walk(item) if isinstance(node, ast.Name)} & studies
        if used <= wanted:
            break
        wanted |= used
    code = "\n".join(ast.unparse(_bare(statement)) for statement in chosen if not _is_text(statement))
    return hashlib.blake2b(code.encode(), digest_size=8).hexdigest()


def _defines(statement: ast.stmt) -> set[str]:
    """The names that a plain assignment gives a value."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return set()


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _bare(statement: ast.stmt) -> ast.stmt:
    """Without docstrings."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = [item for item in node.body if not _is_text(item)] or [ast.Pass()]
    return statement


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
