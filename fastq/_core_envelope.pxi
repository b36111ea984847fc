# Envelope v1: fixarray of 9 [id str8, name, content type, body bin, enqueued ms, expires ms|nil, retries, inbox|nil, options|nil],
# behind two bytes 0xC1, count (high bit: paid) when redelivered. The id is always str8, so a Lua script slices it without decoding.

cdef const char* utf8(object value, str field, Py_ssize_t* n) except NULL:
    if not isinstance(value, str):
        raise _EncodeError(f"envelope field {field} must be a str, not {kind(value)}")
    try:
        return PyUnicode_AsUTF8AndSize(value, n)
    except UnicodeEncodeError as error:
        raise _EncodeError(f"envelope field {field} is not valid Unicode: {error}") from None


cdef int64_t int64(object value, str field) except? -1:
    cdef int overflow = 0
    cdef long long number
    if not isinstance(value, int):
        raise _EncodeError(f"envelope field {field} must be an int, not {kind(value)}")
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        raise _EncodeError(f"envelope field {field} does not fit 64 bits")
    return number


def encode(id, name, content_type, body, enqueued_ms, expires_ms, retries, inbox, options):
    cdef Py_ssize_t id_n = 0, name_n = 0, type_n = 0, inbox_n = 0, body_n, most
    cdef const char* id_p = utf8(id, "id", &id_n)
    cdef const char* name_p = utf8(name, "name", &name_n)
    cdef const char* type_p = utf8(content_type, "content_type", &type_n)
    cdef const char* inbox_p = NULL
    cdef int64_t enqueued = int64(enqueued_ms, "enqueued_ms")
    cdef int64_t expires = 0
    cdef int64_t tries = int64(retries, "retries")
    cdef Writer w
    cdef unsigned char small[_SMALL]
    cdef unsigned char* p
    if not 0 < id_n < 256:
        raise _EncodeError(f"envelope field id must be 1 to 255 bytes of UTF-8, not {id_n}")
    if not isinstance(body, bytes):
        raise _EncodeError(f"envelope field body must be bytes, not {kind(body)}")
    body_n = PyBytes_GET_SIZE(body)
    if expires_ms is not None:
        expires = int64(expires_ms, "expires_ms")
    if inbox is not None:
        inbox_p = utf8(inbox, "inbox", &inbox_n)
    if name_n > 0xFFFFFFFF or type_n > 0xFFFFFFFF or body_n > 0xFFFFFFFF or inbox_n > 0xFFFFFFFF:
        raise _EncodeError("a field of the envelope is larger than the 4 GiB that MessagePack holds in one value")
    most = 1 + (2 + id_n) + (5 + name_n) + (5 + type_n) + (5 + body_n) + 27 + (5 + inbox_n) + 1
    writer_start(&w, small)
    try:
        p = reserve(&w, most)
        p[0] = 0x90 | _FIELDS
        p[1] = 0xD9
        p[2] = <unsigned char>id_n
        memcpy(p + 3, id_p, id_n)
        p = put_str_at(p + 3 + id_n, name_p, name_n)
        p = put_str_at(p, type_p, type_n)
        p = put_bin_head_at(p, body_n)
        memcpy(p, PyBytes_AS_STRING(body), body_n)
        p = put_int_at(p + body_n, enqueued)
        if expires == 0:
            p[0] = 0xC0
            p += 1
        else:
            p = put_int_at(p, expires)
        p = put_int_at(p, tries)
        if inbox_n == 0:
            p[0] = 0xC0
            p += 1
        else:
            p = put_str_at(p, inbox_p, inbox_n)
        if options is None:
            p[0] = 0xC0
            w.used = p + 1 - w.data
        else:
            w.used = p - w.data
            try:
                pack_dict(&w, options if type(options) is dict else dict(options), 0, None, False)
            except (TypeError, ValueError) as error:
                raise _EncodeError(f"envelope field options: {error}") from error
        return PyBytes_FromStringAndSize(<const char*>w.data, w.used)
    finally:
        writer_end(&w)


def encode_call(args, kwargs, default=None):
    cdef Writer w
    cdef unsigned char small[_SMALL]
    cdef dict named = kwargs if type(kwargs) is dict else dict(kwargs)
    writer_start(&w, small)
    try:
        put_byte(&w, 0x92)
        for key in named:
            if not isinstance(key, str):
                raise _EncodeError(f"the names of keyword arguments are text, not {kind(key)}: {key!r}")
        if type(args) is list:
            pack_list(&w, <list>args, 1, default, False)
        else:
            pack_items(&w, args if type(args) is tuple else tuple(args), 1, default, False)
        pack_dict(&w, named, 1, default, False)
        return PyBytes_FromStringAndSize(<const char*>w.data, w.used)
    finally:
        writer_end(&w)


def remark(bytes message not None, int deliveries, bint paid=False):
    cdef Py_ssize_t n = PyBytes_GET_SIZE(message)
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(message)
    cdef unsigned char* to
    cdef bytes out
    if deliveries < 0:
        raise ValueError(f"a delivery count is not negative: {deliveries}")
    if deliveries > 127:  # what the mark can say; far over any limit worth setting
        deliveries = 127
    if n >= 2 and p[0] == 0xC1:
        p += 2
        n -= 2
    if deliveries == 0 and not paid:
        return PyBytes_FromStringAndSize(<const char*>p, n)
    out = PyBytes_FromStringAndSize(NULL, n + 2)
    to = <unsigned char*>PyBytes_AS_STRING(out)
    to[0] = 0xC1
    to[1] = <unsigned char>(deliveries | (0x80 if paid else 0))
    memcpy(to + 2, p, n)
    return out


def task_id(bytes message not None):
    cdef Reader r
    cdef Py_ssize_t n
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
    reader_start(&r, <const unsigned char*>PyBytes_AS_STRING(message), size)
    if size >= 2 and r.at[0] == 0xC1:
        r.at += 2
    if r.end - r.at < 3 or not 0x90 | _FIELDS <= r.at[0] <= 0x9F or r.at[1] != 0xD9 or not 0 < r.at[2] <= r.end - r.at - 3:
        raise _EnvelopeError(not_envelope(message))
    n = r.at[2]
    r.at += 3
    try:
        return unpack_text(&r, n)
    except _DecodeError as error:
        raise _EnvelopeError(f"envelope field id: {error}") from None


cdef str not_envelope(bytes message):
    return f"not an envelope: {len(message)} bytes beginning with {message[:12].hex(' ') or 'nothing'}"
