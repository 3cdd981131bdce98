"""Serves the topics: their overview and the messages of one, as pages and as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse

from sluice.clients.topic_reader import Bounds
from sluice.errors import SluiceError, WrongUsage
from sluice.operate.monitor import Monitor
from sluice.operate.topic_messages import LAST, TopicMessages, read_messages
from sluice.operate.topic_overview import TopicOverview, read_topics, topic_names
from sluice.operate.trends import DEFAULT_RANGE, latest
from sluice_airflow.page.api import COMMON, OF_ROWS, V1, monitor, refusal, shared
from sluice_airflow.page.listing import TopicChoice, paged
from sluice_airflow.page.pages import respond
from sluice_airflow.page.rights import MayRepair

MOST_MESSAGES = 50
NO_TOPIC: dict[int | str, Any] = {404: refusal("The pipeline has no topic of this name.")}
router = APIRouter(responses=COMMON)
pages = APIRouter(include_in_schema=False)
Last = Annotated[int, Query(ge=1, le=MOST_MESSAGES)]
Offset = Annotated[int | None, Query(ge=0, lt=1 << 63)]


@router.get(f"{V1}/topics", tags=["now"])
def topics() -> TopicOverview:
    """Return messages, backlog, age, rate and retention of every topic."""
    with monitor() as reading:
        return _overview(reading)


@router.get(
    f"{V1}/topics/{{topic}}/messages",
    tags=["now"],
    dependencies=OF_ROWS,
    responses={**NO_TOPIC, 400: refusal("The topic has no such offset.")},
)
def messages(topic: str, last: Last = LAST, offset: Offset = None) -> TopicMessages:
    """Return the last messages of a topic, or those from an offset on, shortened.

    Requires the permission to run the DAG sluice_resync.
    """
    with monitor() as reading:
        _require_topic(reading, topic)
        return read_messages(reading.reader, topic, last, offset)


@pages.get("/topics")
def show_topics(
    request: Request,
    q: Annotated[str, Query(max_length=249)] = "",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> HTMLResponse:
    """Return a page of the topics whose names contain `q`."""
    with monitor() as reading:
        state = _overview(reading)
    values = overview_values(state, TopicChoice(q=q.strip(), page=page))
    return respond(request, "topics.html", latest(DEFAULT_RANGE), **values)


def overview_values(state: TopicOverview, choice: TopicChoice) -> dict[str, Any]:
    """Return the values of the template of the topics."""
    wanted = choice.q.casefold()
    matching = [topic for topic in state.topics if wanted in topic.name.casefold()]
    listed = paged(matching, len(state.topics), choice.page)
    return {"state": state, "choice": choice, "topics": listed}


@pages.get("/topics/{topic}")
def show_topic(
    request: Request, topic: str, trusted: MayRepair, last: Last = LAST, offset: Offset = None
) -> HTMLResponse:
    """Return a topic's page; only users who may repair tables see keys, headers and values."""
    with monitor() as reading:
        _require_topic(reading, topic)
        state = read_topics(reading, [topic])
        values: dict[str, Any] = {
            "state": state,
            "topic": state.topics[0],
            "trusted": trusted,
            "last": last,
            "most": MOST_MESSAGES,
            "offset": offset,
            **_messages(reading, state, last, offset, trusted=trusted),
        }
    return respond(request, "topic.html", latest(DEFAULT_RANGE), **values)


def _messages(
    reading: Monitor, of: TopicOverview, last: int, offset: int | None, *, trusted: bool
) -> dict[str, Any]:
    """Return the messages of the template, newest first, or why there are none."""
    topic = of.topics[0]
    if not topic.partitions:
        refused = "The broker does not answer." if topic.partitions is None else ""
        return {"messages": (), "refusal": refused or "The topic does not exist."}
    known = Bounds(topic.first_offset or 0, topic.end_offset or 0)
    try:
        read = read_messages(reading.reader, topic.name, last, offset, known)
    except WrongUsage as error:
        return {"messages": (), "refusal": error.what}
    except SluiceError:
        return {"messages": (), "refusal": "The broker does not answer."}
    shown = read if trusted else read.without_values()
    return {"messages": shown.messages[::-1], "refusal": ""}


def _overview(of: Monitor) -> TopicOverview:
    """Return the overview; requests within a second share it."""
    return shared.get("topics", lambda: read_topics(of))


def _require_topic(of: Monitor, name: str) -> None:
    """Respond 404 where the pipeline has no topic of this name."""
    if name not in topic_names(of.catalog):
        raise HTTPException(404, f"no topic {name!r}")
