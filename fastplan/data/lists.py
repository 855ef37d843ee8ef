"""Where videos and labels come from: a folder per class, a list file, or the annotation of a known data set.

A list file has one video a line, `path label` or `path frames label`, each with a group in a last column or without;
paths are relative to the list's own folder and may stand in quotes, `#` starts a comment line, labels are whole numbers
from 0, a group is a word that is no number. The frames column is read past: what counts is what decodes. Everything
here is text; no video is opened.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fastplan.data.list_formats import VIDEO_SUFFIXES, ListFormat, detect, read_annotation, read_lines
from fastplan.data.storage import Place
from fastplan.errors import UserError


@dataclass(frozen=True)
class VideoList:
    """Videos before they are opened.

    places: where they lie. labels: class numbers, each an index into classes. groups: videos of one group (one actor,
    one source) are never parted when a split is carved; a video without a group is its own. segments: begin and end of
    the part of each that is meant, in seconds, None for the whole; empty where all are whole.
    """

    places: tuple[Place, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    segments: tuple[tuple[float, float] | None, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that name the videos."""
        return tuple(Path(place.path) for place in self.places)

    @property
    def files(self) -> int:
        """How many different videos there are: parts of one count once."""
        return len({place.path for place in self.places})


def read_videos(source: Path, *, group_pattern: str | None = None, format: ListFormat | None = None) -> VideoList:
    """Read a folder per class, a list file, or an annotation of Kinetics, UCF101, HMDB51 or Something-Something v2.

    source: `file#part` and `folder#part` name one part of an annotation that holds several: `#train1` to `#test3` of
        the HMDB51 folder, a value of the split column of a Kinetics file.
    group_pattern: regular expression searched in each path below `source`; its first group (or the whole match) names
        the video's group.
    format: None tells it by the content.
    Raises `UserError` for a missing or empty source, an empty class, fewer than two classes, a line that is no entry,
    or a pattern that does not compile or does not match.
    """
    part = None
    if not source.exists() and "#" in source.name:
        name, part = source.name.rsplit("#", 1)
        source = source.with_name(name)
    if source.is_dir() and format is None and not any(source.glob("*_test_split[123].txt")):
        found = _read_folder(source)
    elif source.exists():
        kind = format or detect(source)
        found = _read_list(source) if kind == "paths" else _from_annotation(source, kind, part)
    else:
        raise UserError(f"there is no data at {source}: give a folder with one sub-folder per class, or a list file")
    if len(found.classes) < 2:
        raise UserError(f"{source} has one class, '{found.classes[0]}'; training needs at least two")
    if group_pattern is None:
        return found
    base = source if source.is_dir() else source.parent
    return replace(found, groups=_groups(found.paths, base, group_pattern))


def _from_annotation(source: Path, kind: ListFormat, part: str | None) -> VideoList:
    entries, classes = read_annotation(source, kind, part)
    number = {name: label for label, name in enumerate(classes)}
    paths = tuple(str(entry.path) for entry in entries)
    places = tuple(map(Place, paths))
    return VideoList(places, tuple(number[entry.label] for entry in entries), paths, tuple(classes))


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
        tuple(Place(str(p)) for p in paths),
        tuple(labels),
        tuple(str(p.relative_to(root)) for p in paths),
        tuple(f.name for f in folders),
    )


def _read_list(file: Path) -> VideoList:
    entries = [
        _read_line(line.strip(), f"{file.name}, line {number}", file.parent)
        for number, line in enumerate(read_lines(file), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not entries:
        raise UserError(f"{file} lists no videos: one 'path label' a line is wanted")
    paths, labels, groups = zip(*entries, strict=True)
    if any(groups) and not all(groups):
        raise UserError(f"{file} names a group for {paths[groups.index(None)].name}'s neighbours but none for it")
    for label in range(max(labels)):
        if label not in labels:
            raise UserError(f"{file} has labels up to {max(labels)} but no video of class {label}")
    named = groups if any(groups) else tuple(map(str, paths))
    return VideoList(tuple(Place(str(p)) for p in paths), labels, named, tuple(str(k) for k in range(max(labels) + 1)))


def _read_line(line: str, where: str, base: Path) -> tuple[Path, int, str | None]:
    """(path, label, group) of one line; the group is None where there is no such column."""
    grouped = re.fullmatch(r"(.*\s[0-9]+)\s+([^\s#]*[^\s#0-9][^\s#]*)", line)
    if grouped:
        return (*_read_line(grouped[1], where, base)[:2], grouped[2])
    quoted = re.fullmatch(r"""(["'])(.+)\1\s+(?:\d+\s+)?(\d+)""", line)
    if quoted:
        return base / quoted[2], int(quoted[3]), None
    words = line.rsplit(maxsplit=2)
    if len(words) < 2 or not re.fullmatch("[0-9]+", words[-1]):
        raise UserError(f"{where}: '{line}' is neither 'path label' nor 'path frames label' with a label from 0 up")
    with_spaces = line.rsplit(maxsplit=1)[0]
    if re.search(r"\s[0-9]+\s+#", line) and not (base / with_spaces).exists():
        raise UserError(f"{where}: '{line}' has a comment behind the label; put comments on lines of their own")
    if len(words) == 3 and words[1].isdigit() and not (base / with_spaces).exists():
        return base / words[0], int(words[2]), None
    return base / with_spaces, int(words[-1]), None


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
