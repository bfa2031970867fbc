"""The half of the host that is easier said in Python than in Rust: imports,
asyncio loops, the log, tracebacks. One instance per process, run before any
plugin's code."""

import asyncio
import gc
import importlib
import importlib.machinery
import io
import logging
import os
import selectors
import site
import sys
import sysconfig
import threading
import traceback

import _nonblocking_ffi as _host

# nginx's levels.
ERR, WARN, NOTICE, INFO, DEBUG = 4, 5, 6, 7, 8
PACKAGE = "nonblocking_ffi"


class _Finder:
    """Finds the package `nonblocking_ffi` in the host itself, so that it fits,
    whatever is installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in _host.sources:
            return None
        return importlib.machinery.ModuleSpec(
            name, _Finder, origin=f"<{name}>", is_package=name == PACKAGE)

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__
        code = compile(_host.sources[name], f"<{name}>", "exec")
        exec(code, module.__dict__)

    @staticmethod
    def get_source(name):
        return _host.sources[name]


sys.meta_path.insert(0, _Finder)

import nonblocking_ffi  # noqa: E402
from nonblocking_ffi import Error, Stopped  # noqa: E402
from nonblocking_ffi._entry import Handler, split  # noqa: E402


# The log.

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
            level = (3 if number >= logging.CRITICAL
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


def _install_log():
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


# Errors.

def _name(kind):
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _headline(error):
    try:
        text = str(error)
    except Exception:
        text = "<exception whose str() fails>"
    name = _name(type(error))
    return f"{name}: {text}" if text else name


def _traceback(error):
    """The traceback, without frames of the host and without the last line,
    which is the headline."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    told = traceback.TracebackException(type(error), error, trace)
    lines = list(told.format())
    last = list(told.format_exception_only())
    if len(lines) > len(last) and lines[-len(last):] == last:
        lines = lines[:-len(last)]
    elif trace is None:
        return ""
    return "".join(lines).rstrip("\n")


_IMPORTLIB = os.path.join(os.path.dirname(importlib.__file__), "")


def _is_ours(file):
    return file.startswith(
        ("<nonblocking_ffi", "<frozen importlib", _IMPORTLIB))


def describe(runtime, error, unwanted):
    """The code and the message that a task fails with; logs the traceback."""
    if isinstance(error, Error):
        return error.code, error.message
    headline = _headline(error)
    trace = _traceback(error)
    message = f"{headline}\n{trace}" if trace else headline
    if not (unwanted and isinstance(error, asyncio.CancelledError)):
        # Whoever was told to give up may do so with an exception.
        level = (WARN if isinstance(error, Stopped)
                 else INFO if unwanted else ERR)
        _host.log(runtime, level, message)
    return 0, message


