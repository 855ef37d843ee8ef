"""Where videos and labels come from: a folder per class, a list, shards, or the annotation of a known data set.

A list file has one video a line, `path label` or `path frames label`, each with a group in a last column or without;
paths are relative to the list's own folder and may stand in quotes, `#` starts a comment line, labels are whole numbers
from 0, a group is a word that is no number. The frames column is read past: what counts is what decodes. A table has
the columns in a first line and says classes by name. A path may be a folder of pictures. Everything here is text; no
video is opened.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from fastplan.data.list_formats import (
    Entry,
    ListFormat,
    PictureNames,
    below,
    detect,
    is_video,
    read_annotation,
    read_lines,
)
from fastplan.data.places import Names, Places
from fastplan.data.shards import shard_members, shard_names
from fastplan.data.storage import Place
from fastplan.errors import UserError

_PICTURES = PictureNames()
_WHOLE: tuple[ListFormat, ...] = ("paths", "table", "ucf101", "something-v2")  # formats whose files hold one part each


@dataclass(frozen=True)
class VideoList:
    """Videos before they are opened.

    places: where they lie. labels: class numbers, each an index into classes. groups: videos of one group (one actor,
    one source) are never parted when a split is carved; a video without a group is its own. classes: empty where videos
    have none. segments: begin and end of the part of each that is meant, in seconds, None for the whole; empty where
    all are whole.
    """

    places: Places
    labels: Sequence[int]
    groups: Sequence[str]
    classes: tuple[str, ...]
    segments: tuple[tuple[float, float] | None, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths that name the videos."""
        return tuple(map(Path, self.places.paths))

    @property
    def files(self) -> int:
        """How many different videos there are: parts of one count once."""
        return int(self.places.file_N.max(initial=-1)) + 1


def read_videos(
    source: Path | str,
    *,
    group_pattern: str | None = None,
    format: ListFormat | None = None,
    pictures: PictureNames = _PICTURES,
    cache_dir: Path | None = None,
    labelled: bool = True,
) -> VideoList:
    """Read a folder per class, a list, a table, WebDataset shards, or the annotation of a known data set.

    source: `file#part` and `folder#part` name one part of an annotation that holds several: `#train1` to `#test3` of
        the HMDB51 folder, a value of the split column of a Kinetics file, a subset of ActivityNet.
    group_pattern: regular expression searched in each path below `source`; its first group (or the whole match) names
        the video's group.
    format: None tells it by the content.
    pictures: how the files of videos are named that are folders of pictures.
    cache_dir: where the contents of shards are kept.
    labelled: False is for looking at files rather than training: a video, a folder of videos or one class will do.
    Raises `UserError` for a missing or empty source, an empty class, fewer than two classes, a line that is no entry,
    or a pattern that does not compile or does not match.
    """
    try:
        found, base = _read(str(source), format, pictures, cache_dir, labelled)
    except PermissionError as error:
        raise UserError(
            f"{error.filename} may not be read ({error.strerror}): chmod -R u+rX, or ask its owner"
        ) from None
    base = Path(os.path.abspath(base))
    if labelled and len(found.classes) < 2:
        raise UserError(f"{source} has one class, '{found.classes[0]}'; training needs at least two")
    if group_pattern is None:
        return found
    return replace(found, groups=_groups(found.places, base, group_pattern))


def _read(
    source: str, format: ListFormat | None, pictures: PictureNames, cache_dir: Path | None, labelled: bool
) -> tuple[VideoList, Path]:
    """The list, and the folder that its paths are seen from."""
    path, part = Path(source), None
    if format is None and (names := shard_names(source)):
        return _read_shards(names, cache_dir, labelled), Path(names[0]).parent
    if not path.exists() and "#" in path.name:
        name, part = path.name.rsplit("#", 1)
        path = path.with_name(name)
    if path.is_dir() and format not in (None, "hmdb51"):
        raise UserError(f"{source} is a folder, and data.format={format} wants the file of such a list: name that one")
    if path.is_dir() and format != "hmdb51" and not any(path.glob("*_test_split[123].txt")):
        _refuse_part(path, part)
        return (_read_folder if labelled else _read_files)(path, pictures), path
    if not path.exists():
        near = _nearest(path)
        hint = f"did you mean {near}?" if near else "give a folder with one sub-folder per class, or a list file"
        raise UserError(f"there is no data at {source}: {hint}")
    if not labelled and is_video(path.name):
        return VideoList(Places([Place(source)]), (0,), (source,), ()), path.parent
    kind = format or detect(path)
    if kind in _WHOLE:
        _refuse_part(path, part)
    if kind == "paths":
        return _read_list(path, pictures), path.parent
    entries, classes = read_annotation(path, kind, part, pictures)
    return _from_entries(entries, classes, pictures), path if path.is_dir() else path.parent


