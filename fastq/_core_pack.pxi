# Write MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md): plain values here, the rest through a hook.

cdef struct Writer:
    unsigned char* data
    Py_ssize_t used
    Py_ssize_t room
    unsigned char* small  # the caller's buffer on the stack: never freed


cdef inline void writer_start(Writer* w, unsigned char* small) noexcept:
    w.data = small
    w.small = small
    w.used = 0
    w.room = _SMALL


cdef inline void writer_end(Writer* w) noexcept:
    if w.data != w.small:
        PyMem_Free(w.data)


cdef int writer_grow(Writer* w, Py_ssize_t n) except -1:
    cdef Py_ssize_t room = w.room * 2
    cdef unsigned char* data
    if room < w.used + n:
        room = w.used + n
    if w.data == w.small:
        data = <unsigned char*>PyMem_Malloc(room)
        if data != NULL:
            memcpy(data, w.small, w.used)
    else:
        data = <unsigned char*>PyMem_Realloc(w.data, room)
    if data == NULL:
        raise MemoryError()
    w.data = data
    w.room = room
    return 0


cdef inline unsigned char* reserve(Writer* w, Py_ssize_t n) except NULL:
    """Return a place for ``n`` bytes at the end, without counting them as used."""
    if w.used + n > w.room:
        writer_grow(w, n)
    return w.data + w.used


cdef inline int put_byte(Writer* w, unsigned char b) except -1:
    reserve(w, 1)[0] = b
    w.used += 1
    return 0


cdef inline unsigned char* put_int_at(unsigned char* p, int64_t v) noexcept:
    """Write at ``p`` (9 bytes of room), return the place behind."""
    if v >= 0:
        return put_uint_at(p, <uint64_t>v)
    if v >= -32:
        p[0] = <unsigned char>(v & 0xFF)
        return p + 1
    if v >= -128:
        p[0] = 0xD0
        p[1] = <unsigned char>(v & 0xFF)
        return p + 2
    if v >= -32768:
        p[0] = 0xD1
        fq_put16(p + 1, <uint16_t>v)
        return p + 3
    if v >= -2147483648LL:
        p[0] = 0xD2
        fq_put32(p + 1, <uint32_t>v)
        return p + 5
    p[0] = 0xD3
    fq_put64(p + 1, <uint64_t>v)
    return p + 9


cdef inline unsigned char* put_uint_at(unsigned char* p, uint64_t v) noexcept:
    if v < 128:
        p[0] = <unsigned char>v
        return p + 1
    if v < 256:
        p[0] = 0xCC
        p[1] = <unsigned char>v
        return p + 2
    if v < 65536:
        p[0] = 0xCD
        fq_put16(p + 1, <uint16_t>v)
        return p + 3
    if v <= 0xFFFFFFFFULL:
        p[0] = 0xCE
        fq_put32(p + 1, <uint32_t>v)
        return p + 5
    p[0] = 0xCF
    fq_put64(p + 1, v)
    return p + 9


cdef inline unsigned char* put_str_at(unsigned char* p, const char* s, Py_ssize_t n) noexcept:
    """Write at ``p`` (n + 5 bytes of room); ``n`` must fit 32 bits."""
    if n < 32:
        p[0] = <unsigned char>(0xA0 | n)
        p += 1
    elif n < 256:
        p[0] = 0xD9
        p[1] = <unsigned char>n
        p += 2
    elif n < 65536:
        p[0] = 0xDA
        fq_put16(p + 1, <uint16_t>n)
        p += 3
    else:
        p[0] = 0xDB
        fq_put32(p + 1, <uint32_t>n)
        p += 5
    memcpy(p, s, n)
    return p + n


cdef inline unsigned char* put_bin_head_at(unsigned char* p, Py_ssize_t n) noexcept:
    if n < 256:
        p[0] = 0xC4
        p[1] = <unsigned char>n
        return p + 2
    if n < 65536:
        p[0] = 0xC5
        fq_put16(p + 1, <uint16_t>n)
        return p + 3
    p[0] = 0xC6
    fq_put32(p + 1, <uint32_t>n)
    return p + 5


cdef int put_bin(Writer* w, const char* s, Py_ssize_t n) except -1:
    cdef unsigned char* p
    if n > 0xFFFFFFFF:
        raise _EncodeError(f"cannot write {n} bytes: MessagePack holds at most 4 GiB in one value")
    p = put_bin_head_at(reserve(w, n + 5), n)
    memcpy(p, s, n)
    w.used = (p + n) - w.data
    return 0


