"""Settings: Django's own, then those of fastq, by Celery's names."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
#: where the databases are
DATA_DIR = Path(os.environ.get("DJANGO_SITE_DATA", BASE_DIR))

SECRET_KEY = "an example, not a secret"
DEBUG = True
ALLOWED_HOSTS = ["*"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "fastq.contrib.django_results",
    "notes",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "django_site.urls"
STATIC_URL = "static/"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "site.db",
        # the worker writes results beside the requests: wait for the file instead of failing
        "OPTIONS": {"timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "Europe/Paris"
USE_TZ = True

# FASTQ_BROKER_URL in the environment wins over this one
CELERY_BROKER_URL = f"sqlite:///{DATA_DIR / 'fastq.db'}"
CELERY_RESULT_BACKEND = "django-db"
# results know the names and the arguments of their tasks
CELERY_RESULT_EXTENDED = True
