"""The commands of nodes: what they take on a command line, and what is said of them. Here are those that every node knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fastq.worker.control import PanelCommand

__all__ = ["ALIASES", "KNOWN", "Argument", "Kind", "Known", "known_of", "typed"]

Kind = Literal["inspect", "control"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One word of a command line."""

    name: str
    #: makes the value of the word; ValueError or TypeError: it is not one
    type: Callable[[str], Any] = str
    #: what a reader is told that it is
    expected: str = "text"


@dataclass(frozen=True, slots=True)
class Known:
    """One command."""

    name: str
    kind: Kind
    help: str
    #: words as a usage line shows them
    signature: str = ""
    arguments: Sequence[Argument] = ()
    #: how many of these there must be
    required: int = 0
    #: the argument that takes all words that are left
    variadic: str | None = None
    #: seconds that a node may take, unless told otherwise
    timeout_s: float = 1.0

    @property
    def usage(self) -> str:
        """Return the usage line."""
        return f"fastq {self.kind} {self.name} {self.signature}".rstrip()

    def read(self, words: Iterable[str]) -> dict[str, Any]:
        """Return what the words of a command line say as arguments; ValueError names the word that is wrong."""
        given = list(words)
        if len(given) < self.required:
            raise ValueError(f"{self.name} needs more arguments. Usage: {self.usage}")
        if len(given) > len(self.arguments) and self.variadic is None:
            takes = f"takes {len(self.arguments)} at most" if self.arguments else "takes no arguments"
            raise ValueError(f"{self.name} {takes}, and was given {len(given)}: {' '.join(given)}. Usage: {self.usage}")
        arguments: dict[str, Any] = {}
        for argument, word in zip(self.arguments, given, strict=False):
            try:
                arguments[argument.name] = argument.type(word)
            except (ValueError, TypeError) as exc:
                raise ValueError(
                    f"{self.name}: {argument.name} is {word!r}, expected {argument.expected}. Usage: {self.usage}"
                ) from exc
        if self.variadic is not None and (rest := given[len(self.arguments) :]):
            arguments[self.variadic] = rest
        return arguments


def known_of(command: PanelCommand) -> Known:
    """Return what is to be known of a command that an application has declared."""
    return Known(
        command.name,
        "inspect" if command.type == "inspect" else "control",
        command.help,
        command.signature or " ".join(f"[{name}]" for name, _ in command.args),
        tuple(typed(name, type) for name, type in command.args),
        variadic=command.variadic,
        timeout_s=command.default_timeout,
    )


def typed(name: str, type: Callable[[str], Any]) -> Argument:
    """Return an argument that an application has declared."""
    # bool("false") is True, which nobody means
    return Argument(name, _truth if type is bool else type, getattr(type, "__name__", "value"))


def _truth(word: str) -> bool:
    if (lower := word.lower()) in ("1", "true", "yes", "on"):
        return True
    if lower in ("0", "false", "no", "off"):
        return False
    raise ValueError(word)


def _whole(name: str) -> Argument:
    return Argument(name, int, "a whole number")


def _seconds(name: str) -> Argument:
    return Argument(name, float, "a number of seconds")


_ALL = (
    # --- questions ---
    Known("active", "inspect", "Tasks that run."),
    Known("active_queues", "inspect", "Queues that the node takes tasks from."),
    Known("clock", "inspect", "The clock of the broker, as the node knows it."),
    Known(
        "conf",
        "inspect",
        "Settings, secrets hidden; with `true` also those that nobody has set.",
        "[WITH_DEFAULTS=false]",
        (Argument("with_defaults", _truth, "true or false"),),
    ),
    Known("hello", "inspect", "What a node tells one that starts.", "FROM_NODE", (Argument("from_node"),), required=1),
    Known("memdump", "inspect", "Samples of memory.", "[SAMPLES=10]", (_whole("samples"),)),
    Known("memsample", "inspect", "Memory of the node's processes."),
    Known(
        "objgraph",
        "inspect",
        "A graph of objects in memory.",
        "[TYPE=Request] [NUM=200] [MAX_DEPTH=10]",
        (Argument("type"), _whole("num"), _whole("max_depth")),
    ),
    Known("ping", "inspect", "Which nodes answer."),
    Known("query_task", "inspect", "What the node knows of tasks, by id.", "ID...", variadic="ids", required=1),
    Known(
        "registered",
        "inspect",
        "Tasks that the node knows, with these attributes of theirs.",
        "[ATTRIBUTE]...",
        variadic="taskinfoitems",
        timeout_s=5.0,
    ),
    Known("report", "inspect", "What a report of a fault should say.", timeout_s=5.0),
    Known("reserved", "inspect", "Tasks that are fetched and have not begun."),
    Known("revoked", "inspect", "Ids of tasks that must not start."),
    Known("scheduled", "inspect", "Tasks with a countdown, an eta or a retry that wait in the node's queues."),
    Known("stats", "inspect", "Counters, pool, broker and resources."),
    # --- commands ---
    Known(
        "add_consumer",
        "control",
        "Take tasks from a queue too.",
        "QUEUE [EXCHANGE [TYPE [ROUTING_KEY]]]",
        (Argument("queue"), Argument("exchange"), Argument("exchange_type"), Argument("routing_key")),
        required=1,
    ),
    Known("autoscale", "control", "Scale between MIN and MAX.", "MAX [MIN]", (_whole("max"), _whole("min")), required=1),
    Known("cancel_consumer", "control", "Take no more tasks from a queue.", "QUEUE", (Argument("queue"),), required=1),
    Known("disable_events", "control", "Tell monitors of tasks no more."),
    Known("enable_events", "control", "Tell monitors of tasks."),
    Known("heartbeat", "control", "Say at once how the node is."),
    Known("pool_grow", "control", "Run N tasks more at once.", "[N=1]", (_whole("n"),)),
    Known("pool_restart", "control", "Replace the worker processes, one after the other; each finishes what it runs."),
    Known("pool_shrink", "control", "Run N tasks less at once.", "[N=1]", (_whole("n"),)),
    Known(
        "rate_limit",
        "control",
        "Limit how often a task starts: 10/s, 100/m, 5/h; 0 for no limit.",
        "TASK RATE",
        (Argument("task_name"), Argument("rate_limit")),
        required=2,
    ),
    Known("revoke", "control", "Let tasks not start any more; works without nodes too.", "ID...", variadic="task_id", required=1),
    Known(
        "revoke_by_stamped_headers",
        "control",
        "Let tasks with these stamps not start any more.",
        "HEADER=VALUE...",
        variadic="headers",
        required=1,
    ),
    Known("shutdown", "control", "Stop the node; what runs is finished."),
    Known(
        "terminate",
        "control",
        "End tasks that run, with a signal where the pool can.",
        "SIGNAL ID...",
        (Argument("signal"),),
        variadic="task_id",
        required=2,
    ),
    Known(
        "time_limit",
        "control",
        "Limit how long a task runs, seconds.",
        "TASK SOFT [HARD]",
        (Argument("task_name"), _seconds("soft"), _seconds("hard")),
        required=2,
    ),
)

#: name -> command
KNOWN: dict[str, Known] = {known.name: known for known in _ALL}

#: older or other names of commands
ALIASES = {
    "dump_active": "active",
    "dump_conf": "conf",
    "dump_reserved": "reserved",
    "dump_revoked": "revoked",
    "dump_schedule": "scheduled",
    "dump_tasks": "registered",
    "registered_tasks": "registered",
}
