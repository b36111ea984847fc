"""What the worker does. The tasks belong to no application: ``shared_task`` finds the one of the project."""

from __future__ import annotations

from fastq.contrib.django import shared_task
from notes.models import Note


@shared_task
def count_words(note_id: int) -> int:
    """Count the words of a note, and keep the number with it."""
    note = Note.objects.get(pk=note_id)
    note.words = len(note.text.split())
    note.save(update_fields=["words"])
    return note.words


@shared_task
async def count_all() -> int:
    """Return how many words all notes have; on the asyncio pool others run while the database answers."""
    return sum([words or 0 async for words in Note.objects.values_list("words", flat=True)])
