"""A fact's DDL and the queries of its rebuild: touched keys, rows, delete markers.

A rebuild goes by ranges of the fact's key. It stages a range's own rows, then the rows of each
dimension that they refer to, and joins them, so memory grows with the range and not the tables.
The queries have ClickHouse's parameters (`{low:UInt64}`), which rebuild.py binds. `fact` is an
identifier parameter because a full rebuild writes to a shadow table.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from sluice.catalog import Dimension, Fact, FactColumn, Table
from sluice.generate.clickhouse import (
    create_table,
    distributed_table,
    filled,
    index,
    key_expression,
    literal,
    on_cluster,
    quoted,
    shard_key,
    view,
)
from sluice.generate.joins import joined_rows
from sluice.generate.rollups import (
    WHOLE,
    made_of,
    rollup_indexes,
    rollup_statements,
)
from sluice.generate.statements import FactStatements
from sluice.settings import ONE_SERVER, Cluster

Version = tuple[int, ...]
# Since this release ClickHouse uses an index of a nullable date's day too.
BY_DAY = (26, 9)
# Types that toDate wraps outside of 1970 to 2149.
_WRAPS = re.compile("Date32|DateTime64")
_CHANGED = "_seq > {low:UInt64} AND _seq <= {high:UInt64}"


def star_statements(fact: Fact, cluster: Cluster = ONE_SERVER) -> FactStatements:
    """Return the statements of one fact."""
    local, over = cluster.local(fact.name), None
    if cluster.name:
        over = on_cluster(distributed_fact(fact, cluster, fact.name, local), cluster)
    stored, own = _own_columns(fact, stored=True), _own_columns(fact, stored=False)
    return FactStatements(
        fact=on_cluster(fact_table(fact, local), cluster),
        fact_distributed=over,
        view=on_cluster(view(fact.name, [column.name for column in fact.columns]), cluster),
        touched=_temporary("touched", _own_keys(fact, "1 = 0"), ordered=True),
        touched_by_fact=f"INSERT INTO touched\n{_own_keys(fact, _CHANGED)}",
        touched_by={d.prefix: _touched_by(fact, d) for d in fact.dimensions},
        touched_by_date=_touched_by_date(fact) if fact.date else None,
        all_ranges=_all_ranges(fact, cluster),
        touched_ranges=_touched_ranges(fact),
        stage_range=_stage_rows(fact, touched=False),
        stage_touched=_stage_rows(fact, touched=True),
        stage={d.prefix: _stage_dimension(fact, d) for d in fact.dimensions},
        join=_join(fact),
        join_tombstones=_tombstones(fact),
        insert_joined=_insert_joined(fact),
        insert_range=_insert_range(fact),
        checksum_source=_checksum(f"{quoted(fact.table.storage)} FINAL", stored),
        checksum_fact=_checksum("{fact:Identifier} FINAL", own),
        checksum_filled=_checksum("{fact:Identifier}", own),
        rollups={
            rollup.name: rollup_statements(fact, rollup, cluster) for rollup in fact.table.rollups
        },
    )


def fact_table(fact: Fact, name: str, server: Version = BY_DAY) -> str:
    """Return DDL of the fact's storage under this name, for a server of this version.

    It is ordered by its key alone and has one partition, as rows are deduplicated only by sort key
    and within a partition. Filters prune through indexes. FINAL also reads the neighbours of each
    selected granule, so granules are a fourth of the default size.
    """
    columns = [f"{quoted(column.name)} {column.clickhouse_type}" for column in fact.columns]
    columns += ["_version UInt128", "_is_deleted UInt8"]
    columns += _indexes(fact, server)
    key = ", ".join(map(quoted, _key_names(fact)))
    engine = ["ENGINE = ReplacingMergeTree(_version, _is_deleted)", f"ORDER BY ({key})"]
    engine.append("SETTINGS index_granularity = 2048")
    engine.append(f"COMMENT {literal(made_of(fact, fact.table.rollups))}")
    return create_table(name, columns, engine)


def distributed_fact(fact: Fact, cluster: Cluster, name: str, local: str) -> str:
    """Return DDL of the table under this name that reads and writes `local` on all shards."""
    return distributed_table(cluster, name, local, shard_key(_key_names(fact)))


def _indexes(fact: Fact, server: Version) -> Iterator[str]:
    """Yield the fact's indexes: of dimensions' keys, of the date, and of the rollups' groups.

    A key correlated with the fact's is found by its range, others by a Bloom filter. Its false
    positives are one granule in 500; at the default, one in 40, they would be most of what a rare
    key reads. A date is found by its range, toDate of it by a set of values. A key that is a date
    has the filter alone, for the reason in `ranged`.
    """
    types = {column.name: column.clickhouse_type for column in fact.columns}
    for name in sorted(_held_columns(fact)):
        yield index(f"{name}_held", quoted(name), "bloom_filter(0.002)")
        if not _WRAPS.search(types[name]):
            yield index(f"{name}_within", quoted(name), "minmax")
    if fact.date is not None:
        name = fact.date.name
        yield index(date_range(fact.date), ranged(fact.date, server), "minmax")
        yield index(f"{name}_day", f"toDate({quoted(name)})", "set(100)")
    yield from rollup_indexes(fact)


def date_range(date: FactColumn) -> str:
    """Return the name of the index of a fact's date."""
    return f"{date.name}_range"


