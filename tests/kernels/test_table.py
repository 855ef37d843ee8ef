"""The shape table: what it decides, and that every tile it can choose fits its shape."""

import pytest
import torch

from fastplan.kernels import table
from fastplan.kernels.rows import row_grid


@pytest.mark.parametrize("channels", [16, 24, 48, 64, 96, 160, 256, 1024, 2048])
def test_row_tiles_cover_the_channels(channels):
    for tile in (*table.row_tiles(channels), *table.pool_tiles(channels)):
        assert tile.channels & (tile.channels - 1) == 0 and tile.rows & (tile.rows - 1) == 0
        assert tile.channels >= min(channels, 128)


@pytest.mark.parametrize(("source", "channels"), [(16, 16), (48, 96), (64, 256), (1024, 256), (80, 320)])
@pytest.mark.parametrize("positions", [1, 49, 196, 12544])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_gemm_tiles_divide_the_channels(source, channels, positions, itemsize):
    for tile in table.gemm_tiles(source, channels, positions, itemsize):
        assert source % tile.depth == 0 and channels % tile.outputs == 0
        assert tile.depth >= 16 and tile.outputs >= 16  # tl.dot takes no less
    for tile in table.wgrad_tiles(source, channels, itemsize):
        assert source % tile.inputs == 0 and channels % tile.outputs == 0


@pytest.mark.parametrize("itemsize", [2, 4])
def test_steps_in_flight_fit_the_smallest_shared_memory(itemsize):
    """99 KiB: sm_86, sm_89, sm_120. A pipeline of n stages holds n - 1 steps."""
    for tile in table.gemm_tiles(1024, 1024, 12544, itemsize):
        assert (tile.rows + tile.outputs) * tile.depth * itemsize * (tile.stages - 1) <= 99 * 1024
    for tile in table.wgrad_tiles(1024, 1024, itemsize):
        assert (tile.inputs + tile.outputs) * tile.rows * itemsize * (tile.stages - 1) <= 99 * 1024


def test_short_samples_waste_no_half_tile():
    assert table.gemm_tiles(64, 64, 49)[0].rows == 64
    assert table.gemm_tiles(64, 64, 12544)[0].rows == 128


def test_what_no_grid_holds_is_refused_by_name():
    """CUDA would say `invalid argument`."""
    tile = table.row_tiles(64)[0]
    assert row_grid(torch.empty(1, 65535, 8, 8, 64, device="meta"), tile) == (1, 65535, 1)
    with pytest.raises(ValueError, match=r"of 4194304 positions .* with 64 channels: .* of 4194240 positions"):
        row_grid(torch.empty(1, 65536, 8, 8, 64, device="meta"), tile)


@pytest.mark.parametrize(("positions", "samples", "channels"), [(1, 1, 64), (49, 16, 2048), (12544, 16, 256)])
def test_no_program_of_a_reduction_is_empty(positions, samples, channels):
    tile = table.row_tiles(channels)[0]
    programs, steps = table.splits(positions, samples, channels, tile)
    assert (programs - 1) * steps * tile.rows < positions <= programs * steps * tile.rows
    wgrad = table.wgrad_tiles(channels, channels)[0]
    programs, steps = table.wgrad_splits(positions, 4, wgrad)
    assert (programs - 1) * steps * wgrad.rows < positions <= programs * steps * wgrad.rows


def test_decisions():
    assert table.use_fused("bn_gc_add_relu", inputs=2048, outputs=2048).fused
    assert table.use_fused("tap_gemm", inputs=64, outputs=256).fused  # layer 1
    assert table.use_fused("tap_gemm", inputs=64, outputs=64, taps=3).fused
    assert not table.use_fused("tap_gemm", inputs=512, outputs=2048).fused  # layer 4
    assert not table.use_fused("tap_gemm", inputs=64, outputs=64, taps=11, stride=2).fused
    assert not table.use_fused("tap_gemm", inputs=3, outputs=64).fused
    assert table.use_fused("conv_gc_add_relu", inputs=512, outputs=2048).fused  # layer 4, its statistics fixed
    assert not table.use_fused("conv_gc_add_relu", inputs=2048, outputs=2048).fused
    assert not table.use_fused("conv_gc_add_relu", inputs=512, outputs=2048, itemsize=4).fused
    assert not table.use_fused("conv_gc_add_relu", inputs=24, outputs=96).fused
    with pytest.raises(ValueError, match="conv7"):
        table.use_fused("conv7", inputs=1, outputs=1)


def test_unmeasured_entries_say_so():
    for op in (*table.ELEMENTWISE, *table.GEMMS):
        decision = table.use_fused(op, inputs=64, outputs=64)
        assert op in table.MEASURED or decision.reason.startswith("prediction")
