"""What truly decodes: every video is decoded once, and what was seen is cached by path, size and time of change.

Headers are not believed: containers without frame counts, or with one frame too many, are common. The index also says
how a frame is found again: from its packets where a packet table could be made, else by its timestamp where timestamps
are regular, else by counting from the beginning.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from fastplan.data.lists import VideoList
from fastplan.data.packets import PacketTable
from fastplan.data.scan import scan
from fastplan.data.storage import Place
from fastplan.data.video import BadVideo, VideoInfo, no_table
from fastplan.errors import UserError

_CACHE_FORMAT = 3


@dataclass(frozen=True)
class VideoIndex:
    """N videos, or parts of videos, with their labels; what the loader draws clips from.

    videos: a sequence that may make each `VideoInfo` when it is asked for; for columns take the properties below.
    labels_N: int64 class numbers. groups: as in `VideoList`. bad: files of the list that are left out.
    """

    videos: Sequence[VideoInfo]
    labels_N: npt.NDArray[np.int64]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    bad: tuple[BadVideo, ...] = ()

    def __len__(self) -> int:
        return len(self.videos)

    @cached_property
    def frames_N(self) -> npt.NDArray[np.int64]:
        """Frames in each video."""
        return np.array([video.frames for video in self.videos], np.int64)

    @cached_property
    def sizes_N2(self) -> npt.NDArray[np.int64]:
        """Width and height of each video, in pixels, as shown."""
        return np.array([(video.width, video.height) for video in self.videos], np.int64).reshape(-1, 2)

    @cached_property
    def first_N(self) -> npt.NDArray[np.int32]:
        """Where in its file each video begins: 0 unless it is a part."""
        return np.array([video.first for video in self.videos], np.int32)

    @cached_property
    def codecs(self) -> frozenset[str]:
        """The codecs that occur."""
        return frozenset(video.codec for video in self.videos)

    def take(self, chosen: Iterable[int]) -> "VideoIndex":
        """The videos at these positions, in this order; the bad files stay with the whole."""
        chosen = list(chosen)
        return VideoIndex(
            tuple(self.videos[i] for i in chosen),
            self.labels_N[chosen],
            tuple(self.groups[i] for i in chosen),
            self.classes,
        )

    def fingerprint(self) -> str:
        """Hash of names, frame counts and labels: two runs on the same data show the same one."""
        digest = hashlib.sha256()
        for video, label in zip(self.videos, self.labels_N, strict=True):
            digest.update(f"{Path(video.path).name}\t{video.frames}\t{label}\n".encode())
        return digest.hexdigest()[:16]


def build_index(
    listed: VideoList,
    *,
    cache_dir: Path,
    threads: int,
    on_video: Callable[[], None] = lambda: None,
) -> VideoIndex:
    """Probe every listed video, those seen before from the cache.

    on_video: called once per video, for progress. Files that cannot be decoded are left out and listed in `bad`;
    raises `UserError` where nothing is left of a class.
    """
    cache = _ProbeCache(cache_dir, listed.paths)

    def one(path: Path) -> VideoInfo | BadVideo:
        found = cache.get(path) or probe(path)
        on_video()
        return found

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        probed = list(pool.map(one, listed.paths))
    cache.put(listed.paths, probed)
    good = [i for i, found in enumerate(probed) if isinstance(found, VideoInfo)]
    bad = tuple(found for found in probed if isinstance(found, BadVideo))
    labels_N = np.array([listed.labels[i] for i in good], np.int64)
    for label, name in enumerate(listed.classes):
        if label not in labels_N:
            first = f"; the first: {bad[0].path}: {bad[0].reason}" if bad else ""
            raise UserError(f"class '{name}' has no video that decodes{first}")
    videos = tuple(found for found in probed if isinstance(found, VideoInfo))
    return VideoIndex(videos, labels_N, tuple(listed.groups[i] for i in good), listed.classes, bad)


def probe(path: Path) -> VideoInfo | BadVideo:
    """Decode a whole video and say what is in it."""
    try:
        found = scan(Place(str(path)))
    except (OSError, av.FFmpegError, ValueError) as error:
        return BadVideo(str(path), _reason(error))
    if found is None:
        return BadVideo(str(path), "has no video stream, or none that decodes")
    width, height = (found.height, found.width) if found.rotation in (90, 270) else (found.width, found.height)
    timing, table = found.timing, found.table
    return VideoInfo(
        str(path),
        found.frames,
        timing.fps,
        width,
        height,
        found.codec,
        found.rotation,
        timing.start_pts if found.seeks else 0,
        timing.pts_step if found.seeks else 0,
        found.fallback,
        found.mirror,
        load_table=lambda: table,
    )


def carve(
    index: VideoIndex, fraction: float, *, seed: int, purpose: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions (kept, held out) of a split that never parts a group.

    Ungrouped videos are held out class by class, groups as wholes in an order drawn from the seed, until at least
    `fraction` of the videos is out. Raises `UserError` where a class would vanish from either side of the split.
    """
    rng = np.random.default_rng([seed, *purpose.encode()])
    groups = np.array(index.groups)
    out = np.zeros(len(index), bool)
    grouped = len(set(index.groups)) < len(index)
    pools = [np.arange(len(index))] if grouped else [np.flatnonzero(index.labels_N == k) for k in set(index.labels_N)]
    for pool in pools:
        wanted = max(round(fraction * len(pool)), 1)
        for group in rng.permutation(np.unique(groups[pool])):
            if out[pool].sum() >= wanted:
                break
            out[pool] |= groups[pool] == group
    for side, members in (("training", ~out), (purpose, out)):
        missing = set(range(len(index.classes))) - set(index.labels_N[members].tolist())
        if missing and (side == "training" or grouped):
            name = index.classes[min(missing)]
            raise UserError(
                f"holding out {fraction:g} of the videos for {purpose} leaves none of class '{name}' for {side}: "
                "give more videos, another seed, or a list of its own (--val)"
            )
    return np.flatnonzero(~out), np.flatnonzero(out)


