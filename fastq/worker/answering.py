"""Answer the questions of a node, in a process that has its application: the nursery, a green worker process, solo's foreground."""

from __future__ import annotations

import difflib
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastq.control.catalogue import known_of
from fastq.worker.asking import packed, unpacked
from fastq.worker.control import Panel
from fastq.worker.control.plain import pack, plain

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.worker.link import Link

__all__ = ["State", "answer_in_thread", "answer_of", "answer_orders", "reply_to"]

logger = logging.getLogger("fastq.worker.control")

#: attributes of a task that ``registered`` shows unless others are named, as Celery's
_SHOWN = ("exchange", "routing_key", "rate_limit")
#: prefix of the tasks that come with fastq
_BUILT_IN = "fastq."


@dataclass(slots=True)
class State:
    """What a command of an application is given first."""

    app: FastQ
    #: the node's name
    hostname: str

    @property
    def tasks(self) -> Any:
        """Return the application's tasks, by name."""
        return self.app.tasks


def reply_to(message: Mapping[str, Any], app: FastQ, node: str) -> dict[str, Any]:
    """Return the message that answers ``{"ask": number, "packed": question}``."""
    try:
        told = {"reply": answer_of(unpacked(message["packed"]), app, node)}
        text = packed(told)
    except Exception as exc:  # a command of the application; who asked is told
        logger.warning("A question could not be answered", exc_info=True)
        text = packed({"failed": f"{type(exc).__name__}: {exc}"})
    return {"answer": message["ask"], "packed": text}


def answer_of(question: Mapping[str, Any], app: FastQ, node: str) -> Any:
    """Return the answer to a question: ``what`` is registered, conf, report, command or ended."""
    what = question["what"]
    if what == "registered":
        return _registered(app, question.get("attributes") or _SHOWN, bool(question.get("builtins")))
    if what == "conf":
        return _conf(app, bool(question.get("with_defaults")))
    if what == "report":
        return {"ok": app.bugreport()}
    if what == "panel":
        return _panel()
    if what == "command":
        return _command(question, app, node)
    if what == "ended":
        return _tell_beside(app, question["ends"])
    raise ValueError(f"unknown question {what!r}")


def _registered(app: FastQ, attributes: Any, builtins: bool) -> list[str]:
    """Return the names of the tasks, each with those attributes that it has."""
    names = [attributes] if isinstance(attributes, str) else list(attributes)
    found = []
    for name in sorted(app.tasks):
        if not builtins and name.startswith(_BUILT_IN):
            continue
        task = app.tasks[name]
        shown = {one: value for one in names if (value := getattr(task, one, None)) is not None}
        text = " ".join(f"{one}={value}" for one, value in shown.items())
        found.append(f"{name} [{text}]" if text else name)
    return found


def _conf(app: FastQ, with_defaults: bool) -> dict[str, Any]:
    """Return the settings, without secrets."""
    return {name: _simple(value) for name, value, _ in app.conf.table(with_defaults=with_defaults)}


def _simple(value: Any) -> Any:
    """Return a value as it can be sent; callables and the like as text."""
    if isinstance(value, Mapping):
        return {str(key): _simple(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simple(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else plain(value)


def _panel() -> list[dict[str, Any]]:
    """Return what is to be known of the commands that the application has added, as ``fastq.control.offering`` reads it."""
    return [
        {
            "name": known.name,
            "kind": known.kind,
            "help": known.help,
            "signature": known.signature,
            "arguments": [[one.name, one.expected] for one in known.arguments],
            "variadic": known.variadic,
            "timeout_s": known.timeout_s,
            "alias": command.alias,
            "visible": command.visible,
        }
        for name, command in list(Panel.meta.items())
        if name == command.name and (known := known_of(command))
    ]


def _command(question: Mapping[str, Any], app: FastQ, node: str) -> Any:
    """Run a command that the application has added."""
    name, arguments = question["name"], question.get("arguments") or {}
    function = Panel.data.get(name)
    if function is None:
        close = difflib.get_close_matches(name, [*Panel.data, *question.get("known", ())], n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        return {"error": f"unknown command {name!r}{meant}"}
    if "words" in question:
        try:
            arguments = known_of(Panel.meta[name]).read(question["words"])
        except ValueError as exc:
            return {"error": str(exc)}
    try:
        inspect.signature(function).bind(State(app, node), **arguments)
    except TypeError as exc:
        return {"error": f"{name}: {exc}"}
    except ValueError:
        pass  # a callable without a signature
    try:
        reply = function(State(app, node), **arguments)
        pack(reply)
    except Exception as exc:
        logger.warning("The command %s failed", name, exc_info=True)
        return {"error": f"{type(exc).__name__}: {exc}"}
    return reply


def _tell_beside(app: FastQ, ends: Any) -> int:
    """Tell of ends in a thread of its own, as it may take long; whoever asked waits for no process."""
    # lazy: only where a process was killed
    from fastq.worker.telling import tell_ends, wanted

    if wanted(app, ends):
        threading.Thread(target=tell_ends, args=(app, ends), name="fastq-tells", daemon=True).start()
    return 0


def answer_in_thread(link: Link, app: FastQ, node: str) -> None:
    """Answer what comes over a link of its own from now on, in a thread: tasks keep the main thread. It ends with the link."""

    def serve() -> None:
        while not link.closed:
            for message in link.wait(None):
                link.send(reply_to(message, app, node))

    threading.Thread(target=serve, name="fastq-answers", daemon=True).start()


def answer_orders(link: Link, app: FastQ, node: str) -> Callable[[dict[str, Any]], object]:
    """Return what carries out the order to answer (``Orders.obey``), in the loop of the consumer."""
    return lambda order: link.send(reply_to(order, app, node))
