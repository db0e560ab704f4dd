# Alerts: queues of those that came, parcels that go out.

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
        self.first += 1
        self.count -= 1
        self.bytes_waiting -= PyBytes_GET_SIZE(<bytes>data)
        Py_DECREF(data)
        return data, entry.source, entry.correlation if entry.flags & FLAG_CALL else None, entry.hops

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
                result = self.handler(data)
            except BaseException as error:
                finish(None, error)
            else:
                if self.flags & FLAG_CALL and not answer_at_once(self, result):
                    finish(result, None)
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
            shared_plus(&self.counters[8], 1)
            if flags & FLAG_CALL:
                self.events.append(("refused", source, correlation, name, "there is no handler"))
            return 0
        self.last_alert = queue
    if not queue._push(data, flags, hops, source, correlation):
        shared_plus(&self.counters[9], 1)
        if flags & FLAG_CALL:
            self.events.append(("refused", source, correlation, name, "too many wait for the handler"))
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


cdef struct target:
    uint32_t slot
    uint64_t generation, offset
    uint32_t fragment
    bint done, gone, started, abort_due


cdef uint64_t _next_parcel = 0


cdef class Parcel:
    """A body on its way to peers, in one record or in fragments; it copies nothing and waits for nobody."""

    cdef Endpoint endpoint
    cdef Py_buffer buffer
    cdef bint held
    cdef record header
    cdef bytes name
    cdef target *targets
    cdef Py_ssize_t target_count
    cdef readonly uint32_t message_id

    def __cinit__(self, Endpoint endpoint, int kind, int flags, int hops, uint64_t correlation, bytes name, data, targets):
        global _next_parcel
        if isinstance(data, str):
            raise TypeError("data must be bytes-like, not str; encode it first: data.encode()")
        endpoint.here()
        self.endpoint, self.name = endpoint, name
        PyObject_GetBuffer(data, &self.buffer, PyBUF_SIMPLE)
        self.held = True
        if <uint64_t>self.buffer.len > endpoint.message_max:
            raise MessageTooBig(self.buffer.len, endpoint.message_max)
        self.target_count = len(targets)
        self.targets = <target *>calloc(self.target_count + 1, sizeof(target))
        if self.targets == NULL:
            raise MemoryError()
        for i, (slot, generation) in enumerate(targets):
            self.targets[i].slot, self.targets[i].generation = slot, generation
        memset(&self.header, 0, sizeof(record))
        self.header.type, self.header.flags, self.header.hops = kind, flags, hops
        self.header.sequence = correlation
        _next_parcel = (_next_parcel + 1) & 0xffffffff
        self.message_id = _next_parcel

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)
        free(self.targets)

    @property
    def size(self):
        return self.buffer.len

    def pump(self, int records):
        """Put in what fits, at most so many records for each target; True when nothing is left to put."""
        cdef Py_ssize_t i
        cdef bint done = True
        self.endpoint.here()
        for i in range(self.target_count):
            if not self.targets[i].done:
                self._fill(&self.targets[i], records)
                done = done and self.targets[i].done
        return done

    cdef int _fill(self, target *to, int records) except -1:
        cdef outgoing *peer
        cdef record header
        cdef uint64_t most = ring_body_max(self.endpoint.segment.c.at.direct_bytes)
        cdef uint64_t left, part
        cdef int status
        cdef uint8_t name_length
        cdef bint whole = <uint64_t>self.buffer.len + len(self.name) <= most and self.header.type != RECORD_BODY
        while not to.done and records > 0:
            records -= 1
            peer = endpoint_peer(&self.endpoint.c, to.slot, to.generation)
            if peer == NULL:
                to.done = to.gone = True
                return 0
            header = self.header
            left = <uint64_t>self.buffer.len - to.offset
            name_length = 0 if to.started else len(self.name)
            part = left if left + name_length <= most else most - name_length
            header.name_length = name_length
            header.length = <uint32_t>(sizeof(record) + name_length + part)
            if whole:
                header.flags |= FLAG_FIRST | FLAG_LAST
            else:
                header.message_id, header.fragment, header.total = self.message_id, to.fragment, self.buffer.len
                header.flags |= (0 if to.started else FLAG_FIRST)
                if to.started and part == left:
                    header.flags |= FLAG_LAST
                elif part == left:  # one record would be "whole": leave a byte, or an empty fragment, for the last
                    part = left - 1 if left else 0
                    header.length = <uint32_t>(sizeof(record) + name_length + part)
            status = endpoint_put(&self.endpoint.c, peer, &header, PyBytes_AS_STRING(self.name),
                                  <const char *>self.buffer.buf + to.offset)
            if status == RING_FULL:
                return 0
            if status != RING_OK:  # its cursor cannot be: a broken worker
                endpoint_report(&self.endpoint.c, to.slot)
                to.done = to.gone = True
                return 0
            to.started = True
            to.offset += part
            to.fragment += 1
            if header.flags & FLAG_LAST:
                to.done = True
                if header.type == RECORD_ALERT:
                    shared_plus(&self.endpoint.counters[6], 1)
        return 0

    def give_up(self, slot=None, bint whole=False):
        """This target, or all that are not done, get nothing more.  True when they all know; else tell_aborted later.

        `whole`: nothing comes of it for those either that have got all of it.
        """
        cdef Py_ssize_t i
        for i in range(self.target_count):
            if (whole or not self.targets[i].done) and (slot is None or self.targets[i].slot == slot):
                self.targets[i].abort_due = self.targets[i].started and not self.targets[i].gone
                self.targets[i].done = self.targets[i].gone = True
        return self.tell_aborted()

    def tell_aborted(self):
        """Tell those who have a part that no more will come; False when some ring had no room even for that."""
        cdef Py_ssize_t i
        cdef bint told = True
        for i in range(self.target_count):
            if self.targets[i].abort_due:
                self.targets[i].abort_due = not self._abort_one(&self.targets[i])
                told = told and not self.targets[i].abort_due
        return told

    cdef bint _abort_one(self, target *to) except -1:
        cdef record header
        cdef outgoing *peer = endpoint_peer(&self.endpoint.c, to.slot, to.generation)
        if peer == NULL:
            return True
        memset(&header, 0, sizeof(record))
        header.length, header.type = sizeof(record), RECORD_ABORT
        header.flags = FLAG_FIRST | FLAG_LAST
        header.message_id = self.message_id
        return endpoint_put(&self.endpoint.c, peer, &header, NULL, NULL) != RING_FULL

    @property
    def waiting(self):
        """[(slot, generation)] that have not got all of it."""
        return [(self.targets[i].slot, self.targets[i].generation) for i in range(self.target_count)
                if not self.targets[i].done]

    @property
    def delivered(self):
        """Slots that got all of it."""
        return [self.targets[i].slot for i in range(self.target_count)
                if self.targets[i].done and not self.targets[i].gone]

    @property
    def next_size(self):
        """Bytes of body that the next record needs room for at most."""
        cdef uint64_t most = ring_body_max(self.endpoint.segment.c.at.direct_bytes)
        cdef uint64_t size = <uint64_t>self.buffer.len + len(self.name)
        return size if size < most else most
