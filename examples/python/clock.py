"""Coroutines: one thread serves thousands of requests that wait.

A request is a number of seconds; the response, that much later, says how many
requests were waiting meanwhile. What a real plugin would wait for is a database
or another server, with any library that is made for asyncio.
"""

import asyncio

import nonblocking_ffi as nbffi


class Clock:
    async def init(self, config: str) -> None:
        self.waiting = 0

    async def call(self, request: bytes) -> str:
        try:
            seconds = float(request)
        except ValueError as error:
            raise nbffi.Error(400, "a number of seconds is expected") from error
        self.waiting += 1
        try:
            # Ends with CancelledError if the caller gives up.
            await asyncio.sleep(seconds)
            return str(self.waiting)
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        nbffi.log(f"{self.waiting} requests are waiting at the end")
