"""The asyncio loop of a runtime whose entry is a coroutine."""

import asyncio
import selectors
import threading
from concurrent.futures import ThreadPoolExecutor

import _nonblocking_ffi as _host
import nonblocking_ffi
from _nonblocking_ffi_errors import describe, headline
from _nonblocking_ffi_log import WARN


class _Selector(selectors.DefaultSelector):
    """Tells the host of each turn, so that it finds out if a task does not give
    the loop back."""

    def select(self, timeout=None):
        _host.turn()
        return super().select(timeout)


class Loop:
    """The loop of one runtime, on a thread of its own."""

    # New tasks per turn, so that those that run get theirs.
    BATCH = 256
    # How long what a closed runtime leaves behind has to end, seconds.
    GRACE = 1

    def __init__(self, number, name):
        self.number = number
        self.function = None
        # asyncio's task of each of the host's, and the other way round.
        self.jobs = {}
        self.tasks = {}
        self.stopping = False
        self.loop = asyncio.SelectorEventLoop(_Selector())
        # That of asyncio waits at its end for threads that may never end.
        self.executor = ThreadPoolExecutor(thread_name_prefix=name)
        self.loop.set_default_executor(self.executor)
        self.thread = threading.Thread(target=self.main, name=name, daemon=True)
        self.thread.start()

    def main(self):
        _host.serve(self.number)
        nonblocking_ffi._context.set((self.number, 0))
        while not self.stopping:
            # Code that ends the loop ends its own task only.
            try:
                self.loop.run_forever()
            except BaseException as error:
                _host.log(self.number, WARN, f"in the loop: {headline(error)}")
        try:
            self.loop.run_until_complete(self.finish())
        except BaseException as error:
            describe(self.number, error, False)
        finally:
            self.loop.close()
            _host.serve(0)

    async def finish(self):
        """Ends what the plugin has started and not ended."""
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for job in rest:
            job.cancel()
        if rest:
            await asyncio.wait(rest, timeout=self.GRACE)
        await self.loop.shutdown_asyncgens()
        self.executor.shutdown(wait=False, cancel_futures=True)

    # From other threads.

    def run(self, coroutine):
        """Runs a coroutine to its end."""
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def start(self, function):
        """Begins to take tasks."""
        self.function = function
        self.loop.call_soon_threadsafe(self.serve)

    def stop(self):
        """Ends the loop and its thread."""
        self.loop.call_soon_threadsafe(self.halt)
        self.thread.join()

    def current(self):
        """The task that the loop is in, or 0."""
        return self.tasks.get(asyncio.current_task(self.loop), 0)

    # On the loop.

    def halt(self):
        self.stopping = True
        self.loop.stop()

    def serve(self):
        self.loop.add_reader(_host.inbox(self.number), self.take)
        self.take()

    def take(self):
        for _ in range(self.BATCH):
            taken = _host.take(self.number)
            if taken is None:
                return
            task, request = taken
            if request is not None:
                self.begin(task, request)
            elif task in self.jobs:
                # Nobody waits for it any more.
                self.jobs[task].cancel()
        self.loop.call_soon(self.take)

    def begin(self, task, request):
        # A task of asyncio's copies the context that it is made in.
        nonblocking_ffi._context.set((self.number, task))
        try:
            job = self.loop.create_task(self.function(request))
        except BaseException as error:
            return self.fail(task, error)
        self.jobs[task], self.tasks[job] = job, task
        job.add_done_callback(self.end)

    def end(self, job):
        task = self.tasks.pop(job)
        del self.jobs[task]
        if job.cancelled():
            return self.fail(task, asyncio.CancelledError())
        error = job.exception()
        if error is None:
            try:
                return _host.respond(task, job.result())
            except Exception as wrong:
                error = wrong
        self.fail(task, error)

    def fail(self, task, error):
        _host.fail(task, *describe(self.number, error, _host.unwanted(task)))
