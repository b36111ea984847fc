"""Run the examples of a page of the docs: its python and pycon blocks, from top to bottom, in one module.

    python blocks   are executed; ``await`` stands on its own where it is needed
    pycon blocks    are typed in, and must answer what the page says (``...`` stands for any text)

The module has the name of the page's application, ``FastQ("shop")``, so it can be imported: ``from shop import add``. Where no
broker is named it is a memory broker. As soon as there is an ``app``, a worker of it runs beside the examples.

What a reader does not need to see stands in comments, which Markdown does not show:

    <!-- not run: why -->                       before a block that cannot run here
    <!-- run: statements, on lines of their own -->   what the next blocks need
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import re
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastq import signals
from fastq.testing import start_worker
from fastq.transports import memory

__all__ = ["Block", "blocks", "run_page"]

_PIECE = re.compile(
    r"^<!-- not run: (?P<reason>[^\n]+?) -->\n|^<!-- run:\n(?P<hidden>.*?)^-->\n|^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Block(NamedTuple):
    #: python or pycon
    language: str
    code: str
    #: lines in front of it, so that an error names the line of the page
    line: int
    #: why it is not run; "" if it is
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    """Find the blocks of a page that are Python, hidden ones included."""
    text = page.read_text(encoding="utf-8")
    reason = ""
    for piece in _PIECE.finditer(text):
        if piece["reason"]:
            reason = piece["reason"]
            continue
        which = "hidden" if piece["hidden"] is not None else "code"
        language = "python" if which == "hidden" else piece["language"]
        if language in ("python", "pycon"):
            yield Block(language, piece[which], text.count("\n", 0, piece.start(which)), reason)
        if which == "code":
            reason = ""


def run_page(page: Path, broker_url: str) -> int:
    """Run the examples of a page and return how many blocks that were; AssertionError where one does not do what it says.

    ``broker_url`` is what the environment names: a memory broker, emptied at the end.
    """
    named = re.search(r"FastQ\(\"(\w+)\"", page.read_text(encoding="utf-8"))
    module = types.ModuleType(named[1] if named else "examples")
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    count = 0
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_signals_kept())
            run = _Run(page, module.__dict__, stack)
            for block in blocks(page):
                if not block.reason:
                    (run.execute if block.language == "python" else run.type_in)(block)
                    count += 1
    finally:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before
        memory.reset(broker_url.partition("://")[2])
        memory.reset("")
    return count


class _Run:
    """The examples of one page, and what lives beside them: an event loop, and a worker."""

    def __init__(self, page: Path, names: dict[str, Any], stack: contextlib.ExitStack) -> None:
        self._page = page
        self._names = names
        self._stack = stack
        self._loop = stack.enter_context(asyncio.Runner())
        self._worker: Any = None

    def execute(self, block: Block) -> None:
        tree = ast.parse("\n" * block.line + block.code, str(self._page))
        # one by one, so that the worker runs from the statement on that made the application
        for statement in tree.body:
            single = ast.Module([statement], [])
            self._run(compile(single, str(self._page), "exec", _AWAIT, dont_inherit=True))

    def type_in(self, block: Block) -> None:
        for example in doctest.DocTestParser().get_examples(block.code, str(self._page)):
            line = block.line + example.lineno
            code = compile("\n" * line + example.source, str(self._page), "single", _AWAIT, dont_inherit=True)
            said = io.StringIO()
            with contextlib.redirect_stdout(said), _shown():
                try:
                    self._run(code)
                    got, want = said.getvalue(), example.want
                except Exception as exc:
                    if example.exc_msg is None:
                        raise
                    got, want = traceback.format_exception_only(exc)[-1], example.exc_msg
            assert doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS), (
                f"{self._page.name}, line {line + 1}: {example.source.strip()}\nexpected: {want}got: {got}"
            )

    def _run(self, code: types.CodeType) -> None:
        if code.co_flags & inspect.CO_COROUTINE:

            async def whole() -> None:
                await eval(code, self._names)

            self._loop.run(whole())
        else:
            exec(code, self._names)
        if self._worker is None and "app" in self._names:
            app = self._names["app"]
            self._stack.callback(app.close)
            self._worker = self._stack.enter_context(start_worker(app, pool="threads", concurrency=4, loglevel="critical"))


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Disconnect at the end what the examples have connected."""
    before = {signal: signal.receivers for signal in signals.all_signals().values()}
    try:
        yield
    finally:
        for signal, receivers in before.items():
            signal.receivers = receivers
        signals._notify()


@contextlib.contextmanager
def _shown() -> Iterator[None]:
    """Print what an expression gives as the interpreter does, whatever hook the test runner has set; ``_`` stays as it is."""

    def show(value: object) -> None:
        if value is not None:
            print(repr(value))

    hook, sys.displayhook = sys.displayhook, show
    try:
        yield
    finally:
        sys.displayhook = hook
