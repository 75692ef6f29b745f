"""Progress where there is no terminal: lines that come now and then, with what is left."""

import io
import sys
from itertools import pairwise

import torch
from rich.console import Console
from torch import nn

import maskscope as ms
from maskscope.progress import BETWEEN_LINES, FIRST_LINE, Lines, bars


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines(seconds_a_step, steps, total=10_000, begun=0):
    text, clock = io.StringIO(), Clock()
    told = Lines(Console(file=text), clock)
    with told:
        task = told.add_task("net [0]: training", total=total)
        for step in range(begun + 1, begun + steps + 1):
            clock.now += seconds_a_step
            told.update(task, completed=step)
    return text.getvalue().splitlines()


def test_short_work_says_nothing():
    assert lines(0.1, int(FIRST_LINE / 0.1) - 1) == []


def test_long_work_says_how_far_it_is_and_what_is_left():
    first, second, *_ = lines(0.5, 200)
    assert first == "net [0]: training: 40 of 10,000, 2.0/s, 1:23:00 left"
    assert second.startswith("net [0]: training: 80 of 10,000")


def test_lines_become_fewer_until_one_in_five_minutes():
    steps = [int(line.split(": ")[2].split(" ")[0].replace(",", "")) for line in lines(1.0, 2000)]
    assert steps[:5] == [20, 40, 80, 160, 320]
    assert {b - a for a, b in pairwise(steps[5:])} == {BETWEEN_LINES}


def test_steps_of_before_do_not_count_as_speed():
    assert "1.0/s" in lines(1.0, 30, begun=5000)[0]


def test_what_has_no_known_end_says_only_how_far_it_is():
    assert lines(1.0, 20, total=None) == ["net [0]: training: 20, 1.0/s"]


def test_the_end_is_not_told_twice():
    assert lines(10.0, 2, total=2) == []


def test_bars_are_for_terminals():
    assert isinstance(bars(Console(file=io.StringIO())), Lines)
    assert not isinstance(bars(Console(file=io.StringIO(), force_terminal=True)), Lines)


def test_learning_a_mask_tells_what_it_keeps(monkeypatch):
    monkeypatch.setattr(sys.modules["maskscope.progress"], "FIRST_LINE", 0.0)  # ms.progress is the function
    model, text = nn.Linear(3, 2), io.StringIO()
    batch = (torch.randn(8, 3), torch.arange(8) % 2)
    schedule = ms.Schedule(steps=20, settled=None)
    steps = iter(ms.learning(model, [batch], ms.cross_entropy, layout=ms.layout(model), schedule=schedule))
    assert sum(1 for _ in ms.progress("half", Console(file=text))(steps)) == 20
    first = text.getvalue().splitlines()[0]
    assert first.startswith("half: 6 likely kept: 1 of 20")
