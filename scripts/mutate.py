"""Applies the changes of scripts/mutations.toml one at a time to a copy of the checkout, and runs the tests.

The tests are in layers, which run in order until one of them fails: that layer has found the change. A change that
every layer lets pass, or that an earlier layer was to find, fails the run. So does one that can no longer be applied.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ["DORMOUSE_CACHE"]) / "mutate"
COPY = CACHE / "checkout"
# Cargo tells checkouts apart by nothing but their target directories: broken code must not come into another's.
TARGET = CACHE / "target"
NOT_FOUND = "**not found**"
PYTEST = str(Path(os.environ["DORMOUSE_CACHE"]) / "venv" / "bin" / "pytest")
REPORT = ROOT / "docs" / "mutations.md"

# The longest that a layer may take; one that takes longer has found a change that makes something wait for ever.
LAYER_SECONDS = 300

SMALL = ["dormouse-core", "dormouse-jobs"]
SIMULATION = "simulation::two_thousand_seeds_break_no_promise_and_see_every_rare_event"
CRASH_POINTS = "crash_points::every_point_survives_a_crash_an_error_and_a_delay"
# These change with the code, whether it is right or wrong.
NO_FINDS = ["crash_points::every_point_is_listed", "simulation::"]


@dataclass(frozen=True)
class Layer:
    """Tests that run together."""

    name: str
    packages: list[str]
    targets: list[str]
    arguments: list[str]
    # Whether these are pytest's, which drive what is built.
    driven: bool = False


def skipping(*names: str) -> list[str]:
    return [argument for name in names for argument in ("--skip", name)]


LAYERS = [
    Layer("simulation", SMALL, ["--test=jobs"], ["--exact", SIMULATION]),
    Layer("tests", SMALL, ["--lib", "--test=core", "--test=jobs"], skipping(*NO_FINDS, CRASH_POINTS)),
    Layer("crash points", SMALL, ["--test=jobs"], ["--exact", CRASH_POINTS]),
    Layer("models", SMALL, ["--test=models"], []),
    Layer("simulation with Parquet", ["dormouse-cli"], ["--test=simulation"], []),
    Layer("engine tests", ["dormouse-engine"], ["--lib", "--tests"], []),
    Layer("local tests", ["dormouse-local"], ["--lib", "--tests"], []),
    Layer("power loss", ["dormouse-cli"], ["--bin=dormouse"], ["-xq", "system-tests/test_power_loss.py"], driven=True),
]
LAYER_NAMES = [layer.name for layer in LAYERS]


@dataclass(frozen=True)
class Edit:
    """A text that occurs once in a file, and what it becomes."""

    file: str
    find: str
    replace: str


@dataclass(frozen=True)
class Mutation:
    """A change that breaks something."""

    name: str
    why: str
    edits: list[Edit]
    layers: list[str]
    by: str


@dataclass
class Finding:
    """What became of a mutation."""

    name: str
    why: str
    by: str | None
    expected: str
    seeds: int | None
    seconds: float
    says: str


def read_mutations() -> list[Mutation]:
    with open(ROOT / "scripts" / "mutations.toml", "rb") as file:
        tables = tomllib.load(file)["mutation"]
    mutations = []
    for table in tables:
        edits = [Edit(**edit) for edit in table.get("edits", [])]
        if "find" in table:
            edits.append(Edit(table["file"], table["find"], table["replace"]))
        by = table["by"]
        layers = table.get("layers", LAYER_NAMES[:4])
        if unknown := {by, *layers} - set(LAYER_NAMES):
            sys.exit(f"{table['name']}: no layer is called {', '.join(unknown)}")
        mutations.append(Mutation(table["name"], table["why"], edits, layers, by))
    names = [mutation.name for mutation in mutations]
    if len(names) != len(set(names)):
        sys.exit("two mutations have the same name")
    return mutations


def write_if_other(path: Path, content: bytes) -> None:
    """Leaves a file that is as it should be alone, so that cargo does not build it again."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def copy_checkout() -> None:
    """Makes the copy what the checkout is, with changes that are not committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    COPY.mkdir(parents=True, exist_ok=True)
    for path in COPY.rglob("*"):
        if path.is_file() and str(path.relative_to(COPY)) not in names:
            path.unlink()
    for name in names:
        write_if_other(COPY / name, (ROOT / name).read_bytes())
        shutil.copymode(ROOT / name, COPY / name)


def mutated(mutation: Mutation, root: Path) -> dict[str, str]:
    """The files that a mutation changes, as they are with it."""
    files: dict[str, str] = {}
    for edit in mutation.edits:
        text = files.get(edit.file) or (root / edit.file).read_text()
        if (count := text.count(edit.find)) != 1:
            sys.exit(f"mutation {mutation.name} has rotted: its text occurs {count} times in {edit.file}:\n{edit.find}")
        files[edit.file] = text.replace(edit.find, edit.replace)
    return files


@dataclass(frozen=True)
class Program:
    """A built test program, and where it is to run."""

    path: str
    directory: Path
    environment: dict[str, str]


class DoesNotBuildError(Exception):
    """What the compiler says."""


def build(layer: Layer) -> list[Program]:
    """Builds the programs of a layer."""
    env = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    packages = [f"--package={package}" for package in layer.packages]
    work = ["build"] if layer.driven else ["test", "--no-run", "--all-features"]
    command = ["cargo", *work, "--locked", "--message-format=json", *packages]
    done = subprocess.run([*command, *layer.targets], cwd=COPY, env=env, capture_output=True, text=True)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0:
        rendered = (message["message"]["rendered"] for message in messages if message["reason"] == "compiler-message")
        raise DoesNotBuildError("".join(rendered) + done.stderr)
    built = [message for message in messages if message.get("executable")]
    if layer.driven:
        (binary,) = built
        return [Program(PYTEST, COPY, {"DORMOUSE_BIN": binary["executable"]})]
    built = (message for message in built if message["profile"]["test"])
    return [Program(message["executable"], Path(message["manifest_path"]).parent, {}) for message in built]


@dataclass
class Failure:
    """What a layer found."""

    seeds: int | None
    says: str


def first_match(pattern: str, text: str) -> re.Match[str] | None:
    return re.search(pattern, text, re.MULTILINE)


def read_failure(output: str) -> Failure | None:
    """What failed, in the words of the test that found it. That a crash point is not met any more is no find."""
    if seed := first_match(r"^seed (\d+) with .* rows:\n  (.*)", output):
        return Failure(int(seed[1]), seed[2])
    if first_match(r"^never came: ", output):
        return None
    if point := first_match(r'^(?:\d+ of \d+ runs: )?(\w+ (?:before|after) ".*?") #\d+: \[\n\s*"(.*)"', output):
        return Failure(None, f"{point[1]}: {point[2]}")
    if driven := first_match(r"^E +(.*)", output):
        return Failure(None, driven[1])
    tests = re.findall(r"^test (\S+) .*?\.\.\. FAILED$", output, re.MULTILINE)
    if not tests:
        tests = re.findall(r"^    (\S+)$", output.rpartition("failures:")[2], re.MULTILINE)
    says = first_match(r"panicked at .*\n(.*)", output)
    if len(tests) == 1 and says:
        return Failure(None, f"{tests[0]}: {says[1]}")
    if tests:
        return Failure(None, f"{tests[0]}" + (f" and {len(tests) - 1} more" if len(tests) > 1 else ""))
    return Failure(None, output.strip().splitlines()[-1] if output.strip() else "no output")


def run_program(program: Program, arguments: list[str], seeds: int, deadline: float) -> Failure | None:
    """Runs a test program. Nothing says that all is well."""
    env = {**os.environ, **program.environment, "DORMOUSE_SIMULATED_SEEDS": str(seeds), "RUST_BACKTRACE": "0"}
    command = [program.path, *arguments]
    with open(CACHE / "output.log", "wb+") as log:
        process = subprocess.Popen(
            command, cwd=program.directory, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(max(deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            return Failure(None, f"does not end within {LAYER_SECONDS} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        output = log.read().decode(errors="replace")
    return None if process.returncode == 0 else read_failure(output)


def run_layer(layer: Layer, seeds: int) -> tuple[Failure | None, float]:
    """Builds and runs a layer. Returns its failure and how long it ran."""
    programs = build(layer)
    began = time.monotonic()
    for program in programs:
        failure = run_program(program, layer.arguments, seeds, began + LAYER_SECONDS)
        if failure:
            return failure, time.monotonic() - began
    return None, time.monotonic() - began


def run_layers(names: list[str], seeds: int) -> tuple[str | None, Failure | None, float]:
    """Runs layers up to the first that fails. Returns its name, its failure, and how long all of them ran."""
    seconds = 0.0
    for layer in (layer for layer in LAYERS if layer.name in names):
        failure, took = run_layer(layer, seeds)
        seconds += took
        if failure:
            return layer.name, failure, seconds
    return None, None, seconds


def run_mutation(mutation: Mutation, seeds: int) -> Finding:
    """Applies a mutation, looks who finds it, and takes it back."""
    files = mutated(mutation, COPY)
    whole = {file: (COPY / file).read_text() for file in files}
    try:
        for file, text in files.items():
            (COPY / file).write_text(text)
        by, failure, seconds = run_layers(mutation.layers, seeds)
    except DoesNotBuildError as error:
        sys.exit(f"mutation {mutation.name} has rotted: it does not build\n{error}")
    finally:
        for file, text in whole.items():
            (COPY / file).write_text(text)
    says = failure.says if failure else ""
    found_after = failure.seeds if failure else None
    return Finding(mutation.name, mutation.why, by, mutation.by, found_after, round(seconds, 1), says)


def is_good(finding: Finding) -> bool:
    """Whether a mutation was found, and no later than it is expected to be."""
    return finding.by is not None and LAYER_NAMES.index(finding.by) <= LAYER_NAMES.index(finding.expected)


def verdict(finding: Finding) -> str:
    if finding.by is None:
        return "NOT FOUND"
    return finding.by if is_good(finding) else f"{finding.by} (LATE: {finding.expected} should)"


def row(finding: Finding) -> str:
    seeds = "" if finding.seeds is None else str(finding.seeds)
    return f"{finding.name:50} {verdict(finding):24} {seeds:>5} {finding.seconds:7.1f}  {finding.says[:150]}"


def escaped(text: str) -> str:
    """Text that can stand in a Markdown table: numbers that differ from run to run are no loss."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "…", text)
    text = text if len(text) <= 140 else text[:139] + "…"
    return text.replace("|", "\\|").replace("<", "\\<").replace("`", "'")


