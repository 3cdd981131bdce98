"""Every error Sluice raises, grouped by what recovers from it.

```
SluiceError
├── WrongUsage           the caller mends the call                          exit 2
├── Finding              the data or a file is not as it should be          exit 1
│   ├── QualityFailed    ClickHouse differs from Postgres
│   ├── StaleGenerated   generated files differ from the models
│   └── RowsRejected     events went to the dead letters
├── Retryable            the same call may succeed later                    exit 3
│   ├── Unreachable      a service does not answer
│   ├── NotReady         a service answers, but set-up is not finished
│   │   ├── SlotAwaited  nothing can be compared before the first snapshot's end
│   │   └── Lagging      drain or rebuild is late: both sides cannot be compared
│   ├── Refused          ClickHouse takes nothing now: too many parts, no memory or disk, read-only
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

A message says what, where and what to do, in one or two lines; `str(error)` is that message. What
others wrote is in it as `printable` makes it: a newline in a name begins no line.

Of the errors of several tables the worst decides the exit code, in the order 0, 1, 3, 4: a step
that did not run (3) may hide what a finding (1) would tell, and where a person is needed (4) a
repetition changes nothing. WrongUsage is never one table's: it ends the command.
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
    """ClickHouse differs from Postgres."""


class StaleGenerated(Finding):
    """Generated files differ from the models."""


class RowsRejected(Finding):
    """Events were rejected into the dead letters."""


class Retryable(SluiceError):
    """The call may succeed later."""

    exit_code = 3


class Unreachable(Retryable):
    """A service does not answer."""


class NotReady(Retryable):
    """A service answers, but is not set up yet."""


class SlotAwaited(NotReady):
    """The replication slot is not there yet: the relay has not finished its first snapshot."""


class Lagging(NotReady):
    """The drain, or a rebuild, is late: both sides cannot be compared this time."""


class Refused(Retryable):
    """ClickHouse takes no insert for now.

    Attributes:
        too_large: whether a smaller insert may be taken.
    """

    def __init__(
        self, what: str | None = None, *, remedy: str | None = None, too_large: bool = False
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.too_large = too_large


class StaleCheckpoint(Retryable):
    """Another drain advanced this checkpoint first; its rows are the same, nothing is lost."""


class StaleRebuild(Retryable):
    """Another rebuild replaced the fact first; run it again."""


class NeedsPerson(SluiceError):
    """A person has to decide."""


class SlotMissing(NeedsPerson):
    """The replication slot is gone."""


class SlotRecreated(NeedsPerson):
    """The replication slot was dropped and made again: it skips what came in between."""


class SlotLost(NeedsPerson):
    """The replication slot was invalidated: changes that it still needed may be gone."""


class TableDiffers(NeedsPerson):
    """ClickHouse's table is not the model's."""


class SlotBusy(Retryable):
    """Another relay reads from this replication slot."""


class PublicationIncomplete(NeedsPerson):
    """The publication does not cover every table of the models."""


class SourceChanged(NeedsPerson):
    """PostgreSQL is another server, or went back in time: its positions do not go on."""


class TopicGap(NeedsPerson):
    """Events expired from the topic before they were drained."""


class TopicPartitioned(NeedsPerson):
    """The topic has more than one partition; order per table needs exactly one."""


class RecordUnreadable(NeedsPerson):
    """A message on the topic cannot be unpacked."""


class PoisonedTopic(NeedsPerson):
    """Too many events of this batch are invalid; the batch was stopped."""


class Rejected(SluiceError):
    """The record is invalid."""


def worst(errors: Iterable[SluiceError]) -> SluiceError:
    """The error that decides the exit code; see the module. Of equally bad ones the first."""
    return max(errors, key=lambda error: error.exit_code)
