"""The live screen of ``fastq top``: four tables, looked up again and again in a thread, and keys that act on the chosen row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Label, Static
from textual.worker import get_current_worker

from fastq.exceptions import FastQError
from fastq.top.look import Look, Looker
from fastq.top.tables import headline, tables

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Top"]

NAMES = ("nodes", "queues", "tasks", "running")


class Question(ModalScreen[bool]):
    """A question that is answered with y or n."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]
    DEFAULT_CSS = "Question { align: center middle; } Question Label { padding: 1 3; border: round $warning; background: $panel; }"

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Label(f"{self._text}\n\ny: yes   n: no", markup=False)

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Page(ModalScreen[None]):
    """A text to be read."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,i,enter", "dismiss_page", "back")]
    DEFAULT_CSS = (
        "Page { align: center middle; } "
        "Page VerticalScroll { width: 90%; height: 85%; border: round $accent; background: $panel; padding: 0 1; }"
    )

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll() as scroll:
            scroll.border_title = self._title
            scroll.border_subtitle = "Esc: back"
            yield Static(self._text, markup=False)

    def action_dismiss_page(self) -> None:
        self.dismiss(None)


class Top(App[None]):
    """The screen. It looks every ``every_s`` seconds."""

    TITLE = "fastq top"
    CSS = """
    #headline { padding: 0 1; background: $primary-background; width: 100%; }
    DataTable { height: 1fr; border: round $surface-lighten-2; }
    DataTable:focus { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("1,2,3,4", "", "tables", show=False),
        Binding("i", "inspect", "inspect"),
        Binding("r", "revoke(False)", "revoke"),
        Binding("t", "revoke(True)", "terminate"),
        Binding("p", "pause", "pause/resume"),
        Binding("space", "freeze", "freeze"),
        *(Binding(str(at + 1), f"show('{name}')", name, show=False) for at, name in enumerate(NAMES)),
    ]

    def __init__(self, app: FastQ, every_s: float = 1.0) -> None:
        super().__init__()
        self._fastq = app
        self._every_s = every_s
        self._frozen = False
        self._looking = False
        #: what is on the screen
        self.seen = Look(0.0)
        self._looker = Looker(app)

    def compose(self) -> ComposeResult:
        yield Static("looking ...", id="headline", markup=False)
        for name in NAMES:
            yield DataTable(id=name, cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        for name, table in zip(NAMES, tables(self.seen), strict=True):
            widget = self._table(name)
            widget.border_title = table.title
            widget.add_columns(*table.columns)
        self._table("nodes").focus()
        self.set_interval(self._every_s, self._look_again)
        self._look_again()

    def on_unmount(self) -> None:
        self._looker.close()

    # --- looking ---

    def _look_again(self) -> None:
        if not (self._frozen or self._looking):
            self._looking = True
            self._look()

    @work(thread=True)
    def _look(self) -> None:
        try:
            look = self._looker.look()
        except Exception as exc:  # the screen must live; the reason stands on it
            look = Look(self.seen.at, trouble=f"{type(exc).__name__}: {exc}")
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._show, look)

    def _show(self, look: Look) -> None:
        self._looking = False
        if look.trouble:
            self.query_one("#headline", Static).update(look.trouble)
            return
        self.seen = look
        self.query_one("#headline", Static).update(headline(look))
        for name, table in zip(NAMES, tables(look), strict=True):
            self._fill(self._table(name), [cells for _, cells in table.rows], [key for key, _ in table.rows])
            self._table(name).border_subtitle = "" if table.rows else table.empty

    @staticmethod
    def _fill(widget: DataTable[Any], rows: list[Any], keys: list[str]) -> None:
        """Show rows, with the cursor on the row that it was on."""
        chosen = _key_at_cursor(widget)
        place = widget.cursor_row
        widget.clear()
        for key, cells in zip(keys, rows, strict=True):
            widget.add_row(*cells, key=key)
        if keys:
            widget.move_cursor(row=keys.index(chosen) if chosen in keys else min(place, len(keys) - 1), scroll=False)

    def _table(self, name: str) -> DataTable[Any]:
        return self.query_one(f"#{name}", DataTable)

    # --- keys ---

    def action_show(self, name: str) -> None:
        self._table(name).focus()

    def action_freeze(self) -> None:
        self._frozen = not self._frozen
        self.sub_title = "frozen" if self._frozen else ""
        self.notify("frozen: space goes on" if self._frozen else "going on")

    def action_inspect(self) -> None:
        name, key = self._chosen()
        if key is None:
            return
        if name == "running":
            run = next((run for run in self.seen.runs if run.id == key), None)
            if run is not None:
                self.push_screen(Page(f"{run.name}[{run.id}]", _readable(dict(run.about))))
        elif name == "nodes":
            self._ask_node(key)
        elif name == "queues":
            takers = [node.name for node in self.seen.nodes if key in node.queues]
            row = next((row for row in self.seen.queues if row.name == key), None)
            self.push_screen(Page(f"queue {key}", f"{row}\n\ntaken by: {', '.join(takers) or 'nobody'}"))
        else:
            row_of_task = next((row for row in self.seen.tasks if row.name == key), None)
            self.push_screen(Page(key, str(row_of_task)))

    @work(thread=True)
    def _ask_node(self, node: str) -> None:
        try:
            stats = self._fastq.control.inspect([node]).stats() or {}
            text = _readable(stats.get(node, "it does not answer"))
        except FastQError as exc:
            text = str(exc)
        self.call_from_thread(self.push_screen, Page(node, text))

    def action_revoke(self, terminate: bool) -> None:
        name, key = self._chosen()
        if name != "running" or key is None:
            self.notify("choose a running task first (key 4)", severity="warning")
            return
        text = f"{'End' if terminate else 'Revoke'} {key}?" + ("" if terminate else " What runs goes on; it does not run again.")
        self._ask(text, lambda: self._fastq.control.revoke(key, terminate=terminate), "revoked")

    def action_pause(self) -> None:
        name, key = self._chosen()
        if name not in ("queues", "tasks") or key is None:
            self.notify("choose a queue or a task name first (keys 2 and 3)", severity="warning")
            return
        rows: dict[str, bool] = {row.name: row.paused for row in (self.seen.queues if name == "queues" else self.seen.tasks)}
        kind, paused = ("queue" if name == "queues" else "task"), rows.get(key, False)
        act = getattr(self._fastq.control, f"{'resume' if paused else 'pause'}_{kind}")
        self._ask(f"{'Resume' if paused else 'Pause'} the {kind} {key}, for all nodes?", lambda: act(key), "done")

    def _ask(self, text: str, act: Callable[[], object], done: str) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._act(act, done)

        self.push_screen(Question(text), answered)

    @work(thread=True)
    def _act(self, act: Callable[[], object], done: str) -> None:
        try:
            act()
        except Exception as exc:  # told on the screen, which must live
            self.call_from_thread(self.notify, f"{type(exc).__name__}: {exc}", severity="error")
            return
        self.call_from_thread(self.notify, done)
        self.call_from_thread(self._look_again)

    def _chosen(self) -> tuple[str, str | None]:
        """Return the table that has the focus, and the key of the row under its cursor."""
        focused = self.focused
        if not isinstance(focused, DataTable) or focused.id is None:
            return "", None
        return focused.id, _key_at_cursor(focused)


def _key_at_cursor(widget: DataTable[Any]) -> str | None:
    if not widget.row_count or not widget.is_valid_row_index(widget.cursor_row):
        return None
    return widget.coordinate_to_cell_key(widget.cursor_coordinate).row_key.value


def _readable(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
