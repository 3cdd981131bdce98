"""Names of tables in topics, ClickHouse and Python, from those in PostgreSQL and of classes.

A name that a topic cannot have, or that two tables would share, ends with a hash. All that share a
name get one: if one of them kept the name, a table that is added later could take it over together
with its topic and checkpoint.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from sluice.events.event import CONTROL_TOPIC, DEAD_LETTER_TOPIC

PUBLIC = "public"
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")  # what Kafka allows in a topic
_RESERVED = {topic.partition(".")[2] for topic in (CONTROL_TOPIC, DEAD_LETTER_TOPIC)}
_FEED = "_feed"  # the end of the name of a history's feed


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of a table; see Table.

    Attributes:
        place: schema and name in PostgreSQL.
        model: the class; empty for a table without one, or whose class shares its name.
    """

    place: tuple[str, str]
    model: str = ""
    name: str = ""
    entity: str = ""


def named(places: Sequence[tuple[str, str]], classes: Sequence[str]) -> list[Names]:
    """Name the tables at these places, mapped by classes of these names; empty without a class."""
    tables = [
        Names(place=place, model=model, name=_name(*place), entity=_snake_case(model))
        for place, model in zip(places, classes, strict=True)
    ]
    plain = {names.name for names in tables}
    tables = [
        _hashed(names)
        if names.name in _RESERVED or names.name.removesuffix(_FEED) in plain - {names.name}
        else names
        for names in tables
    ]
    tables = _distinct(tables, lambda names: names.name, _hashed)
    tables = [names if names.entity else _by_table(names) for names in tables]
    tables = _distinct(tables, lambda names: names.entity, _by_table)
    return _distinct(tables, lambda names: names.entity, lambda names: _by_table(_hashed(names)))


def _distinct(
    tables: list[Names], shared: Callable[[Names], str], renamed: Callable[[Names], Names]
) -> list[Names]:
    """Rename the tables that share a name."""
    counts = Counter(map(shared, tables))
    return [renamed(names) if counts[shared(names)] > 1 else names for names in tables]


def _name(schema: str, relation: str) -> str:
    name = relation if schema == PUBLIC else f"{schema}_{relation}"
    return name if _PLAIN.fullmatch(name) else _with_hash("_".join(_PLAIN.findall(name)), name)


def _hashed(names: Names) -> Names:
    return replace(names, name=_with_hash(names.name, ".".join(names.place)))


def _with_hash(name: str, whole: str) -> str:
    return f"{name or 'table'}_{sha256(whole.encode()).hexdigest()[:8]}"


def _by_table(names: Names) -> Names:
    """Take entity and model from the table's name."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", names.name) if word]
    if not words or words[0][0].isdigit():
        words = ["table", *words]
    model = "".join(word[0].upper() + word[1:] for word in words)
    return replace(names, model=model, entity="_".join(words).lower())


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
