"""Notes in the admin, beside the results of their tasks."""

from __future__ import annotations

from django.contrib import admin

from notes.models import Note

admin.site.register(Note, list_display=("text", "words", "created"))
