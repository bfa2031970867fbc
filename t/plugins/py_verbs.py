"""Functions and objects that t/50-python.t calls. The folder is in `path`."""

import asyncio
import array
import logging
import sys
import threading
import time

import nonblocking_ffi
from nonblocking_ffi import Error


def echo(request):
    return request


class Namespace:
    """Entries may have dots behind the colon."""

    @staticmethod
    def upper(request):
        return request.upper()


# Everything that a response may be made of.

RESULTS = {
    b"bytes": b"a\0b",
    b"str": "gr\u00fc\u00df",
    b"none": None,
    b"empty": b"",
    b"bytearray": bytearray(b"array"),
    b"memoryview": memoryview(b"xviewx")[1:-1],
    b"numbers": array.array("H", [0x6261, 0x6463]),
    b"strided": memoryview(b"abcdef")[::2],
    b"int": 7,
    b"list": [b"x"],
    b"surrogate": "\udc80",
}


def give(request):
    return RESULTS[request]


# Everything that may be raised.

class Own(Exception):
    pass


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fail(request):
    kind = request.decode()
    if kind == "value":
        raise ValueError("seven is wrong")
    if kind == "own":
        raise Own("mine")
    if kind == "bare":
        raise KeyError
    if kind == "lines":
        raise ValueError("one\ntwo")
    if kind == "unprintable":
        raise Unprintable
    if kind == "exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "code":
        raise Error(404, "no such thing")
    if kind == "cause":
        try:
            int("x")
        except ValueError as error:
            raise LookupError("outer") from error
    if kind == "deep":
        return deep(0)
    return kind


def deep(level):
    return deep(level + 1) + 1


def generate(request):
    yield request


async def agenerate(request):
    yield request


NUMBER = 7


class Silent:
    """Has no method `call`."""


# Objects.

class Greeter:
    """With a life of its own."""

    def init(self, config):
        self.greeting = config
        self.calls = 0
        if config == "refuse":
            raise ValueError("no greeting")

    def call(self, request):
        self.calls += 1
        return f"{self.greeting} {request.decode()} {self.calls}"

    def close(self):
        logging.warning("%s ends after %d", self.greeting, self.calls)


class Stiff:
    """Its life ends badly."""

    def call(self, request):
        return request

    def close(self):
        raise RuntimeError("will not end")


ready_made = Greeter()
ready_made.greeting, ready_made.calls = "ready", 0


class Functor:
    def __call__(self, request):
        return b"functor " + request


functor = Functor()


class AsyncGreeter:
    async def init(self, config):
        await asyncio.sleep(0)
        self.loop = asyncio.get_running_loop()
        self.greeting = config

    async def call(self, request):
        assert self.loop is asyncio.get_running_loop()
        return f"{self.greeting} {request.decode()}"

    async def close(self):
        await asyncio.sleep(0)
        logging.warning("%s ends", self.greeting)


class HalfAsync:
    async def init(self, config):
        pass

    def call(self, request):
        return request


# The context.

def context(request):
    verb, _, rest = request.decode().partition(" ")
    now = nonblocking_ffi.current()
    if verb == "config":
        return nonblocking_ffi.config()
    if verb == "name":
        return now.runtime
    if verb == "remaining":
        left, deadline = now.remaining(), now.deadline
        assert abs(deadline - time.monotonic() - left) < 1
        return f"{left:.0f}"
    if verb == "cancelled":
        return str(nonblocking_ffi.cancelled())
    if verb == "status":
        nonblocking_ffi.set_status(206, "partial")
        return rest
    if verb == "thread":
        return elsewhere(now)
    raise ValueError(verb)


def elsewhere(now):
    said = []

    def ask():
        try:
            nonblocking_ffi.current()
        except RuntimeError as error:
            said.append(str(error).partition(":")[0])
        said.append(f"{now.remaining():.0f} {now.cancelled()}")

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return ", ".join(said)


async def acontext(request):
    await asyncio.sleep(0)
    said = await asyncio.gather(*(child() for _ in range(2)))
    nonblocking_ffi.set_status(1, request.decode())
    return " ".join(said)


async def child():
    await asyncio.sleep(0.001)
    left = nonblocking_ffi.remaining()
    return f"{nonblocking_ffi.config()} {left:.0f}"


kept = []


def keep(request):
    """Whether the task of the call before is over."""
    kept.append(nonblocking_ffi.current())
    if len(kept) == 1:
        return "first"
    return f"{kept[-2].cancelled()} {kept[-2].remaining()}"


# Long tasks. What they have seen is asked for afterwards.

seen = []


def report(request):
    if request == b"forget":
        seen.clear()
    return " ".join(seen)


def poll(request):
    """Looks whether it is cancelled."""
    seen.append("begun")
    with nonblocking_ffi.shield():
        while not nonblocking_ffi.cancelled():
            time.sleep(0.001)
        seen.append("cancelled")
    raise Error(499, "the caller has gone")


def spin(request):
    """Looks at nothing."""
    seen.append("begun")
    try:
        while True:
            pass
    except Exception:
        seen.append("exception")
    except BaseException as error:
        seen.append(type(error).__name__)
        raise
    finally:
        seen.append("finally")


def stubborn(request):
    """Does not want to end."""
    for _ in range(3):
        try:
            while True:
                pass
        except BaseException as error:
            seen.append(type(error).__name__)
    return b"at last"


async def doze(request):
    seen.append("begun")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        seen.append("cancelled")
        raise


async def aspin(request):
    """Keeps the loop for itself."""
    seen.append("begun")
    while True:
        pass


async def aecho(request):
    await asyncio.sleep(0)
    return request


async def afail(request):
    await asyncio.sleep(0)
    return fail(request)


def verbs(request):
    """All of the above with one module, whose name is the first word."""
    verb, _, rest = request.partition(b" ")
    return globals()[verb.decode()](rest)


async def averbs(request):
    """The same for coroutines, with one loop."""
    return await verbs(request)


async def areport(request):
    return report(request)


def sleep(request):
    time.sleep(float(request))
    return threading.current_thread().name


# The log.

def say(request):
    text = request.decode()
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logging, level)("%s at %s", text, level)
    logging.log(25, "%s at notice", text)
    logging.getLogger("some.module").warning("%s of a module", text)
    print(text, "printed")
    print(text, "in parts", end=" ")
    print("printed")
    print(text, "to stderr", file=sys.stderr)
    nonblocking_ffi.log(f"{text} of its own", "notice")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("%s with a traceback", text)


def say_long(request):
    nonblocking_ffi.log("\n".join(f"line {i} " + "x" * 60
                                  for i in range(100)), "notice")
    nonblocking_ffi.log("x" * 3000, "notice")


def say_forged(request):
    nonblocking_ffi.log("one\n2026/01/01 00:00:00 [warn] 1#1: forged"
                        " \x1b[31mred\0 and more \u00e4", "notice")


def say_in_thread(request):
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()


# Pictures, for the examples.

def picture(request):
    import io
    from PIL import Image
    mode, width, height, kind = request.decode().split()
    size = int(width), int(height)
    red = Image.linear_gradient("L").resize(size)
    green = Image.radial_gradient("L").resize(size)
    bands = [red, green, red, green][:len(Image.new(mode, (1, 1)).getbands())]
    out = io.BytesIO()
    Image.merge(mode, bands).save(out, kind)
    return out.getvalue()
