# A worker's end: sending, draining, dispatch to local subscribers.

cdef struct cached_name:
    PyObject *key  # a str or bytes object, held, so that its address stays its own
    uint32_t row, generation

cdef enum:
    NAME_CACHE = 1024
    WAIT_FULL = 1
    WAIT_BUSY = 2
    WAIT_OPEN = 3
    WAIT_LARGE = 4

needs_room, needs_table, needs_row, needs_parcel = WAIT_FULL, WAIT_BUSY, WAIT_OPEN, WAIT_LARGE

cdef Endpoint _endpoint = None
cdef uint64_t _next_parcel = 0


@cython.final
@cython.no_gc
cdef class Assembly:
    """A body of which not all fragments have come."""

    cdef bytes name, data
    cdef uint64_t total, filled, source, correlation, since_ns
    cdef uint32_t next, message_id
    cdef uint8_t type, flags, hops
    cdef bint complete


cdef class Endpoint:
    """This process's end of the segment.  One per worker."""

    cdef endpoint c
    cdef Segment segment
    cdef int *eventfds
    cdef shared64 *counters
    cdef PyObject **by_row  # LocalChannel, held
    cdef uint32_t rows
    cdef cached_name *names
    cdef bint polling
    cdef bint look_credit   # something came since the last look in vain
    cdef uint64_t spin_ns, greedy_ns, last_hub_ns
    cdef uint64_t message_max, assembly_max, assembling, at_once_max
    cdef uint64_t alert_hops_max
    cdef dict assemblies    # (source, message id) -> Assembly
    cdef AlertQueue last_alert
    cdef dict alert_queues  # name -> AlertQueue
    cdef dict contexts      # greenlet -> AlertQueue whose handler it runs
    cdef object getcurrent
    cdef uint64_t received, received_bytes  # since the counters were written
    cdef Py_ssize_t senders_waiting
    cdef public dict pending_joins  # token -> LocalChannel: placed when the answer is read, before what follows it
    cdef public list woken     # queues whose waiter is to be switched to
    cdef public list events    # what the owner has to act on, in order
    cdef public object resolve # (name) -> LocalChannel or None: who here has joined a prefix of it
    cdef public object yield_hub  # let other greenlets run
    cdef public object slow_send  # (channel, data, event, timeout, need) -> int
    cdef public object schedule   # deliver `woken` and `events` soon
    cdef Streams streams          # or None
    cdef readonly bint router_broken
    cdef object __weakref__

    def __cinit__(self, Segment segment, eventfds, uint32_t slot, uint64_t generation, *, uint64_t spin_ns,
                  uint64_t greedy_ns, uint64_t message_max, uint64_t assembly_max, uint64_t alert_hops_max, getcurrent):
        segment.check_slot(slot)
        self.segment = segment
        self.eventfds = _eventfd_array(segment, eventfds)
        self.rows = segment.c.at.rows
        self.by_row = <PyObject **>calloc(segment.c.at.rows, sizeof(PyObject *))
        self.names = <cached_name *>calloc(NAME_CACHE, sizeof(cached_name))
        if self.by_row == NULL or self.names == NULL or not endpoint_open(
                &self.c, &segment.c, self.eventfds, slot, generation):
            raise MemoryError("no memory for this worker's tables")
        self.counters = <shared64 *>&self.c.control.count
        self.spin_ns, self.greedy_ns = spin_ns, greedy_ns
        self.message_max, self.assembly_max = message_max, assembly_max
        self.at_once_max = min(message_max, ring_body_max(self.c.up.capacity))
        self.alert_hops_max = alert_hops_max
        self.getcurrent = getcurrent
        self.woken, self.events = [], []
        self.assemblies, self.alert_queues, self.contexts, self.pending_joins = {}, {}, {}, {}
        self.last_hub_ns = router_clock_ns(CLOCK_MONOTONIC)

    def __dealloc__(self):
        cdef uint32_t i
        if self.by_row != NULL:
            for i in range(self.rows):
                Py_XDECREF(self.by_row[i])
        if self.names != NULL:
            for i in range(<uint32_t>NAME_CACHE):
                Py_XDECREF(self.names[i].key)
        free(self.by_row)
        free(self.names)
        endpoint_close(&self.c)
        free(self.eventfds)

    cdef inline int here(self) except -1:
        if not segment_here(&self.segment.c):
            raise ForkedProcess()
        return 0

    def install(self):
        """Make this the endpoint of channel_send and the alerts in this process."""
        global _endpoint
        _endpoint = self

    @property
    def slot(self):
        return self.c.slot

    @property
    def generation(self):
        return self.c.generation

    @property
    def id(self):
        return self.c.id

    @property
    def polled(self):
        """Whether a drain is under way: nothing of this endpoint may wait now."""
        return self.polling

    # ---- sending ----

    cdef int _place(self, object channel, row_view *view) except -1:
        """Row and number of members of a channel; TABLE_OK, TABLE_ABSENT (members by prefix only) or TABLE_BUSY."""
        cdef cached_name *cached = &self.names[(<uintptr_t><PyObject *>channel >> 4) & (NAME_CACHE - 1)]
        cdef Py_ssize_t length
        cdef const char *text
        cdef int status
        if cached.key == <PyObject *>channel:
            if table_members(&self.segment.c, cached.row, cached.generation, view) == TABLE_OK:
                return TABLE_OK
        if type(channel) is str:
            try:
                text = PyUnicode_AsUTF8AndSize(channel, &length)
            except UnicodeEncodeError:
                raise BadChannelName(channel, "is not valid text") from None
        elif type(channel) is bytes:
            text, length = PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)
        else:
            channel = _name_bytes(channel)  # subclasses, or a TypeError
            text, length = PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)
        if not table_name_ok(<const uint8_t *>text, length):
            _name_bytes(channel)
        status = table_look(&self.segment.c, <const uint8_t *>text, length,
                            table_hash(&self.segment.c, <const uint8_t *>text, length, False), view)
        if status == TABLE_OK:
            Py_INCREF(channel)
            Py_XDECREF(cached.key)
            cached.key = <PyObject *>channel
            cached.row, cached.generation = view.row, view.generation
        return status

    cdef inline Py_ssize_t _send_at_once(self, object channel, object data) except -1:
        """The common case: bytes, a name seen before, room in the ring.  0: go the general way."""
        cdef row_view view
        cdef Py_ssize_t size
        cdef cached_name *cached = &self.names[(<uintptr_t><PyObject *>channel >> 4) & (NAME_CACHE - 1)]
        if type(data) is not bytes or cached.key != <PyObject *>channel or self.senders_waiting:
            return 0
        size = PyBytes_GET_SIZE(data)
        if <uint64_t>size > self.at_once_max or table_members(
                &self.segment.c, cached.row, cached.generation, &view) != TABLE_OK or view.members == 0:
            return 0
        if endpoint_message(&self.c, view.row, view.generation, PyBytes_AS_STRING(data), size) != RING_OK:
            return 0
        shared_plus(&self.counters[0], 1)
        shared_plus(&self.counters[1], size)
        return view.members

    cdef Py_ssize_t _send(self, object channel, object data, bytes event, bint again, int *need) except -1:
        """Workers that listen; or 0 and in `need` what has to happen first."""
        cdef row_view view
        cdef record header
        cdef Py_buffer buffer
        cdef const char *body
        cdef Py_ssize_t size
        cdef bint held = False
        cdef int status
        need[0] = 0
        if type(data) is bytes:
            body, size = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        else:
            if isinstance(data, str):
                raise TypeError("data must be bytes-like, not str; encode it first: data.encode()")
            PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
            held = True
            body, size = <const char *>buffer.buf, buffer.len
        try:
            if <uint64_t>size > self.message_max:
                raise MessageTooBig(size, self.message_max)
            status = self._place(channel, &view)
            if status == TABLE_BUSY:
                need[0] = WAIT_BUSY
                return 0
            if view.members == 0:
                return 0
            if status == TABLE_ABSENT:
                need[0] = WAIT_OPEN
                return 0
            header.name_length = 0 if event is None else <uint8_t>PyBytes_GET_SIZE(event)
            if <uint64_t>size + header.name_length > ring_body_max(self.c.up.capacity):
                need[0] = WAIT_LARGE
                return 0
            if self.senders_waiting and not again:
                need[0] = WAIT_FULL
                return 0
            header.length = <uint32_t>(sizeof(record) + size + header.name_length)
            header.type, header.flags, header.hops = RECORD_MESSAGE, FLAG_FIRST | FLAG_LAST, 0
            header.destination = header.sequence = header.time_ns = 0
            header.row, header.row_generation = view.row, view.generation
            status = endpoint_send(&self.c, &header, NULL if event is None else PyBytes_AS_STRING(event), body)
            if status == RING_FULL:
                need[0] = WAIT_FULL
                return 0
            if status != RING_OK:
                raise SegmentError("the ring to the router is broken; this worker has to be replaced")
            shared_plus(&self.counters[0], 1)
            shared_plus(&self.counters[1], size)
            return view.members
        finally:
            if held:
                PyBuffer_Release(&buffer)

    def send_now(self, channel, data, bytes event=None, bint again=False):
        """(workers that listen, 0), or (0, what is needed first: needs_room, needs_table, needs_row, needs_parcel).

        `again`: the caller waited for its turn already, so it goes before those who wait.
        """
        cdef int need = 0
        self.here()
        if event is not None and not 0 < PyBytes_GET_SIZE(event) <= 254:
            raise ValueError("an event's name has 1 to 254 bytes")
        cdef Py_ssize_t members = self._send(channel, data, event, again, &need)
        return members, need

    def add_sender(self, int change):
        """How many wait for room towards the router: who comes later waits behind them."""
        self.senders_waiting += change

    def ask(self, str what, uint64_t token, bytes name):
        """Put a "join", "leave", "open", "join_prefix" or "leave_prefix" into the ring; False when it is full."""
        cdef int kind = RECORD_LEAVE if what.startswith("leave") else RECORD_JOIN
        cdef int flags = FLAG_FIRST | FLAG_LAST
        self.here()
        if what == "open":
            flags |= FLAG_OPEN
        elif what.endswith("_prefix"):
            flags |= FLAG_PREFIX
        cdef record header
        memset(&header, 0, sizeof(record))
        header.length = <uint32_t>(sizeof(record) + len(name))
        header.type, header.flags, header.sequence, header.row = kind, flags, token, ROW_NONE
        cdef int status = endpoint_send(&self.c, &header, NULL, PyBytes_AS_STRING(name))
        if status == RING_FULL:
            return False
        if status != RING_OK:
            raise SegmentError("the ring to the router is broken; this worker has to be replaced")
        return True

    def listeners(self, channel):
        """Slots with subscribers of a channel, to send a large body to: (row, row generation, [slots])."""
        cdef row_view view
        cdef uint64_t bitmap[4]
        cdef uint32_t i
        self.here()
        if self._place(channel, &view) != TABLE_OK:
            return None
        if table_bitmap(&self.segment.c, view.row, view.generation, bitmap) != TABLE_OK:
            return None
        slots = [i for i in range(self.segment.c.at.slots) if bitmap[i // 64] >> (i % 64) & 1]
        return view.row, view.generation, slots

    def send_large(self, uint32_t row, uint32_t row_generation, uint32_t message_id, uint64_t total, slots):
        """The record that gives a body, sent before, its place in the channel's order; False: the ring is full."""
        cdef large_payload payload
        cdef record header
        memset(&payload, 0, sizeof(payload))
        memset(&header, 0, sizeof(header))
        self.here()
        payload.message_id, payload.total = message_id, total
        for slot in slots:
            payload.receivers[slot // 64] |= <uint64_t>1 << <uint64_t>(slot % 64)
        header.length = sizeof(record) + sizeof(payload)
        header.type, header.flags = RECORD_MESSAGE, FLAG_FIRST | FLAG_LAST | FLAG_LARGE
        header.row, header.row_generation = row, row_generation
        cdef int status = endpoint_send(&self.c, &header, NULL, &payload)
        if status == RING_FULL:
            return False
        if status != RING_OK:
            raise SegmentError("the ring to the router is broken; this worker has to be replaced")
        shared_plus(&self.counters[0], 1)
        shared_plus(&self.counters[1], total)
        return True

    def keep_body(self, uint32_t message_id, bytes data, bytes event=None):
        """The own worker listens too: its copy of a large body."""
        cdef Assembly kept = Assembly.__new__(Assembly)
        kept.data, kept.total, kept.complete = data, len(data), True
        kept.name = b"" if event is None else event
        kept.source, kept.message_id, kept.since_ns = self.c.id, message_id, router_clock_ns(CLOCK_MONOTONIC)
        self.assemblies[(self.c.id, message_id)] = kept
        self.assembling += kept.total

    def drop_body(self, uint32_t message_id):
        self._forget((self.c.id, message_id))

    # ---- room ----

    def want_up(self, uint64_t size):
        """Ask to be woken when a record with `size` bytes of body fits; True when it does already."""
        self.here()
        return endpoint_want_up(&self.c, sizeof(record) + size)

    def has_room_up(self, uint64_t size):
        self.here()
        return endpoint_has_room_up(&self.c, sizeof(record) + size)

    def unwant_up(self):
        self.here()
        endpoint_unwant_up(&self.c)

    def want_peer(self, uint32_t slot, uint64_t generation, uint64_t size):
        """The same towards a peer; True also when it is gone, for the next put says so."""
        self.here()
        cdef outgoing *peer = endpoint_peer(&self.c, slot, generation)
        return True if peer == NULL else endpoint_want_peer(peer, sizeof(record) + size)

    def has_room_peer(self, uint32_t slot, uint64_t generation, uint64_t size):
        self.here()
        cdef outgoing *peer = endpoint_peer(&self.c, slot, generation)
        return True if peer == NULL else endpoint_has_room_peer(peer, sizeof(record) + size)

    def unwant_peer(self, uint32_t slot):
        self.here()
        endpoint_unwant_peer(&self.c.out[slot])

    # ---- local channels ----

    def bind(self, LocalChannel channel, Member member, prefix=None):
        """Give `member` what comes from here on, joined by name or by this prefix."""
        cdef Binding binding = member.bindings.get(channel)
        if binding is None:
            binding = Binding.__new__(Binding)
            binding.channel, binding.prefixes = channel, set()
            if isinstance(member, StreamGroup):
                binding.group = member
            else:
                binding.queue = member
            binding.last = channel.last
            binding.place = len(channel.bindings)
            channel.bindings.append(binding)
            member.bindings[channel] = binding
        if prefix is not None:
            binding.prefixes.add(prefix)
        elif not binding.exact:
            binding.exact = True
            channel.exact_members += 1

    def release(self, LocalChannel channel, Member member, prefix=None):
        """Undo it; with its last reason a queue forgets what waits of the channel."""
        cdef Binding last, binding = member.bindings.get(channel)
        if binding is None:
            return
        if prefix is not None:
            binding.prefixes.discard(prefix)
        elif binding.exact:
            binding.exact = False
            channel.exact_members -= 1
        if binding.exact or binding.prefixes:
            return
        del member.bindings[channel]
        last = channel.bindings.pop()
        if last is not binding:
            last.place = binding.place
            channel.bindings[binding.place] = last
        if binding.queue is not None:
            binding.queue._purge(binding)

    def place(self, LocalChannel channel, uint32_t row, uint32_t generation, uint64_t epoch, uint64_t last):
        """The channel's row is known: take its messages."""
        self._set_row(channel, row, generation, epoch, last)

    cdef int _set_row(self, LocalChannel channel, uint32_t row, uint32_t generation, uint64_t epoch,
                      uint64_t last) except -1:
        cdef Binding binding
        if row >= self.segment.c.at.rows:
            return 0
        if channel.row == row and channel.row_generation == generation:
            return 0  # known already by a prefix: numbers go on
        self._clear_row(channel)
        if self.by_row[row] != NULL:
            (<LocalChannel>self.by_row[row]).row = ROW_NONE
            Py_DECREF(<object>self.by_row[row])
        Py_INCREF(channel)
        self.by_row[row] = <PyObject *>channel
        channel.row, channel.row_generation, channel.epoch, channel.last = row, generation, epoch, last
        for binding in channel.bindings:
            binding.last, binding.skipped = last, None
        return 0

    cdef int _clear_row(self, LocalChannel channel) except -1:
        if channel.row != ROW_NONE and self.by_row[channel.row] == <PyObject *>channel:
            self.by_row[channel.row] = NULL
            channel.row = ROW_NONE
            Py_DECREF(channel)
        return 0

    def displace(self, LocalChannel channel):
        """Take no more messages of it."""
        self._clear_row(channel)

    cdef LocalChannel _unknown(self, const record *header):
        """A row this worker is in by a prefix, seen for the first time; None when it has left since."""
        cdef uint8_t name[256]
        cdef uint32_t length
        cdef uint64_t epoch
        cdef LocalChannel channel
        if table_name(&self.segment.c, header.row, header.row_generation, name, &length, &epoch) != TABLE_OK:
            return None
        channel = self.resolve(PyUnicode_DecodeUTF8(<const char *>name, length, "replace"))
        if channel is None:
            return None
        self._set_row(channel, header.row, header.row_generation, epoch, header.sequence - 1)
        return channel

    # ---- draining ----

    cdef int _message(self, const record *header, const uint8_t *body) except -1:
        cdef LocalChannel channel = None
        cdef Binding binding
        cdef Message message = None
        cdef Assembly large = None
        cdef Py_ssize_t i
        cdef uint64_t gap
        cdef frame_facts facts
        if header.row < self.segment.c.at.rows and self.by_row[header.row] != NULL:
            channel = <LocalChannel>self.by_row[header.row]
            if channel.row_generation != header.row_generation:
                channel = None
        if channel is None:
            channel = self._unknown(header)
            if channel is None:
                shared_plus(&self.counters[10], 1)
                if header.flags & FLAG_LARGE:
                    self._large_body(header, body)
                return 0
        if header.sequence <= channel.last:
            shared_plus(&self.counters[10], 1)
            return 0
        if header.flags & FLAG_LARGE:
            large = self._large_body(header, body)
            if large is None:
                if not (<const large_payload *>body).receivers[self.c.slot // 64] >> (self.c.slot % 64) & 1:
                    gap = header.sequence - channel.last - 1
                    channel.last = header.sequence  # sent before this worker joined: nobody here has missed it
                    if gap:
                        self._lost(channel, gap)
                    for binding in channel.bindings:
                        if binding.queue is not None:
                            binding._skip(header.sequence)
                return 0
            facts.event = <const uint8_t *>PyBytes_AS_STRING(large.name)
            facts.event_size = PyBytes_GET_SIZE(large.name)
            facts.body, facts.body_size = <const uint8_t *>PyBytes_AS_STRING(large.data), PyBytes_GET_SIZE(large.data)
        else:
            facts.event, facts.event_size = body, header.name_length
            facts.body = body + header.name_length
            facts.body_size = header.length - sizeof(record) - header.name_length
        gap = header.sequence - channel.last - 1
        channel.last = header.sequence
        if gap:
            self._lost(channel, gap)
        facts.epoch, facts.number = channel.epoch, header.sequence
        for i in range(PyList_GET_SIZE(channel.bindings)):
            binding = <Binding>PyList_GET_ITEM(channel.bindings, i)
            if binding.queue is None:
                binding.group._message(&facts)
                continue
            if message is None:
                message = Message.__new__(Message)
                message.channel, message.number, message.epoch = channel.name, header.sequence, channel.epoch
                message.time_ns, message.missed = header.time_ns, 0
                message.data = large.data if large is not None else PyBytes_FromStringAndSize(
                    <const char *>facts.body, facts.body_size)
                if facts.event_size:
                    message.event_name = PyBytes_FromStringAndSize(<const char *>facts.event, facts.event_size)
            binding.queue._push(message, binding)
        self.received += 1
        self.received_bytes += facts.body_size
        return 0

    cdef int _lost(self, LocalChannel channel, uint64_t number) except -1:
        cdef Binding binding
        shared_plus(&self.counters[4], number)
        for binding in channel.bindings:
            if binding.queue is None:
                binding.group._gap(number, channel.name)
            else:
                binding.queue.dropped += number
        return 0

    cdef Assembly _large_body(self, const record *header, const uint8_t *body):
        """The body and its event that came directly, or None when it did not come whole."""
        cdef const large_payload *payload = <const large_payload *>body
        cdef uint32_t peer = WORKER_SLOT(header.source)
        cdef Assembly found
        key = (header.source, payload.message_id)
        if header.source != self.c.id and key not in self.assemblies and 0 < peer < self.segment.c.at.slots:
            self._drain_peer(peer, 1 << 30)  # it was put there before this record was sent
        found = self.assemblies.get(key)
        if found is None or not found.complete:
            if found is not None:
                self._drain_peer(peer, 1 << 30)
            if found is None or not found.complete:
                self._forget(key)
                return None
        self._forget(key)
        return found

    cdef int _forget(self, object key) except -1:
        cdef Assembly found = self.assemblies.pop(key, None)
        if found is not None and found.data is not None:
            self.assembling -= found.total
        return 0

    cdef int _gap(self, const record *header) except -1:
        cdef LocalChannel channel
        if header.row >= self.segment.c.at.rows or self.by_row[header.row] == NULL:
            return 0
        channel = <LocalChannel>self.by_row[header.row]
        if channel.row_generation == header.row_generation and header.sequence > channel.last:
            self._lost(channel, header.sequence - channel.last)
            channel.last = header.sequence
            self.events.append(("gap", channel))
        return 0

    cdef int _control(self, const record *header, const uint8_t *body) except -1:
        cdef joined_payload joined
        cdef uint32_t slot = WORKER_SLOT(header.source)
        if header.type == RECORD_JOINED:
            memcpy(&joined, body, sizeof(joined))
            self._joined(header, &joined)
        elif header.type == RECORD_GAP:
            self._gap(header)
        elif header.type == RECORD_HERE:
            endpoint_peer_here(&self.c, slot)
            self._drain_peer(slot, 1 << 20)
            self.events.append(("here", slot, WORKER_GENERATION(header.source)))
        elif header.type == RECORD_GONE:
            if 0 < slot < self.segment.c.at.slots and slot != self.c.slot:
                self._drain_peer(slot, 1 << 30)  # nothing follows what stands there now
                endpoint_peer_gone(&self.c, slot)
                self._discard(header.source)
                self.events.append(("gone", slot, WORKER_GENERATION(header.source)))
        elif header.type == RECORD_RESYNC:
            endpoint_rescan(&self.c)
            self.events.append(("resync",))
        else:
            shared_plus(&self.counters[10], 1)
        return 0

    cdef int _joined(self, const record *header, const joined_payload *joined) except -1:
        cdef LocalChannel channel = self.pending_joins.pop(joined.token, None)
        if channel is not None and joined.status == 0 and not header.flags & (FLAG_PREFIX | FLAG_OPEN):
            self._set_row(channel, header.row, header.row_generation, header.time_ns, header.sequence)
        self.events.append(("joined", joined.token, joined.status))
        return 0

    cdef int _discard(self, uint64_t source) except -1:
        """Bodies of a dead worker that are not whole will never be."""
        cdef Assembly assembly
        for key, assembly in list(self.assemblies.items()):
            if assembly.source == source and not assembly.complete:
                self._forget(key)
        return 0

    def expire(self, uint64_t age_ns):
        """Drop whole bodies whose record of order has not come for so long: this worker has left their channel."""
        cdef Assembly assembly
        cdef uint64_t now = router_clock_ns(CLOCK_MONOTONIC)
        self.here()
        self.poll(1 << 20)
        for key, assembly in list(self.assemblies.items()):
            if assembly.complete and now - assembly.since_ns > age_ns:
                self._forget(key)

    cdef int _drain_down(self, int budget) except -1:
        cdef record header
        cdef const uint8_t *body = NULL
        cdef int status = RING_OK, taken = 0
        while status == RING_OK and taken < budget:
            try:
                while taken < budget:
                    status = endpoint_next_down(&self.c, &header, &body)
                    if status != RING_OK:
                        break
                    taken += 1
                    if header.type == RECORD_MESSAGE:
                        self._message(&header, body)
                    else:
                        self._control(&header, body)
                    ring_advance(&self.c.down, &header)
            except MemoryError:
                shared_plus(&self.counters[5], 1)  # the next message of the channel shows the gap
                ring_advance(&self.c.down, &header)
        if status == RING_BROKEN:
            self.router_broken = True
        endpoint_release_down(&self.c)
        shared_plus(&self.counters[2], self.received)
        shared_plus(&self.counters[3], self.received_bytes)
        self.received = self.received_bytes = 0
        return taken

    cdef int _drain_peer(self, uint32_t peer, int budget) except -1:
        cdef record header
        cdef const uint8_t *body = NULL
        cdef int status = RING_OK, taken = 0
        while status == RING_OK and taken < budget:
            try:
                while taken < budget:
                    status = endpoint_next_direct(&self.c, peer, &header, &body)
                    if status != RING_OK:
                        break
                    taken += 1
                    self._direct(&header, body)
                    ring_advance(&self.c.inn[peer].ring, &header)
            except MemoryError:
                shared_plus(&self.counters[9], 1)
                ring_advance(&self.c.inn[peer].ring, &header)
        endpoint_release_direct(&self.c, peer)
        return taken

    cdef int _direct(self, const record *header, const uint8_t *body) except -1:
        cdef Assembly assembly
        cdef uint64_t size = header.length - sizeof(record) - header.name_length
        if header.type == RECORD_ABORT:
            self._forget((header.source, header.message_id))
            return 0
        if header.flags & FLAG_FIRST and header.flags & FLAG_LAST:
            receive_alert(self, header.type, header.flags, header.hops, header.source, header.sequence,
                          alert_name_of(self.last_alert, body, header.name_length),
                          PyBytes_FromStringAndSize(<const char *>body + header.name_length, size))
            return 0
        assembly = self._fragment(header, body, size)
        if assembly is not None and assembly.complete and assembly.type != RECORD_BODY:
            self._forget((header.source, header.message_id))
            receive_alert(self, assembly.type, assembly.flags, assembly.hops, assembly.source, assembly.correlation,
                          assembly.name, assembly.data)
        return 0

    cdef Assembly _fragment(self, const record *header, const uint8_t *body, uint64_t size):
        """The body that this fragment belongs to, grown by it; None when it is not to be kept."""
        cdef Assembly assembly
        key = (header.source, header.message_id)
        if header.flags & FLAG_FIRST:
            self._forget(key)
            if header.total > self.message_max or self.assembling + header.total > self.assembly_max:
                shared_plus(&self.counters[9], 1)
                return None
            assembly = Assembly.__new__(Assembly)
            assembly.source, assembly.message_id, assembly.total = header.source, header.message_id, header.total
            assembly.type, assembly.flags, assembly.hops = header.type, header.flags, header.hops
            assembly.correlation = header.sequence
            assembly.name = PyBytes_FromStringAndSize(<const char *>body, header.name_length)
            assembly.data = PyBytes_FromStringAndSize(NULL, header.total)
            self.assembling += header.total
            self.assemblies[key] = assembly
        else:
            assembly = self.assemblies.get(key)
        if assembly is None or assembly.complete:
            return None
        if header.fragment != assembly.next or size > assembly.total - assembly.filled:
            self._forget(key)
            shared_plus(&self.counters[9], 1)
            return None
        memcpy(PyBytes_AS_STRING(assembly.data) + assembly.filled, body + header.name_length, size)
        assembly.filled += size
        assembly.next += 1
        if header.flags & FLAG_LAST:
            assembly.since_ns = router_clock_ns(CLOCK_MONOTONIC)
            assembly.complete = assembly.filled == assembly.total
            if not assembly.complete:
                self._forget(key)
                return None
        return assembly

    cdef int poll(self, int budget) except -1:
        cdef int taken
        cdef uint32_t i = 0
        if self.polling:
            return 0
        self.polling = True
        try:
            taken = self._drain_down(budget)
            while i < self.c.peer_count:
                taken += self._drain_peer(self.c.peers[i], budget)
                i += 1
        finally:
            self.polling = False
        if taken:
            self.look_credit = True
            if self.streams is not None and self.streams.dirty:
                self.streams.flush()
        return taken

    def drain(self, int budget=256):
        """Take up to `budget` records of each ring; returns how many.  Then `woken` and `events` are the caller's to serve."""
        self.here()
        return self.poll(budget)

    cdef bint refill(self, Queue queue) except -1:
        """For a subscriber that found its queue empty: look into the rings, for a moment if that is promising."""
        cdef uint64_t now
        self.here()
        self.poll(256)
        if queue.count == 0 and self.look_credit and self.spin_ns:
            if endpoint_look(&self.c, self.spin_ns):
                self.poll(256)
            else:
                self.look_credit = False
        if self.woken or self.events:
            self.schedule()
        if queue.count == 0:
            return False
        now = router_clock_ns(CLOCK_MONOTONIC)
        if now - self.last_hub_ns > self.greedy_ns:
            self.last_hub_ns = now
            self.yield_hub()
        return queue.count != 0

    # ---- sleeping ----

    def begin_wake(self):
        """First when the eventfd is readable: clear it, then say that we are awake."""
        self.here()
        notify_clear(self.eventfds[self.c.slot])
        endpoint_awake(&self.c)
        self.last_hub_ns = router_clock_ns(CLOCK_MONOTONIC)
        shared_plus(&self.counters[11], 1)

    def look(self):
        """One look of `spin_ns` when something came since the last one in vain."""
        self.here()
        if not self.look_credit or not self.spin_ns:
            return False
        if endpoint_look(&self.c, self.spin_ns):
            return True
        self.look_credit = False
        return False

    def sleep(self):
        """Ask to be woken; False when there is something to take after all."""
        self.here()
        return endpoint_sleep(&self.c)

    def something(self):
        """Whether any ring has something to take."""
        self.here()
        return endpoint_something(&self.c)

    def take_woken(self):
        """The queues whose waiters are to be switched to."""
        cdef list woken = self.woken
        self.woken = []
        for queue in woken:
            if isinstance(queue, Queue):
                (<Queue>queue).listed = False
            else:
                (<AlertQueue>queue).listed = False
        return woken

    # ---- the slot's own words ----

    def set_ready(self, bint ready):
        self.here()
        shared_put(&self.c.control.ready, self.c.generation if ready else 0)

    def heartbeat(self):
        self.here()
        shared_put(&self.c.control.heartbeat_ns, router_clock_ns(CLOCK_MONOTONIC))

    def count(self, int index, int64_t change):
        """Add to one of this worker's counters, by its place in `worker_counter_index`."""
        if segment_here(&self.segment.c):
            shared_plus(&self.counters[index], <uint64_t>change)

    def set_count(self, int index, uint64_t value):
        self.here()
        shared_put(&self.counters[index], value)

    def report(self, uint32_t peer):
        """Tell the router that this peer's ring is broken."""
        self.here()
        endpoint_report(&self.c, peer)

    @property
    def peers(self):
        """Slots of the attached peers, as far as they were announced."""
        return [self.c.peers[i] for i in range(self.c.peer_count)]

    @property
    def body_max(self):
        """Bytes of body that travel in one record: (to the router, to a peer)."""
        return ring_body_max(self.c.up.capacity), ring_body_max(self.segment.c.at.direct_bytes)


cdef object _DEFAULT_TIMEOUT = -1.0


def channel_send(channel, data, *, timeout=_DEFAULT_TIMEOUT):
    """Send `data` to every subscriber of `channel` on this host.

    Copies `data` before it returns; waits cooperatively while the router is behind.  Runs in: worker, any thread.

    Args:
        channel: 1 to 255 bytes of UTF-8 without control characters.
        data: Bytes-like, at most `settings.message_max` bytes.
        timeout: Seconds to wait for room; None waits for ever; without it, `settings.send_timeout`.

    Returns:
        How many workers had subscribers when it was sent; 0: nobody, and nothing was sent.

    Raises:
        RingFull: No room within `timeout`; nothing was sent.
        MessageTooBig: It can never be sent.
        BadChannelName, TypeError: The arguments; nothing was sent.
        NotAttached, ForkedProcess: This process is no worker.
    """
    cdef int need = 0
    cdef Py_ssize_t members
    cdef Endpoint self = _endpoint
    if self is None:
        raise NotAttached("channel_send")
    if not segment_here(&self.segment.c):
        raise ForkedProcess("channel_send")
    members = self._send_at_once(channel, data)
    if members:
        return members
    members = self._send(channel, data, None, False, &need)
    if need == 0:
        return members
    return self.slow_send(channel, data, None, timeout, need)


def installed():
    """The endpoint of this process, or None."""
    return _endpoint


def uninstall():
    """Forget it: in a forked child, and in tests."""
    global _endpoint
    _endpoint = None
