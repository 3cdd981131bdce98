-- What the pipeline keeps about itself. `sluice init` runs the blocks of this file in order.

-- name: database_cdc
CREATE DATABASE IF NOT EXISTS cdc;

-- name: database_olap
CREATE DATABASE IF NOT EXISTS olap;

-- name: checkpoints
-- How far each source table is drained. The row of the highest generation counts.
CREATE TABLE IF NOT EXISTS cdc.checkpoints
(
    source_table String,
    generation UInt64 COMMENT 'rises with each checkpoint; its lower 20 bits are random',
    writer String COMMENT 'who wrote it',
    source LowCardinality(String) COMMENT 'the change source: relay or connect',
    epoch UInt16 COMMENT 'the epoch of positions',
    broker_epoch String COMMENT 'the broker incarnation that offsets belong to',
    next_offset UInt64 COMMENT 'the first offset that is not drained',
    base_seq UInt64 COMMENT '_seq of the event at offset 0, less one',
    truncated UInt128 COMMENT 'rows below this version are gone, however late they arrive',
    committed_at Int64 COMMENT 'commit time of the newest drained change, ms since 1970',
    updated_at DateTime64(3, 'UTC') DEFAULT now64(3),
    topic_id String COMMENT 'the topic incarnation that offsets belong to',
    server String COMMENT 'the PostgreSQL server and timeline that the epoch''s positions are of'
)
ENGINE = ReplacingMergeTree(generation)
ORDER BY source_table;

-- name: checkpoints_topic
-- For tables made before topics, or servers, were told apart.
ALTER TABLE cdc.checkpoints
    ADD COLUMN IF NOT EXISTS topic_id String COMMENT 'the topic incarnation that offsets belong to',
    ADD COLUMN IF NOT EXISTS server String
        COMMENT 'the PostgreSQL server and timeline that the epoch''s positions are of';

-- name: drains
-- One row for each run of a drain that found events.
CREATE TABLE IF NOT EXISTS cdc.drains
(
    source_table LowCardinality(String),
    finished_at DateTime64(3, 'UTC') DEFAULT now64(3),
    broker_epoch String,
    first_offset UInt64,
    next_offset UInt64,
    events UInt64,
    rejected UInt64,
    seconds Float64,
    freshness_s Nullable(Float64)
)
ENGINE = MergeTree
ORDER BY (source_table, finished_at)
TTL toDateTime(finished_at) + INTERVAL 90 DAY;

-- name: drains_latest
-- A few rows a part from which the last drains are read, however many there are.
ALTER TABLE cdc.drains ADD PROJECTION IF NOT EXISTS latest
(
    SELECT source_table, max(finished_at),
        argMax((events, rejected, seconds, freshness_s), finished_at)
    GROUP BY source_table
);

-- name: drains_by_time
-- The drains of all tables in the order of time, for rates and charts of up to a day.
ALTER TABLE cdc.drains ADD PROJECTION IF NOT EXISTS by_time
(
    SELECT finished_at, events, freshness_s ORDER BY finished_at
);

-- name: drains_by_two_hours
-- The same in sums, for charts of more than a day. A state of quantiles has 8,192 values at most, so
-- it is small only where it stands for many more.
ALTER TABLE cdc.drains ADD PROJECTION IF NOT EXISTS by_two_hours
(
    SELECT toStartOfInterval(finished_at, toIntervalSecond(7200)) AS at,
        quantiles(0.5, 0.95)(freshness_s), sum(events), max(events)
    GROUP BY at
);

-- name: drains_of_before
-- For parts that were written before; a merge would not make them. Others are left as they are.
ALTER TABLE cdc.drains
    MATERIALIZE PROJECTION latest,
    MATERIALIZE PROJECTION by_time,
    MATERIALIZE PROJECTION by_two_hours;

-- name: rebuilds
-- What each rebuild of a fact had seen. It belongs to the storage it wrote to, so a fact that
-- was exchanged for another table goes on from that table's own last rebuild.
CREATE TABLE IF NOT EXISTS cdc.rebuilds
(
    fact LowCardinality(String),
    storage UUID,
    version UInt128,
    mode LowCardinality(String),
    seen Map(String, UInt64) COMMENT 'source table -> highest _seq that is in the fact',
    rows UInt64,
    deleted UInt64,
    seconds Float64,
    finished_at DateTime64(3, 'UTC') DEFAULT now64(3),
    rebuild UUID COMMENT 'who noted the groups of rollups'
)
ENGINE = MergeTree
ORDER BY (fact, storage, version);

