"""Models by SQLModel."""

from sqlmodel import Field, Relationship, SQLModel


class Team(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str


class Hero(SQLModel, table=True):
    __table_args__ = {"info": {"star": "fact"}}

    age: int | None = None
    team_id: int | None = Field(default=None, foreign_key="team.id")
    id: int | None = Field(default=None, primary_key=True)
    team: Team | None = Relationship()
