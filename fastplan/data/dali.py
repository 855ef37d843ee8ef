"""The only module that imports NVIDIA DALI: one pipeline, fed by hand, never rebuilt.

Everything that may change between batches (pictures, frame indices, crop, size, changes of the pictures, batch size)
enters as a per-sample tensor, so another clip regime is just other input, and nothing in here draws a random number.
Operators, on the CPU or on the GPU: RandAugment, colour, blur, erase, flip and normalise. An operator runs on the
samples that need it and on no others. In front of them stands the host decoder (clips of the final size come in), or,
sample by sample, DALI's own video decoder, crop and resize (cuts and frame indices come in).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import nvidia.dali as dali
import torch
from nvidia.dali import fn, types
from nvidia.dali.auto_aug import augmentations, core, rand_augment
from nvidia.dali.data_node import DataNode
from nvidia.dali.plugin.numba.fn.experimental import numba_function

from fastplan.config import AugmentConfig
from fastplan.data.augmentation import MAGNITUDES, RAND_AUGMENT, Changes
from fastplan.data.colour import colour_map, recolour
from fastplan.data.decoders import Decoder
from fastplan.data.mux import Cut

VERSION: str = dali.__version__
Source = npt.NDArray[np.uint8] | Cut  # a decoded clip [T, size, size, 3], or what DALI decodes it from

_COLOURS = ("brightness", "contrast", "saturation", "hue")
_NO_CUT = Cut(np.zeros(1, np.uint8), np.zeros(1, np.int32))
_NO_CLIP = np.zeros((1, 1, 1, 3), np.uint8)
_FILL = 128  # what RandAugment shows beyond the edge of the picture


class ClipPipeline:
    """Decode, crop and resize where that is to be done, then change, flip and normalise.

    decoder: `host` takes clips of the final size, `dali` cuts as well, both in one batch.
    device_id: GPU number, None for the CPU.
    max_batch: the largest batch over all states; smaller ones are free.
    """

    def __init__(
        self, *, decoder: Decoder, device_id: int | None, max_batch: int, threads: int, augment: AugmentConfig
    ) -> None:
        self._decoder = decoder
        self._on_gpu = device_id is not None
        self._pipeline = _pipeline(
            decoder,
            self._on_gpu,
            augment,
            batch_size=max_batch,
            num_threads=threads,
            device_id=device_id,
            prefetch_queue_depth=1,  # the loader runs ahead; a queue in here would hold batches of the old state
            exec_dynamic=True,
        )
        self._pipeline.build()
        self._augment = augment

    def run(self, source: Sequence[Source], changes: Changes, *, size: int) -> torch.Tensor:
        """One batch as float32 [B, 3, T, size, size] in channels_last_3d storage, on the pipeline's device.

        source: per sample the clip, cropped and scaled, or with `dali` what it is to be decoded from.
        """
        augment = self._augment
        clips = [_NO_CLIP if isinstance(one, Cut) else one for one in source]
        inputs = {"clip": clips, "flip": _scalars(changes.flips_M)}
        if self._decoder == "dali":
            cuts = [one if isinstance(one, Cut) else _NO_CUT for one in source]
            inputs |= {
                "is_cut": [np.array(cut is not _NO_CUT) for cut in cuts],
                "encoded": [cut.encoded for cut in cuts],
                "frames": [cut.frames_T for cut in cuts],
                "roi_start": list(np.ascontiguousarray(changes.crops_M4[:, 1::-1])),
                "roi_end": list(np.ascontiguousarray(changes.crops_M4[:, 3:1:-1])),
            }
        if self._decoder == "dali" or augment.rand_augment:
            inputs["size"] = [np.full(2, size, np.float32)] * len(changes)
        if _colours(augment):
            inputs |= self._colour_inputs(changes.colours_M4)
        if augment.blur:
            inputs["blur"] = _scalars(changes.blurs_M)
        if augment.rand_augment:
            inputs |= {f"move{step}": list(changes.moves_MK3[:, step]) for step in range(augment.rand_augment_steps)}
        if augment.erase:
            corner_M2, shape_M2 = changes.erased_M4[:, :2], changes.erased_M4[:, 2:] - changes.erased_M4[:, :2]
            inputs |= {"erased_at": list(corner_M2[:, ::-1].copy()), "erased": list(shape_M2[:, ::-1].copy())}
        (batch,) = self._pipeline.run(**inputs)
        clips_NTHWC = torch.from_dlpack(batch.as_tensor())
        return clips_NTHWC.permute(0, 4, 1, 2, 3)

    def _colour_inputs(self, colours_M4: npt.NDArray[np.float32]) -> dict[str, list[npt.NDArray[Any]]]:
        light_M = (colours_M4[:, :2] != 1).any(axis=1)
        full_M = (colours_M4[:, 2:] != [1, 0]).any(axis=1)
        if not self._on_gpu:
            maps = [colour_map(*colours) for colours in colours_M4.tolist()]
            return {"colour": _scalars((light_M | full_M).astype(np.int32)), "map": maps}
        colour = _scalars(np.where(full_M, 2, light_M).astype(np.int32))
        return {"colour": colour, **{n: _scalars(c) for n, c in zip(_COLOURS, colours_M4.T, strict=True)}}


def _scalars(values_M: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [np.array(value) for value in values_M]


def _colours(augment: AugmentConfig) -> bool:
    return bool(augment.jitter or augment.grey)


@dali.pipeline_def(enable_conditionals=True)
def _pipeline(decoder: Decoder, on_gpu: bool, augment: AugmentConfig) -> DataNode:
    clips: Any  # DALI's stubs type every operator's result as a union
    size = _given("size") if decoder == "dali" or augment.rand_augment else None
    clips = fn.external_source(name="clip", layout="FHWC")
    clips = clips.gpu() if on_gpu else clips
    if decoder == "dali":
        is_cut, encoded, frames = _given("is_cut"), _given("encoded"), _given("frames")
        roi_start, roi_end = _given("roi_start"), _given("roi_end")
        if is_cut:
            pictures = fn.decoders.video(
                encoded,
                device="mixed" if on_gpu else "cpu",
                frames=frames,
                pad_mode="none",  # the default returns black frames where a file is damaged or too short
            )
            clips = fn.resize(
                pictures,
                roi_start=roi_start,
                roi_end=roi_end,
                roi_relative=True,
                size=size,
                interp_type=types.DALIInterpType.INTERP_LINEAR,
                antialias=True,
            )
    if augment.rand_augment:
        for step in range(augment.rand_augment_steps):
            clips = _rand_augment(clips, _given(f"move{step}"), size)
    if _colours(augment):
        clips = _recolour_gpu(clips) if on_gpu else _recolour_cpu(clips)
    if augment.blur:
        sigma = _given("blur")
        if sigma > 0:
            clips = fn.gaussian_blur(clips, sigma=sigma)
    if augment.erase:
        shape = _given("erased")
        anchor = _given("erased_at")
        if shape[0] > 0:
            clips = fn.erase(
                clips,
                anchor=anchor,
                shape=shape,
                axis_names="HW",
                normalized=True,
                fill_value=[255 * m for m in augment.mean],
            )
    return fn.crop_mirror_normalize(
        clips,
        mirror=_given("flip"),
        mean=[255 * m for m in augment.mean],
        std=[255 * s for s in augment.std],
        dtype=types.DALIDataType.FLOAT,
        output_layout="FHWC",
    )


def _given(name: str) -> Any:
    return fn.external_source(name=name)


def _recolour_gpu(clips: Any) -> Any:
    colour = _given("colour")
    brightness, contrast, saturation, hue = (_given(name) for name in _COLOURS)
    if colour > 1:
        clips = fn.color_twist(clips, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    elif colour > 0:
        clips = fn.brightness_contrast(clips, brightness=brightness, contrast=contrast)
    return clips


def _recolour_cpu(clips: Any) -> Any:
    colour, colours = _given("colour"), _given("map")
    if colour > 0:
        changed: Any = numba_function(
            clips,
            colours,
            run_fn=_recolour_sample,
            in_types=[types.DALIDataType.UINT8, types.DALIDataType.FLOAT],
            ins_ndim=[4, 2],
            out_types=[types.DALIDataType.UINT8],
            outs_ndim=[4],
            setup_fn=_as_the_first,
        )
        clips = fn.reshape(changed, layout="FHWC")
    return clips


def _recolour_sample(out_THWC: Any, clip_THWC: Any, map_34: Any) -> None:
    """DALI compiles it around the kernel, which has been compiled once for all."""
    recolour(out_THWC, clip_THWC, map_34)


def _as_the_first(outputs: Any, inputs: Any) -> None:
    """The shapes of a numba operator's output: those of its first input, sample by sample."""
    for sample in range(len(outputs[0])):
        for axis in range(4):
            outputs[0][sample][axis] = inputs[0][sample][axis]


@augmentations.augmentation
def _equalize(data: Any, _: Any) -> Any:
    return fn.equalize(data)


@augmentations.augmentation(
    mag_range=(0, 0.9), randomly_negate=True, mag_to_param=augmentations.sharpness_kernel, param_device="auto"
)
def _sharpness(data: Any, kernel: Any) -> Any:
    return fn.filter(data, kernel)


def _rand_augment(clips: Any, move: Any, size: Any) -> Any:
    """One step: DALI's suite, told which operator to take, how strong, and in which direction."""
    newer = {"equalize": _equalize, "sharpness": _sharpness}  # the suite calls them by names that are deprecated
    suite = [newer.get(a.name, a) for a in rand_augment.get_rand_augment_suite(use_shape=True)]
    assert [a.name.strip("_") for a in suite] == list(RAND_AUGMENT)
    strength = core.signed_bin(move[1], random_sign=move[2])
    return core.select(
        suite, move[0], data=clips, magnitude_bin=strength, num_magnitude_bins=MAGNITUDES, shape=size, fill_value=_FILL
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
