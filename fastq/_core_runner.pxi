# The run loop. A run is: claim, load, call, encode, hand out the settlement; begin + finish are its halves around an await.

@cython.final
cdef class Call:
    cdef readonly Delivery delivery
    cdef readonly tuple args
    cdef readonly dict kwargs
    cdef object token
    cdef int64_t started_ns
    cdef bint finished

    def __init__(self):
        raise TypeError("calls are made by Runner.begin()")


@cython.final
cdef class Runner:
    cdef public int64_t now_ms
    cdef public Trace trace
    cdef object emit
    cdef object loads
    cdef object dumps
    cdef object on_error
    cdef object prepare
    cdef object conclude
    cdef public bint special
    cdef object on_success
    cdef object current
    cdef ProcessBoard board
    cdef Tally tally
    cdef BatchWindow window
    cdef bint native
    cdef bint stores
    cdef Py_ssize_t result_max_bytes
    cdef object call_async

    def __cinit__(
        self,
        *,
        emit,
        loads,
        dumps,
        on_error,
        prepare=None,
        conclude=None,
        on_success=None,
        current=None,
        ProcessBoard board=None,
        BatchWindow window=None,
        bint native=True,
        bint stores=True,
        bint special=False,
        Py_ssize_t result_max_bytes=0,
        call_async=None,
    ):
        if current is not None and not PyContextVar_CheckExact(current):
            raise TypeError(f"current must be a ContextVar, not {kind(current)}")
        self.emit = emit
        self.loads = loads
        self.dumps = dumps
        self.on_error = on_error
        self.prepare = prepare
        self.conclude = conclude
        self.special = special
        self.on_success = on_success
        self.current = current
        self.board = board
        self.tally = None if board is None else board.tally
        self.window = window
        self.native = native
        self.stores = stores
        self.result_max_bytes = result_max_bytes
        self.call_async = call_async

    # --- the steps

    cdef bint claim(self, Py_ssize_t slot, Delivery d) noexcept:
        """Take a delivery against the supervisor, and show it on the board."""
        cdef int64_t now_ms
        cdef const char* message
        if self.board is None:
            return True
        now_ms = fq_wall_ms()
        if d.record >= 0 and not self.board.take(d.record, now_ms):
            return False
        message = PyBytes_AS_STRING(d.message)
        self.board.begin(slot, message + d.id_span.at, d.id_span.n, message + d.name_span.at, d.name_span.n, now_ms)
        if self.tally is not None:
            self.tally.began(d, now_ms)
        return True

    cdef object enter(self, Delivery d):
        """Make it the current delivery; the token that ends this, None if there is nothing to end."""
        if self.current is None:
            return None
        return PyContextVar_Set(self.current, d)

    cdef void leave(self, object token) noexcept:
        if token is None:
            return
        try:
            PyContextVar_Reset(self.current, token)
        except (ValueError, RuntimeError):
            pass  # finished in another context than it began in: that one kept its own value

    cdef tuple load(self, Delivery d, PyObject** kwargs):
        """Read the body: returns args, and in ``kwargs`` a new reference to a dict, or NULL if there are none."""
        cdef Reader r
        cdef tuple args
        cdef dict named
        cdef unsigned char b
        cdef Py_ssize_t n
        if d.error:
            raise _EnvelopeError(d.error)
        if d.entry is None:
            raise _NotRegistered(f"no task named {d.name!r} is registered here")
        if d.format == _MSGPACK_FORMAT:
            reader_start(&r, <const unsigned char*>PyBytes_AS_STRING(d.message) + d.body_span.at, d.body_span.n)
            r.skip_ext = True
            if d.body_span.n < 3 or r.at[0] != 0x92:
                raise _DecodeError(bad_body(d))
            r.at += 1
            b = r.at[0]
            if 0x90 <= b < 0xA0:
                r.at += 1
                n = b & 0x0F
            elif b == 0xDC:
                r.at += 1
                n = fq_get16(take(&r, 2))
            elif b == 0xDD:
                r.at += 1
                n = fq_get32(take(&r, 4))
            else:
                raise _DecodeError(bad_body(d))
            args = unpack_tuple(&r, n, 1, None)
            b = take(&r, 1)[0]
            named = None
            if b != 0x80:
                if 0x81 <= b < 0x90:
                    n = b & 0x0F
                elif b == 0xDE:
                    n = fq_get16(take(&r, 2))
                elif b == 0xDF:
                    n = fq_get32(take(&r, 4))
                else:
                    raise _DecodeError(bad_body(d))
                named = unpack_map(&r, n, 1, None)
            if r.at != r.end:
                raise _DecodeError(f"{r.end - r.at} bytes are left behind the body")
            if not r.saw_ext:
                if named is not None:
                    for key in named:
                        if type(key) is not str:
                            raise _DecodeError(f"the name of a keyword argument is not text but {kind(key)}")
                    Py_INCREF(named)
                    kwargs[0] = <PyObject*>named
                return args
        loaded = self.loads(d.get_type(), d.get_body())
        try:
            given, given_named = loaded
            args = given if type(given) is tuple else tuple(given)
            named = given_named if type(given_named) is dict else dict(given_named)
        except (TypeError, ValueError):
            raise _DecodeError(bad_body(d)) from None
        for key in named:
            if not isinstance(key, str):
                raise _DecodeError(f"the name of a keyword argument is not text but {kind(key)}")
        if named:
            Py_INCREF(named)
            kwargs[0] = <PyObject*>named
        return args

    cdef inline bint is_special(self, Delivery d) noexcept:
        return self.special or d.flow is not None or (d.entry is not None and d.entry.special)

    cdef tuple prepared(self, Delivery d, tuple args, dict named):
        """Let Python see, and change, the arguments of a special run."""
        answer = self.prepare(d, args, named)
        if answer is None:
            return args, named
        given, given_named = answer
        return given if type(given) is tuple else tuple(given), given_named if type(given_named) is dict else dict(given_named)

    cdef Settlement succeed(self, Delivery d, object value, int64_t elapsed_ns):
        cdef Settlement s
        cdef Py_ssize_t size = -1
        cdef bytes record = None
        cdef int64_t done_ms
        if self.conclude is not None and (d.children is not None or self.is_special(d)):
            answer = self.conclude(d, value, elapsed_ns)
            if isinstance(answer, Settlement):
                return answer
            raise TypeError(f"conclude must return a Settlement, not {kind(answer)}")
        if self.stores and not d.ignores():
            done_ms = self.now_ms if self.now_ms else fq_wall_ms()
            if self.native:
                record = success_record(value, done_ms, self.result_max_bytes, &size)
            if record is None:
                if size < 0:
                    content_type, body = self.dumps(d.entry, value)
                    size = len(body)
                if 0 < self.result_max_bytes < size:
                    raise _ResultTooLarge(
                        f"the result of {d.name} is {size} bytes, more than the {self.result_max_bytes} that "
                        f"result_max_bytes allows: return less, store it elsewhere and return where, or raise the setting"
                    )
                record = encode_result("SUCCESS", content_type, body, None, done_ms, None)
        s = settle(d, _DONE)
        s.result = record
        return s

    cdef Settlement fail(self, Delivery d, object error, int64_t elapsed_ns):
        """Ask ``on_error`` for the settlement; if that fails too, make a dead letter of it."""
        try:
            answer = self.on_error(d, error, elapsed_ns)
            if isinstance(answer, Settlement):
                return answer
            raise TypeError(f"on_error must return a Settlement, not {kind(answer)}")
        except BaseException as second:
            return internal_error(d, error, second, self.now_ms if self.now_ms else fq_wall_ms(), self.stores)

    cdef void done(self, Py_ssize_t slot, Delivery d, Settlement s, bint failed, int64_t elapsed_ns) noexcept:
        if self.board is not None:
            self.board.end(slot)
            self.board.move(d.record, _STARTED, _FINISHED)
            self.board.count(_COUNT_FAILED if failed else _COUNT_DONE)
            if self.tally is not None:
                self.tally.ended(d, s, failed, elapsed_ns)
        if self.window is not None and d.entry is not None:
            self.window.add(d.entry.index, elapsed_ns, 1)
        try:
            self.emit(s)
        except BaseException:  # the slot must live: the delivery stays leased and is told by the lease
            PyErr_WriteUnraisable(self.emit)

    cdef void end(self, Py_ssize_t slot, Delivery d, object value, object error, int64_t elapsed_ns) noexcept:
        """Turn the end of a run into its settlement and hand it out. Never raises."""
        cdef Settlement s = None
        if error is None:
            try:
                s = self.succeed(d, value, elapsed_ns)
            except BaseException as raised:
                error = raised
        if s is None:
            s = self.fail(d, error, elapsed_ns)
        elif self.on_success is not None:
            try:
                self.on_success(d, value, elapsed_ns)
            except BaseException:  # the task has succeeded, whatever its listeners do
                PyErr_WriteUnraisable(self.on_success)
        if self.trace is not None:
            self.trace.note(self.board, d, s, value, error, elapsed_ns)
        self.done(slot, d, s, error is not None, elapsed_ns)

    cdef bint execute(self, Py_ssize_t slot, Delivery d) noexcept:
        cdef PyObject* named = NULL
        cdef PyObject* made
        cdef tuple args = None
        cdef object error = None, value = None, fn = None
        cdef int64_t started_ns = fq_monotonic_ns()
        try:
            args = self.load(d, &named)
            if self.prepare is not None and self.is_special(d):
                args, changed = self.prepared(d, args, {} if named == NULL else <dict>named)
                if named != NULL:
                    Py_DECREF(<object>named)
                    named = NULL
                if changed:
                    Py_INCREF(changed)
                    named = <PyObject*>changed
            fn = d.entry.fn
            if d.entry.is_async:
                if self.call_async is None:
                    raise _ImproperlyConfigured(f"task {d.get_name()} is a coroutine function, and this runner has no event loop")
                args = (fn, args, {} if named == NULL else <object>named)
                fn = self.call_async
                if named != NULL:
                    Py_DECREF(<object>named)
                    named = NULL
        except BaseException as raised:
            error = raised
        if error is None:
            made = _call(<PyObject*>fn, <PyObject*>args, named)
            if made == NULL:
                error = fq_take_exception()
            else:
                value = <object>made
                Py_DECREF(value)
        if named != NULL:
            Py_DECREF(<object>named)
        self.end(slot, d, value, error, fq_monotonic_ns() - started_ns)
        return True

    # --- what pools call

    def run(self, Py_ssize_t slot, Delivery delivery not None):
        cdef object token
        if not self.claim(slot, delivery):
            return False
        token = self.enter(delivery)
        self.execute(slot, delivery)
        self.leave(token)
        return True

    def run_many(self, Py_ssize_t slot, batch):
        cdef object token = None, first = None
        cdef Delivery d
        cdef Py_ssize_t ran = 0
        for item in batch:
            d = <Delivery?>item
            if not self.claim(slot, d):
                continue
            token = self.enter(d)
            if first is None:
                first = token  # ending the first of them ends all
            self.execute(slot, d)
            ran += 1
        self.leave(first)
        return ran

    def begin(self, Py_ssize_t slot, Delivery delivery not None):
        cdef Call call
        cdef PyObject* named = NULL
        cdef object token
        cdef int64_t started_ns
        if not self.claim(slot, delivery):
            return None
        token = self.enter(delivery)
        started_ns = fq_monotonic_ns()
        call = Call.__new__(Call)
        try:
            call.args = self.load(delivery, &named)
            if named == NULL:
                call.kwargs = {}
            else:
                call.kwargs = <dict>named
                Py_DECREF(call.kwargs)
            if self.prepare is not None and self.is_special(delivery):
                call.args, call.kwargs = self.prepared(delivery, call.args, call.kwargs)
        except BaseException as error:
            self.end(slot, delivery, None, error, fq_monotonic_ns() - started_ns)
            self.leave(token)
            return None
        call.delivery = delivery
        call.token = token
        call.started_ns = started_ns
        return call

    def finish(self, Py_ssize_t slot, Call call not None, value, exc):
        if call.finished:
            raise ValueError("this call was finished before")
        call.finished = True
        self.end(slot, call.delivery, value, exc, fq_monotonic_ns() - call.started_ns)
        self.leave(call.token)
        call.token = None


