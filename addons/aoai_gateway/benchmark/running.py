"""A run: calls are started when the plan says, and what comes of them is counted and written down."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from aoai_gateway.benchmark.figures import Tally, Window, is_lasting

if TYPE_CHECKING:
    from aoai_gateway.benchmark.calling import Caller, Ready
    from aoai_gateway.benchmark.plan import Planned, Step
    from aoai_gateway.usage.sink import Record

BEHIND_SECONDS, BEHIND = 0.5, 1.05
"""The seconds, and the factor, by which a step takes longer than planned if its rate is not reached."""

FIRST_CALLS = 10
"""A run may end early once so many calls were refused for what lasts, and no call was answered otherwise."""


class Run:
    """One run. ``write`` takes each call's record; ``clock`` gives monotonic seconds.

    ``consumers``: the names of all that calls are made for; ``of_one_shape``: whether all calls are alike, so
    that what is wrong with one is wrong with all.
    """

    def __init__(
        self,
        plan: Iterator[Planned],
        steps: Sequence[Step],
        caller: Caller,
        *,
        consumers: Collection[str],
        of_one_shape: bool,
        begun: float,
        clock: Callable[[], float],
        write: Callable[[Record], None],
        window_seconds: float = 60.0,
        most: int | None = None,
    ) -> None:
        self._plan = plan
        self._steps = steps
        self._caller = caller
        self._of_one_shape = of_one_shape
        self._begun = begun
        self._clock = clock
        self._write = write
        self._most = most
        self._window = Window(window_seconds)
        self._of_steps: dict[int, Tally] = defaultdict(Tally)
        self._of_consumers: dict[str, Tally] = defaultdict(Tally)
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._sent_until: float | None = None
        self._last_sent: dict[int, float] = defaultdict(float)
        """The time at which each step's last call was sent in fact, in seconds after the begin."""
        self.sent = 0
        """Calls that were due, whether they could be sent at once or not."""
        self.ended_early = False
        """Whether it sends no more since no call would be served."""
        self._refused_so_far: int | None = 0
        """How many calls have ended, all of them refused for what lasts; None: one was not."""
        self._not_refused_yet = set(consumers)
        """The consumers of which no call was refused so far."""
        self._sent_before: set[asyncio.Task[Any] | None] = set()
        """Calls still under way that were sent before the last of the first refusals came."""

    @property
    def elapsed(self) -> float:
        """Seconds since the begin."""
        return max(0.0, self._clock() - self._begun)

    @property
    def ends(self) -> float:
        """Seconds after the begin at which the last call is due."""
        return sum(step.seconds for step in self._steps)

    @property
    def waits_for_the_rest(self) -> bool:
        """Whether no further call is sent."""
        return self._sent_until is not None

    async def run(self) -> None:
        """Send all calls, and wait for their answers."""
        for planned in self._plan:
            if self._over.is_set() or (self._most is not None and self.sent >= self._most):
                break
            ready = self._caller.prepare(planned)
            if await self._is_over_before(planned.at):
                break
            self.sent += 1
            task = asyncio.create_task(self._one(ready))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            await self._is_over_before(self.ends)
        self._sent_until = self.elapsed
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def stop(self) -> None:
        """Send no further call; when told again, give up those under way."""
        if self._over.is_set():
            for task in self._tasks:
                task.cancel()
        self._over.set()

    def now(self) -> dict[str, Any]:
        """Return the figures of the last seconds."""
        elapsed = self.elapsed
        figures = self._window.document(elapsed)
        state = {"time": round(elapsed, 1), "requests": self.sent, "processing": self._caller.under_way}
        return state | {"waiting": len(self._tasks) - self._caller.under_way} | figures

    def document(self) -> dict[str, Any]:
        """Return the figures of the whole run, of its steps and of its consumers.

        The rates of a step are those of the time in which its calls were sent: longer than was planned, where
        more were asked for than can be sent.
        """
        until = self.elapsed if self._sent_until is None else self._sent_until
        whole, begin, steps = Tally(), 0.0, []
        for number, step in enumerate(self._steps):
            planned = min(step.seconds, until - begin)
            if planned <= 0:
                break
            tally = self._of_steps[number]
            whole.merge(tally)
            seconds = max(planned, self._last_sent[number] - begin)
            rate = {"rate": round(step.rate, 2), "seconds": round(seconds, 1)}
            sent = {
                "sent_rate": round(60 * tally.calls / seconds, 2),
                "is_behind": _is_behind(seconds, planned),
            }
            steps.append(rate | sent | tally.document(seconds))
            begin += step.seconds
        until = max(until, *self._last_sent.values(), 0.0)
        consumers = [
            {"consumer": name} | tally.document(until) for name, tally in sorted(self._of_consumers.items())
        ]
        return {
            "seconds": round(until, 1),
            **whole.document(until),
            "were_all_busy": self._caller.were_all_busy,
            "ended_early": self.ended_early,
            "steps": steps,
            "consumers": consumers,
        }

    async def _is_over_before(self, at: float) -> bool:
        """Wait until so many seconds after the begin. Whether it was stopped meanwhile."""
        wait = self._begun + at - self._clock()
        if wait <= 0:
            # Calls that are due already must not keep those under way from the event loop.
            await asyncio.sleep(0)
            return self._over.is_set()
        try:
            await asyncio.wait_for(self._over.wait(), wait if wait < 1e9 else None)
        except TimeoutError:
            return False
        return True

    async def _one(self, ready: Ready) -> None:
        planned, record = ready.planned, await self._caller.call(ready)
        self._write(record)
        self._window.add(record, self.elapsed)
        self._of_steps[planned.step].add(record)
        sent = planned.at + record["waited_ms"] / 1000
        self._last_sent[planned.step] = max(sent, self._last_sent[planned.step])
        self._of_consumers[planned.consumer.name].add(record)
        self._end_if_hopeless(planned, record)

    def _end_if_hopeless(self, planned: Planned, record: Record) -> None:
        """End the run if each consumer's first calls were all refused, and so would be the others.

        Refusals come at once, and answers after seconds: the calls that were sent before are waited for.
        """
        if self._refused_so_far is None:
            return
        if not is_lasting(record, of_one_shape=self._of_one_shape):
            self._refused_so_far = None
            return
        self._refused_so_far += 1
        self._not_refused_yet.discard(planned.consumer.name)
        if self._refused_so_far == FIRST_CALLS:
            self._sent_before = set(self._tasks)
        self._sent_before.discard(asyncio.current_task())
        if self._refused_so_far < FIRST_CALLS or self._not_refused_yet or self._sent_before:
            return
        if not self.waits_for_the_rest and not self._over.is_set():
            self.ended_early = True
            self._over.set()


def _is_behind(seconds: float, planned: float) -> bool:
    """Whether calls took longer to send than planned, by more than a delay of this machine explains."""
    return seconds > planned + BEHIND_SECONDS and seconds > BEHIND * planned
