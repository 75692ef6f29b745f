"""Tasks in turn: frozen weights keep earlier tasks exactly; killed and resumed runs end the same; reports of them."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from maskscope.core.files import load_tensors
from maskscope.core.mask import Mask
from maskscope.experiments.permuted_mnist import STANDARD
from maskscope.report.collect import collect
from maskscope.report.continual import forgetting, print_continual, remembered, retained, verdict
from maskscope.report.html import write_report
from maskscope.report.load import find
from maskscope.report.paper import write_figures
from maskscope.runs.continual import ContinualRunner
from maskscope.runs.loop import Paused
from maskscope.runs.store import folder_of
from tiny import CONTINUAL

RESULTS = Path(__file__).parents[2] / "results" / "permuted-mnist" / "standard"

VARIANTS = [
    replace(CONTINUAL, variant=f"{protection}-{own}", protection=protection, own_first_layer=own)
    for protection in ("frozen", "none")
    for own in (True, False)
]


def run(root, experiment, report=lambda tick: None):
    folder = folder_of(root, experiment, 0)
    return ContinualRunner(experiment, 0, folder, report, checkpoint_seconds=0.02).run()


pytestmark = pytest.mark.usefixtures("_tiny_data")


@pytest.fixture(scope="module")
def root(tmp_path_factory, _tiny_data):
    return tmp_path_factory.mktemp("continual")


@pytest.mark.parametrize("experiment", VARIANTS, ids=lambda experiment: experiment.variant)
def test_what_is_frozen_is_never_forgotten(experiment, tmp_path):
    results = run(tmp_path, experiment)
    learned = [task.accuracies[-1] for task in results.tasks]
    if experiment.protection == "frozen":
        for task in results.tasks:
            assert task.accuracies == tuple(learned[: task.task + 1])
        assert results.retained() == 1.0
    else:  # accuracies may agree by chance: on random images, where MNIST is not at hand, nothing is learned
        folder = folder_of(tmp_path, experiment, 0)
        first, last = (load_tensors(folder.path / "tasks" / f"{task}.safetensors").tensors for task in (0, 2))
        kept = Mask.load(folder.mask("permutation 0", 0)).parameter("layers.1.weight")
        assert not torch.equal(first["layers.1.weight"][kept], last["layers.1.weight"][kept])


def test_runs_from_before_weights_had_a_rate_of_their_own_are_found():
    assert STANDARD[0].digest == "3d974c39"  # of the results in the tree
    assert (
        replace(CONTINUAL, schedule=replace(CONTINUAL.schedule, weight_learning_rate=1e-3)).digest != CONTINUAL.digest
    )


def test_the_first_task_is_the_same_wherever_new_units_begin(tmp_path):
    """It finds nothing to use again; later ones do. Runs in which it began as they do are not taken for these."""
    assert {STANDARD[1].digest, STANDARD[2].digest}.isdisjoint({"dbfc3b78", "1ec2a64a"})  # of before
    less = replace(CONTINUAL, variant="less", new=-1.0)
    whole, fewer = run(tmp_path, CONTINUAL), run(tmp_path, less)
    assert replace(whole.tasks[0], seconds=0.0) == replace(fewer.tasks[0], seconds=0.0)
    assert sum(c.kept_units for c in fewer.tasks[1].kept) < sum(c.kept_units for c in whole.tasks[1].kept)


def test_frozen_weights_are_those_of_earlier_masks_and_others_begin_anew(tmp_path):
    run(tmp_path, CONTINUAL)
    folder = folder_of(tmp_path, CONTINUAL, 0)
    weights = [load_tensors(folder.path / "tasks" / f"{task}.safetensors").tensors for task in range(3)]
    masks = [Mask.load(folder.mask(f"permutation {task}", 0)) for task in range(3)]
    name = "layers.1.weight"
    kept = masks[0].parameter(name)
    assert bool(kept.any())
    assert not bool(kept.all())
    assert torch.equal(weights[0][name][kept], weights[1][name][kept])
    assert not torch.equal(weights[0][name][~kept], weights[1][name][~kept])
    assert not torch.equal(weights[0]["layers.0.weight"][kept.any(0)], weights[1]["layers.0.weight"][kept.any(0)])


def test_sharing_is_counted_over_the_layers_that_can_be_shared(tmp_path):
    results = run(tmp_path, CONTINUAL)
    folder = folder_of(tmp_path, CONTINUAL, 0)
    first, second = (Mask.load(folder.mask(f"permutation {task}", 0)) for task in range(2))
    shares = dict(results.tasks[1].shared)
    assert shares["layers.0"] == 0.0
    names = ("layers.1.weight", "layers.1.bias")
    both = sum(int((first.parameter(n) & second.parameter(n)).sum()) for n in names)
    assert shares["layers.1"] == both / sum(int(second.parameter(n).sum()) for n in names)


def test_a_stopped_run_ends_the_same(tmp_path):
    whole = run(tmp_path / "whole", CONTINUAL)
    stops = 0

    class Stop(KeyboardInterrupt):
        pass

    def stopping(tick):
        nonlocal stops
        if tick.step == 20 and not tick.done and stops < 2:
            stops += 1
            raise Stop

    while True:
        try:
            folder = folder_of(tmp_path / "parts", CONTINUAL, 0)
            results = ContinualRunner(CONTINUAL, 0, folder, stopping, checkpoint_seconds=0.0, tell_seconds=0.0).run()
            break
        except (Stop, Paused):
            continue
    assert stops == 2
    strip = [replace(task, seconds=0.0) for task in whole.tasks]
    assert [replace(task, seconds=0.0) for task in results.tasks] == strip


def test_reports_have_it(root, tmp_path):
    for experiment in VARIANTS[:2]:
        run(root, experiment)
    found = find(root)
    assert not found.runs
    assert len(found.continual) == 2
    assert verdict(found.continual[0]).finding == "nothing forgotten"
    assert retained(found.continual[0]).mean == 1.0
    page = write_report(found, tmp_path / "report.html", "in turn").read_text(encoding="utf-8")
    assert "Permutation by permutation" in page
    assert "What is forgotten" in page
    assert write_figures(found, tmp_path / "figures")
    console = Console(file=io.StringIO(), width=100)
    print_continual(found.continual, console)
    assert "NOTHING FORGOTTEN" in console.file.getvalue()
    collect(found, tmp_path / "small")
    assert find(tmp_path / "small").continual[0].results == found.continual[0].results


def test_every_permutation_is_drawn_after_each_later_one():
    (run_,) = find(RESULTS / "unprotected-slow").continual
    tasks = run_.results[0].tasks
    (heat,) = remembered(run_).panels
    *rows, earlier = heat.values
    for after, task in enumerate(tasks):
        assert [row[after] for row in rows[: after + 1]] == pytest.approx([100 * value for value in task.accuracies])
        assert all(math.isnan(row[after]) for row in rows[after + 1 :])
    assert math.isnan(earlier[0])
    assert earlier[2] == pytest.approx(50 * sum(tasks[2].accuracies[:2]))


def test_what_is_not_frozen_is_dashed_and_said_to_be():
    (frozen,), (free,) = (find(RESULTS / name).continual for name in ("frozen", "unprotected-slow"))
    both = forgetting([frozen, free])
    assert {series.name: series.style for series in both.panels[0].series} == {
        frozen.name: "line and points",
        free.name: "dashed",
    }
    assert both.caption.startswith("Dashed: nothing is frozen. Chance")
    assert forgetting([frozen]).caption.startswith("Chance")
    assert "those lines lie on each other" in forgetting([frozen, frozen]).caption


def test_damaged_results_are_left_out_with_the_reason(root, tmp_path):
    run(tmp_path, CONTINUAL)
    path = folder_of(tmp_path, CONTINUAL, 0).results
    path.write_text(json.dumps({"digest": 3}), encoding="utf-8")
    found = find(tmp_path)
    assert found.is_empty
    assert "does not hold what it should" in found.unfinished[0]
