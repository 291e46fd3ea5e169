"""Every job's rows come into its table once, whatever happens to workers and messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest
from harness import GROWING_ROWS, Export, Instance, assert_same_rows, relation, seeds, wait_for

Make = Callable[..., Instance]

# Rows tell which job they are of.
SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "job", "type": "StringType"}],
}
SPLIT_POINTS = ["4", "8", "c"]

# How many kills a test may take until they have hit as much work as it asks for.
MOST_KILLS = 80


@dataclass
class Work:
    """Jobs of a table "events", with what each of them brings."""

    instance: Instance
    rows: int
    inputs: dict[str, Path] = field(default_factory=dict)
    exports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.instance.create_table("events", SCHEMA, SPLIT_POINTS)

    def ingest(self, copies: int = 1, rows: int | None = None) -> str:
        """Sends one more job, so many times."""
        job = f"job-{len(self.inputs):02}"
        query = f"""SELECT printf('%016x', hash(i, '{job}')) AS "key", i AS n, '{job}' AS job
            FROM range({rows or self.rows}) t(i)"""
        self.inputs[job] = self.instance.parquet(f"{job}.parquet", query)
        for _ in range(copies):
            self.instance.send_ingest(job, "events", self.inputs[job])
        return job

    def export(self, copies: int = 1) -> str:
        """Sends one more export, so many times."""
        export = f"export-{len(self.exports):02}"
        self.exports.append(export)
        for _ in range(copies):
            self.instance.send_export(export, "events")
        return export

    def wait(self) -> None:
        """Waits until all jobs have finished and all queues are empty."""
        statuses = self.instance.wait_jobs([*self.inputs, *self.exports])
        wrong = {job: self.instance.job(job) for job, status in statuses.items() if status != "FINISHED"}
        assert not wrong, wrong
        self.instance.wait_empty_queues()

    def check(self) -> None:
        """Checks the table by value, each export for whole jobs, and that nothing is left behind."""
        instance = self.instance
        final = instance.export("events", "final")
        assert_same_rows(relation(list(self.inputs.values())), final.relation)
        for export in self.exports:
            self.check_consistent(instance.exported(instance.job(export)))
        assert len(instance.statuses()) == len(self.inputs) + len(self.exports) + 1
        table = instance.describe("events")
        assert table["pins"] == 0, table
        instance.sweep()
        left = instance.spilled()
        assert not left, f"left in the spill directory: {left}"
        assert_same_rows(final.relation, instance.export("events", "after-the-sweep").relation)

    def check_consistent(self, export: Export) -> None:
        """Checks that an export holds exactly the jobs that had been committed at its transaction."""
        then = export.manifest["transaction"]
        reports = self.instance.json("jobs", "list", "--kind", "ingest", "--limit", "1000")
        # One transaction may commit several jobs.
        committed = {
            report["job"]: run["transaction"] for report in reports for run in report["runs"] if run["transaction"]
        }
        expected = [self.inputs[job] for job, transaction in committed.items() if transaction <= then]
        if expected:
            assert_same_rows(relation(expected), export.relation)
        else:
            assert export.rows == 0


def attempts(instance: Instance, job: str) -> int:
    """How often a job's message was delivered."""
    return max((run["attempt"] for run in instance.job(job)["runs"]), default=0)


@pytest.mark.everywhere
def test_one_message_sent_ten_times(instance: Instance) -> None:
    work = Work(instance, rows=2000)
    job = work.ingest(copies=10)
    with instance.serve():
        work.wait()
        # Again, after the job is long done.
        instance.send_ingest(job, "events", work.inputs[job])
        work.export(copies=10)
        work.wait()
    work.check()


@pytest.mark.everywhere
@pytest.mark.parametrize("mode", ["direct", "queued"])
def test_killed_at_random_moments(make_instance: Make, mode: str) -> None:
    """kill -9 of `serve`, 20 times, with a new process each time, and until three jobs were hit while they ran."""
    instance = make_instance(
        queue_visibility_timeout_seconds="1", queue_max_attempts="1000", table_commit_mode=mode, memory_bytes="4M"
    )
    random = seeds(20 if mode == "direct" else 21)
    work = Work(instance, rows=20_000)
    interrupted: set[str] = set()
    kills = 0
    while kills < 20 or (len(interrupted) < 3 and kills < MOST_KILLS):
        # Jobs that this machine has done before the kill comes are too small.
        waiting = sum(instance.depths().get("ingest", ()))
        if kills and not waiting:
            work.rows = min(work.rows * 2, 1_000_000)
        if waiting < 3:
            work.ingest()
            work.ingest()
        if kills % 5 == 0:
            work.export()
        server = instance.start()
        if kills % 4:
            server.wait_until_works()
            time.sleep(random.uniform(0, 0.3))
        else:
            time.sleep(random.uniform(0.03, 0.35))
        assert server.runs(), server.text()
        server.kill()
        kills += 1
        interrupted |= instance.open_jobs()
    with instance.serve():
        work.wait()
    print(f"{kills} kills interrupted {sorted(interrupted)}")
    assert len(interrupted) >= 3, f"{kills} kills hit too little work to prove anything: {interrupted}"
    work.check()


@pytest.mark.parametrize("mode", ["direct", "queued"])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_directory(make_instance: Make, processes: int, mode: str) -> None:
    """Several processes on one directory, with every message sent twice."""
    instance = make_instance(table_commit_mode=mode)
    work = Work(instance, rows=3000)
    servers = [instance.start() for _ in range(processes)]
    for round_ in range(20):
        work.ingest(copies=2)
        if round_ % 5 == 0:
            work.export(copies=2)
    work.wait()
    for server in servers:
        assert server.wait_until_works().stop() == 0, server.text()
    work.check()


