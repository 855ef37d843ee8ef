"""What truly decodes: every file is decoded once, and what was seen is kept by path, size and time of change.

Headers are not believed: containers without frame counts, or with one frame too many, are common. The index also says
how a frame is found again: from its packets where a packet table could be made, else by its timestamp where timestamps
are regular, else by counting from the beginning. In memory are the columns that sampling needs; a `VideoInfo` is made
when it is asked for, and packet tables stay on disk.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fastplan.data.lists import VideoList
from fastplan.data.pictures import is_pattern
from fastplan.data.places import Names, Places
from fastplan.data.probe import SHARED, probe, video_of
from fastplan.data.probing import probe_all, too_slow
from fastplan.data.storage import Place
from fastplan.data.store import IndexStore, Rows
from fastplan.data.timing import frames_between
from fastplan.data.video import BadVideo, Form, VideoInfo, no_table
from fastplan.errors import UserError

__all__ = ["BadVideo", "VideoIndex", "VideoInfo", "build_index", "probe", "probe_files"]

PROBE_LIMIT_S = 300.0


@dataclass(frozen=True)
class VideoIndex:
    """N videos, or parts of videos, with their labels; what the loader draws clips from.

    videos: a sequence that may make each `VideoInfo` when it is asked for; for columns take the properties below.
    labels_N: int64 class numbers. groups: as in `VideoList`. bad: files of the list that are left out.
    """

    videos: Sequence[VideoInfo]
    labels_N: npt.NDArray[np.int64]
    groups: Sequence[str]
    classes: tuple[str, ...]
    bad: tuple[BadVideo, ...] = ()

    def __len__(self) -> int:
        return len(self.videos)

    @cached_property
    def frames_N(self) -> npt.NDArray[np.int64]:
        """Frames in each video."""
        return np.array(self._column("frames"), np.int64)

    @cached_property
    def sizes_N2(self) -> npt.NDArray[np.int64]:
        """Width and height of each video, in pixels, as shown."""
        return np.array([self._column("width"), self._column("height")], np.int64).T

    @cached_property
    def first_N(self) -> npt.NDArray[np.int32]:
        """Where in its file each video begins: 0 unless it is a part."""
        return np.array(self._column("first"), np.int32)

    @cached_property
    def forms(self) -> Counter[Form]:
        """How many videos there are of each form."""
        return Counter(map(Form._make, zip(*map(self._column, Form._fields), strict=True)))

    def take(self, chosen: Iterable[int]) -> "VideoIndex":
        """The videos at these positions, in this order; the bad files stay with the whole."""
        chosen = list(chosen)
        videos = self.videos
        return VideoIndex(
            videos.take(chosen) if isinstance(videos, _StoredVideos) else tuple(videos[i] for i in chosen),
            self.labels_N[chosen],
            Names(self.groups[int(i)] for i in chosen),
            self.classes,
        )

    def fingerprint(self) -> str:
        """Hash of names, frame counts and labels: two runs on the same data show the same one."""
        digest = hashlib.sha256()
        for path, frames, label in zip(self._column("path"), self.frames_N, self.labels_N, strict=True):
            name = os.path.basename(os.path.dirname(path) if is_pattern(os.path.basename(path)) else path)
            digest.update(f"{name}\t{frames}\t{label}\n".encode())
        return digest.hexdigest()[:16]

    def _column(self, name: str) -> Sequence[Any]:
        if isinstance(self.videos, _StoredVideos):
            return self.videos.column(name)
        return [getattr(video, name) for video in self.videos]


def build_index(
    listed: VideoList,
    *,
    cache_dir: Path,
    threads: int,
    on_video: Callable[[], None] = lambda: None,
    limit_s: float = PROBE_LIMIT_S,
) -> VideoIndex:
    """Probe every listed file, those seen before from the cache.

    threads: files probed at a time. on_video: called once per file, for progress. limit_s: seconds after which a file
    is given up. Files that cannot be decoded are left out and listed in `bad`; raises `UserError` where nothing is left
    of a class.
    """
    store, found = probe_files(listed.places, cache_dir=cache_dir, threads=threads, on_video=on_video, limit_s=limit_s)
    rows = found.table()
    bad_rows = rows.filter(pc.not_equal(rows["bad"], ""))
    bad = dict(zip(bad_rows["path"].to_pylist(), bad_rows["bad"].to_pylist(), strict=True))
    row_N = listed.places.file_N
    part_N3 = np.stack([row_N, *(rows[name].to_numpy()[row_N] for name in ("first", "frames"))], axis=1)
    good_N = pc.equal(rows["bad"], "").to_numpy()[row_N]
    for number in np.flatnonzero(good_N) if listed.segments else ():
        if (segment_s := listed.segments[number]) is None:
            continue
        row = int(row_N[number])
        part = _part(store, rows, row, segment_s)
        if part is None:
            named = "{} {:g} to {:g} s".format(rows["path"][row], *segment_s)
            bad[named] = f"the video is {rows['duration_s'][row]} s long"
            good_N[number] = False
        else:
            part_N3[number, 1:] = part
    good = np.flatnonzero(good_N)
    labels_N = np.asarray(listed.labels, np.int64)[good]
    present = set(labels_N.tolist())
    for label, name in enumerate(listed.classes):
        if label not in present:
            first = "; the first: {}: {}".format(*next(iter(bad.items()))) if bad else ""
            first += ", where a list's paths are relative to its own folder" if first.endswith("no such file") else ""
            raise UserError(f"class '{name}' has no video that decodes{first}")
    return VideoIndex(
        _StoredVideos(store, rows, part_N3[good]),
        labels_N,
        Names(listed.groups[int(i)] for i in good),
        listed.classes,
        tuple(BadVideo(path, reason) for path, reason in bad.items()),
    )


def probe_files(
    places: Iterable[Place],
    *,
    cache_dir: Path,
    threads: int,
    on_video: Callable[[], None] = lambda: None,
    limit_s: float = PROBE_LIMIT_S,
    hash_content: bool = False,
) -> tuple[IndexStore, Rows]:
    """The index and its rows of `places`, one per file, numbered as `Places.file_N` says.

    Only files that are new or changed are probed, bad ones included. hash_content: rows must have a SHA-256.
    """
    wanted = (places if isinstance(places, Places) else Places(places)).distinct()
    store = IndexStore(cache_dir)
    current_F = np.zeros(len(wanted), bool)
    shard_stamps: dict[str, str] = {}
    known = store.find(wanted.paths)
    files = enumerate(wanted)
    for path, stamp, bad, sha256, first in _cells(known, ("path", "stamp", "bad", "sha256", "first")):
        number, place = next(found for found in files if found[1].path == path)  # rows are in the order of `wanted`
        if place.shard and place.shard not in shard_stamps:
            shard_stamps[place.shard] = place.stamp()
        now = shard_stamps[place.shard] if place.shard else place.stamp()
        seen_alike = first == (place.first_picture or 0) and too_slow(bad) in (None, limit_s)
        if stamp == now and seen_alike and (bad or sha256 or not hash_content):
            current_F[number] = True
            on_video()
    if new := len(wanted) - int(current_F.sum()):
        todo = compress(wanted, ~current_F)
        with store.writer() as writer:
            for row in probe_all(todo, files=new, workers=threads, limit_s=limit_s, hash_content=hash_content):
                writer.add(row)
                on_video()
        known = store.find(wanted.paths)
        if len(known) < len(wanted):
            raise UserError(f"rows of the index in {cache_dir} are gone; who deletes it? Run again")
    return store, known


def _cells(rows: Rows, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Row by row, a few in memory at a time."""
    for batch in rows.batches(columns):
        yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)


