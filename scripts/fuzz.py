"""Runs fuzz targets side by side and adds up what they did. Started by scripts/fuzz."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

CORPUS = pathlib.Path("crates/fuzz/corpus")
CACHE = pathlib.Path(os.environ["DORMOUSE_CACHE"]) / "fuzz"
TARGETS = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
MEMORY_LIMIT_MB = 1024
TIME_LIMIT_SECONDS = 5


def crashes(target):
    return {path.name for path in (CORPUS / target).glob("crash-*")}


def with_coverage(target, seconds, seed):
    """libFuzzer, which begins with the corpus and keeps what reaches new code in the cache."""
    found = CACHE / target
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        str(pathlib.Path(os.environ["DORMOUSE_FUZZ_BINARIES"]) / target),
        f"-max_total_time={seconds}",
        f"-timeout={TIME_LIMIT_SECONDS}",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-malloc_limit_mb={MEMORY_LIMIT_MB // 2}",
        f"-artifact_prefix={CORPUS / target}/crash-",
        f"-seed={seed}",
        "-max_len=65536",
        "-print_final_stats=1",
        str(found),
        str(CORPUS / target),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, errors="replace")
    statistic = lambda name: int((re.findall(rf"{name}:\s*(\d+)", done.stderr) or [0])[-1])
    return done, statistic("number_of_executed_units"), statistic("peak_rss_mb") << 20


def with_mutations(target, seconds, seed):
    """The tests of the crate, which follow from a seed."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            **os.environ,
            "DORMOUSE_FUZZ_SECONDS": str(seconds),
            "DORMOUSE_FUZZ_SEED": str(seed),
            "DORMOUSE_FUZZ_REPORT": directory,
        }
        arguments = [os.environ["DORMOUSE_FUZZ_TESTS"], "--exact", target, "--nocapture"]
        done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", env=environment)
        reports = [json.loads(path.read_text()) for path in pathlib.Path(directory).glob("*.json")]
    report = reports[0] if reports else {"inputs": 0, "peakRssBytes": 0}
    return done, report["inputs"], report["peakRssBytes"]


def fuzz(target, seconds, seed):
    run = with_coverage if "DORMOUSE_FUZZ_BINARIES" in os.environ else with_mutations
    before, begin = crashes(target), time.monotonic()
    done, inputs, peak = run(target, seconds, seed)
    result = {
        "target": target,
        "inputs": inputs,
        "seconds": round(time.monotonic() - begin, 1),
        "crashes": sorted(crashes(target) - before),
        "failed": done.returncode != 0,
        "peakRssBytes": peak,
    }
    print_result(result)
    if result["failed"]:
        print("\n".join((done.stdout + done.stderr).splitlines()[-40:]), file=sys.stderr)
    return result


def print_result(result):
    state = "FAILED " + " ".join(result["crashes"]) if result["failed"] else "ok"
    print(
        f"{result['target']:<12} {result['inputs']:>12,} inputs {result['seconds']:>8.1f} s "
        f"{result['peakRssBytes'] >> 20:>6} MiB  {state}",
        file=sys.stderr,
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; the targets are {', '.join(TARGETS)}")
    targets = arguments.targets or TARGETS
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = [pool.submit(fuzz, target, arguments.seconds, arguments.seed) for target in targets]
        results = [run.result() for run in runs]
    total = {
        "inputs": sum(result["inputs"] for result in results),
        "crashes": sum(len(result["crashes"]) for result in results),
        "failed": [result["target"] for result in results if result["failed"]],
    }
    print(f"{'total':<12} {total['inputs']:>12,} inputs, {total['crashes']} crashes kept", file=sys.stderr)
    if arguments.format == "json":
        print(json.dumps({"targets": results, "total": total}, indent=2))
    sys.exit(1 if total["failed"] else 0)


if __name__ == "__main__":
    main()
