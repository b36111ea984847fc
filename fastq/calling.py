"""Turn a call into a message: the options of a task flattened once, and the envelope of each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastq import _core, compression
from fastq.exceptions import EncodeError, OperationalError
from fastq.producer import NO_RETRY, RetryPolicy
from fastq.records import Publication
from fastq.result import AsyncResult, ResultSet
from fastq.running import current
from fastq.serialization import MSGPACK, blame, content_types, default, unserializable

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Plan", "Signature"]

#: messages of one round trip (DESIGN, protocol rules)
CHUNK = 1_000
_encode = _core.encode
_encode_call = _core.encode_call
_new_id = _core.new_id


class Signature:
    """What arguments a task's function takes, read once."""

    __slots__ = ("_bind", "_name", "_parameters", "high", "low")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        import inspect  # lazy: only where a task is sent

        self._name = name
        self._bind: Callable[..., Any] | None = None
        self._parameters: list[str] = []
        #: calls without keyword arguments fit when they have low to high positional ones
        self.low, self.high = 0, 1 << 30
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a built-in without a signature: the worker will see
            return
        self._bind = signature.bind
        self.high = 0
        for parameter in signature.parameters.values():
            self._parameters.append(parameter.name)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.high = 1 << 30
                self._parameters.pop()
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                self.high += 1
                if parameter.default is parameter.empty:
                    self.low += 1
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                # a required keyword: no call without keywords fits
                self.low, self.high = 1, 0
                break

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, in the words of a call, for arguments that the function does not take."""
        if self._bind is None:
            return
        try:
            self._bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self._name}() {exc}") from None

    def parameter(self, position: int) -> str:
        """Return the name of a positional parameter, "" if it has none."""
        return self._parameters[position] if position < len(self._parameters) else ""


class Plan:
    """How calls of one task are sent: every option resolved. Immutable but for its cache of variants."""

    __slots__ = (
        "_variants", "app", "check_arguments", "compression", "content_type", "expires", "high", "ignore_result", "inbox_wanted",
        "level", "low", "name", "options", "policy", "queue", "raw", "serializer", "signature", "threshold",
    )  # fmt: skip

    def __init__(
        self,
        app: FastQ,
        name: str,
        signature: Signature | None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        expires: float | timedelta | datetime | None = None,
        ignore_result: bool | None = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        call_ignore: bool | None = None,
    ) -> None:
        """``call_ignore``: what this call says about its result. The worker knows what the task says, not what a call says, so the
        call carries it."""
        conf = app.conf
        self.app = app
        self.name = name
        self.signature = signature
        self.low, self.high = (0, 1 << 30) if signature is None else (signature.low, signature.high)
        self.raw = {
            "queue": queue, "priority": priority, "serializer": serializer, "compression": compression, "expires": expires,
            "ignore_result": ignore_result, "retry": retry, "retry_policy": retry_policy,
        }  # fmt: skip
        self.queue = _queue(conf.task_default_queue if queue is None else queue)
        self.level = _level(conf.task_default_priority if priority is None else priority)
        self.serializer = app.serializers.task if serializer is None else serializer
        (self.content_type,) = content_types((self.serializer,), "serializer")
        codec = conf.task_compression if compression is None else compression
        self.compression = _codec(codec)
        self.threshold: int = conf.task_compression_threshold
        self.expires = expires
        self.ignore_result = bool(conf.task_ignore_result if ignore_result is None else ignore_result)
        self.inbox_wanted = not self.ignore_result and app.keeps_results
        self.policy = _policy(conf, retry, retry_policy)
        options: dict[str, Any] = {}
        if call_ignore is not None:
            options["ignore_result"] = bool(call_ignore)
        if self.level:
            options["priority"] = self.level
        self.options = options or None
        self._variants: dict[tuple[Any, ...], Plan] = {}

    def changed(self, **options: Any) -> Plan:
        """Return the plan with these options where they are not None."""
        given = {key: value for key, value in options.items() if value is not None}
        if not given:
            return self
        try:
            key = tuple(given.items())
            found = self._variants.get(key)
        except TypeError:  # an unhashable retry_policy
            key, found = None, None
        if found is None:
            found = Plan(self.app, self.name, self.signature, call_ignore=given.get("ignore_result"), **(self.raw | given))
            # a few combinations of options are used again and again; dates are not
            if key is not None and len(self._variants) < 64 and not isinstance(given.get("expires"), datetime):
                self._variants[key] = found
        return found

    # --- arguments ---

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError for arguments that the function does not take."""
        signature = self.signature
        if signature is not None and (kwargs or not self.low <= len(args) <= self.high):
            signature.check(args, kwargs)

    @staticmethod
    def arguments(args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return args and kwargs of an ``apply_async`` in plain form; TypeError for what cannot be such."""
        if args is None:
            args = ()
        elif not isinstance(args, list | tuple):
            if isinstance(args, str | bytes | Mapping) or not isinstance(args, Iterable):
                raise TypeError(f"args must be a list or tuple of arguments, not {type(args).__name__}: {args!r}")
            args = tuple(args)
        if kwargs is None:
            return args, {}
        if not isinstance(kwargs, Mapping):
            raise TypeError(f"kwargs must be a mapping of argument names to values, not {type(kwargs).__name__}: {kwargs!r}")
        return args, dict(kwargs)

    # --- one call ---

    def send(
        self,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        task_id: str | None = None,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
    ) -> AsyncResult[Any]:
        """Publish one call and return its result."""
        app = self.app
        producer = app.producer
        now_ms = producer.now_ms(self.policy)
        if task_id is None:
            task_id = _new_id(now_ms)
        delay_ms, due_ms = self._when(now_ms, countdown, eta) if countdown is not None or eta is not None else (0, 0)
        options = self._call_options(headers, root_id, parent_id, due_ms or (now_ms + delay_ms if delay_ms else 0))
        message = self._message(task_id, args, kwargs, now_ms, self._expires_ms(now_ms), options)
        result: AsyncResult[Any] = AsyncResult(task_id, app, ignored=self.ignore_result)
        if self.inbox_wanted:
            app.backend.waiter.expect(result)
        producer.publish((Publication(self.queue, message, self.level, delay_ms, due_ms),), (task_id,), self.policy)
        return result

    async def asend(
        self,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        task_id: str | None = None,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
    ) -> AsyncResult[Any]:
        """``send`` for an event loop."""
        app = self.app
        producer = app.producer
        now_ms = await producer.anow_ms(self.policy)
        if task_id is None:
            task_id = _new_id(now_ms)
        delay_ms, due_ms = self._when(now_ms, countdown, eta)
        options = self._call_options(headers, root_id, parent_id, due_ms or (now_ms + delay_ms if delay_ms else 0))
        message = self._message(task_id, args, kwargs, now_ms, self._expires_ms(now_ms), options)
        result: AsyncResult[Any] = AsyncResult(task_id, app, ignored=self.ignore_result)
        if self.inbox_wanted:
            app.backend.waiter.expect(result)
        await producer.apublish((Publication(self.queue, message, self.level, delay_ms, due_ms),), (task_id,), self.policy)
        return result

    # --- many calls ---

    def send_many(
        self,
        calls: Iterable[Sequence[Any]],
        *,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> ResultSet[Any]:
        """Publish many calls, a chunk in each round trip."""
        sent: list[AsyncResult[Any]] = []
        producer = self.app.producer
        iterator = iter(calls)
        while chunk := list(islice(iterator, CHUNK)):
            now_ms = producer.now_ms(self.policy)
            publications, ids, results = self._chunk(chunk, len(sent), now_ms, countdown, eta, headers)
            try:
                producer.publish(publications, ids, self.policy)
            except OperationalError as exc:
                exc.results = ResultSet(sent, self.app)  # type: ignore[attr-defined]
                raise
            sent.extend(results)
        return ResultSet(sent, self.app)

    async def asend_many(
        self,
        calls: Iterable[Sequence[Any]],
        *,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> ResultSet[Any]:
        """``send_many`` for an event loop."""
        sent: list[AsyncResult[Any]] = []
        producer = self.app.producer
        iterator: Iterator[Sequence[Any]] = iter(calls)
        while chunk := list(islice(iterator, CHUNK)):
            now_ms = await producer.anow_ms(self.policy)
            publications, ids, results = self._chunk(chunk, len(sent), now_ms, countdown, eta, headers)
            try:
                await producer.apublish(publications, ids, self.policy)
            except OperationalError as exc:
                exc.results = ResultSet(sent, self.app)  # type: ignore[attr-defined]
                raise
            sent.extend(results)
        return ResultSet(sent, self.app)

    def _chunk(
        self,
        calls: list[Sequence[Any]],
        offset: int,
        now_ms: int,
        countdown: float | timedelta | None,
        eta: datetime | None,
        headers: Mapping[str, Any] | None,
    ) -> tuple[list[Publication], list[str], list[AsyncResult[Any]]]:
        app = self.app
        queue, level, low, high, ignored = self.queue, self.level, self.low, self.high, self.ignore_result
        delay_ms, due_ms = self._when(now_ms, countdown, eta)
        expires_ms = self._expires_ms(now_ms)
        options = self._call_options(headers, None, None, due_ms or (now_ms + delay_ms if delay_ms else 0))
        ids = _core.new_ids(now_ms, len(calls))
        publications = []
        message = self._message
        for i, args in enumerate(calls):
            if not isinstance(args, tuple | list):
                raise TypeError(
                    f"call {offset + i}: expected a tuple of arguments, got {type(args).__name__}: {args!r} "
                    "(one argument is `(value,)`)"
                )
            if not low <= len(args) <= high:
                try:
                    self.check(args, {})
                except TypeError as exc:
                    raise TypeError(f"call {offset + i}: {exc}") from None
            publications.append(Publication(queue, message(ids[i], args, {}, now_ms, expires_ms, options), level, delay_ms, due_ms))
        results: list[AsyncResult[Any]] = [AsyncResult(id, app, ignored=ignored) for id in ids]
        if self.inbox_wanted:
            expect = app.backend.waiter.expect
            for result in results:
                expect(result)
        return publications, ids, results

    # --- the envelope ---

    def _message(
        self,
        task_id: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        now_ms: int,
        expires_ms: int | None,
        options: dict[str, Any] | None,
    ) -> bytes:
        content_type = self.content_type
        try:
            if content_type == MSGPACK:
                body = _encode_call(args, kwargs, default)
            else:
                _, body = self.app.serializers.dumps(self.serializer, [list(args), kwargs])
        except (EncodeError, RecursionError) as exc:
            raise self._blame(args, kwargs, exc) from None
        if self.compression is not None and len(body) >= self.threshold:
            body = compression.compress(self.compression, body)
            content_type = f"{content_type};{self.compression}"
        inbox = self.app.producer.name if self.inbox_wanted else None
        return _encode(task_id, self.name, content_type, body, now_ms, expires_ms, 0, inbox, options)

    def _blame(self, args: Sequence[Any], kwargs: Mapping[str, Any], cause: Exception) -> EncodeError:
        """Return the error that names the argument which cannot be written."""
        serializers = self.app.serializers
        named = [(self._argument(i), value) for i, value in enumerate(args)]
        named += [(f"argument {key!r}", value) for key, value in kwargs.items()]
        for place, value in named:
            found = blame(serializers, self.serializer, value, place)
            if found is not None:
                return EncodeError(f"{self.name}: {unserializable(self.serializer, *found)}")
        return EncodeError(f"{self.name}: the arguments cannot be serialized: {cause}")

    def _argument(self, position: int) -> str:
        name = self.signature.parameter(position) if self.signature is not None else ""
        return f"argument {name!r} (position {position + 1})" if name else f"argument {position + 1}"

    def _call_options(
        self, headers: Mapping[str, Any] | None, root_id: str | None, parent_id: str | None, eta_ms: int
    ) -> dict[str, Any] | None:
        """Return the envelope's options map: None in the common case."""
        parent = current.get()
        if parent is None and not headers and not eta_ms and root_id is None and parent_id is None:
            return self.options
        options = dict(self.options or {})
        if parent is not None:
            options["parent_id"] = parent.id
            options["root_id"] = (parent.options or {}).get("root_id") or parent.id
        if root_id is not None:
            options["root_id"] = root_id
        if parent_id is not None:
            options["parent_id"] = parent_id
        if headers:
            options["headers"] = self._headers(headers)
        if eta_ms:
            options["eta_ms"] = eta_ms
        return options

    def _headers(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return headers as the envelope has them: plain values only, for every worker reads them before any serializer."""
        if not isinstance(headers, Mapping):
            raise TypeError(f"headers={headers!r}: expected a mapping, got {type(headers).__name__}")
        for key, value in headers.items():
            if not isinstance(key, str):
                raise TypeError(f"headers: the name {key!r} is {type(key).__name__}, expected text")
            try:
                _core.packb(value)
            except (EncodeError, RecursionError):
                raise EncodeError(
                    f"{self.name}: headers[{key!r}] is of type {type(value).__name__}, and headers hold plain values only "
                    "(numbers, text, bytes, lists, dicts): send it as text, or as an argument."
                ) from None
        return dict(headers)

    def _when(self, now_ms: int, countdown: float | timedelta | None, eta: datetime | None) -> tuple[int, int]:
        """Return (delay in ms, due at in ms); as in Celery a countdown wins over an eta."""
        if countdown is not None:
            try:
                seconds = countdown.total_seconds() if isinstance(countdown, timedelta) else float(countdown)
            except (TypeError, ValueError):
                raise TypeError(f"countdown={countdown!r}: expected a number of seconds or a timedelta") from None
            if seconds != seconds or seconds == float("inf"):
                raise ValueError(f"countdown={countdown!r}: expected a number of seconds")
            return max(0, round(seconds * 1000)), 0
        if eta is None:
            return 0, 0
        if not isinstance(eta, datetime):
            raise TypeError(f"eta={eta!r}: expected a datetime, got {type(eta).__name__}")
        due_ms = round(self.app.aware(eta).timestamp() * 1000)
        return (0, due_ms) if due_ms > now_ms else (0, 0)

    def _expires_ms(self, now_ms: int) -> int | None:
        expires = self.expires
        if expires is None:
            return None
        if isinstance(expires, datetime):
            return round(self.app.aware(expires).timestamp() * 1000)
        seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"expires={expires!r}: expected a number of seconds, a timedelta or a datetime")
        # 0 on the wire means never, and a time in the past means already over
        return max(1, now_ms + round(seconds * 1000))


def _queue(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"queue={name!r}: expected a queue's name")
    return name


def _level(priority: Any) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int):
        if priority is None:
            return 0
        raise TypeError(f"priority={priority!r}: expected a whole number from 0 to 9")
    if not 0 <= priority <= 9:
        raise ValueError(f"priority={priority}: expected 0 to 9, higher is more urgent")
    return priority


def _codec(name: str | None) -> str | None:
    return None if name is None or name == "" else compression.codec(name)


def _policy(conf: Any, retry: bool | None, policy: Mapping[str, Any] | None) -> RetryPolicy:
    if not (conf.task_publish_retry if retry is None else retry):
        return NO_RETRY
    return RetryPolicy.of(conf.task_publish_retry_policy if policy is None else {**conf.task_publish_retry_policy, **policy})
