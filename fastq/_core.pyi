"""The compiled core: envelopes, ids, the registry, the run loop, outcomes, the status board, the batch window.

It encodes, decodes, dispatches and measures; it never blocks, locks, logs or decides, and keeps no mutable module state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal, NoReturn, Self, final

ENVELOPE_FIELDS: Final[int]

# verdicts of a settlement
DONE: Final[int]
RETRY: Final[int]
DEAD: Final[int]
RETURN: Final[int]

# states of a held delivery on the board
FREE: Final[int]
HELD: Final[int]
STARTED: Final[int]
FINISHED: Final[int]
RETURNED: Final[int]

def new_id(now_ms: int) -> str:
    """Return a UUIDv7 (RFC 9562) in canonical text form, its time taken from ``now_ms`` (Unix milliseconds)."""

def new_ids(now_ms: int, n: int) -> list[str]:
    """Return ``n`` UUIDv7 with one read of the system's randomness; ids of one call sort in order."""

def packb(value: object, default: Callable[[object], object] | None = None) -> bytes:
    """Pack plain values (None, bool, int, float, str, bytes, list, tuple as list, dict) as MessagePack.

    Subclasses of these are written as their base, bytearray and memoryview as bytes. Anything else, tuples included, goes through
    ``default`` if given, which returns a plain value or something with ``code`` and ``data`` (``msgpack.ExtType``); EncodeError
    otherwise (also for integers outside 64 bits, nesting deeper than 128, and whatever ``default`` raises).
    """

def unpackb(data: bytes, ext_hook: Callable[[int, bytes], object] | None = None) -> Any:
    """Unpack one MessagePack value; DecodeError on anything else, trailing bytes and what ``ext_hook`` raises included.

    Asks for no more memory than a small multiple of ``len(data)``, whatever lengths the data claims.
    """

def encode(
    id: str,
    name: str,
    content_type: str,
    body: bytes,
    enqueued_ms: int,
    expires_ms: int | None,
    retries: int,
    inbox: str | None,
    options: Mapping[str, Any] | None,
) -> bytes:
    """Write envelope v1. The id is 1 to 255 bytes of UTF-8; EncodeError names the field that cannot be written."""

def encode_call(args: Sequence[Any], kwargs: Mapping[str, Any], default: Callable[[object], object] | None = None) -> bytes:
    """Pack the body of a msgpack task: ``[args, kwargs]``."""

def remark(message: bytes, deliveries: int, paid: bool = False) -> bytes:
    """Return the message with its redelivery mark set to ``deliveries`` (0 and not paid: no mark; over 127 is written as 127).

    Any bytes will do: what cannot be read is redelivered, too.
    """

def task_id(message: bytes) -> str:
    """Slice the task id out of a message; EnvelopeError if it is not one."""

@final
class Entry:
    """One registered task, flat: all that a run needs, prepared once when the registry freezes."""

    name: Final[str]
    fn: Final[Callable[..., Any]]
    task: Final[Any]
    is_async: Final[bool]
    ignore_result: Final[bool]
    track_started: Final[bool]
    acks_late: Final[bool]
    special: Final[bool]  # its runs go through Runner.prepare and Runner.conclude
    index: Final[int]
    def __new__(
        cls,
        name: str,
        fn: Callable[..., Any],
        task: Any = None,
        *,
        is_async: bool = False,
        ignore_result: bool = False,
        track_started: bool = False,
        acks_late: bool = True,
        special: bool = False,
    ) -> Self: ...

@final
class Registry:
    """A frozen table of entries by name; a late registration makes a new one (indexes of old entries stay)."""

    def __new__(cls, entries: Iterable[Entry]) -> Self: ...
    def get(self, name: str) -> Entry | None: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: object, /) -> bool: ...
    def names(self) -> list[str]: ...

