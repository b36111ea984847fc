"""Settings of Celery that fastq takes without using them, each with the reason, so that a Celery config file loads as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastq.settings.kinds import ANY, Setting

__all__ = ["ACCEPTED"]

_NO_POOL = "connections are not pooled: each process has one to publish and one to fetch"
_NO_HOLD = "nothing is held back in a worker, see worker_prefetch"
_IN_URL = "give it in the URL"
_QUEUE_TYPE = "a queue of RabbitMQ"
_EVENTS = "events are in one stream of the broker, see event_stream_max"
_CONTROL = "kept for remote control; there is no queue for it"
_OTHER_BACKEND = "a result backend that fastq does not have"
_BACKEND_RETRY = "results are stored by the call that reports the task, which is repeated until the broker answers"
_CHORD = "a chord is counted in the broker: nobody polls for it"
_SIGNING = "messages are signed by security_key alone, see the page on security"
_INNER = "the worker has no exchangeable parts"

#: name -> (default of Celery, reason)
_ROWS: Mapping[str, tuple[Any, str]] = {
    # broker
    "broker_read_url": (None, "broker_url serves both ways"),
    "broker_write_url": (None, "broker_url serves both ways"),
    "broker_transport": (None, _IN_URL),
    "broker_host": (None, _IN_URL),
    "broker_port": (None, _IN_URL),
    "broker_user": (None, _IN_URL),
    "broker_password": (None, _IN_URL),
    "broker_vhost": (None, _IN_URL),
    "broker_login_method": (None, _QUEUE_TYPE),
    "broker_native_delayed_delivery_queue_type": ("quorum", _QUEUE_TYPE),
    "broker_channel_error_retry": (False, "there are no channels"),
    "broker_failover_strategy": ("round-robin", "one URL is used"),
    "broker_heartbeat": (120, "connections are probed once per worker_lease"),
    "broker_heartbeat_checkrate": (3.0, "connections are probed once per worker_lease"),
    "broker_pool_limit": (10, _NO_POOL),
    "broker_pool_acquire_timeout": (None, _NO_POOL),
    # results
    "result_failure_expires": (None, "failures are kept as long as results, see result_expires"),
    "result_chord_expires": (None, "an open chord is kept until it is complete"),
    "result_chord_join_timeout": (3.0, _CHORD),
    "result_chord_retry_interval": (1.0, _CHORD),
    "result_compression": (None, "results are stored as the serializer writes them, see result_max_bytes"),
    "result_cache_max": (-1, "results are not cached"),
    "result_persistent": (None, "what is kept over a restart is the server's own setting"),
    "result_exchange": ("celeryresults", _QUEUE_TYPE),
    "result_exchange_type": ("direct", _QUEUE_TYPE),
    "result_backend_always_retry": (False, _BACKEND_RETRY),
    "result_backend_max_retries": (float("inf"), _BACKEND_RETRY),
    "result_backend_base_sleep_between_retries_ms": (10, _BACKEND_RETRY),
    "result_backend_max_sleep_between_retries_ms": (10_000, _BACKEND_RETRY),
    "result_backend_thread_safe": (False, "it is"),
    "redis_host": (None, _IN_URL),
    "redis_port": (None, _IN_URL),
    "redis_db": (None, _IN_URL),
    "redis_username": (None, _IN_URL),
    "redis_password": (None, _IN_URL),
    "redis_client_name": (None, "connections are named after what they are for"),
    "redis_max_connections": (None, _NO_POOL),
    "redis_socket_keepalive": (False, "it is always on"),
    "redis_retry_on_timeout": (False, "a call whose answer is lost is repeated, and counts once"),
    "redis_backend_health_check_interval": (None, "connections are probed once per worker_lease"),
    # tasks
    "task_protocol": (2, "fastq has its own format of messages"),
    "task_acks_on_failure_or_timeout": (True, "a failed task is settled with its failure; Reject(requeue=True) hands it back"),
    "task_acks_on_failure": (None, "a failed task is settled with its failure; Reject(requeue=True) hands it back"),
    "task_acks_on_timeout": (None, "a task over its limit is settled with its failure"),
    "task_retry_on_worker_lost": (False, "a lost task runs again, see task_reject_on_worker_lost"),
    "task_remote_tracebacks": (False, "the worker's traceback is always kept, as result.traceback"),
    "task_repr_maxlevels": (3, "arguments are not part of log lines"),
    "task_queue_max_priority": (None, "every queue has the priorities 0 to 9"),
    "task_default_delivery_mode": (2, "every message is kept"),
    "task_create_missing_queue_type": ("classic", _QUEUE_TYPE),
    "task_create_missing_queue_exchange_type": (None, "a missing queue is its own direct exchange"),
    "task_default_queue_type": ("classic", _QUEUE_TYPE),
    # worker
    "worker_prefetch_multiplier": (4, "how much a process holds follows measured run times, see worker_prefetch"),
    "worker_disable_prefetch": (False, _NO_HOLD),
    "worker_eta_task_limit": (None, "delayed tasks wait in the broker, not in workers"),
    "worker_enable_prefetch_count_reduction": (True, _NO_HOLD),
    "worker_detect_quorum_queues": (True, _QUEUE_TYPE),
    "worker_deduplicate_successful_tasks": (False, "a late report of a task that was handed on changes nothing"),
    "worker_cancel_long_running_tasks_on_connection_loss": (False, "a lost connection does not free the tasks of a living process"),
    "worker_proc_alive_timeout": (4.0, "a process that does not come up is replaced"),
    "worker_lost_wait": (10.0, "a dead process is noticed at once"),
    "worker_pool_restarts": (False, "pool_restart is never switched off"),
    "worker_pool_start_method": ("fork", "given by the pool"),
    "worker_pool_putlocks": (True, _INNER),
    "worker_state_db": (None, "a worker keeps no state on disk"),
    "worker_agent": (None, _INNER),
    "worker_autoscaler": ("celery.worker.autoscale:Autoscaler", _INNER),
    "worker_consumer": ("celery.worker.consumer:Consumer", _INNER),
    "worker_timer": (None, _INNER),
    "worker_timer_precision": (1.0, _INNER),
    "worker_logfile": (None, "logging goes to standard error"),
    # beat
    "beat_enable_remote_control": (False, "fastq beat answers no remote control; fastq schedule changes what it sends"),
    "beat_dburi": (None, "schedules are kept in the broker, or in the file beat_schedule_filename"),
    # events and control
    "event_queue_ttl": (5.0, _EVENTS),
    "event_queue_prefix": ("celeryev", _EVENTS),
    "event_queue_exclusive": (False, _EVENTS),
    "event_queue_durable": (False, _EVENTS),
    "event_exchange": ("celeryev", _EVENTS),
    "event_serializer": ("json", _EVENTS),
    "control_exchange": ("celery", _CONTROL),
    "control_queue_ttl": (300.0, _CONTROL),
    "control_queue_expires": (10.0, _CONTROL),
    "control_queue_exclusive": (False, _CONTROL),
    "control_queue_durable": (False, _CONTROL),
    # security
    "security_key_password": (None, _SIGNING),
    "security_certificate": (None, _SIGNING),
    "security_cert_store": (None, _SIGNING),
    "security_digest": ("sha256", _SIGNING),
    # other backends
    "database_url": (None, _OTHER_BACKEND),
    "database_engine_options": (None, _OTHER_BACKEND),
    "database_short_lived_sessions": (False, _OTHER_BACKEND),
    "database_table_names": (None, _OTHER_BACKEND),
    "database_table_schemas": (None, _OTHER_BACKEND),
    "database_create_tables_at_setup": (True, _OTHER_BACKEND),
    "cache_backend": (None, _OTHER_BACKEND),
    "cache_backend_options": ({}, _OTHER_BACKEND),
    "mongodb_backend_settings": (None, _OTHER_BACKEND),
    "couchbase_backend_settings": (None, _OTHER_BACKEND),
    "arangodb_backend_settings": (None, _OTHER_BACKEND),
    "elasticsearch_retry_on_timeout": (None, _OTHER_BACKEND),
    "elasticsearch_max_retries": (None, _OTHER_BACKEND),
    "elasticsearch_timeout": (None, _OTHER_BACKEND),
    "elasticsearch_save_meta_as_text": (True, _OTHER_BACKEND),
}

#: older names that do not follow from the new one
_OLD: Mapping[str, tuple[str, ...]] = {
    "broker_transport": ("CARROT_BACKEND", "BROKER_BACKEND"),
    "database_url": ("CELERY_RESULT_DBURI",),
    "database_engine_options": ("CELERY_RESULT_ENGINE_OPTIONS",),
    "database_short_lived_sessions": ("CELERY_RESULT_DB_SHORT_LIVED_SESSIONS",),
    "database_table_names": ("CELERY_RESULT_DB_TABLENAMES",),
    "result_cache_max": ("CELERY_MAX_CACHED_RESULTS",),
    "task_protocol": ("CELERY_TASK_PROTOCOL",),
    "worker_lost_wait": ("CELERYD_WORKER_LOST_WAIT",),
    "worker_timer": ("CELERYD_ETA_SCHEDULER",),
    "worker_timer_precision": ("CELERYD_ETA_SCHEDULER_PRECISION",),
    "worker_logfile": ("CELERYD_LOG_FILE",),
}

ACCEPTED: tuple[Setting, ...] = tuple(
    Setting(name, ANY, default, "", old=_OLD.get(name, ()), accepted=reason) for name, (default, reason) in _ROWS.items()
)
