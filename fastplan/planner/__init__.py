"""Optimization planning (Qiu et al., ICML 2021) without torch: any training in stages can be its client.

`search(graph, measure)` needs a `StateGraph` and a function that trains one edge; see `fastplan.planner.search`.
Schedulers drive `Stepwise` themselves: see `fastplan.planner.stepwise`.
"""

from fastplan.planner.arrivals import Exploration, Outcome, Progress, Reached, pick
from fastplan.planner.confidence import is_hopeless, knee_band
from fastplan.planner.curve import (
    KneeBand,
    KneeFit,
    KneeRule,
    Stop,
    choose_epoch,
    epochs_in_play,
    fit_knee,
    fit_knees,
    most_in_play,
    should_stop,
)
from fastplan.planner.frontier import PlanFrontier, front, pareto, pick_highest
from fastplan.planner.graph_files import graph_from_dict, load_graph
from fastplan.planner.plans import Leg, Plan
from fastplan.planner.search import search
from fastplan.planner.states import START, State, StateGraph
from fastplan.planner.stepwise import SearchResult, SearchRules, Stepwise

__all__ = [
    "START",
    "Exploration",
    "KneeBand",
    "KneeFit",
    "KneeRule",
    "Leg",
    "Outcome",
    "Plan",
    "PlanFrontier",
    "Progress",
    "Reached",
    "SearchResult",
    "SearchRules",
    "State",
    "StateGraph",
    "Stepwise",
    "Stop",
    "choose_epoch",
    "epochs_in_play",
    "fit_knee",
    "fit_knees",
    "front",
    "graph_from_dict",
    "is_hopeless",
    "knee_band",
    "load_graph",
    "most_in_play",
    "pareto",
    "pick",
    "pick_highest",
    "search",
    "should_stop",
]
