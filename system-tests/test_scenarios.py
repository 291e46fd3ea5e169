"""What Sleeper's own system tests ask of a deployed system, scaled to one machine with the ratios kept.

Each runs on an embedded instance and on AWS. Rows are Sleeper's standard ones: a random key of ten letters, a random
timestamp, a random value of ten letters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pytest
from harness import Instance, Json, assert_same_rows, assert_sorted, relation, wait_for

Make = Callable[..., Instance]

pytestmark = pytest.mark.everywhere

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "timestamp", "type": "LongType"}],
    "valueFields": [{"name": "value", "type": "StringType"}],
}

LETTERS = "translate(left(md5(printf('%d %d {what}', i, {seed})), 10), '0123456789', 'ghijklmnop')"


def standard_rows(seed: int, count: int) -> str:
    key, value = (LETTERS.format(what=what, seed=seed) for what in ("key", "value"))
    return f'SELECT {key} AS "key", (hash(i, {seed}) % 10000000000)::BIGINT AS timestamp, {value} AS value FROM range({count}) t(i)'


def split_points(leaves: int) -> list[str]:
    """Points that cut keys of the letters a to p into so many leaves: a power of 16."""
    digits = "abcdefghijklmnop"
    size, width = 16, 1
    while size < leaves:
        size, width = size * 16, width + 1
    step = size // leaves

    def word(place: int) -> str:
        return "".join(digits[(place // 16**power) % 16] for power in reversed(range(width)))

    return [word(place) for place in range(step, size, step)]


def make_files(instance: Instance, files: int, rows: int) -> list[Path]:
    return [instance.parquet(f"rows-{n}.parquet", standard_rows(n, rows)) for n in range(files)]


def leaves(instance: Instance, table: str = "events") -> list[Json]:
    return instance.json("partitions", table)


def references(instance: Instance, table: str = "events") -> int:
    return sum(leaf["files"] for leaf in leaves(instance, table))


def snapshots(instance: Instance, table: str = "events") -> int:
    (report,) = instance.json("doctor", table)
    return next(checked["count"] for checked in report["checked"] if checked["what"] == "snapshots")


def send_each(instance: Instance, files: Sequence[Path], table: str = "events") -> list[str]:
    jobs = [f"{table}-{n}" for n in range(len(files))]
    for job, file in zip(jobs, files, strict=True):
        instance.send_ingest(job, table, file)
    return jobs


def finish(instance: Instance, jobs: Sequence[str]) -> None:
    statuses = instance.wait_jobs(jobs)
    assert set(statuses.values()) == {"FINISHED"}, statuses


def test_one_file_and_four_in_one_job_and_in_two(instance: Instance) -> None:
    """IngestST: one file; four files in one job, and in two; 20,000 rows."""
    files = make_files(instance, 4, 5000)
    for table, jobs in [("one", [files[:1]]), ("four", [files]), ("two", [files[:2], files[2:]])]:
        instance.create_table(table, SCHEMA)
        ids = [f"{table}-{n}" for n in range(len(jobs))]
        for job, inputs in zip(ids, jobs, strict=True):
            instance.send_ingest(job, table, *inputs)
        with instance.serve("worker", "ingest", "export-splitter", "export"):
            finish(instance, ids)
            assert_same_rows(relation([file for inputs in jobs for file in inputs]), instance.export(table).relation)
        assert len(instance.json("files", table)) == len(jobs)


@pytest.mark.slow
def test_ingest_into_128_leaves(make_instance: Make) -> None:
    """IngestPerformanceST: 11 jobs into 128 leaves give 1408 references; rows 1 in 10,000."""
    instance = make_instance()
    instance.create_table("events", SCHEMA, split_points(128))
    files = make_files(instance, 11, 4000)
    jobs = send_each(instance, files)
    with instance.serve("worker", "ingest"):
        finish(instance, jobs)
    assert references(instance) == 1408
    assert_same_rows(relation(files), instance.export("events").relation)


@pytest.mark.slow
def test_110_files_become_10(make_instance: Make) -> None:
    """CompactionPerformanceST: 110 files, merged 11 at a time, give 10 sorted files by one run each; rows 1 in 40,000."""
    instance = make_instance(table_compaction_strategy="basic", table_compaction_files_batch_size="11")
    instance.create_table("events", SCHEMA)
    files = make_files(instance, 110, 1000)
    for n in range(0, 110, 10):
        # Of one size, whatever the job: a file a message.
        for place, file in enumerate(files[n : n + 10]):
            instance.send_ingest(f"job-{n + place}", "events", file)
    with instance.serve("worker", "ingest"):
        finish(instance, [f"job-{n}" for n in range(110)])
    made = instance.json("compact", "events")
    assert len(made) == 10, made
    with instance.serve("worker", "compaction"):
        finish(instance, [job["job"] for job in made])
    for job in made:
        runs = instance.job(job["job"])["runs"]
        assert [run["rows_written"] for run in runs] == [11_000]
    assert leaves(instance)[0]["files"] == 10
    exported = instance.export("events")
    for file in exported.files:
        assert_sorted(file, ["key", "timestamp"])
    assert_same_rows(relation(files), exported.relation)


@pytest.mark.slow
def test_many_leaves_compacted_by_two_workers(make_instance: Make) -> None:
    """ParallelCompactionsST: 10 ingests over all leaves, compacted to a file a leaf; leaves and rows 1 in 64."""
    instance = make_instance(table_compaction_files_batch_size="10", compaction_concurrency="4")
    count = 128
    instance.create_table("events", SCHEMA, split_points(count))
    files = make_files(instance, 10, 15_625)
    jobs = send_each(instance, files)
    with instance.serve("worker", "ingest"):
        finish(instance, jobs)
    assert references(instance) == 10 * count
    made = instance.json("compact", "events")
    assert len(made) == count
    others = [instance.start("worker", "compaction", "--max-idle-seconds", "5") for _ in range(2)]
    finish(instance, [job["job"] for job in made])
    # Workers end by themselves when they find nothing to do.
    for other in others:
        assert other.process.wait(timeout=60) == 0, other.text()
    found = leaves(instance)
    assert [leaf["files"] for leaf in found] == [1] * count
    assert sum(leaf["rows"] for leaf in found) == 156_250
    assert all(800 <= leaf["rows"] <= 1600 for leaf in found), [leaf["rows"] for leaf in found]
    assert max(len(instance.job(job["job"])["runs"]) for job in made[::16]) == 1
    assert_same_rows(relation(files), instance.export("events").relation)


def test_a_thousand_compactions_are_made_at_once(make_instance: Make) -> None:
    """CompactionCreationST: 2 files referred to by every leaf give a job a leaf; leaves 1 in 64."""
    instance = make_instance(table_compaction_strategy="basic", table_compaction_files_batch_size="2")
    count = 1024
    instance.create_table("events", SCHEMA, split_points(count))
    files = make_files(instance, 2, 50_000)
    with instance.serve("worker", "ingest"):
        finish(instance, send_each(instance, files))
    assert references(instance) == 2 * count
    before = time.monotonic()
    made = instance.json("compact", "events")
    took = time.monotonic() - before
    assert len(made) == count
    assert took < 60, f"making {count} jobs took {took:.0f} s"
    assert instance.depths()["compaction"][0] == count


def test_garbage_of_many_files_goes(make_instance: Make) -> None:
    """GarbageCollectionST: files of 100 rows, replaced by one, are collected without delay; files 1 in 100."""
    instance = make_instance(
        table_gc_delay_minutes="0", table_compaction_strategy="basic", table_compaction_files_batch_size="200"
    )
    instance.create_table("events", SCHEMA)
    files = make_files(instance, 110, 100)
    with instance.serve("worker", "ingest"):
        finish(instance, send_each(instance, files))
    assert len(instance.data_files()) == 110
    done = instance.json("compact", "events", "--all", "--wait")
    assert [job["status"] for job in done] == ["FINISHED"]
    with instance.serve("worker", "snapshots", "gc", "--max-idle-seconds", "100000"):
        instance.sweep()
    assert len(instance.data_files()) == 1
    assert_same_rows(relation(files), instance.export("events").relation)


def test_a_snapshot_of_many_files_is_the_state(make_instance: Make) -> None:
    """StateStoreSnapshotsST: a snapshot appears by itself and is the state; files 1 in 100."""
    instance = make_instance(table_statestore_snapshot_min_transactions="50")
    instance.create_table("events", SCHEMA)
    files = make_files(instance, 100, 20)
    jobs = send_each(instance, files)
    with instance.serve("worker", "ingest", "snapshots"):
        finish(instance, jobs)
        wait_for(lambda: snapshots(instance), "a snapshot is there")
    instance.run("doctor", "events", "--deep")
    assert_same_rows(relation(files), instance.export("events").relation)


def test_100_rows_split_at_20(make_instance: Make) -> None:
    """PartitionSplittingST: 100 rows with a threshold of 20 end as leaves of at most 20."""
    instance = make_instance(table_partition_splitting_threshold="20", partition_splitting_period_minutes="0.02")
    instance.create_table("events", SCHEMA)
    file = instance.parquet("rows.parquet", standard_rows(1, 100))
    with instance.serve("worker", "ingest", "splitter", "split-finder", "compaction", "compaction-planner"):
        instance.send_ingest("job", "events", file)
        finish(instance, ["job"])
        wait_for(lambda: len(leaves(instance)) >= 5, "the leaf is split")
    for job in instance.json("compact", "events", "--all", "--wait"):
        assert job["status"] == "FINISHED"
    assert all(leaf["rows"] <= 20 for leaf in leaves(instance)), leaves(instance)
    assert_same_rows(relation(file), instance.export("events").relation)


@pytest.mark.slow
def test_twenty_tables_at_once(make_instance: Make) -> None:
    """MultipleTablesST: tables are fed, split, compacted and collected side by side; tables 1 in 10."""
    instance = make_instance(
        table_partition_splitting_threshold="150",
        partition_splitting_period_minutes="0.02",
        table_gc_delay_minutes="0",
    )
    tables = [f"table-{n:02}" for n in range(20)]
    for table in tables:
        instance.create_table(table, SCHEMA)
    files = make_files(instance, 3, 100)
    jobs = []
    with instance.serve("worker", "ingest", "splitter", "split-finder", "compaction", "snapshots"):
        for table in tables:
            jobs += send_each(instance, files, table)
        finish(instance, jobs)
        wait_for(lambda: all(len(leaves(instance, table)) >= 2 for table in tables), "every table is split")
        instance.wait_empty_queues()
        made = [job["job"] for table in tables for job in instance.json("compact", table, "--all")]
        assert len(made) >= len(tables)
        finish(instance, made)
    instance.sweep()
    for table in tables:
        assert_same_rows(relation(files), instance.export(table).relation)
        assert all(leaf["files"] == 1 for leaf in leaves(instance, table))


def test_exports_during_work_are_whole(make_instance: Make) -> None:
    """While a table is fed and compacted, each export holds whole jobs, and those that had been committed."""
    instance = make_instance(compaction_job_creation_period_minutes="0.02")
    instance.create_table("events", SCHEMA, split_points(4))
    files = make_files(instance, 12, 2000)
    everything = ("ingest", "export-splitter", "export", "compaction", "compaction-planner", "committer", "repair")
    exports = []
    with instance.serve("worker", *everything):
        for n, file in enumerate(files):
            instance.send_ingest(f"job-{n}", "events", file)
            if n % 4 == 1:
                exports.append(f"export-{n}")
                instance.send_export(exports[-1], "events")
        finish(instance, [*(f"job-{n}" for n in range(12)), *exports])
        instance.wait_empty_queues()
    for export in exports:
        found = instance.exported(instance.job(export))
        assert found.rows % 2000 == 0
        if found.rows:
            extra = duckdb.execute(
                f"SELECT count(*) FROM (FROM {found.relation} EXCEPT ALL FROM {relation(files)})"
            ).fetchall()
            assert extra == [(0,)]
    assert_same_rows(relation(files), instance.export("events").relation)
