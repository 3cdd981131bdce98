"""Random tables as PostgreSQL and the models have them: columns, keys, places, partitions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.differential.variety import KINDS, Kind

NAMES = ("order", "select", "MiXed", "a b", "größe", "it's", "da-sh", 'dou"ble', "back`tick", "1st")
_HASHED = frozenset(KINDS) - {"bits", "some_bits"}  # which PostgreSQL cannot hash
_INTEGERS = {"smallint", "int", "bigint"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column: of the models, of PostgreSQL alone, or both.

    Attributes:
        postgres: its type in PostgreSQL.
        computed: its expression, where PostgreSQL computes it of the column `of`.
        virtual: whether it does so when the column is read.
        identity: ALWAYS or BY DEFAULT, where PostgreSQL counts it.
    """

    name: str
    kind: str
    postgres: str
    nullable: bool = True
    default: str | None = None
    computed: str = ""
    of: str = ""
    virtual: bool = False
    identity: str = ""
    modelled: bool = True

    @property
    def variety(self) -> Kind:
        return KINDS[self.kind]

    @property
    def quoted(self) -> str:
        return quoted(self.name)

    def ddl(self) -> str:
        """The column as CREATE TABLE and ADD COLUMN take it."""
        parts = [self.quoted, self.postgres]
        if self.computed:
            stored = "VIRTUAL" if self.virtual else "STORED"
            parts.append(f"GENERATED ALWAYS AS ({self.computed}) {stored}")
        elif self.identity:
            parts.append(f"GENERATED {self.identity} AS IDENTITY (START WITH 100)")
        elif self.default is not None:
            parts.append(f"DEFAULT {literal(self.default)}")
        if not self.nullable:
            parts.append("NOT NULL")
        return " ".join(parts)

    def model(self, seed: str, key: bool) -> str:
        """The column as a model has it."""
        options = [repr(self.name), self.variety.model.replace("{seed}", seed)]
        if self.computed:
            options.append(f"Computed({self.computed!r}, persisted=True)")
        if self.identity:
            options.append(f"Identity(always={self.identity == 'ALWAYS'})")
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
        schema: empty for `public`.
        key: names of the primary key's fields, in its order; they are among `fields`.
        partitioned: the clause that partitions it, or empty.
        parts: its partitions: name -> what follows PARTITION OF and its root.
        children: how many tables inherit from it.
    """

    relation: str
    fields: list[Field]
    key: list[str]
    schema: str = ""
    partitioned: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    children: int = 0
    added: int = 0

    @property
    def name(self) -> str:
        """The name that Sluice gives it."""
        return f"{self.schema}_{self.relation}" if self.schema else self.relation

    @property
    def place(self) -> str:
        return self.beside(self.relation)

    @property
    def own(self) -> str:
        """What stands behind FROM for its own rows."""
        return self.place if self.partitioned else f"ONLY {self.place}"

    def beside(self, name: str) -> str:
        """The place of another table of its schema."""
        return f"{quoted(self.schema or 'public')}.{quoted(name)}"

    def of_key(self) -> list[Field]:
        named = {each.name: each for each in self.fields}
        return [named[name] for name in self.key]

    def written(self) -> list[Field]:
        """The fields that an application gives values."""
        return [each for each in self.fields if not each.computed]

    def updated(self) -> list[Field]:
        """The fields that an application may change."""
        return [each for each in self.written() if each.identity != "ALWAYS"]

    def others(self) -> list[Field]:
        return [each for each in self.written() if each.name not in self.key]

    def modelled(self) -> list[Field]:
        return [each for each in self.fields if each.modelled]

    def ddl(self) -> Iterator[str]:
        """Statements that create it."""
        columns = ", ".join(each.ddl() for each in self.fields)
        key = ", ".join(map(quoted, self.key))
        yield f"CREATE TABLE {self.place} ({columns}, PRIMARY KEY ({key})) {self.partitioned}"
        for name, clause in self.parts.items():
            root, _, bounds = clause.partition(" ")
            yield f"CREATE TABLE {self.beside(name)} PARTITION OF {self.beside(root)} {bounds}"


def quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


class Drawing:
    """Draws tables and columns of one seed."""

    def __init__(self, chance: random.Random, seed: str) -> None:
        self._chance, self._seed = chance, seed

    def relation(self, number: int) -> Relation:
        """Draw a table."""
        chance = self._chance
        keyed = [kind for kind, variety in KINDS.items() if variety.key]
        parts = chance.sample(keyed, chance.choice([1, 1, 1, 2, 2, 3, 4]))
        if all(kind in {"yes", "choice", "single", "span", "zoned"} for kind in parts):
            parts.append("whole")
        odd = iter(chance.sample(NAMES, len(NAMES)))
        names = (next(odd, f"c{at}") if chance.random() < 0.2 else f"c{at}" for at in range(99))
        key = [self.field(next(names), kind, nullable=False) for kind in parts]
        if key[0].postgres in _INTEGERS and chance.random() < 0.4:
            key[0] = replace(key[0], identity=chance.choice(["ALWAYS", "BY DEFAULT"]))
        others = [
            self.field(next(names), chance.choice(list(KINDS))) for _ in range(chance.randint(1, 9))
        ]
        others = [self._with_default(each) for each in others]
        others += self._computed(others)
        foreign = [
            replace(self.field(f"f{at}", chance.choice(list(KINDS)), nullable=True), modelled=False)
            for at in range(chance.choice([0, 0, 1, 3]))
        ]
        fields = [*key, *others, *foreign]
        chance.shuffle(fields)
        order = [each.name for each in key]
        chance.shuffle(order)
        relation = Relation(
            relation=chance.choice(["{0}_t{1}", "{0}_t{1}", "{0}.T-{1}"]).format(
                self._seed, number
            ),
            schema=chance.choice(["", "", f"{self._seed}_s"]),
            fields=fields,
            key=order,
        )
        if chance.random() < 0.4:
            self._partition(relation)
        return relation

    def field(self, name: str, kind: str, nullable: bool | None = None) -> Field:
        """Draw a column of a kind."""
        variety = KINDS[kind]
        if nullable is None:
            nullable = variety.nullable and (variety.always or self._chance.random() < 0.7)
        chosen = self._chance.choice(variety.types).replace("{seed}", self._seed)
        return Field(name=name, kind=kind, postgres=chosen, nullable=nullable)

    def _with_default(self, of: Field) -> Field:
        if self._chance.random() > 0.3:
            return of
        return replace(of, default=of.variety.value(self._chance))

    def _computed(self, others: list[Field]) -> Iterator[Field]:
        """Perhaps columns that PostgreSQL computes: stored, and of PostgreSQL alone when read."""
        chance = self._chance
        numbers = [each for each in others if each.kind in {"small", "whole"}]
        texts = [each for each in others if each.kind in {"name", "code", "long"}]
        drawn = []
        if numbers:
            doubled = f"coalesce({numbers[0].quoted}, 0)::bigint * 2"
            drawn.append(("big", "bigint", doubled, numbers[0]))
        if texts:
            louder = f"upper({texts[0].quoted}::text) || '!'"
            drawn.append(("long", "text", louder, texts[0]))
        for at, (kind, postgres, expression, of) in enumerate(drawn):
            if chance.random() < 0.5:
                # PostgreSQL computes no virtual column of a type that users made.
                virtual = chance.random() < 0.3 and not of.postgres.startswith(self._seed)
                yield Field(
                    name=f"computed{at}",
                    kind=kind,
                    postgres=postgres,
                    computed=expression,
                    of=of.name,
                    virtual=virtual,
                    modelled=not virtual,
                )

    def _partition(self, relation: Relation) -> None:
        """Partition it by a column of its key: by hash, range or list, some partitions again."""
        name, first = relation.relation, relation.of_key()[0]
        if first.kind in {"small", "whole", "big"} and self._chance.random() < 0.6:
            relation.partitioned = f"PARTITION BY RANGE ({first.quoted})"
            relation.parts = {
                f"{name}_low": f"{name} FOR VALUES FROM (MINVALUE) TO (0)",
                f"{name}_rest": f"{name} DEFAULT PARTITION BY RANGE ({first.quoted})",
                f"{name}_few": f"{name}_rest FOR VALUES FROM (0) TO (10)",
                f"{name}_many": f"{name}_rest DEFAULT",
            }
        elif first.kind == "yes":
            relation.partitioned = f"PARTITION BY LIST ({first.quoted})"
            relation.parts = {
                f"{name}_true": f"{name} FOR VALUES IN (true)",
                f"{name}_rest": f"{name} DEFAULT",
            }
        elif first.kind in _HASHED:
            relation.partitioned = f"PARTITION BY HASH ({first.quoted})"
            relation.parts = {
                f"{name}_p{part}": f"{name} FOR VALUES WITH (MODULUS 3, REMAINDER {part})"
                for part in range(3)
            }
