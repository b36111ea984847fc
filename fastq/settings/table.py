"""The ONE table of settings: name, kind, default, meaning, option, older names.

What Celery has and fastq takes without using it is in ``settings.accepted``; both make up ``SETTINGS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastq.settings.accepted import ACCEPTED
from fastq.settings.kinds import (
    ANNOTATIONS,
    BOOLEAN,
    COUNT,
    DELIVERIES,
    LEASE,
    LIMIT,
    LOGLEVEL,
    MAPPING,
    NAMES,
    OPTIONAL_BOOLEAN,
    OPTIONAL_COUNT,
    OPTIONAL_NAMES,
    OPTIONAL_POSITIVE,
    OPTIONAL_SECONDS,
    OPTIONAL_TEXT,
    PRIORITY,
    QUEUES,
    RATE,
    ROUTES,
    SCHEDULER,
    SCHEDULES,
    SECONDS,
    SLOTS,
    TEXT,
    TLS,
    Setting,
    one_of,
)

__all__ = ["GROUPS", "SETTINGS", "aliases", "find", "group_of", "suggest"]

#: first word of a name -> heading
GROUPS = {
    "broker": "Broker",
    "key": "Broker",
    "result": "Results",
    "redis": "Results",
    "task": "Tasks",
    "worker": "Worker",
    "dead": "Dead letters",
    "beat": "Periodic tasks",
    "security": "Security",
    "event": "Events",
}
#: settings of tasks that say which queue a task goes to
_ROUTING = frozenset({
    "task_routes", "task_queues", "task_create_missing_queues", "task_default_queue", "task_default_exchange",
    "task_default_exchange_type", "task_default_routing_key", "worker_direct",
})  # fmt: skip


def group_of(row: Setting) -> str:
    """Return the heading that a setting stands under."""
    if row.accepted:
        return "Accepted, nothing to set"
    return "Routing" if row.name in _ROUTING else GROUPS.get(row.name.split("_", 1)[0], "Application")


_ROWS = (
    # application
    Setting("accept_content", NAMES, ("msgpack", "json"),
            "Serializers whose messages are read. pickle is never accepted unless named here. If this is set and task_serializer "
            "or result_serializer is not, its first entry becomes that serializer."),
    Setting("result_accept_content", OPTIONAL_NAMES, None, "Serializers whose results are read. None: as accept_content."),
    Setting("include", NAMES, (), "Modules a worker imports at start, so that their tasks are known.", flag="--include"),
    Setting("imports", NAMES, (), "The same as include; both lists are imported, imports first."),
    Setting("timezone", OPTIONAL_TEXT, None,
            "Zone of naive datetimes given as eta or expires, such as Europe/Paris. None: UTC (the machine's zone if enable_utc is "
            "off)."),
    Setting("enable_utc", BOOLEAN, True, "Whether naive datetimes are UTC where no timezone is set."),
    # broker
    Setting("broker_url", OPTIONAL_TEXT, None,
            "Where messages are kept: redis://, rediss://, unix://, sqlite:// or memory://. None: the embedded broker, a file "
            "fastq.db beside the nearest pyproject.toml, else in the working directory.", flag="--broker",
            env_aliases=("CELERY_BROKER_URL",)),
    Setting("broker_transport_options", MAPPING, {},
            "Options of the transport beyond those that have a setting. global_keyprefix stands for key_prefix; options of "
            "Celery's transports are accepted."),
    Setting("broker_use_ssl", TLS, False,
            "Whether redis:// means TLS (rediss://): True, or a mapping of ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile, "
            "ssl_check_hostname."),
    Setting("broker_connection_timeout", SECONDS, 4.0, "How long connecting may take.", "s"),
    Setting("broker_connection_retry", BOOLEAN, True,
            "What broker_connection_retry_on_startup is where that is None. A worker that was connected always connects again."),
    Setting("broker_connection_retry_on_startup", OPTIONAL_BOOLEAN, True,
            "Whether a worker that cannot reach the broker at start tries again. None: as broker_connection_retry.",
            flag="--no-retry"),
    Setting("broker_connection_max_retries", OPTIONAL_COUNT, 100, "How often a worker tries at start. None or 0: for ever."),
    Setting("broker_wait_replicas", COUNT, 0,
            "Redis: how many replicas must have a message before delay() returns (WAIT). Fewer within "
            "broker_wait_replicas_timeout: OperationalError, see the page on Redis. 0 does not wait."),
    Setting("broker_wait_replicas_timeout", SECONDS, 1.0,
            "How long is waited for replicas, at most half of redis_socket_timeout.", "s"),
    Setting("key_prefix", TEXT, "fastq:", "What every key and channel on the server starts with."),
    # results
    Setting("result_backend", OPTIONAL_TEXT, None,
            "Where results are kept; disabled:// keeps none. None: with the embedded or memory broker the same store, otherwise "
            "disabled.",
            flag="--result-backend", old=("RESULT_BACKEND",), env_aliases=("CELERY_RESULT_BACKEND",)),
    Setting("redis_socket_timeout", OPTIONAL_SECONDS, 30.0,
            "How long one answer of Redis may take, of the broker and for results. A worker process waits one worker_lease at "
            "most, its supervisor less than a third of it. None or 0: 30 s. socket_timeout in the transport options wins.", "s"),
    Setting("redis_socket_connect_timeout", OPTIONAL_SECONDS, None,
            "How long connecting to Redis may take. None or 0: broker_connection_timeout. socket_connect_timeout in the transport "
            "options wins.", "s"),
    Setting("redis_backend_use_ssl", TLS, None, "As broker_use_ssl, for a result backend on Redis."),
    Setting("result_serializer", TEXT, "msgpack", "Serializer of return values."),
    Setting("result_expires", OPTIONAL_SECONDS, 86400.0, "How long results are kept. None or 0: for ever.", "s",
            old=("CELERY_TASK_RESULT_EXPIRES",)),
    Setting("result_extended", BOOLEAN, False,
            "Whether name, arguments, worker, queue and number of retries are kept with a result."),
    Setting("result_max_bytes", COUNT, 1024 * 1024,
            "A larger return value (as serialized) makes the task fail with ResultTooLarge. 0: no limit.", "bytes"),
    Setting("result_backend_transport_options", MAPPING, {}, "As broker_transport_options, for the result backend."),
    # tasks
    Setting("task_serializer", TEXT, "msgpack", "Serializer of arguments.", old=("CELERY_TASK_SERIALIZER",)),
    Setting("task_compression", OPTIONAL_TEXT, None, "Compression of arguments: zlib, gzip, bz2, lzma or zstd.",
            old=("CELERY_MESSAGE_COMPRESSION",)),
    Setting("task_compression_threshold", COUNT, 1024, "Smaller bodies are not compressed.", "bytes"),
    Setting("task_ignore_result", BOOLEAN, False, "Whether return values are dropped."),
    Setting("task_store_errors_even_if_ignored", BOOLEAN, False, "Whether failures are stored where return values are dropped."),
    Setting("task_track_started", BOOLEAN, False, "Whether the state STARTED is stored when a task begins."),
    Setting("task_acks_late", BOOLEAN, True,
            "True: a task whose process dies runs again. False: once started it never runs again; lost, it becomes a dead letter."),
    Setting("task_reject_on_worker_lost", OPTIONAL_BOOLEAN, None,
            "What becomes of a started task whose process dies. None, True: it runs again. False: it fails with WorkerLostError."),
    Setting("task_max_deliveries", DELIVERIES, 3,
            "How often a task may be lost with its process before it becomes a dead letter (reason worker-lost)."),
    Setting("task_time_limit", LIMIT, None,
            "A task that runs longer is ended, and fails with TimeLimitExceeded. None or 0: no limit.", "s", flag="--time-limit",
            old=("CELERYD_TASK_TIME_LIMIT",)),
    Setting("task_soft_time_limit", LIMIT, None,
            "In a task that runs longer SoftTimeLimitExceeded is raised, so that it can clean up. None or 0: no limit.", "s",
            flag="--soft-time-limit", old=("CELERYD_TASK_SOFT_TIME_LIMIT",)),
    Setting("task_default_rate_limit", RATE, None,
            "Rate limit of tasks that have none, such as 10/s or 100/m. worker_rate_limit_scope says whose."),
    Setting("task_annotations", ANNOTATIONS, None,
            "Attributes to set on tasks without touching their code: {'tasks.add': {'rate_limit': '10/s'}}, '*' for every task; "
            "or a list of such mappings and of objects with annotate(task)."),
    Setting("task_default_priority", PRIORITY, 0, "Priority of tasks that name none: 0 to 9, higher is more urgent."),
    Setting("task_priority_order", one_of("fastq", "celery"), "fastq",
            "fastq: 9 is the most urgent, as in RabbitMQ. celery: 0 is, as in Celery on Redis."),
    Setting("task_inherit_parent_priority", BOOLEAN, False,
            "Whether a task sent by a task has that one's priority where nothing else is said."),
    Setting("task_allow_error_cb_on_chord_header", BOOLEAN, False,
            "Whether link_error of a chord is given to every task of its header too, not to its body alone."),
    Setting("task_always_eager", BOOLEAN, False,
            "Whether delay() and apply_async() run the task here and now instead of sending it."),
    Setting("task_eager_propagates", BOOLEAN, False, "Whether an exception of a task that runs eagerly is raised at the call.",
            old=("CELERY_EAGER_PROPAGATES_EXCEPTIONS",)),
    Setting("task_store_eager_result", BOOLEAN, False, "Whether results of tasks that run eagerly are stored."),
    Setting("task_publish_retry", BOOLEAN, True, "Whether sending is tried again after a lost connection.",
            old=("CELERY_TASK_PUBLISH_RETRY",)),
    Setting("task_publish_retry_policy", MAPPING,
            {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
            "max_retries (None: no end), interval_start, interval_step and interval_max in seconds.",
            old=("CELERY_TASK_PUBLISH_RETRY_POLICY",)),
    # routing
    Setting("task_routes", ROUTES, None,
            "Which queue a task goes to: a mapping of names, globs or compiled patterns to a queue or to options, a function, the "
            "dotted name of one, or a list of them."),
    Setting("task_queues", QUEUES, None,
            "The queues that exist and that a worker takes tasks from: a list of fastq.queues.Queue (kombu's are understood), or a "
            "mapping of names to options. None: the default queue alone."),
    Setting("task_create_missing_queues", BOOLEAN, True,
            "Whether a queue that task_queues does not name can be used. False: naming one is an error."),
    Setting("task_default_queue", TEXT, "default", "Queue of tasks that name none."),
    Setting("task_default_exchange", OPTIONAL_TEXT, None,
            "Exchange of queues in task_queues that have a key and no exchange. None: task_default_queue."),
    Setting("task_default_exchange_type", one_of("direct", "topic", "fanout"), "direct",
            "How that exchange compares keys: direct (equal), topic (* is one word, # any number), fanout (every queue)."),
    Setting("task_default_routing_key", OPTIONAL_TEXT, None,
            "Key of the default queue where task_queues does not have it, and of calls that name an exchange alone. None: "
            "task_default_queue."),
    Setting("worker_direct", BOOLEAN, False,
            "Whether a worker also takes tasks from a queue of its own, <node>.dq (fastq.queues.worker_direct).",
            old=("CELERY_WORKER_DIRECT",)),
    # dead letters
    Setting("dead_letter_max", COUNT, 10_000, "How many dead letters a queue keeps; the oldest go first."),
    Setting("dead_letter_expires", SECONDS, 604800.0, "How long dead letters are kept.", "s"),
    # beat
    Setting("beat_schedule", SCHEDULES, {},
            "Periodic tasks: name -> {'task', 'schedule', 'args', 'kwargs', 'options', 'relative', 'missed'}, see the page on "
            "periodic tasks. add_periodic_task adds to it."),
    Setting("beat_scheduler", SCHEDULER, None,
            "What sends periodic tasks. None or 'shared': schedules are kept in the broker, and any number of beats share them; "
            "'persistent': in the file beat_schedule_filename, with one beat; else a class, or its dotted name."),
    Setting("beat_schedule_filename", TEXT, "fastq-beat-schedule", "File of the persistent scheduler."),
    Setting("beat_max_loop_interval", SECONDS, 0.0,
            "How long beat sleeps at most before it looks again. 0: as its scheduler has it (300 s).", "s"),
    Setting("beat_sync_every", COUNT, 0,
            "After how many sent tasks the persistent scheduler writes its file. 0: every 180 s, and when it ends."),
    Setting("beat_cron_starting_deadline", OPTIONAL_SECONDS, None,
            "How late a crontab's missed run may still be made up for when beat starts. None: however late.", "s"),
    Setting("beat_lease", SECONDS, 5.0,
            "How soon another beat takes over from one that has died; one that ends hands over at once.", "s"),
    Setting("beat_timetable", OPTIONAL_TEXT, None,
            "Name under which the broker keeps the schedules. None: the application's name, so that applications which share a "
            "broker have one each."),
    # worker
    Setting("worker_pool", TEXT, "prefork", "prefork, threads, gevent, eventlet, asyncio or solo.", flag="--pool"),
    Setting("worker_concurrency", SLOTS, None,
            "Slots per process (prefork: processes). None or auto: the number of CPUs that this process may use.",
            flag="--concurrency"),
    Setting("worker_processes", OPTIONAL_POSITIVE, None,
            "Processes of a pool with slots inside. None: 1 (prefork: worker_concurrency).",
            flag="--processes"),
    Setting("worker_lease", LEASE, 15.0,
            "A worker node that is silent for up to twice as long is taken for dead, and its tasks run elsewhere. At least 1; "
            "below 5 for tests only.", "s"),
    Setting("worker_revoke_expires", SECONDS, 10800.0,
            "How long a revoked task's id is remembered: should a message of it come within that time, it is discarded.", "s"),
    Setting("worker_prefetch", OPTIONAL_COUNT, None,
            "How many messages a process may hold beyond its slots. None: adapts to measured run times; 0: none.",
            flag="--prefetch"),
    Setting("worker_max_tasks_per_child", OPTIONAL_POSITIVE, None, "A process is replaced after this many tasks.",
            flag="--max-tasks-per-child"),
    Setting("worker_max_memory_per_child", OPTIONAL_POSITIVE, None,
            "A process is replaced when, after a task, its resident memory is above so many KiB.",
            flag="--max-memory-per-child"),
    Setting("worker_enable_remote_control", BOOLEAN, True,
            "Whether a worker answers fastq inspect and fastq control. It says how it is (fastq status) all the same.",
            old=("CELERY_ENABLE_REMOTE_CONTROL",)),
    Setting("worker_http", OPTIONAL_TEXT, None,
            "Where a worker serves /live, /ready and /metrics over HTTP: HOST:PORT, :PORT (every interface) or unix:PATH. "
            "None: nowhere; fastq health finds it all the same.", flag="--http"),
    Setting("worker_soft_shutdown_timeout", SECONDS, 0.0,
            "How long a cold stop (SIGQUIT, the second Ctrl-C) waits first for running tasks. 0: not at all.", "s"),
    Setting("worker_enable_soft_shutdown_on_idle", BOOLEAN, False,
            "Whether a cold stop is soft first also if no task runs at that moment; it ends when all processes have ended."),
    Setting("worker_disable_rate_limits", BOOLEAN, False, "Whether rate limits are ignored.",
            old=("CELERY_DISABLE_RATE_LIMITS",)),
    Setting("worker_rate_limit_scope", one_of("fleet", "worker"), "fleet",
            "Whose a rate limit is. fleet: of all workers together. worker: of each worker, as in Celery."),
    Setting("worker_hijack_root_logger", BOOLEAN, False,
            "Whether handlers that the application put on the root logger are replaced."),
    Setting("worker_log_color", OPTIONAL_BOOLEAN, None, "Coloured log lines. None: if standard error is a terminal."),
    Setting("worker_log_json", BOOLEAN, False, "Whether each log line is one JSON object, for programs that collect logs."),
    Setting("worker_log_format", TEXT, "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s", "Format of log lines."),
    Setting("worker_task_log_format", TEXT, "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s",
            "Format of log lines of task loggers (fastq.utils.log.get_task_logger)."),
    Setting("worker_redirect_stdouts", BOOLEAN, True, "Whether what tasks print goes to the log.",
            old=("CELERY_REDIRECT_STDOUTS",)),
    Setting("worker_redirect_stdouts_level", LOGLEVEL, "WARNING", "The level of what tasks print.",
            old=("CELERY_REDIRECT_STDOUTS_LEVEL",)),
    # events
    Setting("worker_send_task_events", BOOLEAN, False,
            "Whether a worker tells monitors of its tasks, as long as one listens. fastq control enable_events does so later.",
            flag="--task-events", old=("CELERY_SEND_EVENTS", "CELERY_SEND_TASK_EVENTS")),
    Setting("task_send_sent_event", BOOLEAN, False,
            "Whether who sends a task tells monitors so (task-sent), as long as one listens.",
            old=("CELERY_SEND_TASK_SENT_EVENT",)),
    Setting("event_rate_max", OPTIONAL_COUNT, 3_000,
            "How many tasks a second each worker process tells of; monitors hear how many were left out. None or 0: all."),
    Setting("event_stream_max", OPTIONAL_POSITIVE, 2_000,
            "How many batches of events the broker keeps for monitors that are behind. A process tells at most ten a second. "
            "None: 2000."),
    Setting("event_queue_expires", SECONDS, 60.0, "How long events are kept after the last one.", "s"),
    # security
    Setting("security_key", OPTIONAL_TEXT, None,
            "Signs messages, and makes workers run signed ones only: a shared secret, an Ed25519 private key in PEM, or the path "
            "of a file with one. None: messages are not signed."),
    Setting("security_trusted_keys", NAMES, (),
            "Further keys whose signatures are good: shared secrets, Ed25519 public keys in PEM, or their paths."),
)  # fmt: skip


SETTINGS: Mapping[str, Setting] = {row.name: row for row in (*_ROWS, *ACCEPTED)}


@cache
def aliases() -> Mapping[str, Setting]:
    """Return the settings by their further names. Made when the first unknown name comes: importing fastq stays quick."""
    return {alias: row for row in SETTINGS.values() for alias in row.aliases}


def find(name: str) -> Setting | None:
    """Return a setting by any of its names."""
    return SETTINGS.get(name) or aliases().get(name)


def suggest(name: str, known: Any, cutoff: float = 0.82) -> str:
    """Return `` (did you mean 'x'?)`` when one of the known names is close, else nothing. ``cutoff``: how close, up to 1."""
    import difflib  # lazy: only where a name is wrong

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""