cdef int put_array_head(Writer* w, Py_ssize_t n) except -1:
    cdef unsigned char* p = reserve(w, 5)
    if n < 16:
        p[0] = <unsigned char>(0x90 | n)
        w.used += 1
    elif n < 65536:
        p[0] = 0xDC
        fq_put16(p + 1, <uint16_t>n)
        w.used += 3
    elif n <= 0xFFFFFFFF:
        p[0] = 0xDD
        fq_put32(p + 1, <uint32_t>n)
        w.used += 5
    else:
        raise _EncodeError(f"cannot write a list of {n} items")
    return 0


cdef int put_map_head(Writer* w, Py_ssize_t n) except -1:
    cdef unsigned char* p = reserve(w, 5)
    if n < 16:
        p[0] = <unsigned char>(0x80 | n)
        w.used += 1
    elif n < 65536:
        p[0] = 0xDE
        fq_put16(p + 1, <uint16_t>n)
        w.used += 3
    elif n <= 0xFFFFFFFF:
        p[0] = 0xDF
        fq_put32(p + 1, <uint32_t>n)
        w.used += 5
    else:
        raise _EncodeError(f"cannot write a dict of {n} items")
    return 0


cdef int put_ext(Writer* w, object code, object data) except -1:
    cdef Py_ssize_t n
    cdef unsigned char* p
    if not isinstance(data, bytes) or not isinstance(code, int) or not -128 <= code <= 127:
        raise _EncodeError(f"an extension type needs a code from -128 to 127 and bytes, not {code!r} and {type(data).__name__}")
    n = PyBytes_GET_SIZE(data)
    if n > 0xFFFFFFFF:
        raise _EncodeError(f"cannot write {n} bytes: MessagePack holds at most 4 GiB in one value")
    p = reserve(w, n + 6)
    if n == 1 or n == 2 or n == 4 or n == 8 or n == 16:
        p[0] = 0xD4 if n == 1 else 0xD5 if n == 2 else 0xD6 if n == 4 else 0xD7 if n == 8 else 0xD8
        p += 1
    elif n < 256:
        p[0] = 0xC7
        p[1] = <unsigned char>n
        p += 2
    elif n < 65536:
        p[0] = 0xC8
        fq_put16(p + 1, <uint16_t>n)
        p += 3
    else:
        p[0] = 0xC9
        fq_put32(p + 1, <uint32_t>n)
        p += 5
    p[0] = <unsigned char>(<int>code & 0xFF)
    memcpy(p + 1, PyBytes_AS_STRING(data), n)
    w.used = (p + 1 + n) - w.data
    return 0


# How a value is packed. Strictly: what is not plain (a tuple too) stops the packing with 1, without an exception, for the caller to
# turn to a serializer. Otherwise it goes through the hook, or EncodeError.
cdef enum:
    _PACKED = 0
    _NOT_PLAIN = 1


