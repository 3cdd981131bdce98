"""What the relay does beside the stream goes on under every load, and the slot's mark leads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partialmethod
from itertools import count
from unittest.mock import patch

import pytest
from psycopg2.extras import ReplicationCursor

from sluice.capture import relay as relay_run
from sluice.capture import stream as streams
from sluice.capture.relay import DUTIES, HEARTBEAT, MARK, PUBLICATION, TOPICS, Relay
from sluice.capture.stream import Stream
from sluice.clients.topics import SlotMark, Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.errors import PublicationIncomplete, SluiceError
from tests.faults.source import CATALOG, Source
from tests.support.background import repeating
from tests.support.services import delete_topics
from tests.support.waiting import until

pytestmark = pytest.mark.services

NUMBERS = count(100_000)
OFTEN = dict.fromkeys(DUTIES, 0.1)
RARELY = 3600.0
# Between two looks of the stream at what is to be done: longer than between two confirmations, so
# that a clock which these set back would never be due.
LOOKS = 2.0
ACKS = ("broker", "drained")


class Watched:
    """A relay in a thread whose duties can be counted; each is due ten times a second."""

    def __init__(self, source: Source, *, snapshot: bool = False) -> None:
        self._stop = threading.Event()
        self._relay = Relay(source.settings, CATALOG, self._stop, snapshot)
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._relay.run()
        except SluiceError as error:
            self.error = error

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask it to stop; it does."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def does_them_all(self) -> None:
        """Wait until every duty was done again and again from now on."""
        until(lambda: set(self._relay.duties.done) == set(DUTIES), "every duty was done once")
        duties = self._relay.duties
        before = dict(duties.done)
        until(
            lambda: all(duties.done[name] >= before[name] + 3 for name in DUTIES),
            "every duty was done three times more",
        )
        assert self._relay.duties is duties  # in one session


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    with patch.dict(relay_run.DUTIES, OFTEN), patch.object(streams, "_FEEDBACK_SECONDS", LOOKS):
        yield


@contextmanager
def traffic(source: Source, every: float = 0.01) -> Iterator[None]:
    """Small transactions, one after the other."""
    with closing(source.connect()) as connection, connection.cursor() as cursor:

        def write() -> None:
            cursor.execute("INSERT INTO things VALUES (%s, 'n')", [next(NUMBERS)])

        with repeating(write, every):
            yield


@contextmanager
def flood(source: Source) -> Iterator[None]:
    """Small transactions, faster than the relay reads them."""
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")

        def write() -> None:
            numbers = f"{next(NUMBERS)}000 + i"
            cursor.execute(
                "DO 'BEGIN FOR i IN 1..500 LOOP"
                f" INSERT INTO things VALUES ({numbers}, NULL); COMMIT; END LOOP; END'"
            )

        with repeating(write):
            yield


@contextmanager
def drained(source: Source) -> Iterator[None]:
    """The drain's group goes to the end of the topic that gets traffic, over and over."""
    topics = Topics(source.settings.kafka)
    with closing(KafkaLog(source.settings.kafka)) as changes:

        def drain() -> None:
            for name, end in topics.ends(["cdc.things"]).items():
                changes.commit({name: end})

        with repeating(drain, 0.2):
            yield


@contextmanager
def locked(source: Source) -> Iterator[None]:
    """Nobody may read a table."""
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE")
        yield
        cursor.execute("ROLLBACK")


@contextmanager
def open_transaction(source: Source) -> Iterator[None]:
    """A transaction that every snapshot waits for."""
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id()")
        yield
        cursor.execute("ROLLBACK")


@contextmanager
def huge_transaction(source: Source) -> Iterator[None]:
    source.sql("INSERT INTO things SELECT i, repeat('x', 300) FROM generate_series(1, 60000) i")
    yield


@contextmanager
def silent_broker(source: Source) -> Iterator[None]:
    """The broker takes no message, but answers questions: the producer is full."""
    with patch("sluice.capture.publisher.Publisher._send", never_sent):
        source.sql("INSERT INTO things VALUES (1, 'a')")
        yield


def never_sent(self: object, topic: str, messages: list[dict[str, object]]) -> None:
    while True:
        threading.Event().wait(0.05)
        self.poll(0)  # type: ignore[attr-defined]
        self.wait()  # type: ignore[attr-defined]


LOADS: dict[str, Callable[[Source], AbstractContextManager[None]]] = {
    "steady traffic": traffic,
    "a huge transaction": huge_transaction,
    "a broker that takes nothing": silent_broker,
}


@pytest.mark.parametrize("ack", ACKS)
@pytest.mark.parametrize("load", LOADS)
def test_every_duty_is_done_under_load(source: Source, load: str, ack: str) -> None:
    with source.relaying():
        source.arrives()
    source.ack(ack)
    with Watched(source) as relay, LOADS[load](source), drained(source):
        relay.does_them_all()
        relay.stop()
    assert relay.error is None


@pytest.mark.parametrize("ack", ACKS)
def test_every_duty_is_done_while_a_snapshot_waits(source: Source, ack: str) -> None:
    with source.relaying():
        source.arrives()
    source.ack(ack)
    with open_transaction(source), Watched(source, snapshot=True) as relay:
        relay.does_them_all()
        relay.stop()
    assert relay.error is None


def test_a_relay_that_waits_for_a_lock_before_it_begins_can_be_stopped(source: Source) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE PUB%' AND state = 'active'"
    with locked(source), Watched(source) as relay:
        until(lambda: bool(source.sql(waiting)), "a duty waits for the lock")
        relay.stop()
    assert relay.error is None


