"""The embedded ClickHouse as somebody else on the machine, and as a web page, tries it."""

from __future__ import annotations

import http.server
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sluice.embedded.clickhouse_users import CONFIGURATION, READER, SECRETS
from sluice.settings import WRITER, Settings, read_secrets
from tests.support.browser import chromium

pytestmark = pytest.mark.services

REFUSED = (
    "ACCESS_DENIED|AUTHENTICATION_FAILED|REQUIRED_PASSWORD|Not enough privileges|QUOTA_EXCEEDED"
)
# What reaches beyond the two databases: files, other servers, programs, the server itself.
BEYOND = (
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "INSERT INTO FUNCTION file('dag.py', 'LineAsString', 'line String') VALUES ('x')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString', 'line String')",
    "INSERT INTO FUNCTION url('http://127.0.0.1:1/', 'LineAsString', 'line String') VALUES ('x')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/key', 'LineAsString', 'line String')",
    "SELECT * FROM remote('127.0.0.1:1', 'system', 'one')",
    "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "CREATE TABLE cdc.leak (line String) ENGINE = File(LineAsString)",
    "CREATE TABLE cdc.leak (line String) ENGINE = URL('http://127.0.0.1:1/', LineAsString)",
    "CREATE DICTIONARY cdc.leak (k UInt64, v String) PRIMARY KEY k LAYOUT(FLAT()) LIFETIME(0)"
    " SOURCE(FILE(path '/etc/passwd' format 'LineAsString'))",
    "CREATE DATABASE other",
    "CREATE TABLE default.leak (line String) ENGINE = Memory",
    "CREATE FUNCTION leak AS (x) -> x",
    "CREATE USER somebody",
    "CREATE NAMED COLLECTION leak AS a = 1",
    "BACKUP TABLE cdc.checkpoints TO S3('http://127.0.0.1:1/bucket/key')",
    "SYSTEM SHUTDOWN",
    "SYSTEM DROP MARK CACHE",
)
ANYWHERE = (
    "SELECT * FROM cdc.checkpoints",
    "SELECT * FROM olap.fact_order_item",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.users",
    "SELECT * FROM information_schema.tables",
    "INSERT INTO cdc.dead_letters (reason) VALUES ('x')",
    "ALTER TABLE cdc.checkpoints DELETE WHERE 1",
    "DROP DATABASE cdc",
    "KILL QUERY WHERE 1",
    "CREATE TEMPORARY TABLE leak (line String)",
    "SELECT number FROM system.numbers LIMIT 1",
    "SYSTEM STOP LISTEN HTTP",
    "SYSTEM STOP LISTEN TCP",
    "SYSTEM START LISTEN MYSQL",
)


def asked(settings: Settings, statement: str, user: str = "", password: str = "") -> httpx.Response:
    """The answer of the HTTP port."""
    known = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password} if user else {}
    address = f"http://127.0.0.1:{settings.clickhouse.http_port}/"
    return httpx.post(address, content=statement, headers=known, timeout=60)


def password(settings: Settings, user: str) -> str:
    return read_secrets(settings.home)[SECRETS[user]]


def require_refused(answer: httpx.Response) -> None:
    assert answer.status_code != 200, answer.text
    assert any(word in answer.text for word in REFUSED.split("|")), answer.text[:500]


@pytest.mark.parametrize("statement", [*BEYOND, *ANYWHERE])
def test_who_has_no_password_gets_nothing(services: Settings, statement: str) -> None:
    require_refused(asked(services, statement))
    require_refused(asked(services, statement, "default"))


@pytest.mark.parametrize("user", SECRETS)
@pytest.mark.parametrize("wrong", ["", "wrong"])
def test_a_wrong_password_is_refused(services: Settings, user: str, wrong: str) -> None:
    require_refused(asked(services, "SELECT 1", user, wrong))


@pytest.mark.parametrize("user", SECRETS)
@pytest.mark.parametrize("statement", BEYOND)
def test_the_stacks_own_users_do_not_reach_beyond_its_databases(
    services: Settings, user: str, statement: str
) -> None:
    require_refused(asked(services, statement, user, password(services, user)))


def test_each_user_does_its_work(services: Settings) -> None:
    written = asked(
        services, "SELECT count() FROM cdc.checkpoints", WRITER, password(services, WRITER)
    )
    read = asked(services, "SELECT count() FROM olap.dim_order", READER, password(services, READER))
    assert (written.status_code, read.status_code) == (200, 200)
    require_refused(
        asked(services, "SELECT * FROM cdc.checkpoints", READER, password(services, READER))
    )


def test_its_files_hold_no_password_and_are_their_owners_alone(services: Settings) -> None:
    folder = services.home / "run"
    for path in (folder / CONFIGURATION, folder / "clickhouse-users.xml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(password(services, user) in path.read_text() for user in SECRETS)


PAGE = """<!doctype html><title>elsewhere</title><script>
const address = "http://127.0.0.1:%d/";
async function tried(name, url, options) {
  try {
    const answer = await fetch(url, options);
    return name + ": " + answer.type + " " + (await answer.text()).slice(0, 80);
  } catch (error) { return name + ": refused"; }
}
(async () => {
  const told = [
    await tried("read", address + "?add_http_cors_header=1&query=SELECT+42"),
    await tried("as default", address + "?add_http_cors_header=1&user=default&query=SELECT+42"),
    await tried("preflight", address + "?add_http_cors_header=1",
      {method: "POST", body: "SELECT 42", headers: {"X-ClickHouse-User": "sluice"}}),
    await tried("write", address, {method: "POST", mode: "no-cors", credentials: "include",
      body: "CREATE TABLE cdc.planted (x UInt8) ENGINE = Memory"}),
    await tried("stop", address, {method: "POST", mode: "no-cors",
      body: "SYSTEM STOP LISTEN HTTP"}),
    await tried("write as the pipeline", address + "?user=sluice", {method: "POST",
      mode: "no-cors", credentials: "include",
      body: "CREATE TABLE cdc.planted (x UInt8) ENGINE = Memory"}),
  ];
  document.body.innerText = told.join("\\n");
  document.title = "tried";
})();
</script><body></body>"""


@contextmanager
def elsewhere(folder: Path) -> Iterator[str]:
    """A page of another origin."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


def test_a_web_page_of_another_origin_neither_reads_nor_writes(
    services: Settings, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(PAGE % services.clickhouse.http_port)
    with chromium() as browser, elsewhere(tmp_path) as address:
        page = browser.new_page()
        play = f"http://127.0.0.1:{services.clickhouse.http_port}/play?user={WRITER}"
        page.goto(play)  # as its owner does, with the password
        page.locator("#password").fill(password(services, WRITER))
        page.locator("#query").fill("SELECT 6 * 7 AS answer")
        page.locator("#run").click()
        page.get_by_text("42", exact=True).first.wait_for()
        page.goto(address)
        page.wait_for_function("document.title === 'tried'")
        told = page.locator("body").inner_text()
    assert "42" not in told, told
    tables = asked(
        services,
        "SELECT count() FROM system.tables WHERE name IN ('planted', 'leak')",
        WRITER,
        password(services, WRITER),
    )
    assert tables.text.strip() == "0"
