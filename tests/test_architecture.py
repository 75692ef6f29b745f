"""The rooms of the house: imports point downward only, and the core needs next to nothing."""

import ast
import sys
from pathlib import Path

import maskscope

ROOT = Path(maskscope.__file__).parent

ORDER = (
    "locate",
    "core",
    "hub",
    "progress",
    "study",
    "analysis",
    "data",
    "models",
    "runs",
    "experiments",
    "report",
    "cli",
    "__main__",
)
"""From the bottom up; a file imports from its own room or from rooms before it."""

ALLOWED_IN_CORE = {"torch", "triton", "numpy", "safetensors", "jaxtyping", "maskscope"}


def modules() -> list[tuple[str, Path]]:
    """Every source file with the room it belongs to."""
    return [(path.relative_to(ROOT).parts[0].removesuffix(".py"), path) for path in sorted(ROOT.rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Absolute names of all imported modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_file_has_a_room():
    assert {room for room, _ in modules()} == {*ORDER, "__init__"}


def test_imports_point_downward_only():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room, path in modules()
        for name in imported(path)
        if room != "__init__" and name.startswith("maskscope.")
        if ORDER.index(name.split(".")[1]) > ORDER.index(room)
    ]
    assert not wrong


def test_what_a_mask_is_does_not_know_how_it_is_learned():
    core = ROOT / "core"
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in core.glob("*.py")
        for name in imported(path)
        if name.startswith("maskscope.core.learning")
    ]
    assert not wrong


def test_analysis_data_and_models_do_not_know_each_other():
    siblings = {"analysis", "data", "models"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room, path in modules()
        for name in imported(path)
        if room in siblings and name.startswith("maskscope.") and name.split(".")[1] in siblings - {room}
    ]
    assert not wrong


def test_models_know_nothing_of_masks():
    wrong = [
        str(path) for room, path in modules() if room == "models" and any("maskscope.core" in n for n in imported(path))
    ]
    assert not wrong


def test_the_core_needs_torch_numpy_and_safetensors_only():
    outside = {
        name.split(".")[0] for room, path in modules() if room == "core" for name in imported(path)
    } - ALLOWED_IN_CORE
    assert outside <= sys.stdlib_module_names, outside


def test_public_names_are_few_and_sorted():
    assert len(maskscope.__all__) <= 50
    assert all(hasattr(maskscope, name) for name in maskscope.__all__)


def test_nothing_is_ever_unpickled():
    for _, path in modules():
        names = imported(path)
        assert not any(name.split(".")[0] in {"pickle", "dill", "joblib"} for name in names), path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path
