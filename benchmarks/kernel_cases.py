"""The cases of the kernel benchmark: an operator in one place of the network, with its bytes and FLOP.

Shapes are those of DG-P3D-50 with 16 clips of 16 frames at 224 px, where the stem leaves 4 frames.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from fastplan.benchmarks import kernel_pairs as pairs
from fastplan.benchmarks.kernel_pairs import Inputs, Outputs
from fastplan.kernels import table

Passes = tuple[float, float]
Shape = tuple[int, int, int, int, int]


class Case(NamedTuple):
    """One operator in one place of the network.

    op: its name in `fused` and in `table.use_fused`. shape: of x, N,T,H,W,C. extra: names of the other inputs. outputs:
    channels of a convolution's output, 0 where the output has x's. forward, backward: passes over memory of the fused
    operator, reads plus writes, in units of the input, then of the output.
    """

    name: str
    op: str
    shape: Shape
    extra: tuple[str, ...]
    function: Callable[[ModuleType, Inputs], Outputs]
    eager: Callable[[Inputs], Outputs]
    forward: Passes
    backward: Passes
    outputs: int = 0
    taps: int = 1
    stride: int = 1
    # A pool is checked in fp32: rounding to bf16 makes ties, and ties choose other winners than an fp64
    # reference. So is a ReLU behind two roundings, whose mask an fp64 reference sets elsewhere.
    check_dtype: torch.dtype | None = None

    def inputs(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """Fresh random inputs: activations and packed weights in ``dtype``, vectors in fp32."""
        channels = self.shape[-1]
        wide = self.outputs or channels

        def normal(*size: int, of: torch.dtype = torch.float32) -> Tensor:
            return torch.randn(size, device=device).to(of)

        values = {"x": normal(*self.shape, of=dtype)}
        for name in self.extra:
            if name == "residual":
                values[name] = normal(*self.shape[:-1], wide, of=dtype)
            elif name == "w":
                values[name] = normal(self.taps, channels, wide, of=dtype) / (self.taps * channels) ** 0.5
            elif name == "context":
                values |= {"fc1": normal(wide // 16, wide) / 8, "fc1_bias": normal(wide // 16)}
                values |= {"fc2": normal(wide, wide // 16) / 8, "fc2_bias": normal(wide)}
            elif name == "variance":
                values[name] = normal(wide).square() + 0.5
            else:
                values[name] = normal(channels if name in ("weight", "bias") else wide)
        return values

    def at(self, samples: int, height: int, width: int, *, frames: int | None = None) -> "Case":
        """The same at another size; a pool over time keeps its frames."""
        frames = self.shape[1] if frames is None or self.name == "dual pool" else frames
        return self._replace(shape=(samples, frames, height, width, self.shape[4]))

    def label(self) -> str:
        """Shape of x, and the output's channels where they differ."""
        return "x".join(map(str, self.shape)) + (f"->{self.outputs}" if self.outputs else "")

    def predicted_bytes(self, dtype: torch.dtype, *, backward: bool) -> int:
        """Bytes that the fused operator must move; with ``backward`` those of both directions."""
        passes = [self.forward, self.backward] if backward else [self.forward]
        sizes = (self._positions() * self.shape[4], self._places() * (self.outputs or self.shape[4]))
        elements = sum(count * size for pair in passes for count, size in zip(pair, sizes, strict=True))
        return int(elements * dtype.itemsize)

    def flop(self, *, backward: bool) -> int:
        """Of its convolution, a multiplication and an addition counted as two; 0 where it has none."""
        if self.op not in table.GEMMS:
            return 0
        forward = 2 * self.taps * self._places() * self.shape[4] * (self.outputs or self.shape[4])
        return 3 * forward if backward else forward

    def prediction(self) -> table.Fused:
        """What the dispatch table says of it today."""
        outputs = self.outputs or self.shape[4]
        return table.use_fused(self.op, inputs=self.shape[4], outputs=outputs, taps=self.taps, stride=self.stride)

    def configurations(self) -> int:
        """How many ranks of `table`'s candidates there are; each rank runs one candidate of every kernel involved."""
        channels, outputs = self.shape[4], self.outputs or self.shape[4]
        if self.op not in table.GEMMS:
            return len(table.row_tiles(channels))
        positions, places = self._positions() // self.shape[0], self._places() // self.shape[0]
        tiles = table.gemm_tiles(channels, outputs, places), table.gemm_tiles(outputs, channels, positions)
        return max(*map(len, tiles), len(table.wgrad_tiles(channels, outputs)))

    def _positions(self) -> int:
        n, t, h, w, _ = self.shape
        return n * t * h * w

    def _places(self) -> int:
        n, t, h, w, _ = self.shape
        return n * t * ((h - 1) // self.stride + 1) * ((w - 1) // self.stride + 1)


def cases(tiny: bool = False) -> list[Case]:
    """All cases; ``tiny`` keeps one for every operator in use and shrinks positions and channels."""
    if not tiny:
        return CASES
    kinds = {(case.function, case.extra): case for case in reversed(CASES)}
    made = []
    for case in reversed(kinds.values()):
        wide = case.outputs
        small = case.at(2, 5, 5, frames=2)._replace(outputs=64 if wide > case.shape[4] else 32 if wide else 0)
        made.append(small._replace(shape=(*small.shape[:4], 32)))
    return made


_BN, _BLOCK = ("weight", "bias"), ("weight", "bias", "residual", "context")
_LAYERS = {1: (56, 64), 2: (28, 128), 3: (14, 256), 4: (7, 512)}  # pixels, inner channels


def _layer(number: int, *, expanded: bool = False) -> Shape:
    pixels, channels = _LAYERS[number]
    return 16, 4, pixels, pixels, channels * (4 if expanded else 1)


def _tail(name: str, layer: int, extra: tuple[str, ...], forward: int, backward: int) -> Case:
    shape = _layer(layer, expanded=True)
    return Case(name, "bn_gc_add_relu", shape, extra, pairs.tail, pairs.tail_eager, (forward, 0), (backward, 0))


def _relu(layer: int) -> Case:
    name = f"bn_relu_apply, layer {layer}"
    return Case(name, "bn_relu_apply", _layer(layer), _BN, pairs.relu, pairs.relu_eager, (3, 0), (5, 0))


def _conv3(layer: int) -> Case:
    """Forward: statistics and prologue read x, y is written. Backward: dgrad reads g and x, writes; BN 3; wgrad 2."""
    outputs, functions = 4 * _LAYERS[layer][1], (pairs.conv_after_bn, pairs.conv_after_bn_eager)
    name = f"conv3 after BN, layer {layer}"
    return Case(name, "tap_gemm", _layer(layer), (*_BN, "w"), *functions, (2, 1), (6, 2), outputs)


def _conv1(layer: int) -> Case:
    """Backward: dgrad reads g and the identity's gradient and writes dx, wgrad reads x and g."""
    name, outputs = f"conv1 with identity, layer {layer}", _LAYERS[layer][1]
    shape, functions = _layer(layer, expanded=True), (pairs.fork, pairs.fork_eager)
    return Case(name, "tap_gemm_fork", shape, ("w",), *functions, (1, 1), (3, 2), outputs)


def _block_end(layer: int, *, after_bn: bool = False) -> Case:
    """Forward: the mean and the GEMM read x, the identity is read, y written. Backward: one pass reads g and y and
    writes gi, dgrad reads gi and writes dx, wgrad reads x and gi. After a BN dgrad also reads x, for its mask, and one
    pass more reads and writes dx.
    """
    name = f"block end{' after BN' * after_bn}, layer {layer}"
    extra, functions = ("w", "shift", "residual", "context"), (pairs.block_end, pairs.block_end_eager)
    check_dtype = torch.float32 if after_bn else None  # in bf16 the last mask follows the rounded activation
    shape, outputs, extra = _layer(layer), 4 * _LAYERS[layer][1], (*extra, *(_BN if after_bn else ()))
    backward = (5 if after_bn else 2, 5)
    return Case(name, table.BLOCK_END, shape, extra, *functions, (2, 2), backward, outputs, check_dtype=check_dtype)


def _taps(kind: str, layer: int) -> Case:
    """P3D-B's eleven taps, or P3D-C's three, whose backward also masks."""
    shape = _layer(layer)
    if kind == "B":
        functions = (pairs.p3d_b, pairs.p3d_b_eager)
        return Case(f"P3D-B s + t, layer {layer}", "tap_gemm", shape, ("w",), *functions, (2, 0), (4, 0), taps=11)
    functions = (pairs.p3d_c, pairs.p3d_c_eager)
    return Case(f"P3D-C t, layer {layer}", "tap_gemm", shape, ("w",), *functions, (2, 0), (7, 0), taps=3)


CASES: list[Case] = [
    # forward: statistics read x, the tail reads x and the identity and writes y; backward: 4 + 3
    *(_tail(f"tail, layer {layer}", layer, _BLOCK, 4, 7) for layer in _LAYERS),
    _tail("tail with downsample, layer 1", 1, (*_BLOCK, "id_weight", "id_bias"), 5, 10),
    Case(
        "frozen tail, layer 1",
        "bn_gc_add_relu",
        _layer(1, expanded=True),
        (*_BN, "residual", "mean", "variance"),
        pairs.frozen_tail,
        pairs.frozen_tail_eager,
        (3, 0),
        (6, 0),
    ),
    _relu(1),
    _relu(3),
    Case(
        "stem pool",
        "bn_relu_maxpool",
        (16, 4, 112, 112, 64),
        _BN,
        pairs.stem,
        pairs.stem_eager,
        (2.375, 0),
        (3.75, 0),
        check_dtype=torch.float32,
    ),
    Case(
        "dual pool",
        "bn_relu_maxpool",
        _layer(3, expanded=True),
        (),
        pairs.dual,
        pairs.dual_eager,
        (1.375, 0),
        (1.375, 0),
    ),
    *(_conv3(layer) for layer in _LAYERS),
    *(_conv1(layer) for layer in (1, 2, 3)),
    *(_taps("C", layer) for layer in (1, 2, 3)),
    *(_taps("B", layer) for layer in (1, 2, 3)),
    Case(
        "downsample, layer 2",
        "tap_gemm",
        _layer(1, expanded=True),
        ("w",),
        pairs.downsample,
        pairs.downsample_eager,
        (0.25, 1),
        (1.25, 2),
        512,
        stride=2,
    ),
    # forward: x and the residual are read, y is written; backward: masks 3, dgrad and wgrad 2 each and x
    Case(
        "P3D-B t beside s, folded, layer 1",
        "tap_gemm",
        _layer(1),
        ("w", "shift", "residual"),
        pairs.folded,
        pairs.folded_eager,
        (3, 0),
        (7, 0),
        taps=3,
    ),
    *(_block_end(layer) for layer in _LAYERS),
    _block_end(3, after_bn=True),
]
