# Settlements, and the result record: the MessagePack array [state, content type, body, traceback|nil, done at (ms), meta|nil].

@cython.final
@cython.no_gc  # text, bytes, and effects made of them: no cycle can go through it
@cython.freelist(256)
cdef class Settlement:
    cdef public str queue
    cdef public str tag
    cdef public str id
    cdef public int verdict
    cdef public bytes result
    cdef public str inbox
    cdef public bytes message
    cdef public int level
    cdef public int64_t delay_ms
    cdef public str reason
    cdef public bytes detail
    cdef public int64_t record
    cdef public object effects

    def __init__(
        self,
        str queue not None,
        str tag not None,
        str id not None,
        int verdict,
        *,
        bytes result=None,
        str inbox not None="",
        bytes message=None,
        int level=0,
        int64_t delay_ms=0,
        str reason not None="",
        bytes detail=None,
        int64_t record=-1,
        effects=None,
    ):
        if not 0 <= verdict <= 3:
            raise ValueError(f"a verdict is DONE, RETRY, DEAD or RETURN, not {verdict}")
        self.queue = queue
        self.tag = tag
        self.id = id
        self.verdict = verdict
        self.result = result
        self.inbox = inbox
        self.message = message
        self.level = level
        self.delay_ms = delay_ms
        self.reason = reason
        self.detail = detail
        self.record = record
        self.effects = effects

    def __repr__(self):
        return f"<Settlement {('DONE', 'RETRY', 'DEAD', 'RETURN')[self.verdict]} of [{self.id}], {self.queue!r} as {self.tag!r}>"


cdef Settlement settle(Delivery d, int verdict):
    cdef Settlement s = Settlement.__new__(Settlement)
    s.queue = d.queue
    s.tag = d.tag
    s.id = d.text(d.id_span)
    s.verdict = verdict
    s.inbox = d.get_inbox()
    s.reason = ""
    s.record = d.record
    return s


def encode_result(str state not None, str content_type not None, bytes body not None, str traceback, int64_t done_ms, meta):
    cdef Writer w
    cdef unsigned char small[_SMALL]
    writer_start(&w, small)
    try:
        put_byte(&w, 0x96)
        pack_str(&w, state, False)
        pack_str(&w, content_type, False)
        put_bin(&w, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        if traceback is None:
            put_byte(&w, 0xC0)
        else:
            # an error's text may hold what UTF-8 cannot: a result must be written all the same
            if pack_str(&w, traceback, True) == _NOT_PLAIN:
                pack_str(&w, traceback.encode("utf-8", "backslashreplace").decode(), False)
        w.used = put_int_at(reserve(&w, 9), done_ms) - w.data
        if meta is None:
            put_byte(&w, 0xC0)
        else:
            pack_dict(&w, meta if type(meta) is dict else dict(meta), 0, None, False)
        return PyBytes_FromStringAndSize(<const char*>w.data, w.used)
    finally:
        writer_end(&w)


def decode_result(bytes record not None):
    cdef Reader r
    cdef int64_t done_ms = 0
    cdef unsigned char head
    reader_start(&r, <const unsigned char*>PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record))
    if r.end == r.at or not 0x96 <= r.at[0] <= 0x9F:
        raise _DecodeError(f"not a result record: {len(record)} bytes beginning with {record[:12].hex(' ') or 'nothing'}")
    head = take(&r, 1)[0] & 0x0F
    state = unpack(&r, 0, None)
    content_type = unpack(&r, 0, None)
    body = unpack(&r, 0, None)
    traceback = unpack(&r, 0, None)
    if read_int(&r, &done_ms) != _GOOD:
        raise _DecodeError("a result record's time is not an integer")
    meta = unpack(&r, 0, None)
    if (
        type(state) is not str
        or type(content_type) is not str
        or type(body) is not bytes
        or not (traceback is None or type(traceback) is str)
        or not (meta is None or type(meta) is dict)
    ):
        raise _DecodeError("a field of the result record is of the wrong type")
    r.skip_ext = True
    while head > 6:  # elements of a later version
        unpack(&r, 0, None)
        head -= 1
    if r.at != r.end:
        raise _DecodeError(f"{r.end - r.at} bytes are left behind the result record")
    return state, content_type, body, traceback, done_ms, meta


cdef bytes success_record(object value, int64_t done_ms, Py_ssize_t most, Py_ssize_t* size):
    """Write the record of a plain value in one go; None if the value is not plain, or larger than ``most`` (0: no limit)."""
    cdef Writer w
    cdef unsigned char small[_SMALL]
    cdef unsigned char* p
    cdef unsigned char* body
    cdef Py_ssize_t n
    # the body's length goes in front of it and is known behind it: leave room for the longest head, then write the head right
    # before the body
    cdef Py_ssize_t front = 31 + 5
    writer_start(&w, small)
    try:
        w.used = front
        if pack(&w, value, 0, None, True) == _NOT_PLAIN:
            size[0] = -1
            return None
        n = w.used - front
        size[0] = n
        if n > 0xFFFFFFFF or (most > 0 and n > most):
            return None
        reserve(&w, 11)
        p = w.data + front + n
        p[0] = 0xC0
        p = put_int_at(p + 1, done_ms)
        p[0] = 0xC0
        p += 1
        body = w.data + front - (2 if n < 256 else 3 if n < 65536 else 5)
        put_bin_head_at(body, n)
        body -= 31
        memcpy(body, b"\x96\xa7SUCCESS\xb5application/x-msgpack", 31)
        return PyBytes_FromStringAndSize(<const char*>body, p - body)
    finally:
        writer_end(&w)
