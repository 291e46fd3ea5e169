"""Chaos: the binary at work on real directories, while processes are killed, frozen and stopped, clocks are wrong and
the disk is full; then everything must be there, once. Run by scripts/chaos."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import duckdb
from chaos_episode import Episode, Plan


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1, help="how long; the episode under way is ended (1)")
    parser.add_argument("--episodes", type=int, help="so many episodes, instead of --minutes")
    parser.add_argument("--seed", type=int, help="the first episode's; the next one's is one more")
    parser.add_argument("--processes", type=int, choices=[1, 2, 3], help="on one directory (by the seed)")
    parser.add_argument("--episode-seconds", type=float, default=25, help="how long one episode has faults (25)")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    return parser.parse_args()


def main() -> int:
    args = parse()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1_000_000)
    duckdb.execute("SET threads = 1")
    began = time.monotonic()
    totals: Counter[str] = Counter({"episodes": 0})
    print(f"seed {seed}", file=sys.stderr)
    while totals["episodes"] < args.episodes if args.episodes else time.monotonic() - began < args.minutes * 60:
        left = args.minutes * 60 - (time.monotonic() - began)
        seconds = args.episode_seconds if args.episodes else min(args.episode_seconds, max(left, 5))
        plan = Plan(seed + totals["episodes"], seconds, args.processes)
        root = Path(tempfile.mkdtemp(prefix="dormouse-chaos-"))
        episode = Episode(plan, root)
        passed = False
        try:
            done = episode.run()
            passed = True
        except BaseException as failure:
            if not isinstance(failure, KeyboardInterrupt):
                episode.history.add("violation", text=str(failure), trace=traceback.format_exc())
                report_violation(plan, args, root, failure)
            return 1
        finally:
            episode.close(keep=not passed)
        totals["episodes"] += 1
        totals["without a full disk"] += plan.fills_disk and not episode.mountable
        totals.update(done)
        print(f"episode {plan.seed}: {describe(plan)}: {done}", file=sys.stderr)
    totals["seconds"] = round(time.monotonic() - began)
    report(totals, args.format)
    return 0


def describe(plan: Plan) -> str:
    mode = plan.properties["table.commit.mode"]
    return f"{plan.processes} processes, {mode} commits{', clocks' if plan.skews_clocks else ''}"


def report_violation(plan: Plan, args: argparse.Namespace, root: Path, failure: BaseException) -> None:
    traceback.print_exc()
    replay = f"scripts/chaos --seed {plan.seed} --episodes 1 --episode-seconds {plan.seconds:g}"
    if args.processes:
        replay += f" --processes {args.processes}"
    found = {"violation": str(failure), "seed": plan.seed, "replay": replay, "kept": str(root)}
    if args.format == "json":
        print(json.dumps(found))
    else:
        print(f"\nVIOLATION in the episode of seed {plan.seed}: {failure}\nreplay: {replay}\nkept: {root}")


def report(totals: Counter[str], form: str) -> None:
    first = ["seconds", "episodes"]
    rows = {key: totals[key] for key in [*first, *(key for key in totals if key not in first)]}
    # Any lost or doubled row ends the run before this.
    rows |= {"lost": 0, "doubled": 0}
    if form == "json":
        print(json.dumps(rows))
        return
    for key, value in rows.items():
        print(f"{key:<22}{value:>12,}")


if __name__ == "__main__":
    sys.exit(main())
