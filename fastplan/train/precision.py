"""The arithmetic of a step: fp32, bf16 or fp16, on the CPU or on a GPU; and how far a GPU may fall behind.

One of three places that know the device (with the loader and ops).
"""

import contextlib
from collections import deque
from dataclasses import dataclass

import torch

from fastplan.data.memory import PASSES_BEHIND
from fastplan.errors import UserError
from fastplan.train.distributed import ALONE, Ranks

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """name: fp32, bf16 or fp16. device: where. why: how it was chosen, in words."""

    name: str
    device: torch.device
    why: str

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Context for forward passes."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaler: active for fp16, transparent for the others."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    def pace(self) -> "Pace":
        """Of an epoch on this device."""
        return Pace(self.device)

    def peak_bytes(self) -> int:
        """Most memory that was allocated on the GPU since the last call, 0 on the CPU."""
        if self.device.type != "cuda":
            return 0
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


class Pace:
    """Keeps whoever queues passes over a network at most `PASSES_BEHIND` of them ahead of the GPU.

    Unbounded, every batch that is queued would be held in the GPU's memory until it is read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queued: deque[torch.cuda.Event] = deque()

    def passed(self) -> None:
        """A pass is queued. Waits for those before the last ones; on the CPU it is done already."""
        if self._device.type != "cuda":
            return
        self._queued.append(torch.cuda.Event(blocking=True))
        self._queued[-1].record(torch.cuda.current_stream(self._device))
        if len(self._queued) > PASSES_BEHIND:
            self._queued.popleft().synchronize()


def choose_device(asked: str, ranks: Ranks = ALONE) -> tuple[torch.device, str]:
    """The device and why; each rank of a machine has a GPU of its own.

    Raises `UserError` where a GPU is asked for and there is none, or fewer than ranks.
    """
    if asked == "cpu":
        return torch.device("cpu"), "as asked"
    if torch.cuda.is_available() and ranks.world > 1:
        if ranks.local_world > torch.cuda.device_count():
            raise UserError(
                f"torchrun started {ranks.local_world} ranks on a machine with {torch.cuda.device_count()} GPUs, and "
                "each wants its own: lower --nproc-per-node, or give --device cpu"
            )
        torch.cuda.set_device(ranks.local_rank)
        return torch.device("cuda", ranks.local_rank), torch.cuda.get_device_name()
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if asked == "cuda":
        raise UserError("there is no CUDA GPU that PyTorch can use; run `fastplan doctor`, or give --device cpu")
    return torch.device("cpu"), "no CUDA GPU found"


def choose_precision(asked: str, device: torch.device) -> Precision:
    """Resolve `auto`: on a GPU bf16 if it has it, else fp16; on the CPU fp32.

    On the CPU nothing is timed: a choice that hangs on the moment would give one seed two trainings. Raises `UserError`
    for fp16 on the CPU.
    """
    if asked == "fp16" and device.type == "cpu":
        raise UserError("train.precision is fp16, which the CPU does not train in; use fp32, bf16 or auto")
    if asked != "auto":
        return Precision(asked, device, "as configured")
    if device.type == "cuda":
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return Precision(name, device, "the GPU's own 16-bit format")
    return Precision("fp32", device, "on every CPU; some train faster with train.precision=bf16")
