"""The command line: its flags, and one clear line with a non-zero exit for every mistake users make."""

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from fastplan import cli
from numbered_videos import write_numbered

FLAGS = {
    "train": {
        "--state-graph",
        "--plan",
        "--data",
        "--val",
        "--config",
        "--device",
        "--seed",
        "--budget",
        "--workers",
        "--exact",
        "--run",
        "--resume",
    },
    "plan": {
        "--state-graph",
        "--plan",
        "--data",
        "--val",
        "--config",
        "--device",
        "--seed",
        "--budget",
        "--draw",
        "--probe",
    },
    "test": {"--run", "--data", "--clips"},
    "check": {"--show", "--json", "--fix-list", "--index", "--span", "--hash"},
    "networks": {"--frames", "--size", "--json", "--kernels"},
    "bench": {"--data", "--state-graph"},
    "doctor": set(),
}


def test_a_new_flag_is_a_decision():
    """Knobs belong into the configuration; whoever adds a flag edits this list."""
    parser = cli._parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    found = {
        name: {o for a in command._actions for o in a.option_strings if o.startswith("--")} - {"--help"}
        for name, command in commands.items()
    }
    assert found == FLAGS


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for label in ("run", "walk"):
        for number in range(6):
            write_numbered(root / label / f"a{number % 3}_{number}.mp4", 24 + number)
    return root


SMALL = ["data.cache={cache}", "data.threads=2", "data.group_pattern=null", "data.holdout_test=0", "train.bn_clips=4"]


