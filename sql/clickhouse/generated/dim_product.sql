-- dim_product and its history, from models.product. Written by `sluice generate`; do not edit.

-- name: current_state
CREATE TABLE IF NOT EXISTS cdc.dim_product
(
    id Int32,
    name String,
    category LowCardinality(String),
    price Decimal(10, 2),
    created_at DateTime64(6, 'UTC'),
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
CREATE TABLE IF NOT EXISTS cdc.history_products
(
    id Int32,
    name String,
    category LowCardinality(String),
    price Decimal(10, 2),
    created_at DateTime64(6, 'UTC'),
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
CREATE MATERIALIZED VIEW IF NOT EXISTS cdc.history_products_feed
TO cdc.history_products AS
SELECT *
FROM cdc.dim_product;

-- name: view
CREATE OR REPLACE VIEW olap.dim_product AS
SELECT
    id,
    name,
    category,
    price,
    created_at
FROM cdc.dim_product FINAL
SETTINGS use_skip_indexes_if_final_exact_mode = 1, do_not_merge_across_partitions_select_final = 0, optimize_move_to_prewhere_if_final = 0;
