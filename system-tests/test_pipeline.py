"""The ways through the product that a user takes, from messages to files that DuckDB reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Instance, assert_same_rows, count, reasons, relation, wait_for

Make = Callable[..., Instance]

# Sleeper's standard table.
SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "timestamp", "type": "LongType"}],
    "valueFields": [{"name": "value", "type": "StringType"}],
}


def standard_rows(rows: int, salt: int = 0) -> str:
    """A query for rows of the standard table, unsorted, that are the same at every run."""
    return f"""SELECT printf('%c%c%x', 97 + hash(i, {salt}) % 26, 97 + hash(i, {salt}, 1) % 26, i) AS "key",
        (hash(i, {salt}, 2) % 1000000)::BIGINT AS "timestamp", 'value ' || i || ' of {salt}' AS "value"
        FROM range({rows}) t(i)"""


def test_from_a_message_in_to_files_out(instance: Instance) -> None:
    """Table from Sleeper's JSON, split points, messages as Sleeper sends them, tracker, export."""
    table_id = instance.create_table("events", SCHEMA, ["g", "n", "t"])
    assert re.fullmatch("[0-9a-f]{8}", table_id)
    first = instance.parquet("day1.parquet", standard_rows(5000))
    second = instance.parquet("day2.parquet", standard_rows(3000, salt=1))
    with instance.serve():
        body = json.dumps({"id": "job-1", "tableName": "events", "files": [f"file://{first}", f"file://{second}"]})
        instance.run("queue", "send", "ingest", body)
        ingested = instance.wait_job("job-1")
        instance.run("queue", "send", "export", '{"tableName":"events","exportId":"export-1"}')
        report = instance.wait_job("export-1")

    assert ingested["input_files"] == 2
    run = ingested["runs"][0]
    assert (run["rows_read"], run["rows_written"], run["attempt"]) == (8000, 8000, 1)
    assert [event["event"] for event in ingested["events"]] == ["accepted", "started", "written", "committed"]

    exported = instance.exported(report)
    assert str(exported.directory).endswith(f"buckets/export/{table_id}/export-1")
    assert len(exported.files) == 4 and exported.rows == 8000
    assert_same_rows(relation([first, second]), exported.relation)
    leaves = {row["id"] for row in instance.json("partitions", "events")}
    assert {entry["leafPartitionId"] for entry in exported.manifest["files"]} == leaves
    bounds = [(entry["minKey"][0]["utf8"][0], entry["maxKey"][0]["utf8"][0]) for entry in exported.manifest["files"]]
    assert all(low >= first and high <= last for (low, high), (first, last) in zip(bounds, ["af", "gm", "ns", "tz"]))
    assert instance.depths() == {}
    instance.check_no_orphans()


def test_messages_need_no_more_than_sleeper_asks_for(instance: Instance) -> None:
    """Ids default to the message's, tables go by id, unknown fields are ignored, a body comes from standard input."""
    table_id = instance.create_table("events", SCHEMA)
    file = instance.parquet("a.parquet", standard_rows(10))
    by_name = instance.send("ingest", {"tableName": "events", "files": [f"file://{file}"], "className": "x"})
    body = json.dumps({"tableId": table_id, "files": [f"file://{file}"], "id": None})
    outcome = instance.run("queue", "send", "ingest", "-", "--format", "json", stdin=body + "\n")
    by_id = outcome.json["messageId"]
    with instance.serve():
        assert instance.wait_job(by_name)["table"] == table_id
        assert instance.wait_job(by_id)["table_name"] == "events"
        export = instance.send("export", {"tableId": table_id})
        assert instance.exported(instance.wait_job(export)).rows == 20


