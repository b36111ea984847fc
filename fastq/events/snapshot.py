"""Look at the state of a cluster now and then: a camera for ``fastq events --camera``."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.events.state import State

__all__ = ["Polaroid"]


class Polaroid:
    """Be called with the state every ``freq`` seconds: a subclass has ``on_shutter(state)``.

    ``clear_after``: what has been seen is forgotten after each picture. ``cleanup_freq``: seconds between calls of ``on_cleanup``.
    """

    clear_after = False
    cleanup_freq = 3600.0

    def __init__(
        self,
        state: State,
        freq: float = 1.0,
        maxrate: Any = None,
        cleanup_freq: float | None = None,
        timer: Any = None,
        app: FastQ | None = None,
    ) -> None:
        """``maxrate``: pictures at most, such as "10/m"; ``timer`` is accepted."""
        self.app = app
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq or self.cleanup_freq
        self._least_s = _seconds_of(maxrate)
        self._taken_at = float("-inf")
        self._cleaned_at = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # --- what a subclass may have ---

    def on_shutter(self, state: State) -> None:
        """Look at the state; nothing is taken in meanwhile."""

    def on_cleanup(self) -> None:
        """Clean up what earlier pictures left."""

    # --- taking pictures ---

    def install(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="fastq-camera", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self.freq):
            self.capture()
            if time.monotonic() - self._cleaned_at >= self.cleanup_freq:
                self.cleanup()

    def capture(self) -> None:
        """Take a picture, unless the last one was too short a time ago."""
        now = time.monotonic()
        if now - self._taken_at < self._least_s:
            return
        self._taken_at = now
        self.shutter()

    def shutter(self) -> None:
        """Take a picture."""
        with self.state.freeze_while(clear_after=self.clear_after):
            self.on_shutter(self.state)

    def cleanup(self) -> None:
        self._cleaned_at = time.monotonic()
        self.on_cleanup()

    def cancel(self) -> None:
        """Take the last picture, and end."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self.shutter()

    def __enter__(self) -> Polaroid:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()


def _seconds_of(rate: Any) -> float:
    """Return how many seconds lie between two pictures of a rate such as 10, "10/s", "10/m", "5/h"; 0 without one."""
    if not rate:
        return 0.0
    number, _, unit = str(rate).partition("/")
    try:
        return {"": 1, "s": 1, "m": 60, "h": 3600}[unit.strip()] / float(number)
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(f"{rate!r} is no rate: expected such as 10/s, 10/m or 5/h") from None
