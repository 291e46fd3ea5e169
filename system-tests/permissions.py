"""A service that asks for permission: a proxy before an emulator of AWS that lets through what a policy of IAM allows.

Only the part of IAM that our policies use is here: statements that allow, with `*` in resources.
"""

from __future__ import annotations

import fnmatch
import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from proxy import Upstream, answer, before, exchange, target

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


def guarded(url: str, guard: Guard) -> AbstractContextManager[str]:
    """A proxy before the service at `url`, for as long as the block runs; yields its own URL."""

    def carry(upstream: Upstream, head: bytes, body: bytes) -> bytes:
        may = [guard.allows(call) for call in calls(head, body)]
        return exchange(upstream, head, body) if all(may) else denied(head)

    return before(url, carry)
