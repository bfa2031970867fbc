"""Lets `faulthandler` and other languages live in one process.

Its handlers of faults take each of them for a crash, and a JVM or Go that is there
already needs some for itself: they get theirs first. Its other handlers are for
signals that a process does not use, and so they are here.
"""

import faulthandler
import functools

import _nonblocking_ffi as _host


def _with(change, function):
    """`function`, called by one that minds the order of handlers."""
    @functools.wraps(function)
    def call(*args, **more):
        return change(lambda: function(*args, **more))
    return call


def _register(register):
    @functools.wraps(register)
    def call(signum, *args, **more):
        if signum not in _registered and _host.is_handled(signum):
            raise ValueError(f"signal {signum} is nginx's, or another language's")
        register(signum, *args, **more)
        _registered.add(signum)
    return call


def _unregister(unregister):
    @functools.wraps(unregister)
    def call(signum):
        _registered.discard(signum)
        return unregister(signum)
    return call


_registered = set()


def install():
    """Before any plugin's code runs."""
    faulthandler.enable = _with(_host.order_faults, faulthandler.enable)
    faulthandler.disable = _with(_host.unorder_faults, faulthandler.disable)
    if hasattr(faulthandler, "register"):
        faulthandler.register = _register(faulthandler.register)
        faulthandler.unregister = _unregister(faulthandler.unregister)