def _place(error):
    """Where a plugin's code has failed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not _is_ours(frame.filename)]
    if not frames or isinstance(error, SyntaxError):
        return ""
    return f" ({frames[-1].filename}, line {frames[-1].lineno})"


# Modules.

_STDLIB = tuple({os.path.join(sysconfig.get_path(name), "")
                 for name in ("stdlib", "platstdlib")})
_PACKAGES = ("site-packages", "dist-packages")
_import_lock = threading.Lock()
# How many open runtimes have put a folder into sys.path.
_folders = {}


def _file(module):
    spec = getattr(module, "__spec__", None)
    places = getattr(module, "__path__", None)
    file = getattr(module, "__file__", None) or (spec and spec.origin)
    if not file and places is not None:
        # A namespace package.
        file = next(iter(list(places)), None)
    return file if isinstance(file, str) and os.path.isabs(file) else None


def _is_extension(module):
    spec = getattr(module, "__spec__", None)
    loader = getattr(spec, "loader", None)
    return isinstance(loader, importlib.machinery.ExtensionFileLoader)


def _is_stdlib(file):
    return file.startswith(_STDLIB) and not any(
        f"{os.sep}{name}{os.sep}" in file for name in _PACKAGES)


def _own_modules(top, folders):
    """The modules that belong to one runtime: those of the entry's package, and
    those below its folders. Not extension modules, which can be loaded once
    per process, nor packages that have some (but for the entry's own)."""
    folders = tuple(os.path.join(folder, "") for folder in folders)
    modules = list(sys.modules.items())
    mixed = {name.partition(".")[0] for name, module in modules
             if _is_extension(module)}
    own = {}
    for name, module in modules:
        head = name.partition(".")[0]
        file = _file(module)
        if file is None or _is_extension(module) or _is_stdlib(file):
            continue
        if head == top or file.startswith(folders) and head not in mixed:
            own[name] = module
    return own


def _import(entry, folders):
    """Imports an entry anew, with its package and whatever else is below the
    folders: each runtime has modules of its own. Returns the handler and these
    modules."""
    top = split(entry)[0].partition(".")[0]
    before = _own_modules(top, folders)
    for name in before:
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        handler = Handler(entry)
    except BaseException:
        for name in _own_modules(top, folders):
            del sys.modules[name]
        sys.modules.update(before)
        raise
    return handler, _own_modules(top, folders)


def _put_in_front(folders):
    sys.path[:] = folders + [p for p in sys.path if p not in folders]


def _add_folders(folders):
    for folder in folders:
        _folders[folder] = _folders.get(folder, 0) + 1
    _put_in_front(folders)


def _remove_folders(folders):
    for folder in folders:
        _folders[folder] -= 1
        if _folders[folder] == 0:
            del _folders[folder]
            if folder in sys.path:
                sys.path.remove(folder)


def _check_folders(folders):
    for folder in folders:
        if not os.path.isdir(folder):
            raise NotADirectoryError(f"path: no such folder: {folder}")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise PermissionError(
                f"path: the worker's user may not read {folder}")


def _packages_of(venv):
    """The folders that a virtual environment adds, if Python has not been
    started in it."""
    if not venv or os.path.realpath(sys.prefix) == os.path.realpath(venv):
        return []
    # The default scheme may be that of a distribution.
    scheme = ("venv" if "venv" in sysconfig.get_scheme_names()
              else "posix_prefix")
    folder = sysconfig.get_path("purelib", scheme,
                                {"base": venv, "platbase": venv})
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"venv: no such folder: {folder}")
    before = list(sys.path)
    site.addsitedir(folder)
    added = [p for p in sys.path if p not in before]
    return added or [folder]


# Loops.

class _Selector(selectors.DefaultSelector):
    """Tells the host when the loop works and when it waits, so that the host
    finds out if it does neither."""

    def select(self, timeout=None):
        _host.turn(0)
        try:
            return super().select(timeout)
        finally:
            _host.turn(1)


