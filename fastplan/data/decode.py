"""The host decoder: the exact frames of one clip, with PyAV.

Frames are counted in presentation order, as a full decode gives them. Where timestamps are regular the decoder seeks
to the keyframe before the clip; else it counts from the beginning. Decoding releases the interpreter lock, so threads
decode in parallel, one clip each.
"""

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from fastplan.data.index import VideoInfo


class DecodeError(RuntimeError):
    """A video that was readable when it was indexed no longer gives the frames it should."""


def decode_clip(video: VideoInfo, frames_T: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Decode the frames at `frames_T` (any order, repeats allowed) as uint8 [T, height, width, 3], RGB.

    Raises `DecodeError` where the file is gone, broken, or has fewer frames than the index says.
    """
    places: dict[int, list[int]] = {}
    for place, index in enumerate(frames_T.tolist()):
        places.setdefault(index, []).append(place)
    clip_THWC = np.empty((len(frames_T), video.height, video.width, 3), np.uint8)
    reformatter = VideoReformatter()  # one per clip: frame.to_ndarray would set up a scaler for every frame
    last = max(places)
    try:
        with av.open(video.path, metadata_errors="replace") as container:
            for index, frame in _frames_from(container, video, min(places)):
                if index in places:
                    clip_THWC[places.pop(index)] = _to_rgb(frame, reformatter, video.rotation)
                if index >= last:
                    break
    except (OSError, av.FFmpegError, ValueError) as error:
        raise DecodeError(f"{video.path}: {error}") from error
    if places:
        raise DecodeError(f"{video.path}: frame {min(places)} of {video.frames} does not decode any more")
    return clip_THWC


def _frames_from(
    container: av.container.InputContainer, video: VideoInfo, first: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(index, frame) in presentation order, beginning at or before `first`."""
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    if first == 0 or video.pts_step == 0:
        yield from enumerate(container.decode(stream))
        return
    container.seek(video.start_pts + first * video.pts_step, stream=stream, backward=True)
    landed = False
    for frame in container.decode(stream):
        index, off_grid = divmod((frame.pts or 0) - video.start_pts, video.pts_step)
        if not landed and (index > first or off_grid):
            container.seek(0, stream=stream, backward=True)
            yield from enumerate(container.decode(stream))
            return
        landed = True
        yield index, frame


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, rotation: int) -> npt.NDArray[np.uint8]:
    rgb = reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1)
    plane = rgb.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)
    picture_HWC = rows[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)
    return np.rot90(picture_HWC, rotation // 90) if rotation else picture_HWC
