"""Keeps every worker busy: hands out edges, passes answers on, and gives the work of a lost worker to another."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastplan.data.lost import LostClips
from fastplan.errors import UserError
from fastplan.exploring import Exploring
from fastplan.planner.arrivals import Outcome, Progress
from fastplan.train.edge import Answer, EpochDone, Request
from fastplan.watcher import Watcher
from fastplan.workers import MOST_LOSSES, Answered, Lost, Unread, Workers


@dataclass(frozen=True)
class Job:
    """One edge to train. begin: makes the generator of its requests; finished: takes what it returned."""

    key: str
    begin: Callable[[], Exploring]
    finished: Callable[[Outcome | Progress | None], None]


@dataclass
class _Running:
    job: Job
    exploring: Exploring
    request: Request


def drive(workers: Workers, next_job: Callable[[], Job | None], watcher: Watcher, lost: LostClips) -> None:
    """Work until `next_job` gives none and nothing is under way.

    next_job: asked whenever a worker is free; None where nothing can begin before something else has ended. An edge
    stays with its worker. lost: takes the clips that workers in other processes could not read. Raises `UserError`
    where workers die over and over.
    """
    running: dict[int, _Running] = {}
    losses = dict.fromkeys(range(len(workers.names)), 0)

    def go_on(slot: int, job: Job, exploring: Exploring, answer: Answer | None) -> None:
        try:
            request = next(exploring) if answer is None else exploring.send(answer)
        except StopIteration as end:
            running.pop(slot, None)
            job.finished(end.value)
            return
        running[slot] = _Running(job, exploring, request)
        workers.submit(slot, request)

    while True:
        while (free := next((s for s in losses if s not in running), None)) is not None and (job := next_job()):
            go_on(free, job, job.begin(), None)
        if not running:
            return
        event = workers.wait()
        here = running.get(event.slot)
        if isinstance(event, Lost):
            losses[event.slot] += 1
            _mourn(event, workers.names[event.slot], here, losses[event.slot], watcher)
            if here is not None:
                workers.submit(event.slot, here.request)
        elif isinstance(event, Unread):
            lost.add(event.clip)
        elif here is None:
            continue
        elif isinstance(event, Answered):
            losses[event.slot] = 0
            go_on(event.slot, here.job, here.exploring, _signed(event.answer, workers.names[event.slot]))
        else:
            watcher.step(here.job.key, event.step, event.steps)


def _signed(answer: Answer, worker: str) -> Answer:
    if isinstance(answer, EpochDone):
        return replace(answer, record=replace(answer.record, worker=worker))
    return answer


def _mourn(event: Lost, name: str, here: _Running | None, losses: int, watcher: Watcher) -> None:
    doing = "idle"
    if here is not None:
        epoch = f"epoch {here.request.epoch}"
        doing = (
            f"at {epoch} of {here.job.key}" if here.request.what == "epoch" else f"scoring {epoch} of {here.job.key}"
        )
    if losses > MOST_LOSSES:
        raise UserError(
            f"{name} died {losses} times in a row ({event.why}), {doing}; finished epochs are kept: "
            "see to the cause, then --resume, perhaps with fewer --workers"
        )
    again = f"; another one goes on after epoch {max(here.request.epoch - 1, 0)}, nothing lost" if here else ""
    watcher.note(f"{name} died ({event.why}), {doing}{again}")