def _refuse_part(path: Path, part: str | None) -> None:
    if part is not None:
        raise UserError(f"there is no {path}#{part}: {path} has no parts, it is one list; leave #{part} away")


def _nearest(path: Path) -> Path | None:
    """What else lies in the same folder under a similar name."""
    names = os.listdir(path.parent) if path.parent.is_dir() else ()
    near = get_close_matches(path.name, names, n=1, cutoff=0.75)
    return path.with_name(near[0]) if near else None


def _from_entries(entries: Iterable[Entry], classes: Sequence[str], pictures: PictureNames) -> VideoList:
    number = {name: label for label, name in enumerate(classes)}
    places, labels, groups = Places(), list[int](), Names()
    segments: list[tuple[float, float] | None] = []
    for entry in entries:
        places.add(pictures.place(entry.path))
        labels.append(number[entry.label])
        groups.add(entry.group or str(entry.path))
        segments.append(entry.segment)
    return VideoList(places, tuple(labels), groups, tuple(classes), tuple(segments) if any(segments) else ())


def _read_folder(root: Path, pictures: PictureNames) -> VideoList:
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{root} has no sub-folders: one per class is wanted, named after it, with its videos inside")
    if strays := stray_videos(root):
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        raise UserError(
            f"{root} has {strays[0]}{more} beside its class folders: move videos into the folder of their class, "
            "or out of here"
        )
    places, labels = Places(), list[int]()
    for label, folder in enumerate(folders):
        for place in _videos_below(folder, pictures):
            places.add(place)
            labels.append(label)
        if not labels or labels[-1] < label:
            hint = f"; pictures would be named {pictures.pattern}, from {pictures.first} (data.picture_pattern)"
            hint = hint if any(folder.rglob("*.[jp][pn]g")) else ""
            raise UserError(f"class '{folder.name}' in {root} has no videos: add some or remove the folder{hint}")
    return VideoList(places, tuple(labels), _below(root, places), tuple(f.name for f in folders))


def stray_videos(root: Path | str) -> list[str]:
    """Names of the videos that lie in a folder itself, beside sub-folders; empty where `root` is no such folder."""
    if not os.path.isdir(root) or not any(entry.is_dir() for entry in _shown(root)):
        return []
    return sorted(entry.name for entry in _shown(root) if is_video(entry.name))


