"""What fastplan's loader is compared with: other ways to the same clips, each in its best configuration.

Every peer decodes the frames of a job at full size (or, where it can, cropped and scaled) and then goes through
`finish`, which is torchvision's chain at its cheapest: crop before anything else, antialiased resize on uint8 channels
last (the vectorised path), and flip, colour and normalisation as one affine map. A peer is a function from a `Job` to
float32 [T, size, size, 3]; decoders are asked for one thread.
"""

import importlib
import importlib.metadata
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from av.video.reformatter import Interpolation, VideoReformatter

Frames = npt.NDArray[np.uint8]

KEPT_OPEN = ", kept open"  # at the end of a contender's name


@dataclass(frozen=True)
class Job:
    """One clip, plain, so that it pickles. box: left, top, right, bottom of the crop in pixels. map_34: of colours."""

    path: str
    frames: tuple[int, ...]
    box: tuple[int, int, int, int]
    size: int
    flip: bool
    map_34: npt.NDArray[np.float32]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Way:
    """One configuration of a peer.

    frames: the pictures at full size, uint8 [T, H, W, 3]. cropped: the pictures as uint8 [T, size, size, 3], where the
    peer can crop and scale by itself; else None. keeps: whether every thread keeps a decoder open for every video.
    """

    peer: str
    name: str
    frames: Callable[[Job], Frames]
    cropped: Callable[[Job], Frames] | None = None
    keeps: bool = False

    @property
    def contender(self) -> str:
        """The name of its column: what keeps decoders open has its own, since few data sets are small enough."""
        return f"{self.peer}{KEPT_OPEN}" if self.keeps else self.peer

    def clip(self, job: Job) -> torch.Tensor:
        """The finished clip, float32 [T, size, size, 3]."""
        if self.cropped is not None:
            return finish(torch.from_numpy(self.cropped(job)), job)
        left, top, right, bottom = job.box
        part_THWC = torch.from_numpy(self.frames(job))[:, top:bottom, left:right]
        part_TCHW = part_THWC.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        size = (job.size, job.size)
        small_TCHW = F.interpolate(part_TCHW, size, mode="bilinear", antialias=True, align_corners=False)
        return finish(small_TCHW.permute(0, 2, 3, 1), job)


def finish(clip_THWC: torch.Tensor, job: Job) -> torch.Tensor:
    """Flip, change colours and normalise, uint8 to float32."""
    if job.flip:
        clip_THWC = clip_THWC.flip(2)
    std = 255 * np.array(job.std)
    matrix = torch.from_numpy((job.map_34[:, :3] / std[:, None]).astype(np.float32))
    offset = torch.from_numpy(((job.map_34[:, 3] - 255 * np.array(job.mean)) / std).astype(np.float32))
    flat = torch.addmm(offset, clip_THWC.reshape(-1, 3).float(), matrix.T)
    low = torch.from_numpy((-np.array(job.mean) / job.std).astype(np.float32))
    high = torch.from_numpy(((1 - np.array(job.mean)) / job.std).astype(np.float32))
    return torch.clamp(flat, low, high).reshape(clip_THWC.shape)


def ways() -> tuple[list[Way], dict[str, str]]:
    """Every configuration of every peer that is installed; and for the others, how to install them."""
    found: list[Way] = []
    missing: dict[str, str] = {}
    for peer, (make, advice) in _PEERS.items():
        try:
            found += make()
        except (ImportError, OSError, RuntimeError) as error:
            missing[peer] = f"not measured: {advice} ({str(error).splitlines()[0]})"
    return found, missing


def versions(*, compared: bool = True) -> str:
    """Of what we use, and of everything that is compared with it, for the head of a table."""
    names = ("av", "torch", "nvidia-dali-cuda120", "torchcodec", "decord", "pytorchvideo")
    found = []
    for name in names if compared else names[:3]:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


_OPEN = threading.local()
_MOST_OPEN = 64  # decoders that a thread keeps


