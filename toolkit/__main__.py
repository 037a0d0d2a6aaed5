"""The door: `edgeproof`, `python -m edgeproof` and `python cli.py` in a checkout are this command.

Nothing here needs more than Python, so that what is missing can be said in one line, whatever it is.
"""

from __future__ import annotations

import io
import sys
import traceback

from edgeproof.errors import ToolkitError, one_line
from edgeproof.system.distributed import joined, leave, tell
from edgeproof.system.optional import missing


def main() -> None:
    """Run the command line; the exit status is 0 done, 1 limit failed, 2 usage or input, 3 missing, 4 our bug, 130 interrupted."""
    try:
        from edgeproof.commands import cli

        with joined():
            cli.main(prog_name="edgeproof", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        status, said = explain(error)
        tell(said)
        leave(status)


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit status of what has ended a command, and what is said of it."""
    if isinstance(error, ImportError):
        error = missing(error) or error
    if isinstance(error, ToolkitError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, OSError):
        return 2, one_line(f"error: {error.filename or 'a file'}: {error.strerror or error}")
    if isinstance(error, KeyboardInterrupt):
        return 130, ""
    if "click" in sys.modules:
        import click

        if isinstance(error, click.Abort):
            return 130, ""
        if isinstance(error, click.ClickException):
            shown = io.StringIO()
            error.show(shown)
            return 2, shown.getvalue().rstrip()
    trace = "".join(traceback.format_exception(error))
    if plugin := _plugin_at_fault(error):
        return 4, f"{trace}the plug-in {plugin} failed, see the traceback above"
    return 4, f"{trace}this is a bug of edgeproof's; please report it with the traceback above"


def _plugin_at_fault(error: BaseException) -> str:
    """Return the file of the user's plug-in in which an error was raised, or that called what raised it; else ""."""
    try:
        from edgeproof.plugins.registry import users

        files = {str(entry.file) for entry in users() if entry.file}
    except (ToolkitError, ImportError):
        return ""
    called = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return next((name for name in reversed(called) if name in files), "")


if __name__ == "__main__":
    main()
