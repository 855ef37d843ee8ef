"""The cases of the kernel benchmark: an operator as the network uses it, eager PyTorch for the same, its
bytes.

Shapes are those of DG-P3D-50 with 16 clips of 16 frames at 224 px, where the stem leaves 4 frames.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastplan.kernels.norm import Context, Norm

Inputs = dict[str, Tensor]


class Case(NamedTuple):
    """``passes_forward`` and ``passes_backward`` count reads and writes in units of the input, then of the
    output.
    """

    name: str
    shape: tuple[int, int, int, int, int]
    outputs: int  # channels of a convolution's output; 0 where the output has x's shape
    extra: tuple[str, ...]
    function: Callable[[ModuleType, Inputs], Tensor]
    eager: Callable[[Inputs], Tensor]
    passes_forward: tuple[float, float]
    passes_backward: tuple[float, float]
    taps: int = 1
    # A pool is checked in fp32: rounding to bf16 makes ties, and ties choose other winners than an fp64
    # reference.
    check_dtype: torch.dtype | None = None

    def inputs(self, samples: int, device: torch.device, dtype: torch.dtype) -> Inputs:
        """Fresh random inputs: activations and packed weights in ``dtype``, vectors in fp32."""
        shape, channels = (samples, *self.shape[1:]), self.shape[-1]
        wide = self.outputs or channels

        def normal(*size: int, of: torch.dtype = torch.float32) -> Tensor:
            return torch.randn(size, device=device).to(of)

        values = {"x": normal(*shape, of=dtype)}
        for name in self.extra:
            if name == "residual":
                values[name] = normal(*shape[:-1], wide, of=dtype)
            elif name == "w":
                values[name] = normal(self.taps, channels, wide, of=dtype) / (self.taps * channels) ** 0.5
            elif name == "context":
                values |= {"fc1": normal(wide // 16, wide) / 8, "fc1_bias": normal(wide // 16)}
                values |= {"fc2": normal(wide, wide // 16) / 8, "fc2_bias": normal(wide)}
            else:
                values[name] = normal(channels if name in ("weight", "bias") else wide)
        return values

    def predicted_bytes(self, dtype: torch.dtype, *, backward: bool) -> int:
        """Bytes that the fused operator must move; with ``backward`` those of both directions."""
        positions = self.shape[0] * self.shape[1] * self.shape[2] * self.shape[3]
        sizes = (positions * self.shape[4], positions * (self.outputs or self.shape[4]))
        passes = [self.passes_forward, self.passes_backward] if backward else [self.passes_forward]
        elements = sum(count * size for pair in passes for count, size in zip(pair, sizes, strict=True))
        return int(elements * dtype.itemsize)


def cases(tiny: bool) -> list[Case]:
    """All cases; ``tiny`` keeps each but shrinks positions and channels."""
    made = []
    for case in _CASES:
        _, t, h, w, channels = case.shape
        if tiny:
            shape = (2, t, 5 if h == w else h, 5, 32)
            case = case._replace(shape=shape, outputs=64 if case.outputs > channels else 32 if case.outputs else 0)
        made.append(case)
    return made


def _finalize(k: ModuleType, stats: tuple[Tensor, Tensor], v: Inputs, prefix: str, x: Tensor) -> Norm:
    return k.bn_finalize(*stats, v[prefix + "weight"], v[prefix + "bias"], positions=x[0, ..., 0].numel())


def _batch_norm(x_NTHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Training BN on the 4-D channels-last view, PyTorch's fastest layout for it."""
    flat = x_NTHWC.flatten(0, 1).permute(0, 3, 1, 2)
    return F.batch_norm(flat, None, None, weight, bias, True).permute(0, 2, 3, 1).unflatten(0, x_NTHWC.shape[:2])


def _conv(x_NTHWC: Tensor, w_KIO: Tensor) -> Tensor:
    """1x1x1 as a matrix product, 3x1x1 as a conv2d over (T, H*W)."""
    if w_KIO.shape[0] == 1:
        return x_NTHWC @ w_KIO[0]
    flat = x_NTHWC.flatten(2, 3).permute(0, 3, 1, 2)
    y = F.conv2d(flat, w_KIO.permute(2, 1, 0)[..., None], padding=(1, 0))
    return y.permute(0, 2, 3, 1).unflatten(2, x_NTHWC.shape[2:4])


def _tail(k: ModuleType, v: Inputs) -> Tensor:
    stats = k.channel_stats(v["x"])
    norm = _finalize(k, stats, v, "", v["x"])
    context = Context(stats[0], v["fc1"], v["fc1_bias"], v["fc2"], v["fc2_bias"])
    down = None
    if "id_weight" in v:
        down = _finalize(k, k.channel_stats(v["residual"]), v, "id_", v["residual"])
    return k.bn_gc_add_relu(v["x"], v["residual"], norm, context=context, identity_norm=down)


