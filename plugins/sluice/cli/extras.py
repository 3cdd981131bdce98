"""Whether the extra with the embedded stack is installed."""

from __future__ import annotations

from importlib.util import find_spec

from sluice.errors import WrongUsage


def has_embedded() -> bool:
    """Whether the embedded stack can be imported."""
    return find_spec("supervisor") is not None


def require_embedded() -> None:
    """Raise WrongUsage without the embedded stack."""
    if not has_embedded():
        raise WrongUsage(
            "the embedded stack is not installed", remedy="run: pip install 'sluice[embedded]'"
        )
