"""What tests/orderly_end.rs has Python leave behind at the end of a worker. The
configuration is a folder to write to."""

import atexit
import bz2
import concurrent.futures
import gzip
import multiprocessing
import os
import subprocess
import threading
import time

import nonblocking_ffi

kept = []


def path(name):
    return os.path.join(nonblocking_ffi.config(), name)


def wait_for_ever(_):
    time.sleep(3600)


class Ending:
    def global_file(self):
        """Three kinds of file, not flushed, in a variable of a module."""
        text = open(path("text"), "w")
        text.write("text")
        binary = open(path("binary"), "wb")
        binary.write(b"binary")
        random = open(path("random"), "w+b")
        random.write(b"random")
        kept.extend([text, binary, random])

    def compressed_file(self):
        for name, module in ("gzip", gzip), ("bz2", bz2):
            file = module.open(path(name), "wb")
            file.write(b"compressed")
            kept.append(file)

    def thread_file(self):
        """A file that is local to a thread that is running at the end."""
        ready = threading.Event()

        def write(name):
            file = open(name, "w")
            file.write("of a thread")
            ready.set()
            while True:
                time.sleep(0.01)

        threading.Thread(target=write, args=(path("thread"),),
                         daemon=True).start()
        ready.wait()

    def stuck_pipe(self):
        """A pipe that nobody reads, and is full: to flush it would hang."""
        _, end = os.pipe()
        os.set_blocking(end, False)
        try:
            while True:
                os.write(end, b"x" * 4096)
        except BlockingIOError:
            pass
        os.set_blocking(end, True)
        file = open(end, "wb")
        file.write(b"x")
        kept.append(file)

    def atexit(self):
        at = path("atexit")

        def goodbye():
            main = threading.current_thread() is threading.main_thread()
            with open(at, "w") as file:
                file.write(f"main={main}")

        atexit.register(goodbye)

    def thread(self):
        """A thread that is no daemon is waited for."""
        at = path("joined")

        def work():
            while threading.main_thread().is_alive():
                time.sleep(0.001)
            with open(at, "w") as file:
                file.write("joined")

        threading.Thread(target=work, daemon=False).start()

    def stuck_thread(self):
        threading.Thread(target=wait_for_ever, args=(0,),
                         daemon=False).start()

    def futures(self):
        """Work of an executor is finished before the functions of atexit."""
        at = path("futures")
        executor = concurrent.futures.ThreadPoolExecutor(1)

        def work(number):
            time.sleep(0.02)
            with open(at, "a") as file:
                file.write(str(number))

        for number in range(5):
            executor.submit(work, number)
        kept.append(executor)

    def processes(self):
        """Two processes, and the tracker of their semaphores."""
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(2, context)
        kept.append(pool)
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
        assert len(pool._processes) > 0

    def busy_processes(self):
        """The same, with work that never ends."""
        self.processes()
        future = kept[-1].submit(time.sleep, 3600)
        while not future.running():
            time.sleep(0.001)

    def shells(self):
        """A child with a child of its own, one that takes no SIGTERM, and one
        in a session of its own. The number of the last is answered."""
        subprocess.Popen(["sh", "-c", "sleep 3600 & wait"])
        stubborn = subprocess.Popen(
            ["sh", "-c", "trap '' TERM; echo; while :; do sleep 3600; done"],
            stdout=subprocess.PIPE)
        stubborn.stdout.readline()
        own = subprocess.Popen(["sleep", "3600"], start_new_session=True,
                               stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        return str(own.pid)

    def call(self, request):
        return getattr(self, request.decode())() or "done"