def _tail_eager(v: Inputs) -> Tensor:
    z = _batch_norm(v["x"], v["weight"], v["bias"])
    pooled = z.mean((1, 2, 3)).to(v["fc1"].dtype)
    gc = F.linear(F.linear(pooled, v["fc1"], v["fc1_bias"]).relu(), v["fc2"], v["fc2_bias"])
    identity = v["residual"]
    if "id_weight" in v:
        identity = _batch_norm(identity, v["id_weight"], v["id_bias"])
    return (z + gc.to(z.dtype)[:, None, None, None] + identity).relu()


def _relu(k: ModuleType, v: Inputs) -> Tensor:
    return k.bn_relu_apply(v["x"], _finalize(k, k.channel_stats(v["x"]), v, "", v["x"]))


def _relu_eager(v: Inputs) -> Tensor:
    return _batch_norm(v["x"], v["weight"], v["bias"]).relu()


def _stem(k: ModuleType, v: Inputs) -> Tensor:
    norm = _finalize(k, k.channel_stats(v["x"]), v, "", v["x"])
    return k.bn_relu_maxpool(v["x"], norm, window=(1, 3, 3))


def _stem_eager(v: Inputs) -> Tensor:
    flat = _relu_eager(v).flatten(0, 1).permute(0, 3, 1, 2)
    return F.max_pool2d(flat, 3, 2, 1).permute(0, 2, 3, 1).unflatten(0, v["x"].shape[:2])


def _dual(k: ModuleType, v: Inputs) -> Tensor:
    return k.bn_relu_maxpool(v["x"], None, window=(4, 1, 1))


def _dual_eager(v: Inputs) -> Tensor:
    moved = v["x"].permute(0, 4, 1, 2, 3)
    return F.max_pool3d(moved, (4, 1, 1), (4, 1, 1)).permute(0, 2, 3, 4, 1)


def _conv_after_bn(k: ModuleType, v: Inputs) -> Tensor:
    """The statistics of x are read here but come from an epilogue in the network: one read more than
    predicted.
    """
    norm = _finalize(k, k.channel_stats(v["x"]), v, "", v["x"])
    return k.tap_gemm(v["x"], v["w"], norm=norm, stats=True)[0]


def _conv_after_bn_eager(v: Inputs) -> Tensor:
    return _conv(_relu_eager(v), v["w"])


def _p3d_c(k: ModuleType, v: Inputs) -> Tensor:
    return k.tap_gemm(v["x"], v["w"], add_input=True, relu=True)[0]


def _p3d_c_eager(v: Inputs) -> Tensor:
    return (v["x"] + _conv(v["x"], v["w"])).relu()


def _evaluation(k: ModuleType, v: Inputs) -> Tensor:
    return k.tap_gemm(v["x"], v["w"], bias_C=v["shift"], residual_NTHWC=v["residual"], relu=True)[0]


def _evaluation_eager(v: Inputs) -> Tensor:
    return (_conv(v["x"], v["w"]) + v["shift"].to(v["x"].dtype) + v["residual"]).relu()


_BN, _BLOCK = ("weight", "bias"), ("weight", "bias", "residual", "context")
_LAYERS = {1: (56, 64), 2: (28, 128), 3: (14, 256), 4: (7, 512)}  # pixels, inner channels


def _layer(number: int, expanded: bool = False) -> tuple[int, int, int, int, int]:
    pixels, channels = _LAYERS[number]
    return 16, 4, pixels, pixels, channels * (4 if expanded else 1)


_CASES: list[Case] = [
    # forward: statistics read x, the tail reads x and the identity and writes y; backward: 4 + 3
    *(Case(f"tail, layer {i}", _layer(i, True), 0, _BLOCK, _tail, _tail_eager, (4, 0), (7, 0)) for i in _LAYERS),
    Case(
        "tail with downsample, layer 1",
        _layer(1, True),
        0,
        (*_BLOCK, "id_weight", "id_bias"),
        _tail,
        _tail_eager,
        (5, 0),
        (10, 0),
    ),
    *(Case(f"bn_relu_apply, layer {i}", _layer(i), 0, _BN, _relu, _relu_eager, (3, 0), (5, 0)) for i in (1, 3)),
    Case(
        "stem pool",
        (16, 4, 112, 112, 64),
        0,
        _BN,
        _stem,
        _stem_eager,
        (2.375, 0),
        (3.75, 0),
        1,
        torch.float32,
    ),
    Case("dual pool", _layer(3, True), 0, (), _dual, _dual_eager, (1.375, 0), (1.375, 0)),
    # forward: statistics and prologue read x, y is written; backward: dgrad reads g and x, writes; BN 3;
    # wgrad 2
    *(
        Case(
            f"conv3 after BN, layer {i}",
            _layer(i),
            4 * _LAYERS[i][1],
            (*_BN, "w"),
            _conv_after_bn,
            _conv_after_bn_eager,
            (2, 1),
            (6, 2),
        )
        for i in _LAYERS
    ),
    *(Case(f"P3D-C t, layer {i}", _layer(i), 0, ("w",), _p3d_c, _p3d_c_eager, (2, 0), (7, 0), 3) for i in (1, 2, 3)),
    Case(
        "evaluation, layer 1",
        _layer(1),
        256,
        ("w", "shift", "residual"),
        _evaluation,
        _evaluation_eager,
        (1, 2),
        (2, 6),
    ),
]
