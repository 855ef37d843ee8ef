"""Every operator against PIL, SciPy or a few lines of NumPy, and what is drawn for it.

All of them in both ways there are: the compiled pass of the CPU, and DALI's operators, which a GPU takes, on the CPU.
"""

from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter

from fastplan.config import AugmentConfig
from fastplan.data.augmentation import RAND_AUGMENT, Changes, draw_changes, no_changes
from fastplan.data.batch import ClipBatch
from fastplan.data.dali import ClipPipeline
from fastplan.data.mux import Cut
from fastplan.data.sampling import stream_rng

SIDE = 64
WHOLE = [0.0, 0.0, 1.0, 1.0]
EVERYTHING = AugmentConfig(
    rand_augment=1.0,
    rand_augment_steps=2,
    erase=1.0,
    mixup=0.5,
    cutmix=0.5,
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 1.0, 1.0),
)
IDENTITY = RAND_AUGMENT.index("identity")


def pipeline_of(augment: AugmentConfig, *, compiled: bool, decoder: str = "host") -> ClipPipeline:
    return ClipPipeline(decoder=decoder, device_id=None, compiled=compiled, max_batch=16, threads=2, augment=augment)


@pytest.fixture(scope="module", params=[True, False], ids=["compiled", "dali"])
def pipeline(request) -> ClipPipeline:
    return pipeline_of(EVERYTHING, compiled=request.param)


