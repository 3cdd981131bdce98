-- The queries of rebuild and quality that do not depend on the models.

-- name: last_seen
-- What the last rebuild into this storage had seen, and its name in its notes. A full rebuild's are
-- never settled: others wrote, and noted, into the storage that it replaced.
SELECT seen, if(mode = 'incremental', rebuild, toUUID('00000000-0000-0000-0000-000000000000'))
FROM cdc.rebuilds
WHERE fact = {fact:String} AND storage = {storage:UUID} AND mode != 'backfill'
ORDER BY version DESC, finished_at DESC LIMIT 1;

-- name: standings
-- Fact -> the identity of its table, and what the last rebuild into it had seen.
SELECT fact, storage, argMax(seen, (version, finished_at)) FROM cdc.rebuilds
WHERE mode != 'backfill' AND (fact, storage) IN (
    SELECT name, uuid FROM system.tables WHERE database = 'cdc'
)
GROUP BY fact, storage;

-- name: settled_notes
-- Rebuilds into this storage that have seen as much as the last one, and those into others that it
-- came after: what they noted is in the sums of rollups, and in no other rows than the fact's.
SELECT groupUniqArray(rebuild) FROM cdc.rebuilds
WHERE fact = {fact:String} AND version >= {version:UInt128} AND (
    storage = {storage:UUID} OR finished_at < (
        SELECT max(finished_at) FROM cdc.rebuilds
        WHERE fact = {fact:String} AND storage = {storage:UUID} AND mode != 'backfill'
    )
);

-- name: storage
-- The identity of a table in cdc: an exchange moves it, a re-creation changes it.
SELECT uuid FROM system.tables WHERE database = 'cdc' AND name = {table:String};

-- name: local
-- The table that holds a server's own rows of a Distributed one.
SELECT extract(engine_full, '\'cdc\', \'([^\']+)\'') FROM system.tables
WHERE database = 'cdc' AND name = {table:String} AND engine = 'Distributed';

-- name: strays
-- Servers of a cluster, of those that answer, whose fact has other rows.
SELECT hostName() FROM clusterAllReplicas({cluster:String}, system.tables)
WHERE database = 'cdc' AND name = {fact:String} AND engine = 'Distributed'
    AND extract(engine_full, '\'cdc\', \'([^\']+)\'') != {local:String}
SETTINGS skip_unavailable_shards = 1;

-- name: drained
-- Source table -> the highest _seq that is drained.
SELECT source_table, argMax(base_seq + next_offset, generation)
FROM cdc.checkpoints GROUP BY source_table;

-- name: seen_by_all
-- Fact and storage -> what its last rebuild had seen; empty after backfills alone. Read from a projection.
SELECT fact, storage, argMaxIf(seen, (version, finished_at), mode != 'backfill')
FROM cdc.rebuilds GROUP BY fact, storage;

-- name: storages
-- Tables of cdc: name, identity, and rows where the server knows them without counting.
SELECT name, uuid, total_rows FROM system.tables
WHERE database = 'cdc' AND name IN {names:Array(String)};

-- name: straying
-- Facts of which the servers of a cluster, of those that answer, read different rows.
SELECT name FROM clusterAllReplicas({cluster:String}, system.tables)
WHERE database = 'cdc' AND name IN {names:Array(String)} AND engine = 'Distributed'
GROUP BY name HAVING uniqExact(extract(engine_full, '\'cdc\', \'([^\']+)\'')) > 1
SETTINGS skip_unavailable_shards = 1;

-- name: live_rows
-- Rows that are live now.
SELECT count() FROM cdc.{table:Identifier} FINAL;

-- name: dead_letters
-- Source table -> rejected events that are open.
SELECT source_table, count() FROM cdc.dead_letters FINAL
WHERE state = 'open' GROUP BY source_table;

-- name: freshness
-- Source table -> the last moment of which ClickHouse is known to have everything, ms since 1970.
SELECT source_table, max(at) FROM (
    SELECT source_table, argMax(committed_at, generation) AS at
    FROM cdc.checkpoints GROUP BY source_table
    UNION ALL
    SELECT source_table, toUnixTimestamp64Milli(max(checked_at)) AS at
    FROM cdc.quality_checks
    WHERE check IN ('row_count', 'caught_up') AND status = 'pass' GROUP BY source_table
)
GROUP BY source_table;

