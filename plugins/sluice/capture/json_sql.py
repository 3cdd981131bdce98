"""Rows as envelope JSON by PostgreSQL itself: what COPY selects in place of the columns.

The server writes JSON many times faster than Python. Each expression gives the text that
`envelope` makes of the same value in the stream, but that characters beyond printable ASCII stand
as they are: `escaped` writes those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from psycopg2 import sql

from sluice.capture.pgoutput import RelationColumn

# By type OID; {} is the column. A cast to text is not each type's output (of inet and character(n)
# it differs), `concat` is; the test for NULL is one that a row of NULLs does not pass.
_OTHER = "CASE WHEN {} IS DISTINCT FROM NULL THEN to_json(concat({}))::text END"
_BARE = "{}::text"
_PLAIN = """'"' || {}::text || '"'"""
_FLOAT = (
    "CASE {}::text WHEN '-0' THEN '-0.0' WHEN 'NaN' THEN '\"NaN\"'"
    " WHEN 'Infinity' THEN '\"Infinity\"' WHEN '-Infinity' THEN '\"-Infinity\"' ELSE {}::text END"
)
_TIMESTAMP = (
    "CASE WHEN isfinite({}) AND {} >= '0001-01-01'"
    """ THEN '"' || replace(replace({}::text, '+00', ''), ' ', 'T') || 'Z"'"""
    f" ELSE {_PLAIN} END"
)
_EXPRESSIONS = {
    17: """'"' || translate(encode({}, 'base64'), E'\\n', '') || '"'""",
    **dict.fromkeys((16, 20, 21, 23, 26), _BARE),
    **dict.fromkeys((25, 1043), "to_json({}::text)::text"),
    **dict.fromkeys((700, 701), _FLOAT),
    **dict.fromkeys((1082, 1700, 2950), _PLAIN),
    **dict.fromkeys((1114, 1184), _TIMESTAMP),
}
# Of text and bytea PostgreSQL knows the length without reading it.
_LENGTH, _OTHER_LENGTH = "coalesce(octet_length({}), 0)", "octet_length(concat({}))"
_BEYOND = re.compile("[\x7f-\U0010ffff]+")


def row_expression(columns: Sequence[RelationColumn]) -> sql.Composable:
    """The columns as a JSON object."""
    return _object(columns, "coalesce({}, 'null')")


def key_expression(columns: Sequence[RelationColumn]) -> sql.Composable:
    """The columns of a key as a JSON object; NULL when one of them is."""
    return _object(columns, "({})")


def size_expression(columns: Sequence[RelationColumn]) -> sql.Composable:
    """How many bytes the columns' texts have, before JSON's escapes."""
    parts = [
        sql.SQL(_LENGTH if column.type_oid in (17, 25, 1043) else _OTHER_LENGTH).format(
            sql.Identifier(column.name)
        )
        for column in columns
    ]
    return sql.SQL("({})::int8").format(sql.SQL("::int8 + ").join(parts))


def escaped(lines: bytes) -> bytes:
    """Lines of COPY whose fields are these expressions, as pure ASCII and without COPY's escapes.

    JSON leaves nothing but its own backslashes for COPY to escape.
    """
    if not lines.isascii() or b"\x7f" in lines:
        # Bytes that are no UTF-8 (a database in SQL_ASCII) arrive as lone surrogates, which are
        # rejected with a reason; see envelope.
        text = lines.decode(errors="surrogateescape")
        lines = _BEYOND.sub(lambda found: json.dumps(found[0])[1:-1], text).encode()
    return lines.replace(b"\\\\", b"\\") if b"\\" in lines else lines


def _object(columns: Sequence[RelationColumn], value: str) -> sql.Composable:
    parts: list[sql.Composable] = []
    for column in columns:
        form = value.format(_EXPRESSIONS.get(column.type_oid, _OTHER))
        name = sql.Identifier(column.name)
        parts += [
            sql.Literal(f"{',' if parts else '{'}{json.dumps(column.name)}:"),
            sql.SQL(form.replace("{}", "{0}")).format(name),
        ]
    return sql.SQL(" || ").join([*parts, sql.Literal("}")])
