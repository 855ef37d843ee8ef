"""The authors' form of a search: parallel lists, one entry per clip setting, per node or per edge.

Nodes are numbered, 0 is the start. Names of keys are those of the released search script (Qiu et al., ICML 2021), so
its lists can be put into a YAML file as they stand.
"""

from collections.abc import Mapping
from typing import Any

from fastplan.errors import UserError
from fastplan.planner.states import START, Edge, State

_SETTING_KEYS = (
    "num_segments_list",
    "clip_length_list",
    "num_steps_list",
    "base_lr_list",
    "batch_size_list",
    "iter_size_list",
    "frozen_bn_list",
)
_NODE_KEYS = ("setting_list", "lr_mult_list")
_EDGE_KEYS = ("start_node_list", "end_node_list")
_OTHER_KEYS = ("attempt_epochs", "visualize_figure")
PARALLEL_KEYS = (*_SETTING_KEYS, *_NODE_KEYS, *_EDGE_KEYS, *_OTHER_KEYS)


def from_parallel_lists(content: Mapping[str, Any]) -> tuple[list[State], list[Edge], dict[str, Any]]:
    """States, edges and settings of a search written as parallel lists.

    State n is called `nodeN`; settings carry `plan.attempt_epochs` where the lists say it. Raises `UserError` naming
    the list and the fault.
    """
    settings = _lists(content, _SETTING_KEYS)
    nodes = _lists(content, _NODE_KEYS)
    edges = _lists(content, _EDGE_KEYS)
    count = len(settings["num_segments_list"])
    states = []
    for number in range(1, len(nodes["setting_list"])):  # entry 0 stands for the start
        which, factor = nodes["setting_list"][number], nodes["lr_mult_list"][number]
        if isinstance(which, bool) or not isinstance(which, int) or not 0 <= which < count:
            raise UserError(f"setting_list gives node {number} the setting {which!r}; there are 0 to {count - 1}")
        segments, frames, stride, lr, batch, accumulate, frozen = (settings[key][which] for key in _SETTING_KEYS)
        row = {
            "segments": segments,
            "frames": frames,
            "stride": stride,
            "lr": _product(lr, factor, number),
            "batch_size": batch,
            "accumulate": accumulate,
            "freeze_bn": frozen,
        }
        states.append(State.from_dict(_name(number), row))
    pairs = [
        (_name(source), _name(target))
        for source, target in zip(edges["start_node_list"], edges["end_node_list"], strict=True)
    ]
    attempt = content.get("attempt_epochs")
    return states, pairs, {} if attempt is None else {"plan": {"attempt_epochs": attempt}}


def _lists(content: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for key in keys:
        value = content.get(key)
        if not isinstance(value, list) or not value:
            raise UserError(f"'{key}' is {value!r}; it must be a list")
        if len(value) != len(found.get(keys[0], value)):
            raise UserError(f"'{key}' has {len(value)} entries but '{keys[0]}' has {len(found[keys[0]])}")
        found[key] = value
    return found


def _name(number: Any) -> str:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise UserError(f"node {number!r} in the edges must be a whole number of at least 0; 0 is the start")
    return f"node{number}" if number else START


def _product(lr: Any, factor: Any, number: int) -> float:
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in (lr, factor)):
        raise UserError(f"node {number}: base_lr {lr!r} and lr_mult {factor!r} must be numbers")
    return float(f"{lr * factor:.12g}")
