"""What the pipeline is fed: the clips of each sample, decoded or cut ahead by threads, or a stand-in for a broken one.

A video is decoded once for all of its consecutive samples, the views of an evaluation, by the host decoder: it gives
them at their final size as it goes. DALI's would decode a cut, at full size, for each of them.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from fastplan.data.dali import Source
from fastplan.data.decode import DecodeError, decode_views
from fastplan.data.decoders import Decoder, decoder_of, encoded_clip
from fastplan.data.index import VideoIndex
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.sampling import EpochSamples
from fastplan.data.video import VideoInfo
from fastplan.data.workers import Task, Workers
from fastplan.errors import UserError


class KeptClips:
    """Decoded clips that are asked for again, up to `budget_bytes` of them. Threads may share it."""

    def __init__(self, budget_bytes: int) -> None:
        self._left_bytes = budget_bytes
        self._clips: dict[tuple[object, ...], npt.NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> npt.NDArray[np.uint8] | None:
        """The clip that was kept under this key."""
        return self._clips.get(key)

    def put(self, key: tuple[object, ...], clip: npt.NDArray[np.uint8]) -> None:
        """Keep a clip, if there is room."""
        with self._lock:
            if clip.nbytes <= self._left_bytes and key not in self._clips:
                self._left_bytes -= clip.nbytes
                self._clips[key] = clip


@dataclass(frozen=True)
class Reading:
    """How clips are read, the same for all loaders of a run.

    decoder: `dali` for single views of the videos that DALI's takes. on_gpu: whether that is NVDEC. drop_nonref: as in
    `Cutter`.
    """

    decoder: Decoder
    on_gpu: bool
    drop_nonref: bool
    workers: Workers
    kept: KeptClips
    lost: LostClips


class ClipFetcher:
    """The clips of one epoch's samples in one regime, by their rows in it. Ask for some, then take them in that order.

    keep: these clips will be asked for again. abandoned: set when nobody wants them any more.
    """

    def __init__(
        self, index: VideoIndex, samples: EpochSamples, reading: Reading, *, keep: bool, abandoned: threading.Event
    ) -> None:
        self.samples = samples
        self._index = index
        self._reading = reading
        self._keep = keep
        self._abandoned = abandoned
        self._ends_M = _group_ends(samples)
        self._groups: dict[int, _Group] = {}

    def ask(self, rows: Sequence[int]) -> None:
        """Begin to read these samples."""
        for row in rows:
            end = int(self._ends_M[row])
            if end not in self._groups:
                reason = self._known_reason(row)
                task = None if reason else self._submit(range(row, end))
                self._groups[end] = _Group(row, end, task, reason)

    def take(self, rows: Sequence[int]) -> list[tuple[int, Source]]:
        """These samples, as rows with their clips.

        They are the rows asked for, but where a clip cannot be read: it is noted as lost, and its substitute's row is
        there instead, or none in an evaluation. Raises `UserError` where too much is lost.
        """
        taken: list[tuple[int, Source]] = []
        for row in rows:
            end = int(self._ends_M[row])
            group = self._groups[end]
            if group.task is not None:
                group.sources, group.reason = self._result(group.task, row)
                group.task = None
            found = (row, group.sources[row - group.first]) if group.sources else self.lose(row, group.reason)
            if found:
                taken.append(found)
            if row == end - 1:
                del self._groups[end]
        return taken

    def lose(self, row: int, reason: str) -> tuple[int, Source] | None:
        """Note a clip that cannot be read; row and clip of its substitute, or None in an evaluation."""
        samples, lost, path = self.samples, self._reading.lost, self._path(row)
        lost.count(path, reason, self._index)
        before = self._lost_before(row)
        found = self._substitute(row, before) if samples.spare else None
        # Of a video that an evaluation leaves out, the first view stands for all.
        named = samples.spare or row == 0 or samples.videos_M[row - 1] != samples.videos_M[row]
        if before is None and named:
            _, stream, epoch = samples.name
            lost.add(LostClip(path, reason, stream, epoch, row, found[0] if found else None))
        return found

    def close(self) -> None:
        """Begin nothing any more."""
        for group in self._groups.values():
            if group.task is not None:
                group.task.cancel()

    def _substitute(self, row: int, before: LostClip | None) -> tuple[int, Source]:
        samples = self.samples
        known = [before.instead] if before is not None and before.instead is not None else []
        for other in chain(known, samples.spares(row)):
            if not self._known_reason(other):
                sources, _ = self._result(self._submit(range(other, other + 1)), other)
                if sources:
                    return other, sources[0]
        raise UserError("none of the clips of an epoch can be read: is the folder of the videos still there?")

    def _known_reason(self, row: int) -> str:
        """Why this clip is not even tried, empty where it is."""
        crashed = self._reading.lost.crashed
        if crashed and (reason := crashed.get(self._path(row))):
            return reason
        before = self._lost_before(row)
        return before.reason if before else ""

    def _lost_before(self, row: int) -> LostClip | None:
        if not len(self._reading.lost):
            return None
        _, stream, epoch = self.samples.name
        return self._reading.lost.find(self._path(row), stream, epoch, row)

    def _result(self, task: Task[list[Source]], row: int) -> tuple[list[Source] | None, str]:
        """What a task read, or None and why not."""
        try:
            return task.result(self._abandoned), ""
        except TimeoutError as error:
            reason = f"{error} (data.decode_timeout_s)"
        except (DecodeError, OSError) as error:
            words = getattr(error.__cause__ or error, "strerror", None)  # without FFmpeg's number
            reason = words or str(error).removeprefix(f"{self._path(row)}: ")
        self._reading.lost.count(self._path(row), reason, self._index)
        return None, reason

    def _path(self, row: int) -> str:
        return self._index.videos[int(self.samples.videos_M[row])].path

    def _submit(self, rows: range) -> Task[list[Source]]:
        samples, part = self.samples, slice(rows.start, rows.stop)
        video = self._index.videos[int(samples.videos_M[rows[0]])]
        frames_VT, crops_V4 = samples.frames_MT[part], samples.changes.crops_M4[part]
        size, lost = samples.spec.size, self._reading.lost

        def read() -> list[Source]:
            with lost.reading(video.path):
                return self._read(video, frames_VT, crops_V4, size)

        return self._reading.workers.submit(read)

    def _read(
        self, video: VideoInfo, frames_VT: npt.NDArray[np.int32], crops_V4: npt.NDArray[np.float32], size: int
    ) -> list[Source]:
        """The views of one video, in one pass over it; runs in a worker."""
        reading = self._reading
        takes = reading.decoder == "dali" and decoder_of(video.form, on_gpu=reading.on_gpu) == "dali"
        if takes and len(frames_VT) == 1:
            cut = encoded_clip(video, frames_VT[0], drop_nonref=reading.drop_nonref)
            if cut is not None:
                return [cut]
        key = (video.path, video.first, size, frames_VT.tobytes(), crops_V4.tobytes())
        kept = reading.kept.get(key) if self._keep else None
        if kept is None:
            kept = decode_views(video, frames_VT, crops_V4, size=size)
            if self._keep:
                reading.kept.put(key, kept)
        return list(kept)


@dataclass
class _Group:
    """Consecutive samples [first, end) of one video, read by one task; its result replaces it."""

    first: int
    end: int
    task: Task[list[Source]] | None
    reason: str
    sources: list[Source] | None = None


def _group_ends(samples: EpochSamples) -> npt.NDArray[np.int64]:
    """For each sample, the end of its group: consecutive ones of one video, or each alone where it may be replaced."""
    rows_M = np.arange(len(samples.videos_M))
    if samples.spare:
        return rows_M + 1
    last_M = np.append(samples.videos_M[1:] != samples.videos_M[:-1], True)
    ends = np.flatnonzero(last_M) + 1
    return ends[np.searchsorted(ends, rows_M, side="right")]
