"""Gives the package `nonblocking_ffi` to children of multiprocessing that are not
forked.

Such a child is a Python of its own, and imports the module whose function it is to
run; which may import the package, which is in no file. The first that a child gets
from its parent is a pickled dictionary. One more entry of it is a call: that of the
finder, with the sources.
"""

import sys
from importlib.machinery import PathFinder, SourceFileLoader

import _nonblocking_ffi as _host

_MODULE = "multiprocessing.spawn"
_PACKAGE = ("nonblocking_ffi", "nonblocking_ffi._entry",
            "nonblocking_ffi._outside")


class _Sources:
    def __reduce__(self):
        sources = {name: _host.sources[name] for name in _PACKAGE}
        names = {"__name__": "_nonblocking_ffi_finder", "sources": sources}
        return exec, (_host.sources["_nonblocking_ffi_finder"], names)


class _Loader(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        prepare = module.get_preparation_data

        def get_preparation_data(name):
            data = prepare(name)
            data["nonblocking_ffi"] = _Sources()
            return data

        module.get_preparation_data = get_preparation_data


class _Watch:
    """Waits for the module to be imported: it takes its time, and few need it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != _MODULE:
            return None
        spec = PathFinder.find_spec(name, path)
        if isinstance(getattr(spec, "loader", None), SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


def install():
    sys.meta_path.insert(0, _Watch)
