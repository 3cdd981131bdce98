"""Tiers of tests, by their marks: without services, on services, and with Airflow or a whole stack.

`make test` runs one after the other. In each, the modules that take longest begin first, so that
its workers end together.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# As `--durations` tell; a module that is missing here begins later.
LONGEST = (
    "tests/e2e/test_browser.py",
    "tests/e2e/test_stack.py",
    "tests/e2e/test_canary.py",
    "tests/integration/test_resumed.py",
    "tests/integration/test_bulk.py",
    "tests/integration/test_parked.py",
    "tests/integration/test_one_table.py",
    "tests/cluster/test_upkeep.py",
    "tests/integration/test_evolution.py",
    "tests/star/test_rebuild.py",
    "tests/faults/test_recovery.py",
    "tests/integration/test_type_pairs.py",
    "tests/security/test_hostile_events.py",
    "tests/integration/test_other_models.py",
    "tests/integration/test_any_order.py",
    "tests/integration/test_unstorable.py",
    "tests/differential/test_random_databases.py",
    "tests/faults/test_stream.py",
    "tests/faults/test_slot.py",
    "tests/integration/test_deep.py",
    "tests/faults/test_duties.py",
    "tests/drain/test_interruptions.py",
    "tests/integration/test_deep_resumed.py",
    "tests/cluster/test_loop.py",
    "tests/integration/test_kinds.py",
    "tests/integration/test_contention.py",
    "tests/security/test_wrong_settings.py",
    "tests/integration/test_slow.py",
    "tests/integration/test_repair.py",
    "tests/integration/test_bulk_types.py",
    "tests/generate/test_styles.py",
    "tests/star/test_state_machine.py",
    "tests/faults/test_snapshot.py",
    "tests/integration/test_widest.py",
    "tests/integration/test_doctor.py",
    "tests/integration/test_connect_source.py",
    "tests/integration/test_rewritten.py",
    "tests/faults/test_replica.py",
    "tests/integration/test_installed.py",
    "tests/integration/test_types.py",
    "tests/integration/test_loop.py",
    "tests/integration/test_conditions.py",
    "tests/integration/test_resync.py",
)
# Folders whose modules share what takes long to start: one worker runs them, one after the other.
TOGETHER = ("tests/e2e/", "tests/page/")
_running: list[pytest.Item] = []


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """Gives a worker whole modules, or whole folders of TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        module: str = super()._split_scope(nodeid)
        return next((folder for folder in TOGETHER if module.startswith(folder)), module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; each keeps the order of its tests."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note whose marks `require` looks at."""
    _running[:] = [item]


def require(*marks: str) -> None:
    """Fail a test that starts what none of its marks tells: it would run in too early a tier."""
    for item in _running:  # none where a benchmark starts it
        if not any(item.get_closest_marker(mark) for mark in marks):
            pytest.fail(f"{item.nodeid} needs a mark: {' or '.join(marks)}")
