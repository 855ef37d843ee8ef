"""The host decoder: the exact frames of one clip, with PyAV, cropped and scaled before they become RGB.

Frames are counted in presentation order, as a full decode gives them. Where the index holds a packet table, a bare
decoder is fed the packets that the clip needs and no others; else the demuxer seeks to the keyframe before the clip,
or counts from the beginning. Decoding releases the interpreter lock, so threads decode in parallel, one clip each.
"""

from collections.abc import Collection, Iterator, Sequence

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


def decode_clip(video: VideoInfo, frames_T: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Decode the frames at `frames_T` (any order, repeats allowed) as uint8 [T, height, width, 3], RGB, uncropped.

    Frames are counted from `video.first`, so those of a part begin with 0.
    Raises `DecodeError` where the file is gone, broken, changed, or has fewer frames than are asked for.
    """
    turned = video.rotation in (90, 270)
    whole = WholePicture(video.height if turned else video.width, video.width if turned else video.height)
    clip_THWC = np.empty((len(frames_T), video.height, video.width, 3), np.uint8)
    _decode(video, frames_T[None], [(whole, clip_THWC.transpose(0, 3, 1, 2)[None], [0])])
    return clip_THWC


def decode_views(
    video: VideoInfo, frames_VT: npt.NDArray[np.integer], crops_V4: npt.NDArray[np.floating], *, size: int
) -> npt.NDArray[np.uint8]:
    """Decode V views of one video in one pass, each cropped and scaled, as uint8 [V, T, 3, size, size], RGB.

    crops_V4: left, top, right, bottom as fractions of the picture as shown, rounded as in `crop_box`. Frames and errors
    as in `decode_clip`.
    """
    views_of: dict[tuple[float, ...], list[int]] = {}
    for view, crop in enumerate(crops_V4.tolist()):
        views_of.setdefault(tuple(crop), []).append(view)
    clips_VTCHW = np.empty((*frames_VT.shape, 3, size, size), np.uint8)
    outputs = [
        (Cropper(crop, size, rotation=video.rotation, mirror=video.mirror), clips_VTCHW, views)
        for crop, views in views_of.items()
    ]
    _decode(video, frames_VT, outputs)
    return clips_VTCHW


def _decode(
    video: VideoInfo,
    frames_VT: npt.NDArray[np.integer],
    outputs: Sequence[tuple[Converter, npt.NDArray[np.uint8], list[int]]],
) -> None:
    """Write every frame to its places in (picture, clips, the views that look like this) of `outputs`."""
    if frames_VT.size and not (frames_VT.min() >= 0 and frames_VT.max() < video.frames):
        asked = f"frames {frames_VT.min()} to {frames_VT.max()} of {video.frames}"
        raise DecodeError(f"{video.path}: {asked} are asked for")
    places: dict[int, dict[int, list[int]]] = {}
    for view, frames_T in enumerate((frames_VT + video.first).tolist()):
        for place, index in enumerate(frames_T):
            places.setdefault(index, {}).setdefault(view, []).append(place)
    try:
        for index, frame in _frames(video, places):
            wanted = places.pop(index, {})
            for picture, clips_VTCHW, views in outputs:
                if seen := [view for view in views if view in wanted]:
                    picture_CHW = upright(picture(frame), video.rotation, mirror=video.mirror)
                    for view in seen:
                        for place in wanted[view]:
                            clips_VTCHW[view, place] = picture_CHW
            if not places:
                break
    except (OSError, av.FFmpegError, ValueError) as error:
        raise DecodeError(f"{video.path}: {error}") from error
    if places:
        raise DecodeError(f"{video.path}: frame {min(places) - video.first} of {video.frames} does not decode any more")


def _frames(video: VideoInfo, places: Collection[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    if not places:
        return iter(())
    if video.codec == PICTURES:
        return picture_frames(video.path, tuple(places))
    if (table := video.table) is not None:
        return packet_frames(video.place, table, tuple(places))
    return demuxed_frames(video.place, min(places), start_pts=video.start_pts, pts_step=video.pts_step)
