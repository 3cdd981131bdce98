"""Every pair of a PostgreSQL type and a model type that `sluice init` takes is right everywhere.

The pairs are all types of `tests.support.type_pairs` under all of its models; PostgreSQL's catalog
says which are taken. Those come by snapshot and stream, are compared, found when they differ, and
read again, as columns and as keys.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import ARRAY
from sqlalchemy.orm import DeclarativeBase

from sluice import wiring
from sluice.capture import slot as slots
from sluice.capture.relay import run
from sluice.catalog import load_catalog
from sluice.catalog.key_selection import Selection
from sluice.catalog.models import describe
from sluice.clients.postgres import PostgresSource
from sluice.errors import Retryable
from sluice.generate.files import write_files
from sluice.quality.checks import QualityReport
from sluice.settings import RelaySettings, Settings
from tests.support.services import drop_slot
from tests.support.type_pairs import (
    ARRAYS,
    CREATED,
    KINDS,
    MODELS,
    TYPES,
    Kind,
    Pair,
    create,
    declare,
)
from tests.support.waiting import until

pytestmark = pytest.mark.services

# No model type is of these.
UNMAPPED = {"oid", "money", '"char"', "xml", "tsquery", "point", "pg_lsn", "pair_row"}
COLUMNS = "cdc.dim_pair_columns"
_COLUMNS_OF_A_KEY = 24  # a finding names the columns of 50 rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """A pipeline of all pairs.

    Attributes:
        columns: those of table `pair_columns`.
        keys: those of each table `pair_keys<n>`.
    """

    settings: Settings
    postgres: Any
    columns: tuple[Pair, ...]
    keys: dict[str, tuple[Pair, ...]]

    def insert(self, table: str, *rows: Sequence[Any]) -> None:
        for row in rows:
            places = ", ".join(["%s"] * len(row))
            self.postgres.execute(f"INSERT INTO {table} VALUES ({places})", row)

    def settle(self, deep: bool = False) -> QualityReport:
        """Drain until both sides can be compared; nothing was rejected."""
        report = until(
            lambda: wiring.quality(self.settings, deep=deep),
            "the checks can be made",
            120,
            retry=Retryable,
        )
        letters = wiring.dead_letters(self.settings, "", 3)
        assert [letter.reason for letter in letters if letter.source_table[:5] == "pair_"] == []
        return report

    @property
    def named(self) -> str:
        return ", ".join(f"c{at}" for at in range(len(self.columns)))

    def rows_checks(self, report: QualityReport) -> dict[str, Any]:
        return {check.table: check for check in report.checks if check.check == "rows"}

    def query(self, text: str) -> list[tuple[Any, ...]]:
        return wiring.query(self.settings, text)[1]


def taken(postgres: Any, source: PostgresSource) -> list[Pair]:
    """The pairs that the schema check finds nothing to say of."""
    postgres.execute(
        "CREATE TABLE pair_types (id int PRIMARY KEY, "
        + ", ".join(f"c{at} {kind.name}" for at, kind in enumerate(KINDS))
        + ")"
    )
    found = []
    for model in MODELS:
        base: Any = type("Base", (DeclarativeBase,), {})
        pairs = [Pair(kind=kind, model=model) for kind in KINDS]
        table = describe("pairs", [declare(base, "pair_types", pairs).__mapper__]).tables[0]
        (lines,) = source.schema_differences([table]).values()
        said = [line for line in lines if "is nullable" not in line]
        different = {line.partition(" ")[0] for line in said}
        found += [pair for at, pair in enumerate(pairs) if f"c{at}" not in different]
    postgres.execute("DROP TABLE pair_types")
    return found


def keys_of(pairs: Sequence[Pair]) -> dict[str, tuple[Pair, ...]]:
    """Pairs that may be keys, some columns to a table; and keys of one column."""
    alike = {"long", "unicode", "mood as text", "uuid as text"}  # text, as others are
    able = [
        pair for pair in pairs if pair.kind.may_be_key and pair.model not in alike and _scalar(pair)
    ]
    starts = range(0, len(able), _COLUMNS_OF_A_KEY)
    tables = {f"pair_keys{at}": tuple(able[at : at + _COLUMNS_OF_A_KEY]) for at in starts}
    single = {("char(6)", "short"), ("bytea", "raw"), ("numeric(10,2)", "cents")}
    single |= {("timestamptz", "instant"), ("inet", "address"), ("pair_3_over", "big")}
    single |= {("citext", "ignoring case"), ("bool", "yes"), ("uuid", "identity")}
    chosen = [pair for pair in able if (pair.kind.name, pair.model) in single]
    assert len(chosen) == len(single)
    tables |= {f"pair_key{at}": (pair,) for at, pair in enumerate(chosen)}
    return tables


def _scalar(pair: Pair) -> bool:
    return not isinstance(MODELS[pair.model], ARRAY)


@pytest.fixture(scope="module")
def pairs(services: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    out = tmp_path_factory.mktemp("pairs")
    with slots.session(services.postgres) as postgres:
        for statement in CREATED:
            postgres.execute(statement)
        found = taken(postgres, PostgresSource(services.postgres))
        keys = keys_of(found)
        settings = pipeline(services, out, found, keys)
        postgres.execute(create("pair_columns", found))
        for name, parts in keys.items():
            postgres.execute(create(name, found[:1], parts))
        made = Pairs(settings=settings, postgres=postgres, columns=tuple(found), keys=keys)
        try:
            yield made
        finally:
            drop_slot(settings)
            sys.path.remove(str(out))
            load_catalog.cache_clear()


def pipeline(
    services: Settings, out: Path, columns: Sequence[Pair], keys: dict[str, tuple[Pair, ...]]
) -> Settings:
    """The models of all tables as a module, and what is generated of them."""
    module = ModuleType("pair_models")
    body = {"__module__": module.__name__}
    module.Base = type("Base", (DeclarativeBase,), body)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    models = [declare(module.Base, "pair_columns", columns)]
    models += [declare(module.Base, name, columns[:1], parts) for name, parts in keys.items()]
    module.models = models  # type: ignore[attr-defined] # mappers are held by their classes alone
    sys.path.insert(0, str(out))
    catalog = load_catalog(module.__name__)
    write_files(catalog, out, services.clickhouse.cluster)
    relay = RelaySettings(slot="pairs", ack="broker")
    return replace(services, models=module.__name__, out=out, relay=relay)


def row(pairs: Sequence[Pair], number: int) -> list[str]:
    return [pair.kind.values[number] for pair in pairs]


@pytest.fixture(scope="module")
def drained(pairs: Pairs) -> Iterator[Pairs]:
    """Rows of every value, and of NULLs: 0 to 3 by a snapshot, 10 to 13 by the stream."""
    columns = pairs.columns
    nothing = [None if pair.nullable else pair.kind.values[1] for pair in columns]
    pairs.insert("pair_columns", *([at, *row(columns, at)] for at in range(3)), [3, *nothing])
    for name, parts in pairs.keys.items():
        pairs.insert(name, [*row(parts, 0), None])
    assert wiring.initialise(pairs.settings) == []
    stop = threading.Event()
    catalog = load_catalog(pairs.settings.models)
    thread = threading.Thread(target=run, args=(pairs.settings, catalog), kwargs={"stop": stop})
    thread.start()
    try:
        pairs.settle()
        pairs.insert(
            "pair_columns", *([10 + at, *row(columns, at)] for at in range(3)), [13, *nothing]
        )
        yield pairs
    finally:
        stop.set()
        thread.join(60)


def test_a_domain_is_taken_where_its_base_type_is_and_no_other_type(pairs: Pairs) -> None:
    models: dict[str, set[str]] = {kind.name: set() for kind in KINDS}
    for pair in pairs.columns:
        models[pair.kind.name].add(pair.model)
    for number, name in enumerate(TYPES):
        assert models[name] == models[f"pair_{number}_over"], name
    for number, name in enumerate(ARRAYS):
        assert models[f"{name}[]"] == models[f"pair_item_{number}[]"], name
        assert models[f"{name}[]"] == models[f"pair_list_{number}"], name
    assert models["pair_list_1[]"] == set()
    text = models["text"]
    assert len(text) > 5
    assert all(models[name] == text for name in ("char(6)", "citext", "pair_mood"))
    assert {name for name in TYPES if not models[name]} == UNMAPPED


def test_a_domain_of_other_digits_is_said_with_its_base_type(pairs: Pairs) -> None:
    base: Any = type("Base", (DeclarativeBase,), {})
    kinds = [Kind(name="pair_price", values=("1", "2", "3"), may_be_key=True)]
    price = [Pair(kind=kind, model="price") for kind in kinds]
    pairs.postgres.execute(create("pair_other", price))
    table = describe("pairs", [declare(base, "pair_other", price).__mapper__]).tables[0]
    said = PostgresSource(pairs.settings.postgres).schema_differences([table])
    assert said["pair_other"] == ["c0 is pair_price (numeric(12,3)), the model says numeric(10, 2)"]


def test_values_are_the_same_by_snapshot_and_stream_and_equal_postgres(drained: Pairs) -> None:
    report = drained.settle(deep=True)
    found = {name: check.difference for name, check in drained.rows_checks(report).items()}
    assert report.failures == [], found
    texts = dict(drained.query(f"SELECT id, toString(tuple({drained.named})) FROM {COLUMNS}"))
    assert len(texts) == 8
    assert all(texts[at] == texts[10 + at] for at in range(4))


def test_a_difference_in_any_column_is_found_and_read_again(drained: Pairs) -> None:
    """Row 0 gets the values of row 1 in ClickHouse."""
    drained.settle()
    drained.query(
        f"INSERT INTO {COLUMNS} SELECT * REPLACE (0 AS id, _version + 1 AS _version)"
        f" FROM {COLUMNS} AS present FINAL WHERE present.id = 1"
    )
    check = drained.rows_checks(drained.settle(deep=True))["pair_columns"]
    assert check.keys == ("0",)
    for at, pair in enumerate(drained.columns):
        assert f"c{at}" in check.difference.replace(",", " ").split(), (pair.kind.name, pair.model)
    assert wiring.resync(drained.settings, "pair_columns", keys=check.keys).rows == 1
    assert drained.rows_checks(drained.settle(deep=True))["pair_columns"].status == "pass"


def variants(parts: Sequence[Pair], number: int) -> list[list[str]]:
    """Keys that are all first values but for one part."""
    first = row(parts, 0)
    return [
        [*first[:at], pair.kind.values[number], *first[at + 1 :]]
        for at, pair in enumerate(parts)
        if pair.kind.values[number] not in pair.kind.values[:number]
    ]


def spoil(pairs: Pairs, storage: str) -> None:
    """Bring deleted rows back, change the others, and lose the last of them."""
    newer = f"_version + 1 AS _version) FROM {storage} AS now"
    pairs.query(f"INSERT INTO {storage} SELECT * REPLACE (1 AS c0, {newer} FINAL")
    pairs.query(
        f"INSERT INTO {storage} SELECT * REPLACE (0 AS _is_deleted, {newer}"
        " WHERE now._is_deleted = 1"
    )
    pairs.query(
        f"DELETE FROM {storage} WHERE _seq = (SELECT max(_seq) FROM {storage} WHERE c0 = 1)"
    )


def test_rows_that_are_lost_or_left_are_found_and_read_again_by_any_key(drained: Pairs) -> None:
    for name, parts in drained.keys.items():
        drained.insert(name, *([*key, 9] for key in variants(parts, 2)))
        drained.insert(name, *([*key, None] for key in variants(parts, 1)))
        drained.postgres.execute(f"DELETE FROM {name} WHERE c0 = 9")
    assert drained.settle(deep=True).failures == []
    for name in drained.keys:
        spoil(drained, f"cdc.dim_{name}")
    checks = drained.rows_checks(drained.settle(deep=True))
    for name, parts in drained.keys.items():
        rows, ghosts = 1 + len(variants(parts, 1)), len(variants(parts, 2))
        assert len(checks[name].keys) == rows + ghosts, name
        assert checks[name].difference.count("differs in c0") == rows - 1, name
        done = wiring.resync(drained.settings, name, keys=checks[name].keys)
        assert (done.rows, done.deleted) == (rows, ghosts), name
    assert drained.settle(deep=True).failures == []


def test_ranges_of_any_key_leave_no_row_that_postgres_does_not_have(drained: Pairs) -> None:
    for name, parts in drained.keys.items():
        spoil(drained, f"cdc.dim_{name}")
        table = load_catalog(drained.settings.models).table(name)
        with wiring.resyncing(drained.settings, table) as step:
            done = replace(step, rows=3).run(table, Selection())
        rows, ghosts = 1 + len(variants(parts, 1)), len(variants(parts, 2))
        assert (done.rows, done.deleted) == (rows, ghosts), name
    assert drained.settle(deep=True).failures == []
