"""Folders and list files as users write them, and the mistakes they make."""

from pathlib import Path

import pytest

from fastplan.data.lists import read_videos
from fastplan.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_a_folder_per_class(tmp_path):
    touch(tmp_path, "run/b.avi", "run/a.MP4", "run/notes.txt", "walk/deep/c.webm", ".hidden/d.avi", "walk/._c.webm")
    touch(tmp_path, "walk/.old/e.avi", "notes.txt", "._d.avi")
    found = read_videos(tmp_path)
    assert [p.name for p in found.paths] == ["a.MP4", "b.avi", "c.webm"]
    assert found.labels == (0, 0, 1)
    assert found.classes == ("run", "walk")


@pytest.mark.parametrize("labelled", [True, False])
def test_folders_that_are_links_are_followed_but_not_in_circles(tmp_path, labelled):
    """Classes that lie elsewhere, a part of one that does, and links back up, also by way of another folder."""
    touch(tmp_path, "store/run/a.avi", "store/more/b.avi", "store/more/deep/c.avi", "data/walk/d.avi")
    (tmp_path / "data" / "run").symlink_to(tmp_path / "store" / "run")
    (tmp_path / "data" / "walk" / "more").symlink_to(tmp_path / "store" / "more")
    (tmp_path / "store" / "more" / "deep" / "again").symlink_to(tmp_path / "data" / "walk")
    (tmp_path / "store" / "more" / "up").symlink_to("..")
    (tmp_path / "store" / "run" / "self").symlink_to("self")
    (tmp_path / "store" / "up").symlink_to("more")
    found = read_videos(tmp_path / "data", labelled=labelled)
    names = [str(path.relative_to(tmp_path / "data")) for path in found.paths]
    up = ["walk/more/up/run/a.avi"]
    assert names == ["run/a.avi", "walk/d.avi", "walk/more/b.avi", "walk/more/deep/c.avi", *up]
    assert (found.classes, found.labels) == (("run", "walk"), (0, 1, 1, 1, 1))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["newline", "no last newline"])
def test_a_list_is_not_mislabelled(tmp_path, ending, last):
    """CRLF, comments, blank lines, spaces in names, a frames column, a missing last newline: labels stay right."""
    touch(tmp_path, "my clip 7.mp4")
    lines = ["# videos", "", "a.mp4 0", "sub/b.mp4 300 12", "my clip 7.mp4 1", *[f"c{i}.mp4 {i}" for i in range(2, 12)]]
    file = tmp_path / "train.txt"
    file.write_bytes((ending.join(lines) + (ending if last else "")).encode())
    found = read_videos(file)
    assert found.labels == (0, 12, 1, *range(2, 12))
    assert [str(p.relative_to(tmp_path)) for p in found.paths[:3]] == ["a.mp4", "sub/b.mp4", "my clip 7.mp4"]


def test_groups_are_named_by_the_pattern(tmp_path):
    touch(tmp_path, "run/ann_run.avi", "run/bob_run.avi", "walk/ann_walk.avi")
    assert read_videos(tmp_path, group_pattern=r"(\w+?)_").groups == ("ann", "bob", "ann")
    with pytest.raises(UserError, match=r"does not match 'run/ann_run.avi'"):
        read_videos(tmp_path, group_pattern=r"actor(\d+)")
    with pytest.raises(UserError, match="is no regular expression"):
        read_videos(tmp_path, group_pattern="(")


def test_a_group_column_keeps_videos_together(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text("a.mp4 0 ann\nb.mp4 300 1 bob\n'c 7.mp4' 1 ann\n")
    found = read_videos(file)
    assert (found.labels, found.groups) == ((0, 1, 1), ("ann", "bob", "ann"))
    assert [p.name for p in found.paths] == ["a.mp4", "b.mp4", "c 7.mp4"]
    file.write_text("a.mp4 0 ann\nb.mp4 1\n")
    with pytest.raises(UserError, match="names a group for b.mp4's neighbours but none for it"):
        read_videos(file)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no sub-folders: one per class is wanted"),
        (["run/a.avi"], "has one class, 'run'; training needs at least two"),
        (["run/a.avi", "walk/readme.txt"], "class 'walk' in .* has no videos"),
        (["run/a.avi", "walk/b.avi", "c.avi"], "has c.avi beside its class folders: move videos into the folder"),
        (["run/a.avi", "walk/b.avi", "d.avi", "c.avi"], "has c.avi and 1 more beside its class folders"),
    ],
)
def test_wrong_folders(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        read_videos(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no videos"),
        ("a.mp4\n", "line 1: 'a.mp4' is neither 'path label' nor 'path frames label'"),
        ("a.mp4 0\nb.mp4 cat\n", "line 2: 'b.mp4 cat'"),
        ("a.mp4 0\nb.mp4 2\n", "labels up to 2 but no video of class 1"),
    ],
)
def test_wrong_lists(tmp_path, text, message):
    file = tmp_path / "train.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_videos(file)


def test_missing_data(tmp_path):
    with pytest.raises(UserError, match="there is no data at .*nowhere: give a folder with one sub-folder per class"):
        read_videos(tmp_path / "nowhere")