def line(finding: Finding) -> str:
    """A finding as a row of docs/mutations.md."""
    seed = "" if finding.seeds is None else str(finding.seeds)
    by = finding.by or NOT_FOUND
    cells = [finding.name, finding.why, by, seed, f"{finding.seconds:.0f}", escaped(finding.says)]
    return "| " + " | ".join(cells) + " |"


def page(lines: list[str], seeds: int) -> str:
    """docs/mutations.md."""
    found_by = [row.split(" | ")[2] for row in lines]
    counts = ", ".join(f"{found_by.count(name)} by the {name}" for name in LAYER_NAMES if name in found_by)
    return "\n".join([
        "# Seeded bugs",
        "",
        "Tests are worth what they notice. `scripts/mutate` breaks the code in one place at a time and runs the tests",
        "in layers, up to the first layer that fails. `scripts/mutations.toml` holds the changes; this page is written by",
        "`scripts/mutate --write`.",
        "",
        f"Found: {len(lines) - found_by.count(NOT_FOUND)} of {len(lines)}; {counts}. The simulation ran up to {seeds}",
        "seeds. A seed that finds a change is how many were run in order; the seconds are of running, without building.",
        "",
        "| Broken | What it would do | Found by | Seed | Seconds | In the words of the test |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
    ])


