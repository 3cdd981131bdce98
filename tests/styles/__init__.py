"""Models in every mapping style of SQLAlchemy 2, as one model set: several Bases, and none."""

from __future__ import annotations

from tests.styles.automapped import Base as Automapped
from tests.styles.core import metadata
from tests.styles.dataclasses import Dataclasses
from tests.styles.decorated import decorated
from tests.styles.hostile import Hostile
from tests.styles.imperative import imperative
from tests.styles.inheritance import Inherited
from tests.styles.sqlmodels import Hero, Team
from tests.styles.twins import Twins

__all__ = [
    "Automapped",
    "Dataclasses",
    "Hero",
    "Hostile",
    "Inherited",
    "Team",
    "Twins",
    "decorated",
    "imperative",
    "metadata",
]
