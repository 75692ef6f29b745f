"""Numbers that may be missing, in memory and in JSON."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator


def _from_null(value: object) -> object:
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_from_null)]
"""A float that may be NaN (undefined, such as the IoU of empty masks); JSON knows no NaN and holds null."""
