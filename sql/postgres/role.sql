-- The role that the change source connects as, the relay or Redpanda Connect, and so may Airflow's
-- tasks. It may read the published tables and a replication slot, and change nothing.
--
--   1. As the tables' owner:  psql -d store -f sql/generated/publication.sql
--   2. As a superuser:        psql -d store -f sql/postgres/role.sql
--                             \password sluice_replication
--   3. In pg_hba.conf, with the address that the change source connects from:
--
--        hostssl  store  sluice_replication  10.1.2.3/32  scram-sha-256
--
-- Of another SLUICE_SLOT: PGOPTIONS='-c sluice.slot=name' before both, or SET sluice.slot = 'name'.
--
-- The publication stays the owner's, so this role cannot add a table to it. Run this file again
-- after a table was added to the publication.
--
-- PostgreSQL has no privileges on publications: a role with REPLICATION can read the changes of
-- every publication of a database it may connect to. Keep it to this one database, and give it no
-- line for `replication` in pg_hba.conf: that would let it copy the whole server.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sluice_replication') THEN
        CREATE ROLE sluice_replication;
    END IF;
END
$$;

-- A session each: the stream, the snapshot's two, the heartbeat's, four tasks' two or three, the CDC
-- page's; some to spare.
ALTER ROLE sluice_replication
    LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT CONNECTION LIMIT 32;

DO $$
DECLARE
    published record;
    slot text := coalesce(nullif(current_setting('sluice.slot', true), ''), 'sluice');
    publication text := 'pglog_stream_' || slot;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = publication) THEN
        RAISE EXCEPTION 'publication % is not there', publication
            USING HINT = 'run sql/generated/publication.sql as the tables'' owner first';
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO sluice_replication', current_database());
    FOR published IN
        SELECT schemaname, tablename FROM pg_publication_tables
        WHERE pubname = publication
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO sluice_replication', published.schemaname);
        EXECUTE format(
            'GRANT SELECT ON %I.%I TO sluice_replication', published.schemaname, published.tablename
        );
    END LOOP;
END
$$;
