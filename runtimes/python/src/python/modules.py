"""Loads the entry of a runtime, in a namespace of its own."""

import importlib
import os
import site
import sys
import sysconfig

from _nonblocking_ffi_namespaces import Namespace
from nonblocking_ffi._entry import Handler, split


class Modules:
    """The modules of one runtime."""

    def __init__(self, number):
        self._number = number
        self._namespace = None

    def load(self, entry, folders, venv):
        """Imports an entry; returns its handler. On a thread that is in the
        runtime, so that all that is imported is the runtime's."""
        _check(folders)
        top = split(entry)[0].partition(".")[0]
        self._namespace = Namespace(self._number, top)
        self._namespace.put_in_front(folders + _packages_of(venv))
        importlib.invalidate_caches()
        return Handler(entry)

    def release(self):
        """Forgets all of them."""
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None


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
