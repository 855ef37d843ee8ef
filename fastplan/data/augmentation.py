"""What is done to the pictures of a sample: drawn here, once per clip and the same for all of its frames.

Every kind of change has a random stream of its own, so switching one on leaves the numbers of the others alone. The
operators that carry them out are in `fastplan.data.dali`, the mixing of two clips in `fastplan.data.batch`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from fastplan.config import AugmentConfig

# RandAugment (Cubuk et al., 2020), in the order of DALI's suite; the last one does nothing.
RAND_AUGMENT = (
    "translate_x",
    "translate_y",
    "shear_x",
    "shear_y",
    "rotate",
    "brightness",
    "contrast",
    "color",
    "sharpness",
    "posterize",
    "solarize",
    "equalize",
    "auto_contrast",
    "identity",
)
MAGNITUDES = 31  # bins of RandAugment's strength, 0 the weakest

_NEUTRAL_COLOURS = np.array([1, 1, 1, 0], np.float32)


@dataclass(frozen=True)
class Changes:
    """What is done to M clips; boxes are left, top, right, bottom as fractions of the picture.

    crops_M4: the part that is kept, of the picture as shown. flips_M: 1 to mirror. colours_M4: factors of brightness,
    contrast and saturation (0 is grey), and hue in degrees; 1, 1, 1, 0 change nothing. blurs_M: sigma of a Gaussian in
    pixels of the network's picture, 0 for none. moves_MK3: K steps of RandAugment: position in `RAND_AUGMENT`,
    strength in 0..MAGNITUDES-1, 1 for the opposite direction. erased_M4: the box painted over, empty for none.
    shares_M, pastes_M4: how the batch that *begins* with this sample is mixed: each clip keeps the share and takes the
    rest from another one (mixup, share below 1), or takes over the box (cutmix, a box that is not empty).
    """

    crops_M4: npt.NDArray[np.float32]
    flips_M: npt.NDArray[np.int32]
    colours_M4: npt.NDArray[np.float32]
    blurs_M: npt.NDArray[np.float32]
    moves_MK3: npt.NDArray[np.int32]
    erased_M4: npt.NDArray[np.float32]
    shares_M: npt.NDArray[np.float32]
    pastes_M4: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.flips_M)

    def __getitem__(self, places: slice | npt.NDArray[np.integer]) -> "Changes":
        return Changes(**{field.name: getattr(self, field.name)[places] for field in fields(self)})

    def mixed_alike(self, neighbours: int) -> "Changes":
        """With the mixing of the first of every so many neighbouring clips for all of them."""
        first_M = np.arange(len(self)) // neighbours * neighbours
        return replace(self, shares_M=self.shares_M[first_M], pastes_M4=self.pastes_M4[first_M])


def no_changes(crops_M4: npt.NDArray[np.float32]) -> Changes:
    """Only crops: what evaluation sees."""
    total = len(crops_M4)
    return Changes(
        crops_M4,
        np.zeros(total, np.int32),
        np.tile(_NEUTRAL_COLOURS, (total, 1)),
        np.zeros(total, np.float32),
        np.zeros((total, 0, 3), np.int32),
        np.zeros((total, 4), np.float32),
        np.ones(total, np.float32),
        np.zeros((total, 4), np.float32),
    )


def draw_changes(
    rng_of: Callable[[str], np.random.Generator], sizes_M2: npt.NDArray[np.float64], augment: AugmentConfig
) -> Changes:
    """Draw what happens to M clips. rng_of: generator of a kind of change. sizes_M2: width and height in pixels."""
    total = len(sizes_M2)
    shares_M, pastes_M4 = _mixing(rng_of("mix"), total, augment)
    return Changes(
        _boxes(rng_of("crop"), sizes_M2, augment.scale, augment.ratio),
        (rng_of("flip").random(total) < augment.flip).astype(np.int32),
        _colours(rng_of, total, augment),
        _where(rng_of("blur"), augment.blur, lambda rng: rng.uniform(*augment.blur_sigma, total)),
        _moves(rng_of("rand_augment"), total, augment),
        _where(
            rng_of("erase"),
            augment.erase,
            lambda rng: _boxes(rng, np.ones((total, 2)), augment.erase_scale, augment.erase_ratio),
        ),
        shares_M,
        pastes_M4,
    )


def _where(
    rng: np.random.Generator, probability: float, draw: Callable[[np.random.Generator], npt.NDArray[np.floating]]
) -> npt.NDArray[np.float32]:
    """What `draw` gives where chance has it, else 0."""
    drawn = draw(rng)
    chosen_M = rng.random(len(drawn)) < probability
    return np.where(chosen_M.reshape(-1, *[1] * (drawn.ndim - 1)), drawn, 0.0).astype(np.float32)


def _boxes(
    rng: np.random.Generator,
    sizes_M2: npt.NDArray[np.float64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> npt.NDArray[np.float32]:
    """Boxes whose area and log aspect ratio are uniform, clipped to the picture, at a uniform place."""
    total = len(sizes_M2)
    area_M = rng.uniform(*scale, total) * sizes_M2.prod(axis=1)
    ratio_M = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), total))
    wanted_M2 = np.stack([np.sqrt(area_M * ratio_M), np.sqrt(area_M / ratio_M)], axis=1)
    part_M2 = np.minimum(wanted_M2 / sizes_M2, 1.0)
    corner_M2 = rng.random((total, 2)) * (1.0 - part_M2)
    return np.concatenate([corner_M2, corner_M2 + part_M2], axis=1).astype(np.float32)


def _colours(
    rng_of: Callable[[str], np.random.Generator], total: int, augment: AugmentConfig
) -> npt.NDArray[np.float32]:
    rng = rng_of("colour")
    strengths = np.array([augment.brightness, augment.contrast, augment.saturation, 360.0 * augment.hue])
    drawn_M4 = rng.uniform(-1.0, 1.0, (total, 4)) * strengths
    colours_M4 = _NEUTRAL_COLOURS + np.where(rng.random((total, 1)) < augment.jitter, drawn_M4, 0.0)
    grey_M = rng_of("grey").random(total) < augment.grey
    colours_M4[grey_M, 2:] = 0.0  # turning the hue does not change the luminance, so grey comes out right
    return colours_M4.astype(np.float32)


def _moves(rng: np.random.Generator, total: int, augment: AugmentConfig) -> npt.NDArray[np.int32]:
    steps = augment.rand_augment_steps if augment.rand_augment else 0
    moves_MK3 = np.empty((total, steps, 3), np.int32)
    moves_MK3[..., 0] = rng.integers(len(RAND_AUGMENT), size=(total, steps))
    moves_MK3[..., 1] = augment.rand_augment_magnitude
    moves_MK3[..., 2] = rng.integers(2, size=(total, steps))
    moves_MK3[rng.random(total) >= augment.rand_augment, :, 0] = RAND_AUGMENT.index("identity")
    return moves_MK3


def _mixing(
    rng: np.random.Generator, total: int, augment: AugmentConfig
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mixup (Zhang et al., 2018) or cutmix (Yun et al., 2019), never both for one batch."""
    choice_M = rng.random(total)
    mixup_M = choice_M < augment.mixup
    cutmix_M = ~mixup_M & (choice_M < augment.mixup + augment.cutmix)
    shares_M = np.where(mixup_M, rng.beta(augment.mixup_alpha, augment.mixup_alpha, total), 1.0)
    half_M1 = 0.5 * np.sqrt(1.0 - rng.beta(augment.cutmix_alpha, augment.cutmix_alpha, total))[:, None]
    centre_M2 = rng.random((total, 2))
    box_M4 = np.concatenate([centre_M2 - half_M1, centre_M2 + half_M1], axis=1).clip(0.0, 1.0)
    return shares_M.astype(np.float32), np.where(cutmix_M[:, None], box_M4, 0.0).astype(np.float32)
