# What came: records from the router and from peers, given to the subscribers of this worker.

cdef int set_row(Endpoint self, LocalChannel channel, uint32_t row, uint32_t generation, uint64_t epoch,
                  uint64_t last) except -1:
    cdef Binding binding
    if row >= self.segment.c.at.rows:
        return 0
    if channel.row == row and channel.row_generation == generation:
        return 0  # known already by a prefix: numbers go on
    for binding in list(channel.bindings):  # first what may find no memory: it can be tried again
        if binding.queue is not None:
            renew(binding)
    if self.by_row[row] != NULL and self.by_row[row] != <PyObject *>channel:
        self.events.append(("displaced", <object>self.by_row[row]))
    for binding in channel.bindings:
        binding.last += last - channel.last  # modulo 2^64
    clear_row(self, channel)
    if self.by_row[row] != NULL:
        (<LocalChannel>self.by_row[row]).row = ROW_NONE
        Py_DECREF(<object>self.by_row[row])
    Py_INCREF(channel)
    self.by_row[row] = <PyObject *>channel
    channel.row, channel.row_generation, channel.epoch, channel.last = row, generation, epoch, last
    return 0


cdef int renew(Binding former) except -1:
    """What was lost and is not told yet is all that it still counts: what waits in the queue is counted by the former."""
    cdef Binding made = former
    cdef uint64_t untold = former.queue._untold(former)
    if former.queue.count:
        made = Binding.__new__(Binding)
        made.channel, made.queue, made.place = former.channel, former.queue, former.place
        made.exact, made.prefixes = former.exact, former.prefixes
        made.queue.bindings[made.channel] = made
        made.channel.bindings[made.place] = made
        former.former = True
    made.last, made.skipped = former.channel.last - untold, None
    return 0


cdef int clear_row(Endpoint self, LocalChannel channel) except -1:
    if channel.row != ROW_NONE and self.by_row[channel.row] == <PyObject *>channel:
        self.by_row[channel.row] = NULL
        channel.row = ROW_NONE
        Py_DECREF(channel)
    return 0


cdef LocalChannel unknown_channel(Endpoint self, const record *header, uint64_t last):
    """A row this worker is in by a prefix, seen for the first time; None when it has left since.

    `last`: where its messages are taken from when the row is older than the worker's joining of the prefix.
    """
    cdef uint8_t name[256]
    cdef uint32_t length
    cdef uint64_t epoch
    cdef LocalChannel channel
    if table_name(&self.segment.c, header.row, header.row_generation, name, &length, &epoch) != TABLE_OK:
        return None
    channel, since = self.resolve(PyUnicode_DecodeUTF8(<const char *>name, length, "replace"))
    if channel is None:
        return None
    set_row(self, channel, header.row, header.row_generation, epoch, 0 if since < epoch else last)
    return channel


cdef int take_message(Endpoint self, const record *header, const uint8_t *body) except -1:
    """A message to whoever is in its channel here."""
    cdef LocalChannel channel
    cdef frame_facts facts
    cdef PyObject *known = self.by_row[header.row] if header.row < self.rows else NULL
    if known == NULL or (<LocalChannel>known).row_generation != header.row_generation or header.flags & FLAG_LARGE:
        return take_uncommon(self, header, body)
    channel = <LocalChannel>known
    if header.sequence <= channel.last:
        shared_plus(&self.counters[10], 1)
        return 0
    facts.event, facts.event_size = body, header.name_length
    facts.body = body + header.name_length
    facts.body_size = header.length - sizeof(record) - header.name_length
    return deliver(self, channel, header, &facts, None)


