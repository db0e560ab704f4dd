# What native.pyx uses of the C core.

cdef extern from "<stdbool.h>":
    ctypedef bint c_bool "bool"

cdef extern from "Python.h":
    Py_ssize_t PyList_GET_SIZE(object list)
    PyObject *PyList_GET_ITEM(object list, Py_ssize_t i)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyUnicode_DecodeUTF8(const char *text, Py_ssize_t size, const char *errors)

cdef extern from "layout.h" nogil:
    uint64_t LAYOUT_ID
    uint32_t SLOTS_MAX, SLOT_WORDS_MAX, ROUTER_SLOT
    uint64_t GENERATION_MASK
    int RECORD_MESSAGE, RECORD_JOIN, RECORD_LEAVE, RECORD_JOINED, RECORD_GAP, RECORD_HERE, RECORD_GONE, RECORD_RESYNC
    int RECORD_ALERT, RECORD_REPLY, RECORD_ERROR, RECORD_BODY, RECORD_ABORT
    int FLAG_FIRST, FLAG_LAST, FLAG_CALL, FLAG_PREFIX, FLAG_OPEN, FLAG_LARGE, FLAG_NONE
    ctypedef uint64_t shared64
    ctypedef uint32_t shared32
    struct record:
        uint32_t length
        uint8_t type, flags, name_length, hops
        uint64_t source, destination, sequence
        uint32_t row, row_generation
        uint64_t time_ns
        uint32_t message_id, fragment
        uint64_t total
    struct joined_payload:
        uint64_t token, status
    struct large_payload:
        uint32_t message_id, reserved
        uint64_t began_ns
        uint64_t receivers[4]
    struct consumer_line:
        shared64 head
    struct worker_counters:
        pass
    struct router_counters:
        pass
    struct worker_control:
        shared64 armed, attached, ready, heartbeat_ns
        worker_counters count
    struct slot_entry:
        shared64 generation, pid
    struct supervisor_region:
        shared64 owner
        slot_entry slot[256]
    struct router_control:
        shared64 armed, current, heartbeat_ns
        router_counters count
    struct row:
        pass
    struct geometry:
        uint32_t slots, slot_words, up_bytes, down_bytes, direct_bytes, rows, index_entries, long_names, row_stride
        uint64_t router_size, worker_size, size
    uint64_t WORKER_ID(uint64_t slot, uint64_t generation)
    uint32_t WORKER_SLOT(uint64_t id)
    uint64_t WORKER_GENERATION(uint64_t id)

cdef extern from *:
    """
    static inline uint64_t shared_get(const shared64 *word) { return atomic_load_explicit(word, memory_order_relaxed); }
    static inline uint64_t shared_get_acquire(const shared64 *word) {
        return atomic_load_explicit(word, memory_order_acquire);
    }
    static inline void shared_put(shared64 *word, uint64_t value) {
        atomic_store_explicit(word, value, memory_order_release);
    }
    static inline int shared_swap(shared64 *word, uint64_t expected, uint64_t value) {
        return atomic_compare_exchange_strong(word, &expected, value);
    }
    static inline void shared_plus(shared64 *word, uint64_t value) {
        atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) + value, memory_order_relaxed);
    }
    """
    uint64_t shared_get(const shared64 *word) nogil
    bint shared_swap(shared64 *word, uint64_t expected, uint64_t value) nogil
    uint64_t shared_get_acquire(const shared64 *word) nogil
    void shared_put(shared64 *word, uint64_t value) nogil
    void shared_plus(shared64 *word, uint64_t value) nogil

