"""The command line: ``maskscope list | run | study | report | collect | compare | inspect | --version``."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import tyro
from rich.console import Console
from rich.text import Text

from maskscope.core.learning.learn import NonFiniteLossError
from maskscope.core.mask import Mask
from maskscope.core.select import nearest
from maskscope.experiments import EXPERIMENTS, SUMMARIES, Entry, Preset, experiments
from maskscope.locate import SETTING
from maskscope.report.collect import collect
from maskscope.report.continual import print_continual
from maskscope.report.html import write_report
from maskscope.report.load import ContinualRun, Found, Run, find
from maskscope.report.masks import print_mask, print_overlap, wide
from maskscope.report.plan import print_plan
from maskscope.report.tables import print_runs
from maskscope.runs.about import about, said
from maskscope.runs.experiment import Experiment
from maskscope.runs.jobs import Job, JobFailed, run_jobs
from maskscope.runs.own import OwnNetwork
from maskscope.runs.plan import cost
from maskscope.runs.store import InUse, folder_of, segment
from maskscope.runs.study_file import StudyFileError, read_once
from maskscope.runs.train import DivergedError

app = tyro.extras.SubcommandApp()

Positional = tyro.conf.Positional

_FEW_VARIANTS = 8
"""Of an experiment, that are listed by name."""


class Failure(Exception):  # noqa: N818 - what a command ends with
    """An error that a person can act on; shown without a traceback."""


@app.command(name="list")
def list_() -> None:
    """List the experiments, their presets and variants.

    Example: maskscope list
    """
    console = Console()
    for name, presets in EXPERIMENTS.items():
        console.print(Text.assemble((name, "bold"), f": {SUMMARIES[name]}"))
        for preset, studies in presets.items():
            variants = [item.variant for item in studies]
            few = (
                variants
                if len(variants) <= _FEW_VARIANTS
                else [*variants[:2], f"... {len(variants) - 3} more ...", variants[-1]]
            )
            console.print(Text(f"  {preset:<9} {', '.join(few)}"))
    console.print(
        "\nWhat a run would do, and where: maskscope run NAME --preset PRESET --dry-run", highlight=False, markup=False
    )


@app.command
def run(
    name: Positional[str],
    /,
    *,
    preset: Preset = "quick",
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VARIANT ...")] = (),
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED ...")] = (0,),
    out: Path = Path("runs"),
    data_dir: Path | None = None,
    jobs: int = 1,
    threads: int = 0,
    device: str = "auto",
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Run an experiment: train, learn all masks, test, compare, report.

    What is already done is skipped, what was begun goes on; so the same command resumes.

    Example: maskscope run double-addition --preset quick --seeds 0 1 --jobs 2

    Args:
        name: Which experiment; see ``maskscope list``.
        preset: quick: small networks, minutes. standard: the paper's networks (mathematics: a smaller one), fast schedule. paper: its
            schedule too.
        only: Only these variants, such as ``fnn lstm``.
        seeds: Network seeds.
        out: Folder for results.
        data_dir: Folder with mnist/, cifar10/ and resnet-cifar10/ in it. Default: MASKSCOPE_DATA, else a cache folder, into
            which missing images and digits are downloaded; pretrained ResNets are not.
        jobs: Runs side by side, each in its own process.
        threads: Threads per run; 0: all cores, divided by the jobs. A begun run keeps the count it was begun with.
        device: Where to compute: cpu, cuda, cuda:1. auto: the first GPU if torch sees one, else the CPU.
        dry_run: Say what would be masked, and in which folders, and do nothing.
    """
    chosen = _chosen(name, preset, only)
    root = out / segment(name) / preset
    _check_counts(seeds, jobs, threads)
    place = _device(device)
    if dry_run:
        _dry_run(chosen, seeds, root)
        return
    _look_in(data_dir)
    per_job = _threads_each(threads, jobs)
    _work([Job(item, seed, root, per_job, place) for item in chosen for seed in seeds], jobs)
    _report_of(chosen, seeds, root, f"{name}, preset {preset}")


