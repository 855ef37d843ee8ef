"""The arithmetic of a step: fp32, bf16 or fp16, on the CPU or on a GPU.

One of three places that know the device (with the loader and ops).
"""

import contextlib
import time
from dataclasses import dataclass

import torch
from torch import nn

from fastplan.clips import ClipSpec
from fastplan.errors import UserError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ADVANTAGE = 1.2  # bf16 must be this much faster than fp32 on the CPU to be worth its rounding


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

    def peak_bytes(self) -> int:
        """Most memory that was allocated on the GPU since the last call, 0 on the CPU."""
        if self.device.type != "cuda":
            return 0
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


def choose_device(asked: str) -> tuple[torch.device, str]:
    """The device and why. Raises `UserError` where a GPU is asked for and there is none."""
    if asked == "cpu":
        return torch.device("cpu"), "as asked"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if asked == "cuda":
        raise UserError("there is no CUDA GPU that PyTorch can use; run `fastplan doctor`, or give --device cpu")
    return torch.device("cpu"), "no CUDA GPU found"


def choose_precision(
    asked: str, network: nn.Module, clip: ClipSpec, batch_size: int, device: torch.device
) -> Precision:
    """Resolve `auto`: on a GPU bf16 if it has it, else fp16; on the CPU the faster of fp32 and bf16, measured."""
    if asked == "fp16" and device.type == "cpu":
        raise UserError("train.precision is fp16, which the CPU does not train in; use fp32, bf16 or auto")
    if asked != "auto":
        return Precision(asked, device, "as configured")
    if device.type == "cuda":
        name = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return Precision(name, device, "the GPU's own 16-bit format")
    seconds = {name: _step_seconds(Precision(name, device, ""), network, clip, batch_size) for name in ("fp32", "bf16")}
    name = "bf16" if seconds["bf16"] * _ADVANTAGE < seconds["fp32"] else "fp32"
    measured = ", ".join(f"{key} {1e3 * value:.0f} ms" for key, value in seconds.items())
    return Precision(name, device, f"measured per step of {batch_size} clips: {measured}")


def _step_seconds(precision: Precision, network: nn.Module, clip: ClipSpec, batch_size: int) -> float:
    """Fastest of three training steps on zeros; gradients are dropped again, weights and statistics untouched."""
    clips_NCTHW = torch.zeros(batch_size, clip.length, clip.size, clip.size, 3).permute(0, 4, 1, 2, 3)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        with precision.autocast():
            loss = sum(logits.float().sum() for logits in network(clips_NCTHW))
        loss.backward()
        times.append(time.perf_counter() - begin)
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, value in network.named_buffers():
            value.copy_(buffers[name])
    return min(times)
