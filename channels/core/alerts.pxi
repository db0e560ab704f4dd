# Alerts: queues of those that came, and those that go out whole.

cdef struct alert_entry:
    PyObject *data
    uint64_t source, correlation
    uint8_t flags, hops


cdef class AlertQueue:
    """Alerts of one name that wait for their handler."""

    cdef Endpoint endpoint
    cdef readonly bytes name
    cdef public object handler
    cdef alert_entry *entries
    cdef Py_ssize_t first, count, capacity, maxlen, max_bytes, bytes_waiting
    cdef bint listed
    cdef readonly bint closed
    cdef public object waiter
    # Of the alert whose handler runs now:
    cdef uint64_t source, correlation
    cdef uint8_t flags, hops
    cdef bint handling

    def __cinit__(self, Endpoint endpoint, bytes name, Py_ssize_t maxlen, Py_ssize_t max_bytes):
        self.endpoint, self.name, self.maxlen, self.max_bytes = endpoint, name, maxlen, max_bytes
        self.capacity = 16
        self.entries = <alert_entry *>malloc(self.capacity * sizeof(alert_entry))
        if self.entries == NULL:
            raise MemoryError()

    def __dealloc__(self):
        while self.count:
            Py_XDECREF(self.entries[self.first & (self.capacity - 1)].data)
            self.first += 1
            self.count -= 1
        free(self.entries)

    cdef bint _push(self, bytes data, uint8_t flags, uint8_t hops, uint64_t source, uint64_t correlation) except -1:
        cdef Py_ssize_t i
        cdef alert_entry *grown
        cdef alert_entry *entry
        if self.count >= self.maxlen or (self.count and self.bytes_waiting + PyBytes_GET_SIZE(data) > self.max_bytes):
            return False
        if self.count == self.capacity:
            grown = <alert_entry *>malloc(2 * self.capacity * sizeof(alert_entry))
            if grown == NULL:
                raise MemoryError()
            for i in range(self.count):
                grown[i] = self.entries[(self.first + i) & (self.capacity - 1)]
            free(self.entries)
            self.entries, self.first, self.capacity = grown, 0, 2 * self.capacity
        if self.waiter is not None and not self.listed:
            self.endpoint.woken.append(self)
            self.listed = True
        entry = &self.entries[(self.first + self.count) & (self.capacity - 1)]
        Py_INCREF(data)
        entry.data = <PyObject *>data
        entry.flags, entry.hops, entry.source, entry.correlation = flags, hops, source, correlation
        self.count += 1
        self.bytes_waiting += PyBytes_GET_SIZE(data)
        return True

    def take(self):
        """(data, source id, correlation or None, hops) of the next alert, or None."""
        cdef alert_entry entry
        if self.count == 0:
            return None
        entry = self.entries[self.first & (self.capacity - 1)]
        data = <bytes>entry.data
        taken = (data, entry.source, entry.correlation if entry.flags & FLAG_CALL else None, entry.hops)
        self.first += 1
        self.count -= 1
        self.bytes_waiting -= PyBytes_GET_SIZE(<bytes>data)
        Py_DECREF(data)
        return taken

    def run(self, int budget, finish):
        """Call the handler for up to `budget` alerts, in the running greenlet; returns how many are left.

        `finish(result, error)` is called after each that was a call or failed, while its context stands; it may raise.
        """
        cdef alert_entry *entry
        cdef object data, result
        while budget and self.count and not self.closed:
            entry = &self.entries[self.first & (self.capacity - 1)]
            data = <object>entry.data
            self.source, self.correlation = entry.source, entry.correlation
            self.flags, self.hops = entry.flags, entry.hops
            self.first += 1
            self.count -= 1
            self.bytes_waiting -= PyBytes_GET_SIZE(<bytes>data)
            Py_DECREF(data)
            budget -= 1
            self.handling = True
            try:
                try:
                    result = self.handler(data)
                except BaseException as error:
                    finish(None, error)
                else:
                    if self.flags & FLAG_CALL and not answer_at_once(self, result):
                        finish(result, None)
            except MemoryError:  # of `finish`
                if self.flags & FLAG_CALL:
                    self.endpoint.events.append(("refused", self.source, self.correlation, self.name,
                                                 "no memory for its answer"))
                raise
            finally:
                self.handling = False
        return self.count

    def enter(self, greenlet):
        """From here on `greenlet` runs this queue's handler."""
        self.endpoint.contexts[greenlet] = self

    def leave(self, greenlet):
        self.endpoint.contexts.pop(greenlet, None)

    def close(self):
        self.closed = True

    @property
    def context(self):
        """Of the alert being handled: (source id, correlation or None, hops), or None."""
        if not self.handling:
            return None
        return self.source, self.correlation if self.flags & FLAG_CALL else None, self.hops

    def __len__(self):
        return self.count


