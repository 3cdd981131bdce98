-- Airflow's metadata: a database and the role that owns it, which the owner's password is kept from.
-- Run it again on data that was made when the server's owner owned it.
SELECT 'CREATE ROLE airflow'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'airflow') \gexec
ALTER ROLE airflow
    LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 64;
\getenv password PGPASSWORD_AIRFLOW
ALTER ROLE airflow PASSWORD :'password';
SELECT 'CREATE DATABASE airflow'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'airflow') \gexec
ALTER DATABASE airflow OWNER TO airflow;
REVOKE ALL ON DATABASE airflow FROM PUBLIC;
\connect airflow
ALTER SCHEMA public OWNER TO airflow;
SELECT format('ALTER %s %s OWNER TO airflow', kind, name) FROM (
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind,
        oid::regclass::text AS name
    FROM pg_class AS relation
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
        AND NOT EXISTS (  -- a sequence of a column follows its table
            SELECT FROM pg_depend
            WHERE objid = relation.oid AND deptype IN ('a', 'i')
                AND classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
        )
    UNION ALL
    SELECT 'TYPE', oid::regtype::text FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
) AS former \gexec
