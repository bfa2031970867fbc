"""Whose modules an import finds, or a look into `sys.modules` or `sys.path`.

There is one Python per process, and several runtimes use it. What comes from
the standard library and from `site-packages` is shared. Each runtime has a
namespace besides: the modules that are its own, and a search path.

Code finds modules by name in two tables: that which C code has had since Python
started, and `sys.modules`. They are one dictionary. It stays where it is, with
the shared modules in it; but its type becomes one that looks into the namespace
of whoever asks first. `sys.path` becomes a property for the same reason.

Who asks? The innermost function on the stack that belongs to a runtime. So a
callback sees its own modules wherever it is called, and so does whatever a
library looks up on its behalf: `pickle`, `typing`, `dataclasses`. Where no
function of a runtime is on the stack, the thread decides: that of a task, or one
that a runtime has started.

Two cases are different, and shared modules come first there: shared code must
not get a runtime's `uuid.py`, since it would keep it for all the others. One is
an `import` statement in shared code. The other is a package in `site-packages`
that asks for a name of the standard library by other means, as code in C does.
(The standard library itself looks names up for others: `pickle` is part of it.)
"""

import _imp
import _thread
import functools
import importlib.machinery
import opcode
import os
import sys
import sysconfig
import threading
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder

import _nonblocking_ffi as _host
import nonblocking_ffi

_STDLIB = tuple({os.path.join(sysconfig.get_path(name), "")
                 for name in ("stdlib", "platstdlib")})
_PACKAGES = ("site-packages", "dist-packages")
_IMPORTS = (opcode.opmap["IMPORT_NAME"], opcode.opmap["IMPORT_FROM"])
_MISSING = object()

# What the interpreter itself has loaded: a folder of a runtime cannot replace
# that, as it cannot in a script.
_started = frozenset()
# The namespaces of open runtimes, by number.
_open = {}
# And by the `id` of the globals of each of their modules.
_globals = {}
# That of a thread which a runtime has started.
_thread_local = threading.local()
# The shared search path: what C code knows as sys.path, always.
_shared_path = sys.path


class Namespace:
    """The modules of one runtime, and where it looks for more."""

    def __init__(self, number, top):
        self.number = number
        # The entry's package is the runtime's own wherever it lies.
        self.top = top
        self.path = list(_shared_path)
        self.modules = {}
        # The globals of its modules, so that no other object gets their `id`.
        self._known = []
        # What is known of top-level names, and the path it was found out with.
        self._sources = {}
        self._searched = None
        _open[number] = self

    def close(self):
        """Its modules are found no more."""
        _open.pop(self.number, None)
        for known in self._known:
            _globals.pop(id(known), None)
        self.modules, self._known = {}, []

    def put_in_front(self, folders):
        self.path[:] = folders + [p for p in self.path if p not in folders]

    def add(self, name, module):
        self.modules[name] = module
        known = _attributes(module)
        if _globals.get(id(known)) is not self:
            _globals[id(known)] = self
            self._known.append(known)

    def owns(self, name, module):
        """Whether a module that has just been made is the runtime's own: if it
        is of the entry's package, or lies below a folder that only this runtime
        looks into. Not extension modules, which can be loaded once per process,
        nor packages that have some (but for the entry's own)."""
        head = name.partition(".")[0]
        file = _file_of(module)
        if file is None:
            # Made by hand, or by an importer of somebody's own.
            return head in self.modules or _maker_of() is self
        if _is_extension(_spec_of(module)) or _is_stdlib(file):
            return False
        return head == self.top or (
            self._has(file) and self._source(head) != "extensions")

    def provides(self, head):
        """Whether an import of this top-level name has to find a module of the
        runtime's own, though there is a shared one."""
        return self._source(head) == "own"

    def has(self, module):
        """Whether a module lies below a folder of the runtime."""
        file = _file_of(module)
        return file is not None and self._has(file)

    def _folders(self):
        return [p for p in self.path if p not in _shared_path]

    def _has(self, file):
        def longest(places):
            return max((len(p) for p in places
                        if file.startswith(os.path.join(p, ""))), default=0)
        return longest(self._folders()) > longest(_shared_path)

    def _source(self, head):
        """What the runtime's folders have by that name."""
        if self._searched != self.path:
            self._searched, self._sources = list(self.path), {}
        if head not in self._sources:
            # Whoever asks during the search gets this.
            self._sources[head] = None
            self._sources[head] = self._search(head)
        return self._sources[head]

    def _search(self, head):
        if head in _started or head in sys.builtin_module_names or \
                _imp.is_frozen(head):
            return None
        is_top = head == self.top
        spec = PathFinder.find_spec(
            head, list(self.path) if is_top else self._folders())
        if spec is None or is_top and _is_stdlib(spec.origin or ""):
            return None
        if is_top:
            return "own"
        places = list(spec.submodule_search_locations or ())
        if _is_extension(spec) or any(map(_has_extensions, places)):
            return "extensions"
        # A folder without __init__.py counts for less than a module.
        return "own" if spec.loader and spec.origin else None


