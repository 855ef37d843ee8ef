"""How every kernel here is registered, launched and guarded.

Activations are contiguous ``x_NTHWC``: the storage of a channels_last_3d video tensor, seen through
``x_NCTHW.permute(0, 2, 3, 4, 1)`` without a copy. Arithmetic is fp32 (fp64 for fp64 tensors, which only the
interpreter accepts); results are rounded once, when they are stored.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .norm import Norm, accumulate_dtype

# Read once: @triton.jit chooses the interpreter when a module is imported, so a later change of
# TRITON_INTERPRET would leave half of the kernels on either side.
INTERPRET: bool = bool(triton.knobs.runtime.interpret)

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def register(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: the operator ``fastplan::name``.

    A ``triton_op`` is traced through by torch.compile, which needs the compiler's kernels; the interpreter
    cannot run on fake tensors, so there the operator is opaque.
    """
    kind = torch.library.custom_op if INTERPRET else torch.library.triton_op
    return kind(f"fastplan::{name}", mutates_args=())


def traceable(kernel: Any) -> Any:
    """The kernel as torch.compile wants to see it launched."""
    return kernel if INTERPRET else torch.library.wrap_triton(kernel)


def accumulate_type(x: Tensor) -> tl.dtype:
    """`accumulate_dtype` as a Triton constant."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def runs_here(x: Tensor) -> bool:
    """Whether a kernel can be launched on x: on a CUDA tensor, or anywhere under the interpreter."""
    return x.is_cuda or INTERPRET


def check_activations(op: str, **named: Tensor | None) -> None:
    """Reject what the kernels cannot address.

    Raises ValueError when a tensor is not 5-D contiguous N,T,H,W,C, differs in dtype or device from the first
    one, has an unsupported dtype, has more than 2**31 - 1 elements per sample, or lies where no kernel can
    run.
    """
    first: Tensor | None = None
    for name, x in named.items():
        if x is None:
            continue
        if x.ndim != 5:
            raise ValueError(f"{op}: {name} has {x.ndim} dimensions; it must be N,T,H,W,C")
        if not x.is_contiguous():
            raise ValueError(
                f"{op}: {name} has strides {tuple(x.stride())} for shape {tuple(x.shape)}; it must be "
                "contiguous N,T,H,W,C, which is x.permute(0, 2, 3, 4, 1) of a channels_last_3d tensor"
            )
        if x.dtype not in FLOATS:
            raise ValueError(f"{op}: {name} is {x.dtype}; use bfloat16, float16 or float32")
        if x.dtype == torch.float64 and not INTERPRET:
            raise ValueError(f"{op}: {name} is float64, which only the interpreter runs; use the reference")
        if x.numel() == 0:
            raise ValueError(f"{op}: {name} is empty, shape {tuple(x.shape)}")
        if x.numel() // x.shape[0] >= 2**31:
            raise ValueError(f"{op}: one sample of {name} has 2**31 elements or more; use a shorter clip")
        if not runs_here(x):
            raise ValueError(
                f"{op}: {name} is on {x.device}; the kernels run on CUDA tensors (TRITON_INTERPRET=1 "
                "interprets them on the CPU); fastplan.kernels.reference computes the same anywhere"
            )
        if first is None:
            first = x
        elif x.dtype != first.dtype or x.device != first.device:
            raise ValueError(f"{op}: {name} is {x.dtype} on {x.device}, not {first.dtype} on {first.device}")


def positions_of(x_NTHWC: Tensor) -> int:
    """T * H * W."""
    return x_NTHWC.shape[1] * x_NTHWC.shape[2] * x_NTHWC.shape[3]


def check_norm(op: str, like: Tensor, **named: Norm | None) -> None:
    """Raise ValueError unless every Norm fits the channels, accumulation dtype and device of ``like``."""
    shape = (like.shape[-1],)
    for name, norm in named.items():
        if norm is not None:
            vectors = {f"{name}.{field}": (getattr(norm, field), shape) for field in Norm._fields[:4]}
            check_vectors(op, like, **vectors, **{f"{name}.inv_count": (norm.inv_count, (1,))})


def check_same_shape(op: str, **named: Tensor | None) -> None:
    """Raise ValueError unless all the given tensors have one shape."""
    shapes = {name: tuple(x.shape) for name, x in named.items() if x is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{op}: shapes differ: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))


def check_vectors(op: str, like: Tensor, **named: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Raise ValueError unless every small tensor has its shape and the accumulation dtype and device of
    ``like``.
    """
    dtype = accumulate_dtype(like)
    for name, (vector, shape) in named.items():
        if vector is None:
            continue
        if tuple(vector.shape) != shape:
            raise ValueError(f"{op}: {name} has shape {tuple(vector.shape)}; it must be {shape}")
        if vector.dtype != dtype or vector.device != like.device:
            raise ValueError(f"{op}: {name} is {vector.dtype} on {vector.device}; it must be {dtype} on {like.device}")
        if not vector.is_contiguous():
            raise ValueError(f"{op}: {name} is not contiguous")