def ranged(date: FactColumn, server: Version) -> str:
    """Return the expression of that index: the day, which prunes as well as the date.

    ClickHouse would use an index of the date for toDate as well and skip rows wrongly: toDate wraps
    outside of 1970 to 2149, and ClickHouse assumes that it is monotonic. toDate32 does not wrap.
    For a nullable date older servers use only an index of the date itself, and not for toDate.
    """
    nullable = "Nullable" in date.clickhouse_type
    column = quoted(date.name)
    return column if nullable and server < BY_DAY else f"toDate32({column})"


def _held_columns(fact: Fact) -> set[str]:
    """Return the fact's columns that hold keys of dimensions, without its own key."""
    held = {
        fact.fact_column(dimension.prefix, key.name)
        for dimension in fact.dimensions
        for key in dimension.table.key
    }
    return held - set(_key_names(fact))


def _key_names(fact: Fact) -> list[str]:
    return [column.name for column in fact.key]


def _own_names(fact: Fact) -> list[str]:
    return [column.column.name for column in fact.key]


def _temporary(name: str, query: str, *, ordered: bool = False) -> str:
    engine = "MergeTree ORDER BY tuple()" if ordered else "Memory"
    return f"CREATE TEMPORARY TABLE {quoted(name)} ENGINE = {engine} AS\n{query}"


def _own_keys(fact: Fact, condition: str) -> str:
    own = ", ".join(f"{quoted(column.column.name)} AS {quoted(column.name)}" for column in fact.key)
    return f"SELECT DISTINCT {own}\nFROM cdc.{quoted(fact.table.storage)}\nWHERE {condition}"


def _touched_by(fact: Fact, dimension: Dimension) -> str:
    """Return the insert of the keys of facts that a dimension's changes can have altered.

    They are read from the fact: where a fact has referred to another row since, the row with that
    reference is among the changes too.
    """
    keys = [column.name for column in dimension.table.key]
    held = key_expression([fact.fact_column(dimension.prefix, key) for key in keys])
    names, listed = ", ".join(map(quoted, _key_names(fact))), ", ".join(map(quoted, keys))
    return (
        f"INSERT INTO touched\nSELECT DISTINCT {names}\nFROM cdc.{{fact:Identifier}}\n"
        f"WHERE {held} IN (\n    SELECT {listed} FROM cdc.{quoted(dimension.table.storage)}\n"
        f"    WHERE {_CHANGED}\n)"
    )


