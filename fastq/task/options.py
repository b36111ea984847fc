"""The options of a task, with their defaults, and the hooks that a class may override."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Options"]


class Options:
    """What a task says about itself: attributes of its class, or arguments of ``@app.task``. None: as the settings say."""

    # --- how it is sent ---

    #: queue it is sent to; None: as the routes say, then ``task_default_queue``
    queue: str | None = None
    #: a queue by its exchange and routing key, as ``task_queues`` names them
    exchange: Any = None
    routing_key: str | None = None
    #: accepted: every message is kept
    delivery_mode: int | str | None = None
    #: 0 to 9, higher is more urgent; None: ``task_default_priority``
    priority: int | None = None
    serializer: str | None = None
    compression: str | None = None
    #: seconds after which a call that has not started is dropped
    expires: float | timedelta | None = None
    retry_policy: Mapping[str, Any] | None = None
    #: whether arguments are checked when the task is sent
    typing: bool | None = None

    # --- how it runs ---

    #: arguments annotated with a pydantic model are validated, and a model that is returned is dumped
    pydantic: bool = False
    pydantic_strict: bool = False
    pydantic_context: Mapping[str, Any] | None = None
    pydantic_dump_kwargs: Mapping[str, Any] | None = None
    #: "10/s", "100/m", "5/h" or a number a second, for the whole fleet; None: ``task_default_rate_limit``
    rate_limit: str | float | None = None
    #: seconds after which it is ended
    time_limit: float | None = None
    #: seconds after which SoftTimeLimitExceeded is raised in it
    soft_time_limit: float | None = None
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    track_started: bool | None = None
    send_events: bool = True
    #: accepted: how a worker receives a task is its own matter
    Strategy: Any = None
    Request: Any = None

    # --- how it is retried ---

    #: None: for ever
    max_retries: int | None = 3
    #: seconds
    default_retry_delay: float = 180
    #: exceptions that retry the task by themselves, and those among them that do not
    autoretry_for: Sequence[type[BaseException]] = ()
    dont_autoretry_for: Sequence[type[BaseException]] = ()
    #: arguments of those retries, as of ``retry()``
    retry_kwargs: Mapping[str, Any] = {}
    #: True, or a factor in seconds: the delay doubles with each retry, up to ``retry_backoff_max`` seconds; ``retry_jitter`` makes
    #: it random
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    #: exceptions that are expected: a failure like others, logged in one line
    throws: Sequence[type[BaseException]] = ()

    # --- what is kept of it ---

    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    store_eager_result: bool | None = None
    #: whether what it sends is among its ``children``
    trail: bool = True
    #: longest text of its arguments and result in logs and events
    resultrepr_maxsize: int = 1024

    #: further attributes and the settings they have their value from where they are None: (("attribute", "setting"), ...)
    from_config: Sequence[tuple[str, str]] = ()

    # --- hooks ---

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Be called before the task runs; what it raises is the task's failure."""

    def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Be called when the task has returned."""

    def on_retry(self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any) -> None:
        """Be called when the task is to run again."""

    def on_failure(self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any) -> None:
        """Be called when the task has failed."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any
    ) -> None:
        """Be called behind the hooks above, whatever came of the task."""

    def on_replace(self, sig: Any) -> Any:
        """Be called by ``replace`` with the signature that goes on; an override ends with ``return super().on_replace(sig)``."""
        from fastq.canvas import chain  # lazy: only where a task is replaced
        from fastq.retries import Replaced  # lazy: as above

        if isinstance(sig, chain) and not sig.tasks:
            raise ImproperlyConfigured("Cannot replace with an empty chain: nothing would go on under this task's id")
        raise Replaced(sig)

    @classmethod
    def on_bound(cls, app: FastQ) -> None:
        """Be called when the task gets its application."""

    def shadow_name(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """Return the name that logs and events show for a call, None: the task's own."""
        return None
