"""By hand: tables, or some of their keys, read again from Postgres."""

from __future__ import annotations

from datetime import datetime, timezone

from airflow.sdk import DAG, Param

from sluice_airflow import tasks

NAMES = [table.name for table in tasks.catalog().tables]

with DAG(
    dag_id="sluice_resync",
    dag_display_name="Sluice: resync",
    description="Reads tables again from PostgreSQL behind a fence, beside the minute loop.",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    max_active_runs=1,
    default_args=tasks.DEFAULTS,
    tags=["sluice", "repair"],
    params={
        "tables": Param(
            NAMES[:1],
            type="array",
            items={"type": "string", "enum": NAMES},
            minItems=1,
            uniqueItems=True,
            examples=NAMES,
            title="Tables",
            description="Read again, each in a task of its own.",
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
Reads rows again in one snapshot of PostgreSQL and puts them onto the table's topic, as of that
point of the WAL. Older rows give way to them, newer changes win over them, and rows that
PostgreSQL does not have are deleted. The minute loop goes on meanwhile, and rebuilds the facts.

Run it when `sluice_quality` names it. By hand: `sluice resync TABLE [--from-key K --to-key K]`.
""",
) as dag:
    tasks.resync_table.expand(table=tasks.chosen_tables())
