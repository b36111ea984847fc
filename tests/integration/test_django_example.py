"""examples/django_site: migrations, a real worker, real requests; and what the Django part promises around tasks."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

from tests.workers import Worker, eventually

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "django_site"

#: tasks that say what they find; a module of the test, taken in by -I
PROBE = '''
from django.db import connection, transaction
from fastq.contrib.django import shared_task
from notes.models import Note


@shared_task
def look():
    """Return whether this thread's connection is closed at first, then use it."""
    closed = connection.connection is None
    Note.objects.count()
    return closed


@shared_task
async def alook():
    from asgiref.sync import sync_to_async

    closed = await sync_to_async(lambda: connection.connection is None)()
    await Note.objects.acount()
    return closed


@shared_task(bind=True)
def die(self):
    import os

    os.kill(os.getpid(), 9)
'''


class Site:
    """The example with its data in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"DJANGO_SITE_DATA": str(folder), "PYTHONPATH": os.pathsep.join([str(EXAMPLE), str(folder), str(ROOT)])}
        (folder / "probe_tasks.py").write_text(PROBE)

    def manage(self, *arguments: str) -> str:
        return self._run(str(EXAMPLE / "manage.py"), *arguments)

    def python(self, code: str) -> Any:
        """Run code with Django set up; return what it prints as JSON."""
        setup = "import os, json, django\nos.environ['DJANGO_SETTINGS_MODULE'] = 'django_site.settings'\ndjango.setup()\n"
        return json.loads(self._run("-c", setup + code).splitlines()[-1])

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def worker(self, *arguments: str) -> Worker:
        return Worker(self.folder, *arguments, app="django_site", env=self.env)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.manage("migrate", "-v", "0")
    return site


@pytest.fixture
def server(site: Site) -> Iterator[str]:
    """The development server on a free port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "manage.py"), "runserver", "--noreload", "--skip-checks", str(port)],
        cwd=site.folder, env={**os.environ, **site.env}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def up() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    try:
        eventually(up, "the development server")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_the_tests_of_the_example_pass(tmp_path: Path) -> None:
    assert "Ran 4 tests" in Site(tmp_path).manage("test", "--no-input", str(EXAMPLE))


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_request_is_followed_to_its_result(site: Site, server: str, pool: str) -> None:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def get(path: str) -> str:
        return str(browser.open(server + path, timeout=20).read().decode())

    with site.worker("-P", pool, "-c", "2") as worker:
        worker.wait_ready()
        assert "notes.tasks.count_words" in worker.log, "the tasks of the installed apps are found"
        (token,) = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', get("/"))
        form = urllib.parse.urlencode({"text": "one two three", "csrfmiddlewaretoken": token}).encode()
        place = browser.open(server + "/notes/", form, timeout=20).url
        path = urllib.parse.urlsplit(place).path

        eventually(lambda: json.loads(get(path))["words"] == 3, lambda: f"the count; the worker's log:\n{worker.log}", every_s=0.1)
        eventually(lambda: json.loads(get("/results/"))["results"], "the result's row", every_s=0.1)
        (row,) = json.loads(get("/results/"))["results"]
        assert (row["status"], row["result"], row["task_name"]) == ("SUCCESS", "3", "notes.tasks.count_words")


def test_nothing_is_sent_when_the_transaction_is_rolled_back(site: Site) -> None:
    depths = site.python("""
from django.db import transaction
from django_site import fastq_app as app
from fastq.transports import open_inspector
from notes.tasks import count_words
inspector = open_inspector(app.broker_url, app.transport_options())
ready = lambda: inspector.depth("default")["ready"]
found = []
try:
    with transaction.atomic():
        count_words.delay_on_commit(1)
        raise RuntimeError
except RuntimeError:
    found.append(ready())
with transaction.atomic():
    count_words.delay_on_commit(1)
    count_words.apply_async_on_commit((1,), task_id="chosen")
    found.append(ready())
found.append(ready())
count_words.delay_on_commit(1)
found.append(ready())
print(json.dumps(found))
""")
    assert depths == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("pool", "task"),
    [
        ("prefork", "look"), ("threads", "look"), ("gevent", "look"), ("eventlet", "look"), ("asyncio", "alook"),
        ("threads", "alook"),
    ],
)  # fmt: skip
def test_connections_are_closed_around_tasks(site: Site, pool: str, task: str) -> None:
    with site.worker("-P", pool, "-c", "1", "-I", "probe_tasks") as worker:
        worker.wait_ready()
        closed = site.python(f"""
from django_site import fastq_app as app
import probe_tasks
print(json.dumps([probe_tasks.{task}.delay().get(timeout=60) for _ in range(3)]))
""")
    assert closed == [True, True, True], worker.log


def test_the_supervisor_stores_what_a_dead_process_could_not(site: Site) -> None:
    with site.worker("-c", "1", "-I", "probe_tasks") as worker:
        worker.wait_ready()
        row = site.python("""
import probe_tasks
from fastq.contrib.django_results.models import TaskResult
result = probe_tasks.die.delay()
result.get(timeout=60, propagate=False)
row = TaskResult.objects.get(task_id=result.id)
print(json.dumps([row.status, json.loads(row.result)["exc_type"]]))
""")
    assert row == ["FAILURE", "WorkerLostError"], worker.log


def test_a_failing_check_stops_the_worker_before_it_takes_tasks(site: Site) -> None:
    (site.folder / "broken_settings.py").write_text(
        "from django_site.settings import *\nROOT_URLCONF = 'django_site.urls'\nAUTH_USER_MODEL = 'auth.User'\n"
        "SILENCED_SYSTEM_CHECKS = []\nSTORAGES = {}\nMIDDLEWARE = []\n"
    )
    worker = Worker(site.folder, app="django_site", env={**site.env, "DJANGO_SETTINGS_MODULE": "broken_settings"})
    with worker:
        assert worker.process.wait(60) == 1
    assert "system check has found errors" in worker.log and "admin.E4" in worker.log
