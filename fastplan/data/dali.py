"""The only module that imports NVIDIA DALI: one pipeline per loader, fed by hand, never rebuilt.

Everything that may change between batches (pictures, frame indices, crop, size, flip, colour, batch size) enters as a
per-sample tensor, so another clip regime is just other input. Operators: crop and resize, colour, flip and normalise,
on the CPU or on the GPU. In front of them stands either the host decoder (frames come in) or DALI's own video decoder
(encoded files and frame indices come in).
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import nvidia.dali as dali
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from fastplan.config import AugmentConfig

VERSION: str = dali.__version__
Decoder = Literal["host", "dali"]

_COLOURS = ("brightness", "contrast", "saturation", "hue")


class ClipPipeline:
    """Decode (optionally), crop, resize, colour, flip, normalise.

    decoder: `host` takes decoded clips, `dali` takes whole encoded files and frame indices.
    device_id: GPU number, None for the CPU.
    max_batch: the largest batch over all states; smaller ones are free.
    """

    def __init__(
        self, *, decoder: Decoder, device_id: int | None, max_batch: int, threads: int, augment: AugmentConfig
    ) -> None:
        self._decoder = decoder
        # Brightness and contrast alone take a tenth of the time of the full colour twist on the CPU.
        self._colours = _COLOURS if augment.saturation or augment.hue else _COLOURS[:2]
        pipeline = dali.Pipeline(
            batch_size=max_batch,
            num_threads=threads,
            device_id=device_id,
            prefetch_queue_depth=1,  # the loader runs ahead; a queue in here would hold batches of the old state
            exec_dynamic=True,
        )
        with pipeline:
            pipeline.set_outputs(_operators(decoder, device_id is not None, self._colours, augment))
        pipeline.build()
        self._pipeline = pipeline

    def run(
        self,
        source: Sequence[npt.NDArray[np.uint8]],
        frames_BT: npt.NDArray[np.int32],
        crops_B4: npt.NDArray[np.float32],
        flips_B: npt.NDArray[np.int32],
        colours_B4: npt.NDArray[np.float32],
        *,
        size: int,
    ) -> torch.Tensor:
        """One batch as float32 [B, 3, T, size, size] in channels_last_3d storage, on the pipeline's device.

        source: per sample the decoded clip uint8 [T, H, W, 3] (`host`) or the encoded file uint8 [bytes] (`dali`).
        """
        inputs = {
            "source": list(source),
            "roi_start": list(np.ascontiguousarray(crops_B4[:, 1::-1])),
            "roi_end": list(np.ascontiguousarray(crops_B4[:, 3:1:-1])),
            "size": [np.full(2, size, np.float32)] * len(flips_B),
            "flip": [np.array(flip, np.int32) for flip in flips_B],
        }
        for name, column in zip(self._colours, colours_B4.T, strict=False):
            inputs[name] = [np.array(value, np.float32) for value in column]
        if self._decoder == "dali":
            inputs["frames"] = list(frames_BT)
        (clips,) = self._pipeline.run(**inputs)
        clips_NTHWC = torch.from_dlpack(clips.as_tensor())
        return clips_NTHWC.permute(0, 4, 1, 2, 3)


def _operators(decoder: Decoder, on_gpu: bool, colours: tuple[str, ...], augment: AugmentConfig) -> DataNode:
    clips: Any  # DALI's stubs type every operator's result as a union

    def given(name: str) -> DataNode:
        return fn.external_source(name=name)

    if decoder == "dali":
        clips = fn.decoders.video(
            fn.external_source(name="source"),
            device="mixed" if on_gpu else "cpu",
            frames=given("frames"),
            pad_mode="none",  # the default returns black frames where a file is damaged or too short
        )
    else:
        clips = fn.external_source(name="source", layout="FHWC")
        clips = clips.gpu() if on_gpu else clips
    clips = fn.resize(
        clips,
        roi_start=given("roi_start"),
        roi_end=given("roi_end"),
        roi_relative=True,
        size=given("size"),
        interp_type=types.DALIInterpType.INTERP_LINEAR,
        antialias=True,
    )
    change: Any = fn.color_twist if colours == _COLOURS else fn.brightness_contrast
    clips = change(clips, **{name: given(name) for name in colours})
    return fn.crop_mirror_normalize(
        clips,
        mirror=given("flip"),
        mean=[255 * m for m in augment.mean],
        std=[255 * s for s in augment.std],
        dtype=types.DALIDataType.FLOAT,
        output_layout="FHWC",
    )


def cpu_decodes(encoded: npt.NDArray[np.uint8]) -> bool:
    """Whether DALI decodes this file (uint8 [bytes]) without a GPU."""
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipeline:
        pipeline.set_outputs(fn.decoders.video(fn.external_source(name="source"), device="cpu"))
    pipeline.build()
    try:
        pipeline.run(source=[encoded])
    except RuntimeError:
        return False
    return True
