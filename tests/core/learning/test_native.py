"""Products with gated weights: the gates of the eager passes, the products of torch, whatever the vectors and threads."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from maskscope.core.gates import GumbelSigmoid
from maskscope.core.layout import layout
from maskscope.core.learning import native
from maskscope.core.learning.blocks import WIDTH, Blocks
from maskscope.core.learning.gated import GatedWeight
from maskscope.core.learning.kernels import Kernel, words
from maskscope.core.learning.native import FLAGS, Library, Part, build, check
from maskscope.core.learning.sinks import IntoLogits, IntoWeight
from maskscope.core.noise import draw, uniform

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux only")
VECTORS = {16: "-march=native", 8: "-mavx2 -mfma", 4: "-march=x86-64"}
SHAPES = [(0, 3, 4), (1, 1, 1), (5, 37, 53), (32, 24, 80), (33, 13, 600), (300, 7, 49), (64, 260, 1030)]


def cpu_has(flag: str) -> bool:
    return flag in Path("/proc/cpuinfo").read_text()


@pytest.fixture(params=VECTORS, scope="module", ids="vectors of {}".format)
def library(request, tmp_path_factory):
    if not cpu_has({16: "avx512f", 8: "avx2", 4: "sse2"}[request.param]):
        pytest.skip(f"this processor has no vectors of {request.param}")
    flags = (FLAGS[0], *VECTORS[request.param].split(), *FLAGS[2:])
    path, new = build(flags, tmp_path_factory.mktemp("native"))
    found = Library(path)
    check(found)
    assert new
    assert found.lanes == request.param
    return found


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_bits(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, (-(-count // 64) + 1,), generator=generator)


def unpacked(bits, shape):
    count = torch.Size(shape).numel()
    every = (bits.unsqueeze(1) >> torch.arange(64)) & 1
    return every.flatten()[:count].view(shape).float()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_torch_with_the_gated_weight(library, shape):
    rows, out, size = shape
    weight, x, dy, bias = numbers(out, size), numbers(rows, size, seed=1), numbers(rows, out, seed=2), numbers(out)
    bits = random_bits(out * size)
    gated = weight * unpacked(bits, weight.shape)
    written = torch.empty_like(weight)
    library.gate(written, weight, bits)
    assert torch.equal(written, gated)
    torch.testing.assert_close(library.forward(x, weight, bits, None), x @ gated.t(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(library.forward(x, weight, bits, bias), x @ gated.t() + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(library.backward(dy, weight, bits), dy @ gated, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strata", [4, None])
def test_gates_are_the_bits_of_the_eager_passes(library, strata):
    blocks = Blocks(layout(nn.Sequential(nn.Linear(50, 41), nn.Linear(41, 3))))
    keys = (blocks.key0, blocks.key1)
    streams = [draw(3, 5, sample, strata=strata) for sample in range(4)]
    planes = torch.zeros(4, blocks.count + 1, dtype=torch.int64)
    for prepared in thresholds(blocks, streams[0]):
        library.draw(planes, prepared, keys, torch.tensor(streams, dtype=torch.int32))
        for sample, stream in enumerate(streams):
            gates, ones = blocks.full(0.5), blocks.full(1.0)
            Kernel(GumbelSigmoid(), "eager").sample(gates, ones, prepared, ones, keys, words(stream, blocks.device))
            assert torch.equal(unpacked(planes[sample], gates.shape), gates)


def thresholds(blocks, stream):
    """Ordinary, extreme, and on, just above and just below every number that is drawn."""
    first, second, rotation = words(stream, blocks.device)
    index = torch.arange(WIDTH, dtype=torch.int32)
    drawn = uniform(index, blocks.key0 + first, blocks.key1 ^ second, rotation)
    one, nought = torch.ones(()), torch.zeros(())
    yield torch.sigmoid(numbers(blocks.count, WIDTH) * 8)
    yield blocks.full(0.0)
    yield blocks.full(1.0)
    yield blocks.full(1e-30)
    yield from (drawn, torch.nextafter(drawn, one), torch.nextafter(drawn, nought))


def test_results_do_not_depend_on_the_number_of_threads(library):
    weight, x, dy, bits = numbers(130, 700), numbers(70, 700), numbers(70, 130), random_bits(130 * 700)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append((library.forward(x, weight, bits, None), library.backward(dy, weight, bits)))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("size", [32, 48])
def test_the_steps_of_an_lstm_are_those_of_torch(library, size):
    steps, rows, layer = 5, 7, nn.LSTM(3, size)
    bits = random_bits(4 * size * size)
    gated = (layer.weight_hh_l0 * unpacked(bits, layer.weight_hh_l0.shape)).detach()
    x, h, c = numbers(steps, rows, 3), numbers(1, rows, size, seed=1), numbers(1, rows, size, seed=2)
    y_slope, h_slope, c_slope = numbers(steps, rows, size), numbers(rows, size, seed=3), numbers(rows, size, seed=4)

    from_x = x @ layer.weight_ih_l0.t() + layer.bias_ih_l0 + layer.bias_hh_l0
    leaf, first = from_x.detach().requires_grad_(), [h.clone().requires_grad_(), c.clone().requires_grad_()]
    state = [first[0][0], first[1][0]]
    outputs = []
    for step in leaf:  # the definition, step by step
        into, forget, new, out = (step + state[0] @ gated.t()).chunk(4, -1)
        state[1] = forget.sigmoid() * state[1] + into.sigmoid() * new.tanh()
        state[0] = out.sigmoid() * state[1].tanh()
        outputs.append(state[0])
    torch.autograd.backward([torch.stack(outputs), *state], [y_slope, h_slope, c_slope])

    gates, hidden, cells = (
        from_x.detach().clone(),
        torch.zeros(steps + 1, rows, size),
        torch.zeros(steps + 1, rows, size),
    )
    hidden[0], cells[0] = h[0], c[0]
    library.lstm_forward(gates, hidden, cells, layer.weight_hh_l0.detach(), bits)
    torch.testing.assert_close(hidden[1:], torch.stack(outputs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cells[-1], state[1], rtol=1e-4, atol=1e-5)
    last = (h_slope.clone(), c_slope.clone())
    slopes = library.lstm_backward(gates, cells, y_slope, last, layer.weight_hh_l0.detach(), bits)
    torch.testing.assert_close(slopes, leaf.grad, rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(last, first, strict=True):
        torch.testing.assert_close(ours, theirs.grad[0], rtol=1e-3, atol=1e-5)


def test_extreme_inputs_of_an_lstm_saturate(library):
    gates = torch.tensor([-1e30, -200.0, 200.0, 1e30]).repeat_interleave(32).view(1, 1, 128).clone()
    hidden, cells = torch.zeros(2, 1, 32), torch.zeros(2, 1, 32)
    library.lstm_forward(gates, hidden, cells, torch.zeros(128, 32), random_bits(4096))
    torch.testing.assert_close(gates.view(4, 32)[:, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))


def slopes_of(logits, bits):
    return GumbelSigmoid().expected_slope(logits, unpacked(bits, logits.shape))


PARTS = [((3, 4), (5,)), ((37, 53), (7, 30, 1)), ((13, 600), (32, 32, 32, 32)), ((260, 130), (300,)), ((1, 1), (2, 0))]


@pytest.mark.parametrize(("shape", "rows"), PARTS, ids=str)
@pytest.mark.parametrize("base", [None, 0.25])
def test_gradients_of_logits_are_products_times_expected_slopes(library, shape, rows, base):
    weight, logits, start = numbers(*shape), numbers(*shape, seed=1) * 9, numbers(*shape, seed=2)
    parts = [
        Part(numbers(n, shape[0], seed=10 + n), numbers(n, shape[1], seed=20 + n), random_bits(weight.numel(), seed))
        for seed, n in enumerate(rows)
    ]
    expected = start.clone() if base is None else torch.full_like(start, base)
    for part in parts:
        expected += weight * slopes_of(logits, part.bits) * (part.dy.t() @ part.x)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        total = start.clone()
        library.collect_products(total, weight, logits, parts, base)
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
        found.append(total)
    assert torch.equal(*found)


@pytest.mark.parametrize("count", [1, 15, 64, 5000])
def test_gradients_that_are_there_are_added_with_expected_slopes(library, count):
    total, gradient, weight, logits = (numbers(count, seed=seed) for seed in range(4))
    logits, bits = logits * 30, random_bits(count)
    expected = total + gradient * weight * slopes_of(logits, bits)
    library.collect(total, gradient, weight, logits, bits)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)


def gated(library, weight, sink=None):
    planes = [random_bits(weight.numel(), seed) for seed in range(2)]
    return GatedWeight("w", weight, planes, sink or IntoWeight(torch.full_like(weight, 9.0)), library), planes


def test_a_gradient_is_the_sum_of_all_that_came_and_the_least_if_nothing_did(library):
    weight, logits, total = numbers(6, 5), numbers(6, 5, seed=1), torch.full((6, 5), 9.0)
    into_weight = IntoWeight(torch.full_like(weight, 9.0))
    into_logits = IntoLogits(total, weight, logits, torch.tensor(0.25), library)
    dy, x = numbers(900, 6), numbers(900, 5)
    for sink in (into_weight, into_logits):
        matrix, planes = gated(library, weight, sink)
        sink.begin()
        for rows in (
            slice(0, 250),
            slice(250, 500),
            slice(500, 600),
            slice(600, 900),
        ):  # kept waiting, and one that is not
            matrix.collect(dy[rows], x[rows])
        seen = matrix.stand_in * 2.0  # and a product that is not known here
        assert torch.equal(seen, 2 * weight * unpacked(planes[0], weight.shape))
        seen.sum().backward()
        sink.finish()
    expected = dy.t() @ x + 2.0
    torch.testing.assert_close(into_weight.gradient, expected, rtol=1e-4, atol=2e-4)
    by_logit = expected * weight * slopes_of(logits, planes[0]) + 0.25
    torch.testing.assert_close(total, by_logit, rtol=1e-4, atol=1e-4)
    for sink in (into_weight, into_logits):
        sink.begin()
        sink.finish()
    assert not into_weight.gradient.any()
    assert (total == 0.25).all()


def test_a_stand_in_shows_the_sample_of_the_moment_and_is_not_written_for_its_shape(library):
    weight = numbers(6, 5)
    matrix, planes = gated(library, weight)
    assert (matrix.stand_in.shape, matrix.stand_in.dtype, matrix.stand_in.requires_grad) == (
        (6, 5),
        torch.float32,
        True,
    )
    assert matrix._written is None
    for sample in (0, 1, 0):
        matrix.show(sample)
        assert torch.equal(matrix.stand_in.detach(), weight * unpacked(planes[sample], weight.shape))
    assert torch.equal(weight, numbers(6, 5))
    kept = matrix.stand_in
    del matrix
    with pytest.raises(RuntimeError, match="used after that step; keep a copy"):
        kept.sum()


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """As in a new process of a new user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def test_it_is_compiled_once(anew):
    assert native.library().seconds > 0
    native.library.cache_clear()
    assert native.library().seconds == 0


@pytest.mark.parametrize("compiler", ["false", "/nowhere/cc"])
def test_without_a_compiler_one_warning_says_what_it_costs(anew, compiler, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    with pytest.warns(RuntimeWarning, match=r"could not be compiled \(.*; going on with torch's.*CC says which"):
        assert native.library() is None
    assert native.library() is None  # a second warning would be an error


def test_a_damaged_library_is_compiled_anew(anew):
    path, _ = build(FLAGS)
    path.write_bytes(b"no library")
    assert native.library().seconds > 0
    assert path.stat().st_size > 1000


def test_wrong_results_are_refused(library, monkeypatch):
    monkeypatch.setattr(Library, "backward", lambda self, dy, weight, bits: dy @ weight)
    with pytest.raises(RuntimeError, match="wrong on this processor"):
        check(library)
