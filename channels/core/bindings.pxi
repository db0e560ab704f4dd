# The channels that a worker is in, and who of its own is in them.

cimport cython


@cython.final
cdef class LocalChannel:
    """A channel that this worker receives: where it stands in the table and who wants it here."""

    cdef readonly str name
    cdef readonly uint32_t row
    cdef uint32_t row_generation
    cdef uint64_t epoch, last
    cdef list bindings
    cdef readonly Py_ssize_t exact_members  # queues here that joined it by name
    cdef public bint joined   # by its very name, at the router
    cdef public object join   # the join that is not answered yet, or None

    def __cinit__(self, str name):
        self.name = name
        self.row = ROW_NONE
        self.bindings = []

    @property
    def position(self):
        """(epoch, number of the last message that has come here): what a subscriber that joins now will not get."""
        return f"{self.epoch:x}", self.last

    @property
    def members(self):
        """Queues here that receive it."""
        return len(self.bindings)


cdef class Member:
    """Who joins channels: a queue, or a group of streams."""

    cdef dict bindings  # LocalChannel -> Binding

    def __cinit__(self):
        self.bindings = {}

    @property
    def memberships(self):
        """The LocalChannels that it is in: {channel: (joined by name, prefixes)}."""
        return {channel: ((<Binding>binding).exact, frozenset((<Binding>binding).prefixes))
                for channel, binding in self.bindings.items()}

    def has_joined(self, LocalChannel channel):
        """Whether it is in it by name."""
        cdef Binding binding = self.bindings.get(channel)
        return binding is not None and binding.exact


@cython.final
cdef class Binding:
    """A queue, or a group of streams, in a channel; how far the queue has read."""

    cdef readonly LocalChannel channel
    cdef readonly Queue queue          # one of both
    cdef readonly StreamGroup group
    cdef Py_ssize_t place  # in channel.bindings
    cdef uint64_t last # less what was lost of an earlier row of the name and is not told yet, modulo 2^64
    cdef bint former   # only messages that wait know it: another one has its place, or the channel was forgotten
    cdef bint exact    # joined by name
    cdef set prefixes  # and by these prefixes
    cdef list skipped  # numbers beyond `last` of messages that were sent before it was joined, or None

    cdef int _skip(self, uint64_t number) except -1:
        if self.last + 1 == number:
            self.last = number
        elif self.skipped is None:
            self.skipped = [number]
        else:
            self.skipped.append(number)
        return 0

    cdef uint64_t _missed(self, uint64_t number) except? 0xffffffff:
        """How many messages between the last one taken and this one were lost; `last` is still the former."""
        cdef uint64_t missed = number - self.last - 1
        if self.skipped is not None:
            missed -= sum(1 for skipped in self.skipped if skipped < number)
            self.skipped = [skipped for skipped in self.skipped if skipped > number] or None
        return missed
