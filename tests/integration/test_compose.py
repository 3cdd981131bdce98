"""docker-compose.yaml against the settings, and its commands on real services."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import psycopg2
import pytest
import yaml
from cryptography.fernet import Fernet
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from sluice import wiring
from sluice.capture import slot as slots
from sluice.catalog import load_catalog
from sluice.cli.compose import SECRETS, write_compose_secrets
from sluice.clients.broker_options import require_allowed
from sluice.clients.postgres import connection_options, opened
from sluice.embedded.airflow_service import environment as embedded_airflow
from sluice.embedded.postgres import BINARIES, create_cluster, identity
from sluice.operate.doctor import examine
from sluice.settings import (
    PROJECT,
    VARIABLES,
    WAREHOUSE_POOL,
    PostgresSettings,
    Settings,
    read_settings,
)
from store_api.database import make_engine
from store_api.demo import load
from tests.support.pipeline import assert_fact_equals_join, relaying
from tests.support.processes import stop
from tests.support.services import drop_slot, free_ports, own_services, temporary_home
from tests.support.waiting import until

services = own_services
TEXT = (PROJECT / "docker-compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
ONCE = {"init", "role", "airflow-init"}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")


def filled(name: str) -> dict[str, str]:
    """A service's environment with secrets and defaults put in."""
    values = dict.fromkeys(SECRETS, "canary")
    return {
        variable: VARIABLE.sub(lambda m: values.get(m[1], m[3] or ""), value)
        for variable, value in SERVICES[name].get("environment", {}).items()
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_limited_unprivileged_and_its_log_bounded(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+", service["image"])
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    # Redpanda writes its configuration beside its program.
    assert service.get("read_only", False) == (name != "redpanda")


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_runs_as_no_root(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert service["build"]["dockerfile_inline"].splitlines()[-1] == "USER sluice"
    else:  # where none is named the image has one
        images = {"redpanda", "console", "connect"}
        assert service.get("user") in {"postgres", "clickhouse", "nginx"} or name in images


def test_every_secret_comes_from_env_and_has_no_default() -> None:
    assert {m[1] for m in VARIABLE.finditer(TEXT) if m[2] == "-"}.isdisjoint(SECRETS)
    required = {m[1] for m in VARIABLE.finditer(TEXT) if m[2] == "?"}
    assert required == set(SECRETS)
    secret = re.compile(
        "PASSWORD(_REPLICATION|_STORE_API|_AIRFLOW)?$|^RPK_PASS$|SECRET(_KEY)?$|FERNET_KEY$"
    )
    for name in SERVICES:
        given = filled(name)
        assert {given[v] for v in given if secret.search(v)} <= {"canary"}
        for variable in given:
            if variable.startswith("AIRFLOW_CONN_"):
                assert json.loads(given[variable]).get("password", "canary") == "canary"


BROKER = {"init", "relay", "console", "connect", *(n for n in SERVICES if n.startswith("airflow"))}
OWNER = {"postgres", "init", "role"}


@pytest.mark.parametrize("name", SERVICES)
def test_the_owners_password_is_where_tables_and_roles_are_made_and_nowhere_else(name: str) -> None:
    """And whoever talks to the broker logs in."""
    written = json.dumps(SERVICES[name].get("environment", {}))
    assert ("${POSTGRES_PASSWORD" in written) == (name in OWNER)
    assert ("${REDPANDA_PASSWORD" in written) == (name in BROKER | {"redpanda"})


def test_the_broker_begins_with_a_login_and_every_client_uses_it() -> None:
    """Redpanda's own program is not here: this compares the file with its documentation."""
    begun = yaml.safe_load((PROJECT / "docker/redpanda/bootstrap.yaml").read_text())
    assert begun["enable_sasl"] is begun["admin_api_require_auth"] is True
    given = filled("redpanda")
    user, password, mechanism = given["RP_BOOTSTRAP_USER"].split(":")
    assert begun["superusers"] == [user]
    assert (given["RPK_USER"], given["RPK_PASS"]) == (user, password)
    mounted = "./docker/redpanda/bootstrap.yaml:/etc/redpanda/.bootstrap.yaml:ro"
    assert mounted in SERVICES["redpanda"]["volumes"]
    wanted = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": mechanism,
        "sasl.username": user,
        "sasl.password": password,
    }
    for name in ("init", "relay", "airflow-scheduler"):
        assert read_settings(filled(name)).kafka.options == wanted
    extra = json.loads(filled("airflow-scheduler")["AIRFLOW_CONN_SLUICE_REDPANDA"])["extra"]
    assert extra == {"bootstrap.servers": "redpanda:9092", **wanted}
    require_allowed(wanted)
    for name in ("console", "connect"):
        given = filled(name)
        assert [given[f"KAFKA_SASL_{part}"] for part in ("MECHANISM", "USERNAME", "PASSWORD")] == [
            mechanism,
            user,
            password,
        ]
    assert filled("console")["KAFKA_SASL_ENABLED"] == "true"


def test_the_console_is_reached_through_its_login_alone() -> None:
    console, login = SERVICES["console"], SERVICES["console-login"]
    assert console["profiles"] == login["profiles"] == ["console"]
    assert "ports" not in console
    inside = {name for name, of in SERVICES.items() if "console" in of.get("networks", [])}
    assert inside == {"console", "console-login", "redpanda"}
    assert console["networks"] == login["networks"] == ["console"]


class Echo(BaseHTTPRequestHandler):
    """Stands for the Console, which is not here: answers with the headers that it received."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(self.headers)).encode())

    do_POST = do_GET  # noqa: N815 - the name is the library's

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_the_consoles_login_admits_who_has_the_password_and_no_page_of_another_origin(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as echo:
        threading.Thread(target=echo.serve_forever, daemon=True).start()
        places = {
            "listen 8080": f"listen 127.0.0.1:{port}",
            "console:8080": f"127.0.0.1:{echo.server_port}",
            "/tmp/": f"{tmp_path}/",
        }
        text = (PROJECT / "docker/console/nginx.conf").read_text()
        script = SERVICES["console-login"]["command"][2].replace("$$", "$")
        for old, new in {**places, "/etc/nginx/": f"{tmp_path}/"}.items():
            text, script = text.replace(old, new), script.replace(old, new)
        # The container is nginx's user alone; root's workers would be another.
        (tmp_path / "console.conf").write_text(f"user {getpass.getuser()};\n{text}")
        server = subprocess.Popen(
            ["sh", "-ec", script.replace("exec nginx", f"exec {shutil.which('nginx')}")],
            env={"CONSOLE_PASSWORD": "canary"},
            stderr=subprocess.DEVNULL,
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            until(lambda: answers(address), "nginx answers", 30)
            for login in (None, ("console", "wrong"), ("console", ""), ("admin", "canary")):
                assert httpx.get(address, auth=login).status_code == 401
            own = httpx.post(address, auth=("console", "canary"), headers={"Origin": address[:-1]})
            assert own.status_code == 200
            assert own.json()["Host"] == f"127.0.0.1:{port}"
            assert "Authorization" not in own.json()
            for origin in ("http://other.example", "null", f"http://127.0.0.1:{port}1"):
                foreign = {"Origin": origin}
                refused = httpx.post(address, auth=("console", "canary"), headers=foreign)
                assert refused.status_code == 403, origin
            assert stat.S_IMODE((tmp_path / "users").stat().st_mode) == 0o600
        finally:
            stop(server)
            echo.shutdown()


def answers(address: str) -> bool:
    """Whether a server is there."""
    try:
        httpx.get(address)
    except httpx.TransportError:
        return False
    return True


def test_a_digest_in_env_pins_an_image() -> None:
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    images |= {
        service["build"]["dockerfile_inline"].splitlines()[0].removeprefix("FROM ")
        for service in SERVICES.values()
        if "build" in service
    }
    variables = [VARIABLE.findall(image) for image in images]
    assert all(len(found) == 1 and found[0][1:] == ("-", "") for found in variables), images
    assert len({found[0][0] for found in variables}) == len(images)
    digest = f"@sha256:{'0' * 64}"
    for image in images:
        assert VARIABLE.sub(digest, image).endswith(digest)
        assert VARIABLE.sub("", image) == image.partition("$")[0]


def test_every_port_is_on_loopback_and_the_one_of_the_settings() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:${") for port in published)
    defaults = {m[1]: m[3] for port in published for m in VARIABLE.finditer(port)}
    assert defaults.pop("CONSOLE_PORT") == "8081"
    assert defaults == {n: VARIABLES[n][0] for n in VARIABLES if n.endswith("_PORT")}


def test_every_variable_is_a_setting_or_a_listed_one() -> None:
    listed = set(re.findall(r"^# (\w+)=", (PROJECT / ".env.example").read_text(), re.M))
    assert {match[1] for match in VARIABLE.finditer(TEXT)} <= listed
    assert set(SECRETS) <= listed
    for service in SERVICES.values():
        names = set(service.get("environment", {}))
        assert {n for n in names if n.startswith("SLUICE_")} <= set(VARIABLES)


@pytest.mark.parametrize("name", ["init", "relay", "airflow-scheduler"])
def test_the_settings_read_from_a_container_reach_the_other_containers(name: str) -> None:
    settings = read_settings(filled(name))
    assert (settings.postgres.host, settings.postgres.port) == ("postgres", 5432)
    assert settings.kafka.bootstrap == "redpanda:9092"
    assert (settings.clickhouse.host, settings.clickhouse.port) == ("clickhouse", 9000)
    assert {"postgres", "redpanda", "clickhouse"} <= set(SERVICES)


def test_airflow_is_configured_by_the_options_and_connections_of_the_embedded_one() -> None:
    environment = filled("airflow-scheduler")
    secrets = dict.fromkeys(
        ("postgres", "clickhouse", "fernet_key", "api_secret_key", "jwt_secret"), "s"
    )
    known = embedded_airflow(read_settings({}), secrets)
    assert {name for name in environment if name.startswith("AIRFLOW")} <= set(known)
    for name in (name for name in known if name.startswith("AIRFLOW_CONN_")):
        ours, theirs = json.loads(environment[name]), json.loads(known[name])
        assert set(ours) == set(theirs)
        assert ours["conn_type"] == theirs["conn_type"]
    assert f"airflow pools set {WAREHOUSE_POOL} " in SERVICES["airflow-init"]["command"][2]


def test_what_a_service_waits_for_is_healthy_or_done() -> None:
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            done = wait["condition"] == "service_completed_successfully"
            assert done == (name in ONCE)
            # nginx starts again until the Console's name is known; nothing else waits for it.
            assert done or "healthcheck" in SERVICES[name] or name == "console"


@pytest.mark.parametrize("name", ["docker-compose.yaml", "docker-compose.test.yaml"])
def test_the_file_is_what_the_compose_specification_allows(name: str) -> None:
    """By its JSON schema, of compose-go 2.16.2 (Apache-2.0)."""
    schema = json.loads((PROJECT / "tests" / "compose" / "compose-spec.json").read_text())
    allowed = Draft202012Validator(schema)
    document = yaml.safe_load((PROJECT / name).read_text())
    assert [f"{error.json_path}: {error.message}" for error in allowed.iter_errors(document)] == []
    document["services"]["postgres"]["reastart"] = "no"
    assert not allowed.is_valid(document)


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    document = yaml.safe_load(TEXT)
    for service in document["services"].values():
        service.get("build", {}).pop("dockerfile_inline", None)  # newer than Debian's 1.29
    (tmp_path / "docker-compose.yaml").write_text(yaml.safe_dump(document))
    shutil.copy(PROJECT / "docker-compose.test.yaml", tmp_path)
    write_compose_secrets(tmp_path / ".env")
    files = ["-f", "docker-compose.yaml", "-f", "docker-compose.test.yaml"]
    for profile in ("relay", "connect"):
        done = subprocess.run(
            ["docker-compose", *files, "--profile", profile, "config"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_secrets_are_private_and_kept_when_written_again(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("SLUICE_API_PORT=4000\nPOSTGRES_PASSWORD=mine\n")
    added = write_compose_secrets(path)
    first = path.read_text()
    assert set(added) == set(SECRETS) - {"POSTGRES_PASSWORD"}
    assert first.startswith("SLUICE_API_PORT=4000\nPOSTGRES_PASSWORD=mine\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_compose_secrets(path) == []
    assert path.read_text() == first


def local(name: str, settings: Settings) -> dict[str, str]:
    """A container's environment, with the addresses and owners of the services under test."""
    postgres, clickhouse = settings.postgres, settings.clickhouse
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "plugins")]),
        **filled(name),
        "SLUICE_HOME": str(settings.home),
        "SLUICE_POSTGRES_HOST": postgres.host,
        "SLUICE_POSTGRES_PORT": str(postgres.port),
        "SLUICE_POSTGRES_USER": postgres.user,
        "SLUICE_POSTGRES_PASSWORD": postgres.password.get_secret_value(),
        "SLUICE_KAFKA_BOOTSTRAP": settings.kafka.bootstrap,
        "SLUICE_KAFKA_OPTIONS": json.dumps(dict(settings.kafka.options)),
        "SLUICE_CLICKHOUSE_HOST": clickhouse.host,
        "SLUICE_CLICKHOUSE_PORT": str(clickhouse.port),
        "SLUICE_CLICKHOUSE_USER": clickhouse.user,
        "SLUICE_CLICKHOUSE_PASSWORD": clickhouse.password.get_secret_value(),
    }


