"""Reads tables, or some of their keys, again from PostgreSQL; started by hand."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from sluice_airflow import resync, tasks

with DAG(
    dag_id="sluice_resync",
    dag_display_name="Sluice: resync",
    description="Reads tables again from PostgreSQL while the minute loop keeps running.",
    **tasks.BY_HAND,
    params={
        "tables": tasks.several(
            tasks.TABLES,
            title="Tables",
            description="The tables to compare and read again.",
        ),
        "diff": Param(
            True,
            type="boolean",
            title="Only what differs",
            description="Compare every column first, and read again only rows that differ; the"
            " ranges that differ, if they are more than 1,000. Off: read all rows.",
        ),
        "recover": Param(
            False,
            type="boolean",
            title="Recover",
            description="Only after changes were lost: a lost slot, a failover, a restored server,"
            " a wiped broker. It creates a new replication slot where the old one cannot be used,"
            " compares ALL tables, whatever else is chosen, and reads again what differs. Stop"
            " Redpanda Connect before. The last line of the log names the change source to start"
            " afterwards.",
            section="After lost changes",
        ),
        "readers": Param(
            2,
            type="integer",
            minimum=1,
            maximum=8,
            title="Readers",
            description="For all rows: the number of tasks that share a table's key ranges.",
        ),
        "check": Param(
            True,
            type="boolean",
            title="Check afterwards",
            description="Compare every column of these tables, and the facts that read them, so"
            " that findings which the repair ended are closed.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Compare, and log which rows would change. Changes nothing.",
        ),
        "from_key": Param(
            None,
            type=["null", "string"],
            title="From key",
            description="First key, included; separate parts of a key by commas. One table only.",
            section="Only some rows",
        ),
        "to_key": Param(
            None,
            type=["null", "string"],
            title="To key",
            description="Last key, included.",
            section="Only some rows",
        ),
        "keys": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            title="Keys",
            description="Exactly these keys, one per line.",
            section="Only some rows",
        ),
    },
    doc_md="""
### Resync
Compares the tables and reads again the rows that differ, or all rows, or a range of keys, or some
keys. Rows are read in a snapshot of PostgreSQL and published on the table's topic as of that point
of the WAL. They win over older rows and lose to newer changes; rows that PostgreSQL does not have
are deleted. The minute loop keeps running, and rebuilds the facts. An interrupted run resumes.

On the command line: `sluice resync --diff`, `sluice resync TABLE [--from-key K --to-key K]`,
`sluice recover`.
""",
) as dag:
    resync.resync_part.expand(part=resync.plan_parts()) >> resync.check_again()
