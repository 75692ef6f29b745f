"""Shared by all tests: settings of hypothesis, one thread."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "maskscope", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("maskscope")


@pytest.fixture(autouse=True)
def one_thread():
    """Results are identical bit for bit at one thread count; tests fix it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
