# Task ids: UUIDv7, RFC 9562 section 5.7, with a counter as in its section 6.2 (method 1) inside one batch.

cdef enum:
    # ids of one call: the counter is rand_a and the first 14 bits of rand_b, seeded in its lower half
    _MOST_IDS = 1 << 25


cdef inline void put_hex(unsigned char* out, const unsigned char* raw, int n) noexcept:
    cdef const char* digits = "0123456789abcdef"
    cdef int i
    for i in range(n):
        out[2 * i] = <unsigned char>digits[raw[i] >> 4]
        out[2 * i + 1] = <unsigned char>digits[raw[i] & 0x0F]


cdef str write_id(uint64_t now_ms, uint32_t counter, const unsigned char* noise):
    """Write the id of a 26-bit counter and 6 random bytes."""
    cdef unsigned char raw[16]
    cdef object text
    cdef unsigned char* out
    fq_put16(raw, <uint16_t>(now_ms >> 32))
    fq_put32(raw + 2, <uint32_t>now_ms)
    fq_put16(raw + 6, <uint16_t>(0x7000 | (counter >> 14)))
    fq_put16(raw + 8, <uint16_t>(0x8000 | (counter & 0x3FFF)))
    memcpy(raw + 10, noise, 6)
    text = PyUnicode_New(36, 127)
    out = PyUnicode_1BYTE_DATA(text)
    put_hex(out, raw, 4)
    out[8] = b"-"
    put_hex(out + 9, raw + 4, 2)
    out[13] = b"-"
    put_hex(out + 14, raw + 6, 2)
    out[18] = b"-"
    put_hex(out + 19, raw + 8, 2)
    out[23] = b"-"
    put_hex(out + 24, raw + 10, 6)
    return text


cdef int check_time(int64_t now_ms) except -1:
    if not 0 <= now_ms < (<int64_t>1 << 48):
        raise ValueError(f"the time of a UUIDv7 is 48 bits of Unix milliseconds, not {now_ms}")
    return 0


def new_id(int64_t now_ms):
    cdef bytes noise
    cdef const unsigned char* p
    check_time(now_ms)
    noise = _urandom(10)
    p = <const unsigned char*>PyBytes_AS_STRING(noise)
    return write_id(<uint64_t>now_ms, fq_get32(p) >> 6, p + 4)


def new_ids(int64_t now_ms, Py_ssize_t n):
    cdef bytes noise
    cdef const unsigned char* p
    cdef uint32_t counter
    cdef Py_ssize_t i
    cdef list out
    check_time(now_ms)
    if not 0 <= n <= _MOST_IDS:
        raise ValueError(f"one call gives 0 to {_MOST_IDS} ids, not {n}")
    out = []
    if n == 0:
        return out
    noise = _urandom(4 + 6 * n)
    p = <const unsigned char*>PyBytes_AS_STRING(noise)
    counter = fq_get32(p) >> 7
    for i in range(n):
        out.append(write_id(<uint64_t>now_ms, counter + <uint32_t>i, p + 4 + 6 * i))
    return out
