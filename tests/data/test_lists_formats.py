"""Annotations written as the data sets ship them: every video gets its own label, whatever the file looks like."""

import json
from pathlib import Path
from typing import Literal

import pytest

from fastplan.data.lists import VideoList, read_videos
from fastplan.errors import UserError

ENDINGS = pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
LAST = pytest.mark.parametrize("last", [True, False], ids=["newline", "no last newline"])


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder alone in its parent: with no video beside a list, the reader looks in the parent for them."""
    alone = tmp_path / "alone"
    alone.mkdir()
    return alone


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def write(file: Path, lines: list[str], ending: str = "\n", last: bool = True) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((ending.join(lines) + (ending if last else "")).encode())
    return file


def named(found: VideoList, root: Path) -> dict[str, str]:
    """Class name by path."""
    pairs = zip(found.paths, found.labels, strict=True)
    return {path.relative_to(root).as_posix(): found.classes[label] for path, label in pairs}


@ENDINGS
@LAST
def test_kinetics(tmp_path: Path, ending: str, last: bool) -> None:
    touch(
        tmp_path,
        "train/dancing ballet/-0a1B_2c_Xy_000010_000020.mp4",
        "train/shooting_goal_(soccer)/abcdefghijk_000003_000013.webm",
        "train/passing American football, not in game/AAAAAAAAAAA.mkv",
        "val/dancing ballet/AAAAAAAAAAB_000001_000011.mp4",
    )
    lines = [
        "label,youtube_id,time_start,time_end,split",
        "dancing ballet,-0a1B_2c_Xy,10,20,train",
        "# removed by its owner",
        "shooting goal (soccer),abcdefghijk,3,13,train",
        '"passing American football, not in game",AAAAAAAAAAA,7,17,train',
        "dancing ballet,GoneGoneGon,120,130,train",
    ]
    found = read_videos(write(tmp_path / "train.csv", lines, ending, last))
    assert named(found, tmp_path) == {
        "train/dancing ballet/-0a1B_2c_Xy_000010_000020.mp4": "dancing ballet",
        "train/shooting_goal_(soccer)/abcdefghijk_000003_000013.webm": "shooting goal (soccer)",
        "train/passing American football, not in game/AAAAAAAAAAA.mkv": "passing American football, not in game",
        "dancing ballet/GoneGoneGon_000120_000130.mp4": "dancing ballet",
    }


def test_kinetics_in_one_file_is_read_by_part(tmp_path: Path) -> None:
    lines = ["label,youtube_id,time_start,time_end,split", "a,v1,0,10,train", "b,v2,0,10,train", "a,v3,0,10,validate"]
    file = write(tmp_path / "all.csv", [*lines, "b,v4,0,10,validate"])
    with pytest.raises(UserError, match=r"several parts; name one: all\.csv#train, all\.csv#validate"):
        read_videos(file)
    found = read_videos(tmp_path / "all.csv#validate")
    assert named(found, tmp_path) == {"a/v3_000000_000010.mp4": "a", "b/v4_000000_000010.mp4": "b"}
    with pytest.raises(UserError, match="no column 'label'"):
        read_videos(write(tmp_path / "test.csv", ["youtube_id,time_start,time_end,split", "v5,0,10,test"]))
    with pytest.raises(UserError, match="entry 2: a,v1,x,10,train"):
        read_videos(write(tmp_path / "bad.csv", [lines[0], "a,v1,x,10,train"]))


@ENDINGS
@LAST
def test_ucf101(tmp_path: Path, ending: str, last: bool) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    videos = ["v_ApplyEyeMakeup_g08_c01.avi", "v_ApplyLipstick_g01_c02.avi", "v_YoYo_g25_c05.avi"]
    touch(tmp_path, *(f"UCF-101/{name.split('_')[1]}/{name}" for name in videos))
    write(lists / "classInd.txt", ["1 ApplyEyeMakeup", "2 ApplyLipstick", "101 YoYo"], ending, last)
    train = [f"{name.split('_')[1]}/{name} {number}" for name, number in zip(videos, (1, 2, 101), strict=True)]
    wanted = {f"UCF-101/{name.split('_')[1]}/{name}": name.split("_")[1] for name in videos}
    found = read_videos(write(lists / "trainlist01.txt", train, ending, last))
    assert named(found, tmp_path) == wanted and found.classes == ("ApplyEyeMakeup", "ApplyLipstick", "YoYo")
    test = [line.split()[0] for line in train]
    assert named(read_videos(write(lists / "testlist01.txt", test, ending, last)), tmp_path) == wanted
    with pytest.raises(UserError, match="line 1: class 7 is not YoYo"):
        read_videos(write(lists / "trainlist02.txt", ["YoYo/v_YoYo_g25_c05.avi 7"]))


@ENDINGS
@LAST
def test_hmdb51(tmp_path: Path, ending: str, last: bool) -> None:
    folder = tmp_path / "testTrainMulti_7030_splits"
    run = ["April_09_run_u_nm_np1_ba_goo_0.avi", "BIG (2)_run_f_cm_np1_le_bad_1.avi", "unused_run_0.avi"]
    wave = ["RATRACE_wave_f_nm_np1_fr_goo_37.avi", "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi"]
    touch(tmp_path, *(f"hmdb51/run/{name}" for name in run), *(f"hmdb51/wave/{name}" for name in wave))
    write(folder / "run_test_split1.txt", [f"{run[0]} 1 ", f"{run[1]} 2 ", f"{run[2]} 0 "], ending, last)
    write(folder / "wave_test_split1.txt", [f"{wave[0]} 2 ", f"{wave[1]} 1 "], ending, last)
    write(folder / "run_test_split2.txt", [f"{run[2]} 1 "], ending, last)
    assert named(read_videos(folder.with_name(f"{folder.name}#train1")), tmp_path) == {
        f"hmdb51/run/{run[0]}": "run",
        f"hmdb51/wave/{wave[1]}": "wave",
    }
    assert named(read_videos(folder.with_name(f"{folder.name}#test1")), tmp_path) == {
        f"hmdb51/run/{run[1]}": "run",
        f"hmdb51/wave/{wave[0]}": "wave",
    }
    with pytest.raises(UserError, match="name one: testTrainMulti_7030_splits#train1"):
        read_videos(folder)
    with pytest.raises(UserError, match=r"line 1: .* is no 'video\.avi 0', 1 or 2"):
        write(folder / "run_test_split3.txt", [run[0]])
        read_videos(folder.with_name(f"{folder.name}#test3"))


def test_something_something(tmp_path: Path) -> None:
    touch(tmp_path, "20bn-something-something-v2/78687.webm", "20bn-something-something-v2/42326.webm")
    templates = ["Holding [something] next to [something]", 'Pushing [something] so that it [falls, "over"]']
    rows = [
        {"id": "78687", "label": "holding potato next to vicks", "template": templates[0], "placeholders": ["potato"]},
        {"id": "42326", "label": "pushing cup so that it falls", "template": templates[1], "placeholders": ["cup"]},
        {"id": "100904", "label": "pushing a pen so that it falls", "template": templates[1], "placeholders": ["pen"]},
    ]
    numbers = {
        'Pushing something so that it falls, "over"': "30",
        "Holding something next to something": "4",
        "Other": "1",
    }
    labels = tmp_path / "labels"
    labels.mkdir()
    file = labels / "something-something-v2-train.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="needs the label file"):
        read_videos(file)
    (labels / "something-something-v2-labels.json").write_text("\ufeff" + json.dumps(numbers), encoding="utf-8")
    found = read_videos(file)
    assert found.classes == ("Holding something next to something", 'Pushing something so that it falls, "over"')
    assert named(found, tmp_path) == {
        "20bn-something-something-v2/78687.webm": found.classes[0],
        "20bn-something-something-v2/42326.webm": found.classes[1],
        "labels/100904.webm": found.classes[1],
    }
    file.write_text(json.dumps([{"id": "1", "template": "Other, too"}]))
    with pytest.raises(UserError, match="video 1: template 'Other, too' is not in the label file"):
        read_videos(file)
    file.write_text(json.dumps([{"id": "1420"}]))
    with pytest.raises(UserError, match="video 1420 has no template: the published test list has none"):
        read_videos(file)


def test_activitynet(tmp_path: Path) -> None:
    """Several segments of one video, each with its label; the parts share a group; testing videos have no labels."""
    touch(tmp_path, "videos/v_sJFgo9H6zNo.mp4", "videos/v_-V0_D4x2_20.mkv")
    database = {
        "sJFgo9H6zNo": {
            "duration": 9.99,
            "subset": "training",
            "resolution": "1280x720",
            "url": "https://www.youtube.com/watch?v=sJFgo9H6zNo",
            "annotations": [
                {"segment": [0.0, 3.5], "label": "Fun sliding down"},
                {"segment": [4.1, 9.99], "label": "Putting in contact lenses"},
            ],
        },
        "-V0_D4x2_20": {
            "duration": 12.1,
            "subset": "training",
            "annotations": [{"segment": [1, 12.1], "label": "Fun sliding down"}],
        },
        "GoneGoneGon": {
            "duration": 5.0,
            "subset": "validation",
            "annotations": [{"segment": [0.5, 4.5], "label": "Putting in contact lenses"}],
        },
        "uSlkTestTes": {"duration": 5.0, "subset": "testing", "annotations": []},
    }
    file = tmp_path / "activity_net.v1-3.min.json"
    file.write_text(json.dumps({"database": database, "taxonomy": [], "version": "VERSION 1.3"}))
    found = read_videos(tmp_path / f"{file.name}#training")
    names = [path.name for path in found.paths]
    assert names == ["v_sJFgo9H6zNo.mp4", "v_sJFgo9H6zNo.mp4", "v_-V0_D4x2_20.mkv"] and found.files == 2
    assert [found.classes[label] for label in found.labels] == [
        "Fun sliding down",
        "Putting in contact lenses",
        "Fun sliding down",
    ]
    assert found.segments == ((0.0, 3.5), (4.1, 9.99), (1.0, 12.1))
    assert found.groups[0] == found.groups[1] != found.groups[2]
    with pytest.raises(UserError, match=r"several parts; name one: activity_net\.v1-3\.min\.json#training, .*#valid"):
        read_videos(file)
    with pytest.raises(UserError, match="no labelled segments of part testing"):
        read_videos(tmp_path / f"{file.name}#testing")
    database["GoneGoneGon"]["annotations"][0]["segment"] = [0.5]
    file.write_text(json.dumps({"database": database}))
    with pytest.raises(UserError, match="video GoneGoneGon: .* is no segment with a label"):
        read_videos(tmp_path / f"{file.name}#validation")


@ENDINGS
@LAST
def test_a_table_with_names_groups_and_segments(tmp_path: Path, ending: str, last: bool) -> None:
    lines = [
        "path,label,group,begin_s,end_s",
        "a 1.mp4,go left,ann,,",
        '"b, c.mp4","say ""hi""",bob,1.5,2',
        "# no video",
        "a 1.mp4,go left,ann,0,0.5",
    ]
    found = read_videos(write(tmp_path / "list.csv", lines, ending, last))
    assert [path.name for path in found.paths] == ["a 1.mp4", "b, c.mp4", "a 1.mp4"]
    assert [found.classes[label] for label in found.labels] == ["go left", 'say "hi"', "go left"]
    assert found.groups == ("ann", "bob", "ann") and found.segments == (None, (1.5, 2.0), (0.0, 0.5))
    numbers = read_videos(
        write(tmp_path / "n.csv", ["path,label", *(f"{k}.mp4,{k}" for k in (10, 9, 2))], ending, last)
    )
    assert numbers.classes == ("2", "9", "10") and numbers.labels == (2, 1, 0) and not numbers.segments
    with pytest.raises(UserError, match="entry 2: a.mp4 is no 'path,label'"):
        read_videos(write(tmp_path / "bad.csv", ["path,label", "a.mp4", "b.mp4,1"]))


