"""What goes, goes in the end; what is needed stays; what is damaged is never handed out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import GROWING_ROWS, Instance, assert_same_rows, reasons, relation, wait_for

Make = Callable[..., Instance]

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "job", "type": "StringType"}],
}


def rows(job: str, count: int) -> str:
    return f"""SELECT printf('%016x', hash(i, '{job}')) AS "key", i AS n, '{job}' AS job FROM range({count}) t(i)"""


@contextmanager
def collecting(instance: Instance, *options: str) -> Iterator[list[int]]:
    """Collects garbage again and again meanwhile; gives how many collections there were, as a list of one.

    The pauses in between grow, so that jobs get through in the end however slow they are."""
    stop = threading.Event()
    rounds = [0]
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            while not stop.is_set():
                instance.run("gc", *options)
                rounds[0] += 1
                time.sleep(min(rounds[0] * 0.01, 5))
        except BaseException as failure:  # noqa: BLE001 - it is raised again below
            failures.append(failure)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def test_collecting_during_an_export(instance: Instance) -> None:
    """Garbage is made and collected all the time while an export of many leaves runs; the export is whole."""
    points = [f"{n:02x}" for n in range(8, 256, 8)]
    instance.create_table("events", SCHEMA, points)
    inputs = [instance.parquet(f"{n}.parquet", rows(f"job-{n:02}", 4000)) for n in range(12)]
    for number, file in enumerate(inputs):
        instance.ingest("events", file, job=f"job-{number:02}")
    for table in ("gone-1", "gone-2"):
        instance.create_table(table, SCHEMA, points)
        instance.ingest(table, inputs[0])
    with instance.serve(), instance.serve():
        with collecting(instance, "--delay-minutes", "0", "--orphan-age-hours", "0") as rounds:
            before = rounds[0]
            instance.send_export("export-1", "events")
            for table in ("gone-1", "gone-2"):
                instance.run("table", "delete", table, "--yes")
            for number, file in enumerate(inputs):
                instance.send_ingest(f"job-{number:02}", "events", file)
            report = instance.wait_job("export-1")
            wait_for(lambda: rounds[0] >= before + 2, "garbage was collected meanwhile")
        instance.wait_empty_queues()
    exported = instance.exported(report)
    assert len(exported.files) == len(points) + 1
    assert_same_rows(relation(inputs), exported.relation)
    assert instance.describe("events")["rows"] == 12 * 4000
    instance.sweep()


@pytest.mark.parametrize("mode", ["direct", "queued"])
def test_sweeping_during_ingests(make_instance: Make, mode: str) -> None:
    """Sweeping orphans of no age takes the files of running jobs; they start again, and no row is lost or doubled."""
    instance = make_instance(queue_max_attempts="100", table_commit_mode=mode)
    instance.create_table("events", SCHEMA, ["4", "8", "c"])
    inputs = {f"job-{n:02}": instance.parquet(f"{n}.parquet", rows(f"job-{n:02}", 10_000)) for n in range(16)}
    with instance.serve(), instance.serve():
        with collecting(instance, "--delay-minutes", "0", "--orphan-age-hours", "0"):
            for job, file in inputs.items():
                for _ in range(2):
                    instance.send_ingest(job, "events", file)
            wait_for(lambda: "FINISHED" in instance.statuses().values(), "a job finishes in between")
        statuses = instance.wait_jobs(list(inputs))
        wrong = {job: reasons(instance.job(job)) for job, status in statuses.items() if status != "FINISHED"}
        assert not wrong, wrong
        instance.wait_empty_queues()
    assert_same_rows(relation(list(inputs.values())), instance.export("events").relation)
    instance.sweep()
    assert_same_rows(relation(list(inputs.values())), instance.export("events").relation)


def test_a_deleted_table_goes_with_all_its_objects(instance: Instance) -> None:
    """Deleting removes every object of the table from the data bucket in the end, and leaves others alone."""
    gone = instance.create_table("gone", SCHEMA, ["8"], table_statestore_snapshot_min_transactions="2")
    instance.create_table("kept", SCHEMA, ["8"])
    inputs = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", 1000)) for n in range(5)]
    with instance.serve():
        for number, file in enumerate(inputs):
            instance.send_ingest(f"gone-{number}", "gone", file)
            instance.send_ingest(f"kept-{number}", "kept", file)
        instance.wait_jobs([f"{table}-{number}" for table in ("gone", "kept") for number in range(5)])
        bucket = instance.data / "buckets" / "data"
        wait_for(lambda: any((bucket / gone / "statestore").rglob("*")), "the table has a snapshot")
        exported = instance.export("gone", "last")
        instance.run("table", "delete", "gone", "--yes")
        # The name is free at once, for a table that has nothing of the old one.
        again = instance.create_table("gone", SCHEMA)
        assert again != gone and instance.describe("gone")["rows"] == 0
    instance.sweep()
    left = [path for path in bucket.rglob("*") if path.is_file() and gone in path.parts]
    assert not left, left
    assert_same_rows(relation(inputs), instance.export("kept").relation)
    assert_same_rows(relation(inputs), exported.relation)
    assert all(row["table"] in ("gone", "kept") for row in instance.gc())


def test_a_table_is_deleted_while_it_is_worked_on(instance: Instance) -> None:
    """Its jobs come to an end with a reason, nothing of it is left, and jobs of other tables go on."""
    for attempt, count in enumerate(GROWING_ROWS):
        gone = instance.create_table("gone", SCHEMA, ["4", "8", "c"])
        kept = f"kept-{attempt}"
        instance.create_table(kept, SCHEMA)
        inputs = [instance.parquet(f"{attempt}-{n}.parquet", rows(f"job-{n}", count)) for n in range(6)]
        jobs = {f"{table}-{attempt}-{number}": table for number in range(6) for table in ("gone", kept)}
        export = f"export-{attempt}"
        with instance.serve():
            for number, file in enumerate(inputs):
                for table in ("gone", kept):
                    instance.send_ingest(f"{table}-{attempt}-{number}", table, file)
            instance.send_export(export, "gone")
            wait_for(lambda jobs=jobs: instance.statuses().keys() & jobs.keys(), "work is under way", poll=0.002)
            instance.run("table", "delete", "gone", "--yes")
            statuses = instance.wait_jobs([*jobs, export])
            instance.wait_empty_queues()
        for job, status in statuses.items():
            if jobs.get(job) == kept:
                assert status == "FINISHED", f"{job} is {status}"
            elif status != "FINISHED":
                text = reasons(instance.job(job))
                assert "the table was deleted" in text or 'table "gone" does not exist' in text, text
        instance.sweep()
        left = [path for path in (instance.data / "buckets" / "data").rglob("*") if path.is_file() and gone in path.parts]
        assert not left, left
        assert_same_rows(relation(inputs), instance.export(kept).relation)
        if set(statuses.values()) > {"FINISHED"}:
            return
    pytest.fail("the table was always deleted too late to matter")


def test_files_of_a_killed_ingest_are_swept(make_instance: Make) -> None:
    """kill -9 in the middle of writing leaves orphans: kept while they are young, swept when they are old."""
    instance = make_instance(
        queue_visibility_timeout_seconds="1", memory_bytes="4M", table_ingest_file_target_bytes="64K"
    )
    instance.create_table("events", SCHEMA, [f"{n:02x}" for n in range(8, 256, 8)])
    inputs: list[Path] = []
    for count in GROWING_ROWS:
        job = f"job-{len(inputs)}"
        inputs.append(instance.parquet(f"{job}.parquet", rows(job, count)))
        before = instance.data_files()
        instance.send_ingest(job, "events", inputs[-1])
        server = instance.start()
        wait_for(lambda before=before: len(instance.data_files() - before) >= 2, "the job writes", poll=0.002)
        server.kill()
        orphans = instance.data_files() - instance.known_files()
        if orphans:
            break
    else:
        pytest.fail("every job was done before it could be killed")
    written = instance.data_files()
    instance.run("gc")
    assert instance.data_files() == written
    with instance.serve():
        instance.wait_job(job)
        assert orphans < instance.data_files()
    assert instance.sweep() > 0
    assert not orphans & instance.data_files()
    assert_same_rows(relation(inputs), instance.export("events").relation)


def test_spilled_rows_of_a_killed_ingest_are_removed(make_instance: Make) -> None:
    """kill -9 leaves the rows that a job has spilled; they go with a later start or collection."""
    instance = make_instance(queue_visibility_timeout_seconds="1", memory_bytes="4M")
    instance.create_table("events", SCHEMA)

    def spilled() -> list[Path]:
        return [path for path in (instance.data / "spill").rglob("*") if path.is_file()]

    def ended(job: str) -> bool:
        return instance.statuses().get(job) == "FINISHED"

    for count in GROWING_ROWS[1:]:
        job = f"job-{count}"
        instance.send_ingest(job, "events", instance.parquet(f"{job}.parquet", rows(job, count)))
        server = instance.start()
        wait_for(lambda job=job: spilled() or ended(job), "the job spills", poll=0.002)
        server.kill()
        if spilled():
            break
    else:
        pytest.fail("every job was done before it could be killed")
    with instance.serve():
        instance.wait_job(job)
    instance.sweep()
    assert not spilled(), spilled()


def make_table_to_damage(instance: Instance, leaves: str) -> Path:
    """A table whose one data file is copied whole, or read and cut, by an export; gives the file."""
    instance.create_table("events", SCHEMA, [] if leaves == "copied" else ["8"])
    instance.ingest("events", instance.parquet("a.parquet", rows("job-1", 5000)))
    (data_file,) = instance.data_files()
    return instance.data / "buckets" / "data" / data_file


@pytest.mark.parametrize("leaves", ["copied", "cut"])
def test_damaged_data_files_fail_exports(make_instance: Make, leaves: str) -> None:
    """A flipped bit anywhere in a data file makes the export fail with the file's name, or does no harm."""
    instance = make_instance(queue_max_attempts="2")
    data_file = make_table_to_damage(instance, leaves)
    content = data_file.read_bytes()
    failed = 0
    places = [4, len(content) - 6, *range(10, len(content), len(content) // 9)]
    for number, place in enumerate(places):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        data_file.write_bytes(damaged)
        outcome = instance.run("export", "events", "--id", f"export-{number}", "--wait", code=None)
        report = instance.job(f"export-{number}")
        directory = instance.data / "buckets" / "export" / report["table"] / f"export-{number}"
        if report["status"] == "FINISHED":
            assert_same_rows(relation(instance.inputs / "a.parquet"), instance.exported(report).relation)
        else:
            failed += 1
            assert outcome.code == 1 and report["status"] == "FAILED", outcome
            assert data_file.name in reasons(report), f"byte {place}: {reasons(report)}"
            assert not (directory / "_SUCCESS").exists() and not (directory / "_manifest.json").exists()
    print(f"{failed} of {len(places)} exports failed")
    assert failed >= len(places) // 2 if leaves == "cut" else failed == len(places)


@pytest.mark.parametrize("leaves", ["copied", "cut"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "another"])
def test_an_export_of_a_wrong_file_fails_and_can_be_tried_again(
    make_instance: Make, leaves: str, damage: str
) -> None:
    """A data file that is gone or not the one that was written fails the export; put right, it can be tried again."""
    instance = make_instance(queue_max_attempts="1", queue_visibility_timeout_seconds="60")
    data_file = make_table_to_damage(instance, leaves)
    content = data_file.read_bytes()
    if damage == "missing":
        data_file.unlink()
    elif damage == "truncated":
        data_file.write_bytes(content[:-1])
    elif damage == "longer":
        data_file.write_bytes(content + b"\0")
    else:
        data_file.write_bytes(instance.parquet("other.parquet", rows("other", 5000)).read_bytes())
    with instance.serve():
        instance.send_export("export-1", "events")
        instance.wait_job("export-1", "FAILED")
        wait_for(lambda: all(depth[:2] == (0, 0) for depth in instance.depths().values()), "all leaves have failed")
        report = instance.job("export-1")
        assert data_file.name in reasons(report), reasons(report)
        assert report["export"]["failed"] > 0
        assert not list((instance.data / "buckets" / "export").rglob("_SUCCESS"))
        dead = instance.json("queue", "dead-letters", "export-leaf")
        assert len(dead) == report["export"]["failed"], dead
        assert instance.describe("events")["pins"] == 1, "the files must stay for another try"

        if not data_file.parent.exists():
            data_file.parent.mkdir()
        data_file.write_bytes(content)
        assert instance.json("queue", "retry", "export-leaf")["moved"] == len(dead)
        wait_for(lambda: instance.job("export-1")["status"] == "FINISHED", "the export is finished after all")
        instance.wait_empty_queues()
    exported = instance.exported(instance.job("export-1"))
    assert_same_rows(relation(instance.inputs / "a.parquet"), exported.relation)
    assert instance.describe("events")["pins"] == 0
