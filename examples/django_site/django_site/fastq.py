"""The fastq application of this project: with Celery this file is celery.py, and says Celery where this one says FastQ."""

from __future__ import annotations

import os

from fastq import FastQ

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")

app = FastQ("django_site")
# every setting that begins with CELERY_ in django_site/settings.py
app.config_from_object("django.conf:settings", namespace="CELERY")
# the module tasks.py of every app in INSTALLED_APPS
app.autodiscover_tasks()
