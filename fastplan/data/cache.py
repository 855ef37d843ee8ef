"""Folders in which is kept what need not be made again: the index, lists of shards, the embedded task."""

import os
from pathlib import Path

from fastplan.errors import UserError


def make_cache(folder: Path) -> None:
    """Make the folder where it is missing. Raises `UserError` where nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror
    else:
        if os.access(folder, os.W_OK | os.X_OK):
            return
        why = "Permission denied"
    raise UserError(f"nothing can be kept in {folder} ({why}): set data.cache to a folder that can be written")
