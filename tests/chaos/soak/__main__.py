"""``python -m tests.chaos.soak --minutes 10``: exit code 1 if a law did not hold; the logs are kept then."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.chaos.soak import report
from tests.chaos.soak.site import Plan, soak
from tests.workers import POOLS

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of faults and workload; any is taken and printed without it")
    parser.add_argument("--pools", default=" ".join(POOLS), help="pool names, a node each; one may come several times")
    parser.add_argument("--broker", choices=("redis", "sqlite"), default="redis")
    parser.add_argument("--every", type=float, default=5, help="seconds from fault to fault")
    parser.add_argument("--unfinished", type=int, default=20_000, help="tasks under way at most")
    parser.add_argument("--poison-every", type=float, default=8, help="seconds from one poisonous task to the next; 0: none")
    parser.add_argument("--steer-every", type=float, default=0.5, help="seconds from one command to the nodes to the next")
    parser.add_argument("--no-steer", action="store_true", help="leave the nodes alone: no commands, pauses, events, scrapes")
    parser.add_argument("--beats", type=int, default=2, help="beats that share a timetable; 0: no periodic tasks")
    parser.add_argument("--only", default="", help="names of faults, with commas between; all without it")
    parser.add_argument("--folder", type=Path, default=None, help="where logs, records and the broker's files go; must not exist")
    parser.add_argument("--results", type=Path, default=None, help="where soak-*.json goes; nowhere without it")
    parser.add_argument("--keep", action="store_true", help="keep the folder even if every law held")
    parser.add_argument("--table", nargs="+", type=Path, help="only print these results as a Markdown table")
    arguments = parser.parse_args()
    if arguments.table:
        print(report.markdown(json.loads(path.read_text()) for path in arguments.table), end="")
        return 0
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fastq-soak-")) / "soak"
    pools = tuple(arguments.pools.replace(",", " ").split())
    if unknown := set(pools) - set(POOLS):
        parser.error(f"unknown pools: {', '.join(sorted(unknown))}; there are {', '.join(POOLS)}")
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    only = tuple(name.strip() for name in arguments.only.split(",") if name.strip())
    plan = Plan(
        folder,
        arguments.minutes * 60,
        seed,
        pools,
        arguments.broker,
        every_s=arguments.every,
        unfinished=arguments.unfinished,
        poison_every_s=arguments.poison_every,
        only=only,
        steer_every_s=0.0 if arguments.no_steer else arguments.steer_every,
        beats=arguments.beats,
    )
    result = soak(plan, partial(print, flush=True))
    text = json.dumps(result, indent=1)
    (folder / "result.json").write_text(text)
    if arguments.results is not None:
        name = f"soak-{time.strftime('%Y-%m-%dT%H%M')}-{arguments.broker}-{'mixed' if len(set(pools)) > 1 else pools[0]}.json"
        (arguments.results / name).write_text(text)
        print(f"written: {arguments.results / name}")
    for law in result["broken"]:
        print(f"BROKEN  {law}")
    if result["broken"] or arguments.keep:
        print(f"kept: {folder}")
        return bool(result["broken"])
    shutil.rmtree(folder if arguments.folder else folder.parent)
    print("every law held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
