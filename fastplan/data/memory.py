"""Memory that the loader takes in a clip regime, from the sizes of what it holds at once.

A batch of decoded clips takes u = batch x frames x size x size x 3 bytes. Held at once are: three batches decoded or
being decoded; as float, of 4 u each, the batch in the consumer's hands, two that wait, one that is made or waits to
wait, and one that was made before the consumer let go of its last; and where DALI changes the pictures (all operators
on a GPU, RandAugment alone on the CPU) what each of its operators gives, clips in planes made packed among them. The
compiled pass of the CPU keeps nothing between. On a GPU there are, as float too, DALI's own copy of the batch that is
made, and those that the consumer has let go of and the GPU has not read yet.
"""

from dataclasses import dataclass

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig

BATCHES_AHEAD = 2  # made and waiting, or decoded and waiting to be made
PASSES_BEHIND = 2  # whose work a GPU may still have before it when another is queued


@dataclass(frozen=True)
class LoaderMemory:
    """Bytes. decoded: before the pipeline, on the host. prepared: in the pipeline and behind it, on its device."""

    decoded: int
    prepared: int


def loader_memory(spec: ClipSpec, batch_size: int, augment: AugmentConfig, *, on_gpu: bool) -> LoaderMemory:
    """What one loader holds at most in this regime, frames decoded by the host."""
    unit = batch_size * spec.length * spec.size**2 * 3
    operators, floats = 0, BATCHES_AHEAD + 3
    if on_gpu or augment.rand_augment:
        operators += 2  # the clips as they come, and packed
    if augment.rand_augment:
        operators += augment.rand_augment_steps
    if on_gpu:
        operators += sum(bool(on) for on in (augment.jitter or augment.grey, augment.blur, augment.erase))
        floats += 1 + PASSES_BEHIND
    return LoaderMemory(decoded=(BATCHES_AHEAD + 1) * unit, prepared=(operators + 4 * floats) * unit)
