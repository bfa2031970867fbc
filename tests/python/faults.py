"""What tests/python.rs calls. The configuration is the file of counters, see
tests/support/plugins.rs."""

import asyncio
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import nonblocking_ffi

# The places of counters, and of the first id.
STARTED, ENDED, CANCELLED, INITS, CLOSES, RUNNING, HEADER = 0, 1, 2, 6, 7, 8, 16


class Counters:
    """Exact for one worker; for each id, for any number of them."""

    lock = threading.Lock()

    def __init__(self, path):
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def add(self, place, number=1):
        # Counts are exact also if the task is being stopped.
        with nonblocking_ffi.shield(), self.lock:
            value, = struct.unpack_from("=q", self.memory, place * 8)
            struct.pack_into("=q", self.memory, place * 8, value + number)


class Faults:
    """`verb argument id`: does something odd and answers with the request."""

    def init(self, config):
        self.counters = Counters(config)
        self.counters.add(INITS)

    def close(self):
        self.counters.add(CLOSES)

    def call(self, request):
        counters = self.counters
        counters.add(STARTED)
        counters.add(RUNNING)
        try:
            words = request.split()
            if len(words) > 2:
                counters.add(HEADER + int(words[2]))
            argument = words[1] if len(words) > 1 else b""
            answer = getattr(self, words[0].decode())(argument)
            return request if answer is None else answer
        except nonblocking_ffi.Stopped:
            counters.add(CANCELLED)
            raise
        finally:
            counters.add(RUNNING, -1)
            counters.add(ENDED)

    def echo(self, argument):
        pass

    def sleep(self, milliseconds):
        time.sleep(int(milliseconds) / 1000)

    def spin(self, milliseconds):
        """Computes for so long, and heeds nothing."""
        end = time.monotonic() + int(milliseconds) / 1000
        while time.monotonic() < end:
            pass

    def give(self, size):
        return b"x" * int(size)

    def fail(self, argument):
        raise ValueError(argument)

    def cycle(self, argument):
        """Garbage that only the collector finds."""
        a, b = [argument], []
        a.append(b)
        b.append(a)

    def exit(self, argument):
        sys.exit(1)

    def signals(self, argument):
        """What Python lets a plugin do to signals: nothing."""
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except ValueError as error:
            return str(error)
        return "installed"

    def thread(self, argument):
        """A thread that never ends."""
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        threading.Thread(target=time.sleep, args=(3600,)).start()

    def run(self, argument):
        """A program."""
        program = subprocess.run(["/bin/echo", "-n", argument],
                                 stdout=subprocess.PIPE, check=False)
        return program.stdout

    def processes(self, argument):
        """Of its own, forked, as is the default of multiprocessing."""
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return str(pool.map(abs, [-int(argument), 2]))

    def fork(self, seconds):
        """Children that end with the worker."""
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(time.sleep, [int(seconds)] * 2)

    def prefix(self, argument):
        return f"{sys.prefix}\n{sys.base_prefix}\n{sys.executable}"

    def python(self, code):
        """An expression without blanks."""
        return str(eval(code))

    def numpy(self, argument):
        import numpy
        ones = numpy.ones((int(argument), int(argument)))
        return str(int((ones @ ones).sum()))


class Loop:
    """The same on a loop."""

    async def init(self, config):
        self.counters = Counters(config)
        self.counters.add(INITS)

    async def close(self):
        self.counters.add(CLOSES)

    async def call(self, request):
        counters = self.counters
        counters.add(STARTED)
        counters.add(RUNNING)
        try:
            words = request.split()
            if len(words) > 2:
                counters.add(HEADER + int(words[2]))
            answer = await getattr(self, words[0].decode())(words[1])
            return request if answer is None else answer
        except asyncio.CancelledError:
            counters.add(CANCELLED)
            raise
        finally:
            counters.add(RUNNING, -1)
            counters.add(ENDED)

    async def echo(self, argument):
        pass

    async def sleep(self, milliseconds):
        await asyncio.sleep(int(milliseconds) / 1000)

    async def spin(self, milliseconds):
        end = time.monotonic() + int(milliseconds) / 1000
        while time.monotonic() < end:
            pass

    async def fail(self, argument):
        raise ValueError(argument)

    async def task(self, argument):
        """One that outlives its call."""
        self.rest = asyncio.ensure_future(asyncio.sleep(3600))


class Race:
    """Tasks of about the length of their deadline, and others between them
    that nothing may happen to."""

    def init(self, config):
        self.hurt = 0
        self.stopped = 0

    def call(self, request):
        if request == b"hurt":
            return f"{self.hurt} {self.stopped}"
        if request.startswith(b"spin"):
            try:
                end = time.monotonic() + float(request[5:])
                while time.monotonic() < end:
                    pass
            except nonblocking_ffi.Stopped:
                self.stopped += 1
                raise
            return request
        try:
            # Enough for the exception to be met in, if it is there.
            for _ in range(20):
                os.getpid()
            return request
        except nonblocking_ffi.Stopped:
            self.hurt += 1
            raise
