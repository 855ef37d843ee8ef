"""What torch.compile makes of the operators where they are not interpreted: every launch, with what it
writes.

No GPU is needed to trace: the driver names a target, tensors are fake, and nothing is launched.
"""

import operator

import pytest
import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional
from triton.backends.compiler import GPUTarget

from fastplan.benchmarks import aot
from fastplan.kernels import fused, launch
from fastplan.models.blocks import Basic, Bottleneck
from fastplan.models.dg_p3d import DGP3DSpec
from fastplan.models.layers import BatchNorm
from fastplan.ops import Fusable, Operators

pytestmark = pytest.mark.skipif(launch.INTERPRET, reason="the interpreter's operators are opaque")

OUTPUTS = {"y", "index", "gi", "dx", "didentity", "dw", "scale", "shift", "mean", "rstd", "m2", "variance"}
OUTPUTS |= {"inv_count", "first", "second", "tile_mean", "tile_m2", "sum_g", "sum_gx", "sum_gid"}


class AbsentGPU:
    """A Triton driver for a GPU that is not there."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0


@pytest.fixture
def absent_gpu(monkeypatch):
    monkeypatch.setattr(triton.runtime.driver, "_active", AbsentGPU())
    monkeypatch.setattr(launch, "runs_here", lambda x: True)


def record(graphs):
    def compiler(graph, _inputs):
        graphs.append(graph)
        outputs = [node.meta["val"] if node is not None else None for node in graph.graph.output_node().args[0]]

        def run(_arguments):
            return [torch.zeros(v.shape, dtype=v.dtype) if isinstance(v, torch.Tensor) else v for v in outputs]

        run._boxed_call = True
        return run

    return compiler


# The channels of DG-P3D-50 and DG-P3D-18; A, B and C in layer 1.
NETWORKS = {"bottleneck": DGP3DSpec(Bottleneck, (3, 1, 1, 1)), "basic": DGP3DSpec(Basic, (3, 1, 1, 1))}


def launches(graph):
    """(kernel, its constants) of every launch in a graph; whatever else writes memory would show as an operator."""
    found = []
    for node in graph.graph.nodes:
        assert not str(node.target).startswith("fastplan."), f"{node.target} is opaque"
        if node.target is triton_kernel_wrapper_functional:
            kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            constants = kernel_side_table.get_constant_args(node.kwargs["constant_args_idx"])
            found.append((getattr(kernel, "fn", kernel).__name__, {**constants, **node.kwargs["kwargs"]}))
        if node.target is operator.getitem and node.args[0].target is triton_kernel_wrapper_functional:
            assert node.args[1] in OUTPUTS, f"{node.args[1]} is not an output, yet a kernel writes it"
    return found


def trace(spec, mode):
    """The graphs of one pass in bf16: training, with frozen BatchNorms, or evaluation."""
    network, graphs = spec.build(5, 0.0).to(memory_format=torch.channels_last_3d), []
    for module in network.modules():
        if isinstance(module, Fusable):
            module.operators = Operators(fused)
        if isinstance(module, BatchNorm) and mode == "frozen":
            module.freeze(True)
    network.train(mode != "evaluation")
    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=record(graphs), bw_compiler=record(graphs), inference_compiler=record(graphs))
    step = torch.compile(network, backend=backend, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(mode != "evaluation"):
        heads = step(torch.zeros(2, 3, 16, 64, 64))
    if mode != "evaluation":
        sum(head.float().sum() for head in heads).backward()
    return [launches(graph) for graph in graphs]


def flags(constants):
    """What chooses a kernel's code, its tile and channels aside."""
    return frozenset({name for name, value in constants.items() if value is True} | {constants.get("TAPS", 0)})


@pytest.mark.parametrize("mode", ["training", "frozen", "evaluation"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_launch_of_a_step_is_seen_and_compiled_ahead(absent_gpu, name, mode):
    """One graph in each direction, nothing in it opaque, and each variant of a kernel is one that passes the gates."""
    graphs = trace(NETWORKS[name], mode)
    assert len(graphs) == (1 if mode == "evaluation" else 2)
    assert all(len(found) > 15 for found in graphs), [len(found) for found in graphs]
    compiled = {(case.kernel.__name__, flags(case.constants)) for case in aot.cases()}
    used = {(kernel, flags(constants)) for found in graphs for kernel, constants in found}
    assert used <= compiled, [(kernel, sorted(map(str, names))) for kernel, names in used - compiled]


def test_cpu_tensors_are_refused_by_name():
    with pytest.raises(ValueError, match=r"channel_stats: x_NTHWC is on cpu; .*TRITON_INTERPRET=1"):
        fused.channel_stats(torch.zeros(1, 1, 2, 2, 16))
