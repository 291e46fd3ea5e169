"""The checks that the other tests rely on can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from harness import Export, Instance, assert_same_rows, assert_sorted, crc64_nvme, relation
from test_exactly_once import Work


def test_the_checksum_is_the_standard_one() -> None:
    assert crc64_nvme(b"123456789") == 0xAE8B14860A799888


@pytest.mark.parametrize(
    ("actual", "says"),
    [
        ("SELECT i, 'x' || i AS s FROM range(99) t(i)", "1 rows are missing"),
        ("SELECT i, 'x' || i AS s FROM range(101) t(i)", "1 rows are not expected"),
        ("SELECT i, 'x' || i AS s FROM range(100) t(i) UNION ALL SELECT 7, 'x7'", "1 rows are not expected"),
        ("SELECT i, 'x' || (CASE WHEN i = 50 THEN 5 ELSE i END) AS s FROM range(100) t(i)", "1 rows are missing"),
        ("SELECT i, CASE WHEN i = 50 THEN NULL ELSE 'x' || i END AS s FROM range(100) t(i)", "1 rows are missing"),
        ("SELECT i::INT AS i, 'x' || i AS s FROM range(100) t(i)", "BIGINT"),
        ("SELECT i FROM range(100) t(i)", "VARCHAR"),
    ],
)
def test_wrong_rows_are_found(actual: str, says: str) -> None:
    expected = "(SELECT i, 'x' || i AS s FROM range(100) t(i))"
    assert_same_rows(expected, "(SELECT i, 'x' || i AS s FROM range(100) t(i) ORDER BY i DESC)")
    with pytest.raises(AssertionError, match=says):
        assert_same_rows(expected, f"({actual})")


def test_wrong_order_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    for key, order, is_sorted in [("i", "i", True), ("i", "i DESC", False), ("s", "s", True), ("s", "i", False)]:
        duckdb.execute(f"COPY (SELECT i, i::VARCHAR AS s FROM range(20) t(i) ORDER BY {order}) TO '{file}'")
        if is_sorted:
            assert_sorted(file, [key])
        else:
            with pytest.raises(AssertionError, match="come before"):
                assert_sorted(file, [key])


def remove_file(export: Export) -> None:
    export.files[0].unlink()


def add_file(export: Export) -> None:
    shutil.copy(export.files[0], export.directory / "more.parquet")


def remove_mark(export: Export) -> None:
    (export.directory / "_SUCCESS").unlink()


def swap_files(export: Export) -> None:
    first, second = export.files[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def sort_wrongly(export: Export) -> None:
    """Replaces a file by one with its rows in another order, with size and checksum put right in the manifest."""
    file = export.files[0]
    duckdb.execute(f"COPY (FROM {relation(file)} ORDER BY n) TO '{file}.new' (FORMAT parquet)")
    Path(f"{file}.new").replace(file)
    edit_manifest(export, "bytes", file.stat().st_size)
    edit_manifest(export, "crc64Nvme", f"{crc64_nvme(file.read_bytes()):016x}")


def edit_manifest(export: Export, field: str, value: object) -> None:
    """Changes a field of the first file, and the sums with it."""
    manifest = json.loads((export.directory / "_manifest.json").read_text())
    manifest["files"][0][field] = value
    (export.directory / "_manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        remove_file,
        add_file,
        remove_mark,
        swap_files,
        sort_wrongly,
        lambda export: edit_manifest(export, "rows", 1),
        lambda export: edit_manifest(export, "crc64Nvme", "0" * 16),
        lambda export: edit_manifest(export, "minKey", [{"utf8": "0"}]),
        lambda export: edit_manifest(export, "maxKey", [{"utf8": "f"}]),
    ],
    ids=["remove", "add", "unmark", "swap", "order", "rows", "checksum", "min", "max"],
)
def test_wrong_exports_are_found(instance: Instance, damage: Callable[[Export], None]) -> None:
    work = Work(instance, rows=100)
    work.ingest()
    with instance.serve():
        work.wait()
    export = instance.export("events", "export-1")
    report = instance.job("export-1")
    instance.exported(report)
    damage(export)
    with pytest.raises(AssertionError):
        instance.exported(report)


def test_half_jobs_and_wrong_states_are_found(instance: Instance) -> None:
    work = Work(instance, rows=100)
    with instance.serve():
        for _ in range(2):
            work.ingest()
            work.wait()
    export = instance.export("events")
    work.check_consistent(export)
    with pytest.raises(AssertionError, match="missing"):
        work.check_consistent(replace(export, files=export.files[1:]))
    with pytest.raises(AssertionError, match="not expected"):
        work.check_consistent(replace(export, manifest=export.manifest | {"transaction": export.manifest["transaction"] - 1}))


def test_objects_that_should_not_be_there_are_found(instance: Instance) -> None:
    work = Work(instance, rows=100)
    work.ingest()
    with instance.serve():
        work.wait()
    instance.check_no_orphans()
    (name,) = instance.data_files()
    file = instance.data / "buckets" / "data" / name
    stray = file.with_name("00000000-0000-0000-0000-000000000000.parquet")
    shutil.copy(file, stray)
    with pytest.raises(AssertionError, match="orphan objects"):
        instance.check_no_orphans()
    assert instance.sweep() == 1 and not stray.exists()
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(AssertionError, match="missing objects"):
        instance.check_no_orphans()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    instance.check_no_orphans()


def test_jobs_that_end_otherwise_are_found(instance: Instance) -> None:
    work = Work(instance, rows=100)
    instance.send("ingest", {"id": "bad", "tableName": "events", "files": ["nowhere/x"]})
    work.ingest()
    with pytest.raises(AssertionError, match="in vain"):
        instance.wait_job("bad", seconds=0.2)
    with pytest.raises(AssertionError, match="in vain"):
        instance.wait_empty_queues(seconds=0.2)
    with instance.serve():
        with pytest.raises(AssertionError, match="REJECTED, expected FINISHED"):
            instance.wait_job("bad")
    with pytest.raises(AssertionError, match="expected exit code 0"):
        instance.run("table", "describe", "nothing")
