"""Statements that mean harm, over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rest
from harness import Instance

Make = Callable[..., Instance]

# The statements of the engine's own tests, and the table that they are about.
STATEMENTS = Path(__file__).parent.parent / "crates/engine/tests/engine/hostile.sql"
LETTERS = """SELECT printf('%s%03d', letter, n) AS k, n AS s, CASE WHEN n % 3 <> 0 THEN letter END AS v
    FROM range(100) t(n), (SELECT chr(97 + i::INT) AS letter FROM range(26) u(i))"""

# How long each may take, and by how much its answer may be late on a machine that does much else.
TIMEOUT = 2
GRACE = 20

# The first of their rows fit into an answer, which is cut off there: on a machine that gets so far in time.
ANSWERED = {
    "SELECT coalesce(v, repeat('x', 16000000)) FROM letters",
    "SELECT unnest(range(0, 1000000)), repeat(k, 100000) FROM letters",
}


def statements() -> list[tuple[str, str]]:
    """Each statement, and what is said of how it ends."""
    parts = [part.strip() for part in STATEMENTS.read_text().split(";;\n") if part.strip()]
    split = [part.partition("\n") for part in parts]
    repeated = lambda found: found.group(1) * int(found.group(2))  # noqa: E731
    return [(end.removeprefix("-- "), re.sub(r"<<(.*?)\|(\d+)>>", repeated, sql, flags=re.DOTALL)) for end, _, sql in split]


def test_hostile_statements_end_in_time_and_harm_nobody(make_instance: Make) -> None:
    """Each is refused, or ends by its deadline; a neighbour is answered meanwhile; nothing is opened or written."""
    instance = make_instance(api_rate_limits="false", query_memory_bytes="64M", query_disk_bytes="64M")
    file = instance.parquet("letters.parquet", LETTERS)
    instance.run("table", "create", "letters", "--from-parquet", file, "--row-key", "k", "--sort-key", "s")
    instance.ingest("letters", file)
    hostile = [sql for end, sql in statements() if end != "harmless"]
    assert len(hostile) >= 60
    with rest.serve(instance) as api:
        before = files(instance)

        def ask(sql: str) -> tuple[str, rest.Answer, float]:
            started = time.monotonic()
            body = {"sql": sql, "parameters": {"timeout_seconds": TIMEOUT}}
            answer = api.call("POST", "/v1/queries", body, status=None, timeout=120)
            return sql, answer, time.monotonic() - started

        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, sql) for sql in hostile]
            while not all(one.done() for one in asked):
                started = time.monotonic()
                assert api.query("SELECT count(*) AS rows FROM letters WHERE k < 'c'")["data"] == [{"rows": 200}]
                assert time.monotonic() - started < GRACE
                time.sleep(0.2)
        for sql, answer, seconds in (one.result() for one in asked):
            if answer.status == 200:
                assert sql in ANSWERED and answer.json["truncated"] and len(answer.body) < 17 << 20, sql[:300]
            else:
                assert answer.status in (400, 413, 504), f"{answer.status}: {sql[:300]}"
            assert seconds < TIMEOUT + GRACE, f"{seconds:.1f} s: {sql[:300]}"
        assert files(instance) == before
        assert api.query("SELECT 1 AS one")["data"] == [{"one": 1}]


def files(instance: Instance) -> list[Path]:
    """What there is, apart from what queries spill and the database's own files."""
    places = [instance.root / "inputs", instance.data / "buckets"]
    return sorted(path for place in places for path in place.rglob("*"))
