# One process' region of the status board. Layout, in native byte order (both sides are the same program on the same machine):
#
#   BoardHead           128 bytes: counters, a word each
#   SlotRecord[slots]   192 bytes: what the slot runs now
#   HeldRecord[capacity] 64 bytes: a delivery leased by the process, by tag
#
# A fresh region is all zeros. A record's number, as deliveries carry it, is `generation << 20 | index`: a number taken from an
# earlier use of a record never claims, finishes or gives back a later one. Without it: the supervisor reads record 3, tag A, HELD;
# the worker runs, settles and frees A, and holds B in record 3; the supervisor gives back record 3 and tells the broker A,
# while B, marked RETURNED, is skipped and runs nowhere.

cdef struct BoardHead:
    int64_t counters[6]  # as in _COUNTERS
    # records not FREE; counted up before and down after, so a process killed between leaves it too high, never too low
    int64_t used
    char padding[72]

cdef struct SlotRecord:
    uint32_t turn  # odd while the record is being written
    uint32_t busy
    int64_t started_ms
    uint8_t id_n
    uint8_t name_n
    char id[72]
    char name[102]

cdef struct HeldRecord:
    uint32_t state  # generation << 3 | state, moved by compare-and-swap
    uint16_t queue
    uint8_t tag_n
    uint8_t padding
    int64_t since_ms
    int64_t started_ms
    char tag[40]

cdef enum:
    _COUNT_STARTED = 0
    _COUNT_DONE = 1
    _COUNT_FAILED = 2
    _COUNT_HELD = 3
    _ID_ROOM = 72
    _NAME_ROOM = 102
    _TAG_ROOM = 40
    _INDEX_BITS = 20

cdef tuple _COUNTERS = ("started", "done", "failed", "held", "watched", "pid")


cdef int counter_at(str which) except -1:
    try:
        return _COUNTERS.index(which)
    except ValueError:
        raise ValueError(f"no counter {which!r}: there are {', '.join(_COUNTERS)}") from None


cdef inline Py_ssize_t fit(const char* text, Py_ssize_t n, Py_ssize_t room) noexcept:
    """Return how much of a UTF-8 text fits, cut between characters."""
    if n <= room:
        return n
    n = room
    while n > 0 and (text[n] & 0xC0) == 0x80:
        n -= 1
    return n


