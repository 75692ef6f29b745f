"""Studies of one's own: read from a file, planned, run, stopped and resumed, reported without the file."""

import io
import json
import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import maskscope as ms
from maskscope.analysis.scores import InTurn
from maskscope.core.device import CPU
from maskscope.core.mask import Mask
from maskscope.core.replacement import means
from maskscope.core.seeded import derive, seeded
from maskscope.report.html import write_report
from maskscope.report.load import find
from maskscope.report.tables import print_runs
from maskscope.runs import own
from maskscope.runs.estimates import accuracy
from maskscope.runs.experiment import from_json, to_json
from maskscope.runs.jobs import Job
from maskscope.runs.loop import Paused
from maskscope.runs.own import OwnData, Turn
from maskscope.runs.pipeline import Runner
from maskscope.runs.plan import cost
from maskscope.runs.properties import specialized
from maskscope.runs.results import ALL, HIDDEN, SeedResults
from maskscope.runs.store import folder_of, read_record
from maskscope.runs.study_file import StudyFileError, read
from maskscope.runs.verdict import verdict
from maskscope.study import Study, Subtask

FILE = '''
"""A study."""
import torch
from torch import nn

import maskscope as ms
from beside_it import batch_of  # a module beside the file

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))  # untrained
subtasks = {
    name: ms.Subtask(learn=lambda step, w=which: batch_of(w, step), test=[batch_of(which, 99, 64)])
    for which, name in enumerate(("left", "right"))
}
schedule = ms.Schedule(steps=12, samples=2, settled=None, learning_rate=0.3, init=0.5)
study = ms.Study("weights", model, subtasks, schedule=schedule, penalty=1e-3, solved=0.0)
rows = ms.Study(
    "rows", model, subtasks, granularity=ms.PerOutput(), schedule=schedule, penalty=1e-3, repeats=1, ends=("2.*",), solved=0.0
)
'''

BESIDE = """
import torch


def batch_of(which, step, rows=16):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(rows, 8, generator=generator)
    return x, x[:, 4 * which : 4 * which + 4].argmax(-1)
"""


def batch_of(which, step, rows=16):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(rows, 8, generator=generator)
    return x, x[:, 4 * which : 4 * which + 4].argmax(-1)


