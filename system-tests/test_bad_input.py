"""What cannot be ingested leaves a reason in the tracker, nothing in the table, and nothing in the way of others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import pytest
from harness import FINAL, Instance, assert_same_rows, reasons, relation, seeds

Make = Callable[..., Instance]

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "tag", "type": "StringType"}, {"name": "maybe", "type": "IntType", "nullable": True}],
}


def rows(tag: str, count: int = 500) -> str:
    return f"""SELECT printf('%x', hash(i, '{tag}')) AS "key", i AS n, '{tag}' AS tag, (i % 7)::INT AS maybe
        FROM range({count}) t(i)"""


@dataclass
class Bad:
    """A message that cannot be done: its body, in which {dir} is where the inputs are, and what its reason says."""

    body: str
    says: list[str]


def ingest_of(*files: str, **more: object) -> str:
    return json.dumps({"tableName": "events", "files": list(files)} | more)


BAD = {
    "unknown-table": Bad(ingest_of("file://{dir}/good.parquet", tableName="nothing"), ["nothing"]),
    "unknown-table-id": Bad('{"tableId":"0badf00d","files":["file://{dir}/good.parquet"]}', ["0badf00d"]),
    "no-table": Bad('{"files":["file://{dir}/good.parquet"]}', ["tableName"]),
    "no-match": Bad(ingest_of("file://{dir}/absent.parquet", "file://{dir}/good.parquet"), ["{dir}/absent.parquet"]),
    "no-match-in-bucket": Bad(ingest_of("source/day 1/", "s3://source/x.parquet"), ["source"]),
    "empty-directory": Bad(ingest_of("file://{dir}/empty"), ["{dir}/empty"]),
    "not-json": Bad("this is not JSON", ["JSON"]),
    "half-json": Bad('{"tableName":"events","files":[', ["JSON"]),
    "json-of-another-kind": Bad("[1, 2]", []),
    "files-of-another-kind": Bad('{"tableName":"events","files":"a.parquet"}', ["a.parquet"]),
    "no-files": Bad('{"tableName":"events"}', ["files"]),
    "zero-files": Bad(ingest_of(), ["files"]),
    "null-file": Bad('{"tableName":"events","files":["file://{dir}/good.parquet",null]}', ["files[1]"]),
    "named-twice": Bad(ingest_of("file://{dir}/good.parquet", "file://{dir}/good.parquet"), ["good.parquet", "twice"]),
    "named-twice-by-directory": Bad(ingest_of("file://{dir}/good.parquet", "file://{dir}/"), ["good.parquet", "twice"]),
    "not-allowed": Bad(ingest_of("file:///etc/passwd"), ["/etc/passwd"]),
    "not-allowed-by-dots": Bad(ingest_of("file://{dir}/../secret/s.parquet"), ["secret/s.parquet"]),
    "not-allowed-by-link": Bad(ingest_of("file://{dir}/link.parquet"), ["link.parquet"]),
    "unknown-column": Bad(ingest_of("file://{dir}/column.parquet"), ["column.parquet", "surplus"]),
    "missing-column": Bad(ingest_of("file://{dir}/missing.parquet"), ["missing.parquet", "tag"]),
    "wrong-type": Bad(ingest_of("file://{dir}/type.parquet"), ["type.parquet", '"n"']),
    "null-key": Bad(ingest_of("file://{dir}/null-key.parquet"), ["null-key.parquet", '"key"', "row 321"]),
    "null-sort-key": Bad(ingest_of("file://{dir}/null-sort.parquet"), ["null-sort.parquet", '"n"', "row 321"]),
    "null-value": Bad(ingest_of("file://{dir}/null-value.parquet"), ["null-value.parquet", '"tag"', "row 321"]),
    "truncated": Bad(ingest_of("file://{dir}/good.parquet", "file://{dir}/short.parquet"), ["short.parquet"]),
    "not-parquet": Bad(ingest_of("file://{dir}/good.parquet", "file://{dir}/text.parquet"), ["text.parquet"]),
    "nothing-in-it": Bad(ingest_of("file://{dir}/zero.parquet"), ["zero.parquet"]),
}


def write_bad_inputs(instance: Instance) -> None:
    """Writes the files that the bad messages name."""
    folder = instance.inputs / "allowed"
    good = instance.parquet("allowed/good.parquet", rows("good"))
    instance.parquet("allowed/column.parquet", f"SELECT *, 1 AS surplus FROM ({rows('x')})")
    instance.parquet("allowed/missing.parquet", f"SELECT * EXCLUDE (tag) FROM ({rows('x')})")
    instance.parquet("allowed/type.parquet", f"SELECT * REPLACE (n::VARCHAR AS n) FROM ({rows('x')})")
    for name, column in [("null-key", "key"), ("null-sort", "n"), ("null-value", "tag")]:
        nulls = f'CASE WHEN i <> 321 THEN "{column}" END AS "{column}"'
        query = f"SELECT * EXCLUDE (i) REPLACE ({nulls}) FROM (SELECT *, n AS i FROM ({rows('x')})) ORDER BY i"
        instance.parquet(f"allowed/{name}.parquet", query)
    (folder / "short.parquet").write_bytes(good.read_bytes()[:-100])
    (folder / "text.parquet").write_text("not Parquet at all, but long enough to be read")
    (folder / "zero.parquet").write_bytes(b"")
    (folder / "empty").mkdir()
    secret = instance.parquet("secret/s.parquet", rows("secret"))
    os.symlink(secret, folder / "link.parquet")


@pytest.fixture(scope="module")
def bad_jobs(make_module_instance: Make) -> tuple[Instance, dict[str, str]]:
    """Sends every bad message to one `serve`, between good ones; gives the ids of the messages' jobs."""
    instance = make_module_instance()
    instance.configure(ingest_file_directories=str(instance.inputs / "allowed"))
    write_bad_inputs(instance)
    instance.create_table("events", SCHEMA, ["8"])
    good = instance.inputs / "allowed" / "good.parquet"
    with instance.serve():
        instance.send_ingest("before", "events", good)
        jobs = {
            name: instance.send("ingest", bad.body.replace("{dir}", str(good.parent))) for name, bad in BAD.items()
        }
        instance.send_ingest("after", "events", good)
        instance.wait_job("before")
        instance.wait_job("after")
        instance.wait_jobs(list(jobs.values()))
        instance.wait_empty_queues()
    return instance, jobs


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_refused_with_its_reason(bad_jobs: tuple[Instance, dict[str, str]], name: str) -> None:
    instance, jobs = bad_jobs
    report = instance.job(jobs[name])
    text = reasons(report)
    assert report["status"] in ("REJECTED", "FAILED"), text
    assert len(report["runs"]) == 1, "tried again in vain"
    for needle in BAD[name].says:
        needle = needle.replace("{dir}", str(instance.inputs / "allowed"))
        assert needle in text, f"no {needle!r} in: {text}"
    assert "panic" not in text and "\n" not in text, text
    if report["status"] == "REJECTED":
        assert report["message"] == BAD[name].body.replace("{dir}", str(instance.inputs / "allowed"))