@final
class Delivery:
    """A leased envelope with its headers read; the body stays opaque until a slot runs it.

    ``id``, ``name`` of an unregistered task, and ``body`` are cut out of the message each time they are asked for (30 ns).
    """

    queue: Final[str]
    tag: Final[str]
    message: Final[bytes]
    id: Final[str]
    name: Final[str]
    content_type: Final[str]
    enqueued_ms: Final[int]
    expires_ms: Final[int]  # 0: never
    retries: Final[int]
    inbox: Final[str]  # "": nobody waits
    deliveries: Final[int]  # how often it was charged before this delivery
    paid: Final[bool]
    entry: Final[Entry | None]  # None: no such task here
    error: Final[str]  # "" or why the message cannot be read (then id, name are "" where unreadable)
    record: Final[int]  # number of its record on the board, opaque (see ProcessBoard), -1: none
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn: ...  # deliveries are read, not made: peek(), deliveries()
    @property
    def body(self) -> bytes: ...
    @property
    def options(self) -> dict[str, Any] | None: ...
    flow: Final[dict[str, Any] | None]  # options["flow"]: what follows this task (see fastq.flow)
    children: list[str] | None  # ids of tasks that it has sent while it ran
    @property
    def ignore_result(self) -> bool: ...  # of this call: options["ignore_result"] if set, else the entry's

def peek(message: bytes) -> Delivery:
    """Read the headers of one message; EnvelopeError if it is not an envelope."""

def deliveries(queue: str, tags: Sequence[str], messages: Sequence[bytes], registry: Registry) -> list[Delivery]:
    """Read the headers of a fetched batch; never raises for a bad message, its ``error`` says what is wrong."""

@final
class Settlement:
    """What the broker is told of one delivery. Made by the core for a success, by Python for everything else."""

    queue: str
    tag: str
    id: str
    verdict: int
    result: bytes | None  # the result record to store, None: nothing is stored
    inbox: str  # "": nobody waits
    message: bytes | None  # RETRY: the new message (DEAD: None keeps the leased one)
    level: int  # RETRY: its priority level
    delay_ms: int  # RETRY: from the broker's now
    reason: str  # DEAD
    detail: bytes | None  # DEAD: the dead letter's record (msgpack map)
    record: int  # number of its record on the board, -1: none
    effects: Any  # fastq.records.Effects: what else happens in the same step; None: nothing
    def __init__(
        self,
        queue: str,
        tag: str,
        id: str,
        verdict: int,
        *,
        result: bytes | None = None,
        inbox: str = "",
        message: bytes | None = None,
        level: int = 0,
        delay_ms: int = 0,
        reason: str = "",
        detail: bytes | None = None,
        record: int = -1,
        effects: Any = None,
    ) -> None: ...

def encode_result(
    state: str, content_type: str, body: bytes, traceback: str | None, done_ms: int, meta: Mapping[str, Any] | None
) -> bytes:
    """Write a result record: the MessagePack array [state, content type, body, traceback, done at (ms), meta]."""

def decode_result(record: bytes) -> tuple[str, str, bytes, str | None, int, dict[str, Any] | None]:
    """Read a result record (readers ignore trailing elements); DecodeError otherwise."""

def gather_results(
    settlements: Sequence[Settlement], inline_max: int
) -> tuple[list[tuple[bool, str, bytes, list[Any]]], list[tuple[str, bytes, list[Any]]]]:
    """Gather the results of a settle batch by where they are stored and by who waits for them.

    Returns the groups (whether the ids are UUIDv7 of one time slot of 4,096 ms, their first 10 characters or else the one id,
    places, [id, record, ...]) and the inboxes (name, places, [id, record or None if over ``inline_max`` bytes, ...]). Places are
    the indexes of the settlements as two bytes each, low byte first. Settlements without a result are left out. Results among the
    ``effects`` of a settlement belong to it.
    """

@final
class BatchWindow:
    """Measured run time per task name (EWMA over entries), and how many of them one fetch may take."""

    def __new__(cls, target_ms: float = 10.0, limit: int = 1000) -> Self: ...
    def note(self, index: int, elapsed_ns: int, count: int = 1) -> None: ...  # ``count`` runs that took so long together
    def mean_ns(self, index: int) -> int: ...  # -1: never measured
    def short(self, index: int) -> bool: ...  # measured, and at least two fit the target
    def size(self) -> int:
        """Return how many to hold for one slot now: 1 when idle or unknown.

        Grows towards what fits the target, at most doubling a call, and only if something was noted since the last call; a single
        run longer than the target ends it at once.
        """
    def reset(self) -> None: ...  # forget the size, keep what is known of each name

OUTCOMES: Final[tuple[str, ...]]  # how a run ends, in the order of ``Tally.task_totals``
RUNTIME_BOUNDS_S: Final[tuple[float, ...]]  # upper bounds of the buckets, inclusive; one more bucket holds what is longer
WAIT_BOUNDS_S: Final[tuple[float, ...]]

