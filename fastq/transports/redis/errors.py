"""What a failed call means: one OperationalError for every answer that is not a success, saying what was seen and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fastq.exceptions import OperationalError

if TYPE_CHECKING:
    from fastq.transports.redis.address import Address

__all__ = ["answered", "code_of", "explain"]

#: Redis 6.2 wraps what a command in a script answers: "Error running script (...): -OOM command not allowed ..."
_WRAPPED = re.compile(r"^Error running script.*?: -?([A-Z]{3,}) ", re.DOTALL)

#: first word of an error -> what to say behind the server's name; {text} is what the server said
_ANSWERS = {
    "LOADING": "is loading its data set into memory: try again when it has finished.",
    "BUSY": "is busy with a script that does not end ({text}): find out who runs it (CLIENT LIST), end it with SCRIPT KILL.",
    "UNKILLABLE": "is busy with a script that has written already ({text}): wait for it; only SHUTDOWN NOSAVE ends it.",
    "OOM": "is out of memory and refuses new data ({text}): let workers drain the queues, or raise 'maxmemory'.",
    "MISCONF": "cannot save to its disk and refuses writes ({text}): see its log, make room, or correct its directory.",
    "NOREPLICAS": "refuses writes because too few of its replicas are connected ({text}): bring them back, or lower "
    "'min-replicas-to-write'.",
    "MASTERDOWN": "is a replica that has lost its primary ({text}): use the URL of the primary, or of its sentinels.",
    "NOPERM": "forbids what fastq needs ({text}): give this user all commands (scripting too: +@all, or at least +@scripting), "
    "and all keys and channels of the prefix.",
    "WRONGTYPE": "holds a foreign value under one of fastq's keys ({text}): give the application another key_prefix.",
    "NOSCRIPT": "forgot a script that was just sent ({text}): try again.",
    "DENIED": "is in protected mode, and refuses other machines: set a password or 'bind' there, see its documentation.",
}

_CLUSTER = (
    "is a node of a Redis Cluster ({text}), which fastq does not support yet: use a server that is not a part of a cluster, with "
    "sentinels (sentinel://) where it must survive its machine."
)
_ANSWERS |= dict.fromkeys(("MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN"), _CLUSTER)

#: redis-py's classes for errors whose first word it takes away
_CLASSES = {
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "ClusterCrossSlotError": "CROSSSLOT",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
}

#: shown without: what is said of them says it
_BARE = frozenset(_CLASSES.values())


def explain(error: Exception, address: Address, at: str = "") -> OperationalError:
    """Return the error to raise for one of the client's. ``at``: the server that sentinels have named."""
    told = error.strerror if isinstance(error, OSError) else None
    text = (told or str(error)).rstrip(".") or type(error).__name__
    sentinels = address.sentinels
    if sentinels is not None and at:
        where = f"Redis at {at}, the primary {sentinels.name!r} of {address.display},"
    else:
        where = f"Redis at {address.display}"
    return OperationalError(f"{where} {_meaning(error, text, address)}")


def _meaning(error: Exception, text: str, address: Address) -> str:
    code = code_of(error)
    if code in _BARE and text.startswith(f"{code} "):
        text = text.removeprefix(f"{code} ")
    lower = text.lower()
    kinds = _kinds(error)
    if kinds & {"LoginError", "AuthenticationError", "AuthorizationError"} or code in ("WRONGPASS", "NOAUTH"):
        given = "a password" if address.password else "no password"
        return f"refused the login ({text}; the URL has {given}): correct user and password in the URL."
    if code == "READONLY":
        if address.sentinels is not None:
            return f"is a read-only replica now ({text}): the sentinels are asked again at the next call."
        return f"is a read-only replica ({text}): use the URL of the primary, or of its sentinels (sentinel://)."
    if code in _ANSWERS:
        return _ANSWERS[code].format(text=text)
    if "db index" in lower or "invalid database" in lower:
        return f"has no database {address.db} ({text}): choose one below its 'databases' setting."
    if "max number of clients" in lower:
        return f"has as many connections as it takes ({text}): raise 'maxclients' there, or find out who holds them (CLIENT LIST)."
    if "select is not allowed in cluster mode" in lower:
        return _CLUSTER.format(text=text)
    if "can't run this command" in lower or "no permissions" in lower:
        # what a script may not do is told by Redis 6.2 without a code
        return _ANSWERS["NOPERM"].format(text=text)
    if "unknown command" in lower:
        # behind the name the server repeats the arguments, and they are nobody's business
        name = re.split(r",? with args", text, maxsplit=1)[0]
        return (
            f"does not know a command that fastq needs ({name}): scripting must be on (EVAL and EVALSHA not renamed), on Redis 6.2 "
            "or later."
        )
    if "TimeoutError" in kinds:
        return f"did not answer in time ({text}): check the server's load and the network."
    if kinds & {"ProtocolError", "InvalidResponse"}:
        return f"answered what no Redis server answers ({text}): check host and port, and whether that port wants TLS (rediss://)."
    if kinds & {"ConnectionError", "OSError"}:
        if "ssl" in lower or "certificate" in lower:
            return f"cannot be spoken to with TLS ({text}): check that TLS is on at that port, and the ssl_ parameters of the URL."
        return f"cannot be reached or closed the connection ({text}): check that it runs there and is reachable."
    if answered(error):
        return f"answered with an error: {text}."
    return f"made a call fail: {type(error).__name__}: {text}."


def _kinds(error: Exception) -> set[str]:
    """Return the names of an error's classes. By name: redis-py is imported by those who use it, and ``plain`` by others."""
    return {kind.__name__ for kind in type(error).__mro__}


def answered(error: Exception) -> bool:
    """Say whether the server has sent this error, so that the connection is fit for more."""
    return bool(_kinds(error) & {"ServerError", "ResponseError"})


def code_of(error: Exception) -> str:
    """Return the word that an error of Redis begins with."""
    text = str(error)
    for kind in type(error).__mro__:
        if code := _CLASSES.get(kind.__name__):
            return code
    wrapped = _WRAPPED.search(text)
    return wrapped[1] if wrapped else text.partition(" ")[0]