def test_a_table_from_parquet_and_directories_as_inputs(instance: Instance) -> None:
    """Any value types that Parquet holds go in and come out as they are."""
    query = """SELECT (i * 7919) % 1000 AS k, i AS s, i / 3 AS f, (i / 7)::DECIMAL(12, 2) AS d, i % 2 = 0 AS b,
        DATE '2020-01-01' + i::INT AS day, TIMESTAMP '2020-01-01' + INTERVAL (i) MINUTE AS at,
        CASE WHEN i % 5 = 0 THEN NULL ELSE 'text ' || i END AS maybe, [i, i + 1] AS list,
        MAP {'a': i} AS map, {'x': i, 'y': 'z' || i} AS struct, i::TINYINT AS small, i::UINTEGER AS big
        FROM range(100) t(i)"""
    files = [instance.parquet(f"in/part-{n}.parquet", query.replace("(i * 7919)", f"(i * 7919 + {n})")) for n in range(3)]
    (instance.inputs / "in" / "notes.txt").write_text("not Parquet")
    instance.run("table", "create", "wide", "--from-parquet", files[0], "--row-key", "k", "--sort-key", "s")
    report = instance.ingest("wide", "in")
    assert report["input_files"] == 3 and report["runs"][0]["rows_written"] == 300
    assert_same_rows(relation(files), instance.export("wide").relation)


def test_inputs_in_a_bucket(instance: Instance) -> None:
    """Objects of the instance's buckets are named bucket/key, s3:// and s3a://, one by one or by prefix."""
    instance.create_table("events", SCHEMA)
    bucket = instance.data / "buckets" / "source" / "day 1"
    bucket.mkdir(parents=True)
    files = [instance.parquet(f"{n}.parquet", standard_rows(10, salt=n)) for n in range(4)]
    for file in files:
        (bucket / file.name).write_bytes(file.read_bytes())
    instance.ingest("events", "source/day 1/0.parquet", "s3://source/day 1/1.parquet", "s3a://source/day 1/2.parquet")
    assert_same_rows(relation(files[:3]), instance.export("events").relation)
    instance.ingest("events", "s3://source/day 1/")
    assert_same_rows(relation(files[:3] + files), instance.export("events").relation)


def test_waiting_ends_with_the_outcome(instance: Instance) -> None:
    """--wait: 0 finished, 1 failed, 2 rejected; without it the id is printed and nothing is done."""
    instance.create_table("events", SCHEMA)
    file = instance.parquet("a.parquet", standard_rows(10))
    wrong = instance.parquet("wrong.parquet", "SELECT 1 AS something")
    assert instance.run("ingest", "events", file, "--id", "job-1").stdout.strip() == "job-1"
    assert instance.depths() == {"ingest": (1, 0, 0)} and instance.job("job-1") is None
    instance.run("ingest", "events", file, "--id", "job-1", "--wait")
    failed = instance.run("ingest", "events", wrong, "--wait", "--id", "job-2", code=None)
    assert failed.code in (1, 2) and "something" in failed.stdout, failed
    assert instance.job("job-2")["status"] == {1: "FAILED", 2: "REJECTED"}[failed.code]
    # Sent again with what it needs, the job ends by its new outcome and not by the one before.
    instance.run("ingest", "events", file, "--wait", "--id", "job-2")
    assert instance.job("job-2")["status"] == "FINISHED"
    rejected = instance.run("ingest", "events", "file:///nowhere/at-all.parquet", "--wait", code=2)
    assert "REJECTED" in rejected.stdout and "/nowhere/at-all.parquet" in rejected.stdout
    instance.run("export", "events", "--as-of", "999", "--wait", code=2)
    assert "\"soon\"" in instance.run("export", "events", "--as-of", "soon", code=2).stderr
    assert "nothing" in instance.run("ingest", "nothing", file, code=3).stderr
    assert "nothing" in instance.run("export", "nothing", code=3).stderr
    assert instance.describe("events")["rows"] == 20


