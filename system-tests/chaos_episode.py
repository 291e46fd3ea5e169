"""One episode of chaos: a fresh instance, random work, random faults, quiet, judgement."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_checks import Job, Ledger, Life, judge, unsettled
from harness import Instance, Outcome, Server

SCHEMA = {
    "rowKeyFields": [{"name": "key", "type": "StringType"}],
    "sortKeyFields": [{"name": "n", "type": "LongType"}],
    "valueFields": [{"name": "job", "type": "StringType"}],
}

# Once faults stop, everything must have come to its end within this time. Only a hang comes near.
DRAIN_SECONDS = 300.0

# On a slow machine an episode goes on until it has hit so much, for so much longer at most.
LEAST_FAULTS, LEAST_JOBS = 5, 10
MORE_SECONDS = 120.0

# Of the data directory's file system, when it can be filled up.
DISK_BYTES = 256 << 20

# Exit codes that commands may have in the middle of faults.
EXISTS, NOT_FOUND, UNAVAILABLE = 4, 3, 5

CLOCK_OFFSET = "DORMOUSE_CLOCK_OFFSET_SECONDS"


class History:
    """What was done and seen, as lines of JSON."""

    def __init__(self, path: Path) -> None:
        self.began = time.monotonic()
        self.counts: Counter[str] = Counter()
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()

    def add(self, what: str, **fields: Any) -> None:
        with self._lock:
            self.counts[what] += 1
            entry = {"at": round(time.monotonic() - self.began, 3), "what": what} | fields
            self._file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        self._file.close()


@dataclass
class Disk:
    """A small file system of its own for the data directory, which can be filled up."""

    mount: Path
    mounted: bool = False
    # When the disk was full, as times of the monotonic clock; the last one may be open.
    full: list[tuple[float, float]] = field(default_factory=list)

    def try_mount(self) -> None:
        self.mount.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs"]
        with suppress(OSError):
            done = subprocess.run(["mount", *options, self.mount], capture_output=True, check=False)
            self.mounted = done.returncode == 0

    def free_share(self) -> float:
        if not self.mounted:
            return 1.0
        found = os.statvfs(self.mount)
        return found.f_bavail / found.f_blocks

    def fill(self) -> None:
        """Takes all that is free; what others free meanwhile stays theirs."""
        self.full.append((time.monotonic(), float("inf")))
        with self.filler.open("wb", buffering=0) as file, suppress(OSError):
            found = os.statvfs(self.mount)
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize)
            while True:
                file.seek(0, os.SEEK_END)
                file.write(bytes(4096))

    def free(self) -> None:
        if self.full and self.full[-1][1] == float("inf"):
            self.filler.unlink()
            self.full[-1] = (self.full[-1][0], time.monotonic())

    def was_full_since(self, moment: float) -> bool:
        return any(end >= moment for _, end in self.full)

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", self.mount], check=False)
            self.mounted = False

    @property
    def filler(self) -> Path:
        return self.mount / "filler"


@dataclass
class Plan:
    """What a seed decides for its episode."""

    seed: int
    seconds: float
    processes: int | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(f"plan {self.seed}")
        choose = self.random
        self.processes = self.processes or choose.randint(1, 3)
        self.fills_disk = choose.random() < 0.5
        self.skews_clocks = choose.random() < 0.5
        self.properties = {
            "queue.visibility.timeout.seconds": str(choose.choice([1, 1.5, 2])),
            "queue.max.attempts": str(choose.choice([2, 3, 4])),
            "worker.drain.seconds": str(choose.choice([0.1, 1, 10])),
            "memory.bytes": choose.choice(["2M", "8M", "64M"]),
            "ingest.concurrency": str(choose.choice([1, 2, 4])),
            "export.concurrency": str(choose.choice([1, 2, 4])),
            "gc.period.minutes": str(choose.choice([0.01, 0.05])),
            "gc.orphan.age.hours": str(choose.choice([0.002, 24])),
            "table.gc.delay.minutes": "0",
            "statestore.snapshot.period.seconds": str(choose.choice([0.2, 1])),
            "table.statestore.snapshot.min.transactions": str(choose.choice([1, 3, 10])),
            "tracker.repair.period.seconds": str(choose.choice([0.5, 1])),
            "table.commit.mode": choose.choice(["direct", "queued"]),
            "table.ingest.file.target.bytes": choose.choice(["16K", "256K", "8M"]),
            "compaction.job.creation.period.minutes": str(choose.choice([0.01, 0.1])),
            "compaction.lease.minutes": str(choose.choice([0.05, 1])),
            "table.compaction.strategy": choose.choice(["size_ratio", "basic"]),
            "table.compaction.files.batch.size": str(choose.choice([2, 4, 12])),
            "partition.splitting.period.minutes": str(choose.choice([0.01, 0.1])),
            "table.partition.splitting.threshold": str(choose.choice([500, 5000, 1000000])),
        }

    @property
    def sweeps_early(self) -> bool:
        """Whether files of running jobs may be taken for orphans."""
        return self.properties["gc.orphan.age.hours"] != "24"

    def describe(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "processes": self.processes,
            "fills_disk": self.fills_disk,
            "skews_clocks": self.skews_clocks,
        } | self.properties


class Work(threading.Thread):
    """Sends random work until it is told to stop. What a full disk or a pause refuses is sent later."""

    TABLES = ("steady", "other", "shaky")

    def __init__(self, plan: Plan, instance: Instance, history: History, disk: Disk) -> None:
        super().__init__(name="work", daemon=True)
        self.random = random.Random(f"work {plan.seed}")
        self.instance = instance
        self.history = history
        self.disk = disk
        self.ledger = Ledger(forgets_early=plan.sweeps_early)
        self.done = threading.Event()
        self.failure: BaseException | None = None
        self.current: dict[str, Life] = {}
        self.unsent: list[Job] = []
        self.paused_until = 0.0

    def run(self) -> None:
        try:
            while not self.done.is_set():
                self.step()
        except BaseException as failure:  # noqa: BLE001 - it is raised by the supervisor
            self.failure = failure

    def prepare(self) -> None:
        """Makes the tables, before anything goes wrong."""
        for name in self.TABLES:
            self.create(name)

    def step(self) -> None:
        dice = self.random.random()
        if self.disk.free_share() < 0.3 or self.waiting() > 30:
            time.sleep(0.05)
            dice = self.random.uniform(0.85, 1)
        if dice < 0.50:
            # Work comes in bursts, so that kills meet some of it.
            for _ in range(self.random.choice([1, 2, 4, 8])):
                self.ingest()
        elif dice < 0.60:
            self.repeat("ingest")
        elif dice < 0.72:
            self.export()
        elif dice < 0.76:
            self.repeat("export")
        elif dice < 0.83:
            self.bad_ingest()
        elif dice < 0.87:
            self.replace_table()
        elif dice < 0.92:
            self.redrive()
        elif dice < 0.95:
            self.command("gc", "--delay-minutes", "0")
        elif self.unsent:
            self.send(self.unsent.pop(0))
        time.sleep(self.random.expovariate(20))

    def waiting(self) -> int:
        outcome = self.command("queue", "list", "--format", "json")
        return sum(row["visible"] for row in outcome.json) if outcome.code == 0 else 0

    def command(self, *args: str | Path) -> Outcome:
        """Runs a command that may fail, but only as one that may be tried again, or as it says."""
        outcome = self.instance.run(*args, code=None)
        if outcome.code != 0:
            self.history.add("command failed", args=outcome.args, code=outcome.code, text=outcome.stderr.strip())
            assert outcome.code in (EXISTS, NOT_FOUND, UNAVAILABLE), outcome
        return outcome

    # What is asked for.

    def ingest(self) -> None:
        number = sum(job.kind == "ingest" for job in self.ledger.jobs.values())
        name = self.random.choice(self.TABLES)
        job = Job(f"job-{number:04}", "ingest", name, by_id=self.random.random() < 0.3)
        rows = int(10 ** self.random.uniform(0, 4.8))
        parts = self.random.choice([1, 1, 1, 2, 5])
        for part in range(parts):
            query = f"""SELECT printf('%016x', hash(i, '{job.id}')) AS "key", i AS n, '{job.id}' AS job
                FROM range({part}, {rows}, {parts}) t(i)"""
            job.files.append(self.instance.parquet(f"{job.id}-{part}.parquet", query))
        self.ledger.jobs[job.id] = job
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            self.send(job)

    def bad_ingest(self) -> None:
        number = len(self.ledger.jobs)
        job = Job(f"bad-{number:04}", "ingest", self.random.choice(self.TABLES), good=False)
        kind = self.random.choice(["absent", "columns", "no Parquet", "null key"])
        good = self.instance.parquet(f"{job.id}-0.parquet", f"SELECT 'x' AS \"key\", 1::BIGINT AS n, '{job.id}' AS job")
        bad = self.instance.inputs / f"{job.id}-1.parquet"
        if kind == "columns":
            self.instance.parquet(bad.name, "SELECT 'x' AS \"key\", 1 AS surplus")
        elif kind == "no Parquet":
            bad.write_bytes(good.read_bytes()[:-20])
        elif kind == "null key":
            self.instance.parquet(bad.name, f"SELECT NULL::VARCHAR AS \"key\", 1::BIGINT AS n, '{job.id}' AS job")
        job.files = [good, bad]
        self.ledger.jobs[job.id] = job
        self.send(job)

    def export(self) -> None:
        number = sum(job.kind == "export" for job in self.ledger.jobs.values())
        job = Job(f"export-{number:04}", "export", self.random.choice(self.TABLES), by_id=self.random.random() < 0.3)
        self.ledger.jobs[job.id] = job
        for _ in range(self.random.choice([1, 1, 2])):
            self.send(job)

    def repeat(self, kind: str) -> None:
        """Sends a job again: one that waits, runs, or was done long ago."""
        known = [job for job in self.ledger.accepted() if job.kind == kind and job.good]
        if known:
            self.send(self.random.choice(known))

    def send(self, job: Job) -> None:
        life = self.current.get(job.name)
        if life is None or (job.by_id and job.sent_to and job.sent_to[0] is not life):
            return
        message: dict[str, Any] = {"tableId": life.id} if job.by_id else {"tableName": job.name}
        if job.kind == "ingest":
            message |= {"id": job.id, "files": [f"file://{file}" for file in job.files]}
        else:
            message |= {"exportId": job.id}
        again = bool(job.sent_to)
        outcome = self.command("queue", "send", job.kind, json.dumps(message))
        if outcome.code == 0:
            job.sent_to.append(life)
            what = "sent again" if again else "sent bad" if not job.good else f"sent {job.kind}"
            self.history.add(what, message=message, id=outcome.stdout.strip())
        else:
            self.unsent.append(job)

    def create(self, name: str) -> None:
        instance = self.instance
        schema = instance.root / "schema.json"
        schema.write_text(json.dumps(SCHEMA))
        points = instance.root / "points.txt"
        points.write_text("".join(f"{point}\n" for point in ("4", "8", "c")))
        while not self.done.is_set():
            outcome = self.command("table", "create", name, "--schema", schema, "--split-points", points)
            if outcome.code in (0, EXISTS):
                break
        while not self.done.is_set():
            if self.adopt(name):
                return

    def adopt(self, name: str) -> bool:
        """Takes a table of this name down that nobody has heard of yet, and says whether there was one."""
        outcome = self.command("table", "describe", name, "--format", "json")
        if outcome.code != 0 or self.ledger.life(outcome.json["id"]):
            return False
        life = Life(name, outcome.json["id"])
        self.ledger.lives.append(life)
        self.current[name] = life
        self.history.add("created", name=name, id=life.id)
        return True

    def replace_table(self) -> None:
        """Deletes a table, and makes one of its name."""
        name = "shaky"
        life = self.current.pop(name, None)
        if life:
            life.doomed = True
            self.history.add("deleting", name=name, id=life.id)
        while not self.done.is_set():
            outcome = self.command("table", "delete", name, "--yes")
            if outcome.code in (0, NOT_FOUND):
                self.create(name)
                return

    def redrive(self) -> None:
        for queue in ("ingest", "export", "export-leaf", "compaction", "splitting", "commit"):
            outcome = self.command("queue", "retry", queue, "--format", "json")
            if outcome.code == 0 and outcome.json["moved"]:
                self.history.add("redriven", queue=queue, moved=outcome.json["moved"])

    def finish(self) -> None:
        """After the faults: does what was begun and could not be done."""
        self.done.clear()
        life = next((life for life in self.ledger.lives if life.name == "shaky" and not life.doomed), None)
        if life is None and not self.adopt("shaky"):
            self.replace_table()
        for job in self.unsent:
            self.send(job)


@dataclass
class Slot:
    """A place for one of the processes that share the directory."""

    server: Server | None = None
    began: float = 0.0
    paused: bool = False


class Episode:
    """Runs one episode to its judgement. What it raises is a violation."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan = plan
        self.root = root
        self.random = random.Random(f"faults {plan.seed}")
        self.disk = Disk(root / "data")
        if plan.fills_disk:
            self.disk.try_mount()
        self.mountable = self.disk.mounted
        self.instance = Instance(root, plan.properties)
        self.history = History(root / "history.jsonl")
        self.history.add("episode", **plan.describe(), mounted=self.disk.mounted)
        self.slots = [Slot() for _ in range(plan.processes or 1)]
        self.largest_offset = 0
        self.work = Work(plan, self.instance, self.history, self.disk)

    def run(self) -> dict[str, int]:
        """Returns what was done and checked."""
        self.work.prepare()
        self.work.start()
        self.disturb()
        self.calm()
        self.drain()
        checked = judge(self.instance, self.work.ledger)
        for server in self.instance.servers:
            assert "panicked" not in server.text(), f"a panic in {server.log}"
        counts = self.history.counts
        names = {"kill": "kills", "pause": "stops", "terminate": "terms", "fill": "disk-fulls", "sent again": "repeated"}
        result = {title: counts[what] for what, title in names.items()}
        jobs = list(self.work.ledger.jobs.values())
        result["redriven"] = counts["redriven"]
        result["jobs"] = sum(job.kind == "ingest" for job in jobs)
        result["exports"] = sum(job.kind == "export" for job in jobs)
        return result | checked

    def close(self, keep: bool) -> None:
        """Ends every process, and removes the directory unless it is to be kept."""
        self.work.done.set()
        for server in self.instance.servers:
            if server.runs():
                server.kill()
        if self.work.is_alive():
            self.work.join()
        self.history.close()
        self.disk.free()
        if keep and self.disk.mounted:
            shutil.copytree(self.disk.mount, self.root / "data.kept", symlinks=True)
        self.disk.unmount()
        if keep and (self.root / "data.kept").exists():
            self.disk.mount.rmdir()
            (self.root / "data.kept").rename(self.disk.mount)
        elif not keep:
            shutil.rmtree(self.root)

    # Faults.

    def disturb(self) -> None:
        ends = time.monotonic() + self.plan.seconds
        while time.monotonic() < ends or (not self.did_enough() and time.monotonic() < ends + MORE_SECONDS):
            if self.work.failure:
                raise self.work.failure
            for slot in self.slots:
                if slot.server is None or not slot.server.runs():
                    self.start(slot)
            slot = self.random.choice(self.slots)
            self.wait_for_a_moment(slot)
            dice = self.random.random()
            if dice < 0.82:
                self.kill(slot)
            elif dice < 0.90:
                self.terminate(slot)
            elif dice < 0.96 or not self.disk.mounted:
                self.pause(slot)
            else:
                self.fill()

    def did_enough(self) -> bool:
        counts = self.history.counts
        faults = counts["kill"] + counts["pause"] + counts["terminate"]
        return faults >= LEAST_FAULTS and counts["sent ingest"] >= LEAST_JOBS

    def wait_for_a_moment(self, slot: Slot) -> None:
        """Waits for a random time: mostly from when the process works, sometimes while it starts."""
        if self.random.random() < 0.85:
            while slot.server.runs() and "working;" not in slot.server.text():
                time.sleep(0.002)
            time.sleep(min(self.random.expovariate(1 / 0.35), 3))
        else:
            time.sleep(self.random.uniform(0, 0.08))

    def start(self, slot: Slot) -> None:
        self.check_end(slot)
        offset = self.random.randint(-600, 600) if self.plan.skews_clocks and self.random.random() < 0.5 else 0
        self.largest_offset = max(self.largest_offset, offset)
        slot.server = self.instance.start("serve", **{CLOCK_OFFSET: str(offset)})
        slot.began = time.monotonic()
        self.history.add("start", log=slot.server.log.name, pid=slot.server.process.pid, clock=offset)

    def check_end(self, slot: Slot) -> None:
        """Checks that a process that has ended had a reason: a fault, or a full disk."""
        if slot.server is None:
            return
        code = slot.server.process.returncode
        text = slot.server.text()
        self.history.add("ended", log=slot.server.log.name, code=code)
        assert "panicked" not in text, f"a panic in {slot.server.log}: {text}"
        fine = code == -signal.SIGKILL or (code == UNAVAILABLE and self.disk.was_full_since(slot.began))
        assert fine, f"{slot.server.log.name} ended with exit code {code}: {text}"
        slot.server = None

    def kill(self, slot: Slot) -> None:
        self.history.add("kill", log=slot.server.log.name)
        if slot.server.runs():
            slot.server.kill()
        self.check_end(slot)

    def terminate(self, slot: Slot) -> None:
        """Asks to stop, and sometimes kills on the way."""
        server = slot.server
        self.history.add("terminate", log=server.log.name)
        if not server.runs():
            self.check_end(slot)
            return
        works = "working;" in server.text()
        server.ask_to_stop()
        if self.random.random() < 0.3:
            time.sleep(self.random.uniform(0, 0.3))
            server.process.kill()
            server.process.wait()
            slot.server = None
            return
        code = server.process.wait(timeout=120)
        fine = code == 0 or (not works and code == -signal.SIGTERM) or self.disk.was_full_since(slot.began)
        assert fine, f"{server.log.name} ended with exit code {code} when asked to stop: {server.text()}"
        slot.server = None

    def pause(self, slot: Slot) -> None:
        """Freezes a process until its messages are delivered again; then it goes on, or dies."""
        if not slot.server.runs():
            return
        visibility = float(self.plan.properties["queue.visibility.timeout.seconds"])
        seconds = visibility * self.random.uniform(0.5, 2)
        self.history.add("pause", log=slot.server.log.name, seconds=seconds)
        slot.server.pause()
        time.sleep(seconds)
        if self.random.random() < 0.3:
            self.kill(slot)
        else:
            slot.server.resume()

    def fill(self) -> None:
        """Fills the disk for a while, with kills going on."""
        self.history.add("fill")
        self.disk.fill()
        try:
            for _ in range(self.random.randint(1, 4)):
                slot = self.random.choice(self.slots)
                time.sleep(self.random.uniform(0.1, 0.8))
                if self.random.random() < 0.5:
                    self.kill(slot)
                if slot.server is None or not slot.server.runs():
                    self.start(slot)
        finally:
            self.disk.free()
            self.history.add("free")

    # Quiet.

    def calm(self) -> None:
        """Ends the faults: with every process and command at rest, nothing more is asked for."""
        self.work.done.set()
        self.disk.free()
        self.work.join(timeout=120)
        assert not self.work.is_alive(), "a command hangs"
        if self.work.failure:
            raise self.work.failure
        for slot in self.slots:
            if slot.server:
                self.kill(slot)
        self.instance.configure(gc_orphan_age_hours="24", worker_drain_seconds="60")
        self.history.add("calm")

    def drain(self) -> None:
        """Lets processes that nobody disturbs do all that is left; what was given up is sent back."""
        # What a process with its clock ahead has hidden stays hidden until that time has come.
        offset = str(self.largest_offset)
        servers = [self.instance.start("serve", **{CLOCK_OFFSET: offset}).wait_until_works() for _ in self.slots]
        self.work.finish()
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            left = unsettled(self.work.ledger, self.instance.json("jobs", "list", "--limit", "1000000"))
            depths = self.instance.depths()
            if not left and not depths:
                break
            assert time.monotonic() < deadline, f"not done {DRAIN_SECONDS:.0f} s after the faults: {left}, {depths}"
            if any(dead for _, _, dead in depths.values()):
                self.work.redrive()
            time.sleep(0.1)
        for server in servers:
            assert server.runs(), f"{server.log.name} ended by itself: {server.text()}"
            assert server.stop() == 0, server.text()
        self.history.add("drained")
