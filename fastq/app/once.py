"""The signals of one application: what happens once in its life reaches also who listens later."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from fastq.signals import Signal

if TYPE_CHECKING:
    from fastq.app.application import FastQ

__all__ = ["ForkSignal", "OnceSignal"]


class OnceSignal(Signal):
    """A signal that is sent once. A receiver that is connected afterwards is called at once."""

    _sent: tuple[Any, dict[str, Any]] | None = None

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Any, Any]]:
        self._sent = (sender, named)
        return super().send(sender, **named)

    send_robust = send

    if not TYPE_CHECKING:  # the types are those of Signal

        def connect(self, receiver: Any = None, *args: Any, **kwargs: Any) -> Any:
            if receiver is None:
                return lambda function: self.connect(function, *args, **kwargs)
            known = len(self.receivers)
            super().connect(receiver, *args, **kwargs)
            if self._sent is not None and len(self.receivers) > known:
                sender, named = self._sent
                self._call(receiver, self.receivers[-1].retry, sender, named)
            return receiver


class ForkSignal(Signal):
    """A signal that is sent in the child after every fork of this process."""

    def __init__(self, app: FastQ, name: str) -> None:
        super().__init__(name=name)
        self._app = weakref.ref(app)

    if not TYPE_CHECKING:  # the types are those of Signal

        def connect(self, receiver: Any = None, *args: Any, **kwargs: Any) -> Any:
            if receiver is None:
                return lambda function: self.connect(function, *args, **kwargs)
            super().connect(receiver, *args, **kwargs)
            _forked.add(self)
            return receiver


#: signals with receivers, so that a fork costs nothing where nobody listens
_forked: weakref.WeakSet[ForkSignal] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for signal in list(_forked):
        app = signal._app()
        if app is not None:
            signal.send(sender=app)


os.register_at_fork(after_in_child=_after_fork_in_child)
