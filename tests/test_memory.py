"""What `fastplan plan` expects a state to take, against what it takes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastplan.clips import ClipSpec
from fastplan.config import RunConfig
from fastplan.memory import expected_memory
from fastplan.models.cost import training_memory
from fastplan.models.networks import build_network
from fastplan.planner.states import State

LOADER = '''
import sys, time
from pathlib import Path
import torch
from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.memory import loader_memory
from fastplan.data.sampling import training_samples

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

index = build_index(read_videos(Path(sys.argv[1])), cache_dir=Path(sys.argv[2]), threads=1)
augment = AugmentConfig(blur=0.0)
loader = ClipLoader(index, augment, max_batch=8, threads=2, decoder="host", device=torch.device("cpu"))

def settle():
    """Let everything that runs ahead fill, however slow that is here: until this process has nothing to do."""
    cpu_s = -1.0
    while time.process_time() > cpu_s + 0.02:
        cpu_s = time.process_time()
        time.sleep(0.4)

def highest(spec, batch_size, batches):
    loader.configure(spec, batch_size)
    top = 0
    samples = training_samples(index, spec, augment, seed=0, stream="s", epoch=0, clips=batch_size * batches)
    for batch in loader.epoch(samples):
        settle()
        top = max(top, rss())
    return top

base = highest(ClipSpec(1, 4, 1, 32), 2, 3)
spec = ClipSpec(8, 4, 1, 192)
memory = loader_memory(spec, 8, augment, on_gpu=False)
print((highest(spec, 8, 8) - base) / (memory.decoded + memory.prepared))
loader.close()
'''


@pytest.mark.slow
def test_the_loader_takes_what_it_is_expected_to_take(numbered: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", LOADER, str(numbered), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0.85 < float(done.stdout.split()[-1]) < 1.15, done.stdout


def test_what_the_backward_pass_keeps_is_counted_without_computing_it() -> None:
    expected = training_memory("dg_p3d_tiny", frames=8, size=32, classes=10)
    network = build_network("dg_p3d_tiny", 10).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (key := tensor.untyped_storage().data_ptr()) not in own:
            kept[key] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(2, 3, 8, 32, 32))
    assert expected.clip == pytest.approx(sum(t.untyped_storage().nbytes() for t in kept.values()) / 2, rel=0.05)
    assert expected.network == 4 * 4 * sum(p.numel() for p in network.parameters())


def test_regimes_that_states_share_are_named_once() -> None:
    begin = time.monotonic()
    clips = [ClipSpec(1, 8, 1, 32), ClipSpec(2, 8, 1, 32)]
    states = [State(f"s{n}", clips[n % 2], 0.1, 4 * (1 + n % 2)) for n in range(6)]
    config = RunConfig(network={"name": "dg_p3d_tiny"})
    small, large = expected_memory(states, config, on_gpu=False)
    assert (small.clip, large.clip) == tuple(clips)
    assert large.host == 4 * small.host == 3 * 8 * 16 * 32 * 32 * 3
    assert large.device > 3 * small.device - 2 * 16 * 160_000
    assert time.monotonic() - begin < 60
    on_gpu = expected_memory(states, config, on_gpu=True)[0]
    more = (
        4 + 4 * 3
    )  # of DALI: in planes, packed, colours, blur, and finished; two batches that the GPU has yet to read
    assert on_gpu.device == small.device + more * (4 * 8 * 32 * 32 * 3)
