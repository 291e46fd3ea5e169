"""Whatever was said to be done is there after the power went, at any moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from disk import Arrived, Disk, Recorder
from harness import FINAL, Instance, count, seeds, wait_for

Make = Callable[..., Instance]

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "job", "type": "StringType"}],
}

JOBS = 8
ROWS = 500

# At how many moments the power goes, on each of the two disks.
MOMENTS = int(os.environ.get("DORMOUSE_POWER_LOSSES", "6"))

PROPERTIES = {
    "queue_visibility_timeout_seconds": "2",
    "table_statestore_snapshot_min_transactions": "3",
    "table_ingest_file_target_bytes": "4096",
    "compaction_job_creation_period_minutes": "0.01",
    "table_compaction_strategy": "basic",
    "table_compaction_files_batch_size": "2",
    "partition_splitting_period_minutes": "0.01",
    "table_partition_splitting_threshold": "300",
}


@dataclass
class Told:
    """What clients had been told when the power went."""

    sent: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    exported: set[str] = field(default_factory=set)

    def hear(self, remark: str) -> None:
        what, name = remark.split()
        getattr(self, what).add(name)


@pytest.fixture
def recorded(make_instance: Make, monkeypatch: pytest.MonkeyPatch) -> tuple[Instance, Recorder, Disk]:
    """An instance whose every step was recorded, what it began with, and the record."""
    if sys.platform != "linux":
        pytest.skip("the recorder of writes is for Linux")
    instance = make_instance(**PROPERTIES)
    instance.create_table("events", SCHEMA, ["4", "8", "c"])
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}")) for n in range(JOBS)]
    recorder = Recorder(instance.data, instance.root / "record", instance.root / "recorder.so")
    disk = Disk(recorder.directory)
    with monkeypatch.context() as patch:
        for name, value in recorder.environment.items():
            patch.setenv(name, value)
        with instance.serve():
            for number, file in enumerate(files):
                instance.send_ingest(f"job-{number}", "events", file)
                recorder.remark(f"sent job-{number}")
                if number == JOBS // 2:
                    instance.wait_jobs([f"job-{n}" for n in range(number)])
                    for finished in range(number):
                        recorder.remark(f"finished job-{finished}")
                    instance.send_export("export-1", "events")
                    recorder.remark("sent export-1")
            instance.wait_jobs([*(f"job-{n}" for n in range(JOBS)), "export-1"])
            for number in range(JOBS):
                recorder.remark(f"finished job-{number}")
            recorder.remark("exported export-1")
            snapshots = instance.data / "buckets" / "data"
            wait_for(lambda: any(snapshots.rglob("*.dmsnap")), "a snapshot is written")
            instance.gc()
    return instance, recorder, disk


def rows(job: str) -> str:
    return f"""SELECT printf('%016x', hash(i, '{job}')) AS "key", i AS n, '{job}' AS job FROM range({ROWS}) t(i)"""


def examine(after: Instance, told: Told) -> None:
    """Checks what the power left, lets the work go on, and checks that all of it is done once."""
    after.run("doctor", "--all", "--deep")
    statuses = after.statuses()
    assert {statuses.get(job) for job in told.finished | told.exported} <= {"FINISHED"}, statuses
    for export in told.exported:
        assert after.exported(after.job(export)).rows > 0
    with after.serve():
        after.wait_empty_queues()
        wait_for(lambda: FINAL.issuperset(after.statuses().values()), "all jobs end")
    statuses = after.statuses()
    assert set(statuses.values()) <= {"FINISHED"} and told.sent <= statuses.keys(), statuses
    export = after.export("events", "export-after")
    jobs = sum(job.startswith("job-") for job in statuses)
    assert export.rows == jobs * ROWS, f"{export.rows} rows of {jobs} jobs"
    if jobs:
        distinct = count(f"(SELECT DISTINCT job, n FROM {export.relation})")
        assert distinct == export.rows
    after.run("doctor", "--all", "--deep")
    after.sweep()


@pytest.mark.parametrize("arrived", Arrived)
def test_the_power_goes(
    recorded: tuple[Instance, Recorder, Disk], make_instance: Make, arrived: Arrived
) -> None:
    _, recorder, disk = recorded
    records = list(recorder.records())
    counted = {what: sum(record.what == what for record in records) for what in "CWSDLRU"}
    assert all(counted.values()), f"some calls were not recorded: {counted}"
    moments = set(seeds(1).sample(range(1, len(records)), MOMENTS)) | {len(records)}
    told = Told()
    for moment, record in enumerate(records, start=1):
        disk.apply(record)
        if record.what == "K":
            told.hear(record.path)
        if moment in moments:
            print(f"the power goes after {moment} of {len(records)} steps: {told}")
            after = make_instance(**PROPERTIES)
            disk.leave(arrived, after.data)
            after.configure()
            examine(after, told)
