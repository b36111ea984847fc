"""What Django is told of this app."""

from __future__ import annotations

from django.apps import AppConfig  # type: ignore[import-untyped]

__all__ = ["ResultsConfig"]


class ResultsConfig(AppConfig):  # type: ignore[misc]
    """The app of the task results."""

    name = "fastq.contrib.django_results"
    label = "fastq_results"
    verbose_name = "Task results"
    default_auto_field = "django.db.models.BigAutoField"