@pytest.fixture(scope="module")
def picture_HWC() -> np.ndarray:
    """Smooth colours with edges, of full range, SIDE x SIDE."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    picture = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], axis=-1)
    picture[20:40, 10:30] = [0.9, 0.2, 0.4]
    return (picture * 255).round().astype(np.uint8)


def still(picture_HWC: np.ndarray, *, frames: int) -> np.ndarray:
    """A clip in planes, all of its frames this picture."""
    return np.ascontiguousarray(np.stack([picture_HWC] * frames).transpose(0, 3, 1, 2))


def neutral(clips: int = 1, **given) -> Changes:
    """Nothing done to any clip but what is given."""
    base = no_changes(np.tile(np.array(WHOLE, np.float32), (clips, 1)))
    moves = np.tile(np.array([IDENTITY, 9, 0], np.int32), (clips, EVERYTHING.rand_augment_steps, 1))
    arrays = {name: np.array(value, getattr(base, name).dtype) for name, value in given.items()}
    return replace(base, **{"moves_MK3": moves, **arrays})


def apply(pipeline: ClipPipeline, picture_HWC: np.ndarray, changes: Changes, size: int = SIDE) -> np.ndarray:
    """The first frame of the first clip as values 0..255 (float64, H x W x 3); all frames must come out alike."""
    clip_TCHW = still(picture_HWC, frames=3)
    out_NCTHW = pipeline.run([clip_TCHW] * len(changes), changes, size=size)
    frames_TCHW = out_NCTHW[0].permute(1, 0, 2, 3).numpy().astype(np.float64)
    assert (frames_TCHW == frames_TCHW[0]).all(), "frames of one clip are changed differently"
    return (frames_TCHW[0].transpose(1, 2, 0) + EVERYTHING.mean) * 255


def move(pipeline: ClipPipeline, picture_HWC: np.ndarray, name: str, strength: int, backwards: int = 0) -> np.ndarray:
    steps = [[[RAND_AUGMENT.index(name), strength, backwards], [IDENTITY, 0, 0]]]
    return apply(pipeline, picture_HWC, neutral(moves_MK3=steps))


def test_a_neutral_sample_passes_untouched(pipeline, picture_HWC):
    assert np.abs(apply(pipeline, picture_HWC, neutral()) - picture_HWC).max() < 1e-3


@pytest.mark.parametrize("size", [24, 90])
def test_crop_and_resize_behind_dalis_decoder_are_those_of_pil(tmp_path, picture_HWC, size):
    file = tmp_path / "still.webm"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode())
    pipeline = pipeline_of(EVERYTHING, compiled=True, decoder="dali")

    def show(box: list[float], size: int) -> np.ndarray:
        still = Cut(np.fromfile(file, np.uint8), np.zeros(1, np.int32))
        clips = pipeline.run([still], neutral(crops_M4=[box]), size=size)
        return (clips[0, :, 0].permute(1, 2, 0).numpy() + EVERYTHING.mean) * 255

    whole = Image.fromarray(show(WHOLE, SIDE).round().astype(np.uint8))
    box = [0.125, 0.25, 0.75, 0.9375]
    wanted = whole.resize((size, size), Image.Resampling.BILINEAR, box=tuple(side * SIDE for side in box))
    error = np.abs(show(box, size) - np.asarray(wanted, np.float64))
    assert error.mean() < 0.5 and np.quantile(error, 0.99) < 3


def test_flip(pipeline, picture_HWC):
    found = apply(pipeline, picture_HWC, neutral(flips_M=[1]))
    assert np.abs(found - picture_HWC[:, ::-1]).max() < 1e-3


@pytest.mark.parametrize("colours", [[0.6, 1.0, 1.0, 0.0], [1.4, 1.0, 1.0, 0.0], [1.0, 0.6, 1.0, 0.0]])
def test_brightness_scales_and_contrast_spreads_around_the_middle(pipeline, picture_HWC, colours):
    found = apply(pipeline, picture_HWC, neutral(colours_M4=[colours]))
    wanted = colours[0] * (128 + colours[1] * (picture_HWC.astype(np.float64) - 128))
    assert np.abs(found - wanted.clip(0, 255)).max() <= 1.0


TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])


@pytest.mark.parametrize(
    "colours", [[1.0, 1.0, 0.6, 0.0], [1.0, 1.0, 1.4, 0.0], [1.0, 1.0, 1.0, 36.0], [0.8, 1.2, 1.3, -20.0]]
)
def test_saturation_and_hue_act_on_chrominance(pipeline, picture_HWC, colours):
    found = apply(pipeline, picture_HWC, neutral(colours_M4=[colours]))
    brightness, contrast, saturation, hue = colours
    angle = np.deg2rad(hue)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]])
    matrix = np.linalg.inv(TO_YIQ) @ np.diag([1, saturation, saturation]) @ turn @ TO_YIQ
    wanted = brightness * (128 + contrast * (picture_HWC @ matrix.T - 128))
    assert np.abs(found - wanted.clip(0, 255)).max() < 2.5


def test_the_compiled_pass_gives_what_dalis_operators_give():
    """A GPU takes DALI's: both must train on the same clips. Everything at once, as it is drawn, sizes that are odd."""
    augment = AugmentConfig(jitter=1.0, grey=0.2, blur=0.7, erase=0.7)
    total = 48
    changes = draw_changes(lambda kind: stream_rng(5, kind, 0), np.full((total, 2), 64.0), augment)
    rng = np.random.default_rng(0)
    pipelines = [pipeline_of(augment, compiled=compiled) for compiled in (True, False)]
    std_3 = 255 * np.array(augment.std)
    for begin, (height, width) in zip(range(0, total, 16), ((64, 64), (37, 53), (8, 9)), strict=True):
        coarse = rng.integers(0, 256, (16, 2, 3, -(-height // 4), -(-width // 4)), np.uint8)
        clips = list(coarse.repeat(4, axis=3).repeat(4, axis=4)[..., :height, :width].copy())
        ours, dalis = (p.run(clips, changes[begin : begin + 16], size=64).numpy() for p in pipelines)
        assert ours.shape == dalis.shape == (16, 3, 2, height, width)
        away = np.abs(ours - dalis) * std_3[:, None, None, None]
        assert away.max() <= 2.5 and away.mean() < 0.6, (height, width)
    assert (changes.blurs_M > 1.7).any() and (changes.erased_M4[:, 2] > 0).any() and changes.flips_M.any()


def test_the_compiled_pass_gives_the_same_bits_whoever_shares_the_batch(picture_HWC):
    augment = AugmentConfig(jitter=1.0, blur=1.0, erase=1.0)
    changes = draw_changes(lambda kind: stream_rng(1, kind, 0), np.full((6, 2), 64.0), augment)
    clip_TCHW = still(picture_HWC, frames=2)
    one, many = (
        ClipPipeline(decoder="host", device_id=None, compiled=True, max_batch=6, threads=threads, augment=augment)
        for threads in (1, 3)
    )
    together = many.run([clip_TCHW] * 6, changes, size=SIDE)
    assert together.is_contiguous(memory_format=torch.channels_last_3d)
    for number in range(6):
        assert torch.equal(one.run([clip_TCHW], changes[number : number + 1], size=SIDE)[0], together[number])


def test_grey_is_the_luminance_of_pil(pipeline, picture_HWC):
    found = apply(pipeline, picture_HWC, neutral(colours_M4=[[1.0, 1.0, 0.0, 0.0]]))
    wanted = np.asarray(Image.fromarray(picture_HWC).convert("L"), np.float64)[..., None]
    assert np.abs(found - wanted).max() < 2.0


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0])
def test_blur_is_a_gaussian(pipeline, picture_HWC, sigma):
    found = apply(pipeline, picture_HWC, neutral(blurs_M=[sigma]))
    wanted = gaussian_filter(picture_HWC.astype(np.float64), (sigma, sigma, 0), mode="mirror", truncate=3.0)
    assert np.abs(found - wanted).max() < 1.5


def test_erasing_paints_the_box_in_the_mean_colour(pipeline, picture_HWC):
    found = apply(pipeline, picture_HWC, neutral(erased_M4=[[0.25, 0.5, 0.5, 0.75]]))
    wanted = picture_HWC.astype(np.float64)
    wanted[32:48, 16:32] = 255 * np.array(EVERYTHING.mean)
    assert np.abs(found - wanted).max() <= 0.51


def test_only_the_samples_that_ask_for_it_are_changed(pipeline, picture_HWC):
    """One batch, one clip a kind: each comes out as it does alone, the neutral one untouched."""
    kinds = [
        {},
        {"blurs_M": [1.5]},
        {"erased_M4": [[0.1, 0.1, 0.4, 0.4]]},
        {"colours_M4": [[1.2, 0.9, 1.0, 0.0]]},
        {"colours_M4": [[1.0, 1.0, 0.5, 20.0]]},
        {"moves_MK3": [[[4, 20, 1], [6, 9, 0]]]},
        {"flips_M": [1]},
    ]
    alone = [neutral(**kind) for kind in kinds]
    together = Changes(**{name: np.concatenate([getattr(c, name) for c in alone]) for name in vars(alone[0])})
    clip_TCHW = still(picture_HWC, frames=2)
    batch = pipeline.run([clip_TCHW] * len(kinds), together, size=SIDE)
    for number, changes in enumerate(alone):
        single = pipeline.run([clip_TCHW], changes, size=SIDE)
        assert torch.equal(batch[number], single[0]), kinds[number]
    assert len({batch[n].numpy().tobytes() for n in range(len(kinds))}) == len(kinds)


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "sharpness"])
def test_rand_augment_enhances_as_pil(pipeline, picture_HWC, name, backwards):
    found = move(pipeline, picture_HWC, name, 10, backwards)
    factor = 1 + (-1) ** backwards * 0.9 * 10 / 30
    enhance = getattr(ImageEnhance, name.capitalize())(Image.fromarray(picture_HWC)).enhance(factor)
    error = np.abs(found - np.asarray(enhance, np.float64))[1:-1, 1:-1]  # PIL leaves the border out of sharpness
    assert error.max() <= 2.0