-- name: part_marks
-- Table of cdc -> its identity and a mark of its parts, which inserts, mutations and dropped parts
-- change; a merge may.
SELECT name, concat(toString(any(uuid)), ' ', toString(cityHash64(arraySort(groupArray(part)))))
FROM system.tables LEFT JOIN (
    SELECT table, (partition_id, max(max_block_number), max(data_version),
        sum(max_block_number - min_block_number + 1)) AS part
    FROM system.parts WHERE database = 'cdc' AND active GROUP BY table, partition_id
) AS parts ON parts.table = name
WHERE database = 'cdc' AND name IN {names:Array(String)}
GROUP BY name;

-- name: carried
-- The last results of these checks, of those that passed: counts, mark, and how many seconds ago the
-- two sides were compared.
SELECT source_table, check, last.2, last.3, last.4, last.5 FROM (
    SELECT source_table, check, argMax((
        status, postgres, clickhouse, mark,
        toUInt32(greatest(0, dateDiff('second', checked_at, now64(3)))) + carried_s
    ), checked_at) AS last
    FROM cdc.quality_checks
    WHERE source_table IN {tables:Array(String)} AND check IN {checks:Array(String)}
        AND checked_at > now64(3) - toIntervalSecond({seconds:UInt32})
    GROUP BY source_table, check
)
WHERE last.1 = 'pass' AND last.4 != '' AND last.5 < {seconds:UInt32};

-- name: last_results
-- The newest settled result of each check of these tables.
SELECT source_table, check, argMax(status, checked_at)
FROM cdc.quality_checks
WHERE source_table IN {tables:Array(String)} AND status != 'unsettled'
GROUP BY source_table, check;

-- name: resynced_since
-- Those of these tables of which a resync has ended since then.
SELECT DISTINCT source_table FROM cdc.resyncs
WHERE source_table IN {tables:Array(String)} AND finished_at >= {begun:DateTime64(3, 'UTC')};

-- name: unsettled_for
-- Check -> for how many seconds it has been unsettled, of those that have been since they were
-- settled. Whether a table is caught up is settled when it is.
SELECT source_table, check, dateDiff('second', min(checked_at), now64(3))
FROM cdc.quality_checks AS results
LEFT JOIN (
    SELECT source_table, check, max(checked_at) AS settled_at FROM cdc.quality_checks
    WHERE source_table IN {tables:Array(String)} AND (status = 'pass' OR (status = 'fail' AND check != 'caught_up'))
    GROUP BY source_table, check
) AS settled USING (source_table, check)
WHERE source_table IN {tables:Array(String)} AND status = 'unsettled' AND checked_at > settled_at
GROUP BY source_table, check;

-- name: last_run
-- The last run that was asked for this in this epoch; empty where there is none.
SELECT argMax(run, noted_at) FROM cdc.resync_ranges
WHERE source_table = {table:String} AND selection = {selection:String}
    AND epoch = {epoch:UInt16} AND state = 'open';

-- name: ranges_of
-- The ranges of a run: bounds, rows (expected, or read when it is done), state, how many rows the
-- last reading could not store, how many seconds ago it was noted, and what was asked for.
SELECT number, argMin(lower, state), argMin(upper, state), argMin(below, state),
    argMax(rows, state), toString(max(state)), argMax(rejected, (state, noted_at)),
    dateDiff('second', max(noted_at), now64(3)), argMin(selection, state)
FROM cdc.resync_ranges WHERE source_table = {table:String} AND run = {run:String}
GROUP BY number ORDER BY number;

-- name: drop_ranges
-- Nobody goes on with the table's runs.
INSERT INTO cdc.resync_ranges (source_table, run, number, state)
SELECT source_table, run, number, 'dropped' FROM cdc.resync_ranges
WHERE source_table = {table:String}
GROUP BY source_table, run, number HAVING max(state) != 'dropped';

-- name: open_holes
-- Changes of a table, or of all with '', that were not sent and that no resync has brought.
SELECT source_table, hole, toString(max(state)), argMin(lsn, state), argMax(lsn, state),
    argMin(reason, state), argMin(remedy, state)
FROM cdc.parked WHERE {table:String} IN ('', source_table)
GROUP BY source_table, hole HAVING max(state) < 'whole' ORDER BY min(noted_at);

-- name: fences
-- The fences of a run's ranges that are done.
SELECT fence FROM cdc.resync_ranges
WHERE source_table = {table:String} AND run = {run:String} AND state = 'done';