-- name: rebuilds_noted
-- For tables made before rollups' groups were noted by name.
ALTER TABLE cdc.rebuilds
    ADD COLUMN IF NOT EXISTS rebuild UUID COMMENT 'who noted the groups of rollups';

-- name: rebuilds_latest
-- The same of rebuilds.
ALTER TABLE cdc.rebuilds ADD PROJECTION IF NOT EXISTS latest
(
    SELECT fact, max(finished_at),
        argMax((toString(mode), rows, deleted, seconds), finished_at)
    GROUP BY fact
);

-- name: rebuilds_seen
-- A few rows a part from which it is read what the last rebuild of each fact had seen.
ALTER TABLE cdc.rebuilds ADD PROJECTION IF NOT EXISTS seen
(
    SELECT fact, storage, argMaxIf(seen, (version, finished_at), mode != 'backfill')
    GROUP BY fact, storage
);

-- name: rebuilds_of_before
-- For parts that were written before.
ALTER TABLE cdc.rebuilds MATERIALIZE PROJECTION latest, MATERIALIZE PROJECTION seen;

-- name: dead_letters
-- Events that were rejected, raw; of large values head and tail. Reading a range twice adds nothing.
CREATE TABLE IF NOT EXISTS cdc.dead_letters
(
    source_table LowCardinality(String),
    broker_epoch String,
    offset UInt64,
    key String,
    value String,
    reason String,
    schema_version String COMMENT 'hash of the schema that rejected it',
    rejected_at DateTime64(3, 'UTC') DEFAULT now64(3),
    epoch UInt16 COMMENT 'the epoch of positions when it was rejected',
    replayed_at Nullable(DateTime64(3, 'UTC')) COMMENT 'when it was put in',
    resolved_at Nullable(DateTime64(3, 'UTC'))
        COMMENT 'when a newer version of its row was there',
    dismissed_at Nullable(DateTime64(3, 'UTC')) COMMENT 'when somebody dismissed it',
    state String ALIAS multiIf(
        replayed_at IS NOT NULL, 'replayed',
        dismissed_at IS NOT NULL, 'dismissed',
        resolved_at IS NOT NULL, 'resolved',
        'open'
    ),
    size UInt64 COMMENT 'bytes of the value; where it is larger, value has its head and tail',
    sha256 String COMMENT 'of the whole value'
)
ENGINE = ReplacingMergeTree
ORDER BY (source_table, broker_epoch, offset);

-- name: dead_letters_replayed
-- For tables made before letters could be replayed.
ALTER TABLE cdc.dead_letters
    ADD COLUMN IF NOT EXISTS epoch UInt16 COMMENT 'the epoch of positions when it was rejected',
    ADD COLUMN IF NOT EXISTS replayed_at Nullable(DateTime64(3, 'UTC'))
        COMMENT 'when it was put in';

-- name: dead_letters_states
-- For tables made before letters could be resolved or dismissed.
ALTER TABLE cdc.dead_letters
    ADD COLUMN IF NOT EXISTS resolved_at Nullable(DateTime64(3, 'UTC'))
        COMMENT 'when a newer version of its row was there',
    ADD COLUMN IF NOT EXISTS dismissed_at Nullable(DateTime64(3, 'UTC'))
        COMMENT 'when somebody dismissed it',
    ADD COLUMN IF NOT EXISTS state String ALIAS multiIf(
        replayed_at IS NOT NULL, 'replayed',
        dismissed_at IS NOT NULL, 'dismissed',
        resolved_at IS NOT NULL, 'resolved',
        'open'
    );

-- name: dead_letters_bounded
-- For tables made before values were bounded.
ALTER TABLE cdc.dead_letters
    ADD COLUMN IF NOT EXISTS size UInt64
        COMMENT 'bytes of the value; where it is larger, value has its head and tail',
    ADD COLUMN IF NOT EXISTS sha256 String COMMENT 'of the whole value';

