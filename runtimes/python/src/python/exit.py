"""The end of the process: what Python does at its own end, without finalising
itself, since other threads go on running Python until the very last moment."""

import atexit
import gc
import io
import operator
import os
import posix
import stat
import sys
import threading
import time

import _nonblocking_ffi as _host
import nonblocking_ffi
from _nonblocking_ffi_errors import report
from _nonblocking_ffi_log import ERR

# The status by which a worker tells nginx not to start another one.
FATAL = 2

# Files that Python's own `io` buffers: `flush` writes all of it.
_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom,
             io.BufferedRWPair)
# Files, by module and class, that are complete only when they are closed.
_CLOSED = (("gzip", "GzipFile"), ("bz2", "BZ2File"), ("lzma", "LZMAFile"))

# Whether the functions of `atexit` have been begun.
_begun = False


def end():
    """All of it. On Python's main thread, which is the one that non-daemon
    threads, `concurrent.futures` and `atexit` expect."""
    _try(threading._shutdown)
    finish()


def finish():
    """What is left of it, when a thread that was waited for has not ended. On
    any thread."""
    global _begun
    if not _begun:
        _begun = True
        _try(atexit._run_exitfuncs)
    _try(_release_tracker)
    _flush()


def _try(function, *arguments):
    try:
        return function(*arguments)
    except BaseException as error:
        _host.log(0, ERR, "at the end of the worker: " + report(error))


def _release_tracker():
    """Lets multiprocessing's tracker of semaphores and shared memory end: it
    removes what nobody did, as soon as no process is left that may use it."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    descriptor = getattr(tracker, "_fd", None)
    if descriptor is not None:
        tracker._fd = None
        os.close(descriptor)


def _flush():
    """Writes out what is in buffers of files, whoever has them: a variable of a
    thread that is running, for one."""
    gc.unfreeze()
    closed = tuple(getattr(sys.modules[module], name)
                   for module, name in _CLOSED if module in sys.modules)
    # By type: what to do with its objects, and in which order. Those that write
    # to others come first.
    known = {}
    found = []
    for thing in gc.get_objects():
        kind = type(thing)
        order = known.get(kind)
        if order is None:
            order = 0
            if issubclass(kind, closed):
                order = 1
            elif issubclass(kind, _BUFFERED):
                order = 3 if issubclass(kind, io.TextIOWrapper) else 4
            elif io.IOBase in kind.__mro__ or _is_io(kind):
                order = 2
            known[kind] = order
        if order:
            found.append((not _is_quick(thing), order, thing))
    found.sort(key=operator.itemgetter(0, 1))
    for _, order, thing in found:
        try:
            if not thing.closed:
                thing.close() if order == 1 else thing.flush()
        except BaseException:
            # As in Python: a file that cannot be written is nobody's news now.
            pass


def _is_io(kind):
    return any(base.__module__ == "_io" for base in kind.__mro__)


def _is_quick(file):
    """Whether writing to it does not wait for anybody: pipes and sockets come
    last."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except BaseException:
        return True


_exit = os._exit
_owner = os.getpid()


def _leave(status):
    """Exit to the system with specified status, without normal exit processing:
    os._exit, but in a worker it is logged who did it, and the status 2, after
    which nginx would start no other worker, becomes 1."""
    status = operator.index(status)
    if os.getpid() == _owner:
        runtime = (_host.here() or nonblocking_ffi._context.get() or (0,))[0]
        name = nonblocking_ffi._runtimes.get(runtime, ("",))[0]
        line = (f"{time.strftime('%Y/%m/%d %H:%M:%S')} [error] {_owner}#"
                f"{threading.get_native_id()}: nonblocking_ffi: the worker is "
                f"ended by os._exit({status}) in thread "
                f"\"{threading.current_thread().name}\""
                f"{', in runtime ' if name else ''}{name}\n")
        try:
            os.write(2, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass
        if status & 0xff == FATAL:
            status = 1
    _exit(status)


# As it is pickled, for one: a process that gets it has the original.
_leave.__name__ = _leave.__qualname__ = "_exit"
_leave.__module__ = "posix"
os._exit = posix._exit = _leave
