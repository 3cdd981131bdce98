-- The publication of all tables, for the slot `sluice`. Written by `sluice generate`; do not edit.
-- For another SLUICE_SLOT: SET sluice.slot = 'name' before it, or PGOPTIONS='-c sluice.slot=name'.
DO $publication$
BEGIN
    EXECUTE format($publication_text$CREATE PUBLICATION %I FOR TABLE
    "public"."customers",
    "public"."products",
    "public"."orders",
    "public"."order_items"
WITH (publish_via_partition_root = true)$publication_text$,
        'pglog_stream_' || coalesce(nullif(current_setting('sluice.slot', true), ''), 'sluice'));
END
$publication$;