@final
class Tally:
    """What the runs of one process index add up to since its node began, by task and by queue. Never cleared.

    The Runner of a board that has one writes it with plain stores, so one process writes at a time; anybody may read. The region is
    zeros at first, a multiple of 64 bytes, and begins at a multiple of 8. Rows are taken at the first use of a name, which
    is cut at 104 bytes; the last row of each kind, ``(other)``, takes what finds none.
    """

    tasks: Final[int]
    queues: Final[int]
    def __new__(cls, buffer: memoryview, tasks: int, queues: int) -> Self: ...
    @staticmethod
    def size(tasks: int, queues: int) -> int: ...
    def refused(self, delivery: Delivery, settlement: Settlement) -> None: ...  # it ends without a run
    def add(self, name: str, outcome: str, n: int = 1) -> None: ...
    def count(self, which: Literal["given_back", "fenced", "taken_back"], n: int = 1) -> None: ...
    def counter(self, which: Literal["given_back", "fenced", "taken_back"]) -> int: ...
    def task_totals(self) -> list[tuple[str, tuple[int, ...], int, int, tuple[int, ...]]]:
        """Return (name, count of each of OUTCOMES, sum of waits in ms, of run times in ns, runs in each bucket) of each task."""
    def queue_totals(self) -> list[tuple[str, int, int, tuple[int, ...]]]:
        """Return (queue, started, sum of waits in ms, starts in each bucket) of every queue that something was fetched from.

        A wait runs from when the task was sent or became due until it started, on the broker's clock. What was delivered before
        is in ``started`` only.
        """

@final
class ProcessBoard:
    """One process' region of the status board: a header, one record per slot, one per held delivery.

    Plain stores by the worker process, reads by its supervisor; the state of a held delivery moves only by
    compare-and-swap, so exactly one of the two wins it. The region is zeros at first, a multiple of 64 bytes, and begins at
    a multiple of 8. The number of a record names one use of it (opaque: index and generation), so a number read earlier never
    wins what the record holds by now. ``hold`` and ``free`` are for the worker's consumer alone, the rest for any thread.
    """

    slots: Final[int]
    capacity: Final[int]
    tally: Final[Tally | None]
    def __new__(cls, buffer: memoryview, slots: int, capacity: int, tally: Tally | None = None) -> Self: ...
    @staticmethod
    def size(slots: int, capacity: int) -> int: ...
    # worker side
    def hold(self, batch: Sequence[Delivery], queue_index: int, now_ms: int) -> int:
        """Give deliveries records, HELD; return how many found one (not those with a tag over 40 bytes, nor when all are used)."""
    def claim(self, record: int, now_ms: int) -> bool: ...  # HELD -> STARTED
    def finish(self, record: int) -> None: ...  # STARTED -> FINISHED
    def give_back(self, record: int) -> bool: ...  # HELD -> RETURNED
    def free(self, records: Sequence[int]) -> None: ...  # any -> FREE, after the settlement is confirmed; -1 is skipped
    def slot_begin(self, slot: int, id: str, name: str, now_ms: int) -> None: ...
    def slot_end(self, slot: int) -> None: ...
    # both sides
    def counter(self, which: Literal["started", "done", "failed", "held", "watched", "pid"]) -> int: ...
    def set_counter(self, which: Literal["started", "done", "failed", "held", "watched", "pid"], value: int) -> None: ...
    def held(self) -> list[tuple[int, str, int, int, int, int]]:
        """Return (record, tag, queue index, state, held since ms, started at ms) of every record that is not FREE."""
    def active(self) -> list[tuple[int, str, str, int]]:
        """Return (slot, task id, task name, started at ms) of every busy slot; ids over 72 and names over 102 bytes are cut."""
    def clear(self) -> None: ...