@pytest.mark.services
def test_the_init_container_prepares_real_services(services: Settings) -> None:
    done = subprocess.run(
        SERVICES["init"]["command"],
        env=local("init", services),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("topics, publication, tables and views match the models\n")


@pytest.mark.services
def test_postgres_health_check_passes_on_the_server_and_fails_without(services: Settings) -> None:
    check = [str(BINARIES / "pg_isready"), *SERVICES["postgres"]["healthcheck"]["test"][2:]]
    (free,) = free_ports(1)
    for port, code in ((services.postgres.port, 0), (free, 2)):
        done = subprocess.run([*check, "-p", str(port)], capture_output=True, check=False)
        assert done.returncode == code


DENIED = (
    "CREATE TABLE mine (id int)",
    "DROP TABLE orders",
    "TRUNCATE orders",
    "ALTER TABLE orders ADD COLUMN odd int",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "CREATE PUBLICATION mine FOR TABLE orders",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
    "SELECT * FROM pg_authid",
    "COPY orders TO PROGRAM 'cat'",
    "SET ROLE postgres",
)


FOREIGN = "SELECT id FROM orders"  # to a role that is not the store's
SECRET = "it's a canary"


def as_role(services: Settings, user: str) -> Settings:
    """These services, with PostgreSQL by one of the containers' roles."""
    return replace(
        services, postgres=replace(services.postgres, user=user, password=SecretStr(SECRET))
    )


@pytest.fixture(scope="module")
def roles(services: Settings) -> Iterator[None]:
    """What the container `role` makes, by its command, where Airflow's data is the owner's."""
    in_postgres(services, "-c", "CREATE DATABASE airflow")
    former = replace(services, postgres=replace(services.postgres, database="airflow"))
    in_postgres(
        former,
        *("-c", "CREATE TYPE state AS ENUM ('a', 'b')"),
        *("-c", "CREATE TABLE run (id serial PRIMARY KEY, state state)"),
        *("-c", "CREATE TABLE task (id int GENERATED ALWAYS AS IDENTITY, run int REFERENCES run)"),
        *("-c", "CREATE SEQUENCE alone; CREATE VIEW seen AS SELECT * FROM run"),
    )
    program, *arguments = SERVICES["role"]["command"]
    folders = {"/sql": "sql/postgres", "/docker": "docker/postgres"}
    ours = [
        str(PROJECT / folders[str(Path(a).parent)] / Path(a).name) if a[0] == "/" else a
        for a in arguments
    ]
    options = connection_options(services.postgres)
    there = {
        "PGHOST": options["host"],
        "PGPORT": str(options["port"]),
        "PGPASSWORD": options["password"],
        **dict.fromkeys(PASSWORDS, SECRET),
    }
    for _ in range(2):  # it can be run again
        done = subprocess.run(
            [str(BINARIES / program), *ours],
            env={**filled("role"), **there},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    yield
    in_postgres(services, "-c", "DROP DATABASE airflow WITH (FORCE)")


PASSWORDS = ("PGPASSWORD_REPLICATION", "PGPASSWORD_STORE_API", "PGPASSWORD_AIRFLOW")


@pytest.mark.services
def test_every_step_runs_as_the_role_of_the_tasks(services: Settings, roles: None) -> None:
    """The relay, then all that Airflow's tasks do, each in the state that those before it left."""
    user = filled("airflow-scheduler")["SLUICE_POSTGRES_USER"]
    connection = json.loads(filled("airflow-scheduler")["AIRFLOW_CONN_SLUICE_POSTGRES"])
    assert connection["login"] == user == filled("relay")["SLUICE_POSTGRES_USER"]
    tasks = as_role(services, user)
    wrong = replace(tasks.postgres, password=SecretStr("canary"))
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(**connection_options(wrong))
    engine = make_engine(services.postgres)
    try:
        with relaying(tasks):
            load(services, customers=10, orders=20, seed=3)
            assert_fact_equals_join(tasks, engine)
            assert wiring.quality(tasks, deep=True).passed
            wiring.query(services, "DELETE FROM cdc.dim_order WHERE 1")
            assert not wiring.quality(tasks, ["orders"], deep=True).passed
            assert list(wiring.repair(tasks, ["orders"]))
            wiring.resync(tasks, "customers")
            wiring.rebuild(tasks, "fact_order_item", full=True)
            assert_fact_equals_join(tasks, engine)
            wiring.replay_dead_letters(tasks, "orders")
            with wiring.monitor(tasks) as reading:
                assert reading.overview().slot.active
            wiring.maintain(tasks)
            found = examine(tasks, load_catalog(tasks.models))
            assert [one.sentence() for one in found if not one.ok] == []
        drop_slot(services)  # the slot is lost
        assert list(wiring.recover(tasks))
        with relaying(tasks):
            load(services, customers=2, orders=4, seed=4)
            assert_fact_equals_join(tasks, engine)
    finally:
        engine.dispose()
        drop_slot(services)


@pytest.mark.services
def test_airflows_role_owns_its_own_database_and_does_nothing_elsewhere(
    services: Settings, roles: None
) -> None:
    airflow = as_role(services, "airflow").postgres
    with opened(replace(airflow, database="airflow")) as connection:
        cursor = connection.cursor()
        cursor.execute("ALTER TABLE run ADD COLUMN noted text")
        cursor.execute("INSERT INTO run (state) VALUES ('a')")
        cursor.execute("INSERT INTO task (run) VALUES (1)")
        cursor.execute("ALTER TYPE state ADD VALUE 'c'")
        cursor.execute("ALTER SEQUENCE alone RESTART")
        cursor.execute("DROP VIEW seen")
        cursor.execute("DROP TABLE task, run")
    elsewhere = replace(as_role(services, "store_api").postgres, database="airflow")
    for other in (elsewhere, replace(elsewhere, user="sluice_replication")):
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            psycopg2.connect(**connection_options(other))
    refused(airflow, *DENIED, FOREIGN)


def refused(role: PostgresSettings, *statements: str) -> None:
    for statement in statements:
        with (
            opened(role) as connection,
            connection.cursor() as cursor,
            pytest.raises(psycopg2.errors.InsufficientPrivilege),
        ):
            cursor.execute(statement)


@pytest.mark.services
def test_the_api_container_serves_as_a_role_that_changes_rows_and_nothing_else(
    services: Settings, roles: None
) -> None:
    there = {
        **local("api", services),
        "SLUICE_POSTGRES_USER": SERVICES["api"]["environment"]["SLUICE_POSTGRES_USER"],
        "SLUICE_POSTGRES_PASSWORD": SECRET,
    }
    for name in ("KAFKA", "CLICKHOUSE"):
        assert not any(name in variable for variable in SERVICES["api"]["environment"])
    (port,) = free_ports(1)
    with running("api", there, "3002", port):
        products = f"http://127.0.0.1:{port}/api/products"
        made = httpx.post(products, json={"name": "Lamp", "category": "Garden", "price": 1})
        assert made.status_code == 201, made.text
        place = f"{products}/{made.json()['id']}"
        assert httpx.put(place, json={"price": 2}).is_success
        assert httpx.delete(place).is_success
    refused(as_role(services, "store_api").postgres, *DENIED)


@pytest.mark.services
def test_the_relay_container_becomes_healthy(services: Settings) -> None:
    (port,) = free_ports(1)
    slot = f"health_{uuid4().hex[:8]}"
    relay = replace(services.relay, slot=slot)
    there = {
        **local("relay", services),
        "SLUICE_SLOT": slot,
        "SLUICE_RELAY_ACK": "broker",
        "SLUICE_RELAY_METRICS": f"127.0.0.1:{port}",
    }
    try:
        becomes_healthy("relay", there, "4195", port)
    finally:
        drop_slot(replace(services, relay=relay))
        with slots.session(services.postgres) as cursor:
            cursor.execute(f"DROP PUBLICATION IF EXISTS {relay.publication}")


@contextmanager
def running(name: str, there: dict[str, str], published: str, port: int) -> Iterator[None]:
    """The container's command here, at a free port, from when its health check passes."""
    program, *arguments = SERVICES[name]["command"]
    ours = {"0.0.0.0": "127.0.0.1", published: str(port)}
    programs = Path(sys.executable).parent
    command = [str(programs / program), *(ours.get(a, a) for a in arguments)]
    test = [part.replace(published, str(port)) for part in SERVICES[name]["healthcheck"]["test"]]
    check = [str(programs / test[1]), *test[2:]]

    def unhealthy() -> bool:
        done = subprocess.run(check, env=there, cwd=PROJECT, capture_output=True, check=False)
        return done.returncode != 0

    assert unhealthy()
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=there, cwd=PROJECT, stdout=quiet, stderr=quiet)
    try:

        def healthy() -> bool:
            assert server.poll() is None, f"{name} ended"
            return not unhealthy()

        until(healthy, f"{name} is healthy", 300)
        yield
    finally:
        stop(server)


def becomes_healthy(name: str, there: dict[str, str], published: str, port: int) -> None:
    with running(name, there, published, port):
        pass


def in_postgres(services: Settings, *arguments: str) -> None:
    """Run psql as the server's owner, as an image's entry point does with its scripts."""
    options = connection_options(services.postgres)
    psql = [str(BINARIES / "psql"), "-v", "ON_ERROR_STOP=1", "-h", options["host"]]
    where = ["-p", str(options["port"]), "-U", options["user"], "-d", options["dbname"]]
    environment = {**os.environ, "PGPASSWORD": options["password"]}
    subprocess.run([*psql, *where, *arguments], env=environment, check=True, capture_output=True)


@pytest.mark.airflow
@pytest.mark.services
def test_airflows_containers_become_healthy_one_after_the_other(
    services: Settings, roles: None, tmp_path: Path
) -> None:
    """As in the file: init to its end, then the API server, then the other three."""
    api, scheduler = free_ports(2)
    postgres = services.postgres
    assert "//airflow:canary@" in filled("airflow-init")["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    there = {
        **local("airflow-init", services),
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(tmp_path / "passwords.json"),
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": (
            f"postgresql+psycopg2://airflow:{quote(SECRET)}@{postgres.host}:{postgres.port}/airflow"
        ),
        # A container's own address; here nobody else is to reach it.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(scheduler),
    }
    first = [part.replace("$$", "$") for part in SERVICES["airflow-init"]["command"]]
    done = subprocess.run(
        first, env=there, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kept = tmp_path / "passwords.json"
    assert json.loads(kept.read_text()) == {"admin": "canary"}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with running("airflow-api-server", there, "8080", api):
        user = {"username": "admin", "password": "canary"}
        token = f"http://127.0.0.1:{api}/auth/token"
        assert httpx.post(token, json=user).is_success
        assert httpx.post(token, json={**user, "password": "admin"}).status_code == 401
        assert httpx.get(token).status_code >= 400  # which without passwords makes anyone an admin
        becomes_healthy("airflow-scheduler", there, "8974", scheduler)
        becomes_healthy("airflow-dag-processor", there, "8974", scheduler)
        becomes_healthy("airflow-triggerer", there, "8974", scheduler)


@pytest.mark.services
def test_postgres_takes_the_options_of_its_container() -> None:
    program, *options = SERVICES["postgres"]["command"]
    assert program == "postgres"
    with temporary_home() as home:
        create_cluster(home / "data", "secret")
        command = [str(BINARIES / program), "-D", str(home / "data"), *options]
        for name, value in (("wal_level", "logical"), ("max_slot_wal_keep_size", "20480")):
            done = subprocess.run(
                [*command, "-C", name],
                cwd=home / "data",
                capture_output=True,
                text=True,
                check=False,
                **identity(),
            )
            assert done.stdout.strip() == value, done.stderr
