-- fact_order_item: its table, its view and their upkeep. Written by `sluice generate`; do not edit.

-- name: fact
CREATE TABLE IF NOT EXISTS cdc.fact_order_item
(
    order_item_id Int32,
    order_id Int32,
    product_id Int32,
    customer_id Nullable(Int32),
    quantity Int32,
    price Decimal(10, 2),
    order_date Nullable(DateTime64(6, 'UTC')),
    order_status LowCardinality(Nullable(String)),
    order_total Nullable(Decimal(10, 2)),
    customer_email Nullable(String),
    customer_name Nullable(String),
    customer_country LowCardinality(Nullable(String)),
    customer_city LowCardinality(Nullable(String)),
    customer_created_at Nullable(DateTime64(6, 'UTC')),
    product_name Nullable(String),
    product_category LowCardinality(Nullable(String)),
    product_price Nullable(Decimal(10, 2)),
    product_created_at Nullable(DateTime64(6, 'UTC')),
    _version UInt128,
    _is_deleted UInt8,
    INDEX customer_id_held customer_id TYPE bloom_filter(0.002) GRANULARITY 1,
    INDEX customer_id_within customer_id TYPE minmax GRANULARITY 1,
    INDEX order_id_held order_id TYPE bloom_filter(0.002) GRANULARITY 1,
    INDEX order_id_within order_id TYPE minmax GRANULARITY 1,
    INDEX product_id_held product_id TYPE bloom_filter(0.002) GRANULARITY 1,
    INDEX product_id_within product_id TYPE minmax GRANULARITY 1,
    INDEX order_date_range toDate32(order_date) TYPE minmax GRANULARITY 1,
    INDEX order_date_day toDate(order_date) TYPE set(100) GRANULARITY 1,
    INDEX revenue_by_day__day toDate32(order_date) TYPE set(100) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (order_item_id)
SETTINGS index_granularity = 2048
COMMENT '{"rows": "bca8703d9343d9ec", "rollups": {"revenue_by_day": {"by": {"day": "toDate32(order_date)", "country": "customer_country", "category": "product_category"}, "sum": {"units": "quantity", "revenue": "quantity * price"}}}}';

-- name: view
CREATE OR REPLACE VIEW olap.fact_order_item AS
SELECT
    order_item_id,
    order_id,
    product_id,
    customer_id,
    quantity,
    price,
    order_date,
    order_status,
    order_total,
    customer_email,
    customer_name,
    customer_country,
    customer_city,
    customer_created_at,
    product_name,
    product_category,
    product_price,
    product_created_at
FROM cdc.fact_order_item FINAL
SETTINGS use_skip_indexes_if_final_exact_mode = 1, do_not_merge_across_partitions_select_final = 0, optimize_move_to_prewhere_if_final = 0;

-- name: touched
CREATE TEMPORARY TABLE touched ENGINE = MergeTree ORDER BY tuple() AS
SELECT DISTINCT id AS order_item_id
FROM cdc.src_order_item
WHERE 1 = 0;

-- name: touched_by_fact
INSERT INTO touched
SELECT DISTINCT id AS order_item_id
FROM cdc.src_order_item
WHERE _seq > {low:UInt64} AND _seq <= {high:UInt64};

-- name: touched_by_order
INSERT INTO touched
SELECT DISTINCT order_item_id
FROM cdc.{fact:Identifier}
WHERE order_id IN (
    SELECT id FROM cdc.dim_order
    WHERE _seq > {low:UInt64} AND _seq <= {high:UInt64}
);

-- name: touched_by_customer
INSERT INTO touched
SELECT DISTINCT order_item_id
FROM cdc.{fact:Identifier}
WHERE customer_id IN (
    SELECT id FROM cdc.dim_customer
    WHERE _seq > {low:UInt64} AND _seq <= {high:UInt64}
);

-- name: touched_by_product
INSERT INTO touched
SELECT DISTINCT order_item_id
FROM cdc.{fact:Identifier}
WHERE product_id IN (
    SELECT id FROM cdc.dim_product
    WHERE _seq > {low:UInt64} AND _seq <= {high:UInt64}
);

-- name: touched_by_date
INSERT INTO touched
SELECT DISTINCT order_item_id
FROM cdc.{fact:Identifier}
WHERE toDate32(order_date) BETWEEN {first:Date32} AND {last:Date32}
UNION DISTINCT
SELECT DISTINCT id AS order_item_id
FROM cdc.src_order_item
WHERE order_id IN (
    SELECT id FROM cdc.dim_order
    WHERE toDate32(order_date) BETWEEN {first:Date32} AND {last:Date32}
);

-- name: all_ranges
SELECT toString(id) FROM (
    SELECT id, sum(rows_in_granule) OVER (ORDER BY id) - rows_in_granule AS before,
        row_number() OVER (ORDER BY id) AS place, rows_in_granule AS wide
    FROM mergeTreeIndex('cdc', 'src_order_item') WHERE rows_in_granule > 0
)
WHERE place = 1 OR intDiv(before, {step:UInt64}) != intDiv(before + wide, {step:UInt64})
ORDER BY id;

-- name: touched_ranges
SELECT toString(order_item_id) FROM (
    SELECT order_item_id, row_number() OVER (ORDER BY order_item_id) AS place FROM touched
)
WHERE place % {step:UInt64} = 1 OR {step:UInt64} = 1
ORDER BY order_item_id;

-- name: stage_range
CREATE TEMPORARY TABLE staged_fact ENGINE = Memory AS
SELECT id, order_id, product_id, quantity, price
FROM cdc.src_order_item FINAL
PREWHERE ({first:UInt8} OR id >= CAST({low_0:String} AS Int32))
    AND ({last:UInt8} OR id < CAST({high_0:String} AS Int32));

-- name: stage_touched
CREATE TEMPORARY TABLE staged_fact ENGINE = Memory AS
SELECT id, order_id, product_id, quantity, price
FROM cdc.src_order_item FINAL
PREWHERE ({first:UInt8} OR id >= CAST({low_0:String} AS Int32))
    AND ({last:UInt8} OR id < CAST({high_0:String} AS Int32))
    AND id GLOBAL IN (
    SELECT order_item_id FROM touched WHERE ({first:UInt8} OR order_item_id >= CAST({low_0:String} AS Int32))
        AND ({last:UInt8} OR order_item_id < CAST({high_0:String} AS Int32))
);

-- name: stage_order
CREATE TEMPORARY TABLE staged_order ENGINE = Memory AS
SELECT id, toNullable(customer_id) AS customer_id, toNullable(order_date) AS order_date,
toNullable(status) AS status, toNullable(total) AS total
FROM cdc.dim_order FINAL
PREWHERE id GLOBAL IN (SELECT order_id FROM staged_fact);

-- name: stage_customer
CREATE TEMPORARY TABLE staged_customer ENGINE = Memory AS
SELECT id, toNullable(email) AS email, toNullable(name) AS name, toNullable(country) AS country,
toNullable(city) AS city, toNullable(created_at) AS created_at
FROM cdc.dim_customer FINAL
PREWHERE id GLOBAL IN (SELECT customer_id FROM staged_order);

-- name: stage_product
CREATE TEMPORARY TABLE staged_product ENGINE = Memory AS
SELECT id, toNullable(name) AS name, toNullable(category) AS category, toNullable(price) AS price,
toNullable(created_at) AS created_at
FROM cdc.dim_product FINAL
PREWHERE id GLOBAL IN (SELECT product_id FROM staged_fact);

-- name: join
CREATE TEMPORARY TABLE joined ENGINE = Memory AS
SELECT
    fact.id AS order_item_id,
    fact.order_id AS order_id,
    fact.product_id AS product_id,
    `order`.customer_id AS customer_id,
    fact.quantity AS quantity,
    fact.price AS price,
    `order`.order_date AS order_date,
    `order`.order_status AS order_status,
    `order`.order_total AS order_total,
    `order`.customer_email AS customer_email,
    `order`.customer_name AS customer_name,
    `order`.customer_country AS customer_country,
    `order`.customer_city AS customer_city,
    `order`.customer_created_at AS customer_created_at,
    product.name AS product_name,
    product.category AS product_category,
    product.price AS product_price,
    product.created_at AS product_created_at,
    toUInt8(0) AS _is_deleted
FROM staged_fact AS fact
LEFT JOIN (
    SELECT
        `order`.id AS _target_0,
        `order`.customer_id AS customer_id,
        `order`.order_date AS order_date,
        `order`.status AS order_status,
        `order`.total AS order_total,
        customer.email AS customer_email,
        customer.name AS customer_name,
        customer.country AS customer_country,
        customer.city AS customer_city,
        customer.created_at AS customer_created_at
    FROM staged_order AS `order`
    LEFT JOIN staged_customer AS customer ON customer.id = `order`.customer_id
) AS `order` ON `order`._target_0 = fact.order_id
LEFT JOIN staged_product AS product ON product.id = fact.product_id
SETTINGS join_use_nulls = 0;

-- name: join_tombstones
INSERT INTO joined (order_item_id, _is_deleted)
SELECT DISTINCT order_item_id, 1
FROM touched
WHERE ({first:UInt8} OR order_item_id >= CAST({low_0:String} AS Int32))
    AND ({last:UInt8} OR order_item_id < CAST({high_0:String} AS Int32))
    AND order_item_id NOT IN (SELECT id FROM staged_fact);

-- name: insert_joined
INSERT INTO cdc.{fact:Identifier} (
order_item_id, order_id, product_id, customer_id, quantity, price, order_date, order_status,
order_total, customer_email, customer_name, customer_country, customer_city,
customer_created_at, product_name, product_category, product_price, product_created_at,
_version, _is_deleted
)
SELECT
order_item_id, order_id, product_id, customer_id, quantity, price, order_date, order_status,
order_total, customer_email, customer_name, customer_country, customer_city,
customer_created_at, product_name, product_category, product_price, product_created_at,
{version:UInt128}, _is_deleted
FROM joined
SETTINGS optimize_on_insert = 0, max_insert_threads = 1, min_insert_block_size_rows = 1000000000, min_insert_block_size_bytes = 100000000000;

-- name: insert_range
INSERT INTO cdc.{fact:Identifier} (
order_item_id, order_id, product_id, customer_id, quantity, price, order_date, order_status,
order_total, customer_email, customer_name, customer_country, customer_city,
customer_created_at, product_name, product_category, product_price, product_created_at,
_version, _is_deleted
)
SELECT
    fact.id AS order_item_id,
    fact.order_id AS order_id,
    fact.product_id AS product_id,
    `order`.customer_id AS customer_id,
    fact.quantity AS quantity,
    fact.price AS price,
    `order`.order_date AS order_date,
    `order`.order_status AS order_status,
    `order`.order_total AS order_total,
    `order`.customer_email AS customer_email,
    `order`.customer_name AS customer_name,
    `order`.customer_country AS customer_country,
    `order`.customer_city AS customer_city,
    `order`.customer_created_at AS customer_created_at,
    product.name AS product_name,
    product.category AS product_category,
    product.price AS product_price,
    product.created_at AS product_created_at,
    {version:UInt128}, 0
FROM staged_fact AS fact
LEFT JOIN (
    SELECT
        `order`.id AS _target_0,
        `order`.customer_id AS customer_id,
        `order`.order_date AS order_date,
        `order`.status AS order_status,
        `order`.total AS order_total,
        customer.email AS customer_email,
        customer.name AS customer_name,
        customer.country AS customer_country,
        customer.city AS customer_city,
        customer.created_at AS customer_created_at
    FROM staged_order AS `order`
    LEFT JOIN staged_customer AS customer ON customer.id = `order`.customer_id
) AS `order` ON `order`._target_0 = fact.order_id
LEFT JOIN staged_product AS product ON product.id = fact.product_id
SETTINGS join_use_nulls = 0, max_insert_threads = 4, optimize_on_insert = 0;

-- name: checksum_source
SELECT count(), sumWithOverflow(cityHash64(tuple(id, order_id, product_id, quantity, price)))
FROM cdc.src_order_item FINAL;

-- name: checksum_fact
SELECT count(), sumWithOverflow(cityHash64(tuple(order_item_id, order_id, product_id, quantity, price)))
FROM cdc.{fact:Identifier} FINAL;

-- name: checksum_filled
SELECT count(), sumWithOverflow(cityHash64(tuple(order_item_id, order_id, product_id, quantity, price)))
FROM cdc.{fact:Identifier};

-- name: revenue_by_day_table
CREATE TABLE IF NOT EXISTS cdc.revenue_by_day
ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (day, country, category)
SETTINGS allow_nullable_key = 1
COMMENT '{"rows": "bca8703d9343d9ec", "rollups": {"revenue_by_day": {"by": {"day": "toDate32(order_date)", "country": "customer_country", "category": "product_category"}, "sum": {"units": "quantity", "revenue": "quantity * price"}}}}'
EMPTY AS
SELECT _group_0 AS day, _group_1 AS country, _group_2 AS category, count() AS facts, sum(_value_0) AS units, sum(_value_1) AS revenue, toUInt128(0) AS _version, toUInt8(0) AS _is_deleted
FROM (SELECT toDate32(order_date) AS _group_0, customer_country AS _group_1, product_category AS _group_2, quantity AS _value_0, quantity * price AS _value_1 FROM null('order_item_id Int32, order_id Int32, product_id Int32, customer_id Nullable(Int32),
quantity Int32, price Decimal(10, 2), order_date Nullable(DateTime64(6, \'UTC\')),
order_status LowCardinality(Nullable(String)), order_total Nullable(Decimal(10, 2)),
customer_email Nullable(String), customer_name Nullable(String),
customer_country LowCardinality(Nullable(String)),
customer_city LowCardinality(Nullable(String)),
customer_created_at Nullable(DateTime64(6, \'UTC\')), product_name Nullable(String),
product_category LowCardinality(Nullable(String)), product_price Nullable(Decimal(10, 2)),
product_created_at Nullable(DateTime64(6, \'UTC\'))'))
GROUP BY _group_0, _group_1, _group_2;

-- name: revenue_by_day_noted
CREATE TABLE IF NOT EXISTS cdc.revenue_by_day__touched
ENGINE = MergeTree
ORDER BY _version
EMPTY AS
SELECT day, country, category, toUInt128(0) AS _version, toUUID('00000000-0000-0000-0000-000000000000') AS _rebuild
FROM cdc.revenue_by_day;

-- name: revenue_by_day_noted_by
ALTER TABLE cdc.revenue_by_day__touched ADD COLUMN IF NOT EXISTS _rebuild UUID;

-- name: revenue_by_day_view
CREATE OR REPLACE VIEW olap.revenue_by_day AS
SELECT
    day,
    country,
    category,
    facts,
    units,
    revenue
FROM cdc.revenue_by_day FINAL
SETTINGS use_skip_indexes_if_final_exact_mode = 1, do_not_merge_across_partitions_select_final = 0, optimize_move_to_prewhere_if_final = 0;

-- name: revenue_by_day_change
CREATE TEMPORARY TABLE revenue_by_day__changed ENGINE = Memory AS
SELECT _group_0 AS day, _group_1 AS country, _group_2 AS category, sum(_sign) AS _facts, sum(_sign * _value_0) AS _sum_0, sum(_sign * _value_1) AS _sum_1
FROM (
    SELECT toDate32(order_date) AS _group_0, customer_country AS _group_1, product_category AS _group_2, quantity AS _value_0, quantity * price AS _value_1, if(row_number() OVER (PARTITION BY order_item_id ORDER BY _version DESC) = 1, -1, 0) AS _sign, _is_deleted
    FROM cdc.{fact:Identifier} WHERE order_item_id IN (SELECT order_item_id FROM joined)
    UNION ALL
    SELECT toDate32(order_date) AS _group_0, customer_country AS _group_1, product_category AS _group_2, quantity AS _value_0, quantity * price AS _value_1, 1, _is_deleted FROM joined
)
WHERE _is_deleted = 0
GROUP BY _group_0, _group_1, _group_2;

-- name: revenue_by_day_note
INSERT INTO cdc.revenue_by_day__touched (day, country, category, _version, _rebuild)
SELECT day, country, category, {version:UInt128}, {rebuild:UUID} FROM revenue_by_day__changed;

-- name: revenue_by_day_announce
INSERT INTO cdc.revenue_by_day__touched (_version, _rebuild) SELECT {version:UInt128}, {rebuild:UUID};

-- name: revenue_by_day_read
INSERT INTO revenue_by_day__changed
SELECT day, country, category, facts, units, revenue
FROM cdc.revenue_by_day FINAL
PREWHERE cityHash64(tuple(day, country, category)) IN (SELECT cityHash64(tuple(day, country, category)) FROM revenue_by_day__changed)
WHERE (day, country, category) IN (SELECT day, country, category FROM revenue_by_day__changed)
SETTINGS transform_null_in = 1;

-- name: revenue_by_day_unsettled
SELECT count() > 0 OR (
    SELECT count() FROM system.columns
    WHERE database = 'cdc' AND table = 'revenue_by_day' AND name IN ('units', 'revenue')
        AND match(type, 'Float|Nullable')
) > 0
FROM cdc.revenue_by_day__touched
WHERE _version >= {since:UInt128}
    AND (_rebuild NOT IN ({rebuild:UUID}, {last:UUID}) OR _rebuild = toUUID('00000000-0000-0000-0000-000000000000'));

-- name: revenue_by_day_add
INSERT INTO cdc.revenue_by_day
SELECT day, country, category, sum(_facts) AS live, sum(_sum_0), sum(_sum_1), {version:UInt128}, live = 0
FROM revenue_by_day__changed
GROUP BY day, country, category
SETTINGS optimize_on_insert = 0, max_insert_threads = 1, min_insert_block_size_rows = 1000000000, min_insert_block_size_bytes = 100000000000;

-- name: revenue_by_day_sum_touched
INSERT INTO cdc.revenue_by_day
SELECT _group_0, _group_1, _group_2, countIf(_facts = 1) AS live, sumIf(_value_0, _facts = 1), sumIf(_value_1, _facts = 1), {version:UInt128}, live = 0
FROM (
    SELECT toDate32(order_date) AS _group_0, customer_country AS _group_1, product_category AS _group_2, quantity AS _value_0, quantity * price AS _value_1, 1 AS _facts
    FROM cdc.{fact:Identifier} FINAL
    PREWHERE order_item_id IN (
        SELECT order_item_id FROM cdc.{fact:Identifier}
        WHERE (toDate32(order_date)) IN (SELECT day FROM cdc.revenue_by_day__touched WHERE _version >= {since:UInt128})
        AND cityHash64(tuple(toDate32(order_date), customer_country, product_category)) IN (SELECT cityHash64(tuple(day, country, category)) FROM cdc.revenue_by_day__touched WHERE _version >= {since:UInt128})
    )
    WHERE (toDate32(order_date), customer_country, product_category) IN (SELECT day, country, category FROM cdc.revenue_by_day__touched WHERE _version >= {since:UInt128})
    UNION ALL
    SELECT day, country, category, 0, 0, 0 FROM cdc.revenue_by_day__touched WHERE _version >= {since:UInt128}
)
GROUP BY _group_0, _group_1, _group_2
SETTINGS optimize_on_insert = 0, max_insert_threads = 1, min_insert_block_size_rows = 1000000000, min_insert_block_size_bytes = 100000000000, transform_null_in = 1;

-- name: revenue_by_day_sum_all
INSERT INTO cdc.revenue_by_day
SELECT _group_0, _group_1, _group_2, countIf(_facts = 1) AS live, sumIf(_value_0, _facts = 1), sumIf(_value_1, _facts = 1), {version:UInt128}, live = 0
FROM (
    SELECT toDate32(order_date) AS _group_0, customer_country AS _group_1, product_category AS _group_2, quantity AS _value_0, quantity * price AS _value_1, 1 AS _facts
    FROM cdc.{fact:Identifier} FINAL
    UNION ALL
    SELECT day, country, category, 0, 0, 0 FROM cdc.revenue_by_day FINAL
)
GROUP BY _group_0, _group_1, _group_2
SETTINGS optimize_on_insert = 0, max_insert_threads = 1, min_insert_block_size_rows = 1000000000, min_insert_block_size_bytes = 100000000000, transform_null_in = 1;

-- name: revenue_by_day_sum_filled
INSERT INTO cdc.revenue_by_day
SELECT _group_0, _group_1, _group_2, countIf(_facts = 1) AS live, sumIf(_value_0, _facts = 1), sumIf(_value_1, _facts = 1), {version:UInt128}, live = 0
FROM (
    SELECT toDate32(order_date) AS _group_0, customer_country AS _group_1, product_category AS _group_2, quantity AS _value_0, quantity * price AS _value_1, 1 AS _facts
    FROM cdc.{fact:Identifier}
    UNION ALL
    SELECT day, country, category, 0, 0, 0 FROM cdc.revenue_by_day FINAL
)
GROUP BY _group_0, _group_1, _group_2
SETTINGS optimize_on_insert = 0, max_insert_threads = 1, min_insert_block_size_rows = 1000000000, min_insert_block_size_bytes = 100000000000, transform_null_in = 1;
