"""What a plugin in Python can ask of the nginx worker that runs it.

The functions are about the task, or the runtime, in which they are called:
from the plugin's function, from what it calls, from a coroutine of it. A thread
that the plugin starts has neither; give it what ``current()`` returns.

A plugin that needs none of this need not import it. Outside of nginx the
functions do something sensible: nothing is ever cancelled, and the log goes to
standard error. ``nonblocking_ffi.testing`` has more for tests.
"""

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Dict, Iterator, Optional, Tuple

if TYPE_CHECKING:
    from nonblocking_ffi import _outside as _host
else:
    try:
        import _nonblocking_ffi as _host
    except ImportError:
        from nonblocking_ffi import _outside as _host

__version__ = "0.1.0"
__all__ = [
    "Context", "Error", "Stopped", "cancelled", "config", "current", "log",
    "remaining", "set_status", "shield",
]

_LEVELS = {
    "emerg": 1, "alert": 2, "crit": 3, "critical": 3, "err": 4, "error": 4,
    "warn": 5, "warning": 5, "notice": 6, "info": 7, "debug": 8,
}

# (runtime, task) where the calling thread alone does not tell: in coroutines.
_context: "ContextVar[Optional[Tuple[int, int]]]" = ContextVar(
    "nonblocking_ffi", default=None)
# The name and the configuration of each runtime, by its number.
_runtimes: Dict[int, Tuple[str, str]] = {}


class Error(Exception):
    """Fails a task with a code and a message of the plugin's own.

    The Lua caller gets ``nil, "runtime error: <message>", code, message``.
    Nothing is logged: it is an answer. Any other exception has the code 0, and
    its traceback goes to nginx's error log.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class Stopped(BaseException):
    """Raised inside of a task that runs on after its deadline, or after its
    caller has cancelled it.

    It can be raised between any two lines, and is no ``Exception``, so that only
    what must be done in any case is done: ``finally`` and ``with``. See
    ``shield`` for what must not be interrupted.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or (
            "the deadline has passed, or the caller has cancelled the task",)))


def _here() -> Tuple[int, int]:
    here = _host.here() or _context.get()
    if here is None:
        raise RuntimeError(
            "this thread runs no task: give it what nonblocking_ffi.current() "
            "returns in one that does")
    return here


class Context:
    """A task, or a runtime that is being opened or closed: what the functions
    of this module are about, to be passed to other threads.

    It may be kept; a task that has ended counts as cancelled.
    """

    __slots__ = ("_runtime", "_task")

    def __init__(self, runtime: int, task: int) -> None:
        self._runtime = runtime
        self._task = task

    @property
    def runtime(self) -> str:
        """The runtime's name, as in nginx's error log."""
        return _runtimes.get(self._runtime, ("", ""))[0]

    @property
    def config(self) -> str:
        """The string that ``load`` was given as ``config``, or ""."""
        return _runtimes.get(self._runtime, ("", ""))[1]

    def cancelled(self) -> bool:
        """Whether nobody wants the result any more: the caller has timed out,
        or cancelled the task, or the deadline has passed. Cheap: a long task
        asks often."""
        return self._task != 0 and _host.unwanted(self._task)

    def remaining(self) -> Optional[float]:
        """Seconds until the deadline, 0.0 if it has passed, None if there is
        none."""
        if self._task == 0:
            return None
        remaining = _host.remaining(self._task)
        return None if remaining is None else remaining / 1e9

    @property
    def deadline(self) -> Optional[float]:
        """The deadline, on the clock of ``time.monotonic()``; None if there is
        none."""
        remaining = self.remaining()
        return None if remaining is None else time.monotonic() + remaining

    def set_status(self, code: int, message: str = "") -> None:
        """Gives the response a status: the Lua caller gets
        ``response, nil, code, message``. Completes nothing."""
        if self._task != 0:
            _host.set_status(self._task, code, message)

    def log(self, message: object, level: str = "info") -> None:
        """Writes to nginx's error log. ``level`` is one of nginx's: "debug",
        "info", "notice", "warn", "err", "crit", "alert", "emerg"."""
        if level not in _LEVELS:
            raise ValueError(f"no level of nginx's: {level!r}")
        _host.log(self._runtime, _LEVELS[level], str(message))


def current() -> Context:
    """The task that this is called in. Raises RuntimeError in a thread that
    runs none."""
    return Context(*_here())


def config() -> str:
    """The string that ``load`` was given as ``config``, or ""."""
    return current().config


def cancelled() -> bool:
    """``current().cancelled()``"""
    return current().cancelled()


def remaining() -> Optional[float]:
    """``current().remaining()``"""
    return current().remaining()


def set_status(code: int, message: str = "") -> None:
    """``current().set_status(code, message)``"""
    current().set_status(code, message)


def log(message: object, level: str = "info") -> None:
    """Writes to nginx's error log; in any thread. See ``Context.log``."""
    Context(*(_host.here() or _context.get() or (0, 0))).log(message, level)


@contextmanager
def shield() -> Iterator[None]:
    """``with shield():`` keeps the calling thread's task from being stopped by
    ``Stopped``, which is then raised at its end. For moments, and not across an
    ``await``."""
    _host.shield(1)
    try:
        yield
    finally:
        if _host.shield(-1):
            raise Stopped
