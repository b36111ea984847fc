"""What is imported where: memory of every process, and the time until it works."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

LOADED = "\nimport sys\nprint(*sorted(sys.modules), sep='\\n')"

#: `fastq worker` up to its first call to the broker, as the supervisor has it
SUPERVISOR = """
import fastq.cli, fastq.cli.worker, fastq.worker.supervisor, fastq.worker.control.looking, fastq.worker.control.steering
from fastq import transports
broker = transports.open_broker({url!r}, transports.TransportOptions())
broker.renew(["default"], ["p"], 1000)
channel = transports.open_channel({url!r}, transports.TransportOptions())
channel.close()
broker.close()
"""


@functools.cache
def _bare() -> frozenset[str]:
    """Return what is loaded before anything is asked for: an editable installation has a finder that needs more than the others."""
    ran = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=True)
    return frozenset(ran.stdout.split())


def loaded(code: str) -> set[str]:
    """Return the modules of a fresh interpreter that has run ``code``."""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code + LOADED], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split()) - _bare()


def test_the_package_alone_costs_nothing() -> None:
    own = {name for name in loaded("import fastq") if name.startswith("fastq")}
    assert own == {"fastq"}


def test_a_supervisor_carries_no_application_and_no_client_library(redis_url: str) -> None:
    modules = loaded(SUPERVISOR.format(url=redis_url))
    unwanted = {"redis", "ssl", "asyncio", "tempfile", "subprocess", "http.server", "email", "prometheus_client", "rich"}
    unwanted |= {"fastq.app", "fastq.task", "fastq.calling", "fastq.serialization", "fastq.canvas", "fastq.result"}
    assert modules & unwanted == set()


def test_a_producer_needs_no_redis_py(redis_url: str) -> None:
    code = f"from fastq import FastQ\napp = FastQ('a', broker={redis_url!r})\napp.send_task('t')\napp.close()"
    assert loaded(code) & {"redis", "asyncio", "ssl"} == set()


@pytest.mark.parametrize("command", ["health", "status"])
def test_asking_needs_no_application(command: str) -> None:
    modules = loaded(f"import fastq.cli, fastq.cli.{command}")
    assert modules & {"fastq.app", "fastq.canvas", "rich", "redis", "asyncio"} == set()
