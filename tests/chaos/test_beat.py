"""Beats that are killed at random: every tick is sent exactly once."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.chaos.beats import Crowd, missing_and_double, sent
from tests.workers import eventually


def test_every_tick_is_sent_once_while_two_of_three_beats_are_killed(tmp_path: Path, redis_url: str) -> None:
    seed = random.randrange(1_000_000)
    crowd = Crowd(tmp_path, redis_url, lease_s=0.6)
    try:
        eventually(lambda: len(sent(redis_url)) == 5, "the first tick of every entry")
        crowd.trouble(8.0, random.Random(seed), (0.2, 0.9))
        until_ms = time.time() * 1000
        eventually(lambda: all(dues[-1] >= until_ms for dues in sent(redis_url).values()), "a tick of each after the trouble")
        found = sent(redis_url)
        wrong = {name: seen for name, dues in found.items() if (seen := missing_and_double(dues, 1000)) != (0, 0)}
        assert len(found) == 5
        assert not wrong, f"seed {seed}, {crowd.kills} kills"
        assert all(dues == sorted(dues) for dues in found.values())
    finally:
        crowd.close()
