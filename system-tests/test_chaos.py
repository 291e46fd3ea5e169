"""Chaos itself: a short episode passes, and what it looks for is found when it is there."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chaos_checks import (
    Job,
    Ledger,
    Life,
    check_exports,
    check_objects,
    check_statuses,
    check_tables,
    judge,
    unsettled,
)
from chaos_episode import SCHEMA, Disk, Episode, Plan
from harness import Instance, Json

Make = Callable[..., Instance]


def rows(job: str, count: int) -> str:
    return f"""SELECT printf('%016x', hash(i, '{job}')) AS "key", i AS n, '{job}' AS job FROM range({count}) t(i)"""


@dataclass
class Case:
    """An instance with a table and a deleted one, where all that the ledger says is true."""

    instance: Instance
    ledger: Ledger
    reports: list[Json]

    def add(self, job: Job, life: Life) -> None:
        self.ledger.jobs[job.id] = job
        job.sent_to.append(life)

    def report(self, job: str) -> Json:
        (report,) = (report for report in self.reports if report["job"] == job)
        return report

    def check(self) -> None:
        """As `judge` does, but of these reports and without sweeping."""
        check_statuses(self.ledger, self.reports)
        check_objects(self.instance, self.ledger)
        schema = self.instance.describe("events")["schema"]
        check_exports(self.instance, self.ledger, self.reports, schema)
        check_tables(self.instance, self.ledger, self.reports)
        check_objects(self.instance, self.ledger)


@pytest.fixture
def case(instance: Instance) -> Case:
    case = Case(instance, Ledger(), [])
    lives = [Life(name, instance.create_table(name, SCHEMA, ["8"])) for name in ("events", "gone")]
    case.ledger.lives += lives
    with instance.serve():
        for number in range(3):
            job = Job(f"job-{number}", "ingest", "events", files=[instance.parquet(f"{number}.parquet", rows(f"{number}", 50))])
            case.add(job, lives[0])
            instance.send_ingest(job.id, "events", *job.files)
            instance.wait_job(job.id)
        case.add(Job("export-0", "export", "events"), lives[0])
        instance.send_export("export-0", "events")
        case.add(Job("bad", "ingest", "events", good=False), lives[0])
        instance.send("ingest", {"id": "bad", "tableName": "events", "files": ["file:///nowhere.parquet"]})
        instance.wait_jobs(["export-0", "bad"])
        instance.run("table", "delete", "gone", "--yes")
        lives[1].doomed = True
        case.add(Job("late", "ingest", "gone", files=case.ledger.jobs["job-0"].files), lives[1])
        instance.send_ingest("late", "gone", *case.ledger.jobs["late"].files)
        instance.wait_job("late", "REJECTED")
        instance.wait_empty_queues()
    instance.sweep()
    case.reports = instance.json("jobs", "list", "--limit", "1000")
    return case


def test_what_is_right_is_let_pass(case: Case) -> None:
    case.check()
    assert unsettled(case.ledger, case.reports) == []


def lose_a_row(case: Case) -> None:
    case.instance.parquet("1.parquet", rows("1", 51))


def double_a_row(case: Case) -> None:
    case.instance.parquet("1.parquet", rows("1", 49))


def change_a_row(case: Case) -> None:
    case.instance.parquet("1.parquet", rows("1", 50).replace("i AS n", "CASE WHEN i = 7 THEN 8 ELSE i END AS n"))


def lose_a_job(case: Case) -> None:
    """A job that says FINISHED, and whose rows are not there."""
    job = Job("ghost", "ingest", "events", files=[case.instance.parquet("ghost.parquet", rows("ghost", 1))])
    case.add(job, case.ledger.lives[0])
    case.reports.append(copy.deepcopy(case.report("job-2")) | {"job": "ghost"})


def forget_a_job(case: Case) -> None:
    """A job that was accepted, and of which nothing is known."""
    case.add(Job("ghost", "ingest", "events"), case.ledger.lives[0])


def hide_a_commit(case: Case) -> None:
    """A job that is said to have failed because of a deleted table, which was not its own."""
    case.report("job-1").update(status="FAILED")
    case.report("job-1")["runs"][0].update(status="FAILED", transaction=None, reasons=["the table was deleted"])


def reject_a_good_job(case: Case) -> None:
    case.report("job-1").update(status="REJECTED", table=None)
    case.report("job-1")["runs"][0].update(status="REJECTED", transaction=None, reasons=["table does not exist"])


def finish_a_bad_job(case: Case) -> None:
    case.report("bad").update(status="FINISHED", table=case.ledger.lives[0].id)


def leave_a_job_open(case: Case) -> None:
    case.report("job-1").update(status="UNCOMMITTED")


def refuse_without_a_reason(case: Case) -> None:
    case.report("late")["runs"][0]["reasons"] = []


def commit_twice(case: Case) -> None:
    runs = case.report("job-1")["runs"]
    runs.append(runs[0] | {"transaction": runs[0]["transaction"] + 1})


def export_another_state(case: Case) -> None:
    """The export is of a state with a job less than its transaction says."""
    case.report("job-2")["runs"][0]["transaction"] += 1000


def leave_an_orphan(case: Case) -> None:
    bucket = case.instance.data / "buckets" / "data"
    file = bucket / sorted(case.instance.data_files())[0]
    shutil.copy(file, file.with_name("00000000-0000-0000-0000-000000000000.parquet"))


def leave_an_object_of_a_deleted_table(case: Case) -> None:
    path = case.instance.data / "buckets" / "data" / case.ledger.lives[1].id / "statestore" / "left"
    path.parent.mkdir(parents=True)
    path.write_text("left")


def leave_a_spill_file(case: Case) -> None:
    (case.instance.data / "spill" / "left").write_text("left")


def leave_a_message(case: Case) -> None:
    case.instance.send("ingest", "{}")


def remove_an_object(case: Case) -> None:
    (case.instance.data / "buckets" / "data" / sorted(case.instance.data_files())[0]).unlink()


def delete_a_table(case: Case) -> None:
    case.instance.run("table", "delete", "events", "--yes")


def make_a_table(case: Case) -> None:
    case.instance.create_table("surplus", SCHEMA)


DAMAGE = {
    lose_a_row: "missing",
    double_a_row: "not expected",
    change_a_row: "missing",
    lose_a_job: "missing",
    forget_a_job: "nothing is known of ghost",
    hide_a_commit: "job-1 is FAILED",
    reject_a_good_job: "job-1 is REJECTED",
    finish_a_bad_job: "bad cannot be done",
    leave_a_job_open: "job-1 is UNCOMMITTED for ever",
    refuse_without_a_reason: "late is REJECTED",
    commit_twice: "job-1 has committed in the transactions",
    export_another_state: "not expected",
    leave_an_orphan: "orphan objects",
    leave_an_object_of_a_deleted_table: "objects that nothing needs",
    leave_a_spill_file: "left in the spill directory",
    leave_a_message: "messages are left",
    remove_an_object: "missing objects",
    delete_a_table: "orphan objects",
    make_a_table: "the tables are",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_violations_are_found(case: Case, damage: Callable[[Case], None]) -> None:
    damage(case)
    with pytest.raises(AssertionError, match=DAMAGE[damage]):
        case.check()


def test_what_is_not_settled_is_waited_for(case: Case) -> None:
    case.report("job-1").update(status="IN_PROGRESS")
    case.add(Job("ghost", "ingest", "events"), case.ledger.lives[0])
    assert [line.split(":")[0] for line in unsettled(case.ledger, case.reports)] == ["job-1", "ghost"]


@pytest.fixture
def episode(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Episode]:
    root = tmp_path / "episode"
    root.mkdir()
    episode = Episode(Plan(seed=1, seconds=4, processes=2), root)
    yield episode
    episode.close(keep=False)


def test_a_short_episode(episode: Episode) -> None:
    done = episode.run()
    assert done["kills"] + done["stops"] + done["terms"] > 0 and done["jobs"] > 0 and done["rows"] > 0, done
    history = (episode.root / "history.jsonl").read_text()
    assert '"what": "start"' in history and '"what": "sent ingest"' in history


def test_an_episode_ends_with_a_violation(episode: Episode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a job are changed behind its back, as if the product had lost one."""
    drain = episode.drain

    def drain_and_damage() -> None:
        drain()
        ledger = episode.work.ledger
        (job, *_) = (job for job in ledger.accepted() if job.kind == "ingest" and job.good and job.name != "shaky")
        episode.instance.parquet(job.files[0].name, rows(job.id, 60_000))

    monkeypatch.setattr(episode, "drain", drain_and_damage)
    with pytest.raises(AssertionError, match="missing"):
        episode.run()


def test_a_disk_is_filled_and_freed(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "data")
    disk.try_mount()
    if not disk.mounted:
        pytest.skip("file systems cannot be mounted here")
    try:
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.mount / "more").write_bytes(bytes(100_000))
        disk.free()
        (disk.mount / "more").write_bytes(bytes(100_000))
        assert disk.was_full_since(disk.full[0][0])
    finally:
        disk.unmount()


def test_judging_sweeps_and_counts(case: Case) -> None:
    leave_an_orphan(case)
    checked = judge(case.instance, case.ledger)
    assert checked["rows"] == 150 and checked["exported rows"] == 150
