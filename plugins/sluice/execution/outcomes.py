"""Outcomes of a step that runs for several tables: one table's error does not stop the others.

Each table's error is kept and the step continues with the next table. At the end the errors are
raised as one: a line and a remedy for each, with the exit code of the worst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from typing import Protocol, TypeVar

from sluice.errors import SluiceError, Unreachable, WrongUsage, worst
from sluice.printable import named, printable


class Named(Protocol):
    """A table or a fact."""

    @property
    def name(self) -> str:
        """Return the name under which its outcome is kept."""


N = TypeVar("N", bound=Named)
T = TypeVar("T")
_MOST_TEXTS = 20  # different errors in one message


class _Turn:
    """The step for one table; see Outcomes.of."""

    def __init__(self, troubles: dict[str, SluiceError], name: str) -> None:
        self._troubles, self._name = troubles, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, SluiceError) or isinstance(error, WrongUsage):
            return False
        before = next(reversed(self._troubles.values()), None)
        if isinstance(error, Unreachable) and before is not None and before.what == error.what:
            return False
        self._troubles[self._name] = error
        return True


class Outcomes:
    """The errors of a step, by the name of the table or fact that it ran for.

    Attributes:
        troubles: name -> error, in the order in which they came.
    """

    def __init__(self) -> None:
        self.troubles: dict[str, SluiceError] = {}

    def of(self, name: str) -> _Turn:
        """Return a context that keeps an error of the step for this table.

        Two errors end the step for all tables: WrongUsage, and an Unreachable with the message of
        the error before, as the other tables would only wait for the same service.
        """
        return _Turn(self.troubles, name)

    def sound(self, items: Iterable[N]) -> list[N]:
        """Return the tables or facts without an error so far."""
        return [item for item in items if item.name not in self.troubles]

    def require(self, done: Iterable[str] = ()) -> None:
        """Raise the errors as one, of the class of the worst, with the lines of each.

        Args:
            done: lines about finished work, which go first. Default: none.

        Raises:
            SluiceError: there are errors.
        """
        if self.troubles:
            raise together(self.troubles, done)


def each(step: Callable[[N], T], items: Iterable[N]) -> Iterator[T]:
    """Run a step for each table or fact; yield the results, then raise the errors as one.

    Raises:
        SluiceError: see Outcomes.require.
    """
    outcomes = Outcomes()
    for item in items:
        results: list[T] = []
        with outcomes.of(item.name):
            results.append(step(item))
        yield from results
    outcomes.require()


def together(troubles: Mapping[str, SluiceError], done: Iterable[str] = ()) -> SluiceError:
    """Combine the errors of several tables into one of the class of the worst.

    Each error is told once, with its tables; of very many, the worst.
    """
    names: dict[str, list[str]] = {}
    for name, error in troubles.items():
        names.setdefault(str(error), []).append(name)
    told = list(names)
    if len(told) > _MOST_TEXTS:
        told.sort(key=lambda text: -troubles[names[text][0]].exit_code)
    texts = [_named(text, names[text]) for text in told[:_MOST_TEXTS]]
    if rest := [name for text in told[_MOST_TEXTS:] for name in names[text]]:
        texts.append(f"{named(rest)}: other errors; to read them, run it for these tables")
    error = copy(worst(troubles.values()))
    error.what, error.remedy = "\n".join([*map(printable, done), *texts]), None
    return error


def _named(text: str, names: list[str]) -> str:
    """Prefix an error's text with its tables, unless it names its only table itself."""
    alone = len(names) == 1 and names[0] in text.splitlines()[0]
    return text if alone else f"{named(names)}: {text}"
