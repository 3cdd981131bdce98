"""Names a test that fails at once, so that a run that is ended early has told it."""

from __future__ import annotations

from typing import Any

import pytest


class _Teller:
    def __init__(self, config: pytest.Config) -> None:
        self._terminal: Any = config.pluginmanager.get_plugin("terminalreporter")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = crash.message if crash else report.longreprtext
            self._terminal.write_line(f"\n{report.nodeid} ({report.when}): {said[:2000]}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tell in the process that prints; a worker's reports arrive there."""
    if not hasattr(config, "workerinput") and config.pluginmanager.hasplugin("terminalreporter"):
        config.pluginmanager.register(_Teller(config))
