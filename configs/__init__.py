"""Shipped configuration: default.yaml, state graphs and the published plans."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from fastplan.errors import UserError, nearest


def default_file() -> Path:
    """Every setting with its default."""
    return _folder() / "default.yaml"


def shipped(kind: Literal["state_graphs", "plans"]) -> dict[str, Path]:
    """Shipped files of a kind by name."""
    return {path.stem: path for path in sorted((_folder() / kind).glob("*.yaml"))}


def find(kind: Literal["state_graphs", "plans"], name: str) -> Path:
    """A file of the user's by path, or a shipped one by name. Raises `UserError` where there is neither."""
    if Path(name).suffix in (".yaml", ".yml") or "/" in name:
        if not Path(name).is_file():
            raise UserError(f"{name} is a folder, not a file" if Path(name).is_dir() else f"there is no file {name}")
        return Path(name)
    known = shipped(kind)
    if name not in known:
        what = kind.replace("_", " ").rstrip("s")
        raise UserError(f"there is no shipped {what} '{name}'{nearest(name, known)}")
    return known[name]


def _folder() -> Path:
    return Path(str(files(__package__)))
