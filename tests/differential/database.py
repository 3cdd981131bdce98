"""A random database: its tables, its models, and changes of its structure beside its traffic."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.differential import traffic
from tests.differential.relations import Drawing, Field, Relation, literal, quoted
from tests.differential.variety import KINDS, TYPES, dropped_types

_MODELS = """
from sqlalchemy import (
    ARRAY, BigInteger, Boolean, CHAR, Column, Computed, Date, DateTime, Enum, Float, Identity,
    Integer, Interval, JSON, LargeBinary, Numeric, REAL, SmallInteger, String, Text, Time, Uuid,
)
from sqlalchemy.dialects.postgresql import (
    BIT, CIDR, INET, INT4MULTIRANGE, INT4RANGE, JSONB, MACADDR, TSTZRANGE, TSVECTOR,
)
from sqlalchemy.orm import DeclarativeBase

class Base(DeclarativeBase): ...
"""


class Database:
    """Random tables of one seed in a PostgreSQL, and what happens to them."""

    def __init__(self, connect: Callable[[], Any], seed: int) -> None:
        self.seed, self.connect = f"d{seed}", connect
        self.chance = random.Random(seed)
        self._drawing = Drawing(self.chance, self.seed)
        self.relations = [self._drawing.relation(number) for number in range(4)]
        self.said: list[str] = []

    def create(self) -> None:
        self.execute(TYPES.replace("{seed}", self.seed))
        for relation in self.relations:
            for statement in relation.ddl():
                self.execute(statement)

    def drop(self) -> None:
        for relation in self.relations:
            if not relation.schema:
                self.execute(f"DROP TABLE IF EXISTS {relation.place} CASCADE")
        self.execute(dropped_types(self.seed))

    def models(self) -> str:
        """The models, as Python source."""
        classes = []
        for number, relation in enumerate(self.relations):
            lines = [
                f"class {self.seed.upper()}T{number}(Base):",
                f'    __tablename__ = "{relation.relation}"',
            ]
            if relation.schema:
                lines.append(f'    __table_args__ = {{"schema": "{relation.schema}"}}')
            fields = {each.name: each for each in relation.modelled()}
            ordered = [*relation.key, *(name for name in fields if name not in relation.key)]
            for at, name in enumerate(ordered):
                column = fields[name].model(self.seed, name in relation.key)
                lines.append(f"    a{at} = {column}")
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

    def write(self, chance: random.Random, transactions: int) -> None:
        """Random transactions; see traffic.py."""
        connection = self.connect()
        try:
            traffic.write(connection, self.relations, chance, transactions)
        finally:
            connection.close()

    # Changes of the structure that need no other models

    def disturb(self) -> None:
        """One change of a table's structure in PostgreSQL alone."""
        relation = self.chance.choice(self.relations)
        actions = [
            *[self._add_foreign_column] * 2,
            self._drop_foreign_column,
            self._rename_foreign_column,
            self._retype_foreign_column,
            *[self._change_identity] * 2,
            self._rewrite,
            self._keep_out_of_line,
            self._index,
            self._constrain,
            self._add_default,
            self._secure,
            self._trigger,
            *[self._inherit] * 2,
            self._partition_more,
            self._add_label,
        ]
        said = self.chance.choice(actions)(relation)
        if said:
            self.said.append(said)
            for statement in said.split(";;"):
                self.execute(statement)

    def _add_foreign_column(self, relation: Relation) -> str:
        relation.added += 1
        made = self._drawing.field(f"x{relation.added}", self.chance.choice(list(KINDS)))
        default = None if made.nullable else made.variety.value(self.chance)
        if default is not None and self.chance.random() < 0.5:
            default, made = None, replace(made, nullable=True)
        made = replace(made, default=default, modelled=False)
        relation.fields = [*relation.fields, made]
        return f"ALTER TABLE {relation.place} ADD COLUMN {made.ddl()}"

    def _foreign(self, relation: Relation) -> Field | None:
        of_postgres = [each for each in relation.fields if not each.modelled]
        return self.chance.choice(of_postgres) if of_postgres else None

    def _drop_foreign_column(self, relation: Relation) -> str:
        gone = self._foreign(relation)
        if gone is None:
            return ""
        relation.fields = [each for each in relation.fields if each is not gone]
        return f"ALTER TABLE {relation.place} DROP COLUMN {gone.quoted}"

    def _rename_foreign_column(self, relation: Relation) -> str:
        found = self._foreign(relation)
        if found is None:
            return ""
        relation.added += 1
        named = replace(found, name=f"r{relation.added}")
        relation.fields = [named if each is found else each for each in relation.fields]
        return f"ALTER TABLE {relation.place} RENAME COLUMN {found.quoted} TO {named.quoted}"

    def _retype_foreign_column(self, relation: Relation) -> str:
        found = self._foreign(relation)
        if found is None or found.computed or found.default is not None:
            return ""
        typed = replace(found, kind="long", postgres="text")
        relation.fields = [typed if each is found else each for each in relation.fields]
        name = found.quoted
        return f"ALTER TABLE {relation.place} ALTER {name} TYPE text USING {name}::text"

    def _change_identity(self, relation: Relation) -> str:
        wanted = self.chance.choice(["FULL", "DEFAULT", "USING INDEX"])
        if any(each.virtual for each in relation.fields):
            wanted = "DEFAULT"  # of a published table PostgreSQL refuses updates with FULL
        if wanted == "USING INDEX":
            wanted = (
                "FULL"
                if relation.partitioned
                else f"USING INDEX {quoted(relation.relation + '_pkey')}"
            )
        names = [relation.relation, *relation.parts]
        return ";;".join(
            f"ALTER TABLE {relation.beside(n)} REPLICA IDENTITY {wanted}" for n in names
        )

    def _rewrite(self, relation: Relation) -> str:
        if relation.partitioned or self.chance.random() < 0.5:
            return f"VACUUM FULL {relation.place}"
        return f"CLUSTER {relation.place} USING {quoted(relation.relation + '_pkey')}"

    def _keep_out_of_line(self, relation: Relation) -> str:
        long = [each for each in relation.fields if each.kind == "long" and not each.virtual]
        if not long:
            return ""
        change = self.chance.choice(["STORAGE EXTERNAL", "STORAGE MAIN", "COMPRESSION pglz"])
        return f"ALTER TABLE {relation.place} ALTER {long[0].quoted} SET {change}"

    def _index(self, relation: Relation) -> str:
        return f"CREATE INDEX ON {relation.place} ({quoted(relation.key[-1])})"

    def _constrain(self, relation: Relation) -> str:
        relation.added += 1
        return f"ALTER TABLE {relation.place} ADD CONSTRAINT check{relation.added} CHECK (true)"

    def _add_default(self, relation: Relation) -> str:
        """A default that the model does not have."""
        plain = [each for each in relation.others() if not each.identity and not each.default]
        if not plain:
            return ""
        chosen = self.chance.choice(plain)
        value = literal(chosen.variety.value(self.chance))
        return f"ALTER TABLE {relation.place} ALTER {chosen.quoted} SET DEFAULT {value}"

    def _secure(self, relation: Relation) -> str:
        return f"ALTER TABLE {relation.place} ENABLE ROW LEVEL SECURITY"  # the role bypasses it

    def _trigger(self, relation: Relation) -> str:
        relation.added += 1
        return (
            f"CREATE OR REPLACE FUNCTION {self.seed}_touch() RETURNS trigger LANGUAGE plpgsql"
            f" AS 'BEGIN RETURN NEW; END';; CREATE TRIGGER touch{relation.added} BEFORE UPDATE ON"
            f" {relation.place} FOR EACH ROW EXECUTE FUNCTION {self.seed}_touch()"
        )

    def _inherit(self, relation: Relation) -> str:
        """A child whose rows are not the table's."""
        if relation.partitioned or any(each.identity for each in relation.fields):
            return ""
        relation.children += 1
        child = relation.beside(f"{relation.relation}_child{relation.children}")
        names = ", ".join(each.quoted for each in relation.written())
        return (
            f"CREATE TABLE {child} () INHERITS ({relation.place});;"
            f"INSERT INTO {child} ({names}) SELECT {names} FROM {relation.own} LIMIT 3"
        )

    def _partition_more(self, relation: Relation) -> str:
        ranges = relation.partitioned.startswith("PARTITION BY RANGE")
        if not ranges or f"{relation.relation}_top" in relation.parts:
            return ""
        name, root = f"{relation.relation}_top", f"{relation.relation}_rest"
        relation.parts[name] = f"{root} FOR VALUES FROM (1000) TO (2000)"
        return (
            f"CREATE TABLE {relation.beside(name)} PARTITION OF {relation.beside(root)}"
            " FOR VALUES FROM (1000) TO (2000)"
        )

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
        made = self._drawing.field(f"n{relation.added}", self.chance.choice(list(KINDS)))
        if not made.nullable:
            made = replace(made, default=made.variety.value(self.chance))
        relation.fields = [*relation.fields, made]
        again = "" if made.nullable and made.variety.nullable else relation.name
        return "", f"ALTER TABLE {relation.place} ADD COLUMN {made.ddl()}", again

    def _drop_column(self, relation: Relation) -> tuple[str, str, str]:
        used = {each.of for each in relation.fields}
        gone = [
            each
            for each in relation.others()
            if each.modelled and each.nullable and each.name not in used
        ]
        if not gone:
            return "", "", ""
        chosen = self.chance.choice(gone)
        relation.fields = [each for each in relation.fields if each is not chosen]
        statement = f"ALTER TABLE {relation.place} DROP COLUMN {chosen.quoted}"
        return (statement, "", "") if self.chance.random() < 0.5 else ("", statement, "")

    def _widen(self, relation: Relation) -> tuple[str, str, str]:
        used = {each.of for each in relation.fields}
        wide = [
            each
            for each in relation.others()
            if each.modelled
            and each.variety.wider
            and each.name not in used
            and each.default is None
        ]
        if not wide:
            return "", "", ""
        chosen = self.chance.choice(wide)
        kind = chosen.variety.wider
        wider = replace(chosen, kind=kind, postgres=KINDS[kind].types[0])
        relation.fields = [wider if each is chosen else each for each in relation.fields]
        statement = (
            f"ALTER TABLE {relation.place} ALTER {wider.quoted} TYPE {wider.postgres}"
            f" USING {wider.quoted}::{wider.postgres}"
        )
        # Blanks that a char(n) ends with go without an event.
        return "", statement, relation.name if chosen.postgres.startswith("char") else ""
