"""``fastq events``: what workers tell, as it happens."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import threading
import time
from collections import OrderedDict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fastq.cli.context import Settings, app_options, load_app_or_broker
from fastq.exceptions import ImproperlyConfigured, OperationalError

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.events.receiver import Receiver
    from fastq.events.snapshot import Polaroid
    from fastq.events.state import State

__all__ = ["command"]

#: seconds after which it is said that no node tells of tasks
HINT_S = 2.0
#: seconds before a lost broker is tried again
RETRY_S = 1.0
#: tasks whose names are remembered
NAMES_MAX = 10_000
#: fields that stand in front of a line, or are told by every event
_COMMON = frozenset({"type", "timestamp", "hostname", "uuid", "name", "pid", "clock", "utcoffset", "local_received"})


@click.command("events", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-d", "--dump", is_flag=True, help="One line per event.")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON object per event.")
@click.option("-c", "--camera", metavar="MODULE.CLASS", help="Take pictures of the state with this Polaroid.")
@click.option(
    *("-F", "--frequency", "--freq"),
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds between pictures. Default: 1.",
)
@click.option("-r", "--maxrate", metavar="RATE", help="Pictures at most, such as 10/m.")
@app_options
def command(
    settings: Settings, /, dump: bool, as_json: bool, camera: str | None, frequency: float | None, maxrate: str | None
) -> None:
    """Show what workers tell of themselves and of their tasks, until Ctrl-C.

    Workers started with -E tell of tasks while somebody looks; others after fastq control enable_events.
    """
    if camera and (dump or as_json):
        raise click.UsageError("--camera takes pictures, --dump and --json print events: give one of them.")
    if not camera and (frequency or maxrate):
        raise click.UsageError("--frequency and --maxrate are for pictures: say what takes them, --camera MODULE.CLASS.")
    app = load_app_or_broker(settings)
    if not (camera or dump or as_json) and sys.stdout.isatty() and _top(settings):
        return
    try:
        if camera:
            _photograph(app, camera, frequency or 1.0, maxrate)
        else:
            _dump(app, _json_line if as_json else _Lines())
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # whoever read has seen enough; nothing more must be flushed there
        sys.stdout = None


def _top(settings: Settings) -> bool:
    """Show the live screen, where there is one; False if not."""
    if importlib.util.find_spec("textual") is None:
        return False  # an extra
    top = importlib.import_module("fastq.cli.top")
    click.get_current_context().invoke(top.command)
    return True


def _dump(app: FastQ, line: Any) -> None:
    def show(event: dict[str, Any]) -> None:
        click.echo(line(event))

    receiver = app.events.Receiver(handlers={"*": show})
    threading.Thread(target=_hint, args=(app,), name="fastq-events-hint", daemon=True).start()
    _capture(receiver)


def _capture(receiver: Receiver) -> None:
    """Capture for ever; a broker that is away is tried again."""
    lost = False
    left_out = 0
    while True:
        try:
            for _ in receiver.itercapture():
                lost = False
                if receiver.left_out != left_out:
                    click.echo(f"({receiver.left_out - left_out} tasks were left out, see event_rate_max)", err=True)
                    left_out = receiver.left_out
            return
        except OperationalError as exc:
            if not lost:
                click.echo(f"Lost the broker, trying again: {exc}", err=True)
            lost = True
            time.sleep(RETRY_S)


def _hint(app: FastQ) -> None:
    """Say after a moment if nobody will tell of tasks."""
    from fastq._core import unpackb  # lazy: only where somebody looks

    time.sleep(HINT_S)
    channel = app.events.open_channel()
    try:
        infos = [unpackb(record.info) for record in channel.nodes().values()]
    except OperationalError:
        return  # what is wrong is said already
    finally:
        channel.close()
    if not infos:
        click.echo("No worker is running.", err=True)
    elif not any(info.get("events") for info in infos):
        click.echo(
            f"No worker tells of its tasks ({', '.join(info['name'] for info in infos)}): start it with -E, or run "
            "fastq control enable_events.",
            err=True,
        )


def _photograph(app: FastQ, name: str, frequency: float, maxrate: str | None) -> None:
    state: State = app.events.State()
    try:
        camera = _camera(name)(state, freq=frequency, maxrate=maxrate, app=app)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    click.echo(f"-> fastq events: taking pictures with {name} every {frequency:g} s", err=True)
    with camera:
        _capture(app.events.Receiver(handlers={"*": state.event}))


def _camera(name: str) -> type[Polaroid]:
    module, _, attribute = name.replace(":", ".").rpartition(".")
    expected = "Expected module.Class, a class like fastq.events.snapshot.Polaroid"
    try:
        found: type[Polaroid] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"no camera {name!r}: {exc}. {expected}") from exc
    if not isinstance(found, type):
        raise ImproperlyConfigured(f"no camera {name!r}: that is no class. {expected}")
    return found


# --- lines ---


class _Lines:
    """Make a line of an event. Only the first event of a task tells its name; the lines of all the others do, too."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def __call__(self, event: dict[str, Any]) -> str:
        at = datetime.fromtimestamp(event["timestamp"]).isoformat(sep=" ", timespec="milliseconds")
        about = uuid = event.get("uuid", "")
        if name := event.get("name") or self._names.get(uuid):
            about = f"{name}[{uuid}]"
            self._names[uuid] = name
            if len(self._names) > NAMES_MAX:
                self._names.popitem(last=False)
        told = {key: value for key, value in event.items() if key not in _COMMON and value is not None}
        if told.get("root_id") == uuid:
            del told["root_id"]  # most tasks are the root of their own
        rest = " ".join(f"{key}={_short(value)}" for key, value in told.items())
        return " ".join(filter(None, (at, event.get("hostname", "-"), event["type"], about, rest)))


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    first, *more = text.strip().splitlines() or [""]
    if more:  # a traceback: its last line says what has happened
        return more[-1]
    return first


def _json_line(event: dict[str, Any]) -> str:
    return json.dumps(event, default=repr)
