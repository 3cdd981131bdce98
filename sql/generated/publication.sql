-- The publication of all tables. Written by `sluice generate`; do not edit.
CREATE PUBLICATION pglog_stream_sluice FOR TABLE
    "public"."customers",
    "public"."products",
    "public"."orders",
    "public"."order_items"
WITH (publish_via_partition_root = true);
