"""Alerts: once a finding, once when it ends, whatever becomes of the places they go to."""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes, message_from_string, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from sluice import wiring
from sluice.capture import slot as slots
from sluice.catalog.quality_options import Status
from sluice.clients.clickhouse import ClickHouse
from sluice.errors import WrongUsage
from sluice.generate.sql_files import read_statements
from sluice.quality.alerts import Alerts
from sluice.quality.checks import Check
from sluice.quality.results import News, Results
from sluice.settings import PROJECT, AlertSettings, Settings, read_settings
from tests.support.pipeline import checked, relaying
from tests.support.services import drop_slot, free_ports
from tests.support.tls import certificate
from tests.support.webhook import Posted, serving


class Elsewhere(BaseHTTPRequestHandler):
    """Sends whoever comes to the port in the path, by the status in it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        _, status, port = self.path.split("/")
        self.send_response(int(status))
        self.send_header("Location", f"http://127.0.0.1:{port}/reached")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


class Mail(socketserver.StreamRequestHandler):
    """As much SMTP as a client needs to hand over a message."""

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        for line in self.rfile:
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                for text in self.rfile:
                    if text == b".\r\n":
                        break
                    lines.append(text)
                self.server.kept.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
            if word == b"QUIT":
                return


@pytest.fixture
def web() -> Iterator[tuple[int, list[Any]]]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Posted)) as served:
        yield served


@pytest.fixture
def mail() -> Iterator[tuple[int, list[Any]]]:
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)) as served:
        yield served


@pytest.fixture
def results(services: Settings) -> Iterator[tuple[Settings, ClickHouse]]:
    session = ClickHouse(services.clickhouse)
    yield services, session
    session.execute("TRUNCATE TABLE cdc.quality_checks")
    session.close()


def check(status: str, table: str = "orders") -> Check:
    return Check(
        table=table,
        check="row_count",
        status=Status(status),
        postgres=7,
        clickhouse=7 if status == "pass" else 6,
        repair=f"run: sluice resync {table}",
    )


def results_of(session: ClickHouse, alerts: AlertSettings) -> Results:
    queries = read_statements(PROJECT / "plugins/sluice/sql/pipeline.sql")
    return Results(clickhouse=session, queries=queries, tell=Alerts(alerts).tell)


@pytest.mark.services
def test_a_finding_is_told_once_and_its_end_once(
    results: tuple[Settings, ClickHouse], web: tuple[int, list[Any]]
) -> None:
    port, posted = web
    environment = {"SLUICE_ALERT_WEBHOOK": f"http://127.0.0.1:{port}/hook"}
    alerts = read_settings(environment).alerts
    kept = results_of(results[1], alerts)
    for status in ("pass", "warn", "warn", "fail", "unsettled", "fail", "warn", "pass", "pass"):
        kept.keep(16, [check(status)])
    told = [(item["status"], item["recovered"]) for _, body in posted for item in body["checks"]]
    assert told == [("warn", False), ("fail", False), ("pass", True)]
    first = posted[0][1]["checks"][0]
    assert first["message"] == check("warn").sentence()
    assert (first["table"], first["postgres"], first["repair"]) == (
        "orders",
        7,
        "run: sluice resync orders",
    )


@pytest.mark.services
def test_slack_and_mail_say_what_where_and_what_to_do(
    results: tuple[Settings, ClickHouse],
    web: tuple[int, list[Any]],
    mail: tuple[int, list[Any]],
) -> None:
    environment = {
        "SLUICE_ALERT_SLACK": f"http://127.0.0.1:{web[0]}/slack",
        "SLUICE_ALERT_SMTP": f"smtp://127.0.0.1:{mail[0]}",
        "SLUICE_ALERT_FROM": "sluice@example.org",
        "SLUICE_ALERT_TO": "one@example.org, two@example.org",
        "SLUICE_ALERT_WEBHOOK": f"http://127.0.0.1:{web[0]}/hook",
        "SLUICE_ALERT_PAGE": "https://airflow.example.org/sluice/",
    }
    kept = results_of(results[1], read_settings(environment).alerts)
    kept.keep(16, [check("fail"), check("fail", "products")])
    kept.keep(17, [check("pass"), check("fail", "products")])
    assert [path for path, _ in web[1]] == ["/hook", "/slack", "/hook", "/slack"]
    (_, hook), (_, found), _, (_, ended) = web[1]
    link = "see: https://airflow.example.org/sluice/"
    assert hook["page"] == "https://airflow.example.org/sluice/"
    assert found["text"].startswith("Sluice: 2 findings\n• orders: row_count fail: Postgres 7")
    assert found["text"].endswith(f"\n{link}")
    assert ended["text"].startswith("Sluice: 1 recovered\n• recovered: orders: row_count pass")
    assert len(mail[1]) == 2
    first = message_from_string(mail[1][0], policy=policy.default)
    assert (first["To"], first["Subject"]) == (
        "one@example.org, two@example.org",
        "Sluice: 2 findings",
    )
    assert "run: sluice resync products" in first.get_content()
    assert first.get_content().rstrip().endswith(link)


class Sink:
    """Keeps what aiosmtpd takes, and whether it came from the user who is known."""

    def __init__(self) -> None:
        self.kept: list[EmailMessage] = []
        self.authenticated: list[bool] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.kept.append(message)
        self.authenticated.append(bool(session.authenticated))
        return "250 ok"


@contextmanager
def mail_server(trusted: Path | None, *, at_once: bool = False) -> Iterator[tuple[int, Sink]]:
    """aiosmtpd, which knows one user and, with a certificate, takes nothing that is not by TLS."""

    def known(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: LoginPassword
    ) -> AuthResult:
        right = (given.login, given.password) == (b"me@example.org", b"p@ss:word")
        return AuthResult(success=right, handled=False, auth_data=given)

    context = None
    if trusted is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(trusted, trusted.with_suffix(".key"))
    (port,), sink = free_ports(1), Sink()
    controller = Controller(
        sink,
        hostname="127.0.0.1",
        port=port,
        ssl_context=context if at_once else None,
        tls_context=None if at_once else context,
        require_starttls=context is not None and not at_once,
        authenticator=known,
        auth_require_tls=not at_once and context is not None,
        ready_timeout=60,
    )
    controller.start()
    try:
        yield port, sink
    finally:
        controller.stop()


def mailed(port: int, scheme: str, password: str = "p%40ss%3Aword") -> Alerts:
    environment = {
        "SLUICE_ALERT_SMTP": f"{scheme}://me%40example.org:{password}@127.0.0.1:{port}",
        "SLUICE_ALERT_FROM": "sluice@example.org",
        "SLUICE_ALERT_TO": "one@example.org",
    }
    return Alerts(read_settings(environment).alerts)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What we logged; aiosmtpd logs as well."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("sluice")]


NEWS = News(check=check("fail"), before=Status.PASS)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_mail_goes_by_tls_with_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    trusted = certificate(tmp_path, "trusted")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with mail_server(trusted, at_once=scheme == "smtps") as (port, sink):
        mailed(port, scheme).tell([NEWS])
    (message,) = sink.kept
    assert sink.authenticated == [True]
    assert message["Subject"] == "Sluice: 1 findings"
    assert "run: sluice resync orders" in message.get_content()


def test_mail_is_not_given_to_a_server_that_nobody_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path, "other")))
    with mail_server(certificate(tmp_path, "unknown")) as (port, sink):
        mailed(port, "smtp").tell([NEWS])
    assert sink.kept == []
    assert said(caplog) == ["alert by e-mail was not delivered (SSLCertVerificationError)"]


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_a_password_is_not_sent_to_a_server_without_starttls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with mail_server(None) as (port, sink):
        mailed(port, "smtp").tell([NEWS])
    assert sink.kept == []
    assert said(caplog) == ["alert by e-mail was not delivered (SMTPNotSupportedError)"]


def test_a_wrong_password_is_a_line_in_the_log_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trusted = certificate(tmp_path, "trusted")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with mail_server(trusted) as (port, sink):
        mailed(port, "smtp", "canary").tell([NEWS])
    assert sink.kept == []
    assert said(caplog) == ["alert by e-mail was not delivered (SMTPAuthenticationError)"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["WEBHOOK", "SLACK"])
def test_no_redirection_is_followed(
    web: tuple[int, list[Any]], caplog: pytest.LogCaptureFixture, place: str, status: int
) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)) as (port, _):
        address = f"http://127.0.0.1:{port}/{status}/{web[0]}"
        Alerts(read_settings({f"SLUICE_ALERT_{place}": address}).alerts).tell([NEWS])
    assert web[1] == []
    (line,) = said(caplog)
    assert line.endswith(f"was refused with {status}")


LINK_LOCAL = (
    "169.254.169.254",
    "169.254.7.7",
    "2852039166",  # the first one as a number
    "0xa9fea9fe",
    "[fe80::1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
)


@pytest.mark.parametrize("host", LINK_LOCAL)
@pytest.mark.parametrize("place", ["WEBHOOK", "SLACK", "SMTP"])
@pytest.mark.parametrize("proxy", [False, True])
def test_no_alert_goes_to_where_clouds_serve_credentials(
    web: tuple[int, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    host: str,
    proxy: bool,
) -> None:
    """Nor to a server that would pass it on; `reached` holds where it was connected to."""
    reached: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: reached.append(address))
    if proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{web[0]}")
    scheme = "smtp" if place == "SMTP" else "http"
    Alerts(placed(place, f"{scheme}://{host}:80")).tell([NEWS])
    assert reached == []
    (line,) = said(caplog)
    assert "SLUICE_ALERT_LINK_LOCAL=allow" in line
    assert host.strip("[]") not in line


@pytest.mark.parametrize("place", ["WEBHOOK", "SLACK", "SMTP"])
def test_a_name_is_checked_as_it_resolves_when_it_is_connected_to(
    web: tuple[int, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    """A resolver that answers with a public address first, and with a link-local one after."""
    answers = iter(["127.0.0.1", *["169.254.169.254"] * 9])
    resolve, asked = socket.getaddrinfo, []

    def resolver(host: Any, *rest: Any, **options: Any) -> Any:
        if host != "rebound.example" or options.get("flags"):
            return resolve(host, *rest, **options)
        asked.append(next(answers))
        return resolve(asked[-1], *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    reached: list[str] = []
    connect = socket.socket.connect

    def connecting(self: socket.socket, address: Any) -> None:
        reached.append(address[0])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connecting)
    scheme = "smtp" if place == "SMTP" else "http"
    alerts = Alerts(placed(place, f"{scheme}://rebound.example:{web[0]}"))
    alerts.tell([NEWS])
    alerts.tell([NEWS])
    assert asked[:2] == ["127.0.0.1", "169.254.169.254"]
    assert set(reached) == {"127.0.0.1"}
    assert any("SLUICE_ALERT_LINK_LOCAL=allow" in line for line in said(caplog))


def test_a_link_local_address_is_used_where_the_setting_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached: list[Any] = []

    def connecting(_: socket.socket, address: Any) -> None:
        reached.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connecting)
    for place, scheme in (("WEBHOOK", "http"), ("SLACK", "https"), ("SMTP", "smtp")):
        alerts = placed(place, f"{scheme}://169.254.169.254:80", link_local="allow")
        Alerts(alerts).tell([NEWS])
    assert reached == [("169.254.169.254", 80)] * 3


def placed(place: str, address: str, link_local: str = "refuse") -> AlertSettings:
    environment = {
        f"SLUICE_ALERT_{place}": address,
        "SLUICE_ALERT_FROM": "sluice@example.org",
        "SLUICE_ALERT_TO": "one@example.org",
        "SLUICE_ALERT_LINK_LOCAL": link_local,
    }
    return read_settings(environment).alerts


@pytest.mark.services
def test_what_came_from_a_row_is_no_markup_of_slacks(
    results: tuple[Settings, ClickHouse], web: tuple[int, list[Any]]
) -> None:
    alerts = read_settings({"SLUICE_ALERT_SLACK": f"http://127.0.0.1:{web[0]}/slack"}).alerts
    found = replace(check("fail"), difference="status <!channel> & more")
    results_of(results[1], alerts).keep(16, [found])
    ((_, body),) = web[1]
    assert "status &lt;!channel&gt; &amp; more" in body["text"]


@pytest.mark.services
def test_places_that_fail_are_logged_without_their_address_and_the_check_goes_on(
    results: tuple[Settings, ClickHouse],
    web: tuple[int, list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (closed,) = free_ports(1)
    environment = {
        "SLUICE_ALERT_WEBHOOK": f"http://127.0.0.1:{closed}/canary",
        "SLUICE_ALERT_SLACK": f"http://127.0.0.1:{web[0]}/refused",
        "SLUICE_ALERT_SMTP": f"smtp://me:canary@127.0.0.1:{closed}",
        "SLUICE_ALERT_FROM": "sluice@example.org",
        "SLUICE_ALERT_TO": "one@example.org",
    }
    settings = read_settings(environment)
    with caplog.at_level(logging.DEBUG):
        results_of(results[1], settings.alerts).keep(16, [check("fail")])
    assert said(caplog) == [
        "alert by webhook was not delivered (URLError)",
        "alert by Slack was refused with 500",
        "alert by e-mail was not delivered (ConnectionRefusedError)",
    ]
    assert "canary" not in caplog.text
    assert "canary" not in repr(settings)
    stored = results[1].execute("SELECT toString(status) FROM cdc.quality_checks")
    assert stored == [("fail",)]


@pytest.mark.services
def test_a_run_of_the_checks_tells_of_its_findings(
    results: tuple[Settings, ClickHouse], web: tuple[int, list[Any]]
) -> None:
    """A schema that differs is found by the command's own way through the wiring."""
    services, session = results
    port, posted = web
    alerts = read_settings({"SLUICE_ALERT_WEBHOOK": f"http://127.0.0.1:{port}/"}).alerts
    with relaying(services):
        told = replace(services, alerts=alerts)
        checked(services)
        session.execute("TRUNCATE TABLE cdc.quality_checks")
        session.execute("TRUNCATE TABLE cdc.dead_letters")  # those that other modules left
        session.execute("ALTER TABLE cdc.dim_product ADD COLUMN odd String")
        with slots.session(services.postgres) as cursor:
            cursor.execute("INSERT INTO products (name, category, price) VALUES ('a', 'b', 1)")
        wiring.quality(told)
        wiring.quality(told)
        wiring.initialise(services)
        wiring.quality(told)
    items = [item for _, body in posted for item in body["checks"]]
    # What differs is not drained either.
    assert [(item["table"], item["check"], item["status"]) for item in items] == [
        ("products", "caught_up", "fail"),
        ("products", "schema", "warn"),
        ("products", "caught_up", "pass"),
        ("products", "schema", "pass"),
    ]


