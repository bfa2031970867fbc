"""Finds the package `nonblocking_ffi`, and the rest of the host, in `sources`, so
that all are of one version, whatever is installed.

Runs with `sources` among its globals: source code by module. In the worker these
are all; in processes that it starts, the package (see spawned.py).
"""

import sys
from importlib.machinery import ModuleSpec

PACKAGE = "nonblocking_ffi"


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in sources:  # noqa: F821
            return None
        return ModuleSpec(name, Finder, origin=f"<{name}>",
                          is_package=name == PACKAGE)

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__
        code = compile(Finder.get_source(name), f"<{name}>", "exec")
        exec(code, module.__dict__)

    @staticmethod
    def get_source(name):
        return sources[name]  # noqa: F821


sys.meta_path.insert(0, Finder)
