"""Places in the WAL that an event may name, right or wrong."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from sluice.events.positions import format_lsn
from tests.support.products import event, row

END = 1 << 40
LSNS = st.one_of(
    st.integers(0, END + 2).map(format_lsn),
    st.integers(END - 2, (1 << 64) - 1).map(format_lsn),
    st.sampled_from(["-1/0", "1_0/0", "+1/ 2", "٣/٣", "f/f", "0/0\n", "1e3/0", "0x1/0", "/", ""]),
    st.text(max_size=20),
)
NUMBERS = st.one_of(
    st.integers(-2, 2),
    st.integers(),
    st.sampled_from([1 << 48, (1 << 48) - 1, 1 << 53, (1 << 53) - 1, 1 << 63, 1 << 64, 1 << 500]),
    st.booleans(),
    st.floats(allow_nan=True),
    st.sampled_from(["1", "1_0", "٣", "", [], {}]),
)
PLACES = st.fixed_dictionaries(
    {},
    optional={
        "commit_lsn": st.one_of(LSNS, LSNS, NUMBERS, st.none()),
        "ordinal": st.one_of(NUMBERS, st.none()),
        "fence": st.one_of(NUMBERS, st.none()),
        "lsn": st.one_of(LSNS, NUMBERS, st.none()),
        "commit_ts_ms": st.one_of(NUMBERS, st.none()),
        "source": st.sampled_from(["relay", "relay", "connect", "other", 1]),
    },
)


def placed(operation: str, place: dict[str, Any]) -> bytes:
    """An event of key 1 with some fields of its metadata changed."""
    payload = {"truncate": None, "delete": {"id": 1}}.get(operation, row(1, "hostile"))
    whole = json.loads(event(operation, payload, 5))
    whole["metadata"].update(place)
    return json.dumps(whole).encode()
