"""Where what plugins log and print goes: nginx's error log."""

import io
import logging
import sys

import _nonblocking_ffi as _host
import nonblocking_ffi

# nginx's levels.
CRIT, ERR, WARN, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7, 8


class _Lines(io.RawIOBase):
    """A stream whose lines go to nginx's error log."""

    def __init__(self, level):
        self._level = level
        self._rest = b""

    def writable(self):
        return True

    def write(self, data):
        lines = (self._rest + bytes(data)).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.strip():
                _log(self._level, line.decode("utf-8", "backslashreplace"))
        return len(data)


def _log(level, text):
    here = _host.here() or nonblocking_ffi._context.get() or (0, 0)
    _host.log(here[0], level, text)


class _Handler(logging.Handler):
    """What `logging` logs, with its level."""

    def emit(self, record):
        try:
            number = record.levelno
            level = (CRIT if number >= logging.CRITICAL
                     else ERR if number >= logging.ERROR
                     else WARN if number >= logging.WARNING
                     else NOTICE if number > logging.INFO
                     else INFO if number == logging.INFO
                     else DEBUG)
            _log(level, self.format(record))
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    def formatMessage(self, record):
        if record.name == "root":
            return record.message
        return f"{record.name}: {record.message}"


def install():
    """Before any plugin's code runs."""
    # What a sitecustomize has put there stays.
    for name, level in (("stdout", NOTICE), ("stderr", WARN)):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):
            buffer = io.BufferedWriter(_Lines(level))
            setattr(sys, name, io.TextIOWrapper(
                buffer, encoding="utf-8", errors="backslashreplace",
                line_buffering=True))
    root = logging.getLogger()
    if not root.handlers:
        handler = _Handler()
        handler.setFormatter(_Formatter())
        root.addHandler(handler)
        # nginx's error_log says what is written; what is more verbose than
        # this is not even formatted.
        root.setLevel(logging.INFO)
