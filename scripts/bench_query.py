"""Measures queries of a running Dormouse beside DuckDB over the same Parquet files, in the same run.

Dormouse is asked over HTTP, on one connection that stays open; DuckDB answers in this process, from views over the data
files of the table. Both take turns, each query first once unmeasured. The export is measured in CPU seconds: of the server
while the job runs, and of a process of DuckDB's that copies the same rows into the same format.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from bench import dormouse, generate, letter_points, measure

LEAVES = 16
CASES = ["lookup", "scan", "aggregate", "top", "export"]


class Server:
    """A `dormouse serve`, asked over one connection."""

    def __init__(self, data: Path) -> None:
        self.log = data.parent / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                dormouse(data, "serve", "--listen", "127.0.0.1:0"),
                stderr=log,
                env={**os.environ, "DORMOUSE_API_RATE_LIMITS": "false"},
            )
        while not (found := re.search(r"(127\.0\.0\.1:\d+)", self.log.read_text())):
            if self.process.poll() is not None:
                sys.exit(f"the server has ended:\n{self.log.read_text()}")
            time.sleep(0.05)
        self.address = found.group(1)
        self.connection = http.client.HTTPConnection(self.address)

    def call(self, method: str, path: str, body: object = None) -> dict:
        self.connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status >= 300:
            sys.exit(f"{method} {path}: {response.status} {text.decode()[:1000]}")
        return json.loads(text)

    def query(self, sql: str) -> list[list]:
        answer = self.call("POST", "/v1/queries", {"sql": sql})
        assert not answer["truncated"], sql
        return [list(row.values()) for row in answer["data"]]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def export(self, sql: str) -> tuple[float, float, dict]:
        """Wall and CPU seconds of a bulk job, and the job."""
        # DuckDB's turn takes longer than the server keeps connections that are idle.
        self.connection.close()
        started, cpu = time.monotonic(), self.cpu_seconds()
        body = {"operation": "query", "query": sql, "content_type": "CSV", "compression": "GZIP"}
        job = self.call("POST", "/v1/bulk", body)
        while job["status"] in ("PENDING", "RUNNING"):
            time.sleep(0.02)
            job = self.call("GET", f"/v1/bulk/{job['job_id']}")
        if job["status"] != "COMPLETED":
            sys.exit(f"the export has failed: {job}")
        return time.monotonic() - started, self.cpu_seconds() - cpu, job

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def percentile(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def compare(name: str, server: Server, duck: duckdb.DuckDBPyConnection, statements: list[str]) -> dict:
    """Asks both each statement in turn, and prints how long they take."""
    answers: dict[str, Callable[[str], list]] = {
        "dormouse": server.query,
        "duckdb": lambda sql: [list(row) for row in duck.execute(sql).fetchall()],
    }
    for answer in answers.values():
        answer(statements[0])
    times: dict[str, list[float]] = {who: [] for who in answers}
    for sql in statements:
        given = {}
        for who, answer in answers.items():
            started = time.perf_counter()
            given[who] = answer(sql)
            times[who].append(time.perf_counter() - started)
        assert len(given["dormouse"]) == len(given["duckdb"]), sql
    figures = {f"{who}_{mark}": percentile(spent, part) * 1000 for who, spent in times.items() for mark, part in (("p50", 0.5), ("p99", 0.99))}
    ratio = figures["dormouse_p50"] / figures["duckdb_p50"]
    print(
        f"  {name:28}{figures['dormouse_p50']:10.1f}{figures['dormouse_p99']:10.1f}{figures['duckdb_p50']:12.1f}"
        f"{figures['duckdb_p99']:10.1f}{ratio:10.2f}"
    )
    return {"query": name, **figures, "ratio": ratio}


DUCKDB_COPY = """
import sys, duckdb
files, output = sys.argv[1:]
connection = duckdb.connect(config={"preserve_insertion_order": False})
connection.execute(f"COPY (SELECT * FROM read_parquet({files})) TO '{output}' (FORMAT csv, HEADER, COMPRESSION gzip)")
"""


def compare_export(server: Server, table: str, files: list[str], work: Path, runs: int) -> dict:
    ours, theirs, sizes = [], [], (0, 0)
    for _ in range(runs):
        copied = work / "copied.csv.gz"
        theirs.append(measure([sys.executable, "-c", DUCKDB_COPY, str(files), str(copied)]))
        wall, cpu, job = server.export(f"SELECT * FROM {table}")
        ours.append((wall, cpu, job["result_row_count"]))
        sizes = (job["bytes_processed"], copied.stat().st_size)
        copied.unlink()
    rows = ours[0][2]
    wall, cpu = (statistics.median(run[part] for run in ours) for part in (0, 1))
    their_wall, their_cpu = (statistics.median(getattr(run, part) for run in theirs) for part in ("wall", "cpu"))
    print(f"  export to csv.gz: {wall:.1f} s, {rows / cpu / 1e6:.2f} M rows a CPU second, {sizes[0] / 2**20:.0f} MiB;")
    print(f"           DuckDB's: {their_wall:.1f} s, {rows / their_cpu / 1e6:.2f} M rows a CPU second, {sizes[1] / 2**20:.0f} MiB")
    print(f"  a CPU second exports {their_cpu / cpu:.2f} times the rows of DuckDB's")
    return {"query": "export", "cpu_ratio": their_cpu / cpu, "wall_ratio": their_wall / wall}


@dataclass(frozen=True)
class Data:
    """A table to ask, and what it is asked."""

    name: str
    rows: int
    files: list[Path]
    keys: tuple[str, str]
    points: list[str]
    # The rows of a key, and those of about a thousandth of all keys from there on.
    point: Callable[[object], str]
    scan: Callable[[object], str]
    aggregate: str
    top: str


@contextmanager
def table(work: Path, data: Data) -> Iterator[tuple[Server, list[str]]]:
    """A table of this data, served; with the paths of its data files."""
    instance = work / "dormouse"
    split = work / "points.txt"
    split.write_text("\n".join(data.points) + "\n")
    create = ["table", "create", data.name, "--from-parquet", str(data.files[0]), "--row-key", data.keys[0], "--sort-key", data.keys[1]]
    measure(dormouse(instance, *create, "--split-points", str(split)))
    measure(dormouse(instance, "ingest", data.name, *map(str, data.files), "--id", "bench", "--wait"))
    server = Server(instance)
    try:
        yield server, sorted(str(path) for path in (instance / "buckets/data").rglob("data/**/*.parquet"))
    finally:
        server.stop()
        shutil.rmtree(instance)


def sleeper(cache: Path, rows: int) -> Data:
    return Data(
        name="events",
        rows=rows,
        files=generate(cache / f"sleeper-{rows}", "sleeper", "--rows", str(rows), "--files", "8"),
        keys=("key", "timestamp"),
        points=letter_points(LEAVES),
        point=lambda key: f"SELECT * FROM events WHERE key = '{key}'",
        scan=lambda key: f"SELECT count(*) AS n, max(timestamp) AS t, sum(length(value)) AS s FROM events WHERE key >= '{key[:2]}' AND key < '{key[:2]}~'",
        aggregate="SELECT count(*) AS n, max(timestamp) AS t, sum(length(value)) AS s FROM events",
        top="SELECT key, timestamp FROM events ORDER BY timestamp DESC LIMIT 100",
    )


# TPC-H's first query.
PRICING = """SELECT l_returnflag, l_linestatus, sum(l_quantity) AS quantity, sum(l_extendedprice) AS price,
    sum(l_extendedprice * (1 - l_discount)) AS discounted, avg(l_discount) AS discount, count(*) AS n
    FROM lineitem WHERE l_shipdate <= DATE '1998-09-02' GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus"""


def lineitem(cache: Path, scale: float) -> Data:
    last = int(6_000_000 * scale)
    return Data(
        name="lineitem",
        rows=last,
        files=generate(cache / f"lineitem-{scale}", "lineitem", "--scale", str(scale), "--files", "8"),
        keys=("l_orderkey", "l_linenumber"),
        points=[str(last * leaf // LEAVES) for leaf in range(1, LEAVES)],
        point=lambda key: f"SELECT * FROM lineitem WHERE l_orderkey = {key}",
        scan=lambda key: f"SELECT count(*) AS n, sum(l_quantity) AS s FROM lineitem WHERE l_orderkey BETWEEN {key} AND {key + last // 1000}",
        aggregate=PRICING,
        top="SELECT l_orderkey, l_extendedprice FROM lineitem ORDER BY l_extendedprice DESC LIMIT 100",
    )


def compare_all(data: Data, work: Path, runs: int, cases: list[str]) -> list[dict]:
    with table(work, data) as (server, stored):
        duck = duckdb.connect()
        duck.execute(f"CREATE VIEW {data.name} AS SELECT * FROM read_parquet({stored})")
        rows = duck.execute(f"SELECT count(*) FROM {data.name}").fetchall()[0][0]
        print(f"\n{data.name}: {rows:,} rows in {len(stored)} files of {LEAVES} leaves; milliseconds")
        print(f"  {'':28}{'dormouse':>10}{'p99':>10}{'DuckDB':>12}{'p99':>10}{'ratio':>10}")
        sample = [row[0] for row in duck.execute(f"SELECT {data.keys[0]} FROM {data.name} USING SAMPLE 200 ROWS").fetchall()]
        ranges = random.Random(1).sample(sample, 40)
        statements = {
            "lookup": ("point lookup", [data.point(key) for key in sample]),
            "scan": ("range scan", [data.scan(key) for key in ranges]),
            "aggregate": ("full scan, aggregated", [data.aggregate] * runs * 3),
            "top": ("top 100", [data.top] * runs * 3),
        }
        results = [compare(name, server, duck, asked) for case, (name, asked) in statements.items() if case in cases]
        if "export" in cases:
            results.append(compare_export(server, data.name, stored, work, runs))
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="Sleeper rows; 0 leaves them out")
    parser.add_argument("--scale", type=float, default=1.0, help="scale factor of TPC-H lineitem; 0 leaves it out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    cache = Path(os.environ["DORMOUSE_CACHE"]) / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    results = {}
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as directory:
        work = Path(directory)
        if args.rows:
            results["sleeper"] = compare_all(sleeper(cache, args.rows), work, args.runs, args.cases)
        if args.scale:
            results["lineitem"] = compare_all(lineitem(cache, args.scale), work, args.runs, args.cases)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
