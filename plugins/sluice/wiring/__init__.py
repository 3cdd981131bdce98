"""Build the pipeline's steps from settings; nothing else connects adapters, queries, schemas.

Each function is one run of a step; the command line and the Airflow tasks call the same ones.
"""

from __future__ import annotations

from sluice.wiring.backlog import Drained, drain_all, drain_until_empty
from sluice.wiring.checks import differences
from sluice.wiring.drains import (
    change_source,
    dead_letters,
    dismiss_dead_letters,
    drain,
    replay_dead_letters,
    skip,
)
from sluice.wiring.erasures import erase
from sluice.wiring.repairs import forecast, quality, recover, repair
from sluice.wiring.reports import (
    answer,
    compare,
    messages,
    monitor,
    query,
    status,
    table_status,
    tell,
    topics,
)
from sluice.wiring.resyncs import plan_resync, resync, resync_share, resyncing
from sluice.wiring.steps import backfill, initialise, maintain, rebuild, rebuild_all, rollback

__all__ = [
    "Drained",
    "answer",
    "backfill",
    "change_source",
    "compare",
    "dead_letters",
    "differences",
    "dismiss_dead_letters",
    "drain",
    "drain_all",
    "drain_until_empty",
    "erase",
    "forecast",
    "initialise",
    "maintain",
    "messages",
    "monitor",
    "plan_resync",
    "quality",
    "query",
    "rebuild",
    "rebuild_all",
    "recover",
    "repair",
    "replay_dead_letters",
    "resync",
    "resync_share",
    "resyncing",
    "rollback",
    "skip",
    "status",
    "table_status",
    "tell",
    "topics",
]
