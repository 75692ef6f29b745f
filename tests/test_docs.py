"""The code in the pages for users runs as it stands, block after block."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import maskscope as ms

DOCS = Path(__file__).parent.parent / "docs"

ELSEWHERE = ("from_pretrained", "someone/masks", "load_file")
"""Blocks with any of these need a network, a file or a hub that is not here."""


def blocks(page: str) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return [code for code in found if not any(word in code for word in ELSEWHERE)]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What a page takes for granted, if it does not begin with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        ms, "learn_mask", partial(ms.learn_mask, schedule=ms.Schedule(steps=20, samples=2, settled=None))
    )

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.randn(16, 20, generator=torch.Generator().manual_seed(step))
        return inputs, (inputs[:, 0] > 0).long()

    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    return {"model": model, "batches": batches, "tests": [batches(99)]}


@pytest.mark.filterwarnings("ignore:the mask of")  # twenty steps
@pytest.mark.parametrize(("page", "least"), [("guide.md", 12), ("extending.md", 6)])
def test_the_code_of_a_page_runs(page, least, names):
    code = blocks(page)
    assert len(code) >= least
    for number, block in enumerate(code):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), names)
