"""The image sheet shows the frames and says the changes that training would get."""

import base64
import io
import re

import matplotlib.image
import numpy as np
import pytest

from fastplan import cli
from fastplan.config import AugmentConfig
from fastplan.data.augmentation import draw_changes, no_changes
from fastplan.data.sampling import stream_rng
from fastplan.report.sheet import describe
from numbered_videos import read_numbers

WHOLE = ["data.augment.scale=[1,1]", "data.augment.ratio=[1,1]"]
NOTHING = [f"data.augment.{name}=0" for name in ("flip", "jitter", "grey", "blur")]


def sheet(numbered, tmp_path, monkeypatch, *words: str) -> tuple[list[np.ndarray], list[str]]:
    """Strips of pictures and what is written beside them."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", str(numbered), f"data.cache={tmp_path / 'cache'}", *words]) == 0
    page = (tmp_path / "fastplan-clips.html").read_text()
    pngs = [base64.b64decode(text) for text in re.findall(r"base64,([^']+)'", page)]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    return [matplotlib.image.imread(io.BytesIO(png), format="png") for png in pngs], captions


def test_the_pictures_are_the_frames_that_are_written_beside_them(numbered, tmp_path, monkeypatch):
    strips, captions = sheet(numbered, tmp_path, monkeypatch, "--show", "10", "--span", "16", *WHOLE, *NOTHING)
    assert len(strips) == len(captions) == 10
    for strip_HWC, caption in zip(strips, captions, strict=True):
        pictures_THW = np.stack(np.split(strip_HWC[..., 0], 8, axis=1))
        frames = [int(n) for n in re.search(r"frames ([\d ]+):", caption)[1].split()]
        assert read_numbers(pictures_THW) == frames and frames[1] - frames[0] == 2
        assert re.search(r"v\d_\d+\.mp4</b> class[01],", caption)


@pytest.mark.slow
def test_a_mixed_batch_says_with_which_clip(numbered, tmp_path, monkeypatch):
    _, captions = sheet(numbered, tmp_path, monkeypatch, "--show", "8", *NOTHING, "data.augment.mixup=1")
    partners = [int(re.search(r"% of clip (\d)", caption)[1]) for caption in captions]
    assert partners == [8, 7, 6, 5, 4, 3, 2, 1]


def test_everything_that_is_done_is_said():
    augment = AugmentConfig(grey=0.5, rand_augment=1.0, erase=1.0)
    changes = draw_changes(lambda kind: stream_rng(0, kind, 0), np.full((40, 2), 64.0), augment)
    said = [", ".join(describe(changes, row)) for row in range(40)]
    for row, words in enumerate(said):
        assert ("flipped" in words) == bool(changes.flips_M[row])
        assert ("grey" in words) == bool((changes.colours_M4[row, 2:] == 0).all())
        assert ("blur" in words) == bool(changes.blurs_M[row] > 0)
        assert "erased" in words and "crop" in words
    plain = no_changes(np.array([[0, 0.25, 1, 0.75]], np.float32))
    assert describe(plain, 0) == ["crop 0.00 0.25 to 1.00 0.75"]