class _Loop:
    """The asyncio loop of one runtime, on a thread of its own."""

    # How often running tasks are asked whether they are still wanted, seconds.
    SWEEP = 0.02
    # New tasks per turn, so that those that run get theirs.
    BATCH = 256

    def __init__(self, runtime):
        self.runtime = runtime
        self.jobs = {}
        self.cancelled = set()
        self.sweeping = False
        self.stopping = False
        self.ready = threading.Event()
        self.loop = asyncio.SelectorEventLoop(_Selector())
        self.thread = threading.Thread(
            target=self.main, name=f"asyncio of {runtime.name}", daemon=True)
        self.thread.start()
        self.ready.wait()

    def main(self):
        _host.serve(self.runtime.number)
        nonblocking_ffi._context.set((self.runtime.number, 0))
        asyncio.set_event_loop(self.loop)
        self.ready.set()
        while not self.stopping:
            # Code that ends the loop ends its own task only.
            try:
                self.loop.run_forever()
            except BaseException as error:
                _host.log(self.runtime.number, WARN,
                          f"in the loop: {_headline(error)}")
        try:
            self.loop.run_until_complete(self.finish())
        except BaseException as error:
            describe(self.runtime.number, error, False)
        finally:
            self.loop.close()
            _host.serve(0)

    async def finish(self):
        me = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not me]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def run(self, make):
        """Runs a coroutine to its end, from another thread."""
        return asyncio.run_coroutine_threadsafe(make(), self.loop).result()

    def stop(self):
        def stop():
            self.stopping = True
            self.loop.stop()
        self.loop.call_soon_threadsafe(stop)
        self.thread.join()

    def serve(self):
        """Begins to take tasks; on the loop."""
        descriptor = _host.inbox(self.runtime.number)
        self.loop.add_reader(descriptor, self.take)
        self.take()

    def take(self):
        for _ in range(self.BATCH):
            taken = _host.take(self.runtime.number)
            if taken is None:
                return
            self.begin(*taken)
        self.loop.call_soon(self.take)

    def begin(self, task, request):
        # A task of asyncio's copies the context that it is made in.
        nonblocking_ffi._context.set((self.runtime.number, task))
        try:
            job = self.loop.create_task(self.runtime.handler.function(request))
        except BaseException as error:
            return self.fail(task, error)
        self.jobs[job] = task
        job.add_done_callback(self.end)
        if not self.sweeping:
            self.sweeping = True
            self.loop.call_later(self.SWEEP, self.sweep)

    def end(self, job):
        task = self.jobs.pop(job)
        self.cancelled.discard(job)
        if job.cancelled():
            return self.fail(task, asyncio.CancelledError())
        error = job.exception()
        if error is None:
            try:
                return _host.respond(task, job.result())
            except Exception as wrong:
                error = wrong
        self.fail(task, error)

    def fail(self, task, error):
        unwanted = _host.unwanted(task)
        _host.fail(task, *describe(self.runtime.number, error, unwanted))

    def sweep(self):
        """Cancels what nobody waits for any more."""
        begun = self.loop.time()
        for job, task in list(self.jobs.items()):
            if job not in self.cancelled and _host.unwanted(task):
                self.cancelled.add(job)
                job.cancel()
        if self.jobs:
            # At most a twentieth of the loop's time.
            took = self.loop.time() - begun
            self.loop.call_later(max(self.SWEEP, 20 * took), self.sweep)
        else:
            self.sweeping = False


# Runtimes.

_runtimes = {}


class _Runtime:
    def __init__(self, number, name, entry, config, folders, venv):
        self.number = number
        self.name = name
        self.loop = None
        self.handler = None
        self.modules = {}
        self.folders = []
        nonblocking_ffi._runtimes[number] = (name, config)
        try:
            self.open(entry, config, folders, venv)
        except BaseException:
            self.release()
            raise

    def open(self, entry, config, folders, venv):
        with _import_lock:
            _check_folders(folders)
            folders = folders + _packages_of(venv)
            _add_folders(folders)
            self.folders = folders
            self.handler, self.modules = _import(entry, folders)
        if not self.handler.is_async:
            return self.handler.open(config)
        self.loop = _Loop(self)
        self.loop.run(lambda: self.handler.open_async(config))
        self.loop.loop.call_soon_threadsafe(self.loop.serve)

    def close(self):
        try:
            if self.loop is None:
                self.handler.close()
            else:
                self.loop.run(self.handler.close_async)
        finally:
            self.release()

    def release(self):
        if self.loop is not None:
            self.loop.stop()
        with _import_lock:
            for name, module in self.modules.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]
            _remove_folders(self.folders)
        nonblocking_ffi._runtimes.pop(self.number, None)
        # So that what the plugin leaves behind is garbage, whoever still has
        # this object.
        self.loop = self.handler = None
        self.modules = {}


def open(number, name, entry, config, folders, venv):
    """Readies a runtime: (itself, the function to call); the latter is None if
    a loop serves it. If it fails: (None, why), and the traceback is logged."""
    try:
        runtime = _Runtime(number, name, entry, config, folders, venv)
    except BaseException as error:
        why = _headline(error) + _place(error)
        trace = _traceback(error)
        if trace:
            _host.log(number, ERR, f"{_headline(error)}\n{trace}")
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


def task_of_loop(number):
    """The task that the loop of a runtime is in, or 0."""
    runtime = _runtimes.get(number)
    if runtime is None or runtime.loop is None:
        return 0
    job = asyncio.current_task(runtime.loop.loop)
    return runtime.loop.jobs.get(job, 0) if job else 0


_install_log()
