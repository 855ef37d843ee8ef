"""Weight gradient of `tap_gemm`: one GEMM per tap over all positions, split into fp32 partial sums.

The prologue is recomputed from the raw input, so that the activation between a BN and its convolution is
never kept. Partial sums are added in a fixed order: no atomics, the same bits in every run.
"""

import triton
import triton.language as tl
from torch import Tensor

from . import table
from .launch import INTERPRET, accumulate_type, positions_of, register, traceable
from .norm import accumulate_dtype
from .rows import relu


@triton.jit
def decode_tap(i, TAPS: tl.constexpr):
    """(dt, dh, dw) of tap i in the order of `taps.TAPS`, by arithmetic: a table would be a load per
    iteration.
    """
    if TAPS == 1:
        return i * 0, i * 0, i * 0
    elif TAPS == 3:
        return i - 1, i * 0, i * 0
    else:
        last = i // 10
        first = 1 - (i + 9) // 10
        spatial = 1 - first - last
        return last - first, spatial * ((i + 2) // 3 - 2), spatial * ((i + 2) % 3 - 1)


@triton.jit
def _tap_wgrad(
    x,
    g,
    dw,
    scale,
    shift,
    T,
    H,
    W,
    OH,
    OW,
    M,
    steps,
    SRC: tl.constexpr,
    DST: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    PROLOGUE: tl.constexpr,
    BM: tl.constexpr,
    BI: tl.constexpr,
    BO: tl.constexpr,
    ACC: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """x [N,T,H,W,SRC], g [N,T,OH,OW,DST], M = N * T * OH * OW -> dw [splits,TAPS,SRC,DST] of partial sums."""
    i = tl.program_id(0) % TAPS  # the taps of one tile start together and share x and g in L2
    q = tl.program_id(0) // TAPS
    s = tl.program_id(1)
    blocks: tl.constexpr = DST // BO
    ci = (q // blocks) * BI + tl.arange(0, BI)
    co = (q % blocks) * BO + tl.arange(0, BO)
    dt, dh, dw_ = decode_tap(i, TAPS)
    acc = tl.zeros((BI, BO), dtype=ACC)
    if PROLOGUE:
        a = tl.load(scale + ci)[None, :]
        b = tl.load(shift + ci)[None, :]
    for r in range(steps):
        m = (s * steps + r) * BM + tl.arange(0, BM)
        ow = m % OW
        oh = (m // OW) % OH
        nt = m // (OW * OH)
        st = nt % T + dt
        sh = oh * STRIDE + dh
        sw = ow * STRIDE + dw_
        inside = m < M
        ok = inside & (st >= 0) & (st < T) & (sh >= 0) & (sh < H) & (sw >= 0) & (sw < W)
        at = (((nt + dt) * H + sh) * W + sw).to(tl.int64) * SRC
        xv = tl.load(x + at[:, None] + ci[None, :], mask=ok[:, None], other=0.0)
        if PROLOGUE:
            xv = tl.where(ok[:, None], relu(xv.to(ACC) * a + b), 0.0).to(x.dtype.element_ty)
        gv = tl.load(g + m.to(tl.int64)[:, None] * DST + co[None, :], mask=inside[:, None], other=0.0)
        if WIDEN:
            xv = xv.to(ACC)
            gv = gv.to(ACC)
        acc = tl.dot(tl.trans(xv), gv, acc, input_precision="ieee", out_dtype=ACC)
    o = (s * TAPS + i).to(tl.int64) * SRC * DST + ci[:, None] * DST + co[None, :]
    tl.store(dw + o, acc)


@register("tap_wgrad")
def wgrad(x: Tensor, g: Tensor, scale: Tensor | None, shift: Tensor | None, taps: int, stride: int) -> Tensor:
    """fp32 [taps, I, O] from the convolution's raw input x (its prologue is scale and shift) and output
    gradient g.
    """
    source, channels = x.shape[-1], g.shape[-1]
    count = g.shape[0] * positions_of(g)
    tile = table.wgrad_tiles(source, channels, x.element_size())[0]
    blocks = taps * (source // tile.inputs) * (channels // tile.outputs)
    programs, steps = table.wgrad_splits(count, blocks, tile)
    partial = x.new_empty((programs, taps, source, channels), dtype=accumulate_dtype(x))
    traceable(_tap_wgrad)[(blocks, programs)](
        x,
        g,
        partial,
        partial if scale is None else scale,
        partial if shift is None else shift,
        *x.shape[1:4],
        *g.shape[2:4],
        count,
        steps,
        SRC=source,
        DST=channels,
        TAPS=taps,
        STRIDE=stride,
        PROLOGUE=scale is not None,
        BM=tile.rows,
        BI=tile.inputs,
        BO=tile.outputs,
        ACC=accumulate_type(x),
        WIDEN=INTERPRET,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return partial.sum(0)


@wgrad.register_fake
def _(x, g, scale, shift, taps, stride):
    return x.new_empty((taps, x.shape[-1], g.shape[-1]), dtype=accumulate_dtype(x))
