"""One query for each of many tables or facts, run on ClickHouse in few statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sluice.clients.clickhouse import ClickHouse
from sluice.errors import SluiceError
from sluice.execution.batches import batches
from sluice.execution.outcomes import Outcomes


def read_each(
    clickhouse: ClickHouse,
    queries: Mapping[str, str],
    outcomes: Outcomes,
    rows: Callable[[str], float] = lambda _: 0,
) -> dict[str, tuple[Any, ...]]:
    """Run queries that return one row each; return the rows by name.

    If a statement of several fails, each of its queries runs alone, so that an error stays with
    its table.

    Args:
        queries: by the name of a table or fact; without parameters, of equal types.
        outcomes: takes the errors.
        rows: returns the number of rows that a query reads, or an estimate. Default: few.
    """
    results: dict[str, tuple[Any, ...]] = {}
    for batch in batches(queries, rows):
        if len(batch) > 1:
            with suppress(SluiceError):
                results |= _together(clickhouse, queries, batch)
        for name in batch:
            if name not in results:
                with outcomes.of(name):
                    results |= _together(clickhouse, queries, [name])
    return results


def _together(
    clickhouse: ClickHouse, queries: Mapping[str, str], names: list[str]
) -> dict[str, tuple[Any, ...]]:
    texts = [f"SELECT {at}, * FROM (\n{queries[name]}\n)" for at, name in enumerate(names)]
    rows = clickhouse.execute("\nUNION ALL\n".join(texts))
    return {names[at]: tuple(row) for at, *row in rows}
