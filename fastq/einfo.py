"""What hooks and signals are told of an exception."""

from __future__ import annotations

from types import TracebackType

from fastq.remote import format_traceback

__all__ = ["ExceptionInfo"]


class ExceptionInfo:
    """An exception with its traceback as text: ``einfo`` of ``on_failure``, ``on_retry``, ``after_return`` and of signals."""

    #: the library's own fault, not the task's
    internal = False

    def __init__(self, exc: BaseException, text: str | None = None) -> None:
        """``text``: the traceback where it has been formatted already."""
        self.exception = exc
        self.type = type(exc)
        self.tb: TracebackType | None = exc.__traceback__
        self._text = text

    @property
    def traceback(self) -> str:
        """Return the traceback as text; formatted at the first use."""
        if self._text is None:
            self._text = format_traceback(self.exception)
        return self._text

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """Return the triple that ``logging`` takes."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"
