"""An instance on emulators of AWS, driven as any pipeline would: boto3 sends the messages, reads objects and polls."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from harness import PROPERTIES, Export, Instance, Json, Server, check_export, wait_for

CACHE = Path(os.environ.get("DORMOUSE_CACHE", Path.home() / ".cache" / "dormouse"))
MINISTACK = CACHE / "emulators" / "venv" / "bin" / "ministack"
DYNOXIDE = CACHE / "emulators" / "dynoxide" / "node_modules" / "@dynoxide" / "linux-x64" / "dynoxide"

ACCOUNT = "000000000000"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Services:
    """Where S3, SQS and DynamoDB are."""

    url: str
    dynamodb_url: str

    @property
    def env(self) -> dict[str, str]:
        """What the AWS SDKs and the AWS CLI read."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        url = self.dynamodb_url if service == "dynamodb" else self.url
        return boto3.client(
            service,
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@contextmanager
def emulators(logs: Path) -> Iterator[Services]:
    """MiniStack for S3, SQS and ECS, dynoxide for DynamoDB, for as long as the block runs."""
    for program in (MINISTACK, DYNOXIDE):
        assert program.exists(), f"no {program}; scripts/emulators --install installs it"
    ports = [free_port(), free_port()]
    commands = [[MINISTACK], [DYNOXIDE, "--port", str(ports[1])]]
    env = os.environ | {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(ports[0])}
    processes = []
    for command, port in zip(commands, ports, strict=True):
        log = (logs / f"{Path(command[0]).name}.log").open("ab")
        processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        wait_for(lambda port=port: answers(port), f"{command[0]} answers", seconds=60)
    yield Services(*(f"http://127.0.0.1:{port}" for port in ports))
    for process in processes:
        process.kill()
        process.wait()


class AwsInstance(Instance):
    """As an embedded instance, but on AWS. Inputs are uploaded when a job names them."""

    def __init__(self, root: Path, services: Services, properties: dict[str, str]) -> None:
        self.services = services
        self.id = f"t{uuid.uuid4().hex[:12]}"
        self.sqs, self.s3, self.dynamodb = (services.client(name) for name in ("sqs", "s3", "dynamodb"))
        self.uploaded: dict[Path, str] = {}
        super().__init__(root, properties)
        self.source_bucket = f"source-{self.id}"
        self.s3.create_bucket(Bucket=self.source_bucket)

    def configure(self, **overrides: str) -> None:
        """Makes the instance with its properties, or sets them anew."""
        values = PROPERTIES | self.properties | {key.replace("_", "."): value for key, value in overrides.items()}
        # SQS counts whole seconds.
        timeout = "queue.visibility.timeout.seconds"
        values[timeout] = str(max(1, round(float(values[timeout]))))
        text = "".join(f"dormouse.{key}={value}\n" for key, value in values.items())
        file = self.root / "instance.properties"
        file.write_text(text)
        made = self.run("--properties", file, "instance", "init", "--format", "json").json
        if not any(part["made"] for part in made):
            body = self.s3.get_object(Bucket=self.bucket("config"), Key="instance.properties")["Body"].read().decode()
            names = [line for line in body.splitlines() if ".url=" in line or "bucket=" in line]
            self.s3.put_object(
                Bucket=self.bucket("config"), Key="instance.properties", Body=text + "\n".join(names) + "\n"
            )

    def bucket(self, part: str) -> str:
        return f"dormouse-{self.id}-{part}-{ACCOUNT}"

    def queue_url(self, queue: str) -> str:
        suffix = ".fifo" if queue == "commit" else ""
        return self.sqs.get_queue_url(QueueName=f"dormouse-{self.id}-{queue}{suffix}")["QueueUrl"]

    @property
    def env(self) -> dict[str, str]:
        clean = {key: value for key, value in super().env.items() if key != "DORMOUSE_DATA" and key[:4] != "AWS_"}
        return clean | self.services.env | {"DORMOUSE_INSTANCE": self.id, "TMPDIR": str(self.data)}

    @contextmanager
    def serve(self, *command: str) -> Iterator[Server]:
        # Workers on AWS end when they find nothing to do; these are to stay.
        stay = ["--max-idle-seconds", "100000"] if command and "--max-idle-seconds" not in command else []
        with super().serve(*command, *stay) as server:
            yield server

    # Messages and jobs.

    def upload(self, file: Path) -> str:
        """Uploads a file once, and returns its place as messages name it."""
        if file not in self.uploaded:
            key = f"{len(self.uploaded)}/{file.name}"
            # Else boto3 sends the body in a form that is slow here.
            self.s3.put_object(Bucket=self.source_bucket, Key=key, Body=file.read_bytes())
            self.uploaded[file] = f"{self.source_bucket}/{key}"
        return self.uploaded[file]

    def send(self, queue: str, body: Json | str) -> str:
        text = body if isinstance(body, str) else json.dumps(body)
        return self.sqs.send_message(QueueUrl=self.queue_url(queue), MessageBody=text)["MessageId"]

    def send_ingest(self, job: str, table: str, *files: Path) -> str:
        return self.send("ingest", {"id": job, "tableName": table, "files": [self.upload(file) for file in files]})

    def ingest(self, table: str, *files: str | Path, job: str | None = None) -> Json:
        places = [self.upload(file) if isinstance(file, Path) else file for file in files]
        return super().ingest(table, *places, job=job)

    def job_item(self, job: str) -> Json | None:
        """The job as pipelines poll it: its item in the table job-status."""
        found = self.dynamodb.query(
            TableName=f"dormouse-{self.id}-job-status",
            KeyConditionExpression="jobId = :job",
            ExpressionAttributeValues={":job": {"S": job}},
            ConsistentRead=True,
        )["Items"]
        assert len(found) <= 1, found
        return {name: next(iter(value.values())) for name, value in found[0].items()} if found else None

    # What is stored.

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def exported(self, report: Json) -> Export:
        bucket, prefix = report["export"]["location"].removeprefix("s3://").split("/", 1)
        directory = self.root / "exports" / prefix
        directory.mkdir(parents=True, exist_ok=True)
        for key in self.keys(bucket, f"{prefix}/"):
            body = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            (directory / key.rsplit("/", 1)[1]).write_bytes(body)
        return check_export(directory, report, self.describe_by_id(report["table"]))

    def data_files(self) -> set[str]:
        return {key for key in self.keys(self.bucket("table-data")) if key.split("/")[1] == "data"}

    def unfinished(self) -> list[str]:
        buckets = (self.bucket("table-data"), self.bucket("bulk-export-results"))
        listed = [self.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) for bucket in buckets]
        return [upload["Key"] for uploads in listed for upload in uploads]

    def spilled(self) -> list[Path]:
        """What processes that were killed spilled goes with their machine."""
        return []

    def pause_at_work(self, server: Server, job: str) -> bool:
        server.pause()
        item = self.job_item(job)
        return bool(item) and item["status"] not in ("FINISHED", "FAILED", "REJECTED")
