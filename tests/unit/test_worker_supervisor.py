"""A whole node with fake processes: starting, replacing, stopping, and who dies with whom."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers import children, eventually

ROOT = Path(__file__).parents[2]


class House:
    def __init__(self, folder: Path, scenario: str = "", *, pool: str = "", setting: str = "prefork") -> None:
        self.log_path = folder / "log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FASTQ_TEST_SCENARIO": scenario,
            "FASTQ_TEST_POOL": setting,
            "FASTQ_TEST_CURED": str(folder / "cured"),
        }
        command = [sys.executable, "-m", "tests.unit.worker_house", "run", *([pool] if pool else [])]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the log matches so often; return the matches (of the group, if there is one)."""

        def said() -> bool:
            return len(re.findall(pattern, self.log)) >= times or self.process.poll() is not None

        try:
            eventually(said, f"{pattern!r} {times} times")
        except AssertionError as exc:
            raise AssertionError(f"{exc}, in\n{self.log}") from None
        found = re.findall(pattern, self.log)
        assert len(found) >= times, self.log
        return found

    def ready(self) -> House:
        self.wait(r"n@h ready\.")
        return self

    def workers(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"alive \d+ (\d+)", self.log)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        os.kill(self.pid, number)
        return self.process.wait(30)

    def close(self) -> None:
        pids = children(self.pid) if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        for pid in pids:
            eventually(lambda pid=pid: is_gone(pid), f"process {pid} dies with its supervisor")  # type: ignore[misc]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def house(tmp_path: Path) -> Iterator[type[House]]:
    opened: list[House] = []

    class Opened(House):
        def __init__(self, scenario: str = "", *, pool: str = "", setting: str = "prefork") -> None:
            super().__init__(tmp_path, scenario, pool=pool, setting=setting)
            opened.append(self)

    yield Opened  # type: ignore[misc]
    for one in opened:
        one.close()


def test_a_node_starts_and_stops_warm(house: type[House]) -> None:
    node = house().ready()
    alive = re.findall(r"alive (\d) (\d+) (\d+) (\S+)", node.log)
    assert sorted((a[0], a[3]) for a in alive) == [("0", "ForkPoolWorker-1"), ("1", "ForkPoolWorker-2")]
    assert {a[2] for a in alive} == {str(node.pid)}, "workers are children of the supervisor"
    assert node.log.index(".> concurrency: 2 (prefork)") < node.log.index("Connected to redis://:**@localhost")
    assert node.stop() == 0
    assert "worker: Warm shutdown (MainProcess)" in node.log
    assert node.log.count("'stop': 'warm'") == 2
    entered = node.wait(r"entered (\S+)", 2)
    assert sorted(re.findall(r"condemned (\S+)", node.log)) == sorted(entered), "every lease goes at the end"
    assert "exited with" not in node.log


def test_a_process_starts_only_after_its_lease_is_entered(house: type[House]) -> None:
    node = house().ready()
    for name in node.wait(r"entered (\S+)", 2):
        told = node.wait(rf"told \d \{{'start': \{{'process': '{re.escape(name)}'")
        assert len(told) == 1
        assert node.log.index(f"entered {name}") < node.log.index(f"'process': '{name}'")


def test_a_killed_process_is_buried_and_replaced_under_a_new_name(house: type[House]) -> None:
    node = house().ready()
    os.kill(node.workers()[0], signal.SIGKILL)
    buried = node.wait(r"condemned (\S+)")
    names = node.wait(r"entered (\S+)", 3)
    node.wait(r"alive \d", 3)
    assert len(set(names)) == 3 and buried[0] in names[:2]
    node.wait(rf"Process 'ForkPoolWorker-\d' pid:{node.workers()[0]} exited with signal 9 \(SIGKILL\)")
    assert node.stop() == 0


def test_processes_die_with_their_supervisor(house: type[House]) -> None:
    node = house().ready()
    pids = children(node.pid)
    assert len(pids) == 3
    node.process.kill()
    node.process.wait(30)
    for pid in pids:
        eventually(lambda pid=pid: is_gone(pid), f"process {pid} is gone")  # type: ignore[misc]


def test_the_death_of_the_nursery_touches_no_worker(house: type[House]) -> None:
    node = house().ready()
    workers = node.workers()
    (nursery,) = set(children(node.pid)) - set(workers)
    os.kill(nursery, signal.SIGKILL)
    node.wait("The nursery died")
    os.kill(workers[0], signal.SIGKILL)
    node.wait(r"alive \d", 3)
    assert not is_gone(workers[1])
    node.wait(r"told \d \{'start'", 3)
    assert node.stop() == 0


