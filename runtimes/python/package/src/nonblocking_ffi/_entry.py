"""What an entry, ``package.module:function``, leads to.

Used by the host in nginx and by ``nonblocking_ffi.testing``, so that both agree.
"""

import importlib
import inspect
from typing import Any, Awaitable, Callable, Optional


def split(entry: str) -> "tuple[str, str]":
    """The module and the attribute of an entry. Raises ValueError."""
    module, colon, attribute = entry.partition(":")
    names = module.split(".") + attribute.split(".")
    if not colon or not all(name.isidentifier() for name in names):
        raise ValueError(
            f'entry must be "package.module:function", got "{entry}"')
    return module, attribute


def find(entry: str) -> Any:
    """Imports the module; returns what the entry names."""
    module_name, attribute = split(entry)
    found: Any = importlib.import_module(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise AttributeError(
                f'module "{module_name}" has no "{attribute}"')
        found = getattr(found, name)
    return found


def _is_async(function: Any) -> bool:
    return (inspect.iscoroutinefunction(function)
            or inspect.iscoroutinefunction(getattr(function, "__call__", None)))


class Handler:
    """A function, or an object with ``call`` and perhaps ``init`` and
    ``close``, or a class of such objects."""

    def __init__(self, entry: str) -> None:
        self.entry = entry
        self.found = find(entry)
        self.is_class = inspect.isclass(self.found)
        method = getattr(self.found, "call", None)
        if callable(method):
            function = method
        elif callable(self.found) and not self.is_class:
            function = self.found
        else:
            kind = ("a class" if self.is_class
                    else f"of type {type(self.found).__name__}")
            raise TypeError(
                f'"{entry}" is {kind}: neither a function, nor an object or a '
                f'class with a method "call"')
        if inspect.isasyncgenfunction(function) or \
                inspect.isgeneratorfunction(function):
            raise TypeError(f'"{entry}" is a generator, not a function')
        self.is_async = _is_async(function)
        self.function: Callable[[bytes], Any]
        self.target: Any = None

    def _make(self) -> None:
        self.target = self.found() if self.is_class else self.found
        method = getattr(self.target, "call", None)
        self.function = method if callable(method) else self.target

    def _hook(self, name: str) -> Optional[Callable[..., Any]]:
        # Of objects only: a function's attributes mean nothing here.
        if not callable(getattr(self.target, "call", None)):
            return None
        hook = getattr(self.target, name, None)
        return hook if callable(hook) else None

    def open(self, config: str) -> None:
        """Makes the object and calls its ``init``."""
        self._make()
        init = self._hook("init")
        if init is not None:
            self._refuse_async(init, "init")
            init(config)

    def close(self) -> None:
        """Calls ``close`` of the object."""
        close = self._hook("close")
        if close is not None:
            self._refuse_async(close, "close")
            close()

    def _refuse_async(self, hook: Callable[..., Any], name: str) -> None:
        if _is_async(hook):
            raise TypeError(f'"{self.entry}": {name} is async, but call is not')

    async def open_async(self, config: str) -> None:
        """The same on the loop, where both may be ``async def``."""
        self._make()
        init = self._hook("init")
        if init is not None:
            await _finish(init(config))

    async def close_async(self) -> None:
        """The same on the loop."""
        close = self._hook("close")
        if close is not None:
            await _finish(close())


async def _finish(result: "Optional[Awaitable[Any]]") -> None:
    if inspect.isawaitable(result):
        await result
