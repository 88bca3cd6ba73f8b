"""An executed notebook without the passwords and tokens that it was given, that it holds, or that it printed."""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import nbformat

from geofm_lib import files
from geofm_lib.settings.masking import masked, secrets

ASSIGNED = re.compile(
    r"""(?m)^(?P<name>\s*\w+)(?P<between>\s*(?::\s*\w+\s*)?=\s*)(?P<quote>["'])(?P<value>.*?)(?P=quote)"""
)


def without_secrets(file: Path, known: Iterable[str]) -> set[str]:
    """Mask the secrets in an executed notebook's file; returns the known ones with those of its own cells."""
    found = set(known)
    with suppress(OSError, ValueError):  # half a file, of a full disk
        notebook = nbformat.read(str(file), as_version=4)
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assigned = [each for source in code for each in ASSIGNED.finditer(source)]
        found |= {secret for each in assigned for secret in secrets({each["name"].strip(): each["value"]})}
        clean = nbformat.from_dict(masked(notebook, found))
        for cell in clean.cells:
            cell.source = ASSIGNED.sub(_masked, cell.source) if cell.cell_type == "code" else cell.source
        if clean != notebook:
            with files.whole(file) as fresh:
                nbformat.write(clean, str(fresh))
    return found


def _masked(found: re.Match[str]) -> str:
    value = masked(found["value"], name=found["name"].strip())
    return f"{found['name']}{found['between']}{found['quote']}{value}{found['quote']}"
