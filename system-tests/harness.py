"""What the system tests share: an embedded instance driven from outside, and DuckDB to judge its results."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

Json = Any

BINARY = Path(os.environ.get("DORMOUSE_BIN", "dormouse"))

# How long one command, and one wait for a job, may take. Only a hang comes near.
COMMAND_SECONDS = 300.0
WAIT_SECONDS = 300.0
POLL_SECONDS = 0.05

# Short times, so that what a crash leaves behind is taken up within seconds; long enough that a slow machine's
# heartbeats and drains come in time. Garbage goes, files are merged and leaves split when a test says so.
PROPERTIES = {
    "queue.visibility.timeout.seconds": "5",
    "queue.max.attempts": "10",
    "worker.drain.seconds": "60",
    "memory.bytes": "64M",
    "gc.period.minutes": "1000",
    "compaction.job.creation.period.minutes": "1000",
    "partition.splitting.period.minutes": "1000",
    "tracker.repair.period.seconds": "1",
    "statestore.snapshot.period.seconds": "1",
    "table.statestore.snapshot.min.transactions": "10",
    "table.state.history.retention.hours": "0",
}

# The kinds of jobs that tests send, and those that an instance makes by itself.
SENT = ("ingest", "export")
MADE = ("compaction",)

# What is left of a write that has not ended.
UNFINISHED = re.compile(r"#\d+$")

FINAL = {"FINISHED", "FAILED", "REJECTED", "CANCELLED"}

# Rows of jobs for tests that must catch a job at work: each time that the machine was too fast for it, the job is
# made larger.
GROWING_ROWS = (50_000, 200_000, 800_000, 3_200_000, 12_800_000)


@dataclass
class Outcome:
    """How a command ended."""

    args: list[str]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Json:
        """What it printed, as JSON."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"dormouse {' '.join(self.args)}\nexit code {self.code}\n{self.stdout}{self.stderr}"


class Server:
    """A `dormouse serve`, or a `dormouse worker`, that runs until it is stopped."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=env)

    def wait_until_works(self) -> Server:
        """Waits until it says that it works."""
        started = lambda: not self.runs() or "working;" in self.text()  # noqa: E731
        wait_for(started, f"{self.log} says that it works", poll=0.002)
        assert self.runs(), f"serve ended with exit code {self.process.returncode}:\n{self.text()}"
        return self

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def runs(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Ends it with SIGKILL: at once, wherever it is."""
        self.process.kill()
        self.process.wait()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        self.process.terminate()

    def stop(self) -> int:
        """Sends SIGTERM, waits for the end, and returns the exit code."""
        self.ask_to_stop()
        return self.process.wait(timeout=COMMAND_SECONDS)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Export:
    """What an export left: the directory, and what it says of itself."""

    directory: Path
    manifest: Json
    files: list[Path]

    @property
    def relation(self) -> str:
        """All its rows, for a FROM clause; only for exports that are not empty."""
        return relation(self.files)

    @property
    def rows(self) -> int:
        return count(self.relation) if self.files else 0


