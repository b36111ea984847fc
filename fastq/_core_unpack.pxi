# Read MessagePack: nothing but DecodeError for bytes that are not.

cdef struct Reader:
    const unsigned char* start
    const unsigned char* at
    const unsigned char* end
    # values that the containers already open still owe, at least a byte each: a container is believed only if its items
    # fit what is left beside those, so all memory asked for in advance is bounded by the length of the input
    Py_ssize_t owed
    bint skip_ext  # read extension types as None, and note that there was one
    bint saw_ext


cdef inline void reader_start(Reader* r, const unsigned char* data, Py_ssize_t n) noexcept:
    r.start = data
    r.at = data
    r.end = data + n
    r.owed = 0
    r.skip_ext = False
    r.saw_ext = False


cdef int cut_short(Reader* r) except -1:
    raise _DecodeError(f"the data ends inside a value, after {r.end - r.start} bytes")


cdef inline const unsigned char* take(Reader* r, Py_ssize_t n) except NULL:
    cdef const unsigned char* p = r.at
    if <size_t>n > <size_t>(r.end - p):
        cut_short(r)
    r.at = p + n
    return p


cdef object unpack(Reader* r, int depth, object hook):
    cdef unsigned char b = take(r, 1)[0]
    if b < 0x80:
        return b
    if b < 0x90:
        return unpack_map(r, b & 0x0F, depth, hook)
    if b < 0xA0:
        return unpack_array(r, b & 0x0F, depth, hook)
    if b < 0xC0:
        return unpack_text(r, b & 0x1F)
    if b >= 0xE0:
        return <int>b - 256
    if b == 0xC0:
        return None
    if b == 0xC2:
        return False
    if b == 0xC3:
        return True
    if b == 0xC4:
        return unpack_bytes(r, take(r, 1)[0])
    if b == 0xC5:
        return unpack_bytes(r, fq_get16(take(r, 2)))
    if b == 0xC6:
        return unpack_bytes(r, fq_get32(take(r, 4)))
    if b == 0xC7:
        return unpack_ext(r, take(r, 1)[0], hook)
    if b == 0xC8:
        return unpack_ext(r, fq_get16(take(r, 2)), hook)
    if b == 0xC9:
        return unpack_ext(r, fq_get32(take(r, 4)), hook)
    if b == 0xCA:
        return fq_get_float(take(r, 4))
    if b == 0xCB:
        return fq_get_double(take(r, 8))
    if b == 0xCC:
        return take(r, 1)[0]
    if b == 0xCD:
        return fq_get16(take(r, 2))
    if b == 0xCE:
        return fq_get32(take(r, 4))
    if b == 0xCF:
        return fq_get64(take(r, 8))
    if b == 0xD0:
        return <int8_t>take(r, 1)[0]
    if b == 0xD1:
        return <int16_t>fq_get16(take(r, 2))
    if b == 0xD2:
        return <int32_t>fq_get32(take(r, 4))
    if b == 0xD3:
        return <int64_t>fq_get64(take(r, 8))
    if 0xD4 <= b <= 0xD8:
        return unpack_ext(r, 1 << (b - 0xD4), hook)
    if b == 0xD9:
        return unpack_text(r, take(r, 1)[0])
    if b == 0xDA:
        return unpack_text(r, fq_get16(take(r, 2)))
    if b == 0xDB:
        return unpack_text(r, fq_get32(take(r, 4)))
    if b == 0xDC:
        return unpack_array(r, fq_get16(take(r, 2)), depth, hook)
    if b == 0xDD:
        return unpack_array(r, fq_get32(take(r, 4)), depth, hook)
    if b == 0xDE:
        return unpack_map(r, fq_get16(take(r, 2)), depth, hook)
    if b == 0xDF:
        return unpack_map(r, fq_get32(take(r, 4)), depth, hook)
    raise _DecodeError(f"byte {r.at - r.start - 1} is 0x{b:02x}, which begins no MessagePack value")


cdef inline object unpack_bytes(Reader* r, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char*>take(r, n), n)


cdef object unpack_text(Reader* r, Py_ssize_t n):
    cdef const unsigned char* p = take(r, n)
    try:
        return PyUnicode_DecodeUTF8(<const char*>p, n, NULL)
    except UnicodeDecodeError as error:
        raise _DecodeError(f"text at byte {p - r.start} is not UTF-8: {error.reason}") from None


cdef int open_container(Reader* r, Py_ssize_t n, int depth) except -1:
    if depth >= _DEPTH:
        raise _DecodeError(f"the value is nested deeper than {_DEPTH}")
    if n < 0 or n > (r.end - r.at) - r.owed:
        raise _DecodeError(f"a container at byte {r.at - r.start} claims {n} items, more than bytes are left")
    r.owed += n
    return 0


cdef object unpack_array(Reader* r, Py_ssize_t n, int depth, object hook):
    cdef list out
    cdef object item
    cdef Py_ssize_t i
    open_container(r, n, depth)
    out = PyList_New(n)
    for i in range(n):
        r.owed -= 1
        item = unpack(r, depth + 1, hook)
        Py_INCREF(item)
        PyList_SET_ITEM(out, i, item)
    return out


cdef tuple unpack_tuple(Reader* r, Py_ssize_t n, int depth, object hook):
    cdef tuple out
    cdef object item
    cdef Py_ssize_t i
    open_container(r, n, depth)
    out = PyTuple_New(n)
    for i in range(n):
        r.owed -= 1
        item = unpack(r, depth + 1, hook)
        Py_INCREF(item)
        PyTuple_SET_ITEM(out, i, item)
    return out


cdef dict unpack_map(Reader* r, Py_ssize_t n, int depth, object hook):
    cdef dict out = {}
    cdef object key
    cdef Py_ssize_t i
    open_container(r, 2 * n, depth)
    for i in range(n):
        r.owed -= 1
        key = unpack(r, depth + 1, hook)
        r.owed -= 1
        item = unpack(r, depth + 1, hook)
        try:
            out[key] = item
        except TypeError:
            raise _DecodeError(f"a map key of type {kind(key)} cannot be a dict key") from None
    return out


cdef object unpack_ext(Reader* r, Py_ssize_t n, object hook):
    cdef int code = <int8_t>take(r, 1)[0]
    cdef const unsigned char* p = take(r, n)
    if r.skip_ext:
        r.saw_ext = True
        return None
    if hook is None:
        raise _DecodeError(f"extension type {code} is not expected here")
    try:
        return hook(code, PyBytes_FromStringAndSize(<const char*>p, n))
    except _DecodeError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise _DecodeError(f"extension type {code} at byte {p - r.start} cannot be read: {why}") from error


def unpackb(bytes data not None, ext_hook=None):
    cdef Reader r
    reader_start(&r, <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    value = unpack(&r, 0, ext_hook)
    if r.at != r.end:
        raise _DecodeError(f"{r.end - r.at} bytes are left behind the value")
    return value
