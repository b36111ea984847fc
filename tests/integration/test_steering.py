"""A node is resized, told to take from other queues, and given other limits while it works: nothing is lost, or runs twice."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastq.transports import open_inspector
from tests.integration.conftest import TASKS, ran
from tests.workers import Worker, eventually

MORE = '''

@app.task(bind=True, ignore_result=True)
def tick(self, i, ms=0):
    """Note each run, and how often it was charged before, in one file."""
    time.sleep(ms / 1000)
    fd = os.open(os.path.join(FOLDER, "ticks"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(fd, b"%d %d\\n" % (i, self.request.deliveries))
    os.close(fd)
'''

ONE_BROKER = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)


@pytest.fixture
def module(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    (tmp_path / "tasks.py").write_text(TASKS + MORE)
    exec(compile(MORE, str(tmp_path / "tasks.py"), "exec"), tasks.__dict__)
    return tasks


def teller(module: ModuleType, node: str) -> Callable[..., Any]:
    """Return what sends one command to one node and returns its reply."""

    def tell(method: str, **arguments: Any) -> Any:
        replies = module.app.control.broadcast(method, arguments=arguments, destination=[node], reply=True, timeout=20, limit=1)
        assert replies and list(replies[0]) == [node], replies
        return replies[0][node]

    return tell


def ticks(folder: Path) -> list[tuple[int, int]]:
    path = folder / "ticks"
    text = path.read_text() if path.exists() else ""
    rows = text.rpartition("\n")[0].splitlines()  # a line may just be written
    return [(int(number), int(charged)) for number, charged in map(str.split, rows)]


@pytest.mark.parametrize(("pool", "total"), [("prefork", 5_000), ("threads", 5_000), ("asyncio", 1_000)])
@ONE_BROKER
def test_a_node_that_changes_all_the_time_runs_everything_once(
    pool: str, total: int, module: ModuleType, folder: Path, tmp_path: Path
) -> None:
    chance = random.Random(pool)
    with Worker(tmp_path, "-P", pool, "-c", "3", "-n", "w@h", "-l", "INFO", "-Q", "default,b").wait_ready() as worker:
        tell = teller(module, "w@h")
        for queue in ("default", "b"):
            module.tick.delay_many([(i, i % 3) for i in range(total) if (i % 2 == 0) == (queue == "b")], queue=queue)
        said: Counter[str] = Counter()
        ended = {"pool_grow ok", "pool_shrink ok", "cancel_consumer ok"}
        # until each has been done once: where answers are slow, the tasks may all have run before
        while (done := len(ticks(folder))) < total * 0.9 or not ended <= set(said):
            method, arguments = chance.choice(
                [
                    ("pool_grow", {"n": chance.randint(1, 3)}),
                    ("pool_shrink", {"n": chance.randint(1, 3)}),
                    ("add_consumer", {"queue": "b"}),
                    ("cancel_consumer", {"queue": "b"}),
                    ("add_consumer", {"queue": "c"}),
                    ("cancel_consumer", {"queue": "c"}),
                    ("rate_limit", {"task_name": "tasks.tick", "rate_limit": chance.choice(["1/h", "5000/s", 0])}),
                ]
            )
            reply = tell(method, **arguments)
            said[f"{method} {next(iter(reply))}"] += 1
        for queue in ("b", "c"):
            tell("add_consumer", queue=queue)
        assert tell("rate_limit", task_name="tasks.tick", rate_limit=0)["ok"]
        eventually(
            lambda: len(ticks(folder)) >= total,
            lambda: f"all runs; {len(ticks(folder))} of {total}, {done}, {said}\n{worker.log}",
        )
        assert worker.terminate() == 0
    runs = ticks(folder)
    assert Counter(number for number, _ in runs) == Counter(range(total))
    assert not [row for row in runs if row[1]], "charged"
    assert "Traceback" not in worker.log and "changed nothing" not in worker.log and "exited with" not in worker.log, worker.log


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@ONE_BROKER
def test_a_node_grows_with_what_waits_and_shrinks_when_it_is_idle(
    pool: str, module: ModuleType, folder: Path, tmp_path: Path
) -> None:
    options = ("-P", pool, "--autoscale", "4,1", "-n", "w@h", "-l", "INFO")
    with Worker(tmp_path, *options, env={"AUTOSCALE_KEEPALIVE": "1"}).wait_ready() as worker:
        assert f".> concurrency: {{min=1, max=4}} ({pool})" in worker.log
        module.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "the first run")
        assert "Scaling" not in worker.log, "nothing waits"
        for _ in range(5):
            module.wait_for.delay("gate")
        eventually(lambda: len(ran(folder, "waiting-gate")) == 4, lambda: f"four at once\n{worker.log}")
        # in one step or several: it may look while they are being sent, or given to slots
        assert re.search(r"Scaling up \d .*, to 4: ", worker.log)
        (folder / "gate").touch()
        eventually(lambda: len(ran(folder, "waited-gate")) == 6, "the end of all")
        eventually(lambda: re.search(r"Scaling down \d .*, to 1: ", worker.log), lambda: f"the least\n{worker.log}")
        if pool == "prefork":
            eventually(lambda: len(worker.pool_pids()) == 1, "one process")
        tell = teller(module, "w@h")
        assert tell("autoscale", max=6, min=2) == {"ok": "autoscale now max=6 min=2"}
        assert tell("pool_grow", n=5) == {"ok": "pool will grow"}
        assert len(ran(folder, "waiting-gate")) == 6, "each once"
        assert worker.terminate() == 0


def listeners(module: ModuleType, queue: str) -> list[str]:
    inspector = open_inspector(module.app.broker_url, module.app.transport_options())
    try:
        return inspector.listeners(queue)
    finally:
        inspector.close()


def test_a_node_takes_from_more_queues_and_from_fewer_and_limits_tasks_anew(
    module: ModuleType, folder: Path, tmp_path: Path
) -> None:
    with Worker(tmp_path, "-c", "2", "-n", "w@h", "-l", "INFO").wait_ready() as worker:
        tell = teller(module, "w@h")
        assert tell("add_consumer", queue="mail") == {"ok": "add consumer mail"}
        assert tell("add_consumer", queue="mail") == {"ok": "already consuming from 'mail'"}
        assert len(listeners(module, "mail")) == 2
        gated = module.wait_for.apply_async(("gate",), queue="mail")
        eventually(lambda: ran(folder, "waiting-gate"), "a run from the new queue")
        assert tell("cancel_consumer", queue="mail") == {"ok": "no longer consuming from mail"}
        late = module.add.apply_async((1, 2), queue="mail")
        assert module.add.delay(1, 2).get(timeout=20) == 3
        assert listeners(module, "mail"), "its leases are kept while a task from there runs"
        (folder / "gate").touch()
        assert gated.get(timeout=20) == "gate"
        eventually(lambda: not listeners(module, "mail"), "the end of the leases")
        assert late.state == "PENDING"
        assert tell("add_consumer", queue="mail") == {"ok": "add consumer mail"}
        assert late.get(timeout=20) == 3, "taken under new names"
        # with no queue at all it lives on
        assert tell("cancel_consumer", queue="mail")["ok"] and tell("cancel_consumer", queue="default")["ok"]
        rested = module.add.delay(3, 4)
        eventually(lambda: not listeners(module, "default"), "rest")
        assert rested.state == "PENDING"
        assert tell("add_consumer", queue="default") == {"ok": "add consumer default"}
        assert rested.get(timeout=20) == 7

        assert tell("rate_limit", task_name="tasks.ad", rate_limit="1/s") == {"error": "unknown task (did you mean 'tasks.add'?)"}
        assert "expected a number of tasks a second" in tell("rate_limit", task_name="tasks.add", rate_limit="soon")["error"]
        assert tell("rate_limit", task_name="tasks.add", rate_limit="5/s") == {"ok": "new rate limit set successfully"}
        began = time.monotonic()
        limited = [module.add.delay(i, i) for i in range(4)]
        assert [result.get(timeout=20) for result in limited] == [0, 2, 4, 6]
        assert time.monotonic() - began > 0.5
        assert tell("rate_limit", task_name="tasks.add", rate_limit=0) == {"ok": "rate limit disabled successfully"}

        assert tell("time_limit", task_name="tasks.hold", hard=0.3) == {"ok": "time limits set successfully"}
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            module.hold.delay("never").get(timeout=20)
        # also in a process that was started since
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            module.hold.delay("never").get(timeout=20)
        assert tell("time_limit", task_name="tasks.hold", soft=2, hard=1)["error"].startswith("soft=2 is not less than hard=1")
        assert tell("pool_shrink", n=2)["error"].startswith("the pool has 2, so this would leave 0")
        assert worker.terminate() == 0


@ONE_BROKER
def test_solo_changes_its_queues_while_a_task_runs_and_cannot_be_resized(module: ModuleType, folder: Path, tmp_path: Path) -> None:
    with Worker(tmp_path, "-P", "solo", "-n", "w@h").wait_ready() as worker:
        tell = teller(module, "w@h")
        module.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "a run")
        assert tell("add_consumer", queue="mail") == {"ok": "add consumer mail"}
        assert tell("cancel_consumer", queue="default") == {"ok": "no longer consuming from default"}
        assert "the solo pool runs one task at a time" in tell("pool_grow")["error"]
        assert "the solo pool runs one task at a time" in tell("autoscale", max=3, min=1)["error"]
        assert tell("time_limit", task_name="tasks.hold", soft=0.2) == {"ok": "time limits set successfully"}
        sent = module.add.apply_async((1, 2), queue="mail")
        (folder / "gate").touch()
        assert sent.get(timeout=20) == 3
        eventually(lambda: not listeners(module, "default"), "the end of the leases")
        with pytest.raises(Exception, match="SoftTimeLimitExceeded"):
            module.hold.apply_async(("never",), queue="mail").get(timeout=20)
        assert worker.terminate() == 0


#: so many calls of a limited task, of which the first runs at once
CALLS = 5


def delayed(module: ModuleType) -> int:
    inspector = open_inspector(module.app.broker_url, module.app.transport_options())
    try:
        return inspector.depth("default")["delayed"]
    finally:
        inspector.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet", "asyncio", "solo"])
def test_a_new_rate_limit_holds_at_once_for_what_already_waits_under_another(
    pool: str, module: ModuleType, folder: Path, tmp_path: Path
) -> None:
    with Worker(tmp_path, "-P", pool, *(() if pool == "solo" else ("-c", "2")), "-n", "w@h", "-l", "INFO").wait_ready() as worker:
        tell = teller(module, "w@h")
        sent: Counter[int] = Counter()

        def limit(rate: str | int) -> None:
            done = "new rate limit set" if rate else "rate limit disabled"
            assert tell("rate_limit", task_name="tasks.tick", rate_limit=rate) == {"ok": f"{done} successfully"}

        def send(number: int) -> None:
            """Call it so often that one runs and the others wait: for hours, and longer than any test."""
            for _ in range(CALLS):
                module.tick.delay(number)
            sent[number] = CALLS
            eventually(lambda: delayed(module) == later + CALLS - 1, lambda: f"turns\n{worker.log}")
            eventually(lambda: runs()[number] == 1, "the first of them")

        def runs() -> Counter[int]:
            return Counter(number for number, _ in ticks(folder))

        later = 2
        module.tick.apply_async((99,), countdown=3_600)
        module.add.apply_async((1, 2), countdown=3_600)
        limit("1/h")
        send(1)
        limit(0)
        eventually(lambda: runs() == sent, lambda: f"all, without a limit: {runs()}\n{worker.log}")
        # the turns that were taken before do not count
        limit("1/h")
        send(2)
        limit("20/s")
        began = time.monotonic()
        eventually(lambda: runs() == sent, lambda: f"all, under the higher limit: {runs()}\n{worker.log}")
        assert time.monotonic() - began > 0.05, "not at once"
        limit("1/h")
        send(3)
        limit("2/h")
        eventually(lambda: runs()[3] == 2, lambda: f"one at once, under yet another: {runs()}\n{worker.log}")
        eventually(lambda: delayed(module) == later + CALLS - 2, "the others")
        limit("2/h")
        limit(0)
        eventually(lambda: runs() == sent, lambda: f"all: {runs()}\n{worker.log}")
        assert delayed(module) == later, "an eta is no turn"
        assert worker.terminate() == 0
    assert not [row for row in ticks(folder) if row[1]], "charged"
    assert "Traceback" not in worker.log, worker.log
