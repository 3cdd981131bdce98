"""The users of the embedded ClickHouse: who comes in at its ports, and what each may do.

They are those of `docker/clickhouse/users.xml`, with passwords of the stack's own and without the
limits of a shared server. `default` is left, without a password, because the query that keeps the
server's process alive runs as it: it may read `system.numbers` and start listening, nothing else.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from sluice.embedded import private
from sluice.settings import PROJECT, WRITER

CONFIGURATION = "clickhouse.xml"
READER = "olap"
# The stack's secret that is each user's password.
SECRETS: Mapping[str, str] = {WRITER: "clickhouse", READER: "clickhouse_reader"}

_USERS = PROJECT / "docker" / "clickhouse" / "users.xml"
_KEEPER = """
<default>
    <no_password/>
    <networks><ip>127.0.0.1</ip></networks>
    <profile>keeper</profile>
    <quota>default</quota>
    <grants>
        <query>GRANT SELECT ON system.numbers</query>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
    </grants>
</default>
"""
# Without these a user reads every table of `system`, whatever it is granted.
_SERVER = """
<clickhouse>
    <users_config>{users}</users_config>
    <mlock_executable>false</mlock_executable>
    <access_control_improvements>
        <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
        <select_from_information_schema_requires_grant>true</select_from_information_schema_requires_grant>
        <table_engines_require_grant>true</table_engines_require_grant>
        <on_cluster_queries_require_cluster_grant>true</on_cluster_queries_require_cluster_grant>
    </access_control_improvements>
</clickhouse>
"""


def write_configuration(folder: Path, secrets: Mapping[str, str]) -> None:
    """Write the server's configuration and its users, readable by their owner.

    Args:
        folder: where CONFIGURATION and the users go.
        secrets: the stack's; see SECRETS.

    """
    users = folder / "clickhouse-users.xml"
    private.write(users, ET.tostring(_users(secrets), encoding="unicode"))
    private.write(folder / CONFIGURATION, _SERVER.strip().format(users=users))


def _users(secrets: Mapping[str, str]) -> ET.Element:
    root = ET.parse(_USERS).getroot()  # noqa: S314 - a file of the project's own
    profiles, users = _found(root, "profiles"), _found(root, "users")
    _found(profiles, "pipeline").clear()
    ET.SubElement(profiles, "default")
    keeper = ET.SubElement(profiles, "keeper")
    # Web pages of another origin get no answer that they may read; the play page needs this header
    # for the users with passwords.
    constraints = ET.SubElement(keeper, "constraints")
    ET.SubElement(ET.SubElement(constraints, "add_http_cors_header"), "readonly")
    ET.SubElement(ET.SubElement(root, "quotas"), "default")
    users.remove(_found(users, "default"))
    users.append(ET.fromstring(_KEEPER))  # noqa: S314
    for name, secret in SECRETS.items():
        user = _found(users, name)
        user.remove(_found(user, "password"))
        digest = hashlib.sha256(secrets[secret].encode()).hexdigest()
        ET.SubElement(user, "password_sha256_hex").text = digest
        networks = _found(user, "networks")
        networks.clear()
        for address in ("127.0.0.1", "::1"):
            ET.SubElement(networks, "ip").text = address
    return root


def _found(parent: ET.Element, tag: str) -> ET.Element:
    child = parent.find(tag)
    assert child is not None, tag
    return child
