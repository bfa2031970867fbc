"""Stands in for the host where there is none: outside of nginx."""

import itertools
import sys
import time
from typing import Dict, Optional, Tuple

_NAMES = ("", "emerg", "alert", "crit", "err", "warn", "notice", "info",
          "debug")

# What `nonblocking_ffi.testing` says of its tasks: the deadline, if there is
# one, and the status.
tasks: Dict[int, "Task"] = {}
_numbers = itertools.count(1)


class Task:
    """A task of a test."""

    def __init__(self, timeout: Optional[float]) -> None:
        self.number = next(_numbers)
        self.end = None if timeout is None else time.monotonic() + timeout
        self.cancelled = False
        self.status: Optional[Tuple[int, str]] = None
        tasks[self.number] = self


def here() -> Optional[Tuple[int, int]]:
    return None


def unwanted(number: int) -> bool:
    task = tasks.get(number)
    if task is None or task.cancelled:
        return True
    return task.end is not None and task.end <= time.monotonic()


def remaining(number: int) -> Optional[int]:
    task = tasks.get(number)
    if task is None:
        return 0
    if task.end is None:
        return None
    return max(0, int((task.end - time.monotonic()) * 1e9))


def set_status(number: int, code: int, message: str) -> None:
    if number in tasks:
        tasks[number].status = (code, message)


def log(runtime: int, level: int, text: str) -> None:
    print(f"[{_NAMES[level]}] {text}", file=sys.stderr)


def shield(by: int) -> bool:
    return False
