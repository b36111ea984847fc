"""What a process that has imported the application tells its supervisor, which never imports it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from fastq.daemon.filenames import expand
from fastq.exceptions import ImproperlyConfigured
from fastq.worker.options import WorkerOptions
from fastq.worker.procname import expand_node

if TYPE_CHECKING:
    from fastq._core import Entry
    from fastq.app import FastQ
    from fastq.config import Settings

__all__ = ["Hello", "configure", "introduce", "set_up_logging"]

_LOGGING = ("worker_hijack_root_logger", "worker_log_color", "worker_log_format", "worker_log_json", "worker_task_log_format")


@dataclass(frozen=True, slots=True)
class Hello:
    """The application's settings as far as supervising needs them; the command line's options are merged in."""

    #: as the banner shows it: ``main:0x7f...``
    app: str
    broker_url: str
    backend_url: str
    #: the same without passwords
    broker_display: str
    backend_display: str
    pool: str
    #: as asked for: slots per process (prefork: processes)
    concurrency: int
    #: how many processes of how many slots that makes
    processes: int
    slots: int
    queues: tuple[str, ...]
    #: names for the banner, built-in ones left out
    tasks: tuple[str, ...]
    lease_ms: int
    max_deliveries: int
    #: fields of TransportOptions
    transport: dict[str, Any]
    #: options of the result backend's own transport; None: the broker's
    backend_extra: dict[str, Any] | None = None
    #: names whose tasks must not run a second time once they have started
    run_once: tuple[str, ...] = ()
    #: names whose results are not stored, failures included
    unstored: tuple[str, ...] = ()
    result_serializer: str = "msgpack"
    #: keep trying at start; how often (0: for ever)
    retry: bool = True
    max_retries: int = 100
    #: the application's settings of logging, but what concerns tasks only
    logging: dict[str, Any] = field(default_factory=dict)
    #: how each of the queues is bound, for the banner
    bindings: tuple[str, ...] = ()
    #: a supervisor signs what it sends
    security_key: str | None = None
    security_trusted_keys: tuple[str, ...] = ()
    #: those of the queues of which every node gets copies
    broadcasts: tuple[str, ...] = ()
    #: where the embedded broker's file is, "" if another broker was named
    embedded: str = ""
    events: bool = False
    #: where health and metrics are served over HTTP; "": only at the local socket of ``fastq health``
    http: str = ""
    event_stream_max: int = 2_000
    event_expires_s: int = 60
    #: (most, fewest) that it scales itself between, in the unit of ``concurrency``; (): it does not
    autoscale: tuple[int, ...] = ()
    #: names of the built-in tasks
    builtin: tuple[str, ...] = ()
    #: worker_disable_rate_limits
    rates_off: bool = False
    #: worker_rate_limit_scope = "worker"
    rates_own: bool = False
    #: Broadcast queues that the application knows, taken from or not
    declared_broadcasts: tuple[str, ...] = ()
    #: queues that may be taken from, where task_create_missing_queues is off
    fixed_queues: tuple[str, ...] = ()
    #: somebody listens to what becomes of the node: see ``announce``
    listened: bool = False
    #: how long a stop is soft before it is cold, and whether also if nothing runs
    soft_shutdown_s: float = 0.0
    soft_shutdown_on_idle: bool = False
    #: for those who ask: tasks after which a process is replaced, 0: never; time limits of tasks without their own, soft and hard
    max_tasks_per_child: int = 0
    limits: tuple[float, ...] = ()
    #: control requests are answered
    remote_control: bool = True
    #: priorities are shown as Celery on Redis has them: 0 is the most urgent
    reversed_priority: bool = False

    def to_message(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def room(self) -> int:
        """Return how many slots a process can grow to: it has as many records on the status board.

        Twice what it starts with, and 16 more at least: a record costs 320 bytes. Autoscaling says itself what it may need.
        """
        if self.pool in ("prefork", "solo"):
            return self.slots
        return max(2 * self.slots, self.slots + 16, *self.autoscale)

    @property
    def most_processes(self) -> int:
        """Return how many processes the node may be told to have: 256, or four times as many as it starts with if that is more, or
        what autoscaling may need. A number with a zero too many must not take the machine down."""
        return max(256, 4 * self.processes, *self.autoscale)

    @classmethod
    def from_message(cls, values: Mapping[str, Any]) -> Hello:
        """Read what ``to_message`` wrote, after its way through JSON."""
        sequences = {f.name for f in fields(cls) if str(f.type).startswith("tuple")}
        read: dict[str, Any] = {name: tuple(value) if name in sequences else value for name, value in values.items()}
        return cls(**read)


def configure(app: FastQ, options: WorkerOptions) -> WorkerOptions:
    """Let the command line's URLs and modules win over the application's, finish the application, and return the options
    with every None replaced by the application's setting."""
    conf = app.conf
    given = {"broker_url": options.broker, "result_backend": options.result_backend}
    conf.override({name: value for name, value in given.items() if value is not None} | options.settings)
    if options.include:
        conf.override({"include": (*conf.include, *options.include)})
    app.finalize()
    # lazy: only a process with the application needs it
    from fastq.worker import announce

    announce.configuring(app, options)
    _refuse_pickle_as_root(app)
    if app.signer is not None and not app.signer.signs:
        raise ImproperlyConfigured(
            "security_trusted_keys is set and security_key is not: a worker signs what it sends itself (retries, what follows a "
            "task), so give it a security_key of its own"
        )
    pool = canonical_pool(options.pool or conf.worker_pool)
    # prefork: both words mean the number of processes, and the command line wins whichever it uses
    if options.autoscale and pool == "solo":
        raise ImproperlyConfigured(
            "--autoscale with the solo pool: it runs one task at a time, in the main process. Use another pool (-P prefork, "
            "threads, gevent, asyncio), or leave --autoscale out"
        )
    if options.autoscale:
        # lazy: few workers scale themselves
        from fastq.worker.autoscale import keepalive_s

        keepalive_s()  # here, where what is wrong with it is shown
    alias = options.processes if pool == "prefork" else None
    setting = conf.worker_processes if pool == "prefork" else None
    node = expand_node(options.hostname)
    return replace(
        options,
        pool=pool,
        concurrency=(options.autoscale or (0, 0))[1]
        or (options.concurrency or alias or conf.worker_concurrency or setting or cpu_count()),
        processes=options.processes or conf.worker_processes,
        queues=tuple(
            name
            for queue in app.router.consumed(options.queues, options.exclude_queues, node=node)
            for name in queue.taken_by(node)
        ),
        prefetch=conf.worker_prefetch if options.prefetch is None else options.prefetch,
        max_tasks_per_child=options.max_tasks_per_child or conf.worker_max_tasks_per_child,
        max_memory_per_child=options.max_memory_per_child or conf.worker_max_memory_per_child,
        retry=options.retry and conf.broker_connection_retry_on_startup,
    )


