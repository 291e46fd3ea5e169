"""A proxy before an emulator of AWS, and what requests to it are."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# The host and port of a service.
Upstream = tuple[str, int]

END_OF_HEAD = b"\r\n\r\n"


def read_request(client: socket.socket) -> tuple[bytes, bytes] | None:
    """The head and the body of one request."""
    data = b""
    while END_OF_HEAD not in data:
        more = client.recv(65536)
        if not more:
            return None
        data += more
    head, body = data.split(END_OF_HEAD, 1)
    lengths = [line.split(b":", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    length = int(lengths[0]) if lengths else 0
    while len(body) < length:
        more = client.recv(65536)
        if not more:
            return None
        body += more
    return head, body


def answer(status: int, body: bytes, kind: str = "application/x-amz-json-1.0") -> bytes:
    head = f"HTTP/1.1 {status} Fault\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def target(head: bytes) -> str:
    """The operation of a request, such as AmazonSQS.SendMessageBatch; empty for S3."""
    lines = (line.split(b":", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"x-amz-target:"))
    return next(lines, b"").strip().decode()


def exchange(upstream: Upstream, head: bytes, body: bytes) -> bytes:
    """The whole answer of the service."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"content-length:", b"connection:"))]
    lines += [b"Connection: close", b"Content-Length: %d" % len(body)]
    received = b""
    with socket.create_connection(upstream) as server:
        server.sendall(b"\r\n".join(lines) + END_OF_HEAD + body)
        while more := server.recv(65536):
            received += more
    return received


@contextmanager
def before(url: str, carry: Callable[[Upstream, bytes, bytes], bytes | None]) -> Iterator[str]:
    """A proxy before the service at `url`, for as long as the block runs; yields its own URL. `carry` has the head and the
    body of each request, and returns the answer; without one, the connection ends."""
    host, port = url.removeprefix("http://").split(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                request = read_request(self.request)
                reply = carry((host, int(port)), *request) if request else None
                if reply is not None:
                    self.request.sendall(reply)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
