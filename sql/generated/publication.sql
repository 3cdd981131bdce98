-- The publication of all tables, for the slot `sluice`. Written by `sluice generate`; do not edit.
-- For another SLUICE_SLOT: SET sluice.slot = 'name' before it, or PGOPTIONS='-c sluice.slot=name'.
DO $publication$
BEGIN
    EXECUTE format($publication_text$CREATE PUBLICATION %I FOR TABLE
    ONLY "public"."customers",
    ONLY "public"."products",
    ONLY "public"."orders",
    ONLY "public"."order_items"
WITH (publish_via_partition_root = true)$publication_text$,
        'pglog_stream_' || coalesce(nullif(current_setting('sluice.slot', true), ''), 'sluice'));
END
$publication$;
