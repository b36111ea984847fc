"""The project. Its application is imported with it, so that ``shared_task`` finds it wherever a task is sent."""

from django_site.fastq import app as fastq_app

__all__ = ["fastq_app"]