def _shown(root: Path | str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(root) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _read_files(root: Path, pictures: PictureNames) -> VideoList:
    """Everything below a folder; where all of it lies in sub-folders, those are the classes."""
    places = Places(_videos_below(root, pictures))
    if not places:
        raise UserError(f"{root} has no videos, no folders of pictures and no shards in it")
    groups = _below(root, places)
    if any(os.sep not in name for name in groups):
        return VideoList(places, (0,) * len(places), groups, ())
    above = {name.split(os.sep)[0] for name in groups}
    number = {name: label for label, name in enumerate(sorted(above))}
    return VideoList(places, tuple(number[name.split(os.sep)[0]] for name in groups), groups, tuple(number))


def _below(root: Path, places: Places) -> Names:
    """Their paths as seen from `root`."""
    base = os.path.join(os.path.abspath(root), "")
    return Names(path.removeprefix(base) for path in places.paths)


def _videos_below(folder: Path | str, pictures: PictureNames, above: frozenset[str] = frozenset()) -> Iterator[Place]:
    """Video files and folders of pictures, sorted; hidden ones are left alone, links followed.

    above: the real folders on the way, into which a link may lead back. Raises `OSError` for a folder that cannot be
    looked into: its videos would be missing.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    if pictures.are_in(str(folder)):
        yield pictures.place(folder)
        return
    folders = []
    for entry in sorted(_shown(folder), key=lambda entry: entry.name):
        if not entry.is_file(follow_symlinks=False) and os.path.isdir(entry.path):
            folders.append(entry.path)
        elif is_video(entry.name):
            yield Place(entry.path)
    for path in folders:
        yield from _videos_below(path, pictures, above | {real})


def _read_shards(names: Sequence[str], cache_dir: Path | None, labelled: bool) -> VideoList:
    members = [member for name in names for member in shard_members(name, cache_dir=cache_dir)]
    if not members:
        raise UserError(f"{names[0]} holds no videos")
    places = Places(member.place for member in members)
    groups = Names(places.paths)
    bare = [member.place.path for member in members if member.label == ""]
    if bare and labelled:
        raise UserError(f"{bare[0]} has no label: a .cls or .json of the same name is wanted beside it")
    if bare:
        return VideoList(places, (0,) * len(places), groups, ())
    numbers = [member.label for member in members if isinstance(member.label, int)]
    if len(numbers) == len(members):
        classes = _numbered_classes(numbers, names[0])
    else:
        classes = tuple(sorted({str(member.label) for member in members}))
    number = {name: label for label, name in enumerate(classes)}
    return VideoList(places, tuple(number[str(member.label)] for member in members), groups, classes)


def _read_list(file: Path, pictures: PictureNames) -> VideoList:
    places, labels, groups = Places(), list[int](), Names()
    one_label: dict[int, int] = {}  # each number in memory once
    grouped = alone = None
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        path, label, group = _read_line(line.strip(), f"{file.name}, line {number}", file.parent)
        places.add(pictures.place(path))
        labels.append(one_label.setdefault(label, label))
        groups.add(group or path)
        grouped, alone = grouped or group, alone or (None if group else path)
    if not labels:
        raise UserError(f"{file} lists no videos: one 'path label' a line is wanted")
    if grouped and alone:
        raise UserError(f"{file} names a group for {os.path.basename(alone)}'s neighbours but none for it")
    return VideoList(places, tuple(labels), groups, _numbered_classes(labels, str(file)))


def _numbered_classes(labels: Sequence[int], where: str) -> tuple[str, ...]:
    present = set(labels)
    for label in range(max(labels)):
        if label not in present:
            raise UserError(
                f"{where} has labels up to {max(labels)} but no video of class {label}: number classes from 0 on, "
                "without a gap"
            )
    return tuple(str(k) for k in range(max(labels) + 1))


def _read_line(line: str, where: str, base: Path) -> tuple[str, int, str | None]:
    """(path, label, group) of one line; the group is None where there is no such column."""
    grouped = re.fullmatch(r"(.*\s[0-9]+)\s+([^\s#]*[^\s#0-9][^\s#]*)", line)
    if grouped:
        return (*_read_line(grouped[1], where, base)[:2], grouped[2])
    quoted = re.fullmatch(r"""(["'])(.+)\1\s+(?:\d+\s+)?(\d+)""", line)
    if quoted:
        return below(base, quoted[2]), int(quoted[3]), None
    words = line.rsplit(maxsplit=2)
    if len(words) < 2 or not re.fullmatch("[0-9]+", words[-1]):
        raise UserError(
            f"{where}: '{line}' is neither 'path label' nor 'path frames label' with spaces between and a label from 0 "
            "up; class names stand in a table with commas, whose first line is path,label"
        )
    with_spaces = line.rsplit(maxsplit=1)[0]
    if re.search(r"\s[0-9]+\s+#", line) and not (base / with_spaces).exists():
        raise UserError(f"{where}: '{line}' has a comment behind the label; put comments on lines of their own")
    if len(words) == 3 and words[1].isdigit() and not (base / with_spaces).exists():
        return below(base, words[0]), int(words[2]), None
    return below(base, with_spaces), int(words[-1]), None


def _groups(places: Places, base: Path, pattern: str) -> tuple[str, ...]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.group_pattern '{pattern}' is no regular expression: {error}") from None
    groups = []
    for path in (Path(place.path) for place in places):
        name = str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
        match = expression.search(name)
        if match is None:
            raise UserError(
                f"data.group_pattern '{pattern}' does not match '{name}': give one that matches every path, or "
                "data.group_pattern=null where no videos belong together"
            )
        groups.append(match.group(1) if expression.groups else match.group(0))
    return tuple(groups)
