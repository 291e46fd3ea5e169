"""Queries and bulk jobs over HTTP, driven from outside; what is downloaded is compared with the table by DuckDB."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

import rest
from harness import Instance, Json, assert_same_rows, relation, wait_for
from rest import Api

Make = Callable[..., Instance]

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "part", "type": "IntType"}, {"name": "text", "type": "StringType"}],
}

ROWS = 20_000

# Values that a careless CSV writer breaks: quotes, commas, line ends, empty text and the text NULL.
SELECT = f"""SELECT printf('k%05d', i) AS "key", i AS n, (i % 3)::INT AS part, CASE i % 6 WHEN 0 THEN ''
    WHEN 1 THEN 'she said "hello"' WHEN 2 THEN 'a,b|c' WHEN 3 THEN E'two\\nlines' WHEN 4 THEN 'NULL'
    ELSE 'plain ü' END AS text FROM range({ROWS}) t(i)"""

ALL = "SELECT * FROM events ORDER BY key, n"


def filled(make: Make, **properties: str) -> Instance:
    instance = make(api_rate_limits="false", **properties)
    instance.create_table("events", SCHEMA, ["k05000", "k10000"])
    instance.ingest("events", instance.parquet("events.parquet", SELECT))
    return instance


@pytest.fixture(scope="module")
def api(make_module_instance: Make) -> Iterator[Api]:
    """An API over a table, for tests that only read."""
    instance = filled(make_module_instance, bulk_max_concurrent_jobs="4")
    with rest.serve(instance) as api:
        yield api
        check_log(api)


def check_log(api: Api) -> None:
    """Nothing that gives access is in the log."""
    log = api.server.text()
    assert "spk_" not in log and "signature=" not in log and "X-Amz-Signature" not in log, log


def plain_rows() -> list[list[str]]:
    return [[str(value) for value in row] for row in duckdb.sql(SELECT).fetchall()]


def test_a_query_is_answered_at_once_with_its_columns(api: Api) -> None:
    answer = api.query("SELECT key, n FROM events WHERE key < $last ORDER BY key", params={"last": "k00003"})
    assert answer["data"] == [{"key": f"k{i:05}", "n": i} for i in range(3)]
    metadata = answer["metadata"]
    assert metadata["columns"] == ["key", "n"] and metadata["row_count"] == 3 and metadata["truncated"] is False
    assert answer["truncated"] is False and answer["status"] == "COMPLETED" and metadata["execution_time_ms"] >= 0


def test_more_rows_than_fit_are_cut_off_and_a_job_is_offered(api: Api) -> None:
    """Exactly the threshold is whole; one more is cut, with the body of a job that gives all."""
    whole = api.query("SELECT n FROM events LIMIT 10000")
    assert whole["metadata"]["row_count"] == 10_000 and whole["truncated"] is False
    cut = api.query("SELECT n FROM events ORDER BY n")
    assert cut["truncated"] is True and len(cut["data"]) == 10_000 and "/v1/bulk" in cut["message"]
    body = cut["metadata"]["bulk_request"]
    job = api.call("POST", "/v1/bulk", body, status=201).json
    assert job["status"] == "PENDING"
    assert api.wait(job["job_id"])["result_row_count"] == ROWS


def test_what_a_query_may_not_do_is_refused(api: Api) -> None:
    for sql, status, code in [
        ("SELECT (1", 400, "INVALID_SQL"),
        ("DROP TABLE events", 400, "SQL_BLOCKED"),
        ("SELECT * FROM nothing", 400, None),
        ("SELECT * FROM '/etc/passwd'", 400, None),
    ]:
        answer = api.call("POST", "/v1/queries", {"sql": sql}, status=status)
        error = answer.json["error"]
        assert code is None or error["code"] == code, (sql, error)
    slow = "SELECT count(*) FROM events a, events b, events c WHERE a.n + b.n > c.n"
    started = time.monotonic()
    answer = api.call("POST", "/v1/queries", {"sql": slow, "parameters": {"timeout_seconds": 1}}, status=504)
    assert answer.json["error"]["code"] == "QUERY_TIMEOUT" and time.monotonic() - started < 30


@pytest.mark.parametrize("compression", ["NONE", "GZIP", "ZSTD"])
@pytest.mark.parametrize("kind", ["CSV", "JSON", "NDJSON"])
def test_text_exports_read_back_as_the_table(api: Api, tmp_path: Path, kind: str, compression: str) -> None:
    """Downloaded by curl, unpacked by gunzip and zstd, read by Python's csv and json."""
    job = api.create(ALL, content_type=kind, compression=compression)["job_id"]
    api.wait(job)
    results = api.results(job)
    assert (results["format"], results["compression"]) == (kind.lower(), compression.lower())
    packed = tmp_path / ("results" + {"NONE": "", "GZIP": ".gz", "ZSTD": ".zst"}[compression])
    subprocess.run(["curl", "-sSf", "-o", packed, results["download_url"]], check=True)
    assert packed.stat().st_size == results["size_bytes"]
    unpack = {"NONE": ["cat"], "GZIP": ["gunzip", "-c"], "ZSTD": ["zstd", "-dc"]}[compression]
    text = subprocess.run([*unpack, packed], check=True, capture_output=True).stdout.decode()
    expected = plain_rows()
    if kind == "CSV":
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        assert header == ["key", "n", "part", "text"] and rows == expected
        return
    if kind == "JSON":
        envelope = json.loads(text)
        assert text.lstrip().startswith('{"metadata"') and envelope["metadata"]["row_count"] == ROWS
        objects = envelope["data"]
    else:
        objects = [json.loads(line) for line in text.splitlines()]
    assert [[str(value) for value in row.values()] for row in objects] == expected


