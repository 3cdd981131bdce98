-- The queries of the maintenance.

-- name: parts
-- Active parts by table, the most in one partition first, and where inserts are refused.
SELECT table, max(parts), any(refused) FROM (
    SELECT table, partition_id, count() AS parts,
        (SELECT toUInt64(value) FROM system.merge_tree_settings WHERE name = 'parts_to_throw_insert')
            AS refused
    FROM system.parts WHERE database = 'cdc' AND active GROUP BY table, partition_id
)
GROUP BY table ORDER BY 2 DESC, table;

-- name: disks
-- Free and total bytes of each local disk.
SELECT name, free_space, total_space FROM system.disks WHERE total_space > 0 AND NOT is_remote;

-- name: shadows
-- Shadow tables of full rebuilds that were killed: nothing has written to them for a day, and no
-- Distributed table reads from them.
WITH extract(engine_full, '\'cdc\', \'([^\']+)\'') AS local
SELECT name FROM system.tables
WHERE database = 'cdc' AND name LIKE '%\_\_shadow\_%'
    AND metadata_modification_time < now() - INTERVAL 1 DAY
    AND name NOT IN (
        SELECT extract(engine_full, '\'cdc\', \'([^\']+)\'') FROM system.tables
        WHERE database = 'cdc' AND engine = 'Distributed'
    )
    AND if(engine = 'Distributed', local, name) NOT IN (
        SELECT table FROM system.parts
        WHERE database = 'cdc' AND active AND modification_time > now() - INTERVAL 1 DAY
    );

-- name: rows_of
-- The table that holds the rows: of a Distributed one the local one, else itself.
SELECT if(engine = 'Distributed', extract(engine_full, '\'cdc\', \'([^\']+)\''), name)
FROM system.tables WHERE database = 'cdc' AND name = {table:String};

-- name: oldest
-- When the oldest row of a history table came.
SELECT min(_ingested_at), count() FROM cdc.{table:Identifier};

-- name: rejected_since
-- When the oldest event of a table came that can be replayed, which may bring an old row.
SELECT min(rejected_at), count() FROM cdc.dead_letters FINAL
WHERE source_table = {table:String} AND state = 'open' AND size <= length(value);

-- name: closed_letters
-- Offsets of rejected events that are closed and older than they are kept, some thousands at a time.
SELECT source_table, broker_epoch, groupArray(5000)(offset) FROM cdc.dead_letters FINAL
WHERE state != 'open' AND rejected_at < fromUnixTimestamp64Milli({before:Int64})
GROUP BY source_table, broker_epoch;

-- name: delete_closed_letters
-- All their versions: an older one that stayed would be open again. So the offsets are listed: a
-- subquery is run anew for each part, when a part with the newest version may be without it.
ALTER TABLE cdc.dead_letters DELETE WHERE source_table = {table:String}
    AND broker_epoch = {broker_epoch:String} AND offset IN {offsets:Array(UInt64)}
SETTINGS mutations_sync = 1;

-- name: aged_letters
-- Open ones of which more is there than what `blank_letters` leaves.
SELECT uniqExact(source_table, broker_epoch, offset) FROM cdc.dead_letters
WHERE rejected_at < fromUnixTimestamp64Milli({before:Int64}) AND (key != '' OR value != concat(
    extract(value, '"operation":"read"'),
    extract(value, '(?:"commit_lsn":"[0-9A-F]{1,8}/[0-9A-F]{1,8}"|"fence":[0-9]{1,20}),"ordinal":1,')
));

-- name: blank_letters
-- Leaves of a row of a snapshot or a resync by what it is known as one (`events.row_marks`), or rows
-- that could not be stored would be taken for gone; ADR 22.
ALTER TABLE cdc.dead_letters UPDATE
    key = '',
    size = greatest(size, length(value)),
    value = concat(
        extract(value, '"operation":"read"'),
        extract(value, '(?:"commit_lsn":"[0-9A-F]{1,8}/[0-9A-F]{1,8}"|"fence":[0-9]{1,20}),"ordinal":1,')
    )
WHERE rejected_at < fromUnixTimestamp64Milli({before:Int64})
SETTINGS mutations_sync = 1;

-- name: seen_by_all
-- The lowest _seq of a table that some storage of a fact has yet to see, less one.
SELECT min(seen[{table:String}]) FROM (
    SELECT argMax(seen, (version, finished_at)) AS seen FROM cdc.rebuilds
    WHERE mode != 'backfill' AND storage IN (
        SELECT uuid FROM system.tables WHERE database = 'cdc'
    )
    GROUP BY fact, storage
)
WHERE mapContains(seen, {table:String});

-- name: settled_version
-- The newest version of a fact that every rebuild has passed for so long.
SELECT max(version) FROM cdc.rebuilds
WHERE fact = {fact:String} AND finished_at < now() - toIntervalSecond({age:UInt64});

-- name: summed_version
-- The version up to which noted groups are summed: of the fact as it stands. A rebuild that began
-- before asks for them, so they stay for a day.
SELECT max(version) FROM cdc.rebuilds
WHERE fact = {fact:String} AND mode != 'backfill' AND finished_at < now() - INTERVAL 1 DAY
    AND storage = (
        SELECT uuid FROM system.tables WHERE database = 'cdc' AND name = {fact:String}
    );