def network(seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def a_study(**changes):
    subtasks = {
        name: Subtask(learn=lambda step, w=which: batch_of(w, step), test=[batch_of(which, 99, 64)])
        for which, name in enumerate(("left", "right"))
    }
    schedule = ms.Schedule(steps=12, samples=2, settled=None, learning_rate=0.3, init=0.5)
    return replace(Study("weights", network(), subtasks, schedule=schedule, penalty=1e-3, solved=0.0), **changes)


def experiment_of(study):
    """As if it had been read from a file."""
    from maskscope.runs import study_file

    own.know("here", study)
    return study_file.experiment(study, "here")


def run(study, root, report=lambda tick: None, seed=0):
    experiment = experiment_of(study)
    folder = folder_of(root, experiment, seed)
    return Runner(experiment, seed, folder, report, checkpoint_seconds=0.0, tell_seconds=0.0).run(), folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine" / "study.py"
    path.parent.mkdir()
    path.write_text(FILE)
    (path.parent / "beside_it.py").write_text(BESIDE)
    return path


def test_a_file_is_read_planned_run_and_reported_from_the_command_line(file, type_):
    code, out, _ = type_("study", str(file), "--plan", "--threads", "1")
    assert code == 0
    assert "masked: 192 units over 192 weights" in out
    assert "masked: 20 units over 192 weights" in out
    assert "learning 5 masks" in out
    assert "learning 3 masks" in out
    assert not Path("runs").exists()
    code, out, err = type_("study", str(file), "--only", "rows", "--threads", "1")
    assert code == 0, err
    assert "mask of all" in err
    assert "rows" in out
    assert Path("runs/study/report.html").exists()
    code, out, err = type_("study", str(file), "--only", "rows", "--threads", "1")
    assert "mask of" not in err  # nothing is done again
    code, _, err = type_("study", str(file), "--only", "colums")
    assert code == 1
    assert "study.py has no variant 'colums'" in err
    code, _, err = type_("study", "nowhere.py")
    assert code == 1
    assert "nowhere.py; it is a Python file" in err


def test_a_study_says_where_logits_begin(tmp_path):
    asked = []

    def evens(model, over, batches, objective):
        asked.append(objective(model, batches(0)).detach())
        return torch.where(torch.arange(over.units) % 2 == 0, 6.0, -6.0)

    schedule = ms.Schedule(steps=4, samples=2, settled=None, learning_rate=0.01)
    study = a_study(initial=evens, schedule=schedule)
    _, folder = run(study, tmp_path)
    assert len(asked) == 5  # every mask
    mask = ms.Mask.load(folder.mask("left", 0), study.network(0))
    assert torch.equal(mask.kept, torch.arange(mask.layout.units) % 2 == 0)
    assert json.loads((folder.path / "config.json").read_text())["masking"]["initial"] == "evens"
    assert (
        experiment_of(study).digest == experiment_of(study).digest != experiment_of(a_study(schedule=schedule)).digest
    )
    in_turn = experiment_of(a_study(initial=InTurn())).masking
    assert in_turn.initial == "InTurn(first=2.0, last=32.0, batches=6)"
    run(a_study(initial=InTurn(batches=1)), tmp_path)  # of the control mask's batches too
    with pytest.raises(TypeError, match="initial"):
        a_study(initial=torch.zeros(192))


def test_logits_begin_once_where_learning_is_interrupted(tmp_path):
    asked = []

    def begin(model, over, batches, objective):
        asked.append(over.units)
        return torch.full((over.units,), 3.0)

    def stop(tick):
        if "left" in tick.phase and tick.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(a_study(initial=begin), tmp_path / "a", stop)
    before = len(asked)
    results, _ = run(a_study(initial=begin), tmp_path / "a")
    assert len(asked) == 5
    assert before == 2
    assert results.sizes == run(a_study(initial=begin), tmp_path / "b")[0].sizes


def test_a_report_needs_no_file(tmp_path):
    run(a_study(), tmp_path)
    own.forget()
    found = find(tmp_path)
    text = io.StringIO()
    print_runs(found.runs, Console(file=text, width=120))
    assert "nan" not in text.getvalue()
    assert "hidden" not in text.getvalue()  # no ends were named, so nothing is hidden
    assert "P_reuse" in write_report(found, tmp_path / "report.html", "mine").read_text()
    with pytest.raises(LookupError, match="'weights' cannot be run here: its file has not been read, or has changed"):
        found.runs[0].experiment.layout()


def test_subtasks_may_have_a_chance_each(tmp_path):
    run(a_study(chance={"right": 0.5, "left": 0.0}), tmp_path)
    (found,) = find(tmp_path).runs
    assert [found.experiment.chance(name) for name in ("left", "right")] == [0.0, 0.5]
    page = write_report(find(tmp_path), tmp_path / "report.html", "two").read_text()
    assert "chance is 0% of left, 50% of right" in page
    whole = accuracy(found.results, "full network", "left").mean
    alone = accuracy(found.results, "mask", "left", "left").mean
    assert whole > 0.1
    assert specialized(found.experiment, found.results, "left").sufficiency.mean == pytest.approx(alone / whole)


@pytest.mark.parametrize("untrained", [True, False])
def test_a_single_subtask_is_reported(tmp_path, untrained):
    """Neither network gets a verdict: one cannot do it, the other is so narrow that it fails without any three fifths of its weights."""
    model = network()
    if not untrained:
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(300):
            adam.zero_grad()
            ms.cross_entropy(model, batch_of(0, step, 64)).backward()
            adam.step()
    study = a_study()
    schedule = ms.Schedule(steps=100, samples=2, settled=None, learning_rate=0.2, init=1.0)
    only = {"left": study.subtasks["left"]}
    run(replace(study, model=model, subtasks=only, schedule=schedule, solved=0.9, chance=0.25, penalty=3e-4), tmp_path)
    (found,) = find(tmp_path).runs
    said = verdict(found.experiment, found.results)
    assert said.finding == "cannot tell"
    assert ("random units of each tensor, removed, harm left about as much" in said.ablations) == (not untrained)
    assert "hardly" not in said.overlap
    assert "left" in write_report(find(tmp_path), tmp_path / "report.html", "one").read_text()


def test_many_subtasks_and_units_over_several_parameters_are_reported(tmp_path):
    hidden = {"0.weight": ms.View((16, 8), (16, 1)), "2.weight": ms.View((4, 16), (1, 16))}
    study = a_study(granularity=ms.Tied((hidden,), "neuron"), repeats=1)
    four = {name: study.subtasks["left" if name in "ab" else "right"] for name in "abcd"}
    for name, subtasks in (("two", study.subtasks), ("four", four)):
        run(replace(study, name=name, subtasks=subtasks), tmp_path)
    found = find(tmp_path)
    assert all(item.overlap.units == 16 for run in found.runs for item in run.results[0].overlaps)
    text = write_report(found, tmp_path / "report.html", "both").read_text()
    assert "masks were learned once, so that there is no ceiling" in text
    assert "agree too little" not in text


def test_ends_are_set_apart(tmp_path):
    results, _ = run(a_study(ends=("2.*",), repeats=1), tmp_path)
    assert {HIDDEN, ALL} <= {item.overlap.where for item in results.overlaps}
    assert "complement with ends open" in {item.network for item in results.accuracies}
    with pytest.raises(KeyError, match=r"'3\.\*' matches none"):
        run(a_study(ends=("3.*",)), tmp_path)


def test_it_is_stopped_anywhere_and_goes_on(tmp_path):
    """In learning or in testing: the same results as without a stop, and no test is done again."""
    study, ticks = a_study(repeats=1), []
    whole, _ = run(study, tmp_path / "whole", ticks.append)
    phases = {tick.phase: index for index, tick in enumerate(ticks)}
    testing = [index for index, tick in enumerate(ticks) if tick.phase == "testing"]
    for stop in (3, phases["mask of left"] - 1, testing[0], testing[len(testing) // 2]):
        told = []

        def stopping(tick, told=told, stop=stop):
            told.append(tick)
            if len(told) == stop + 1:
                raise Paused("stopped")

        with pytest.raises(Paused):
            run(study, tmp_path / f"parts{stop}", stopping)
        first, second = told[:-1], []
        results, folder = run(study, tmp_path / f"parts{stop}", second.append)
        assert results == whole
        assert read_record(folder.results, SeedResults) == whole
        assert not folder.tests.exists()
        done = {tick.step for tick in first if tick.phase == "testing"}
        assert not done & {tick.step for tick in second if tick.phase == "testing"}


def test_tests_of_other_masks_are_not_believed(tmp_path):
    results, folder = run(a_study(repeats=1), tmp_path)
    line = {"of": "another", "key": "right | full network | ", "scores": [[0.123, 64], [0.123, 64]]}
    folder.tests.write_text(json.dumps(line) + '\n{"of": "cut sh')
    folder.results.unlink()
    assert run(a_study(repeats=1), tmp_path)[0] == results


def test_what_is_said_of_a_study_is_said_in_short(file, type_):
    """The way there is in a file; an error of the study's own code keeps its traceback."""
    text = file.read_text()
    file.write_text(text.replace("penalty=1e-3, solved", 'select=["0.wieght"], penalty=1e-3, solved'))
    code, _, err = type_("study", str(file), "--threads", "1")
    assert code == 1
    assert "'0.wieght' matches none of 4 parameter names; nearest: '0.weight'" in err
    assert "Traceback" not in err
    assert "KeyError" in Path("runs/study/traceback.txt").read_text()
    other = file.with_name("other.py")
    wrong = "test=[batch_of(which, 99, 64)], objective=lambda network, batch: {}[0])"
    other.write_text(text.replace("test=[batch_of(which, 99, 64)])", wrong))
    with pytest.raises(KeyError, match="0"):
        type_("study", str(other), "--threads", "1")


def test_another_network_is_noticed(tmp_path):
    first, _ = run(a_study(repeats=1), tmp_path)
    with pytest.warns(UserWarning, match=r"(has another network than before|learning the mask of .* again)") as said:
        second, folder = run(a_study(model=network(1), repeats=1), tmp_path)
    assert second != first
    told = [str(one.message) for one in said]
    assert "learning the mask of left again: the network is not what it was: 4 of 4 parameters" in " ".join(told)
    assert not any("allow_other_weights" in one for one in told)  # a study has no such thing
    mask = Mask.load(folder.mask("left", 0), network(1))
    assert mask.origin.subtask == "left"


def test_other_test_batches_are_noticed_and_the_masks_stay(tmp_path):
    """As where the study's code reads a file, and the file is another."""
    step = [99]

    def subtasks():
        return {
            name: replace(item, test=lambda which=which: [batch_of(which, step[0], 64)])
            for which, (name, item) in enumerate(a_study(repeats=1).subtasks.items())
        }

    study = a_study(repeats=1, subtasks=subtasks())
    first, folder = run(study, tmp_path)
    mask = folder.mask("left", 0)
    learned = mask.stat().st_mtime_ns
    with warnings.catch_warnings(action="error"):
        assert run(study, tmp_path)[0] == first
    step[0] = 98
    with pytest.warns(
        UserWarning, match="is tested on other batches than before: measuring again; its masks are those of"
    ):
        second, _ = run(study, tmp_path)
    assert second.accuracies != first.accuracies
    assert second.overlaps == first.overlaps
    assert mask.stat().st_mtime_ns == learned
    assert run(study, tmp_path)[0] == second


def test_tests_that_torch_draws_or_shuffles_are_the_same_each_time(tmp_path):
    data = torch.utils.data.TensorDataset(*batch_of(0, 99, 64))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    subtasks = {
        name: replace(item, test=lambda: [tuple(batch) for batch in loader])
        for name, item in a_study(repeats=1).subtasks.items()
    }
    study = a_study(repeats=1, subtasks=subtasks)
    first, _ = run(study, tmp_path)
    with warnings.catch_warnings(action="error"):
        assert run(study, tmp_path)[0] == first


def test_a_function_gives_the_network_of_a_seed(tmp_path):
    asked = []

    def make(seed):
        asked.append(seed)
        return network(seed)

    run(a_study(model=make, repeats=1), tmp_path, seed=3)
    assert asked == [3]
    for without in (lambda: network(5), lambda inputs=5: network(inputs)):
        assert a_study(model=without).network(0)[0].weight.equal(network(5)[0].weight)
    assert a_study(model=lambda seed=5: network(seed)).network(2)[0].weight.equal(network(2)[0].weight)
    with pytest.raises(ValueError, match="one network, so its only seed is 0, got 2"):
        a_study().network(2)
    with pytest.raises(TypeError, match=r"returned str, expected an nn\.Module"):
        a_study(model=lambda seed: "model").network(0)


def test_own_gates_and_granularities_are_run_and_described(tmp_path):
    hidden = {"0.weight": ms.View((16, 8), (16, 1)), "2.weight": ms.View((4, 16), (1, 16))}

    class Louder(ms.GumbelSigmoid):
        pass

    tied = a_study(granularity=ms.Tied((hidden,), "neuron"), gate=Louder(), repeats=1, select=[nn.Linear, "!*.bias"])
    results, folder = run(tied, tmp_path)
    assert results.sizes[0].tensors[0].units == 16
    kept = from_json((folder.path / "config.json").read_text())
    assert "neuron" in kept.masking.granularity.text
    assert kept.masking.select == ("type:Linear", "!*.bias")
    assert kept == experiment_of(tied)


def test_removed_weights_are_replaced_in_learning_and_in_tests(tmp_path):
    results, folder = run(a_study(replacement=means, repeats=1), tmp_path)
    model, study = network(), a_study()
    mask = Mask.load(folder.mask("left", 0), model)
    right = ms.evaluate(ms.masked(model, mask, means(model, mask.layout)), study.subtasks["left"].tests(), ms.accuracy)
    found = next(
        item
        for item in results.accuracies
        if (item.network, item.subtask) == ("mask", "left") and item.mask and item.mask.subtask == "left"
    )
    assert found.value == right.value


def test_masks_are_learned_again_when_what_replaces_has_changed(tmp_path):
    """Another donor in the same file: nothing in the study's code has changed."""
    donors = [1.0, -1.0]

    def donor(model, over):
        return {name: torch.full((), donors[0]) for name in over.names}

    first, folder = run(a_study(replacement=donor, repeats=1), tmp_path)
    assert run(a_study(replacement=donor, repeats=1), tmp_path)[0] == first
    before = Mask.load(folder.mask("left", 0), network())
    donors.reverse()
    with pytest.warns(UserWarning, match="again: what removed weights become is not what it was"):
        second, _ = run(a_study(replacement=donor, repeats=1), tmp_path)
    assert second != first
    assert Mask.load(folder.mask("left", 0), network()).origin.replaced != before.origin.replaced


class TimeFirst(nn.Module):
    """torch's own order of recurrent inputs: (time, batch, features)."""

    def __init__(self):
        super().__init__()
        self.reader, self.output = nn.RNN(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.output(self.reader(x)[0][-1])


def test_a_study_cuts_as_it_says_and_its_control_mask_too(tmp_path):
    """Time first: what is cut is the second dimension; masks are those of the same data with the batch first."""
    with seeded(0):
        model, x = TimeFirst(), torch.randn(5, 16, 3)
    y, parts = (x.sum((0, 2)) > 0).long(), []

    def halves(batch, n):
        parts.append(n)
        return list(zip(batch[0].tensor_split(n, 1), batch[1].tensor_split(n), strict=True))

    def lasting(network, batch):
        assert len(batch[0]) == 5
        return ms.cross_entropy(network, batch)

    subtasks = {"sign": Subtask([(x, y)], [(x, y)], lasting), "opposite": Subtask([(x, 1 - y)], [(x, 1 - y)], lasting)}
    results, folder = run(a_study(model=model, subtasks=subtasks, split=halves, repeats=1), tmp_path)
    assert set(parts) == {2}
    assert len(parts) == 3 * 12
    assert results.accuracies

    def first(network, batch):
        return ms.cross_entropy(lambda inputs: network(inputs.transpose(0, 1)), batch)

    batches = [(x.transpose(0, 1), y)]
    options = {"schedule": a_study().schedule, "penalty": 1e-3, "seed": derive(0, "mask", "sign", 0)}
    expected = ms.learn_mask(model, batches, first, layout=ms.layout(model), **options).mask
    assert Mask.load(folder.mask("sign", 0), model) == expected


def test_steps_in_pieces_and_with_little_memory_give_the_same_masks(tmp_path):
    plain, _ = run(a_study(repeats=1), tmp_path / "plain")
    sparing, _ = run(a_study(repeats=1, accumulate=2, low_memory=True), tmp_path / "sparing")
    assert sparing.accuracies == plain.accuracies
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        a_study(accumulate=0)


def test_a_density_is_hit(tmp_path):
    results, _ = run(a_study(density=0.25, repeats=1), tmp_path)
    assert {sum(tensor.kept_units for tensor in size.tensors) for size in results.sizes} == {48}


def test_repetitions_see_later_batches_and_the_control_all_in_turn():
    experiment = experiment_of(a_study())
    data = experiment.data
    assert isinstance(data, OwnData)
    again = data.learning("left", 12)
    assert torch.equal(again(3)[0], batch_of(0, 15)[0])
    turns = data.learning("all", 0)
    assert [turns(step).subtask for step in range(4)] == ["left", "right", "left", "right"]
    assert torch.equal(turns(5).batch[0], batch_of(1, 2)[0])
    objective = data.objective("all")
    assert objective(network(), Turn("right", batch_of(1, 0))) == ms.cross_entropy(network(), batch_of(1, 0))
    assert objective.weigh(turns(0)) == 16


def test_loaders_are_gone_through_in_turn(tmp_path):
    subtasks = {"left": Subtask([batch_of(0, 0), batch_of(0, 1)], lambda: [batch_of(0, 99)])}
    experiment = experiment_of(a_study(subtasks=subtasks))
    turns = iter(experiment.data.learning("all", 0))
    assert [torch.equal(next(turns).batch[0], batch_of(0, step)[0]) for step in (0, 1, 0)] == [True] * 3
    results, _ = run(a_study(subtasks=subtasks, repeats=1), tmp_path)
    assert results.accuracies[0].examples == 16


def test_a_comment_changes_nothing_and_code_does(file):
    first = read(file).experiments[0].digest
    file.write_text(FILE.replace("# untrained", "# not trained\n\n"))
    assert read(file).experiments[0].digest == first
    file.write_text(FILE.replace("1e-3", "2e-3"))
    assert read(file).experiments[0].digest != first


def test_other_studies_of_the_file_change_nothing_unless_they_are_used(file):
    before = [item.digest for item in read(file).experiments]
    file.write_text(FILE.replace("penalty=1e-3, repeats=1, ends", "penalty=2e-3, repeats=1, ends"))
    after = [item.digest for item in read(file).experiments]
    assert after[0] == before[0]
    assert after[1] != before[1]
    third = "\nother = replace(study, name='third')\n"
    file.write_text("from dataclasses import replace\n" + FILE + third)
    used = [item.digest for item in read(file).experiments]
    file.write_text("from dataclasses import replace\n" + FILE.replace("1e-3, solved", "2e-3, solved") + third)
    changed = [item.digest for item in read(file).experiments]
    assert [a == b for a, b in zip(used, changed, strict=True)] == [False, True, False]


def test_a_docstring_changes_nothing(file):
    text = (
        FILE
        + '''
def helper():
    """Before."""
'''
    )
    file.write_text(text)
    before = [item.digest for item in read(file).experiments]
    file.write_text(text.replace("Before", "After").replace('"""A study."""', '"""Another."""'))
    assert [item.digest for item in read(file).experiments] == before


def test_a_job_of_a_file_runs_in_another_process(file, tmp_path):
    found = read(file)
    job = Job(found.experiments[1], 0, tmp_path / "runs", 1, CPU, file)
    own.forget()
    pickle.loads(pickle.dumps(job)).run(lambda tick: None)
    assert len(find(tmp_path / "runs").runs) == 1
    assert from_json(to_json(found.experiments[1])) == found.experiments[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = x / 0\n", r"line 2 of .*study.py: ZeroDivisionError"),
        ("import maskscope\n", "no ms.Study at its top level"),
        (FILE.replace('"rows", model', '"weights", model'), r"two studies of one name: \['weights', 'weights'\]"),
        ("def (:\n", "SyntaxError"),
    ],
)
def test_errors_in_a_file_say_where(file, text, said):
    file.write_text(text)
    with pytest.raises(StudyFileError, match=said):
        read(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "a study needs a name"),
        ({"subtasks": {}}, r"subtasks=\[\]"),
        ({"subtasks": {"all": Subtask([batch_of(0, 0)], [batch_of(0, 0)])}}, "none of which is called 'all'"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"chance": 1.0}, r"chance in \[0, 1\)"),
        ({"chance": {"left": 0.5, "right": 1.0}}, r"chance in \[0, 1\)"),
        ({"chance": {"left": 0.5}}, r"chance of each of \['left', 'right'\] is needed, got \{'left': 0.5\}"),
    ],
)
def test_impossible_studies_are_refused_at_once(changes, said):
    with pytest.raises(ValueError, match=said):
        a_study(**changes)


