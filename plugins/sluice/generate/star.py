"""A fact's DDL and the queries that keep it: what was touched, its rows, its tombstones.

Rows are made range by range of the fact's key: the range's own rows are staged, then of each
dimension the rows that those lead to, then all of it joined, so memory follows the range and not
the tables. The queries are ClickHouse's with its own parameters (`{low:UInt64}`); rebuild.py
fills them in. `fact` is an identifier parameter because a full rebuild writes to a shadow table.
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
from sluice.settings import ONE_SERVER, Cluster

Version = tuple[int, ...]
# From this release on ClickHouse finds a date that may be NULL by an index of its day too.
BY_DAY = (26, 9)
# Types of which toDate makes another day outside of 1970 to 2149.
_WRAPS = re.compile("Date32|DateTime64")
_CHANGED = "_seq > {low:UInt64} AND _seq <= {high:UInt64}"


def star_statements(fact: Fact, cluster: Cluster = ONE_SERVER) -> dict[str, str]:
    """Statement name -> text, for one fact."""
    local = cluster.local(fact.name)
    statements = {"fact": on_cluster(fact_table(fact, local), cluster)}
    if cluster.name:
        over = distributed_fact(fact, cluster, fact.name, local)
        statements["fact_distributed"] = on_cluster(over, cluster)
    statements |= {
        "view": on_cluster(view(fact.name, [column.name for column in fact.columns]), cluster),
        "touched": _temporary("touched", _own_keys(fact, "1 = 0"), ordered=True),
        "touched_by_fact": f"INSERT INTO touched\n{_own_keys(fact, _CHANGED)}",
    }
    for dimension in fact.dimensions:
        statements[f"touched_by_{dimension.prefix}"] = _touched_by(fact, dimension)
    if fact.date is not None:
        statements["touched_by_date"] = _touched_by_date(fact)
    statements |= {
        "all_ranges": _all_ranges(fact, cluster),
        "touched_ranges": _touched_ranges(fact),
        "stage_range": _stage_rows(fact, touched=False),
        "stage_touched": _stage_rows(fact, touched=True),
    }
    for dimension in fact.dimensions:
        statements[f"stage_{dimension.prefix}"] = _stage_dimension(fact, dimension)
    statements |= {
        "join": _join(fact),
        "join_tombstones": _tombstones(fact),
        "insert_joined": _insert_joined(fact),
        "insert_range": _insert_range(fact),
        "checksum_source": _checksum(
            f"{quoted(fact.table.storage)} FINAL", _own_columns(fact, stored=True)
        ),
        "checksum_fact": _checksum("{fact:Identifier} FINAL", _own_columns(fact, stored=False)),
        "checksum_filled": _checksum("{fact:Identifier}", _own_columns(fact, stored=False)),
    }
    for rollup in fact.table.rollups:
        statements |= rollup_statements(fact, rollup, cluster)
    return statements


def fact_table(fact: Fact, name: str, server: Version = BY_DAY) -> str:
    """DDL of the fact's storage under this name, on a server of this version.

    Ordered by its key alone and in one partition: rows of a key are one only within a partition
    and a sort key. What people filter by prunes through the indexes; FINAL reads them exactly,
    each granule that they select with its neighbours, so granules are a fourth of the usual.
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
    """DDL of the table under this name that reads and writes `local` on all shards."""
    return distributed_table(cluster, name, local, shard_key(_key_names(fact)))


def _indexes(fact: Fact, server: Version) -> Iterator[str]:
    """A dimension's keys that follow the fact's are found by their range, others by the filter.

    The filter takes one granule of 500 for another's: at the usual one of 40, those would be
    most of what is read for a key that few facts have.

    A date is found by a range, what toDate makes of it by a set of the values as they are. A key
    that is a date is found by the filter alone, for the reason that `ranged` has.
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
    """The name of the index by which a fact's date is found."""
    return f"{date.name}_range"


def ranged(date: FactColumn, server: Version) -> str:
    """What that is an index of: the day, which is as good as the date.

    One of the date itself would serve toDate as well, and hide rows from it: toDate wraps outside
    of 1970 to 2149, and ClickHouse takes it for monotonic. toDate32 does not wrap. Where the date
    may be NULL, older servers find it by its own index alone, and do not take that for toDate's.
    """
    nullable = "Nullable" in date.clickhouse_type
    column = quoted(date.name)
    return column if nullable and server < BY_DAY else f"toDate32({column})"


def _held_columns(fact: Fact) -> set[str]:
    """The fact's columns that hold keys of dimensions, less its own key's."""
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
    """Keys of the facts that a dimension's changes can have altered.

    They are found in the fact itself: where the way from a fact to a dimension has changed
    since, the row that changed it is among the changes too.
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
    """Keys of the facts that are on the days, by the fact or by the tables it is made of."""
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
    """WHERE on the fact's table: rows that lead to a dimension's rows under this condition."""
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
    """The first key of each range of the fact's table, as text, from its primary index."""
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
    """WHERE on a key: from `low_N` on to before `high_N`; the first range has no beginning, since
    the index may not hold the least key whole, and the last has no end.
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
    # The key's first column alone as well: it lets the primary index skip.
    key = key_expression(names)
    return (
        f"({{first:UInt8}} OR {name} >= {low[0]}) AND ({{last:UInt8}} OR {name} <= {high[0]})\n"
        f"    AND ({{first:UInt8}} OR {key} >= ({', '.join(low)}))\n"
        f"    AND ({{last:UInt8}} OR {key} < ({', '.join(high)}))"
    )


def _needed_columns(fact: Fact, source: str | None, table: Table) -> str:
    """Of a source: its key, what the fact carries of it, and what refers on to dimensions.

    What is carried of a dimension is NULL in its type already: where no row is found the join then
    leaves NULL, in half the time that `join_use_nulls` takes.
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
    # Keys are the same in every version of a row, so FINAL need not merge the others.
    query = (
        f"SELECT {_needed_columns(fact, None, fact.table)}\n"
        f"FROM cdc.{quoted(fact.table.storage)} FINAL\nPREWHERE {wanted}"
    )
    return _temporary("staged_fact", query)


def _stage_dimension(fact: Fact, dimension: Dimension) -> str:
    """The live rows that the staged rows of the parent lead to, and no others."""
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
    """The touched rows, which readers see all at once."""
    return (
        f"{_insert(fact)}\nSELECT\n{_columns(fact)},\n{{version:UInt128}}, _is_deleted\n"
        f"FROM joined\n{WHOLE}"
    )


def _insert_range(fact: Fact) -> str:
    """A range of a shadow table, joined on the way. Nobody reads it yet, and its keys are new:
    many parts at once, unsorted twice.
    """
    rows = joined_rows(fact, "{version:UInt128}, 0")
    return f"{_insert(fact)}\n{rows}, max_insert_threads = 4, optimize_on_insert = 0"


def _own_columns(fact: Fact, *, stored: bool) -> list[str]:
    own = [column for column in fact.columns if column.source is None]
    return [column.column.name if stored else column.name for column in own]


def _checksum(rows: str, columns: Sequence[str]) -> str:
    """Rows and a sum of hashes: unlike XOR, a row that is there twice does not cancel out."""
    listed = ", ".join(map(quoted, columns))
    return f"SELECT count(), sumWithOverflow(cityHash64(tuple({listed})))\nFROM cdc.{rows}"
