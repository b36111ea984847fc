"""The body of a message: a call's arguments, written and compressed; and the one to blame if they cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, compression
from fastq.exceptions import EncodeError
from fastq.serialization import MSGPACK, blame, default, unserializable

if TYPE_CHECKING:
    from fastq.calling.plan import Plan

__all__ = ["blamed", "body"]

_encode_call = _core.encode_call


def body(plan: Plan, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, bytes]:
    """Return (content type, bytes) of a call's arguments; EncodeError names the one that cannot be written."""
    content_type = plan.content_type
    try:
        if content_type == MSGPACK:
            written = _encode_call(args, kwargs, default)
        else:
            _, written = plan.app.serializers.dumps(plan.serializer, [list(args), kwargs])
    except (EncodeError, RecursionError) as exc:
        raise blamed(plan, args, kwargs, exc) from None
    if plan.compression is not None and len(written) >= plan.threshold:
        written = compression.compress(plan.compression, written)
        content_type = f"{content_type};{plan.compression}"
    return content_type, written


def blamed(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any], cause: Exception) -> EncodeError:
    """Return the error that names the argument which cannot be written."""
    serializers = plan.app.serializers
    named = [(_argument(plan, i), value) for i, value in enumerate(args)]
    named += [(f"argument {key!r}", value) for key, value in kwargs.items()]
    for place, value in named:
        found = blame(serializers, plan.serializer, value, place)
        if found is not None:
            return EncodeError(f"{plan.name}: {unserializable(plan.serializer, *found)}")
    return EncodeError(f"{plan.name}: the arguments cannot be serialized: {cause}")


def _argument(plan: Plan, position: int) -> str:
    name = plan.signature.parameter(position) if plan.signature is not None else ""
    return f"argument {name!r} (position {position + 1})" if name else f"argument {position + 1}"