-- name: dead_letter_dismissals
-- Who dismissed which dead letter, and why; written before the letter is marked.
CREATE TABLE IF NOT EXISTS cdc.dead_letter_dismissals
(
    source_table LowCardinality(String),
    broker_epoch String,
    offset UInt64,
    dismissed_at DateTime64(3, 'UTC') DEFAULT now64(3),
    dismissed_by String COMMENT 'the user of the operating system, or Airflow''s',
    reason String,
    rejected_for String COMMENT 'the reason of the letter'
)
ENGINE = MergeTree
ORDER BY (source_table, dismissed_at, offset);

-- name: quality_checks
-- Results of the data-quality checks.
CREATE TABLE IF NOT EXISTS cdc.quality_checks
(
    run String,
    checked_at DateTime64(3, 'UTC') DEFAULT now64(3),
    source_table LowCardinality(String),
    check LowCardinality(String),
    status Enum8('pass' = 0, 'fail' = 1, 'unsettled' = 2, 'warn' = 3),
    fence String COMMENT 'the LSN at which both sides were compared',
    postgres Int64,
    clickhouse Int64,
    keys Array(String),
    repair String,
    difference String DEFAULT '' COMMENT 'what differs, in words',
    carried_s UInt32 COMMENT 'how many seconds before it was compared; 0: in this run',
    mark String COMMENT 'the state of both sides before they were compared'
)
ENGINE = MergeTree
ORDER BY (source_table, check, checked_at)
TTL toDateTime(checked_at) + INTERVAL 90 DAY;

-- name: quality_checks_of_before
-- Brings a table that an earlier version made along.
ALTER TABLE cdc.quality_checks
    MODIFY COLUMN status Enum8('pass' = 0, 'fail' = 1, 'unsettled' = 2, 'warn' = 3),
    ADD COLUMN IF NOT EXISTS difference String DEFAULT '' COMMENT 'what differs, in words',
    ADD COLUMN IF NOT EXISTS carried_s UInt32
        COMMENT 'how many seconds before it was compared; 0: in this run',
    ADD COLUMN IF NOT EXISTS mark String COMMENT 'the state of both sides before they were compared';

-- name: quality_checks_latest
-- The same of check results.
ALTER TABLE cdc.quality_checks ADD PROJECTION IF NOT EXISTS latest
(
    SELECT source_table, check, status, max(checked_at),
        argMax((postgres, clickhouse, fence, arraySlice(keys, 1, 100), repair), checked_at)
    GROUP BY source_table, check, status
);

-- name: quality_checks_by_second
-- Counts of check results by the second, of which the charts of all tables are made.
ALTER TABLE cdc.quality_checks ADD PROJECTION IF NOT EXISTS by_second
(
    SELECT toStartOfInterval(checked_at, toIntervalSecond(1)) AS at,
        countIf(status = 'pass'), countIf(status = 'fail'), count()
    GROUP BY at
);

-- name: quality_checks_of_before_in_projections
-- For parts that were written before.
ALTER TABLE cdc.quality_checks MATERIALIZE PROJECTION latest, MATERIALIZE PROJECTION by_second;

-- name: repairs
-- One row for each key that was read again because the two sides differed in it.
CREATE TABLE IF NOT EXISTS cdc.repairs
(
    source_table LowCardinality(String),
    repaired_at DateTime64(3, 'UTC') DEFAULT now64(3),
    key String,
    difference String COMMENT 'what differed',
    compared String COMMENT 'the LSN as of which the two sides were compared',
    fence String COMMENT 'the LSN as of which the row was read again',
    mode LowCardinality(String) COMMENT 'auto, or diff: by sluice resync --diff'
)
ENGINE = MergeTree
ORDER BY (source_table, repaired_at, key)
TTL toDateTime(repaired_at) + INTERVAL 1 YEAR;

-- name: resyncs
-- What was read again from Postgres.
CREATE TABLE IF NOT EXISTS cdc.resyncs
(
    source_table LowCardinality(String),
    finished_at DateTime64(3, 'UTC') DEFAULT now64(3),
    selection String,
    fence String COMMENT 'the LSN as of which rows were read',
    rows UInt64,
    deleted UInt64 COMMENT 'rows that Postgres does not have',
    seconds Float64
)
ENGINE = MergeTree
ORDER BY (source_table, finished_at)
TTL toDateTime(finished_at) + INTERVAL 90 DAY;

-- name: resyncs_rejected
-- For tables made before rows that could not be stored were counted.
ALTER TABLE cdc.resyncs
    ADD COLUMN IF NOT EXISTS rejected UInt64 COMMENT 'rows that could not be stored';

