"""A note."""

from __future__ import annotations

from django.db import models


class Note(models.Model):
    """A text; its words are counted by the worker."""

    text = models.TextField()
    created = models.DateTimeField(auto_now_add=True)
    #: null: not counted yet
    words = models.PositiveIntegerField(null=True)

    def __str__(self) -> str:
        return self.text[:40]
