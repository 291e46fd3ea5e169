"""Measures commits a second on emulators of AWS, beside the floors that Sleeper's own tests ask of it on AWS.

Each case is a process of its own, three times; medians are told.
"""

from __future__ import annotations

import json
import statistics
import subprocess

INSTANCE = "bench"
ROUNDS = 3

# What Sleeper's StateStoreCommitterThroughputST asserts, commits a second: by its Lambda, by its committer on EC2.
CASES = [
    ("one table, log only", ["10000", "1"], 50, 100),
    ("one table, with the tracker", ["10000", "1", "--tracked"], 35, 100),
    ("ten tables together", ["10000", "10"], 200, 3000),
]


def rate(mode: str, options: list[str]) -> dict:
    done = subprocess.run(["commit_rate", INSTANCE, mode, *options], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    subprocess.run(["dormouse", "--instance", INSTANCE, "instance", "init"], check=True, stdout=subprocess.DEVNULL)
    print(f"{'':30}{'direct':>10}{'queued':>10}{'a transaction':>15}{'Sleeper Lambda':>16}{'EC2':>8}")
    for name, options, by_lambda, by_ec2 in CASES:
        direct, queued = ([rate(mode, options) for _ in range(ROUNDS)] for mode in ("direct", "queued"))
        median = lambda runs, what="commitsPerSecond": statistics.median(run[what] for run in runs)  # noqa: E731
        grouped = median(queued, "commitsPerTransaction")
        print(f"{name:30}{median(direct):10,.0f}{median(queued):10,.0f}{grouped:15,.0f}{by_lambda:>16,}{by_ec2:>8,}")


if __name__ == "__main__":
    main()