@pytest.mark.services
def test_a_slot_that_is_gone_is_told_once_and_the_new_one_once(
    results: tuple[Settings, ClickHouse], web: tuple[int, list[Any]]
) -> None:
    services, session = results
    alerts = read_settings({"SLUICE_ALERT_WEBHOOK": f"http://127.0.0.1:{web[0]}/"}).alerts
    told = replace(services, alerts=alerts)
    session.execute("TRUNCATE TABLE cdc.quality_checks")
    with relaying(services):
        assert checked(services).passed
    drop_slot(services)
    for _ in range(2):
        report = wiring.quality(told)
        assert not report.passed
        assert {c.status for c in report.checks if c.check == "caught_up"} == {"unsettled"}
    with relaying(services, snapshot=True):
        checked(told)
        assert wiring.quality(told).passed
    items = [item for _, body in web[1] for item in body["checks"]]
    assert [(item["table"], item["check"], item["status"]) for item in items] == [
        (services.relay.slot, "wal_status", "fail"),
        (services.relay.slot, "wal_status", "pass"),
    ]
    assert items[0]["difference"] == "the slot is gone"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICE_ALERT_WEBHOOK", "file:///etc/canary"),
        ("SLUICE_ALERT_SLACK", "canary"),
        ("SLUICE_ALERT_PAGE", "canary"),
        ("SLUICE_ALERT_SMTP", "http://canary"),
        ("SLUICE_ALERT_SMTP", "smtp://canary:70000"),
        ("SLUICE_QUALITY_REPAIR", "canary"),
        ("SLUICE_ALERT_LINK_LOCAL", "canary"),
    ],
)
def test_a_setting_that_is_no_address_is_refused_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(WrongUsage, match=name) as caught:
        read_settings({name: value})
    assert "canary" not in str(caught.value)
