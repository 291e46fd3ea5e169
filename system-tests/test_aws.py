"""What concerns AWS alone: clients that others wrote, the network between, and the parts of an instance.

Where an emulator is not as AWS is, the test says so.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from aws import ACCOUNT, AwsInstance, Services
from faults import Faults, failing
from harness import BINARY, assert_same_rows, reasons, relation, seeds, wait_for
from test_exactly_once import SCHEMA, SPLIT_POINTS, Work

Make = Callable[..., AwsInstance]

pytestmark = pytest.mark.on_aws

AWS_CLI = Path(sys.executable).parent / "aws"


@pytest.fixture
def events(make_instance: Make) -> AwsInstance:
    instance = make_instance()
    instance.create_table("events", SCHEMA, SPLIT_POINTS)
    return instance


def rows(instance: AwsInstance, name: str = "rows.parquet", count: int = 1000) -> Path:
    query = f"""SELECT printf('%016x', hash(i, '{name}')) AS "key", i AS n, 'j' AS job FROM range({count}) t(i)"""
    return instance.parquet(name, query)


def aws(instance: AwsInstance, *words: str) -> dict:
    """Runs the AWS CLI for its answer."""
    # Its version 1 reads no endpoint for SQS from the environment.
    at = ["--endpoint-url", instance.services.url] if words[0] == "sqs" else []
    done = subprocess.run(
        [AWS_CLI, *words, *at, "--output", "json"], env=instance.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"aws {' '.join(words)}\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout.strip() else {}


def test_a_pipeline_by_the_aws_cli_alone(events: AwsInstance) -> None:
    """A file is uploaded, a message sent, the tracker polled, the export downloaded: by the AWS CLI and nothing else."""
    file = rows(events)
    aws(events, "s3", "cp", "--quiet", str(file), f"s3://{events.source_bucket}/day/rows.parquet")
    queue = {
        name: aws(events, "sqs", "get-queue-url", "--queue-name", f"dormouse-{events.id}-{name}")["QueueUrl"]
        for name in ("ingest", "export")
    }

    def send(name: str, body: dict) -> None:
        sent = aws(events, "sqs", "send-message", "--queue-url", queue[name], "--message-body", json.dumps(body))
        assert sent["MessageId"]

    def status(job: str) -> str:
        found = aws(
            events, "dynamodb", "query",
            "--table-name", f"dormouse-{events.id}-job-status",
            "--key-condition-expression", "jobId = :job",
            "--expression-attribute-values", json.dumps({":job": {"S": job}}),
        )["Items"]  # fmt: skip
        return found[0]["status"]["S"] if found else ""

    with events.serve("worker", "ingest", "export-splitter", "export"):
        # A prefix, as Sleeper's messages have it.
        send("ingest", {"id": "day-1", "tableName": "events", "files": [f"{events.source_bucket}/day"]})
        wait_for(lambda: status("day-1") == "FINISHED", "the job is done", poll=0.5)
        send("export", {"tableName": "events", "exportId": "nightly"})
        wait_for(lambda: status("nightly") == "FINISHED", "the export is done", poll=0.5)
    table = events.describe("events")["id"]
    item = aws(
        events, "dynamodb", "get-item",
        "--table-name", f"dormouse-{events.id}-job-status",
        "--key", json.dumps({"jobId": {"S": "day-1"}, "kindAndTable": {"S": f"ingest|{table}"}}),
    )["Item"]  # fmt: skip
    assert (item["tableName"]["S"], item["rowsRead"]["N"], item["rowsWritten"]["N"]) == ("events", "1000", "1000")
    assert int(item["ttl"]["N"]) > time.time() + 6 * 24 * 3600
    place = events.root / "downloaded"
    export = f"s3://{events.bucket('bulk-export-results')}/{table}/nightly"
    aws(events, "s3", "sync", "--quiet", export, str(place))
    assert (place / "_SUCCESS").exists() and json.loads((place / "_manifest.json").read_text())["rows"] == 1000
    assert_same_rows(relation(file), relation(sorted(place.glob("*.parquet"))))


def test_the_readme_as_written(services: Services, make_instance: Make) -> None:
    """The walk-through on AWS of README.md, its commands run as they stand."""
    instance = make_instance()
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    section = readme.split("## The same on AWS", 1)[1].split("\n## ", 1)[0]
    blocks = [block.split("```", 1)[0] for block in section.split("```sh\n")[1:]]
    assert len(blocks) == 4 and "scripts/emulators" in blocks[0]
    rows(instance, "incoming/sleeper-0.parquet")
    instance.run("generate", "sleeper", "--rows", "20000", "--files", "2", "--output", instance.inputs / "incoming")
    (instance.inputs / "points.txt").write_text("g\nn\nt\n")
    script = "\n".join(
        [
            "set -euo pipefail",
            # For version 1 of the AWS CLI.
            f'aws() {{ local at=(); [ "$1" != sqs ] || at=(--endpoint-url "$AWS_ENDPOINT_URL"); "{AWS_CLI}" "$@" "${{at[@]}}"; }}',
            f'dormouse() {{ "{BINARY}" "$@"; }}',
            *blocks[1:],
            "wait",
        ]
    )
    env = {key: value for key, value in instance.env.items() if key != "DORMOUSE_INSTANCE"}
    # The worker is left to end by itself.
    env["DORMOUSE_TASK_MAX_IDLE_TIME_SECONDS"] = "15"
    done = subprocess.run(
        ["bash", "-c", script], env=env, cwd=instance.inputs, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert '"rowsWritten"' in done.stdout
    exported = sorted((instance.inputs / "nightly").glob("*.parquet"))
    assert_same_rows(relation(sorted((instance.inputs / "incoming").glob("*.parquet"))), relation(exported))


def test_bad_messages_are_recorded_and_block_nothing(events: AwsInstance) -> None:
    """What cannot be read, names no table, or finds no files is rejected with its text, and the next job runs."""
    file = rows(events)
    ids = {
        "no JSON": events.send("ingest", "{not json"),
        "no table": events.send("ingest", {"id": "no-table", "tableName": "absent", "files": ["b/k"]}),
        "no files": events.send("ingest", {"id": "no-files", "tableName": "events", "files": [f"{events.source_bucket}/x"]}),
        "no bucket": events.send("ingest", {"id": "no-bucket", "tableName": "events", "files": ["no-such-bucket/x/y"]}),
        "own files": events.send("ingest", {"id": "own-files", "tableName": "events", "files": [f"file://{file}"]}),
    }
    events.send_ingest("fine", "events", file)
    assert "put it into a bucket" in events.run("ingest", "events", file, code=2).stderr
    with events.serve("worker", "ingest"):
        events.wait_job("fine")
        for job, told in [
            (ids["no JSON"], "JSON"),
            ("no-table", "absent"),
            ("no-files", events.source_bucket),
            ("no-bucket", "no-such-bucket"),
            ("own-files", "file://"),
        ]:
            report = events.wait_job(job, "REJECTED")
            assert told in reasons(report), report
            assert events.job_item(job)["status"] == "REJECTED"
        events.wait_empty_queues()


def test_dead_letters_come_back_as_they_were(make_instance: Make) -> None:
    """A message without a job id that nobody acknowledges goes to the dead letters; retried, it is the same job."""
    events = make_instance(queue_max_attempts="2")
    events.create_table("events", SCHEMA)
    message = events.send("ingest", {"tableName": "events", "files": [events.upload(rows(events))]})
    url = events.queue_url("ingest")
    for _ in range(2):
        (received,) = events.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        events.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=received["ReceiptHandle"], VisibilityTimeout=0)
    # The third receive moves it.
    assert not events.sqs.receive_message(QueueUrl=url).get("Messages")
    (letter,) = events.json("queue", "dead-letters", "ingest")
    assert (letter["message_id"], letter["attempts"]) == (message, 2)
    with events.serve("worker", "ingest", "repair"):
        report = events.wait_job(message, "FAILED")
        assert reasons(report), report
        assert events.json("queue", "retry", "ingest", message)["moved"] == 1
        wait_for(lambda: events.job(message)["status"] == "FINISHED", "the message is the same job")
        events.wait_empty_queues()
    assert events.describe("events")["rows"] == 1000


def test_everything_fails_now_and_then(make_instance: Make, services: Services) -> None:
    """One request in twenty is turned away, its answer lost or broken off, late, or carried out in part; rows come in
    once all the same, and exports are whole."""
    seed = int.from_bytes(seeds(7).randbytes(4), "big")
    instance = make_instance(queue_max_attempts="100", table_commit_mode="direct", export_concurrency="4")
    work = Work(instance, rows=3000)
    faults = Faults(seed, share=0.05)
    with failing(services.url, faults) as url, failing(services.dynamodb_url, faults) as dynamodb_url:
        environment = {"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_url}
        everything = ["ingest", "export-splitter", "export", "compaction", "compaction-planner", "committer", "snapshots", "repair"]
        for _ in range(10):
            work.ingest(copies=2)
            work.export()

        def alive() -> None:
            if not servers or not servers[-1].runs():
                servers.append(instance.start("worker", *everything, "--max-idle-seconds", "1000", **environment))

        servers = []
        jobs = [*work.inputs, *work.exports]

        def done() -> bool:
            # Opening an instance may fail as well.
            alive()
            statuses = instance.statuses()
            return all(statuses.get(job) == "FINISHED" for job in jobs) and not instance.depths()

        wait_for(done, lambda: f"jobs are done: {instance.statuses()}; {instance.depths()}; {dict(faults.met)}", poll=0.5)
        assert servers[-1].stop() == 0, servers[-1].text()
    assert all("panicked" not in server.text() for server in servers)
    print(dict(faults.met))
    assert {"turned away", "lost reply", "late"} <= set(faults.met)
    work.check()


def test_two_workers_commit_through_the_queue_by_batches(make_instance: Make) -> None:
    """Queued commits of many jobs, sent by two workers, are appended by a committer, several a transaction."""
    instance = make_instance(table_commit_mode="queued", ingest_concurrency="8")
    work = Work(instance, rows=200)
    for _ in range(40):
        work.ingest()
    with instance.serve("worker", "ingest"), instance.serve("worker", "ingest"):
        wait_for(lambda: instance.depths().get("commit"), "commits wait", poll=0.05)
        with instance.serve("worker", "committer"):
            work.wait()
    assert instance.describe("events")["transaction"] < 40
    work.check()


def test_an_instance_is_checked_part_by_part(make_instance: Make) -> None:
    """A check names each part that is missing or set wrong, and what to do; init makes what is missing, and only that."""
    instance = make_instance()
    sound = instance.json("instance", "check")
    assert sound["parts"] == 36 and sound["findings"] == []
    assert "36 parts, all as they should be" in instance.run("instance", "check").stdout
    url = instance.queue_url("ingest")
    instance.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "77"})
    instance.dynamodb.delete_table(TableName=f"dormouse-{instance.id}-job-times")
    instance.s3.delete_bucket_lifecycle(Bucket=instance.bucket("table-data"))
    found = instance.json("instance", "check", code=2)["findings"]
    told = {(finding["name"].rsplit("/", 1)[-1].split("-", 2)[-1], finding["problem"].split(":")[0]) for finding in found}
    assert told == {
        ("ingest", "its visibility timeout is 77 s"),
        ("job-times", "it is not there"),
        (f"table-data-{ACCOUNT}", "uploads that are left behind stay and are paid for"),
        (f"table-data-{ACCOUNT}", "the bodies of long messages stay for ever"),
    }, told
    assert all(finding["remedy"] for finding in found)
    made = [part["name"] for part in instance.json("instance", "init") if part["made"]]
    assert made == [f"dormouse-{instance.id}-job-times"]
    other = instance.run("--instance", "absent", "table", "list", code=5)
    assert "instance check" in other.stderr, other


def test_a_worker_ends_when_idle_and_at_its_age(events: AwsInstance) -> None:
    """An idle worker ends by itself; an old one finishes what it has and takes nothing more. Their logs are JSON, and
    their measurements are lines of CloudWatch's embedded format."""
    file = rows(events)
    events.send_ingest("one", "events", file)
    idle = events.start("--log-format", "json", "worker", "ingest", "snapshots", "--max-idle-seconds", "3")
    events.wait_job("one")
    assert idle.process.wait(timeout=60) == 0, idle.text()
    lines = [json.loads(line) for line in idle.text().splitlines()]
    assert any("taking no more messages" in str(line.get("fields")) for line in lines)
    measured = {
        metric["Name"]: line[metric["Name"]]
        for line in lines
        if "_aws" in line and line.get("tableName") == "events" and line["instanceId"] == events.id
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    }
    assert measured["StandardIngestRowsWritten"] == 1000
    assert measured["LeafPartitionCount"] == 4 and measured["PartitionCount"] == 7
    old = events.start("worker", "ingest", "--max-age-minutes", "0.05")
    assert old.process.wait(timeout=60) == 0, old.text()
    events.send_ingest("two", "events", file)
    events.run("worker", "ingest", "--once")
    assert events.job_item("two")["status"] == "FINISHED"


