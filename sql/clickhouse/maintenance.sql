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
-- When the oldest rejected event of a table came; replaying it may bring an old row.
SELECT min(rejected_at), count() FROM cdc.dead_letters FINAL
WHERE source_table = {table:String} AND state = 'open';

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
