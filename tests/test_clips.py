"""Clip arithmetic against a definition written out frame by frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastplan.clips import ClipSpec, frame_indices, view_positions
from fastplan.errors import UserError


def written_out(duration: int, spec: ClipSpec, positions: list[float], short: str) -> list[int]:
    """METHOD section 2 for one video, without vectors."""
    part, span = duration // spec.segments, spec.frames * spec.stride
    indices = []
    for s in range(spec.segments):
        if part >= span:
            start = s * part + min(int(positions[s] * (part - span + 1)), part - span)
        elif spec.segments == 1:
            start = 0
        else:
            start = round(s * max(duration - span, 0) / (spec.segments - 1) + 1e-9)
        for f in range(spec.frames):
            index = start + f * spec.stride
            indices.append(index if index < duration else index % duration if short == "loop" else duration - 1)
    return indices


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 16),
    st.integers(1, 16),
    st.integers(1, 4),
    st.sampled_from(["loop", "repeat_last"]),
    st.data(),
)
def test_equals_the_definition(duration, segments, frames, stride, short, data):
    spec = ClipSpec(segments, frames, stride, 32)
    positions = data.draw(
        st.lists(st.floats(0, 1, exclude_max=True), min_size=segments, max_size=segments), label="positions"
    )
    found = frame_indices([duration], spec, [positions], short=short)[0]
    wanted = written_out(duration, spec, positions, short)
    # Where segments overlap, a start that lies half-way between two frames may round either way.
    overlapping = duration // segments < spec.span
    assert np.abs(found - wanted).max() <= (1 if overlapping and duration > spec.span else 0)
    assert found.min() >= 0 and found.max() < duration


def test_offsets_reach_both_ends_of_a_segment():
    spec = ClipSpec(2, 4, 2, 32)  # segments of 50 frames, span 8: offsets 0..42
    positions = np.stack([np.linspace(0, 1, 1001)[:-1]] * 2, axis=1)
    starts = frame_indices(np.full(1000, 100), spec, positions)[:, [0, 4]]
    assert set(starts[:, 0]) == set(range(43))
    assert set(starts[:, 1]) == set(range(50, 93))


def test_overlapping_segments_spread_evenly_and_use_the_whole_video():
    starts = frame_indices([20], ClipSpec(4, 8, 1, 32), np.zeros((1, 4)))[0][::8]
    assert starts.tolist() == [0, 4, 8, 12]


@pytest.mark.parametrize("spec", [ClipSpec(1, 10, 1, 32), ClipSpec(1, 4, 3, 32), ClipSpec(4, 4, 1, 32)])
def test_views_start_evenly_from_the_first_frame_to_the_last(spec):
    durations = np.array([12, 30, 31, 64, 200, 301])
    for views in (2, 3, 10):
        starts_VN = np.stack(
            [frame_indices(durations, spec, view_positions(durations, spec, v, views))[:, 0] for v in range(views)]
        )
        for n, duration in enumerate(durations):
            room = duration // spec.segments - spec.span
            if room < 0:
                continue
            assert np.abs(starts_VN[:, n] - np.linspace(0, room, views)).max() <= 0.5
            assert starts_VN[0, n] == 0 and starts_VN[-1, n] == room
            assert len(set(starts_VN[:, n])) == min(views, room + 1), "views are distinct where the video allows it"


def test_one_view_is_the_centre():
    spec = ClipSpec(1, 10, 1, 32)
    assert frame_indices([30], spec, view_positions([30], spec, 0, 1))[0, 0] == 10


def test_short_videos():
    spec, zero = ClipSpec(1, 6, 1, 32), np.zeros((1, 1))
    assert frame_indices([4], spec, zero, short="loop")[0].tolist() == [0, 1, 2, 3, 0, 1]
    assert frame_indices([4], spec, zero, short="repeat_last")[0].tolist() == [0, 1, 2, 3, 3, 3]
    with pytest.raises(UserError, match=r"clip spans 6 frames but video 1 of the list has 4"):
        frame_indices([6, 4], spec, np.zeros((2, 1)), short="error")
    with pytest.raises(UserError, match="has no frames"):
        frame_indices([6, 0], spec, np.zeros((2, 1)))


def test_specs():
    assert ClipSpec.uniform(16, size=40) == ClipSpec(4, 4, 1, 40)
    assert ClipSpec.consecutive(8, stride=2, size=40).span == 16
    with pytest.raises(UserError, match="cannot be cut"):
        ClipSpec.uniform(10)
    for wrong in (0, -1, 1.5, True, "4"):
        with pytest.raises(UserError, match="frames is"):
            ClipSpec(1, wrong)
