"""Random transactions on random tables."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Any

import psycopg2

from tests.differential.relations import Field, Relation, quoted

_Step = Callable[[Any, random.Random, Relation], None]


def write(
    connection: Any, relations: list[Relation], chance: random.Random, transactions: int
) -> None:
    """Random transactions, some of them rolled back, some parts to a savepoint."""
    with connection.cursor() as cursor:
        for _ in range(transactions):
            _transaction(connection, cursor, relations, chance)


def _transaction(
    connection: Any, cursor: Any, relations: list[Relation], chance: random.Random
) -> None:
    try:
        for _ in range(chance.choice([1, 1, 2, 8])):
            cursor.execute("SAVEPOINT step")
            try:
                chance.choice(_STEPS)(cursor, chance, chance.choice(relations))
            except (psycopg2.IntegrityError, psycopg2.DataError):
                cursor.execute("ROLLBACK TO SAVEPOINT step")
            if chance.random() < 0.1:
                cursor.execute("ROLLBACK TO SAVEPOINT step")
            elif chance.random() < 0.3:
                cursor.execute("RELEASE SAVEPOINT step")
        if chance.random() < 0.1:
            connection.rollback()
        else:
            connection.commit()
    except psycopg2.extensions.TransactionRollbackError:  # a deadlock
        connection.rollback()


def _values(chance: random.Random, fields: list[Field]) -> Iterator[str | None]:
    for each in fields:
        if each.nullable and chance.random() < 0.25:
            yield None
        elif each.default is not None and chance.random() < 0.5:
            yield each.default
        else:
            yield each.variety.value(chance)


def _insert(cursor: Any, chance: random.Random, relation: Relation, conflict: str = "") -> None:
    fields = [
        each
        for each in relation.written()
        if not (each.identity or each.default) or chance.random() < 0.6
    ]
    if not fields:
        return
    _insert_row(cursor, relation, fields, list(_values(chance, fields)), conflict)


def _insert_row(
    cursor: Any,
    relation: Relation,
    fields: list[Field],
    row: Sequence[str | None],
    conflict: str = "",
) -> None:
    names = ", ".join(each.quoted for each in fields)
    places = ", ".join(f"%s::{each.postgres}" for each in fields)
    cursor.execute(
        f"INSERT INTO {relation.place} ({names}) OVERRIDING SYSTEM VALUE VALUES ({places})"
        f" {conflict}",
        row,
    )


def _upsert(cursor: Any, chance: random.Random, relation: Relation) -> None:
    key = ", ".join(map(quoted, relation.key))
    changes = ", ".join(f"{each.quoted} = excluded.{each.quoted}" for each in relation.others())
    action = f"UPDATE SET {changes}" if changes else "NOTHING"
    _insert(cursor, chance, relation, f"ON CONFLICT ({key}) DO {action}")


def _copy(cursor: Any, chance: random.Random, relation: Relation) -> None:
    """Rows that PostgreSQL writes to its WAL together."""
    fields, lines = [each for each in relation.written() if not each.identity], StringIO()
    if not fields:
        return
    for _ in range(chance.randrange(1, 8)):
        lines.write(",".join(map(_csv, _values(chance, fields))) + "\n")
    lines.seek(0)
    names = ", ".join(each.quoted for each in fields)
    cursor.copy_expert(f"COPY {relation.place} ({names}) FROM STDIN (FORMAT csv)", lines)


def _csv(value: str | None) -> str:
    return "" if value is None else '"{}"'.format(value.replace('"', '""'))


def _one(chance: random.Random, relation: Relation, rows: int = 1) -> str:
    # By place, not by key: a domain over an enum has no operator for IN.
    text = " || ".join(f"{quoted(name)}::text" for name in relation.key)
    return (
        f"(tableoid, ctid) IN (SELECT tableoid, ctid FROM {relation.place}"
        f" ORDER BY md5({text} || '{chance.random()}') LIMIT {rows})"
    )


def _set(
    cursor: Any, chance: random.Random, relation: Relation, fields: list[Field], rows: int
) -> None:
    changes = ", ".join(f"{each.quoted} = %s::{each.postgres}" for each in fields)
    cursor.execute(
        f"UPDATE {relation.place} SET {changes} WHERE"
        f" {_one(chance, relation, rows).replace('%', '%%')}",
        list(_values(chance, fields)),
    )


def _update(cursor: Any, chance: random.Random, relation: Relation) -> None:
    others = relation.others()
    if others:
        chosen = chance.sample(others, chance.randint(1, len(others)))
        _set(cursor, chance, relation, chosen, chance.choice([1, 1, 1, 20]))


def _move(cursor: Any, chance: random.Random, relation: Relation) -> None:
    """A change of the key, alone or with other columns."""
    keys = [each for each in relation.of_key() if each in relation.updated()]
    others = relation.others()
    if keys:
        more = chance.sample(others, chance.randint(0, len(others)))
        _set(cursor, chance, relation, [chance.choice(keys), *more], 1)


def _delete(cursor: Any, chance: random.Random, relation: Relation) -> None:
    condition = _one(chance, relation, chance.choice([1, 1, 5]))
    cursor.execute(f"DELETE FROM {relation.place} WHERE {condition}")


def _replace(cursor: Any, chance: random.Random, relation: Relation) -> None:
    """Rows that are deleted, and come again with their keys."""
    fields = relation.written()
    texts = ", ".join(f"{each.quoted}::text" for each in fields)
    condition = _one(chance, relation, 3)
    cursor.execute(f"DELETE FROM {relation.own} WHERE {condition} RETURNING {texts}")
    for row in cursor.fetchall():
        _insert_row(cursor, relation, fields, row)


def _many(cursor: Any, chance: random.Random, relation: Relation) -> None:
    for _ in range(chance.randrange(5, 30)):
        _upsert(cursor, chance, relation)


def _truncate(cursor: Any, chance: random.Random, relation: Relation) -> None:
    if chance.random() < 0.15:
        cursor.execute(f"TRUNCATE {relation.place} {chance.choice(['', 'RESTART IDENTITY'])}")


def _alter(cursor: Any, chance: random.Random, relation: Relation) -> None:
    """A column that lives within a transaction, beside changes of rows."""
    if chance.random() < 0.7:
        return
    cursor.execute(f"ALTER TABLE {relation.place} ADD COLUMN passing int NOT NULL DEFAULT 7")
    _upsert(cursor, chance, relation)
    _update(cursor, chance, relation)
    cursor.execute(f"ALTER TABLE {relation.place} DROP COLUMN passing")
    _upsert(cursor, chance, relation)


_STEPS: list[_Step] = [
    *[_insert] * 8,
    *[_update] * 6,
    *[_upsert] * 2,
    *[_copy] * 3,
    *[_delete] * 3,
    *[_move] * 2,
    *[_many] * 2,
    *[_replace] * 2,
    _truncate,
    _alter,
]
