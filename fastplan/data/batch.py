"""The clip loader: batches of one split, from a pipeline that is built once and shared."""

import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.dali import ClipPipeline, Source
from fastplan.data.decoders import MEASURED, NO_NVDEC, Decoder, decoder_of, nvdec_library
from fastplan.data.fetching import ClipFetcher, KeptClips, Reading
from fastplan.data.handover import Handover
from fastplan.data.index import VideoIndex
from fastplan.data.lost import LostClips
from fastplan.data.memory import BATCHES_AHEAD
from fastplan.data.regimes import Regime, Schedule
from fastplan.data.sampling import EpochName, EpochSamples
from fastplan.data.workers import Workers
from fastplan.errors import UserError


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

    Threads decode, one runs the pipeline; order and content of the batches depend on the samples alone. Another clip
    regime costs nothing: it is data to the pipeline. Up to `keep_bytes` of decoded clips are kept in memory for epochs
    that ask for it, those that come again unchanged. A clip that cannot be read within `timeout_s` is replaced in
    training and left out in evaluation; `lost` knows which. decoder: `host` reads every video, `dali` those that it
    takes on this device (`decoder_of`), from cuts made with or without `drop_nonref`, and the host decoder the others.
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
        timeout_s: float | None = 120.0,
        lost: LostClips | None = None,
        drop_nonref: bool = False,
    ) -> None:
        self._device = device
        self._max_batch = max_batch
        self._reading = Reading(
            decoder,
            device.type == "cuda",
            drop_nonref,
            Workers(threads, timeout_s),
            KeptClips(keep_bytes),
            LostClips() if lost is None else lost,
        )
        self._pipeline = ClipPipeline(
            decoder=decoder,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            compiled=device.type != "cuda",
            max_batch=max_batch,
            threads=threads,
            augment=augment,
        )
        self._handover = Handover(device)
        self._pipeline_free = threading.Lock()  # loaders beside each other may be read in turns
        self._begin(index)

    def _begin(self, index: VideoIndex) -> None:
        self.index = index
        self._lock = threading.Lock()
        self._schedule: Schedule | None = None
        self._planned: int | None = None  # the first iteration that may still change, None between epochs
        self._name = EpochName(0, "", 0)
        self._next = (0, 0)  # position and iteration of the batch to come
        self._resumed = False

    def beside(self, index: VideoIndex) -> "ClipLoader":
        """A loader of other videos that shares this one's pipeline, threads, memory for kept clips and losses."""
        other = copy(self)
        other._begin(index)
        return other

    def configure(self, spec: ClipSpec, batch_size: int, *, at: int | None = None) -> int:
        """Change the clip regime; returns the iteration, counted from 0 in its epoch, from which it holds.

        Between epochs that is the first one of the next. During an epoch it is `at`, or the earliest that is not under
        way already; what is left of the epoch is not drawn anew, so no sample is dropped or doubled. Raises
        `ValueError` where `at` has passed or no epoch is under way, and above the batch that the loader was built for.
        """
        if batch_size > self._max_batch:
            raise ValueError(f"batch of {batch_size} clips in a loader built for at most {self._max_batch}")
        regime = Regime(spec, batch_size)
        with self._lock:
            earliest = self._planned or 0
            begins = earliest if at is None else at
            if begins < earliest:
                raise ValueError(f"iteration {begins} is under way: the earliest that may change is {earliest}")
            if self._schedule is None or self._planned is None:
                if begins:
                    raise ValueError(f"no epoch is under way that could change at iteration {begins}")
                self._schedule, self._resumed = Schedule(regime), False
            else:
                self._schedule.change(begins, regime)
            return begins

    def epoch(
        self, samples: EpochSamples, *, keep: bool = False, regimes: Sequence[Regime] = ()
    ) -> Generator[ClipBatch, None, None]:
        """Batches of `samples` in order, the last one smaller where they do not divide.

        After `load_state_dict`, from the batch on that was to come. keep: these clips will be asked for again. regimes:
        of one iteration after the other, instead of the configured one. Raises `UserError` where too many clips are
        lost, `ValueError` for a batch above the one that the loader was built for.
        """
        if regimes and (largest := max(regime.batch_size for regime in regimes)) > self._max_batch:
            raise ValueError(f"batch of {largest} clips in a loader built for at most {self._max_batch}")
        if self._schedule is None:
            raise ValueError("configure the loader before its first epoch")
        if self._resumed and samples.name != self._name:
            raise ValueError(f"the state that was loaded belongs to {self._name}, not to {samples.name}")
        if not self._resumed:
            self._schedule = Schedule.of(regimes or [self._schedule.last()])
            self._next = (0, 0)
        self._name, self._resumed = samples.name, False
        self._planned = self._next[1]
        ready: queue.Queue[tuple[int, ClipBatch | None] | Exception | None] = queue.Queue(maxsize=BATCHES_AHEAD)
        abandoned = threading.Event()
        producer = threading.Thread(
            target=self._produce, args=(samples, keep, ready, abandoned), name="batches", daemon=True
        )
        producer.start()
        try:
            while (found := _get(ready, producer)) is not None:
                if isinstance(found, Exception):
                    raise found
                self._next = (found[0], self._next[1] + 1)
                if found[1] is not None:
                    self._handover.take((found[1].clips_NCTHW, found[1].labels_N, found[1].videos_N))
                    yield found[1]
        finally:
            abandoned.set()
            while producer.is_alive():
                try:
                    ready.get(timeout=0.05)
                except queue.Empty:
                    producer.join(timeout=0.05)
            self._planned = None

    def state_dict(self) -> dict[str, Any]:
        """Where the consumer is: epoch, iteration, position and regimes, as plain values.

        A loader of the same videos that loads it goes on with the very next batch.
        """
        if self._schedule is None:
            raise ValueError("configure the loader before asking for its state")
        with self._lock:
            regimes = self._schedule.to_list()
        position, iteration = self._next
        return {**self._name._asdict(), "iteration": iteration, "position": position, "regimes": regimes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next epoch, which must be the one of `state`, go on where it was; `configure` forgets it again."""
        self._name = EpochName(state["seed"], state["stream"], state["epoch"])
        self._next = (state["position"], state["iteration"])
        self._schedule = Schedule.from_list(state["regimes"])
        self._resumed = True

    def close(self) -> None:
        """Stop the threads, also for the loaders beside this one."""
        self._reading.workers.close()
        self._pipeline.close()

    def _produce(
        self,
        samples: EpochSamples,
        keep: bool,
        ready: "queue.Queue[tuple[int, ClipBatch | None] | Exception | None]",
        abandoned: threading.Event,
    ) -> None:
        asked: deque[tuple[ClipFetcher, list[int], int]] = deque()
        fetcher: ClipFetcher | None = None
        position, iteration = self._next
        try:
            while not abandoned.is_set():
                while len(asked) <= BATCHES_AHEAD and position < len(samples):
                    with self._lock:
                        assert self._schedule is not None
                        regime = self._schedule.at(iteration)
                        iteration += 1
                        self._planned = iteration
                    if fetcher is None or fetcher.samples.spec != regime.spec:
                        samples = samples if samples.spec == regime.spec else samples.under(regime.spec)
                        fetcher = ClipFetcher(self.index, samples, self._reading, keep=keep, abandoned=abandoned)
                    rows = samples.mine_K[position : position + regime.batch_size].tolist()
                    fetcher.ask(rows)
                    position += len(rows)
                    asked.append((fetcher, rows, position))
                if not asked:
                    ready.put(None)
                    return
                taking, rows, end = asked.popleft()
                ready.put((end, self._assemble(taking, rows)))
        except Exception as error:  # noqa: BLE001  (it is raised again in the consumer's thread)
            ready.put(error)
        finally:
            for taking, _, _ in asked:
                taking.close()

    def _assemble(self, fetcher: ClipFetcher, rows: list[int]) -> ClipBatch | None:
        samples, found = fetcher.samples, fetcher.take(rows)
        while found:
            try:
                clips_NCTHW = self._prepare(samples, found)
                break
            except RuntimeError as error:
                found = self._decodable(fetcher, found, error)
        else:
            return None
        videos_N = samples.videos_M[[row for row, _ in found]]
        share, box = samples.changes.shares_M[rows[0]], samples.changes.pastes_M4[rows[0]]
        with self._handover.making():
            batch = ClipBatch(
                clips_NCTHW,
                torch.from_numpy(self.index.labels_N[videos_N]).to(self._device),
                torch.from_numpy(videos_N).to(self._device),
            )
            return batch.mixed_up(float(share)).cut_mixed(box.tolist())

    def _prepare(self, samples: EpochSamples, found: Sequence[tuple[int, Source]]) -> torch.Tensor:
        rows = np.array([row for row, _ in found])
        sources = [source for _, source in found]
        with self._pipeline_free, self._handover.making():
            return self._handover.own(self._pipeline.run(sources, samples.changes[rows], size=samples.spec.size))

    def _decodable(
        self, fetcher: ClipFetcher, found: Sequence[tuple[int, Source]], error: RuntimeError
    ) -> list[tuple[int, Source]]:
        """What is left of a batch that DALI refuses: it does not say for which clip, so each is tried alone."""
        if self._reading.decoder != "dali":
            raise error
        kept: list[tuple[int, Source]] = []
        for row, source in found:
            try:
                self._prepare(fetcher.samples, [(row, source)])
                kept.append((row, source))
            except RuntimeError as alone:
                reason = str(alone).split("encountered:")[-1].strip().splitlines()[0]
                if (other := fetcher.lose(row, reason)) is not None:
                    kept.append(other)
        if [row for row, _ in kept] == [row for row, _ in found]:
            raise error
        return kept


def _get(ready: "queue.Queue[Any]", producer: threading.Thread) -> Any:
    """The next item; raises `RuntimeError` where the thread that makes them died without one."""
    while True:
        try:
            return ready.get(timeout=1.0)
        except queue.Empty:
            if not producer.is_alive() and ready.empty():
                raise RuntimeError("the thread that makes batches died without a word") from None


def choose_decoder(
    index: VideoIndex, device: torch.device, setting: Literal["auto", "host", "dali"] = "auto"
) -> tuple[Decoder, str]:
    """Which decoder a loader of this data is built with (`data.decoder`), and why, for the first lines of a run.

    Raises `UserError` where DALI's is asked for on a GPU without NVDEC.
    """
    on_gpu = device.type == "cuda"
    if setting == "host":
        return "host", "PyAV threads for every video, as data.decoder=host says"
    if setting == "auto" and not on_gpu:
        return "host", f"PyAV threads for every video: without a GPU they cost less ({MEASURED})"
    if on_gpu and not nvdec_library():
        if setting == "dali":
            raise UserError(f"data.decoder=dali decodes with NVDEC here, and {NO_NVDEC}; or give data.decoder=host")
        return "host", f"PyAV threads for every video: {NO_NVDEC}"
    taken = sum(count for form, count in index.forms.items() if decoder_of(form, on_gpu=on_gpu) == "dali")
    others = {form for form in index.forms if decoder_of(form, on_gpu=on_gpu) == "host"}
    who = "NVDEC through DALI" if on_gpu else "DALI on the CPU"
    why = f"{who}, from cuts, for {taken} of {len(index)} videos"
    if others:
        kinds = sorted(
            {f"{form.codec} {form.pixels}{' rotated' if form.rotation or form.mirror else ''}" for form in others}
        )
        why += f", PyAV threads for the others ({', '.join(kinds[:4])}{', ...' if len(kinds) > 4 else ''})"
    return "dali", why if on_gpu else f"{why}; data.decoder=auto costs less ({MEASURED})"


def default_threads() -> int:
    """Decoding threads where the configuration names none: the cores this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)), 16)
