"""Every kind of process, each behind a service that lets through what its policy allows: nothing is refused."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import rest
from aws import AwsInstance, Services
from harness import assert_same_rows, relation, wait_for
from permissions import Guard, guarded
from test_exactly_once import SCHEMA

pytestmark = pytest.mark.on_aws

WORKERS = (
    "ingest", "export-splitter", "export", "compaction", "splitter", "committer", "query", "compaction-planner",
    "split-finder", "snapshots", "gc", "repair", "bulk-sweep",
)  # fmt: skip

def option(kind: str) -> str:
    return "--api" if kind == "api" else kind


def test_each_kind_of_process_may_do_what_it_does(make_instance: Callable[..., AwsInstance], services: Services) -> None:
    events = make_instance(
        gc_period_minutes="0.03",
        table_gc_delay_minutes="0",
        compaction_job_creation_period_minutes="0.03",
        partition_splitting_period_minutes="0.03",
        bulk_sweep_period_seconds="1",
        table_statestore_snapshot_min_transactions="5",
        api_rate_limits="false",
    )
    events.create_table("direct", SCHEMA, table_partition_splitting_threshold="3000")
    events.create_table("queued", SCHEMA, table_commit_mode="queued")
    guards = {
        kind: Guard(events.json("instance", "policy", option(kind), "--input-bucket", events.source_bucket))
        for kind in (*WORKERS, "api")
    }

    with ExitStack() as stack:

        def environment(kind: str) -> dict[str, str]:
            urls = (("AWS_ENDPOINT_URL", services.url), ("AWS_ENDPOINT_URL_DYNAMODB", services.dynamodb_url))
            return {name: stack.enter_context(guarded(url, guards[kind])) for name, url in urls}

        def told() -> str:
            return "; ".join(f"{kind}: {sorted(guard.refused)}" for kind, guard in guards.items() if guard.refused)

        servers = {
            kind: events.start("worker", kind, "--max-idle-seconds", "100000", **environment(kind)) for kind in WORKERS
        }
        api = rest.start(events, api_only=True, **environment("api"))

        inputs = {
            (table, job): events.parquet(
                f"{table}-{job}.parquet",
                f"""SELECT printf('%016x', hash(i, '{job}')) AS "key", i AS n, '{job}' AS job FROM range(2000) t(i)""",
            )
            for table in ("direct", "queued")
            for job in range(4)
        }
        for (table, job), file in inputs.items():
            place = events.upload(file)
            # Half of them by a prefix.
            files = [place if job % 2 else place.rsplit("/", 1)[0]]
            events.send("ingest", {"id": f"{table}-{job}", "tableName": table, "files": files})
        rejected = events.send("ingest", "{not json")
        for table, job in inputs:
            wait_for(lambda job=f"{table}-{job}": (events.job_item(job) or {}).get("status") == "FINISHED", told, seconds=120)
        assert events.wait_job(rejected, "REJECTED")

        def settled() -> bool:
            direct, queued = events.describe("direct"), events.describe("queued")
            return direct["leaves"] > 1 and queued["files"] <= 2

        wait_for(settled, lambda: f"files are merged and leaves split: {told()}", seconds=120)
        events.send("export", {"tableName": "direct", "exportId": "nightly"})
        report = events.wait_job("nightly")
        files = [file for (table, _), file in inputs.items() if table == "direct"]
        assert_same_rows(relation(files), relation(events.exported(report).files))

        assert api.query("SELECT count(*) AS n FROM direct")["data"] == [{"n": 8000}]
        job = api.create("SELECT * FROM queued", content_type="CSV", compression="GZIP")["job_id"]
        url = api.wait(job)["download_url"]
        assert len(list(csv.reader(io.StringIO(gzip.decompress(api.call("GET", url).body).decode())))) == 8001
        api.call("DELETE", f"/v1/bulk/jobs/{job}", status=204)
        asked = {"operation": "query", "query": "SELECT 1"}
        made = [api.call("POST", "/v1/bulk/jobs", asked, status=201, Idempotency_Key="once").json for _ in range(2)]
        assert made[0] == made[1] and len(api.call("GET", "/v1/bulk/jobs").json["jobs"]) == 1
        api.call("PATCH", f"/v1/bulk/jobs/{made[0]['job_id']}", {"state": "Aborted"})
        assert api.call("GET", "/v1/jobs/nightly").json["status"] == "COMPLETED"
        events.run("tenant", "create", "acme")
        key = events.run("key", "create", "acme", "--days", "1").stdout.strip()
        wait_for(lambda: api.call("GET", "/v1/bulk/jobs", status=None).status == 401, "keys are asked for")
        acme = api.with_key(key)
        left = acme.call("POST", "/v1/bulk/jobs", asked, status=201).json["job_id"]
        acme.call("PATCH", f"/v1/bulk/jobs/{left}", {"state": "Aborted"})
        events.run("tenant", "delete", "acme", "--yes")

        events.run("table", "delete", "queued", "--yes")
        wait_for(lambda: len({key.split("/")[0] for key in events.data_files()}) == 1, lambda: f"a deleted table is collected: {told()}", seconds=120)
        for server in (*servers.values(), api.server):
            assert server.stop() == 0, server.text()

    assert not told(), told()
