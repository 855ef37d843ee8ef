"""The test of a run's network: once, after everything is decided, on videos that decided nothing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastplan.config import RunConfig
from fastplan.data.batch import ClipBatch, ClipLoader, choose_decoder, default_threads
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lost import LostClip, LostClips
from fastplan.data.sampling import evaluation_samples
from fastplan.data.splits import Progress, cache_dir, list_videos, open_splits
from fastplan.errors import UserError
from fastplan.models.networks import build_network
from fastplan.ops import set_kernels
from fastplan.planner.states import State
from fastplan.train import checkpoint
from fastplan.train.distributed import ALONE, Ranks
from fastplan.train.evaluate import Evaluation, evaluate
from fastplan.train.precision import Precision


@dataclass(frozen=True)
class NetworkTest:
    """What is tested, and on what: all that another rank needs to know.

    network_file: of a run. config: the run's, with the `test` that is asked for. target: the clip regime. source:
    folder or list of videos, None for the run's own test videos. lost: clips that could not be read before.
    """

    network_file: Path
    config: RunConfig
    target: State
    source: str | None = None
    lost: tuple[LostClip, ...] = ()

    def open_videos(self, progress: Progress) -> VideoIndex:
        """The videos to test on. Raises `UserError` where there are none."""
        config = self.config
        threads = config.data.threads or default_threads()
        if self.source is not None:
            listed = list_videos(self.source, config.data.model_copy(update={"group_pattern": None}))
            step = progress("Probing videos", listed.files)
            return build_index(listed, cache_dir=cache_dir(config.data) / "index", threads=threads, on_video=step)
        splits = open_splits(
            config.data, holdout=config.plan.holdout, seed=config.seed, threads=threads, progress=progress
        )
        if splits.test is None:
            raise UserError("this run has no test videos: give --data DIR|LIST")
        return splits.test

    def run(
        self,
        index: VideoIndex,
        precision: Precision,
        *,
        lost: LostClips,
        progress: Progress = lambda title, total: lambda: None,
        ranks: Ranks = ALONE,
    ) -> Evaluation:
        """Evaluate on the videos of `index`, `test.clips` x `test.crops` views of each.

        ranks: each takes its part of the videos, and all get the same evaluation. Raises `UserError` where there is no
        network, or one of other classes.
        """
        config, target = self.config, self.target
        if not self.network_file.exists():
            raise UserError(f"{self.network_file.parent} has no trained network yet: finish the run with --resume")
        content = checkpoint.load(self.network_file, precision.device)
        if content["classes"] != list(index.classes):
            raise UserError(
                f"the network was trained on classes {', '.join(content['classes'][:5])}..., "
                f"the data has {', '.join(index.classes[:5])}...: they must be the same, in the same order"
            )
        network = build_network(content["name"], len(index.classes)).to(precision.device)
        network.load_state_dict(content["weights"])
        set_kernels(network, config.kernels)
        batch_size = ranks.share(target.batch_size)
        loader = ClipLoader(
            index,
            config.data.augment,
            max_batch=batch_size,
            threads=ranks.share_threads(config.data.threads or default_threads()),
            decoder=choose_decoder(index, precision.device, config.data.decoder)[0],
            device=precision.device,
            timeout_s=config.data.decode_timeout_s,
            lost=lost,
            drop_nonref=config.data.drop_nonref,
        )
        loader.configure(target.clip, batch_size)
        samples = evaluation_samples(
            index,
            target.clip,
            views=config.test.clips,
            crops=config.test.crops,
            short=config.data.short,
            rank=ranks.rank,
            world=ranks.world,
        )
        step = progress("Testing", math.ceil(len(samples) / batch_size))

        def batches() -> Iterator[ClipBatch]:
            for batch in loader.epoch(samples):
                yield batch
                step()

        try:
            return evaluate(network, batches(), videos=len(index), autocast=precision.autocast(), ranks=ranks)
        finally:
            loader.close()
