"""Classes that are mapped to tables imperatively."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, String, Table
from sqlalchemy.orm import registry, relationship

imperative = registry()
_albums = Table(
    "albums",
    imperative.metadata,
    Column("id", Integer, primary_key=True),
    Column("title", String(50), nullable=False),
    Column("left_out", Integer),
)
_songs = Table(
    "songs",
    imperative.metadata,
    Column("seconds", Integer),
    Column("album_id", ForeignKey("albums.id")),
    Column("id", Integer, primary_key=True),
    info={"star": "fact"},
)


class Album:
    """A collection of songs."""


class Song: ...


imperative.map_imperatively(Album, _albums, exclude_properties=["left_out"])
imperative.map_imperatively(
    Song, _songs, properties={"record": relationship(Album), "length": _songs.c.seconds}
)
