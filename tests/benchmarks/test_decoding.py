"""The NVDEC stage's own logic, with DALI's VP9 decoder on the CPU."""

import sys

import numpy as np
import pytest

from fastplan.benchmarks import gpu_check, timing
from fastplan.benchmarks.gpu_check import nvdec


@pytest.fixture
def decoding(monkeypatch):
    monkeypatch.setattr(timing, "on_gpu", lambda: False)
    return pytest.importorskip("fastplan.benchmarks.gpu_check.decoding")


def test_what_must_be_decoded_is_counted_from_the_key_frame(decoding):
    """GOP 6, pictures 20 to 35: a cut begins at 18; a whole file from 0."""
    path, frames = decoding._video(6, True)
    asked = [np.arange(20, 36, dtype=np.int32)]
    whole, places, decoded, _ = decoding._sent(path, asked, decoding.WAYS[0])
    assert frames == 48 and decoded == 36 and places is asked and len(whole[0]) == path.stat().st_size
    cut, places, decoded, _ = decoding._sent(path, asked, decoding.WAYS[1])
    assert decoded == 18 and places[0].tolist() == list(range(2, 18)) and len(cut[0]) < len(whole[0])


def test_pictures_are_identified(decoding):
    path, _ = decoding._video(6, True)
    right = decoding.Decoder(1)
    frames_T = np.array([3, 17, 17, 40], np.int32)
    assert decoding._identified(right, path, frames_T)

    class Late:
        def pictures(self, encoded, frames_BT):
            return right.pictures(encoded, [np.minimum(frames_BT[0] + 1, 47)])

    assert not decoding._identified(Late(), path, frames_T)


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_cut_with_other_pixels_is_wrong_unless_pictures_were_dropped(decoding, monkeypatch, wrong):
    """A decoder that gives other pixels for one way alone."""
    pictures, calls = decoding.Decoder.pictures, []

    def changed(self, encoded, frames_BT):
        found = pictures(self, encoded, frames_BT)
        calls.append(found)
        return found + np.uint8(len(calls) == wrong + 2)  # the first call identifies, the second is the whole file

    monkeypatch.setattr(decoding.Decoder, "pictures", changed)
    rows = list(decoding.measure(6, "4 segments of 4", True))
    assert [row["equal"] for row in rows] == [True, wrong != 1, wrong != 2]
    assert [row.get("correct") for row in rows] == [True, wrong != 1, None]


def test_without_dali_the_stage_is_skipped_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastplan.benchmarks.gpu_check.decoding", None)
    monkeypatch.delattr(gpu_check, "decoding", raising=False)
    units = nvdec.units(tiny=True)
    assert len(units) == 7 and all("docs/benchmarks.md" in unit.missing for unit in units)