def test_a_subtask_without_tests_is_refused():
    with pytest.raises(ValueError, match="no batches to test on"):
        Subtask([batch_of(0, 0)], []).tests()


def test_many_subtasks_have_curves_by_size_but_no_removals(tmp_path):
    subtasks = {name: a_study().subtasks["left"] for name in ("a", "b", "c", "d")}
    results, _ = run(a_study(subtasks=subtasks, repeats=1), tmp_path)
    assert results.pairs == ()
    records = {record.name.subtask: record for record in find(tmp_path).runs[0].seeds[0].records}
    assert {name for name, record in records.items() if record.faithfulness is not None} == set(subtasks)


def test_a_plan_counts_what_is_tested(tmp_path):
    experiment = experiment_of(a_study())
    over, found = cost(experiment, CPU)
    results, _ = run(a_study(), tmp_path)
    tested = {(item.network, item.mask) for item in results.accuracies}
    removed = {(item.removed, item.first, item.second) for item in results.pairs}
    assert found.networks == len(tested) + len(removed)
    assert found.masks == 5
    assert over.units == 192
    assert found.loss == pytest.approx(ms.cross_entropy(network(), batch_of(0, 0)).item())
    assert found.first != found.loss
    assert found.few
    assert found.learning == pytest.approx(5 * 12 * found.step)


