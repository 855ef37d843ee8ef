"""Files of tensors, written so that a crash at any moment leaves either the old file or the new one."""

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fastplan.errors import UserError


def save(path: Path, content: dict[str, Any]) -> None:
    """Write to a temporary file, flush it to the disk, rename. Raises `UserError` where the disk refuses."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(
            f"cannot write {path}: {_first_line(error)}; what was saved before is intact: "
            "free some space and go on with --resume"
        ) from None


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a file of `save`; tensors only, no code. Raises `UserError` where it is missing or damaged."""
    try:
        with path.open("rb") as file:
            return read(file, device, name=str(path))
    except FileNotFoundError:
        raise UserError(f"the checkpoint {path} is missing; start a new run in another folder") from None


def read(file: BinaryIO, device: torch.device, *, name: str) -> dict[str, Any]:
    """Read what `save` wrote from an open file that can seek; `name` is what errors call it."""
    try:
        content = torch.load(file, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"the checkpoint {name} is damaged ({_first_line(error)}); start a new run") from None
    if not isinstance(content, dict):
        raise UserError(f"the checkpoint {name} holds no dictionary; it was not written by fastplan")
    return content


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
