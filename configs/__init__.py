"""Shipped configuration: default.yaml, state graphs and the published plans."""

from importlib.resources import files
from pathlib import Path

from fastplan.errors import UserError, nearest


def shipped(kind: str) -> dict[str, Path]:
    """Shipped files of a kind (`state_graphs` or `plans`) by name."""
    return {path.stem: path for path in sorted((Path(str(files(__package__))) / kind).glob("*.yaml"))}


def find(kind: str, name: str) -> Path:
    """A file of the user's by path, or a shipped one by name. Raises `UserError` where there is neither."""
    if Path(name).suffix in (".yaml", ".yml") or "/" in name:
        if not Path(name).is_file():
            raise UserError(f"there is no file {name}")
        return Path(name)
    known = shipped(kind)
    if name not in known:
        what = kind.replace("_", " ").rstrip("s")
        raise UserError(f"there is no shipped {what} '{name}'{nearest(name, known)}")
    return known[name]
