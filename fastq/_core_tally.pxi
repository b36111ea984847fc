# What the runs of one process add up to, by task and by queue, in shared memory. Layout, in native byte order as the board's:
#
#   TallyHead           64 bytes: counters of the process
#   TaskRow[tasks]      320 bytes: a task name, its ends by kind, the histogram of its run times
#   QueueRow[queues]    320 bytes: a queue, how many were started from it, the histogram of how long they had waited
#
# A row is taken at the first use of its name and never given away; the last one of each kind takes those for which there is none.
# The region is zeros at first and never cleared: a process that takes the place of a dead one goes on in its rows. One process
# writes at a time, so under a GIL an addition is a plain load and store; without a GIL its threads add atomically.

cdef enum:
    _ENDS = 8
    _BUCKETS = 16  # the last: longer than the last bound
    _TALLY_NAME = 104
    _ROW_FREE = 0
    _ROW_TAKEN = 1  # its name is being written
    _ROW_READY = 2
    _END_SUCCEEDED = 0
    _END_FAILED = 1
    _END_RETRIED = 2

cdef struct TallyHead:
    int64_t counters[8]  # as in _TALLY_COUNTERS

cdef struct TaskRow:
    uint32_t state
    uint32_t name_n
    char name[104]
    int64_t ends[8]  # as in OUTCOMES
    int64_t wait_ms
    int64_t runtime_ns
    int64_t runtime[16]

cdef struct QueueRow:
    uint32_t state
    uint32_t name_n
    char name[104]
    int64_t started
    int64_t wait_ms
    int64_t wait[16]
    int64_t padding[8]

cdef struct TallyCell:
    PyObject* name  # of the entry; compared, never followed
    int32_t row  # + 1

#: how a run can end, or a delivery that does not run
OUTCOMES = ("succeeded", "failed", "retried", "revoked", "expired", "rejected", "ignored", "returned")
cdef dict _END_OF = {name: i for i, name in enumerate(OUTCOMES)}
# reasons that a settlement may have beside the verdict; with any other DONE and DEAD are "failed", and RETRY is "retried"
cdef dict _END_OF_REASON = {
    "retried": 2, "revoked": 3, "terminated": 3, "expired": 4, "rejected": 5, "ignored": 6, "replaced": 6, "requeued": 7, "postponed": 7
}
cdef tuple _TALLY_COUNTERS = ("given_back", "fenced", "taken_back")  # the last is the supervisor's