cdef class AlertContext:
    """The alert that a greenlet of its own handles."""

    cdef readonly uint64_t source, hops
    cdef readonly object correlation

    def __cinit__(self, uint64_t source, correlation, uint64_t hops):
        self.source, self.correlation, self.hops = source, correlation, hops

    def enter(self, Endpoint endpoint, greenlet):
        endpoint.contexts[greenlet] = self

    def leave(self, Endpoint endpoint, greenlet):
        endpoint.contexts.pop(greenlet, None)

    @property
    def context(self):
        return self.source, self.correlation, self.hops


cdef int receive_alert(Endpoint self, uint8_t kind, uint8_t flags, uint8_t hops, uint64_t source,
                         uint64_t correlation, bytes name, bytes data) except -1:
    """An alert, or the answer to a call.  After a MemoryError it can be called again with the same."""
    cdef AlertQueue queue
    if kind == RECORD_REPLY or kind == RECORD_ERROR:
        self.events.append(("reply", correlation, kind == RECORD_ERROR,
                            None if flags & FLAG_NONE else data, source))
        return 0
    if kind != RECORD_ALERT:
        return 0
    queue = self.last_alert
    if queue is None or (queue.name is not name and queue.name != name):
        queue = self.alert_queues.get(name)
        if queue is None:
            if flags & FLAG_CALL:
                self.events.append(("refused", source, correlation, name, "there is no handler"))
            shared_plus(&self.counters[8], 1)
            return 0
        self.last_alert = queue
    if not queue._push(data, flags, hops, source, correlation):
        if flags & FLAG_CALL:
            self.events.append(("refused", source, correlation, name, "too many wait for the handler"))
        shared_plus(&self.counters[9], 1)
        return 0
    shared_plus(&self.counters[7], 1)
    return 0


cdef bytes alert_name_of(AlertQueue last, const uint8_t *name, uint8_t length):
    """An alert's name as an object; mostly it is that of the last one."""
    if last is not None and PyBytes_GET_SIZE(last.name) == length and (
            memcmp(PyBytes_AS_STRING(last.name), name, length) == 0):
        return last.name
    return PyBytes_FromStringAndSize(<const char *>name, length)


def alert_name(name):
    """UTF-8 of an alert's name, checked."""
    cdef bytes raw
    if isinstance(name, str):
        try:
            raw = (<str>name).encode()
        except UnicodeEncodeError:
            raise BadAlertName(name) from None
    elif isinstance(name, bytes):
        raw = <bytes>name
    else:
        raise TypeError(f"an alert's name is str or UTF-8 bytes, not {type(name).__name__}")
    if not 0 < len(raw) <= 254:
        raise BadAlertName(name)
    return raw


def set_alert_queue(Endpoint endpoint, bytes name, AlertQueue queue):
    """Alerts of this name go to `queue`; None: they are discarded and counted."""
    if queue is None:
        endpoint.alert_queues.pop(name, None)
    else:
        endpoint.alert_queues[name] = queue
    endpoint.last_alert = None


def alert_context(Endpoint endpoint):
    """(source id, correlation or None, hops) of the alert that the running greenlet handles, or None."""
    owner = endpoint.contexts.get(endpoint.getcurrent())
    return None if owner is None else owner.context


def split_id(uint64_t id):
    """(slot, generation) of a worker id."""
    return WORKER_SLOT(id), WORKER_GENERATION(id)


def join_id(uint64_t slot, uint64_t generation):
    return WORKER_ID(slot, generation)


ALERT, REPLY, ERROR, BODY = RECORD_ALERT, RECORD_REPLY, RECORD_ERROR, RECORD_BODY
CALL, NONE = FLAG_CALL, FLAG_NONE