def test_sigterm_ends_a_waiting_worker_within_thirty_seconds_and_hides_nothing(events: AwsInstance) -> None:
    """A message that is sent as the worker ends is not hidden behind its last receive."""
    file = rows(events)
    for turn in range(4):
        worker = events.start("worker", "ingest", "--max-idle-seconds", "1000").wait_until_works()
        before = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        events.send_ingest(f"late-{turn}", "events", file)
        assert worker.process.wait(timeout=30) == 0, worker.text()
        assert time.monotonic() - before < 30
        assert all(hidden == 0 for _, hidden, _ in events.depths().values()), events.depths()
    with events.serve("worker", "ingest"):
        events.wait_jobs([f"late-{turn}" for turn in range(4)])


def test_links_give_an_export_to_who_has_no_credentials(events: AwsInstance) -> None:
    """DuckDB reads an export by its links, without credentials; a link that was changed is refused."""
    events.ingest("events", rows(events))
    events.export("events", "shared")
    links = {link["file"]: link["link"] for link in events.json("links", "shared", "--hours", "1")}
    files = [link for file, link in links.items() if file.endswith(".parquet")]
    assert len(files) == 4 and "_manifest.json" in links
    place = events.root / "linked"
    place.mkdir()
    for number, link in enumerate(files):
        with urllib.request.urlopen(link) as answer:
            (place / f"{number}.parquet").write_bytes(answer.read())
    assert duckdb.execute(f"SELECT count(*) FROM {relation(sorted(place.iterdir()))}").fetchall() == [(1000,)]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(files[0].replace("/shared/", "/other/"))
    assert events.run("links", "unheard-of", code=3).stderr