def _has_extensions(folder):
    return any(name.endswith(tuple(EXTENSION_SUFFIXES))
               for _, _, names in os.walk(folder) for name in names)


def _attributes(module):
    """The `__dict__` of what is in sys.modules, without waking a module that
    loads itself when it is touched."""
    try:
        found = object.__getattribute__(module, "__dict__")
    except AttributeError:
        found = None
    return found if isinstance(found, dict) else {}


def _spec_of(module):
    return _attributes(module).get("__spec__")


def _file_of(module):
    spec = _spec_of(module)
    attributes = _attributes(module)
    file = attributes.get("__file__")
    if not file and getattr(spec, "has_location", False):
        file = spec.origin
    if not file:
        # A namespace package has places only.
        places = attributes.get("__path__") or getattr(
            spec, "submodule_search_locations", None)
        file = next(iter(places or ()), None)
    return file if isinstance(file, str) and os.path.isabs(file) else None


def _is_extension(spec):
    loader = getattr(spec, "loader", None)
    return isinstance(loader, importlib.machinery.ExtensionFileLoader)


def _is_stdlib(file):
    return file.startswith(_STDLIB) and not any(
        f"{os.sep}{name}{os.sep}" in file for name in _PACKAGES)


# Who asks.

def current():
    """The namespace of the code that calls, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        found = _globals.get(id(frame.f_globals))
        if found is not None:
            return found
        frame = frame.f_back
    here = _host.here() or nonblocking_ffi._context.get()
    if here:
        return _open.get(here[0])
    return getattr(_thread_local, "namespace", None)


def _asker():
    """The frame that has the import system, or this file, look for a module."""
    frame = sys._getframe(1)
    while frame is not None and (
            frame.f_globals is _HERE or
            frame.f_globals is _IMPORTLIB or
            frame.f_code.co_filename.startswith("<frozen importlib")):
        frame = frame.f_back
    return frame


def _searched_name():
    """The top-level name that the import system looks for in `sys.path`."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals is _HERE:
        frame = frame.f_back
    name = frame and frame.f_locals.get("fullname")
    return name.partition(".")[0] if isinstance(name, str) else ""


def _maker_of():
    frame = _asker()
    return None if frame is None else _globals.get(id(frame.f_globals))


def _means_shared(head):
    """Whether it is shared code that asks, and means a shared module by this
    top-level name if there is one."""
    frame = _asker()
    if frame is None or id(frame.f_globals) in _globals:
        return False
    is_statement = frame.f_code.co_code[frame.f_lasti] in _IMPORTS
    if not is_statement and not (
            _is_in_packages(frame) and _is_of_stdlib(head)):
        return False
    # Code that was compiled at run time may have any globals.
    name = frame.f_globals.get("__name__")
    module = dict.get(sys.modules, name) if isinstance(name, str) else None
    return _attributes(module) is frame.f_globals


def _is_in_packages(frame):
    file = frame.f_code.co_filename
    return any(f"{os.sep}{name}{os.sep}" in file for name in _PACKAGES)


@functools.lru_cache(maxsize=None)
def _is_of_stdlib(head):
    if head in sys.builtin_module_names or _imp.is_frozen(head):
        return True
    spec = PathFinder.find_spec(head, list(_shared_path))
    return spec is not None and _is_stdlib(spec.origin or "")


# What they find.

def _find(table, name):
    shared = dict.get(table, name, _MISSING)
    # Mostly a runtime's own code asks: that is an import in a function.
    frame = sys._getframe(1).f_back
    space = _globals.get(id(frame.f_globals)) if frame is not None else None
    is_own_code = space is not None
    if not is_own_code:
        space = current()
    if space is None or not isinstance(name, str):
        return shared
    own = space.modules.get(name, _MISSING)
    if own is _MISSING and shared is _MISSING:
        return _MISSING
    if own is not _MISSING and is_own_code:
        return own
    head = name.partition(".")[0]
    if own is _MISSING:
        if not space.provides(head) or _is_part(shared, name, space) or \
                _means_shared(head):
            return shared
        # The runtime's own is there, and has not been imported yet.
        return _MISSING
    if not _means_shared(head):
        return own
    if shared is not _MISSING:
        return shared
    if space.has(own) and PathFinder.find_spec(head, list(_shared_path)):
        # The shared one has not been imported yet.
        return _MISSING
    return own


