"""On a GPU a batch holds what it held until the last kernel that reads it has run, however early it was let go of."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import training_samples

pytestmark = pytest.mark.gpu

_BUSY_CYCLES = 100_000_000  # about 0.05 s


@pytest.mark.parametrize("changes", [{}, {"mixup": 1.0}, {"cutmix": 1.0}])
def test_batches_are_whole_when_the_gpu_reads_them_late(numbered: Path, tmp_path: Path, changes: dict[str, float]):
    index = build_index(read_videos(numbered), cache_dir=tmp_path, threads=2)
    augment, spec, device = AugmentConfig(**changes), ClipSpec(1, 8, 1, 64), torch.device("cuda")

    def sums(before_reading: Callable[[], None]) -> torch.Tensor:
        loader = ClipLoader(index, augment, max_batch=4, threads=4, decoder="host", device=device)
        loader.configure(spec, 4)
        samples = training_samples(index, spec, augment, seed=0, stream="s", epoch=0, clips=200)
        found = []
        for batch in loader.epoch(samples):
            before_reading()
            found.append(torch.stack([batch.clips_NCTHW.sum(), batch.labels_N.sum(), batch.videos_N.sum()]))
        loader.close()
        return torch.stack(found).cpu()

    assert torch.equal(sums(lambda: torch.cuda._sleep(_BUSY_CYCLES)), sums(torch.cuda.synchronize))
