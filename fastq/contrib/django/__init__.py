"""fastq in a Django project: tasks sent when a transaction commits, connections closed around tasks, settings from Django's.

It is active in every application made where ``DJANGO_SETTINGS_MODULE`` is set (see ``fixup.py``), and needs no entry in
INSTALLED_APPS. Keeping results in Django's database is another part: ``fastq.contrib.django_results``.
"""

from __future__ import annotations

from fastq.contrib.django.task import DjangoTask, shared_task

__all__ = ["DjangoTask", "shared_task"]
