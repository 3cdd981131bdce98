"""The librdkafka that confluent_kafka brings."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

_PACKAGES = Path(confluent_kafka.__file__).parents[1]


def librdkafka() -> ctypes.CDLL:
    """The library that is installed."""
    found = [*_PACKAGES.glob("confluent_kafka.libs/librdkafka-*")]
    found += _PACKAGES.glob("confluent_kafka/.dylibs/librdkafka*")
    return ctypes.CDLL(str(found[0]))
