"""Writes docs/settings.md and .env.example from sluice.settings: every variable; make docs."""

from __future__ import annotations

from pathlib import Path

from sluice.settings import VARIABLES

_PROJECT = Path(__file__).resolve().parents[1]
PAGE, EXAMPLE = _PROJECT / "docs" / "settings.md", _PROJECT / ".env.example"
_HEAD = "# Copy to .env to change a setting; every command reads it. Shown are the defaults.\n\n"
# The rest of .env.example is written by hand.
_COMPOSE = "# Docker Compose alone"
_BEGINNING = """# Settings

Every setting is an environment variable; `make docs` writes this page from
`plugins/sluice/settings/variables.py`. An empty value counts as not set. The first of these that
has a value decides, and `sluice config` shows which one it was:

1. the environment;
2. `.env` in the project's folder: lines `NAME=value`, as for Docker Compose, without `${...}`. Copy
   `.env.example` and change what you need;
3. `sluice.toml`: see [your own repository](own-project.md#sluicetoml);
4. of ports, those with which the stack was started;
5. the default.

Tasks in Airflow read the addresses, users, passwords and options of the three services from
connections instead: see [Airflow](services/airflow.md). The variables of `docker-compose.yaml`
are in `.env.example` and in [containers](compose.md).

| setting | default | meaning |
|---|---|---|
"""


def page() -> str:
    """Return the page's text."""
    rows = (
        f"| `{name}` | {f'`{default}`' if default else ''} | {_cell(meaning)} |\n"
        for name, (default, meaning) in VARIABLES.items()
    )
    return _BEGINNING + "".join(rows)


def example() -> str:
    """Return .env.example with the settings of now."""
    settings = (
        f"# {meaning}\n# {name}={default}\n\n" for name, (default, meaning) in VARIABLES.items()
    )
    compose = EXAMPLE.read_text().partition(_COMPOSE)[2]
    return _HEAD + "".join(settings) + _COMPOSE + compose


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
    EXAMPLE.write_text(example())