cdef int pack(Writer* w, object value, int depth, object default, bint strict) except -1:
    """Pack one value; _PACKED, or _NOT_PLAIN if strict."""
    if type(value) is str:
        return pack_str(w, value, strict)
    if type(value) is int:
        return pack_int(w, value, strict)
    if value is None:
        return put_byte(w, 0xC0)
    if value is True:
        return put_byte(w, 0xC3)
    if value is False:
        return put_byte(w, 0xC2)
    if type(value) is float:
        return pack_float(w, value)
    if type(value) is dict:
        return pack_dict(w, <dict>value, depth, default, strict)
    if type(value) is list:
        return pack_list(w, <list>value, depth, default, strict)
    if type(value) is bytes:
        return put_bin(w, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return pack_other(w, value, depth, default, strict)


cdef int pack_str(Writer* w, object value, bint strict) except -1:
    cdef const char* text
    cdef Py_ssize_t n = 0
    try:
        text = PyUnicode_AsUTF8AndSize(value, &n)
    except UnicodeEncodeError as error:
        if strict:
            return _NOT_PLAIN
        raise _EncodeError(f"cannot write text that is not valid Unicode: {error}") from None
    if n > 0xFFFFFFFF:
        raise _EncodeError(f"cannot write {n} bytes: MessagePack holds at most 4 GiB in one value")
    w.used = put_str_at(reserve(w, n + 5), text, n) - w.data
    return _PACKED


cdef int pack_int(Writer* w, object value, bint strict) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef unsigned long long large = 0
    if overflow == 0:
        w.used = put_int_at(reserve(w, 9), number) - w.data
        return _PACKED
    if overflow > 0:
        try:
            large = PyLong_AsUnsignedLongLong(value)
        except OverflowError:
            overflow = -1
    if overflow < 0:
        if strict:
            return _NOT_PLAIN
        raise _EncodeError(f"cannot write an integer of {int(value).bit_length()} bits: MessagePack holds 64")
    w.used = put_uint_at(reserve(w, 9), large) - w.data
    return _PACKED


cdef inline int pack_float(Writer* w, object value) except -1:
    cdef unsigned char* p = reserve(w, 9)
    p[0] = 0xCB
    fq_put_double(p + 1, PyFloat_AS_DOUBLE(value))
    w.used += 9
    return _PACKED


cdef int too_deep(bint strict) except -1:
    if strict:
        return _NOT_PLAIN
    raise _EncodeError(f"cannot write a value nested deeper than {_DEPTH}")


cdef int pack_list(Writer* w, list value, int depth, object default, bint strict) except -1:
    cdef Py_ssize_t i, n = len(value)
    cdef int rc
    if depth >= _DEPTH:
        return too_deep(strict)
    put_array_head(w, n)
    for i in range(n):
        if i >= len(value):
            break
        rc = pack(w, value[i], depth + 1, default, strict)
        if rc:
            return rc
    if len(value) != n:  # by the hook or another thread
        raise _EncodeError("a list changed its length while it was written")
    return _PACKED


cdef int pack_dict(Writer* w, dict value, int depth, object default, bint strict) except -1:
    cdef PyObject* key_ref
    cdef PyObject* item_ref
    cdef Py_ssize_t at = 0, n, seen = 0
    cdef object key, item
    cdef int rc
    if depth >= _DEPTH:
        return too_deep(strict)
    if FQ_NO_GIL:
        value = PyDict_Copy(value)
    n = len(value)
    put_map_head(w, n)
    while PyDict_Next(value, &at, &key_ref, &item_ref):
        if seen == n:
            break
        key = <object>key_ref
        item = <object>item_ref
        seen += 1
        rc = pack_str(w, key, strict) if type(key) is str else pack(w, key, depth + 1, default, strict)
        if rc:
            return rc
        rc = pack(w, item, depth + 1, default, strict)
        if rc:
            return rc
    if len(value) != n or seen != n:
        raise _EncodeError("a dict changed its size while it was written")
    return _PACKED


cdef int pack_items(Writer* w, tuple value, int depth, object default, bint strict) except -1:
    """Write a tuple as an array."""
    cdef object item
    cdef int rc
    if depth >= _DEPTH:
        return too_deep(strict)
    put_array_head(w, len(value))
    for item in value:
        rc = pack(w, item, depth + 1, default, strict)
        if rc:
            return rc
    return _PACKED


cdef int pack_other(Writer* w, object value, int depth, object default, bint strict) except -1:
    """Pack what is not exactly of a plain type: subclasses of those as their base, buffers as bytes, the rest through the hook."""
    cdef Py_buffer view
    cdef object made
    if isinstance(value, str):
        return pack_str(w, value, strict)
    if isinstance(value, int):
        return pack_int(w, value, strict)
    if isinstance(value, float):
        return pack_float(w, value)
    if isinstance(value, bytes):
        return put_bin(w, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    if isinstance(value, list):
        return pack_list(w, list(value), depth, default, strict)
    if isinstance(value, dict):
        return pack_dict(w, dict(value), depth, default, strict)
    if isinstance(value, bytearray) or isinstance(value, memoryview):
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        try:
            return put_bin(w, <const char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
    if strict:
        return _NOT_PLAIN
    if default is None:
        if isinstance(value, tuple):
            return pack_items(w, <tuple>value, depth, None, False)
        raise _EncodeError(f"cannot write a value of type {kind(value)} as MessagePack")
    if depth >= _DEPTH:  # also where a hook ends that never comes to a plain value
        return too_deep(False)
    try:
        made = default(value)
    except _FastQError:
        raise
    except MemoryError:
        raise
    except RecursionError as error:
        raise _EncodeError(f"cannot write a value of type {kind(value)}: nested too deeply") from error
    except Exception as error:
        raise _EncodeError(f"cannot write a value of type {kind(value)} as MessagePack: {error}") from error
    if isinstance(made, tuple) or type(made) not in _PLAIN:
        code = getattr(made, "code", None)
        data = getattr(made, "data", None)
        if code is not None and data is not None:
            return put_ext(w, code, data)
    if made is value:
        raise _EncodeError(f"cannot write a value of type {kind(value)} as MessagePack")
    return pack(w, made, depth + 1, default, False)


cdef frozenset _PLAIN = frozenset((str, int, float, bool, bytes, list, dict, type(None)))


cdef str kind(object value):
    cls = type(value)
    module = getattr(cls, "__module__", "builtins")
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def packb(value, default=None):
    cdef Writer w
    cdef unsigned char small[_SMALL]
    writer_start(&w, small)
    try:
        pack(&w, value, 0, default, False)
        return PyBytes_FromStringAndSize(<const char*>w.data, w.used)
    finally:
        writer_end(&w)