#: upper bounds of the buckets, seconds
RUNTIME_BOUNDS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 600.0)
WAIT_BOUNDS_S = (0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
cdef int64_t[15] _RUNTIME_NS
cdef int64_t[15] _WAIT_MS
for _i in range(15):
    _RUNTIME_NS[_i] = round(RUNTIME_BOUNDS_S[_i] * 1e9)
    _WAIT_MS[_i] = round(WAIT_BOUNDS_S[_i] * 1e3)
del _i


cdef inline int bucket_of(int64_t value, const int64_t* bounds) noexcept:
    cdef int i = 0
    while i < _BUCKETS - 1 and value > bounds[i]:
        i += 1
    return i


cdef inline void tally_add(int64_t* cell, int64_t n) noexcept:
    if FQ_NO_GIL:
        fq_add64(cell, n)
    else:
        fq_store64(cell, fq_load64(cell) + n)


@cython.final
@cython.no_gc  # as the board
cdef class Tally:
    cdef Py_buffer view
    cdef bint viewed
    cdef TallyHead* head
    cdef TaskRow* task_rows
    cdef QueueRow* queue_rows
    cdef readonly Py_ssize_t tasks
    cdef readonly Py_ssize_t queues
    # the writer's side
    cdef void* chunks[_CHUNKS]  # of TallyCell: the row of an entry by its index
    cdef int64_t offset_ms  # the broker's clock minus this machine's
    cdef bint timed

    def __cinit__(self, buffer, Py_ssize_t tasks, Py_ssize_t queues):
        check_tally(tasks, queues)
        PyObject_GetBuffer(buffer, &self.view, PyBUF_WRITABLE)
        self.viewed = True
        if self.view.len < tally_size(tasks, queues):
            raise ValueError(f"{tasks} tasks and {queues} queues need {tally_size(tasks, queues)} bytes, not {self.view.len}")
        if <size_t>self.view.buf % 8:
            raise ValueError("a tally must begin at a multiple of 8 bytes")
        self.tasks = tasks
        self.queues = queues
        self.head = <TallyHead*>self.view.buf
        self.task_rows = <TaskRow*>(<char*>self.view.buf + sizeof(TallyHead))
        self.queue_rows = <QueueRow*>(<char*>self.task_rows + tasks * sizeof(TaskRow))

    def __dealloc__(self):
        for i in range(_CHUNKS):
            PyMem_Free(self.chunks[i])
        if self.viewed:
            PyBuffer_Release(&self.view)

    @staticmethod
    def size(Py_ssize_t tasks, Py_ssize_t queues):
        check_tally(tasks, queues)
        return tally_size(tasks, queues)

    # --- rows

    cdef Py_ssize_t row_of(self, char* rows, Py_ssize_t count, const char* name, Py_ssize_t n) noexcept:
        """Find the row of a name, or take one for it; the last one if there is none left. Rows of both kinds begin alike."""
        cdef Py_ssize_t i
        cdef int tries
        cdef TaskRow* row
        n = fit(name, n, _TALLY_NAME)
        for i in range(count):
            row = <TaskRow*>(rows + i * sizeof(TaskRow))
            if i == count - 1:
                name = "(other)"
                n = 7
            if fq_cas32(&row.state, _ROW_FREE, _ROW_TAKEN):
                memcpy(row.name, name, n)
                row.name_n = <uint32_t>n
                fq_store32(&row.state, _ROW_READY)
                return i
            # Another thread writes the name just now. A process killed in that moment leaves the row without one: it is passed by.
            for tries in range(1000):
                if fq_load32(&row.state) == _ROW_READY:
                    break
            else:
                continue
            if row.name_n == <uint32_t>n and memcmp(row.name, name, n) == 0:
                return i
        return count - 1

    cdef TaskRow* named(self, str name) noexcept:
        cdef Py_ssize_t n = 0
        cdef const char* text
        try:
            text = PyUnicode_AsUTF8AndSize(name, &n)
        except BaseException:
            text = "(other)"
            n = 7
        return self.task_rows + self.row_of(<char*>self.task_rows, self.tasks, text, n)

    cdef TaskRow* row(self, Entry entry) noexcept:
        """Return the row of a registered task: a look at its index, once it has one."""
        cdef void** place
        cdef void* chunk
        cdef void* made
        cdef TallyCell* cell
        if entry is None:  # a name off the wire could be anything
            return self.named("(unregistered)")
        if not 0 <= entry.index < _CHUNK * _CHUNKS:
            return self.named(entry.name)
        place = &self.chunks[entry.index // _CHUNK]
        chunk = fq_load_ptr(place)
        if chunk == NULL:
            made = PyMem_Calloc(_CHUNK, sizeof(TallyCell))
            if made == NULL:
                return self.named(entry.name)
            if fq_cas_ptr(place, NULL, made):
                chunk = made
            else:  # another slot was first
                PyMem_Free(made)
                chunk = fq_load_ptr(place)
        cell = <TallyCell*>chunk + entry.index % _CHUNK
        # an index is used again where a task was registered anew
        if fq_load_ptr(<void**>&cell.name) != <void*><PyObject*>entry.name:
            cell.row = <int32_t>(self.named(entry.name) - self.task_rows)
            fq_store_ptr(<void**>&cell.name, <void*><PyObject*>entry.name)
        return self.task_rows + cell.row

    # --- what the core writes

    cdef void fetched(self, int64_t broker_ms) noexcept:
        """Note the broker's clock. It can only seem slow, by the time the answer lay here: the largest difference is the truest;
        it is forgotten slowly, because clocks are set."""
        cdef int64_t offset = broker_ms - fq_wall_ms()
        if not self.timed or offset > self.offset_ms:
            self.timed = True
            self.offset_ms = offset
        else:
            self.offset_ms -= (self.offset_ms - offset) >> 6

    cdef int32_t queue_row(self, str queue) noexcept:
        """Return the number of a queue's row, as deliveries carry it: 0 is none."""
        cdef Py_ssize_t n = 0
        cdef const char* text
        try:
            text = PyUnicode_AsUTF8AndSize(queue, &n)
        except BaseException:
            return 0
        return <int32_t>self.row_of(<char*>self.queue_rows, self.queues, text, n) + 1

    cdef void began(self, Delivery d, int64_t now_ms) noexcept:
        """A run has begun. How long it waited is left out where the message does not say it: it was delivered before."""
        cdef QueueRow* row
        cdef int64_t since_ms = d.enqueued_ms
        if d.queue_row <= 0:
            return
        row = self.queue_rows + d.queue_row - 1
        tally_add(&row.started, 1)
        if d.deliveries or not self.timed:
            return
        if d.options is not None:
            since_ms = waiting_since(d)
            if since_ms < 0:
                return
        since_ms = now_ms + self.offset_ms - since_ms
        if since_ms < 0:
            since_ms = 0
        tally_add(&self.row(d.entry).wait_ms, since_ms)
        tally_add(&row.wait_ms, since_ms)
        tally_add(&row.wait[bucket_of(since_ms, _WAIT_MS)], 1)

    cdef void ended(self, Delivery d, Settlement s, bint failed, int64_t elapsed_ns) noexcept:
        cdef TaskRow* row = self.row(d.entry)
        tally_add(&row.ends[end_of(s) if failed else _END_SUCCEEDED], 1)
        tally_add(&row.runtime_ns, elapsed_ns)
        tally_add(&row.runtime[bucket_of(elapsed_ns, _RUNTIME_NS)], 1)

    # --- what Python writes

    def refused(self, Delivery delivery not None, Settlement settlement not None):
        if settlement.verdict == _DONE and settlement.reason not in _END_OF_REASON:
            return  # its end was counted where it ran: it only came again
        tally_add(&self.row(delivery.entry).ends[end_of(settlement)], 1)

    def add(self, str name not None, str outcome not None, int64_t n=1):
        end = _END_OF.get(outcome)
        if end is None:
            raise ValueError(f"no outcome {outcome!r}: there are {', '.join(OUTCOMES)}")
        tally_add(&self.named(name).ends[<int>end], n)

    def count(self, str which not None, int64_t n=1):
        tally_add(&self.head.counters[tally_counter(which)], n)

    # --- what a reader sees

    def counter(self, str which not None):
        return fq_load64(&self.head.counters[tally_counter(which)])

    def task_totals(self):
        cdef list out = []
        cdef TaskRow* row
        cdef Py_ssize_t i
        for i in range(self.tasks):
            row = self.task_rows + i
            if fq_load32(&row.state) == _ROW_READY:
                out.append((
                    PyUnicode_DecodeUTF8(row.name, min(row.name_n, <uint32_t>_TALLY_NAME), "replace"),
                    tally_cells(row.ends, _ENDS),
                    fq_load64(&row.wait_ms),
                    fq_load64(&row.runtime_ns),
                    tally_cells(row.runtime, _BUCKETS),
                ))
        return out

    def queue_totals(self):
        cdef list out = []
        cdef QueueRow* row
        cdef Py_ssize_t i
        for i in range(self.queues):
            row = self.queue_rows + i
            if fq_load32(&row.state) == _ROW_READY:
                out.append((
                    PyUnicode_DecodeUTF8(row.name, min(row.name_n, <uint32_t>_TALLY_NAME), "replace"),
                    fq_load64(&row.started),
                    fq_load64(&row.wait_ms),
                    tally_cells(row.wait, _BUCKETS),
                ))
        return out

    def __repr__(self):
        return f"<Tally of {self.tasks} tasks and {self.queues} queues>"


cdef int end_of(Settlement s) noexcept:
    """Return how a run that did not return has ended, by its settlement."""
    cdef object end = _END_OF_REASON.get(s.reason) if s.reason else None
    if end is not None:
        return <int>end
    if s.verdict == _DONE or s.verdict == _DEAD:
        return _END_FAILED
    return _END_RETRIED


cdef int64_t waiting_since(Delivery d) noexcept:
    """Return since when a message with options could have been taken, -1 if it does not say."""
    try:
        if "requeued" in d.options:
            return -1
        eta = d.options.get("eta_ms")
        return d.enqueued_ms if eta is None else max(d.enqueued_ms, <int64_t>eta)
    except BaseException:  # an eta that is no number
        return -1


cdef tuple tally_cells(int64_t* cells, Py_ssize_t n):
    return tuple([fq_load64(cells + i) for i in range(n)])


cdef int tally_counter(str which) except -1:
    try:
        return _TALLY_COUNTERS.index(which)
    except ValueError:
        raise ValueError(f"no counter {which!r}: there are {', '.join(_TALLY_COUNTERS)}") from None


cdef inline Py_ssize_t tally_size(Py_ssize_t tasks, Py_ssize_t queues) noexcept:
    return sizeof(TallyHead) + tasks * sizeof(TaskRow) + queues * sizeof(QueueRow)


cdef int check_tally(Py_ssize_t tasks, Py_ssize_t queues) except -1:
    if not 1 <= tasks <= 1 << 16 or not 1 <= queues <= 1 << 16:
        raise ValueError(f"a tally has 1 to {1 << 16} rows for tasks and for queues, not {tasks} and {queues}")
    return 0
