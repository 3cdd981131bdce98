from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.events.positions import Position, before, format_lsn, pack, parse_lsn, unpack

POSITIONS = st.builds(
    Position,
    epoch=st.integers(0, 2**16 - 1),
    major=st.integers(0, 2**64 - 1),
    minor=st.integers(0, 2**48 - 1),
)


@given(POSITIONS, POSITIONS)
def test_versions_are_ordered_as_positions_are(one: Position, other: Position) -> None:
    assert (one < other) == (one.version < other.version)
    assert unpack(one.version) == one


@given(st.integers(0, 2**64 - 1))
def test_an_lsn_survives_its_text(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@pytest.mark.parametrize(
    "text",
    ["", "1", "1/2/3", "g/0", "123456789/0", "/", "0/a", "-1/0", "1_0/0", "+1/2", "1/ 2", "0/1\n"],
)
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN as PostgreSQL writes it"):
        parse_lsn(text)


@given(
    st.text(st.characters(categories=["Nd", "Lu", "Ll"]) | st.sampled_from("0A/_+- "), max_size=9)
)
def test_a_text_is_an_lsn_only_as_postgresql_writes_it(text: str) -> None:
    """Of all that Python's `int` reads, among it digits of other scripts, signs and underscores."""
    try:
        lsn = parse_lsn(text)
    except ValueError:
        return
    assert text.isascii()
    assert [part.lstrip("0") or "0" for part in text.split("/")] == format_lsn(lsn).split("/")


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1))
def test_a_fence_stands_between_the_events_before_its_offset_and_those_after(
    epoch: int, offset: int
) -> None:
    if (epoch, offset) == (0, 0):
        with pytest.raises(ValueError, match="no position"):
            before(epoch, offset, 1)
        return
    deleted, row = before(epoch, offset, 0), before(epoch, offset, 1)
    assert deleted < row < pack(epoch, offset, 0)
    if offset:
        assert pack(epoch, offset - 1, 0) < deleted
    else:
        assert pack(epoch - 1, 2**64 - 1, 0) < deleted
