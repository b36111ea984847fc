"""Read and write the rows of ``models.py``. Every function takes the alias of the database; imported once Django is set up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.db import DataError, IntegrityError, connections, transaction  # type: ignore[import-untyped]
from django.db.models import Q  # type: ignore[import-untyped]
from django.utils import timezone  # type: ignore[import-untyped]

from fastq import states
from fastq.contrib.django_results.models import GroupResult, TaskResult
from fastq.contrib.django_results.readable import columns_of
from fastq.store import GROUP_KEY

__all__ = ["delete", "read", "sweep", "write"]

logger = logging.getLogger("fastq.django")

#: what a database, or its client, refuses in a single row: text that is too long, or holds what it cannot keep
_REFUSED = (DataError, IntegrityError, ValueError)


def write(alias: str, records: Sequence[tuple[str, bytes]], expires_s: int | None, *, final: bool) -> None:
    """Insert or replace rows; ``final`` False: never one whose state is final.

    A row that the database refuses is logged and left out: it would be refused again.
    """
    expires = None if expires_s is None else timezone.now() + timedelta(seconds=expires_s)
    kinds: dict[Any, list[Any]] = {}
    for id, record in records:
        columns = columns_of(record)
        row: Any
        if id.startswith(GROUP_KEY):
            kept = {name: columns[name] for name in ("content_type", "result", "record")}
            row = GroupResult(group_id=id.removeprefix(GROUP_KEY), date_done=timezone.now(), expires=expires, **kept)
        else:
            row = TaskResult(task_id=id, expires=expires, **columns)
        # rows that were never STARTED must not take away when others were
        kinds.setdefault((type(row), "date_started" in columns), []).append(row)
    for (model, started), rows in kinds.items():
        try:
            with transaction.atomic(using=alias):
                _put(alias, model, rows, started, final)
        except _REFUSED:
            for row in rows:
                try:
                    with transaction.atomic(using=alias):
                        _put(alias, model, [row], started, final)
                except _REFUSED as exc:
                    logger.error("The result of %s is lost: the database %r refuses it: %s", row, alias, exc)


def _put(alias: str, model: Any, rows: list[Any], started: bool, final: bool) -> None:
    key = "group_id" if model is GroupResult else "task_id"
    left_out = {"id", key, "date_created"} | (set() if started else {"date_started"})
    names = [field.attname for field in model._meta.concrete_fields if field.attname not in left_out]
    objects = model.objects.using(alias)
    features = connections[alias].features
    if final and features.supports_update_conflicts:
        unique = [key] if features.supports_update_conflicts_with_target else None
        objects.bulk_create(rows, update_conflicts=True, unique_fields=unique, update_fields=names)
        return
    for row in rows:
        values = {name: getattr(row, name) for name in names}
        replaceable = objects.filter(**{key: getattr(row, key)})
        if not final:
            replaceable = replaceable.exclude(Q(status__in=states.READY_STATES) & _unexpired())
        if replaceable.update(**values):
            continue
        if features.supports_ignore_conflicts:
            # one actor: finds no row and inserts. The other: has inserted a final one meanwhile, which stays
            objects.bulk_create([row], ignore_conflicts=True)
        else:
            objects.get_or_create(**{key: getattr(row, key)}, defaults=values)


def read(alias: str, ids: Sequence[str]) -> dict[str, bytes]:
    """Return the records that are there, by id."""
    found = {}
    for model, key, prefix, names in _by_model(ids):
        rows = model.objects.using(alias).filter(_unexpired(), **{f"{key}__in": names}).values_list(key, "record")
        found.update({prefix + id: bytes(record) for id, record in rows})
    return found


def delete(alias: str, ids: Sequence[str]) -> None:
    """Delete rows."""
    for model, key, _, names in _by_model(ids):
        model.objects.using(alias).filter(**{f"{key}__in": names}).delete()


def sweep(alias: str, limit: int) -> None:
    """Delete up to ``limit`` rows of each kind that have expired."""
    for model in (TaskResult, GroupResult):
        objects = model.objects.using(alias)
        expired = list(objects.filter(expires__lte=timezone.now()).order_by().values_list("pk", flat=True)[:limit])
        if expired:
            objects.filter(pk__in=expired).delete()


def _unexpired() -> Q:
    return Q(expires__isnull=True) | Q(expires__gt=timezone.now())


def _by_model(ids: Iterable[str]) -> list[tuple[Any, str, str, list[str]]]:
    """Return (model, its key, what the ids have in front of it, keys) for the kinds of rows that these ids name."""
    tasks: list[str] = []
    groups: list[str] = []
    for id in ids:
        if id.startswith(GROUP_KEY):
            groups.append(id.removeprefix(GROUP_KEY))
        else:
            tasks.append(id)
    found: list[tuple[Any, str, str, list[str]]] = []
    if tasks:
        found.append((TaskResult, "task_id", "", tasks))
    if groups:
        found.append((GroupResult, "group_id", GROUP_KEY, groups))
    return found
