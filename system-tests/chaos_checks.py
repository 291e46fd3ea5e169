"""What is judged after the faults have stopped: what was asked for, against what is there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
from harness import FINAL, Export, Instance, Json, assert_same_rows, check_export, reasons, relation

# How many bytes of exports have their checksums computed; all of them are compared by value.
CHECKSUM_BYTES = 4 << 20

# Why a job may have ended that met no table of its name. A message that was given up counts as met by whichever
# table has its name then, or none; sent back, it has another end as well.
TABLE_IS_GONE = re.compile(r"the table was deleted|does not exist|moved to the dead letters")


# More rows than a table of an episode has.
NO_SPLITS = 1_000_000

@dataclass
class Life:
    """A table from its creation to its deletion; its name may come again with another life."""

    name: str
    id: str
    # Since its deletion was first asked for, which may have failed.
    doomed: bool = False


@dataclass
class Job:
    """A job or an export, under one id, however often it was sent."""

    id: str
    kind: str
    name: str
    good: bool = True
    files: list[Path] = field(default_factory=list)
    # The lives that its messages can have met, for each message that was accepted.
    sent_to: list[Life] = field(default_factory=list)
    by_id: bool = False


@dataclass
class Ledger:
    """What was asked for."""

    # Whether tables that are deleted may be forgotten while their jobs run, which then end without a word.
    forgets_early: bool = False
    lives: list[Life] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)

    def accepted(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.sent_to]

    def live(self) -> list[Life]:
        return [life for life in self.lives if not life.doomed]

    def is_doomed(self, table_id: str | None) -> bool:
        return any(life.doomed for life in self.lives if life.id == table_id)

    def life(self, table_id: str) -> Life | None:
        return next((life for life in self.lives if life.id == table_id), None)


def by_job(reports: Sequence[Json]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = defaultdict(list)
    for report in reports:
        found[report["job"]].append(report)
    return found


def unsettled(ledger: Ledger, reports: Sequence[Json]) -> list[str]:
    """What has not come to its end yet. Reports of a deleted table may wait until its objects are collected."""
    found = by_job(reports)
    open_jobs = []
    for job in ledger.accepted():
        mine = found[job.id]
        is_open = any(report["status"] not in FINAL and not ledger.is_doomed(report["table"]) for report in mine)
        if not mine or is_open or missing_ends(job, mine):
            open_jobs.append(f"{job.id}: {[(report['table'], report['status']) for report in mine]}")
    return open_jobs


def missing_ends(job: Job, reports: Sequence[Json]) -> list[Life]:
    """The tables, never deleted, in which a good job was to finish and has not."""
    finished = {report["table"] for report in reports if report["status"] == "FINISHED"}
    return [life for life in job.sent_to if job.good and not life.doomed and life.id not in finished]


def check_statuses(ledger: Ledger, reports: Sequence[Json]) -> None:
    """Checks that each job has ended as it had to, with a reason when it is not finished."""
    found = by_job(reports)
    for job in ledger.accepted():
        mine = found[job.id]
        assert mine, f"nothing is known of {job.id}"
        for report in mine:
            status, why = report["status"], reasons(report)
            assert report["kind"] == job.kind, f"{job.id} is of kind {report['kind']}"
            if status not in FINAL and ledger.forgets_early and ledger.is_doomed(report["table"]):
                continue
            assert status in FINAL, f"{job.id} is {status} for ever"
            if status == "FINISHED":
                assert job.good, f"{job.id} cannot be done, and is {status}"
                life = ledger.life(report["table"])
                assert life and life.name == job.name, f"{job.id} was for {job.name}, and finished in {report['table']}"
            elif job.good:
                # Given up in a table that was deleted before it could be sent back, or sent to no table.
                was_deleted = any(life.doomed for life in ledger.lives if life.name == job.name)
                is_gone = report["table"] is None and was_deleted and TABLE_IS_GONE.search(why)
                assert is_gone or (ledger.is_doomed(report["table"]) and why), f"{job.id} is {status}: {why}"
            else:
                assert why, f"{job.id} is {status} without a reason"
            commits = {run["transaction"] for run in report["runs"] if run["transaction"]}
            assert len(commits) <= 1, f"{job.id} has committed in the transactions {commits}"
        assert not missing_ends(job, mine), f"{job.id} was accepted, and is not in all of its tables: {mine}"
    unknown = {job for job in found.keys() - ledger.jobs.keys() if found[job][0]["kind"] != "compaction"}
    assert not unknown, f"jobs that nobody has asked for: {unknown}"


def inputs_until(ledger: Ledger, reports: Sequence[Json], table_id: str, transaction: int | None) -> list[Path]:
    """The input files of all jobs that are finished in a table, up to a transaction."""
    files = []
    for report in reports:
        if report["kind"] == "ingest" and report["table"] == table_id and report["status"] == "FINISHED":
            (committed,) = {run["transaction"] for run in report["runs"] if run["transaction"]}
            if transaction is None or committed <= transaction:
                files += ledger.jobs[report["job"]].files
    return files


def check_rows(expected: Sequence[Path], export: Export) -> int:
    """Checks that an export holds exactly the rows of these files, and returns how many."""
    if not expected or not export.files:
        rows = duckdb.execute(f"SELECT count(*) FROM {relation(expected)}").fetchall()[0][0] if expected else 0
        assert rows == export.rows, f"{export.directory} has {export.rows} rows, expected {rows}"
        return rows
    assert_same_rows(relation(expected), export.relation)
    return export.rows


def check_tables(instance: Instance, ledger: Ledger, reports: Sequence[Json]) -> int:
    """Checks every table by a new export. Returns how many rows there are."""
    rows = 0
    tables, live = {info["id"] for info in instance.json("table", "list")}, {life.id for life in ledger.live()}
    assert tables == live, f"the tables are {tables}, expected {live}"
    for life in ledger.live():
        export = instance.export(life.name, f"final-{life.name}")
        rows += check_rows(inputs_until(ledger, reports, life.id, None), export)
        table = instance.describe(life.name)
        # Rows of files that a split has cut are estimated.
        splits = int(instance.properties.get("table.partition.splitting.threshold", NO_SPLITS)) < NO_SPLITS
        told = f"{life.name} says that it has {table['rows']} rows, not {export.rows}"
        assert splits or table["rows"] == export.rows, told
        assert table["pins"] == 0, f"pins are left: {table}"
    return rows


def check_exports(instance: Instance, ledger: Ledger, reports: Sequence[Json], schema: Json) -> int:
    """Checks that each finished export is the table at its transaction. Returns how many rows there are."""
    rows, budget = 0, CHECKSUM_BYTES
    for report in reports:
        if report["kind"] != "export" or report["status"] != "FINISHED":
            continue
        budget -= report["export"]["bytes"]
        export = check_export(instance.export_directory(report), report, {"schema": schema}, checksums=budget > 0)
        expected = inputs_until(ledger, reports, report["table"], export.manifest["transaction"])
        rows += check_rows(expected, export)
    return rows


def check_objects(instance: Instance, ledger: Ledger) -> None:
    """Checks, after a sweep, that nothing is stored that no table needs, and no message is left."""
    instance.check_no_orphans()
    bucket = instance.data / "buckets" / "data"
    stored = [path.relative_to(bucket) for path in bucket.rglob("*") if path.is_file()]
    live = {life.id for life in ledger.live()}
    strays = [str(path) for path in stored if path.parts[0] not in live or path.parts[1] == "commits"]
    assert not strays, f"objects that nothing needs: {strays}"
    spilled = [path for path in (instance.data / "spill").rglob("*") if path.is_file()]
    assert not spilled, f"left in the spill directory: {spilled}"
    depths = instance.depths()
    assert not depths, f"messages are left: {depths}"


def check_doctor(instance: Instance, ledger: Ledger) -> bool:
    """Has every table examined, when this binary can do that."""
    if instance.run("doctor", "--help", code=None).code != 0:
        return False
    for life in ledger.live():
        instance.run("doctor", life.name, "--deep")
    return True


def interrupted(reports: Sequence[Json]) -> int:
    """How many jobs have a run that began and never came to an end."""
    cut_off = {report["job"] for report in reports for run in report["runs"] if not run["ended"]}
    return len(cut_off)


def judge(instance: Instance, ledger: Ledger) -> dict[str, int]:
    """Checks everything, with no process at work. Returns what was checked."""
    instance.sweep()
    reports = instance.json("jobs", "list", "--limit", "1000000")
    check_statuses(ledger, reports)
    hit = interrupted(reports)
    check_objects(instance, ledger)
    schema = instance.describe(ledger.live()[0].name)["schema"]
    rows = check_tables(instance, ledger, reports)
    exported = check_exports(instance, ledger, reports, schema)
    check_objects(instance, ledger)
    check_doctor(instance, ledger)
    return {"interrupted": hit, "rows": rows, "exported rows": exported}
