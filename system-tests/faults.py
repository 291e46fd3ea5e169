"""A network and services that fail: a proxy before an emulator of AWS that does to some requests what AWS may do to any.

What happens is drawn from a seed. A request is turned away (S3 503, SQS 503, DynamoDB throttling), carried out and its
answer lost, its answer broken off half-way, carried out late, or, for batches of messages, carried out for a part of
its entries only.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager

from proxy import END_OF_HEAD, Upstream, answer, before, exchange, target


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


def carried_out_in_part(upstream: Upstream, head: bytes, body: bytes, faults: Faults) -> bytes:
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


def failing(url: str, faults: Faults) -> AbstractContextManager[str]:
    """A proxy before the service at `url`, for as long as the block runs; yields its own URL."""

    def carry(upstream: Upstream, head: bytes, body: bytes) -> bytes | None:
        operation = target(head)
        way = faults.draw(ways(operation, head, body))
        if way == "turned away":
            return turned_away(operation)
        if way == "partial":
            return carried_out_in_part(upstream, head, body, faults)
        received = exchange(upstream, head, body)
        if way == "lost reply":
            return None
        if way == "broken off":
            received = received[: len(received) * 3 // 4]
        if way == "late":
            time.sleep(0.3)
        return received

    return before(url, carry)