@pytest.mark.everywhere
@pytest.mark.parametrize("kind", ["ingest", "export"])
def test_stopped_past_the_visibility_timeout(make_instance: Make, kind: str) -> None:
    """A worker freezes in the middle of a job, another does the job, the first thaws and must change nothing."""
    instance = make_instance(queue_visibility_timeout_seconds="1", memory_bytes="8M")
    work = Work(instance, rows=0)
    for work.rows in GROWING_ROWS:
        if kind == "export":
            work.ingest()
            with instance.serve():
                work.wait()
        first = instance.start().wait_until_works()
        job = work.ingest() if kind == "ingest" else work.export()
        wait_for(lambda job=job: instance.job(job), "the job is begun", poll=0.002)
        if instance.pause_at_work(first, job):
            break
        first.resume()
        first.stop()
    else:
        pytest.fail("the job was always done before it could be stopped")
    with instance.serve():
        work.wait()
        assert attempts(instance, job) > 1 or kind == "export"
        first.resume()
    assert first.stop() == 0, first.text()
    work.check()


@pytest.mark.everywhere
def test_asked_to_stop_during_work(make_instance: Make) -> None:
    """SIGTERM lets running jobs finish within the drain time; what was not begun stays in the queue."""
    instance = make_instance(worker_drain_seconds="200", queue_visibility_timeout_seconds="60")
    work = Work(instance, rows=0)
    for work.rows in GROWING_ROWS:
        done = len(work.inputs)
        jobs = [work.ingest() for _ in range(8)]
        server = instance.start().wait_until_works()
        wait_for(lambda done=done: len(instance.statuses()) > done, "a job is begun", poll=0.002)
        assert server.stop() == 0, server.text()
        statuses = instance.statuses()
        assert set(statuses.values()) == {"FINISHED"}, statuses
        waiting = len(work.inputs) - len(statuses)
        if waiting:
            break
    else:
        pytest.fail("all jobs were done before the signal came")
    assert waiting < len(jobs)
    assert instance.depths() == {"ingest": (waiting, 0, 0)}
    with instance.serve():
        work.wait()
    assert all(attempts(instance, job) == 1 for job in work.inputs)
    work.check()


def begun(instance: Instance, job: str) -> int:
    """How many runs of a job have begun."""
    report = instance.job(job)
    return sum(event["event"] == "started" for event in report["events"]) if report else 0


def test_stopped_before_the_work_is_done(make_instance: Make) -> None:
    """A job longer than the drain time is given back at once, and being stopped costs it no attempt."""
    instance = make_instance(
        worker_drain_seconds="0.05", queue_max_attempts="2", queue_visibility_timeout_seconds="60", memory_bytes="4M"
    )
    work = Work(instance, rows=0)
    stops = 0
    for work.rows in GROWING_ROWS:
        job = work.ingest()
        runs = 0
        while stops < 3:
            server = instance.start()
            wait_for(lambda runs=runs, job=job: begun(instance, job) > runs, "the job runs", poll=0.002)
            assert server.stop() == 0, server.text()
            if instance.job(job)["status"] == "FINISHED":
                break
            runs += 1
            stops += 1
            assert instance.depths() == {"ingest": (1, 0, 0)}, "the message was not given back"
        if stops == 3:
            break
    else:
        pytest.fail("every job was done before it could be stopped")
    with instance.serve():
        work.wait()
    work.check()


def test_stopped_as_messages_arrive(make_instance: Make) -> None:
    """Whenever SIGTERM comes, no message stays hidden behind the process that has gone."""
    instance = make_instance(queue_visibility_timeout_seconds="60")
    random = seeds(3)
    work = Work(instance, rows=10)
    for _ in range(12):
        work.ingest()
        server = instance.start()
        wait_for(lambda server=server: "working;" in server.text(), "the server works", poll=0.0005)
        time.sleep(random.uniform(0, 0.015))
        assert server.stop() == 0, server.text()
        assert all(hidden == 0 for _, hidden, _ in instance.depths().values()), instance.depths()
    with instance.serve():
        work.wait()
    assert all(attempts(instance, job) == 1 for job in work.inputs)
    work.check()


@pytest.mark.everywhere
def test_killed_while_a_process_is_left(make_instance: Make) -> None:
    """One of two processes is killed again and again; the other takes over what it held."""
    instance = make_instance(queue_visibility_timeout_seconds="1", queue_max_attempts="1000")
    random = seeds(5)
    work = Work(instance, rows=15_000)

    def repeated() -> set[str]:
        return {job for job in [*work.inputs, *work.exports] if instance.job(job) and attempts(instance, job) > 1}

    kills = 0
    with instance.serve():
        while kills < 8 or (not repeated() and kills < MOST_KILLS):
            work.ingest(copies=2)
            work.ingest()
            if kills % 3 == 0:
                work.export()
            other = instance.start()
            if kills % 3:
                other.wait_until_works()
            time.sleep(random.uniform(0, 0.3))
            other.kill()
            kills += 1
            if kills >= 8:
                work.wait()
                work.rows = min(work.rows * 2, 1_000_000)
        work.wait()
    assert repeated(), f"{kills} kills hit no work"
    work.check()


@pytest.mark.everywhere
def test_keys_that_are_equal_stay(instance: Instance) -> None:
    """Exactly once is per job, not per row: two jobs with the same file give every row twice."""
    instance.create_table("events", SCHEMA, SPLIT_POINTS)
    file = instance.parquet("a.parquet", "SELECT printf('%x', i % 10) AS \"key\", i % 3 AS n, 'j' AS job FROM range(100) t(i)")
    for job in ("one", "two"):
        instance.ingest("events", file, job=job)
    rows = duckdb.execute(f"SELECT count(*) FROM {instance.export('events').relation}").fetchall()
    assert rows == [(200,)]
