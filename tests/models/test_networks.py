"""The family against the facts of METHOD section 3."""

import pytest
import torch
import torch.nn.functional as F

from fastplan.errors import UserError
from fastplan.models.blocks import Bottleneck, PseudoConv
from fastplan.models.networks import NETWORKS, build_network

COUNTED = {  # on the authors' code, 400 classes
    "dg_p3d_50": 50_382_288,
    "dg_p3d_101": 74_963_472,
    "dg_p3d_103": 75_064_208,
    "dg_p3d_152": 95_210_960,
    "dg_p3d_resnext50_32x4d": 44_069_072,
    "dg_p3d_resnext101_32x8d": 128_249_616,
    "dg_p3d_wide50_2": 139_110_608,
    "dg_p3d_wide101_2": 212_730_128,
}


@pytest.mark.parametrize("name", list(COUNTED))
def test_parameters_equal_the_published_count(name):
    with torch.device("meta"):
        network = build_network(name, 400)
    assert sum(p.numel() for p in network.parameters()) == COUNTED[name]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("dg_p3d")])
def test_shapes_of_every_stage(name):
    """Time is quartered by the stem; head 1 halves space in its layer 4, head 2 quarters time and keeps space."""
    with torch.device("meta"):
        network = build_network(name, 7)
        shapes = {}
        for stage in ("stem", "layer1", "layer2", "layer3", "layer4", "layer4_dual"):
            module = getattr(network, stage)
            module.register_forward_hook(lambda m, i, y, stage=stage: shapes.__setitem__(stage, tuple(y.shape[2:])))
        heads = network(torch.zeros(2, 3, 16, 96, 64))
    assert [tuple(head.shape) for head in heads] == [(2, 7), (2, 7)]
    assert shapes == {
        "stem": (4, 48, 32),
        "layer1": (4, 24, 16),
        "layer2": (4, 12, 8),
        "layer3": (4, 6, 4),
        "layer4": (4, 3, 2),
        "layer4_dual": (1, 6, 4),
    }


@pytest.mark.parametrize("name", ["dg_p3d_18", "dg_p3d_34", "dg_p3d_50"])
def test_a_step_gives_every_weight_a_gradient(name):
    torch.manual_seed(0)
    network = build_network(name, 5, dropout=0.0)
    heads = network(torch.randn(2, 3, 8, 32, 32))
    sum(F.cross_entropy(head, torch.tensor([1, 3])) for head in heads).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    # The global context begins at zero: what feeds its last layer gets no gradient before that layer has moved.
    zero = [n for n, p in network.named_parameters() if not p.grad.any() and ".context.fc1." not in n]
    assert zero == []


def test_blocks_cycle_a_b_c_over_the_whole_network():
    with torch.device("meta"):
        network = build_network("dg_p3d_50", 5)
    kinds = "".join(m.kind for name, m in network.named_modules() if isinstance(m, PseudoConv) and "dual" not in name)
    assert kinds == ("ABC" * 6)[:16]
    dual = "".join(m.kind for name, m in network.named_modules() if isinstance(m, PseudoConv) and "dual" in name)
    assert dual == kinds[-3:]


@pytest.mark.parametrize("kind", "ABC")
def test_a_block_is_its_formula(kind):
    """Written out with plain Conv3d and BatchNorm3d in double precision, the global context switched on."""
    torch.manual_seed(1)
    block = Bottleneck(6, 4, kind, stride=2, reduction=4, width=6, groups=2).double().eval()
    x = torch.randn(2, 6, 5, 8, 8, dtype=torch.float64)
    conv = lambda m, v: F.conv3d(v, m.weight, None, m.stride, m.padding, groups=m.groups)  # noqa: E731
    bn = lambda m, v: F.batch_norm(v, m.running_mean, m.running_var, m.weight, m.bias)  # noqa: E731
    mid = block.conv2
    y = F.relu(bn(block.bn1, conv(block.conv1, x)))
    if kind == "A":
        y = F.relu(bn(mid.bn, conv(mid.t, conv(mid.s, y))))
    elif kind == "B":
        y = F.relu(bn(mid.bn, conv(mid.s, y) + conv(mid.t, y)))
    else:
        y = F.relu(bn(mid.bn, conv(mid.s, y)))
        y = F.relu(y + conv(mid.t, y))
    y = bn(block.bn3, conv(block.conv3, y))
    context = block.context.fc2(F.relu(block.context.fc1(y.mean((2, 3, 4)))))
    identity = bn(block.downsample[1], conv(block.downsample[0], x))
    wanted = F.relu(y + context[:, :, None, None, None] + identity)
    torch.testing.assert_close(block(x), wanted, rtol=1e-11, atol=1e-11)
    assert context.abs().max() > 1e-3


def test_time_is_pooled_by_four_or_by_what_there_is():
    x = torch.arange(16.0).reshape(1, 1, 16, 1, 1)
    pool_time = build_network("dg_p3d_tiny", 5)._pool_time
    assert pool_time(x).flatten().tolist() == [3, 7, 11, 15]
    assert pool_time(x[:, :, :6]).flatten().tolist() == [3]
    assert pool_time(x[:, :, :2]).flatten().tolist() == [1]


def test_the_motion_stem_begins_blind_to_still_pictures():
    torch.manual_seed(0)
    network = build_network("dg_p3d_tiny", 5)
    still = torch.randn(1, 3, 1, 32, 32).expand(1, 3, 4, 32, 32)
    answer = network.stem(still)[0].abs().amax((1, 2, 3))
    assert answer[:12].max() < 1e-5 and answer[12:].min() > 0.1


def test_an_unknown_network_names_the_nearest():
    with pytest.raises(UserError, match="there is no network 'dg_p3d_5', did you mean 'dg_p3d_50'"):
        build_network("dg_p3d_5", 5)


def test_short_clips_are_refused_with_the_least_length():
    network = build_network("dg_p3d_tiny", 5)
    for frames in (1, 6):
        with pytest.raises(UserError, match=f"DGP3D got clips of {frames} frames; the network needs a multiple of 4"):
            network(torch.zeros(1, 3, frames, 32, 32))
