"""Read reports that were written earlier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polystage.errors import PolystageError
from polystage.report.document import FORMAT, VERSION

_AGAIN = "write it with `polystage run MODEL --json FILE`"


def load_report(path: str) -> dict[str, Any]:
    """Return the document in a file.

    Raises: PolystageError where there is none, or one of another version.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PolystageError(f"cannot open '{path}': {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PolystageError(f"{path}: not a report, not even JSON: {error}", help=_AGAIN) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise PolystageError(f"{path}: not a report of polystage run", help=_AGAIN)
    if found.get("version") != VERSION:
        raise PolystageError(
            f"{path}: a report of version {found.get('version')}, but this program reads version "
            f"{VERSION}",
            help=_AGAIN,
        )
    return found
