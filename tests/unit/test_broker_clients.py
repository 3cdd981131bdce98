"""Clients of the broker and the threads on which they end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from sluice.clients.broker import Broker
from sluice.settings import read_settings

# The traceback of a kept error is a cycle of garbage that holds the client. Its request is answered
# on the client's own thread, when the broker's time is over, and the collector may be due there.
ABANDONED = """
import gc, threading
from dataclasses import replace
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient
from sluice.clients.broker import Broker
from sluice.settings import read_settings

gc.disable()
left, collected = threading.Event(), threading.Event()
broker = Broker(replace(read_settings({}).kafka, bootstrap="127.0.0.1:1", options={}))

def collect(_):
    left.wait(1)  # it may be closing, which waits for this call
    gc.collect()
    collected.set()

def ask():
    with broker.opened(AdminClient) as admin:
        answer = admin.describe_topics(TopicCollection(["t"]), request_timeout=1)["t"]
        answer.add_done_callback(collect)
        answer.result(0)

def give_up():
    try:
        ask()
    except TimeoutError as error:
        kept = error

threading.Thread(target=lambda: (give_up(), left.set())).start()
left.wait(5)
collected.wait(2)
"""


def test_a_client_whose_request_is_abandoned_does_not_end_on_a_thread_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Application bug" in done.stderr) == (0, False), done.stderr


class Idle:
    """Like an admin client that has nothing to send, it has no length."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.closed = 0

    def __len__(self) -> int:
        return 0

    def __exit__(self, *_: object) -> None:
        self.closed += 1


def test_a_kept_client_is_the_one_of_the_next_call() -> None:
    broker = Broker(read_settings({}).kafka)
    with broker.keeping():
        with broker.opened(Idle) as first:
            pass
        with broker.opened(Idle) as second:
            pass
    assert second is first


def test_kept_clients_are_closed_once_when_the_last_of_all_contexts_ends() -> None:
    broker = Broker(read_settings({}).kafka)
    early, late = broker.keeping(), broker.keeping()
    early.__enter__()
    with broker.opened(Idle) as kept:
        pass
    late.__enter__()
    with broker.opened(Idle) as one, broker.opened(Idle) as other:
        assert one is kept
        assert other is not one
    early.__exit__(None, None, None)  # the context that began first ends first
    assert (one.closed, other.closed) == (0, 0)
    with broker.opened(Idle) as again:
        assert again in (one, other)
        late.__exit__(None, None, None)
        assert sorted([one.closed, other.closed]) == [0, 1]
    assert (one.closed, other.closed) == (1, 1)
    with broker.opened(Idle) as unkept:
        pass
    assert unkept.closed == 1
