# How long tasks of each name run, and how many of them one slot may hold.

cdef enum:
    _CHUNK = 256
    _CHUNKS = 256  # 65,536 task names; those behind are never measured, so never held in batches


@cython.final
cdef class BatchWindow:
    # Slots note, the consumer asks, all at once: every field is one word, read and written whole. A lost update costs a sample.
    cdef void* chunks[_CHUNKS]  # of int64: mean run time in ns + 1 by entry index, 0: never measured. Added once, never moved
    cdef int64_t target_ns
    cdef int64_t limit
    cdef int64_t recent_ns  # mean of what ran lately, whatever its name; -1: nothing
    cdef int64_t now_size
    cdef int64_t fresh  # something was noted since the last size()

    def __cinit__(self, double target_ms=10.0, int64_t limit=1000):
        if not target_ms > 0 or limit < 1:
            raise ValueError(f"target_ms must be positive and limit at least 1, not {target_ms} and {limit}")
        self.target_ns = <int64_t>(target_ms * 1e6)
        self.limit = limit
        self.recent_ns = -1
        self.now_size = 1

    def __dealloc__(self):
        for i in range(_CHUNKS):
            PyMem_Free(self.chunks[i])

    cdef int64_t* cell(self, Py_ssize_t index, bint make) noexcept:
        cdef void** place
        cdef void* chunk
        cdef void* made
        if not 0 <= index < _CHUNK * _CHUNKS:
            return NULL
        place = &self.chunks[index // _CHUNK]
        chunk = fq_load_ptr(place)
        if chunk == NULL:
            if not make:
                return NULL
            made = PyMem_Calloc(_CHUNK, sizeof(int64_t))
            if made == NULL:
                return NULL
            if fq_cas_ptr(place, NULL, made):
                chunk = made
            else:  # another slot was first
                PyMem_Free(made)
                chunk = fq_load_ptr(place)
        return <int64_t*>chunk + index % _CHUNK

    cdef void add(self, Py_ssize_t index, int64_t elapsed_ns, int64_t count) noexcept:
        cdef int64_t each, mean
        cdef int64_t* cell
        if count < 1:
            return
        each = elapsed_ns // count if elapsed_ns > 0 else 0
        cell = self.cell(index, True)
        if cell != NULL:
            mean = fq_load64(cell) - 1
            # weight 1/4 of the newest: four samples forget a cold start, one slow run shows at once
            fq_store64(cell, 1 + (each if mean < 0 else mean + (each - mean) // 4))
        mean = fq_load64(&self.recent_ns)
        fq_store64(&self.recent_ns, each if mean < 0 else mean + (each - mean) // 8)
        if each > self.target_ns:
            fq_store64(&self.now_size, 1)
        else:
            fq_store64(&self.fresh, 1)

    def note(self, Py_ssize_t index, int64_t elapsed_ns, int64_t count=1):
        self.add(index, elapsed_ns, count)

    def mean_ns(self, Py_ssize_t index):
        cdef int64_t* cell = self.cell(index, False)
        return -1 if cell == NULL else fq_load64(cell) - 1

    def short(self, Py_ssize_t index):
        cdef int64_t* cell = self.cell(index, False)
        cdef int64_t mean = -1 if cell == NULL else fq_load64(cell) - 1
        return 0 <= mean and 2 * mean <= self.target_ns

    def size(self):
        cdef int64_t recent = fq_load64(&self.recent_ns)
        cdef int64_t size = fq_load64(&self.now_size)
        cdef int64_t fit
        if recent < 0:
            return 1
        fit = self.limit if recent == 0 else self.target_ns // recent
        if fit > self.limit:
            fit = self.limit
        if fit < 1:
            fit = 1
        if fit < size:
            size = fit
        elif fq_load64(&self.fresh):  # grows on evidence only: asking twice does not double twice
            size = min(size * 2, fit)
        fq_store64(&self.fresh, 0)
        fq_store64(&self.now_size, size)
        return size

    def reset(self):
        fq_store64(&self.recent_ns, -1)
        fq_store64(&self.now_size, 1)
        fq_store64(&self.fresh, 0)
