"""Kill two of three beats at random, for minutes, and count the ticks: each must have been sent exactly once.

    python benchmarks/beat_failover.py --minutes 5 [--broker redis://...] [--lease 5] [--entries 10]

Without --broker it starts a Redis server of its own. Needs the tests' directory beside it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chaos.beats import Crowd, missing_and_double, sent
from tests.servers import RedisServer
from tests.workers import eventually


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--broker")
    parser.add_argument("--lease", type=float, default=5.0)
    parser.add_argument("--entries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    server = None if given.broker else RedisServer()
    url = given.broker or f"{server.url}"  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as directory:
        crowd = Crowd(Path(directory), url, lease_s=given.lease, entries=given.entries)
        try:
            eventually(lambda: len(sent(url)) == given.entries, "the first tick of every entry")
            crowd.trouble(given.minutes * 60, random.Random(given.seed), (0.5, given.lease * 1.5))
            until_ms = time.time() * 1000
            eventually(lambda: all(dues[-1] >= until_ms for dues in sent(url).values()), "a tick of every entry after the trouble")
            found = sent(url)
        finally:
            crowd.close()
            if server is not None:
                server.stop()
    ticks = sum(map(len, found.values()))
    wrong = [missing_and_double(dues, 1000) for dues in found.values()]
    missing, double = sum(one for one, _ in wrong), sum(one for _, one in wrong)
    print(f"seed {given.seed}: {crowd.kills} beats killed, {crowd.terms} ended in order, {ticks} ticks of {len(found)} entries")
    print(f"missing {missing}, sent twice {double}")
    return 1 if missing or double else 0


if __name__ == "__main__":
    sys.exit(main())
