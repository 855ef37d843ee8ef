"""What is wrong with a set of videos, file by file, and what would mend it. Rows of the index in, findings out."""

import csv
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from fastplan.data.decoders import obstacle
from fastplan.data.export import new_file
from fastplan.data.lists import VideoList
from fastplan.data.places import all_differ, first_alike, name_hashes
from fastplan.data.probe import NO_PICTURES
from fastplan.data.scan import NO_HEADER
from fastplan.data.store import Rows
from fastplan.data.video import PICTURES, Form
from fastplan.errors import UserError

Kind = Literal["bad", "cut off", "short", "variable rate", "long GOP", "unsupported", "fallback", "duplicate"]

_LONG_GOP = 60  # frames; a clip decodes half of it, on average, before its first frame
_SHORT_GOP = 12
_WHOLE, _MISSING_S = 0.8, 1.0  # audio alone makes many a header say a little more
_NOTHING_LEFT = ("no such file", "a folder", "is empty", NO_HEADER, NO_PICTURES, "crashed")
_SHOWN = (
    "path",
    "frames",
    "codec",
    "fps",
    "duration_s",
    "stated_s",
    "vfr",
    "width",
    "height",
    "rotation",
    "pixels",
    "keyframes",
    "gop",
    "bytes",
    "fallback",
    "bad",
)


@dataclass(frozen=True)
class Finding:
    """One thing about one file. detail: what was found. advice: what to do, one line."""

    kind: Kind
    detail: str
    advice: str


