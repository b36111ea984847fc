# What runs of tasks leave behind for those who watch: a few dozen bytes each, written where the run ends, taken in batches.
#
# A run is the MessagePack array [id, name, finished (ms after `base_ms`), run time (us), waited in the process before that (ms, -1:
# unknown), retries, body, result, further]. body: bytes as MessagePack has [args, kwargs], an array of
# such bytes as JSON has it, nil: left out.
# result: bytes as MessagePack has it, nil: left out. further: nil, or a map of what only some calls have.

cdef enum:
    #: bytes in front of the runs: the head of an array of so many
    _TRACE_HEAD = 5
    #: bytes of a body or a result that are told; a longer one is left out
    _TRACE_VALUE = 1024
    #: bytes of runs between two calls of take()
    _TRACE_BYTES = 1 << 20
    #: members of a value that is written only to be told
    _TRACE_MEMBERS = 64

cdef tuple _TRACE_FURTHER = ("root_id", "parent_id", "eta_ms", "argsrepr", "kwargsrepr")


@cython.final
cdef class Trace:
    cdef Writer w
    cdef Py_ssize_t count
    cdef Py_ssize_t left
    cdef public Py_ssize_t most
    cdef public int64_t offset_ms
    cdef readonly int64_t base_ms
    cdef object other
    cdef object silent

    def __cinit__(self, *, other, Py_ssize_t most=1000, silent=None):
        self.w.data = <unsigned char*>PyMem_Malloc(_SMALL)
        if self.w.data == NULL:
            raise MemoryError()
        self.w.small = NULL
        self.w.room = _SMALL
        self.w.used = _TRACE_HEAD
        self.most = most
        self.other = other
        self.silent = silent if silent else None
        self.base_ms = fq_wall_ms()

    def __dealloc__(self):
        PyMem_Free(self.w.data)

    def __len__(self):
        return self.count

    cdef void note(self, ProcessBoard board, Delivery d, Settlement s, object value, object error, int64_t elapsed_ns) noexcept:
        """Write down the end of a run. Never raises: the run has ended, whoever watches."""
        cdef Py_ssize_t before
        try:
            if self.silent is not None and d.entry is not None and d.entry.index in self.silent:
                return
            if error is not None:
                self.other(d, s, error, elapsed_ns)
                return
            with cython.critical_section(self):
                if self.count >= self.most or self.w.used > _TRACE_BYTES:
                    self.left += 1
                    return
                before = self.w.used
                try:
                    self.write(board, d, s, value, elapsed_ns)
                    self.count += 1
                except BaseException:
                    self.w.used = before
                    self.left += 1
        except BaseException:
            PyErr_WriteUnraisable(self)

    cdef int write(self, ProcessBoard board, Delivery d, Settlement s, object value, int64_t elapsed_ns) except -1:
        cdef Writer* w = &self.w
        cdef const char* message = PyBytes_AS_STRING(d.message)
        cdef int64_t now_ms = fq_wall_ms()
        cdef int64_t waited_ms = -1
        cdef HeldRecord* held
        cdef unsigned char* p
        cdef dict further = None
        cdef bint hidden = False
        if d.options is not None or d.expires_ms:
            further = self.further(d)
            hidden = "argsrepr" in further or "kwargsrepr" in further
        if board is not None:
            held = board.at(d.record)
            if held != NULL and held.since_ms > 0:
                waited_ms = now_ms - held.since_ms - self.offset_ms
                if waited_ms < 0:
                    waited_ms = 0
        p = reserve(w, d.id_span.n + d.name_span.n + 48)
        p[0] = 0x99
        p = put_str_at(p + 1, message + d.id_span.at, d.id_span.n)
        p = put_str_at(p, message + d.name_span.at, d.name_span.n)
        p = put_int_at(p, now_ms - self.base_ms)
        p = put_int_at(p, elapsed_ns // 1000)
        p = put_int_at(p, waited_ms)
        p = put_int_at(p, d.retries)
        w.used = p - w.data
        if hidden or d.body_span.n > _TRACE_VALUE or d.format == _OTHER_FORMAT:
            put_byte(w, 0xC0)
        elif d.format == _MSGPACK_FORMAT:
            put_bin(w, message + d.body_span.at, d.body_span.n)
        else:
            put_byte(w, 0x91)
            put_bin(w, message + d.body_span.at, d.body_span.n)
        self.write_result(w, s.result, value)
        if further is None:
            put_byte(w, 0xC0)
        else:
            pack_dict(w, further, 0, None, False)
        return 0

    cdef int write_result(self, Writer* w, bytes record, object value) except -1:
        """Write what a run has returned: of its record if there is one and it is MessagePack, else of the value if it is small."""
        cdef const unsigned char* p
        cdef Py_ssize_t n, before
        cdef unsigned char small[_SMALL]
        cdef Writer own
        if record is not None:
            n = PyBytes_GET_SIZE(record)
            p = <const unsigned char*>PyBytes_AS_STRING(record)
            if n > 33 and memcmp(p, b"\x96\xa7SUCCESS\xb5application/x-msgpack\xc4", 32) == 0 and p[32] <= n - 33:
                return put_bin(w, <const char*>p + 33, p[32])
            if n > 34 and memcmp(p, b"\x96\xa7SUCCESS\xb5application/x-msgpack\xc5", 32) == 0 and fq_get16(p + 32) <= _TRACE_VALUE:
                return put_bin(w, <const char*>p + 34, min(<Py_ssize_t>fq_get16(p + 32), n - 34))
        if isinstance(value, (list, tuple, dict, str, bytes)) and len(value) > (
            _TRACE_VALUE if isinstance(value, (str, bytes)) else _TRACE_MEMBERS
        ):
            return put_byte(w, 0xC0)
        writer_start(&own, small)
        try:
            if pack(&own, value, 0, None, True) == _NOT_PLAIN or own.used > _TRACE_VALUE:
                return put_byte(w, 0xC0)
            return put_bin(w, <const char*>own.data, own.used)
        finally:
            writer_end(&own)

    cdef dict further(self, Delivery d):
        cdef dict found = {}
        if d.expires_ms:
            found["expires_ms"] = d.expires_ms
        if d.options is not None:
            for key in _TRACE_FURTHER:
                value = d.options.get(key)
                if value is not None and (type(value) is not str or len(value) <= _TRACE_VALUE):
                    found[key] = value
        return found

    def take(self):
        cdef bytes runs = None
        cdef Py_ssize_t left
        with cython.critical_section(self):
            if self.count:
                self.w.data[0] = 0xDD
                fq_put32(self.w.data + 1, <uint32_t>self.count)
                runs = PyBytes_FromStringAndSize(<const char*>self.w.data, self.w.used)
            left = self.left
            base_ms = self.base_ms
            self.count = 0
            self.left = 0
            self.w.used = _TRACE_HEAD
            self.base_ms = fq_wall_ms()
        return base_ms, runs, left

    def waited_ms(self, ProcessBoard board not None, int64_t record, int64_t now_ms):
        cdef HeldRecord* held = board.at(record)
        cdef uint32_t state
        if held == NULL:
            return 0, -1, 0
        state = fq_load32(&held.state)
        if state >> 3 != <uint32_t>(record >> _INDEX_BITS):
            return 0, -1, 0
        return state & 7, max(0, now_ms - held.since_ms - self.offset_ms), fq_load64(&held.started_ms)
