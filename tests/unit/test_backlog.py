"""A table that is left out of a minute has nothing to drain."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from sluice.drain.backlog import Backlog, read_backlog
from sluice.drain.drain import Drain
from sluice.drain.in_memory import MemoryLog, MemoryStore
from sluice.drain.ports import TopicPosition
from sluice.errors import SluiceError
from tests.support.products import DECODER, LIMITS, TABLE, event, row

Steps = list[str]


class Killed(Exception):
    """The drain was killed."""


class WithoutIds(MemoryLog):
    """A broker before topic ids."""

    def topic_id(self, topic: str) -> str:
        super().topic_id(topic)
        return ""

    def positions(self, topics: Sequence[str]) -> Mapping[str, TopicPosition]:
        return {name: replace(at, id="") for name, at in super().positions(topics).items()}


class Pipeline:
    """A topic and its drain, on the twins."""

    def __init__(self, log: type[MemoryLog] = MemoryLog) -> None:
        self.log, self.store, self.sent = log([TABLE.topic]), MemoryStore(), 0

    def do(self, step: str) -> None:
        steps: dict[str, Callable[[], object]] = {
            "send": self.send,
            "end a transaction": lambda: self.log.end_transaction(TABLE.topic),
            "send garbage": lambda: self.log.produce(TABLE.topic, b"{}"),
            "send a wrong row": lambda: self.send(price="much"),
            "drain": self.drain,
            "drain a part": lambda: self.drain(events=2),
            "kill before the offset": lambda: self.drain(kill_at="checkpoint written"),
            "kill before the checkpoint": lambda: self.drain(kill_at="rows written"),
            "kill at the end": lambda: self.drain(kill_at="run recorded"),
            "lose the broker": lambda: self.log.wipe(f"epoch {self.sent}"),
            "recreate the topic": lambda: self.log.recreate(TABLE.topic),
            "pass the gap": lambda: self.step().skip_gap(TABLE),
        }
        steps[step]()

    def send(self, **wrong: str) -> None:
        self.sent += 1
        key = self.sent % 3 + 1
        values = {**row(key, f"n{self.sent}"), **wrong}
        self.log.produce(
            TABLE.topic, event("insert", values, self.sent), json.dumps({"id": key}).encode()
        )

    def step(self, reached: Callable[[str], None] = lambda _: None, events: int = 1000) -> Drain:
        limits = replace(LIMITS, events=events, chunk=min(events, 3))
        return Drain(changes=self.log, store=self.store, limits=limits, reached=reached)

    def drain(self, *, kill_at: str = "", events: int = 1000) -> None:
        def reached(point: str) -> None:
            if point == kill_at:
                raise Killed

        with contextlib.suppress(Killed, SluiceError):
            self.step(reached, events).run(DECODER)

    def backlog(self) -> Backlog:
        return read_backlog(self.log, self.store, [TABLE])

    def state(self) -> object:
        rejects = len(self.store.rejected), len(self.store.resolved)
        return self.store.live(TABLE), self.store.checkpoints(), rejects, dict(self.log.committed)


LOGS = st.sampled_from([MemoryLog, WithoutIds])
STEPS = st.lists(
    st.sampled_from(
        [
            "send",
            "send",
            "end a transaction",
            "send garbage",
            "send a wrong row",
            "drain",
            "drain",
            "drain a part",
            "kill before the offset",
            "kill before the checkpoint",
            "kill at the end",
            "lose the broker",
            "recreate the topic",
            "pass the gap",
        ]
    ),
    max_size=14,
)


@given(LOGS, STEPS)
@example(MemoryLog, ["send", "kill before the offset"])
@example(MemoryLog, ["send", "drain", "recreate the topic", "send"])
@example(MemoryLog, [*["send a wrong row"] * 3, "drain", *["send"] * 3, "kill at the end"])
@example(WithoutIds, ["send", "drain", "lose the broker", "send"])
def test_a_drain_of_a_table_that_is_not_due_changes_nothing(
    log: type[MemoryLog], steps: Steps
) -> None:
    pipeline = Pipeline(log)
    for step in steps:
        pipeline.do(step)
    backlog = pipeline.backlog()
    pipeline.log.commit(backlog.uncommitted([TABLE]))
    before = pipeline.state()
    if not backlog.due(TABLE):
        assert backlog.events(TABLE) == 0
        report = pipeline.step().run(DECODER)  # raises nothing
        assert (report.events, report.caught_up) == (0, True)
        assert pipeline.state() == before


@given(STEPS)
@example(["send", "end a transaction"])
def test_a_table_that_was_drained_to_the_end_is_not_due(steps: Steps) -> None:
    pipeline = Pipeline()
    for step in [*steps, "pass the gap", "drain"]:
        pipeline.do(step)
    backlog = pipeline.backlog()
    assert backlog.due(TABLE) == (TABLE.name in backlog.rejecting)
    assert backlog.events(TABLE) == 0


@given(STEPS)
def test_a_table_is_due_until_it_is_drained(steps: Steps) -> None:
    pipeline = Pipeline()
    for step in steps:
        pipeline.do(step)
    if not pipeline.backlog().due(TABLE):
        pipeline.send()
        assert pipeline.backlog().due(TABLE)
        assert pipeline.backlog().events(TABLE) == 1
        pipeline.drain()
        assert not pipeline.backlog().due(TABLE)


@given(STEPS)
def test_a_drain_that_begins_where_the_backlog_was_read_is_any_other_drain(steps: Steps) -> None:
    one, other = Pipeline(), Pipeline()
    for step in steps:
        one.do(step)
        other.do(step)
    results = []
    for pipeline, standing in ((one, None), (other, other.backlog().standing(TABLE))):
        try:
            report = pipeline.step().run(DECODER, standing)
            results.append(str(replace(report, seconds=0, freshness_s=None)))
        except SluiceError as error:
            results.append(str(error))
    assert results[0] == results[1]
    assert one.store.live(TABLE) == other.store.live(TABLE)
