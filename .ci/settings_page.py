"""Writes docs/settings.md from sluice.settings: every variable with its default; make docs."""

from __future__ import annotations

from pathlib import Path

from sluice.settings import VARIABLES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
_BEGINNING = """# Settings

Every setting is an environment variable; `make docs` writes this page from
`plugins/sluice/settings.py`. `make` also reads `.env`: copy `.env.example` and change what you
need. An empty value counts as not set.

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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
