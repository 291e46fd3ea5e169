"""Measures compaction of the built binary beside DuckDB and DataFusion merging the same files, and the cost of Parquet itself.

Eight sorted files become one. Every measured thing is a process of its own; they take turns, and medians are compared.
DataFusion gets the plan that suits it best: each file a partition of known order, merged by its sort-preserving merge.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import DORMOUSE, Measured, ask, dormouse, duckdb_sort, generate, letter_points, measure, median

FLOOR = os.environ["FLOOR_BIN"]

DATAFUSION_MERGE = """
import sys, datafusion
from datafusion import SessionConfig, SessionContext, col
directory, keys, output, files, dictionary = sys.argv[1:]
config = SessionConfig({"datafusion.execution.parquet.dictionary_enabled": dictionary, "datafusion.execution.parquet.compression": "zstd(1)"})
context = SessionContext(config.with_target_partitions(int(files)))
order = [[col(key).sort(ascending=True, nulls_first=False) for key in keys.split(",")]]
context.register_parquet("t", directory, file_sort_order=order)
query = f"SELECT * FROM t ORDER BY {', '.join(f'{key} ASC NULLS LAST' for key in keys.split(','))}"
plan = context.sql("EXPLAIN " + query).to_pydict()["plan"][1]
assert "SortPreservingMergeExec" in plan and "SortExec" not in plan, plan
context.sql(f"COPY ({query}) TO '{output}' STORED AS PARQUET").collect()
"""


@dataclass
class Case:
    """Sorted files, as the one leaf of a table."""

    name: str
    data: Path
    files: list[Path]
    rows: int
    row_key: str
    sort_key: str


def make_table(cache: Path, name: str, files: list[Path], row_key: str, sort_key: str) -> tuple[Path, list[Path]]:
    """A table of one leaf that has a data file for each of `files`; made once."""
    data = cache / f"table-{name}"
    done = data / ".done"
    if not done.exists():
        shutil.rmtree(data, ignore_errors=True)
        create = ["table", "create", name, "--from-parquet", str(files[0]), "--row-key", row_key, "--sort-key", sort_key]
        measure(dormouse(data, *create))
        for number, file in enumerate(files):
            measure(dormouse(data, "ingest", name, str(file), "--id", f"file-{number}", "--wait"))
        done.touch()
    return data, sorted(data.glob("buckets/**/data/**/*.parquet"))


def parts_of(cache: Path, name: str, files: list[Path], conditions: list[str]) -> list[Path]:
    """The rows of `files` that meet each condition, a file each; made once."""
    directory = cache / name
    done = directory / ".done"
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for number, condition in enumerate(conditions):
            source = f"read_parquet({[str(file) for file in files]})"
            ask(f"COPY (SELECT * FROM {source} WHERE {condition}) TO '{directory / f'{number}.parquet'}' (FORMAT parquet)")
        done.touch()
    return sorted(directory.glob("*.parquet"))


def cases(cache: Path, rows: int, wanted: set[str]) -> list[Case]:
    """The cases of `rows` rows in all."""
    made = []
    sleeper = generate(cache / f"sleeper-{rows}", "sleeper", "--rows", str(rows), "--files", "8")
    if "overlapping" in wanted:
        data, files = make_table(cache, f"overlapping-{rows}", sleeper, "key", "timestamp")
        made.append(Case(f"overlapping-{rows}", data, files, rows, "key", "timestamp"))
    if "long" in wanted:
        long = generate(cache / f"sleeper-long-{rows}", "sleeper", "--rows", str(rows), "--files", "8", "--value-letters", "100")
        data, files = make_table(cache, f"long-{rows}", long, "key", "timestamp")
        made.append(Case(f"long-{rows}", data, files, rows, "key", "timestamp"))
    if "lineitem" in wanted:
        scale = rows / 6_000_000
        ordered = generate(cache / f"lineitem-{scale:.4f}", "lineitem", "--scale", f"{scale:.4f}", "--files", "8")
        shuffled = [f"(l_orderkey // 8 + l_linenumber) % 8 = {part}" for part in range(8)]
        files = parts_of(cache, f"lineitem-shuffled-{rows}", ordered, shuffled)
        data, files = make_table(cache, f"lineitem-{rows}", files, "l_orderkey", "l_linenumber")
        count = ask(f"SELECT count(*) FROM read_parquet({[str(file) for file in files]})")
        made.append(Case(f"lineitem-{rows}", data, files, count, "l_orderkey", "l_linenumber"))
    if "disjoint" in wanted:
        points = ["", *letter_points(8), "~"]
        ranges = [f"key >= '{low}' AND key < '{high}'" for low, high in zip(points, points[1:])]
        files = parts_of(cache, f"sleeper-disjoint-{rows}", sleeper, ranges)
        data, files = make_table(cache, f"disjoint-{rows}", files, "key", "timestamp")
        made.append(Case(f"disjoint-{rows}", data, files, rows, "key", "timestamp"))
    return made


def compact(case: Case, work: Path, cores: str | None = None) -> tuple[Measured, Path]:
    """Dormouse: creates the compaction job, runs it and commits it, files synced to disk."""
    data = work / "dormouse"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(case.data, data, copy_function=link_objects)
    pinned = [] if cores is None else ["taskset", "-c", cores]
    run = measure([*pinned, *dormouse(data, "compact", case.name, "--all", "--wait")])
    state = json.loads(subprocess.run(dormouse(data, "--format", "json", "status", case.name), check=True, capture_output=True).stdout)
    assert (state["files"], state["rows"]) == (1, case.rows), state
    before = {file.name for file in case.files}
    merged = [file for file in data.glob("buckets/**/data/**/*.parquet") if file.name not in before]
    assert len(merged) == 1, merged
    return run, merged[0]


def link_objects(source: str, target: str) -> None:
    """Data files are never written again, so a link is a copy."""
    if source.endswith(".parquet"):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def datafusion_merge(case: Case, work: Path, dictionary: str) -> Measured:
    output = work / "datafusion.parquet"
    keys = f"{case.row_key},{case.sort_key}"
    directory = work / "datafusion-input"
    if not directory.exists():
        directory.mkdir()
        for number, file in enumerate(case.files):
            os.link(file, directory / f"{number}.parquet")
    arguments = [str(directory), keys, str(output), str(len(case.files)), dictionary]
    run = measure([sys.executable, "-c", DATAFUSION_MERGE, *arguments])
    output.unlink()
    shutil.rmtree(directory)
    return run


def floor(work: Path, case: Case, merged: Path) -> tuple[float, float, float]:
    """CPU seconds to decode the files, to decode the merged rows, and to decode and encode them."""
    output = work / "floor.parquet"
    decode = measure([FLOOR, "decode", *map(str, case.files)])
    again = measure([FLOOR, "decode", str(merged)])
    rewrite = measure([FLOOR, "rewrite", str(output), str(merged)])
    output.unlink()
    return decode.cpu, again.cpu, rewrite.cpu


def row(name: str, rows: int, run: Measured) -> str:
    return f"  {name:<40} {run.wall:7.2f} s {run.cpu:7.2f} CPU s {rows / run.wall / 1e6:7.2f} M rows/s {run.peak_mb:7.0f} MB peak"


def bench(case: Case, work: Path, runs: int, memory: str) -> dict[str, object]:
    size = sum(file.stat().st_size for file in case.files)
    print(f"\n{case.name}: {case.rows:,} rows, {len(case.files)} files of {size / 2**20:.0f} MiB in all, median of {runs}", flush=True)
    ours, one_core, duck, fusion, plain, floors = [], [], [], [], [], []
    for _ in range(runs):
        run, merged = compact(case, work)
        ours.append(run)
        floors.append(floor(work, case, merged))
        bytes_out = merged.stat().st_size
        one_core.append(compact(case, work, "0")[0])
        duck.append(duckdb_sort(case, work, memory))
        fusion.append(datafusion_merge(case, work, "true"))
        plain.append(datafusion_merge(case, work, "false"))
    decode, again, rewrite = sorted(floors, key=lambda parts: parts[2])[len(floors) // 2]
    best = min(median(fusion), median(plain), key=lambda run: run.cpu)
    us, one = median(ours), median(one_core)
    print(row("dormouse compact", case.rows, us))
    print(row("dormouse compact on one core", case.rows, one))
    print(row("DataFusion, sort-preserving merge", case.rows, best))
    print(row("DuckDB, COPY … ORDER BY", case.rows, median(duck)))
    encode = rewrite - again
    print(f"  decode alone {decode:.2f} CPU s, encode alone {encode:.2f} CPU s; output {bytes_out / 2**20:.0f} MiB")
    ratios = {
        "to_floor": us.cpu / (decode + encode),
        "datafusion_cpu": best.cpu / us.cpu,
        "datafusion_wall": best.wall / us.wall,
        "duckdb_cpu": median(duck).cpu / us.cpu,
        "cores_wall": one.wall / us.wall,
    }
    print(
        f"  {ratios['to_floor']:.2f} times the CPU of decode and encode; DataFusion takes {ratios['datafusion_cpu']:.2f} times our CPU"
        f" ({ratios['datafusion_wall']:.2f} our time), DuckDB {ratios['duckdb_cpu']:.2f}; two cores are {ratios['cores_wall']:.2f} times as fast as one"
    )
    return {"case": case.name, "rows": case.rows, **ratios, "peak_mb": us.peak_mb, "datafusion_peak_mb": best.peak_mb}


def amplification(work: Path, jobs: int, rows: int) -> dict[str, object]:
    """Ingests one small file after another while the table is kept in shape; answers what that wrote."""
    print(f"\nwrite amplification: {jobs} ingests of {rows:,} rows with compaction running", flush=True)
    inputs = generate(work / "inputs", "sleeper", "--rows", str(jobs * rows), "--files", str(jobs))
    data = work / "amplified"
    served = dormouse(data)
    data.mkdir()
    (data / "instance.properties").write_text("sleeper.compaction.job.creation.period.minutes=0.05\n")
    measure([*served, "table", "create", "events", "--from-parquet", str(inputs[0]), "--row-key", "key", "--sort-key", "timestamp"])
    server = subprocess.Popen([*served, "serve"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for number, file in enumerate(inputs):
            measure([*served, "ingest", "events", str(file), "--id", f"job-{number}", "--wait"])
        last = None
        for _ in range(120):
            time.sleep(1)
            status = json.loads(subprocess.run([*served, "--format", "json", "status", "events"], check=True, capture_output=True).stdout)
            now = (status["files"], status["transaction"])
            if now == last and status["files_per_leaf"]["max"] <= 12:
                break
            last = now
    finally:
        server.terminate()
        server.wait()
    factor = status["write_amplification"]
    print(f"  every row was written {factor:.2f} times; {status['files']} files are left, read amplification {status['read_amplification']:.2f}")
    return {"case": "amplification", "write_amplification": factor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_000_000, help="rows in all of each case")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", default="overlapping,long,lineitem,disjoint,amplification", help="which to run; long: Sleeper rows with values of 100 letters")
    parser.add_argument("--memory", default="2GB", help="DuckDB's memory limit")
    parser.add_argument("--json", type=Path, help="also write the ratios here")
    args = parser.parse_args()

    cache = Path(os.environ["DORMOUSE_CACHE"]) / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    wanted = set(args.cases.split(","))
    print(f"{DORMOUSE}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as directory:
        work = Path(directory)
        results = [bench(case, work, args.runs, args.memory) for case in cases(cache, args.rows, wanted)]
        if "amplification" in wanted:
            results.append(amplification(work, 100, 100_000))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