cdef int take_uncommon(Endpoint self, const record *header, const uint8_t *body) except -1:
    """The same where the row is not known yet, for it was joined by a prefix, or where the body came before."""
    cdef LocalChannel channel = None
    cdef Assembly large = None
    cdef const large_payload *sent
    cdef Binding binding
    cdef uint64_t gap
    cdef frame_facts facts
    if header.row < self.rows and self.by_row[header.row] != NULL:
        channel = <LocalChannel>self.by_row[header.row]
        if channel.row_generation != header.row_generation:
            channel = None
    if channel is None:
        channel = unknown_channel(self, header, header.sequence - 1)
    if channel is None or header.sequence <= channel.last:
        shared_plus(&self.counters[10], 1)
        if channel is None and header.flags & FLAG_LARGE:
            large_body(self, header, body)
        return 0
    if not header.flags & FLAG_LARGE:
        facts.event, facts.event_size = body, header.name_length
        facts.body = body + header.name_length
        facts.body_size = header.length - sizeof(record) - header.name_length
        return deliver(self, channel, header, &facts, None)
    large = large_body(self, header, body)
    if large is not None:
        facts.event = <const uint8_t *>PyBytes_AS_STRING(large.name)
        facts.event_size = PyBytes_GET_SIZE(large.name)
        facts.body, facts.body_size = <const uint8_t *>PyBytes_AS_STRING(large.data), PyBytes_GET_SIZE(large.data)
        return deliver(self, channel, header, &facts, large.data)
    sent = <const large_payload *>body
    if sent.began_ns < self.attached_ns or not sent.receivers[self.c.slot // 64] >> (self.c.slot % 64) & 1:
        gap = header.sequence - channel.last - 1
        channel.last = header.sequence  # sent before this worker joined: nobody here has missed it
        if gap:
            note_lost(self, channel, gap)
        for binding in channel.bindings:
            if binding.queue is not None:
                binding._skip(header.sequence)
    return 0


cdef int deliver(Endpoint self, LocalChannel channel, const record *header, frame_facts *facts, bytes data) except -1:
    """One message to everyone in its channel here; `data`: its body, where it is an object already.

    Pointers are borrowed from the channel where nothing runs that could change it: counting each reference up and down
    costs as much as the rest.
    """
    cdef Message message
    cdef StreamGroup group
    cdef PyObject *binding
    cdef bint made = False
    cdef Py_ssize_t i = 0
    cdef uint64_t gap = header.sequence - channel.last - 1
    channel.last = header.sequence
    self.delivery += 1
    if gap:
        note_lost(self, channel, gap)
    facts.epoch, facts.number = channel.epoch, header.sequence
    while i < PyList_GET_SIZE(channel.bindings):
        binding = PyList_GET_ITEM(channel.bindings, i)
        i += 1
        if (<Binding>binding).queue is None:
            group = (<Binding>binding).group
            group._message(facts)
            continue
        if not made:
            message = Message.__new__(Message)
            message.channel, message.number, message.epoch = channel.name, header.sequence, channel.epoch
            message.time_ns, message.missed = header.time_ns, 0
            if data is None:
                message.data = PyBytes_FromStringAndSize(<const char *>facts.body, facts.body_size)
            else:
                message.data = data
            if facts.event_size:
                message.event_name = PyBytes_FromStringAndSize(<const char *>facts.event, facts.event_size)
            made = True
        (<Binding>binding).queue._push(message, <Binding>binding)
    self.delivery += 1
    self.received += 1
    self.received_bytes += facts.body_size
    return 0


cdef bint note_unmade(Endpoint self, const record *header) except -1:
    """There was no memory for a message: subscriptions see it by the next number, streams have to be told.

    False: its channel is not known here yet, and it can be tried again.
    """
    cdef Binding binding
    cdef PyObject *known = self.by_row[header.row] if header.row < self.rows else NULL
    if known == NULL or (<LocalChannel>known).row_generation != header.row_generation:
        return False
    for binding in (<LocalChannel>known).bindings:
        if binding.queue is None and binding.group.delivery != self.delivery:
            binding.group.lost += 1
    shared_plus(&self.counters[5], 1)  # the next message of the channel shows the gap
    return True


cdef int note_lost(Endpoint self, LocalChannel channel, uint64_t number) except -1:
    cdef Binding binding
    shared_plus(&self.counters[4], number)
    for binding in channel.bindings:
        if binding.queue is None:
            binding.group._gap(number, channel.name)
        else:
            binding.queue.dropped += number
    return 0


cdef int take_gap(Endpoint self, const record *header) except -1:
    cdef LocalChannel channel = None
    if header.row >= self.segment.c.at.rows or header.sequence == 0:
        return 0
    if self.by_row[header.row] != NULL:
        channel = <LocalChannel>self.by_row[header.row]
    if channel is None or channel.row_generation != header.row_generation:
        channel = unknown_channel(self, header, header.sequence)
    if channel is not None and header.sequence > channel.last:
        note_lost(self, channel, header.sequence - channel.last)
        channel.last = header.sequence
        self.events.append(("gap", channel))
    return 0


cdef int take_control(Endpoint self, const record *header, const uint8_t *body) except -1:
    cdef joined_payload joined
    cdef uint32_t slot = WORKER_SLOT(header.source)
    if header.type == RECORD_JOINED:
        memcpy(&joined, body, sizeof(joined))
        take_joined(self, header, &joined)
    elif header.type == RECORD_GAP:
        take_gap(self, header)
    elif header.type == RECORD_HERE:
        endpoint_peer_here(&self.c, slot)
        meet_peer(self, slot, WORKER_GENERATION(header.source))
    elif header.type == RECORD_GONE:
        if 0 < slot < self.segment.c.at.slots and slot != self.c.slot:
            drain_peer(self, slot, 1 << 30)  # nothing of it follows what stands there now
            if segment_generation(&self.segment.c, slot) <= WORKER_GENERATION(header.source) + 1:
                endpoint_peer_gone(&self.c, slot)  # else there is another already, which was announced
            discard_bodies(self, header.source)
            self.events.append(("gone", slot, WORKER_GENERATION(header.source)))
    elif header.type == RECORD_RESYNC:
        endpoint_rescan(&self.c)
        for slot in range(1, self.segment.c.at.slots):
            meet_peer(self, slot, segment_generation(&self.segment.c, slot))
        self.events.append(("resync",))
    else:
        shared_plus(&self.counters[10], 1)
    return 0


cdef int meet_peer(Endpoint self, uint32_t slot, uint64_t generation) except -1:
    """The generation of a slot as it is now: who held it before is gone, though the word of it may have been lost.

    Whole bodies stay: what orders them may stand in a spill that a router has handed to the next.
    """
    cdef Assembly assembly
    if not 0 < slot < self.segment.c.at.slots or slot == self.c.slot or generation == 0:
        return 0
    drain_peer(self, slot, 1 << 30)
    for assembly in list(self.assemblies.values()):
        if not assembly.complete and WORKER_SLOT(assembly.source) == slot and (
                WORKER_GENERATION(assembly.source) < generation):
            forget_body(self, (assembly.source, assembly.message_id))
    self.events.append(("gone", slot, generation - 1))
    return 0


cdef int take_joined(Endpoint self, const record *header, const joined_payload *joined) except -1:
    owner = self.pending_joins.get(joined.token)
    if owner is not None and joined.status == 0 and header.flags & FLAG_PREFIX:
        owner.since = header.sequence
    elif owner is not None and joined.status == 0 and not header.flags & FLAG_OPEN:
        set_row(self, <LocalChannel?>owner, header.row, header.row_generation, header.time_ns, header.sequence)
    self.events.append(("joined", joined.token, joined.status))
    if owner is not None:
        del self.pending_joins[joined.token]
    return 0


cdef int drain_down(Endpoint self, int budget) except -1:
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
                    take_message(self, &header, body)
                else:
                    take_control(self, &header, body)
                ring_advance(&self.c.down, &header)
        except MemoryError:
            if header.type != RECORD_MESSAGE or not note_unmade(self, &header):
                break  # it stands there for the next time
            ring_advance(&self.c.down, &header)
    if status == RING_BROKEN:
        self.router_broken = True
    endpoint_release_down(&self.c)
    shared_plus(&self.counters[2], self.received)
    shared_plus(&self.counters[3], self.received_bytes)
    self.received = self.received_bytes = 0
    return taken


cdef int drain_peer(Endpoint self, uint32_t peer, int budget) except -1:
    """Raises MemoryError: what there was none for stands there for the next time, and what follows it."""
    cdef record header
    cdef const uint8_t *body = NULL
    cdef int taken = 0
    try:
        while taken < budget and endpoint_next_direct(&self.c, peer, &header, &body) == RING_OK:
            take_direct(self, &header, body)
            ring_advance(&self.c.inn[peer].ring, &header)
            taken += 1
    finally:
        endpoint_release_direct(&self.c, peer)
    return taken


cdef int take_direct(Endpoint self, const record *header, const uint8_t *body) except -1:
    """After a MemoryError it can be called again with the same record."""
    cdef Assembly assembly
    cdef uint64_t size = header.length - sizeof(record) - header.name_length
    if header.flags & FLAG_FIRST and header.flags & FLAG_LAST and header.type != RECORD_ABORT:
        receive_alert(self, header.type, header.flags, header.hops, header.source, header.sequence,
                      alert_name_of(self.last_alert, body, header.name_length),
                      PyBytes_FromStringAndSize(<const char *>body + header.name_length, size))
        return 0
    key = (header.source, header.message_id)
    if header.type == RECORD_ABORT:
        if header.sequence:  # of an answer: its caller may not have got a part of it
            tell_lost(self, RECORD_REPLY, 0, header.source, header.sequence, b"",
                      b"its answer found no room within send_timeout, or no memory")
        forget_body(self, key)
        return 0
    assembly = grown_body(self, key, header, body, size)
    if assembly is not None and assembly.complete and assembly.type != RECORD_BODY:
        receive_alert(self, assembly.type, assembly.flags, assembly.hops, assembly.source, assembly.correlation,
                      assembly.name, assembly.data)
        forget_body(self, key)
    return 0


cdef int poll(Endpoint self, int budget) except -1:
    cdef int taken
    cdef uint32_t i = 0
    if self.polling:
        return 0
    self.polling = True
    try:
        taken = drain_down(self, budget)
        while i < self.c.peer_count:
            try:
                taken += drain_peer(self, self.c.peers[i], budget)
            except MemoryError:
                pass  # it stands there for the next time
            i += 1
    finally:
        self.polling = False
    if taken:
        self.look_credit = True
        if self.streams is not None and self.streams.dirty:
            self.streams.flush()
    return taken


cdef bint refill(Endpoint self, Queue queue) except -1:
    """For a subscriber that found its queue empty: look into the rings, for a moment if that is promising."""
    cdef uint64_t now
    self.here()
    poll(self, 256)
    if queue.count == 0 and self.look_credit and self.spin_ns:
        if endpoint_look(&self.c, self.spin_ns):
            poll(self, 256)
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