def test_waiting_can_leave_the_work_to_serve(instance: Instance) -> None:
    instance.create_table("events", SCHEMA)
    file = instance.parquet("a.parquet", standard_rows(10))
    with instance.serve():
        report = instance.json("ingest", "events", file, "--wait", "--no-work")
        assert report["status"] == "FINISHED"
        assert instance.exported(instance.json("export", "events", "--wait", "--no-work")).rows == 10


def test_workers_of_one_kind(instance: Instance) -> None:
    """`worker` takes messages of its queues only."""
    instance.create_table("events", SCHEMA)
    instance.send_ingest("job-1", "events", instance.parquet("a.parquet", standard_rows(10)))
    with instance.serve("worker", "ingest"):
        instance.wait_job("job-1")
        instance.send_export("export-1", "events")
        with instance.serve("worker", "export-splitter"):
            wait_for(lambda: instance.depths() == {"export-leaf": (1, 0, 0)}, "the export is planned")
            with instance.serve("worker", "export"):
                report = instance.wait_job("export-1")
    assert instance.exported(report).rows == 10


@pytest.mark.parametrize("mode", ["direct", "queued"])
def test_a_pipeline_with_two_ingests_and_an_export_as_of(make_instance: Make, mode: str) -> None:
    """Exports of the past equal what was there, by transaction and by time, whatever came after."""
    instance = make_instance(table_state_history_retention_hours="1", table_commit_mode=mode)
    instance.create_table("events", SCHEMA, ["m"])
    first = instance.parquet("1.parquet", standard_rows(500))
    second = instance.parquet("2.parquet", standard_rows(500, salt=1))
    with instance.serve():
        instance.send_ingest("job-1", "events", first)
        one = instance.wait_job("job-1")["runs"][0]
        instance.send_ingest("job-2", "events", second)
        instance.wait_job("job-2")
    then = instance.export("events", as_of=str(one["transaction"]))
    assert then.manifest["transaction"] == one["transaction"]
    assert_same_rows(relation(first), then.relation)
    by_time = instance.export("events", export="by-time", as_of=then.manifest["asOf"])
    assert by_time.manifest["transaction"] == one["transaction"]
    assert_same_rows(relation(first), by_time.relation)
    assert instance.export("events", as_of="1").rows == 0
    assert_same_rows(relation([first, second]), instance.export("events").relation)
    assert sum(row["rows"] for row in instance.json("files", "events", "--as-of", str(one["transaction"]))) == 500


def test_an_empty_table_exports_as_nothing(instance: Instance) -> None:
    instance.create_table("events", SCHEMA, ["m"])
    empty = instance.export("events")
    assert empty.files == [] and empty.manifest["rows"] == 0
    report = instance.ingest("events", instance.parquet("empty.parquet", standard_rows(0)))
    assert report["runs"][0]["rows_written"] == 0
    assert instance.export("events").rows == 0
    instance.sweep()


def test_an_export_id_is_exported_once(instance: Instance) -> None:
    """The same export sent again changes nothing, though the table has moved on."""
    instance.create_table("events", SCHEMA)
    first = instance.parquet("1.parquet", standard_rows(100))
    instance.ingest("events", first)
    once = instance.export("events", "nightly")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in once.directory.iterdir()}
    instance.ingest("events", instance.parquet("2.parquet", standard_rows(100, salt=1)))
    again = instance.export("events", "nightly")
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in again.directory.iterdir()} == before
    assert_same_rows(relation(first), again.relation)