def test_bad_messages_leave_nothing_behind(bad_jobs: tuple[Instance, dict[str, str]]) -> None:
    """Only the good jobs' rows are in the table, no message is left, and the sweep finds whatever was written."""
    instance, _ = bad_jobs
    good = relation(instance.inputs / "allowed" / "good.parquet")
    assert_same_rows(f"(FROM {good} UNION ALL FROM {good})", instance.export("events").relation)
    assert instance.depths() == {}
    instance.sweep()


def test_a_message_must_be_an_object(instance: Instance) -> None:
    instance.create_table("events", SCHEMA)
    file = instance.parquet("a.parquet", rows("a"))
    ingest = instance.send("ingest", json.dumps([None, "events", None, [f"file://{file}"]]))
    export = instance.send("export", json.dumps([None, "events", None, None, None, None, None, None]))
    with instance.serve():
        for job in (ingest, export):
            assert "JSON" in reasons(instance.wait_job(job, "REJECTED"))


BAD_EXPORTS = {
    "not-json": ("{", "JSON"),
    "unknown-table": ('{"tableName":"nothing"}', "nothing"),
    "no-table": ('{"exportId":"x"}', "tableName"),
    "two-tables": ('{"tableName":"events","tableId":"00000000"}', "tableId"),
    "future": ('{"tableName":"events","asOf":4711}', "4711"),
    "before-all-time": ('{"tableName":"events","asOf":"1990-01-01T00:00:00Z"}', "1990"),
    "not-a-state": ('{"tableName":"events","asOf":"soon"}', "soon"),
    "id-with-slash": ('{"tableName":"events","exportId":"../up"}', "../up"),
    "filter": ('{"tableName":"events","filter":"n > 1"}', "filter"),
}


