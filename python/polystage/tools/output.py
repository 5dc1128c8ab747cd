"""Output files that are either complete or not there."""

import os
import tempfile
from pathlib import Path

from polystage.errors import PolystageError


def check_writable(*paths: str) -> None:
    """Refuse, before long work, files that could not be written after it; empty ones are skipped.

    Raises: PolystageError for a folder, or where that of a file is missing or read-only.
    """
    for path in filter(None, paths):
        if Path(path).is_dir():
            raise PolystageError(f"cannot write '{path}': Is a directory")
        folder = Path(path).parent
        if path != "-" and not os.access(folder, os.W_OK):
            reason = "Permission denied" if folder.is_dir() else "No such file or directory"
            raise PolystageError(f"cannot write '{path}': {reason}")


def write_atomically(path: str, content: str | bytes) -> None:
    """Write a file through a temporary one beside it, so that no reader sees half of it.

    Raises: PolystageError where the file cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise PolystageError(f"cannot write '{path}': {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        os.unlink(temporary)
        raise PolystageError(f"cannot write '{path}': {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