def test_columns_may_come_in_any_order_and_widths_must_fit(instance: Instance) -> None:
    """Order does not matter; a column less or more, and a null where none may be, are refused with its name."""
    schema = SCHEMA | {"valueFields": [{"name": "value", "type": "StringType", "nullable": True}]}
    instance.create_table("events", schema)
    shuffled = instance.parquet("shuffled.parquet", f'SELECT "value", "timestamp", "key" FROM ({standard_rows(50)})')
    nulls = instance.parquet("nulls.parquet", "SELECT 'k' AS \"key\", 1::BIGINT AS \"timestamp\", NULL::VARCHAR AS \"value\"")
    instance.ingest("events", shuffled, nulls)
    assert_same_rows(
        f"(FROM {relation(nulls)} UNION ALL BY NAME FROM {relation(shuffled)})", instance.export("events").relation
    )
    missing = instance.parquet("missing.parquet", f'SELECT "key", "timestamp" FROM ({standard_rows(5)})')
    extra = instance.parquet("extra.parquet", f"SELECT *, 1 AS surplus FROM ({standard_rows(5)})")
    for file, column in [(missing, "value"), (extra, "surplus")]:
        outcome = instance.run("ingest", "events", file, "--wait", "--id", file.stem, code=None)
        assert outcome.code in (1, 2), outcome
        text = reasons(instance.job(file.stem))
        assert column in text and file.name in text, text
    assert instance.describe("events")["rows"] == 51


KEYS = {
    "int": ("IntType", "((hash(i) % 4294967296)::BIGINT - 2147483648)::INT", ["-1000000000", "0", "1000000000"]),
    "long": ("LongType", "(hash(i) % 9223372036854775807)::BIGINT * (CASE WHEN i % 2 = 0 THEN 1 ELSE -1 END)", ["-4000000000000000000", "0", "4000000000000000000"]),
    "string": ("StringType", "chr((hash(i) % 55000 + 1)::INT) || i", ["g", "é", "一"]),
    "beyond-utf16": ("StringType", "[chr(127823), chr(65281), 'z', 'é'][1 + i % 4] || i", [chr(0xE000), chr(0x1F34E)]),
    "bytes": ("ByteArrayType", "unhex(printf('%02x%02x', hash(i) % 256, i % 256))", ["40", "80", "c0ff"]),
}


@pytest.mark.parametrize("kind", KEYS)
def test_key_types(instance: Instance, kind: str) -> None:
    """Keys sort as signed numbers and as unsigned bytes, and leaves cut them the same way."""
    data_type, key, points = KEYS[kind]
    schema = {"rowKeyFields": [{"name": "k", "type": data_type}], "valueFields": [{"name": "i", "type": "LongType"}]}
    instance.create_table("t", schema, points)
    file = instance.parquet("a.parquet", f"SELECT {key} AS k, i FROM range(2000) t(i)")
    instance.ingest("t", file)
    exported = instance.export("t")
    assert len(exported.files) == len(points) + 1
    assert_same_rows(relation(file), exported.relation)


@pytest.mark.parametrize(
    ("key", "points"),
    [
        ("DATE '1969-12-01' + (hash(i) % 100)::INT", ["-10", "0", "20"]),
        ("TIMESTAMP '1969-12-31 23:00:00' + INTERVAL (hash(i) % 7200) SECOND", ["-5000000", "0", "5000000"]),
        ("TIMESTAMPTZ '1969-12-31 23:00:00+00' + INTERVAL (hash(i) % 7200) SECOND", ["0"]),
    ],
    ids=["date", "timestamp", "timestamp-with-zone"],
)
def test_key_types_of_parquet(instance: Instance, key: str, points: list[str]) -> None:
    """Dates and times as keys, before and after 1970."""
    file = instance.parquet("a.parquet", f"SELECT {key} AS k, i FROM range(2000) t(i)")
    (instance.inputs / "points.txt").write_text("\n".join(points))
    instance.run("table", "create", "t", "--from-parquet", file, "--row-key", "k", "--split-points", "points.txt")
    instance.ingest("t", file)
    exported = instance.export("t")
    assert len(exported.files) == len(points) + 1
    assert_same_rows(relation(file), exported.relation)