@ENDINGS
def test_a_plain_list_with_quotes_hashes_and_odd_spaces(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "take 2 #3.mp4")
    lines = ["'my clip 7.mp4' 1", '"a 300.mp4" 250 0', "take 2 #3.mp4 1", "b\u2028c.mp4\t0", "#x.mp4 9", "d 12 .mp4 1"]
    found = read_videos(write(tmp_path / "list.txt", lines, ending))
    assert named(found, tmp_path) == {
        "my clip 7.mp4": "1",
        "a 300.mp4": "0",
        "take 2 #3.mp4": "1",
        "b\u2028c.mp4": "0",
        "d 12 .mp4": "1",
    }
    with pytest.raises(UserError, match="comment behind the label"):
        read_videos(write(tmp_path / "list.txt", ["a.mp4 0 # see issue 5", "b.mp4 1 # 3"][1:], ending))


def test_the_format_can_be_named(tmp_path: Path) -> None:
    """A plain list beside a classInd.txt whose paths happen to look like UCF101's."""
    write(tmp_path / "classInd.txt", ["1 A", "2 B"])
    file = write(tmp_path / "list.txt", ["A/x.avi 0", "B/y.avi 1"])
    with pytest.raises(UserError, match="class 0 is not A"):
        read_videos(file)
    assert read_videos(file, format="paths").classes == ("0", "1")


