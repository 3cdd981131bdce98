"""A newcomer's path: up, the seed's requests, two minutes of Airflow's own scheduler, down."""

from __future__ import annotations

import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import text

from sluice import wiring
from sluice.embedded import airflow_service
from sluice.embedded.postgres import ensure_database
from sluice.settings import read_secrets, read_settings
from store_api.database import create_tables, make_engine
from tests.e2e.running import Running
from tests.e2e.shell import RUN_ELSEWHERE, Shell, may_be_called
from tests.support.oracle import change, facts, joined
from tests.support.processes import process_of
from tests.support.quoted_commands import PAGES, blocks, named_only
from tests.support.waiting import until

pytestmark = pytest.mark.e2e
# The store dates an order when it takes it: today, or yesterday where midnight was just now.
NEWEST = "SELECT max(order_date) FROM orders JOIN order_items ON order_id = orders.id"


def test_requests_to_the_store_come_to_be_in_the_fact(stack: Running) -> None:
    port = stack.environment["SLUICE_API_PORT"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api") as api:
        customer = api.post(
            "/customers",
            json={"email": "buyer@example.com", "name": "Test", "country": "USA", "city": "NYC"},
        )
        assert customer.status_code == 201
        product = api.post(
            "/products", json={"name": "Laptop", "category": "Electronics", "price": 999.99}
        ).json()
        order = api.post(
            "/orders",
            json={"customer_id": customer.json()["id"], "status": "pending", "total": 999.99},
        ).json()
        item = api.post(
            "/order-items",
            json={
                "order_id": order["id"],
                "product_id": product["id"],
                "quantity": 1,
                "price": 999.99,
            },
        ).json()
        wanted = (
            "SELECT customer_email, product_name, order_status FROM olap.fact_order_item"
            f" WHERE order_item_id = {item['id']}"
        )

        def seen() -> list[tuple[str, ...]]:
            return wiring.query(stack.settings, wanted)[1]

        until(
            lambda: seen() == [("buyer@example.com", "Laptop", "pending")],
            "the order is in the fact",
            300,
            pause=1,
        )
        api.patch(f"/orders/{order['id']}", json={"status": "shipped"}).raise_for_status()
        api.patch(f"/products/{product['id']}", json={"name": "Notebook"}).raise_for_status()
        drained_and_rebuilt(stack)  # and does not wait for the next minute
        assert seen() == [("buyer@example.com", "Notebook", "shipped")]
        assert api.delete(f"/order-items/{item['id']}").status_code == 204
        drained_and_rebuilt(stack)
        assert seen() == []


def drained_and_rebuilt(stack: Running) -> None:
    """Everything that was committed before is in the facts."""
    for step in (["drain", "--until-empty"], ["rebuild"], ["quality"]):
        done = stack.sluice(*step)
        assert done.returncode == 0, (step, done.stdout, done.stderr)


def test_after_thousands_of_random_changes_the_fact_is_postgres_own_join(stack: Running) -> None:
    settings = read_settings(stack.environment)
    engine = make_engine(settings.postgres)
    chance = random.Random(11)
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.api_port}/api") as api:
        for _ in range(4):
            change(engine, chance, 800)
            for item in api.get("/order-items", params={"limit": 40}).json():
                edit_item(api, chance, item)
    drained_and_rebuilt(stack)
    rows = facts(settings)
    assert len(rows) > 1000
    assert rows == joined(engine)
    engine.dispose()


def edit_item(api: httpx.Client, chance: random.Random, item: dict[str, Any]) -> None:
    """Change, delete or copy one item through the store's API."""
    address = f"/order-items/{item['id']}"
    match chance.choice(["change", "delete", "copy"]):
        case "change":
            answer = api.patch(address, json={"quantity": chance.randint(1, 99)})
        case "delete":
            answer = api.delete(address)
        case _:
            answer = api.post("/order-items", json={k: v for k, v in item.items() if k != "id"})
    assert answer.is_success, answer.text


def test_airflows_backfill_redoes_a_day_that_was_spoiled(stack: Running) -> None:
    settings = read_settings(stack.environment)
    engine = make_engine(settings.postgres)
    with engine.connect() as connection:
        newest = connection.execute(text(NEWEST)).scalar_one()
    day = newest.astimezone(timezone.utc).date()
    stack.query(
        "INSERT INTO cdc.fact_order_item SELECT * REPLACE ('wrong' AS product_name,"
        " (SELECT max(_version) FROM cdc.fact_order_item) AS _version)"
        f" FROM cdc.fact_order_item FINAL WHERE toDate(order_date) = '{day}'"
    )
    assert facts(settings) != joined(engine)

    def redone() -> bool:
        """Whether it is; else redo the day. A backfill leaves out days of which a run goes on."""
        if facts(settings) == joined(engine):
            return True
        known = stack.airflow("GET", "backfills?dag_id=sluice_fact_backfill")["backfills"]
        if all(backfill["completed_at"] for backfill in known):
            stack.airflow(
                "POST",
                "backfills",
                dag_id="sluice_fact_backfill",
                reprocess_behavior="completed",
                from_date=f"{day}T00:00:00Z",
                to_date=f"{day}T23:59:59Z",
            )
        return False

    until(redone, "the fact is the join", 300, pause=2)
    engine.dispose()


