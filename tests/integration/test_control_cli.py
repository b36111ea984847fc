"""``fastq inspect``, ``control`` and ``status`` against two real nodes, started once."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastq import FastQ
from fastq.cli import cli
from fastq.control.catalogue import ALIASES, KNOWN
from fastq.worker.control import Panel, commands
from tests.servers import RedisServer
from tests.workers import Worker, children, eventually

MODULE = '''
import time
from fastq import FastQ
from fastq.worker.control import control_command, inspect_command

app = FastQ("controlled", broker={url!r}, backend={url!r})
app.conf.worker_lease = 5


@app.task
def add(x, y):
    return x + y


@app.task
def nap(seconds):
    for _ in range(100 * seconds):  # a thread can be ended between two steps only
        time.sleep(0.01)


@inspect_command(args=[("n", int)], signature="[N=1]")
def count_to(state, n=1):
    """Count to N."""
    return list(range(1, n + 1))


@control_command(args=[("word", str)], default_timeout=20.0)
def shout(state, word):
    """Say a word aloud."""
    return {{"ok": word.upper()}}
'''

#: what only a worker imports: here nothing knows of it
EXTRAS = '''
import datetime
from fastq.worker.control import control_command, inspect_command


@inspect_command(args=[("day", datetime.date.fromisoformat), ("days", int)], signature="DAY [DAYS=1]", alias="after")
def days_after(state, day, days=1):
    """The day that comes DAYS after DAY."""
    return {"ok": str(day + datetime.timedelta(days))}


@control_command(variadic="words", visible=False, default_timeout=20.0)
def whisper(state, words=()):
    return {"ok": " ".join(words).lower()}
'''


class Site:
    """Two nodes, and the command line beside them."""

    def __init__(self, directory: Path, app: FastQ) -> None:
        self.directory = directory
        self.app = app
        self.workers: dict[str, Worker] = {}

    def fastq(self, *words: str, code: int | None = 0, app: str | None = "controlled") -> tuple[str, str]:
        """Run a command in this process; return what it printed and what it said on stderr. ``code``: expected, None: any."""
        arguments = [*(("-A", app) if app else ()), *words]
        result = CliRunner().invoke(cli, arguments, prog_name="fastq")
        assert code in (None, result.exit_code), result.output + repr(result.exception)
        return result.stdout, result.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("controlled")
    panel = (dict(Panel.data), dict(Panel.meta))
    with RedisServer(directory / "redis") as server:
        (directory / "controlled.py").write_text(MODULE.format(url=server.url))
        (directory / "extras.py").write_text(EXTRAS)
        sys.path.insert(0, str(directory))
        app = importlib.import_module("controlled").app
        site = Site(directory, app)
        try:
            arguments = {"w1@h": ("-c", "1"), "w2@h": ("-P", "threads", "-c", "2", "-Q", "default,mail", "-I", "extras")}
            for name, more in arguments.items():
                site.workers[name] = Worker(directory, "-n", name, *more, app="controlled")
            for worker in site.workers.values():
                worker.wait_ready()
            eventually(lambda: set(app.control.nodes()) == {"w1@h", "w2@h"}, "both nodes are known")
            yield site
        finally:
            app.close()
            for worker in site.workers.values():
                worker.__exit__()
            sys.path.remove(str(directory))
            sys.modules.pop("controlled", None)
            for known, before in zip((Panel.data, Panel.meta), panel, strict=True):
                known.clear()
                known.update(before)  # type: ignore[arg-type]


def test_answers_are_shown_as_celery_does(site: Site) -> None:
    began_s = time.monotonic()
    out, err = site.fastq("inspect", "ping", "-t", "30")
    assert out.splitlines() == ["->  w1@h: OK", "    pong", "->  w2@h: OK", "    pong", "", "2 nodes online."]
    assert err == "" and time.monotonic() - began_s < 15
    out, _ = site.fastq("inspect", "active", "-t", "30", "-d", "w1@h")
    assert out.splitlines() == ["->  w1@h: OK", "    - empty -", "", "1 node online."]
    out, _ = site.fastq("inspect", "registered", "-t", "30", "-d", "w2@h")
    assert out.splitlines()[1:3] == ["    * controlled.add", "    * controlled.nap"]


def test_json_is_one_object(site: Site) -> None:
    out, _ = site.fastq("inspect", "-j", "ping", "-t", "30")
    assert json.loads(out) == {"w1@h": {"ok": "pong"}, "w2@h": {"ok": "pong"}}
    out, _ = site.fastq("control", "rate_limit", "controlled.add", "100/s", "--json", "-t", "30")
    assert json.loads(out) == {name: {"ok": "new rate limit set successfully"} for name in ("w1@h", "w2@h")}
    out, _ = site.fastq("status", "-j", "-t", "30")
    told = json.loads(out)
    assert {name: (node["pool"], node["answered"]) for name, node in told.items()} == {
        "w1@h": ("prefork", True),
        "w2@h": ("threads", True),
    }
    out, err = site.fastq("inspect", "ping", "-j", "-d", "gone@h", "-t", "0.4", code=69)
    assert json.loads(out) == {} and "Not online: gone@h" in err


def test_status_is_a_table_of_nodes(site: Site) -> None:
    out, _ = site.fastq("status", "-t", "30")
    head, one, two, empty, online = out.splitlines()
    assert head.split() == ["state", "pool", "size", "queues", "active", "processed", "uptime"]
    assert re.fullmatch(r"->  w1@h: OK +running +prefork +1 x 1 +default +0 +\d+ +.*s", one)
    assert re.fullmatch(r"->  w2@h: OK +running +threads +1 x 2 +default,mail +0 +\d+ +.*s", two)
    assert (empty, online) == ("", "2 nodes online.")

    def processed() -> int:
        return sum(int(node["processed"]) for node in json.loads(site.fastq("status", "-j", "-t", "30")[0]).values())

    before = processed()
    site.app.send_task("controlled.add", (1, 2)).get(timeout=30)
    assert processed() == before + 1, "not what the last heartbeat said"
    out, err = site.fastq("status", "-d", "w1@h,gone@h", "-t", "30", code=69)
    assert "w2@h" not in out and err == "Not online: gone@h.\nOnline: w1@h, w2@h.\n"
    _, err = site.fastq("status", "-d", "w2", "-t", "30", code=69)
    assert err.startswith("Not online: w2 (did you mean w2@h?).\n")


def test_destinations_and_patterns_choose_nodes(site: Site) -> None:
    for words in (["-d", "w1@h"], ["--pattern", "w1*"], ["--pattern", "w[13]@", "--matcher", "pcre"]):
        out, _ = site.fastq("inspect", "-j", "ping", "-t", "30", *words)
        assert list(json.loads(out)) == ["w1@h"]
    out, err = site.fastq("inspect", "ping", "-d", "w1@h,w3@h", "-t", "30", code=69)
    assert "->  w1@h: OK" in out
    assert re.search(r"Not online: w3@h \(did you mean w[12]@h\?\)", err) and "Online: w1@h, w2@h." in err
    out, err = site.fastq("control", "pool_grow", "-d", "mail@h", "-t", "30", code=69)
    assert out == "" and err.startswith("Error: Not online: mail@h")
    out, err = site.fastq("inspect", "ping", "--pattern", "x*", "-t", "30", code=69)
    assert "No node that is online has a name that fits 'x*'." in err and "Online: w1@h, w2@h." in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inspect",), "fastq inspect --list"),
        (("inspect", "pign"), "Did you mean 'ping'?"),
        (("control", "rate_limits"), "Did you mean 'rate_limit'?"),
        (("inspect", "shutdown"), "a command of fastq control"),
        (("control", "stats"), "a command of fastq inspect"),
        (("control", "election"), "elect nobody"),
        (("control", "rate_limit", "controlled.add"), "Usage: fastq control rate_limit TASK RATE"),
        (("control", "pool_grow", "many"), "n is 'many', expected a whole number"),
        (("control", "time_limit", "controlled.add", "soon"), "soft is 'soon', expected a number of seconds"),
        (("inspect", "ping", "w1@h"), "takes no arguments"),
        (("control", "autoscale", "1", "2", "3"), "takes 2 at most"),
        (("control", "revoke"), "Usage: fastq control revoke ID..."),
        (("control", "terminate", "SIGNOTHING", "id"), "SIGNOTHING"),
        (("control", "revoke_by_stamped_headers", "customer"), "HEADER=VALUE"),
        (("inspect", "ping", "-t", "0"), "0"),
        (("inspect", "ping", "--pattern", "(", "--matcher", "pcre"), "regular expression"),
        (("inspect", "ping", "--pattern", "w*", "-d", "w1@h"), "one of them"),
        (("inspect", "count_to", "five"), "n is 'five', expected int"),
        (("status", "-t", "soon"), "soon"),
    ],
)
def test_what_is_asked_wrongly_is_refused(site: Site, words: tuple[str, ...], said: str) -> None:
    _, err = site.fastq(*words, code=2)
    assert said in err


def test_an_error_of_a_node_is_shown_and_fails(site: Site) -> None:
    out, _ = site.fastq("control", "rate_limit", "controlled.ad", "1/s", "-t", "30", code=1)
    assert "->  w1@h: ERROR\n    unknown task" in out


def test_commands_of_the_application_are_called_by_name(site: Site) -> None:
    out, _ = site.fastq("inspect", "count_to", "3", "-t", "30", "-d", "w1@h")
    assert out.splitlines()[:4] == ["->  w1@h: OK", "    * 1", "    * 2", "    * 3"]
    out, _ = site.fastq("control", "shout", "hello", "-j")
    assert json.loads(out) == {"w1@h": {"ok": "HELLO"}, "w2@h": {"ok": "HELLO"}}
    out, _ = site.fastq("inspect", "--list")
    assert re.search(r"^count_to \[N=1\] +Count to N\.$", out, re.MULTILINE) and "shout" not in out
    out, _ = site.fastq("control", "--list")
    assert re.search(r"^shout \[word\] +Say a word aloud\.$", out, re.MULTILINE) and "rate_limit TASK RATE" in out


def test_commands_that_only_nodes_know_are_asked_of_them(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for words in (("days_after", "2026-12-31"), ("after", "2026-12-30", "2"), ("after", "2026-12-31", "-d", "w2@h")):
        out, err = site.fastq("inspect", *words, "-t", "30")
        assert (out.splitlines(), err) == (["->  w2@h: OK", "    2027-01-01", "", "1 node online."], "")
    out, _ = site.fastq("control", "whisper", "OH", "NO", "-j")
    assert json.loads(out) == {"w2@h": {"ok": "oh no"}}
    out, _ = site.fastq("inspect", "--list", "-t", "30")
    assert re.search(r"^days_after DAY \[DAYS=1\] +The day that comes DAYS after DAY\. \(on w2@h\)$", out, re.MULTILINE)
    assert re.search(r"^count_to \[N=1\] +Count to N\.$", out, re.MULTILINE), "known here, and to all"
    assert "whisper" not in site.fastq("control", "--list", "-t", "30")[0], "it is not to be shown"
    # what the words mean is judged here as far as it can be, and by the node
    assert "days is 'x', expected int" in site.fastq("inspect", "days_after", "2026-12-31", "x", code=2)[1]
    out, _ = site.fastq("inspect", "days_after", "soon", "-t", "30", code=1)
    assert "->  w2@h: ERROR\n    days_after: day is 'soon', expected fromisoformat." in out
    assert "a command of fastq inspect" in site.fastq("control", "days_after", "-t", "30", code=2)[1]
    _, err = site.fastq("inspect", "days_aftr", "-t", "30", code=2)
    assert "No such command 'days_aftr' here, nor on w1@h, w2@h. Did you mean 'days_after'?" in err
    assert "here, nor on w1@h. " in site.fastq("inspect", "days_after", "-t", "30", "-d", "w1@h", code=2)[1]
    assert "no node has answered" in site.fastq("inspect", "days_after", "--pattern", "x*", code=2)[1]
    # a broker is enough
    monkeypatch.chdir(tmp_path)
    out, _ = site.fastq("inspect", "days_after", "2026-12-31", "-t", "30", "-b", site.app.broker_url, app=None)
    assert "2027-01-01" in out
    assert "on w2@h" in site.fastq("inspect", "--list", "-b", site.app.broker_url, app=None)[0]
    _, err = site.fastq("inspect", "days_after", "-b", "redis://127.0.0.1:1", app=None, code=2)
    assert "could not be asked" in err and "cannot be reached" in err
    out, err = site.fastq("inspect", "--list", "-b", "redis://127.0.0.1:1", app=None)
    assert "active_queues" in out and "could not be asked" in err
    assert "active_queues" in site.fastq("inspect", "--list", app=None)[0]


def test_a_broker_is_enough_to_ask(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    out, _ = site.fastq("inspect", "ping", "-b", site.app.broker_url, "-t", "30", app=None)
    assert "2 nodes online." in out
    _, err = site.fastq("inspect", "ping", "-b", "redis://127.0.0.1:1", app=None, code=1)
    assert "cannot be reached" in err
    _, err = site.fastq("inspect", "ping", "-b", f"{site.app.broker_url[:-1]}3", app=None, code=69)
    assert err == "Error: No node is online.\n"


def test_answers_come_while_tasks_run(site: Site) -> None:
    results = [site.app.tasks["controlled.nap"].delay(30) for _ in range(3)]
    inspect = site.app.control.inspect(timeout=30)
    eventually(lambda: sum(len(tasks) for tasks in (inspect.active() or {}).values()) == 3, "all run")
    began_s = time.monotonic()
    assert len(site.app.control.ping(timeout=30)) == 2
    assert time.monotonic() - began_s < 5
    out, _ = site.fastq("inspect", "active", "-t", "30", "-d", "w2@h")
    assert out.count('"name": "controlled.nap"') >= 1
    site.fastq("control", "terminate", "SIGKILL", *[result.id for result in results], "-t", "30")
    eventually(lambda: not any((inspect.active() or {}).values()), "all have ended")


def test_steering_reaches_the_nodes_that_are_meant(site: Site) -> None:
    site.fastq("control", "pool_grow", "2", "-d", "w2@h", "-t", "30")
    nodes: Callable[[], dict[str, Any]] = site.app.control.nodes
    eventually(lambda: nodes()["w2@h"]["slots"] == 4 and nodes()["w1@h"]["slots"] == 1, "one node has grown")
    site.fastq("control", "add_consumer", "more", "-d", "w1@h", "-t", "30")
    eventually(lambda: "more" in nodes()["w1@h"]["queues"] and "more" not in nodes()["w2@h"]["queues"], "one takes from it")


def test_the_catalogue_has_what_nodes_know(site: Site) -> None:
    ours = set(KNOWN) | set(ALIASES)
    # said by monitors, and understood by every node; nobody types it
    spoken = {"listening", "custom_commands", "custom_call"}
    assert set(commands()) - spoken - ours == set()
    assert set(KNOWN) - set(commands()) == set()
    assert set(ALIASES.values()) <= set(KNOWN)
    for name in ALIASES:
        assert hasattr(site.app.control.inspect(), name)


def test_nodes_that_stand_still_or_have_gone_are_told_from_those_that_answer(site: Site) -> None:
    """The last test here: it ends the nodes."""

    def while_the_other_answers(*words: str) -> tuple[str, str]:
        """Run a command until the node that runs has answered in time: a busy machine may make it late."""
        said: list[tuple[str, str]] = []

        def answers() -> bool:
            said.append(site.fastq(*words, code=None))
            return "->  w2@h: OK" in said[-1][0]

        eventually(answers, lambda: f"it answers: {said}")
        return said[-1]

    worker = site.workers["w1@h"]
    stopped = [worker.pid, *children(worker.pid)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        out, err = while_the_other_answers("inspect", "ping", "-t", "0.5")
        assert "1 node online." in out and err == "No answer within 0.5 s from w1@h.\n"
        _, err = site.fastq("inspect", "ping", "-d", "w1@h", "-t", "0.3", code=69)
        assert "no answer within 0.3 s: w1@h" in err
        # who a pattern means is known, so it is said who of them has not answered
        _, err = while_the_other_answers("inspect", "ping", "--pattern", "w*", "-t", "0.3")
        assert err == "Online, but no answer within 0.3 s: w1@h.\n"
        _, err = site.fastq("inspect", "ping", "--pattern", "W1", "--matcher", "pcre", "-t", "0.3", code=69)
        assert err == "Error: No node that is online has a name that fits 'W1'. Online: w1@h, w2@h.\n"
        out, _ = while_the_other_answers("status", "-t", "0.3")
        assert re.search(r"->  w1@h: NO ANSWER +running, heard of \d+s ago", out) and "1 node online." in out
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    out, _ = site.fastq("control", "shutdown", "-t", "30")
    assert out.count(": OK") == 2
    assert [worker.process.wait(60) for worker in site.workers.values()] == [0, 0]
    done = Worker.command(site.directory, "status", "-A", "controlled")
    assert (done.returncode, done.stdout, done.stderr) == (69, "", "Error: No node is online.\n")
    # A revocation is the broker's: it needs no node.
    for words in ((), ("--pattern", "w*")):
        out, _ = site.fastq("control", "revoke", "some-id", "-t", "0.3", *words)
        assert "Recorded in the broker" in out
