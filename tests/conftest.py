"""Shared by all tests: settings of hypothesis, one thread."""

import signal
import sys
import warnings

import pytest
import torch
from hypothesis import HealthCheck, settings

import maskscope.cli
import pictures
from maskscope.core.seeded import seeded
from maskscope.data.cifar10 import ClassPairs, ClassRemoval
from maskscope.data.mnist import PermutedMNIST
from maskscope.data.scan import Scan
from maskscope.locate import SETTING

SHORT = 40
"""Test examples of each kind in a tiny run: whole splits take minutes under ten masks."""

settings.register_profile(
    "maskscope", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("maskscope")

# Fixtures of whole modules and doctests too: two processes of two threads each wait for one another on two cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    """Results are identical bit for bit at one thread count; tests fix it."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_draws():
    """Every test draws the same numbers each time, whichever ran before it in the process."""
    with seeded(0):
        yield


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """The real MNIST and CIFAR-10 where they are, else small files of random images in the same formats."""
    if pictures.REAL.is_dir():
        return pictures.REAL
    root = tmp_path_factory.mktemp("data")
    pictures.write_mnist(root, train=400, test=50)
    pictures.write_cifar(root)
    return root


@pytest.fixture(scope="module")
def _tiny_data(data_folder):
    """Experiments find it, and test on the first few examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SETTING, str(data_folder))
        for kind in (Scan, ClassRemoval, ClassPairs, PermutedMNIST):
            patch.setattr(kind, "tests", _first_of(kind.tests))
        yield


def _first_of(whole):
    def tests(self, *args, **kwargs):
        return whole(self, *args, **{**kwargs, "size": SHORT})[:1]

    return tests


@pytest.fixture
def type_(monkeypatch, capsys, tmp_path):
    """Type a command in an empty folder; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = signal.getsignal(signal.SIGTERM)

    def type_(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maskscope", *words])
        code = 0
        try:
            maskscope.cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    yield type_
    signal.signal(signal.SIGTERM, before)
