"""Make the tables of task and group results."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models  # type: ignore[import-untyped]


def _kept() -> list[tuple[str, Any]]:
    return [
        ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
        ("result", models.TextField(editable=False, null=True)),
        ("content_type", models.CharField(editable=False, max_length=128)),
        ("date_created", models.DateTimeField(auto_now_add=True)),
        ("expires", models.DateTimeField(db_index=True, editable=False, null=True)),
        ("record", models.BinaryField()),
    ]


class Migration(migrations.Migration):  # type: ignore[misc]
    """The first tables."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="GroupResult",
            fields=[
                *_kept(),
                ("group_id", models.CharField(max_length=255, unique=True)),
                ("date_done", models.DateTimeField(db_index=True, null=True)),
            ],
            options={"ordering": ("-date_done", "-id")},
        ),
        migrations.CreateModel(
            name="TaskResult",
            fields=[
                *_kept(),
                ("task_id", models.CharField(max_length=255, unique=True)),
                ("status", models.CharField(db_index=True, default="PENDING", max_length=50)),
                ("task_name", models.CharField(db_index=True, max_length=255, null=True)),
                ("task_args", models.TextField(null=True)),
                ("task_kwargs", models.TextField(null=True)),
                ("worker", models.CharField(max_length=255, null=True)),
                ("traceback", models.TextField(blank=True, null=True)),
                ("meta", models.TextField(editable=False, null=True)),
                ("date_started", models.DateTimeField(null=True)),
                ("date_done", models.DateTimeField(db_index=True, null=True)),
            ],
            options={"ordering": ("-date_done", "-id")},
        ),
    ]
