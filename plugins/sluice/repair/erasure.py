"""Erases a row from what ClickHouse keeps beyond its current state: history and dead letters.

The row's delete marker stays in the current state until the nightly maintenance removes it: it has
no values, and an older event that is read again cannot bring the row back. Each erasure is in
`cdc.erasures`, with a hash of the key instead of the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import uuid4

from sluice.catalog import Table
from sluice.catalog.key_selection import key_text
from sluice.clients.clickhouse import ClickHouse
from sluice.events.event import KeyText
from sluice.execution.failpoints import Reached, ignore
from sluice.generate.clickhouse import literal, quoted
from sluice.generate.row_text import among, clickhouse_key, wanted

# Failpoints passed to `Erasure.reached`, each after the effect it names, in order.
POINTS = (
    "noted",
    "history erased",
    "versions erased",
    "dead letters erased",
    "facts merged",
    "messages deleted",
    "noted as done",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What an erasure removed.

    Attributes:
        versions: former versions of the row, in history and current state.
        dead_letters: rejected events of the row.
    """

    versions: int
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """Erases former versions of a row.

    Attributes:
        reached: called with each of POINTS as it is passed.
    """

    clickhouse: ClickHouse
    table: Table
    reached: Reached = ignore

    def is_live(self, key: KeyText) -> bool:
        """Whether the current state has the row."""
        table = self.table
        rows = self.clickhouse.execute(
            f"SELECT 1 FROM cdc.{quoted(table.storage)} FINAL WHERE {among(table.key)} LIMIT 1",
            external=[wanted(table.key, [key])],
        )
        return bool(rows)

    @contextmanager
    def run(self, key: KeyText, *, reason: str, live: bool = False) -> Iterator[Erased]:
        """Erase a row's former versions and dead letters; it is noted as done after the block.

        The block erases the row from facts and topic. An interrupted run is repeated.

        Args:
            live: whether the row is live, so that its present version stays. Default: false.
        """
        keys = self._stored(key)
        history = self._condition(keys)
        state = f"({history}) AND _is_deleted = 0"
        if live:
            newest = self._newest(keys)
            history, state = (f"({one}) AND _version < {newest}" for one in (history, state))
        letters = self._letters(keys, key)
        erased = Erased(
            versions=self._count(self.table.history, history),
            dead_letters=self._count("dead_letters", letters),
        )
        run = uuid4().hex
        self._note(run, "begun", key, erased, reason)
        self.reached("noted")
        self._delete(self.table.history, history)
        self.reached("history erased")
        self._delete(self.table.storage, state)
        self.reached("versions erased")
        self._delete("dead_letters", letters)
        self.reached("dead letters erased")
        yield erased
        self._note(run, "done", key, erased, reason)
        self.reached("noted as done")

    def _stored(self, key: KeyText) -> list[tuple[KeyText, str]]:
        """Return the key as ClickHouse has it: its texts, and the JSON object of its events."""
        table = self.table
        texts = clickhouse_key(table.key)
        values = ", ".join(
            column.type.clickhouse_json.replace("{}", quoted(column.name)) for column in table.key
        )
        found: dict[KeyText, str] = {}
        for name in (table.storage, table.history):
            rows = self.clickhouse.execute(
                f"SELECT DISTINCT [{texts}], [{values}] FROM cdc.{quoted(name)}"
                f" WHERE {among(table.key)}",
                external=[wanted(table.key, [key])],
            )
            found.update((tuple(parts), _object(table, json)) for parts, json in rows)
        return list(found.items())

    def _condition(self, keys: Sequence[tuple[KeyText, str]]) -> str:
        """Return the condition of the row's versions, by the texts of its key."""
        texts = clickhouse_key(self.table.key)
        listed = [f"({texts}) = ({', '.join(map(literal, parts))})" for parts, _ in keys]
        return " OR ".join(listed) or "0"

    def _newest(self, keys: Sequence[tuple[KeyText, str]]) -> str:
        ((newest,),) = self.clickhouse.execute(
            f"SELECT max(_version) FROM cdc.{quoted(self.table.storage)}"
            f" WHERE {self._condition(keys)}"
        )
        return f"toUInt128('{newest}')"

    def _letters(self, keys: Sequence[tuple[KeyText, str]], key: KeyText) -> str:
        """Return the condition of the row's dead letters: their keys as they arrived."""
        objects = [json.loads(text) for _, text in keys] + [_written(self.table, key)]
        own = f"source_table = {literal(self.table.name)}"
        rows = self.clickhouse.execute(
            f"SELECT DISTINCT hex(key) FROM cdc.dead_letters WHERE {own}"
        )
        same = [text for (text,) in rows if _parsed(bytes.fromhex(text)) in objects]
        return f"{own} AND hex(key) IN ({', '.join(map(literal, same))})" if same else "0"

    def _count(self, name: str, condition: str) -> int:
        ((count,),) = self.clickhouse.execute(
            f"SELECT count() FROM cdc.{quoted(name)} WHERE {condition}"
        )
        return int(count)

    def _delete(self, name: str, condition: str) -> None:
        """Delete rows on every server, and wait until they are gone."""
        local = self.clickhouse.cluster.local(name) if name != "dead_letters" else name
        self.clickhouse.everywhere(
            f"ALTER TABLE cdc.{quoted(local)} DELETE WHERE {condition} SETTINGS mutations_sync = 2"
        )

    def _note(self, run: str, state: str, key: KeyText, erased: Erased, reason: str) -> None:
        row = {
            "source_table": self.table.name,
            "run": run,
            "state": state,
            "key_sha256": sha256(key_text(key).encode()).hexdigest(),
            "versions": erased.versions,
            "dead_letters": erased.dead_letters,
            "reason": reason,
            "done_by": self.clickhouse.person,
        }
        self.clickhouse.insert_row("cdc.erasures", row)


def _object(table: Table, values: Sequence[str]) -> str:
    names = [json.dumps(column.name) for column in table.key]
    pairs = (f"{name}:{value}" for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _written(table: Table, key: KeyText) -> dict[str, Any]:
    """Return the key of an event of a row that was never stored."""
    return {
        column.name: int(part) if column.type.clickhouse_json == "toString({})" else part
        for column, part in zip(table.key, key, strict=True)
    }


def _parsed(key: bytes) -> Any:
    try:
        return json.loads(key)
    except ValueError:
        return None
