"""Units that lie anywhere, by a number for each weight: the same as views where a view can say it."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import maskscope as ms
from maskscope.core.seeded import seeded
from maskscope.core.segments import IndexedSegment
from native import with_products


def batch_of(step, rows=16):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(rows, 6, generator=generator)
    return x, x[:, :3].argmax(-1)


@pytest.fixture
def model():
    with seeded(0):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def rows_of(model):
    return {name: torch.arange(model.get_parameter(name).shape[0]).unsqueeze(1) for name in ("0.weight", "2.weight")}


NEURONS = {"0.weight": torch.arange(16).unsqueeze(1), "0.bias": torch.arange(16), "2.weight": torch.arange(16)}
AS_VIEWS = {
    "0.weight": ms.View((16, 6), (16, 1)),
    "0.bias": ms.View((16,), (16,)),
    "2.weight": ms.View((3, 16), (1, 16)),
}


@pytest.mark.filterwarnings("ignore:the mask of this subtask")
@pytest.mark.parametrize(
    ("gate", "products"), [(ms.GumbelSigmoid(), False), (ms.GumbelSigmoid(), True), (ms.TopK(0.5), False)]
)
@pytest.mark.parametrize("kind", ["rows", "neurons", "weights"])
def test_numbers_give_the_mask_that_a_view_gives(model, gate, kind, products, monkeypatch):
    if products:
        with_products(monkeypatch)
    shapes = {name: model.get_parameter(name).shape for name in ("0.weight", "2.weight")}
    view, numbers = {
        "rows": (ms.PerOutput(), ms.PerIndex(rows_of(model))),
        "neurons": (ms.Tied((AS_VIEWS,)), ms.PerIndex(NEURONS, tied=True)),
        "weights": (ms.PerWeight(), ms.PerIndex({n: torch.arange(s.numel()).view(s) for n, s in shapes.items()})),
    }[kind]
    schedule = ms.Schedule(steps=25, samples=2, learning_rate=0.2, settled=None)
    one, two = (
        ms.learn_mask(
            model,
            batch_of,
            ms.cross_entropy,
            layout=ms.layout(model, granularity=grain),
            gate=gate,
            schedule=schedule,
            penalty=1e-3,
        )
        for grain in (view, numbers)
    )
    assert torch.allclose(one.logits, two.logits, atol=1e-3)
    for name, kept in one.mask.tensors().items():
        assert torch.equal(kept, two.mask.parameter(name))
    assert [count[2:] for count in map(tuple, map(vars_of, one.mask.counts()))] == [
        count[2:] for count in map(tuple, map(vars_of, two.mask.counts()))
    ]
    x, _ = batch_of(7)
    assert torch.allclose(ms.masked(model, one.mask)(x), ms.masked(model, two.mask)(x), atol=1e-6)


def vars_of(count):
    return (count.parameter, count.layer, count.kept_units, count.units, count.kept_weights, count.weights)


def test_units_of_no_rectangle(model, tmp_path):
    numbers = torch.zeros(16, 6, dtype=torch.int64)
    numbers[torch.arange(6), torch.arange(6)] = 1
    numbers[15, 0] = 2
    over = ms.layout(model, granularity=ms.PerIndex({"0.weight": numbers}))
    assert over.unit_weights().tolist() == [16 * 6 - 7, 6, 1]
    mask = ms.Mask.of(over, torch.tensor([True, False, True]))
    assert mask.kept_weights == 16 * 6 - 6
    assert torch.equal(ms.bake(model, mask).get_parameter("0.weight") != 0, numbers != 1)
    assert torch.equal((~mask).parameter("0.weight"), numbers == 1)
    assert "3 units over 96 weights" in over.table()


def test_it_is_read_by_another_process(model, tmp_path):
    over = ms.layout(model, granularity=ms.PerIndex(NEURONS, tied=True, kind="neuron"))
    mask = ms.Mask.of(over, torch.arange(16) < 5)
    path = mask.save(tmp_path / "mask.safetensors")
    assert ms.Mask.load(path) == mask
    assert isinstance(ms.Mask.load(path).layout.segments[0], IndexedSegment)
    code = (
        f"import maskscope as ms; print({{n: int(t.sum()) for n, t in ms.Mask.load({str(path)!r}).tensors().items()}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({"0.weight": 30, "0.bias": 5, "2.weight": 15})
    other = ms.layout(
        model, granularity=ms.PerIndex(NEURONS | {"0.bias": torch.arange(16).flip(0)}, tied=True, kind="neuron")
    )
    with pytest.raises(ValueError, match="the same layout"):
        mask & ms.Mask.full(other)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (torch.tensor([[0], [2]]), "belongs to unit 1"),
        (torch.tensor([[-1], [0]]), "integers from 0"),
        (torch.tensor([[0.0], [1.0]]), "integers from 0"),
        (torch.zeros(3, 1, dtype=torch.int64), r"shape \(3, 1\), expected \(2, 4\)"),
    ],
)
def test_numbers_that_do_not_count_are_refused(numbers, said):
    with pytest.raises(ValueError, match=said):
        ms.layout(nn.Linear(4, 2), granularity=ms.PerIndex({"weight": numbers}))
