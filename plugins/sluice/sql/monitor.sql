-- What the CDC page, its API and the metrics read: summaries, never the data itself.

-- name: checkpoints
-- Source table -> how far it is drained, on which broker, and the commit time of the last change in
-- it, ms since 1970.
SELECT source_table, argMax(broker_epoch, generation), argMax(next_offset, generation),
    argMax(committed_at, generation)
FROM cdc.checkpoints GROUP BY source_table;

-- name: last_drains
-- Source table -> its last drain that found events, from the projection `latest`.
SELECT source_table, max(finished_at),
    argMax((events, rejected, seconds, freshness_s), finished_at)
FROM cdc.drains GROUP BY source_table;

-- name: last_checks
-- The last result of each check, the newest first, from the projection `latest`; its time in ms since
-- 1970. Of those that tell freshness, the last that passed, too.
SELECT source_table, check, toUnixTimestamp64Milli(max(checked_at)) AS at, toString(status),
    argMax((postgres, clickhouse, fence, arraySlice(keys, 1, 100), repair), checked_at)
FROM cdc.quality_checks GROUP BY source_table, check, status
ORDER BY at DESC
LIMIT 1 BY source_table, check, status = 'pass' AND check IN ('row_count', 'caught_up');

-- name: last_rebuilds
-- Fact -> its last rebuild, from the projection `latest`.
SELECT fact, max(finished_at), argMax((toString(mode), rows, deleted, seconds), finished_at)
FROM cdc.rebuilds GROUP BY fact;

-- name: rates
-- The events drained, from the projection `by_time`, and the fact rows written in the last minutes.
SELECT
    (SELECT sum(events) FROM cdc.drains WHERE finished_at > now64(3) - toIntervalMinute({minutes:UInt8})),
    (SELECT sum(rows + deleted) FROM cdc.rebuilds
        WHERE finished_at > now64(3) - toIntervalMinute({minutes:UInt8}));

-- name: drain_trend
-- Drains by stretches of time: freshness, events, the most that waited for one drain. Those of all
-- tables come from the projection `by_two_hours` where that is the grain, else from `by_time`. The
-- grain, in seconds, divides start, end and step.
SELECT toUInt32(toStartOfInterval(
        toStartOfInterval(finished_at, toIntervalSecond({grain:UInt32})), toIntervalSecond({step:UInt32})
    )) AS at,
    arrayMap(value -> if(isNaN(value), NULL, value), quantiles(0.5, 0.95)(freshness_s)),
    sum(events), max(events)
FROM cdc.drains
WHERE toStartOfInterval(finished_at, toIntervalSecond({grain:UInt32})) >= fromUnixTimestamp({start:UInt32})
    AND toStartOfInterval(finished_at, toIntervalSecond({grain:UInt32})) < fromUnixTimestamp({end:UInt32})
    AND ({table:String} = '' OR source_table = {table:String})
GROUP BY at ORDER BY at;

-- name: slot_trend
-- What Postgres kept for the slot, by stretches of time: the most of each, in bytes.
SELECT toUInt32(toStartOfInterval(checked_at, toIntervalSecond({step:UInt32}))) AS at,
    max(clickhouse)
FROM cdc.quality_checks
WHERE source_table = {slot:String} AND check = 'slot_lag'
    AND checked_at >= fromUnixTimestamp({start:UInt32})
    AND checked_at < fromUnixTimestamp({end:UInt32})
GROUP BY at ORDER BY at;

-- name: rebuild_trend
-- Rebuilds by stretches of time: the median and the longest, in seconds.
SELECT toUInt32(toStartOfInterval(finished_at, toIntervalSecond({step:UInt32}))) AS at,
    quantile(0.5)(seconds), max(seconds)
FROM cdc.rebuilds
WHERE finished_at >= fromUnixTimestamp({start:UInt32})
    AND finished_at < fromUnixTimestamp({end:UInt32})
GROUP BY at ORDER BY at;

-- name: check_trend
-- Results of checks by stretches of time: passed, failed, others. Those of all tables come from the
-- projection `by_second`.
SELECT toUInt32(toStartOfInterval(
        toStartOfInterval(checked_at, toIntervalSecond(1)), toIntervalSecond({step:UInt32})
    )) AS at,
    countIf(status = 'pass') AS passed, countIf(status = 'fail') AS failed,
    count() - passed - failed
FROM cdc.quality_checks
WHERE toStartOfInterval(checked_at, toIntervalSecond(1)) >= fromUnixTimestamp({start:UInt32})
    AND toStartOfInterval(checked_at, toIntervalSecond(1)) < fromUnixTimestamp({end:UInt32})
    AND ({table:String} = '' OR source_table = {table:String})
GROUP BY at ORDER BY at;

-- name: drains_of
-- A table's drains, the newest first.
SELECT finished_at, events, rejected, seconds, freshness_s
FROM cdc.drains
WHERE source_table = {table:String}
    AND finished_at >= fromUnixTimestamp({start:UInt32})
    AND finished_at < fromUnixTimestamp({end:UInt32})
