"""The laws of ``django-db``, run by test_contrib_django_results in a process that has Django set up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fastq import FastQ, _core, states
from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.records import StoredResult
from fastq.transports import TransportOptions, open_backend, open_broker


def record(state: str = "SUCCESS", value: Any = 1, meta: dict[str, Any] | None = None, done_ms: int = 1_700_000_000_000) -> bytes:
    return _core.encode_result(state, "application/x-msgpack", _core.packb(value), None, done_ms, meta)


def backend(url: str = "django-db://", **options: Any) -> Any:
    return open_backend(url, TransportOptions(**options))


def law_what_is_stored_is_read() -> None:
    one = backend()
    one.store([StoredResult("a", record(value=1)), StoredResult("b", record(value=2), "inbox")])
    assert backend().get(["b", "missing", "a", "b"]) == [record(value=2), None, record(value=1), record(value=2)]
    assert one.get([]) == []
    one.store([])


def law_a_later_result_replaces_an_earlier_one() -> None:
    one = backend()
    one.store([StoredResult("later", record("FAILURE"))])
    one.store([StoredResult("later", record("FAILURE")), StoredResult("later", record("SUCCESS"))])
    assert one.get(["later"]) == [record("SUCCESS")]


def law_progress_never_replaces_an_end() -> None:
    one = backend()
    for state in sorted(states.READY_STATES):
        one.store([StoredResult(state, record(state))])
        one.store([StoredResult(state, record("PROGRESS"))], final=False)
        assert one.get([state]) == [record(state)]
    one.store([StoredResult("new", record("STARTED"))], final=False)
    one.store([StoredResult("new", record("PROGRESS"))], final=False)
    assert one.get(["new"]) == [record("PROGRESS")]


def law_forgotten_results_are_gone() -> None:
    one = backend()
    one.store([StoredResult(id, record()) for id in ("x", "y", "z")])
    one.forget(["x", "z", "missing"])
    assert one.get(["x", "y", "z"]) == [None, record(), None]


def law_results_expire_and_are_swept() -> None:
    from django.utils import timezone

    from fastq.contrib.django_results import rows
    from fastq.contrib.django_results.models import TaskResult

    one = backend(result_expires_s=1_000)
    one.store([StoredResult("brief", record())])
    backend(result_expires_s=None).store([StoredResult("kept", record())])
    assert TaskResult.objects.get(task_id="kept").expires is None
    TaskResult.objects.filter(task_id="brief").update(expires=timezone.now() - timedelta(seconds=1))
    assert one.get(["brief", "kept"]) == [None, record()]
    one.store([StoredResult("brief", record("PROGRESS"))], final=False)
    assert one.get(["brief"]) == [record("PROGRESS")], "what has expired does not stand in the way"
    TaskResult.objects.filter(task_id="brief").update(expires=timezone.now() - timedelta(seconds=1))
    rows.sweep("default", 1_000)
    assert not TaskResult.objects.filter(task_id="brief").exists()
    assert TaskResult.objects.filter(task_id="kept").exists()


def law_two_thousand_results_are_read_in_order() -> None:
    one = backend()
    ids = _core.new_ids(int(time.time() * 1000), 2_000)
    one.store([StoredResult(id, record(value=id)) for id in ids])
    assert one.get(ids[::-1]) == [record(value=id) for id in ids[::-1]]
    one.forget(ids)


def law_rows_say_what_records_hold() -> None:
    from fastq.contrib.django_results.models import TaskResult

    one = backend()
    meta = {"children": [], "name": "shop.add", "args": [1, 2], "kwargs": {"z": 3}, "worker": "w@h", "retries": 0, "queue": "q"}
    one.store([StoredResult("row", record("STARTED", {"pid": 1}, done_ms=1_600_000_000_000))], final=False)
    one.store([StoredResult("row", record(value={"sum": 3}, meta=meta))])
    row = TaskResult.objects.get(task_id="row")
    assert (row.status, json.loads(row.result), row.task_name, row.worker) == ("SUCCESS", {"sum": 3}, "shop.add", "w@h")
    assert (row.task_args, json.loads(row.task_kwargs)) == ("[1,2]", {"z": 3})
    assert row.date_done.timestamp() == 1_700_000_000 and row.date_started.timestamp() == 1_600_000_000
    failure = {"type": "ValueError", "module": "builtins", "args": ["no"], "text": "no", "state": None}
    one.store([StoredResult("failed", record("FAILURE", failure))])
    text = TaskResult.objects.get(status="FAILURE", task_id="failed").result
    assert json.loads(text) == {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}


def law_a_pickle_is_kept_and_never_read() -> None:
    from fastq.contrib.django_results.models import TaskResult

    pickled = _core.encode_result("SUCCESS", "application/x-python-serialize", b"cos\nabort\n(tR.", None, 0, None)
    backend().store([StoredResult("pickle", pickled)])
    assert TaskResult.objects.get(task_id="pickle").result is None
    assert backend().get(["pickle"]) == [pickled]


def law_groups_are_rows_of_their_own() -> None:
    from fastq.contrib.django_results.models import GroupResult

    app = FastQ("laws")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    group = app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")])
    group.save()
    assert json.loads(GroupResult.objects.get(group_id="g").result)[0][0] == "g"
    restored = app.GroupResult.restore("g")
    assert restored is not None and [result.id for result in restored] == ["a", "b"]
    group.delete()
    assert app.GroupResult.restore("g") is None
    app.close()


def law_django_says_timezone_class_and_namespace() -> None:
    from fastq.contrib.django import DjangoTask

    app = FastQ("laws")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    assert str(app.timezone) == "Europe/Paris"
    assert app.conf.task_default_queue == "of django"
    assert app.Task is DjangoTask
    assert FastQ("own", timezone="UTC", set_as_current=False).timezone.utcoffset(None) == timedelta(0)
    assert FastQ("plain", fixups=(), set_as_current=False).conf.timezone is None
    app.close()


def law_waiting_finds_what_another_thread_stores() -> None:
    app = FastQ("laws")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    result = app.AsyncResult("awaited")
    thread = threading.Timer(0.1, lambda: app.backend.mark_as_done("awaited", 42))
    thread.start()
    assert result.get(timeout=20) == 42
    thread.join()
    app.close()


def law_event_loops_may_ask() -> None:
    async def ask() -> list[bytes | None]:
        one = backend()
        one.store([StoredResult("loop", record())])
        found: list[bytes | None] = one.get(["loop"])
        one.close()
        return found

    assert asyncio.run(ask()) == [record()]


def law_a_connection_that_was_lost_is_opened_again() -> None:
    from django.db import InterfaceError, connection

    from fastq.contrib.django_results.database import Database

    connection.ensure_connection()
    before = connection.connection
    seen = []

    def ask(alias: str) -> str:
        seen.append(connection.connection)
        if len(seen) == 1:
            raise InterfaceError("the server has closed the connection")
        return alias

    assert Database("", "").ask(ask) == "default"
    assert seen == [before, None], "asked again, without the connection that was lost"


def law_connections_opened_here_are_closed_again() -> None:
    from django.db import connection

    connection.close()
    backend().get(["a"])
    assert connection.connection is None


def law_another_database_is_named_in_the_url() -> None:
    from fastq.contrib.django_results.models import TaskResult

    one = backend("django-db://other")
    one.store([StoredResult("elsewhere", record())])
    assert one.get(["elsewhere"]) == [record()]
    assert backend().get(["elsewhere"]) == [None]
    assert TaskResult.objects.using("other").filter(task_id="elsewhere").exists()
    assert _refused(lambda: backend("django-db://nowhere").get(["a"]), ImproperlyConfigured, "nowhere")
    assert _refused(lambda: backend("django-db://a/b"), ImproperlyConfigured, "django-db://alias")
    assert _refused(lambda: open_broker("django-db://", TransportOptions()), ImproperlyConfigured, "keeps results only")


def law_nobody_may_change_results_in_the_admin() -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    User.objects.create_superuser("root", password="root")
    client = Client(headers={"host": "localhost"})
    assert client.login(username="root", password="root")
    backend().store([StoredResult("shown", record(meta={"name": "shop.shown"}))])
    page = client.get("/admin/fastq_results/taskresult/").content.decode()
    assert "shop.shown" in page
    assert client.get("/admin/fastq_results/taskresult/add/").status_code == 403
    assert client.get("/admin/fastq_results/groupresult/").status_code == 200


def _refused(call: Callable[[], Any], kind: type[Exception], text: str) -> bool:
    try:
        call()
    except kind as exc:
        return text in str(exc)
    return False


def main() -> None:
    if "alone" in sys.argv:
        del os.environ["DJANGO_SETTINGS_MODULE"]
        one = backend(extra={"settings_module": "laws_settings"})
        one.store([StoredResult("a", record("FAILURE"))])
        assert one.get(["a"]) == [record("FAILURE")]
        assert "django.contrib.auth.models" not in sys.modules
        return
    import django

    django.setup()
    from django.conf import settings

    settings.ALLOWED_HOSTS = ["*"]
    if "unmigrated" in sys.argv:
        assert _refused(lambda: backend().get(["a"]), OperationalError, "manage.py migrate")
        return
    laws = [law for name, law in globals().items() if name.startswith("law_")]
    for law in laws:
        law()
    print(json.dumps([law.__name__ for law in laws]))


if __name__ == "__main__":
    main()
