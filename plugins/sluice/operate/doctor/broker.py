"""Checks the broker: one partition per topic, and retention that is long enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from sluice.catalog import Catalog
from sluice.clients.topics import EPOCH_TOPIC, Topics, partitioned, retention
from sluice.events.event import DEAD_LETTER_TOPIC
from sluice.generate.files import topics
from sluice.operate.doctor.diagnosis import Diagnosis, judged
from sluice.settings import Settings

# A drain that stops on a Friday evening is fixed on Monday.
_SHORTEST = timedelta(days=3)
_PATIENCE_S = 5.0  # less than the doctor's, so that the broker's reason is reported


def checks(settings: Settings, catalog: Catalog) -> Iterator[Diagnosis]:
    """Yield every check of the broker, topic by topic."""
    reader = Topics(settings.kafka, _PATIENCE_S)
    partitions = reader.partitions()
    wanted = topics(catalog)
    for name in wanted:
        count = partitions.get(name, 0)
        remedy = partitioned(name, count).remedy or ""
        found = f"{count} partitions"
        yield judged("broker", name, count == 1, found, remedy if count else "sluice init")
    configured = reader.configured([name for name in (*wanted, EPOCH_TOPIC) if name in partitions])
    for name, options in configured.items():
        kept = settings.letters_kept
        if name == DEAD_LETTER_TOPIC and kept is not None:
            yield _letters_kept(options, kept)
        else:
            yield _retention(name, options)


def _letters_kept(options: Mapping[str, str], kept: timedelta) -> Diagnosis:
    """Whether the broker deletes dead letters when the settings say so."""
    ok = options.items() >= retention(kept).items()
    found = options.get("retention.ms", "the broker's own")
    remedy = f"run: sluice init, which sets the {kept.days} days of SLUICE_DEAD_LETTER_DAYS"
    return judged(
        "broker", f"retention of {DEAD_LETTER_TOPIC}", ok, f"retention.ms={found}", remedy
    )


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
    wanted = "-1" if for_ever else f"{shortest} or more"
    remedy = f"set retention.ms={wanted} on {name}"
    found = "for ever" if kept < 0 else str(timedelta(milliseconds=kept))
    size = int(options.get("retention.bytes", "-1"))
    limit = "" if size < 0 else f", at most {size} bytes"
    if for_ever and size >= 0:
        ok, remedy = False, f"{remedy}, and retention.bytes=-1"
    return judged("broker", check, ok, found + limit, remedy)
