"""Memory that training is expected to take, known before anything starts."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastplan.clips import ClipSpec
from fastplan.config import RunConfig
from fastplan.data.memory import loader_memory
from fastplan.models.cost import training_memory
from fastplan.planner.states import State

_CLASSES = 400  # of the network that is counted; a class more or less is a row of the last layer


@dataclass(frozen=True)
class Memory:
    """Bytes of training at a clip regime in fp32. host: decoded clips. device: prepared clips, network, and what the
    backward pass needs; without a GPU, on the host too."""

    clip: ClipSpec
    batch_size: int
    host: int
    device: int


def expected_memory(states: Iterable[State], config: RunConfig, *, on_gpu: bool) -> list[Memory]:
    """What training in each of the regimes of `states` takes, on top of Python and its libraries.

    The formulas are those of `loader_memory` and `training_memory`. Not in them: clips that are kept for validation
    (`data.keep_mb`), workspace of the convolutions, and DALI's decoder on a GPU.
    """
    found = []
    for clip, batch_size in dict.fromkeys((state.clip, state.batch_size) for state in states):
        loader = loader_memory(clip, batch_size, config.data.augment, on_gpu=on_gpu)
        network = training_memory(config.network.name, frames=clip.length, size=clip.size, classes=_CLASSES)
        device = loader.prepared + network.network + batch_size * network.clip
        found.append(Memory(clip, batch_size, loader.decoded, device))
    return found
