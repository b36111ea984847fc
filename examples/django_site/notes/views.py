"""Pages: the notes, one note, and the results of the tasks."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from fastq.contrib.django_results.models import TaskResult
from notes.models import Note
from notes.tasks import count_words


def index(request: HttpRequest) -> HttpResponse:
    return render(request, "notes/index.htm", {"notes": Note.objects.order_by("-pk")[:20]})


@require_POST
def create(request: HttpRequest) -> HttpResponse:
    """Keep a note and have its words counted: both, or, if the transaction is rolled back, neither."""
    text = request.POST.get("text", "").strip()
    if not text:
        return HttpResponse("a note needs a text", status=400, content_type="text/plain")
    with transaction.atomic():
        note = Note.objects.create(text=text)
        # not delay(): a worker is quick enough to look for the row before the transaction has written it
        count_words.delay_on_commit(note.pk)
    return redirect("show", pk=note.pk)


def show(request: HttpRequest, pk: int) -> JsonResponse:
    note = get_object_or_404(Note, pk=pk)
    return JsonResponse({"id": note.pk, "text": note.text, "words": note.words})


def results(request: HttpRequest) -> JsonResponse:
    """List the latest results: rows like any others."""
    rows = TaskResult.objects.filter(task_name="notes.tasks.count_words").order_by("-date_done")[:20]
    columns = ("task_id", "task_name", "task_args", "status", "result", "date_done")
    return JsonResponse({"results": list(rows.values(*columns))})