-- name: resync_ranges
-- The key ranges of each resync: written together when it begins, each again when it is drained. Of
-- each deep check: each again when nothing differed in it.
CREATE TABLE IF NOT EXISTS cdc.resync_ranges
(
    source_table LowCardinality(String),
    run String,
    number UInt32,
    selection String COMMENT 'what the run was asked for',
    epoch UInt16 COMMENT 'the epoch of positions',
    lower Array(String) COMMENT 'the first key; empty: from the first row on',
    upper Array(String) COMMENT 'the last key, included; empty: there is none',
    below Array(String) COMMENT 'the key that the range ends before; empty: there is none',
    state Enum8('open' = 0, 'done' = 1, 'dropped' = 2),
    rows UInt64 COMMENT 'open: expected; done: read',
    deleted UInt64 COMMENT 'rows that Postgres does not have',
    fence String COMMENT 'the LSN as of which rows were read',
    noted_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (source_table, run, number, state)
TTL toDateTime(noted_at) + INTERVAL 90 DAY;

-- name: parked
-- Tables whose changes the relay did not send for a while: since when and why, when it sent them
-- again, and as of when a resync brought what was missing. Kept for good: there are few.
CREATE TABLE IF NOT EXISTS cdc.parked
(
    source_table LowCardinality(String),
    hole String,
    state Enum8('parked' = 0, 'sent' = 1, 'whole' = 2),
    lsn String COMMENT 'the point of the WAL at which the state began',
    reason String,
    remedy String COMMENT 'what ends the cause',
    noted_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (source_table, hole, state);

-- name: masks
-- How the rows of each table are masked: noted while it is empty, and when all were read again.
-- Without a table: the fingerprint of the key of hashed columns, as `sluice init` noted it.
CREATE TABLE IF NOT EXISTS cdc.masks
(
    source_table LowCardinality(String),
    masked_as String COMMENT 'the masked columns, and how; empty: none',
    noted_at DateTime64(3, 'UTC') DEFAULT now64(3),
    done_by String COMMENT 'the user of the operating system, or Airflow''s'
)
ENGINE = MergeTree
ORDER BY (source_table, noted_at);

-- name: erasures
-- Who erased which row from what Sluice keeps, and why; with a hash of the key instead of the key.
CREATE TABLE IF NOT EXISTS cdc.erasures
(
    source_table LowCardinality(String),
    run String,
    state Enum8('begun' = 0, 'done' = 1),
    key_sha256 String COMMENT 'of the key as --key takes it',
    versions UInt64 COMMENT 'former versions of the row',
    dead_letters UInt64,
    reason String,
    noted_at DateTime64(3, 'UTC') DEFAULT now64(3),
    done_by String COMMENT 'the user of the operating system, or Airflow''s'
)
ENGINE = MergeTree
ORDER BY (source_table, noted_at);

-- name: resync_ranges_rejected
-- The same of ranges.
ALTER TABLE cdc.resync_ranges
    ADD COLUMN IF NOT EXISTS rejected UInt64 COMMENT 'rows that could not be stored';

-- name: rebuilds_done_by
-- Who did it; tables made before have none.
ALTER TABLE cdc.rebuilds
    ADD COLUMN IF NOT EXISTS done_by String
        COMMENT 'the user of the operating system, or Airflow''s';

-- name: repairs_done_by
-- The same of repairs.
ALTER TABLE cdc.repairs
    ADD COLUMN IF NOT EXISTS done_by String
        COMMENT 'the user of the operating system, or Airflow''s';

-- name: resyncs_done_by
-- The same of resyncs.
ALTER TABLE cdc.resyncs
    ADD COLUMN IF NOT EXISTS done_by String
        COMMENT 'the user of the operating system, or Airflow''s';

-- name: parked_done_by
-- The same of parked tables: who parked one, skipped a record, or read all rows again.
ALTER TABLE cdc.parked
    ADD COLUMN IF NOT EXISTS done_by String
        COMMENT 'the user of the operating system, or Airflow''s';

-- name: dead_letters_replayed_by
-- Who put letters in, since that is kept.
ALTER TABLE cdc.dead_letters
    ADD COLUMN IF NOT EXISTS replayed_by String
        COMMENT 'the user of the operating system, or Airflow''s';
