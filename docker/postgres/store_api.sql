-- The role that the store API connects as: rows of the store's tables, and nothing else. Run it again
-- after a table was added.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'store_api') THEN
        CREATE ROLE store_api;
    END IF;
END
$$;
ALTER ROLE store_api
    LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT CONNECTION LIMIT 32;
\getenv password PGPASSWORD_STORE_API
ALTER ROLE store_api PASSWORD :'password';
GRANT USAGE ON SCHEMA public TO store_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO store_api;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO store_api;
