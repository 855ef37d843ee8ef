"""DALI's video decoder by itself: pictures out, nothing resized, so that only decoding is timed."""

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import nvidia.dali as dali
from nvidia.dali import fn

from fastplan.benchmarks import timing
from fastplan.benchmarks.gpu_check.units import Row
from fastplan.clips import ClipSpec, frame_indices
from fastplan.data.mux import Cutter
from fastplan.data.scan import scan
from fastplan.data.storage import Place

REGIMES = {"consecutive": ClipSpec(1, 16), "4 segments of 4": ClipSpec(4, 4), "16 single": ClipSpec(16, 1)}
WAYS = ("whole file", "cut", "cut, unreferenced pictures dropped")
_SEEKS = 2.0  # a clip at the end that takes less than this many times one at the beginning was sought


class Decoder:
    """One pipeline: encoded files and frame indices in, uint8 [T, H, W, 3] a sample out, left on the device."""

    def __init__(self, batch: int) -> None:
        on_gpu = timing.on_gpu()
        self._pipeline = dali.Pipeline(
            batch_size=batch, num_threads=8, device_id=0 if on_gpu else None, prefetch_queue_depth=1, exec_dynamic=True
        )
        with self._pipeline:
            pictures = fn.decoders.video(
                fn.external_source(name="encoded"),
                device="mixed" if on_gpu else "cpu",
                frames=fn.external_source(name="frames"),
                pad_mode="none",
            )
            self._pipeline.set_outputs(pictures)
        self._pipeline.build()

    def run(self, encoded: list[npt.NDArray[np.uint8]], frames_BT: list[npt.NDArray[np.int32]]):
        """One batch."""
        (pictures,) = self._pipeline.run(encoded=encoded, frames=frames_BT)
        return pictures

    def pictures(
        self, encoded: list[npt.NDArray[np.uint8]], frames_BT: list[npt.NDArray[np.int32]]
    ) -> npt.NDArray[np.uint8]:
        """One batch on the host, [B, T, H, W, 3]."""
        decoded = self.run(encoded, frames_BT)
        on_host = decoded.as_cpu() if timing.on_gpu() else decoded
        return np.stack([np.array(on_host.at(i)) for i in range(len(encoded))])


def seeking(tiny: bool) -> list[Row]:
    """Clips of 16 at the beginning, in the middle and at the end of whole files, and how long all of them takes: the
    limit.
    """
    path, frames = _video(12 if not tiny else 6, tiny)
    batch = 2 if tiny else 32
    decoder, whole = Decoder(batch), np.fromfile(path, np.uint8)
    rows, medians = [], {}
    for place, first in (("beginning", 0), ("middle", frames // 2 - 8), ("end", frames - 16)):
        asked = [np.arange(first, first + 16, dtype=np.int32)] * batch
        times = _timed(lambda asked=asked: decoder.run([whole] * batch, asked), tiny)
        medians[place] = times.p50
        rows.append({"place": place, "us": times._asdict(), "frames_per_s": 16 * batch / times.p50 * 1e6})
    seeks = medians["end"] < _SEEKS * medians["beginning"]
    rows.append({"seeks": seeks, "end_over_beginning": medians["end"] / medians["beginning"]})
    return [*rows, {"limit_frames_per_s": _limit(tiny)}]


def measure(gop: int, regime: str, tiny: bool) -> Iterator[Row]:
    """The same random clips in every way."""
    path, frames = _video(gop, tiny)
    batch = 2 if tiny else 32
    spec, rng = REGIMES[regime], np.random.default_rng(0)
    asked = [frame_indices([frames], spec, rng.random((1, spec.segments)))[0].astype(np.int32) for _ in range(batch)]
    decoder, limit = Decoder(batch), _limit(tiny)
    shown = _identified(decoder, path, asked[0])
    wanted: npt.NDArray[np.uint8] | None = None
    for way in WAYS:
        encoded, places, decoded, cut_s = _sent(path, asked, way)
        found = decoder.pictures(encoded, places)
        wanted = found if wanted is None else wanted
        times = _timed(lambda e=encoded, p=places: decoder.run(e, p), tiny)
        equal = bool(np.array_equal(found, wanted))
        decoded_per_s = decoded / times.p50 * 1e6
        yield {
            **{"gop": gop, "regime": regime, "way": way, "us": times._asdict(), "equal": equal},
            **{"frames_per_s": 16 * batch / times.p50 * 1e6, "decoded": decoded, "decoded_per_s": decoded_per_s},
            **{"percent_of_limit": 100 * decoded_per_s / limit, "cut_ms_per_clip": 1e3 * cut_s / batch},
            "bytes_per_clip": sum(len(e) for e in encoded) // batch,
            # A decoder that does not keep up with a cut lacking pictures is a finding, not a fault.
            **({"correct": shown if way == WAYS[0] else equal} if way != WAYS[2] else {}),
        }


def _sent(
    path: Path, asked: list[npt.NDArray[np.int32]], way: str
) -> tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.int32]], int, float]:
    """Encoded files, where in them the frames are, how many pictures must be decoded, and the seconds it took.

    Of a whole file, those from its beginning to the last one wanted.
    """
    if way == WAYS[0]:
        return [np.fromfile(path, np.uint8)] * len(asked), asked, sum(int(clip.max()) + 1 for clip in asked), 0.0
    place = Place(str(path))
    found = scan(place)
    assert found is not None and found.table is not None, "a file made here has a packet table"
    cutter = Cutter(place, found.table)
    cutter.cut(asked[0])  # what depends on the file alone is made once
    cuts = []
    seconds = timing.seconds(lambda: cuts.extend(cutter.cut(c, drop_nonref=way == WAYS[2]) for c in asked))
    table, drop = found.table, way == WAYS[2]
    kept = sum(len(table.needed(run, drop_nonref=drop)) for clip in asked for run in table.runs(clip))
    return [cut.encoded for cut in cuts], [cut.frames_T for cut in cuts], kept, seconds


