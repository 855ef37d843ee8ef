"""What one rank, or a process alone, does in `tests/train/test_ranks.py`: epochs in double precision and validations.

Arguments: folder of videos, folder of the index's cache, file for what rank 0 has found. One of the videos is broken.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig, build_config
from fastplan.data.batch import ClipLoader
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.lost import LostClips
from fastplan.data.sampling import evaluation_samples
from fastplan.models.networks import build_network
from fastplan.planner.states import State
from fastplan.train.distributed import Ranks, open_ranks
from fastplan.train.precision import Precision
from fastplan.train.trainer import Trainer
from fastplan.workers.ranks import SharedLosses

CPU = torch.device("cpu")
STATE = State("s", ClipSpec(2, 4, 1, 24), 0.02, batch_size=4, accumulate=2)
CASES = {
    "merged": {"train": {"bn_clips": 6, "sync_bn": True}},
    "mixed": {"train": {"bn_clips": 6}, "data": {"augment": {"mixup": 0.5, "cutmix": 0.5}}},
    "raw": {"train": {"average_epochs": 0.0, "sync_bn": True}},
    "apart": {"train": {"bn_clips": 6, "sync_bn": False}},
    "dropped": {"network": {"dropout": 0.5}},
}


def run(index, settings: dict, ranks: Ranks, *, change: float = 0.0) -> dict:
    """An epoch of a state, one of it with BatchNorm frozen, and what came of them in every rank."""
    layers = {"data": {"clips_per_epoch": 16}, "network": {"dropout": 0.0}}
    config = build_config([("all", layers), ("case", settings)])
    loader = ClipLoader(index, config.data.augment, max_batch=ranks.share(4), threads=2, decoder="host", device=CPU)
    torch.manual_seed(0)
    network = build_network("dg_p3d_tiny", 2, dropout=config.network.dropout).double()
    network.register_forward_pre_hook(lambda module, clips: (clips[0].double(),))
    trainer = Trainer(
        network,
        config,
        train_loader=loader,
        val_loader=loader.beside(index.take(range(5))),
        target=STATE,
        precision=Precision("fp32", CPU, "test"),
        ranks=ranks,
    )
    with torch.no_grad():
        network.stem.weight += change
    found: dict = {"stats": [], "evaluations": []}
    for state in (STATE, replace(STATE, freeze_bn=True, lr=0.01)):
        trainer.enter(state, None)
        stats = trainer.train_epoch("a->b", 1)
        found["stats"].append({"loss": stats.loss, "norm": stats.grad_norm, "clips": stats.clips,
                               "clip_frames": stats.clip_frames})  # fmt: skip
        found["evaluations"].append(asdict(trainer.validate(views=2)))
    loader.close()
    weights = trainer.weights()
    found |= {part: weights[part] for part in ("network", "average")}
    whole = torch.cat([v.flatten().double() for part in ("network", "average") for v in weights[part].values()])
    found["sums"] = ranks.gather(float(whole.abs().sum()).hex())
    found["seeds"] = ranks.gather(str(torch.initial_seed()))
    return found


def part(index, ranks: Ranks) -> str:
    """What an epoch says whose weights the last rank has changed."""
    try:
        run(index, {"data": {"clips_per_epoch": 8}}, ranks, change=float(ranks.rank))
    except RuntimeError as error:
        return str(error)
    return ""


def lose(index, ranks: Ranks) -> list[str]:
    """What every rank knows of lost clips when one has broken a video, which rank 1 of 2 evaluates."""
    if ranks.rank == 0:
        Path(index.videos[1].path).write_bytes(b"no video")
    ranks.greatest(0.0)
    losses = SharedLosses(ranks, lost := LostClips(0.5), index, index)
    loader = ClipLoader(index, AugmentConfig(), max_batch=2, threads=1, decoder="host", device=CPU, lost=lost)
    loader.configure(STATE.clip, 2)
    samples = evaluation_samples(index, STATE.clip, views=1, rank=ranks.rank, world=ranks.world)
    assert sum(len(batch.labels_N) for batch in loader.epoch(samples)) == len(samples) - (1 in samples.mine_K)
    loader.close()
    losses.share()
    return ranks.gather(json.dumps([[Path(c.path).name, c.stream, c.place] for c in lost.clips]))


def main(videos: str, cache: str, out: str) -> None:
    torch.set_num_threads(1)
    with open_ranks() as ranks:
        index = ranks.in_turn(lambda: build_index(read_videos(Path(videos)), cache_dir=Path(cache), threads=2))
        found = {name: run(index, settings, ranks) for name, settings in CASES.items()}
        found["parted"] = part(index, ranks)
        found["lost"] = lose(index, ranks)
        found["said"] = ranks.gather("é" * ranks.rank)
        if ranks.rank == 0:
            torch.save(found, out)
        else:
            assert ranks.broadcast() == "", "nothing more comes"


if __name__ == "__main__":
    main(*sys.argv[1:])