def _is_part(module, name, space):
    """Whether a shared module is an extension of a package of the runtime's."""
    package = space.modules.get(name.rpartition(".")[0])
    file = _file_of(module)
    return package is not None and file is not None and \
        _is_extension(_spec_of(module)) and \
        os.path.dirname(file) in list(_attributes(package).get("__path__", ()))


def _remove(table, name):
    module = _find(table, name)
    if module is _MISSING:
        raise KeyError(name)
    space = current()
    if space is not None and space.modules.get(name, _MISSING) is module:
        del space.modules[name]
    else:
        dict.__delitem__(table, name)
    return module


def _view(table):
    """All that the code which calls can find, as a plain dictionary."""
    shared = dict(dict.items(table))
    space = current()
    return shared if space is None else {**shared, **space.modules}


class _Modules(dict):
    """What the type of `sys.modules` becomes."""

    __slots__ = ()

    def __getitem__(self, name):
        module = _find(self, name)
        if module is _MISSING:
            raise KeyError(name)
        return module

    def get(self, name, default=None):
        module = _find(self, name)
        return default if module is _MISSING else module

    def __contains__(self, name):
        return _find(self, name) is not _MISSING

    def __setitem__(self, name, module):
        space = current()
        if space is not None and isinstance(name, str) and \
                space.owns(name, module):
            space.add(name, module)
        else:
            dict.__setitem__(self, name, module)

    def setdefault(self, name, module=None):
        found = _find(self, name)
        if found is _MISSING:
            self[name] = found = module
        return found

    def update(self, *others, **more):
        for name, module in dict(*others, **more).items():
            self[name] = module

    def __ior__(self, other):
        self.update(other)
        return self

    def __delitem__(self, name):
        _remove(self, name)

    def pop(self, name, *default):
        try:
            return _remove(self, name)
        except KeyError:
            if not default:
                raise
            return default[0]

    def popitem(self):
        for name in reversed(_view(self)):
            return name, _remove(self, name)
        raise KeyError("popitem(): dictionary is empty")

    def clear(self):
        space = current()
        if space is not None:
            space.modules.clear()
        dict.clear(self)

    def copy(self):
        return _view(self)

    def __iter__(self):
        return iter(_view(self))

    def __reversed__(self):
        return reversed(_view(self))

    def __len__(self):
        return len(_view(self))

    def keys(self):
        return _view(self).keys()

    def values(self):
        return _view(self).values()

    def items(self):
        return _view(self).items()

    def __eq__(self, other):
        return self is other or _view(self) == other

    def __ne__(self, other):
        return not self == other

    def __or__(self, other):
        return _view(self) | other

    def __ror__(self, other):
        return other | _view(self)

    def __repr__(self):
        return repr(_view(self))


class _Sys(type(sys)):
    """What the type of `sys` becomes."""

    @property
    def path(self):
        space = current()
        if space is None:
            return _shared_path
        if _means_shared(_searched_name()):
            return _shared_path + space._folders()
        return space.path

    @path.setter
    def path(self, path):
        space = current()
        if space is None:
            _shared_path[:] = path
        else:
            space.path = path


def _inheriting(start):
    """A function that starts a thread: it has the namespace of its maker."""
    def start_thread(function, *args, **more):
        space = current()
        if space is None:
            return start(function, *args, **more)

        def run(*args, **more):
            _thread_local.namespace = space
            function(*args, **more)
        return start(run, *args, **more)
    return start_thread


def install(started):
    """Before any plugin's code runs. `started`: the names of all modules that
    the interpreter had loaded by itself."""
    global _started
    _started = frozenset(started)
    _host.set_type(sys.modules, _Modules)
    sys.__class__ = _Sys
    for module, names in (
            (_thread, ("start_new_thread", "start_new",
                       "start_joinable_thread")),
            (threading, ("_start_new_thread", "_start_joinable_thread"))):
        for name in names:
            if hasattr(module, name):
                setattr(module, name, _inheriting(getattr(module, name)))


_HERE = globals()
_IMPORTLIB = importlib.__dict__