def _refuse_pickle_as_root(app: FastQ) -> None:
    """Refuse to run as root what anybody who can reach the broker may write; ``C_FORCE_ROOT`` in the environment allows it."""
    # lazy: only a process with the application needs it
    from fastq.serialization import PICKLE

    if os.geteuid() or os.environ.get("C_FORCE_ROOT") or PICKLE not in app.serializers.accept_base:
        return
    raise ImproperlyConfigured(
        "this worker runs as root and accepts pickle (accept_content), so whoever can write to the broker could run any code as "
        "root: run it as another user, take pickle out of accept_content, or set C_FORCE_ROOT=1 if you know what you are doing"
    )


def introduce(app: FastQ, options: WorkerOptions) -> Hello:
    """Say who the application is; ``options`` as ``configure`` returned them."""
    # lazy: only a process with the application needs it
    from fastq.transports import display_url, scheme_of
    from fastq.worker import announce

    conf = app.conf
    assert options.pool is not None and options.concurrency is not None
    processes, slots = shape(options.pool, options.concurrency, options.processes)
    broker_url, backend_url = app.broker_url, app.backend_url
    if app.keeps_results:
        # here, once: not by every process when it opens it
        scheme_of(backend_url)
    transport = asdict(app.transport_options())
    own = dict(conf.result_backend_transport_options)
    backend_extra = own if own or backend_url != broker_url else None
    _check_plain("broker_transport_options", transport["extra"])
    _check_plain("result_backend_transport_options", own)
    registry = app.registry()
    entries = [entry for name in registry.names() if (entry := registry.get(name)) is not None]
    _check_rates(entries, conf)
    return Hello(
        app=f"{app.name}:{id(app):#x}",
        broker_url=broker_url,
        backend_url=backend_url,
        broker_display=_complete(display_url(broker_url)),
        backend_display=_complete(display_url(backend_url)),
        pool=options.pool,
        concurrency=1 if options.pool == "solo" else options.concurrency,
        processes=processes,
        slots=slots,
        queues=options.queues,
        bindings=tuple(map(app.router.binding, options.queues)),
        security_key=conf.security_key,
        security_trusted_keys=tuple(conf.security_trusted_keys),
        broadcasts=tuple(name for name in options.queues if name in app.router.queues and app.router.queues[name].broadcast),
        tasks=tuple(sorted(task.name for task in app.tasks.regular())),
        builtin=tuple(sorted(name for name in app.tasks if name.startswith("fastq."))),
        autoscale=options.autoscale or (),
        rates_off=bool(conf.worker_disable_rate_limits),
        rates_own=conf.get("worker_rate_limit_scope", "fleet") == "worker",
        declared_broadcasts=tuple(queue.name for queue in app.router.queues.values() if queue.broadcast),
        fixed_queues=() if conf.task_create_missing_queues else tuple(app.router.queues),
        lease_ms=round(conf.worker_lease * 1000),
        max_deliveries=conf.task_max_deliveries or 0,
        transport=transport,
        backend_extra=backend_extra,
        run_once=tuple(entry.name for entry in entries if not entry.acks_late or _redelivers(entry.task, conf) is False),
        unstored=tuple(entry.name for entry in entries if entry.ignore_result and not _stores_errors(entry.task, conf)),
        result_serializer=conf.result_serializer,
        retry=options.retry,
        max_retries=conf.broker_connection_max_retries or 0,
        logging={name: conf[name] for name in _LOGGING},
        embedded=_file(broker_url) if app.broker_is_embedded else "",
        listened=announce.listened(),
        events=conf.worker_send_task_events,
        http=_address(conf.worker_http),
        event_stream_max=conf.event_stream_max or 2_000,
        event_expires_s=max(1, round(conf.event_queue_expires)),
        soft_shutdown_s=conf.worker_soft_shutdown_timeout,
        soft_shutdown_on_idle=conf.worker_enable_soft_shutdown_on_idle,
        max_tasks_per_child=options.max_tasks_per_child or 0,
        limits=(conf.task_soft_time_limit or 0, conf.task_time_limit or 0),
        remote_control=conf.worker_enable_remote_control,
        reversed_priority=conf.get("task_priority_order") == "celery",
    )


