"""The code in the README runs as it stands."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import maskscope as ms
from maskscope.core.seeded import seeded

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.filterwarnings("ignore:.*keeps everything.*")
def test_the_example_on_ones_own_model_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ms, "learn_mask", partial(ms.learn_mask, schedule=ms.Schedule(steps=5)))
    with seeded(0):
        data = [(torch.randn(16, 4), torch.randint(0, 2, (16,)))]
        names = {"model": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))}
    batches = {f"{task}_{kind}": data for task in ("add", "mul") for kind in ("batches", "tests")}
    exec(code, names | batches)
    shown = capsys.readouterr().out
    assert "masked: 48 units over 48 weights" in shown
    assert "IoU" in shown
    assert ms.Mask.load("shared.safetensors", names["model"]).layout.units == 48