@final
class Trace:
    """What runs leave behind for those who watch: a few dozen bytes each, until they are taken.

    ``other(delivery, settlement, error, runtime_ns)`` is called in the slot for runs that have raised; those that have returned are
    written down here, up to ``most`` of them (and 1 MiB) between two calls of ``take``. ``silent``: indexes of entries that are not
    noted. Any slot may note, one consumer takes.
    """

    most: int
    offset_ms: int  # this machine's clock minus the broker's
    base_ms: Final[int]
    def __new__(
        cls,
        *,
        other: Callable[[Delivery, Settlement, BaseException, int], object],
        most: int = 1000,
        silent: frozenset[int] | None = None,
    ) -> Self: ...
    def __len__(self) -> int: ...
    def take(self) -> tuple[int, bytes | None, int]:
        """Return (base, runs, left out): runs are a MessagePack array of [id, name, finished (ms after base, Unix ms on this
        machine's clock), run time (us), waited in the process until finished (ms; -1: unknown), retries, body, result, further];
        None: there are none. body and result are bytes as MessagePack has them, a body [bytes] as JSON has it, nil: left out;
        further is nil or a map. Left out are those that there was no room for."""
    def waited_ms(self, board: ProcessBoard, record: int, now_ms: int) -> tuple[int, int, int]:
        """Return (state, ms since it was received, started at: Unix ms, 0: not started) of a held delivery; (0, -1, 0) where the
        record is used otherwise by now."""

@final
class Call:
    """A begun run: what ``finish`` needs."""

    delivery: Final[Delivery]
    args: Final[tuple[Any, ...]]
    kwargs: Final[dict[str, Any]]
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn: ...  # made by Runner.begin()

@final
class Runner:
    """Run deliveries in a slot: claim, load, call, encode the outcome, hand it to ``emit``.

    ``loads(content_type, body)`` returns (args, kwargs) for what the core does not read itself (content types other than
    msgpack, extension types); ``dumps(entry, value)`` returns (content type, body) for what it does not write itself;
    ``on_error(delivery, exc, runtime_ns)`` turns an exception into a Settlement (if it raises itself, the settlement is DEAD with
    reason ``internal-error``); ``on_success(delivery, value, runtime_ns)`` is called if not None, what it raises is
    reported as unraisable. A run is *special* if the runner or the entry says so, or if the delivery has a ``flow``: then
    ``prepare(delivery, args, kwargs)`` comes before the call and returns the arguments to use (None: these), and
    ``conclude(delivery, value, runtime_ns)`` makes the settlement instead of the core and of ``on_success`` (also where the task
    has sent others: ``children``); what either raises fails the task. ``emit(settlement)`` must be safe from any slot
    (``collections.deque.append`` is). ``now_ms`` is refreshed by the consumer (server clock, a few ms coarse): it stamps results.
    None of its methods raises for what a task does: KeyboardInterrupt, SystemExit and the like go to ``on_error`` like others.
    A task's traceback begins in the task: the core adds no frames. The content type is not judged here: that is the gate's.
    """

    now_ms: int
    special: bool  # every run is special
    trace: Trace | None  # notes every run's end; None: nobody wants to know
    def __new__(
        cls,
        *,
        emit: Callable[[Settlement], object],
        loads: Callable[[str, bytes], tuple[Sequence[Any], Mapping[str, Any]]],
        dumps: Callable[[Entry, object], tuple[str, bytes]],
        on_error: Callable[[Delivery, BaseException, int], Settlement],
        prepare: Callable[[Delivery, tuple[Any, ...], dict[str, Any]], tuple[Sequence[Any], Mapping[str, Any]] | None]
        | None = None,
        conclude: Callable[[Delivery, Any, int], Settlement] | None = None,
        on_success: Callable[[Delivery, object, int], object] | None = None,
        current: ContextVar[Delivery | None] | None = None,
        board: ProcessBoard | None = None,
        window: BatchWindow | None = None,
        native: bool = True,
        stores: bool = True,
        special: bool = False,
        result_max_bytes: int = 0,
        call_async: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any] | None = None,
    ) -> Self:
        """``native``: results are written by the core as msgpack; False: always through ``dumps``. ``stores``: False where there is
        no result backend: nothing is encoded, as if every task ignored its result. ``call_async`` runs a
        coroutine function to its end for the pools that cannot await."""
    def run(self, slot: int, delivery: Delivery) -> bool: ...  # False: the claim was lost, nothing ran
    def run_many(self, slot: int, batch: Sequence[Delivery]) -> int: ...  # how many ran
    def begin(self, slot: int, delivery: Delivery) -> Call | None: ...  # None: claim lost, or settled already (bad body)
    def finish(self, slot: int, call: Call, value: object, exc: BaseException | None) -> None: ...
