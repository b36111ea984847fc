# Registered tasks, and their frozen table.

@cython.final
cdef class Entry:
    cdef readonly str name
    cdef readonly object fn
    cdef readonly object task
    cdef readonly bint is_async
    cdef readonly bint ignore_result
    cdef readonly bint track_started
    cdef readonly bint acks_late
    cdef readonly bint special  # its runs go through Runner.prepare and Runner.conclude
    cdef readonly Py_ssize_t index  # -1 until a registry takes it in

    def __cinit__(
        self,
        str name not None,
        fn,
        task=None,
        *,
        bint is_async=False,
        bint ignore_result=False,
        bint track_started=False,
        bint acks_late=True,
        bint special=False,
    ):
        cdef Py_ssize_t n = 0
        if not callable(fn):
            raise TypeError(f"the function of task {name!r} is not callable: {fn!r}")
        try:
            PyUnicode_AsUTF8AndSize(name, &n)
        except UnicodeEncodeError as error:
            raise _EncodeError(f"task name {name!r} is not valid Unicode: {error}") from None
        self.name = name
        self.fn = fn
        self.task = task
        self.is_async = is_async
        self.ignore_result = ignore_result
        self.track_started = track_started
        self.acks_late = acks_late
        self.special = special
        self.index = -1

    def __repr__(self):
        return f"<Entry {self.index} {self.name!r}>"


cdef struct Named:
    uint64_t hash
    const char* name  # the UTF-8 that the entry's name holds
    Py_ssize_t n
    PyObject* entry  # NULL: free; kept alive by Registry.entries


@cython.final
cdef class Registry:
    cdef dict entries
    cdef Named* table  # open addressing, at most half full: a name off the wire finds its entry without becoming a str
    cdef size_t mask

    def __cinit__(self, entries):
        cdef Entry entry, other
        cdef Py_ssize_t last = -1
        cdef size_t size = 8, at
        cdef Named named
        cdef set taken = set()
        self.entries = {}
        for item in entries:
            if not isinstance(item, Entry):
                raise TypeError(f"a registry is made of Entry records, not {kind(item)}")
            entry = item
            other = self.entries.get(entry.name)
            if other is not None and other is not entry:
                raise _AlreadyRegistered(f"two tasks are named {entry.name!r}: {other.fn!r} and {entry.fn!r}")
            self.entries[entry.name] = entry
            last = max(last, entry.index)
        for entry in self.entries.values():
            if entry.index < 0 or entry.index in taken:
                last += 1
                entry.index = last
            taken.add(entry.index)
        while size < 2 * <size_t>len(self.entries):
            size *= 2
        self.mask = size - 1
        self.table = <Named*>PyMem_Calloc(size, sizeof(Named))
        if self.table == NULL:
            raise MemoryError()
        for entry in self.entries.values():
            named.name = PyUnicode_AsUTF8AndSize(entry.name, &named.n)
            named.hash = fq_hash(<const unsigned char*>named.name, named.n)
            named.entry = <PyObject*>entry
            at = named.hash & self.mask
            while self.table[at].entry != NULL:
                at = (at + 1) & self.mask
            self.table[at] = named

    def __dealloc__(self):
        PyMem_Free(self.table)

    cdef Entry find(self, const unsigned char* name, Py_ssize_t n):
        cdef uint64_t hash = fq_hash(name, n)
        cdef size_t at = hash & self.mask
        while self.table[at].entry != NULL:
            if self.table[at].hash == hash and self.table[at].n == n and memcmp(self.table[at].name, name, n) == 0:
                return <Entry>self.table[at].entry
            at = (at + 1) & self.mask
        return None

    def get(self, str name not None):
        return self.entries.get(name)

    def __len__(self):
        return len(self.entries)

    def __contains__(self, name):
        return name in self.entries

    def names(self):
        return list(self.entries)

    def __repr__(self):
        return f"<Registry of {len(self.entries)} tasks>"
