"""A service that asks for permission: a proxy before an emulator of AWS that lets through what a policy of IAM allows.

Only the part of IAM that our policies use is here: statements that allow, with `*` in resources.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from faults import answer, exchange, read_request, target

# An action on a resource, such as ("s3:GetObject", "bucket/key").
Call = tuple[str, str]

WRITES = {"Put": "PutItem", "Delete": "DeleteItem", "Update": "UpdateItem", "ConditionCheck": "ConditionCheckItem"}


def of_dynamodb(operation: str, body: dict) -> list[Call]:
    if operation == "TransactWriteItems":
        parts = [part for item in body["TransactItems"] for part in item.items()]
        return [(f"dynamodb:{WRITES[kind]}", f"table/{of['TableName']}") for kind, of in parts]
    if operation in ("BatchGetItem", "BatchWriteItem"):
        return [(f"dynamodb:{operation}", f"table/{table}") for table in body["RequestItems"]]
    return [(f"dynamodb:{operation}", f"table/{body['TableName']}")]


def of_sqs(operation: str, body: dict) -> list[Call]:
    queue = body["QueueUrl"].rsplit("/", 1)[1] if "QueueUrl" in body else body["QueueName"]
    return [(f"sqs:{operation.removesuffix('Batch')}", queue)]


def of_s3(head: bytes, body: bytes) -> list[Call]:
    method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    url = urlsplit(path)
    bucket, _, key = unquote(url.path).lstrip("/").partition("/")
    asked = parse_qs(url.query, keep_blank_values=True)
    if not key:
        if method == "POST" and "delete" in asked:
            keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
            return [("s3:DeleteObject", f"{bucket}/{found}") for found in keys]
        return [("s3:ListBucketMultipartUploads" if "uploads" in asked else "s3:ListBucket", bucket)]
    if method == "DELETE":
        return [("s3:AbortMultipartUpload" if "uploadId" in asked else "s3:DeleteObject", f"{bucket}/{key}")]
    if method in ("GET", "HEAD"):
        return [("s3:GetObject", f"{bucket}/{key}")]
    calls = [("s3:PutObject", f"{bucket}/{key}")]
    source = re.search(rb"(?im)^x-amz-copy-source: *([^\r\n]+)", head)
    if source:
        calls.append(("s3:GetObject", unquote(source.group(1).decode()).lstrip("/")))
    return calls


def calls(head: bytes, body: bytes) -> list[Call]:
    """What a request needs permission for."""
    service, _, operation = target(head).partition(".")
    if service.startswith("DynamoDB"):
        return of_dynamodb(operation, json.loads(body))
    if service == "AmazonSQS":
        return of_sqs(operation, json.loads(body))
    if b"Action=GetCallerIdentity" in body:
        return []
    return of_s3(head, body)


@dataclass
class Guard:
    """A policy, and what it refused."""

    policy: dict
    refused: set[Call] = field(default_factory=set)

    def allows(self, call: Call) -> bool:
        action, resource = call
        for statement in self.policy["Statement"]:
            # The last part of an ARN; in those of S3, nothing is before it but colons.
            patterns = [arn.split(":", 5)[5] for arn in statement["Resource"]]
            if action in statement["Action"] and any(fnmatch.fnmatchcase(resource, pattern) for pattern in patterns):
                return True
        self.refused.add(call)
        return False


def denied(head: bytes) -> bytes:
    if target(head):
        return answer(400, json.dumps({"__type": "AccessDeniedException", "message": "not allowed"}).encode())
    return answer(403, b"<Error><Code>AccessDenied</Code><Message>not allowed</Message></Error>", "application/xml")


@contextmanager
def guarded(url: str, guard: Guard) -> Iterator[str]:
    """A proxy before the service at `url`, for as long as the block runs; yields its own URL."""
    host, port = url.removeprefix("http://").split(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                request = read_request(self.request)
                if request is None:
                    return
                may = [guard.allows(call) for call in calls(*request)]
                self.request.sendall(exchange((host, int(port)), *request) if all(may) else denied(request[0]))

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