def test_csv_is_written_as_asked_for(api: Api) -> None:
    sql = "SELECT key, nullif(text, 'NULL') AS text FROM events WHERE n BETWEEN 3 AND 6 ORDER BY n"
    (plain,) = api.export(sql)
    assert plain == b'key,text\nk00003,"two\nlines"\nk00004,\nk00005,plain \xc3\xbc\nk00006,""\n'
    options = {"delimiter": "PIPE", "line_ending": "CRLF", "header": False, "null_marker": "\\N"}
    (other,) = api.export(sql, csv=options)
    assert other == b'k00003|"two\nlines"\r\nk00004|\\N\r\nk00005|plain \xc3\xbc\r\nk00006|""\r\n'


CLIENT = """
import sys, duckdb, polars, pathlib, duckdb_extension_httpfs
url = sys.argv[1]
found = next(pathlib.Path(duckdb_extension_httpfs.__file__).parent.rglob("*.duckdb_extension"))
connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
connection.execute(f"LOAD '{found}'")
print(connection.sql(f"SELECT count(*), sum(n) FROM read_parquet('{url}') WHERE part = 1").fetchall()[0])
print(tuple(polars.scan_parquet(url).filter(polars.col("part") == 1).select(polars.len(), polars.col("n").sum()).collect().row(0)))
"""


