"""Measures ingest and export of the built binary beside DuckDB sorting the same files into Parquet.

Every measured thing is a process of its own, timed as a whole: wall seconds, CPU seconds of the process and its threads,
and peak resident memory, as the kernel accounts for them. Dormouse and DuckDB take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

DORMOUSE = os.environ["DORMOUSE_BIN"]


@dataclass
class Measured:
    """One run of a process."""

    wall: float
    cpu: float
    peak_mb: float


@dataclass
class Case:
    """A dataset and the table that it goes into."""

    name: str
    files: list[Path]
    rows: int
    row_key: str
    sort_key: str
    split_points: list[str]


def measure(command: list[str], env: dict[str, str] | None = None) -> Measured:
    """Runs a command to its end, which must be a good one."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        if status != 0:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read().decode()}")
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def median(runs: list[Measured]) -> Measured:
    return Measured(*(statistics.median(getattr(run, part) for run in runs) for part in ("wall", "cpu", "peak_mb")))


def generate(directory: Path, dataset: str, *options: str) -> list[Path]:
    """Makes the data once; a later run finds it."""
    done = directory / ".done"
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        subprocess.run([DORMOUSE, "generate", dataset, "--output", str(directory), *options], check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return sorted(directory.glob("*.parquet"))


def ask(query: str) -> int:
    """The one number that DuckDB answers; in a process of its own, whose memory would count as that of all later ones."""
    program = (
        "import sys, duckdb; duckdb.sql('SET enable_progress_bar = false'); "
        "print((duckdb.sql(sys.argv[1]) or duckdb.sql('SELECT 0')).fetchall()[0][0])"
    )
    return int(subprocess.run([sys.executable, "-c", program, query], check=True, capture_output=True, text=True).stdout)


DUCKDB_SORT = """
import sys, duckdb
files, order, output, memory, spill = sys.argv[1:]
connection = duckdb.connect(config={"memory_limit": memory, "temp_directory": spill, "preserve_insertion_order": False})
connection.execute(
    f"COPY (SELECT * FROM read_parquet([{files}]) ORDER BY {order}) TO '{output}' (FORMAT parquet, COMPRESSION zstd)")
"""


def duckdb_sort(case: Case, work: Path, memory: str) -> Measured:
    """DuckDB: a global sort of the files into one zstd Parquet file."""
    output = work / "duckdb.parquet"
    files = ", ".join(f"'{file}'" for file in case.files)
    order = f"{case.row_key}, {case.sort_key}"
    run = measure([sys.executable, "-c", DUCKDB_SORT, files, order, str(output), memory, str(work / "duckdb-spill")])
    output.unlink()
    return run


def dormouse(data: Path, *arguments: str) -> list[str]:
    return [DORMOUSE, "--data", str(data), *arguments]


def dormouse_ingest_export(case: Case, work: Path) -> tuple[Measured, Measured, dict]:
    """Dormouse: an ingest job and an export job through the queue, each in a process that ends with the job."""
    data = work / "dormouse"
    shutil.rmtree(data, ignore_errors=True)
    points = work / "points.txt"
    points.write_text("\n".join(case.split_points) + "\n")
    create = ["table", "create", case.name, "--from-parquet", str(case.files[0]), "--row-key", case.row_key]
    measure(dormouse(data, *create, "--sort-key", case.sort_key, "--split-points", str(points)))
    ingest = measure(dormouse(data, "ingest", case.name, *map(str, case.files), "--id", "bench", "--wait"))
    export = measure(dormouse(data, "export", case.name, "--id", "bench", "--wait"))
    described = subprocess.run(dormouse(data, "--format", "json", "table", "describe", case.name), check=True, capture_output=True)
    state = json.loads(described.stdout)
    assert state["rows"] == case.rows, f"{state['rows']} rows are in the table, {case.rows} went in"
    shutil.rmtree(data)
    return ingest, export, state


def letter_points(leaves: int) -> list[str]:
    """Points that cut random 10-letter keys into equal leaves."""
    points = []
    for leaf in range(1, leaves):
        fraction, text = leaf / leaves, ""
        for _ in range(4):
            fraction *= 26
            text += chr(ord("a") + int(fraction))
            fraction -= int(fraction)
        points.append(text)
    return points


def row(name: str, rows: int, run: Measured) -> str:
    rate = rows / run.wall
    return f"  {name:<28} {run.wall:8.2f} s {run.cpu:8.2f} CPU s {rate / 1e6:8.2f} M rows/s {run.peak_mb:8.0f} MB peak"


def bench(case: Case, work: Path, runs: int, memory: str) -> dict:
    print(f"\n{case.name}: {case.rows:,} rows in {len(case.files)} files into {len(case.split_points) + 1} leaves, median of {runs}")
    ingests, exports, sorts, state = [], [], [], {}
    for _ in range(runs):
        sorts.append(duckdb_sort(case, work, memory))
        ingest, export, state = dormouse_ingest_export(case, work)
        ingests.append(ingest)
        exports.append(export)
    ingest, export, sort = median(ingests), median(exports), median(sorts)
    print(row("dormouse ingest", case.rows, ingest))
    print(row("dormouse export", case.rows, export))
    print(row("DuckDB sort to one file", case.rows, sort))
    size = sum(file.stat().st_size for file in case.files)
    print(f"  table: {state['files']} files, {state['bytes'] / 2**20:.0f} MiB; input {size / 2**20:.0f} MiB")
    cpu_ratio, wall_ratio = ingest.cpu / sort.cpu, ingest.wall / sort.wall
    export_ratio = ingest.wall / export.wall
    print(f"  ingest takes {cpu_ratio:.2f} of DuckDB's CPU seconds and {wall_ratio:.2f} of its time")
    print(f"  export moves {export_ratio:.1f} times the rows/s of ingest")
    return {"case": case.name, "rows": case.rows, "cpu_ratio": cpu_ratio, "wall_ratio": wall_ratio, "export_ratio": export_ratio,
            "ingest_peak_mb": ingest.peak_mb, "duckdb_peak_mb": sort.peak_mb, "ingest_cpu": ingest.cpu, "duckdb_cpu": sort.cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="Sleeper rows; 0 leaves them out")
    parser.add_argument("--leaves", type=int, default=16, help="leaves of the Sleeper table")
    parser.add_argument("--scale", type=float, default=1.0, help="scale factor of TPC-H lineitem; 0 leaves it out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", default="2GB", help="DuckDB's memory limit")
    parser.add_argument("--json", type=Path, help="also write the ratios here")
    args = parser.parse_args()

    cache = Path(os.environ["DORMOUSE_CACHE"]) / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as directory:
        work = Path(directory)
        if args.rows:
            files = generate(cache / f"sleeper-{args.rows}", "sleeper", "--rows", str(args.rows), "--files", "8")
            case = Case("sleeper", files, args.rows, "key", "timestamp", letter_points(args.leaves))
            results.append(bench(case, work, args.runs, args.memory))
        if args.scale:
            files = generate(cache / f"lineitem-{args.scale}", "lineitem", "--scale", str(args.scale), "--files", "8")
            rows = ask(f"SELECT count(*) FROM read_parquet({[str(file) for file in files]})")
            points = [str(int(6_000_000 * args.scale * leaf / 8)) for leaf in range(1, 8)]
            case = Case("lineitem", files, rows, "l_orderkey", "l_linenumber", points)
            results.append(bench(case, work, args.runs, args.memory))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
