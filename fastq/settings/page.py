"""The settings page of the docs, written from the table."""

from __future__ import annotations

from fastq.settings.kinds import Setting
from fastq.settings.table import GROUPS, SETTINGS, group_of

__all__ = ["settings_markdown"]

_HEAD = """\
# Settings

Generated from `fastq/settings/table.py`. A value is looked up in this order; the first place that has it wins:

1. options of the command line,
2. `app.conf` (assignments, `app.conf.update(...)`),
3. keyword arguments of `FastQ(...)`,
4. the environment: `FASTQ_<SETTING>`, then Celery's names where given below,
5. the object given to `app.config_from_object(...)`, else the module that `FASTQ_CONFIG_MODULE` or `CELERY_CONFIG_MODULE` names,
6. what `app.add_defaults(...)` was given,
7. the default.

In a config object every setting is understood by its name, by its older name where one is given below, and as
`CELERY_<SETTING>` and `FASTQ_<SETTING>`; two names of a setting may stand together as long as their values agree. Unknown names
are kept for the application's own use. `fastq config` shows every value and where it comes from.
"""

_ACCEPTED = """\
A Celery config file that has these loads as it is; fastq has no use for them. `fastq config` marks them.
"""


def settings_markdown() -> str:
    """Return the page."""
    used = [row for row in SETTINGS.values() if not row.accepted]
    accepted = [row for row in SETTINGS.values() if row.accepted]
    parts = [_HEAD]
    order = dict.fromkeys(("Application", *GROUPS.values(), "Routing"))
    for group in order:
        rows = [row for row in used if group_of(row) == group]
        if rows:
            parts += [f"\n## {group}\n\n| setting | type | default | unit | meaning | also |\n|---|---|---|---|---|---|\n"]
            parts += map(_used, rows)
    parts += [f"\n## Accepted, nothing to set\n\n{_ACCEPTED}\n| setting | why | also |\n|---|---|---|\n"]
    parts += map(_accepted, accepted)
    return "".join(parts)


def _used(row: Setting) -> str:
    also = [f"`{row.flag}`"] if row.flag else []
    also += [f"`{row.env}`", *(f"`{name}` (environment)" for name in row.env_aliases), *_older(row)]
    default = str(list(row.default) if isinstance(row.default, tuple) else row.default if row.default != "" else '""')
    return _line(f"`{row.name}`", row.kind.name, f"`{default}`", row.unit, row.help, ", ".join(also))


def _accepted(row: Setting) -> str:
    return _line(f"`{row.name}`", row.accepted, ", ".join(_older(row)))


def _older(row: Setting) -> list[str]:
    return [f"`{name}`" for name in row.historic if name != f"CELERY_{row.name.upper()}"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
