"""The log of the library as plain lines on stderr, as the command line shows it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)  # looked up at each line, since it may be redirected by then


@contextlib.contextmanager
def logged_to_stderr() -> Iterator[None]:
    """Write what is logged under `edgeproof`, from INFO on, to stderr, a plain line each; within another one, nothing more."""
    log = logging.getLogger("edgeproof")
    if any(isinstance(handler, _Lines) for handler in log.handlers):
        yield
        return
    handler, level = _Lines(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