def test_composite_keys(instance: Instance) -> None:
    """Leaves may be cut within one value of the first column, and equal keys all stay."""
    schema = {
        "rowKeyFields": [{"name": "a", "type": "StringType"}, {"name": "b", "type": "LongType"}],
        "sortKeyFields": [{"name": "c", "type": "IntType"}, {"name": "d", "type": "StringType"}],
        "valueFields": [{"name": "i", "type": "LongType"}],
    }
    instance.create_table("t", schema, [["hot", -5], ["hot", 5], ["zz"]])
    query = """SELECT ['cold', 'hot', 'hot', 'hot', 'zz', 'zzz'][1 + i % 6] AS a, (hash(i) % 21)::BIGINT - 10 AS b,
        (hash(i, 1) % 5)::INT AS c, 'd' || hash(i, 2) % 3 AS d, i FROM range(3000) t(i)"""
    files = [instance.parquet(f"{n}.parquet", query) for n in range(2)]
    for file in files:
        instance.ingest("t", file)
    exported = instance.export("t")
    assert len(exported.files) == 4
    assert_same_rows(relation(files), exported.relation)


def test_ingest_spills_within_little_memory(make_instance: Make) -> None:
    """A job far beyond its memory comes out whole and sorted, and leaves nothing in the spill directory."""
    instance = make_instance(memory_bytes="4M", table_ingest_file_target_bytes="1M")
    instance.create_table("events", SCHEMA, ["g", "n", "t"])
    file = instance.parquet("a.parquet", standard_rows(150_000))
    instance.ingest("events", file)
    assert_same_rows(relation(file), instance.export("events").relation)
    assert not [path for path in (instance.data / "spill").rglob("*") if path.is_file()]


def test_names_and_phases_of_tables(instance: Instance) -> None:
    """A table keeps its rows under another name; offline it still takes jobs; deleted, it is gone."""
    table_id = instance.create_table("old", SCHEMA)
    file = instance.parquet("a.parquet", standard_rows(100))
    instance.ingest("old", file)
    instance.run("table", "rename", "old", "new")
    instance.run("table", "describe", "old", code=3)
    instance.create_table("old", SCHEMA)
    instance.run("table", "rename", "new", "old", code=4)
    assert instance.json("table", "offline", "new")["phase"] == "offline"
    instance.ingest("new", file)
    assert instance.json("table", "online", "new")["phase"] == "online"
    assert instance.describe("new")["id"] == table_id
    twice = f"(FROM {relation(file)} UNION ALL FROM {relation(file)})"
    assert_same_rows(twice, instance.export("new").relation)

    refused = instance.run("table", "delete", "new", stdin="n\n", code=2)
    assert "--yes" in refused.stderr
    instance.run("table", "delete", "new", stdin="y\n")
    instance.run("table", "describe", "new", code=3)
    instance.run("table", "delete", "new", "--yes", code=3)
    late = instance.run("ingest", "new", file, "--wait", code=3)
    assert "new" in late.stderr


def test_tables_that_cannot_be_made(instance: Instance) -> None:
    """Every refusal says what is wrong, and makes nothing."""
    instance.create_table("events", SCHEMA)
    schema = instance.root / "events-schema.json"
    file = instance.parquet("a.parquet", "SELECT 1.5::DOUBLE AS f, 1 AS k")
    (instance.inputs / "bad-points.txt").write_text("m\n[\"a\", 1, 2]\n")
    (instance.inputs / "unsorted.txt").write_text("m\nc\n")
    cases = [
        (["events", "--schema", schema], 4, "events"),
        (["t"], 2, "--schema"),
        (["a/b", "--schema", schema], 2, "a/b"),
        (["t", "--schema", "nowhere.json"], 2, "nowhere.json"),
        (["t", "--schema", schema, "--split-points", "bad-points.txt"], 2, "line 2 of bad-points.txt"),
        (["t", "--schema", schema, "--split-points", "unsorted.txt"], 2, "rise strictly"),
        (["t", "--from-parquet", file, "--row-key", "absent"], 2, "absent"),
        (["t", "--from-parquet", file, "--row-key", "f"], 2, "f"),
        (["t", "--from-parquet", schema, "--row-key", "f"], 2, "events-schema.json"),
        (["t", "--schema", schema, "--set", "dormouse.table.gc.delay.minuets=1"], 2, "dormouse.table.gc.delay.minutes"),
        (["t", "--schema", schema, "--set", "dormouse.table.gc.delay.minutes=soon"], 2, "soon"),
        (["t", "--schema", schema, "--set", "dormouse.threads=2"], 2, "threads"),
    ]
    for args, code, needle in cases:
        outcome = instance.run("table", "create", *args, code=code)
        assert needle in outcome.stderr, f"no {needle!r} in: {outcome}"
    assert [info["name"] for info in instance.json("table", "list")] == ["events"]


