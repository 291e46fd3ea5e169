"""A network and services that fail: a proxy before an emulator of AWS that does to some requests what AWS may do to any.

What happens is drawn from a seed. A request is turned away (S3 503, SQS 503, DynamoDB throttling), carried out and its
answer lost, its answer broken off half-way, carried out late, or, for batches of messages, carried out for a part of
its entries only.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

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


class Faults:
    """Which requests fail, and how often each way has been taken."""

    def __init__(self, seed: int, share: float) -> None:
        self.random = random.Random(seed)
        self.share = share
        self.met: Counter[str] = Counter()
        self.lock = threading.Lock()

    def draw(self, ways: list[str]) -> str | None:
        with self.lock:
            if self.random.random() >= self.share:
                return None
            way = self.random.choice(ways)
            self.met[way] += 1
            return way

    def some(self, count: int) -> set[int]:
        """Some of so many places, not all."""
        with self.lock:
            return set(self.random.sample(range(count), self.random.randint(1, count - 1)))


def target(head: bytes) -> str:
    """The operation of a request, such as AmazonSQS.SendMessageBatch; empty for S3."""
    lines = (line.split(b":", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"x-amz-target:"))
    return next(lines, b"").strip().decode()


def ways(operation: str, head: bytes, body: bytes) -> list[str]:
    """What may happen to a request."""
    found = ["turned away", "lost reply", "late"]
    if not operation and head.startswith(b"GET "):
        found.append("broken off")
    if operation.endswith("MessageBatch") and len(json.loads(body)["Entries"]) > 1:
        found += ["partial"] * 3
    return found


def turned_away(operation: str) -> bytes:
    if operation.startswith("DynamoDB"):
        name = "com.amazonaws.dynamodb.v20120810#ThrottlingException"
        return answer(400, json.dumps({"__type": name, "message": "a fault"}).encode())
    if operation:
        return answer(503, json.dumps({"__type": "ServiceUnavailable", "message": "a fault"}).encode())
    return answer(503, b"<Error><Code>SlowDown</Code><Message>a fault</Message></Error>", "application/xml")


def exchange(upstream: tuple[str, int], head: bytes, body: bytes) -> bytes:
    """The whole answer of the service."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"content-length:", b"connection:"))]
    lines += [b"Connection: close", b"Content-Length: %d" % len(body)]
    received = b""
    with socket.create_connection(upstream) as server:
        server.sendall(b"\r\n".join(lines) + END_OF_HEAD + body)
        while more := server.recv(65536):
            received += more
    return received


def carried_out_in_part(upstream: tuple[str, int], head: bytes, body: bytes, faults: Faults) -> bytes:
    request = json.loads(body)
    entries = request["Entries"]
    failing = faults.some(len(entries))
    request["Entries"] = [entry for place, entry in enumerate(entries) if place not in failing]
    received = exchange(upstream, head, json.dumps(request).encode())
    answered = json.loads(received.split(END_OF_HEAD, 1)[1])
    answered["Failed"] = answered.get("Failed", []) + [
        {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False, "Message": "a fault"}
        for place, entry in enumerate(entries)
        if place in failing
    ]
    return answer(200, json.dumps(answered).encode())


@contextmanager
def failing(url: str, faults: Faults) -> Iterator[str]:
    """A proxy before the service at `url`, for as long as the block runs; yields its own URL."""
    host, port = url.removeprefix("http://").split(":")
    upstream = (host, int(port))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                self.carry()

        def carry(self) -> None:
            request = read_request(self.request)
            if request is None:
                return
            head, body = request
            operation = target(head)
            way = faults.draw(ways(operation, head, body))
            if way == "turned away":
                return self.request.sendall(turned_away(operation))
            if way == "partial":
                return self.request.sendall(carried_out_in_part(upstream, head, body, faults))
            received = exchange(upstream, head, body)
            if way == "lost reply":
                return None
            if way == "broken off":
                received = received[: len(received) * 3 // 4]
            if way == "late":
                time.sleep(0.3)
            return self.request.sendall(received)

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
