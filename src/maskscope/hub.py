"""Masks on the Hugging Face hub: one file of a repository each. Needs huggingface_hub, which the extra ``hf`` brings."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from maskscope.core.mask import Mask, expect_mask


def push(
    mask: Mask,
    repo_id: str,
    path_in_repo: str,
    *,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Put a mask into a repository that is there.

    Args:
        mask: What to share.
        repo_id: Such as ``"someone/masks"``.
        path_in_repo: Such as ``"gpt2/add.safetensors"``; a file of that name gets a new version.
        revision: Branch. Default: the main one.
        message: Of the commit.
        token: Default: the one that ``hf auth login`` stored.

    Returns:
        The commit, to be given to ``pull`` as ``revision``.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: No such repository or branch, or it is not yours to see.
        ConnectionError: The hub cannot be reached.

    Examples:
        >>> from unittest.mock import Mock, patch
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> with patch("huggingface_hub.HfApi.upload_file", return_value=Mock(oid="3f2a")):  # no network
        ...     push(mask, "someone/masks", "all.safetensors")
        '3f2a'
    """
    hub = _hub()
    expect_mask(mask)
    with TemporaryDirectory() as folder, _found(repo_id, path_in_repo, revision):
        commit = hub.HfApi(token=token).upload_file(
            path_or_fileobj=mask.save(Path(folder) / "mask.safetensors"),
            path_in_repo=path_in_repo,
            repo_id=repo_id,
            revision=revision,
            commit_message=message or f"Mask {mask.origin.label or path_in_repo}",
        )
    return commit.oid


def pull(
    repo_id: str,
    path: str,
    model: nn.Module | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    allow_other_weights: bool = False,
) -> Mask:
    """Fetch a mask from a repository, or take it from huggingface_hub's cache, and read it as ``Mask.load`` does.

    Args:
        repo_id: Such as ``"someone/masks"``.
        path: The file's path in the repository.
        model: The network it is meant for; another one is refused.
        revision: Branch, tag or commit. Default: the newest on the main branch.
        token: Default: the one that ``hf auth login`` stored.
        allow_other_weights: Accept other values of the weights: a fine-tuned, donor, random or bfloat16 copy.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: No such repository, revision or file; or the hub cannot be reached, and it is not in the cache.
        ValueError: The file is not whole, not a mask, or for another network; the message says which.

    Examples:
        >>> from unittest.mock import patch
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3)
        >>> with TemporaryDirectory() as folder:
        ...     saved = Mask.full(layout(model)).save(Path(folder) / "all.safetensors")
        ...     with patch("huggingface_hub.HfApi.hf_hub_download", return_value=str(saved)):  # no network
        ...         pull("someone/masks", "all.safetensors", model)
        Mask('full network': 6 of 6 units kept, 100.0% of 6 weights)
    """
    hub = _hub()
    with _found(repo_id, path, revision):
        local = hub.HfApi(token=token).hf_hub_download(repo_id, path, revision=revision)
    return Mask.load(local, model, allow_other_weights=allow_other_weights)


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            "masks are shared through huggingface_hub, which is not installed; install it with: "
            "python -m pip install 'maskscope[hf]'"
        ) from error


@contextmanager
def _found(repo_id: str, path: str, revision: str | None) -> Generator[None]:
    """Says of the hub's errors what they mean here."""
    errors = import_module("huggingface_hub.errors")  # no attribute of the package until somebody has imported it
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no repository {repo_id!r} on the hub that you may use; check its name, make it with "
            f"huggingface_hub.create_repo({repo_id!r}), or log in with: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo_id!r} has no branch, tag or commit {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"the hub cannot be reached, and {path!r} of {repo_id!r} is not in the cache"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id!r} has no file {path!r}; its masks are at the paths given to push"
        ) from error
    except Exception as error:
        # What carries the hub's requests differs between its versions, and says of a missing network what it likes.
        carrier = type(error).__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore", "requests", "urllib3"}
        if carrier or isinstance(error, ConnectionError):
            raise ConnectionError(f"the hub cannot be reached for {path!r} of {repo_id!r}: {error}") from error
        raise
