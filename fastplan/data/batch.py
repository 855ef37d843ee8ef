"""The clip loader: one object per split, built once, given another clip regime whenever the state changes."""

import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.dali import ClipPipeline, Decoder
from fastplan.data.decode import decode_views
from fastplan.data.index import VideoIndex
from fastplan.data.sampling import EpochSamples

_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class ClipBatch:
    """B clips on the loader's device.

    clips_NCTHW: float32 [B, 3, T, size, size], normalised, channels_last_3d. labels_N: int64. videos_N: int64
    positions in the index. share: how much of each clip is its own, in 0..1; the rest is the clip at the same place
    from the end of the batch. Raises `ValueError` where the shapes disagree.
    """

    clips_NCTHW: torch.Tensor
    labels_N: torch.Tensor
    videos_N: torch.Tensor
    share: float = 1.0

    def __post_init__(self) -> None:
        n = len(self.clips_NCTHW)
        if self.clips_NCTHW.ndim != 5 or self.clips_NCTHW.shape[1] != 3:
            raise ValueError(f"clips have shape {tuple(self.clips_NCTHW.shape)}, want [N, 3, T, H, W]")
        if self.labels_N.shape != (n,) or self.videos_N.shape != (n,):
            raise ValueError(f"{n} clips with {len(self.labels_N)} labels and {len(self.videos_N)} video numbers")

    def targets(self, classes: int) -> torch.Tensor:
        """What a loss compares with: class numbers int64 [B], or float32 [B, classes] where clips are mixed."""
        if self.share == 1.0:
            return self.labels_N
        own_NK = F.one_hot(self.labels_N, classes).float()
        return self.share * own_NK + (1.0 - self.share) * own_NK.flip(0)

    def mixed_up(self, share: float) -> "ClipBatch":
        """Every clip faded into the one at the same place from the end; the clip keeps `share` (mixup)."""
        if share == 1.0:
            return self
        return replace(self, clips_NCTHW=self.clips_NCTHW.flip(0).lerp(self.clips_NCTHW, share), share=share)

    def cut_mixed(self, box: Sequence[float]) -> "ClipBatch":
        """Every clip with a box of the one at the same place from the end (cutmix).

        box: left, top, right, bottom as fractions of the picture, rounded to pixels; an empty one changes nothing.
        """
        height, width = self.clips_NCTHW.shape[-2:]
        left, right = (round(side * width) for side in (box[0], box[2]))
        top, bottom = (round(side * height) for side in (box[1], box[3]))
        share = 1.0 - (right - left) * (bottom - top) / (width * height)
        if share == 1.0:
            return self
        clips_NCTHW = self.clips_NCTHW.clone()
        clips_NCTHW[..., top:bottom, left:right] = self.clips_NCTHW.flip(0)[..., top:bottom, left:right]
        return replace(self, clips_NCTHW=clips_NCTHW, share=share)


