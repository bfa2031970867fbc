"""The host's own Python code: what is easier said in Python than in Rust.

One instance per process, run before any plugin's code. `log`, `errors`, `exit`,
`faults`, `finder`, `namespaces`, `modules`, `spawned` and `loop` are beside this
file; they have names that begin with `_nonblocking_ffi_`.
"""

import sys

# What the interpreter has loaded by itself, before any import of ours.
_STARTED = frozenset(sys.modules)

import gc  # noqa: E402
import os  # noqa: E402
import threading  # noqa: E402

import _nonblocking_ffi as _host  # noqa: E402

_FINDER = "_nonblocking_ffi_finder"
exec(compile(_host.sources[_FINDER], f"<{_FINDER}>", "exec"),
     {"__name__": _FINDER, "sources": _host.sources})

import nonblocking_ffi  # noqa: E402
from _nonblocking_ffi_errors import (  # noqa: E402
    describe, headline, place, report)
from _nonblocking_ffi_exit import end, finish  # noqa: E402, F401
from _nonblocking_ffi_log import ERR, install  # noqa: E402
from _nonblocking_ffi_modules import Modules  # noqa: E402
import _nonblocking_ffi_faults as faults  # noqa: E402
import _nonblocking_ffi_namespaces as namespaces  # noqa: E402
import _nonblocking_ffi_spawned as spawned  # noqa: E402
from nonblocking_ffi import Stopped  # noqa: E402, F401

install()
namespaces.install(_STARTED)
faults.install()
spawned.install()


def _in_child():
    _host.forked()
    # Before Python 3.12, a child that is forked by a thread which is not Python's
    # own has no proper main thread if that thread has asked for itself before, and
    # every exit of the child fails. This is what later versions do.
    main = threading.main_thread()
    if isinstance(main, threading._DummyThread):
        main.__class__ = threading._MainThread
        main._name, main._daemonic = "MainThread", False
        main._set_tstate_lock()


# After the module threading has done the same.
os.register_at_fork(after_in_child=_in_child)

# Those that are open, by number.
_runtimes = {}


class _Runtime:
    """One entry with one configuration."""

    def __init__(self, number, name, entry, config, folders, venv):
        self.number = number
        self.modules = Modules(number)
        self.handler = self.loop = None
        nonblocking_ffi._runtimes[number] = (name, config)
        try:
            self.handler = self.modules.load(entry, folders, venv)
            if self.handler.is_async:
                # asyncio takes its time, and 8 MB: only who needs it has it.
                from _nonblocking_ffi_loop import Loop
                self.loop = Loop(number, name)
                self.loop.run(self.handler.open_async(config))
                self.loop.start(self.handler.function)
            else:
                self.handler.open(config)
        except BaseException:
            self.release()
            raise

    def close(self):
        try:
            if self.loop is None:
                self.handler.close()
            else:
                self.loop.run(self.handler.close_async())
        finally:
            self.release()

    def release(self):
        if self.loop is not None:
            self.loop.stop()
        self.modules.release()
        nonblocking_ffi._runtimes.pop(self.number, None)
        # So that what the plugin leaves behind is garbage, whoever still has
        # this object.
        self.handler = self.loop = None


def open(number, name, entry, config, folders, venv):
    """Readies a runtime: (itself, the function to call); the latter is None if
    a loop serves it. If it fails: (None, why), and the traceback is logged."""
    try:
        runtime = _Runtime(number, name, entry, config, folders, venv)
    except BaseException as error:
        why = headline(error) + place(error)
        _host.log(number, ERR, report(error))
        return None, why
    _runtimes[number] = runtime
    return runtime, None if runtime.loop else runtime.handler.function


def close(runtime):
    """Ends a runtime."""
    _runtimes.pop(runtime.number, None)
    try:
        runtime.close()
    except BaseException as error:
        describe(runtime.number, error, False)


def collect():
    """Frees what closed runtimes have left: modules are cycles, and may be
    large."""
    gc.collect()


def yield_gil():
    """Lets other threads have the GIL if they have asked for it: Python looks
    at that when a function begins. To release it for a moment would not do: a
    thread that waits has to be awake to get it, and starts to wait anew."""


def task_of_loop(number):
    """The task that the loop of a runtime is in, or 0."""
    runtime = _runtimes.get(number)
    return runtime.loop.current() if runtime and runtime.loop else 0
