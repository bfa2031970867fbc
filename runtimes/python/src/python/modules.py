"""Which modules belong to which runtime, and where they are found.

`sys.path` and `sys.modules` are the process's. Each runtime puts its folders
into the one, in front, and its own modules into the other, anew.
"""

import importlib
import importlib.machinery
import os
import site
import sys
import sysconfig
import threading

from nonblocking_ffi._entry import Handler, split

_STDLIB = tuple({os.path.join(sysconfig.get_path(name), "")
                 for name in ("stdlib", "platstdlib")})
_PACKAGES = ("site-packages", "dist-packages")
# Held while a runtime changes sys.path and sys.modules.
_lock = threading.Lock()
# How many open runtimes have put a folder into sys.path.
_uses = {}


class Modules:
    """The modules of one runtime."""

    def __init__(self):
        self._folders = []
        self._own = {}

    def load(self, entry, folders, venv):
        """Imports an entry; returns its handler."""
        with _lock:
            _check(folders)
            folders = folders + _packages_of(venv)
            _put_in_front(folders)
            self._folders = folders
            handler, self._own = _import(entry, folders)
        return handler

    def release(self):
        """Takes out what nobody has taken the place of."""
        with _lock:
            for name, module in self._own.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]
            _take_out(self._folders)
            self._folders, self._own = [], {}


def _check(folders):
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
    added = [place for place in sys.path if place not in before]
    return added or [folder]


def _put_in_front(folders):
    for folder in folders:
        _uses[folder] = _uses.get(folder, 0) + 1
    sys.path[:] = folders + [p for p in sys.path if p not in folders]


def _take_out(folders):
    for folder in folders:
        _uses[folder] -= 1
        if _uses[folder] == 0:
            del _uses[folder]
            if folder in sys.path:
                sys.path.remove(folder)


def _import(entry, folders):
    """Imports an entry anew, with its package and whatever else is below the
    folders. Returns the handler and these modules."""
    top = split(entry)[0].partition(".")[0]
    before = _belonging(top, folders)
    for name in before:
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        handler = Handler(entry)
    except BaseException:
        for name in _belonging(top, folders):
            del sys.modules[name]
        sys.modules.update(before)
        raise
    return handler, _belonging(top, folders)


def _belonging(top, folders):
    """The modules that belong to a runtime: those of the entry's package, and
    those below its folders. Not extension modules, which can be loaded once
    per process, nor packages that have some (but for the entry's own)."""
    folders = tuple(os.path.join(folder, "") for folder in folders)
    modules = list(sys.modules.items())
    mixed = {name.partition(".")[0] for name, module in modules
             if _is_extension(module)}
    found = {}
    for name, module in modules:
        head = name.partition(".")[0]
        file = _file_of(module)
        if file is None or _is_extension(module) or _is_stdlib(file):
            continue
        if head == top or file.startswith(folders) and head not in mixed:
            found[name] = module
    return found


def _file_of(module):
    spec = getattr(module, "__spec__", None)
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if not file:
        # A namespace package has places only.
        file = next(iter(list(getattr(module, "__path__", None) or ())), None)
    return file if isinstance(file, str) and os.path.isabs(file) else None


def _is_extension(module):
    spec = getattr(module, "__spec__", None)
    loader = getattr(spec, "loader", None)
    return isinstance(loader, importlib.machinery.ExtensionFileLoader)


def _is_stdlib(file):
    return file.startswith(_STDLIB) and not any(
        f"{os.sep}{name}{os.sep}" in file for name in _PACKAGES)
