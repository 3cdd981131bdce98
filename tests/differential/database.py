"""A random database: its tables, its traffic, and changes of its structure beside the traffic."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2 import sql

from tests.differential.variety import KINDS, TYPES, Kind, dropped_types

_MODELS = """
from sqlalchemy import (
    ARRAY, BigInteger, Boolean, CHAR, Column, Computed, Date, DateTime, Enum, Float, Integer,
    Interval, JSON, LargeBinary, Numeric, REAL, SmallInteger, String, Text, Time, Uuid,
)
from sqlalchemy.dialects.postgresql import BIT, INET, INT4RANGE, JSONB
from sqlalchemy.orm import DeclarativeBase

class Base(DeclarativeBase): ...
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column: of the models, of PostgreSQL alone, or both.

    Attributes:
        postgres: its type in PostgreSQL.
        computed: its expression, where PostgreSQL computes it.
    """

    name: str
    kind: str
    postgres: str
    nullable: bool = True
    default: str | None = None
    computed: str = ""
    modelled: bool = True

    @property
    def variety(self) -> Kind:
        return KINDS[self.kind]

    def ddl(self) -> str:
        """The column as CREATE TABLE and ADD COLUMN take it."""
        parts = [f'"{self.name}" {self.postgres}']
        if self.computed:
            parts.append(f"GENERATED ALWAYS AS ({self.computed}) STORED")
        elif self.default is not None:
            parts.append(f"DEFAULT '{self.default}'")
        if not self.nullable:
            parts.append("NOT NULL")
        return " ".join(parts)

    def model(self, seed: str, key: bool) -> str:
        """The column as a model has it."""
        options = [f'"{self.name}"', self.variety.model.replace("{seed}", seed)]
        if self.computed:
            options.append(f"Computed({self.computed!r}, persisted=True)")
        if key:
            options.append("primary_key=True, autoincrement=False")
        else:
            options.append(f"nullable={self.nullable}")
        if self.default is not None:
            options.append(f"server_default={self.default!r}")
        return f"Column({', '.join(options)})"


@dataclass(slots=True, kw_only=True)
class Relation:
    """A table.

    Attributes:
        key: fields of the primary key, in its order; they are among `fields`.
        partitioned: the clause that partitions it, or empty.
    """

    name: str
    fields: list[Field]
    key: list[str]
    partitioned: str = ""
    added: int = 0

    def of_key(self) -> list[Field]:
        named = {each.name: each for each in self.fields}
        return [named[name] for name in self.key]

    def written(self) -> list[Field]:
        """The fields that an application gives values."""
        return [each for each in self.fields if not each.computed]

    def others(self) -> list[Field]:
        return [each for each in self.written() if each.name not in self.key]

    def modelled(self) -> list[Field]:
        return [each for each in self.fields if each.modelled]


def _quoted(name: str) -> str:
    return f'"{name}"'


class Database:
    """Random tables of one seed in a PostgreSQL, and what happens to them."""

    def __init__(self, connect: Callable[[], Any], seed: int) -> None:
        self.seed, self.connect = f"d{seed}", connect
        self.chance = random.Random(seed)
        self.relations = [self._relation(number) for number in range(4)]
        self.said: list[str] = []

    # The tables

    def _relation(self, number: int) -> Relation:
        chance, name = self.chance, f"{self.seed}_t{number}"
        keyed = [kind for kind, variety in KINDS.items() if variety.key]
        parts = chance.sample(keyed, chance.choice([1, 1, 1, 2, 2, 3]))
        if all(kind in {"yes", "choice"} for kind in parts):
            parts.append("whole")
        key = [self._field(f"k{at}", kind, nullable=False) for at, kind in enumerate(parts)]
        others = [
            self._field(f"c{at}", chance.choice(list(KINDS))) for at in range(chance.randint(1, 7))
        ]
        numbers = [each for each in others if each.kind in {"small", "whole"}]
        if numbers and chance.random() < 0.6:
            others.append(
                Field(
                    name="computed",
                    kind="big",
                    postgres="bigint",
                    computed=f'coalesce("{numbers[0].name}", 0)::bigint * 2',
                )
            )
        fields = [*key, *others]
        chance.shuffle(fields)
        order = [each.name for each in key]
        chance.shuffle(order)
        partitioned = f'PARTITION BY HASH ("{order[0]}")' if chance.random() < 0.3 else ""
        return Relation(name=name, fields=fields, key=order, partitioned=partitioned)

    def _field(self, name: str, kind: str, nullable: bool | None = None) -> Field:
        variety = KINDS[kind]
        if nullable is None:
            nullable = variety.nullable and (kind == "words" or self.chance.random() < 0.7)
        chosen = self.chance.choice(variety.types).replace("{seed}", self.seed)
        return Field(name=name, kind=kind, postgres=chosen, nullable=nullable)

    def create(self) -> None:
        self.execute(TYPES.replace("{seed}", self.seed))
        for relation in self.relations:
            columns = ", ".join(each.ddl() for each in relation.fields)
            key = ", ".join(map(_quoted, relation.key))
            self.execute(
                f"CREATE TABLE {relation.name} ({columns}, PRIMARY KEY ({key}))"
                f" {relation.partitioned}"
            )
            for part in range(3 if relation.partitioned else 0):
                self.execute(
                    f"CREATE TABLE {relation.name}_p{part} PARTITION OF {relation.name}"
                    f" FOR VALUES WITH (MODULUS 3, REMAINDER {part})"
                )

    def drop(self) -> None:
        for relation in self.relations:
            self.execute(f"DROP TABLE IF EXISTS {relation.name} CASCADE")
        self.execute(dropped_types(self.seed))

    def models(self) -> str:
        """The models, as Python source."""
        classes = []
        for number, relation in enumerate(self.relations):
            lines = [
                f"class {self.seed.upper()}T{number}(Base):",
                f'    __tablename__ = "{relation.name}"',
            ]
            fields = {each.name: each for each in relation.modelled()}
            ordered = [*relation.key, *(name for name in fields if name not in relation.key)]
            for name in ordered:
                lines.append(f"    {name} = {fields[name].model(self.seed, name in relation.key)}")
            classes.append("\n".join(lines))
        return _MODELS + "\n\n" + "\n\n".join(classes) + "\n"

    def execute(self, statement: str) -> None:
        connection = self.connect()
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    # The traffic

    def write(self, chance: random.Random, transactions: int) -> None:
        """Random transactions, some of them rolled back, some parts to a savepoint."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                for _ in range(transactions):
                    self._transaction(connection, cursor, chance)
        finally:
            connection.close()

    def _transaction(self, connection: Any, cursor: Any, chance: random.Random) -> None:
        try:
            for _ in range(chance.choice([1, 1, 2, 8])):
                cursor.execute("SAVEPOINT step")
                try:
                    chance.choice(self._steps())(cursor, chance, chance.choice(self.relations))
                except (psycopg2.IntegrityError, psycopg2.DataError):
                    cursor.execute("ROLLBACK TO SAVEPOINT step")
                if chance.random() < 0.1:
                    cursor.execute("ROLLBACK TO SAVEPOINT step")
            if chance.random() < 0.1:
                connection.rollback()
            else:
                connection.commit()
        except psycopg2.extensions.TransactionRollbackError:  # a deadlock
            connection.rollback()

    def _steps(self) -> list[Callable[[Any, random.Random, Relation], None]]:
        return [
            *[self._insert] * 8,
            *[self._update] * 6,
            *[self._upsert] * 2,
            *[self._delete] * 3,
            *[self._move] * 2,
            *[self._many] * 2,
            self._truncate,
        ]

    def _values(self, chance: random.Random, fields: list[Field]) -> Iterator[str | None]:
        for each in fields:
            if each.nullable and chance.random() < 0.25:
                yield None
            elif each.default is not None and chance.random() < 0.5:
                yield each.default
            else:
                yield each.variety.value(chance)

    def _insert(
        self, cursor: Any, chance: random.Random, relation: Relation, conflict: str = ""
    ) -> None:
        fields = relation.written()
        names = ", ".join(_quoted(each.name) for each in fields)
        places = ", ".join(f"%s::{each.postgres}" for each in fields)
        cursor.execute(
            f"INSERT INTO {relation.name} ({names}) VALUES ({places}) {conflict}",
            list(self._values(chance, fields)),
        )

    def _upsert(self, cursor: Any, chance: random.Random, relation: Relation) -> None:
        key = ", ".join(map(_quoted, relation.key))
        others = [_quoted(each.name) for each in relation.others()]
        changes = ", ".join(f"{name} = excluded.{name}" for name in others)
        action = f"UPDATE SET {changes}" if changes else "NOTHING"
        self._insert(cursor, chance, relation, f"ON CONFLICT ({key}) DO {action}")

    def _one(self, chance: random.Random, relation: Relation, rows: int = 1) -> str:
        # By place, not by key: a domain over an enum has no operator for IN.
        text = " || ".join(f'"{name}"::text' for name in relation.key)
        return (
            f"(tableoid, ctid) IN (SELECT tableoid, ctid FROM {relation.name}"
            f" ORDER BY md5({text} || '{chance.random()}') LIMIT {rows})"
        )

    def _set(
        self, cursor: Any, chance: random.Random, relation: Relation, fields: list[Field], rows: int
    ) -> None:
        changes = ", ".join(f'"{each.name}" = %s::{each.postgres}' for each in fields)
        cursor.execute(
            f"UPDATE {relation.name} SET {changes} WHERE"
            f" {self._one(chance, relation, rows).replace('%', '%%')}",
            list(self._values(chance, fields)),
        )

    def _update(self, cursor: Any, chance: random.Random, relation: Relation) -> None:
        others = relation.others()
        if others:
            chosen = chance.sample(others, chance.randint(1, len(others)))
            self._set(cursor, chance, relation, chosen, chance.choice([1, 1, 1, 20]))

    def _move(self, cursor: Any, chance: random.Random, relation: Relation) -> None:
        """A change of the key, alone or with other columns."""
        others = relation.others()
        more = chance.sample(others, chance.randint(0, len(others)))
        self._set(cursor, chance, relation, [chance.choice(relation.of_key()), *more], 1)

    def _delete(self, cursor: Any, chance: random.Random, relation: Relation) -> None:
        condition = self._one(chance, relation, chance.choice([1, 1, 5]))
        cursor.execute(f"DELETE FROM {relation.name} WHERE {condition}")

    def _many(self, cursor: Any, chance: random.Random, relation: Relation) -> None:
        for _ in range(chance.randrange(5, 30)):
            self._upsert(cursor, chance, relation)

    def _truncate(self, cursor: Any, chance: random.Random, relation: Relation) -> None:
        if chance.random() < 0.15:
            cursor.execute(f"TRUNCATE {relation.name}")

    # Changes of the structure that need no other models

    def disturb(self) -> None:
        """One change of a table's structure in PostgreSQL alone."""
        relation = self.chance.choice(self.relations)
        actions = [
            self._add_foreign_column,
            self._add_foreign_column,
            self._drop_foreign_column,
            self._change_identity,
            self._change_identity,
            self._rewrite,
            self._keep_out_of_line,
            self._index,
            self._add_label,
        ]
        said = self.chance.choice(actions)(relation)
        if said:
            self.said.append(said)
            self.execute(said)

    def _add_foreign_column(self, relation: Relation) -> str:
        kind = self.chance.choice(
            ["whole", "name", "document", "money", "raw", "numbers", "double"]
        )
        relation.added += 1
        made = self._field(f"x{relation.added}", kind)
        default = made.variety.value(self.chance) if not made.nullable else None
        if default is not None and self.chance.random() < 0.5:
            default = None
            made = replace(made, nullable=True)
        made = replace(made, default=default and default.replace("'", ""), modelled=False)
        relation.fields = [*relation.fields, made]
        return f"ALTER TABLE {relation.name} ADD COLUMN {made.ddl()}"

    def _drop_foreign_column(self, relation: Relation) -> str:
        foreign = [each for each in relation.fields if not each.modelled]
        if not foreign:
            return ""
        gone = self.chance.choice(foreign)
        relation.fields = [each for each in relation.fields if each is not gone]
        return f"ALTER TABLE {relation.name} DROP COLUMN {_quoted(gone.name)}"

    def _change_identity(self, relation: Relation) -> str:
        wanted = self.chance.choice(["FULL", "DEFAULT", f"USING INDEX {relation.name}_pkey"])
        names = [relation.name]
        if relation.partitioned:
            if "USING" in wanted:
                wanted = "FULL"
            names += [f"{relation.name}_p{part}" for part in range(3)]
        return "; ".join(f"ALTER TABLE {name} REPLICA IDENTITY {wanted}" for name in names)

    def _rewrite(self, relation: Relation) -> str:
        return f"VACUUM FULL {relation.name}"

    def _keep_out_of_line(self, relation: Relation) -> str:
        long = [each for each in relation.fields if each.kind == "long"]
        if not long:
            return ""
        return f'ALTER TABLE {relation.name} ALTER "{long[0].name}" SET STORAGE EXTERNAL'

    def _index(self, relation: Relation) -> str:
        return f"CREATE INDEX ON {relation.name} ({_quoted(relation.key[-1])})"

    def _add_label(self, relation: Relation) -> str:
        return f"ALTER TYPE {self.seed}_choice ADD VALUE IF NOT EXISTS 'new{self.chance.random()}'"

    # Changes of the models, in the order of docs/change-models.md

    def evolve(self) -> tuple[str, str, str]:
        """One change of the models: what PostgreSQL is given before them, what after `sluice
        init`, and the table that is read again at the end; empty where there is nothing to do.
        """
        relation = self.chance.choice(self.relations)
        steps = [self._add_column, self._drop_column, self._widen]
        before, after, again = self.chance.choice(steps)(relation)
        self.said.append(f"models: {before} {after} {again}")
        return before, after, again

    def _add_column(self, relation: Relation) -> tuple[str, str, str]:
        relation.added += 1
        made = self._field(f"n{relation.added}", self.chance.choice(list(KINDS)))
        if not made.nullable:
            made = replace(made, default=made.variety.value(self.chance).replace("'", ""))
        relation.fields = [*relation.fields, made]
        again = "" if made.nullable and made.variety.nullable else relation.name
        return "", f"ALTER TABLE {relation.name} ADD COLUMN {made.ddl()}", again

    def _drop_column(self, relation: Relation) -> tuple[str, str, str]:
        used = {each.computed.split('"')[1] for each in relation.fields if each.computed}
        gone = [
            each
            for each in relation.others()
            if each.modelled and each.nullable and each.name not in used
        ]
        if not gone:
            return "", "", ""
        chosen = self.chance.choice(gone)
        relation.fields = [each for each in relation.fields if each is not chosen]
        statement = f"ALTER TABLE {relation.name} DROP COLUMN {_quoted(chosen.name)}"
        return (statement, "", "") if self.chance.random() < 0.5 else ("", statement, "")

    def _widen(self, relation: Relation) -> tuple[str, str, str]:
        computed = any(each.computed for each in relation.fields)
        wide = [
            each
            for each in relation.others()
            if each.modelled and each.variety.wider and not computed and each.default is None
        ]
        if not wide:
            return "", "", ""
        chosen = self.chance.choice(wide)
        kind = chosen.variety.wider
        wider = replace(chosen, kind=kind, postgres=KINDS[kind].types[0])
        relation.fields = [wider if each is chosen else each for each in relation.fields]
        statement = (
            f'ALTER TABLE {relation.name} ALTER "{wider.name}" TYPE {wider.postgres}'
            f' USING "{wider.name}"::{wider.postgres}'
        )
        return "", statement, ""