def test_second_signal_kills_what_does_not_stop(house: type[House]) -> None:
    node = house("stubborn").ready()
    os.kill(node.pid, signal.SIGINT)
    node.wait(r"told \d \{'stop': 'warm'\}", 2)
    assert node.process.poll() is None, "warm waits for running tasks"
    assert node.stop(signal.SIGINT) == 1
    assert "worker: Cold shutdown (MainProcess)" in node.log
    assert all(is_gone(pid) for pid in node.workers())
    assert len(re.findall("condemned", node.log)) == 2


def test_interrupt_of_the_whole_terminal_leaves_stopping_to_the_supervisor(house: type[House]) -> None:
    node = house().ready()
    os.killpg(node.pid, signal.SIGINT)
    assert node.process.wait(30) == 0
    assert node.log.count("'stop': 'warm'") == 2 and "Traceback" not in node.log and "exited with" not in node.log


def test_a_process_that_asks_for_it_is_replaced_quietly(house: type[House]) -> None:
    node = house("recycle")
    node.wait(r"alive \d", 3)
    assert node.ready().stop() == 0
    assert "exited with" not in node.log


def test_a_fenced_process_gets_a_new_name(house: type[House]) -> None:
    node = house("fenced").ready()
    new = node.wait(r"told \d \{'process': '(\S+)'\}", 2)
    entered = node.wait(r"entered (\S+)", 4)
    assert set(new) < set(entered)
    assert node.stop() == 0
    assert set(re.findall(r"condemned (\S+)", node.log)) == set(entered)


def test_processes_that_die_young_are_started_ever_more_slowly(house: type[House], tmp_path: Path) -> None:
    node = house("young")
    node.wait(r"died young 4 times in a row, the next one starts in [\d.]+ s")
    (tmp_path / "cured").touch()
    assert node.ready().stop() == 0


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("no-app", "Error: no application was found"),
        ("broken-app", "ValueError: the module is broken"),
        ("no-broker", "Error: Cannot connect to redis://:**@localhost:6379/0: "),
        ("stillborn", "this process cannot live"),
    ],
)
def test_what_cannot_start_says_why_and_exits_1(house: type[House], scenario: str, said: str) -> None:
    node = house(scenario)
    assert node.process.wait(30) == 1
    assert said in node.log
    if scenario != "broken-app":
        assert "Traceback" not in node.log


def test_a_green_node_has_fresh_interpreters_and_no_nursery(house: type[House]) -> None:
    node = house(pool="gevent").ready()
    assert sorted(children(node.pid)) == sorted(node.workers())
    os.kill(node.workers()[0], signal.SIGKILL)
    node.wait(r"alive \d", 3)
    node.wait(r"told \d \{'start'", 3)
    assert node.stop() == 0


def test_a_green_pool_may_be_a_setting(house: type[House]) -> None:
    node = house(setting="gevent").ready()
    assert "GeventPoolWorker-1" in node.log
    assert sorted(children(node.pid)) == sorted(node.workers())
    assert node.stop() == 0


@pytest.mark.parametrize("how", [{"pool": "solo"}, {"setting": "solo"}])
def test_solo_runs_in_the_foreground_with_a_keeper_beside_it(house: type[House], how: dict[str, str]) -> None:
    node = house(**how).ready()
    assert node.workers() == [node.pid]
    node.wait(r"told 0 \{'start'")
    assert node.stop(signal.SIGINT) == 0
    assert len(re.findall("condemned", node.log)) == 1


def test_the_keeper_of_a_killed_solo_worker_hands_back_and_goes(house: type[House]) -> None:
    node = house(pool="solo").ready()
    (keeper,) = children(node.pid)
    node.wait(r"told 0 \{'start'")
    node.process.kill()
    node.process.wait(30)
    eventually(lambda: "condemned n@h" in node.log, "the lease goes")
    eventually(lambda: is_gone(keeper), "the keeper is gone")


def test_a_solo_worker_stops_when_its_keeper_dies(house: type[House]) -> None:
    node = house(pool="solo").ready()
    (keeper,) = children(node.pid)
    os.kill(keeper, signal.SIGKILL)
    assert node.process.wait(30) == 1


def test_second_signal_ends_a_busy_solo_worker(house: type[House]) -> None:
    node = house("stubborn", pool="solo").ready()
    os.kill(node.pid, signal.SIGINT)
    node.wait(r"told 0 \{'stop': 'warm'\}")
    assert node.stop(signal.SIGINT) == 1
    eventually(lambda: "condemned n@h" in node.log, "the lease goes")


def test_solo_without_a_broker_says_why_and_exits_1(house: type[House]) -> None:
    node = house("no-broker", pool="solo")
    assert node.process.wait(30) == 1
    assert "Error: Cannot connect" in node.log and "Traceback" not in node.log
