/*
 * Single-producer single-consumer byte ring: claim, publish; peek, advance, release.
 *
 * Both ends work on private copies of the cursors; the peer's cursor is read again only when the ring looks full or
 * empty.  Nothing of the peer's is trusted: what cannot be is RING_BROKEN, and stays so.  Orders: docs/protocol and
 * docs/protocol/ring_notify.pml.
 */
#ifndef CHANNELS_RING_H
#define CHANNELS_RING_H

#include <stdbool.h>
#include <string.h>

#include "layout.h"

enum ring_status { RING_OK = 0, RING_EMPTY, RING_FULL, RING_TOO_BIG, RING_BROKEN };

struct ring_out {
    uint8_t *data;
    uint64_t capacity;
    uint64_t tail;      /* claimed so far */
    uint64_t published; /* what the consumer may see */
    uint64_t head_seen;
    struct producer_line *mine;
    const struct consumer_line *theirs;
    bool broken;
};

struct ring_in {
    const uint8_t *data;
    uint64_t capacity;
    uint64_t head;     /* read so far */
    uint64_t released; /* what the producer may overwrite */
    uint64_t tail_seen;
    struct consumer_line *mine;
    const struct producer_line *theirs;
    bool broken;
};

static inline uint64_t record_span(uint64_t length) {
    return (length + RECORD_ALIGN - 1) & ~(uint64_t)(RECORD_ALIGN - 1);
}
/* The largest record: a pad before it and itself always fit an empty ring. */
static inline uint64_t ring_record_max(uint64_t capacity) { return capacity / 4; }
static inline uint64_t ring_body_max(uint64_t capacity) { return capacity / 4 - sizeof(struct record); }

/* Read the consumer's head again.  Out of line: it happens once per lap. */
enum ring_status ring_refresh_head(struct ring_out *self);
/* Read the producer's tail again. */
enum ring_status ring_refresh_tail(struct ring_in *self);

/* Room for one record of `length` bytes, header included; visible to nobody until ring_publish. */
static inline enum ring_status ring_claim(struct ring_out *self, uint64_t length, struct record **place) {
    uint64_t need = record_span(length);
    if (__builtin_expect(need > ring_record_max(self->capacity), 0))
        return RING_TOO_BIG;
    uint64_t offset = self->tail & (self->capacity - 1);
    uint64_t to_end = self->capacity - offset;
    uint64_t pad = need > to_end ? to_end : 0;
    if (__builtin_expect(self->tail + pad + need - self->head_seen > self->capacity, 0)) {
        enum ring_status status = ring_refresh_head(self);
        if (status != RING_OK)
            return status;
        if (self->tail + pad + need - self->head_seen > self->capacity)
            return RING_FULL;
    }
    if (__builtin_expect(pad != 0, 0)) {
        struct record *filler = (struct record *)(self->data + offset);
        filler->length = (uint32_t)pad;
        filler->type = RECORD_PAD;
        offset = 0;
    }
    self->tail += pad + need;
    *place = (struct record *)(self->data + offset);
    return RING_OK;
}

/* The only commit point: everything claimed becomes visible at once, or, to the peers of a producer that died before,
 * never. */
static inline void ring_publish(struct ring_out *self) {
    self->published = self->tail;
    atomic_store_explicit(&self->mine->tail, self->tail, memory_order_release);
}

static inline void ring_rollback(struct ring_out *self) { self->tail = self->published; }

static inline uint64_t ring_used(const struct ring_out *self) { return self->tail - self->head_seen; }

/* What was found there cannot be: nothing more is read of this ring.  An empty look-ahead sends every later peek to
 * ring_refresh_tail, so that the common way need not ask. */
static inline enum ring_status ring_break(struct ring_in *self) {
    self->broken = true;
    self->tail_seen = self->head;
    return RING_BROKEN;
}

/* The next record: header copied once and checked; `*body` points into the ring until ring_release. */
static inline enum ring_status ring_peek(struct ring_in *self, struct record *header, const uint8_t **body) {
    for (;;) {
        if (self->head == self->tail_seen) {
            enum ring_status status = ring_refresh_tail(self);
            if (status != RING_OK)
                return status;
        }
        uint64_t offset = self->head & (self->capacity - 1);
        uint64_t available = self->tail_seen - self->head;
        uint64_t to_end = self->capacity - offset;
        uint64_t limit = available < to_end ? available : to_end;
        const uint8_t *place = self->data + offset;
        uint64_t first = atomic_load_explicit((const shared64 *)(const void *)place, memory_order_relaxed);
        uint64_t length = (uint32_t)first;
        if (__builtin_expect((uint8_t)(first >> 32) == RECORD_PAD, 0)) {
            if (length != to_end || length > limit)
                break;
            self->head += length;
            continue;
        }
        if (__builtin_expect(limit < sizeof *header || length < sizeof *header || record_span(length) > limit ||
                                 record_span(length) > ring_record_max(self->capacity),
                             0))
            break;
        memcpy((uint8_t *)header + 8, place + 8, sizeof *header - 8);
        memcpy(header, &first, 8); /* the fields that were checked, not what may stand there by now */
        *body = place + sizeof *header;
        return RING_OK;
    }
    return ring_break(self);
}

static inline void ring_advance(struct ring_in *self, const struct record *header) {
    self->head += record_span(header->length);
}

/* Gives the bytes back to the producer: only after everything up to here has been copied out. */
static inline void ring_release(struct ring_in *self) {
    self->released = self->head;
    atomic_store_explicit(&self->mine->head, self->head, memory_order_release);
}

/* Where one may begin who finds this cursor: nobody has come so far that positions wrap (docs/hazards.md, H50). */
uint64_t ring_place(uint64_t position);
/* A producer that takes over cursors which its predecessor in the slot may have spoilt. */
void ring_out_adopt(struct ring_out *self, uint64_t generation);
/* A consumer that found its ring broken, and has read nothing of `generation`: go to where that one of the producer
 * began, be it before the place where the consumer stands.  RING_EMPTY: it is not there yet.  RING_BROKEN: it cannot
 * have begun where it says. */
enum ring_status ring_in_restart(struct ring_in *self, uint64_t generation);

#endif