@app.command
def study(
    file: Positional[Path],
    /,
    *,
    plan: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STUDY ...")] = (),
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED ...")] = (0,),
    out: Path = Path("runs"),
    data_dir: Path | None = None,
    jobs: int = 1,
    threads: int = 0,
    device: str = "auto",
) -> None:
    """Run a study of your own: learn all masks, test, compare, report.

    The file is Python and defines one or more ``ms.Study`` values: a network, its subtasks, and how masks are learned. What is
    already done is skipped, what was begun goes on; a change of the file's code begins anew.

    Example: maskscope study my_study.py --plan

    Args:
        file: The study file.
        plan: Take a few steps, say what would be masked and what time and memory it will cost, and stop.
        only: Only these of the file's studies.
        seeds: Network seeds, where the study's ``model`` is a function of one.
        out: Folder for results; a study file gets a folder of its name in it.
        data_dir: As for ``maskscope run``.
        jobs: Studies and seeds side by side, each in its own process.
        threads: Threads per process; 0: all cores, divided by the jobs.
        device: Where to compute: cpu, cuda, cuda:1. auto: the first GPU if torch sees one, else the CPU.
    """
    _check_counts(seeds, jobs, threads)
    _look_in(data_dir)
    place, per_job = _device(device), _threads_each(threads, jobs)
    try:
        chosen = _named(file.name, read_once(file.resolve()).experiments, only)
    except StudyFileError as error:
        raise Failure(str(error)) from None
    root = out / segment(file.stem)
    with _in_short(root):
        for item in chosen:
            if isinstance(item.network, OwnNetwork):
                for seed in seeds:  # before anything is learned of the first ones
                    item.network.check_seed(seed)
        if plan:
            torch.set_num_threads(per_job)
            for item in chosen:
                _plan(item, place, len(seeds))
            return
        _work([Job(item, seed, root, per_job, place, file.resolve()) for item in chosen for seed in seeds], jobs)
    _report_of(chosen, seeds, root, file.stem)


@contextmanager
def _in_short(root: Path) -> Generator[None]:
    """What maskscope itself says of a study is shown without the way there; errors of the study's own code, or torch's, with it."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        *_, (last, _line) = traceback.walk_tb(error.__traceback__)
        if not Path(last.f_code.co_filename).is_relative_to(Path(__file__).parent):
            raise
        path = root / "traceback.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
        raise Failure(f"{said(error)} (the traceback is in {path})") from None


def _plan(item: Experiment, place: torch.device, seeds: int) -> None:
    with about(f"study {item.variant!r} cannot be run"):
        over, found = cost(item, place)
    print_plan(item, over, found, seeds, Console())


def _work(jobs: list[Job], side_by_side: int) -> None:
    """Run them; when stopped, say how to go on."""
    console = Console(stderr=True)
    try:
        run_jobs(jobs, side_by_side, console)
    except KeyboardInterrupt as stop:
        command = " ".join(["maskscope", *sys.argv[1:]])
        said = f"{str(stop) or 'stopped'}. Everything done so far is saved; go on with:\n  {command}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(130) from None


def _report_of(chosen: Sequence[Entry], seeds: tuple[int, ...], root: Path, title: str) -> None:
    """Of these only, not of others that lie there."""
    found = find(root)
    those = Found(_those(found.runs, chosen, seeds), found.unfinished, _those(found.continual, chosen, seeds))
    _report(those, root / "report.html", title)


def _look_in(data_dir: Path | None) -> None:
    """For data; in the environment, so that processes of --jobs see it too."""
    if data_dir is not None:
        os.environ[SETTING] = str(data_dir.resolve())


def _threads_each(threads: int, jobs: int) -> int:
    """As asked for, here or by OMP_NUM_THREADS; or all cores between the jobs."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(asked) if asked.isdecimal() else 0) or max(1, (os.cpu_count() or 1) // jobs)


def _check_counts(seeds: tuple[int, ...], jobs: int, threads: int) -> None:
    if not seeds:
        raise Failure("no seeds given; for example --seeds 0 1 2")
    if jobs < 1 or threads < 0 or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise Failure(
            f"jobs must be at least 1, threads and seeds not negative, seeds different; got {jobs=}, {threads=}, {seeds=}"
        )


def _device(name: str) -> torch.device:
    """From the command line; tried, so that what is not there is said at once."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises any, by what is missing
        why = str(error).splitlines()[0]
        raise Failure(f"cannot compute on device {name!r} ({why}); use cpu, or cuda where torch sees a GPU") from None
    return found


R = TypeVar("R", Run, ContinualRun)


def _those(runs: tuple[R, ...], chosen: Sequence[Entry], seeds: tuple[int, ...]) -> tuple[R, ...]:
    """Runs of the chosen variants in their order, where one of the seeds is finished."""
    order = [item.digest for item in chosen]
    kept = [run for run in runs if run.experiment.digest in order and any(seed.seed in seeds for seed in run.seeds)]
    return tuple(sorted(kept, key=lambda run: order.index(run.experiment.digest)))


def _chosen(name: str, preset: Preset, only: tuple[str, ...]) -> tuple[Entry, ...]:
    try:
        everything = experiments(name, preset)
    except KeyError as error:
        raise Failure(str(error.args[0])) from None
    return _named(name, everything, only)


E = TypeVar("E", bound=Entry)


def _named(where: str, everything: tuple[E, ...], only: tuple[str, ...]) -> tuple[E, ...]:
    """Those that are asked for by their variant's name."""
    variants = [item.variant for item in everything]
    for variant in only:
        if variant not in variants:
            raise Failure(
                f"{where} has no variant {variant!r}; nearest: {nearest(variant, variants)}; there are {variants}"
            )
    return tuple(item for item in everything if not only or item.variant in only)


