"""Masks on the hub: a folder stands in for it, so that nothing is sent or fetched."""

import os
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import nn

from maskscope.core.fingerprint import fingerprint
from maskscope.core.layout import layout
from maskscope.core.mask import Mask, Origin
from maskscope.core.seeded import seeded
from maskscope.hub import pull, push

RESPONSE = SimpleNamespace(headers={}, request=None)


def network(seed=0):
    with seeded(seed):
        return nn.Linear(3, 4)


def made():
    over = layout(network())
    return Mask.of(over, torch.arange(over.units) % 3 == 0, Origin(label="add", model=fingerprint(network())))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with one folder per repository, in it one per revision; what the hub was told is kept beside."""
    told = []

    def there(api, repo_id, revision):
        told.append({"token": api.token, "revision": revision})
        if not (tmp_path / repo_id).is_dir():
            raise RepositoryNotFoundError("404", response=RESPONSE)
        folder = tmp_path / repo_id / (revision or "main")
        if not folder.is_dir():
            raise RevisionNotFoundError("404", response=RESPONSE)
        return folder

    real = signature(HfApi.upload_file), signature(HfApi.hf_hub_download)

    def upload(self, **settings):
        real[0].bind(self, **settings)
        return uploaded(self, **settings)

    def uploaded(self, *, path_or_fileobj, path_in_repo, repo_id, revision, commit_message):
        target = there(self, repo_id, revision) / path_in_repo
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path_or_fileobj, target)
        told[-1] |= {"message": commit_message, "from": Path(path_or_fileobj)}
        return SimpleNamespace(oid=revision or "main")

    def download(self, repo_id, filename, *, revision):
        real[1].bind(self, repo_id, filename, revision=revision)
        path = there(self, repo_id, revision) / filename
        if not path.is_file():
            raise EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr(HfApi, "upload_file", upload)
    monkeypatch.setattr(HfApi, "hf_hub_download", download)
    (tmp_path / "someone/masks/main").mkdir(parents=True)
    return SimpleNamespace(root=tmp_path / "someone/masks", told=told)


def test_a_mask_comes_back_as_it_was(hub):
    commit = push(made(), "someone/masks", "linear/add.safetensors", token="secret")
    pulled = pull("someone/masks", "linear/add.safetensors", network(), revision=commit, token="other")
    assert (pulled, pulled.origin) == (made(), made().origin)
    assert [told["token"] for told in hub.told] == ["secret", "other"]
    assert hub.told[0]["message"] == "Mask add"
    assert not hub.told[0]["from"].exists()  # the temporary file


def test_branches_are_kept_apart(hub):
    (hub.root / "trial").mkdir()
    push(made(), "someone/masks", "add.safetensors")
    push(~made(), "someone/masks", "add.safetensors", revision="trial", message="the other weights")
    assert pull("someone/masks", "add.safetensors") == made()
    assert pull("someone/masks", "add.safetensors", revision="trial") == ~made()
    assert hub.told[1]["message"] == "the other weights"


def test_another_network_is_refused(hub):
    push(made(), "someone/masks", "add.safetensors")
    with pytest.raises(ValueError, match="learned on other weights"):
        pull("someone/masks", "add.safetensors", network(1))
    assert pull("someone/masks", "add.safetensors", network(1), allow_other_weights=True) == made()


def test_an_altered_file_is_refused(hub):
    push(made(), "someone/masks", "add.safetensors")
    file = hub.root / "main/add.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0b0100_0000
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"add\.safetensors was altered after it was written"):
        pull("someone/masks", "add.safetensors")
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is not a whole file"):
        pull("someone/masks", "add.safetensors")


def test_what_is_missing_is_said(hub, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"no repository 'someone/else'.*create_repo\('someone/else'\).*hf auth"
    ):
        push(made(), "someone/else", "add.safetensors")
    with pytest.raises(FileNotFoundError, match="no repository 'someone/else'"):
        pull("someone/else", "add.safetensors")
    with pytest.raises(FileNotFoundError, match="'someone/masks' has no branch, tag or commit 'v2'"):
        pull("someone/masks", "add.safetensors", revision="v2")
    with pytest.raises(FileNotFoundError, match=r"'someone/masks' has no file 'mul\.safetensors'"):
        pull("someone/masks", "mul.safetensors")

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(HfApi, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"cannot be reached.*is not in the cache"):
        pull("someone/masks", "add.safetensors")


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: push(made(), "someone/masks", "add"), lambda: pull("someone/masks", "add")):
        with pytest.raises(ImportError, match=r"huggingface_hub, which is not installed.*maskscope\[hf\]"):
            call()


def test_in_a_process_that_has_imported_nothing_else():
    """huggingface_hub loads its parts when they are asked for; offline, an error of its own says what is missing."""
    code = """
from torch import nn
import maskscope as ms
from maskscope.hub import pull, push
for call in (lambda: pull("a/masks", "x"), lambda: push(ms.Mask.full(ms.layout(nn.Linear(2, 2))), "a/masks", "x")):
    try:
        call()
    except OSError as error:
        print(type(error).__name__, error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    first, second = done.stdout.splitlines()
    assert first == "FileNotFoundError the hub cannot be reached, and 'x' of 'a/masks' is not in the cache"
    assert second.startswith("ConnectionError the hub cannot be reached for 'x' of 'a/masks': ")