def _touched_by_date(fact: Fact) -> str:
    """Return the insert of the keys of facts of given days, by the fact or its source tables."""
    assert fact.date is not None
    days = "BETWEEN {first:Date32} AND {last:Date32}"
    names = ", ".join(map(quoted, _key_names(fact)))
    source = next((d for d in fact.dimensions if d.prefix == fact.date.source), None)
    condition = f"toDate32({quoted(fact.date.column.name)}) {days}"
    return (
        f"INSERT INTO touched\nSELECT DISTINCT {names}\nFROM cdc.{{fact:Identifier}}\n"
        f"WHERE toDate32({quoted(fact.date.name)}) {days}\nUNION DISTINCT\n"
        f"{_own_keys(fact, _leading(fact, source, condition))}"
    )


def _leading(fact: Fact, dimension: Dimension | None, condition: str) -> str:
    """Return the condition of the fact table's rows that refer to a dimension's matching rows."""
    if dimension is None:
        return condition
    parent = next((d for d in fact.dimensions if d.prefix == dimension.parent), None)
    reference = dimension.reference
    targets = ", ".join(map(quoted, reference.target_columns))
    inner = (
        f"{key_expression(reference.columns)} IN (\n    SELECT {targets}"
        f" FROM cdc.{quoted(dimension.table.storage)}\n    WHERE {condition}\n)"
    )
    return _leading(fact, parent, inner)


def _all_ranges(fact: Fact, cluster: Cluster) -> str:
    """Return the query of each range's first key, as text, from the table's primary index."""
    listed = ", ".join(map(quoted, _own_names(fact)))
    texts = ", ".join(f"toString({quoted(name)})" for name in _own_names(fact))
    storage = cluster.local(fact.table.storage).replace("'", "''")
    index = f"mergeTreeIndex('cdc', '{storage}')"
    if cluster.name:
        index = f"cluster('{cluster.name}', {index})"
    return (
        f"SELECT {texts} FROM (\n    SELECT {listed},"
        f" sum(rows_in_granule) OVER (ORDER BY {listed}) - rows_in_granule AS before,\n"
        f"        row_number() OVER (ORDER BY {listed}) AS place, rows_in_granule AS wide\n"
        f"    FROM {index} WHERE rows_in_granule > 0\n)\n"
        "WHERE place = 1 OR intDiv(before, {step:UInt64}) !="
        f" intDiv(before + wide, {{step:UInt64}})\nORDER BY {listed}"
    )


def _touched_ranges(fact: Fact) -> str:
    listed = ", ".join(map(quoted, _key_names(fact)))
    texts = ", ".join(f"toString({quoted(name)})" for name in _key_names(fact))
    return (
        f"SELECT {texts} FROM (\n    SELECT {listed},"
        f" row_number() OVER (ORDER BY {listed}) AS place FROM touched\n)\n"
        f"WHERE place % {{step:UInt64}} = 1 OR {{step:UInt64}} = 1\nORDER BY {listed}"
    )


def _within(fact: Fact, names: Sequence[str]) -> str:
    """Return the condition of a key from `low_N` to before `high_N`.

    The first range has no lower bound, as the index may truncate the least key; the last no upper.
    """
    kinds = [column.column.type.clickhouse for column in fact.key]

    def bound(side: str) -> list[str]:
        return [f"CAST({{{side}_{at}:String}} AS {kind})" for at, kind in enumerate(kinds)]

    low, high, name = bound("low"), bound("high"), quoted(names[0])
    if len(names) == 1:
        return (
            f"({{first:UInt8}} OR {name} >= {low[0]})\n"
            f"    AND ({{last:UInt8}} OR {name} < {high[0]})"
        )
    # The key's first column alone as well, by which the primary index skips.
    key = key_expression(names)
    return (
        f"({{first:UInt8}} OR {name} >= {low[0]}) AND ({{last:UInt8}} OR {name} <= {high[0]})\n"
        f"    AND ({{first:UInt8}} OR {key} >= ({', '.join(low)}))\n"
        f"    AND ({{last:UInt8}} OR {key} < ({', '.join(high)}))"
    )


