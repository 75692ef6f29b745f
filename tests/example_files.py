"""Reading the study files under examples/."""

import sys
from pathlib import Path
from types import ModuleType

from maskscope.runs.study_file import read

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    """A study file as a module, read as ``maskscope study`` reads it."""
    read(EXAMPLES / f"{name}.py")
    return sys.modules[f"maskscope_study_{name}"]
