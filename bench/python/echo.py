"""Echo in Python: as a plugin, and as its rivals behind a unix socket.

    python3 echo.py asyncio /path/of/socket     one asyncio loop
    python3 echo.py threads /path/of/socket     socketserver, a thread for each
                                                connection

A message is its length, 4 bytes with the highest first, and its bytes; the
answer has the same form, as that of `bench/src/echo_server.rs`.
"""

import asyncio
import os
import socketserver
import sys


def echo(request):
    return request


async def aecho(request):
    return request


class Connection(asyncio.Protocol):
    """The fastest that asyncio has: callbacks, no streams, no tasks."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""

    def data_received(self, data):
        buffer = self.buffer + data if self.buffer else data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:4], "big")
            if len(buffer) < end:
                break
            self.transport.write(buffer[:4] + echo(buffer[4:end]))
            buffer = buffer[end:]
        self.buffer = buffer


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        file = self.request.makefile("rb")
        while True:
            head = file.read(4)
            if len(head) < 4:
                return
            body = file.read(int.from_bytes(head, "big"))
            self.request.sendall(head + echo(body))


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 1024


async def serve(path):
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Connection, path, backlog=1024)
    os.chmod(path, 0o777)
    await server.serve_forever()


if __name__ == "__main__":
    kind, path = sys.argv[1:]
    if kind == "asyncio":
        asyncio.run(serve(path))
    else:
        with Server(path, Handler) as server:
            os.chmod(path, 0o777)
            server.serve_forever()
