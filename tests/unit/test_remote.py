"""Exceptions across the wire."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from fastq import exceptions
from fastq.exceptions import (
    ChordError,
    MaxRetriesExceededError,
    Reject,
    RemoteError,
    Retry,
    SecurityError,
    UnpickleableExceptionWrapper,
)
from fastq.remote import RemoteTraceback, decode_exception, decode_failure, encode_exception
from fastq.serialization import Serializers

SERIALIZERS = Serializers()


class PaymentError(Exception):
    def __init__(self, code: int, reason: str = "no reason") -> None:
        super().__init__(f"payment failed with {code}")
        self.code = code
        self.reason = reason


class Strange(Exception):
    ran = 0

    def __init__(self, *args: object, needed: int) -> None:
        type(self).ran += 1
        super().__init__(*args)
        self.needed = needed


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Holder:
    class Inner(ValueError):
        pass

    not_an_exception = len


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


def travel(exc: BaseException, name: str | None = None) -> Exception:
    content_type, body, text = encode_exception(raised(exc), SERIALIZERS, name)
    return decode_exception(content_type, body, text, SERIALIZERS)


@pytest.mark.parametrize("name", ["msgpack", "json"])
@pytest.mark.parametrize(
    "exc",
    [
        ValueError("bad", 3),
        KeyError("missing"),
        ZeroDivisionError(),
        OSError(2, "No such file", "x.txt"),
        FileNotFoundError(2, "No such file"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        StopIteration(3),
        exceptions.TaskRevokedError("expired"),
        exceptions.TimeoutError(),
        Holder.Inner("nested class"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_exceptions_are_raised_again_as_their_own_type(exc: Exception, name: str) -> None:
    back = travel(exc, name)
    assert type(back) is type(exc)
    assert back.args == exc.args
    assert str(back) == str(exc)


def test_built_in_fields_are_there_again() -> None:
    back = travel(FileNotFoundError(2, "No such file", "x.txt"))
    assert isinstance(back, FileNotFoundError)
    assert (back.errno, back.strerror) == (2, "No such file")
    decode_error = travel(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
    assert isinstance(decode_error, UnicodeDecodeError) and decode_error.object == b"\xff"


def test_a_class_with_its_own_arguments_keeps_its_text_and_attributes() -> None:
    back = travel(PaymentError(402, reason="card"))
    assert type(back) is PaymentError
    assert str(back) == "payment failed with 402"
    assert (back.code, back.reason) == (402, "card")


def test_no_init_of_the_application_runs() -> None:
    exc = Strange("a", needed=1)
    ran = Strange.ran
    back = travel(exc)
    assert type(back) is Strange and back.needed == 1 and back.args == ("a",)
    assert Strange.ran == ran


def test_the_remote_traceback_is_the_cause() -> None:
    back = travel(ValueError("deep"))
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "raise exc" in str(back.__cause__) and "ValueError: deep" in str(back.__cause__)


def test_arguments_that_cannot_be_written_are_described() -> None:
    thing = object()
    back = travel(ValueError("with", thing))
    assert back.args == ("with", repr(thing))


def test_an_exception_that_cannot_say_its_text_still_arrives() -> None:
    back = travel(Broken("x"))
    assert isinstance(back, RemoteError)
    assert type(back).__name__ == "Broken"
    assert isinstance(back.__cause__, RemoteTraceback)


def wire(**values: Any) -> Exception:
    content_type, body = SERIALIZERS.dumps("msgpack", {"type": "", "module": "", "args": [], "text": "", "state": None} | values)
    return decode_exception(content_type, body, "", SERIALIZERS)


def test_a_class_from_a_module_not_imported_here_has_a_stand_in_of_its_name() -> None:
    back = wire(type="Error", module="no_such_module_here", args=["a", 1], text="a text")
    assert isinstance(back, RemoteError)
    assert type(back).__name__ == "Error" and type(back).__module__ == "no_such_module_here"
    assert str(back) == "a text" and back.args == ("a", 1)
    assert "no_such_module_here" not in sys.modules
    # and it goes on under its own name when it is reported once more
    again = travel(back)
    assert type(again).__name__ == "Error" and str(again) == "a text"


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "print"), ("builtins", "int"), ("builtins", "eval"), (__name__, "Holder.not_an_exception")],
)
def test_what_is_no_exception_class_is_refused(module: str, name: str) -> None:
    back = wire(type=name, module=module, args=["echo pwned"])
    assert isinstance(back, SecurityError)
    assert "not an exception class" in str(back)


@pytest.mark.parametrize("name", ["__class__", "ValueError.__init__", "ValueError.mro", "", ".", "ValueError."])
def test_odd_names_do_no_harm(name: str) -> None:
    assert isinstance(wire(type=name, module="builtins", text="t"), RemoteError | SecurityError)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_exits_do_not_end_the_reader(name: str) -> None:
    back = wire(type=name, module="builtins", args=[1], text="1")
    assert isinstance(back, RemoteError) and type(back).__name__ == name


def test_a_body_of_another_shape_is_an_exception_too() -> None:
    content_type, body = SERIALIZERS.dumps("msgpack", [1, 2])
    assert isinstance(decode_exception(content_type, body, None, SERIALIZERS), RemoteError)
    assert isinstance(wire(type=3, module=None, args="text", text=None, state=[1]), RemoteError)


def test_what_is_not_written_as_an_exception_is_given_as_it_is_on_demand() -> None:
    content_type, body = SERIALIZERS.dumps("msgpack", {"type": "a meta of one's own"})
    assert decode_failure(content_type, body, None, SERIALIZERS) == {"type": "a meta of one's own"}
    assert isinstance(decode_failure(*encode_exception(ValueError("x"), SERIALIZERS), SERIALIZERS), ValueError)


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_fastqs_own_exceptions_keep_what_they_say(name: str) -> None:
    retry = travel(Retry("later", exc=KeyError("k"), when=3.5), name)
    assert isinstance(retry, Retry) and (retry.message, retry.excs, retry.when) == ("later", "KeyError('k')", 3.5)
    assert retry.humanize() == "in 3.5s" and str(retry) == "later"
    chord = travel(ChordError("Dependency x raised ValueError('y')"), name)
    assert isinstance(chord, ChordError) and str(chord) == "Dependency x raised ValueError('y')"
    over = travel(MaxRetriesExceededError("Can't retry", task_args=(1,), task_kwargs={"k": 2}), name)
    assert isinstance(over, MaxRetriesExceededError) and list(over.task_args) == [1] and over.task_kwargs == {"k": 2}
    reject = travel(Reject("why", requeue=True), name)
    assert isinstance(reject, Reject) and (reject.reason, reject.requeue) == ("why", True)


def test_a_stand_in_says_what_it_stands_for_and_can_be_pickled() -> None:
    unknown = wire(type="Outer.Error", module="no_such_module_here", args=["a"], text="a text")
    broken = travel(Broken("x"))
    assert not isinstance(unknown, UnpickleableExceptionWrapper) and isinstance(broken, UnpickleableExceptionWrapper)
    for exc, module, name, args in ((unknown, "no_such_module_here", "Outer.Error", ("a",)), (broken, __name__, "Broken", ("x",))):
        for seen in (exc, pickle.loads(pickle.dumps(exc))):
            assert isinstance(seen, RemoteError) and str(seen) == str(exc)
            assert (seen.exc_module, seen.exc_cls_name, seen.exc_args) == (module, name, args)  # type: ignore[attr-defined]


def test_long_texts_are_cut() -> None:
    _, body, text = encode_exception(raised(ValueError("x" * 1_000_000)), SERIALIZERS)
    assert len(body) < 100_000
    assert len(text) < 100_000


def test_notes_travel() -> None:
    exc = ValueError("v")
    exc.add_note("look here")
    assert travel(exc).__notes__ == ["look here"]
