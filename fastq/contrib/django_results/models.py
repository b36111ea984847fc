"""Results as rows. ``record`` is what fastq reads; the other columns say the same for queries and for people.

The names are those of django-celery-results.
"""

from __future__ import annotations

from django.db import models  # type: ignore[import-untyped]

from fastq import states

__all__ = ["GroupResult", "TaskResult"]


class _Kept(models.Model):  # type: ignore[misc]
    """What both kinds of rows have."""

    #: the value as JSON; null where it cannot be shown as such (pickle)
    result = models.TextField(null=True, editable=False)
    content_type = models.CharField(max_length=128, editable=False)
    date_created = models.DateTimeField(auto_now_add=True)
    #: when the row may be deleted, as ``result_expires`` says; null: never
    expires = models.DateTimeField(null=True, db_index=True, editable=False)
    #: the result record, whole
    record = models.BinaryField(editable=False)

    class Meta:
        abstract = True


class TaskResult(_Kept):
    """The state of one task."""

    task_id = models.CharField(max_length=255, unique=True)
    status = models.CharField(max_length=50, default=states.PENDING, db_index=True)
    #: what the task was called with, as JSON: where ``result_extended`` is set
    task_name = models.CharField(max_length=255, null=True, db_index=True)
    task_args = models.TextField(null=True)
    task_kwargs = models.TextField(null=True)
    worker = models.CharField(max_length=255, null=True)
    traceback = models.TextField(null=True, blank=True)
    #: what else is known, as JSON: the tasks that it has sent
    meta = models.TextField(null=True, editable=False)
    #: when it was reported as STARTED (``track_started``)
    date_started = models.DateTimeField(null=True)
    #: when it ended; null before
    date_done = models.DateTimeField(null=True, db_index=True)

    class Meta:
        ordering = ("-date_done", "-id")

    def __str__(self) -> str:
        return f"<Task: {self.task_id} ({self.status})>"


class GroupResult(_Kept):
    """A group of results that was saved: ``result`` names its members."""

    group_id = models.CharField(max_length=255, unique=True)
    date_done = models.DateTimeField(null=True, db_index=True)

    class Meta:
        ordering = ("-date_done", "-id")

    def __str__(self) -> str:
        return f"<Group: {self.group_id}>"