@cython.final
@cython.no_gc  # a buffer and a tally: no cycle can go through it, and a memoryview with exports cannot be cleared
cdef class ProcessBoard:
    cdef readonly Py_ssize_t slots
    cdef readonly Py_ssize_t capacity
    cdef readonly Tally tally
    cdef Py_buffer view
    cdef bint viewed
    cdef BoardHead* head
    cdef SlotRecord* slot_records
    cdef HeldRecord* held_records
    # the worker's side: records that may be free, the last one freed on top. Only its consumer holds and frees
    cdef int32_t* spare
    cdef Py_ssize_t spares

    def __cinit__(self, buffer, Py_ssize_t slots, Py_ssize_t capacity, Tally tally=None):
        cdef Py_ssize_t i
        check_board(slots, capacity)
        PyObject_GetBuffer(buffer, &self.view, PyBUF_WRITABLE)
        self.viewed = True
        if self.view.len < board_size(slots, capacity):
            raise ValueError(f"{slots} slots and {capacity} records need {board_size(slots, capacity)} bytes, not {self.view.len}")
        if <size_t>self.view.buf % 8:
            raise ValueError("a board must begin at a multiple of 8 bytes")
        self.slots = slots
        self.capacity = capacity
        self.tally = tally
        self.head = <BoardHead*>self.view.buf
        self.slot_records = <SlotRecord*>(<char*>self.view.buf + sizeof(BoardHead))
        self.held_records = <HeldRecord*>(<char*>self.slot_records + slots * sizeof(SlotRecord))
        self.spare = <int32_t*>PyMem_Malloc((capacity + 1) * sizeof(int32_t))
        if self.spare == NULL:
            raise MemoryError()
        self.count_spares()

    def __dealloc__(self):
        PyMem_Free(self.spare)
        if self.viewed:
            PyBuffer_Release(&self.view)

    @staticmethod
    def size(Py_ssize_t slots, Py_ssize_t capacity):
        check_board(slots, capacity)
        return board_size(slots, capacity)

    cdef void count_spares(self) noexcept:
        cdef Py_ssize_t i
        self.spares = 0
        for i in range(self.capacity - 1, -1, -1):
            if fq_load32(&self.held_records[i].state) & 7 == _FREE:
                self.spare[self.spares] = <int32_t>i
                self.spares += 1

    cdef inline HeldRecord* at(self, int64_t record) noexcept:
        cdef int64_t i = record & ((1 << _INDEX_BITS) - 1)
        if record < 0 or i >= self.capacity:
            return NULL
        return self.held_records + i

    cdef inline bint move(self, int64_t record, uint32_t seen, uint32_t next) noexcept:
        """Move a record from one state to another, if it is still that use of it."""
        cdef HeldRecord* held = self.at(record)
        cdef uint32_t generation = <uint32_t>(record >> _INDEX_BITS) << 3
        return held != NULL and fq_cas32(&held.state, generation | seen, generation | next)

    def hold(self, batch, Py_ssize_t queue_index, int64_t now_ms):
        cdef Delivery d
        cdef HeldRecord* held
        cdef uint32_t state = 0
        cdef const char* tag
        cdef Py_ssize_t n = 0
        cdef int64_t found = 0
        cdef int32_t i = 0
        cdef int32_t row = 0
        cdef str queue = None
        if not 0 <= queue_index < 65536:
            raise ValueError(f"a queue's index on the board is 0 to 65535, not {queue_index}")
        if self.tally is not None and now_ms > 0:
            self.tally.fetched(now_ms)
        for item in batch:
            d = <Delivery?>item
            d.record = -1
            if self.tally is not None:
                if d.queue is not queue:
                    queue = d.queue
                    row = self.tally.queue_row(queue)
                d.queue_row = row
            tag = PyUnicode_AsUTF8AndSize(d.tag, &n)
            if n > _TAG_ROOM:  # a tag cut short would give back something else
                continue
            held = NULL
            while self.spares > 0 and held == NULL:
                self.spares -= 1
                i = self.spare[self.spares]
                held = self.held_records + i
                state = fq_load32(&held.state)
                if state & 7 != _FREE:
                    held = NULL
            if held == NULL:
                continue
            held.queue = <uint16_t>queue_index
            held.tag_n = <uint8_t>n
            held.since_ms = now_ms
            held.started_ms = 0
            memcpy(held.tag, tag, n)
            fq_add64(&self.head.used, 1)
            fq_add64(&self.head.counters[_COUNT_HELD], 1)
            fq_store32(&held.state, state | _HELD)
            d.record = (<int64_t>(state >> 3) << _INDEX_BITS) | i
            found += 1
        return found

    cdef bint take(self, int64_t record, int64_t now_ms) noexcept:
        cdef HeldRecord* held
        if not self.move(record, _HELD, _STARTED):
            return False
        held = self.at(record)
        fq_store64(&held.started_ms, now_ms)
        fq_add64(&self.head.counters[_COUNT_HELD], -1)
        return True

    def claim(self, int64_t record, int64_t now_ms):
        return self.take(record, now_ms)

    def finish(self, int64_t record):
        self.move(record, _STARTED, _FINISHED)

    def give_back(self, int64_t record):
        if not self.move(record, _HELD, _RETURNED):
            return False
        fq_add64(&self.head.counters[_COUNT_HELD], -1)
        return True

    def free(self, records):
        cdef HeldRecord* held
        cdef int64_t record
        cdef uint32_t state
        for item in records:
            record = item
            held = self.at(record)
            if held == NULL:
                continue
            state = fq_load32(&held.state)
            while state >> 3 == <uint32_t>(record >> _INDEX_BITS) and state & 7 != _FREE:
                # FREE, in the next generation; fails if the supervisor gives it back just now
                if not fq_cas32(&held.state, state, (state & ~<uint32_t>7) + 8):
                    state = fq_load32(&held.state)
                    continue
                if state & 7 == _HELD:
                    fq_add64(&self.head.counters[_COUNT_HELD], -1)
                fq_add64(&self.head.used, -1)
                if self.spares < self.capacity:
                    self.spare[self.spares] = <int32_t>(record & ((1 << _INDEX_BITS) - 1))
                    self.spares += 1
                break

    cdef void begin(
        self, Py_ssize_t slot, const char* id, Py_ssize_t id_n, const char* name, Py_ssize_t name_n, int64_t now_ms
    ) noexcept:
        cdef SlotRecord* record
        if not 0 <= slot < self.slots:
            return
        record = self.slot_records + slot
        fq_store32(&record.turn, record.turn | 1)
        fq_fence()
        id_n = fit(id, id_n, _ID_ROOM)
        name_n = fit(name, name_n, _NAME_ROOM)
        record.id_n = <uint8_t>id_n
        record.name_n = <uint8_t>name_n
        memcpy(record.id, id, id_n)
        memcpy(record.name, name, name_n)
        record.started_ms = now_ms
        record.busy = 1
        fq_store32(&record.turn, record.turn + 1)
        fq_add64(&self.head.counters[_COUNT_STARTED], 1)

    cdef inline void end(self, Py_ssize_t slot) noexcept:
        if 0 <= slot < self.slots:
            fq_store32(&self.slot_records[slot].busy, 0)

    cdef inline void count(self, int which) noexcept:
        fq_add64(&self.head.counters[which], 1)

    def slot_begin(self, Py_ssize_t slot, str id not None, str name not None, int64_t now_ms):
        cdef Py_ssize_t id_n = 0, name_n = 0
        cdef const char* id_p = PyUnicode_AsUTF8AndSize(id, &id_n)
        cdef const char* name_p = PyUnicode_AsUTF8AndSize(name, &name_n)
        self.check_slot(slot)
        self.begin(slot, id_p, id_n, name_p, name_n, now_ms)

    def slot_end(self, Py_ssize_t slot):
        self.check_slot(slot)
        self.end(slot)

    cdef int check_slot(self, Py_ssize_t slot) except -1:
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot}: the board has {self.slots}")
        return 0

    def counter(self, str which not None):
        return fq_load64_strict(&self.head.counters[counter_at(which)])

    def set_counter(self, str which not None, int64_t value):
        fq_store64_strict(&self.head.counters[counter_at(which)], value)

    def held(self):
        cdef list out = []
        cdef HeldRecord* held
        cdef HeldRecord copy
        cdef uint32_t state
        cdef int64_t used = fq_load64_strict(&self.head.used)
        cdef Py_ssize_t i
        for i in range(self.capacity):
            if len(out) >= used:
                break
            held = self.held_records + i
            state = fq_load32(&held.state)
            while state & 7 != _FREE:
                memcpy(&copy, held, sizeof(HeldRecord))
                fq_fence()
                copy.state = fq_load32(&held.state)
                if copy.state >> 3 == state >> 3 and copy.state & 7 != _FREE:
                    out.append((
                        (<int64_t>(copy.state >> 3) << _INDEX_BITS) | i,
                        PyUnicode_DecodeUTF8(copy.tag, min(copy.tag_n, _TAG_ROOM), "replace"),
                        copy.queue,
                        copy.state & 7,
                        copy.since_ms,
                        copy.started_ms,
                    ))
                    break
                state = copy.state  # used again meanwhile: read it again
        return out

    def active(self):
        cdef list out = []
        cdef SlotRecord* record
        cdef SlotRecord copy
        cdef uint32_t turn
        cdef Py_ssize_t i
        cdef int tries
        for i in range(self.slots):
            record = self.slot_records + i
            for tries in range(8):  # a slot that changes faster than it can be read is between two short tasks
                turn = fq_load32(&record.turn)
                if not fq_load32(&record.busy):
                    break
                if turn & 1:
                    continue
                memcpy(&copy, record, sizeof(SlotRecord))
                fq_fence()
                if fq_load32(&record.turn) == turn:
                    out.append((
                        i,
                        PyUnicode_DecodeUTF8(copy.id, min(copy.id_n, _ID_ROOM), "replace"),
                        PyUnicode_DecodeUTF8(copy.name, min(copy.name_n, _NAME_ROOM), "replace"),
                        copy.started_ms,
                    ))
                    break
        return out

    def clear(self):
        memset(self.view.buf, 0, board_size(self.slots, self.capacity))
        self.count_spares()

    def __repr__(self):
        return f"<ProcessBoard of {self.slots} slots and {self.capacity} records>"


cdef inline Py_ssize_t board_size(Py_ssize_t slots, Py_ssize_t capacity) noexcept:
    return sizeof(BoardHead) + slots * sizeof(SlotRecord) + capacity * sizeof(HeldRecord)


cdef int check_board(Py_ssize_t slots, Py_ssize_t capacity) except -1:
    if not 0 <= slots <= 1 << 20 or not 0 <= capacity <= 1 << _INDEX_BITS:
        raise ValueError(f"a board has at most {1 << _INDEX_BITS} slots and records, not {slots} and {capacity}")
    return 0
