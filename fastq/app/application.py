"""The application: its settings, its signals, its beginning and its end."""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq import shared, signals
from fastq.app.clock import Clock
from fastq.app.connections import Connections
from fastq.app.counting import LogicalClock
from fastq.app.launching import Launching
from fastq.app.modules import Packages, discover, import_configured
from fastq.app.names import main_name, named
from fastq.app.once import ForkSignal, OnceSignal
from fastq.app.periodic import Periodic
from fastq.app.registry import NOT_FINALIZED, Tasks
from fastq.app.sending import Sending
from fastq.config import SETTINGS, Settings, SettingWarning
from fastq.fixups import of_environment
from fastq.settings.table import suggest

if TYPE_CHECKING:
    from fastq.task import Task

__all__ = ["FastQ"]

#: arguments of Celery's constructor whose parts fastq does not have
_MEANINGLESS = ("loader", "amqp", "events", "log", "control")


class FastQ(Tasks, Sending, Periodic, Connections, Launching, Clock):
    """A task queue application: settings, tasks and connections belong to it.

    Making one reads no settings and opens nothing; settings are read at their first use, connections opened at the first send.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] | str | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        set_as_current: bool = True,
        autofinalize: bool = True,
        task_cls: type[Task[..., Any]] | str | None = None,
        strict_typing: bool = True,
        changes: Mapping[str, Any] | None = None,
        fixups: Iterable[str | Callable[[FastQ], Any]] | None = None,
        tasks: Mapping[str, Task[..., Any]] | None = None,
        **settings: Any,
    ) -> None:
        """``main`` names the tasks of a module that is run as a script. Further keywords are settings; they win over the
        environment and the config object, and lose against ``app.conf`` (``changes`` are assigned there). ``autofinalize`` False:
        ``tasks`` are there only once ``finalize()`` was called. ``fixups`` (functions, or their dotted names) are called with the
        application; None: those of frameworks that the environment names. Celery's ``loader``, ``amqp``, ``events``, ``log`` and
        ``control`` replace parts that fastq does not have: they are a warning.
        """
        if main is not None and not isinstance(main, str):
            raise TypeError(f"FastQ's first argument is the application's name, not {type(main).__name__}")
        for name in _MEANINGLESS:
            if settings.pop(name, None) is not None:
                warnings.warn(f"FastQ({name}=...) means nothing to fastq, which has no such part", SettingWarning, stacklevel=2)
        for name in settings:
            if name not in SETTINGS:
                raise TypeError(
                    f"FastQ() got an unexpected keyword argument {name!r}{suggest(name, [*SETTINGS, 'broker', 'backend'])}"
                )
        for name, value in (("broker_url", broker), ("result_backend", backend), ("include", include)):
            if value is not None:
                settings[name] = value
        self.main = main
        self.strict_typing = strict_typing
        self.autofinalize = autofinalize
        self.conf = Settings(settings)
        self.finalized = False
        #: the worker node that this process belongs to; set by the worker
        self.hostname: str = ""
        #: options (of click) that the application adds to sub-commands: ``app.user_options["worker"].add(option)``; "preload": all
        self.user_options: defaultdict[str, set[Any]] = defaultdict(set)
        #: the settings are about to be read for the first time, and have been
        self.on_configure = OnceSignal(name="app.on_configure")
        self.on_after_configure = OnceSignal(("source",), name="app.on_after_configure")
        #: every task is there
        self.on_after_finalize = OnceSignal(name="app.on_after_finalize")
        #: in the child of a fork
        self.on_after_fork = ForkSignal(self, "app.on_after_fork")
        #: numbers that only rise
        self.clock = LogicalClock()
        self._configured = False
        self._discoveries: list[tuple[Packages, str | None]] = []
        self._lock = threading.RLock()
        Tasks.__init__(self, task_cls, tasks)
        Sending.__init__(self)
        Connections.__init__(self)
        Clock.__init__(self)
        if config_source is not None:
            self.conf.load(config_source, namespace=namespace)
        if changes:
            self.conf.update(changes)
        shared.enrol(self)
        if set_as_current:
            self.set_current()
        given = of_environment() if fixups is None else fixups
        #: what the fixups returned, kept alive with the application
        self._fixups = [(named(fixup) if isinstance(fixup, str) else fixup)(self) for fixup in given]

    @property
    def name(self) -> str:
        """Return the application's name, as banners show it."""
        return self.main or main_name() or "default"

    # --- current ---

    def set_current(self) -> None:
        """Make this the application that ``current_app`` and shared tasks use."""
        shared.set_current(self)

    def set_default(self) -> None:
        """Make this the application of threads that have made no other one current."""
        shared.set_default(self)

    # --- settings ---

    def config_from_object(self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None) -> None:
        """Take settings from a module, class, mapping, or the dotted name of one (``'pkg.mod'``, ``'pkg.mod:attr'``).

        Read at the first use of a setting (``force``: now); replaces what an earlier call set. ``namespace='FASTQ'`` takes only
        names that start with ``FASTQ_``. ``silent`` ignores a module that does not exist.
        """
        self.conf.load(obj, namespace=namespace, silent=silent, force=force)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Take settings from the object whose dotted name an environment variable holds."""
        return self.conf.load_envvar(variable_name, silent=silent, force=force)

    def config_from_cmdline(self, argv: Iterable[str], namespace: str = "worker") -> None:
        """Take settings from arguments such as ``worker.lease=20``; they win over everything."""
        self.conf.load_arguments(argv, namespace)

    def add_defaults(self, source: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add settings that every other source wins over: a mapping, or a function that is called at the first use."""
        self.conf.add_defaults(source)

    def _use_settings(self) -> None:
        """Tell who wants to know that the settings are used from now on."""
        if self._configured:
            return
        self._configured = True
        self.on_configure.send(sender=self)
        self.on_after_configure.send(sender=self, source=self.conf)

    # --- the modules of the tasks ---

    def finalize(self, auto: bool = False) -> None:
        """Take in the shared tasks and import the modules that hold the others. Harmless to call again.

        ``auto``: called by fastq itself, which ``autofinalize=False`` forbids.
        """
        with self._lock:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError(NOT_FINALIZED)
            self.finalized = True
            try:
                self._use_settings()
                self._take_in()
                self.import_default_modules()
            except BaseException:
                self.finalized = False
                raise
        self.on_after_finalize.send(sender=self)

    def import_default_modules(self) -> None:
        """Import the modules of ``imports`` and ``include`` and those ``autodiscover_tasks`` finds; send ``import_modules``."""
        import_configured(self.conf)
        discoveries, self._discoveries = self._discoveries, []
        for packages, related_name in discoveries:
            discover(packages, related_name)
        for _, response in signals.import_modules.send(sender=self):
            if isinstance(response, Exception):
                raise response

    def autodiscover_tasks(
        self, packages: Packages = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Import the module ``related_name`` of every package that has one, when the application is finalized (``force``: now).

        ``packages``: names, or a function that returns them then; None: Django's installed applications.
        """
        if force or self.finalized:
            discover(packages, related_name)
        else:
            self._discoveries.append((packages, related_name))

    # --- the command line ---

    def start(self, argv: Sequence[str] | None = None) -> None:
        """Run the ``fastq`` command for this application: ``if __name__ == "__main__": app.start()``. Exits when it is done."""
        from fastq.app.command import start  # lazy: only where a script is a command

        start(self, argv)

    def worker_main(self, argv: Sequence[str] | None = None) -> None:
        """Run ``fastq worker`` for this application; ``argv`` begins with ``worker``, as Celery has it, or with its options."""
        from fastq.app.command import worker_main  # lazy: only where a script is a command

        worker_main(self, argv)

    def bugreport(self) -> str:
        """Return what a report of a fault should say: versions, platform, settings without secrets."""
        from fastq.app.report import bugreport  # lazy: only where it is asked for

        return bugreport(self)

    # --- the end ---

    def close(self) -> None:
        """Send what is queued and close the connections. The application can be used again; it is no longer current."""
        self._disconnect()
        shared.forget(self)

    def __enter__(self) -> FastQ:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at 0x{id(self):x}>"

    def __reduce__(self) -> Any:
        """Pickle the application's name, class and settings; tasks are found again by their modules."""
        settings = {name: value for name, value, _ in self.conf.table(with_defaults=False, censored=False)}
        return _unpickle, (type(self), self.main, self.strict_typing, settings)


def _unpickle(cls: type[FastQ], main: str | None, strict_typing: bool, settings: dict[str, Any]) -> FastQ:
    return cls(main, strict_typing=strict_typing, set_as_current=False, changes=settings)
