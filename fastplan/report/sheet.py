"""The image sheet: augmented clips as training would get them, and beside each what was drawn for it."""

import base64
import html
import io
from pathlib import Path

import matplotlib.image
import numpy as np
import numpy.typing as npt
import torch

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.augmentation import RAND_AUGMENT, Changes
from fastplan.data.batch import ClipBatch, ClipLoader
from fastplan.data.index import VideoIndex
from fastplan.data.sampling import EpochSamples, training_samples

_BATCH = 8
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #0f172a } img { display: block; max-width: 100% }
figure { margin: 0 0 1.5rem } figcaption { color: #475569 } b { color: #0f172a }
"""


def sheet_page(
    index: VideoIndex, augment: AugmentConfig, spec: ClipSpec, *, clips: int, threads: int, seed: int = 0
) -> str:
    """An HTML page of `clips` training clips, through the same loader and operators; pictures are inside the page."""
    loader = ClipLoader(index, augment, max_batch=_BATCH, threads=threads, decoder="host", device=torch.device("cpu"))
    loader.configure(spec, min(_BATCH, clips))
    samples = training_samples(index, spec, augment, seed=seed, stream="sheet", epoch=0, clips=clips)
    figures, place = [], 0
    for batch in loader.epoch(samples):
        for row in range(len(batch.labels_N)):
            figures.append(_figure(index, samples, augment, batch, row, place))
            place += 1
    loader.close()
    title = f"{place} augmented clips, {spec}"
    mixing = "; in a mixed batch, a clip and the one as far from its end" if augment.mixup or augment.cutmix else ""
    body = f"<h1>{title}</h1><p>Each row is one clip{mixing}.</p>"
    return (
        f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>{body}{''.join(figures)}\n"
    )


def describe(changes: Changes, row: int) -> list[str]:
    """What was drawn for one sample, in words."""
    left, top, right, bottom = changes.crops_M4[row].tolist()
    words = [f"crop {left:.2f} {top:.2f} to {right:.2f} {bottom:.2f}"]
    if changes.flips_M[row]:
        words.append("flipped")
    words += [
        f"{RAND_AUGMENT[kind]} {'-' if backwards else ''}{strength}"
        for kind, strength, backwards in changes.moves_MK3[row].tolist()
        if RAND_AUGMENT[kind] != "identity"
    ]
    brightness, contrast, saturation, hue = changes.colours_M4[row].tolist()
    if (brightness, contrast, saturation, hue) != (1.0, 1.0, 1.0, 0.0):
        words.append(f"brightness {brightness:.2f}, contrast {contrast:.2f}")
        words.append("grey" if saturation == 0 else f"saturation {saturation:.2f}, hue {hue:+.0f}°")
    if changes.blurs_M[row]:
        words.append(f"blur {changes.blurs_M[row]:.1f} px")
    if changes.erased_M4[row].any():
        words.append("erased " + " ".join(f"{side:.2f}" for side in changes.erased_M4[row]))
    return words


def _figure(
    index: VideoIndex, samples: EpochSamples, augment: AugmentConfig, batch: ClipBatch, row: int, place: int
) -> str:
    pictures_CTHW = batch.clips_NCTHW[row].numpy()
    pictures_THWC = pictures_CTHW.transpose(1, 2, 3, 0) * np.array(augment.std) + np.array(augment.mean)
    video = int(batch.videos_N[row])
    words = describe(samples.changes, place)
    if batch.share < 1:
        words.append(f"{1 - batch.share:.0%} of clip {len(batch.labels_N) - 1 - row + place - row + 1}")
    name = Path(index.videos[video].path).name
    label = index.classes[int(batch.labels_N[row])] if index.classes else ""
    frames = " ".join(map(str, samples.frames_MT[place].tolist()))
    caption = f"<b>{place + 1}. {html.escape(name)}</b> {html.escape(label)}, frames {frames}: {', '.join(words)}"
    return f"<figure><img src='{_inline(pictures_THWC)}'><figcaption>{caption}</figcaption></figure>"


def _inline(pictures_THWC: npt.NDArray[np.floating]) -> str:
    strip_HWC = np.concatenate(list(pictures_THWC), axis=1).clip(0, 1)
    with io.BytesIO() as out:
        matplotlib.image.imsave(out, strip_HWC, format="png")
        return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
