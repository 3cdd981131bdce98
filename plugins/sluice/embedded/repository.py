"""Reads the files of a Maven repository: from a folder, or by HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from sluice.errors import NeedsPerson, SluiceError, Unreachable, WrongUsage

_TRIES = 3
_REFUSED = frozenset({401, 403, 407})
_GONE = frozenset({404, 410})


def reader(repository: str, seconds: float) -> Callable[[str], bytes]:
    """Return the function that reads the file at a path in the repository.

    Args:
        repository: its URL, or a folder with its paths or with the files themselves.
        seconds: how long a server may send nothing.

    Raises:
        WrongUsage: the address is not valid.
    """
    try:
        parts = urlsplit(repository)
        host, _ = parts.hostname, parts.port  # raises where it is no number
    except ValueError:  # its text may have a part of a password
        raise WrongUsage(
            "SLUICE_MAVEN_REPOSITORY is not a valid address", remedy="use a folder or https://..."
        ) from None
    if parts.scheme in {"", "file"}:
        place = url2pathname(parts.path) if parts.scheme else repository
        return partial(_from_folder, Path(place).expanduser().resolve())
    if parts.username or parts.password:
        raise WrongUsage(
            "SLUICE_MAVEN_REPOSITORY takes no user and password",
            remedy="unset it, and give both to mvn in ~/.m2/settings.xml",
        )
    if parts.scheme not in {"http", "https"} or not host:
        raise WrongUsage(
            f"SLUICE_MAVEN_REPOSITORY is not valid: {parts.scheme}:",
            remedy="use a folder or https://...",
        )
    return partial(_from_address, repository.rstrip("/"), seconds)


def _from_folder(folder: Path, path: str) -> bytes:
    for place in (folder / path, folder / Path(path).name):
        with suppress(FileNotFoundError, NotADirectoryError):
            return _content(place)
    if not folder.is_dir():
        raise NeedsPerson(
            f"there is no folder {folder}", remedy="correct SLUICE_MAVEN_REPOSITORY, or unset it"
        )
    raise NeedsPerson(
        f"the folder {folder} has no {path}",
        remedy="set SLUICE_MAVEN_REPOSITORY to a folder with all files of"
        " plugins/sluice/embedded/kafka-jars.txt",
    )


def _content(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except PermissionError as error:
        raise NeedsPerson(
            f"{place} cannot be read: {error.strerror}",
            remedy="permit this user to read the folder of SLUICE_MAVEN_REPOSITORY",
        ) from error


def _from_address(root: str, seconds: float, path: str) -> bytes:
    """Read a file by HTTP, with a few tries unless the server has decided."""
    address = f"{root}/{path}"
    for left in reversed(range(_TRIES)):
        try:
            with urlopen(address, timeout=seconds) as answer:  # noqa: S310
                content: bytes = answer.read()
                return content
        except HTTPError as error:
            error.close()
            if error.code in _GONE | _REFUSED or not left:
                raise _refused(address, error) from error
        except (OSError, HTTPException, ValueError) as error:
            if not left:
                raise Unreachable(
                    f"{address} cannot be fetched: {_words(error)}",
                    remedy="check the network, or set SLUICE_MAVEN_REPOSITORY to a mirror or a"
                    " folder with the files",
                ) from error
    raise AssertionError("the last try returns or raises")


def _refused(address: str, error: HTTPError) -> SluiceError:
    """Return the error of a server that answers and sends no file."""
    answer = f"HTTP {error.code} {error.reason}"
    if error.code in _REFUSED:
        return NeedsPerson(
            f"{address} is refused: {answer}",
            remedy="if it needs a login, unset SLUICE_MAVEN_REPOSITORY and give the login to mvn in"
            " ~/.m2/settings.xml",
        )
    if error.code in _GONE:
        return NeedsPerson(
            f"{address} does not exist: {answer}",
            remedy="set SLUICE_MAVEN_REPOSITORY to a repository or a folder that has it",
        )
    return Unreachable(
        f"{address} cannot be fetched: {answer}",
        remedy="try again later, or set SLUICE_MAVEN_REPOSITORY to a mirror or a folder",
    )


def _words(error: Exception) -> str:
    """Describe an error of the connection."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, IncompleteRead):
        return f"the connection was cut after {len(reason.partial)} bytes"
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return str(reason) or type(reason).__name__