def test_a_plan_tries_every_subtask_and_tells_what_the_network_can(file, type_):
    code, out, _ = type_("study", str(file), "--plan", "--only", "weights", "--threads", "1")
    assert code == 0
    assert re.search(r"right, the network itself: [\d.]+% of left, [\d.]+% of right", out)
    assert "does not reach" not in out
    text, strict, few = file.read_text(), file.with_name("strict.py"), file.with_name("few.py")
    strict.write_text(text.replace("solved=0.0)\nrows", "solved=0.99)\nrows"))
    _, out, _ = type_("study", str(strict), "--plan", "--only", "weights", "--threads", "1")
    assert "note: the network itself does not reach 99% (the study's solved=) on left, right" in out
    few.write_text(text.replace("batch_of(w, step)", "batch_of(w, step, 16 if w == 0 else 1)"))
    for more in (["--plan"], []):
        code, _, err = type_("study", str(few), "--only", "weights", "--threads", "1", *more)
        assert code == 1
        assert "a batch of 1 cannot be cut into samples=2 parts" in err
        assert "(the mask of " in err


def test_errors_of_the_study_s_own_code_keep_their_traceback_in_a_plan(file, type_):
    text = file.read_text()
    file.write_text(text.replace("learn=lambda step, w=which: batch_of(w, step)", "learn=lambda step: {}['inputs']"))
    with pytest.raises(KeyError, match="inputs") as raised:
        type_("study", str(file), "--plan", "--threads", "1")
    assert raised.value.__notes__ == ["study 'weights' cannot be run"]


