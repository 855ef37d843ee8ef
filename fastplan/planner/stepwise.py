"""The search as a conversation: `ask` what can be trained now, train it anywhere, `tell` what came of it.

A state is settled when everything that leads into it has been told; its front of arrivals is then what its out-edges
start from. What is kept depends on what was told, not on the order of telling, so parallel work gives the plan of
serial work. The object holds no clock, no randomness and no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastplan.errors import UserError
from fastplan.planner.arrivals import Exploration, Outcome, Progress, Reached, pick
from fastplan.planner.frontier import Choose, PlanFrontier, front, pareto, pick_highest, significantly_better
from fastplan.planner.plans import Plan, plan_of
from fastplan.planner.races import Race, Standing, lead_of
from fastplan.planner.repeats import Repeats, deciding_state
from fastplan.planner.states import START, StateGraph


@dataclass(frozen=True)
class SearchRules:
    """What a search keeps and what it leaves out; the defaults explore every edge once and leave nothing out.

    width: arrivals kept per state, >= 1, or None for the whole front. Each is a network of its own: an edge out of a
        state is trained once from each.
    z: standard errors of a difference that count as noise, >= 0.
    choose: which arrival in the sink is the plan: `pick`, or `pick_highest` as published. In every other state the
        highest accuracy wins: it will be trained on, and ties that go to the cheaper path add up along a path.
    skip_dominated: leave out an edge where another source of the same target is no dearer and better by more than
        noise. Edges from `start` are never left out; the others wait until all sources of their target are settled.
    first_path: states to train first, from `start` on, before anything else; a published or earlier plan.
    budget: clip-frames of training after which nothing new is asked, > 0. None: no limit.
    race: of the ways into a state that are trained to the same rung, the share that goes on to the next, 0 <= race < 1,
        one at least; the others are given up (`fastplan.planner.races`). None: every way is trained to its end.
    race_start: whether ways from `start` race too where there is a race, at equal compute: where the dearest path of
        the other ways has cost as many clip-frames as n epochs of the state, n epochs later than those. The number is
        how far the best way must be above the accuracy of the random weights before anything is decided, >= 0. None:
        they are trained to their ends.
    first_rung, rung_step: the rungs are `first_rung` and every `rung_step` epochs from there, >= 1.
    repeats: in the last state that several ways lead into, the most times that those within twice that noise of the
        best are trained again with other seeds, >= 0; their mean decides (`fastplan.planner.repeats`).

    Raises `UserError` for a value out of range.
    """

    width: int | None = 1
    z: float = 1.0
    choose: Choose = pick
    skip_dominated: bool = False
    first_path: tuple[str, ...] = ()
    budget: int | None = None
    repeats: int = 0
    race: float | None = None
    race_start: float | None = None
    first_rung: int = 2
    rung_step: int = 1

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise UserError(f"width is {self.width}; a state keeps at least one arrival, or all of them with None")
        if not self.z >= 0:
            raise UserError(f"z is {self.z}; it counts standard errors and is at least 0")
        if self.budget is not None and self.budget <= 0:
            raise UserError(f"budget is {self.budget}; it must be positive, or None for no limit")
        if self.repeats < 0:
            raise UserError(f"repeats is {self.repeats}; it must be at least 0")
        if self.race is not None and not 0 <= self.race < 1:
            raise UserError(f"race is {self.race}; it must be at least 0 and below 1, or None for no race")
        if self.race_start is not None and not self.race_start >= 0:
            raise UserError(f"race_start is {self.race_start}; it must be at least 0, or None for no such race")
        if self.first_rung < 1 or self.rung_step < 1:
            raise UserError(f"first_rung is {self.first_rung} and rung_step {self.rung_step}; both must be at least 1")


@dataclass(frozen=True)
class SearchResult:
    """Every settled state and the plan to the sink; `plan` is None where no path reached it, and `note` says why.

    fronts: for each settled state, the arrivals its out-edges were trained from, cheapest first.
    frontier: the best plan for every budget, among the paths into the sink that were trained.
    skipped: keys of explorations left out or given up, and why.
    spent: clip-frames trained in the whole search.
    path: the arrival that the plan was traced back from, states of 0 epochs included; None without a plan.
    complete: False where the search was ended before all it had to do was told; `plan` is then the best so far, and
        `note` says so where that plan ends before the sink.
    """

    reached: Mapping[str, Reached]
    plan: Plan | None
    note: str
    fronts: Mapping[str, tuple[Reached, ...]] = field(default_factory=dict)
    frontier: PlanFrontier | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    spent: int = 0
    path: Reached | None = None
    complete: bool = True


class Stepwise:
    """One search, driven from outside. Raises `UserError` where `rules.first_path` is no path of the graph."""

    def __init__(self, graph: StateGraph, rules: SearchRules | None = None) -> None:
        self._graph = graph
        self._rules = rules or SearchRules()
        self._order = [state.name for state in graph.in_order()]
        self._told: dict[tuple[str, ...], Outcome] = {}
        self._paused: dict[tuple[str, ...], Progress] = {}
        self._arrivals: dict[tuple[str, ...], Reached] = {}
        self._fronts: dict[str, tuple[Reached, ...]] = {}
        self._reached: dict[str, Reached] = {}
        self._unsettled = set(self._order)
        self._skipped: dict[str, str] = {}
        self._deciding = deciding_state(graph)
        self._repeats: Repeats | None = None
        for source, target in zip((START, *self._rules.first_path), self._rules.first_path, strict=False):
            if (source, target) not in graph.edges:
                raise UserError(f"the first path goes {source} -> {target}; graph '{graph.name}' has no such edge")

    @property
    def reached(self) -> Mapping[str, Reached]:
        """The chosen arrival of every settled state that something reached."""
        return self._reached

    @property
    def unsettled(self) -> set[str]:
        """Names of the states that are still open."""
        return set(self._unsettled)

    @property
    def spent(self) -> int:
        """Clip-frames trained in everything told so far."""
        told = (*self._told.values(), *(self._repeats.outcomes if self._repeats else ()))
        return sum(outcome.total_cost for outcome in told) + sum(paused.spent for paused in self._paused.values())

    @property
    def given_up(self) -> tuple[tuple[Exploration, str], ...]:
        """What was trained for a while and is behind in a race, and why.

        Behind an edge that a budget cut short nobody is: a larger one may choose other weights to start from.
        """
        behind = self._behind({way.state for way in self._cut()})
        return tuple(g for name in self._order if name not in behind for g in self._standing(name).given_up)

    @property
    def startable(self) -> set[Reached]:
        """Every arrival known by now that something may still start from, or that may still be chosen.

        With a larger budget too: what an edge that it cut short began with, and all that lies behind that edge.
        """
        cut = self._cut()
        into = {way.state for way in cut}
        open_states = self._unsettled | into | self._behind(into)
        kept = {exploration.arrival for exploration in self._open() if exploration.arrival}
        kept |= {arrival for names, arrival in self._arrivals.items() if names[-1] in open_states}
        kept |= {Reached(way.path[-2].target, way.path[:-1], "") for way in cut if len(way.path) > 1}
        undecided = bool(self._rules.repeats) and self._deciding in open_states
        for name, arrivals in self._fronts.items():
            if undecided or open_states & set(self._graph.successors(name)):
                kept.update(arrivals)
        if undecided:
            ways = self._in_state(self._deciding)
            kept |= {Reached(w.path[n - 1].target, w.path[:n], "") for w in ways for n in range(1, len(w.path))}
        return kept

    def ask(self) -> tuple[Exploration, ...]:
        """All that can be trained now, in the order of a serial search; empty at the end or when the budget is spent.

        Asking again gives the same answer until something is told: who hands out work keeps account of what is
        under way, by its key, since where to pause may change meanwhile.
        """
        if self._rules.budget is not None and self.spent >= self._rules.budget:
            return ()
        return self._open()

    def tell(self, exploration: Exploration, outcome: Outcome | Progress) -> tuple[str, ...]:
        """Take in an outcome, or how far an edge is; returns the states it settled.

        A repeat that the budget cut short stays open. Raises `ValueError` where the exploration is not open (told
        before, or never asked), the outcome is of another edge, or the edge was paused before it was to be.
        """
        if exploration.names not in {other.names for other in self._open()}:
            raise ValueError(f"{exploration.key} is not open: it was told before, or never asked")
        if (outcome.source, outcome.target) != (exploration.source, exploration.state.name):
            raise ValueError(f"{outcome.source} -> {outcome.target} is not the outcome of {exploration.key}")
        if isinstance(outcome, Progress):
            if exploration.until is None or outcome.epochs < exploration.until:
                wanted = "its end" if exploration.until is None else f"epoch {exploration.until}"
                raise ValueError(f"{exploration.key} is to be trained to {wanted}; it was paused at {outcome.epochs}")
            self._paused[exploration.names] = outcome
            return self._settle()
        if exploration.repeat and self._repeats is not None:
            if outcome.status != "budget":
                self._repeats.tell(exploration, outcome)
            return self._settle()
        self._paused.pop(exploration.names, None)
        self._told[exploration.names] = outcome
        if outcome.status != "diverged":
            before = exploration.arrival.path if exploration.arrival else ()
            self._arrivals[exploration.names] = Reached(exploration.state.name, (*before, outcome), "")
        return self._settle()

    def best_rival(self, exploration: Exploration) -> Outcome | None:
        """The best outcome told of another way into the same state; None while there is none, and for a repeat."""
        if exploration.repeat:
            return None
        rivals = [
            arrival.outcome
            for names, arrival in self._arrivals.items()
            if names[-1] == exploration.state.name and names != exploration.names
        ]
        return max(rivals, key=lambda outcome: outcome.accuracy, default=None)

    def result(self) -> SearchResult:
        """What is known now; final once `ask` gives nothing and nothing is under way."""
        complete = not self._unsettled
        sink = self._decided(self._graph.sink)
        final, note = None, ""
        if sink:
            final = self._reached.get(self._graph.sink) or self._choose(sink)
            left = len(self._unsettled)
            still = f"{left} state is open" if left == 1 else f"{left} states are open"
            note = final.why if complete else f"{final.why}; best so far, {still}"
        elif complete:
            note = f"every path to '{self._graph.sink}' diverged: lower the learning rates"
        elif self._arrivals:
            final = self._rules.choose(list(self._arrivals.values()))
            note = f"best so far; it ends in '{final.state}', nothing has reached '{self._graph.sink}' yet"
        else:
            note = "nothing has been explored yet"
        return SearchResult(
            reached={name: self._reached[name] for name in self._order if name in self._reached},
            plan=None if final is None else plan_of(self._graph, final),
            note=note,
            fronts={name: self._fronts[name] for name in self._order if name in self._fronts},
            frontier=PlanFrontier(self._graph, pareto(sink, z=self._rules.z)),
            skipped={**self._skipped, **{way.key: why for way, why in self.given_up}},
            spent=self.spent,
            path=final,
            complete=complete,
        )

    def _open(self) -> tuple[Exploration, ...]:
        ahead = self._next_on_first_path()
        found = [] if ahead is None else [ahead]
        for name in self._order:
            if name in self._unsettled:
                known = {*self._told, *(e.names for e in found)}
                found += [e for e in self._standing(name).asked if e.names not in known]
                if name == self._deciding and self._repeats is not None:
                    found += self._repeats.ask()
        return tuple(found)

    def _cut(self) -> list[Reached]:
        """Arrivals that a budget cut short: a larger one goes on with them."""
        return [arrival for arrival in self._arrivals.values() if arrival.outcome.status == "budget"]

    def _behind(self, names: set[str]) -> set[str]:
        """All states that these lead to."""
        behind: set[str] = set()
        for name in self._order:
            if (names | behind) & set(self._graph.predecessors(name)):
                behind.add(name)
        return behind

    def _into(self, name: str) -> list[Exploration]:
        """All explorations of the edges into a state that are known by now and not left out, told ones included."""
        sources = self._graph.predecessors(name)
        wait = self._rules.skip_dominated and not all(s == START or s not in self._unsettled for s in sources)
        state, found = self._graph.state(name), []
        for source in sources:
            if source == START:
                found.append(Exploration(START, state, None))
            elif source not in self._unsettled and not wait:
                for arrival in self._fronts.get(source, ()):
                    exploration = Exploration(source, state, arrival)
                    if not self._is_skipped(exploration, sources):
                        found.append(exploration)
        return found

    def _standing(self, name: str) -> Standing:
        """What can be trained into a state now, and what has been given up."""
        ways = self._into(name)
        if (share := self._rules.race) is None:
            return Standing(tuple(way for way in ways if way.names not in self._told))
        rules = self._rules
        race = Race(share, rules.first_rung, rules.rung_step, rules.race_start)
        complete = all(s == START or s not in self._unsettled for s in self._graph.predecessors(name))
        lead = lead_of(self._graph, self._graph.state(name), ways) if complete else 0
        return race.standing(ways, {**self._paused, **self._told}, complete=complete, lead=lead)

    def _is_skipped(self, exploration: Exploration, sources: Sequence[str]) -> bool:
        arrival = exploration.arrival
        if not self._rules.skip_dominated or arrival is None:
            return False
        if self._rules.first_path[: len(exploration.names)] == exploration.names:
            return False
        for other in (a for source in sources for a in self._fronts.get(source, ())):
            if other.cost <= arrival.cost and significantly_better(other, arrival, z=self._rules.z):
                self._skipped[exploration.key] = f"{other.state} is no dearer and better by more than noise"
                return True
        return False

    def _next_on_first_path(self) -> Exploration | None:
        arrival, source = None, START
        for i, name in enumerate(self._rules.first_path):
            names = self._rules.first_path[: i + 1]
            if names not in self._told:
                return Exploration(source, self._graph.state(name), arrival)
            if names not in self._arrivals:
                return None
            arrival, source = self._arrivals[names], name
        return None

    def _settle(self) -> tuple[str, ...]:
        settled = []
        for name in self._order:  # one pass is enough: sources come before their targets
            if name not in self._unsettled or any(s in self._unsettled for s in self._graph.predecessors(name)):
                continue
            if self._standing(name).asked or self._first_path_leads_to(name):
                continue
            if name == self._deciding and self._rules.repeats and self._repeats is None:
                ways = self._in_state(name)
                self._repeats = Repeats(self._graph, ways, most=self._rules.repeats, z=self._rules.z)
            if name == self._deciding and self._repeats is not None and self._repeats.ask():
                continue
            arrivals = self._decided(name)
            if arrivals:
                self._fronts[name] = front(arrivals, width=self._rules.width, z=self._rules.z, choose=self._choose)
                self._reached[name] = self._choose(arrivals)
            self._unsettled.remove(name)
            settled.append(name)
        return tuple(settled)

    def _first_path_leads_to(self, name: str) -> bool:
        ahead = self._next_on_first_path()
        return ahead is not None and name in self._rules.first_path[len(ahead.names) - 1 :]

    def _decided(self, name: str) -> list[Reached]:
        """Arrivals in a state, with the means of those that were repeated."""
        return self._repeats.arrivals() if name == self._deciding and self._repeats else self._in_state(name)

    def _choose(self, arrivals: list[Reached]) -> Reached:
        choose = self._rules.choose if arrivals[0].state == self._graph.sink else pick_highest
        chosen = choose(arrivals)
        scores = self._repeats.accuracies(chosen.names) if chosen.state == self._deciding and self._repeats else []
        if len(scores) < 2:
            return chosen
        listed = ", ".join(f"{100 * score:.1f}" for score in scores)
        return replace(chosen, why=f"{chosen.why}; mean of {len(scores)} trainings: {listed} %")

    def _in_state(self, name: str) -> list[Reached]:
        """Arrivals in a state in an order that does not depend on the order of telling: by source, then by path."""
        sources = [START, *self._order]
        found = [arrival for names, arrival in self._arrivals.items() if names[-1] == name]
        by_source = {source: i for i, source in enumerate(self._graph.predecessors(name))}
        rank = {source: i for i, source in enumerate(sources)}
        return sorted(found, key=lambda a: (by_source[a.outcome.source], [rank[n] for n in a.names]))
