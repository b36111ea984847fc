"""Tests of the project, as any Django project has them: no worker, tasks run where they are sent."""

from __future__ import annotations

from django.db import transaction
from django.test import TransactionTestCase
from django_site import fastq_app

from notes.models import Note
from notes.tasks import count_words


class NotesTest(TransactionTestCase):
    def setUp(self) -> None:
        fastq_app.conf.task_always_eager = True
        self.addCleanup(fastq_app.conf.__delitem__, "task_always_eager")

    def test_a_note_is_counted(self) -> None:
        response = self.client.post("/notes/", {"text": "three short words"}, follow=True)
        self.assertEqual(response.json()["words"], 3)

    def test_a_note_without_text_is_refused(self) -> None:
        self.assertEqual(self.client.post("/notes/", {"text": " "}).status_code, 400)
        self.assertEqual(Note.objects.count(), 0)

    def test_nothing_is_sent_before_the_commit(self) -> None:
        with transaction.atomic():
            note = Note.objects.create(text="two words")
            count_words.delay_on_commit(note.pk)
            note.refresh_from_db()
            self.assertIsNone(note.words)
        note.refresh_from_db()
        self.assertEqual(note.words, 2)

    def test_wrong_arguments_are_refused_at_once(self) -> None:
        with transaction.atomic(), self.assertRaises(TypeError):
            count_words.delay_on_commit()  # type: ignore[call-arg]
