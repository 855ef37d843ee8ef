"""Accuracy per clip and per video."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from fastplan.data.batch import ClipBatch
from fastplan.errors import UserError
from fastplan.train.distributed import ALONE, Ranks


@dataclass(frozen=True)
class Evaluation:
    """Fractions in 0..1 over `videos` videos; a video's prediction is the mean of its clips' softmax outputs.

    loss: mean negative log likelihood per video. unread: videos that could not be read and are left out of everything.
    stderr: of video_top1.
    """

    clip_top1: float
    video_top1: float
    video_top5: float
    loss: float
    videos: int
    unread: int = 0

    @property
    def stderr(self) -> float:
        """Standard error of video_top1, with one success and one failure added: never 0."""
        p = (self.video_top1 * self.videos + 1) / (self.videos + 2)
        return math.sqrt(p * (1 - p) / self.videos)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Iterable[ClipBatch],
    *,
    videos: int,
    autocast: AbstractContextManager[None],
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Evaluate on every clip of `batches`, in evaluation mode.

    videos: how many there are; those of which no clip comes count as unread. ranks: each has batches of other videos;
    all get the evaluation of all videos. Raises `UserError` where none can be read.
    """
    network.eval()
    scores_VK: torch.Tensor | None = None
    labels_V = torch.full((videos,), -1)
    counts = torch.zeros(2, dtype=torch.int64)  # clips, and how many of them are right
    for batch in batches:
        with autocast:
            heads = network(batch.clips_NCTHW)
        probabilities_NK = torch.stack([head.float().softmax(1) for head in heads]).mean(0).cpu()
        labels_N, videos_N = batch.labels_N.cpu(), batch.videos_N.cpu()
        if scores_VK is None:
            scores_VK = torch.zeros(videos, probabilities_NK.shape[1])
        scores_VK.index_add_(0, videos_N, probabilities_NK)
        labels_V[videos_N] = labels_N
        counts += torch.tensor([len(labels_N), int((probabilities_NK.argmax(1) == labels_N).sum())])
    classes = int(ranks.greatest(0 if scores_VK is None else scores_VK.shape[1])[0])
    if not classes:
        raise UserError(f"none of the {videos} videos to evaluate can be read")
    if scores_VK is None:  # this rank has read none
        scores_VK = torch.zeros(videos, classes)
    ranks.reduce_(scores_VK, "sum")
    ranks.reduce_(labels_V, "max")
    ranks.reduce_(counts, "sum")
    clips, right = counts.tolist()
    seen_V = labels_V >= 0
    scores_VK, labels_V = scores_VK[seen_V], labels_V[seen_V]
    scores_VK /= scores_VK.sum(1, keepdim=True)
    ranked_VK = scores_VK.topk(min(5, scores_VK.shape[1]), dim=1).indices == labels_V[:, None]
    likelihood_V = scores_VK.gather(1, labels_V[:, None]).clamp_min(1e-12)
    return Evaluation(
        clip_top1=right / clips,
        video_top1=float(ranked_VK[:, 0].float().mean()),
        video_top5=float(ranked_VK.any(1).float().mean()),
        loss=float(-likelihood_V.log().mean()),
        videos=len(labels_V),
        unread=videos - len(labels_V),
    )
