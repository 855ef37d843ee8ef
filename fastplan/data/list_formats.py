"""Annotation files as the data sets of the field ship them, and tables with a header.

Kinetics, UCF101, HMDB51, Something-Something v2 and ActivityNet name videos by identifier, not by path, so videos (or
folders of pictures) are looked for by name in the folders around the annotation. One that is not there keeps the path
where it is usually found: the index then lists it as missing.
"""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastplan.data.storage import Place, is_remote
from fastplan.errors import UserError

ListFormat = Literal["paths", "table", "kinetics", "ucf101", "hmdb51", "something-v2", "activitynet"]

VIDEO_SUFFIXES = frozenset(
    (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv")
)
_DEPTH = 3  # folders below the annotation's own, or its parent, in which videos are looked for
_HMDB51_FLAGS = {"train": "1", "test": "2"}  # 0: in neither
_KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")


class Entry(NamedTuple):
    """One video with the name of its class. segment: begin and end in seconds, None for the whole video."""

    path: Path | str
    label: str
    group: str = ""
    segment: tuple[float, float] | None = None


class PictureNames(NamedTuple):
    """How the files of a video are named that is a folder of pictures. first: the number of the first picture."""

    pattern: str = "img_{:05d}.jpg"
    first: int = 1

    def place(self, path: Path | str) -> Place:
        """A file as it is; a folder as the pattern of its pictures."""
        is_folder = os.path.isdir(path)  # also where its folder may not be read: a bad file then, not the end
        return Place(os.path.join(path, self.pattern), first_picture=self.first) if is_folder else Place(str(path))

    def are_in(self, folder: str) -> bool:
        """Whether the first picture is there."""
        return os.path.exists(os.path.join(folder, self.pattern.format(self.first)))


def is_video(name: str) -> bool:
    """Whether a file of this name is a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES  # `Path` would keep every name in memory


def below(folder: Path, name: str) -> str:
    """`folder / name` as text, a URL as it is; a `Path` would leave something of every name in memory."""
    if is_remote(name):
        return name
    path = "/".join(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/"):
        return f"/{path}"
    return path if folder == Path() else os.path.join(folder, path)


def read_lines(file: Path) -> Iterator[str]:
    """Lines without their ends, whatever the ends are. Raises `UserError` where the file is not UTF-8 text."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for line in stream:
                if "\0" in line:
                    raise UserError(f"{file} is no list file: it has bytes of zero in it, as no text has")
                yield line.removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError(f"{file} is no list file: it is not UTF-8 text") from None


def detect(source: Path) -> ListFormat:
    """Tell a file's format by its content, an HMDB51 folder by its files."""
    if source.is_dir():
        return "hmdb51"
    if source.suffix.lower() == ".json":
        content = _json(source)
        return "activitynet" if isinstance(content, dict) and "database" in content else "something-v2"
    lines = _filled_lines(source)
    first = next(lines, "")
    header = {cell.strip() for cell in next(_cells([first], source), [])}
    if header >= set(_KINETICS_COLUMNS):
        return "kinetics"
    if header >= {"path", "label"}:
        return "table"
    class_names = source.parent / "classInd.txt"
    known = _ucf101_classes(class_names) if first and class_names.is_file() else {}
    return "ucf101" if known and all(line.split("/")[0] in known for line in chain([first], lines)) else "paths"


def read_annotation(
    source: Path, kind: ListFormat, part: str | None, pictures: PictureNames
) -> tuple[Iterable[Entry], list[str]]:
    """Entries and, in order, the names of the classes that occur.

    part: which part of an annotation that holds several: a value of the `split` column of a Kinetics file, `train1`,
    `test1`, ... `test3` of the HMDB51 folder, or a subset of ActivityNet.
    Raises `UserError` for a line that is no entry, a class nobody declared, or a part that is not there.
    """
    if kind == "table":
        return _read_table(source)
    videos = _Videos(source if source.is_dir() else source.parent, pictures)
    if kind == "hmdb51":
        return _read_hmdb51(source, part, videos)
    if kind == "kinetics":
        return _read_kinetics(source, part, videos)
    if kind == "activitynet":
        return _read_activitynet(source, part, videos)
    return _read_ucf101(source, videos) if kind == "ucf101" else _read_something(source, videos)


def _read_table(file: Path) -> tuple[Iterator[Entry], list[str]]:
    names = {entry.label for entry in _table_entries(file)}
    if not names:
        raise UserError(f"{file} lists no videos: a line of 'path,label' is wanted for each")
    in_order = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    return _table_entries(file), in_order


def _table_entries(file: Path) -> Iterator[Entry]:
    rows = _cells(_filled_lines(file), file)
    header = [cell.strip() for cell in next(rows, [])]
    for number, row in enumerate(rows, 2):
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        try:
            times = cells.get("begin_s", ""), cells.get("end_s", "")
            segment = _segment_s(*times) if any(times) else None
            if not cells["path"] or not cells["label"] or len(row) != len(header):
                raise ValueError
            yield Entry(below(file.parent, cells["path"]), cells["label"], cells.get("group", ""), segment)
        except (KeyError, ValueError):
            raise UserError(f"{file.name}, entry {number}: {','.join(row)} is no '{','.join(header)}'") from None


def _segment_s(begin: str | float, end: str | float) -> tuple[float, float]:
    """Begin and end in seconds. Raises `ValueError` or `TypeError` where these are no times."""
    begin_s, end_s = float(begin), float(end)
    if not math.isfinite(begin_s) or not math.isfinite(end_s):
        raise ValueError
    return begin_s, end_s


def _read_activitynet(file: Path, part: str | None, videos: "_Videos") -> tuple[list[Entry], list[str]]:
    content = _json(file)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict) or not all(isinstance(row, dict) for row in database.values()):
        raise UserError(f"{file} has no 'database' of videos by name, as ActivityNet ships it")
    subsets = sorted({str(row.get("subset", "")) for row in database.values() if row.get("annotations")})
    if part is None and len(subsets) > 1:
        raise UserError(f"{file} holds several parts; name one: {', '.join(f'{file.name}#{s}' for s in subsets)}")
    entries = []
    for name, row in database.items():
        if part not in (None, row.get("subset", "")):
            continue
        path = videos.find((f"v_{name}", name), (), file.parent / f"v_{name}.mp4")
        for annotation in row.get("annotations") or ():
            try:
                segment = _segment_s(*annotation["segment"])
                entries.append(Entry(path, str(annotation["label"]), segment=segment))
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{file.name}, video {name}: {annotation} is no segment with a label") from None
    if not entries:
        raise UserError(f"{file} has no labelled segments{f' of part {part}' if part else ''}")
    return entries, sorted({entry.label for entry in entries})


