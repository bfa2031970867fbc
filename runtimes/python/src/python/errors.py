"""Exceptions, as callers and the log see them."""

import importlib
import os
import sys
import traceback

import _nonblocking_ffi as _host
from _nonblocking_ffi_log import ERR, INFO, WARN
from nonblocking_ffi import Error, Stopped

_IMPORTLIB = os.path.join(os.path.dirname(importlib.__file__), "")


def _is_ours(file):
    return file.startswith(("<nonblocking_ffi", "<_nonblocking_ffi",
                            "<frozen importlib", _IMPORTLIB))


def headline(error):
    """What a traceback ends with, on one line if the text has one."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except Exception:
        text = "<exception whose str() fails>"
    return f"{name}: {text}" if text else name


def place(error):
    """Where a plugin's code has failed: " (file, line n)", or ""."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not _is_ours(frame.filename)]
    if not frames or isinstance(error, SyntaxError):
        return ""
    return f" ({frames[-1].filename}, line {frames[-1].lineno})"


def report(error):
    """The headline, and the traceback without frames of the host and without
    its last line, which is the headline."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    told = traceback.TracebackException(type(error), error, trace)
    lines = list(told.format())
    last = list(told.format_exception_only())
    if len(lines) > len(last) and lines[-len(last):] == last:
        lines = lines[:-len(last)]
    elif trace is None:
        lines = []
    return "\n".join([headline(error), *"".join(lines).splitlines()])


def _is_cancellation(error):
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def describe(runtime, error, unwanted):
    """The code and the message that a task fails with; logs the traceback.
    `unwanted`: the caller had given up already. Never raises."""
    try:
        if isinstance(error, Error):
            return int(error.code), str(error.message)
        message = report(error)
        # To be cancelled is what a coroutine that nobody waits for is asked
        # for. Others may give up with an exception of their own.
        if not (unwanted and _is_cancellation(error)):
            level = (WARN if isinstance(error, Stopped)
                     else INFO if unwanted else ERR)
            _host.log(runtime, level, message)
        return 0, message
    except Exception:
        return 0, "an exception that cannot be described"
