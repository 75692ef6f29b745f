"""Masks are immutable values with the algebra of sets, and their files refuse what they do not belong to."""

import copy
import json
import pickle
import subprocess
import sys
from inspect import unwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from maskscope.analysis.compare import iou, overlaps
from maskscope.core.apply import masked
from maskscope.core.granularity import PerOutput
from maskscope.core.layout import layout
from maskscope.core.mask import Mask, Origin

MODEL = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
OVER = layout(MODEL)
SETS = st.sets(st.integers(0, OVER.units - 1))


def mask(units: set[int]) -> Mask:
    kept = torch.zeros(OVER.units, dtype=torch.bool)
    kept[list(units)] = True
    return Mask.of(OVER, kept)


def units(of: Mask) -> set[int]:
    return set(of.kept.nonzero().flatten().tolist())


@given(SETS, SETS)
def test_operations_are_those_of_sets(a, b):
    assert units(mask(a) & mask(b)) == a & b
    assert units(mask(a) | mask(b)) == a | b
    assert units(mask(a) - mask(b)) == a - b
    assert units(mask(a) ^ mask(b)) == a ^ b
    assert units(~mask(a)) == set(range(OVER.units)) - a


@given(SETS, SETS)
def test_equality_is_equality_of_sets_and_agrees_with_hashes(a, b):
    assert (mask(a) == mask(b)) == (a == b)
    if a == b:
        assert hash(mask(a)) == hash(mask(b))


@given(SETS)
def test_counts_are_sizes(a):
    found = mask(a)
    assert found.kept_units == found.kept_weights == len(a)
    assert sum(count.kept_units for count in found.counts()) == len(a)
    assert found.is_empty == (not a)
    assert found.is_full == (len(a) == OVER.units)
    assert ~~found == found


def test_structured_masks_count_units_and_weights():
    over = layout(MODEL, granularity=PerOutput())
    found = Mask.of(over, torch.tensor([True, False, False, False, True, True]))
    assert (found.kept_units, found.kept_weights) == (3, 3 + 8)
    assert found.density == 11 / 20
    assert [(c.kept_units, c.units, c.kept_weights, c.weights) for c in found.counts()] == [(1, 4, 3, 12), (2, 2, 8, 8)]


def test_a_mask_cannot_be_changed_from_outside():
    found = mask({1, 2})
    found.kept.fill_(value=1)
    found.parameter("0.weight").fill_(value=1)
    assert units(found) == {1, 2}
    with pytest.raises(AttributeError):
        found.bits = b""
    source = torch.zeros(OVER.units, dtype=torch.bool)
    made = Mask.of(OVER, source)
    source.fill_(value=1)
    assert made.is_empty


def test_only_hard_decisions_over_the_right_number_of_units_are_accepted():
    with pytest.raises(ValueError, match=r"expected 20 booleans.*float32"):
        Mask.of(OVER, torch.ones(OVER.units))
    with pytest.raises(ValueError, match="expected 20 booleans"):
        Mask.of(OVER, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="20 units need 3 bytes"):
        Mask(OVER, b"")
    with pytest.raises(ValueError, match="after the last unit"):
        Mask(OVER, b"\xff\xff\xff")


def test_masks_over_different_layouts_do_not_mix():
    with pytest.raises(ValueError, match=r"same layout: they differ over 2 parameters, first '0\.weight'"):
        mask({1}) & Mask.full(layout(MODEL, granularity=PerOutput()))


def test_an_unknown_parameter_is_named_with_its_nearest():
    with pytest.raises(KeyError, match=r"'0\.wieght' matches none.*'0\.weight'"):
        mask({1}).parameter("0.wieght")


def test_masks_can_be_copied_and_pickled():
    found = mask({3, 5})
    assert copy.deepcopy(found) == found
    assert pickle.loads(pickle.dumps(found)) == found


@given(SETS)
def test_a_file_comes_back_as_it_was(tmp_path_factory, a):
    path = tmp_path_factory.mktemp("m") / "mask.safetensors"
    origin = Origin("add", "add", 3, "GumbelSigmoid()", 0.0, 1e-6, 100)
    saved = Mask(mask(a).layout, mask(a).bits, origin)
    saved.save(path)
    loaded = Mask.load(path, MODEL)
    assert loaded == saved
    assert loaded.origin == origin


