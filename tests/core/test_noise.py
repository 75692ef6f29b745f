"""The noise is uniform, and independent over units, steps, samples, seeds and parameters."""

from inspect import unwrap

import pytest
import torch
from scipy import stats

from maskscope.core.noise import BITS, draw, uniform

N = 200_000


def numbers(seed=0, step=0, sample=0, name="weight", strata=None, n=N):
    return uniform(torch.arange(n, dtype=torch.int32), *draw(seed, step, sample, strata=strata).of(name)).double()


def chi_square(u: torch.Tensor, bins: int = 256) -> float:
    return float(stats.chisquare(torch.histc(u, bins, 0, 1).numpy()).pvalue)


def pair_chi_square(a: torch.Tensor, b: torch.Tensor, bins: int = 16) -> float:
    """Independence: all cells of the plane (a, b) are hit equally often."""
    cells = (a * bins).long() * bins + (b * bins).long()
    return float(stats.chisquare(torch.bincount(cells, minlength=bins * bins).numpy()).pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_uniform(seed):
    u = numbers(seed)
    assert chi_square(u) > 1e-3
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


def test_the_low_digits_are_uniform_too():
    low = (numbers() * 2**BITS).long() % 256
    assert stats.chisquare(torch.bincount(low, minlength=256).numpy()).pvalue > 1e-3


def test_numbers_stay_strictly_inside_zero_and_one():
    # Every value of the grid in float32, the largest included, also when moved into another stratum.
    grid = (torch.arange(2**BITS, dtype=torch.int32).float() + 0.5) * 2.0**-BITS
    assert grid.min() > 0
    assert grid.max() < 1
    assert float(grid[-1]) == 1 - 2.0 ** -(BITS + 1)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"step": 0}, {"step": 1}),
        ({"sample": 0}, {"sample": 1}),
        ({"seed": 0}, {"seed": 1}),
        ({"name": "layers.0.weight"}, {"name": "layers.1.weight"}),
        ({"step": 7, "sample": 0}, {"step": 6, "sample": 1}),
    ],
    ids=str,
)
def test_streams_are_independent(a, b):
    assert pair_chi_square(numbers(**a), numbers(**b)) > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 1000])
def test_neighbouring_units_are_independent(lag):
    u = numbers()
    assert pair_chi_square(u[:-lag], u[lag:]) > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([u[:-lag], u[lag:]]))[0, 1])) < 4 / N**0.5


def test_many_steps_of_one_unit_are_uniform_and_uncorrelated():
    u = torch.stack([numbers(step=step, n=4) for step in range(20_000)])[:, 2]
    assert chi_square(u, 64) > 1e-3
    assert pair_chi_square(u[:-1], u[1:], 8) > 1e-3


def test_streams_are_not_shifted_copies_of_each_other():
    # With one key word added to a counter, two streams would share long runs.
    a = set(numbers(step=0, n=5000).tolist())
    common = sum(len(a & set(numbers(step=step, n=5000).tolist())) for step in range(1, 40))
    expected = 39 * 5000 * 5000 / 2**BITS
    assert abs(common - expected) < 6 * expected**0.5


def test_strata_cover_the_unit_interval_evenly():
    together = torch.stack([numbers(sample=k, strata=4) for k in range(4)])
    assert torch.equal((together * 4).long().sort(0).values, torch.arange(4)[:, None].expand(4, N))


@pytest.mark.parametrize("k", range(4))
def test_each_sample_of_a_stratified_step_is_uniform_alone(k):
    assert chi_square(numbers(sample=k, strata=4)) > 1e-3


def test_a_parameter_draws_the_same_whatever_else_is_selected_and_however_long_it_is():
    assert torch.equal(numbers(n=100), numbers(n=1000)[:100])


def test_python_integers_agree_with_tensor_arithmetic():
    """A naive re-implementation with Python's unbounded integers."""
    key0, key1, rotation = draw(3, 5, 1).of("w")
    mask = 0xFFFFFFFF
    for unit in (0, 1, 12345, 2**31 - 1):
        word = (unit * 0x9E3779B1 + key0) & mask
        word = ((word ^ (word >> 17)) * 0xED5AD4BB) & mask
        word = word ^ (word >> 11) ^ (key1 & mask)
        word = (word * 0xAC4C1B51) & mask
        word = ((word ^ (word >> 15)) * 0x31848BAB) & mask
        word ^= word >> 14
        expected = ((word >> 9) + 0.5) / 2**23
        found = uniform(torch.tensor([unit], dtype=torch.int32), key0, key1, rotation)
        assert float(found) == expected


@pytest.mark.parametrize("seed", [1.5, None, 2**63])
def test_a_seed_is_a_whole_number_of_64_bits(seed):
    with pytest.raises(ValueError, match="a seed is a whole number of 64 bits, got"):
        unwrap(draw)(seed, 0, 0)