cdef extern from "segment.h" nogil:
    enum segment_status:
        SEGMENT_OK, SEGMENT_BAD_SIZES, SEGMENT_SYSTEM, SEGMENT_NOT_OURS, SEGMENT_OTHER_LAYOUT
    enum segment_role:
        ROLE_SUPERVISOR, ROLE_ROUTER, ROLE_WORKER, ROLE_OBSERVER
    struct segment_config:
        uint32_t slots, up_bytes, down_bytes, direct_bytes, rows
    struct segment:
        uint8_t *base
        geometry at
        uint64_t epoch_us
        int fd
    segment_status segment_geometry(const segment_config *config, geometry *at)
    segment_status segment_create(segment *self, const segment_config *config, const uint64_t *key, uint64_t epoch_us)
    segment_status segment_attach(segment *self, int fd)
    segment_status segment_enter(segment *self, segment_role role, uint32_t slot)
    void segment_unmap(segment *self)
    c_bool segment_here(const segment *self)
    c_bool segment_forked(const segment *self)
    supervisor_region *segment_supervisor(const segment *self)
    router_control *segment_router(const segment *self)
    worker_control *segment_worker(const segment *self, uint32_t slot)
    uint64_t segment_generation(const segment *self, uint32_t slot)
    c_bool segment_attached(const segment *self, uint32_t slot, uint64_t generation)
    row *segment_row(const segment *self, uint32_t number)

cdef extern from "notify.h" nogil:
    void notify_write(int fd)
    void notify_clear(int fd)

cdef extern from "ring.h" nogil:
    enum ring_status:
        RING_OK, RING_EMPTY, RING_FULL, RING_TOO_BIG, RING_BROKEN
    struct ring_in:
        uint64_t capacity
        c_bool broken
    struct ring_out:
        uint64_t capacity
        const consumer_line *theirs
        c_bool broken
    uint64_t ring_body_max(uint64_t capacity)
    void ring_advance(ring_in *self, const record *header)

cdef extern from "table.h" nogil:
    enum: ROW_NONE
    enum table_status:
        TABLE_OK, TABLE_ABSENT, TABLE_FULL, TABLE_BAD_NAME, TABLE_BUSY
    struct row_view:
        uint32_t row, generation, members
        c_bool exact
    struct table:
        uint32_t used
    c_bool table_name_ok(const uint8_t *name, size_t length)
    uint64_t table_hash(const segment *self, const uint8_t *name, size_t length, c_bool prefix)
    table_status table_members(const segment *self, uint32_t row, uint32_t generation, row_view *view)
    table_status table_look(const segment *self, const uint8_t *name, size_t length, uint64_t hash, row_view *view)
    table_status table_bitmap(const segment *self, uint32_t row, uint32_t generation, uint64_t *bitmap)
    table_status table_name(const segment *self, uint32_t row, uint32_t generation, uint8_t *name, uint32_t *length,
                            uint64_t *epoch)
    c_bool table_is_used(const table *self, uint32_t row)
    c_bool table_is_prefix(const table *self, uint32_t row)
    const uint8_t *table_row_name(const table *self, uint32_t row, uint32_t *length)

cdef extern from "router.h" nogil:
    enum router_event_type:
        EVENT_NONE, EVENT_ATTACHED, EVENT_QUARANTINE, EVENT_PREFIX
    struct router_event:
        uint32_t type, slot
        uint64_t generation, detail
    struct router_limits:
        uint64_t turn_records, turn_bytes, spill_soft_bytes, spill_hard_bytes, spill_soft_ns, row_idle_ns
    struct spill:
        uint64_t bytes
    struct lane:
        c_bool attached
        uint64_t generation
        spill spill
    struct row_shadow:
        uint64_t sequence
    struct router:
        router_control *control
        table table
        row_shadow *shadow
        lane lane[256]
        uint32_t *journal
        uint32_t journal_count
        c_bool journal_on, journal_lost
    c_bool router_open(router *self, const segment *seg, const int *eventfds, const router_limits *limits,
                       const c_bool *imports, uint64_t now_ns, uint64_t now_real_ns)
    void router_close(router *self)
    uint64_t router_turn(router *self, uint64_t now_ns, uint64_t now_real_ns, c_bool *more)
    c_bool router_look(router *self, uint64_t spin_ns)
    c_bool router_sleep(router *self)
    void router_awake(router *self)
    c_bool router_next_event(router *self, router_event *event)
    c_bool router_prefix_pending(router *self, uint32_t slot, uint8_t *name, uint32_t *length, c_bool *leave)
    void router_prefix(router *self, uint32_t slot, const uint32_t *rows, uint32_t count)
    c_bool router_bury(router *self, uint32_t slot, uint64_t generation)
    uint64_t router_clock_ns(int clock)

