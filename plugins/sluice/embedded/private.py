"""Private files and folders of the state directory, closed to other users of the machine."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from sluice.errors import WrongUsage

# The umask of all programs of the stack, so that only their owner can read their files.
UMASK = 0o077
_ACL, _ACL_VERSION, _PASS = "system.posix_acl_access", 2, 1
_ACL_USER_OBJ, _ACL_USER, _ACL_GROUP_OBJ, _ACL_MASK, _ACL_OTHER = 1, 2, 4, 16, 32
_ACL_NOBODY = 0xFFFFFFFF
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing any file of its name.

    A symbolic link is replaced, not followed.

    Raises:
        WrongUsage: the folder belongs to another user, or cannot be written.
    """
    require_own(path.parent)
    draft = path.with_name(f"{path.name}.draft")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, flags, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        raise WrongUsage(
            f"{path} cannot be written: {error.strerror}",
            remedy="run as the user who owns its folder",
        ) from error


def require_own(path: Path) -> None:
    """Require that a file or folder belongs to this user or root.

    Raises:
        WrongUsage: another user owns it, and could change files that this user trusts.
    """
    owner = path.lstat().st_uid
    if owner not in {os.geteuid(), 0}:
        raise WrongUsage(
            f"{path} belongs to another user, of id {owner}",
            remedy="remove it, or use a folder of your own (SLUICE_HOME)",
        )


def close(folder: Path, group: int | None = None) -> None:
    """Close a folder to all other users.

    Args:
        group: a group whose members may pass the folder to one of their own below it, without
            listing it. Default: none.

    Raises:
        WrongUsage: another user owns it.
    """
    require_own(folder)
    if group is None:
        folder.chmod(0o700)
    else:
        os.chown(folder, -1, group)
        folder.chmod(0o710)


def admit(folder: Path, user: int) -> bool:
    """Let one account pass a folder, by an entry in its access control list.

    Returns:
        False where the file system has no such lists.

    Source: acl(5), and Linux' posix_acl_xattr.h for the extended attribute.
    """
    if not hasattr(os, "setxattr"):
        return False
    entries = {
        (tag, qualifier): permissions for tag, permissions, qualifier in _access_list(folder)
    }
    entries[_ACL_USER, user] = entries.get((_ACL_USER, user), 0) | _PASS
    mask = entries.get((_ACL_MASK, _ACL_NOBODY), entries[_ACL_GROUP_OBJ, _ACL_NOBODY])
    entries[_ACL_MASK, _ACL_NOBODY] = mask | _PASS
    packed = (
        struct.pack("<HHI", tag, entries[tag, qualifier], qualifier)
        for tag, qualifier in sorted(entries)
    )
    try:
        os.setxattr(folder, _ACL, struct.pack("<I", _ACL_VERSION) + b"".join(packed))
    except OSError:
        return False
    return True


def _access_list(folder: Path) -> Iterator[tuple[int, int, int]]:
    """Yield (tag, permissions, qualifier) of a folder's access control list, or of its mode."""
    try:
        stored = os.getxattr(folder, _ACL)
    except OSError:
        mode = folder.stat().st_mode
        for tag, shift in ((_ACL_USER_OBJ, 6), (_ACL_GROUP_OBJ, 3), (_ACL_OTHER, 0)):
            yield tag, mode >> shift & 7, _ACL_NOBODY
    else:
        yield from struct.iter_unpack("<HHI", stored[4:])


def open_to_all(places: Iterable[Path]) -> Iterator[Path]:
    """Yield what every account may change: of files and folders, what is in them, folders above.

    Symbolic links are not followed. In a folder such as /tmp nobody can replace what others made.
    """
    found: dict[Path, None] = {}
    for place in places:
        found |= dict.fromkeys(above for above in place.absolute().parents if _replaceable(above))
        found |= dict.fromkeys(path for path in (place, *place.rglob("*")) if _changeable(path))
    yield from found


def _changeable(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return bool(mode & stat.S_IWOTH) and not stat.S_ISLNK(mode)


def _replaceable(folder: Path) -> bool:
    return _changeable(folder) and not folder.stat().st_mode & stat.S_ISVTX


def tighten(folder: Path, guest: int | None = None) -> None:
    """Remove other users' rights to everything below a folder.

    Args:
        guest: a user of the stack whose files are unchanged. Default: none.

    Raises:
        WrongUsage: a file belongs to another user.
    """
    for path, entry in _below(folder, guest):
        if entry.st_uid == os.geteuid() and entry.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(entry.st_mode) & ~_OTHERS)


def _below(folder: Path, guest: int | None) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below the folder except links and the guest's files."""
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            try:
                entry = path.lstat()
            except FileNotFoundError:  # databases drop files
                continue
            if entry.st_uid == guest and name in folders:
                folders.remove(name)
            if entry.st_uid == guest or stat.S_ISLNK(entry.st_mode):
                continue
            if entry.st_uid not in {os.geteuid(), 0}:
                require_own(path)
            yield path, entry