ORDER BY finished_at DESC LIMIT {limit:UInt32};

-- name: checks_of
-- A table's check results, the newest first.
SELECT checked_at, check, toString(status), postgres, clickhouse, fence,
    arraySlice(keys, 1, 100), repair
FROM cdc.quality_checks
WHERE source_table = {table:String}
    AND checked_at >= fromUnixTimestamp({start:UInt32})
    AND checked_at < fromUnixTimestamp({end:UInt32})
ORDER BY checked_at DESC LIMIT {limit:UInt32};

-- name: resyncs_of
-- A table's resyncs, the newest first.
SELECT finished_at, selection, fence, rows, deleted, seconds, done_by
FROM cdc.resyncs
WHERE source_table = {table:String}
    AND finished_at >= fromUnixTimestamp({start:UInt32})
    AND finished_at < fromUnixTimestamp({end:UInt32})
ORDER BY finished_at DESC LIMIT {limit:UInt32};

-- name: running_of
-- A table's last resync or deep check of several ranges that has not ended, if it noted one lately.
SELECT anyIf(selection, state = 'open') AS purpose, countIf(state = 'open') AS ranges,
    uniqExactIf(number, state = 'done') AS ranges_done, sumIf(rows, state = 'open') AS expected,
    sumIf(rows, state = 'done') AS rows_read, minIf(noted_at, state = 'open') AS began_at,
    max(noted_at) AS last_at
FROM cdc.resync_ranges
WHERE source_table = {table:String}
GROUP BY run
HAVING ranges > 1 AND ranges_done < ranges AND countIf(state = 'dropped') = 0
    AND last_at > now() - INTERVAL 30 MINUTE
ORDER BY last_at DESC LIMIT 1;

-- name: rebuilds_of
-- A fact's rebuilds, the newest first.
SELECT finished_at, toString(mode), rows, deleted, seconds
FROM cdc.rebuilds
WHERE fact = {fact:String}
    AND finished_at >= fromUnixTimestamp({start:UInt32})
    AND finished_at < fromUnixTimestamp({end:UInt32})
ORDER BY finished_at DESC LIMIT {limit:UInt32};

-- name: closed_findings
-- Checks that passed within a week after a failure: when they last failed, and first passed since.
SELECT check, failed_at, min(checked_at) AS passed_at
FROM cdc.quality_checks
INNER JOIN (
    SELECT check, max(checked_at) AS failed_at FROM cdc.quality_checks
    WHERE source_table = {table:String} AND status = 'fail' AND checked_at > now() - INTERVAL 7 DAY
    GROUP BY check
) AS failed USING (check)
WHERE source_table = {table:String} AND status = 'pass' AND checked_at > failed_at
GROUP BY check, failed_at
ORDER BY passed_at DESC, check;

-- name: rejected
-- Open rejected events, the newest first, their texts shortened and made valid UTF-8.
-- Of all others, the values are not read.
SELECT source_table, offset, rejected_at, toValidUTF8(left(key, 200)),
    toValidUTF8(left(value, 200)), length(value), toValidUTF8(left(reason, 300))
FROM cdc.dead_letters FINAL
WHERE (source_table, broker_epoch, offset) IN (
    SELECT source_table, broker_epoch, offset FROM cdc.dead_letters FINAL
    WHERE state = 'open' AND ({table:String} = '' OR source_table = {table:String})
    ORDER BY rejected_at DESC, source_table, offset DESC LIMIT {limit:UInt32}
)
ORDER BY rejected_at DESC, source_table, offset DESC;

-- name: ended_letters
-- A table's rejected events that are no longer open, those that ended last first.
SELECT offset, state, coalesce(replayed_at, dismissed_at, resolved_at) AS ended_at,
    multiIf(state = 'replayed', replayed_by, state = 'dismissed', dismissed_by, '') AS ended_by,
    if(state = 'dismissed', why, '') AS dismissed_for, toValidUTF8(left(reason, 300)) AS reason
FROM (
    SELECT broker_epoch, offset, state, replayed_at, dismissed_at, resolved_at, replayed_by, reason
    FROM cdc.dead_letters FINAL WHERE source_table = {table:String} AND state != 'open'
    ORDER BY coalesce(replayed_at, dismissed_at, resolved_at) DESC LIMIT {limit:UInt32}
) AS letters
LEFT JOIN (
    SELECT broker_epoch, offset, argMax(dismissed_by, at) AS dismissed_by,
        argMax(reason, at) AS why
    FROM (
        SELECT broker_epoch, offset, dismissed_by, reason, dismissed_at AS at
        FROM cdc.dead_letter_dismissals WHERE source_table = {table:String}
    )
    GROUP BY broker_epoch, offset
) AS dismissals USING (broker_epoch, offset)
ORDER BY ended_at DESC, offset DESC;
