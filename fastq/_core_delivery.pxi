# Deliveries: the headers of an envelope, read without making an object of any that is not asked for.

cdef struct Span:
    Py_ssize_t at
    Py_ssize_t n

cdef enum:
    _OTHER_FORMAT = 0
    _MSGPACK_FORMAT = 1
    _JSON_FORMAT = 2


@cython.final
@cython.no_gc  # it refers to text, to its Entry (which outlives it) and to decoded plain data: no cycle can go through it
@cython.freelist(256)
cdef class Delivery:
    cdef readonly str queue
    cdef readonly str tag
    cdef readonly bytes message
    cdef readonly int64_t enqueued_ms
    cdef readonly int64_t expires_ms
    cdef readonly int64_t retries
    cdef readonly int deliveries
    cdef readonly bint paid
    cdef readonly Entry entry
    cdef readonly str error
    cdef readonly int64_t record
    cdef readonly dict options
    cdef readonly dict flow  # of the options: what follows this task (see fastq.flow), None: nothing
    cdef public list children  # ids of tasks that it has sent while it ran, None: none; plain text, so still no cycle
    # Where the texts are in the message. They are made when asked for: most of a delivery's are never looked at, and
    # nothing cached means nothing that two threads could write at once.
    cdef Span id_span
    cdef Span name_span
    cdef Span type_span
    cdef Span inbox_span
    cdef Span body_span
    cdef str known_inbox  # shared by the deliveries of a batch, None: not made yet
    cdef int format  # of the body: _OTHER_FORMAT, or one of those read without making its content type a str
    cdef int ignore  # of this call: 1, 0, or -1: as the entry says
    cdef int32_t queue_row  # of the tally + 1, 0: none

    def __init__(self):
        raise TypeError("deliveries are read from messages: see peek() and deliveries()")

    cdef inline str text(self, Span span):
        return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(self.message) + span.at, span.n, NULL)

    @property
    def id(self):
        return self.text(self.id_span)

    @property
    def name(self):
        return self.get_name()

    cdef str get_name(self):
        return self.text(self.name_span) if self.entry is None else self.entry.name

    @property
    def content_type(self):
        return self.get_type()

    cdef str get_type(self):
        if self.format == _MSGPACK_FORMAT:
            return _MSGPACK
        if self.format == _JSON_FORMAT:
            return _JSON
        return self.text(self.type_span)

    @property
    def inbox(self):
        return self.get_inbox()

    cdef inline str get_inbox(self):
        return self.text(self.inbox_span) if self.known_inbox is None else self.known_inbox

    @property
    def body(self):
        return self.get_body()

    cdef bytes get_body(self):
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.message) + self.body_span.at, self.body_span.n)

    @property
    def ignore_result(self):
        return self.ignores()

    cdef inline bint ignores(self) noexcept:
        if self.ignore >= 0:
            return self.ignore
        return self.entry is not None and self.entry.ignore_result

    def __repr__(self):
        return f"<Delivery {self.name}[{self.id}] of {self.queue!r} as {self.tag!r}{': ' + self.error if self.error else ''}>"


# --- reading the headers. Nothing is raised for a bad message: scan() gives a reason and the field it is about.

cdef enum:
    _GOOD = 0
    _CUT = 1
    _WRONG_TYPE = 2
    _NOT_UTF8 = 3
    _NOT_ENVELOPE = 4


cdef inline int read_text(Reader* r, Span* span) noexcept:
    cdef const unsigned char* p = r.at
    cdef Py_ssize_t left = r.end - p
    cdef unsigned char b
    cdef Py_ssize_t n
    if left < 1:
        return _CUT
    b = p[0]
    if 0xA0 <= b < 0xC0:
        n = b & 0x1F
        p += 1
        left -= 1
    elif b == 0xD9:
        if left < 2:
            return _CUT
        n = p[1]
        p += 2
        left -= 2
    elif b == 0xDA:
        if left < 3:
            return _CUT
        n = fq_get16(p + 1)
        p += 3
        left -= 3
    elif b == 0xDB:
        if left < 5:
            return _CUT
        n = fq_get32(p + 1)
        p += 5
        left -= 5
    else:
        return _WRONG_TYPE
    if <size_t>n > <size_t>left:
        return _CUT
    if not fq_utf8(p, n):
        return _NOT_UTF8
    span.at = p - r.start
    span.n = n
    r.at = p + n
    return _GOOD


