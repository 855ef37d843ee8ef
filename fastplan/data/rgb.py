"""From a decoder's picture to RGB: whole, or the crop alone, scaled while it is still in the decoder's own format.

swscale's bilinear filter widens when it shrinks, so it does not alias. Cropping and scaling first leaves a tenth of
the pixels to convert, and a resize on RGB out. What is scaled is asked for in planes, the same values to 1 of 255 in
half the time, since swscale has vector code for planes alone. What is not is asked for packed: that is exact, and in
planes swscale (FFmpeg 8.1) leaves columns out where the width is no multiple of 16.
"""

from collections.abc import Callable, Sequence

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

Converter = Callable[[av.VideoFrame], npt.NDArray[np.uint8]]
Box = tuple[int, int, int, int]

_GBR = (1, 2, 0)  # channels of RGB, in the order of FFmpeg's planes


class WholePicture:
    """Pictures of `width` x `height` as coded; one that a stream gives in another size is scaled to it."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._reformatter = VideoReformatter()  # frame.to_ndarray would set up a scaler for every picture

    def __call__(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        """Uint8 [3, height, width], RGB."""
        packed = self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="rgb24",
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        return _unpacked(packed)


class Cropper:
    """The crop (left, top, right, bottom, as fractions of the picture as shown), scaled to `size` x `size` pixels."""

    def __init__(self, crop: Sequence[float], size: int, *, rotation: int, mirror: bool) -> None:
        self._crop = _as_coded(crop, rotation, mirror=mirror)
        self._size = size
        self._planes_CHW = np.empty((3, size, size), np.uint8)
        self._graph: av.filter.Graph | None = None
        self._layout: tuple[object, ...] = ()

    def __call__(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        """Uint8 [3, size, size], RGB, before rotation; overwritten by the next picture."""
        layout = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or layout != self._layout:
            self._graph, self._layout = self._built(frame), layout
        frame.time_base, frame.pts = 1, None  # type: ignore[assignment]
        self._graph.vpush(frame)
        scaled = self._graph.vpull()
        if len(scaled.planes) == 1:
            return _unpacked(scaled)
        for plane, channel in enumerate(_GBR):
            self._planes_CHW[channel] = _samples(scaled, plane, self._size)
        return self._planes_CHW

    def _built(self, frame: av.VideoFrame) -> av.filter.Graph:
        left, top, right, bottom = crop_box(self._crop, frame.width, frame.height)
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
            f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        crop = graph.add("crop", f"{right - left}:{bottom - top}:{left}:{top}:exact=1")
        scale = graph.add("scale", f"{self._size}:{self._size}:flags=bilinear+full_chroma_int")
        rgb = graph.add("format", "rgb24" if right - left == bottom - top == self._size else "gbrp")
        graph.link_nodes(source, crop, scale, rgb, graph.add("buffersink")).configure()
        return graph


def crop_box(crop: Sequence[float], width: int, height: int) -> Box:
    """A crop in fractions as pixels left, top, right, bottom of a picture: rounded to even ones, or its far edge.

    Colour has half the resolution in most videos, so an odd corner would shift it against the brightness.
    """
    (left, right), (top, bottom) = (_even(crop[k], crop[k + 2], extent) for k, extent in enumerate((width, height)))
    return left, top, right, bottom


def upright(picture_CHW: npt.NDArray[np.uint8], rotation: int, *, mirror: bool) -> npt.NDArray[np.uint8]:
    """A picture as coded, turned upside down and then `rotation` degrees counter-clockwise, as it is shown."""
    if mirror:
        picture_CHW = picture_CHW[:, ::-1]
    return np.rot90(picture_CHW, rotation // 90, axes=(1, 2)) if rotation else picture_CHW


def _as_coded(crop: Sequence[float], rotation: int, *, mirror: bool) -> tuple[float, float, float, float]:
    """The same crop on the picture before `upright`."""
    left, top, right, bottom = (float(side) for side in crop)
    for _ in range(rotation // 90):  # a quarter counter-clockwise shows (x, y) at (y, 1 - x)
        left, top, right, bottom = 1 - bottom, left, 1 - top, right
    return (left, 1 - bottom, right, 1 - top) if mirror else (left, top, right, bottom)


def _even(low: float, high: float, extent: int) -> tuple[int, int]:
    begin = min(round(low * extent / 2) * 2, (extent - 1) // 2 * 2)
    end = round(high * extent / 2) * 2
    return begin, extent if end >= extent - 1 or begin + 2 > extent else max(end, begin + 2)


def _unpacked(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """The channels of a picture in packed RGB, uint8 [3, height, width]."""
    return _samples(frame, 0, 3 * frame.width).reshape(frame.height, frame.width, 3).transpose(2, 0, 1)


def _samples(frame: av.VideoFrame, plane: int, row: int) -> npt.NDArray[np.uint8]:
    """The first `row` bytes of each row of a plane, uint8 [height, row]."""
    content = frame.planes[plane]
    return np.frombuffer(memoryview(content), np.uint8).reshape(-1, content.line_size)[: frame.height, :row]