def _kept(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What this thread made for this key before: decoders are not for two threads at a time."""
    cache: dict[tuple[Any, ...], Any] = _OPEN.__dict__.setdefault("cache", {})
    if key not in cache:
        if len(cache) >= _MOST_OPEN:
            del cache[next(iter(cache))]
        cache[key] = make()
    return cache[key]


def _torchcodec() -> list[Way]:
    decoders = importlib.import_module("torchcodec.decoders")
    transforms = importlib.import_module("torchcodec.transforms")

    class Crop(transforms.DecoderTransform):  # type: ignore[misc, name-defined]
        """Its own random crop, with the place of the job instead of one that it draws."""

        def __init__(self, box: tuple[int, int, int, int]) -> None:
            self._left, self._top, self._right, self._bottom = box

        def _make_transform_spec(self, input_dims: Any) -> str:
            width, height = self._right - self._left, self._bottom - self._top
            return f"crop, {height}, {width}, {self._left}, {self._top}"

        def _get_output_dims(self) -> tuple[int, int]:
            return self._bottom - self._top, self._right - self._left

    def opened(path: str, mode: str, steps: list[Any] | None) -> Any:
        how: dict[str, Any] = {"seek_mode": mode} if mode != "mappings" else {"custom_frame_mappings": _mappings(path)}
        return decoders.VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, transforms=steps, **how)

    def frames(job: Job, mode: str, keep: bool) -> Frames:
        make = lambda: opened(job.path, mode, None)  # noqa: E731
        decoder = _kept(("torchcodec", mode, job.path), make) if keep else make()
        return decoder.get_frames_at(list(job.frames)).data.numpy()  # type: ignore[no-any-return]

    def cropped(job: Job, mode: str) -> Frames:
        steps = [Crop(job.box), transforms.Resize((job.size, job.size))]
        return opened(job.path, mode, steps).get_frames_at(list(job.frames)).data.numpy()  # type: ignore[no-any-return]

    found = []
    for mode in ("exact", "approximate", "mappings"):
        for keep in (True, False):
            found.append(Way("torchcodec", mode, lambda job, m=mode, k=keep: frames(job, m, k), keeps=keep))
        found.append(
            Way(
                "torchcodec",
                f"{mode}, cropped in the decoder",
                lambda job, m=mode: frames(job, m, False),
                lambda job, m=mode: cropped(job, m),
            )
        )
    return found


def _mappings(path: str) -> bytes:
    def read() -> bytes:
        with av.open(path) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        if any(packet.pts is None for packet in packets):
            raise RuntimeError(f"{path} has no timestamps")
        rows = [{"pts": p.pts, "duration": p.duration, "key_frame": int(p.is_keyframe)} for p in packets]
        return json.dumps({"frames": sorted(rows, key=lambda row: row["pts"])}).encode()

    return _kept(("mappings", path), read)  # type: ignore[no-any-return]


def _decord() -> list[Way]:
    decord = importlib.import_module("decord")

    def frames(job: Job, keep: bool) -> Frames:
        make = lambda: decord.VideoReader(job.path, num_threads=1)  # noqa: E731
        reader = _kept(("decord", job.path), make) if keep else make()
        return reader.get_batch(list(job.frames)).asnumpy()  # type: ignore[no-any-return]

    return [
        Way("decord", "get_batch", lambda job: frames(job, True), keeps=True),
        Way("decord", "get_batch", lambda job: frames(job, False)),
    ]


def _pytorchvideo() -> list[Way]:
    video = importlib.import_module("pytorchvideo.data.encoded_video")

    def frames(job: Job, runs: list[tuple[int, int]]) -> Frames:
        source = video.EncodedVideo.from_path(job.path, decode_audio=False, decoder="pyav")
        rate = source._container.streams.video[0].average_rate
        parts = []
        for begin, end in runs:
            # A clip is asked for in seconds, and holds the pictures at and between its ends.
            found = source.get_clip(float((begin - 0.25) / rate), float((end - 0.75) / rate))["video"]
            wanted = [frame - begin for frame in job.frames if begin <= frame < end]
            parts.append(found[:, wanted].permute(1, 2, 3, 0).to(torch.uint8).numpy())
        source.close()
        return np.concatenate(parts)

    return [
        Way("pytorchvideo", "get_clip for each run", lambda job: frames(job, _runs(job.frames))),
        Way("pytorchvideo", "one get_clip", lambda job: frames(job, _span(job.frames))),
    ]


def _pyav() -> list[Way]:
    return [
        Way("PyAV", "seek to each run, own scaler", pyav_frames),
        Way("PyAV", "seek once, own scaler", lambda job: pyav_frames(job, _span(job.frames))),
    ]


def pyav_frames(job: Job, runs: list[tuple[int, int]] | None = None) -> Frames:
    """The careful way by hand: seek to the key before each run of frames, decode on, convert what is wanted."""
    reformatter = VideoReformatter()
    parts: list[Frames] = []
    with av.open(job.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for begin, end in runs or _runs(job.frames):
            parts += _pyav_run(container, stream, begin, end, set(job.frames), reformatter)
    return np.stack(parts)


def _pyav_run(
    container: Any, stream: Any, begin: int, end: int, wanted: set[int], reformatter: VideoReformatter
) -> Iterator[Frames]:
    ticks = 1 / (stream.average_rate * stream.time_base)
    container.seek(round(begin * ticks), stream=stream, backward=True)
    number = None
    for frame in container.decode(stream):
        # AVI has no timestamps of its own: those of the first picture behind the seek count on.
        number = round(frame.pts / ticks) if frame.pts is not None else (number or 0) + 1
        if number >= begin and number in wanted:
            rgb = reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1)
            yield rgb.to_ndarray()
        if number >= end - 1:
            return


def _runs(frames: tuple[int, ...]) -> list[tuple[int, int]]:
    """Stretches [begin, end) of consecutive frames."""
    breaks = [k for k in range(1, len(frames)) if frames[k] != frames[k - 1] + 1]
    edges = [0, *breaks, len(frames)]
    return [(frames[a], frames[b - 1] + 1) for a, b in pairwise(edges)]


def _span(frames: tuple[int, ...]) -> list[tuple[int, int]]:
    """One stretch from the first frame to the last."""
    return [(min(frames), max(frames) + 1)]


class PyavClips(torch.utils.data.Dataset[torch.Tensor]):
    """PyAV as a map-style data set indexed by (configuration, job): workers that live on get new ones."""

    def __getitem__(self, asked: tuple[str, Job]) -> torch.Tensor:
        torch.set_num_threads(1)
        name, job = asked
        return next(way for way in _pyav() if way.name == name).clip(job)


_PEERS: dict[str, tuple[Callable[[], list[Way]], str]] = {
    "torchcodec": (_torchcodec, "pip install torchcodec, and an FFmpeg with shared libraries"),
    "decord": (_decord, "pip install decord"),
    "PyAV": (_pyav, "pip install av"),
    "pytorchvideo": (_pytorchvideo, "pip install pytorchvideo, beside a torchvision that imports"),
}