def test_an_unknown_type_in_a_schema_is_named(instance: Instance) -> None:
    (instance.inputs / "bad.json").write_text('{"rowKeyFields":[{"name":"k","type":"FloatType"}]}')
    outcome = instance.run("table", "create", "t", "--schema", "bad.json", code=2)
    assert "FloatType" in outcome.stderr and "StringType" in outcome.stderr, outcome


@pytest.mark.parametrize(
    ("line", "needles"),
    [
        ("dormouse.gc.perid.minutes=1", ["dormouse.gc.perid.minutes", "dormouse.gc.period.minutes"]),
        ("dormouse.gc.period.minutes=often", ["often", "dormouse.gc.period.minutes"]),
        ("dormouse.memory.bytes=12Q", ["12Q"]),
        ("dormouse.table.commit.mode=eventually", ["eventually", "direct, queued"]),
        ("dormouse.ingest.file.directories=relative", ["relative", "absolute"]),
        ("no equals sign", ["no equals sign"]),
    ],
)
def test_wrong_properties_are_named(instance: Instance, line: str, needles: list[str]) -> None:
    """Every command refuses a wrong instance.properties with the file, the key and what would be right."""
    (instance.data / "instance.properties").write_text(f"# a comment\n{line}\n")
    outcome = instance.run("table", "list", code=2)
    for needle in [*needles, "instance.properties"]:
        assert needle in outcome.stderr, f"no {needle!r} in: {outcome}"
    instance.run("serve", code=2)


def test_sleepers_property_names(instance: Instance) -> None:
    (instance.data / "instance.properties").write_text(
        "! Sleeper's\nsleeper.gc.period.minutes = 20\nsleeper.table.gc.delay.minutes: 5\n\n"
    )
    instance.run("table", "list")


def test_reports_are_json_for_programs(instance: Instance) -> None:
    """Every command prints exactly one JSON document on standard output with --format json, also with no rows."""
    schema = instance.root / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    file = instance.parquet("a.parquet", standard_rows(10))
    listings = [["table", "list"], ["jobs", "list"], ["gc"], ["queue", "peek", "ingest"], ["queue", "dead-letters", "ingest"]]
    for command in listings:
        assert instance.json(*command) == [], command
    for command in [
        ["table", "create", "t", "--schema", schema],
        ["partitions", "t"],
        ["partitions", "t", "--all"],
        ["files", "t"],
        ["ingest", "t", file, "--id", "job-1"],
        ["ingest", "t", file, "--wait"],
        ["export", "t"],
        ["export", "t", "--wait"],
        ["export", "t", "--id", "e-1", "--wait"],
        ["queue", "send", "ingest", "{}"],
        ["queue", "list"],
        ["queue", "peek", "ingest"],
        ["queue", "retry", "ingest"],
        ["table", "list"],
        ["table", "describe", "t"],
        ["files", "t"],
        ["partitions", "t"],
        ["jobs", "list"],
        ["jobs", "list", "--table", "t", "--kind", "ingest", "--status", "FINISHED", "--since", "2020-01-01T00:00:00Z"],
        ["jobs", "show", "e-1"],
        ["gc"],
        ["table", "rename", "t", "u"],
        ["table", "offline", "u"],
        ["table", "online", "u"],
        ["table", "delete", "u", "--yes"],
    ]:
        assert instance.json(*command) is not None, command


