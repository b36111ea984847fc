# The results of a settle batch, gathered by where they are stored and by who waits for them: paid once per task.

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


cdef inline bint is_uuid7(str id) noexcept:
    """Tell whether an id has the canonical form of a UUIDv7, so that its first digits are its time."""
    cdef const unsigned char* at
    if not PyUnicode_IS_COMPACT_ASCII(id) or PyUnicode_GET_LENGTH(id) != 36:
        return False
    at = PyUnicode_1BYTE_DATA(id)
    return at[8] == c"-" and at[13] == c"-" and at[14] == c"7" and at[18] == c"-" and at[23] == c"-"


cdef bytes places_of(list numbers):
    """Write numbers below 65,536 as two bytes each, low byte first."""
    cdef Py_ssize_t i, n = len(numbers)
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, 2 * n)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(packed)
    cdef int number
    for i in range(n):
        number = <int>numbers[i]
        at[2 * i] = number & 0xFF
        at[2 * i + 1] = number >> 8
    return packed


def gather_results(settlements, Py_ssize_t inline_max):
    cdef dict groups = {}
    cdef dict waiting = {}
    cdef list owners = None, values = None, places = None, notices = None
    cdef Settlement s
    cdef str head = None, inbox = None
    cdef const unsigned char* head_at = NULL
    cdef Py_ssize_t index = -1
    cdef bytes record
    for item in settlements:
        index += 1
        s = <Settlement?>item
        record = s.result
        if record is None:
            continue
        if index > 0xFFFF:
            raise ValueError("a settle batch has at most 65,536 settlements")
        if is_uuid7(s.id):
            if head_at == NULL or memcmp(PyUnicode_1BYTE_DATA(s.id), head_at, 10) != 0:
                head = s.id[:10]
                head_at = PyUnicode_1BYTE_DATA(head)
                group = groups.get((True, head))
                if group is None:
                    group = groups[(True, head)] = ([], [])
                owners, values = group
        else:
            head_at = NULL
            group = groups.get((False, s.id))
            if group is None:
                group = groups[(False, s.id)] = ([], [])
            owners, values = group
        owners.append(index)
        values.append(s.id)
        values.append(record)
        if s.inbox:
            if inbox is None or s.inbox != inbox:
                inbox = s.inbox
                group = waiting.get(inbox)
                if group is None:
                    group = waiting[inbox] = ([], [])
                places, notices = group
            places.append(index)
            notices.append(s.id)
            notices.append(record if len(record) <= inline_max else None)
    return (
        [(slot, name, places_of(<list>group[0]), group[1]) for (slot, name), group in groups.items()],
        [(name, places_of(<list>group[0]), group[1]) for name, group in waiting.items()],
    )
