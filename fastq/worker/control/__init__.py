"""What a node can be asked and told from outside: its own commands, and those that an application adds.

The node's own are plain functions ``command(node, **arguments)`` in the dicts ``COMMANDS`` of this package's modules; they run in
the node's loop, where no application is. An application adds its own with ``@control_command`` and ``@inspect_command``; those run
where the application is (``Node.ask``), with Celery's calling convention ``command(state, **arguments)``. An application imports
this module, so it imports nothing of the worker.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

__all__ = ["Command", "Later", "Panel", "PanelCommand", "commands", "control_command", "inspect_command"]

#: ``command(node, **arguments)``; returns the reply's payload, or a Later that will have it
Command = Callable[..., Any]

F = TypeVar("F", bound=Callable[..., Any])

#: modules of this package with commands of the node itself
_MODULES = ("looking", "running", "steering", "revoking", "eventing")


class Later:
    """A reply that is not there yet. ``start`` is called at once, in the node's loop, with what takes the payload (also there)."""

    def __init__(self, start: Callable[[Callable[[Any], None]], object]) -> None:
        self.start = start


def commands() -> dict[str, Command]:
    """Return the commands of a node itself, by name."""
    found: dict[str, Command] = {}
    for module in _MODULES:
        # by name: an application that imports this package must not get the worker with it
        found.update(importlib.import_module(f"{__name__}.{module}").COMMANDS)
    return found


# --- commands of applications ---


class PanelCommand(NamedTuple):
    """A command that an application has added."""

    name: str
    function: Callable[..., Any]
    #: "control" or "inspect"
    type: str
    #: positional arguments of the command line: (name, what makes it of text)
    args: Sequence[tuple[str, Callable[[str], Any]]]
    #: the one argument that takes all that is left on the command line
    variadic: str | None
    #: how its arguments are shown
    signature: str | None
    help: str
    #: seconds to wait for replies unless told otherwise
    default_timeout: float
    #: changes what it shows: kept for Celery's sake
    alias: str | None
    visible: bool


class Panel:
    """The commands that applications have added to this process, by name."""

    #: name -> the function
    data: ClassVar[dict[str, Callable[..., Any]]] = {}
    #: name -> what is known of it
    meta: ClassVar[dict[str, PanelCommand]] = {}

    @classmethod
    def register(cls, *args: Any, **options: Any) -> Any:
        """Add a command: ``@Panel.register``, or ``@Panel.register(name=..., ...)`` with the options of ``control_command``."""
        if args:
            return cls._add(*args, **options)
        return lambda function: cls._add(function, **options)

    @classmethod
    def _add(
        cls,
        function: F,
        *,
        name: str | None = None,
        type: str = "control",
        args: Sequence[tuple[str, Callable[[str], Any]]] | None = None,
        signature: str | None = None,
        help: str | None = None,
        default_timeout: float = 1.0,
        alias: str | None = None,
        visible: bool = True,
        variadic: str | None = None,
    ) -> F:
        if type not in ("control", "inspect"):
            raise ValueError(f"a command is of the type 'control' or 'inspect', not {type!r}")
        own = name or str(getattr(function, "__name__", ""))
        text = (help or function.__doc__ or "").strip().partition("\n")[0]
        command = PanelCommand(own, function, type, tuple(args or ()), variadic, signature, text, default_timeout, alias, visible)
        for known in filter(None, (own, alias)):
            cls.data[known] = function
            cls.meta[known] = command
        return function


def control_command(**options: Any) -> Callable[[F], F]:
    """Declare a command that changes something: ``@control_command(args=[("n", int)], signature="[N=1]")``.

    The function is called as ``command(state, **arguments)`` with ``state.app``, ``state.hostname`` and ``state.tasks``, in a
    process of the worker that has the application, never in one of its tasks. What it returns is the reply.
    """
    added: Callable[[F], F] = Panel.register(type="control", **options)
    return added


def inspect_command(**options: Any) -> Callable[[F], F]:
    """Declare a command that only looks; otherwise as ``control_command``."""
    added: Callable[[F], F] = Panel.register(type="inspect", **options)
    return added


def known_panel() -> Mapping[str, PanelCommand]:
    """Return the commands of applications, for the command line and for messages."""
    return Panel.meta
