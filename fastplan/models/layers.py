"""Convolutions and BatchNorm of (2+1)D networks, each as a 2-D operation on a view.

Activations are [N, C, T, H, W] in channels_last_3d storage, that is N, T, H, W, C in memory. On that storage
[N * T, C, H, W] and [N, C, T, H * W] are channels_last views of four dimensions: no convolution needs conv3d, and
BatchNorm runs on the four-dimensional path. Weights keep the five dimensions of the Conv3d they stand for.
"""

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.ops import merged_batch_norm


class SpatialConv(nn.Conv3d):
    """1 x k x k convolution, stride and padding in space only; k = 1 is the pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        pad = kernel // 2
        super().__init__(
            inputs, outputs, (1, kernel, kernel), (1, stride, stride), (0, pad, pad), groups=groups, bias=False
        )

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C', T, H / stride, W / stride]."""
        frames_FCHW, weight = as_frames(x_NCTHW), self.weight[:, :, 0]
        frames_FCHW = F.conv2d(frames_FCHW, weight, None, self.stride[1:], self.padding[1:], groups=self.groups)
        return as_clips(frames_FCHW, len(x_NCTHW))


class TemporalConv(nn.Conv3d):
    """t x 1 x 1 convolution, padded in time; a spatial stride drops positions first."""

    def __init__(
        self, inputs: int, outputs: int, *, taps: int = 3, stride: int = 1, time_stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            (taps, 1, 1),
            (time_stride, stride, stride),
            (taps // 2, 0, 0),
            groups=groups,
            bias=False,
        )

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C', T / time_stride, H / stride, W / stride]."""
        if self.stride[1] > 1:
            x_NCTHW = x_NCTHW[..., :: self.stride[1], :: self.stride[2]]
            x_NCTHW = x_NCTHW.contiguous(memory_format=torch.channels_last_3d)
        n, c, t, h, w = x_NCTHW.shape
        stride, pad = (self.stride[0], 1), (self.kernel_size[0] // 2, 0)
        y = F.conv2d(x_NCTHW.reshape(n, c, t, h * w), self.weight[..., 0], None, stride, pad, groups=self.groups)
        return y.unflatten(3, (h, w))


class StemConv(nn.Conv3d):
    """t x k x k convolution with temporal stride t and no temporal padding: t frames become channels of one picture."""

    def __init__(self, inputs: int, outputs: int, frames: int, kernel: int, *, stride: int) -> None:
        pad = kernel // 2
        super().__init__(inputs, outputs, (frames, kernel, kernel), (frames, stride, stride), (0, pad, pad), bias=False)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C', T / t, H / stride, W / stride]; T must be a multiple of t."""
        n, c, t, h, w = x_NCTHW.shape
        taps = self.kernel_size[0]
        if t % taps:
            raise ValueError(f"clip of {t} frames; the stem consumes {taps} at a time")
        folded = x_NCTHW.reshape(n, c, t // taps, taps, h, w).permute(0, 2, 3, 1, 4, 5)
        folded = folded.reshape(n * t // taps, taps * c, h, w).contiguous(memory_format=torch.channels_last)
        weight = self.weight.transpose(1, 2).reshape(self.out_channels, taps * c, *self.kernel_size[1:])
        return as_clips(F.conv2d(folded, weight, None, self.stride[1:], self.padding[1:]), n)


class FullConv(nn.Conv3d):
    """t x k x k convolution, padded to keep its size, as conv3d.

    As convolutions of frames it took 1.2 times the CPU time or more (fastplan.benchmarks.bench_full_conv).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int,
        kernel: int,
        *,
        stride: int = 1,
        time_stride: int = 1,
        bias: bool = False,
    ) -> None:
        size, pad = (taps, kernel, kernel), (taps // 2, kernel // 2, kernel // 2)
        super().__init__(inputs, outputs, size, (time_stride, stride, stride), pad, bias=bias)


class BatchNorm(nn.BatchNorm3d):
    """BatchNorm over N, T, H, W that can be frozen: statistics and affine weights then stay as they are.

    group: name of the process group over which the batch's statistics are merged, empty for this process alone.
    """

    frozen = False
    group = ""

    def freeze(self, frozen: bool) -> None:
        """Freeze or thaw statistics and affine weights."""
        self.frozen = frozen
        self.weight.requires_grad_(not frozen)
        self.bias.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "BatchNorm":
        """Training mode, except where frozen."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """Normalise; in training, with the batch's statistics, which also move the running ones."""
        if self.group and self.training:
            return merged_batch_norm(self, x_NCTHW)
        frames = F.batch_norm(
            as_frames(x_NCTHW),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return as_clips(frames, len(x_NCTHW))


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    """Every BatchNorm of a network."""
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def as_frames(x_NCTHW: torch.Tensor) -> torch.Tensor:
    """View clips [N, C, T, H, W] as frames [N * T, C, H, W]."""
    n, c, t, h, w = x_NCTHW.shape
    return x_NCTHW.transpose(1, 2).reshape(n * t, c, h, w)


def as_clips(frames_FCHW: torch.Tensor, clips: int) -> torch.Tensor:
    """View frames [N * T, C, H, W] as clips [N, C, T, H, W]."""
    return frames_FCHW.reshape(clips, -1, *frames_FCHW.shape[1:]).transpose(1, 2)


def pool_space(x_NCTHW: torch.Tensor, kernel: int = 3, *, stride: int = 2, pad: int = 1) -> torch.Tensor:
    """Max-pool of every frame."""
    return as_clips(F.max_pool2d(as_frames(x_NCTHW), kernel, stride, pad), len(x_NCTHW))


def pool_time(x_NCTHW: torch.Tensor, taps: int, *, stride: int, pad: int = 0) -> torch.Tensor:
    """Max-pool over frames, position by position."""
    pooled = F.max_pool2d(x_NCTHW.flatten(3), (taps, 1), (stride, 1), (pad, 0))
    return pooled.unflatten(3, x_NCTHW.shape[3:])


def initialise(network: nn.Module) -> None:
    """Draw the weights of every convolution for layers that end in a ReLU; biases become zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
