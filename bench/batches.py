"""Measures what a topic of many batches costs; run by hand.

    .venv/bin/python bench/batches.py [MOST [PICTURE.svg]]

A stream of small commits leaves one batch each. A topic is filled with single messages, and at
1,000, 10,000, ... batches up to MOST (1,000,000) it is asked for its end, read from 300 messages
before the end, and read at the end: medians of five. At last all but the newest are deleted, as the
pipeline deletes drained messages, and it is measured again. Prints a table with the broker's memory
(PSS) and its data on disk.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
from confluent_kafka import Producer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.pictures import OWN, Bar, bars
from sluice.clients.broker import Broker
from sluice.clients.topics import Topics
from sluice.drain.kafka_log import KafkaLog
from sluice.drain.ports import Chunk
from sluice.embedded.stack import Stack
from sluice.settings import Settings
from tests.support.services import stack_environment, started, temporary_home

TOPIC = "cdc.orders"
FEW, REPEATS = 300, 5
DELETED_S = 180  # Kafka looks for segments to delete now and then, and removes files later
Row = tuple[int, float, float, float, float, float]  # batches, 3 x seconds, MB memory, MB disk
VALUE = b"x" * 300


@contextmanager
def broker() -> Iterator[tuple[Settings, Stack]]:
    """Run a broker with the topic."""
    with (
        temporary_home() as home,
        started(stack_environment(home), ["broker"]) as (settings, stack),
    ):
        Topics(settings.kafka).ensure([TOPIC])
        yield settings, stack


def fill(settings: Settings, count: int) -> None:
    """Append messages, each in a batch of its own."""
    producer = Producer({**Broker(settings.kafka).options, "batch.num.messages": 1, "linger.ms": 0})
    for _ in range(count):
        while len(producer) > 5_000:
            producer.poll(0.01)
        producer.produce(TOPIC, VALUE)
        producer.poll(0)
    if producer.flush(300):
        raise SystemExit("the broker did not accept the messages")


def median(call: Callable[[], object]) -> float:
    """Return the median seconds of a call."""
    seconds = []
    for _ in range(REPEATS):
        begun = time.monotonic()
        call()
        seconds.append(time.monotonic() - begun)
    return statistics.median(seconds)


def read(settings: Settings, offset: int, expected: int) -> None:
    """Read the topic from an offset to its end, as a drain does."""
    with closing(KafkaLog(settings.kafka)) as log:
        found = sum(map(len, log.read(TOPIC, offset, Chunk(1000), 120)))
    if found != expected:
        raise SystemExit(f"read {found} messages instead of {expected}")


def measured(settings: Settings, stack: Stack, end: int) -> Row:
    """Return a row of the table."""
    process = psutil.Process(stack.states()["broker"].pid)
    return (
        end,
        median(lambda: Topics(settings.kafka).ends([TOPIC])),
        median(lambda: read(settings, end - FEW, FEW)),
        median(lambda: read(settings, end, 0)),
        process.memory_full_info().pss / 1e6,
        disk(settings),
    )


def disk(settings: Settings) -> float:
    """Return the MB of the topic's files."""
    folders = (settings.home / "broker").rglob(f"{TOPIC}-0/*")
    return sum(path.stat().st_blocks * 512 for path in folders) / 1e6


def rows(most: int) -> Iterator[Row]:
    """Yield a row for each number of batches, and one more after the deletion of drained ones."""
    with broker() as (settings, stack):
        end, wanted = 0, 1_000
        while wanted <= most:
            fill(settings, wanted - end)
            end = wanted
            yield measured(settings, stack, end)
            wanted *= 10
        Topics(settings.kafka).delete_drained({TOPIC: end})
        deadline, before = time.monotonic() + DELETED_S, disk(settings)
        while disk(settings) > before / 2 and time.monotonic() < deadline:
            time.sleep(1)
        yield measured(settings, stack, end)


def picture(found: list[Row]) -> str:
    """Return an SVG of the seconds, with a bar for each number of batches."""
    names = [*(f"{batches:,} batches" for batches, *_ in found[:-1]), "drained deleted"]
    seconds = dict(zip(names, (row[2] for row in found), strict=True))
    return bars(
        f"seconds to read the last {FEW} messages",
        [Bar(name, [(took, OWN)], f"{took:.3f} s") for name, took in seconds.items()],
    )


def main() -> None:
    """Measure and print the table."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print("| batches | its end, s | 300 messages, s | none, s | memory, MB | disk, MB |")
    print("|---:|---:|---:|---:|---:|---:|")
    found = []
    for row in rows(most):
        found.append(row)
        batches, end, few, none, memory, disk = row
        print(
            f"| {batches:,} | {end:.3f} | {few:.3f} | {none:.3f} | {memory:.0f} | {disk:.0f} |",
            flush=True,
        )
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(picture(found))


if __name__ == "__main__":
    main()