@pytest.mark.clickhouse_may_crash
def test_crashes_of_broker_relay_and_clickhouse_under_load_lose_nothing(stack: Running) -> None:
    chance = random.Random(5)
    with ThreadPoolExecutor(1) as beside:
        load = ["demo", "--rate", "50", "--seconds", "20", "--seed", "5"]
        done = beside.submit(stack.sluice, *load)
        for name in chance.sample(["broker", "relay", "clickhouse"] * 2, 6):
            time.sleep(chance.uniform(0.5, 3))  # no condition: the moment is what varies
            pid = stack.status()["services"][name]["pid"]
            if pid is not None:  # else its supervisor is starting it
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
        assert done.result().returncode == 0, done.result().stderr

    def equal() -> bool:
        checked = stack.sluice("quality", "--json")
        return checked.returncode == 0 and json.loads(checked.stdout)["passed"]

    until(equal, "the fact is the join", 300, pause=1)


def test_the_scheduler_runs_all_dags_every_minute_by_itself(stack: Running) -> None:
    wanted = {"sluice_drain", "sluice_rebuild", "sluice_quality"}
    ended: dict[str, set[str]] = {dag_id: set() for dag_id in wanted}

    def went_on() -> bool:
        """Each was seen to end well, and so again later."""
        for dag_id, dag in stack.status()["dags"].items():
            if dag_id in wanted and dag["last_state"] == "success":
                ended[dag_id].add(dag["last_end"])
        return all(len(ends) > 1 for ends in ended.values())

    until(went_on, "every DAG has run twice more", 300, pause=1)
    until(lambda: bool(stack.status()["healthy"]), "the stack is healthy", 60, pause=1)
    status = stack.status()
    for table in status["tables"].values():
        assert table["postgres_rows"] == table["clickhouse_rows"]
    assert status["fact"]["rows"] == status["fact"]["expected_rows"]


def beside(stack: Running, folder: Path) -> Shell:
    """A shell with the variables of the stack and of its Airflow."""
    airflow = airflow_service.environment(
        read_settings(stack.environment), read_secrets(stack.home)
    )
    return Shell.make(folder, {**stack.environment, **airflow})


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda p: p.name)
def test_the_commands_that_a_page_quotes_run(stack: Running, page: Path, tmp_path: Path) -> None:
    postgres = replace(read_settings(stack.environment).postgres, database="quoted")
    ensure_database(postgres, postgres.database)
    create_tables(postgres)
    for number, block in enumerate(blocks(page)):
        shell = beside(stack, tmp_path / str(number))
        done = shell.run(block)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert [call for call in shell.calls() if not may_be_called(call)] == []


def test_the_commands_that_pages_name_in_sentences_run(stack: Running, tmp_path: Path) -> None:
    today = datetime.now(timezone.utc).date().isoformat()
    named = named_only("sluice") - RUN_ELSEWHERE
    whole = [call for call in sorted(named) if not re.search(r"\[|\.\.\.|your\.models", call)]
    assert len(whole) > 15
    for number, call in enumerate(whole):
        words = call.replace("TABLE", "orders").replace("KEY", "7").replace("DAY", today)
        done = beside(stack, tmp_path / str(number)).run(f"sluice {words}")
        assert done.returncode == 0, f"{call}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_a_quoted_command_that_is_wrong_is_found(stack: Running, tmp_path: Path) -> None:
    shell = beside(stack, tmp_path)
    for wrong in (
        "sluice resync nothing",
        "kubectl get pods",
        "curl -s http://localhost:3002/nothing",
        "make nothing",
    ):
        assert shell.run(f"{wrong}\ntrue").returncode != 0, wrong
    assert shell.run("docker compose --profile none up").returncode == 0
    assert [may_be_called(call) for call in shell.calls()] == [False]


@pytest.mark.parametrize(
    "name",
    ["supervisor", "postgres", "broker", "clickhouse", "airflow-api-server", "airflow-scheduler"],
)
def test_the_doctor_names_what_hangs_whatever_it_is(stack: Running, name: str) -> None:
    """And examines everything else; no command waits for it for ever."""
    if name == "supervisor":
        pid = int((stack.home / "run" / "supervisord.pid").read_text())
        held = [psutil.Process(pid)]
    else:
        program = process_of(stack.status()["services"][name]["pid"])
        held = [program, *program.children(recursive=True)]
    for process in held:
        with suppress(psutil.NoSuchProcess):  # a task's process that has just ended
            process.suspend()
    try:
        doctor = stack.sluice("doctor", "--json")
        status = stack.sluice("status")
    finally:
        for process in held:
            with suppress(psutil.NoSuchProcess):
                process.resume()
    found = json.loads(doctor.stdout)["checks"]
    silent = {check["service"] for check in found if not check["reached"]}
    assert name in silent
    assert doctor.returncode == 3
    assert status.returncode == 3 or name == "airflow-scheduler"  # without it all else answers
    assert all(check["remedy"] for check in found if not check["ok"])
    well = {"postgres", "broker", "clickhouse", "airflow-api-server"} - {name}
    assert well <= {check["service"] for check in found if check["ok"]} | (
        {"airflow-api-server"} if name in {"postgres", "supervisor"} else set()
    )


def test_wrong_calls_have_their_exit_codes_and_no_traceback(stack: Running) -> None:
    calls: list[tuple[list[str], dict[str, str], int]] = [
        (["drain", "nothing"], {}, 2),
        (["nonsense"], {}, 2),
        (["logs", "nothing"], {}, 2),
        (["up", "--detach"], {"SLUICE_HOME": f"{stack.home}-other"}, 3),
        (["quality"], {"SLUICE_POSTGRES_PORT": "1"}, 3),
        (["drain"], {"SLUICE_CLICKHOUSE_PORT": "1"}, 3),
        (["drain"], {"SLUICE_KAFKA_PORT": "1"}, 3),
        (["status"], {"SLUICE_DRAIN_EVENTS": "many"}, 2),
    ]
    for arguments, changed, code in calls:
        done = stack.sluice(*arguments, **changed)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