def test_rand_augment_posterizes_solarizes_and_stretches_as_pil(pipeline, picture_HWC):
    image = Image.fromarray(picture_HWC // 2 + 40)
    dull_HWC = np.asarray(image)
    for name, wanted in (
        ("posterize", ImageOps.posterize(image, 8 - round(4 * 15 / 30))),
        ("solarize", ImageOps.solarize(image, 128)),
    ):
        assert np.abs(move(pipeline, dull_HWC, name, 15) - np.asarray(wanted, np.float64)).max() < 1e-3, name
    low, high = dull_HWC.min((0, 1)).astype(float), dull_HWC.max((0, 1))
    stretched = (dull_HWC - low) * 255 / (high - low)
    assert np.abs(move(pipeline, dull_HWC, "auto_contrast", 15) - stretched).max() <= 1.0


def test_rand_augment_equalizes(pipeline, picture_HWC):
    found = move(pipeline, picture_HWC // 3 + 50, "equalize", 15)
    for channel in range(3):
        values, counts = np.unique(picture_HWC[..., channel] // 3 + 50, return_counts=True)
        reached = counts.cumsum()
        table = dict(zip(values, (reached - reached[0]) * 255 / (reached[-1] - reached[0]), strict=True))
        wanted = np.vectorize(table.get)(picture_HWC[..., channel] // 3 + 50)
        assert np.abs(found[..., channel] - wanted).max() <= 1.0


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("name", ["translate_x", "translate_y", "shear_x", "shear_y", "rotate"])
def test_rand_augment_moves_as_pil(pipeline, picture_HWC, name, backwards):
    """Against PIL's affine transform, which maps places of the result to places of the source."""
    sign, strength = (-1) ** backwards, 12
    found = move(pipeline, picture_HWC, name, strength, backwards)
    shift, shear, angle = (sign * most * strength / 30 for most in (100 / 224 * SIDE, 0.3, np.deg2rad(30)))
    middle = SIDE / 2
    cos, sin = np.cos(angle), np.sin(angle)
    inverse = {
        "translate_x": (1, 0, -shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -shift),
        "shear_x": (1, -shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, -shear, 1, 0),
        "rotate": (cos, -sin, middle - cos * middle + sin * middle, sin, cos, middle - sin * middle - cos * middle),
    }[name]
    wanted = Image.fromarray(picture_HWC).transform(
        (SIDE, SIDE), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )
    error = np.abs(found - np.asarray(wanted, np.float64))
    assert np.quantile(error, 0.95) < 3, "up to how the edge fades into the fill"


def test_the_pipeline_holds_no_operator_that_cannot_be_asked_for():
    def operators(augment: AugmentConfig, *, compiled: bool) -> str:
        pipeline = pipeline_of(augment, compiled=compiled)._pipeline
        return "" if pipeline is None else " ".join(operator.name for operator in pipeline._ops)

    off = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}
    names = {"jitter": "ColorTwist", "blur": "GaussianBlur", "erase": "Erase", "rand_augment": "WarpAffine"}
    plain = operators(AugmentConfig(**off), compiled=False)
    for key, name in names.items():
        on = AugmentConfig(**{**off, key: 0.5})
        assert name not in plain and name in operators(on, compiled=False), key
        assert (name in operators(on, compiled=True)) == (key == "rand_augment"), key


def draw(clips: int = 4000, stream: str = "s", **settings) -> Changes:
    return draw_changes(
        lambda kind: stream_rng(0, f"{stream}/{kind}", 0), np.full((clips, 2), 64.0), AugmentConfig(**settings)
    )


def test_each_kind_is_drawn_as_often_and_as_strong_as_configured():
    drawn = draw(grey=0.2, blur=0.5, blur_sigma=(0.5, 1.5), rand_augment=0.25, erase=0.3, mixup=0.2, cutmix=0.4)
    rates = {
        "grey": ((drawn.colours_M4[:, 2:] == 0).all(1).mean(), 0.2),
        "blur": ((drawn.blurs_M > 0).mean(), 0.5),
        "erase": ((drawn.erased_M4[:, 2] > 0).mean(), 0.3),
        "mixup": ((drawn.shares_M < 1).mean(), 0.2),
        "cutmix": ((drawn.pastes_M4[:, 2] > 0).mean(), 0.4),
        "rand_augment": ((drawn.moves_MK3[..., 0] != IDENTITY).any(1).mean(), 0.25 * (1 - 1 / 14**2)),
    }
    for kind, (found, wanted) in rates.items():
        assert abs(found - wanted) < 0.03, (kind, found)
    blurs = drawn.blurs_M[drawn.blurs_M > 0]
    assert 0.5 <= blurs.min() < 0.51 and 1.49 < blurs.max() <= 1.5
    assert not ((drawn.shares_M < 1) & (drawn.pastes_M4[:, 2] > 0)).any(), "mixup and cutmix for one batch"
    area = (drawn.erased_M4[:, 2:] - drawn.erased_M4[:, :2]).prod(1)
    assert area.max() <= 0.33 + 1e-6 and area[area > 0].min() < 0.05
    assert set(np.unique(drawn.moves_MK3[..., 0])) == set(range(14)) and set(np.unique(drawn.moves_MK3[..., 2])) == {
        0,
        1,
    }


def test_one_kind_does_not_change_the_numbers_of_another():
    plain, more = draw(64), draw(64, grey=0.0, blur=1.0, erase=1.0, rand_augment=1.0, mixup=1.0)
    assert np.array_equal(plain.crops_M4, more.crops_M4) and np.array_equal(plain.flips_M, more.flips_M)
    coloured = (plain.colours_M4[:, 2:] != 0).any(1)
    assert np.array_equal(plain.colours_M4[coloured], more.colours_M4[coloured])


def batch_of(clips: int) -> ClipBatch:
    clips_NTHWC = torch.rand(clips, 2, 10, 12, 3, generator=torch.Generator().manual_seed(0))
    return ClipBatch(clips_NTHWC.permute(0, 4, 1, 2, 3), torch.arange(clips) % 3, torch.arange(clips))


def test_mixup_fades_clips_and_labels_alike():
    batch = batch_of(5)
    mixed = batch.mixed_up(0.7)
    x = batch.clips_NCTHW.numpy()
    assert np.allclose(mixed.clips_NCTHW.numpy(), 0.7 * x + 0.3 * x[::-1], atol=1e-6)
    one_hot = np.eye(3)[batch.labels_N.numpy()]
    assert np.allclose(mixed.targets(3).numpy(), 0.7 * one_hot + 0.3 * one_hot[::-1], atol=1e-6)
    assert mixed.clips_NCTHW.is_contiguous(memory_format=torch.channels_last_3d)
    assert batch.mixed_up(1.0) is batch and torch.equal(batch.targets(3), batch.labels_N)


def test_cutmix_shares_labels_by_the_pixels_of_the_box():
    batch = batch_of(4)
    mixed = batch.cut_mixed([0.25, 0.5, 0.66, 1.0])
    wanted = batch.clips_NCTHW.numpy().copy()
    wanted[..., 5:10, 3:8] = batch.clips_NCTHW.numpy()[::-1][..., 5:10, 3:8]
    assert np.array_equal(mixed.clips_NCTHW.numpy(), wanted)
    assert mixed.share == pytest.approx(1 - 25 / 120)
    assert mixed.clips_NCTHW.is_contiguous(memory_format=torch.channels_last_3d)
    assert batch.cut_mixed([0.0] * 4) is batch