# Each duty's effect is seen under traffic; a duty that is not here fails the test.
def topics_are_looked_at(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    delete_topics(source.settings, {"cdc.parts"})
    Topics(source.settings.kafka).ensure(["cdc.parts"])
    until(
        lambda: "topics were recreated" in caplog.text,
        "the relay notices that topics were recreated",
    )


def the_mark_moves(source: Source, _: pytest.LogCaptureFixture) -> None:
    end = source.lsn()
    until(
        lambda: Topics(source.settings.kafka).mark(source.slot).wal > end,
        "the position of the slot is noted on the broker",
    )


def the_heart_beats(source: Source, _: pytest.LogCaptureFixture) -> None:
    counted = Topics(source.settings.kafka).mark(source.slot).transactions
    until(
        lambda: Topics(source.settings.kafka).mark(source.slot).transactions > counted,
        "the heartbeat's transaction is noted on the broker",
    )


def the_publication_is_looked_at(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    source.sql(f"ALTER PUBLICATION {source.settings.relay.publication} SET (publish = 'insert')")


EFFECTS = {
    TOPICS: (topics_are_looked_at, None),
    MARK: (the_mark_moves, None),
    HEARTBEAT: (the_heart_beats, None),
    PUBLICATION: (the_publication_is_looked_at, PublicationIncomplete),
}


@pytest.mark.parametrize("ack", ACKS)
@pytest.mark.parametrize("duty", DUTIES)
def test_each_duty_has_its_effect_under_traffic(
    source: Source, duty: str, ack: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The other duties are done once, so the effect is this one's."""
    effect, error = EFFECTS[duty]
    with source.relaying():
        source.arrives()
    source.ack(ack)
    others = {name: RARELY for name in DUTIES if name != duty}
    rare = patch.dict(relay_run.DUTIES, others)
    with rare, Watched(source) as relay, traffic(source), drained(source):
        until(source.active, "the relay reads from its slot")
        effect(source, caplog)
        if error is not None:
            until(lambda: isinstance(relay.error, error), f"the relay ends with {error}")
    assert error is not None or relay.error is None


class Gate:
    """Lets notes of the slot's mark pass, or holds them back.

    Attributes:
        passed: the highest position that was let pass.
        looks: how often the stream looked at what is to be done.
    """

    def __init__(self) -> None:
        self.passed = self.looks = 0
        self.open = threading.Event()

    @contextmanager
    def placed(self) -> Iterator[None]:
        note, attend, start = Topics.note_mark, Stream._attend, ReplicationCursor.start_replication

        def held(topics: Topics, slot: str, mark: SlotMark) -> None:
            self.open.wait()
            self.passed = max(self.passed, mark.wal)
            note(topics, slot, mark)

        def looked(stream: Stream) -> None:
            self.looks += 1
            attend(stream)

        with ExitStack() as stack:
            for change in (
                patch.object(Topics, "note_mark", held),
                patch.object(Stream, "_attend", looked),
                patch.object(streams, "_FEEDBACK_SECONDS", 0.1),
                # psycopg2 tells PostgreSQL by itself so often, in seconds.
                patch.object(
                    ReplicationCursor, "start_replication", partialmethod(start, status_interval=1)
                ),
            ):
                stack.enter_context(change)
            stack.callback(self.open.set)
            self.open.set()
            yield


@pytest.mark.parametrize("busy", [True, False], ids=["a flood", "traffic of other tables"])
@pytest.mark.parametrize("ack", ACKS)
def test_a_position_is_on_the_broker_before_postgres_is_told(
    source: Source, ack: str, busy: bool
) -> None:
    gate = Gate()
    with source.relaying():
        source.arrives()
    source.ack(ack)
    source.sql("CREATE TABLE IF NOT EXISTS other (id int)")
    with gate.placed(), source.relaying(), drained(source):
        is_confirmed(source)
        with flood(source) if busy else nullcontext():
            looks = gate.looks
            until(lambda: gate.looks > looks + 3, "the stream is attended to")
            gate.open.clear()
            end, looks = source.lsn(), gate.looks
            while gate.looks < looks + 30:
                # Without traffic of the models' tables psycopg2 moves on by itself.
                source.sql("INSERT INTO other VALUES (1)", "SELECT pg_log_standby_snapshot()")
                assert source.confirmed() <= gate.passed
            assert gate.passed <= source.lsn()
            gate.open.set()
            until(lambda: source.confirmed() > end, "PostgreSQL is told what was held back")


def test_a_crash_of_the_server_under_traffic_is_no_other_slot(source: Source) -> None:
    with source.relaying() as relaying:
        source.arrives()
        for _ in range(3):
            with traffic(source):
                for _ in range(3):
                    source.sql("SELECT pg_log_standby_snapshot()")
                    is_confirmed(source)
                source.sql("CHECKPOINT")
            source.crash_server()
            until(
                lambda: source.active() or relaying.error is not None,
                "a session reads from the slot",
            )
            assert relaying.error is None
        source.arrives()


def test_the_servers_reason_is_in_the_log(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    with source.relaying():
        until(source.active, "a session reads from the slot")
        source.sql(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            f" WHERE slot_name = '{source.slot}'"
        )
        until(
            lambda: "terminating connection due to administrator command" in caplog.text,
            "the relay notices that its session was ended",
        )


def is_confirmed(source: Source) -> None:
    """Wait until all that is in the WAL now is confirmed."""
    end = source.lsn()
    until(lambda: source.confirmed() > end, "the slot has confirmed the end")