def test_duckdb_and_polars_read_parquet_by_its_link(api: Api) -> None:
    job = api.create("SELECT * FROM events", content_type="PARQUET", compression="ZSTD")["job_id"]
    api.wait(job)
    url = api.results(job)["download_url"]
    done = subprocess.run([rest.CLIENTS / "bin/python", "-c", CLIENT, url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = str(duckdb.sql(f"SELECT count(*), sum(n)::BIGINT FROM ({SELECT}) WHERE part = 1").fetchall()[0])
    assert done.stdout.split("\n")[:2] == [expected, expected]
    answers = [line for line in api.server.text().splitlines() if "/files/" in line and job in line and "GET" in line]
    assert len(answers) >= 2 and all(re.search(r"status\W+206\b", answer) for answer in answers), answers


def test_parquet_has_the_tables_types_and_may_be_partitioned(api: Api, tmp_path: Path) -> None:
    (body,) = api.export("SELECT * FROM events", content_type="PARQUET")
    file = tmp_path / "all.parquet"
    file.write_bytes(body)
    assert_same_rows(f"({SELECT})", relation(file))
    job = api.create("SELECT * FROM events", content_type="PARQUET", parquet={"partition_by": ["part"]})["job_id"]
    api.wait(job)
    files = api.results(job)["files"]
    assert len(files) == 3
    for entry in files:
        place = tmp_path / entry["name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(api.call("GET", entry["url"]).body)
    source = f"(SELECT key, n, part::INT AS part, text FROM read_parquet('{tmp_path}/data*/**/*.parquet', hive_partitioning = true))"
    assert_same_rows(f"({SELECT})", source)


def test_links_lead_to_files_whatever_their_names_have(api: Api) -> None:
    values = ["plain", "a:b/c|%", "50%25", "ü ?#&=+", "'\"<>", "x" * 100]
    rows = " UNION ALL ".join("SELECT {} AS name, {} AS n".format("'" + value.replace("'", "''") + "'", n) for n, value in enumerate(values))
    job = api.create(rows, content_type="PARQUET", parquet={"partition_by": ["name"]})["job_id"]
    api.wait(job)
    files = api.results(job)["files"]
    assert len(files) == len(values)
    for entry in files:
        body = api.call("GET", entry["url"]).body
        assert len(body) == entry["size_bytes"] and body[:4] == b"PAR1"


def test_a_job_waits_until_it_is_started_and_tells_how_far_it_is(api: Api) -> None:
    """The life that the guide shows, in every family of paths."""
    body = {"operation": "query", "object": "events", "query": ALL, "content_type": "CSV", "compression": "GZIP"}
    made = api.call("POST", "/bulk/jobs", body, status=201)
    job = made.json["job_id"]
    assert made.json["state"] == "Open" and made.headers["location"].endswith(f"/bulk/jobs/{job}")
    for family in ("/bulk/jobs", "/v1/bulk/jobs", "/bulk", "/v1/bulk"):
        report = api.call("GET", f"{family}/{job}").json
        assert (report["state"], report["status"]) == ("Open", "PENDING")
    conflict = api.call("GET", f"/bulk/jobs/{job}/results", status=409)
    assert conflict.json["error"]["code"] == "CONFLICT"
    api.call("PATCH", f"/bulk/jobs/{job}", {"state": "UploadComplete"})
    report = api.wait(job)
    assert report["progress"] == 100 and report["number_records_processed"] == ROWS and report["download_url"]
    listed = api.call("GET", "/v1/bulk/jobs?state=JobComplete&limit=1").json
    assert listed["jobs"][0]["job_id"] == job
    again = api.call("PATCH", f"/bulk/jobs/{job}", {"state": "Aborted"}, status=409)
    assert again.json["error"]["code"] == "CONFLICT"
    api.call("DELETE", f"/bulk/jobs/{job}", status=204)
    api.call("GET", f"/bulk/jobs/{job}", status=404)
    api.call("GET", report["download_url"], status=404)


def test_a_job_that_cannot_be_done_says_why(api: Api) -> None:
    job = api.create("SELECT * FROM invalid_table")["job_id"]
    error = api.wait(job, "Failed")["error"]
    assert error == {"code": "QUERY_ERROR", "message": "Table 'invalid_table' does not exist"}


def test_a_link_serves_ranges_and_ends(api: Api) -> None:
    job = api.create(ALL, compression="NONE")["job_id"]
    api.wait(job)
    results = api.results(job)
    url, size = results["download_url"], results["size_bytes"]
    whole = api.call("GET", url)
    etag = whole.headers["etag"]
    assert len(whole.body) == size and whole.headers["accept-ranges"] == "bytes"
    head = api.call("HEAD", url)
    assert head.headers["content-length"] == str(size) and head.body == b""
    part = api.call("GET", url, status=206, Range="bytes=10-19")
    assert part.body == whole.body[10:20] and part.headers["content-range"] == f"bytes 10-19/{size}"
    assert api.call("GET", url, status=206, Range="bytes=-5").body == whole.body[-5:]
    assert api.call("GET", url, status=206, Range="bytes=5-", If_Range=etag).body == whole.body[5:]
    assert api.call("GET", url, Range="bytes=5-", If_Range='"other"').body == whole.body
    assert api.call("GET", url, status=416, Range=f"bytes={size}-").headers["content-range"] == f"bytes */{size}"
    api.call("GET", url, status=304, If_None_Match=etag)
    wrong = url[:-1] + ("0" if url[-1] != "0" else "1")
    api.call("GET", wrong, status=403)
    once = api.results(job, "?single_use=true")["download_url"]
    assert api.call("HEAD", once).status == 200
    assert api.call("GET", once).body == whole.body
    wait_for(lambda: api.call("GET", once, status=None).status == 410, "the link is used up", 10)
    short = api.results(job, "?expires_in=1")["download_url"]
    wait_for(lambda: api.call("GET", short, status=None).status == 403, "the link ends", 10)


def test_a_repeated_request_makes_one_job(api: Api) -> None:
    body = {"operation": "query", "query": "SELECT 1 AS one"}
    first = api.call("POST", "/v1/bulk/jobs", body, status=201, Idempotency_Key="night-1")
    again = api.call("POST", "/v1/bulk/jobs", body, status=201, Idempotency_Key="night-1")
    assert again.json == first.json and again.headers["idempotent-replayed"] == "true"
    other = api.call("POST", "/v1/bulk/jobs", body | {"query": "SELECT 2"}, status=422, Idempotency_Key="night-1")
    assert other.json["error"]["code"] == "IDEMPOTENCY_MISMATCH"


def test_fifty_clients_are_answered_together(api: Api) -> None:
    def ask(client: int) -> Json:
        return api.query(f"SELECT count(*) AS rows, max(n) AS last FROM events WHERE n % 50 = {client}")["data"]

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(ask, range(50)))
    assert answers == [[{"rows": ROWS // 50, "last": ROWS - 50 + client}] for client in range(50)]


def test_a_cancelled_job_stops(api: Api) -> None:
    slow = "SELECT count(*) AS rows FROM events a, events b, events c WHERE a.n + b.n > c.n"
    job = api.create(slow)["job_id"]
    wait_for(lambda: api.job(job)["state"] == "InProgress", "the job runs", 30)
    assert api.call("PATCH", f"/v1/bulk/jobs/{job}", {"state": "Aborted"}).json["status"] == "CANCELLED"
    pid = api.server.process.pid

    def rests() -> bool:
        before = cpu_seconds(pid)
        time.sleep(1)
        return cpu_seconds(pid) - before < 0.5

    wait_for(rests, "the server has stopped to work on it", 60)
    assert api.job(job)["state"] == "Aborted"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_killed_server_ends_its_jobs_after_it_starts_again(make_instance: Make) -> None:
    """Jobs that ran and jobs that waited are complete in the end, with every row once."""
    instance = filled(make_instance, bulk_max_concurrent_jobs="1", bulk_sweep_period_seconds="1")
    slow = "SELECT a.n FROM events a JOIN events b ON a.n % 200 = b.n % 200 WHERE b.n < 2000 ORDER BY a.n"
    api = rest.start(instance)
    jobs = [api.create(slow, compression="NONE")["job_id"] for _ in range(3)]
    wait_for(lambda: api.job(jobs[0])["state"] == "InProgress", "the first job runs", 30)
    assert api.job(jobs[1])["state"] == "UploadComplete"
    api.server.kill()
    with rest.serve(instance) as api:
        for job in jobs:
            report = api.wait(job)
            lines = api.call("GET", report["download_url"]).body.split()
            assert report["result_row_count"] == ROWS * 10
            assert lines == [b"n", *(str(i // 10).encode() for i in range(ROWS * 10))]


def test_tenants_have_their_own_tables_jobs_and_keys(make_instance: Make) -> None:
    instance = filled(make_instance)
    for tenant in ("acme", "rival"):
        instance.run("tenant", "create", tenant)
        instance.create_table(f"{tenant}-orders", SCHEMA, table_tenant=tenant)
    instance.run("table", "set", "events", "dormouse.table.shared=true")
    keys = {tenant: instance.json("key", "create", tenant, "--name", "test")["text"] for tenant in ("acme", "rival")}
    reader = instance.json("key", "create", "acme", "--scope", "bulk:read")
    with rest.serve(instance) as open_api:
        acme, rival = (open_api.with_key(keys[tenant]) for tenant in ("acme", "rival"))
        assert open_api.call("GET", "/v1/bulk/jobs", status=401).headers["www-authenticate"].startswith("Bearer")
        open_api.with_key("spk_acme_" + "0" * 76).call("GET", "/v1/bulk/jobs", status=401)
        assert acme.query("SELECT count(*) AS rows FROM events")["data"] == [{"rows": ROWS}]
        assert acme.query('SELECT count(*) AS rows FROM "acme-orders"')["data"] == [{"rows": 0}]
        foreign = acme.call("POST", "/v1/queries", {"sql": 'SELECT * FROM "rival-orders"'}, status=None)
        absent = acme.call("POST", "/v1/queries", {"sql": 'SELECT * FROM "nobody-orders"'}, status=None)
        assert foreign.status == absent.status == 400
        assert "Table 'rival-orders' does not exist" in foreign.json["error"]["message"]
        acme.call("GET", "/v1/bulk/jobs", status=403, X_Tenant_ID="rival")
        acme.call("GET", "/v1/bulk/jobs", X_Tenant_ID="acme")

        job = rival.create("SELECT * FROM events")["job_id"]
        url = rival.wait(job)["download_url"]
        assert acme.call("GET", "/v1/bulk/jobs").json["jobs"] == []
        check_foreign(acme, job)
        assert rival.call("GET", url).status == 200

        scoped = open_api.with_key(reader["text"])
        scoped.call("POST", "/v1/queries", {"sql": "SELECT 1"}, status=403)
        scoped.call("GET", "/v1/bulk/jobs")
        instance.run("key", "revoke", "acme", reader["id"])
        wait_for(lambda: scoped.call("GET", "/v1/bulk/jobs", status=None).status == 401, "the key is revoked", 10)
        metrics = open_api.call("GET", "/metrics").body.decode()
        assert "dormouse_" in metrics and "spk_" not in metrics
        check_log(open_api)


def test_others_see_the_rows_of_a_shared_table_that_its_policy_says(make_instance: Make) -> None:
    instance = filled(make_instance)
    for tenant in ("acme", "rival"):
        instance.run("tenant", "create", tenant)
    policy = "$tenant = 'acme' AND n < 7"
    wrong = instance.run("table", "set", "events", "dormouse.table.shared.where=nothing < 7", code=2)
    assert "nothing" in wrong.stderr, wrong.stderr
    instance.run("table", "set", "events", "dormouse.table.shared=true", f"dormouse.table.shared.where={policy}")
    keys = {tenant: instance.json("key", "create", tenant, "--name", "test")["text"] for tenant in ("acme", "rival")}
    count = "SELECT count(*) AS rows, max(n) AS most FROM events"
    with rest.serve(instance) as open_api:
        acme, rival = (open_api.with_key(keys[tenant]) for tenant in ("acme", "rival"))
        (seen,) = acme.query(count)["data"]
        assert 0 < seen["rows"] < ROWS and seen["most"] == 6
        assert rival.query(count)["data"] == [{"rows": 0, "most": None}]
        # A condition that fails for other rows tells nothing of them.
        assert acme.query(f"{count} WHERE 1 / (CASE WHEN n < 7 THEN 1 ELSE 0 END) = 1")["data"] == [seen]
        report = acme.wait(acme.create("SELECT n FROM events")["job_id"])
        assert report["result_row_count"] == seen["rows"]


# What there is to ask about a job.
ABOUT_A_JOB = [
    ("GET", "", None),
    ("PATCH", "", {"state": "Aborted"}),
    ("PATCH", "", {"state": "UploadComplete"}),
    ("DELETE", "", None),
    ("GET", "/results", None),
    ("GET", "/results/content", None),
    ("GET", "/upload-url", None),
    ("GET", "/failed-results", None),
]


def check_foreign(api: Api, job: str) -> None:
    """Another tenant's job is answered as one that is not there, whatever is asked."""

    def shape(answer: rest.Answer, id_: str) -> tuple[int, str]:
        text = answer.body.decode().replace(id_, "JOB")
        request = answer.headers.get("x-request-id", "-")
        return answer.status, text.replace(request, "REQUEST")

    for family in ("/bulk/jobs", "/v1/bulk/jobs", "/bulk", "/v1/bulk", "/jobs", "/v1/jobs"):
        for method, rest_of_path, body in ABOUT_A_JOB:
            foreign = api.call(method, f"{family}/{job}{rest_of_path}", body, status=None)
            absent = api.call(method, f"{family}/bulk-job-nothing{rest_of_path}", body, status=None)
            assert shape(foreign, job) == shape(absent, "bulk-job-nothing"), (method, family, rest_of_path)
            assert foreign.status in (404, 405), (method, family, rest_of_path, foreign)


def test_an_export_of_a_million_rows_streams(make_instance: Make) -> None:
    """Within 300 MB of the server's memory, and each row once."""
    instance = make_instance()
    instance.create_table("events", SCHEMA)
    rows = 1_000_000
    million = SELECT.replace(f"range({ROWS})", f"range({rows})").replace("k%05d", "k%07d")
    instance.ingest("events", instance.parquet("events.parquet", million))
    with rest.serve(instance) as api:
        job = api.create("SELECT * FROM events", compression="GZIP")["job_id"]
        url = api.wait(job)["download_url"]
        packed = instance.root / "results.csv.gz"
        packed.write_bytes(api.call("GET", url).body)
        status = Path(f"/proc/{api.server.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    read = f"read_csv('{packed}', header = true, columns = {{key: 'VARCHAR', n: 'BIGINT', part: 'INT', text: 'VARCHAR'}})"
    found = duckdb.sql(f"SELECT count(*), count(DISTINCT key), sum(n)::BIGINT FROM {read}").fetchall()[0]
    assert found == (rows, rows, rows * (rows - 1) // 2)
    assert peak < 300 * 1024, f"{peak / 1024:.0f} MB"


@pytest.mark.on_aws
def test_on_aws_a_jobs_result_is_behind_a_link_of_s3(make_instance: Make) -> None:
    """The API alone makes the job, and a worker that is started for it does it."""
    instance = filled(make_instance)
    with rest.serve(instance, api_only=True) as api:
        job = api.create(ALL, compression="NONE")["job_id"]
        assert api.job(job)["state"] == "UploadComplete"
        instance.run("worker", "query", "bulk-sweep", "--once")
        url = api.wait(job)["download_url"]
        assert "X-Amz-Signature=" in url
        header, *rows = csv.reader(io.StringIO(api.call("GET", url).body.decode(), newline=""))
        assert rows == plain_rows()
        api.call("GET", f"/v1/bulk/jobs/{job}/results?single_use=true", status=400)
        api.call("DELETE", f"/v1/bulk/jobs/{job}", status=204)
        api.call("GET", url, status=404)
        check_log(api)
    instance.run("tenant", "create", "acme")
    key = instance.json("key", "create", "acme", "--days", "30")["id"]
    new = instance.json("key", "rotate", "acme", key)
    assert new["expires"] and {row["id"] for row in instance.json("key", "list", "acme")} == {key, new["id"]}
    assert instance.json("key", "revoke", "acme", new["id"])["revoked"]
