"""Results in Django's database, through the ORM: the laws of a backend, and the rows that people see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Django is configured once in a process, so each of these laws runs in one of its own, all in one go
SETTINGS = """\
from pathlib import Path
SECRET_KEY = "tests"
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
    "django.contrib.sessions", "fastq.contrib.django_results",
]
FOLDER = Path(__file__).parent
DATABASES = {
    name: {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / f"{name}.db", "OPTIONS": {"timeout": 20}}
    for name in ("default", "other")
}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {"context_processors": [
    "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
    "django.contrib.messages.context_processors.messages",
]}}]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "laws_urls"
STATIC_URL = "static/"
TIME_ZONE = "Europe/Paris"
USE_TZ = True
CELERY_RESULT_BACKEND = "django-db"
CELERY_BROKER_URL = "memory://django laws"
CELERY_TASK_DEFAULT_QUEUE = "of django"
"""
URLS = "from django.contrib import admin\nfrom django.urls import path\nurlpatterns = [path('admin/', admin.site.urls)]\n"


def run(folder: Path, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process that has Django's settings in ``folder``."""
    (folder / "laws_settings.py").write_text(SETTINGS)
    (folder / "laws_urls.py").write_text(URLS)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "DJANGO_SETTINGS_MODULE": "laws_settings", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_laws_of_the_backend_hold(tmp_path: Path) -> None:
    for database in ("default", "other"):
        migrated = run(tmp_path, "django", "migrate", "--database", database, "-v", "0")
        assert migrated.returncode == 0, migrated.stderr
    done = run(tmp_path, "tests.unit.django_laws")
    assert done.returncode == 0, done.stdout + done.stderr
    held = json.loads(done.stdout.splitlines()[-1])
    assert len(held) > 10, held


def test_the_models_and_the_migrations_agree(tmp_path: Path) -> None:
    done = run(tmp_path, "django", "makemigrations", "--check", "--dry-run", "fastq_results")
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_tables_are_named_with_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, "tests.unit.django_laws", "unmigrated")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_process_without_an_application_stores_results(tmp_path: Path) -> None:
    """The supervisor of a worker: it is told the settings module and imports no models but those of the results."""
    assert run(tmp_path, "django", "migrate", "-v", "0").returncode == 0
    done = run(tmp_path, "tests.unit.django_laws", "alone", DJANGO_SETTINGS_MODULE="")
    assert done.returncode == 0, done.stdout + done.stderr
