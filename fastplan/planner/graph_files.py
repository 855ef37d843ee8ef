"""Graph files: rows of states and edges, levels from which a graph is made, or the authors' parallel lists."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from fastplan.clips import ClipSpec
from fastplan.errors import UserError, nearest
from fastplan.planner.levels import from_levels
from fastplan.planner.parallel_lists import PARALLEL_KEYS, from_parallel_lists
from fastplan.planner.states import Edge, State, StateGraph

_GRAPH_KEYS = ("name", "about", "target", "states", "edges", "levels", "config")


def load_graph(path: Path) -> StateGraph:
    """Read a graph file: rows (`states`, `edges`) or `levels`. Raises `UserError` naming the file and the fault."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the state graph {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return graph_from_dict(content, default_name=path.stem)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


def graph_from_dict(content: Any, *, default_name: str = "graph") -> StateGraph:
    """Build a graph from the content of a graph file; the inverse of `graph_to_dict`."""
    if not isinstance(content, Mapping):
        raise UserError("a state graph is a mapping: 'states' and 'edges', or 'levels'")
    lists = {key: value for key, value in content.items() if key in PARALLEL_KEYS}
    for key in content:
        if key not in _GRAPH_KEYS and key not in lists:
            raise UserError(f"unknown key '{key}'{nearest(str(key), (*_GRAPH_KEYS, *PARALLEL_KEYS))}")
    if ("levels" in content) + ("states" in content) + bool(lists) != 1:
        raise UserError("give one of: 'states' and 'edges', 'levels', or the authors' lists ('num_segments_list', ...)")
    settings: Mapping[str, Any] = {}
    if "levels" in content:
        states, edges = from_levels(content["levels"])
    elif lists:
        states, edges, settings = from_parallel_lists(lists)
    else:
        rows = content["states"]
        if not isinstance(rows, Mapping):
            raise UserError("'states' is a mapping from a state's name to its settings")
        states = [State.from_dict(str(name), row) for name, row in rows.items()]
        listed = content.get("edges") or []
        if not isinstance(listed, list):
            raise UserError(f"'edges' is {listed!r}; it must be a list of 'source -> target'")
        edges = [_read_edge(edge) for edge in listed]
    target = content.get("target")
    try:
        clip = ClipSpec(**target) if target else None
    except (TypeError, UserError) as error:
        raise UserError(f"the target clip {target!r}: {error}") from None
    own = content.get("config") or {}
    if not isinstance(own, Mapping):
        raise UserError(f"'config' is {own!r}; it must be a mapping of settings")
    return StateGraph(
        name=str(content.get("name", default_name)),
        states=tuple(states),
        edges=tuple(edges),
        target=clip,
        about=str(content.get("about", "")),
        config={**settings, **own},
    )


def graph_to_dict(graph: StateGraph) -> dict[str, Any]:
    """The row form of a graph, ready for YAML."""
    content: dict[str, Any] = {"name": graph.name}
    if graph.about:
        content["about"] = graph.about
    if graph.target is not None:
        content["target"] = asdict(graph.target)
    content["states"] = {state.name: state.to_dict() for state in graph.states}
    content["edges"] = [f"{source} -> {target}" for source, target in graph.edges]
    if graph.config:
        content["config"] = dict(graph.config)
    return content


def _read_edge(edge: Any) -> Edge:
    ends = edge.split("->") if isinstance(edge, str) else edge
    if not isinstance(ends, (list, tuple)) or len(ends) != 2:
        raise UserError(f"edge {edge!r}: write 'source -> target'")
    return str(ends[0]).strip(), str(ends[1]).strip()
