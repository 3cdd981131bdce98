"""The rights of the broker's user, found by requests that change nothing.

A topic is created with `validate_only`. Offsets are committed for a partition that no topic has:
the broker checks the rights on group and topics first, then refuses the partition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.cimpl import NewTopic

from sluice.clients.broker import Broker
from sluice.clients.topics import EPOCH_TOPIC
from sluice.events.event import DRAIN_GROUP
from sluice.settings import KafkaSettings

_NO_PARTITION = 1_000_000
_NO_TOPIC = KafkaError.UNKNOWN_TOPIC_OR_PART
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
# Operation -> its name in Kafka's lists of rights.
_NEEDED = {
    AclOperation.DESCRIBE: "Describe",
    AclOperation.DESCRIBE_CONFIGS: "DescribeConfigs",
    AclOperation.READ: "Read",
    AclOperation.WRITE: "Write",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """What the user may not do.

    Attributes:
        topics: topic -> names of operations, without topics on which all is permitted.
        uncreatable: topic that does not exist -> why the broker would not create it.
        groups: consumer groups for which it may not commit.
        known: whether the broker reports the operations on topics.
    """

    topics: dict[str, list[str]] = field(default_factory=dict)
    uncreatable: dict[str, str] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    known: bool = True


def groups_of(slot: str) -> list[str]:
    """Return the groups that hold the drain's offsets and the marks of a relay's slot."""
    return [DRAIN_GROUP, f"sluice-relay-{slot}", f"sluice-published-{slot}"]


def lacking(
    settings: KafkaSettings,
    topics: Iterable[str],
    groups: Iterable[str],
    altered: Collection[str],
    seconds: float,
) -> Lacking:
    """Return which rights the user lacks.

    Args:
        topics: all topics of the pipeline, whether they exist or not.
        altered: topics whose options the pipeline sets.
        seconds: how long the broker may take to answer a request.

    Raises:
        Unreachable: the broker does not answer, or refuses the login.
    """
    names = [*topics, EPOCH_TOPIC]
    with Broker(settings).opened(AdminClient) as admin:
        admin.list_topics(timeout=seconds)  # its errors name the cause
        on_topics, absent, known = _described(admin, names, altered, seconds)
        uncreatable: dict[str, str] = {}
        for name, error in _creatable(admin, absent, seconds).items():
            if error.code() in _FORBIDDEN:
                on_topics.setdefault(name, []).insert(0, "Create")
            else:
                uncreatable[name] = error.str()
        refused: list[str] = []
        for group in groups:
            permitted, unread = _commits(admin, group, names, seconds)
            if not permitted:
                refused.append(group)
            for name in unread:  # also of topics that do not exist, which are not described
                if "Read" not in on_topics.setdefault(name, []):
                    on_topics[name].append("Read")
    return Lacking(topics=on_topics, uncreatable=uncreatable, groups=refused, known=known)


def _described(
    admin: AdminClient, names: Sequence[str], altered: Collection[str], seconds: float
) -> tuple[dict[str, list[str]], list[str], bool]:
    """Return the operations that each topic lacks, topics that do not exist, and Lacking.known."""
    lacking: dict[str, list[str]] = {}
    absent: list[str] = []
    known = True
    answers = admin.describe_topics(
        TopicCollection(list(names)), include_authorized_operations=True, request_timeout=seconds
    )
    for name, answer in answers.items():
        needed = dict(_NEEDED)
        if name in altered:
            needed[AclOperation.ALTER_CONFIGS] = "AlterConfigs"
        try:
            permitted = answer.result().authorized_operations
        except KafkaException as error:
            code = error.args[0].code()
            if code == _NO_TOPIC:
                absent.append(name)
            elif code in _FORBIDDEN:
                lacking[name] = list(needed.values())
                absent.append(name)  # as far as this user knows
            elif code == KafkaError._UNSUPPORTED_FEATURE:
                known = False
            else:
                raise
            continue
        if not permitted:  # Describe at least is permitted
            known = False
        elif missing := [word for operation, word in needed.items() if operation not in permitted]:
            lacking[name] = missing
    return lacking, absent, known


def _creatable(admin: AdminClient, names: Sequence[str], seconds: float) -> dict[str, KafkaError]:
    """Return topic -> why the broker would not create it, of those that it would not."""
    refusals: dict[str, KafkaError] = {}
    topics = [NewTopic(name, 1, -1) for name in names]
    futures = (
        admin.create_topics(topics, validate_only=True, request_timeout=seconds) if topics else {}
    )
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                refusals[name] = error.args[0]
    return refusals


def _commits(
    admin: AdminClient, group: str, names: Sequence[str], seconds: float
) -> tuple[bool, list[str]]:
    """Return whether the user may commit for the group, and the topics that it may not read."""
    places = [TopicPartition(name, _NO_PARTITION, 0) for name in names]
    request = ConsumerGroupTopicPartitions(group, places)
    futures = admin.alter_consumer_group_offsets([request], request_timeout=seconds)
    try:
        answers = futures[group].result().topic_partitions
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return False, []
        raise
    codes = {answer.topic: answer.error.code() for answer in answers if answer.error}
    if KafkaError.GROUP_AUTHORIZATION_FAILED in codes.values():
        return False, []
    unread = KafkaError.TOPIC_AUTHORIZATION_FAILED
    return True, [name for name, code in codes.items() if code == unread]
