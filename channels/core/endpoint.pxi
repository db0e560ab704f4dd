# A worker's end of the segment as an object: its life, its questions to the router, who here is in which channel.

cdef struct cached_name:
    PyObject *key  # a str or bytes object, held, so that its address stays its own
    uint32_t row, generation

cdef enum:
    NAME_CACHE = 1024

cdef Endpoint _endpoint = None


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
    cdef uint64_t spin_ns, greedy_ns, last_hub_ns, attached_ns
    cdef uint64_t message_max, assembly_max, assembling, at_once_max
    cdef uint64_t alert_hops_max
    cdef dict assemblies    # (source, message id) -> Assembly
    cdef AlertQueue last_alert
    cdef dict alert_queues  # name -> AlertQueue
    cdef dict contexts      # greenlet -> AlertQueue whose handler it runs
    cdef object getcurrent
    cdef uint64_t received, received_bytes  # since the counters were written
    cdef Py_ssize_t senders_waiting
    cdef uint64_t delivery  # another one for each message that is given to everyone in its channel
    cdef public dict pending_joins  # token -> LocalChannel, or whose `since` is set: when the answer is read, before what follows
    cdef public list woken     # queues whose waiter is to be switched to
    cdef public list events    # what the owner has to act on, in order
    cdef public object resolve # (name) -> (LocalChannel or None, epoch since when a prefix of it is joined here)
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
        self.attached_ns = router_clock_ns(CLOCK_MONOTONIC)
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
        self.last_hub_ns = self.attached_ns

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

    cdef inline int ours(self) except -1:
        """For what touches no segment, only what a forked child shares or has a copy of."""
        if segment_forked(&self.segment.c):
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

    def send_now(self, channel, data, bytes event=None, bint again=False):
        """(workers that listen, 0), or (0, what is needed first: needs_room, needs_table, needs_row, needs_parcel).

        `again`: the caller waited for its turn already, so it goes before those who wait.
        """
        cdef int need = 0
        self.here()
        if event is not None and not 0 < PyBytes_GET_SIZE(event) <= 254:
            raise ValueError("an event's name has 1 to 254 bytes")
        cdef Py_ssize_t members = send_generally(self, channel, data, event, again, &need)
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
        return bool(put_up(self, &header, NULL, PyBytes_AS_STRING(name)))

    def listeners(self, channel):
        """Slots with subscribers of a channel, to send a large body to: (row, row generation, [slots])."""
        cdef row_view view
        cdef uint64_t bitmap[4]
        cdef uint32_t i
        self.here()
        if place_of(self, channel, &view) != TABLE_OK:
            return None
        if table_bitmap(&self.segment.c, view.row, view.generation, bitmap) != TABLE_OK:
            return None
        slots = [i for i in range(self.segment.c.at.slots) if bitmap[i // 64] >> (i % 64) & 1]
        return view.row, view.generation, slots

    def send_large(self, uint32_t row, uint32_t row_generation, uint32_t message_id, uint64_t began_ns, uint64_t total,
                   slots):
        """The record that gives a body, sent before, its place in the channel's order.

        Args:
            began_ns: CLOCK_MONOTONIC before `listeners` was asked.

        Returns:
            True; False: the ring is full; None: the row is another channel's now, nothing was sent.
        """
        cdef large_payload payload
        cdef record header
        cdef uint64_t bitmap[4]
        memset(&payload, 0, sizeof(payload))
        memset(&header, 0, sizeof(header))
        self.here()
        if table_bitmap(&self.segment.c, row, row_generation, bitmap) != TABLE_OK:
            return None
        payload.message_id, payload.began_ns = message_id, began_ns
        for slot in slots:
            payload.receivers[slot // 64] |= <uint64_t>1 << <uint64_t>(slot % 64)
        header.length = sizeof(record) + sizeof(payload)
        header.type, header.flags = RECORD_MESSAGE, FLAG_FIRST | FLAG_LAST | FLAG_LARGE
        header.row, header.row_generation = row, row_generation
        if not put_up(self, &header, NULL, &payload):
            return False
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
        forget_body(self, (self.c.id, message_id))

    # ---- room ----

    def want_up(self, uint64_t size):
        """Ask to be woken when a record with `size` bytes of body fits; True when it does already."""
        self.here()
        return endpoint_want_up(&self.c, sizeof(record) + size)

    def unwant_up(self):
        self.here()
        endpoint_unwant_up(&self.c)

    def want_peer(self, uint32_t slot, uint64_t generation, uint64_t size):
        """The same towards a peer; True also when it is gone, for the next put says so."""
        self.here()
        cdef outgoing *peer = endpoint_peer(&self.c, slot, generation)
        return True if peer == NULL else endpoint_want_peer(peer, sizeof(record) + size)

    def taken_by(self, uint32_t slot):
        """How many bytes a peer has ever taken from our ring to it."""
        self.here()
        self.segment.check_slot(slot)
        if self.c.out[slot].ring.theirs == NULL:
            return 0  # no peer: this worker, or the router
        return shared_get(&self.c.out[slot].ring.theirs.head)

    def unwant_peer(self, uint32_t slot):
        self.here()
        endpoint_unwant_peer(&self.c.out[slot])

    # ---- local channels ----

    def bind(self, LocalChannel channel, Member member, prefix=None):
        """Give `member` what comes from here on, joined by name or by this prefix."""
        cdef Binding binding = member.bindings.get(channel)
        self.ours()
        if binding is None:
            binding = Binding.__new__(Binding)
            binding.channel, binding.prefixes = channel, set() if prefix is None else {prefix}
            binding.last = channel.last
            if isinstance(member, StreamGroup):
                binding.group = member
            else:
                binding.queue = member
            binding.place = len(channel.bindings)
            member.bindings[channel] = binding
            try:
                channel.bindings.append(binding)
            except MemoryError:
                del member.bindings[channel]
                raise
            if binding.queue is not None:
                binding.last -= binding.queue._owed(channel)
        if prefix is not None:
            binding.prefixes.add(prefix)
        elif not binding.exact:
            binding.exact = True
            channel.exact_members += 1

    def release(self, LocalChannel channel, Member member, prefix=None):
        """Undo it; with its last reason a queue forgets what waits of the channel."""
        cdef Binding last, binding = member.bindings.get(channel)
        self.ours()
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

    def forget(self, LocalChannel channel):
        """Its row is another channel's: whoever is in it by a prefix keeps what waits, and meets it anew.

        What was lost of it is told then, of as many as 10,000 names for each queue.
        False: it has a row again, or somebody has joined it by name.
        """
        cdef Binding binding
        if channel.row != ROW_NONE or channel.exact_members:
            return False
        for binding in channel.bindings:
            if binding.queue is not None:
                binding.queue._owed(channel)  # of a call before this one, for which memory did not suffice
                binding.queue._owe(binding, binding.queue._untold(binding))
        for binding in channel.bindings:
            binding.former = True
            del (binding.group if binding.queue is None else binding.queue).bindings[channel]
        channel.bindings = []
        return True

    def release_forgotten(self, Queue queue, str prefix):
        """What waits of channels that were forgotten goes with the prefix, unless another one keeps it."""
        self.ours()
        queue._drop(None, prefix)
        queue._forgive(prefix)

    def place(self, LocalChannel channel, uint32_t row, uint32_t generation, uint64_t epoch, uint64_t last):
        """The channel's row is known: take its messages."""
        set_row(self, channel, row, generation, epoch, last)

    def displace(self, LocalChannel channel):
        """Take no more messages of it."""
        clear_row(self, channel)

    # ---- draining ----

    def expire(self, uint64_t age_ns, uint64_t pressed_age_ns):
        """Drop whole bodies whose record of order has not come for so long: this worker has left their channel.

        It may just as well wait for other receivers to have all of theirs: the younger, from `pressed_age_ns` on, go only
        where half of what may be kept is there.
        """
        cdef Assembly assembly
        cdef uint64_t now
        self.here()
        if self.assembling > self.assembly_max // 2:
            age_ns = pressed_age_ns
        endpoint_report_again(&self.c)
        poll(self, 1 << 20)
        now = router_clock_ns(CLOCK_MONOTONIC)  # after it: a body that came whole just now is not older than this
        for key, assembly in list(self.assemblies.items()):
            if assembly.complete and now - assembly.since_ns > age_ns:
                forget_body(self, key)

    def drain(self, int budget=256):
        """Take up to `budget` records of each ring; returns how many.  Then `woken` and `events` are the caller's to serve."""
        self.here()
        return poll(self, budget)

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


def installed():
    """The endpoint of this process, or None."""
    return _endpoint


def uninstall():
    """Forget it: in a forked child, and in tests."""
    global _endpoint
    _endpoint = None