class _ProbeCache:
    """A JSON file per list of paths, packet tables in one binary file beside it.

    An entry holds while its video's size and time of change do. The JSON file names the binary file and appears after
    it, so whoever reads it at any moment finds tables that belong to it, or none and probes again.
    """

    def __init__(self, folder: Path, paths: Iterable[Path]) -> None:
        key = hashlib.sha256("\n".join(str(p.resolve()) for p in paths).encode()).hexdigest()[:24]
        self._file = folder / f"index-{key}.json"
        self._entries: dict[str, Any] = {}
        self._packets = b""
        self._packets_name = ""
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["format"] == _CACHE_FORMAT:
                self._packets_name = content["packets"]
                self._packets = (folder / self._packets_name).read_bytes()
                self._entries = content["entries"]
        except (OSError, ValueError, KeyError, TypeError):
            self._entries = {}  # no cache yet, or a damaged one: probing again makes it anew

    def get(self, path: Path) -> VideoInfo | None:
        entry = self._entries.get(str(path))
        if not entry or entry["stamp"] != _stamp(path):
            return None
        begin, end = entry["packets"]
        if end > len(self._packets):
            return None
        packed = self._packets[begin:end]
        return VideoInfo(**entry["info"], load_table=partial(PacketTable.unpack, packed) if packed else no_table)

    def put(self, paths: Iterable[Path], probed: Iterable[VideoInfo | BadVideo]) -> None:
        entries: dict[str, Any] = {}
        tables: list[bytes] = []
        total = 0
        for path, found in zip(paths, probed, strict=True):
            if isinstance(found, VideoInfo):
                info = {name: value for name, value in vars(found).items() if name != "load_table"}
                packed = found.table.pack() if found.table else b""
                entries[str(path)] = {"stamp": _stamp(path), "info": info, "packets": [total, total + len(packed)]}
                tables.append(packed)
                total += len(packed)
        packets = b"".join(tables)
        if entries == self._entries and packets == self._packets:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        name = f"{self._file.stem}-{hashlib.sha256(packets).hexdigest()[:12]}.packets"
        _replace(self._file.with_name(name), packets)
        content = {"format": _CACHE_FORMAT, "packets": name, "entries": entries}
        _replace(self._file, json.dumps(content).encode())
        if self._packets_name not in ("", name):
            self._file.with_name(self._packets_name).unlink(missing_ok=True)


def _replace(file: Path, content: bytes) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(file)


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    return f"cannot be decoded ({getattr(error, 'strerror', None) or error})"
