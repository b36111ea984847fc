"""Make an application at home in a Django project; ``fastq.fixups`` calls it where DJANGO_SETTINGS_MODULE is set.

In every process: tasks are ``DjangoTask``, naive datetimes are in Django's TIME_ZONE. In workers also: Django is set up before the
modules with tasks are imported, its checks run, and what Django opens is closed around each task. Django's settings are not read
before fastq's are: the application may be made while they are being imported.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from django.conf import settings  # type: ignore[import-untyped]

from fastq import signals
from fastq.contrib.django import connections
from fastq.exceptions import ImproperlyConfigured
from fastq.fixups import FixupWarning
from fastq.task import Task

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["DjangoFixup", "fixup"]

logger = logging.getLogger("fastq.django")

#: set to anything, they skip Django's checks at the start of a worker
SKIP_CHECKS = ("FASTQ_SKIP_CHECKS", "CELERY_SKIP_CHECKS")
#: where results are kept in Django's database
RESULTS_SCHEME = "django-db"
RESULTS_APP = "fastq.contrib.django_results"


def fixup(app: FastQ) -> DjangoFixup:
    """Prepare an application for Django."""
    return DjangoFixup(app)


class DjangoFixup:
    """What Django and one application have to do with each other."""

    def __init__(self, app: FastQ) -> None:
        self._app = app
        self._checked = False
        if app.task_cls is Task:
            app.task_cls = "fastq.contrib.django.task:DjangoTask"
        app.add_defaults(self._defaults)
        app.on_after_configure.connect(self._set_up)
        signals.import_modules.connect(self._check)
        signals.worker_process_init.connect(connections.watch_tasks, dispatch_uid="fastq.contrib.django")

    def _defaults(self) -> dict[str, Any]:
        """Return what Django's settings say that fastq's do not."""
        module = os.environ.get("DJANGO_SETTINGS_MODULE", "")
        try:
            zone = settings.TIME_ZONE
        except ModuleNotFoundError as exc:
            if not exc.name or not (module == exc.name or module.startswith(exc.name + ".")):
                raise  # an import inside it failed
            text = f"DJANGO_SETTINGS_MODULE names {module!r}, but there is no module {exc.name!r}"
            warnings.warn(text, FixupWarning, stacklevel=2)
            return {}
        found: dict[str, Any] = {"timezone": zone} if zone else {}
        if _in_database(self._app):
            # the worker's supervisor, which does not import the application, stores the results of tasks that were killed
            found["result_backend_transport_options"] = {"settings_module": settings.SETTINGS_MODULE or module}
        return found

    def _set_up(self, **_: Any) -> None:
        """Set Django up before the first module with tasks is imported; elsewhere that is the business of the project."""
        if in_worker():
            import django  # type: ignore[import-untyped]  # lazy: only in a worker

            django.setup()

    def _check(self, sender: Any = None, **_: Any) -> None:
        """Run Django's checks once all modules are there, in a worker; ImproperlyConfigured if one has found an error."""
        if sender is not self._app or self._checked or not in_worker():
            return
        self._checked = True
        # lazy: only in a worker
        from django.apps import apps  # type: ignore[import-untyped]

        if _in_database(self._app) and not apps.is_installed(RESULTS_APP):
            raise ImproperlyConfigured(
                f"result_backend is {self._app.backend_url!r}, but {RESULTS_APP!r} is not in INSTALLED_APPS: add it, and run "
                "manage.py migrate"
            )
        if not any(os.environ.get(name) for name in SKIP_CHECKS):
            _run_checks()
        # processes that are forked from this one must not share them
        connections.close_all()


def in_worker() -> bool:
    """Say whether this process runs, or will run, the tasks of a worker."""
    # only such a process, and its supervisor, have the worker's entry loaded when an application is imported
    return "fastq.worker.nursery" in sys.modules


def _in_database(app: FastQ) -> bool:
    return str(app.conf.get("result_backend") or "").partition("://")[0].lower() == RESULTS_SCHEME


def _run_checks() -> None:
    # lazy: only in a worker
    from django.core import checks  # type: ignore[import-untyped]

    errors = []
    for message in checks.run_checks():
        if message.is_silenced():
            continue
        if message.is_serious():
            errors.append(str(message))
        else:
            logger.log(message.level, "%s", message)
    if errors:
        raise ImproperlyConfigured("Django's system check has found errors:\n" + "\n".join(errors))
