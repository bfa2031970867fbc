"""Runs a plugin as nginx would, in a test and without nginx.

    from nonblocking_ffi.testing import Runtime

    with Runtime("words:count", config="") as words:
        assert words.call(b"a\\n\\nb\\n", timeout=1) == b"2"

Exceptions come as they are. Nothing is stopped at its deadline, but
``cancelled()`` tells.
"""

import asyncio
import itertools
from types import TracebackType
from typing import Any, Optional, Tuple, Type

import nonblocking_ffi
from nonblocking_ffi import _outside
from nonblocking_ffi._entry import Handler

_numbers = itertools.count(1)


class Runtime:
    """A runtime: an entry with one configuration."""

    def __init__(self, entry: str, config: str = "") -> None:
        #: The status of the last response: a code and a message, or None.
        self.status: Optional[Tuple[int, str]] = None
        self._number = next(_numbers)
        nonblocking_ffi._runtimes[self._number] = (entry, config)
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        token = nonblocking_ffi._context.set((self._number, 0))
        try:
            self._handler = Handler(entry)
            if self._handler.is_async:
                self._loop = asyncio.new_event_loop()
                self._loop.run_until_complete(self._handler.open_async(config))
            else:
                self._handler.open(config)
        finally:
            nonblocking_ffi._context.reset(token)

    def call(self, request: bytes, timeout: Optional[float] = None,
             cancelled: bool = False) -> bytes:
        """Sends a request; returns the response.

        ``timeout`` is in seconds. With ``cancelled`` the caller has given up
        before the task begins.
        """
        task = _outside.Task(timeout)
        task.cancelled = cancelled
        token = nonblocking_ffi._context.set((self._number, task.number))
        try:
            result: Any = self._handler.function(request)
            if self._loop is not None:
                result = self._loop.run_until_complete(result)
            self.status = task.status
            return to_bytes(result)
        finally:
            nonblocking_ffi._context.reset(token)
            del _outside.tasks[task.number]

    def close(self) -> None:
        """Ends the runtime."""
        if self._loop is None:
            self._handler.close()
            return
        self._loop.run_until_complete(self._handler.close_async())
        self._loop.close()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]],
                 value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()


def to_bytes(result: Any) -> bytes:
    """The response that a function's result is. Raises TypeError."""
    if result is None:
        return b""
    if isinstance(result, str):
        return result.encode()
    try:
        return bytes(memoryview(result))
    except TypeError:
        raise TypeError(
            f"{type(result).__name__} was returned, but a response is bytes "
            "(or bytearray, memoryview, str, None)") from None
