"""The librdkafka that confluent_kafka brings, and what only it can send."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

from sluice.clients.broker import Broker
from sluice.settings import KafkaSettings

_PRODUCER, _DONE = 0, 0
_TOPIC, _VALUE, _HEADER, _FLAGS = 1, 4, 9, 7  # rd_kafka_vtype_t
_COPY = 2
_PACKAGES = Path(confluent_kafka.__file__).parents[1]


def librdkafka() -> ctypes.CDLL:
    """The library that is installed."""
    found = [*_PACKAGES.glob("confluent_kafka.libs/librdkafka-*")]
    found += _PACKAGES.glob("confluent_kafka/.dylibs/librdkafka*")
    return ctypes.CDLL(str(found[0]))


class _Header(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p), ("size", ctypes.c_ssize_t))


class _Bytes(ctypes.Structure):
    _fields_ = (("value", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Content(ctypes.Union):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("number", ctypes.c_int),
        ("bytes", _Bytes),
        ("header", _Header),
        ("room", ctypes.c_char * 64),
    )


class _Part(ctypes.Structure):
    """`rd_kafka_vu_t`: a part of a message."""

    _fields_ = (("kind", ctypes.c_int), ("content", _Content))


def send_with_header(settings: KafkaSettings, topic: str, name: bytes, value: bytes) -> None:
    """Send a message with a header whose name may be any bytes, which confluent_kafka refuses."""
    library = librdkafka()
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_produceva"):
        getattr(library, function).restype = ctypes.c_void_p
    configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
    for option, setting in Broker(settings).options.items():
        text = str(setting).lower() if isinstance(setting, bool) else str(setting)
        assert not library.rd_kafka_conf_set(
            configuration, option.encode(), text.encode(), None, ctypes.c_size_t(0)
        )
    producer = ctypes.c_void_p(
        library.rd_kafka_new(_PRODUCER, configuration, None, ctypes.c_size_t(0))
    )
    parts = (_Part * 4)(
        _Part(_TOPIC, _Content(text=topic.encode())),
        _Part(_VALUE, _Content(bytes=_Bytes(value, len(value)))),
        _Part(_HEADER, _Content(header=_Header(name, b"1", 1))),
        _Part(_FLAGS, _Content(number=_COPY)),
    )
    try:
        assert not library.rd_kafka_produceva(producer, parts, ctypes.c_size_t(len(parts)))
        assert library.rd_kafka_flush(producer, 30_000) == _DONE
    finally:
        library.rd_kafka_destroy(producer)
