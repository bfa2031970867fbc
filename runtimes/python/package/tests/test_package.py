"""Tests of the package outside of nginx: python3 -m unittest discover tests"""

import asyncio
import contextlib
import io
import sys
import types
import unittest

import nonblocking_ffi
from nonblocking_ffi.testing import Runtime, to_bytes


def module(**members):
    """A module of these, named `plugin`."""
    made = types.ModuleType("plugin")
    made.__dict__.update(members)
    sys.modules["plugin"] = made
    return made


class Counter:
    def init(self, config):
        self.step = int(config)
        self.count = 0

    def call(self, request):
        self.count += self.step
        nonblocking_ffi.set_status(self.count, "so far")
        return str(self.count)

    def close(self):
        nonblocking_ffi.log(f"{self.count} at the end", "notice")


class Runtimes(unittest.TestCase):
    def test_a_function(self):
        module(upper=lambda request: request.upper())
        with Runtime("plugin:upper") as upper:
            self.assertEqual(upper.call(b"tea"), b"TEA")
            self.assertIsNone(upper.status)

    def test_a_class(self):
        module(Counter=Counter)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            with Runtime("plugin:Counter", config="5") as counter:
                self.assertEqual(counter.call(b""), b"5")
                self.assertEqual(counter.call(b""), b"10")
                self.assertEqual(counter.status, (10, "so far"))
        self.assertEqual(said.getvalue(), "[notice] 10 at the end\n")

    def test_a_coroutine(self):
        async def call(request):
            await asyncio.sleep(0)
            return nonblocking_ffi.config() + request.decode()
        module(call=call)
        with Runtime("plugin:call", config="c") as runtime:
            self.assertEqual(runtime.call(b"x"), b"cx")

    def test_the_context(self):
        def call(request):
            now = nonblocking_ffi.current()
            left = nonblocking_ffi.remaining()
            return f"{now.runtime} {nonblocking_ffi.cancelled()} " \
                   f"{left if left is None else left > 9} " \
                   f"{now.deadline is None}"
        module(call=call)
        with Runtime("plugin:call") as runtime:
            self.assertEqual(runtime.call(b""), b"plugin:call False None True")
            self.assertEqual(runtime.call(b"", timeout=10),
                             b"plugin:call False True False")
            self.assertEqual(runtime.call(b"", cancelled=True),
                             b"plugin:call True None True")

    def test_a_deadline_that_has_passed(self):
        def call(request):
            with nonblocking_ffi.shield():
                return f"{nonblocking_ffi.cancelled()}"
        module(call=call)
        with Runtime("plugin:call") as runtime:
            self.assertEqual(runtime.call(b"", timeout=0), b"True")

    def test_errors_come_as_they_are(self):
        def call(request):
            raise nonblocking_ffi.Error(404, "none such")
        module(call=call)
        with Runtime("plugin:call") as runtime:
            with self.assertRaises(nonblocking_ffi.Error) as raised:
                runtime.call(b"")
        self.assertEqual((raised.exception.code, str(raised.exception)),
                         (404, "none such"))

    def test_outside_of_a_task(self):
        self.assertRaises(RuntimeError, nonblocking_ffi.config)
        self.assertRaises(ValueError, nonblocking_ffi.log, "x", "loud")
        self.assertFalse(issubclass(nonblocking_ffi.Stopped, Exception))


class Entries(unittest.TestCase):
    def fails(self, kind, text, entry="plugin:call", **members):
        module(**members)
        with self.assertRaisesRegex(kind, text):
            Runtime(entry)

    def test_what_is_none(self):
        self.fails(ValueError, "package.module:function", "plugin")
        self.fails(ValueError, "package.module:function", "a b:c")
        self.fails(AttributeError, 'no "call"')
        self.fails(TypeError, "of type int", call=7)
        self.fails(TypeError, "a class", call=object)

        def generator(request):
            yield request
        self.fails(TypeError, "generator", call=generator)

        class Half:
            async def init(self, config):
                pass

            def call(self, request):
                pass
        self.fails(TypeError, "init is async", call=Half)

    def test_results(self):
        for result, data in [(None, b""), ("\u00fc", b"\xc3\xbc"), (b"a", b"a"),
                             (bytearray(b"b"), b"b"),
                             (memoryview(b"abc")[1:], b"bc")]:
            self.assertEqual(to_bytes(result), data)
        for result in (1, 1.5, [b"a"], {}):
            self.assertRaises(TypeError, to_bytes, result)


if __name__ == "__main__":
    unittest.main()