def _dry_run(chosen: tuple[Entry, ...], seeds: tuple[int, ...], root: Path) -> None:
    console = Console()
    for item in chosen:
        console.print(f"{item.plan}, for each of {len(seeds)} seed(s)", highlight=False)
        console.print(item.layout().table(), markup=False, highlight=False, soft_wrap=True)
        for seed in seeds:
            path = folder_of(root, item, seed).path
            state = "done" if (path / "results.json").exists() else "begun" if path.exists() else "new"
            console.print(f"{path}: {state}", markup=False, highlight=False)


def _report(found: Found, path: Path, title: str) -> None:
    try:
        written = write_report(found, path, title)
    except ValueError as error:
        raise Failure(str(error)) from None
    console = Console()
    print_runs(found.runs, console)
    print_continual(found.continual, console)
    for note in found.unfinished:
        console.print(f"left out: {note}", markup=False, highlight=False)
    console.print(f"report: {written}", markup=False, highlight=False, soft_wrap=True)


@app.command
def report(directory: Positional[Path], /, *, out: Path | None = None, figures: Path | None = None) -> None:
    """Write report.html over all finished runs under a folder, and print their tables.

    Example: maskscope report runs/double-addition/quick --figures figures/

    Args:
        directory: The folder of one run or of many.
        out: The file to write. Default: report.html in that folder.
        figures: A folder for the charts as PDF, SVG and PNG, for a paper. Default: none are written.
    """
    try:
        found = find(directory)
    except FileNotFoundError as error:
        raise Failure(str(error)) from None
    _report(found, out or directory / "report.html", f"maskscope: {directory.resolve().name}")
    if figures is not None:
        from maskscope.report.paper import write_figures  # noqa: PLC0415 - matplotlib takes a second to import

        written = write_figures(found, figures)
        Console().print(f"figures: {len(written)} files in {figures}", markup=False, highlight=False, soft_wrap=True)


@app.command(name="collect")
def collect_(directory: Positional[Path], /, *, out: Path, curves: bool = True) -> None:
    """Copy what finished runs found, without weights and masks, into a small folder to keep or to send.

    Example: maskscope collect runs/double-addition/standard --out results/double-addition/standard

    Args:
        directory: The folder of one run or of many.
        out: Where to; ``maskscope report`` reads it, but for the pictures of masks.
        curves: With the learning curves of masks, which are half of it; for a hundred networks, leave them out.
    """
    try:
        copies = collect(find(directory), out, curves=curves)
    except (FileNotFoundError, ValueError) as error:
        raise Failure(str(error)) from None
    Console().print(f"collected: {len(copies)} seeds in {out}", markup=False, highlight=False, soft_wrap=True)


@app.command
def compare(a: Positional[Path], b: Positional[Path], /) -> None:
    """Overlap of two mask files: per tensor, per layer and pooled, with its chance level.

    Example: maskscope compare a.safetensors b.safetensors

    Args:
        a: A mask file.
        b: Another, over the same layout.
    """
    try:
        print_overlap((str(a), _mask(a)), (str(b), _mask(b)), wide())
    except ValueError as error:
        raise Failure(str(error)) from None


@app.command
def inspect(file: Positional[Path], /) -> None:
    """Say what a mask file holds: where it comes from, and what it keeps of each tensor.

    Example: maskscope inspect mask.safetensors

    Args:
        file: A mask file.
    """
    print_mask(_mask(file), wide())


def _mask(path: Path) -> Mask:
    try:
        return Mask.load(path)
    except (FileNotFoundError, ValueError) as error:
        raise Failure(str(error)) from None


def main() -> None:
    """Entry point: errors a person can act on are shown without a traceback."""
    console = Console(stderr=True)
    warnings.showwarning = lambda message, *_args, **_kwargs: console.print(  # pyright: ignore[reportUnknownLambdaType]
        f"warning: {message}", markup=False, highlight=False, style="yellow"
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops as Ctrl-C does
    if sys.argv[1:] == ["--version"]:
        Console().print(f"maskscope {version('maskscope')}", highlight=False)
        return
    try:
        app.cli(prog="maskscope", description=__doc__)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (Failure, InUse, JobFailed, DivergedError, NonFiniteLossError, OSError) as error:
        console.print(f"error: {error}", markup=False, highlight=False, style="red", soft_wrap=True)
        raise SystemExit(1) from None