def _read_kinetics(file: Path, part: str | None, videos: "_Videos") -> tuple[list[Entry], list[str]]:
    rows = _cells(_filled_lines(file), file)
    header = [cell.strip() for cell in next(rows, [])]
    if "label" not in header:
        raise UserError(f"{file} has no column 'label': the published test lists have none and cannot be trained on")
    entries, parts = [], set()
    for number, row in enumerate(rows, 2):
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        try:
            begin, end = (int(float(cells[name])) for name in ("time_start", "time_end"))
            name, label = cells["youtube_id"], cells["label"]
        except (KeyError, ValueError, OverflowError):
            raise UserError(f"{file.name}, entry {number}: {','.join(row)} is no '{','.join(header)}'") from None
        split = cells.get("split", "")
        parts.add(split)
        if part in (None, split):
            stems = (f"{name}_{begin:06d}_{end:06d}", f"{name}_{begin}_{end}", name)
            usual = file.parent / label / f"{stems[0]}.mp4"
            entries.append(Entry(videos.find(stems, (label, label.replace(" ", "_")), usual), label))
    if part is None and len(parts) > 1:
        raise UserError(f"{file} holds several parts; name one: {', '.join(f'{file.name}#{p}' for p in sorted(parts))}")
    if not entries:
        raise UserError(f"{file} lists no videos{f' of part {part}' if part else ''}")
    return entries, sorted({entry.label for entry in entries})


def _read_ucf101(file: Path, videos: "_Videos") -> tuple[list[Entry], list[str]]:
    known = _ucf101_classes(file.parent / "classInd.txt")
    entries = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(([^/]+)/.*?\.\w+)(?:\s+(\d+))?\s*", line)
        if match is None or match[2] not in known:
            raise UserError(
                f"{file.name}, line {number}: '{line}' is no 'Class/video.avi' with a class of classInd.txt"
            )
        if match[3] and int(match[3]) != known[match[2]]:
            raise UserError(
                f"{file.name}, line {number}: class {match[3]} is not {match[2]} in classInd.txt; where "
                "the numbers are others on purpose, say data.format=paths"
            )
        stem = Path(match[1]).stem
        entries.append(Entry(videos.find((stem,), (match[2],), file.parent / match[1]), match[2]))
    return entries, _present(entries, list(known))


def _ucf101_classes(file: Path) -> dict[str, int]:
    """Class numbers, from 1, by name."""
    if not file.is_file():
        raise UserError(f"there is no {file}: the lists of UCF101 need it beside them")
    words = [line.split(maxsplit=1) for line in read_lines(file) if line.strip()]
    if not all(len(pair) == 2 and pair[0].isdigit() for pair in words):
        raise UserError(f"{file} wants 'number name' in every line")
    return {pair[1].strip(): int(pair[0]) for pair in words}


