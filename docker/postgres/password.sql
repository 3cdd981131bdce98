-- The password of the change source's role, from the environment: an argument could be seen.
\getenv password PGPASSWORD_REPLICATION
ALTER ROLE sluice_replication PASSWORD :'password';