class _StoredVideos(Sequence[VideoInfo]):
    """Videos of the index as rows of a table. part_N3: row, first frame and number of frames of each."""

    def __init__(self, store: IndexStore, rows: pa.Table, part_N3: npt.NDArray[np.int64]) -> None:
        self._store, self._rows, self._part_N3 = store, rows, part_N3
        self._columns = [rows[name].combine_chunks() for name in (*_STORED, "bytes", "file", "row")]

    def __len__(self) -> int:
        return len(self._part_N3)

    @overload
    def __getitem__(self, number: int) -> VideoInfo: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[VideoInfo]: ...
    def __getitem__(self, number: int | slice) -> VideoInfo | Sequence[VideoInfo]:
        if isinstance(number, slice):
            return self.take(range(len(self))[number])
        row, first, frames = self._part_N3[number].tolist()
        *values, size, file, place = (column[row].as_py() for column in self._columns)
        shown = dict(zip(_STORED, values, strict=True), first=first, frames=frames, bytes=size)
        return video_of(shown, no_table if shown["fallback"] else partial(self._store.table, file, place, size))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def take(self, chosen: Iterable[int]) -> "_StoredVideos":
        return _StoredVideos(self._store, self._rows, self._part_N3[list(chosen)])

    def column(self, name: str) -> Sequence[Any]:
        row_N, first_N, frames_N = self._part_N3.T
        if name in ("first", "frames"):
            return (first_N if name == "first" else frames_N).tolist()
        return self._rows[name].take(pa.array(row_N)).to_pylist()


_STORED = tuple(name for name in SHARED if name not in ("first", "frames"))


def _part(store: IndexStore, rows: pa.Table, row: int, segment_s: tuple[float, float] | None) -> tuple[int, int] | None:
    """(first, frames) of a segment, or of the whole; None for a segment that lies outside."""
    first, frames = rows["first"][row].as_py(), rows["frames"][row].as_py()
    if segment_s is None:
        return first, frames
    fps, unit_s, step = (rows[name][row].as_py() for name in ("fps", "unit_s", "pts_step"))
    if step:
        fps, pts_R = 1 / (step * unit_s), np.empty(0, np.int64)
    else:
        pts_R = store.pts(rows["file"][row].as_py(), rows["row"][row].as_py())
    begin, stop = frames_between(*segment_s, frames=frames, fps=fps, unit_s=unit_s, pts_R=pts_R)
    return (first + begin, stop - begin) if begin < stop else None
