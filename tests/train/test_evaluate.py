"""Accuracies counted by hand."""

import contextlib

import pytest
import torch

from fastplan.data.batch import ClipBatch
from fastplan.errors import UserError
from fastplan.train.evaluate import Evaluation, evaluate


class Scripted(torch.nn.Module):
    """Logits of the two heads are read off the clip itself."""

    def forward(self, clips_NCTHW):
        return clips_NCTHW[:, 0, 0, 0, :3], clips_NCTHW[:, 1, 0, 0, :3]


def clip(first, second):
    x = torch.zeros(3, 1, 1, 3)
    x[0, 0, 0], x[1, 0, 0] = torch.tensor(first), torch.tensor(second)
    return x


def test_softmax_is_averaged_over_heads_and_clips():
    sure, other = [9.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    clips = [
        clip(sure, sure), clip(other, other),  # video 0 of class 0: one clip right, one wrong, the mean is right
        clip(other, other), clip(sure, other),  # video 1 of class 1: the sure head outvotes three that are right
        clip([0.0, 0.0, 2.0], [0.0, 0.0, 2.0]), clip([0.0, 0.0, 2.0], other),  # video 2 of class 2: right
    ]  # fmt: skip
    batch = ClipBatch(torch.stack(clips), torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 2, 2]))
    found = evaluate(Scripted(), [batch], videos=3, autocast=contextlib.nullcontext())
    per_clip = torch.stack([torch.stack(h).softmax(1).mean(0) for h in ((c[0, 0, 0], c[1, 0, 0]) for c in clips)])
    mean = per_clip.reshape(3, 2, 3).mean(1)
    labels = torch.arange(3)
    assert found.video_top1 == pytest.approx(float((mean.argmax(1) == labels).float().mean()))
    assert found.clip_top1 == pytest.approx(float((per_clip.argmax(1) == labels.repeat_interleave(2)).float().mean()))
    assert found.loss == pytest.approx(float(-mean[labels, labels].log().mean()), rel=1e-5)
    assert found.video_top1 == pytest.approx(1.0 if mean[1].argmax() == 1 else 2 / 3)
    assert found.video_top5 == 1.0


def test_batches_of_any_cut_give_the_same_result():
    torch.manual_seed(0)
    x, labels, videos = torch.randn(20, 3, 1, 1, 3), torch.randint(3, (20,)), torch.arange(10).repeat_interleave(2)
    labels = labels[::2].repeat_interleave(2)
    whole = [ClipBatch(x, labels, videos)]
    parts = [ClipBatch(x[i : i + 3], labels[i : i + 3], videos[i : i + 3]) for i in range(0, 20, 3)]
    results = [evaluate(Scripted(), b, videos=10, autocast=contextlib.nullcontext()) for b in (whole, parts)]
    assert results[0].video_top1 == results[1].video_top1 and results[0].clip_top1 == results[1].clip_top1


def test_videos_of_which_nothing_comes_count_as_unread_and_not_as_wrong():
    right = clip([9.0, 0.0, 0.0], [9.0, 0.0, 0.0])
    batch = ClipBatch(torch.stack([right, right]), torch.tensor([0, 1]), torch.tensor([1, 3]))
    found = evaluate(Scripted(), [batch], videos=5, autocast=contextlib.nullcontext())
    assert (found.videos, found.unread, found.video_top1) == (2, 3, 0.5)
    with pytest.raises(UserError, match="none of the 5 videos to evaluate can be read"):
        evaluate(Scripted(), [], videos=5, autocast=contextlib.nullcontext())


def test_the_standard_error_is_never_zero():
    assert Evaluation(1.0, 1.0, 1.0, 0.0, 100).stderr == pytest.approx((101 / 102 * 1 / 102 / 100) ** 0.5)
    assert Evaluation(0.5, 0.5, 1.0, 0.0, 100).stderr == pytest.approx(0.05)
