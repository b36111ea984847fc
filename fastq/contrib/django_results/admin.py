"""The results in Django's admin: to be read, and deleted."""

from __future__ import annotations

from typing import Any

from django.contrib import admin  # type: ignore[import-untyped]

from fastq.contrib.django_results.models import GroupResult, TaskResult

__all__ = ["GroupResultAdmin", "TaskResultAdmin"]


class _ReadOnly(admin.ModelAdmin):  # type: ignore[misc]
    """Rows are written by workers only."""

    date_hierarchy = "date_done"
    #: counting a large table for "n of m" is slow
    show_full_result_count = False

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False


@admin.register(TaskResult)
class TaskResultAdmin(_ReadOnly):
    """One task a line."""

    list_display = ("task_id", "task_name", "status", "worker", "date_created", "date_done")
    list_filter = ("status", "task_name", "date_done")
    search_fields = ("task_id", "task_name", "status")
    fields = (
        "task_id", "task_name", "status", "worker", "task_args", "task_kwargs", "result", "content_type", "traceback", "meta",
        "date_created", "date_started", "date_done", "expires",
    )  # fmt: skip
    readonly_fields = fields


@admin.register(GroupResult)
class GroupResultAdmin(_ReadOnly):
    """One saved group a line."""

    list_display = ("group_id", "date_created", "date_done")
    search_fields = ("group_id",)
    fields = ("group_id", "result", "content_type", "date_created", "date_done", "expires")
    readonly_fields = fields
