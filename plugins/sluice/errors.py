"""Every error that Sluice raises, grouped by how to recover.

```
SluiceError
├── WrongUsage           the caller corrects the call                       exit 2
├── Finding              a check found a difference                         exit 1
│   ├── QualityFailed    ClickHouse differs from PostgreSQL
│   ├── StaleGenerated   generated files differ from the models
│   └── RowsRejected     events became dead letters
├── Retryable            the same call may succeed later                    exit 3
│   ├── Unreachable      a service does not answer
│   ├── NotReady         a service answers, but its set-up is not finished
│   │   ├── SlotAwaited  the first snapshot is not finished: nothing can be compared
│   │   └── Lagging      the drain or a rebuild is late: both sides cannot be compared
│   ├── Refused          ClickHouse accepts no insert: too many parts, no memory or disk, read-only
│   ├── StaleCheckpoint  another drain advanced the checkpoint first
│   ├── StaleRebuild     another rebuild replaced the fact first
│   └── SlotBusy         another relay reads from the slot
├── NeedsPerson          a person decides, then runs the named command      exit 4
│   ├── SlotMissing, SlotLost
│   ├── TableDiffers
│   ├── PublicationIncomplete
│   ├── SourceChanged, TopicGap, TopicPartitioned, RecordUnreadable
│   └── PoisonedTopic
└── Rejected             one record; it goes to the dead letters
```

A message says what happened, where, and what to do, in one or two lines; `str(error)` is that
message. Text from outside is escaped by `printable`: a newline in a name does not begin a line.

If several tables fail, the worst error decides the exit code, in the order 0, 1, 3, 4: a step that
did not run (3) may hide a finding (1), and where a person is needed (4) a retry does not help.
WrongUsage concerns no single table: it ends the command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from sluice.printable import printable, printable_lines


class SluiceError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 4

    def __init__(self, what: str | None = None, *, remedy: str | None = None) -> None:
        self.what = printable(what or (type(self).__doc__ or "").strip().splitlines()[0])
        self.remedy = None if remedy is None else printable_lines(remedy)
        super().__init__(self.what)

    def __str__(self) -> str:
        return f"{self.what}\n{self.remedy}" if self.remedy else self.what


class WrongUsage(SluiceError):
    """The call is not valid."""

    exit_code = 2


class Finding(SluiceError):
    """A check found a difference."""

    exit_code = 1


class QualityFailed(Finding):
    """ClickHouse differs from PostgreSQL."""


class StaleGenerated(Finding):
    """Generated files differ from the models."""


class RowsRejected(Finding):
    """Events were rejected and became dead letters."""


class Retryable(SluiceError):
    """The call may succeed later."""

    exit_code = 3


class Unreachable(Retryable):
    """A service does not answer."""


class NotReady(Retryable):
    """A service answers, but is not set up yet."""


class SlotAwaited(NotReady):
    """The replication slot does not exist yet: the relay has not finished its first snapshot."""


class Lagging(NotReady):
    """The drain or a rebuild is late: both sides cannot be compared this time."""


class Refused(Retryable):
    """ClickHouse accepts no insert at present.

    Attributes:
        too_large: whether a smaller insert may be accepted. Default: false.
    """

    def __init__(
        self, what: str | None = None, *, remedy: str | None = None, too_large: bool = False
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.too_large = too_large


class StaleCheckpoint(Retryable):
    """Another drain advanced this checkpoint first; it wrote the same rows, so nothing is lost."""


class StaleRebuild(Retryable):
    """Another rebuild replaced the fact first; run it again."""


class NeedsPerson(SluiceError):
    """A person has to decide."""


class SlotMissing(NeedsPerson):
    """The replication slot is gone."""


class SlotRecreated(NeedsPerson):
    """The replication slot was dropped and recreated: it skips the changes in between."""


class SlotLost(NeedsPerson):
    """The replication slot was invalidated: changes that were not read may be gone."""


class TableDiffers(NeedsPerson):
    """ClickHouse's table differs from its model."""


class SlotBusy(Retryable):
    """Another relay reads from this replication slot."""


class PublicationIncomplete(NeedsPerson):
    """The publication does not cover every table of the models."""


class SourceChanged(NeedsPerson):
    """PostgreSQL is another server, or was rewound: its WAL positions do not continue."""


class TopicGap(NeedsPerson):
    """Events expired from the topic before they were drained."""


class TopicPartitioned(NeedsPerson):
    """The topic has more than one partition; the order of a table's events needs exactly one."""


class RecordUnreadable(NeedsPerson):
    """A message on the topic cannot be decompressed."""


class PoisonedTopic(NeedsPerson):
    """Too many events of this batch are invalid; the batch was stopped."""


class Rejected(SluiceError):
    """The record is invalid."""


def own_log(program: str) -> str:
    """Return the remedy of a program of the embedded stack that does not answer."""
    return f"start the stack: sluice up; if it runs, see: sluice status, sluice logs {program}"


def worst(errors: Iterable[SluiceError]) -> SluiceError:
    """Return the error that decides the exit code; of equal ones the first."""
    return max(errors, key=lambda error: error.exit_code)