def test_lists_of_jobs_are_filtered(instance: Instance) -> None:
    for table in ("a", "b"):
        instance.create_table(table, SCHEMA)
        instance.ingest(table, instance.parquet("x.parquet", standard_rows(5)), job=f"ingest-{table}")
    instance.export("a", "export-a")
    instance.send("ingest", {"id": "lost", "tableName": "c", "files": ["x/y"]})
    with instance.serve():
        instance.wait_job("lost", "REJECTED")

    def listed(*options: str) -> list[str]:
        return [report["job"] for report in instance.json("jobs", "list", *options)]

    assert listed() == ["lost", "export-a", "ingest-b", "ingest-a"]
    assert listed("--table", "a") == ["export-a", "ingest-a"]
    assert listed("--kind", "export") == ["export-a"]
    assert listed("--status", "REJECTED") == ["lost"]
    assert listed("--limit", "2") == ["lost", "export-a"]
    assert listed("--until", "2020-01-01T00:00:00Z") == []
    instance.run("jobs", "list", "--table", "c", code=3)
    instance.run("jobs", "list", "--status", "DONE", code=2)


def test_every_command_has_help_and_an_example_that_parses(instance: Instance) -> None:
    """Help of all commands; the commands in examples are known with all their options."""
    top = instance.run("--help").stdout
    commands = re.findall(r"^  ([a-z-]+)  ", top, re.MULTILINE)
    assert {"table", "ingest", "export", "jobs", "queue", "serve", "worker", "gc", "demo"} <= set(commands)
    assert "Exit codes" in top
    examples: list[str] = []
    for command in commands:
        text = instance.run("help", command).stdout
        nested = re.findall(r"^  ([a-z-]+)  ", text.split("Commands:")[1].split("Options:")[0], re.MULTILINE) \
            if "Commands:" in text else []
        for text in [text, *(instance.run(command, sub, "--help").stdout for sub in nested if sub != "help")]:
            examples += re.findall(r"^ +dormouse (.+)$", text, re.MULTILINE)
    assert len(examples) >= 9, examples
    for example in examples:
        words = example.split()
        known = instance.run(*[word for word in words if re.fullmatch("[a-z-]+", word)][: 2 if words[0] in ("table", "jobs", "queue", "tenant", "key", "instance") else 1], "--help").stdout
        for option in re.findall(r"(?<!\S)--[a-z-]+", example):
            assert option in known, f"{option} of: dormouse {example}"


def test_generated_rows_go_through(instance: Instance) -> None:
    """What `generate` makes can be ingested, and a seed gives the same rows."""
    for directory in ("one", "two"):
        instance.run("generate", "sleeper", "--output", directory, "--rows", "2000", "--files", "2", "--seed", "7")
    one, two = (sorted((instance.inputs / directory).glob("*.parquet")) for directory in ("one", "two"))
    assert len(one) == 2 and count(relation(one)) == 2000
    assert_same_rows(relation(one), relation(two))
    instance.run("table", "create", "t", "--from-parquet", one[0], "--row-key", "key", "--sort-key", "timestamp")
    instance.ingest("t", "one")
    assert_same_rows(relation(one), instance.export("t").relation)


def test_the_demo_runs(instance: Instance) -> None:
    outcome = instance.run("demo", "--scale", "0.01")
    assert "FINISHED" in outcome.stdout, outcome
    lineitem = sorted(Path(instance.data, "demo").rglob("*.parquet"))
    export = next(report for report in instance.json("jobs", "list") if report["kind"] == "export")
    exported = instance.exported(export)
    assert len(exported.files) == 8
    assert_same_rows(relation(lineitem), exported.relation)
