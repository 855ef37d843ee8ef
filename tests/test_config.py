"""Layers of configuration, words, and what differs between two of them."""

import pytest

from fastplan.config import RunConfig, build_config, differences, parse_override, read_settings, replay_settings
from fastplan.errors import UserError


def test_later_layers_win_key_by_key():
    layers = [
        ("graph", {"plan": {"max_epochs": 10, "tolerance": 0.01}, "network": {"name": "dg_p3d_18"}}),
        ("file", {"plan": {"max_epochs": 20}}),
        ("word", parse_override("plan.tolerance=0.02")),
    ]
    config = build_config(layers)
    assert (config.plan.max_epochs, config.plan.tolerance, config.network.name) == (20, 0.02, "dg_p3d_18")
    assert config.plan.attempt_epochs == RunConfig().plan.attempt_epochs


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("seed=3", {"seed": 3}),
        ("data.augment.scale=[0.5, 1]", {"data": {"augment": {"scale": [0.5, 1]}}}),
        ("optim.clip_grad_norm=null", {"optim": {"clip_grad_norm": None}}),
        ("data.group_pattern=a=b", {"data": {"group_pattern": "a=b"}}),
    ],
)
def test_words(word, wanted):
    assert parse_override(word) == wanted


@pytest.mark.parametrize("word", ["seed", "=3", "a..b=3", "data.=3", "seed=[1"])
def test_wrong_words(word):
    with pytest.raises(UserError):
        parse_override(word)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"dat": {}}, "file: unknown key 'dat', did you mean 'data'"),
        ({"data": {"augment": {"flop": 0}}}, "file: unknown key 'data.augment.flop', did you mean 'flip'"),
        (
            {"plan": {"knee": "elbow"}},
            "plan.knee is 'elbow': Input should be 'tolerance', 'exponential', 'power' or 'paper'",
        ),
        ({"data": {"augment": {"scale": [1.0, 0.5]}}}, "scale .* must be two fractions, the smaller first"),
        ({"optim": {"momentum": 1.5}}, "optim.momentum is 1.5: Input should be less than 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_settings(layer, message):
    with pytest.raises(UserError, match=message):
        build_config([("file", layer)])


def test_the_resolved_configuration_survives_its_file(tmp_path):
    config = build_config([("x", {"seed": 7, "optim": {"clip_grad_norm": None}, "data": {"train": "a b/c"}})])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert build_config([("again", read_settings(file))]) == config


def test_differences_name_keys_and_an_auto_is_none():
    saved = build_config([("x", {"seed": 1, "device": "cpu", "train": {"precision": "fp32"}})])
    asked = build_config([("x", {"seed": 2, "train": {"bn_clips": 8}})])
    assert differences(saved, asked) == ["seed: 1 -> 2", "train.bn_clips: 320 -> 8"]


def test_a_plan_takes_no_paths_along():
    config = build_config([("x", {"data": {"train": "/a", "cache": "/b"}, "train": {"precision": "bf16"}})])
    settings = replay_settings(config)
    assert "/a" not in str(settings) and "/b" not in str(settings) and "precision" not in settings["train"]
    assert build_config([("plan", settings)]).plan == config.plan


def test_files_that_are_no_configuration(tmp_path):
    file = tmp_path / "c.yaml"
    for text, message in (("- a\n- b\n", "it must be a mapping"), ("a: [", "is not YAML")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_settings(file)
    with pytest.raises(UserError, match="cannot read .*: No such file"):
        read_settings(tmp_path / "none.yaml")