cdef inline int read_bin(Reader* r, Span* span) noexcept:
    cdef const unsigned char* p = r.at
    cdef Py_ssize_t left = r.end - p
    cdef Py_ssize_t n
    if left < 1:
        return _CUT
    if p[0] == 0xC4:
        if left < 2:
            return _CUT
        n = p[1]
        p += 2
        left -= 2
    elif p[0] == 0xC5:
        if left < 3:
            return _CUT
        n = fq_get16(p + 1)
        p += 3
        left -= 3
    elif p[0] == 0xC6:
        if left < 5:
            return _CUT
        n = fq_get32(p + 1)
        p += 5
        left -= 5
    else:
        return _WRONG_TYPE
    if <size_t>n > <size_t>left:
        return _CUT
    span.at = p - r.start
    span.n = n
    r.at = p + n
    return _GOOD


cdef inline int read_int(Reader* r, int64_t* v) noexcept:
    cdef const unsigned char* p = r.at
    cdef Py_ssize_t left = r.end - p
    cdef unsigned char b
    cdef int size
    if left < 1:
        return _CUT
    b = p[0]
    if b < 0x80:
        v[0] = b
        r.at = p + 1
        return _GOOD
    if b >= 0xE0:
        v[0] = <int64_t>b - 256
        r.at = p + 1
        return _GOOD
    if not (0xCC <= b <= 0xD3):
        return _WRONG_TYPE
    size = 1 << ((b - 0xCC) & 3)
    if left < 1 + size:
        return _CUT
    if b == 0xCF or b == 0xD3:
        v[0] = <int64_t>fq_get64(p + 1)
        if b == 0xCF and v[0] < 0:  # no field needs more than 63 bits
            return _WRONG_TYPE
    elif b == 0xCE:
        v[0] = fq_get32(p + 1)
    elif b == 0xCD:
        v[0] = fq_get16(p + 1)
    elif b == 0xCC:
        v[0] = p[1]
    elif b == 0xD2:
        v[0] = <int32_t>fq_get32(p + 1)
    elif b == 0xD1:
        v[0] = <int16_t>fq_get16(p + 1)
    else:
        v[0] = <int8_t>p[1]
    r.at = p + 1 + size
    return _GOOD


cdef inline bint read_nil(Reader* r) noexcept:
    if r.at < r.end and r.at[0] == 0xC0:
        r.at += 1
        return True
    return False


cdef int scan(Delivery d, Reader* r, const char** field) noexcept:
    """Fill in what lies before the options; stop at the first field that cannot be read."""
    cdef const char* p
    cdef int why
    if r.end - r.at >= 2 and r.at[0] == 0xC1:
        d.deliveries = r.at[1] & 0x7F
        d.paid = r.at[1] >> 7
        r.at += 2
    if r.end - r.at < 3 or not 0x90 | _FIELDS <= r.at[0] <= 0x9F or r.at[1] != 0xD9 or r.at[2] == 0:
        return _NOT_ENVELOPE
    r.at += 1
    field[0] = "id"
    why = read_text(r, &d.id_span)
    if why:
        return why
    field[0] = "name"
    why = read_text(r, &d.name_span)
    if why:
        return why
    field[0] = "content_type"
    why = read_text(r, &d.type_span)
    if why:
        return why
    p = <const char*>r.start + d.type_span.at
    if d.type_span.n == 21 and memcmp(p, b"application/x-msgpack", 21) == 0:
        d.format = _MSGPACK_FORMAT
    elif d.type_span.n == 16 and memcmp(p, b"application/json", 16) == 0:
        d.format = _JSON_FORMAT
    field[0] = "body"
    why = read_bin(r, &d.body_span)
    if why:
        return why
    field[0] = "enqueued_ms"
    why = read_int(r, &d.enqueued_ms)
    if why:
        return why
    field[0] = "expires_ms"
    if not read_nil(r):
        why = read_int(r, &d.expires_ms)
        if why:
            return why
    field[0] = "retries"
    why = read_int(r, &d.retries)
    if why:
        return why
    field[0] = "inbox"
    if not read_nil(r):
        return read_text(r, &d.inbox_span)
    return _GOOD


