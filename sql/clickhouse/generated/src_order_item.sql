-- src_order_item and its history, from models.order_item. Written by `sluice generate`; do not edit.

-- name: current_state
CREATE TABLE IF NOT EXISTS cdc.src_order_item
(
    id Int32,
    order_id Int32,
    product_id Int32,
    quantity Int32,
    price Decimal(10, 2),
    _version UInt128,
    _is_deleted UInt8,
    _seq UInt64,
    _committed_at DateTime64(3, 'UTC'),
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3),
    INDEX _seq_range _seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (id);

-- name: history
CREATE TABLE IF NOT EXISTS cdc.history_order_items
(
    id Int32,
    order_id Int32,
    product_id Int32,
    quantity Int32,
    price Decimal(10, 2),
    _version UInt128,
    _is_deleted UInt8,
    _seq UInt64,
    _committed_at DateTime64(3, 'UTC'),
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY (id, _version)
TTL toDateTime(_ingested_at) + INTERVAL 30 DAY;

-- name: history_feed
CREATE MATERIALIZED VIEW IF NOT EXISTS cdc.history_order_items_feed
TO cdc.history_order_items AS
SELECT *
FROM cdc.src_order_item;
