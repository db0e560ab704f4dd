/*
 * A worker's end of the segment: its ring to the router and back, and a direct ring to and from every peer.
 *
 * Moves records and wakes; what they mean is the caller's business.  Entered by one thread at a time (the GIL).
 */
#ifndef CHANNELS_ENDPOINT_H
#define CHANNELS_ENDPOINT_H

#include "notify.h"
#include "ring.h"
#include "segment.h"

#define ENDPOINT_GONE 16 /* beside enum ring_status: no such worker (any more) */

struct outgoing { /* towards one peer */
    struct ring_out ring;
    struct doorbell bell;
    uint64_t generation; /* of the peer, when the ring was opened to it */
    uint64_t want;       /* our epoch: we wait for room */
};

struct incoming { /* from one peer */
    struct ring_in ring;
    struct doorbell room;
    uint64_t generation; /* newest that a record was read of */
    bool present;        /* worth a look */
    bool reported;
};

struct endpoint {
    const struct segment *segment;
    struct worker_control *control;
    const int *eventfds;
    uint64_t generation;
    worker_id id;
    uint32_t slot;
    struct ring_out up;
    struct doorbell router_bell;
    uint64_t up_want;
    struct ring_in down;
    struct doorbell router_room;
    struct outgoing *out;
    struct incoming *in;
    uint32_t peers[SLOTS_MAX]; /* slots worth a look */
    uint32_t peer_count;
};

/* Sets the cursors of this generation, then says so.  False: no memory. */
bool endpoint_open(struct endpoint *self, const struct segment *segment, const int *eventfds, uint32_t slot,
                   uint64_t generation);
void endpoint_close(struct endpoint *self);

/* ---- to the router ---- */

/* enum ring_status; with RING_OK the record is committed and the router awake.  `length` counts the name, too. */
static inline int endpoint_send(struct endpoint *self, const struct record *header, const void *name,
                                const void *body) {
    struct record *place;
    enum ring_status status = ring_claim(&self->up, header->length, &place);
    if (__builtin_expect(status != RING_OK, 0))
        return status;
    memcpy(place, header, sizeof *place);
    place->source = self->id;
    uint8_t *to = (uint8_t *)(place + 1);
    if (__builtin_expect(header->name_length != 0, 0))
        memcpy(to, name, header->name_length);
    memcpy(to + header->name_length, body, header->length - sizeof *header - header->name_length);
    ring_publish(&self->up);
    notify_ring(&self->router_bell);
    return RING_OK;
}
/* The same for one message without an event: the way of channel_send. */
static inline int endpoint_message(struct endpoint *self, uint32_t row, uint32_t row_gen, const void *body,
                                   uint64_t size) {
    struct record *place;
    enum ring_status status = ring_claim(&self->up, sizeof *place + size, &place);
    if (__builtin_expect(status != RING_OK, 0))
        return status;
    place->length = (uint32_t)(sizeof *place + size);
    place->type = RECORD_MESSAGE;
    place->flags = FLAG_FIRST | FLAG_LAST;
    place->name_length = place->hops = 0;
    place->source = self->id;
    place->destination = 0;
    place->sequence = 0;
    place->row = row;
    place->row_generation = row_gen;
    place->time_ns = 0;
    memcpy(place + 1, body, size);
    ring_publish(&self->up);
    notify_ring(&self->router_bell);
    return RING_OK;
}
/* The rules were broken on the direct ring from this peer. */
void endpoint_report(struct endpoint *self, uint32_t peer);
/* What is broken still is reported once more: the router may not have believed it yet. */
void endpoint_report_again(struct endpoint *self);

/* ---- to a peer ---- */

/* The peer's ring, opened to this generation of it; NULL when that generation is not there (any more). */
struct outgoing *endpoint_peer(struct endpoint *self, uint32_t slot, uint64_t generation);
/* Fills in source and destination; `header->length` counts header, name and body. */
int endpoint_put(struct endpoint *self, struct outgoing *peer, const struct record *header, const void *name,
                 const void *body);

/* ---- from router and peers ---- */

/* The next record meant for this generation; others are skipped and counted.  RING_OK, RING_EMPTY, RING_BROKEN. */
int endpoint_next_down(struct endpoint *self, struct record *header, const uint8_t **body);
int endpoint_next_direct(struct endpoint *self, uint32_t peer, struct record *header, const uint8_t **body);
/* Gives the bytes back; wakes a producer that waits for room. */
void endpoint_release_down(struct endpoint *self);
void endpoint_release_direct(struct endpoint *self, uint32_t peer);
void endpoint_peer_here(struct endpoint *self, uint32_t slot);
void endpoint_peer_gone(struct endpoint *self, uint32_t slot);
/* Look at the slot table instead of believing what was announced. */
void endpoint_rescan(struct endpoint *self);

/* ---- sleeping ---- */

bool endpoint_something(const struct endpoint *self);
/* Look for up to `spin_ns`, yielding the processor between looks. */
bool endpoint_look(const struct endpoint *self, uint64_t spin_ns);
/* Arms, looks once more.  True: nothing, the caller may sleep. */
bool endpoint_sleep(struct endpoint *self);
void endpoint_awake(struct endpoint *self);
/* Ask to be woken when there is room.  True: there is room already for `length` bytes. */
bool endpoint_want_up(struct endpoint *self, uint64_t length);
bool endpoint_want_peer(struct outgoing *peer, uint64_t length);
void endpoint_unwant_up(struct endpoint *self);
void endpoint_unwant_peer(struct outgoing *peer);

#endif
