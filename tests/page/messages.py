"""Messages with markup, active characters and a person on a topic that no step reads."""

from __future__ import annotations

import json
from typing import Any

from sluice.events.event import CONTROL_TOPIC
from sluice.settings import Settings
from tests.page.history import FAKED, LONG, PERSON
from tests.support.messages import product_event, send

TOPIC = CONTROL_TOPIC
EVENT = json.loads(product_event(5))
EVENT["payload"]["name"] = PERSON
FORGED = json.loads(product_event(5, PERSON))  # the operation is the person
MESSAGES: tuple[dict[str, Any], ...] = (
    {"value": json.dumps(EVENT).encode(), "key": PERSON.encode()},
    {"value": json.dumps(FORGED).encode(), "key": FAKED.encode()},
    {"value": (LONG * 40).encode(), "headers": [(PERSON, PERSON.encode()), (FAKED, None)]},
    {"value": json.dumps({FAKED: FAKED, "a\u202eb": "\x1b\x7f"}, ensure_ascii=False).encode()},
    {"value": "\x1b[2J\x00\u202e\n".encode(), "headers": [("\u202e", b"\x1b")]},
    {"value": bytes(range(256))},
    {"value": b"[" * 20_000},
    {"value": None, "key": b'{"id":1}'},
)


def send_hostile(settings: Settings) -> int:
    """Send them; return their number."""
    send(settings, TOPIC, *MESSAGES)
    return len(MESSAGES)
