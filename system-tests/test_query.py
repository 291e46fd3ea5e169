"""SQL and look-ups by key, beside DuckDB over the same rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import duckdb

from harness import Instance

Make = Callable[..., Instance]

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}, {"name": "part", "type": "IntType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "value", "type": "StringType"}],
}

ROWS = """SELECT printf('k%04d', i % 500) AS "key", (i % 7)::INT AS part, i AS n,
    CASE WHEN i % 5 = 0 THEN '' ELSE 'a "quoted", value' END AS value FROM range({first}, {last}) t(i)"""

STATEMENTS = [
    "SELECT count(*), sum(n), min(key), max(part) FROM events",
    "SELECT part, count(*) AS rows, avg(n) AS mean FROM events GROUP BY part ORDER BY part",
    "SELECT * FROM events WHERE key = 'k0123' ORDER BY key, part, n",
    "SELECT * FROM events WHERE key >= 'k0498' AND part IN (1, 3) ORDER BY key, part, n",
    "SELECT a.key, count(*) FROM events a JOIN events b ON a.n = b.n + 500 GROUP BY a.key ORDER BY a.key LIMIT 20",
    "SELECT n FROM events WHERE value = '' ORDER BY n DESC LIMIT 10",
]


def filled(make_instance: Make) -> Instance:
    instance = make_instance()
    instance.create_table("events", SCHEMA)
    for first in (0, 4000, 8000):
        file = instance.parquet(f"rows-{first}", ROWS.format(first=first, last=first + 4000))
        instance.ingest("events", file)
    return instance


def test_queries_answer_as_duckdb_does_over_the_same_rows(make_instance: Make) -> None:
    """Each statement gives DuckDB's rows, as JSON and as CSV; a third of the rows are those of the first job."""
    instance = filled(make_instance)
    duck = duckdb.connect()
    duck.execute(f"CREATE VIEW events AS {ROWS.format(first=0, last=12000)}")
    for sql in STATEMENTS:
        expected = [list(row) for row in duck.sql(sql).fetchall()]
        answer = instance.json("query", sql)
        assert [list(row.values()) for row in answer] == expected, sql
        text = instance.run("query", sql, "--output", "csv").stdout
        lines = list(csv.reader(io.StringIO(text)))
        assert len(lines) == len(expected) + 1, sql
        assert lines[1:] == [[str(value) for value in row] for row in expected], sql
    first = instance.json("files", "events", "--as-of", "2")
    rows = instance.json("query", "SELECT count(*) AS rows FROM events", "--as-of", "2")
    assert rows == [{"rows": sum(file["rows"] for file in first)}] == [{"rows": 4000}]


def test_rows_are_found_by_key_by_its_first_columns_and_by_range(make_instance: Make) -> None:
    """`get` takes whole keys, first columns of keys, several of them, and half-open ranges."""
    instance = filled(make_instance)

    def keys(*args: str) -> list[tuple[str, int]]:
        lines = instance.run("get", "events", *args, "--output", "ndjson").stdout.splitlines()
        return [(row["key"], row["part"]) for row in map(json.loads, lines)]

    whole = keys('["k0007", 3]')
    assert whole and set(whole) == {("k0007", 3)}
    begun = keys("k0007")
    assert len(begun) == 24 and {key for key, _ in begun} == {"k0007"} and begun == sorted(begun)
    assert {key for key, _ in keys("k0007", "k0400")} == {"k0007", "k0400"}
    between = keys("--range", '["k0007", 5]', '["k0008", 2]')
    assert between == sorted(between) and set(between) == {
        *(("k0007", part) for part in (5, 6)),
        *(("k0008", part) for part in (0, 1)),
    }
    assert keys("absent") == []


def test_what_is_no_query_is_refused(make_instance: Make) -> None:
    """A refusal ends with exit code 2, says what would be right, and changes nothing."""
    instance = make_instance()
    instance.create_table("events", SCHEMA)
    for sql, reason in [
        ("DELETE FROM events", "DELETE is not allowed; a query is one SELECT"),
        ("SELECT * FROM event", "Table 'event' does not exist"),
        ("SELECT kee FROM events", "kee"),
        ("SELECT * FROM events WHERE key = $k", "k"),
    ]:
        refused = instance.run("query", sql, code=2)
        assert reason in refused.stderr and refused.stdout == "", (sql, refused)
    assert instance.json("query", "SELECT count(*) AS rows FROM events") == [{"rows": 0}]


def test_the_shell_answers_what_is_typed(make_instance: Make) -> None:
    """Statements over several lines, a command, a mistake; the shell goes on, and ends well."""
    instance = filled(make_instance)
    typed = "SELECT count(*) AS rows\nFROM events;\n\\d events\nSELECT nothing FROM events;\nSELECT 1 + 1 AS two;\n"
    shown = instance.run("shell", "--output", "csv", stdin=typed)
    assert "rows\n12000\n" in shown.stdout and "two\n2\n" in shown.stdout and "events" in shown.stdout
    assert "nothing" in shown.stderr
