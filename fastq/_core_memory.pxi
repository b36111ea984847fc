# What needs C itself: big-endian numbers, atomics (gcc and clang builtins), clocks, and calls that leave no frame of the core
# in a task's traceback.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #include <time.h>

    static inline void fq_put16(unsigned char *p, uint16_t v) { p[0] = (unsigned char)(v >> 8); p[1] = (unsigned char)v; }
    static inline void fq_put32(unsigned char *p, uint32_t v) { fq_put16(p, (uint16_t)(v >> 16)); fq_put16(p + 2, (uint16_t)v); }
    static inline void fq_put64(unsigned char *p, uint64_t v) { fq_put32(p, (uint32_t)(v >> 32)); fq_put32(p + 4, (uint32_t)v); }
    static inline uint16_t fq_get16(const unsigned char *p) { return (uint16_t)((p[0] << 8) | p[1]); }
    static inline uint32_t fq_get32(const unsigned char *p) { return ((uint32_t)fq_get16(p) << 16) | fq_get16(p + 2); }
    static inline uint64_t fq_get64(const unsigned char *p) { return ((uint64_t)fq_get32(p) << 32) | fq_get32(p + 4); }
    static inline void fq_put_double(unsigned char *p, double d) { uint64_t v; memcpy(&v, &d, 8); fq_put64(p, v); }
    static inline double fq_get_double(const unsigned char *p) { uint64_t v = fq_get64(p); double d; memcpy(&d, &v, 8); return d; }
    static inline double fq_get_float(const unsigned char *p) { uint32_t v = fq_get32(p); float f; memcpy(&f, &v, 4); return f; }

    static inline uint64_t fq_hash(const unsigned char *p, Py_ssize_t n) {
        uint64_t h = (uint64_t)n * 0x9E3779B97F4A7C15ull, w;
        for (; n >= 8; p += 8, n -= 8) { memcpy(&w, p, 8); h = (h ^ w) * 0x9E3779B97F4A7C15ull; h ^= h >> 32; }
        w = 0; memcpy(&w, p, (size_t)n);
        h = (h ^ w) * 0x9E3779B97F4A7C15ull;
        return h ^ (h >> 32);
    }

    /* 1 if the bytes are UTF-8 as Python decodes it strictly: no surrogates, no overlong forms (RFC 3629, table in section 4). */
    static inline int fq_utf8(const unsigned char *p, Py_ssize_t n) {
        const unsigned char *end = p + n;
        uint64_t w;
        while (p < end) {
            while (end - p >= 8) { memcpy(&w, p, 8); if (w & 0x8080808080808080ull) break; p += 8; }
            while (p < end && *p < 0x80) p++;
            if (p == end) break;
            if (*p < 0xC2 || *p > 0xF4) return 0;
            if (*p < 0xE0) { if (end - p < 2 || (p[1] & 0xC0) != 0x80) return 0; p += 2; continue; }
            if (*p < 0xF0) {
                if (end - p < 3 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80) return 0;
                if ((*p == 0xE0 && p[1] < 0xA0) || (*p == 0xED && p[1] > 0x9F)) return 0;
                p += 3; continue;
            }
            if (end - p < 4 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80 || (p[3] & 0xC0) != 0x80) return 0;
            if ((*p == 0xF0 && p[1] < 0x90) || (*p == 0xF4 && p[1] > 0x8F)) return 0;
            p += 4;
        }
        return 1;
    }

    static inline int fq_cas32(uint32_t *p, uint32_t seen, uint32_t next) {
        return __atomic_compare_exchange_n(p, &seen, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    static inline int fq_cas_ptr(void **p, void *seen, void *next) {
        return __atomic_compare_exchange_n(p, &seen, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    static inline void *fq_load_ptr(void **p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fq_store_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint32_t fq_load32(uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fq_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint32_t fq_swap32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
    static inline int64_t fq_load64(int64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void fq_store64(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    /* in one order for both sides of the board: "I write mine, then read yours" must not let both miss */
    static inline int64_t fq_load64_strict(int64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    static inline void fq_store64_strict(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline void fq_add64(int64_t *p, int64_t v) { __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
    static inline void fq_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

    static inline int64_t fq_monotonic_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    static inline int64_t fq_wall_ms(void) {
        struct timespec t;
    #ifdef CLOCK_REALTIME_COARSE  /* a few ms coarse, a quarter of the price: it stamps, it does not measure */
        clock_gettime(CLOCK_REALTIME_COARSE, &t);
    #else
        clock_gettime(CLOCK_REALTIME, &t);
    #endif
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    }

    static inline PyObject *fq_take_exception(void) {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyErr_NormalizeException(&type, &value, &trace);
        if (trace != NULL) PyException_SetTraceback(value, trace);
        Py_XDECREF(type);
        Py_XDECREF(trace);
        return value;
    #endif
    }

    /* PyDict_Next needs the dict to itself; without a GIL a copy is the cheap way to have that. */
    #ifdef Py_GIL_DISABLED
    #define FQ_NO_GIL 1
    #else
    #define FQ_NO_GIL 0
    #endif
    """
    void fq_put16(unsigned char* p, uint16_t v) noexcept
    void fq_put32(unsigned char* p, uint32_t v) noexcept
    void fq_put64(unsigned char* p, uint64_t v) noexcept
    uint16_t fq_get16(const unsigned char* p) noexcept
    uint32_t fq_get32(const unsigned char* p) noexcept
    uint64_t fq_get64(const unsigned char* p) noexcept
    void fq_put_double(unsigned char* p, double d) noexcept
    double fq_get_double(const unsigned char* p) noexcept
    double fq_get_float(const unsigned char* p) noexcept
    uint64_t fq_hash(const unsigned char* p, Py_ssize_t n) noexcept
    bint fq_utf8(const unsigned char* p, Py_ssize_t n) noexcept
    bint fq_cas32(uint32_t* p, uint32_t seen, uint32_t next) noexcept
    bint fq_cas_ptr(void** p, void* seen, void* next) noexcept
    void* fq_load_ptr(void** p) noexcept
    void fq_store_ptr(void** p, void* v) noexcept
    uint32_t fq_load32(uint32_t* p) noexcept
    void fq_store32(uint32_t* p, uint32_t v) noexcept
    uint32_t fq_swap32(uint32_t* p, uint32_t v) noexcept
    int64_t fq_load64(int64_t* p) noexcept
    void fq_store64(int64_t* p, int64_t v) noexcept
    int64_t fq_load64_strict(int64_t* p) noexcept
    void fq_store64_strict(int64_t* p, int64_t v) noexcept
    void fq_add64(int64_t* p, int64_t v) noexcept
    void fq_fence() noexcept
    int64_t fq_monotonic_ns() noexcept
    int64_t fq_wall_ms() noexcept
    object fq_take_exception()
    bint FQ_NO_GIL

cdef extern from "Python.h":
    # declared without an exception check: the caller looks for NULL and takes the exception, so no frame is added to its traceback
    PyObject* _call "PyObject_Call"(PyObject* fn, PyObject* args, PyObject* kwargs) noexcept
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL
    long long PyLong_AsLongLongAndOverflow(object n, int* overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object n) except? 0xFFFFFFFFFFFFFFFF
    double PyFloat_AS_DOUBLE(object n) noexcept
    object PyUnicode_New(Py_ssize_t n, uint32_t largest)
    unsigned char* PyUnicode_1BYTE_DATA(object text) noexcept
