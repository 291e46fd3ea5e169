"""Filters and aggregations of a table, against DuckDB doing the same."""

from __future__ import annotations

import json
import time

from harness import Instance, assert_same_rows, relation

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "day", "type": "LongType"}],
    "valueFields": [{"name": "count", "type": "LongType"}, {"name": "last", "type": "LongType"}],
}

AGED = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "valueFields": [{"name": "seen", "type": "LongType"}],
}


def counts(job: int) -> str:
    return f"""SELECT printf('%03d', hash(i, {job}) % 200) AS "key", i % 3 AS "day", i AS "count", i * {job} AS "last" FROM range(3000) t(i)"""


def test_aggregations_make_one_row_of_a_key(instance: Instance) -> None:
    """An export has one row of each key, before and after compaction; so has the table after it."""
    instance.create_table("totals", SCHEMA, ["100"], table_aggregations="sum(count),max(last)")
    files = [instance.parquet(f"{n}.parquet", counts(n)) for n in range(3)]
    for n, file in enumerate(files):
        instance.ingest("totals", file, job=f"job-{n}")
    expected = f"""(SELECT "key", "day", sum("count")::BIGINT AS "count", max("last") AS "last" FROM {relation(files)} GROUP BY ALL)"""
    assert sum(leaf["rows"] for leaf in instance.json("partitions", "totals")) == 9000
    assert_same_rows(expected, instance.export("totals").relation)

    done = instance.json("compact", "totals", "--all", "--wait")
    assert {job["status"] for job in done} == {"FINISHED"}
    assert [(job["runs"][0]["rows_read"], job["runs"][0]["rows_written"]) for job in done] != []
    assert sum(leaf["rows"] for leaf in instance.json("partitions", "totals")) == 600
    # A leaf that is one file is read too: rows of one key may be in it.
    instance.run("doctor", "totals", "--deep")
    assert_same_rows(expected, instance.export("totals").relation)


def test_rows_of_an_age_are_gone(instance: Instance) -> None:
    """Rows that are too old are left out of exports, and go when files are merged, down to the last one."""
    now = int(time.time() * 1000)
    instance.create_table("aged", AGED, table_filters="ageOff(seen,3600000)")
    rows = f"""SELECT 'k' || i AS "key", ({now} - i * 600000)::BIGINT AS seen FROM range(12) t(i)"""
    files = [instance.parquet("young.parquet", rows), instance.parquet("old.parquet", f"SELECT 'x' || \"key\" AS \"key\", seen - 7200000 AS seen FROM ({rows})")]
    instance.ingest("aged", files[0], job="young")
    young = f"""(SELECT * FROM {relation(files)} WHERE seen > {now} - 3600000)"""
    exported = instance.export("aged")
    assert exported.manifest["rows"] == 6
    assert_same_rows(young, exported.relation)
    instance.ingest("aged", files[1], job="old")
    instance.json("compact", "aged", "--all", "--wait")
    assert instance.json("status", "aged")["rows"] == 6
    assert_same_rows(young, instance.export("aged").relation)

    instance.create_table("gone", AGED, table_filters="ageOff(seen,1)")
    for n, file in enumerate(files):
        instance.ingest("gone", file, job=f"job-{n}")
    done = instance.json("compact", "gone", "--all", "--wait")
    assert [job["status"] for job in done] == ["FINISHED"]
    status = instance.json("status", "gone")
    assert (status["rows"], status["files"]) == (0, 0)
    instance.run("doctor", "gone", "--deep")


def test_rules_that_do_not_fit_are_refused(instance: Instance) -> None:
    """A table whose rules name what it does not have is not made, and the message says what would be right."""
    schema = instance.root / "aged.json"
    schema.write_text(json.dumps(AGED))
    for rules, told in [
        ("table.filters=ageOff(gone,1)", 'column "gone"'),
        ("table.filters=older(seen)", "ageOff(column,millis)"),
        ("table.aggregations=avg(seen)", "sum, min, max, map_sum, map_min and map_max"),
        ("table.aggregations=sum(key)", "no value column"),
    ]:
        outcome = instance.run("table", "create", "wrong", "--schema", schema, "--set", rules, code=2)
        assert told in outcome.stderr, outcome
    assert instance.json("table", "list") == []
