"""How a batch passes from the thread that makes it on a GPU to the one that trains on it; on the CPU nothing is done.

DALI frees the memory of its outputs in the order of a stream of its own, whoever has borrowed them, and a trainer lets
go of a batch long before the GPU has read it. So a batch is made in a stream beside the trainer's, which waits for DALI
and not for training, in memory whose readers PyTorch knows, and it is complete when it is handed over.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


class Handover:
    """Of the batches of one loader on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._making = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def making(self) -> Iterator[None]:
        """What the calling thread computes in this block is computed when the block ends."""
        if self._making is None:
            yield
            return
        # Leaving a stream sets the device that the thread had before, 0 in a new one, where every rank would begin to
        # hold memory; leaving a device does not.
        with torch.cuda.device(self._making.device), torch.cuda.stream(self._making):
            yield
            self._making.synchronize()

    def own(self, borrowed: torch.Tensor) -> torch.Tensor:
        """A tensor in DALI's memory as one in PyTorch's, with the same strides; while `making`."""
        if self._making is None:
            return borrowed
        owned = borrowed.clone()
        self._making.synchronize()  # before the caller lets go of what was borrowed
        return owned

    def take(self, tensors: Iterable[torch.Tensor]) -> None:
        """The calling thread's stream reads them from now on; their memory is not used again before it has."""
        if self._making is not None:
            for tensor in tensors:
                tensor.record_stream(torch.cuda.current_stream(self._device))