def test_a_seed_that_no_network_has_is_refused_before_anything_is_learned(file, type_):
    for more in (["--plan"], []):
        code, _, err = type_("study", str(file), "--seeds", "0", "1", "--threads", "1", *more)
        assert code == 1
        assert "study 'weights' has one network, so its only seed is 0, got 1" in err
    assert not list(Path("runs").rglob("masks"))


def test_masks_that_had_not_settled_are_told_of_in_the_report(tmp_path):
    schedule = replace(a_study().schedule, steps=40, settled=0.0001, warmup=0.0)
    with pytest.warns(UserWarning, match="is not settled"):
        run(a_study(schedule=schedule, repeats=1), tmp_path)
    (found,) = find(tmp_path).runs
    assert any(re.search(r"\d of 3 masks had not settled: .* more steps", text) for text in found.warnings)


def test_random_removals_that_do_as_much_are_told_of(tmp_path):
    measured, _ = run(a_study(), tmp_path)

    def said(at_random):
        values = {"complement": 0.1, "complement of random mask": at_random}
        accuracies = tuple(replace(item, value=values.get(item.network, 1.0)) for item in measured.accuracies)
        return verdict(experiment_of(a_study()), [replace(measured, accuracies=accuracies)]).ablations

    assert "As many random units of each tensor, removed, harm left and right about as much" in said(0.2)
    assert "random" not in said(0.9)
