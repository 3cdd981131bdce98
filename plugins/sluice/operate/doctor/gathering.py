"""Runs the checks of several services concurrently, each with a limit on its silence."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sluice.errors import Retryable, SluiceError
from sluice.operate.doctor.diagnosis import Diagnosis, failed

# Seconds that a service may take for one check. A busy machine takes several. A person in trouble
# should not wait more than ten in all, and loading the code takes some of them.
SILENCE_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The checks of one service.

    Attributes:
        remedy: what to do where the service does not answer in time.
        check: the name of the check that then fails.
        silence: the time limit of each check in seconds; 8 by default.
    """

    service: str
    checks: Callable[[], Iterable[Diagnosis]]
    remedy: str
    check: str = "access"
    silence: float = SILENCE_S
    found: queue.SimpleQueue[tuple[float, Diagnosis | Exception | None]] = field(
        default_factory=queue.SimpleQueue
    )

    def run(self) -> None:
        """Run the checks, up to the first that the service does not answer."""
        last: Exception | None = None
        try:
            for diagnosis in self.checks():
                self.found.put((time.monotonic(), diagnosis))
        except SluiceError as error:
            reached = not isinstance(error, Retryable)
            diagnosis = failed(self.service, self.check, error, reached=reached)
            self.found.put((time.monotonic(), diagnosis))
        except Exception as error:  # noqa: BLE001 - raised by who waits for it
            last = error
        self.found.put((time.monotonic(), last))

    def wait(self, began: float) -> list[Diagnosis]:
        """Return the diagnoses, up to the end or to a silence that is too long."""
        done: list[Diagnosis] = []
        while True:
            try:
                left = began + self.silence - time.monotonic()
                began, item = self.found.get(timeout=max(0.0, left))
            except queue.Empty:
                after = f" after the check {done[-1].check!r}" if done else ""
                silent = Diagnosis(
                    service=self.service,
                    check=self.check,
                    ok=False,
                    found=f"no answer in {self.silence:.0f} s{after}",
                    remedy=self.remedy,
                    reached=False,
                )
                return [*done, silent]
            if isinstance(item, Exception):
                raise item
            if item is None:
                return done
            done.append(item)


def gathered(parts: Sequence[Part]) -> list[Diagnosis]:
    """Run all parts concurrently; return their diagnoses in the parts' order.

    A thread that waits for a silent service is abandoned; it ends with the process.
    """
    began = time.monotonic()
    for part in parts:
        threading.Thread(target=part.run, name=f"doctor {part.service}", daemon=True).start()
    return [diagnosis for part in parts for diagnosis in part.wait(began)]
