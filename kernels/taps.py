"""Temporal and merged convolutions as lists of taps (dt, dh, dw) around the output position.

Padding is "same": a tap outside the clip contributes nothing. With spatial stride s the output position (t,
h, w) lies at (t, h*s, w*s) of the input.
"""

import torch
from torch import Tensor

from .norm import Norm

CENTRE = ((0, 0, 0),)
TEMPORAL = ((-1, 0, 0), (0, 0, 0), (1, 0, 0))
SPATIAL = tuple((0, dh, dw) for dh in (-1, 0, 1) for dw in (-1, 0, 1))
P3D_B = (TEMPORAL[0], *SPATIAL, TEMPORAL[2])  # the two centre taps coincide at every stride: 11 taps, not 12

TAPS = {1: CENTRE, 3: TEMPORAL, 11: P3D_B}
KERNEL_SHAPE = {1: (1, 1, 1), 3: (3, 1, 1), 11: (3, 3, 3)}


def pack_taps(weight_OITHW: Tensor) -> Tensor:
    """A 1x1x1 or 3x1x1 convolution weight [O,I,T,1,1] as [taps,I,O], in its dtype; differentiable.

    Raises ValueError for another kernel size.
    """
    if tuple(weight_OITHW.shape[2:]) not in ((1, 1, 1), (3, 1, 1)):
        raise ValueError(f"pack_taps: kernel {tuple(weight_OITHW.shape[2:])}; it must be (1, 1, 1) or (3, 1, 1)")
    return weight_OITHW.flatten(2).permute(2, 1, 0).contiguous()


def pack_p3d_b(spatial_OI133: Tensor, temporal_OI311: Tensor) -> Tensor:
    """Weights of ``s(x) + t(x)`` as 11 taps [11,I,O]; the centres add in the weights' own dtype, so pass
    fp32.
    """
    if tuple(spatial_OI133.shape[2:]) != (1, 3, 3) or tuple(temporal_OI311.shape[2:]) != (3, 1, 1):
        raise ValueError(
            f"pack_p3d_b: kernels {tuple(spatial_OI133.shape[2:])} and {tuple(temporal_OI311.shape[2:])}; "
            "they must be (1, 3, 3) and (3, 1, 1)"
        )
    spatial, temporal = spatial_OI133.flatten(2).permute(2, 1, 0), pack_taps(temporal_OI311)
    centre = spatial[4:5] + temporal[1:2]
    return torch.cat([temporal[:1], spatial[:4], centre, spatial[5:], temporal[2:]])


def fold_norm(weight_KIO: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """(weight, bias) of a convolution with the frozen BN behind it folded in: scale * weight and shift.

    Pass the fp32 weight and cast the result: scaling after the cast would round twice.
    """
    return weight_KIO * norm.scale, norm.shift


def dense_kernel(weight_KIO: Tensor) -> Tensor:
    """The packed weight as an ordinary convolution kernel [O,I,T,H,W]; 11 taps become 3x3x3 with 16 zeros."""
    taps, shape = TAPS[weight_KIO.shape[0]], KERNEL_SHAPE[weight_KIO.shape[0]]
    at = [((dt + shape[0] // 2) * shape[1] + dh + shape[1] // 2) * shape[2] + dw + shape[2] // 2 for dt, dh, dw in taps]
    size = shape[0] * shape[1] * shape[2]
    dense = weight_KIO.new_zeros(size, *weight_KIO.shape[1:]).index_copy(
        0, torch.tensor(at, device=weight_KIO.device), weight_KIO
    )
    return dense.permute(2, 1, 0).unflatten(2, shape)


def output_shape(x_NTHWC: Tensor, channels: int, stride: int) -> tuple[int, int, int, int, int]:
    """N,T,H,W,C of a convolution's output with "same" padding."""
    n, t, h, w, _ = x_NTHWC.shape
    return n, t, (h - 1) // stride + 1, (w - 1) // stride + 1, channels


def check_convolution(op: str, x_NTHWC: Tensor, weight_KIO: Tensor, stride: int) -> None:
    """Raise ValueError unless the weight is [1 or 3 or 11, I, O], contiguous, of x's dtype, I and O in
    sixteens.
    """
    w, channels = weight_KIO, x_NTHWC.shape[-1]
    if w.ndim != 3 or w.shape[0] not in TAPS or w.shape[1] != channels:
        raise ValueError(f"{op}: weight_KIO has shape {tuple(w.shape)}; it must be (1 or 3 or 11, {channels}, O)")
    if w.shape[1] % 16 or w.shape[2] % 16:
        raise ValueError(f"{op}: {w.shape[1]} -> {w.shape[2]} channels; both must be multiples of 16")
    if w.dtype != x_NTHWC.dtype or w.device != x_NTHWC.device:
        raise ValueError(f"{op}: weight_KIO is {w.dtype} on {w.device}, x {x_NTHWC.dtype} on {x_NTHWC.device}")
    if not w.is_contiguous():
        raise ValueError(f"{op}: weight_KIO is not contiguous")
    if stride not in (1, 2):
        raise ValueError(f"{op}: stride {stride}; it must be 1 or 2")
