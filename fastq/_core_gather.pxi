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


@cython.final
cdef class _Gathering:
    """The groups so far, and the ones last added to: neighbours mostly belong together."""

    cdef dict groups
    cdef dict waiting
    cdef list owners
    cdef list values
    cdef list places
    cdef list notices
    cdef str head
    cdef str inbox
    cdef Py_ssize_t inline_max

    cdef int add(self, object index, str id, bytes record, str inbox) except -1:
        cdef const unsigned char* head_at
        if is_uuid7(id):
            if self.head is None or memcmp(PyUnicode_1BYTE_DATA(id), PyUnicode_1BYTE_DATA(self.head), 10) != 0:
                self.head = id[:10]
                group = self.groups.get((True, self.head))
                if group is None:
                    group = self.groups[(True, self.head)] = ([], [])
                self.owners, self.values = group
        else:
            self.head = None
            group = self.groups.get((False, id))
            if group is None:
                group = self.groups[(False, id)] = ([], [])
            self.owners, self.values = group
        self.owners.append(index)
        self.values.append(id)
        self.values.append(record)
        if inbox:
            if self.inbox is None or inbox != self.inbox:
                self.inbox = inbox
                group = self.waiting.get(inbox)
                if group is None:
                    group = self.waiting[inbox] = ([], [])
                self.places, self.notices = group
            self.places.append(index)
            self.notices.append(id)
            self.notices.append(record if len(record) <= self.inline_max else None)
        return 0


def gather_results(settlements, Py_ssize_t inline_max):
    cdef _Gathering all = _Gathering.__new__(_Gathering)
    cdef Settlement s
    cdef Py_ssize_t index = -1
    all.groups = {}
    all.waiting = {}
    all.inline_max = inline_max
    for item in settlements:
        index += 1
        s = <Settlement?>item
        if s.result is None and s.effects is None:
            continue
        if index > 0xFFFF:
            raise ValueError("a settle batch has at most 65,536 settlements")
        if s.result is not None:
            all.add(index, s.id, s.result, s.inbox)
        if s.effects is not None:
            for stored in s.effects.results:
                all.add(index, stored.id, stored.record, stored.inbox)
    return (
        [(slot, name, places_of(<list>group[0]), group[1]) for (slot, name), group in all.groups.items()],
        [(name, places_of(<list>group[0]), group[1]) for name, group in all.waiting.items()],
    )