cdef str bad_body(Delivery d):
    return f"the body of {d.name} is not [arguments, keyword arguments] in {d.content_type}"


cdef str in_words(object error):
    try:
        return f"{kind(error)}: {error}"
    except BaseException:  # an exception whose own text fails
        return kind(error)


cdef Settlement internal_error(Delivery d, object error, object second, int64_t now_ms, bint stores):
    """Make the dead letter of a delivery for which no settlement could be made."""
    cdef Settlement s = settle(d, _DEAD)
    text = f"{in_words(second)} while handling {in_words(error)}"
    s.reason = "internal-error"
    try:
        import traceback  # lazy: only when the worker's own error handling fails

        trace = "".join(traceback.format_exception(error)) + "".join(traceback.format_exception(second))
    except BaseException:
        trace = ""
    trace = trace.encode("utf-8", "backslashreplace").decode()
    text = text.encode("utf-8", "backslashreplace").decode()
    s.detail = packb({"name": d.name, "error": text, "traceback": trace, "deliveries": d.deliveries})
    if stores and not d.ignores():  # whoever waits for the result is told too
        body = packb({"type": "FastQError", "module": "fastq.exceptions", "args": [text], "text": text})
        s.result = encode_result("FAILURE", _MSGPACK, body, trace, now_ms, None)
    return s
