"""Checks the broker: the user's rights, one partition per topic, sizes, and retention.

Of a broker that is not this stack's, `sluice up` does the same before it sets up the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from sluice.capture.publisher import sizes
from sluice.catalog import Catalog
from sluice.clients.broker_rights import Lacking, groups_of, lacking
from sluice.clients.topics import EPOCH_TOPIC, Topics, partitioned, retention
from sluice.drain.letters import MOST_BYTES
from sluice.events.event import CONTROL_TOPIC, DEAD_LETTER_TOPIC
from sluice.generate.files import topics
from sluice.operate.doctor.diagnosis import Diagnosis, judged
from sluice.settings import KafkaSettings, Settings

MISSING = "sluice init"  # the remedy of a topic that does not exist
# A drain that stops on a Friday evening is fixed on Monday.
_SHORTEST = timedelta(days=3)
_PATIENCE_S = 5.0  # less than the doctor's, so that the broker's reason is reported
_FRAME = 1_048_576  # of a message's request, at most
_NAMED = 3  # topics of a sentence
_SEE = "docs/services/kafka.md lists all rights"


def checks(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    """Yield every check of the broker, topic by topic."""
    wanted = topics(catalog)
    altered = [DEAD_LETTER_TOPIC] if settings.letters_kept else []
    groups = groups_of(settings.relay.slot)
    found = lacking(settings.kafka, wanted, groups, altered, _PATIENCE_S)
    yield from _rights(found, wanted, groups)
    reader = Topics(settings.kafka, _PATIENCE_S)
    partitions = reader.partitions()
    for name in wanted:
        count = partitions.get(name, 0)
        remedy = partitioned(name, count).remedy or ""
        yield judged(
            "broker", name, count == 1, f"{count} partitions", remedy if count else MISSING
        )
    configured = reader.configured([name for name in (*wanted, EPOCH_TOPIC) if name in partitions])
    for name, options in configured.items():
        kept = settings.letters_kept
        if name == DEAD_LETTER_TOPIC and kept is not None:
            yield _letters_kept(options, kept)
        else:
            yield _retention(name, options)
        if name not in {EPOCH_TOPIC, CONTROL_TOPIC}:
            yield from _size(name, options, settings.kafka)


def _rights(found: Lacking, wanted: Sequence[str], groups: Sequence[str]) -> Iterator[Diagnosis]:
    """Check what the user may do with topics and groups, and that missing topics can be created."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, operations in found.topics.items():
        together.setdefault(tuple(operations), []).append(name)
    check = "rights on topics"
    for lacked, names in together.items():
        words = ", ".join(lacked)
        yield judged(
            "broker",
            check,
            False,
            f"the user lacks {words} on {_listed(names)}",
            f"permit its user {words} on the topics with prefix cdc.; {_SEE}",
            warning=lacked == ("DescribeConfigs",),
        )
    if not together:
        reported = "" if found.known else "; the broker does not report those to write"
        yield judged("broker", check, True, f"on all {len(wanted) + 1} topics{reported}", "")
    yield judged(
        "broker",
        "rights on groups",
        not found.groups,
        f"the user lacks Read on {', '.join(found.groups)}" if found.groups else "on all groups",
        f"permit its user Read on the groups with prefix sluice-; {_SEE}",
    )
    for reason in sorted(set(found.uncreatable.values())):
        names = [name for name, why in found.uncreatable.items() if why == reason]
        yield judged(
            "broker",
            "topics to create",
            False,
            f"the broker would not create {_listed(names)}: {reason}",
            "correct what it names, or create them with one partition each",
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _size(name: str, options: Mapping[str, str], settings: KafkaSettings) -> Iterator[Diagnosis]:
    """Check that the topic takes the largest messages that are sent to it."""
    if "max.message.bytes" not in options:
        return
    check, limit = f"message size of {name}", int(options["max.message.bytes"])
    batch, message = sizes(settings)
    if name == DEAD_LETTER_TOPIC:
        batch = message = MOST_BYTES
    enough = f"set max.message.bytes={message + _FRAME} on the topic"
    found = f"max.message.bytes={limit}"
    if limit < batch:
        what = "dead letters" if name == DEAD_LETTER_TOPIC else "the relay's batches"
        found += f": {what} have up to {batch} bytes, and stop at one that is refused"
        yield judged("broker", check, False, found, enough)
        return
    found += (
        f": a row that is larger compressed becomes a dead letter; the relay sends up to {message}"
        if limit < message
        else ""
    )
    remedy = f"{enough}; to accept it, set message.max.bytes={limit} in SLUICE_KAFKA_OPTIONS"
    yield judged("broker", check, limit >= message, found, remedy, warning=True)


def _letters_kept(options: Mapping[str, str], kept: timedelta) -> Diagnosis:
    """Whether the broker deletes dead letters when the settings say so."""
    ok = options.items() >= retention(kept).items()
    found = options.get("retention.ms", "the broker's own")
    remedy = f"run: sluice init, which sets the {kept.days} days of SLUICE_DEAD_LETTER_DAYS"
    check = f"retention of {DEAD_LETTER_TOPIC}"
    return judged("broker", check, ok, f"retention.ms={found}", remedy, warning=True)


def _retention(name: str, options: Mapping[str, str]) -> Diagnosis:
    """Check that messages are kept until they are drained, and the broker's epoch for ever."""
    check = f"retention of {name}"
    if "retention.ms" not in options and "cleanup.policy" not in options:
        return judged("broker", check, True, "unknown: the broker does not report it", "")
    policy = options.get("cleanup.policy", "delete")
    if "compact" in policy:
        remedy = f"set cleanup.policy=delete on {name}: compaction removes changes"
        return judged("broker", check, False, f"cleanup.policy={policy}", remedy)
    for_ever = name == EPOCH_TOPIC
    kept = int(options.get("retention.ms", "-1"))
    shortest = int(_SHORTEST.total_seconds() * 1000)
    ok = kept < 0 or (kept >= shortest and not for_ever)
    warning = not for_ever
    wanted = "-1" if for_ever else f"{shortest} or more"
    remedy = f"set retention.ms={wanted} on {name}"
    found = "for ever" if kept < 0 else str(timedelta(milliseconds=kept))
    size = int(options.get("retention.bytes", "-1"))
    limit = "" if size < 0 else f", at most {size} bytes"
    if for_ever and size >= 0:
        ok, remedy = False, f"{remedy}, and retention.bytes=-1"
    short = warning and not ok
    limit += f", less than the {_SHORTEST.days} days that a drain may be stopped" if short else ""
    return judged("broker", check, ok, found + limit, remedy, warning=warning)
