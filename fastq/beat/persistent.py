"""``PersistentScheduler``: a scheduler that remembers in a file when each entry last ran, so that what was missed is sent at start.

The file is JSON: ``{"format": "fastq-beat", "version", "tz", "utc", "entries": {name: {"last_run_at", "total_run_count"}}}``. It is
written beside itself and renamed, so it is never half. What is sent, and when, is not in it: that comes from the application.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fastq import __version__
from fastq.beat.scheduler import Scheduler
from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["PersistentScheduler"]

_FORMAT = "fastq-beat"


class PersistentScheduler(Scheduler):
    """A scheduler with its runs in a file, for one beat at a time.

    A file that another process uses is refused (ImproperlyConfigured); one that is damaged, or another program's, is moved aside.
    """

    def __init__(self, app: FastQ, *args: Any, schedule_filename: str | None = None, **kwargs: Any) -> None:
        """``schedule_filename``: None is the setting ``beat_schedule_filename``."""
        self.schedule_filename = os.fspath(schedule_filename or app.conf.beat_schedule_filename)
        self._lock: IO[str] | None = None
        super().__init__(app, *args, **kwargs)

    def setup_schedule(self) -> None:
        self._take_lock()
        kept = self._kept()
        super().setup_schedule()
        for name, (last_run_at, total_run_count) in kept.items():
            entry = self.schedule.get(name)
            if entry is not None:
                entry.last_run_at, entry.total_run_count = last_run_at, total_run_count
        self._do_sync()

    def _take_lock(self) -> None:
        path = self.schedule_filename + ".lock"
        if self._lock is not None:
            return
        try:
            file = open(path, "a+", encoding="ascii")  # noqa: SIM115 - held until close()
        except OSError as exc:
            raise ImproperlyConfigured(
                f"beat_schedule_filename: {self.schedule_filename} cannot be used: {exc.strerror} ({path})"
            ) from exc
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ImproperlyConfigured(
                f"beat_schedule_filename: {self.schedule_filename} is used by another beat (pid {holder}); two of them would send "
                "every task twice. Stop it, give this one another file (-s), or share one schedule through the broker (without -s "
                "and -S)"
            ) from exc
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    def _kept(self) -> dict[str, tuple[datetime, int]]:
        """Return the runs in the file by name; nothing if there is none that can be used."""
        path = Path(self.schedule_filename)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise ImproperlyConfigured(f"beat_schedule_filename: {path} cannot be read: {exc.strerror}") from exc
        if not text:
            return {}
        try:
            state = json.loads(text)
            if state["format"] != _FORMAT:
                raise ValueError
            kept = {
                name: (_aware(datetime.fromisoformat(row["last_run_at"])), int(row["total_run_count"]))
                for name, row in state["entries"].items()
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            aside = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.unreadable")
            os.replace(path, aside)
            self.logger.warning(
                "beat: %s is damaged or not a file of fastq beat (such as one of Celery's); it is moved to %s, and what was missed "
                "while no beat ran is not known", path, aside,
            )  # fmt: skip
            return {}
        tz, utc = self._zone()
        if state.get("tz") != tz:
            self.logger.warning("Reset: Timezone changed from %r to %r", state.get("tz"), tz)
            return {}
        if state.get("utc") != utc:
            words = {True: "enabled", False: "disabled"}
            self.logger.warning("Reset: UTC changed from %s to %s", words.get(state.get("utc")), words[utc])
            return {}
        return kept

    def _zone(self) -> tuple[str, bool]:
        return str(self.app.timezone), bool(self.app.conf.enable_utc)

    def sync(self) -> None:
        """Write the file; OSError if that fails: the former one then is as it was."""
        if self._lock is None:
            return
        tz, utc = self._zone()
        entries = {
            name: {"last_run_at": _aware(entry.last_run_at).astimezone(UTC).isoformat(), "total_run_count": entry.total_run_count}
            for name, entry in self.schedule.items()
        }
        state = {"format": _FORMAT, "version": __version__, "tz": tz, "utc": utc, "entries": entries}
        new = self.schedule_filename + ".new"
        with open(new, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.schedule_filename)

    def close(self) -> None:
        """Write the file and let another beat have it."""
        try:
            super().close()
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None  # the file stays: were it deleted, two could hold a lock on two of one name

    @property
    def info(self) -> str:
        return f"    . db -> {self.schedule_filename}"


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