def _address(text: str | None) -> str:
    """Check an address of health and metrics; ImproperlyConfigured before anything is started."""
    # lazy: only a process with the application needs it
    from fastq.worker.http.address import Address

    return str(Address.parse(text)) if text else ""


def _check_rates(entries: Sequence[Entry], conf: Settings) -> None:
    # lazy: only a process with the application needs it
    from fastq.worker.rates import rate_of

    for entry in entries:
        try:
            rate_of(entry.task, conf.get("task_default_rate_limit"))
        except ImproperlyConfigured as exc:
            raise ImproperlyConfigured(f"task {entry.name}: {exc}") from None


def _redelivers(task: Any, conf: Settings) -> bool | None:
    """Say whether a task runs again whose process has died under it: not only if that is False."""
    own: bool | None = getattr(task, "reject_on_worker_lost", None)
    return conf.get("task_reject_on_worker_lost") if own is None else own


def _stores_errors(task: Any, conf: Settings) -> bool:
    own = getattr(task, "store_errors_even_if_ignored", None)
    return bool(conf.task_store_errors_even_if_ignored if own is None else own)


def shape(pool: str, concurrency: int, processes: int | None) -> tuple[int, int]:
    """Return (processes, slots of each): prefork is processes of one slot, every other pool is multiplied by ``processes``."""
    if pool == "prefork":
        return concurrency, 1
    if pool == "solo":
        return 1, 1
    return processes or 1, concurrency


def cpu_count() -> int:
    """Return how many CPUs this process may use (a container's share counts, not the host)."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def canonical_pool(name: str) -> str:
    """Return a pool's own name for any alias of it; ImproperlyConfigured if there is none."""
    # lazy: the supervisor of a pool that is named needs no pool
    from fastq.pools import canonical_name

    return canonical_name(name)


def _complete(url: str) -> str:
    """Say what a Redis URL leaves out, as people compare banners: port and database."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis", "rediss") or "?" in rest:
        return url
    place, _, database = rest.partition("/")
    host = place.rpartition("@")[2]
    port = "" if re.search(r":\d+$", host) else ":6379"
    return f"{scheme}://{place or 'localhost'}{port}/{database or 0}"


def _file(url: str) -> str:
    """Return the path in a SQLite URL."""
    return url.partition("://")[2].partition("?")[0].removeprefix("/")


def _check_plain(setting: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as exc:
            raise ImproperlyConfigured(
                f"{setting}[{name!r}] is {type(value).__name__}: the worker's supervisor opens connections too, but does not "
                "import the application, so only numbers, text, booleans, None, and lists and mappings of them can be used there"
            ) from exc


def set_up_logging(options: WorkerOptions, hello: Hello) -> None:
    """Log as the application wants it, in a process that has not imported it."""
    # lazy: not before the application has been heard
    from fastq.config import Settings
    from fastq.log import setup_worker_logging

    logfile = options.logfile and expand(options.logfile, expand_node(options.hostname))
    setup_worker_logging(options.loglevel, Settings(hello.logging), redirect=False, logfile=logfile)


def unshared(hello: Hello) -> None:
    """Refuse a broker that lives in one process: a worker is several, and its producers are others."""
    if hello.broker_url.startswith("memory:"):
        raise ImproperlyConfigured(
            f"the broker {hello.broker_display} lives inside one process, so a worker started by the command line cannot see what "
            "others publish; use sqlite:///path/to/file.db (or no broker URL at all: the embedded one) for one machine, "
            "redis:// for more, and fastq.testing for tests"
        )
