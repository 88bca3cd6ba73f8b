"""The command `geofm`, also `python -m geofm_lib`: every sub-command, its words and one example.

Each command imports what it needs when it runs, so that help and completion answer at once. What a user can mend is
one sentence on standard error and exit code 2.
"""

import os
import sys

import click

from geofm_lib import rights, streams
from geofm_lib.cli import planning, reading, running, verifying  # noqa: F401, each adds its commands to the group
from geofm_lib.cli.group import commands

MAKING = {  # more than the text that they print
    *("run", "report", "compare", "export", "study", "calibrate", "verify"),
    *("--send", "--here"),
}


def main(arguments: list[str] | None = None) -> int:
    """The command line (None: this process's own); returns the exit code. A fault is one sentence on standard error.

    Where all that a command makes is text, and it was lost, the code is 74 (EX_IOERR).
    """
    streams.secure()
    words = sys.argv[1:] if arguments is None else arguments
    code = 2
    try:
        code = commands.main(arguments, prog_name="geofm", standalone_mode=False, obj=arguments is None) or 0
        lost = streams.Dropping.lost and ("--help" in words or not MAKING.intersection(words))
        return code or (os.EX_IOERR if lost else 0)
    except click.exceptions.Abort:
        return 130
    except OSError as error:
        fault = rights.told(error)
    except (click.ClickException, ValueError, RuntimeError) as error:
        fault = error.format_message() if isinstance(error, click.ClickException) else str(error)
        code = getattr(error, "exit_code", 2) if isinstance(error, RuntimeError) else code
    from geofm_lib.settings.masking import mask

    print(" ".join(mask(fault).split()), file=sys.stderr)
    return int(code)
