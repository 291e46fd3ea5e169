"""A table keeps itself in shape: files are merged, leaves are split, and no reader can tell."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness import Instance, Json, assert_same_rows, reasons, relation, seeds, wait_for

Make = Callable[..., Instance]

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "job", "type": "StringType"}],
}

# Everything that keeps a table in shape happens every second.
BUSY = {
    "compaction_job_creation_period_minutes": "0.02",
    "partition_splitting_period_minutes": "0.02",
    "gc_period_minutes": "0.02",
    "table_gc_delay_minutes": "0",
    "gc_orphan_age_hours": "0.01",
}


def rows(job: str, count: int) -> str:
    return f"""SELECT printf('%016x', hash(i, '{job}')) AS "key", i AS n, '{job}' AS job FROM range({count}) t(i)"""


def leaves(instance: Instance, table: str) -> list[Json]:
    return instance.json("partitions", table)


def test_many_small_ingests_leave_a_table_in_shape(make_instance: Make) -> None:
    """Fed 200 small ingests while `serve` runs, a table ends, untouched, with few files in each of its leaves."""
    instance = make_instance(**BUSY)
    threshold, jobs, each = 3000, 200, 100
    instance.create_table("events", SCHEMA, table_partition_splitting_threshold=str(threshold))
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", each)) for n in range(jobs)]

    def at_rest() -> bool:
        in_shape = all(leaf["rows"] <= threshold and leaf["files"] <= 12 for leaf in leaves(instance, "events"))
        return in_shape and not instance.depths() and instance.data_files() == instance.known_files()

    with instance.serve():
        for n, file in enumerate(files):
            instance.send_ingest(f"job-{n}", "events", file)
        statuses = instance.wait_jobs([f"job-{n}" for n in range(jobs)])
        assert set(statuses.values()) == {"FINISHED"}
        wait_for(at_rest, lambda: f"the table is in shape: {leaves(instance, 'events')}; {instance.depths()}")
    found = leaves(instance, "events")
    assert jobs * each / threshold < len(found) < 40, found
    # Rows of files that a split has cut are estimated.
    assert abs(sum(leaf["rows"] for leaf in found) - jobs * each) < jobs * each / 10
    assert_same_rows(relation(files), instance.export("events").relation)
    instance.run("doctor", "events", "--deep")


def test_compacting_by_hand(instance: Instance) -> None:
    """`compact` does what the strategy asks for, `compact --all` makes one file of each leaf; reports tell."""
    instance.create_table("events", SCHEMA, ["8"])
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", 500)) for n in range(3)]
    for n, file in enumerate(files):
        instance.ingest("events", file, job=f"job-{n}")
    assert instance.json("compact", "events") == []
    assert "no files to merge" in instance.run("compact", "events").stderr
    before = instance.export("events")

    waiting = instance.json("compact", "events", "--all")
    assert [(job["status"], job["input_files"]) for job in waiting] == [("CREATED", 3)] * 2
    assert instance.json("compact", "events", "--all") == [], "what is leased is not planned again"
    with instance.serve():
        assert set(instance.wait_jobs([job["job"] for job in waiting]).values()) == {"FINISHED"}
    assert [leaf["files"] for leaf in leaves(instance, "events")] == [1, 1]
    report = instance.wait_job(waiting[0]["job"])
    assert [event["event"] for event in report["events"]] == ["created", "started", "written", "committed"]
    assert report["runs"][0]["rows_read"] == report["runs"][0]["rows_written"] > 0

    after = instance.export("events")
    assert_same_rows(before.relation, after.relation)
    assert instance.sweep() > 0
    assert len(instance.data_files()) == 2

    instance.ingest("events", files[0], job="again")
    done = instance.json("compact", "events", "--all", "--wait")
    assert {job["status"] for job in done} == {"FINISHED"}
    assert sum(leaf["rows"] for leaf in leaves(instance, "events")) == 2000


def test_a_damaged_file_stays_and_is_named(instance: Instance) -> None:
    """A compaction whose input is damaged fails, names the file, and takes nothing away."""
    instance.create_table("events", SCHEMA)
    for n in range(2):
        instance.ingest("events", instance.parquet(f"{n}.parquet", rows(f"job-{n}", 500)), job=f"job-{n}")
    victim = next((instance.data / "buckets" / "data").rglob("data/*/*.parquet"))
    body = bytearray(victim.read_bytes())
    body[len(body) // 2] ^= 1
    victim.write_bytes(body)
    outcome = instance.run("compact", "events", "--all", "--wait", "--format", "json", code=1)
    assert victim.name in reasons(outcome.json[0]), outcome
    assert leaves(instance, "events")[0]["files"] == 2
    assert instance.json("files", "events") and victim.exists()


def test_splitting_by_the_second_column_and_not_at_all(instance: Instance) -> None:
    """A hot first column is split by the second; a leaf of one key says so, and is left alone."""
    two_columns = {
        "rowKeyFields": [{"name": "hot", "type": "StringType"}, {"name": "n", "type": "LongType"}],
        "valueFields": [{"name": "job", "type": "StringType"}],
    }
    instance.create_table("hot", two_columns, table_partition_splitting_threshold="1000")
    file = instance.parquet("hot.parquet", "SELECT 'one' AS hot, i AS n, 'j' AS job FROM range(8000) t(i)")
    instance.ingest("hot", file)
    done = instance.json("split", "hot")
    assert [(row["rows"], row["leaves"], row["kept_because"]) for row in done] == [(8000, 8, None)]
    found = leaves(instance, "hot")
    assert len(found) == 8 and all(leaf["files"] == 1 for leaf in found)
    assert instance.json("compact", "hot", "--all") == [], "one file for each leaf"
    exported = instance.export("hot")
    assert [entry["rows"] for entry in exported.manifest["files"]] == [1000] * 8
    assert_same_rows(relation(file), exported.relation)

    instance.create_table("same", SCHEMA, table_partition_splitting_threshold="1000")
    file = instance.parquet("same.parquet", """SELECT 'k' AS "key", i AS n, 'j' AS job FROM range(2000) t(i)""")
    instance.ingest("same", file)
    done = instance.json("split", "same")
    assert [(row["leaves"], row["kept_because"]) for row in done] == [(1, 'all rows have the key ("k")')]
    assert leaves(instance, "same")[0]["kept_because"] == 'all rows have the key ("k")'
    assert "all rows have the key" in instance.run("partitions", "same").stdout
    assert instance.json("split", "same") == [], "it is not looked at again"
    instance.ingest("same", file, job="grown")
    assert len(instance.json("split", "same")) == 1, "it has grown twofold"


def test_restoring_what_a_table_was(make_instance: Make) -> None:
    """A past state is made current, through compactions and splits since; the state before comes back the same way."""
    instance = make_instance(table_gc_delay_minutes="0")
    instance.create_table("events", SCHEMA, table_partition_splitting_threshold="300")
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", 500)) for n in range(3)]
    instance.ingest("events", files[0], job="job-0")
    instance.ingest("events", files[1], job="job-1")
    good = instance.json("status", "events")["transaction"]
    instance.ingest("events", files[2], job="job-2")
    instance.json("compact", "events", "--all", "--wait")
    assert len(instance.json("split", "events")) == 1
    instance.json("compact", "events", "--all", "--wait")

    assert "not confirmed" in instance.run("table", "restore", "events", "--as-of", str(good), code=2).stderr
    restored = instance.json("table", "restore", "events", "--as-of", str(good), "--yes")
    assert (restored["of"], restored["rows"], restored["files"]) == (good, 1000, 2)
    assert_same_rows(relation(files[:2]), instance.export("events").relation)
    instance.run("doctor", "events", "--deep")
    instance.ingest("events", files[2], job="job-2")
    assert_same_rows(relation(files[:2]), instance.export("events").relation)
    instance.ingest("events", files[2], job="job-3")
    assert_same_rows(relation(files), instance.export("events").relation)

    instance.run("table", "restore", "events", "--as-of", str(restored["transaction"] - 1), "--yes")
    assert_same_rows(relation(files), instance.export("events").relation)
    instance.json("compact", "events", "--all", "--wait")
    assert instance.sweep() > 0
    instance.run("doctor", "events", "--deep")
    for state in (good, 100_000):
        assert "is not kept" in instance.run("table", "restore", "events", "--as-of", str(state), "--yes", code=3).stderr


def test_kills_while_a_table_is_kept_in_shape(make_instance: Make) -> None:
    """Whatever is killed while files are merged, leaves split and garbage collected, every row is there once."""
    dice = seeds(2)
    instance = make_instance(compaction_lease_minutes="0.1", **BUSY)
    instance.create_table("events", SCHEMA, table_partition_splitting_threshold="5000")
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", 400)) for n in range(60)]
    server = instance.start()
    for n, file in enumerate(files):
        instance.send_ingest(f"job-{n}", "events", file)
        if dice.random() < 0.2:
            time.sleep(dice.uniform(0, 0.5))
            server.kill()
            server = instance.start()
    statuses = instance.wait_jobs([f"job-{n}" for n in range(60)])
    assert set(statuses.values()) == {"FINISHED"}, statuses
    wait_for(lambda: len(leaves(instance, "events")) > 4, "leaves split")
    server.kill()
    assert_same_rows(relation(files), instance.export("events").relation)
    instance.run("doctor", "events", "--deep")


def test_a_table_made_from_an_export(make_instance: Make) -> None:
    """An export becomes a table, here and in another instance; a damaged or unfinished one becomes none."""
    instance = make_instance()
    instance.create_table("events", SCHEMA, ["4", "8", "c"])
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", 500)) for n in range(2)]
    for n, file in enumerate(files):
        instance.ingest("events", file, job=f"job-{n}")
    exported = instance.export("events")
    directory = exported.directory

    elsewhere = make_instance()
    made = elsewhere.json("table", "import-export", "copy", directory, "--set", "dormouse.table.gc.delay.minutes=7")
    assert (made["name"], made["rows"], made["files"], made["leaves"]) == ("copy", 1000, 4, 4)
    assert elsewhere.describe("copy")["properties"] == {"dormouse.table.gc.delay.minutes": "7"}
    assert_same_rows(relation(files), elsewhere.export("copy").relation)
    elsewhere.run("doctor", "copy", "--deep")
    elsewhere.ingest("copy", files[0], job="more")
    assert elsewhere.json("status", "copy")["rows"] == 1500
    assert "copy" in elsewhere.run("table", "import-export", "copy", directory, code=4).stderr

    assert "no complete export" in elsewhere.run("table", "import-export", "none", directory.parent, code=3).stderr
    assert "cannot find /nowhere" in elsewhere.run("table", "import-export", "none", "/nowhere", code=2).stderr
    (directory / "_SUCCESS").unlink()
    assert "_SUCCESS is not there" in elsewhere.run("table", "import-export", "none", directory, code=3).stderr
    (directory / "_SUCCESS").touch()
    victim = next(directory.glob("*.parquet"))
    body = bytearray(victim.read_bytes())
    body[len(body) // 2] ^= 1
    victim.write_bytes(body)
    outcome = elsewhere.run("table", "import-export", "broken", directory, code=6)
    assert victim.name in outcome.stderr, outcome
    assert [table["name"] for table in elsewhere.json("table", "list")] == ["copy"]


def test_purging_rows(make_instance: Make) -> None:
    """The rows that a predicate is true for leave a table, from files that may have them alone, while workers work."""
    instance = make_instance(table_state_history_retention_hours="1")
    instance.create_table("events", SCHEMA, ["8"])
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", 500)) for n in range(4)]
    for n, file in enumerate(files):
        instance.ingest("events", file, job=f"job-{n}")
    before = instance.export("events")

    condition = "job = 'job-1' OR n > 450 AND job = 'job-2'"
    listed = instance.json("purge", "events", "--where", condition, "--dry-run")
    assert {row["partition"] for row in listed} == {leaf["id"] for leaf in leaves(instance, "events")}
    assert len(listed) == 4, "two files in each of two leaves"
    assert instance.json("files", "events") and instance.json("jobs", "list", "--kind", "compaction") == []

    outcome = instance.run("purge", "events", "--where", condition, "--yes", "--format", "json")
    assert {job["status"] for job in outcome.json} == {"FINISHED"}
    assert {job["purge"] for job in outcome.json} == {condition}
    assert "of 1,000 rows that were read, 451 were written again" in outcome.stderr, outcome
    after = instance.export("events")
    kept = f"(SELECT * FROM {before.relation} WHERE NOT ({condition}))"
    assert_same_rows(kept, after.relation)
    assert condition in instance.run("jobs", "show", outcome.json[0]["job"]).stdout

    with instance.serve():
        again = instance.run("purge", "events", "--where", "n < 10", "--yes", "--no-work", "--format", "json")
    assert {job["status"] for job in again.json} == {"FINISHED"}
    assert_same_rows(f"(SELECT * FROM {kept} WHERE n >= 10)", instance.export("events").relation)
    assert "no file holds such rows" in instance.run("purge", "events", "--where", "n < 10", "--yes").stderr
    instance.run("doctor", "events", "--deep")


def test_purges_that_are_refused(instance: Instance) -> None:
    """What is no predicate over the table's columns is refused, with the reason, before anything is done."""
    instance.create_table("events", SCHEMA)
    instance.ingest("events", instance.parquet("0.parquet", rows("job-0", 100)))
    for condition, reason in [
        ("colour = 'red'", "colour"),
        ("n = ", "EOF"),
        ("n > now()", "another time"),
        ("n IN (SELECT 1)", "query"),
        ("1=1; DROP TABLE events", ";"),
        ("", "empty"),
    ]:
        outcome = instance.run("purge", "events", "--where", condition, "--yes", code=2)
        assert reason in outcome.stderr, outcome
    instance.run("purge", "nothing", "--where", "n = 1", "--yes", code=3)
    outcome = instance.run("purge", "events", "--where", "n = 1", code=2)
    assert "--yes" in outcome.stderr, outcome
    assert instance.json("status", "events")["rows"] == 100
    assert instance.json("jobs", "list", "--kind", "compaction") == []