cdef extern from "spill.h" nogil:
    void spill_copy(const spill *self, uint8_t *to)

cdef extern from "fanout.h" nogil:
    void fanout_seal(router *self, uint32_t slot)
    c_bool fanout_import(router *self, uint32_t slot, const uint8_t *data, uint64_t size)

cdef extern from "endpoint.h" nogil:
    enum: ENDPOINT_GONE
    struct outgoing:
        ring_out ring
        uint64_t generation
    struct incoming:
        ring_in ring
        c_bool present
    struct endpoint:
        worker_control *control
        uint64_t generation, id
        uint32_t slot
        ring_out up
        ring_in down
        outgoing *out
        incoming *inn "in"
        uint32_t peers[256]
        uint32_t peer_count
    c_bool endpoint_open(endpoint *self, const segment *seg, const int *eventfds, uint32_t slot, uint64_t generation)
    void endpoint_close(endpoint *self)
    int endpoint_send(endpoint *self, const record *header, const void *name, const void *body)
    int endpoint_message(endpoint *self, uint32_t row, uint32_t row_gen, const void *body, uint64_t size)
    void endpoint_report(endpoint *self, uint32_t peer)
    outgoing *endpoint_peer(endpoint *self, uint32_t slot, uint64_t generation)
    int endpoint_put(endpoint *self, outgoing *peer, const record *header, const void *name, const void *body)
    int endpoint_next_down(endpoint *self, record *header, const uint8_t **body)
    int endpoint_next_direct(endpoint *self, uint32_t peer, record *header, const uint8_t **body)
    void endpoint_release_down(endpoint *self)
    void endpoint_release_direct(endpoint *self, uint32_t peer)
    void endpoint_peer_here(endpoint *self, uint32_t slot)
    void endpoint_peer_gone(endpoint *self, uint32_t slot)
    void endpoint_rescan(endpoint *self)
    void endpoint_report_again(endpoint *self)
    c_bool endpoint_something(const endpoint *self)
    c_bool endpoint_look(const endpoint *self, uint64_t spin_ns)
    c_bool endpoint_sleep(endpoint *self)
    void endpoint_awake(endpoint *self)
    c_bool endpoint_want_up(endpoint *self, uint64_t length)
    c_bool endpoint_want_peer(outgoing *peer, uint64_t length)
    void endpoint_unwant_up(endpoint *self)
    void endpoint_unwant_peer(outgoing *peer)

cdef extern from "frame.h" nogil:
    enum frame_kind:
        FRAME_SSE, FRAME_SSE_CHUNKED, FRAME_WS_TEXT, FRAME_WS_BINARY, FRAME_KINDS
    struct frame_facts:
        uint64_t epoch, number
        const uint8_t *event
        size_t event_size
        const uint8_t *body
        size_t body_size
    struct frame_buffer:
        uint8_t *data
        size_t size
        uint32_t messages
    c_bool frame_message(frame_buffer *buffer, frame_kind kind, const frame_facts *facts)
    c_bool frame_gap(frame_buffer *buffer, frame_kind kind, uint64_t missed, const uint8_t *name, size_t name_size)
    c_bool frame_raw(frame_buffer *buffer, frame_kind kind, const uint8_t *data, size_t size)
    void frame_reset(frame_buffer *buffer)
    void frame_free(frame_buffer *buffer)

cdef extern from "sink.h" nogil:
    struct sink:
        int fd
        c_bool gone
        uint32_t count
        size_t waiting
    struct sink_outcome:
        uint32_t index
        size_t sent
    size_t sink_behind(const sink *self)
    uint32_t sink_fan(sink **sinks, uint32_t count, const uint8_t *data, size_t size, sink_outcome *outcomes)
    size_t sink_send(sink *self, const uint8_t *data, size_t size)
    c_bool sink_hold(sink *self, void *holder, const uint8_t *data, size_t size)

cdef extern from "sink.h":
    c_bool sink_flush(sink *self, void (*release)(void *holder) noexcept)
    void sink_clear(sink *self, void (*release)(void *holder) noexcept)

cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC, CLOCK_REALTIME
