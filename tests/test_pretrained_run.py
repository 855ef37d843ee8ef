"""A run that starts from weights in a file: it trains those, says so, and will not go on from another file."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
import yaml

from fastplan import cli
from fastplan.models.networks import build_network
from numbered_videos import write_numbered


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for label in ("run", "walk"):
        for number in range(6):
            write_numbered(root / label / f"{number}.mp4", 24)
    return root


@pytest.fixture
def graph(tmp_path) -> Path:
    """One state that trains as good as nothing, so that its weights are the initial ones."""
    file = tmp_path / "still.yaml"
    row = "{segments: 1, frames: 8, size: 32, lr: 1.0e-12, batch_size: 4}"
    file.write_text(f"states: {{a: {row}}}\nedges: [start -> a]\n")
    return file


def own_network(file: Path, classes: list[str]) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    network = build_network("dg_p3d_tiny", 2)
    torch.save({"name": "dg_p3d_tiny", "classes": classes, "weights": network.state_dict()}, file)
    return dict(network.named_parameters())


def train(capsys, run: Path, *words: str) -> tuple[int, str, str]:
    status = cli.main(["train", "--run", str(run), *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def settings(tmp_path: Path, graph: Path, videos: Path, *more: str) -> list[str]:
    return ["--state-graph", str(graph), "--data", str(videos), "--device", "cpu", f"data.cache={tmp_path / 'cache'}",
            "data.threads=2", "network.name=dg_p3d_tiny", "train.bn_clips=4", "plan.max_epochs=1",
            "plan.attempt_epochs=1", "plan.score_clips=1", "plan.scratch_margin=0.6", *more]  # fmt: skip


def fits(run: Path) -> list[str]:
    rows = sqlite3.connect(run / "journal.sqlite").execute("select fit from fits order by epoch").fetchall()
    return [json.loads(text)["status"] for (text,) in rows]


def test_a_run_trains_the_weights_of_the_file(capsys, tmp_path, monkeypatch, graph, videos):
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "mine.pt"
    weights = own_network(file, ["run", "walk"])
    run = tmp_path / "run"
    status, output, error = train(capsys, run, *settings(tmp_path, graph, videos, f"network.pretrained={file}"))
    assert status == 0, error
    assert "starts from" in output and "mine.pt, a dg_p3d_tiny of fastplan" in output and "nothing new" in output
    kept = torch.load(run / "network.pt", weights_only=True)["weights"]
    for name, value in weights.items():
        torch.testing.assert_close(kept[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert yaml.safe_load((run / "config.yaml").read_text())["network"]["pretrained"] == str(file)
    assert json.loads((run / "pretrained.json").read_text())["left_out"] == []
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    assert plan["provenance"]["init"].startswith("mine.pt, a dg_p3d_tiny of fastplan, sha256 ")
    assert "pretrained" not in plan["config"]["network"], "a plan holds no path of this machine"
    scratch = tmp_path / "scratch"
    assert train(capsys, scratch, *settings(tmp_path, graph, videos))[0] == 0
    assert "at_chance" in fits(scratch) and "at_chance" not in fits(run)

    status, output, error = train(capsys, tmp_path / "again", "--plan", str(run / "plan.yaml"), "--data", str(videos),
                                  "--exact", f"data.cache={tmp_path / 'cache'}")  # fmt: skip
    assert status == 0, error
    assert "the plan began from mine.pt" in " ".join(output.split()) and "network.pretrained=FILE" in output
    plan = yaml.safe_load((tmp_path / "again" / "plan.yaml").read_text())
    assert plan["provenance"]["init"] == "random weights"


def test_a_resumed_run_wants_the_same_file(capsys, tmp_path, graph, videos):
    file = tmp_path / "mine.pt"
    own_network(file, ["other", "names"])
    run = tmp_path / "run"
    words = settings(tmp_path, graph, videos, f"network.pretrained={file}")
    assert train(capsys, run, *words)[0] == 0
    (run / "journal.sqlite").unlink()
    shutil.rmtree(run / "checkpoints")
    own_network(file, ["names", "other"])
    status, _, error = train(capsys, run, "--resume")
    assert status == 2 and "is not the file that this run began with" in error and error.count("\n") == 1
    own_network(file, ["other", "names"])
    assert train(capsys, run, "--resume")[0] == 0
