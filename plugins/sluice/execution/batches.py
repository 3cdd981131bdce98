"""Batches of tables for which one statement asks, so that many small tables cost few statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
# Tables in a statement, and the rows that it reads. A statement costs about as much as counting
# 10,000 rows; counting a million takes 0.1 s.
TABLES = 50
ROWS = 1_000_000


def batches(
    items: Iterable[T], rows: Callable[[T], float], most: int = TABLES, most_rows: float = ROWS
) -> Iterator[list[T]]:
    """Divide items, in their order, into batches; an item of more rows is a batch of its own.

    Args:
        rows: returns the rows of an item, or an estimate.
    """
    batch, total = list[T](), 0.0
    for item in items:
        count = max(0.0, rows(item))
        if batch and (len(batch) == most or total + count > most_rows):
            yield batch
            batch, total = [], 0.0
        batch.append(item)
        total += count
    if batch:
        yield batch