class ClipLoader:
    """Turns sample plans into batches, a few ahead of whoever consumes them.

    A thread decodes and runs the pipeline; order and content of the batches depend on the samples alone. `configure`
    costs nothing: the regime is data to the pipeline. Up to `keep_bytes` of decoded clips are kept in memory for
    epochs that ask for it, those that come again unchanged.
    """

    def __init__(
        self,
        index: VideoIndex,
        augment: AugmentConfig,
        *,
        max_batch: int,
        threads: int,
        decoder: Decoder,
        device: torch.device,
        keep_bytes: int = 0,
    ) -> None:
        self.index = index
        self._kept: dict[tuple[int, int, bytes, bytes], npt.NDArray[np.uint8]] = {}
        self._keep_bytes = keep_bytes
        self._device = device
        self._decoder = decoder
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._pipeline = ClipPipeline(
            decoder=decoder,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            max_batch=max_batch,
            threads=threads,
            augment=augment,
        )
        self._max_batch = max_batch
        self._spec: ClipSpec | None = None
        self._batch_size = max_batch

    def configure(self, spec: ClipSpec, batch_size: int) -> None:
        """Set the clip regime of the epochs to come. Raises `ValueError` above the batch the loader was built for."""
        if batch_size > self._max_batch:
            raise ValueError(f"batch of {batch_size} clips in a loader built for at most {self._max_batch}")
        self._spec, self._batch_size = spec, batch_size

    def epoch(self, samples: EpochSamples, *, keep: bool = False) -> Generator[ClipBatch, None, None]:
        """Batches of `samples` in order, the last one smaller where they do not divide.

        keep: these clips will be asked for again. A decode error is raised at the batch it belongs to.
        """
        if self._spec is None:
            raise ValueError("configure the loader before its first epoch")
        if samples.frames_MT.shape[1] != self._spec.length:
            raise ValueError(f"samples of {samples.frames_MT.shape[1]} frames in a regime of {self._spec.length}")
        starts = range(0, len(samples), self._batch_size)
        slices = [slice(start, min(start + self._batch_size, len(samples))) for start in starts]
        ready: queue.Queue[ClipBatch | BaseException] = queue.Queue(maxsize=_BATCHES_AHEAD)
        abandoned = threading.Event()
        size = self._spec.size
        worker = threading.Thread(
            target=self._produce, args=(samples, slices, size, keep, ready, abandoned), daemon=True
        )
        worker.start()
        try:
            for _ in slices:
                batch = ready.get()
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
        finally:
            abandoned.set()
            while worker.is_alive():
                try:
                    ready.get(timeout=0.05)
                except queue.Empty:
                    worker.join(timeout=0.05)

    def close(self) -> None:
        """Stop the decoding threads."""
        self._pool.shutdown(cancel_futures=True)

    def _produce(
        self,
        samples: EpochSamples,
        slices: list[slice],
        size: int,
        keep: bool,
        ready: "queue.Queue[ClipBatch | BaseException]",
        abandoned: threading.Event,
    ) -> None:
        waiting: deque[tuple[slice, list[Future[npt.NDArray[np.uint8]]]]] = deque()
        todo = iter(slices)
        try:
            while not abandoned.is_set():
                while len(waiting) <= _BATCHES_AHEAD and (part := next(todo, None)) is not None:
                    places = range(part.start, part.stop)
                    waiting.append((part, [self._pool.submit(self._fetch, samples, m, size, keep) for m in places]))
                if not waiting:
                    return
                part, futures = waiting.popleft()
                ready.put(self._assemble(samples, part, [future.result() for future in futures], size))
        except Exception as error:  # noqa: BLE001  (it is raised again in the consumer's thread)
            ready.put(error)
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()

    def _fetch(self, samples: EpochSamples, place: int, size: int, keep: bool) -> npt.NDArray[np.uint8]:
        number = int(samples.videos_M[place])
        frames_T, crop = samples.frames_MT[place], samples.changes.crops_M4[place]
        key = (number, size, frames_T.tobytes(), crop.tobytes())
        if keep and (kept := self._kept.get(key)) is not None:
            return kept
        video = self.index.videos[number]
        if self._decoder == "dali":
            with video.place.open() as whole:
                source = np.frombuffer(whole.read(0, whole.size), np.uint8)
        else:
            source = decode_views(video, frames_T[None], crop[None], size=size)[0]
        if keep and source.nbytes <= self._keep_bytes:
            self._keep_bytes -= source.nbytes
            self._kept[key] = source
        return source

    def _assemble(
        self, samples: EpochSamples, part: slice, source: list[npt.NDArray[np.uint8]], size: int
    ) -> ClipBatch:
        changes = samples.changes[part]
        videos_N = samples.videos_M[part]
        batch = ClipBatch(
            self._pipeline.run(
                source, samples.frames_MT[part] + self.index.first_N[videos_N, None], changes, size=size
            ),
            torch.from_numpy(self.index.labels_N[videos_N]).to(self._device),
            torch.from_numpy(videos_N).to(self._device),
        )
        return batch.mixed_up(float(changes.shares_M[0])).cut_mixed(changes.pastes_M4[0].tolist())


def choose_decoder(index: VideoIndex, device: torch.device) -> tuple[Decoder, str]:
    """Which decoder reads this data on this device, and why, in words for the first lines of a run."""
    if device.type == "cuda":
        return "dali", "NVDEC through DALI"
    codecs = sorted(index.codecs)
    return "host", f"PyAV threads: without a GPU, DALI decodes no {', '.join(codecs)} or decodes it from frame 0"


def default_threads() -> int:
    """Decoding threads where the configuration names none: the cores this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)), 16)
