-- fact_order_item: its table, its view and what keeps it. Written by `sluice generate`; do not edit.

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
    _is_deleted UInt8
)
ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (order_item_id);

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
FROM cdc.fact_order_item FINAL;

-- name: touched
CREATE TEMPORARY TABLE touched ENGINE = Memory AS
SELECT id AS order_item_id
FROM cdc.src_order_item
WHERE _seq > {low_order_items:UInt64} AND _seq <= {high_order_items:UInt64}
UNION DISTINCT
SELECT order_item_id
FROM cdc.{fact:Identifier}
WHERE order_id IN (
    SELECT id FROM cdc.dim_order
    WHERE _seq > {low_orders:UInt64} AND _seq <= {high_orders:UInt64}
)
UNION DISTINCT
SELECT order_item_id
FROM cdc.{fact:Identifier}
WHERE customer_id IN (
    SELECT id FROM cdc.dim_customer
    WHERE _seq > {low_customers:UInt64} AND _seq <= {high_customers:UInt64}
)
UNION DISTINCT
SELECT order_item_id
FROM cdc.{fact:Identifier}
WHERE product_id IN (
    SELECT id FROM cdc.dim_product
    WHERE _seq > {low_products:UInt64} AND _seq <= {high_products:UInt64}
);

-- name: insert_touched
INSERT INTO cdc.{fact:Identifier}
(
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
    product_created_at,
    _version
)
SELECT
    fact.id,
    fact.order_id,
    fact.product_id,
    `order`.customer_id,
    fact.quantity,
    fact.price,
    `order`.order_date,
    `order`.status,
    `order`.total,
    customer.email,
    customer.name,
    customer.country,
    customer.city,
    customer.created_at,
    product.name,
    product.category,
    product.price,
    product.created_at,
    {version:UInt128}
FROM (
    SELECT * FROM cdc.src_order_item FINAL
    WHERE id IN (SELECT order_item_id FROM touched)
) AS fact
LEFT JOIN (
    SELECT * FROM cdc.dim_order FINAL
    WHERE id IN (
        SELECT order_id FROM cdc.src_order_item
        WHERE id IN (SELECT order_item_id FROM touched)
    )
) AS `order` ON `order`.id = fact.order_id
LEFT JOIN (
    SELECT * FROM cdc.dim_customer FINAL
    WHERE id IN (
        SELECT customer_id FROM cdc.dim_order
        WHERE id IN (
            SELECT order_id FROM cdc.src_order_item
            WHERE id IN (SELECT order_item_id FROM touched)
        )
    )
) AS customer ON customer.id = `order`.customer_id
LEFT JOIN (
    SELECT * FROM cdc.dim_product FINAL
    WHERE id IN (
        SELECT product_id FROM cdc.src_order_item
        WHERE id IN (SELECT order_item_id FROM touched)
    )
) AS product ON product.id = fact.product_id
SETTINGS join_use_nulls = 1;

-- name: insert_tombstones
INSERT INTO cdc.{fact:Identifier} (order_item_id, _version, _is_deleted)
SELECT order_item_id, {version:UInt128}, 1
FROM touched
WHERE order_item_id NOT IN (
    SELECT id FROM cdc.src_order_item FINAL
    WHERE id IN (SELECT order_item_id FROM touched)
);

-- name: insert_all
INSERT INTO cdc.{fact:Identifier}
(
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
    product_created_at,
    _version
)
SELECT
    fact.id,
    fact.order_id,
    fact.product_id,
    `order`.customer_id,
    fact.quantity,
    fact.price,
    `order`.order_date,
    `order`.status,
    `order`.total,
    customer.email,
    customer.name,
    customer.country,
    customer.city,
    customer.created_at,
    product.name,
    product.category,
    product.price,
    product.created_at,
    {version:UInt128}
FROM (SELECT * FROM cdc.src_order_item FINAL) AS fact
LEFT JOIN (SELECT * FROM cdc.dim_order FINAL) AS `order` ON `order`.id = fact.order_id
LEFT JOIN (SELECT * FROM cdc.dim_customer FINAL) AS customer ON customer.id = `order`.customer_id
LEFT JOIN (SELECT * FROM cdc.dim_product FINAL) AS product ON product.id = fact.product_id
SETTINGS join_use_nulls = 1;
