"""`fastplan plan --probe`: what it measures, on real videos, and that its sums are right."""

import re

import pytest

from fastplan import cli
from fastplan.launch import Request, resolve
from fastplan.probe import probe
from numbered_videos import write_numbered


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("probe")
    for label in ("run", "walk"):
        for number in range(6):
            write_numbered(root / "videos" / label / f"a{number % 3}_{number}.mp4", 24 + number)
    return [f"data.cache={root / 'cache'}", "data.threads=2", "data.clips_per_epoch=40", "train.bn_clips=4",
            f"data.train={root / 'videos'}", "plan.attempt_epochs=3", "plan.max_epochs=7",
            "plan.holdout=0.34"]  # fmt: skip


def test_the_probe_measures_every_state(words):
    task = resolve(Request(state_graph="tiny", overrides=tuple(words)))
    found = probe(task, lambda title, total: lambda: None)
    assert set(found.prices) == {state.name for state in task.graph.states}
    assert (found.epoch_clips, found.classes) == (40, 2) and found.val_videos == 4
    for price in found.prices.values():
        assert price.train_seconds == pytest.approx(40 / price.clips_per_s)
        assert 0 <= price.waiting < 1 and price.val_seconds > 0
        assert price.peak_bytes == 0, "there is no GPU"
    same = [s for s in task.graph.states if s.clip == task.graph.states[-1].clip]
    assert len({found.prices[s.name] for s in same}) == 1, "states that differ in their rate alone are measured once"


def test_the_dry_run_adds_up(words, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "170")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--state-graph", "tiny", "--probe", "--budget", "9e", *words]) == 0
    text = " ".join(capsys.readouterr().out.split())
    least, most = (float(re.search(rf"{before}([0-9.]+) s", text)[1]) for before in ("the search: ", "as it may, "))
    rows = re.findall(r"3 to (\d+) │ [0-9.,]+ │ \d+% │ ([0-9.]+) s", text)
    assert sorted(int(cap) for cap, _ in rows) == [7, 7, 7, 14], (
        "start -> u8-high may take what c4-high -> u8-high does"
    )
    assert least == pytest.approx(3 * sum(float(epoch) for _, epoch in rows), abs=0.6), "three epochs of every edge"
    assert most == pytest.approx(sum(int(cap) * float(epoch) for cap, epoch in rows), abs=1.8)
    assert "disk: 1.2 MB a checkpoint, at most" in text
    assert "budget of 9 epochs: pays 1 of" in text and "verdict: not worth its cost here: 4 validation videos" in text
    assert list(tmp_path.iterdir()) == [], "a dry run leaves nothing behind"


def test_a_budget_without_the_probe_is_not_passed_over(capsys):
    assert cli.main(["plan", "--state-graph", "tiny", "--budget", "9e"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "budget of 9 epochs: --probe says what it cuts"