def _needed_columns(fact: Fact, source: str | None, table: Table) -> str:
    """Return a source's needed columns: its key, the fact's columns, references to dimensions.

    A dimension's columns are nullable before the join, which then gives NULL where no row matches;
    that is faster than `join_use_nulls`.
    """
    needed = {column.name for column in table.key}
    carried = {column.column.name for column in fact.columns if column.source == source}
    for dimension in fact.dimensions:
        if dimension.parent == source:
            needed |= set(dimension.reference.columns)
    return filled(
        f"toNullable({quoted(column.name)}) AS {quoted(column.name)}"
        if source and column.name in carried and column.type.nullable
        else quoted(column.name)
        for column in table.columns
        if column.name in needed | carried
    )


def _stage_rows(fact: Fact, *, touched: bool) -> str:
    own = _own_names(fact)
    wanted = _within(fact, own)
    if touched:
        names = ", ".join(map(quoted, _key_names(fact)))
        keys = f"SELECT {names} FROM touched WHERE {_within(fact, _key_names(fact))}"
        wanted += f"\n    AND {key_expression(own)} GLOBAL IN (\n{textwrap.indent(keys, '    ')}\n)"
    # All versions of a row have the same key, so PREWHERE may run before FINAL.
    query = (
        f"SELECT {_needed_columns(fact, None, fact.table)}\n"
        f"FROM cdc.{quoted(fact.table.storage)} FINAL\nPREWHERE {wanted}"
    )
    return _temporary("staged_fact", query)


def _stage_dimension(fact: Fact, dimension: Dimension) -> str:
    """Return the statement that stages a dimension's live rows referred to by the parent's."""
    reference, table = dimension.reference, dimension.table
    parent = quoted(f"staged_{dimension.parent or 'fact'}")
    columns = ", ".join(map(quoted, reference.columns))
    by_key = set(reference.target_columns) <= {column.name for column in table.key}
    query = (
        f"SELECT {_needed_columns(fact, dimension.prefix, table)}\n"
        f"FROM cdc.{quoted(table.storage)} FINAL\n{'PREWHERE' if by_key else 'WHERE'}"
        f" {key_expression(reference.target_columns)} GLOBAL IN (SELECT {columns} FROM {parent})"
    )
    return _temporary(f"staged_{dimension.prefix}", query)


def _join(fact: Fact) -> str:
    return _temporary("joined", joined_rows(fact, "toUInt8(0) AS _is_deleted"))


def _tombstones(fact: Fact) -> str:
    names = ", ".join(map(quoted, _key_names(fact)))
    own = ", ".join(map(quoted, _own_names(fact)))
    return (
        f"INSERT INTO joined ({names}, _is_deleted)\nSELECT DISTINCT {names}, 1\nFROM touched\n"
        f"WHERE {_within(fact, _key_names(fact))}\n"
        f"    AND {key_expression(_key_names(fact))} NOT IN (SELECT {own} FROM staged_fact)"
    )


def _columns(fact: Fact) -> str:
    return filled(quoted(column.name) for column in fact.columns)


def _insert(fact: Fact) -> str:
    return f"INSERT INTO cdc.{{fact:Identifier}} (\n{_columns(fact)},\n_version, _is_deleted\n)"


def _insert_joined(fact: Fact) -> str:
    """Return the insert of the touched rows, which is atomic to readers."""
    return (
        f"{_insert(fact)}\nSELECT\n{_columns(fact)},\n{{version:UInt128}}, _is_deleted\n"
        f"FROM joined\n{WHOLE}"
    )


def _insert_range(fact: Fact) -> str:
    """Return the insert of a range into a shadow table.

    It has no readers yet and no key twice, so the insert may write many parts without merging them.
    """
    rows = joined_rows(fact, "{version:UInt128}, 0")
    return f"{_insert(fact)}\n{rows}, max_insert_threads = 4, optimize_on_insert = 0"


def _own_columns(fact: Fact, *, stored: bool) -> list[str]:
    own = [column for column in fact.columns if column.source is None]
    return [column.column.name if stored else column.name for column in own]


def _checksum(rows: str, columns: Sequence[str]) -> str:
    """Return the query of the row count and sum of hashes; unlike XOR, a row twice counts."""
    listed = ", ".join(map(quoted, columns))
    return f"SELECT count(), sumWithOverflow(cityHash64(tuple({listed})))\nFROM cdc.{rows}"
