"""What torch.compile makes of the operators where they are not interpreted: every launch, with what it
writes.

No GPU is needed to trace: the driver names a target, tensors are fake, and nothing is launched.
"""

import operator

import pytest
import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional
from triton.backends.compiler import GPUTarget
from two_blocks import WIDTH, TwoBlocks, forward

from fastplan.kernels import fused, launch

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


def test_training_step_is_one_graph_of_launches(absent_gpu):
    graphs = []
    backend = aot_autograd(fw_compiler=record(graphs), bw_compiler=record(graphs))
    step = torch.compile(lambda net, x: forward(fused, net, x), backend=backend, fullgraph=True)
    step(TwoBlocks(), torch.zeros(2, 3, 8, 8, WIDTH, dtype=torch.bfloat16)).sum().backward()
    assert len(graphs) == 2
    launches = [
        [node for node in graph.graph.nodes if node.target is triton_kernel_wrapper_functional] for graph in graphs
    ]
    # forward: pool and 8 statistics or convolutions per block with their merges; nothing may be left opaque
    assert all(len(nodes) > 15 for nodes in launches), [len(nodes) for nodes in launches]
    for graph in graphs:
        assert not [node for node in graph.graph.nodes if str(node.target).startswith("fastplan.")]
        for node in graph.graph.nodes:
            if node.target is operator.getitem and node.args[0].target is triton_kernel_wrapper_functional:
                assert node.args[1] in OUTPUTS, f"{node.args[1]} is not an output, yet a kernel writes it"


def test_cpu_tensors_are_refused_by_name():
    with pytest.raises(ValueError, match=r"channel_stats: x_NTHWC is on cpu; .*TRITON_INTERPRET=1"):
        fused.channel_stats(torch.zeros(1, 1, 2, 2, 16))
