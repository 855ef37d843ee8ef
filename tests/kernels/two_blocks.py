"""Two bottlenecks of DG-P3D twice: with the kernels' operators, and with nothing but torch.nn.

Block 1 is P3D-A with an identity, block 2 is P3D-C with spatial stride 2 and a downsample branch; both have
the global context. A pool in front and a linear classifier behind make it a network.
"""

from types import ModuleType

import torch.nn.functional as F
from torch import Tensor, nn

from fastplan.kernels.norm import Context
from fastplan.kernels.taps import pack_taps

WIDTH, INNER = 32, 16


class Block(nn.Module):
    """The parameters of one bottleneck, and its plain forward on N,C,T,H,W."""

    def __init__(self, kind: str, channels: int, stride: int) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride
        self.conv1 = nn.Conv3d(channels, INNER, 1, bias=False)
        self.spatial = nn.Conv3d(INNER, INNER, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.temporal = nn.Conv3d(INNER, INNER, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.conv3 = nn.Conv3d(INNER, WIDTH, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm3d(INNER), nn.BatchNorm3d(INNER), nn.BatchNorm3d(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, WIDTH // 16), nn.Linear(WIDTH // 16, WIDTH)
        self.down = nn.Conv3d(channels, WIDTH, 1, (1, stride, stride), bias=False) if stride == 2 else None
        self.bn_down = nn.BatchNorm3d(WIDTH) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        if self.kind == "A":
            y = self.bn2(self.temporal(self.spatial(y))).relu()
        else:
            y = self.bn2(self.spatial(y)).relu()
            y = (y + self.temporal(y)).relu()
        z = self.bn3(self.conv3(y))
        gc = self.fc2(self.fc1(z.mean((2, 3, 4))).relu())
        identity = x if self.down is None else self.bn_down(self.down(x))
        return (z + gc[..., None, None, None] + identity).relu()


class TwoBlocks(nn.Module):
    """pool, block A, block C, mean, linear: [N, 16, T, H, W] -> logits [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm3d(WIDTH)
        self.blocks = nn.ModuleList([Block("A", WIDTH, 1), Block("C", WIDTH, 2)])
        self.fc = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(self.bn(x).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3, 4)))


def finalize(k: ModuleType, bn: nn.BatchNorm3d, mean: Tensor, m2: Tensor, like: Tensor):
    return k.bn_finalize(
        mean,
        m2,
        bn.weight,
        bn.bias,
        positions=like.shape[1] * like.shape[2] * like.shape[3],
        running_mean_C=bn.running_mean,
        running_var_C=bn.running_var,
    )


def block_forward(k: ModuleType, block: Block, x: Tensor) -> Tensor:
    """`Block.forward` on N,T,H,W,C with the operators of ``k``."""

    def packed(conv):
        return pack_taps(conv.weight).to(x.dtype)

    y, *stats, x = k.tap_gemm_fork(x, packed(block.conv1), stats=True)
    y = k.bn_relu_apply(y, finalize(k, block.bn1, *stats, y))
    flat_NCHW = y.flatten(0, 1).permute(0, 3, 1, 2)
    kernel = block.spatial.weight[:, :, 0].to(x.dtype)
    flat_NCHW = F.conv2d(flat_NCHW, kernel, stride=block.stride, padding=1)
    y = flat_NCHW.permute(0, 2, 3, 1).unflatten(0, y.shape[:2]).contiguous()
    if block.kind == "A":
        y, *stats = k.tap_gemm(y, packed(block.temporal), stats=True)
        y, *stats = k.tap_gemm(y, packed(block.conv3), norm=finalize(k, block.bn2, *stats, y), stats=True)
    else:
        y = k.bn_relu_apply(y, finalize(k, block.bn2, *k.channel_stats(y), y))
        y, *_ = k.tap_gemm(y, packed(block.temporal), add_input=True, relu=True)
        y, *stats = k.tap_gemm(y, packed(block.conv3), stats=True)
    norm, down = finalize(k, block.bn3, *stats, y), None
    if block.down is not None:
        x, *down_stats = k.tap_gemm(x, packed(block.down), stats=True, stride=2)
        down = finalize(k, block.bn_down, *down_stats, x)
    fc1, fc2 = block.fc1, block.fc2
    context = Context(stats[0], fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    return k.bn_gc_add_relu(y, x, norm, context=context, identity_norm=down)


def forward(k: ModuleType, net: TwoBlocks, x_NTHWC: Tensor) -> Tensor:
    """`TwoBlocks.forward` with the operators of ``k``."""
    norm = finalize(k, net.bn, *k.channel_stats(x_NTHWC), x_NTHWC)
    x = k.bn_relu_maxpool(x_NTHWC, norm, window=(1, 3, 3))
    for block in net.blocks:
        x = block_forward(k, block, x)
    return net.fc(x.float().mean((1, 2, 3)))
