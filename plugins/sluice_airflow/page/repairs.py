"""The DAG runs that the page can start, and their configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice.catalog import Fact
from sluice.operate.overview import CheckResult
from sluice.quality.checks import COMPARED, ROWS
from sluice_airflow.page.figures import counted

RESYNC, REPLAY, DISMISS = "sluice_resync", "sluice_replay", "sluice_dismiss"
DEEP_CHECK, REBUILD = "sluice_deep_quality", "sluice_rebuild"
MISSING_ROWS = ROWS | {"gap"}  # a resync repairs these
_MOST_KEYS = 99  # the overview has up to 100 keys of a finding, and then maybe not all


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A finding with the DAG run that repairs it.

    Attributes:
        tables: the tables that a deep check compares again.
        dag, conf: the DAG and its configuration; None where no run helps.
        words: what the run does, as a button's text.
        follows: the tables whose differences cause the finding, and whose repair ends it.
    """

    finding: CheckResult
    tables: tuple[str, ...]
    dag: str = RESYNC
    conf: Mapping[str, Any] | None = None
    words: str = ""
    follows: tuple[str, ...] = ()

    @property
    def compared(self) -> bool:
        """Whether the check counts the same on both sides."""
        return self.finding.check in COMPARED


def table_repair(result: CheckResult, follows: tuple[str, ...] = ()) -> Repair:
    """Return a table's finding with the least resync: of its keys, or of what differs.

    Args:
        follows: the tables with wrong rows that it follows from. Default: none.
    """
    table = result.table
    if follows or result.check not in MISSING_ROWS:
        return Repair(finding=result, tables=(table,), follows=follows)
    conf: dict[str, Any] = {"tables": [table], "diff": True}
    words = "Repair what differs"
    if 0 < len(result.keys) <= _MOST_KEYS:
        conf |= {"keys": list(result.keys)}
        words = f"Repair {counted(len(result.keys), 'row', 'rows')}"
    return Repair(finding=result, tables=(table,), conf=conf, words=words)


def fact_repair(result: CheckResult, fact: Fact, follows: tuple[str, ...]) -> Repair:
    """Return a finding of a fact or its rollups with a full rebuild.

    Args:
        follows: the tables with wrong rows, whose repair comes first.
    """
    return Repair(
        finding=result,
        tables=(fact.table.name,),
        dag=REBUILD,
        conf={"full": [fact.name]},
        words="Rebuild in full",
        follows=follows,
    )
