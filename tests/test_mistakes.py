"""What people get wrong: each ends with one paragraph that says what was found and what to do, and leaves nothing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastplan.cli import main
from numbered_videos import write_numbered
from whole_runs import permissions_bind

STATE = "segments: 1, frames: 4, size: 24, lr: 0.05, batch_size: 8"
FILES = {
    "missing.txt": "gone/a.mp4 0\ngone/b.mp4 1\n",
    "comma.txt": "videos/c0/v00.mp4,0\nvideos/c1/v01.mp4,1\n",
    "semicolon.csv": "path;label\nvideos/c0/v00.mp4;walk\n",
    "tab.tsv": "path\tlabel\nvideos/c0/v00.mp4\twalk\n",
    "words.txt": "videos/c0/v00.mp4 walk\n",
    "from1.txt": "videos/c0/v00.mp4 1\nvideos/c1/v01.mp4 2\n",
    "three.txt": "videos/c0/v00.mp4 0\nvideos/c1/v01.mp4 1\nvideos/c1/v03.mp4 2\n",
    "no.json": '{"a": ',
    "graph.yaml": f"states:\n  a: {{{STATE}, colour: 3}}\nedges: [start -> a]\n",
    "edge.yaml": f"states:\n  a: {{{STATE}}}\nedges: [start -> b]\n",
    "settings.yaml": "optim: {weight_decai: 3}\n",
    "file": "x",
    "run/config.yaml": "seed: 0\n",
    "broken/config.yaml": "{{{",
    "notes/todo.txt": "mine",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("desk")
    for number in range(12):
        write_numbered(root / "videos" / f"c{number % 2}" / f"v{number:02}.mp4", 20)
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    for folder in ("empty", "bare/a", "bare/b", "one/a"):
        (root / folder).mkdir(parents=True)
    (root / "one" / "a" / "v.mp4").symlink_to(root / "videos" / "c0" / "v00.mp4")
    return root


def everything_below(root: Path) -> set[str]:
    found = {str(path.relative_to(root)) for path in root.rglob("*") if "cache" not in path.parts}
    return found - {"broken/.lock", "run/.lock"}  # of the runs that were there


SEPARATED = "with spaces between and a label from 0 up; class names stand in a table"
BOTH = [
    ("DATA=nowhere", "there is no data at nowhere: give a folder"),
    ("DATA=vidoes", "did you mean videos?"),
    ("DATA=empty", "empty has no "),
    ("DATA=comma.txt", SEPARATED),
    ("DATA=semicolon.csv", SEPARATED),
    ("DATA=tab.tsv", SEPARATED),
    ("DATA=words.txt", SEPARATED),
    ("DATA=from1.txt", "labels up to 2 but no video of class 0: number classes from 0 on"),
    ("DATA=no.json", "no.json is no JSON"),
    ("DATA=/dev/null", "lists no videos"),
    ("DATA=videos#train", "there is no videos#train: videos has no parts"),
    ("DATA=three.txt#val", "there is no three.txt#val: three.txt has no parts"),
    ("DATA=gone{0..2}.tar", "there is no shard gone0.tar"),
    ("DATA=videos data.format=kinetics", "is a folder, and data.format=kinetics wants the file of such a list"),
    ("DATA=videos data.threads=many", "data.threads is 'many'"),
    ("DATA=videos data.thread=2", "did you mean 'threads'?"),
    ("DATA=videos data.cache=/proc/nothing", "set data.cache to a folder that can be written"),
    ("DATA=videos data.cache=file", "set data.cache to a folder that can be written"),
]
CHECK = [
    ("DATA=videos --show 100000", "--show is 100000; a sheet holds 1 to 500 clips"),
    ("DATA=videos --span 0", "--span is 0; it must be at least 1"),
    ("DATA=videos --fix-list videos", "videos cannot be written (Is a directory): name another file"),
    ("DATA=videos --index set.csv", "its name must end with .parquet"),
    ("DATA=videos --index /proc/no/set.parquet", "cannot be written"),
]
TRAIN = [
    ("DATA=missing.txt", "class '0' has no video that decodes; the first: "),
    ("DATA=missing.txt", "gone/a.mp4: no such file, where a list's paths are relative to its own folder"),
    ("DATA=bare", "class 'a' in bare has no videos: add some or remove the folder"),
    ("DATA=one", "one has one class, 'a'; training needs at least two"),
    ("DATA=videos --val nowhere", "there is no data at nowhere"),
    ("DATA=videos --val three.txt", "must be the same, in the same order: only the validation data has '0', '1', '2'"),
    ("DATA=videos --state-graph ./videos", "./videos is a folder, not a file"),
    ("DATA=videos --exact", "--exact trains exactly the epochs of a plan; this is a search: give --plan"),
    ("DATA=videos --state-graph tinny", "did you mean 'tiny'?"),
    ("DATA=videos --state-graph graph.yaml", "state 'a' has an unknown key 'colour'; known: "),
    ("DATA=videos --state-graph edge.yaml", "there is no state 'b'; known: a"),
    ("DATA=videos --plan edge.yaml", "not both: "),
    ("DATA=videos --config settings.yaml", "unknown key 'optim.weight_decai', did you mean 'weight_decay'?"),
    ("DATA=videos --config none.yaml", "cannot read none.yaml: No such file or directory"),
    ("DATA=videos --run run", "run holds a run: go on with it by --resume, or give another --run"),
    (
        "DATA=videos --run file data.clips_per_epoch=32",
        "/file is a file; give another --run",
    ),
    ("DATA=videos --run /proc/run data.clips_per_epoch=32", "cannot use the run folder /proc/run"),
    (
        "DATA=videos checkpoints=/proc/c data.clips_per_epoch=32",
        "set checkpoints to a folder or URL that can be written",
    ),
    (
        "DATA=videos plan.first_path=[a,b] data.clips_per_epoch=32",
        "the first path goes start -> a; graph 'tiny' has no ",
    ),
    ("DATA=videos checkpoints=file data.clips_per_epoch=32", "cannot write file/tried_out.pt: "),
    ("DATA=videos plan.max_epoch=3", "did you mean 'max_epochs'?"),
    ("DATA=videos max_epochs=3", "unknown key 'max_epochs', did you mean 'plan.max_epochs'?"),
    ("DATA=videos optim.lr=0.1", "'lr' belongs to each state of a state graph, so write it into a graph file"),
    ("DATA=videos plan.max_epochs=0", "plan.max_epochs is 0"),
    ("DATA=videos network.name=dg_p3d", "did you mean 'dg_p3d_50'?"),
    ("DATA=videos plan.holdout=0.999", "leaves none of class 'c0' for training: give more videos"),
    ("DATA=videos data.group_pattern=(", "is no regular expression"),
    ("DATA=videos data.group_pattern=^v", "does not match 'c0/v00.mp4': give one that matches every path, or "),
    ("DATA=videos data.group_pattern=v", "the 12 videos are one group, the largest is 'v' with 12, and none is parted"),
    ("DATA=videos data.group_pattern=v data.holdout_test=.2", "or a list of its own (data.test=LIST)"),
    ("DATA=videos network.pretrained=none.pt data.clips_per_epoch=32", "there is no file none.pt"),
    ("DATA=videos --workers none", "give a number of processes"),
    ("DATA=videos --budget 3x", "'3x' is no budget: write 40h"),
    ("DATA=videos", "takes 16 clips a step (batch_size x accumulate), but an epoch has only 10: lower them"),
    ("DATA=videos data.clips_per_epoch=32 data.short=error stride", "a clip spans 40 frames but "),
]
RESUME = [
    ("train --run nowhere --resume", "there is no run in nowhere to go on with"),
    ("train --run notes --resume", "there is no run in notes to go on with"),
    ("train --run broken --resume", "broken/config.yaml is not YAML"),
    ("train --run run --resume optim.momentum=0.5", "another configuration (optim.momentum: 0.9 -> 0.5)"),
    ("train --run run --resume --seed 3", "another configuration (seed: 0 -> 3)"),
    ("train --resume", "say which run to go on with: --run DIR --resume"),
    ("train --plan op-kinetics-dg-p3d-resnet50 plan.budget=9e", "plan.budget=9e limits a search; the legs of a plan"),
    ("test --run nowhere", "there is no run in nowhere"),
    ("test --run notes", "there is no run in notes"),
]


def words_of(command: str, rest: str, desk: Path) -> list[str]:
    data, *words = rest.split()
    data = data.removeprefix("DATA=")
    cache = [] if "data.cache" in rest else [f"data.cache={desk / 'cache'}"]
    if command == "check":
        return ["check", data, *words, *cache]
    graph = [] if "--state-graph" in words else ["--state-graph", "tiny"]
    run = [] if "--run" in words else ["--run", "new/run"]
    if "stride" in words:
        words.remove("stride")
        file = desk / "cache" / "long.yaml"
        file.parent.mkdir(exist_ok=True)
        states = f"states:\n  a: {{{STATE}, stride: 10}}\n"
        file.write_text(f"{states}edges: [start -> a]\nconfig: {{network: {{name: dg_p3d_tiny}}}}\n")
        graph = ["--state-graph", str(file)]
    return ["train", *graph, "--device", "cpu", "--data", data, *run, *words, *cache]


CASES = [("check", *case) for case in BOTH + CHECK] + [("train", *case) for case in BOTH + TRAIN]


def test_a_mistake_is_one_paragraph_and_leaves_nothing(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    before = everything_below(desk)
    asked = [(words_of(*case[:2], desk), case[2]) for case in CASES] + [(words.split(), told) for words, told in RESUME]
    for words, told in asked:
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert told in said and said.startswith("fastplan: ") and said.count("\n") == 1, (words, said)
        assert everything_below(desk) == before, words


def test_every_list_is_read_before_any_video(desk, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    words = ["train", "--state-graph", "tiny", "--data", "videos", "--val", "nowhere", f"data.cache={tmp_path}"]
    assert main(words) == 2
    assert "there is no data at nowhere" in capsys.readouterr().err and not list(tmp_path.iterdir())


def refusal(words: list[str], before_exec: Callable[[], None] | None = permissions_bind, first: str = "") -> str:
    program = f"import sys\nfrom fastplan.cli import main\n{first}\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, preexec_fn=before_exec
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    return done.stderr


def test_what_may_not_be_read_or_written_is_named(tmp_path):
    folder = tmp_path / "videos"
    for number in range(2):
        write_numbered(folder / f"c{number}" / "v.mp4", 20)
    (tmp_path / "list.txt").write_text("videos/c0/v.mp4 0\nvideos/c1/v.mp4 1\n")
    (tmp_path / "fixed").mkdir()
    check, cache = ["check", str(folder)], f"data.cache={tmp_path / 'cache'}"
    for path, words in ((folder / "c1", check), (tmp_path / "list.txt", ["check", str(tmp_path / "list.txt")])):
        path.chmod(0)
        assert f"{path} may not be read (Permission denied)" in refusal([*words, cache])
        path.chmod(0o755)
    (tmp_path / "fixed").chmod(0o555)
    assert "set data.cache to a folder that can be written" in refusal([*check, f"data.cache={tmp_path / 'fixed/c'}"])
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    said = refusal([*check, f"data.cache={tmp_path / 'full'}"], None, full)
    assert "File too large" in said and "free some space, then run it again" in said
