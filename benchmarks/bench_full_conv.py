"""Three ways to compute a 3 x 3 x 3 convolution on channels-last clips of I3D-50, equal before they are timed.

    python -m fastplan.benchmarks.bench_full_conv

Prints CPU milliseconds of a forward and of a forward and backward pass on one core, the fastest of 7, as Markdown.
"""

import platform
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from fastplan.models.layers import as_clips, as_frames

SHAPES = (  # inputs, outputs, frames, side, stride; two clips
    (64, 64, 4, 28, 1),
    (128, 128, 4, 14, 1),
    (256, 256, 4, 14, 2),
    (512, 512, 4, 7, 1),
    (64, 128, 8, 28, 1),
)
ROUNDS = 7

Conv = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def conv3d(x_NCTHW: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """As it is."""
    return F.conv3d(x_NCTHW, weight, None, (1, stride, stride), 1)


def summed(x_NCTHW: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """A conv2d of the frames for each temporal tap; the outer ones shifted by a frame and added."""
    y = as_clips(F.conv2d(as_frames(x_NCTHW), weight[:, :, 1], None, stride, 1), len(x_NCTHW))
    before = as_clips(F.conv2d(as_frames(x_NCTHW[:, :, :-1]), weight[:, :, 0], None, stride, 1), len(x_NCTHW))
    after = as_clips(F.conv2d(as_frames(x_NCTHW[:, :, 1:]), weight[:, :, 2], None, stride, 1), len(x_NCTHW))
    return y + F.pad(before, (0, 0, 0, 0, 1, 0)) + F.pad(after, (0, 0, 0, 0, 0, 1))


def stacked(x_NCTHW: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """One conv2d of three frames stacked as channels."""
    frames = x_NCTHW.shape[2]
    x_NTHWC = F.pad(x_NCTHW.permute(0, 2, 3, 4, 1), (0, 0, 0, 0, 0, 0, 1, 1))
    x_FHWC = torch.cat([x_NTHWC[:, tap : tap + frames] for tap in range(3)], -1).flatten(0, 1)
    y = F.conv2d(x_FHWC.permute(0, 3, 1, 2), weight.transpose(1, 2).flatten(1, 2), None, stride, 1)
    return as_clips(y, len(x_NCTHW))


def cpu_ms(conv: Conv, x: torch.Tensor, weight: torch.Tensor, stride: int) -> tuple[float, float]:
    """CPU milliseconds of a forward pass and of a whole step."""
    forward, step = [], []
    for _ in range(ROUNDS + 2):
        begin = time.process_time()
        y = conv(x, weight, stride)
        middle = time.process_time()
        y.backward(torch.ones_like(y))
        forward.append(1e3 * (middle - begin))
        step.append(1e3 * (time.process_time() - begin))
    return min(forward[2:]), min(step[2:])


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.machine()}, one core, fastest of {ROUNDS}; forward / step in CPU ms\n")
    print("| inputs, outputs, frames, side, stride | conv3d | sum of conv2d | stacked conv2d |\n|---|---|---|---|")
    for shape in SHAPES:
        inputs, outputs, frames, side, stride = shape
        x = torch.randn(2, inputs, frames, side, side).to(memory_format=torch.channels_last_3d).requires_grad_()
        weight = torch.randn(outputs, inputs, 3, 3, 3).div(5 * inputs**0.5)
        weight = weight.to(memory_format=torch.channels_last_3d).requires_grad_()
        wanted, cells = conv3d(x, weight, stride), []
        for conv in (conv3d, summed, stacked):
            torch.testing.assert_close(conv(x, weight, stride), wanted, rtol=1e-4, atol=1e-4)
            forward, step = cpu_ms(conv, x, weight, stride)
            cells.append(f"{forward:.1f} / {step:.1f}")
        print(f"| {', '.join(map(str, shape))} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
