"""Optimization planning (Qiu et al., ICML 2021) without torch: any training in stages can be its client.

`search(graph, measure)` needs a `StateGraph` and a function that trains one edge; see `fastplan.planner.search`.
"""

from fastplan.planner.curve import KneeFit, KneeRule, Stop, choose_epoch, fit_knee, should_stop
from fastplan.planner.search import Leg, Outcome, Plan, Reached, SearchResult, pick, search
from fastplan.planner.states import START, State, StateGraph, load_graph

__all__ = [
    "START",
    "KneeFit",
    "KneeRule",
    "Leg",
    "Outcome",
    "Plan",
    "Reached",
    "SearchResult",
    "State",
    "StateGraph",
    "Stop",
    "choose_epoch",
    "fit_knee",
    "load_graph",
    "pick",
    "search",
    "should_stop",
]