def test_bad_exports_are_refused_with_their_reasons(instance: Instance) -> None:
    instance.create_table("events", SCHEMA)
    instance.ingest("events", instance.parquet("a.parquet", rows("a")))
    with instance.serve():
        jobs = {name: instance.send("export", body) for name, (body, _) in BAD_EXPORTS.items()}
        ids = {name: json.loads(body).get("exportId") if body != "{" else None for name, (body, _) in BAD_EXPORTS.items()}
        good = instance.send("export", {"tableName": "events"})
        instance.wait_job(good)
        instance.wait_empty_queues()
        statuses = instance.statuses()
        for name, (_, needle) in BAD_EXPORTS.items():
            job = jobs[name] if jobs[name] in statuses else ids[name]
            report = instance.job(job)
            assert report and report["status"] in ("REJECTED", "FAILED"), f"{name}: {report}"
            assert needle in reasons(report), f"{name}: {reasons(report)}"
    assert {path.name for path in (instance.data / "buckets" / "export").glob("*/*")} == {good}


def test_flipped_bytes_in_inputs(instance: Instance) -> None:
    """Damage anywhere in a file never stops the worker, and a job's rows are all there or none are."""
    random = seeds(8)
    instance.create_table("events", SCHEMA, ["8"])
    codecs = ["COMPRESSION zstd", "COMPRESSION snappy", "COMPRESSION uncompressed", "PARQUET_VERSION v2, COMPRESSION gzip"]
    jobs: dict[str, int] = {}
    with instance.serve() as server:
        for number in range(48):
            job = f"job-{number:02}"
            good = instance.parquet(f"{job}-good.parquet", rows(job))
            bad = instance.parquet(f"{job}-bad.parquet", rows(f"{job}-bad"), codecs[number % len(codecs)])
            content = bytearray(bad.read_bytes())
            # Half of the damage goes to the footer, which is small and steers everything.
            start = len(content) - 600 if number % 2 else 0
            for _ in range(random.choice([1, 1, 3])):
                content[random.randrange(max(start, 0), len(content))] ^= 1 << random.randrange(8)
            bad.write_bytes(content)
            instance.send_ingest(job, "events", good, bad)
            jobs[job] = 0
        statuses = instance.wait_jobs(list(jobs))
        instance.wait_empty_queues()
        assert server.runs()
    assert FINAL.issuperset(statuses.values())
    finished = {job for job, status in statuses.items() if status == "FINISHED"}
    print(f"{len(finished)} of {len(jobs)} jobs finished in spite of their damage")
    assert 0 < len(finished) < len(jobs)
    for job in set(jobs) - finished:
        assert f"{job}-bad.parquet" in reasons(instance.job(job)), reasons(instance.job(job))
    written = sum(run["rows_written"] for job in finished for run in instance.job(job)["runs"])
    assert instance.describe("events")["rows"] == written
    exported = instance.export("events")
    assert exported.rows == written
    whole = duckdb.execute(f"SELECT tag, count(*) FROM {exported.relation} WHERE length(tag) = 6 GROUP BY tag").fetchall()
    assert {(job, 500) for job in finished} <= set(whole)
    assert not {job for job, _ in whole} & (set(jobs) - finished)
    instance.sweep()
