"""House rules that no linter knows."""

import re
from pathlib import Path

import pytest
import yaml

from fastplan.config import RunConfig, build_config, differences, read_settings
from fastplan.configs import default_file, shipped
from fastplan.planner.plans import Plan

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "fastplan").rglob("*.py"))


def test_default_yaml_is_every_default():
    content = read_settings(default_file())
    assert differences(RunConfig(), build_config([("default.yaml", content)])) == []

    def keys(tree, above=""):
        return {f"{above}{k}" for k in tree} | {
            key for k, v in tree.items() if isinstance(v, dict) for key in keys(v, f"{above}{k}.")
        }

    assert keys(content) == keys(RunConfig().model_dump())


@pytest.mark.parametrize("name", list(shipped("plans")))
def test_published_plans_load(name):
    plan = Plan.load(shipped("plans")[name])
    assert Plan.from_yaml(plan.to_yaml()) == plan
    build_config([(name, plan.config)])
    assert {leg.state.effective_batch for leg in plan.legs} == {64}


def test_published_plans_hold_the_published_figures():
    """METHOD section 1, the table of released paths."""
    legs = Plan.load(shipped("plans")["op-kinetics-dg-p3d-resnet50"]).legs
    assert [(leg.state.clip.frames, leg.state.clip.stride, leg.state.lr, leg.epochs) for leg in legs] == [
        (16, 1, 0.04, 58), (32, 1, 0.04, 108), (32, 1, 0.004, 26), (64, 2, 0.0004, 10), (64, 2, 0.00004, 18),
    ]  # fmt: skip
    assert [leg.state.freeze_bn for leg in legs] == [False, False, False, True, True]
    facts = yaml.safe_load((shipped("plans")["op-hmdb51-dg-p3d-resnet50-kinetics"]).read_text())
    assert [leg["epochs"] for leg in facts["legs"]] == [42, 42, 33, 27, 25]
    baseline = Plan.load(shipped("plans")["kinetics-p3d-resnet50-1x16x1-128e"]).legs[0]
    assert (baseline.schedule, baseline.warmup, baseline.epochs) == ("cosine", 1, 128)


@pytest.mark.parametrize(
    ("module", "home"),
    [
        ("nvidia", "fastplan/data/dali.py"),
        ("ray", "fastplan/workers/on_ray.py"),
        ("torch.distributed", "fastplan/train/distributed.py"),
    ],
)
def test_one_module_imports(module, home):
    importers = [p for p in SOURCES if re.search(rf"^\s*(import|from) {module}\b", p.read_text(), re.MULTILINE)]
    assert importers == [ROOT / home]


def test_files_stay_small():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_no_unsafe_reading():
    for path in SOURCES:
        text = path.read_text()
        assert "yaml.load(" not in text and "shell=True" not in text and "pickle.load" not in text, path
        assert all("weights_only=True" in line for line in text.splitlines() if "torch.load(" in line), path
