"""Every kind of table that PostgreSQL has: those that are followed, and those that are refused.

A kind's table has the columns `id` and `note` and rows before the pipeline begins. `{t}` stands for
it in statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOTED = "(id int PRIMARY KEY, note text)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A kind whose rows and changes are right in ClickHouse.

    Attributes:
        made: statements before the pipeline begins.
        changed: statements while it runs.
        rows: its own rows, where a plain SELECT gives others.
        columns: the model's, beside `id` and `note`.
        sent: whether the stream carries all that was changed; otherwise a check finds it.
        name: of the table, where it is not made of the kind's.
    """

    made: Sequence[str]
    changed: Sequence[str] = ()
    rows: str = "SELECT id, note FROM {t}"
    columns: Sequence[str] = ()
    sent: bool = True
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A kind that `init` and the doctor name.

    Attributes:
        says: what the fault says.
        fixed: statements that end it, where its remedy names none to run in PostgreSQL.
    """

    made: Sequence[str]
    says: str
    fixed: Sequence[str] = ()
    columns: Sequence[str] = ()


CHANGES = (
    "INSERT INTO {t} (id, note) VALUES (3, 'c'), (4, 'd')",
    "UPDATE {t} SET note = 'B' WHERE id = 2",
    "DELETE FROM {t} WHERE id = 1",
)
ROWS = "INSERT INTO {t} (id, note) VALUES (1, 'a'), (2, 'b')"
PARTS = (
    "CREATE TABLE {t} (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
    "CREATE TABLE {t}_low PARTITION OF {t} FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE {t}_high (note text, gone int, id int NOT NULL)",  # in another order
    "ALTER TABLE {t}_high DROP gone",
    "ALTER TABLE {t} ATTACH PARTITION {t}_high FOR VALUES FROM (100) TO (200)",
    ROWS,
    "INSERT INTO {t} VALUES (101, 'x'), (102, 'y')",
)
STORED = (
    "    doubled: Mapped[int | None] = mapped_column(Integer, Computed('id * 2', persisted=True))"
)
PLAIN = "    doubled: Mapped[int | None] = mapped_column(Integer)"
OWN = "SELECT id, note FROM ONLY {t}"

FOLLOWED = {
    "ordinary": Followed(made=(f"CREATE TABLE {{t}} {NOTED}", ROWS), changed=CHANGES),
    # Children need no key of their own, and are written to as before.
    "inherited_from": Followed(
        made=(
            f"CREATE TABLE {{t}} {NOTED}",
            "CREATE TABLE {t}_child (more int) INHERITS ({t})",
            ROWS,
            "INSERT INTO {t}_child VALUES (1, 'of the child', 7), (50, 'of the child', 7)",
        ),
        changed=(
            *CHANGES,
            "CREATE TABLE {t}_later () INHERITS ({t})",
            "INSERT INTO {t}_later VALUES (2, 'later'), (60, 'later')",
            "UPDATE {t} SET note = note || '!'",
            "DELETE FROM {t}_child WHERE id = 50",
        ),
        rows=OWN,
    ),
    "inheriting": Followed(
        made=(
            f"CREATE TABLE {{t}}_parent {NOTED}",
            "CREATE TABLE {t} (PRIMARY KEY (id)) INHERITS ({t}_parent)",
            "INSERT INTO {t}_parent VALUES (9, 'of the parent')",
            ROWS,
        ),
        changed=(*CHANGES, "UPDATE {t}_parent SET note = 'through the parent'"),
    ),
    "partitioned": Followed(
        made=PARTS,
        changed=(
            *CHANGES,
            "UPDATE {t} SET id = 103 WHERE id = 2",
            "CREATE TABLE {t}_top PARTITION OF {t} FOR VALUES FROM (200) TO (300)"
            " PARTITION BY LIST (id)",
            "CREATE TABLE {t}_rest PARTITION OF {t}_top DEFAULT",
            "INSERT INTO {t} VALUES (250, 'below two roots')",
        ),
    ),
    "truncated_partition": Followed(made=PARTS, changed=("TRUNCATE {t}_low",), sent=False),
    "detached_partition": Followed(
        made=PARTS, changed=("ALTER TABLE {t} DETACH PARTITION {t}_low",), sent=False
    ),
    "dropped_partition": Followed(made=PARTS, changed=("DROP TABLE {t}_low",), sent=False),
    "attached_partition": Followed(
        made=PARTS,
        changed=(
            f"CREATE TABLE {{t}}_top {NOTED}",
            "INSERT INTO {t}_top VALUES (250, 'was there before')",
            "ALTER TABLE {t} ATTACH PARTITION {t}_top FOR VALUES FROM (200) TO (300)",
        ),
        sent=False,
    ),
    "leaf": Followed(
        made=(
            "CREATE TABLE {t}_root (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
            "CREATE TABLE {t} PARTITION OF {t}_root FOR VALUES FROM (0) TO (100)",
            "CREATE TABLE {t}_other PARTITION OF {t}_root DEFAULT",
            ROWS,
        ),
        changed=(*CHANGES, "UPDATE {t}_root SET id = 500 WHERE id = 3"),
    ),
    "subroot": Followed(
        made=(
            "CREATE TABLE {t}_root (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
            "CREATE TABLE {t} PARTITION OF {t}_root FOR VALUES FROM (0) TO (100)"
            " PARTITION BY RANGE (id)",
            "CREATE TABLE {t}_leaf PARTITION OF {t} FOR VALUES FROM (0) TO (2)",
            "CREATE TABLE {t}_rest PARTITION OF {t} DEFAULT",
            ROWS,
        ),
        changed=CHANGES,
    ),
    "logged_again": Followed(
        made=(f"CREATE UNLOGGED TABLE {{t}} {NOTED}", ROWS, "ALTER TABLE {t} SET LOGGED"),
        changed=CHANGES,
    ),
    # The pipeline's role bypasses it.
    "secured": Followed(
        made=(
            f"CREATE TABLE {{t}} {NOTED}",
            ROWS,
            "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY one ON {t} USING (id = 1)",
        ),
        changed=CHANGES,
    ),
    # Schema `elsewhere` stands before `public` in the pipeline's search_path.
    "namesake": Followed(
        made=(
            f"CREATE TABLE {{t}} {NOTED}",
            ROWS,
            "CREATE TABLE elsewhere.{t} (id text PRIMARY KEY, note int)",
            "INSERT INTO elsewhere.{t} VALUES ('x', 1)",
        ),
        changed=(*CHANGES, "UPDATE elsewhere.{t} SET note = 2"),
    ),
    "stored": Followed(
        made=(
            "CREATE TABLE {t} (id int PRIMARY KEY, note text,"
            " doubled int GENERATED ALWAYS AS (id * 2) STORED,"
            " tripled int GENERATED ALWAYS AS (id * 3) VIRTUAL)",
            ROWS,
        ),
        changed=CHANGES,
        rows="SELECT id, note, doubled FROM {t}",
        columns=(STORED,),
    ),
    "identity": Followed(
        made=(
            "CREATE TABLE {t} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)",
            "INSERT INTO {t} (note) VALUES ('a'), ('b')",
        ),
        changed=("INSERT INTO {t} (note) VALUES ('c')", *CHANGES[1:]),
    ),
    "typed": Followed(
        made=(
            "CREATE TYPE {t}_type AS (id int, note text)",
            "CREATE TABLE {t} OF {t}_type (PRIMARY KEY (id))",
            ROWS,
        ),
        changed=CHANGES,
    ),
    "fully_identified": Followed(
        made=(f"CREATE TABLE {{t}} {NOTED}", ROWS, "ALTER TABLE {t} REPLICA IDENTITY FULL"),
        changed=CHANGES,
    ),
    "clustered": Followed(
        made=(f"CREATE TABLE {{t}} {NOTED}", ROWS),
        changed=(
            "INSERT INTO {t} VALUES (3, 'c')",
            "CLUSTER {t} USING {t}_pkey",
            "ALTER TABLE {t} ALTER note TYPE varchar(50)",
            "UPDATE {t} SET note = 'B' WHERE id = 2",
        ),
    ),
    "odd": Followed(
        made=(f"CREATE TABLE {{t}} {NOTED}", ROWS),
        changed=CHANGES,
        name=f"Odd-Name.{'of_63_bytes.' * 4}ABCdef",
    ),
}

REFUSED = {
    "view": Refused(
        made=(f"CREATE TABLE {{t}}_below {NOTED}", "CREATE VIEW {t} AS SELECT * FROM {t}_below"),
        says="is a view",
        fixed=("DROP VIEW {t}", f"CREATE TABLE {{t}} {NOTED}"),
    ),
    "matview": Refused(
        made=("CREATE MATERIALIZED VIEW {t} AS SELECT 1 AS id, 'a' AS note",),
        says="is a materialized view",
        fixed=("DROP MATERIALIZED VIEW {t}", f"CREATE TABLE {{t}} {NOTED}"),
    ),
    "foreign_table": Refused(
        made=("CREATE FOREIGN TABLE {t} (id int, note text) SERVER far",),
        says="is a foreign table",
        fixed=("DROP FOREIGN TABLE {t}", f"CREATE TABLE {{t}} {NOTED}"),
    ),
    "sequence": Refused(
        made=("CREATE SEQUENCE {t}",),
        says="is a sequence",
        fixed=("DROP SEQUENCE {t}", f"CREATE TABLE {{t}} {NOTED}"),
    ),
    "unlogged": Refused(made=(f"CREATE UNLOGGED TABLE {{t}} {NOTED}",), says="is unlogged"),
    "unlogged_leaf": Refused(
        made=(*PARTS, "ALTER TABLE {t}_low SET UNLOGGED"),
        says="partitions that are foreign or unlogged, whose changes are not sent: public.{t}_low",
        fixed=("ALTER TABLE {t}_low SET LOGGED",),
    ),
    "foreign_leaf": Refused(
        made=(
            "CREATE TABLE {t} (id int, note text) PARTITION BY RANGE (id)",
            "CREATE FOREIGN TABLE {t}_far PARTITION OF {t} FOR VALUES FROM (0) TO (9) SERVER far",
        ),
        says="public.{t}_far",
        fixed=("ALTER TABLE {t} DETACH PARTITION {t}_far", "ALTER TABLE {t} ADD PRIMARY KEY (id)"),
    ),
    "leaf_beside_its_root": Refused(
        made=("CREATE TABLE {t} PARTITION OF root FOR VALUES FROM (0) TO (100)",),
        says="is a partition of public.root, in whose name its changes are sent",
        fixed=("ALTER TABLE root DETACH PARTITION {t}",),
    ),
    "secured_by_another": Refused(
        made=(
            f"CREATE TABLE {{t}} {NOTED}",
            "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY, OWNER TO postgres",
            "GRANT SELECT ON {t} TO kinds_owner",
        ),
        says="hides rows from role kinds_owner by row-level security",
    ),
    "secured_with_force": Refused(
        made=(
            f"CREATE TABLE {{t}} {NOTED}",
            "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ),
        says="hides rows from role kinds_owner by row-level security",
    ),
    "virtual": Refused(
        made=(
            "CREATE TABLE {t} (id int PRIMARY KEY, note text,"
            " doubled int GENERATED ALWAYS AS (id * 2) VIRTUAL)",
        ),
        columns=(STORED,),
        says="computed when they are read, never sent: doubled",
        fixed=(
            "ALTER TABLE {t} DROP doubled, ADD doubled int GENERATED ALWAYS AS (id * 2) STORED",
        ),
    ),
    "full_identity_virtual": Refused(
        made=(
            "CREATE TABLE {t} (id int PRIMARY KEY, note text,"
            " doubled int GENERATED ALWAYS AS (id * 2) VIRTUAL)",
            "ALTER TABLE {t} REPLICA IDENTITY FULL",
        ),
        says="refuses its updates and deletes once it is published: doubled",
    ),
    "computed_unsaid": Refused(
        made=(
            "CREATE TABLE {t} (id int PRIMARY KEY, note text,"
            " doubled int GENERATED ALWAYS AS (id * 2) STORED)",
        ),
        columns=(PLAIN,),
        says="columns that PostgreSQL computes and the model does not: doubled",
        fixed=("ALTER TABLE {t} ALTER doubled DROP EXPRESSION",),
    ),
}
