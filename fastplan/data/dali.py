"""The only module that imports NVIDIA DALI: one pipeline, fed by hand, never rebuilt.

Everything that may change between batches (pictures, frame indices, crop, size, changes of the pictures, batch size)
enters as a per-sample tensor, so another clip regime is just other input, and nothing in here draws a random number.
Operators: RandAugment, colour, blur, erase, flip and normalise. An operator runs on the samples that need it and on no
others. In front of them stands the host decoder (clips of the final size come in), or, sample by sample, DALI's own
video decoder, crop and resize (cuts and frame indices come in). On the CPU one compiled pass takes the place of all
operators behind RandAugment (`fastplan.data.finishing`), so host-decoded clips without RandAugment meet no DALI there.
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

from fastplan.config import AugmentConfig
from fastplan.data.augmentation import MAGNITUDES, RAND_AUGMENT, Changes
from fastplan.data.decoders import Decoder
from fastplan.data.finishing import Finisher
from fastplan.data.mux import Cut

VERSION: str = dali.__version__
Source = npt.NDArray[np.uint8] | Cut  # a decoded clip [T, 3, size, size], or what DALI decodes it from

_COLOURS = ("brightness", "contrast", "saturation", "hue")
_NO_CUT = Cut(np.zeros(1, np.uint8), np.zeros(1, np.int32))
_NO_CLIP = np.zeros((1, 3, 1, 1), np.uint8)
_IDENTITY = RAND_AUGMENT.index("identity")
_FILL = 128  # what RandAugment shows beyond the edge of the picture


class ClipPipeline:
    """Decode, crop and resize where that is to be done, then change, flip and normalise.

    decoder: `host` takes clips of the final size, `dali` cuts as well, both in one batch.
    device_id: GPU number, None for the CPU. compiled: whether the compiled pass finishes the clips, on the CPU, or
    DALI's operators do.
    max_batch: the largest batch over all states; smaller ones are free.
    """

    def __init__(
        self,
        *,
        decoder: Decoder,
        device_id: int | None,
        compiled: bool,
        max_batch: int,
        threads: int,
        augment: AugmentConfig,
    ) -> None:
        self._decoder = decoder
        self._augment = augment
        self._finisher = Finisher(augment, threads=threads) if compiled else None
        self._pipeline: dali.Pipeline | None = None
        if decoder == "dali" or augment.rand_augment or not compiled:
            self._pipeline = _pipeline(
                decoder,
                device_id is not None,
                augment,
                finishes=not compiled,
                batch_size=max_batch,
                num_threads=threads,
                device_id=device_id,
                prefetch_queue_depth=1,  # the loader runs ahead; a queue in here would hold batches of the old state
                exec_dynamic=True,
            )
            self._pipeline.build()

    def run(self, source: Sequence[Source], changes: Changes, *, size: int) -> torch.Tensor:
        """One batch as float32 [B, 3, T, size, size] in channels_last_3d storage, on the pipeline's device.

        source: per sample the clip, cropped and scaled, or with `dali` what it is to be decoded from.
        """
        if self._finisher is None:
            return self._through_dali(source, changes, size).permute(0, 4, 1, 2, 3)
        clips = {n: one for n, one in enumerate(source) if not isinstance(one, Cut)}
        moved_M = (changes.moves_MK3[..., 0] != _IDENTITY).any(axis=1)
        rest = [n for n in range(len(source)) if moved_M[n] or n not in clips]
        if rest:
            given = [source[n] for n in rest]
            packed_NTHWC = self._through_dali(given, changes[np.array(rest)], size).numpy()
            clips |= dict(zip(rest, packed_NTHWC.transpose(0, 1, 4, 2, 3), strict=True))
        return self._finisher.run([clips[n] for n in range(len(source))], changes)

    def close(self) -> None:
        """End the threads of the compiled pass."""
        if self._finisher is not None:
            self._finisher.close()

    def _through_dali(self, source: Sequence[Source], changes: Changes, size: int) -> torch.Tensor:
        """[B, T, size, size, 3]: finished float32, or uint8 for the compiled pass."""
        assert self._pipeline is not None
        (batch,) = self._pipeline.run(**self._inputs(source, changes, size))
        return torch.from_dlpack(batch.as_tensor())

    def _inputs(self, source: Sequence[Source], changes: Changes, size: int) -> dict[str, list[npt.NDArray[Any]]]:
        augment = self._augment
        inputs: dict[str, list[npt.NDArray[Any]]] = {
            "clip": [_NO_CLIP if isinstance(one, Cut) else one for one in source]
        }
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
        if augment.rand_augment:
            inputs |= {f"move{step}": list(changes.moves_MK3[:, step]) for step in range(augment.rand_augment_steps)}
        if self._finisher is not None:
            return inputs
        inputs["flip"] = _scalars(changes.flips_M)
        if _colours(augment):
            full_M = (changes.colours_M4[:, 2:] != [1, 0]).any(axis=1)
            light_M = (changes.colours_M4[:, :2] != 1).any(axis=1)
            inputs["colour"] = _scalars(np.where(full_M, 2, light_M).astype(np.int32))
            inputs |= {name: _scalars(c) for name, c in zip(_COLOURS, changes.colours_M4.T, strict=True)}
        if augment.blur:
            inputs["blur"] = _scalars(changes.blurs_M)
        if augment.erase:
            corner_M2, shape_M2 = changes.erased_M4[:, :2], changes.erased_M4[:, 2:] - changes.erased_M4[:, :2]
            inputs |= {"erased_at": list(corner_M2[:, ::-1].copy()), "erased": list(shape_M2[:, ::-1].copy())}
        return inputs


def _scalars(values_M: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [np.array(value) for value in values_M]


def _colours(augment: AugmentConfig) -> bool:
    return bool(augment.jitter or augment.grey)


@dali.pipeline_def(enable_conditionals=True)
def _pipeline(decoder: Decoder, on_gpu: bool, augment: AugmentConfig, *, finishes: bool) -> DataNode:
    """Clips as float32 FHWC, or where another finishes them, uint8 FHWC as they are before the colours change."""
    clips: Any  # DALI's stubs type every operator's result as a union
    size = _given("size") if decoder == "dali" or augment.rand_augment else None
    clips = fn.external_source(name="clip", layout="FCHW")
    clips = fn.transpose(clips.gpu() if on_gpu else clips, perm=[0, 2, 3, 1])
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
    if not finishes:
        return clips
    if _colours(augment):
        clips = _recolour(clips)
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


def _recolour(clips: Any) -> Any:
    colour = _given("colour")
    brightness, contrast, saturation, hue = (_given(name) for name in _COLOURS)
    if colour > 1:
        clips = fn.color_twist(clips, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    elif colour > 0:
        clips = fn.brightness_contrast(clips, brightness=brightness, contrast=contrast)
    return clips


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
