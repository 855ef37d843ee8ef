"""The host decoder: the exact frames of one clip, with PyAV, cropped and scaled before they become RGB.

Frames are counted in presentation order, as a full decode gives them. Where the index holds a packet table, a bare
decoder is fed the packets that the clip needs and no others; else the demuxer seeks to the keyframe before the clip,
or counts from the beginning. Decoding releases the interpreter lock, so threads decode in parallel, one clip each.
"""

from collections.abc import Iterator, Sequence

import av
import numpy as np
import numpy.typing as npt

from fastplan.data.pictures import picture_frames
from fastplan.data.reading import demuxed_frames, packet_frames
from fastplan.data.rgb import Converter, Cropper, WholePicture, upright
from fastplan.data.video import PICTURES, VideoInfo
from fastplan.errors import UserError


class DecodeError(UserError):
    """A video that was readable when it was indexed no longer gives the frames it should."""


def decode_clip(
    video: VideoInfo, frames_T: npt.NDArray[np.integer], crop: Sequence[float] | None = None, *, size: int = 0
) -> npt.NDArray[np.uint8]:
    """Decode the frames at `frames_T` (any order, repeats allowed) as uint8 [T, height, width, 3], RGB.

    Frames are counted from `video.first`, so those of a part begin with 0.
    crop: left, top, right, bottom as fractions of the picture as shown, rounded as in `crop_box`; it is then scaled to
    `size` x `size` pixels. Without it the whole picture comes at its own size.
    Raises `DecodeError` where the file is gone, broken, changed, or has fewer frames than are asked for.
    """
    places: dict[int, list[int]] = {}
    for place, index in enumerate((frames_T + video.first).tolist()):
        places.setdefault(index, []).append(place)
    if places and not (min(frames_T) >= 0 and max(frames_T) < video.frames):
        raise DecodeError(f"{video.path}: frames {min(frames_T)} to {max(frames_T)} of {video.frames} are asked for")
    convert: Converter
    if crop is None:
        height, width = video.height, video.width
        convert = WholePicture(*((height, width) if video.rotation in (90, 270) else (width, height)))
    else:
        height = width = size
        convert = Cropper(crop, size, rotation=video.rotation, mirror=video.mirror)
    clip_THWC = np.empty((len(frames_T), height, width, 3), np.uint8)
    try:
        for index, frame in _frames(video, places):
            if index in places:
                clip_THWC[places.pop(index)] = upright(convert(frame), video.rotation, mirror=video.mirror)
            if not places:
                break
    except (OSError, av.FFmpegError, ValueError) as error:
        raise DecodeError(f"{video.path}: {error}") from error
    if places:
        raise DecodeError(f"{video.path}: frame {min(places) - video.first} of {video.frames} does not decode any more")
    return clip_THWC


def _frames(video: VideoInfo, places: dict[int, list[int]]) -> Iterator[tuple[int, av.VideoFrame]]:
    if not places:
        return iter(())
    if video.codec == PICTURES:
        return picture_frames(video.path, tuple(places))
    if (table := video.table) is not None:
        return packet_frames(video.place, table, tuple(places))
    return demuxed_frames(video.place, min(places), start_pts=video.start_pts, pts_step=video.pts_step)
