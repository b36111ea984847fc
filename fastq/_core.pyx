# cython: language_level=3, freethreading_compatible=True, binding=True, auto_pickle=False
# cython: autotestdict=False, wraparound=False, cdivision=True
"""The compiled core: envelopes, ids, the registry, the run loop, outcomes, the status board, the batch window.

It encodes, decodes, dispatches and measures; it never blocks, locks, logs or decides, and keeps no mutable module state:
what is at module level is written once, at import. ``_core.pyi`` is the interface and its documentation, checked against
this module by stubtest. One file per duty, included below into one C module.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContextVar_CheckExact, PyContextVar_Reset, PyContextVar_Set
from cpython.dict cimport PyDict_Copy, PyDict_Next
from cpython.exc cimport PyErr_WriteUnraisable
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from os import urandom as _urandom

from fastq.exceptions import (
    AlreadyRegistered as _AlreadyRegistered,
    DecodeError as _DecodeError,
    EncodeError as _EncodeError,
    EnvelopeError as _EnvelopeError,
    FastQError as _FastQError,
    ImproperlyConfigured as _ImproperlyConfigured,
    NotRegistered as _NotRegistered,
    ResultTooLarge as _ResultTooLarge,
)

ENVELOPE_FIELDS = 9

# verdicts of a settlement
DONE = 0
RETRY = 1
DEAD = 2
RETURN = 3

# states of a held delivery on the board
FREE = 0
HELD = 1
STARTED = 2
FINISHED = 3
RETURNED = 4

cdef enum:
    _FIELDS = 9
    _DONE = 0
    _DEAD = 2
    _FREE = 0
    _HELD = 1
    _STARTED = 2
    _FINISHED = 3
    _RETURNED = 4
    # containers inside one another, in packed and unpacked values: bounds the C stack, also a greenlet's
    _DEPTH = 128
    # bytes a writer has before it asks for memory: most envelopes and results fit
    _SMALL = 512

cdef str _MSGPACK = "application/x-msgpack"
cdef str _JSON = "application/json"

include "_core_memory.pxi"
include "_core_pack.pxi"
include "_core_unpack.pxi"
include "_core_ids.pxi"
include "_core_registry.pxi"
include "_core_envelope.pxi"
include "_core_delivery.pxi"
include "_core_results.pxi"
include "_core_gather.pxi"
include "_core_window.pxi"
include "_core_tally.pxi"
include "_core_board.pxi"
include "_core_trace.pxi"
include "_core_runner.pxi"