def _identified(decoder: Decoder, path: Path, frames_T: npt.NDArray[np.int32]) -> bool:
    """Whether each picture is, of all pictures of the video as FFmpeg decodes them, nearest to the one asked for.

    Pixels need not be equal: converters of colour differ in rounding and standard.
    """
    truth_FHWC = _truth(path)
    (found_THWC,) = decoder.pictures([np.fromfile(path, np.uint8)], [frames_T])
    nearest = [int(np.abs(truth_FHWC - picture).mean((1, 2, 3)).argmin()) for picture in found_THWC.astype(np.int16)]
    return nearest == frames_T.tolist()


def _timed(run, tiny: bool) -> timing.Times:
    run()
    return timing.quantiles([timing.seconds(run) * 1e6 for _ in range(1 if tiny else 7)])


@lru_cache(maxsize=1)
def _limit(tiny: bool) -> float:
    """Frames per second when every picture of a file is wanted: no picture is decoded in vain."""
    path, frames = _video(12 if not tiny else 6, tiny)
    batch = 2 if tiny else 8
    decoder, whole = Decoder(batch), np.fromfile(path, np.uint8)
    asked = [np.arange(frames, dtype=np.int32)] * batch
    return batch * frames / _timed(lambda: decoder.run([whole] * batch, asked), tiny).p50 * 1e6


@lru_cache(maxsize=4)
def _video(gop: int, tiny: bool) -> tuple[Path, int]:
    """A moving texture, 340 x 256 of 300 pictures: H.264 with B-frames on a GPU, VP9 on the CPU; and how many."""
    frames, height, width = (48, 48, 64) if tiny else (300, 256, 340)
    path = Path(_folder().name) / f"gop{gop}.{'mp4' if timing.on_gpu() else 'webm'}"
    encoder = "libx264" if timing.on_gpu() else "libvpx-vp9"
    speed = {"preset": "veryfast", "bf": "2", "sc_threshold": "0"} if timing.on_gpu() else {"cpu-used": "8"}
    texture_HWC = _texture(height, width)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=Fraction(30))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {**speed, "g": str(gop)}
        for number in range(frames):
            picture_HWC = np.roll(texture_HWC, (number, 2 * number), (0, 1)) // 2
            picture_HWC += np.roll(texture_HWC, -3 * number, 1) // 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path, frames


@lru_cache(maxsize=2)
def _truth(path: Path) -> npt.NDArray[np.int16]:
    """All pictures as FFmpeg decodes them, [F, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(np.int16)


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fastplan-gpu-check-")


def _texture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Smooth random colours without an edge."""
    rng = np.random.default_rng(0)
    waves = np.fft.fft2(rng.normal(size=(height, width, 3)), axes=(0, 1))
    far = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))[..., None]
    smooth = np.fft.ifft2(waves * np.exp(-((far * 12) ** 2)), axes=(0, 1)).real
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)
