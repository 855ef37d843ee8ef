"""Layers on views equal the plain three-dimensional ones, in double precision, gradients included."""

import pytest
import torch
import torch.nn.functional as F

from fastplan.models.layers import BatchNorm, SpatialConv, StemConv, TemporalConv, as_clips, as_frames

torch.manual_seed(0)


def clips(n=2, c=5, t=4, h=7, w=6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n + c)
    x = torch.randn(n, c, t, h, w, generator=generator, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()


CASES = [
    (lambda: SpatialConv(5, 8, 3), clips()),
    (lambda: SpatialConv(5, 8, 3, stride=2), clips()),
    (lambda: SpatialConv(5, 8, 1), clips()),
    (lambda: SpatialConv(5, 8, 1, stride=2), clips(h=8)),
    (lambda: SpatialConv(5, 8, 3), clips(n=1, t=1)),
    (lambda: SpatialConv(6, 8, 3, stride=2, groups=2), clips(c=6)),
    (lambda: TemporalConv(5, 8), clips()),
    (lambda: TemporalConv(5, 8, stride=2), clips()),
    (lambda: TemporalConv(5, 8), clips(t=1, h=1, w=1)),
    (lambda: TemporalConv(6, 8, groups=2), clips(c=6)),
    (lambda: TemporalConv(6, 8, taps=5, time_stride=2, stride=2, groups=2), clips(c=6, t=7)),
    (lambda: TemporalConv(5, 8, taps=7, time_stride=4), clips(t=8)),
    (lambda: StemConv(5, 8, 4, 7, stride=2), clips(t=8, h=9, w=11)),
    (lambda: StemConv(3, 8, 1, 5, stride=1), clips(c=3, t=3)),
]


@pytest.mark.parametrize(("make", "x"), CASES)
def test_a_convolution_on_a_view_is_the_conv3d(make, x):
    layer = make().double()
    found = layer(x)
    wanted = F.conv3d(x, layer.weight, None, layer.stride, layer.padding, groups=layer.groups)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(wanted)
    for a, b in zip(
        torch.autograd.grad(found, (x, layer.weight), seed), torch.autograd.grad(wanted, (x, layer.weight), seed),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_on_a_view_is_the_batch_norm3d(training):
    x = clips(n=3)
    ours, plain = BatchNorm(5).double().train(training), torch.nn.BatchNorm3d(5).double().train(training)
    with torch.no_grad():
        for norm in (ours, plain):
            norm.weight.copy_(torch.linspace(0.5, 2, 5))
            norm.bias.copy_(torch.linspace(-1, 1, 5))
            norm.running_var.copy_(torch.linspace(1, 3, 5))
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_views_copy_nothing():
    x = clips().detach()
    frames = as_frames(x)
    assert frames.data_ptr() == x.data_ptr() and frames.is_contiguous(memory_format=torch.channels_last)
    assert as_clips(frames, 2).data_ptr() == x.data_ptr()
    assert torch.equal(as_clips(frames, 2), x)


def test_frozen_batch_norm_freezes_statistics_and_affine_weights():
    norm = BatchNorm(5).double()
    norm.train()
    norm(clips(n=3))
    norm.freeze(True)
    norm.train()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    y = norm(clips(n=4))
    assert not norm.training and not norm.weight.requires_grad and not norm.bias.requires_grad
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    x = clips(n=4)
    shape = (1, 5, 1, 1, 1)
    scale = (before["running_var"] + norm.eps).rsqrt().view(shape)
    torch.testing.assert_close(y, (x - before["running_mean"].view(shape)) * scale)
    norm.freeze(False)
    norm.train()
    assert norm.training and norm.weight.requires_grad


def test_a_stem_says_what_it_needs():
    with pytest.raises(ValueError, match="clip of 6 frames; the stem consumes 4 at a time"):
        StemConv(3, 8, 4, 5, stride=2)(torch.zeros(1, 3, 6, 8, 8))
