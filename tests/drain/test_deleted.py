"""The embedded broker deletes what is drained, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace

import pytest

from sluice import wiring
from sluice.clients.topics import Topics
from sluice.drain.backlog import read_backlog
from sluice.drain.kafka_log import KafkaLog
from sluice.errors import StaleCheckpoint
from sluice.settings import Settings
from tests.drain.table import DrainedTable, drain_of
from tests.support.outside_broker import require_embedded
from tests.support.products import DECODER, TABLE
from tests.support.services import initialise, stack_environment, started, temporary_home

pytestmark = pytest.mark.services

MANY = 2500
KEPT = 1000


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """With PostgreSQL, whose WAL a drain compares positions with."""
    require_embedded("only the embedded broker's drained messages are deleted")
    with temporary_home() as home:
        variables = stack_environment(home)
        with started(variables) as (settings, _):
            initialise(settings)
            yield variables


@pytest.fixture
def table(environment: Mapping[str, str]) -> Iterator[DrainedTable]:
    made = DrainedTable(environment)
    with closing(made.clickhouse):
        made.begin(steps=MANY)
        yield made


def first(settings: Settings) -> int:
    with closing(KafkaLog(settings.kafka)) as log:
        return log.first(TABLE.topic)


def drain_all(settings: Settings) -> None:
    wiring.drain_all(settings, [TABLE.name], pass_rejects=True).require()


def test_drained_messages_are_deleted_except_the_newest(table: DrainedTable) -> None:
    drain_all(table.settings)
    assert first(table.settings) == 0  # drained since its positions were read
    drain_all(table.settings)
    assert first(table.settings) == table.events - KEPT
    drain_all(table.settings)
    assert first(table.settings) == table.events - KEPT
    table.require_converged()


def test_a_drain_that_comes_late_to_what_others_have_drained_finds_no_gap(
    table: DrainedTable,
) -> None:
    with drain_of(table.settings) as drain:
        late = read_backlog(drain.changes, drain.store, [TABLE]).standing(TABLE)
        drain_all(table.settings)
        drain_all(table.settings)
        assert first(table.settings) > 0
        with pytest.raises(StaleCheckpoint):
            drain.run(DECODER, late)


def test_messages_that_are_not_drained_are_kept(table: DrainedTable) -> None:
    few = replace(table.settings, drain=replace(table.settings.drain, events=100, chunk=100))
    drain_all(few)
    drain_all(few)
    assert first(table.settings) == 0
    table.require_converged()


def test_a_topic_that_was_recreated_keeps_what_came_since(table: DrainedTable) -> None:
    """The checkpoint and perhaps the group's offset are of the former topic."""
    drain_all(table.settings)
    table.recreate()
    table.produce([b"not an event"] * MANY)
    with pytest.raises(Exception, match="recreated"):
        drain_all(table.settings)
    assert first(table.settings) == 0


def test_another_broker_keeps_everything(table: DrainedTable) -> None:
    theirs = replace(table.settings, kafka=replace(table.settings.kafka, embedded=False))
    drain_all(theirs)
    drain_all(theirs)
    assert first(table.settings) == 0


def test_little_is_not_deleted(table: DrainedTable) -> None:
    topics = Topics(table.settings.kafka)
    assert topics.delete_drained({TABLE.topic: 2 * KEPT - 1}) == {}
    assert topics.delete_drained({TABLE.topic: 2 * KEPT}) == {TABLE.topic: KEPT}
    assert topics.delete_drained({}) == {}