def _read_hmdb51(folder: Path, part: str | None, videos: "_Videos") -> tuple[list[Entry], list[str]]:
    match = re.fullmatch(r"(train|test)([123])", part or "")
    if match is None:
        raise UserError(f"{folder} holds the HMDB51 splits; name one: {folder.name}#train1, #test1, ... #test3")
    files = sorted(folder.glob(f"*_test_split{match[2]}.txt"))
    entries = []
    for file in files:
        label = file.name[: -len(f"_test_split{match[2]}.txt")]
        for number, line in enumerate(read_lines(file), 1):
            name, _, flag = line.strip().rpartition(" ")
            if not line.strip() or (line.startswith("#") and flag not in ("0", "1", "2")):
                continue  # some videos of HMDB51 have names that begin with '#'
            if flag not in ("0", "1", "2") or not name.strip():
                raise UserError(f"{file.name}, line {number}: '{line}' is no 'video.avi 0', 1 or 2")
            if flag == _HMDB51_FLAGS[match[1]]:
                name = name.strip()
                entries.append(Entry(videos.find((Path(name).stem,), (label,), folder / label / name), label))
    if not entries:
        raise UserError(f"{folder} lists no videos of part {part}")
    return entries, sorted({entry.label for entry in entries})


def _read_something(file: Path, videos: "_Videos") -> tuple[list[Entry], list[str]]:
    rows = _json(file)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "id" in row for row in rows):
        raise UserError(f"{file} is no list of videos with 'id' and 'template', as Something-Something v2 ships it")
    numbers: dict[str, int] = {}
    for other in sorted(file.parent.glob("*labels*.json")):
        content = _json(other)
        if isinstance(content, dict):
            try:
                numbers = {_plain(name): int(number) for name, number in content.items()}
            except (TypeError, ValueError):
                raise UserError(f"{other} is no label file of Something-Something: numbers by template") from None
            break
    if not numbers:
        raise UserError(f"{file} needs the label file (labels.json) beside it")
    entries = []
    for row in rows:
        if "template" not in row:
            raise UserError(
                f"{file.name}, video {row['id']} has no template: the published test list has none and cannot be used"
            )
        label = _plain(str(row["template"]))
        if label not in numbers:
            raise UserError(f"{file.name}, video {row['id']}: template '{label}' is not in the label file")
        entries.append(Entry(videos.find((str(row["id"]),), (), file.parent / f"{row['id']}.webm"), label))
    return entries, _present(entries, sorted(numbers, key=numbers.__getitem__))


def _plain(template: str) -> str:
    return template.replace("[", "").replace("]", "").strip()


def _present(entries: list[Entry], ordered: list[str]) -> list[str]:
    present = {entry.label for entry in entries}
    return [name for name in ordered if name in present]


def _filled_lines(file: Path) -> Iterator[str]:
    return (line for line in read_lines(file) if line.strip() and not line.startswith("#"))


def _cells(lines: Iterable[str], file: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, skipinitialspace=True)
    except csv.Error as error:
        raise UserError(f"{file} is no list and no table ({error}): is a quotation mark never closed?") from None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}") from None


class _Videos:
    """Videos by name without suffix: below the annotation's folder, else below that folder's parent."""

    def __init__(self, folder: Path, pictures: PictureNames) -> None:
        self._by_stem = _by_stem(folder, pictures) or _by_stem(folder.parent, pictures)

    def find(self, stems: tuple[str, ...], folders: tuple[str, ...], usual: Path) -> Path:
        """The file with the first of `stems` that is there, rather in one of `folders`; else `usual`.

        Raises `UserError` where there are several: they may be of different data sets that number their videos.
        """
        for stem in stems:
            found = self._by_stem.get(stem, [])
            found = [path for path in found if path.parent.name in folders] or found
            if len(found) > 1 and len({os.path.realpath(path) for path in found}) > 1:
                raise UserError(
                    f"there are {len(found)} videos '{stem}', {found[0]} and {found[1]}: which is meant? Put the "
                    "annotation into the folder above the right ones, or name them in a table (path,label)"
                )
            if found:
                return found[0]
        return usual


def _by_stem(folder: Path, pictures: PictureNames) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in _walk(folder, _DEPTH, pictures):
        found.setdefault(path.name if path.suffix.lower() not in VIDEO_SUFFIXES else path.stem, []).append(path)
    return found


def _walk(folder: Path, depth: int, pictures: PictureNames) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # a folder that may not be read holds no videos for us
    for entry in entries:
        if entry.is_dir():
            if pictures.are_in(entry.path):
                yield Path(entry.path)
            elif depth and not entry.name.startswith("."):
                yield from _walk(Path(entry.path), depth - 1, pictures)
        elif is_video(entry.name):
            yield Path(entry.path)