def printed(cursor: Any, relation: Relation) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """PostgreSQL's rows by key, read from what COPY prints."""
    from io import StringIO

    fields = relation.modelled()
    names = sql.SQL(", ").join(sql.Identifier(each.name) for each in fields)
    table = sql.Identifier(relation.name)
    output = StringIO()
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(names, table)
    cursor.copy_expert(query.as_string(cursor.connection), output)
    rows = {}
    for line in output.getvalue().split("\n")[:-1]:
        texts = [None if part == r"\N" else _unescaped(part) for part in line.split("\t")]
        row = {
            each.name: None if text is None else each.variety.postgres_value(text)
            for each, text in zip(fields, texts, strict=True)
        }
        rows[tuple(str(row[name]) for name in relation.key)] = tuple(row.values())
    return rows


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "\\": "\\"}


def _unescaped(text: str) -> str:
    parts = iter(text)
    return "".join(_ESCAPES[next(parts)] if part == "\\" else part for part in parts)


def stored(
    query: Callable[[str], list[tuple[Any, ...]]], storage: str, relation: Relation
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """ClickHouse's rows by key, read from what its functions print."""
    fields = relation.modelled()
    listed = ", ".join(each.variety.clickhouse.replace("{}", f"`{each.name}`") for each in fields)
    nothing = ", ".join(f"isNull(`{each.name}`)" for each in fields)
    rows = {}
    for found in query(f"SELECT {listed}, {nothing} FROM cdc.`{storage}` FINAL"):
        row = {
            each.name: None if absent else each.variety.clickhouse_value(text)
            for each, text, absent in zip(
                fields, found[: len(fields)], found[len(fields) :], strict=True
            )
        }
        rows[tuple(str(row[name]) for name in relation.key)] = tuple(row.values())
    return rows