def test_a_name_that_two_data_sets_have_is_not_guessed(tmp_path: Path) -> None:
    """Videos that are numbers, in a folder with other data sets of numbers; links to one video are one video."""
    rows = [{"id": "1", "template": "Holding [something]"}, {"id": "2", "template": "Pushing [something]"}]
    write(tmp_path / "lists" / "labels.json", ['{"Holding something": "0", "Pushing something": "1"}'])
    file = write(tmp_path / "lists" / "train.json", [json.dumps(rows)])
    touch(tmp_path, "20bn-something-something-v2/1.webm", "20bn-something-something-v2/2.webm")
    (tmp_path / "newest").symlink_to("20bn-something-something-v2")
    assert [path.name for path in read_videos(file).paths] == ["1.webm", "2.webm"]
    touch(tmp_path, "20bn-jester-v1/2.webm")
    with pytest.raises(UserError, match=r"videos '2', .*20bn-jester-v1/2\.webm and .*-v2/2\.webm: which is meant"):
        read_videos(file)


@pytest.mark.parametrize(
    ("name", "text", "named", "message"),
    [
        ("list.txt", "A/x.avi 1", "ucf101", "classInd.txt: the lists of UCF101 need it"),
        ("list.json", "[1]", "activitynet", "no 'database' of videos by name"),
        ("list.json", '{"database": []}', None, "no 'database' of videos by name"),
        ("list.json", '{"database": {"a": []}}', None, "no 'database' of videos by name"),
        ("list.json", '{"database": {"a": {"annotations": null}}}', None, "no labelled segments"),
        (
            "list.json",
            '{"database": {"a": {"annotations": [{"label": "x", "segment": [0, NaN]}]}}}',
            None,
            "is no segment with a label",
        ),
        ("label-file-of-labels.json", '{"a": "dog"}', None, "no list of videos"),
        ("list.txt", "x" * 200_000 + " 0", None, r"no list and no table \(field larger"),
        ("list.csv", 'path,label\n"a.mp4,1\n' + "b.mp4,0\n" * 20_000, None, "a quotation mark never closed"),
        ("list.csv", "label,youtube_id,time_start,time_end\na,b,inf,3", None, "entry 2: a,b,inf,3 is no 'label,"),
        ("list.csv", "path,label,begin_s,end_s\na.mp4,b,0,inf", None, "entry 2: a.mp4,b,0,inf is no 'path,"),
        ("list.txt", "a\0b.mp4 0\nb.mp4 1", None, "has bytes of zero"),
    ],
)
def test_what_is_no_annotation_is_a_mistake(
    tmp_path: Path, name: str, text: str, named: Literal["ucf101", "activitynet"] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_videos(write(tmp_path / name, [text]), format=named)


def test_a_label_file_without_numbers_is_a_mistake(tmp_path: Path) -> None:
    write(tmp_path / "labels.json", ['{"Holding something": "dog"}'])
    with pytest.raises(UserError, match=r"labels\.json is no label file"):
        read_videos(write(tmp_path / "train.json", ['[{"id": "1", "template": "Holding [something]"}]']))
