"""Levels: the graphs of the paper and their kin, made from clip settings and learning rates (METHOD section 1).

A state has a place on every axis: the clip axis (shortest first), further axes (frame stride, picture size, whatever
a state fixes; cheapest first) and the learning rate (highest first). An edge goes one step along one axis; `extended`
adds the step to a shorter clip at the next lower rate. Several clip axes, *branches* such as consecutive and uniform
clips, make one graph: from the last clip of each branch an edge leads to the last clip of the last branch, everything
else equal, so that a path may change the branch at every rate and ends where the last branch ends.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from fastplan.errors import UserError, nearest
from fastplan.planner.states import START, Edge, State

_KEYS = ("kind", "clips", "branches", "axes", "lr_scales", "starts")
_Place = tuple[str, tuple[int, ...], int]  # branch, indices on the clip axis and on the further ones, lr level


def from_levels(levels: Any) -> tuple[list[State], list[Edge]]:
    """States, level by level and in a level by clip, and edges of the `levels` part of a graph file.

    kind: `basic` or `extended`. clips: a mapping from a clip setting's name to its settings; or branches: a mapping
    from a branch's name to such a mapping. axes: a mapping from an axis to a mapping from a value's name to the
    settings that it replaces. lr_scales: factors on each clip setting's lr. starts: `paper` leads from the start to the
    first two clips at the highest rate, `every-lr` to the first two at every rate.

    Raises `UserError` naming the key and the fault.
    """
    if not isinstance(levels, Mapping):
        raise UserError("'levels' is a mapping with 'clips', shortest first, 'lr_scales', highest first, and 'kind'")
    for key in levels:
        if key not in _KEYS:
            raise UserError(f"'levels' has an unknown key '{key}'{nearest(str(key), _KEYS)}")
    if ("clips" in levels) == ("branches" in levels):
        raise UserError("'levels' needs 'clips', shortest first, or 'branches' of such clips")
    kind = _one_of(levels, "kind", ("basic", "extended"))
    starts = _one_of(levels, "starts", ("paper", "every-lr"))
    branches = _branches(levels)
    axes = [_named(row, f"axis '{name}'") for name, row in _named(levels.get("axes", {}), "'axes'", empty=True).items()]
    scales = _lr_scales(levels.get("lr_scales"))

    names: dict[_Place, str] = {}
    states = []
    for level, scale in enumerate(scales):
        for branch, clips in branches.items():
            for at in product(range(len(clips)), *(range(len(axis)) for axis in axes)):
                chosen = [list(axis.items())[i] for axis, i in zip((clips, *axes), at, strict=True)]
                name = "-".join([*(value for value, _ in chosen), f"lr{scale:g}"])
                merged: dict[str, Any] = {}
                for value, row in chosen:
                    if not isinstance(row, Mapping):
                        raise UserError(f"'{value}' is {row!r}; it must be a mapping of a state's settings")
                    merged.update(row)
                state = State.from_dict(name, merged)
                states.append(State.from_dict(name, {**merged, "lr": float(f"{state.lr * scale:.12g}")}))
                names[branch, at, level] = name
    first_levels = range(len(scales)) if starts == "every-lr" else (0,)
    edges = [(START, names[place]) for place in _first_places(branches, len(axes), first_levels)]
    edges += [(names[a], names[b]) for a in names for b in _next_places(a, branches, extended=kind == "extended")
              if b in names]  # fmt: skip
    return states, edges


def _first_places(branches: Mapping[str, Mapping[str, Any]], axes: int, levels: Any) -> Iterator[_Place]:
    for level in levels:
        for branch, clips in branches.items():
            for clip in range(min(2, len(clips))):
                yield branch, (clip, *(0,) * axes), level


def _next_places(place: _Place, branches: Mapping[str, Mapping[str, Any]], *, extended: bool) -> Iterator[_Place]:
    """Where the edges out of a place lead, places beyond the ends included."""
    branch, at, level = place
    for axis in range(len(at)):
        yield branch, (*at[:axis], at[axis] + 1, *at[axis + 1 :]), level
    last = list(branches)[-1]
    if branch != last and at[0] == len(branches[branch]) - 1:
        yield last, (len(branches[last]) - 1, *at[1:]), level
    yield branch, at, level + 1
    if extended and at[0] > 0:
        yield branch, (at[0] - 1, *at[1:]), level + 1


def _branches(levels: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if "clips" in levels:
        return {"": _named(levels["clips"], "'clips'")}
    branches = {name: _named(row, f"branch '{name}'") for name, row in _named(levels["branches"], "'branches'").items()}
    names = [clip for clips in branches.values() for clip in clips]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two branches have a clip setting '{name}': states take their names from it")
    return branches


def _named(content: Any, what: str, *, empty: bool = False) -> dict[str, Any]:
    if not isinstance(content, Mapping) or not (content or empty):
        raise UserError(f"{what} is {content!r}; it must be a mapping from names to settings")
    return {str(name): row for name, row in content.items()}


def _one_of(levels: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = levels.get(key, allowed[0])
    if value not in allowed:
        raise UserError(f"{key} is {value!r}; it is {' or '.join(allowed)}")
    return str(value)


def _lr_scales(scales: Any) -> list[float]:
    if not isinstance(scales, list) or not scales:
        raise UserError("'lr_scales' is a list of factors on each clip setting's lr, such as [1, 0.1, 0.01]")
    for scale in scales:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or scale <= 0:
            raise UserError(f"lr scale {scale!r} must be a positive number")
    return scales
