"""Ask Django's database: on a connection that works, from any thread, also where an event loop runs.

The rows belong to whatever transaction the caller is in. A worker stores final results outside of any.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django import db  # type: ignore[import-untyped]
from django.apps import apps  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]

from fastq.contrib.django.connections import kept_open
from fastq.exceptions import ImproperlyConfigured, OperationalError

__all__ = ["APP", "Database"]

logger = logging.getLogger("fastq.django")

APP = "fastq.contrib.django_results"

T = TypeVar("T")


class Database:
    """One database of the project. Safe from any thread."""

    def __init__(self, alias: str, settings_module: str) -> None:
        """``alias`` "": the one that Django's routers choose. ``settings_module``: for a process that knows no application."""
        self._alias = alias
        self._settings_module = settings_module
        self._lock = threading.Lock()
        self._ready = False
        self._thread: ThreadPoolExecutor | None = None

    def ask(self, call: Callable[[str], T]) -> T:
        """Return ``call(alias)``; called once more if the connection had been lost meanwhile. OperationalError if it fails."""
        self.prepare()
        if _in_event_loop():
            # Django refuses to wait for its database there; whoever asks waits as for any other backend
            return self._beside().submit(self._ask, call).result()
        return self._ask(call)

    def _ask(self, call: Callable[[str], T]) -> T:
        # lazy: models can be imported only once Django is set up
        from fastq.contrib.django_results.models import TaskResult

        try:
            alias: str = self._alias or db.router.db_for_write(TaskResult)
            connection = db.connections[alias]
        except db.utils.ConnectionDoesNotExist as exc:
            raise ImproperlyConfigured(f"django-db://{self._alias}: there is no such database in DATABASES ({exc})") from exc
        known = connection.connection is not None
        try:
            try:
                return call(alias)
            except (db.OperationalError, db.InterfaceError):
                # a server closes connections that were idle for long; what a transaction has begun cannot be begun again here
                if not known or connection.in_atomic_block:
                    raise
                connection.close()
                return call(alias)
        except db.Error as exc:
            raise OperationalError(
                f"the Django database {alias!r} could not be asked about results: {type(exc).__name__}: {exc} (is it there, and "
                "has manage.py migrate made the tables of fastq.contrib.django_results?)"
            ) from exc
        finally:
            if not known and not kept_open():
                connection.close_if_unusable_or_obsolete()

    def _beside(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastq-django")
            return self._thread

    def prepare(self) -> None:
        """Set Django up if nobody has; ImproperlyConfigured if the project lacks this app."""
        if not self._ready:
            with self._lock:  # harmless to do twice, not at once
                self._prepare()

    def _prepare(self) -> None:
        if not apps.ready:
            if settings.configured or not self._settings_module:
                _set_up()
            else:
                self._set_up_alone()
        if not apps.is_installed(APP):
            raise ImproperlyConfigured(
                f"results are to be kept in Django's database, but {APP!r} is not in INSTALLED_APPS: add it, and run "
                "manage.py migrate"
            )
        self._ready = True

    def _set_up_alone(self) -> None:
        """Set up this app only: in a worker's supervisor, which must not run the project's code and needs no other models."""
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", self._settings_module)
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            apps.populate((APP,))
        except Exception as exc:  # the project's settings may raise anything; the supervisor tries again
            raise OperationalError(
                f"Django cannot be set up with {self._settings_module!r}, so results cannot be kept: {type(exc).__name__}: {exc}"
            ) from exc

    def close(self) -> None:
        """Close this thread's connection, unless a transaction is open on it, and the thread beside."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(db.connections.close_all)
            thread.shutdown(wait=False)


def _set_up() -> None:
    """``django.setup()``, for a script that has not called it."""
    import django  # lazy: only where nobody has set it up

    django.setup()


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
