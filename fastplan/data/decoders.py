"""Which decoder reads a video, told by its form, and what DALI's is given of it: cuts, not files.

The rule without a GPU is a measured one (docs/data.md, Cost): there DALI's decoder won nowhere.
"""

import ctypes
from typing import Literal

import av
import numpy as np
import numpy.typing as npt

from fastplan.data.decode import DecodeError
from fastplan.data.mux import Cut, Cutter, UncuttableError
from fastplan.data.packets import DISCARD, PICTURE
from fastplan.data.video import Form, VideoInfo

Decoder = Literal["host", "dali"]

CPU_CODECS = ("vp8", "vp9", "mjpeg")
NVDEC_CODECS = ("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg")
MEASURED = (
    "CPU ms a clip of 16 frames, host / DALI: VP9 20 / 32, in 4 segments 38 / 49; MJPEG 6 / 19, 6 / 19; "
    "VP8, whole files to DALI, 15 / 96, 28 / 152"
)

_PIXELS = ("yuv420p", "yuvj420p")  # NVDEC takes deeper ones of some codecs; DALI's answer to them is not known yet
_NOT_IN_MP4 = ("vp8",)


NO_NVDEC = "libnvcuvid is not found: in a container set NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"


def nvdec_library() -> str:
    """The driver's library that NVDEC is reached by; empty where there is none, as in a container without `video`."""
    for name in ("libnvcuvid.so.1", "libnvcuvid.so"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return ""


def decoder_of(form: Form, *, on_gpu: bool) -> Decoder:
    """The decoder for videos of this form where DALI's is wanted: the host's for all that DALI's does not take."""
    return "host" if obstacle(form, on_gpu=on_gpu) else "dali"


def obstacle(form: Form, *, on_gpu: bool) -> str:
    """Why DALI's decoder is not given videos of this form, empty where it is."""
    who = "NVDEC" if on_gpu else "DALI on the CPU"
    if form.codec not in (NVDEC_CODECS if on_gpu else CPU_CODECS):
        return f"{who} is not given {form.codec}"
    if form.pixels not in _PIXELS:
        return f"{who} is not given {form.codec} in {form.pixels}"
    if form.rotation or form.mirror:
        return "DALI knows no display matrix, and it is turned"
    return f"{form.fallback}, so frames cannot be counted for DALI" if form.fallback else ""


def encoded_clip(video: VideoInfo, frames_T: npt.NDArray[np.integer], *, drop_nonref: bool) -> Cut | None:
    """What DALI's decoder is given for a clip of a video: a cut, or the whole file of a codec that MP4 cannot hold.

    None where frames of neither could be counted. Frames are counted from `video.first`. drop_nonref: as in `Cutter`.
    Raises `DecodeError` where the file is gone, broken or changed.
    """
    table, asked_T = video.table, frames_T + video.first
    if table is None:
        return None
    try:
        if video.codec not in _NOT_IN_MP4:
            return Cutter(video.place, table).cut(asked_T, drop_nonref=drop_nonref)
        if not (table.flags_P & (PICTURE | DISCARD)).all():
            return None
        with video.place.open() as whole:
            if whole.size != table.file_bytes:
                raise ValueError("the file has changed since it was indexed")
            encoded = np.frombuffer(whole.read(0, whole.size), np.uint8)
        return Cut(encoded, asked_T.astype(np.int32))
    except UncuttableError:
        return None
    except (OSError, av.FFmpegError, ValueError) as error:
        raise DecodeError(f"{video.path}: {error}") from error
