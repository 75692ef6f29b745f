"""The command line, as a person types it."""

import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from rich.console import Console

import maskscope.cli
import tiny
from maskscope.runs.jobs import Job, JobFailed, run_jobs
from maskscope.runs.store import RunFolder, folder_of


@pytest.mark.parametrize("command", ["", "list", "run", "study", "report", "compare", "inspect"])
def test_help_has_an_example(command, type_):
    code, out, _ = type_(*command.split(), "--help")
    assert code == 0
    assert ("maskscope " + command if command else "list | run | study") in out


def test_it_is_installed_as_a_command_and_as_a_module():
    script = Path(sysconfig.get_path("scripts")) / "maskscope"
    for command in ([sys.executable, "-m", "maskscope"], [str(script)]):
        done = subprocess.run([*command, "list"], capture_output=True, text=True, check=False)
        assert "double-addition" in done.stdout


def test_version(type_):
    assert type_("--version")[1].startswith("maskscope 0.")


def test_list_names_experiments_presets_and_networks(type_):
    _, out, _ = type_("list")
    assert "standard" in out
    assert "fnn, lstm, lstm-forced, fnn-copied" in out


def test_a_dry_run_says_what_would_be_masked_and_writes_nothing(type_, tmp_path):
    _, out, _ = type_("run", "double-addition", "--preset", "standard", "--only", "lstm", "--dry-run")
    assert "masked: 878,592 units over 878,592 weights in 5 parameters" in out
    assert "not masked: bias outside a normalisation layer" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "double-adition"), "no experiment 'double-adition'; nearest: 'double-addition'"),
        (("run", "double-addition", "--only", "ltsm"), "no variant 'ltsm'; nearest: 'lstm'"),
        (("run", "double-addition", "--jobs", "0"), "jobs must be at least 1"),
        (("run", "double-addition", "--seeds", "-1"), "seeds not negative"),
        (("run", "double-addition", "--seeds", "1", "1"), "seeds different"),
        (("report", "nowhere"), "no run under nowhere"),
        (("inspect", "nowhere"), "no mask file at nowhere"),
        (("compare", "nowhere", "nowhere"), "no mask file at nowhere"),
    ],
    ids=str,
)
def test_errors_say_what_to_do(words, message, type_):
    code, _, err = type_(*words)
    assert code == 1
    assert message in err


def test_an_unwritable_folder_is_an_error_without_a_traceback(type_, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = type_("run", "double-addition", "--out", "file/runs")
    assert code == 1
    assert "choose another with --out" in err


def test_run_report_compare_and_inspect(monkeypatch, type_, tmp_path):
    monkeypatch.setattr(maskscope.cli, "experiments", lambda name, preset: (tiny.FNN,))
    _, out, err = type_("run", "double-addition", "--seeds", "0", "1", "--threads", "1")
    assert "CANNOT TELL" in out
    assert "fnn seed 1: training: trained in" in err
    page = tmp_path / "runs" / "double-addition" / "quick" / "report.html"
    assert "tiny &lt;b&gt;FNN&lt;/b&gt;" in page.read_text(encoding="utf-8")
    folder = folder_of(page.parent, tiny.FNN, 0)
    type_("report", str(folder.path), "--out", "one.html")
    assert (tmp_path / "one.html").exists()
    a, b = folder.mask("pair 1", 0), folder.mask("pair 2", 0)
    assert "layers.1.weight" in type_("compare", str(a), str(b))[1]
    shown = type_("inspect", str(a))[1]
    assert "GumbelSigmoid" in shown
    assert "pair 1" in shown


def test_jobs_run_side_by_side_and_give_the_same_as_one_after_another(tmp_path):
    console = Console(stderr=True)
    together = [Job(item, 0, tmp_path / "together", 1) for item in (tiny.FNN, tiny.FORCED)]
    alone = [Job(item, 0, tmp_path / "alone", 1) for item in (tiny.FNN, tiny.FORCED)]
    run_jobs(together, 2, console)
    run_jobs(alone, 1, console)
    for item in (tiny.FNN, tiny.FORCED):
        texts = [folder_of(tmp_path / where, item, 0).results.read_text() for where in ("together", "alone")]
        assert texts[0] == texts[1]


def test_a_failing_job_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    jobs = [Job(item, 0, tmp_path / "file", 1) for item in (tiny.FNN, tiny.LSTM)]
    with pytest.raises(JobFailed, match=r"fnn seed 0: .*cannot write to the run folder"):
        run_jobs(jobs, 2, Console(stderr=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_stopping_jobs_saves_their_state_and_the_same_command_goes_on(number, tmp_path):
    """The signal goes to the first process only, as from a scheduler; it passes it on."""
    command = [sys.executable, "-m", "maskscope", "run", "double-addition", "--jobs", "2"]
    heard = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731 - a suite started in the background ignores Ctrl-C
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    folders = [tmp_path / "runs" / "double-addition" / "quick"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(folders[0].glob("*/seed-0/metrics.jsonl"))) < 2:
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "go on with:\n  maskscope run double-addition --jobs 2" in err
    assert len(list(folders[0].glob("*/seed-0/checkpoint/state.safetensors"))) == 2
    for lock in folders[0].glob("*/seed-0"):
        with RunFolder(lock).owned():  # no process is left behind
            pass


def test_a_device_that_is_not_there_is_said_at_once(type_):
    command = ("run", "double-addition", "--dry-run", "--device")
    assert type_(*command, "cpu")[0] == 0
    for device in ("cuda:99", "nowhere"):
        code, _, said = type_(*command, device)
        assert code == 1
        assert f"cannot compute on device '{device}'" in said