def alert_self(Endpoint endpoint, int kind, int flags, int hops, uint64_t correlation, bytes name, bytes data):
    """An alert to the own worker takes the local queue."""
    endpoint.here()
    receive_alert(endpoint, kind, flags, hops, endpoint.c.id, correlation, name, data)
    if kind == RECORD_ALERT:
        shared_plus(&endpoint.counters[6], 1)
    if endpoint.woken or endpoint.events:
        endpoint.schedule()


cdef int put_alert(Endpoint self, uint32_t slot, uint64_t generation, const record *header, bytes name,
                   const void *data) except -1:
    """One whole alert to a peer that takes alerts; enum ring_status or ENDPOINT_GONE."""
    cdef outgoing *peer
    if shared_get_acquire(&segment_worker(&self.segment.c, slot).ready) != generation:
        return ENDPOINT_GONE
    peer = endpoint_peer(&self.c, slot, generation)
    if peer == NULL:
        return ENDPOINT_GONE
    return endpoint_put(&self.c, peer, header, PyBytes_AS_STRING(name), data)


def send_alerts(Endpoint endpoint, targets, int flags, int hops, uint64_t correlation, bytes name, data):
    """A whole alert to each (slot, generation), or, when `targets` is None, to every ready peer and the own worker.

    Returns None when all have got it, else a list of (slot, generation, status): "full", "big" or "gone".
    """
    cdef record header
    cdef Py_buffer buffer
    cdef const char *body
    cdef Py_ssize_t size, sent = 0
    cdef uint32_t slot
    cdef uint64_t generation
    cdef int status
    cdef bint held = False
    cdef list left = None
    endpoint.here()
    if type(data) is bytes:
        body, size = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
    else:
        if isinstance(data, str):
            raise TypeError("data must be bytes-like, not str; encode it first: data.encode()")
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        held = True
        body, size = <const char *>buffer.buf, buffer.len
    try:
        if <uint64_t>size > endpoint.message_max:
            raise MessageTooBig(size, endpoint.message_max)
        memset(&header, 0, sizeof(record))
        header.length = <uint32_t>(sizeof(record) + PyBytes_GET_SIZE(name) + size)
        header.type, header.flags, header.hops = RECORD_ALERT, FLAG_FIRST | FLAG_LAST | flags, hops
        header.name_length = <uint8_t>PyBytes_GET_SIZE(name)
        header.sequence = correlation
        if targets is None:
            for slot in range(1, endpoint.segment.c.at.slots):
                generation = segment_generation(&endpoint.segment.c, slot)
                if not generation & 1 or slot == endpoint.c.slot:
                    continue
                status = put_alert(endpoint, slot, generation, &header, name, body)
                if status == RING_OK:
                    sent += 1
                elif status != ENDPOINT_GONE:
                    left = _note_left(left, slot, generation, status)
            receive_alert(endpoint, RECORD_ALERT, header.flags, hops, endpoint.c.id, correlation, name,
                          data if type(data) is bytes else PyBytes_FromStringAndSize(body, size))
            sent += 1
            if endpoint.woken or endpoint.events:
                endpoint.schedule()
        else:
            for slot, generation in targets:
                status = put_alert(endpoint, slot, generation, &header, name, body)
                if status == RING_OK:
                    sent += 1
                else:
                    left = _note_left(left, slot, generation, status)
        shared_plus(&endpoint.counters[6], sent)
        return left
    finally:
        if held:
            PyBuffer_Release(&buffer)


cdef list _note_left(list left, uint32_t slot, uint64_t generation, int status):
    if left is None:
        left = []
    left.append((slot, generation,
                 "full" if status == RING_FULL else "big" if status == RING_TOO_BIG else "gone"))
    return left


def ready_worker(Segment segment, uint64_t pid):
    """(slot, generation) of the ready worker with this process id, or None."""
    cdef uint32_t slot
    cdef uint64_t generation
    segment.check()
    for slot in range(1, segment.c.at.slots):
        if shared_get(&segment_supervisor(&segment.c).slot[slot].pid) != pid:
            continue
        generation = segment_generation(&segment.c, slot)
        if generation & 1 and shared_get_acquire(&segment_worker(&segment.c, slot).ready) == generation:
            return slot, generation
    return None
