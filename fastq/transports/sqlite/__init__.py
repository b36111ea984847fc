"""The embedded transport: one SQLite file that producers and any number of worker processes of one machine share."""

from __future__ import annotations

from fastq.transports.base import Scope, TransportOptions
from fastq.transports.sqlite.backend import SQLiteBackend
from fastq.transports.sqlite.broker import SQLiteBroker
from fastq.transports.sqlite.control import SQLiteChannel
from fastq.transports.sqlite.examining import SQLiteExaminer
from fastq.transports.sqlite.inspector import SQLiteInspector
from fastq.transports.sqlite.timetable import SQLiteTimetable
from fastq.transports.sqlite.url import parse

__all__ = [
    "SQLiteBackend",
    "SQLiteBroker",
    "SQLiteChannel",
    "SQLiteExaminer",
    "SQLiteInspector",
    "SQLiteTimetable",
    "open_backend",
    "open_broker",
    "open_channel",
    "open_examiner",
    "open_inspector",
    "open_timetable",
]


def open_broker(url: str, options: TransportOptions) -> SQLiteBroker:
    """Return a broker on the file that the URL names; the file is opened, and made if it is not there, at the first call."""
    return SQLiteBroker(parse(url), options)


def open_backend(url: str, options: TransportOptions) -> SQLiteBackend:
    """Return a result backend on the file that the URL names."""
    return SQLiteBackend(parse(url), options)


def open_inspector(url: str, options: TransportOptions) -> SQLiteInspector:
    """Return an inspector of the file that the URL names."""
    return SQLiteInspector(parse(url), options)


def open_examiner(url: str, options: TransportOptions, scope: Scope) -> SQLiteExaminer:
    """Return an examiner of the file that the URL names."""
    return SQLiteExaminer(parse(url), options, scope)


def open_channel(url: str, options: TransportOptions) -> SQLiteChannel:
    """Return the channel of nodes that share the file that the URL names."""
    return SQLiteChannel(parse(url), options)


def open_timetable(url: str, options: TransportOptions, scope: str) -> SQLiteTimetable:
    """Return a timetable in the file that the URL names."""
    return SQLiteTimetable(parse(url), options, scope)
