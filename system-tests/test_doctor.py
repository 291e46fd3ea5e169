"""The doctor names what is damaged and what to do, changes nothing, and finds nothing in what is sound."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Instance, wait_for

Make = Callable[..., Instance]

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "job", "type": "StringType"}],
}

CORRUPT = 6


def rows(job: str, count: int) -> str:
    return f"""SELECT printf('%016x', hash(i, '{job}')) AS "key", i AS n, '{job}' AS job FROM range({count}) t(i)"""


def ingest(instance: Instance, number: int) -> None:
    file = instance.parquet(f"{number}.parquet", rows(f"job-{number}", 2000))
    instance.ingest("events", file, job=f"job-{number}")


@pytest.fixture
def examined(make_instance: Make) -> Instance:
    """A table of two leaves with four jobs, a snapshot in the middle of its log, and a finished export."""
    instance = make_instance(
        table_statestore_snapshot_min_transactions="2",
        table_state_history_retention_hours="100",
        gc_period_minutes="1",
    )
    instance.create_table("events", SCHEMA, ["8"])
    for number in range(2):
        ingest(instance, number)
    with instance.serve("worker", "snapshots", "repair"):
        wait_for(lambda: checked(instance, "doctor", "events")["snapshots"], "a snapshot is recorded")
    for number in range(2, 4):
        ingest(instance, number)
    instance.export("events", "export-1")
    return instance


def doctor(instance: Instance, *options: str, code: int = 0) -> list[tuple[str, str]]:
    """The findings, as invariant and place."""
    (report,) = instance.json("doctor", "events", *options, code=code)
    assert report["table"] == "events" and report["deep"] == ("--deep" in options)
    assert all(finding["found"] and finding["remedy"] for finding in report["findings"]), report
    return [(finding["invariant"], finding["place"]) for finding in report["findings"]]


def checked(instance: Instance, *command: str) -> dict[str, int]:
    """How much the doctor has looked at, by what it is."""
    (report,) = instance.json(*command)
    return {checked["what"]: checked["count"] for checked in report["checked"]}


def bucket(instance: Instance) -> Path:
    return instance.data / "buckets" / "data"


def snapshots(instance: Instance) -> list[Path]:
    return sorted(bucket(instance).rglob("*.dmsnap"))


def a_data_file(instance: Instance) -> Path:
    return bucket(instance) / min(instance.data_files())


def place_of(path: Path) -> str:
    return "file " + str(path).split("/data/")[-1]


def contents(instance: Instance) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in (instance.data / "buckets").rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def items(instance: Instance) -> list[tuple]:
    with sqlite3.connect(instance.data / "dormouse.sqlite3") as database:
        return database.execute("SELECT * FROM items ORDER BY 1, 2, 3").fetchall()


def test_a_sound_table_has_no_findings_and_is_left_as_it_was(examined: Instance) -> None:
    before = contents(examined), items(examined)
    for options in [(), ("--deep",)]:
        assert doctor(examined, *options) == []
    counts = checked(examined, "doctor", "--all", "--deep")
    assert counts["log entries"] >= 5 and counts["snapshots"] >= 1 and counts["jobs"] == 5, counts
    assert counts["live files"] == counts["files read"] == len(examined.data_files()), counts
    assert counts["finished exports"] == 1 and counts["objects in flight"] == 0, counts
    text = examined.run("doctor", "events").stdout
    assert "nothing is wrong" in text and "log entries" in text, text
    assert (contents(examined), items(examined)) == before
    assert examined.run("doctor", "nothing", code=3)
    assert examined.run("doctor", code=2)


def test_the_report_says_what_is_wrong_and_what_to_do(examined: Instance) -> None:
    path = a_data_file(examined)
    path.unlink()
    outcome = examined.run("doctor", "events", code=CORRUPT)
    for text in ("1 finding:", "files", path.name, "is gone", "restore the object"):
        assert text in outcome.stdout, outcome


@pytest.mark.parametrize("damage", ["removed", "cut", "longer"])
def test_a_data_file_of_the_wrong_size(examined: Instance, damage: str) -> None:
    path = a_data_file(examined)
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "cut" else content + b"\0")
    invariant = "files" if damage == "removed" else "immutable"
    for options in [(), ("--deep",)]:
        assert doctor(examined, *options, code=CORRUPT) == [(invariant, place_of(path))]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert doctor(examined, "--deep") == []


def test_flipped_bytes_of_a_data_file_are_found_by_a_deep_look(examined: Instance) -> None:
    path = a_data_file(examined)
    content = path.read_bytes()
    for place in [0, 4, *range(10, len(content), len(content) // 5), len(content) - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert doctor(examined, "--deep", code=CORRUPT) == [("immutable", place_of(path))], f"byte {place}"
    assert doctor(examined) == []


def test_a_whole_file_in_the_place_of_another(examined: Instance) -> None:
    one, other, *_ = sorted(examined.data_files())
    path = bucket(examined) / one
    path.write_bytes((bucket(examined) / other).read_bytes())
    assert doctor(examined, "--deep", code=CORRUPT) == [("immutable", place_of(path))]


def edit(instance: Instance, collection: str, number: int, change: Callable[[bytes], bytes | None]) -> None:
    """Changes the attributes of an item that is numbered, or removes it."""
    with sqlite3.connect(instance.data / "dormouse.sqlite3") as database:
        item = (collection, number.to_bytes(8, "big"))
        ((attributes,),) = database.execute(
            "SELECT attributes FROM items WHERE collection = ? AND sort_key = ?", item
        ).fetchall()
        changed = change(attributes)
        if changed is None:
            database.execute("DELETE FROM items WHERE collection = ? AND sort_key = ?", item)
        else:
            assert changed != attributes
            database.execute(
                "UPDATE items SET attributes = ? WHERE collection = ? AND sort_key = ?", (changed, *item)
            )


@pytest.mark.parametrize("number", [2, 5])
def test_a_log_entry_that_is_gone_or_changed(examined: Instance, number: int) -> None:
    before = items(examined)
    place = [("log", f"log entry {number}")]
    edit(examined, "transactions", number, lambda attributes: attributes.replace(b"files_added", b"files_adder"))
    assert doctor(examined, code=CORRUPT) == place
    edit(examined, "transactions", number, lambda attributes: attributes.replace(b"files_adder", b"files_added"))
    assert items(examined) == before and doctor(examined) == []
    edit(examined, "transactions", number, lambda _: None)
    assert doctor(examined, code=CORRUPT) == place


@pytest.mark.parametrize("damage", ["removed", "flipped"])
def test_a_damaged_snapshot(examined: Instance, damage: str) -> None:
    path = snapshots(examined)[-1]
    if damage == "removed":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    number = path.name.split("-")[0]
    assert doctor(examined, code=CORRUPT) == [("replay", f"snapshot of transaction {number}")]
    # Nothing is lost: the log is whole.
    assert examined.describe("events")["rows"] == 8000


def test_orphans_are_in_flight_while_young_and_found_when_old(examined: Instance) -> None:
    path = a_data_file(examined)
    orphan = path.with_name("00000000-0000-4000-8000-000000000000.parquet")
    orphan.write_bytes(b"left behind")
    assert doctor(examined) == []
    old = time.time() - 3 * 24 * 3600
    os.utime(orphan, (old, old))
    assert doctor(examined, code=CORRUPT) == [("orphans", place_of(orphan))]
    examined.run("gc")
    assert doctor(examined, "--deep") == [] and not orphan.exists()


def test_a_finished_export_that_was_damaged(examined: Instance) -> None:
    directory = examined.export_directory(examined.job("export-1"))
    part = min(directory.glob("*.parquet"))
    content = part.read_bytes()
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    assert doctor(examined) == []
    assert doctor(examined, "--deep", code=CORRUPT) == [("immutable", f"export export-1, file {part.name}")]
    part.unlink()
    assert doctor(examined, code=CORRUPT) == [("export", "export export-1")]
    part.write_bytes(content)
    (directory / "_SUCCESS").unlink()
    assert doctor(examined, code=CORRUPT) == [("export", "export export-1")]


def test_work_that_goes_on_gives_no_false_alarm(make_instance: Make) -> None:
    """Looks again and again while jobs, exports, snapshots and collections run."""
    instance = make_instance(table_statestore_snapshot_min_transactions="2", gc_period_minutes="0.02")
    instance.create_table("events", SCHEMA, ["4", "8", "c"], table_gc_delay_minutes="0")
    files = [instance.parquet(f"{n}.parquet", rows(f"job-{n}", 2000)) for n in range(24)]
    looks = 0
    with instance.serve():
        for number, file in enumerate(files):
            instance.send_ingest(f"job-{number}", "events", file)
            if number % 8 == 4:
                instance.send_export(f"export-{number}", "events")
            if number % 2:
                assert doctor(instance, *(["--deep"] if number % 4 == 1 else [])) == []
                looks += 1
        instance.wait_jobs([f"job-{number}" for number in range(len(files))])
        instance.wait_empty_queues()
        assert doctor(instance, "--deep") == []
    assert looks == 12
