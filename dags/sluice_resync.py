"""By hand: tables, or some of their keys, read again from Postgres."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from sluice_airflow import resync, tasks

with DAG(
    dag_id="sluice_resync",
    dag_display_name="Sluice: resync",
    description="Reads tables again from PostgreSQL behind a fence, beside the minute loop.",
    **tasks.BY_HAND,
    params={
        "tables": Param(
            tasks.TABLES[:1],
            type="array",
            items={"type": "string", "enum": tasks.TABLES},
            minItems=1,
            uniqueItems=True,
            examples=tasks.TABLES,
            title="Tables",
            description="Compared, and read again.",
        ),
        "diff": Param(
            True,
            type="boolean",
            title="Only what differs",
            description="Compare every column first, read again the rows that differ, and a whole"
            " table only where it has more than 1,000 of them. Off: read all rows.",
        ),
        "recover": Param(
            False,
            type="boolean",
            title="Recover",
            description="After changes were lost for good: a lost slot, a failover, a restored"
            " server, a wiped broker. All tables, whatever else is chosen; what differs is read"
            " again. The last line of the log says which change source to start then. Redpanda"
            " Connect is to be stopped before.",
        ),
        "readers": Param(
            2,
            type="integer",
            minimum=1,
            maximum=8,
            title="Readers",
            description="Of all rows: into how many tasks the key ranges of a table are shared.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Compare, and say in the log which rows would change. Nothing is changed.",
        ),
        "from_key": Param(
            None,
            type=["null", "string"],
            title="From key",
            description="The first key, included; parts of a composite key by commas. One table.",
            section="Only some rows",
        ),
        "to_key": Param(
            None,
            type=["null", "string"],
            title="To key",
            description="The last key, included.",
            section="Only some rows",
        ),
        "keys": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            title="Keys",
            description="Exactly these, one a line.",
            section="Only some rows",
        ),
    },
    doc_md="""
### Resync
Compares the tables and reads rows that differ again, or all rows, or a range of keys, or some keys.
Rows are read in a snapshot of PostgreSQL and put onto the table's topic, as of that point of the
WAL. Older rows give way to them, newer changes win over them, and rows that PostgreSQL does not
have are deleted. The minute loop goes on meanwhile, and rebuilds the facts. A run that was killed
is gone on with, range by range.

By hand: `sluice resync --diff`, `sluice resync TABLE [--from-key K --to-key K]`, `sluice recover`.
""",
) as dag:
    resync.resync_part.expand(part=resync.plan_parts())
