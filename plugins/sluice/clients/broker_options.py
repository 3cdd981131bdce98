"""The librdkafka options that a setting or a connection may choose.

Other options load libraries, run commands, write files, or send a file's content or the machine's
cloud identity elsewhere; the right to edit a connection must not include that. The pipeline itself
sets the options that decide whether events are lost (acks, commits, groups).
"""

from __future__ import annotations

from collections.abc import Iterable

from sluice.errors import WrongUsage

_TLS = """
security.protocol enable.ssl.certificate.verification ssl.ca.location ssl.ca.pem
ssl.ca.certificate.stores ssl.certificate.location ssl.certificate.pem ssl.cipher.suites
ssl.crl.location ssl.curves.list ssl.endpoint.identification.algorithm ssl.key.location
ssl.key.password ssl.key.pem ssl.keystore.location ssl.keystore.password ssl.sigalgs.list
"""
_LOGIN = """
sasl.mechanism sasl.mechanisms sasl.password sasl.username
sasl.oauthbearer.client.credentials.client.id sasl.oauthbearer.client.credentials.client.secret
sasl.oauthbearer.client.id sasl.oauthbearer.client.secret sasl.oauthbearer.extensions
sasl.oauthbearer.method sasl.oauthbearer.scope sasl.oauthbearer.token.endpoint.url
https.ca.location https.ca.pem
"""
_CONNECTION = """
api.version.fallback.ms api.version.request api.version.request.timeout.ms broker.address.family
broker.address.ttl broker.version.fallback client.dns.lookup client.id client.rack
connections.max.idle.ms heartbeat.interval.ms metadata.max.age.ms
metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy reconnect.backoff.jitter.ms
reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms session.timeout.ms
socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails socket.nagle.disable
socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms
topic.metadata.propagation.max.ms topic.metadata.refresh.fast.interval.ms
topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
"""
_SIZES = """
batch.num.messages batch.size compression.codec compression.level compression.type
delivery.timeout.ms fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes
fetch.queue.backoff.ms fetch.wait.max.ms linger.ms max.in.flight
max.in.flight.requests.per.connection max.partition.fetch.bytes message.copy.max.bytes
message.max.bytes message.send.max.retries message.timeout.ms
queue.buffering.backpressure.threshold queue.buffering.max.kbytes queue.buffering.max.messages
queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages receive.message.max.bytes
retries retry.backoff.max.ms retry.backoff.ms
"""
ALLOWED = frozenset("".join((_TLS, _LOGIN, _CONNECTION, _SIZES)).split())
_LONG = 80


def require_allowed(names: Iterable[str]) -> None:
    """Require that a setting may choose each of the options.

    Raises:
        WrongUsage: names the others, never their values, which may be secrets.
    """
    refused = sorted(str(name)[:_LONG] for name in names if name not in ALLOWED)
    if refused:
        raise WrongUsage(
            f"the broker's option {', '.join(refused)} cannot be set",
            remedy="remove it from SLUICE_KAFKA_OPTIONS, or from the extra of the connection"
            " sluice_redpanda; docs/services/kafka.md names those that can be set",
        )
