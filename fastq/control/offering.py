"""Which commands the applications of nodes have added, asked of the nodes: whoever steers them need not import what they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastq.control.catalogue import Argument, Known, typed

if TYPE_CHECKING:
    from fastq.control.broadcasting import Broadcasting

__all__ = ["CALL", "LIST", "Offer", "Offers", "offered"]

#: what nodes are asked: which commands they offer, and to carry one out as a command line gives it
LIST, CALL = "custom_commands", "custom_call"

#: words that can be judged before a node is asked; the node makes of the others what its own code says
_TYPES = {"int": int, "float": float, "bool": bool}


@dataclass(slots=True)
class Offer:
    """One command of applications."""

    #: as the first of the nodes declares it
    known: Known
    alias: str | None
    #: shown in lists
    visible: bool
    nodes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Offers:
    """What nodes have said."""

    #: by name; those of several nodes are one
    by_name: dict[str, Offer] = field(default_factory=dict)
    #: those that have answered, sorted
    nodes: list[str] = field(default_factory=list)
    #: node -> why it could not say
    failed: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Offer | None:
        """Return a command by its name or its alias."""
        return self.by_name.get(name) or next((one for one in self.by_name.values() if one.alias == name), None)


def offered(control: Broadcasting, destination: Iterable[str] | None, timeout_s: float) -> Offers:
    """Ask nodes (None: all) for the commands that their applications have added."""
    found = Offers()
    replies = control.broadcast(LIST, {}, destination, reply=True, timeout=timeout_s) or []
    for node, answer in sorted((item for reply in replies for item in reply.items()), key=lambda item: item[0]):
        if not isinstance(answer, list):
            found.failed[node] = str(answer.get("error")) if isinstance(answer, Mapping) else "an answer of another version"
            continue
        if node not in found.nodes:
            found.nodes.append(node)
        for values in answer:
            offer = _read(values)
            if offer is not None and node not in (known := found.by_name.setdefault(offer.known.name, offer)).nodes:
                known.nodes.append(node)
    return found


def _read(values: Any) -> Offer | None:
    """Read what ``answering`` writes of one command; None: it cannot be read."""
    try:
        known = Known(
            str(values["name"]),
            "inspect" if values["kind"] == "inspect" else "control",
            str(values["help"]),
            str(values["signature"]),
            tuple(_argument(str(name), str(type)) for name, type in values["arguments"]),
            variadic=values["variadic"] and str(values["variadic"]),
            timeout_s=float(values["timeout_s"]),
        )
        return Offer(known, values["alias"] and str(values["alias"]), bool(values["visible"]))
    except (TypeError, KeyError, ValueError):
        return None


def _argument(name: str, type: str) -> Argument:
    return typed(name, _TYPES[type]) if type in _TYPES else Argument(name, str, type)