@dataclass(frozen=True)
class Checked:
    """One file. row: of the index. label: its class, None where it has none. findings: empty where all is well."""

    row: Mapping[str, Any]
    label: str | None
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether clips can be drawn from it."""
        return not self.row["bad"]

    def as_json(self) -> dict[str, Any]:
        """Its facts and findings."""
        facts = {name: self.row[name] for name in _SHOWN}
        if self.row["sha256"]:
            facts["sha256"] = self.row["sha256"]
        if self.label is not None:
            facts["label"] = self.label
        return {**facts, "findings": [vars(finding) for finding in self.findings]}


class CheckedVideos:
    """The files of a list, in its order, with what was found; each pass makes them anew, so that none is held.

    rows: of the files of `listed`. span: frames that a clip covers; videos with fewer are short. good_F: which of the
    files give clips.
    """

    def __init__(self, listed: VideoList, rows: Rows, *, span: int) -> None:
        self._listed, self._rows, self._span = listed, rows, span
        self._entry_N = np.argsort(listed.places.file_N, kind="stable").astype(np.int32)  # entries of each file
        self._begin_F = np.searchsorted(listed.places.file_N[self._entry_N], np.arange(len(rows) + 1)).astype(np.int32)
        self.good_F = np.ones(len(rows), bool)
        hash_F = np.arange(len(rows))  # of the content, where it is known
        number = 0
        for batch in rows.batches(("bad", "sha256")):
            self.good_F[number : number + len(batch)] = pc.equal(batch["bad"], "").to_numpy(zero_copy_only=False)
            known_B = pc.not_equal(batch["sha256"], "").to_numpy(zero_copy_only=False)
            hash_F[number : number + len(batch)][known_B] = name_hashes(batch["sha256"].to_pylist())[known_B]
            number += len(batch)
        self._first_F = first_alike(hash_F)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Checked]:
        begin = 0
        for batch in self._rows.batches():
            first_B = self._first_F[begin : begin + len(batch)]
            again_A = np.flatnonzero(first_B < np.arange(begin, begin + len(batch)))
            others = self._rows.take(first_B[again_A], ("path", "sha256")).to_pylist()
            other_of = dict(zip(again_A.tolist(), others, strict=True))
            for number, row in enumerate(batch.to_pylist()):
                yield self._checked(begin + number, row, other_of.get(number))
            begin += len(batch)

    def _checked(self, number: int, row: Mapping[str, Any], other: Mapping[str, Any] | None) -> Checked:
        entries = self._entry_N[self._begin_F[number] : self._begin_F[number + 1]].tolist()
        parts_s = [part for entry in entries if self._listed.segments and (part := self._listed.segments[entry])]
        findings = [*_findings(row, parts_s, self._span)]
        if other and row["sha256"] == other["sha256"]:
            advice = "keep one of them, or let a group column keep them on one side of every split"
            findings.append(Finding("duplicate", f"the same content as {other['path']}", advice))
        classes, labels = self._listed.classes, [self._listed.labels[entry] for entry in entries]
        if len(entries) > 1 and not parts_s:
            named = f", as {', '.join(sorted({classes[label] for label in labels}))}" if classes else ""
            findings.append(Finding("duplicate", f"listed {len(labels)} times{named}", "keep the line that is right"))
        return Checked(row, classes[labels[0]] if classes else None, tuple(findings))


def write_fix_list(file: Path, listed: VideoList, good_F: npt.NDArray[np.bool_]) -> int:
    """A list of the videos whose files are good, to be given as --data; returns how many lines it has.

    A `.csv` file keeps class names, groups and segments; any other has `path label` lines. Raises `UserError` where the
    list cannot say it, or not be written.
    """
    is_table = file.suffix.lower() == ".csv"
    if listed.segments and not is_table:
        raise UserError(f"{file.name}: only a .csv list can hold segments; give --fix-list a name that ends with .csv")
    kept = _kept(listed, good_F, file.resolve().parent)
    with new_file(file) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        return (_write_table if is_table else _write_lines)(stream, listed, kept)


def _findings(row: Mapping[str, Any], parts_s: Sequence[tuple[float, float]], span: int) -> Iterable[Finding]:
    if row["bad"]:
        yield Finding("bad", row["bad"], _advice_for_bad(row))
        return
    if row["duration_s"] < min(_WHOLE * row["stated_s"], row["stated_s"] - _MISSING_S):
        detail = f"decodes for {row['duration_s']:.1f} s, its header says {row['stated_s']:.1f} s"
        yield Finding("cut off", detail, "fetch it again: the end is missing; clips are drawn from what is there")
    duration_s = row["duration_s"]
    lengths_s = [(max(min(end_s, duration_s) - max(begin_s, 0.0), 0.0), begin_s) for begin_s, end_s in parts_s]
    shortest = min(lengths_s, default=(duration_s, 0.0))
    frames = min(row["frames"], round(shortest[0] * row["fps"])) if parts_s else row["frames"]
    if frames < span:
        advice = "clips repeat it (data.short=loop), hold its end (repeat_last) or refuse it (error); or leave it out"
        where = f" in the segment from {shortest[1]:g} s" if parts_s else ""
        yield Finding("short", f"{frames} frames{where}, a clip spans {span}", advice)
    if row["codec"] == PICTURES:
        return
    if row["vfr"]:
        rate = max(round(row["fps"]), 1)
        detail = f"{row['fps']:.1f} frames a second on average, unevenly"
        yield Finding("variable rate", detail, _ffmpeg(row, f"-vf fps={rate} -c:v libx264 -crf 18 -g {_SHORT_GOP}"))
    if row["gop"] > _LONG_GOP:
        detail = f"up to {row['gop']} frames from one keyframe to the next"
        yield Finding("long GOP", detail, _ffmpeg(row, f"-c:v libx264 -crf 18 -g {_SHORT_GOP}"))
    if why := obstacle(Form(row["codec"], row["pixels"], row["rotation"], row["mirror"], ""), on_gpu=True):
        detail = f"{why}: decoded on the CPU, also where there is a GPU"
        yield Finding("unsupported", detail, _ffmpeg(row, f"-c:v libx264 -crf 18 -pix_fmt yuv420p -g {_SHORT_GOP}"))
    if row["fallback"]:
        apart = "do not lie in one piece" in row["fallback"]
        way = "-c copy" if apart else f"-c:v libx264 -crf 18 -g {_SHORT_GOP}"
        yield Finding("fallback", f"{row['fallback']}: clips go through the demuxer, slower", _ffmpeg(row, way))


def _advice_for_bad(row: Mapping[str, Any]) -> str:
    if "takes more than" in row["bad"]:
        return "give it more time with data.probe_limit_s, or leave it out"
    if row["bad"].startswith("no such file") and not row["shard"]:
        return (
            f"looked for at {row['path']}: a list's paths are relative to its own folder; or leave it out (--fix-list)"
        )
    if "Permission denied" in row["bad"]:
        return f"let this user read it: chmod u+r {shlex.quote(row['path'])}"
    if row["shard"] or any(words in row["bad"] for words in _NOTHING_LEFT):
        return "fetch it again, or leave it out (--fix-list)"
    return f"fetch it again; what is left of it: {_ffmpeg(row, '-c:v libx264 -crf 18', '-err_detect ignore_err ')}"


def _ffmpeg(row: Mapping[str, Any], how: str, before: str = "") -> str:
    if row["shard"]:
        return f"re-encode it when the shard is written: ffmpeg ... {how}"
    new = f"{os.path.splitext(row['path'])[0]}.new.mp4"
    return f"ffmpeg {before}-i {shlex.quote(row['path'])} {how} {shlex.quote(new)}"


def _kept(listed: VideoList, good_F: npt.NDArray[np.bool_], base: Path) -> Iterator[tuple[int, str]]:
    """Number and path of every entry that stays, the path as seen from `base`."""
    above = os.path.join(base, "")
    for number, place in enumerate(listed.places):
        if not good_F[listed.places.file_N[number]]:
            continue
        if place.shard:
            raise UserError("a list cannot name members of shards; training leaves the bad ones out by itself")
        path = place.path if place.first_picture is None else os.path.dirname(place.path)
        name = path.removeprefix(above)  # `Path` would leave something of every name in memory
        if "\n" in name or "\r" in name:
            raise UserError(f"a list cannot hold {name!r}: rename it")
        yield number, name


def _write_lines(stream: TextIO, listed: VideoList, kept: Iterable[tuple[int, str]]) -> int:
    """`path label` lines, or paths alone where there are no classes; returns how many."""
    lines = 0
    for number, name in kept:
        stream.write(f"{_quoted(name)} {listed.labels[number]}\n" if listed.classes else f"{name}\n")
        lines += 1
    return lines


def _quoted(name: str) -> str:
    plain = not (set(name) & set(" \t'\"") or name.startswith("#"))
    return name if plain else f'"{name}"'


def _write_table(stream: TextIO, listed: VideoList, kept: Iterable[tuple[int, str]]) -> int:
    """A header and a row for each entry that stays; returns how many."""
    grouped = not all_differ(listed.groups)
    optional = (listed.classes, "label"), (grouped, "group"), (listed.segments, "begin_s"), (listed.segments, "end_s")
    writer = csv.DictWriter(
        stream, ["path", *(name for there, name in optional if there)], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    lines = 0
    for number, name in kept:
        begin_s, end_s = (listed.segments[number] if listed.segments else None) or ("", "")
        name = f"./{name}" if name.startswith("#") else name  # it would begin a comment
        row = {"path": name, "group": listed.groups[number], "begin_s": begin_s, "end_s": end_s}
        writer.writerow(row | ({"label": listed.classes[listed.labels[number]]} if listed.classes else {}))
        lines += 1
    return lines