def test_an_export_becomes_a_table_again(events: AwsInstance) -> None:
    """`table import-export` reads an export from its bucket."""
    file = rows(events)
    events.ingest("events", file)
    events.export("events", "kept")
    table = events.describe("events")["id"]
    place = f"s3://{events.bucket('bulk-export-results')}/{table}/kept"
    made = events.json("table", "import-export", "again", place)
    assert (made["rows"], made["leaves"]) == (1000, 4)
    assert_same_rows(relation(file), events.export("again").relation)


def test_scaling_starts_workers_for_messages(events: AwsInstance, services: Services) -> None:
    """`scale` starts tasks of the queue's family. The emulator records tasks and runs none."""
    ecs = services.client("ecs")
    ecs.create_cluster(clusterName=f"workers-{events.id}")
    container = {"name": "worker", "image": "dormouse", "memory": 64}
    ecs.register_task_definition(family=f"dormouse-{events.id}-ingest", containerDefinitions=[container])
    assert "dormouse.ecs.cluster" in events.run("scale", code=2).stderr
    events.configure(ecs_cluster=f"workers-{events.id}", ingest_max_concurrent_tasks="3")
    file = rows(events)
    for n in range(9):
        events.send_ingest(f"job-{n}", "events", file)

    def ingest(*options: str) -> dict:
        return next(row for row in events.json("scale", *options) if row["queue"] == "ingest")

    assert ingest("--dry-run") == {"queue": "ingest", "messages": 9, "running": 0, "missing": 3, "started": 0}
    assert ingest()["started"] == 3
    assert ingest() == {"queue": "ingest", "messages": 9, "running": 3, "missing": 0, "started": 0}
