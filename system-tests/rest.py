"""A client of the HTTP API, for tests: plain requests, and a server to send them to."""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from harness import Instance, Json, Server, wait_for

# Clients that we did not write, in a virtual environment of their own.
CLIENTS = Path(os.environ.get("DORMOUSE_CLIENTS", Path.home() / ".cache/dormouse/clients"))

ENDED = {"JobComplete", "Failed", "Aborted"}


@dataclass
class Answer:
    """What a request was answered with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.status} {self.headers}\n{self.body[:2000]!r}"


@dataclass
class Api:
    """An API at a URL, asked with a key or without."""

    url: str
    server: Server
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def with_key(self, key: str) -> Api:
        return Api(self.url, self.server, key)

    def call(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        status: int | None = 200,
        timeout: float = 300,
        **headers: str,
    ) -> Answer:
        """Sends a request, to a path of the API or a whole URL, and checks its status unless that is None."""
        target = urlsplit(path if path.startswith("http") else self.url + path)
        sent = dict(self.headers)
        if self.key and target.netloc == urlsplit(self.url).netloc and "signature=" not in target.query:
            sent["Authorization"] = f"Bearer {self.key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(target.netloc, timeout=timeout)
        where = target.path + (f"?{target.query}" if target.query else "")
        connection.request(method, where, body, sent)
        response = connection.getresponse()
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        connection.close()
        if status is not None:
            assert answer.status == status, f"{method} {path}: expected {status}, not {answer}"
        return answer

    def query(self, sql: str, **options: Json) -> Json:
        return self.call("POST", "/v1/queries", {"sql": sql} | options).json

    def create(self, sql: str, **options: Json) -> Json:
        """Makes a job that starts at once."""
        body = {"operation": "query", "query": sql, "auto_start": True} | options
        return self.call("POST", "/v1/bulk/jobs", body, status=201).json

    def job(self, job: str) -> Json:
        return self.call("GET", f"/v1/bulk/jobs/{job}").json

    def wait(self, job: str, state: str = "JobComplete", seconds: float = 120) -> Json:
        """Waits until a job ends, and checks how."""

        def ended() -> Json | None:
            report = self.job(job)
            return report if report["state"] in ENDED else None

        report = wait_for(ended, lambda: f"job {job} ends: {self.job(job)}", seconds)
        assert report["state"] == state, report
        return report

    def results(self, job: str, options: str = "") -> Json:
        return self.call("GET", f"/v1/bulk/jobs/{job}/results{options}").json

    def export(self, sql: str, **options: Json) -> list[bytes]:
        """Runs a job to its end, and downloads its files."""
        job = self.create(sql, **options)["job_id"]
        self.wait(job)
        return [self.call("GET", file["url"]).body for file in self.results(job)["files"]]


def url_of(server: Server) -> str | None:
    """Where a server's API is, when it has said so."""
    found = re.search(r"the API listens.*?(http://[0-9.]+:\d+)", re.sub(r"\x1b\[[0-9;]*m", "", server.text()))
    return found.group(1) if found else None


@contextmanager
def serve(instance: Instance, *options: str, api_only: bool = False) -> Iterator[Api]:
    """Runs `dormouse serve` with its API on a free port, and stops it with SIGTERM."""
    server = start(instance, *options, api_only=api_only)
    yield server
    assert server.server.runs(), f"serve ended by itself:\n{server.server.text()}"
    assert server.server.stop() == 0, server.server.text()
    assert "panicked" not in server.server.text(), server.server.text()


def start(instance: Instance, *options: str, api_only: bool = False, **environment: str) -> Api:
    """Starts a server with its API on a free port."""
    command = "api" if api_only else "serve"
    server = instance.start(command, "--listen", "127.0.0.1:0", *options, **environment)
    url = wait_for(lambda: url_of(server) or not server.runs(), f"{server.log} says where the API is", poll=0.01)
    assert server.runs(), f"the server ended with exit code {server.process.returncode}:\n{server.text()}"
    if not api_only:
        server.wait_until_works()
    return Api(url, server)