def write_page(known: list[str], findings: list[Finding], seeds: int) -> None:
    """Writes the findings to docs/mutations.md; of mutations that were not run, what is there stays."""
    rows = [row for row in REPORT.read_text().splitlines() if row.startswith("| ")][1:]
    lines = {row.split(" | ")[0].removeprefix("| "): row for row in rows}
    lines |= {finding.name: line(finding) for finding in findings}
    REPORT.write_text(page([lines[name] for name in known if name in lines], seeds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the mutations to run; all if none is named")
    parser.add_argument("--list", action="store_true", help="print the mutations and end")
    parser.add_argument("--check", action="store_true", help="say whether every change still fits the code, and end")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds the simulation may take (1000)")
    parser.add_argument("--layer", action="append", metavar="LAYER", help="run only this layer; may be given again")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    help_of_write = f"write {REPORT.relative_to(ROOT)}; the rows of mutations that are not run stay as they are"
    parser.add_argument("--write", action="store_true", help=help_of_write)
    parser.add_argument("--trust", action="store_true", help="do not run the tests on unbroken code first")
    options = parser.parse_args()

    mutations = read_mutations()
    known = [mutation.name for mutation in mutations]
    if unknown := set(options.names) - set(known):
        sys.exit(f"no mutation is called {', '.join(sorted(unknown))}; --list prints all")
    if options.names:
        mutations = [mutation for mutation in mutations if mutation.name in options.names]
    if unknown := set(options.layer or []) - set(LAYER_NAMES):
        sys.exit(f"no layer is called {', '.join(sorted(unknown))}; there are: {', '.join(LAYER_NAMES)}")
    if options.layer and options.write:
        sys.exit("the page is about all layers: --write takes no --layer")
    if options.layer:
        mutations = [replace(m, layers=[name for name in m.layers if name in options.layer]) for m in mutations]
    if options.list:
        for mutation in mutations:
            print(f"{mutation.name}\n    {mutation.why}")
        return
    for mutation in mutations:
        mutated(mutation, ROOT)
    if options.check:
        return

    copy_checkout()
    if not options.trust:
        needed = {name for mutation in mutations for name in mutation.layers}
        by, failure, seconds = run_layers(list(needed), options.seeds)
        if failure:
            sys.exit(f"the {by} fails without any mutation: {failure.says}")
        print(f"unbroken code passes in {seconds:.0f} s", file=sys.stderr)
    findings = []
    for mutation in mutations:
        finding = run_mutation(mutation, options.seeds)
        findings.append(finding)
        print(row(finding), file=sys.stderr if options.format == "json" else sys.stdout, flush=True)
    if options.format == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    if options.write:
        write_page(known, findings, options.seeds)
    bad = [finding for finding in findings if not is_good(finding)]
    print(f"{len(findings) - len(bad)} of {len(findings)} found as expected", file=sys.stderr)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
