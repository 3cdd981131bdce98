"""The users of the embedded ClickHouse and their rights.

They are those of `docker/clickhouse/users.xml`, with the stack's own passwords and without the
limits of a shared server. `default` remains, without a password, because the statements that start
the server run as this user, and no address tells their session from others. Its quota is these
statements: no other one of `default` is run until the server starts again.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from sluice.embedded import private
from sluice.embedded.clickhouse import STARTING
from sluice.settings import PACKAGE, WRITER

CONFIGURATION = "clickhouse.xml"
READER = "olap"
# User -> name of the stack's secret that is the user's password.
SECRETS: Mapping[str, str] = {WRITER: "clickhouse", READER: "clickhouse_reader"}

_USERS = PACKAGE / "embedded/users.xml"
_KEEPER = """
<default>
    <no_password/>
    <networks><ip>127.0.0.1</ip></networks>
    <profile>keeper</profile>
    <quota>keeper</quota>
    <grants>
        <query>GRANT SELECT ON system.numbers</query>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
    </grants>
</default>
"""
# See clickhouse.STARTING. Intervals are counted from 1970; the longest ends in 2038.
_QUOTA = """
<keeper>
    <interval><duration>2147483647</duration><queries>{queries}</queries></interval>
</keeper>
"""
# Without these settings every user can read all tables of `system`.
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
    """Write the server's configuration and users to a folder, readable by their owner only."""
    users = folder / "clickhouse-users.xml"
    private.write(users, ET.tostring(_users(secrets), encoding="unicode"))
    private.write(folder / CONFIGURATION, _SERVER.strip().format(users=users))


def _users(secrets: Mapping[str, str]) -> ET.Element:
    root = ET.parse(_USERS).getroot()  # noqa: S314 - a file of the project's own
    profiles, users = _element(root, "profiles"), _element(root, "users")
    _element(profiles, "pipeline").clear()
    ET.SubElement(profiles, "default")
    keeper = ET.SubElement(profiles, "keeper")
    # No CORS header for `default`, so that other web pages cannot read answers; the play page needs
    # the header for the users with passwords.
    constraints = ET.SubElement(keeper, "constraints")
    ET.SubElement(ET.SubElement(constraints, "add_http_cors_header"), "readonly")
    quotas = ET.SubElement(root, "quotas")
    ET.SubElement(quotas, "default")
    quotas.append(ET.fromstring(_QUOTA.format(queries=len(STARTING))))  # noqa: S314
    users.remove(_element(users, "default"))
    users.append(ET.fromstring(_KEEPER))  # noqa: S314
    for name, secret in SECRETS.items():
        user = _element(users, name)
        user.remove(_element(user, "password"))
        digest = hashlib.sha256(secrets[secret].encode()).hexdigest()
        ET.SubElement(user, "password_sha256_hex").text = digest
        networks = _element(user, "networks")
        networks.clear()
        for address in ("127.0.0.1", "::1"):
            ET.SubElement(networks, "ip").text = address
    return root


def _element(parent: ET.Element, tag: str) -> ET.Element:
    child = parent.find(tag)
    assert child is not None, tag
    return child