cdef str why_not(Delivery d, int why, const char* field):
    if why == _NOT_ENVELOPE:
        return not_envelope(d.message)
    name = field.decode()
    if why == _CUT:
        return f"the envelope ends inside field {name}, after {len(d.message)} bytes"
    if why == _NOT_UTF8:
        return f"envelope field {name} is not UTF-8"
    return f"envelope field {name} is of the wrong type"


cdef str read_more(Delivery d, Reader* r):
    """Read the options, and step over elements of a later version; return "" or why not."""
    cdef int left = (r.start[2 if r.start[0] == 0xC1 else 0] & 0x0F) - _FIELDS
    if not read_nil(r):
        if r.at >= r.end:
            return why_not(d, _CUT, "options")
        if not (0x80 <= r.at[0] < 0x90 or r.at[0] == 0xDE or r.at[0] == 0xDF):
            return why_not(d, _WRONG_TYPE, "options")
        try:
            d.options = unpack(r, 0, None)
        except _DecodeError as error:
            return f"envelope field options: {error}"
        ignore = d.options.get("ignore_result")
        if ignore is not None:
            d.ignore = bool(ignore)
        flow = d.options.get("flow")
        if type(flow) is dict:
            d.flow = flow
        elif flow is not None:
            return f"envelope option flow is of the wrong type: {kind(flow)}"
    if left:
        r.skip_ext = True
        try:
            while left > 0:
                unpack(r, 0, None)
                left -= 1
        except _DecodeError as error:
            return f"the envelope cannot be read behind its options: {error}"
    if r.at != r.end:
        return f"{r.end - r.at} bytes are left behind the envelope"
    return ""


cdef inline Delivery read_headers(str queue, str tag, bytes message, Registry registry, Delivery before):
    """Read what can be read; ``error`` says why the rest cannot. ``before``: its neighbour in the batch, often of one sender."""
    cdef Reader r
    cdef const char* field = ""
    cdef int why
    cdef Delivery d = Delivery.__new__(Delivery)
    cdef const char* start = PyBytes_AS_STRING(message)
    d.queue = queue
    d.tag = tag
    d.message = message
    d.error = ""
    d.record = -1
    d.ignore = -1
    reader_start(&r, <const unsigned char*>start, PyBytes_GET_SIZE(message))
    why = scan(d, &r, &field)
    if registry is not None and d.name_span.n > 0:
        d.entry = registry.find(r.start + d.name_span.at, d.name_span.n)
    if d.inbox_span.n == 0:
        d.known_inbox = ""
    elif registry is not None:
        if before is not None and before.inbox_span.n == d.inbox_span.n and memcmp(
            start + d.inbox_span.at, PyBytes_AS_STRING(before.message) + before.inbox_span.at, d.inbox_span.n
        ) == 0:
            d.known_inbox = before.known_inbox
        else:
            d.known_inbox = d.text(d.inbox_span)
    if why:
        d.error = why_not(d, why, field)
    elif r.end - r.at != 1 or r.at[0] != 0xC0 or (r.start[2 if r.start[0] == 0xC1 else 0] & 0x0F) != _FIELDS:
        d.error = read_more(d, &r)
    return d


def peek(bytes message not None):
    cdef Delivery d = read_headers("", "", message, None, None)
    if d.error:
        raise _EnvelopeError(d.error)
    return d


def deliveries(str queue not None, tags, messages, Registry registry not None):
    cdef list all_tags = tags if type(tags) is list else list(tags)
    cdef list all_messages = messages if type(messages) is list else list(messages)
    cdef Py_ssize_t i, n = len(all_messages)
    cdef list out
    cdef Delivery d = None
    if len(all_tags) != n:
        raise ValueError(f"{len(all_tags)} tags for {n} messages")
    out = []
    for i in range(n):
        d = read_headers(queue, <str?>all_tags[i], <bytes?>all_messages[i], registry, d)
        out.append(d)
    return out
