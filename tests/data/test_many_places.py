"""Places and names in little memory give back what they were made of."""

import os
from pathlib import Path

import numpy as np
import pytest

from fastplan.data.lists import read_videos
from fastplan.data.places import NameNumbers, Names, Places, all_differ, first_alike
from fastplan.data.storage import Place
from fastplan.errors import UserError


def test_places_come_back_absolute_and_in_order():
    made = [
        Place("a/../b.mp4"),
        Place("/c.mp4"),
        Place("s3://bucket/1.tar/x.mp4", "s3://bucket/1.tar", 512, 2**40),
        Place("/pictures/img_{:05d}.jpg", first_picture=0),
    ] * 1000
    places = Places(iter(made))
    wanted = [made[0]._replace(path=os.path.abspath("b.mp4")), *made[1:4]]
    assert len(places) == 4000 and list(places) == wanted * 1000
    assert [places[n] for n in (0, 1, 2, 3, -1)] == [*wanted, wanted[3]]
    assert places[2:5] == [*wanted[2:], wanted[0]] and list(places.paths) == [place.path for place in wanted] * 1000
    assert places.file_N.tolist() == [0, 1, 2, 3] * 1000
    assert list(places.distinct()) == wanted and places.distinct().distinct() == places.distinct()
    assert list(Places()) == [] and Places().file_N.tolist() == []


def test_names_come_back():
    made = [str(n) for n in range(3000)]
    names = Names(iter(made))
    assert names == made and names[2999] == names[-1] == "2999" and names[1:3] == ["1", "2"]
    assert Names(()) == ()


def test_paths_are_found_by_number():
    paths = [f"/{n}.mp4" for n in range(5000)]
    asked = ["/4999.mp4", "/no.mp4", "/0.mp4", "/77.mp4"]
    assert NameNumbers(paths).of(asked).tolist() == [4999, -1, 0, 77]
    assert NameNumbers(()).of(asked).tolist() == [-1] * 4


def test_what_is_alike():
    assert first_alike(np.array([7, -3, 7, 7, -3, 2**63 - 1, -(2**63), 0])).tolist() == [0, 1, 0, 0, 1, 5, 6, 7]
    assert all_differ(str(n) for n in range(2000)) and not all_differ([*map(str, range(2000)), "1999"])
    assert all_differ(())


def test_a_name_that_is_no_utf8_is_named(tmp_path: Path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "v.mp4").write_bytes(b"")
    (tmp_path / "b" / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"")
    with pytest.raises(UserError, match=r"caf\\udce9.mp4' is not UTF-8.*rename"):
        read_videos(tmp_path)
