"""Laws of signals."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from fastq import signals
from fastq.signals import Signal


@pytest.fixture
def signal() -> Signal:
    return Signal(["value"], name="test")


def test_a_signal_nobody_listens_to_has_no_receivers(signal: Signal) -> None:
    assert not signal.receivers
    assert not signal.has_listeners()
    assert signal.send(sender=1, value=2) == []


def test_a_receiver_is_given_signal_sender_and_arguments(signal: Signal) -> None:
    @signal.connect
    def receiver(signal: Signal, sender: Any, value: int, **kwargs: Any) -> Any:
        return signal, sender, value, kwargs

    assert signal.send(sender="s", value=2) == [(receiver, (signal, "s", 2, {}))]
    assert signal.has_listeners()


def test_a_receiver_of_one_sender_hears_no_other(signal: Signal) -> None:
    heard: list[Any] = []
    one, other = object(), object()

    @signal.connect(sender=one)
    def receiver(sender: Any, **kwargs: Any) -> None:
        heard.append(sender)

    signal.send(sender=other)
    signal.send(sender=one)
    assert heard == [one]
    assert signal.has_listeners(one)
    assert not signal.has_listeners(other)


def test_a_sender_may_be_a_name(signal: Signal) -> None:
    heard: list[Any] = []

    def receiver(sender: Any, **kwargs: Any) -> None:
        heard.append(sender)

    signal.connect(receiver, sender="tasks.add")
    signal.send(sender="tasks.add")
    signal.send(sender="tasks.mul")
    assert heard == ["tasks.add"]
    assert signal.disconnect(receiver, sender="tasks.add")
    assert not signal.receivers


def test_connecting_twice_calls_once(signal: Signal) -> None:
    def receiver(**kwargs: Any) -> None: ...

    signal.connect(receiver)
    signal.connect(receiver)
    assert len(signal.receivers) == 1
    signal.connect(lambda **kwargs: None, weak=False, dispatch_uid="x")
    signal.connect(lambda **kwargs: None, weak=False, dispatch_uid="x")
    assert len(signal.receivers) == 2
    assert signal.disconnect(dispatch_uid="x")
    assert not signal.disconnect(dispatch_uid="x")


class Listener:
    def __init__(self) -> None:
        self.heard = 0

    def hear(self, **kwargs: Any) -> None:
        self.heard += 1


def test_receivers_are_held_weakly(signal: Signal) -> None:
    listener = Listener()
    signal.connect(listener.hear)
    signal.send()
    assert listener.heard == 1
    del listener
    gc.collect()
    assert not signal.receivers


def test_a_strong_receiver_stays(signal: Signal) -> None:
    heard: list[int] = []
    signal.connect(lambda **kwargs: heard.append(1), weak=False)
    gc.collect()
    signal.send()
    assert heard == [1]


def test_a_bound_method_is_disconnected_by_an_equal_one(signal: Signal) -> None:
    listener = Listener()
    signal.connect(listener.hear)
    assert signal.disconnect(listener.hear)
    assert not signal.receivers


def test_what_a_receiver_raises_is_logged_and_stops_nobody(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []
    error = ValueError("broken listener")

    def broken(**kwargs: Any) -> None:
        raise error

    def works(**kwargs: Any) -> None:
        heard.append(1)

    signal.connect(broken)
    signal.connect(works)
    with caplog.at_level(logging.ERROR, "fastq.signals"):
        assert signal.send() == [(broken, error), (works, None)]
    assert heard == [1]
    assert "broken listener" in caplog.text


def test_a_receiver_with_retry_is_called_until_it_returns(signal: Signal) -> None:
    calls: list[int] = []

    def flaky(**kwargs: Any) -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError
        return "done"

    signal.connect(flaky, retry=True)
    assert signal.send() == [(flaky, "done")]
    assert len(calls) == 3


def test_a_receiver_must_take_keyword_arguments(signal: Signal) -> None:
    with pytest.raises(ValueError, match=r"\*\*kwargs"):
        signal.connect(lambda sender: None)
    with pytest.raises(TypeError, match="not int"):
        signal.connect(5)  # type: ignore[arg-type, type-var]


def test_listeners_of_changes_hear_connect_and_disconnect(signal: Signal, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[bool] = []
    monkeypatch.setattr(signals, "_changed", [])
    signals.on_change(lambda: changes.append(bool(signal.receivers)))

    def receiver(**kwargs: Any) -> None: ...

    signal.connect(receiver)
    signal.disconnect(receiver)
    assert changes == [True, False]


def test_every_signal_knows_its_name() -> None:
    found = signals.all_signals()
    assert len(found) == 34
    for name, signal in found.items():
        assert signal.name == name
        assert name in signals.__all__
