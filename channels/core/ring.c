/* The parts of the ring that run once per lap or once per life.  See ring.h. */
#include "ring.h"

static bool is_cursor(uint64_t position) { return position % RECORD_ALIGN == 0; }

uint64_t ring_place(uint64_t position) { return position >> 62 == 3 ? 0 : position & ~(uint64_t)(RECORD_ALIGN - 1); }

enum ring_status ring_refresh_head(struct ring_out *self) {
    if (self->broken)
        return RING_BROKEN;
    /* Acquire: the consumer's reads of the bytes before it are over. */
    uint64_t head = atomic_load_explicit(&self->theirs->head, memory_order_acquire);
    if (head < self->head_seen || head > self->published || !is_cursor(head)) {
        self->broken = true;
        return RING_BROKEN;
    }
    self->head_seen = head;
    return RING_OK;
}

enum ring_status ring_refresh_tail(struct ring_in *self) {
    if (self->broken)
        return RING_BROKEN;
    uint64_t tail = atomic_load_explicit(&self->theirs->tail, memory_order_acquire);
    if (tail < self->tail_seen || tail - self->head > self->capacity || !is_cursor(tail)) {
        return ring_break(self);
    }
    self->tail_seen = tail;
    return tail == self->head ? RING_EMPTY : RING_OK;
}

void ring_out_adopt(struct ring_out *self, uint64_t generation) {
    uint64_t tail = atomic_load_explicit(&self->mine->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&self->theirs->head, memory_order_acquire);
    if (head > tail || tail - head > self->capacity || ring_place(tail) != tail || ring_place(head) != head) {
        /* Beyond all that the consumer can have taken for readable: it has checked every tail against its head; one
         * that began with a spoilt tail of our predecessor's comes to where we begin, wherever that is. */
        tail = ring_place(head) + 2 * self->capacity;
        head = tail;
    }
    self->tail = self->published = tail;
    self->head_seen = head;
    self->broken = false;
    atomic_store_explicit(&self->mine->start, tail, memory_order_relaxed);
    atomic_store_explicit(&self->mine->start_generation, generation, memory_order_release);
    atomic_store_explicit(&self->mine->tail, tail, memory_order_release);
}

enum ring_status ring_in_restart(struct ring_in *self, uint64_t generation) {
    if (atomic_load_explicit(&self->theirs->start_generation, memory_order_acquire) != generation)
        return RING_EMPTY; /* the new producer is not there yet */
    uint64_t start = atomic_load_explicit(&self->theirs->start, memory_order_relaxed);
    if (!is_cursor(start))
        return RING_BROKEN;
    self->head = self->tail_seen = start;
    self->broken = false;
    ring_release(self);
    return RING_OK;
}
