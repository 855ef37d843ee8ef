"""Where videos and labels come from: a folder per class, or a list file.

A list file has one video a line, `path label` or `path frames label`; paths are relative to the list's own folder,
`#` starts a comment line, labels are whole numbers from 0. The frames column is read past: what counts is what
decodes. Everything here is text; no video is opened.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fastplan.errors import UserError

VIDEO_SUFFIXES = frozenset(
    (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv")
)


@dataclass(frozen=True)
class VideoList:
    """Videos before they are opened.

    paths: files. labels: class numbers, each an index into classes. groups: videos of one group (one actor, one
    source) are never parted when a split is carved; a video without a group is its own.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]


def read_videos(source: Path, *, group_pattern: str | None = None) -> VideoList:
    """Read a folder per class or a list file.

    group_pattern: regular expression searched in each path below `source`; its first group (or the whole match) names
        the video's group.
    Raises `UserError` for a missing or empty source, an empty class, fewer than two classes, a line that is no entry,
    or a pattern that does not compile or does not match.
    """
    if source.is_dir():
        found = _read_folder(source)
    elif source.is_file():
        found = _read_list(source)
    else:
        raise UserError(f"there is no data at {source}: give a folder with one sub-folder per class, or a list file")
    if len(found.classes) < 2:
        raise UserError(f"{source} has one class, '{found.classes[0]}'; training needs at least two")
    if group_pattern is None:
        return found
    base = source if source.is_dir() else source.parent
    return VideoList(found.paths, found.labels, _groups(found.paths, base, group_pattern), found.classes)


def _read_folder(root: Path) -> VideoList:
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{root} has no sub-folders: one per class is wanted, named after it, with its videos inside")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        videos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        if not videos:
            raise UserError(f"class '{folder.name}' in {root} has no videos: add some or remove the folder")
        paths += videos
        labels += [label] * len(videos)
    return VideoList(
        tuple(paths), tuple(labels), tuple(str(p.relative_to(root)) for p in paths), tuple(f.name for f in folders)
    )


def _read_list(file: Path) -> VideoList:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{file} is no list file: it is not UTF-8 text") from None
    entries = [
        _read_line(line.strip(), f"{file.name}, line {number}", file.parent)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not entries:
        raise UserError(f"{file} lists no videos: one 'path label' a line is wanted")
    paths, labels = zip(*entries, strict=True)
    for label in range(max(labels)):
        if label not in labels:
            raise UserError(f"{file} has labels up to {max(labels)} but no video of class {label}")
    return VideoList(paths, labels, tuple(map(str, paths)), tuple(str(k) for k in range(max(labels) + 1)))


def _read_line(line: str, where: str, base: Path) -> tuple[Path, int]:
    words = line.rsplit(maxsplit=2)
    if len(words) < 2 or not words[-1].isdigit():
        raise UserError(f"{where}: '{line}' is neither 'path label' nor 'path frames label' with a label from 0 up")
    with_spaces = line.rsplit(maxsplit=1)[0]
    if len(words) == 3 and words[1].isdigit() and not (base / with_spaces).exists():
        return base / words[0], int(words[2])
    return base / with_spaces, int(words[-1])


def _groups(paths: tuple[Path, ...], base: Path, pattern: str) -> tuple[str, ...]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.group_pattern '{pattern}' is no regular expression: {error}") from None
    groups = []
    for path in paths:
        name = str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
        match = expression.search(name)
        if match is None:
            raise UserError(f"data.group_pattern '{pattern}' does not match '{name}'")
        groups.append(match.group(1) if expression.groups else match.group(0))
    return tuple(groups)