def run(capsys, tmp_path, *words: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command in this process."""
    status = cli.main([word.format(cache=tmp_path / "cache", tmp=tmp_path) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refuse(capsys, tmp_path, *words: str) -> str:
    status, _, error = run(capsys, tmp_path, *words)
    assert status == 2, error
    assert error.startswith("fastplan: ") and error.count("\n") == 1, "one line, no traceback"
    return error


def train(videos: Path, *more: str) -> list[str]:
    return ["train", "--state-graph", "tiny", "--data", str(videos), "--run", "{tmp}/run", *SMALL, *more]


def test_data_mistakes(capsys, tmp_path, videos):
    assert "there is no data at" in refuse(capsys, tmp_path, *train(tmp_path / "missing"))
    one = tmp_path / "one"
    shutil.copytree(videos / "run", one / "run")
    assert "has one class, 'run'; training needs at least two" in refuse(capsys, tmp_path, *train(one))
    (one / "walk").mkdir()
    assert "class 'walk' in" in refuse(capsys, tmp_path, *train(one))


def test_a_clip_longer_than_every_video(capsys, tmp_path, videos):
    graph = tmp_path / "long.yaml"
    graph.write_text("states: {a: {segments: 1, frames: 64, stride: 2, lr: 0.1}}\nedges: [start -> a]\n")
    words = ["train", "--state-graph", str(graph), "--data", str(videos), "--run", "{tmp}/run", *SMALL]
    error = refuse(capsys, tmp_path, *words, "data.short=error", "network.name=dg_p3d_tiny")
    assert "state 'a': a clip spans 128 frames but" in error and "has 24 (12 videos are too short)" in error
    assert "data.short=loop" in error


def test_graph_and_setting_mistakes(capsys, tmp_path, videos):
    cycle = tmp_path / "cycle.yaml"
    row = "{segments: 1, frames: 8, lr: 0.1}"
    cycle.write_text(f"states: {{a: {row}, b: {row}}}\nedges: [start -> a, a -> b, b -> a]\n")
    error = refuse(capsys, tmp_path, "train", "--state-graph", str(cycle), "--data", str(videos))
    assert "cycle.yaml: graph 'cycle' has a cycle: a -> b -> a" in error
    assert "did you mean 'default'" in refuse(capsys, tmp_path, "train", "--state-graph", "defalt")
    assert "unknown key 'plan.max_epoch', did you mean 'max_epochs'" in refuse(
        capsys, tmp_path, *train(videos, "plan.max_epoch=3")
    )
    assert "plan.max_epochs is 0: Input should be greater than or equal to 1" in refuse(
        capsys, tmp_path, *train(videos, "plan.max_epochs=0")
    )
    assert "write key.sub=value" in refuse(capsys, tmp_path, *train(videos, "max_epochs"))
    assert "'plan' is a section" in refuse(capsys, tmp_path, *train(videos, "plan=3"))
    assert "give --state-graph NAME|FILE to search, or --plan" in refuse(capsys, tmp_path, "train")
    assert "there is no network 'dg_p3d_t'" in refuse(capsys, tmp_path, *train(videos, "network.name=dg_p3d_t"))
    assert "needs a multiple of 4" in refuse(
        capsys, tmp_path, "plan", "--state-graph", str(graph_of(tmp_path, frames=6)), "network.name=dg_p3d_tiny"
    )
    assert "there is no file" in refuse(capsys, tmp_path, "train", "--plan", "{tmp}/none.yaml")
    assert "--run DIR --resume" in refuse(capsys, tmp_path, "train", "--resume")


def graph_of(tmp_path: Path, frames: int) -> Path:
    file = tmp_path / "graph.yaml"
    file.write_text(f"states: {{a: {{segments: 1, frames: {frames}, lr: 0.1}}}}\nedges: [start -> a]\n")
    return file


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu(capsys, tmp_path, videos):
    error = refuse(capsys, tmp_path, *train(videos, "--device", "cuda"))
    assert "there is no CUDA GPU that PyTorch can use; run `fastplan doctor`, or give --device cpu" in error


def test_unreadable_videos_are_skipped_counted_and_listed(capsys, tmp_path, videos):
    mixed = tmp_path / "mixed"
    shutil.copytree(videos, mixed)
    (mixed / "run" / "broken.mp4").write_text("no video")
    (mixed / "walk" / "empty.mp4").touch()
    settings = ["plan.max_epochs=1", "plan.attempt_epochs=1", "plan.score_clips=1", "data.clips_per_epoch=16"]
    assert "2 of 12 videos cannot be read, more than data.max_bad_fraction=0.1 allows (" in refuse(
        capsys, tmp_path, "train", *train(mixed, *settings)[1:5], "--run", "{tmp}/refused", *SMALL, *settings
    )
    settings.append("data.max_bad_fraction=0.2")
    status, output, error = run(capsys, tmp_path, *train(mixed, *settings))
    assert status == 0, error
    text = " ".join(output.split())
    assert "2 videos that do not decode" in text and "run/broken.mp4" in text and "walk/empty.mp4" in text
    results = (tmp_path / "run" / "results.json").read_text()
    assert "broken.mp4" in results and "empty.mp4" in results
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") in (5, 6) and "start → u8-high" in page
    assert "  clips_per_epoch: 16\n" in page and "<td>device<td>cpu: " in page
    assert f"fastplan train --plan {tmp_path / 'run' / 'plan.yaml'} --data {mixed}" in output.splitlines()[-1]


def test_a_video_that_breaks_during_a_run_is_named_in_its_report(capsys, tmp_path, videos):
    """Its bytes change while size and time stay, so that the index still believes in it."""
    data = tmp_path / "data"
    shutil.copytree(videos, data)
    assert run(capsys, tmp_path, "check", str(data), "data.cache={cache}")[0] == 0
    broken = data / "run" / "a1_1.mp4"
    before = broken.stat()
    broken.write_bytes(bytes(before.st_size))
    os.utime(broken, ns=(before.st_atime_ns, before.st_mtime_ns))
    settings = ["plan.max_epochs=1", "plan.attempt_epochs=1", "plan.score_clips=1", "data.clips_per_epoch=16"]
    status, output, error = run(capsys, tmp_path, *train(data, *settings, "data.max_bad_fraction=0.5", "--seed", "1"))
    assert status == 0, error
    text = "".join(output.split())
    assert f"cannotread{broken}" in text and "filesthatcouldnotberead:1," in text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    lost = results["lost_clips"]
    assert {clip["path"] for clip in lost} == {str(broken)} and all(clip["reason"] for clip in lost)
    assert "Files that could not be read: 1<" in (tmp_path / "run" / "report.html").read_text()
    lines = (tmp_path / "run" / "lost.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == lost


def test_plan_shows_the_whole_search_without_data(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status, output, _ = run(capsys, tmp_path, "plan", "--state-graph", "paper-sparse")
    assert status == 0
    assert output.count("16x4-lr") >= 3 and "14 edges" in output
    assert " 64 " in output and "frozen" in output
    status, output, _ = run(capsys, tmp_path, "plan", "--plan", "op-ucf101-dg-p3d-resnet50")
    assert status == 0 and "38" in output


def test_plan_draws_graph_and_plan(capsys, tmp_path):
    status, *_ = run(capsys, tmp_path, "plan", "--state-graph", "paper-both", "--draw", "{tmp}/new/graph.svg")
    drawn = (tmp_path / "new" / "graph.svg").read_text()
    assert status == 0
    assert drawn.count("<!-- ") >= 1 + 2 * 18, "a comment per line of text: start, and name and clip of 18 states"
    assert "<!-- 16x4-lr0.01 -->" in drawn and "<!-- start -->" in drawn
    status, *_ = run(capsys, tmp_path, "plan", "--plan", "op-ucf101-dg-p3d-resnet50", "--draw", "{tmp}/plan.svg")
    assert status == 0 and "<!-- lr 0.001 -->" in (tmp_path / "plan.svg").read_text()
    status, _, error = run(capsys, tmp_path, "plan", "--state-graph", "tiny", "--draw", "{tmp}/graph.jpg")
    assert status == 2 and ".svg, .pdf or .png" in error and not (tmp_path / "graph.jpg").exists()


def test_networks_lists_costs_and_clips(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    names = ["dg_p3d_50", "slowfast_r50_8x8", "c3d"]
    status, output, _ = run(capsys, tmp_path, "networks", *names, "--frames", "16", "6", "--size", "256")
    assert status == 0
    rows = {line.split()[1]: line.split()[2:] for line in output.splitlines() if "_" in line or "c3d" in line}
    cells = {name: [cell for cell in row if cell != "│"] for name, row in rows.items()}
    assert cells["dg_p3d_50"] == ["50,382,288", "2", "4", "4", "-", "30.86"]
    assert cells["slowfast_r50_8x8"][:4] == ["34,566,488", "1", "4", "4"]
    assert cells["c3d"][:5] == ["79,634,576", "1", "16", "1", "-"]
    status, output, _ = run(capsys, tmp_path, "networks", "p3d_50", "--json")
    content = json.loads(output)
    assert content["size"] == 224 and content["classes"] == 400
    (cost,) = content["networks"]
    macs = cost.pop("macs")
    assert cost == {"network": "p3d_50", "parameters": 28_128_272, "heads": 1, "least": 4, "multiple": 4}
    assert macs == {"16": 20_231_782_400, "32": 40_462_745_600, "64": 80_924_672_000}
    assert "did you mean 'p3d_50'" in refuse(capsys, tmp_path, "networks", "p3d_5")
    assert "clip frames is 0" in refuse(capsys, tmp_path, "networks", "--frames", "0")


def test_doctor_names_what_matters(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status, output, _ = run(capsys, tmp_path, "doctor")
    assert status == 0
    for word in ("torch", "nvidia-dali", "GPU", "NVDEC", "DALI on the CPU", "apex"):
        assert word in output
    assert "vp9" in output.split("decodes", 1)[1].split("; not")[0], "DALI decodes VP9 on the CPU"


def test_another_apex_is_told_apart(tmp_path, monkeypatch):
    """PyPI's apex is another project; NVIDIA's has these two sub-packages."""
    from fastplan import doctor

    package = tmp_path / "apex"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "not NVIDIA's" in doctor._apex()
    for part in ("contrib", "normalization"):
        (package / part).mkdir()
    assert doctor._apex() == "NVIDIA's"


def test_networks_say_what_computes_them(capsys, tmp_path):
    """DG-P3D-50: every convolution of its 19 blocks once, a merged pair as one; the memory-bound ones are GEMMs."""
    from fastplan.models.choices import kernel_choices
    from fastplan.models.networks import build_network

    with torch.device("meta"):
        choices = kernel_choices(build_network("dg_p3d_50", 5))
    convolutions = 19 * 4 + 5  # conv1, s, t, conv3; a projection in each layer
    merged = sum(count for choice, count in choices.items() if "+" in choice.kernel)
    assert sum(choices.values()) == convolutions - merged
    runs = {(c.kernel, c.inputs, c.outputs, c.stride): c.gemm for c in choices}
    assert runs["1x1x1", 64, 256, 1] and not runs["1x1x1", 512, 2048, 1] and not runs["1x3x3", 64, 64, 1]
    status, output, _ = run(capsys, tmp_path, "networks", "dg_p3d_50", "c3d", "--kernels")
    assert "19 of 19 blocks end in one GEMM" in output  # in layer 4 too, where conv3 is cuDNN's in training
    assert status == 0 and "64 -> 256" in output and "c3d has no block that the kernels run" in output
    assert run(capsys, tmp_path, "networks", "--kernels")[0] == 2


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["train", "--help"])
    assert done.value.code == 0
    assert "fastplan train --run runs/mine --resume" in capsys.readouterr().out


def test_every_bench_explains_itself(capfd):
    """`fastplan bench NAME` hands its words on, --help included, and the status back."""
    for name in cli._BENCHES:
        assert cli.main(["bench", name, "--help"]) == 0
        assert "usage:" in capfd.readouterr().out, name
    assert cli.main(["bench", "kernels", "--no-such-flag"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["bench", "nothing"])
    assert "'kernels'" in capfd.readouterr().err