def learned_file(tmp_path):
    from maskscope.core.fingerprint import fingerprint

    path = tmp_path / "mask.safetensors"
    Mask(OVER, mask({1, 2}).bits, Origin(model=fingerprint(MODEL))).save(path)
    return path


def test_a_file_holds_plain_names_and_an_eighth_of_a_byte_per_unit(tmp_path):
    from safetensors import safe_open

    with safe_open(learned_file(tmp_path), "pt") as file:
        assert file.get_tensor("kept").numel() == 3
        header = json.loads(json.loads(file.metadata()["maskscope"])["header"])
    assert [segment["parameter"] for segment in header["layout"]] == ["0.weight", "1.weight"]


def test_equal_masks_are_equal_files(tmp_path):
    first = learned_file(tmp_path).read_bytes()
    assert all(learned_file(tmp_path).read_bytes() == first for _ in range(5))


def test_a_file_is_read_in_another_process(tmp_path):
    path = learned_file(tmp_path)
    script = f"from maskscope import Mask; print(Mask.load({str(path)!r}).kept.nonzero().flatten().tolist())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2]"


def test_a_file_refuses_another_network_and_says_what_differs(tmp_path):
    path = learned_file(tmp_path)
    with pytest.raises(KeyError, match=r"parameters are missing here, first '0\.weight'"):
        Mask.load(path, nn.Sequential(nn.ReLU(), nn.Linear(3, 4)))
    with pytest.raises(ValueError, match=r"'1\.weight' has shape \(5, 4\) here, \(2, 4\) in the mask"):
        Mask.load(path, nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
    with pytest.raises(ValueError, match="2 parameters exist on one side only"):
        Mask.load(path, nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)))
    other = copy.deepcopy(MODEL)
    other[1].bias.data.add_(1)
    with pytest.raises(ValueError, match=r"1 of 4 parameters have other values, first '1\.bias'.*allow_other_weights"):
        Mask.load(path, other)
    assert Mask.load(path, other, allow_other_weights=True) == mask({1, 2})
    with pytest.raises(ValueError, match=r"dtypes \['float32'\] against \['bfloat16'\]"):
        Mask.load(path, copy.deepcopy(MODEL).bfloat16())


def test_truncated_altered_and_foreign_files_are_refused(tmp_path):
    path = learned_file(tmp_path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"not a whole file"):
            Mask.load(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 16]))
    with pytest.raises(ValueError, match="altered"):
        Mask.load(path)
    path.write_bytes(whole.replace(b"weight", b"weighs", 1))
    with pytest.raises(ValueError, match="altered"):
        Mask.load(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="written by another program"):
        Mask.load(path)
    with pytest.raises(FileNotFoundError, match="no mask file at"):
        Mask.load(tmp_path / "none")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = learned_file(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskscope.core.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        mask({7}).save(path)
    assert units(Mask.load(path)) == {1, 2}
    assert [item.name for item in tmp_path.iterdir()] == ["mask.safetensors"]


def test_masks_and_layouts_print_in_one_line():
    assert repr(mask({1, 2}).named("add")) == "Mask('add': 2 of 20 units kept, 10.0% of 20 weights)"
    assert repr(OVER) == "Layout(20 units over 20 weights in 2 parameters)"


def test_what_learn_mask_returns_is_not_a_mask_and_says_so():
    for refused in (lambda x: unwrap(masked)(MODEL, x), lambda x: unwrap(overlaps)(x, x, {"all": ["*"]})):
        with pytest.raises(TypeError, match=r"expected a Mask, got object; what learn_mask returns holds it as \.mask"):
            refused(object())


def test_what_is_no_mask_or_network_is_refused_where_one_is_applied():
    everything = Mask.full(OVER)
    with pytest.raises(TypeError, match=r"a network is an nn.Module .*, got an object of type function"):
        unwrap(masked)(lambda x: x, everything)
    with pytest.raises(TypeError, match=r"names are a list of globs; write \['0.weight'\]"):
        iou(everything, everything, "0.weight")


def test_a_mask_is_neither_true_nor_false():
    mask = Mask.full(layout(nn.Linear(2, 3)))
    for wrong in (lambda: mask and mask, lambda: mask or mask, lambda: not mask):
        with pytest.raises(TypeError, match="neither true nor false"):
            wrong()