@dataclass
class Instance:
    """An embedded instance in a directory of its own, with a directory for inputs beside it."""

    root: Path
    properties: dict[str, str] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = self.root / "data"
        self.inputs = self.root / "inputs"
        self.data.mkdir(exist_ok=True)
        self.inputs.mkdir()
        self.configure()

    def configure(self, **overrides: str) -> None:
        """Writes instance.properties; dots of keys are written as underscores here."""
        values = PROPERTIES | self.properties | {key.replace("_", "."): value for key, value in overrides.items()}
        lines = [f"dormouse.{key}={value}\n" for key, value in values.items()]
        (self.data / "instance.properties").write_text("".join(lines))

    # Commands.

    @property
    def env(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DORMOUSE_", "SLEEPER_"))}
        return clean | {"DORMOUSE_DATA": str(self.data)}

    def run(self, *args: str | Path, code: int | None = 0, stdin: str = "", cwd: Path | None = None) -> Outcome:
        """Runs a command and checks its exit code, unless `code` is None."""
        words = [str(arg) for arg in args]
        done = subprocess.run(
            [BINARY, *words],
            capture_output=True,
            text=True,
            env=self.env,
            input=stdin,
            cwd=cwd or self.inputs,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        outcome = Outcome(words, done.returncode, done.stdout, done.stderr)
        assert "panicked" not in outcome.stderr, outcome
        if code is not None:
            assert outcome.code == code, f"expected exit code {code} of: {outcome}"
        return outcome

    def json(self, *args: str | Path, code: int | None = 0) -> Json:
        """Runs a command for its report."""
        return self.run(*args, "--format", "json", code=code).json

    def start(self, *command: str, **environment: str) -> Server:
        """Starts `dormouse serve`, or another command that runs until it is stopped, without waiting for it."""
        command = command or ("serve",)
        log = self.root / f"server-{len(self.servers)}.log"
        server = Server([str(BINARY), *command], log, self.env | environment)
        self.servers.append(server)
        return server

    @contextmanager
    def serve(self, *command: str) -> Iterator[Server]:
        """Runs `dormouse serve` for a while, and stops it with SIGTERM."""
        server = self.start(*command).wait_until_works()
        yield server
        assert server.runs(), f"serve ended by itself:\n{server.text()}"
        assert server.stop() == 0, server.text()
        assert "panicked" not in server.text(), server.text()

    # Tables and inputs.

    def parquet(self, name: str, query: str, options: str = "") -> Path:
        """Writes the rows of a query to a Parquet file among the inputs."""
        path = self.inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet{', ' if options else ''}{options})")
        return path

    def create_table(
        self, name: str, schema: Json, split_points: Sequence[str | list[Any]] = (), **properties: str
    ) -> str:
        """Makes a table from Sleeper's JSON, and returns its id. Dots of properties are written as underscores."""
        schema_file = self.root / f"{name}-schema.json"
        schema_file.write_text(json.dumps(schema))
        args: list[str | Path] = ["table", "create", name, "--schema", schema_file]
        if split_points:
            points = self.root / f"{name}-points.txt"
            lines = [point if isinstance(point, str) else json.dumps(point) for point in split_points]
            points.write_text("\n".join(lines) + "\n")
            args += ["--split-points", points]
        for key, value in properties.items():
            args += ["--set", f"dormouse.{key.replace('_', '.')}={value}"]
        return self.json(*args)["id"]

    def describe(self, table: str) -> Json:
        return self.json("table", "describe", table)

    # Messages and jobs.

    def send(self, queue: str, body: Json | str) -> str:
        """Sends a message, and returns its id."""
        text = body if isinstance(body, str) else json.dumps(body)
        return self.json("queue", "send", queue, text)["messageId"]

    def send_ingest(self, job: str, table: str, *files: Path) -> str:
        urls = [f"file://{file}" for file in files]
        return self.send("ingest", {"id": job, "tableName": table, "files": urls})

    def send_export(self, export: str, table: str) -> str:
        return self.send("export", {"tableName": table, "exportId": export})

    def job(self, job: str) -> Json | None:
        """What is known of a job; None when nothing is."""
        outcome = self.run("jobs", "show", job, "--format", "json", code=None)
        if outcome.code == 3:
            return None
        assert outcome.code == 0, outcome
        reports = outcome.json
        assert len(reports) == 1, f"{len(reports)} jobs are called {job}: {outcome}"
        return reports[0]

    def statuses(self, kinds: Sequence[str] = SENT) -> dict[str, str]:
        """The status of each job of these kinds."""
        reports = self.json("jobs", "list", "--limit", "1000")
        return {report["job"]: report["status"] for report in reports if report["kind"] in kinds}

    def wait_job(self, job: str, status: str = "FINISHED", seconds: float = WAIT_SECONDS) -> Json:
        """Waits until a job ends, checks how, and returns its report."""

        def ended() -> Json | None:
            report = self.job(job)
            return report if report and report["status"] in FINAL else None

        report = wait_for(ended, lambda: f"job {job} ends: {self.job(job)}; queues: {self.depths()}", seconds)
        assert report["status"] == status, f"job {job} is {report['status']}, expected {status}: {reasons(report)}"
        return report

    def wait_jobs(self, jobs: Sequence[str], seconds: float = WAIT_SECONDS) -> dict[str, str]:
        """Waits until all these jobs have ended, and returns the status of each."""

        def ended() -> dict[str, str] | None:
            statuses = self.statuses(SENT + MADE)
            mine = {job: statuses.get(job, "unknown") for job in jobs}
            return mine if FINAL.issuperset(mine.values()) else None

        def waiting() -> str:
            statuses = self.statuses(SENT + MADE)
            open_jobs = {job: statuses.get(job, "unknown") for job in jobs if statuses.get(job) not in FINAL}
            return f"jobs end; still open: {open_jobs}; queues: {self.depths()}"

        return wait_for(ended, waiting, seconds)

    def ingest(self, table: str, *files: str | Path, job: str | None = None) -> Json:
        """Ingests through the queue with this process as worker, and returns the report."""
        return self.json("ingest", table, *files, *(["--id", job] if job else []), "--wait")

    def export(self, table: str, export: str | None = None, as_of: str | None = None) -> Export:
        """Exports through the queue with this process as worker, and checks the export."""
        options = (["--id", export] if export else []) + (["--as-of", as_of] if as_of else [])
        return self.exported(self.json("export", table, *options, "--wait"))

    def depths(self) -> dict[str, tuple[int, int, int]]:
        """Of each queue that is not empty: visible, hidden and dead messages."""
        depths = {row["queue"]: (row["visible"], row["hidden"], row["dead"]) for row in self.json("queue", "list")}
        return {queue: depth for queue, depth in depths.items() if any(depth)}

    def open_jobs(self) -> set[str]:
        """The jobs that have begun and not ended."""
        return {job for job, status in self.statuses().items() if status not in FINAL}

    def wait_empty_queues(self, seconds: float = WAIT_SECONDS) -> None:
        """Waits until no queue holds a message; dead letters fail at once."""

        def empty() -> bool:
            depths = self.depths()
            assert not any(dead for _, _, dead in depths.values()), f"dead letters: {depths}"
            return not depths

        wait_for(empty, lambda: f"queues run empty: {self.depths()}", seconds)

    # What is stored.

    def export_directory(self, report: Json) -> Path:
        return self.data / "buckets" / report["export"]["location"].removeprefix("s3://")

    def exported(self, report: Json) -> Export:
        """Checks that an export is complete and agrees with its manifest, and returns it."""
        return check_export(self.export_directory(report), report, self.describe_by_id(report["table"]))

    def describe_by_id(self, table_id: str) -> Json:
        names = [info["name"] for info in self.json("table", "list") if info["id"] == table_id]
        return self.describe(names[0])

    def data_files(self) -> set[str]:
        """Every whole object below the tables' data prefixes, as <tableId>/data/…."""
        bucket = self.data / "buckets" / "data"
        whole = (path for path in bucket.rglob("*") if path.is_file() and not UNFINISHED.search(path.name))
        files = (path.relative_to(bucket) for path in whole)
        return {str(path) for path in files if path.parts[1] == "data"}

    def known_files(self) -> set[str]:
        """Every data file that a table knows, as <tableId>/data/…."""
        return {
            f"{info['id']}/data/{row['file']}"
            for info in self.json("table", "list")
            for row in self.json("files", info["name"])
        }

    def gc(self) -> list[Json]:
        """Collects garbage of any age."""
        return self.json("gc", "--delay-minutes", "0", "--orphan-age-hours", "0")

    def sweep(self) -> int:
        """Collects all garbage, then checks that exactly the tables' files are left. Returns how many objects went."""
        deleted = 0
        while True:
            round_ = sum(row["files"] + row["leftovers"] for row in self.gc())
            deleted += round_
            if not round_:
                break
        self.check_no_orphans()
        unfinished = self.unfinished()
        assert not unfinished, f"unfinished writes are left: {unfinished}"
        return deleted

    def unfinished(self) -> list[Path] | list[str]:
        """What writes that were cut short have left."""
        return [path for path in (self.data / "buckets").rglob("*") if UNFINISHED.search(path.name)]

    def spilled(self) -> list[Path]:
        """What is left in the spill directory."""
        return [path for path in (self.data / "spill").rglob("*") if path.is_file()]

    def pause_at_work(self, server: Server, job: str) -> bool:
        """Pauses a server while it works on this job, but never with the database's lock in its hands, as other
        processes rightly wait for that. Returns whether the job was open at that moment."""
        while True:
            server.pause()
            try:
                with (self.data / "dormouse.lock").open() as turn:
                    fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                database = sqlite3.connect(self.data / "dormouse.sqlite3", timeout=0.1, isolation_level=None)
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
                database.close()
                break
            except (BlockingIOError, sqlite3.OperationalError):
                server.resume()
                time.sleep(0.002)
        report = self.job(job)
        return bool(report) and report["status"] not in ("FINISHED", "FAILED", "REJECTED")

    def check_no_orphans(self) -> None:
        """Checks that the objects of the tables' data are exactly the files that the tables know."""
        stored, known = self.data_files(), self.known_files()
        assert stored == known, f"orphan objects: {sorted(stored - known)}; missing objects: {sorted(known - stored)}"


def wait_for(
    done: Callable[[], Any], what: str | Callable[[], str], seconds: float = WAIT_SECONDS, poll: float = POLL_SECONDS
) -> Any:
    """Polls until `done` returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        value = done()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain until {what if isinstance(what, str) else what()}")
        time.sleep(poll)


def reasons(report: Json) -> str:
    """Why a job ended as it did."""
    found = [reason for run in report["runs"] for reason in run["reasons"]]
    return "; ".join(found)


def seeds(default: int) -> random.Random:
    """A seeded generator of randomness; DORMOUSE_TEST_SEED replays a run that failed."""
    seed = int(os.environ.get("DORMOUSE_TEST_SEED", default))
    print(f"seed {seed}: replay with DORMOUSE_TEST_SEED={seed}")
    return random.Random(seed)


# DuckDB.


def relation(files: Path | Sequence[Path]) -> str:
    """The rows of Parquet files, for a FROM clause."""
    paths = [files] if isinstance(files, Path) else files
    names = ", ".join(f"'{path}'" for path in paths)
    return f"read_parquet([{names}])"


def count(source: str) -> int:
    return duckdb.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0]


def columns_of(source: str) -> dict[str, str]:
    """The columns of a FROM clause, with their types."""
    return {row[0]: row[1] for row in duckdb.execute(f"DESCRIBE FROM {source}").fetchall()}


def assert_same_rows(expected: str, actual: str) -> None:
    """Checks that two FROM clauses have the same columns, and the same rows, each as often, in any order."""
    columns = columns_of(expected)
    assert columns_of(actual) == columns, f"expected columns {columns}, not {columns_of(actual)}"
    names = ", ".join(f'"{column}"' for column in columns)
    for left, right, what in [(expected, actual, "missing"), (actual, expected, "not expected")]:
        difference = f"(SELECT {names} FROM {left}) EXCEPT ALL (SELECT {names} FROM {right})"
        rows = duckdb.execute(f"SELECT * FROM ({difference}) LIMIT 5").fetchall()
        assert not rows, f"{count(f'({difference})')} rows are {what}, such as {rows}"


def assert_sorted(file: Path, keys: Sequence[str]) -> None:
    """Checks that the rows of a file come in the order of these columns."""
    columns = ", ".join(f'"{key}"' for key in keys)
    before = ", ".join(f'lag("{key}") OVER (ORDER BY file_row_number) AS before_{i}' for i, key in enumerate(keys))
    lags = ", ".join(f"before_{i}" for i in range(len(keys)))
    rows = f"(SELECT {columns}, {before}, file_row_number FROM read_parquet('{file}', file_row_number = true))"
    wrong = count(f"{rows} WHERE file_row_number > 0 AND ({columns}) < ({lags})")
    assert wrong == 0, f"{wrong} rows of {file} come before the row above them"


def check_export(directory: Path, report: Json, table: Json, checksums: bool = True) -> Export:
    """Checks an export against its manifest: nothing missing, nothing more, sums, bounds, checksums and order."""
    assert report["status"] == "FINISHED", reasons(report)
    assert (directory / "_SUCCESS").is_file(), f"no _SUCCESS in {directory}"
    manifest = json.loads((directory / "_manifest.json").read_text())
    names = [entry["file"] for entry in manifest["files"]]
    files = [directory / name for name in names]
    # A killed process leaves its unfinished writes as <name>#<number> until they are swept.
    found = {path.name for path in directory.iterdir() if not UNFINISHED.search(path.name)}
    found -= {"_SUCCESS", "_manifest.json", "_plan.json"}
    assert found == set(names), f"the manifest lists {sorted(names)}, the directory has {sorted(found)}"
    assert len(set(names)) == len(names)

    parts = report["export"]
    assert parts["done"] == parts["total"] and parts["failed"] == 0, parts
    assert manifest["tableId"] == report["table"] and manifest["exportId"] == report["job"]
    assert manifest["transaction"] == parts["transaction"]
    assert manifest["schema"] == table["schema"]
    for what in ("rows", "bytes"):
        assert manifest[what] == parts[what] == sum(entry[what] for entry in manifest["files"]), what

    row_key = [column["name"] for column in table["schema"]["row_key"]]
    sort_key = [column["name"] for column in table["schema"]["sort_key"]]
    last = None
    for file, entry in zip(files, manifest["files"], strict=True):
        assert entry["bytes"] == file.stat().st_size, entry
        if checksums:
            assert entry["crc64Nvme"] == f"{crc64_nvme(file.read_bytes()):016x}", f"wrong checksum: {entry}"
        assert len(entry["rowDigest"]) == 32, entry
        assert entry["rows"] == count(relation(file)) > 0, entry
        assert_sorted(file, row_key + sort_key)
        assert [plain_key(entry["minKey"]), plain_key(entry["maxKey"])] == ends(file, row_key), entry
        assert last is None or last < plain_key(entry["minKey"]), f"{entry} begins before the file above it ends"
        last = plain_key(entry["maxKey"])
    return Export(directory, manifest, files)


def plain_key(key: list[dict[str, Any]]) -> list[Any]:
    """A key of a manifest, such as [{"utf8": "a"}], as plain values that compare as keys do."""
    plain: list[Any] = []
    for value in key:
        ((kind, inner),) = value.items()
        if kind == "utf8":
            inner = inner.encode()
        elif kind == "binary":
            inner = bytes.fromhex(inner)
        plain.append(inner)
    return plain


def ends(file: Path, columns: Sequence[str]) -> list[list[Any]]:
    """The first and the last row key of a file, as plain values that compare as keys do."""
    types = columns_of(relation(file))

    def plain(column: str) -> str:
        if types[column] == "VARCHAR":
            return f'encode("{column}")'
        if types[column] == "DATE":
            return f"\"{column}\" - DATE '1970-01-01'"
        if types[column].startswith("TIMESTAMP"):
            return f'epoch_us("{column}")'
        return f'"{column}"'

    selected = ", ".join(plain(column) for column in columns)
    source = f"read_parquet('{file}', file_row_number = true)"
    edges = f"(SELECT min(file_row_number) FROM {source}), (SELECT max(file_row_number) FROM {source})"
    query = f"SELECT {selected} FROM {source} WHERE file_row_number IN ({edges}) ORDER BY file_row_number"
    found = [list(row) for row in duckdb.execute(query).fetchall()]
    return [found[0], found[-1]]


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x9A6C9329AC4BC9B5 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def crc64_nvme(data: bytes) -> int:
    """The checksum CRC-64/NVME."""
    crc = (1 << 64) - 1
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ ((1 << 64) - 1)
