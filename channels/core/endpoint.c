/* See endpoint.h.  Protocol: docs/protocol. */
#define _GNU_SOURCE
#include "endpoint.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t load(const shared64 *word) { return atomic_load_explicit(word, memory_order_relaxed); }
static void store(shared64 *word, uint64_t value) { atomic_store_explicit(word, value, memory_order_relaxed); }
static void count(shared64 *word) { store(word, load(word) + 1); }

static uint64_t next_even(uint64_t epoch) { return epoch + 2 - (epoch & 1); }

static void open_up(struct endpoint *self) {
    const struct segment *segment = self->segment;
    /* What the predecessor had committed was routed before this generation could begin: the ring is empty. */
    uint64_t head = atomic_load_explicit(&segment_up_head(segment, self->slot)->head, memory_order_acquire);
    self->up = (struct ring_out){.data = segment_up_data(segment, self->slot),
                                 .capacity = segment->at.up_bytes,
                                 .tail = head,
                                 .published = head,
                                 .head_seen = head,
                                 .mine = &self->control->up,
                                 .theirs = segment_up_head(segment, self->slot)};
    self->up_want = next_even(load(&self->control->up.want));
    store(&self->control->up.want, self->up_want);
    ring_publish(&self->up);
    self->router_bell =
        (struct doorbell){.epoch = segment_armed(segment, ROUTER_SLOT), .fd = self->eventfds[ROUTER_SLOT]};
}

static void open_down(struct endpoint *self) {
    const struct segment *segment = self->segment;
    struct producer_line *theirs = segment_down_tail(segment, self->slot);
    uint64_t tail = atomic_load_explicit(&theirs->tail, memory_order_acquire);
    /* What stands there was for the predecessor. */
    self->down = (struct ring_in){.data = segment_down_data(segment, self->slot),
                                  .capacity = segment->at.down_bytes,
                                  .head = tail,
                                  .released = tail,
                                  .tail_seen = tail,
                                  .mine = &self->control->down,
                                  .theirs = theirs};
    ring_release(&self->down);
    self->router_room = (struct doorbell){.epoch = &theirs->want, .fd = self->eventfds[ROUTER_SLOT]};
}

static void open_direct(struct endpoint *self, uint32_t peer) {
    const struct segment *segment = self->segment;
    struct incoming *in = &self->in[peer];
    struct producer_line *theirs = segment_direct_tail(segment, peer, self->slot);
    uint64_t tail = ring_place(atomic_load_explicit(&theirs->tail, memory_order_acquire));
    in->ring = (struct ring_in){.data = segment_direct_data(segment, peer, self->slot),
                                .capacity = segment->at.direct_bytes,
                                .head = tail,
                                .released = tail,
                                .tail_seen = tail,
                                .mine = segment_direct_head(segment, peer, self->slot),
                                .theirs = theirs};
    ring_release(&in->ring);
    in->room = (struct doorbell){.epoch = &theirs->want, .fd = self->eventfds[peer]};

    struct outgoing *out = &self->out[peer];
    out->ring = (struct ring_out){.data = segment_direct_data(segment, self->slot, peer),
                                  .capacity = segment->at.direct_bytes,
                                  .mine = segment_direct_tail(segment, self->slot, peer),
                                  .theirs = segment_direct_head(segment, self->slot, peer)};
    ring_out_adopt(&out->ring, self->generation);
    out->want = next_even(load(&out->ring.mine->want));
    store(&out->ring.mine->want, out->want);
    out->bell = (struct doorbell){.epoch = segment_armed(segment, peer), .fd = self->eventfds[peer]};
}

bool endpoint_open(struct endpoint *self, const struct segment *segment, const int *eventfds, uint32_t slot,
                   uint64_t generation) {
    memset(self, 0, sizeof *self);
    self->segment = segment;
    self->eventfds = eventfds;
    self->slot = slot;
    self->generation = generation;
    self->id = WORKER_ID(slot, generation);
    self->control = segment_worker(segment, slot);
    self->out = calloc(segment->at.slots, sizeof *self->out);
    self->in = calloc(segment->at.slots, sizeof *self->in);
    if (self->out == NULL || self->in == NULL) {
        endpoint_close(self);
        return false;
    }
    store(&self->control->ready, 0);
    store(&self->control->armed, next_even(load(&self->control->armed)));
    memset((void *)&self->control->count, 0, sizeof self->control->count);
    open_up(self);
    open_down(self);
    for (uint32_t peer = 1; peer < segment->at.slots; peer++)
        if (peer != slot)
            open_direct(self, peer);
    atomic_store_explicit(&self->control->attached, generation, memory_order_release);
    notify_ring(&self->router_bell);
    endpoint_rescan(self);
    return true;
}

void endpoint_close(struct endpoint *self) {
    free(self->out);
    free(self->in);
    self->out = NULL;
    self->in = NULL;
}

void endpoint_report(struct endpoint *self, uint32_t peer) {
    struct record *place;
    if (self->in[peer].reported || ring_claim(&self->up, sizeof *place, &place) != RING_OK)
        return; /* asked again at the next look */
    self->in[peer].reported = true;
    *place = (struct record){.length = sizeof *place,
                             .type = RECORD_REPORT,
                             .source = self->id,
                             .destination = WORKER_ID(peer, segment_generation(self->segment, peer))};
    ring_publish(&self->up);
    notify_ring(&self->router_bell);
    count(&self->control->count.broken_rings);
}

void endpoint_report_again(struct endpoint *self) {
    for (uint32_t i = 0; i < self->peer_count; i++)
        self->in[self->peers[i]].reported = false;
}

/* ---- to a peer ---- */

struct outgoing *endpoint_peer(struct endpoint *self, uint32_t slot, uint64_t generation) {
    if (slot == ROUTER_SLOT || slot >= self->segment->at.slots || slot == self->slot ||
        segment_generation(self->segment, slot) != generation || !segment_attached(self->segment, slot, generation))
        return NULL;
    struct outgoing *peer = &self->out[slot];
    if (__builtin_expect(peer->generation != generation, 0)) {
        /* Another reader: it has set its head to our tail, and has never been woken by us. */
        peer->generation = generation;
        peer->bell.answered = 0;
        peer->ring.broken = false;
        (void)ring_refresh_head(&peer->ring);
        peer->ring.broken = false; /* it may not have come to where we began */
    }
    return peer;
}

int endpoint_put(struct endpoint *self, struct outgoing *peer, const struct record *header, const void *name,
                 const void *body) {
    struct record *place;
    enum ring_status status = ring_claim(&peer->ring, header->length, &place);
    if (status != RING_OK) {
        peer->ring.broken = false; /* the next one looks again */
        return status;
    }
    *place = *header;
    place->source = self->id;
    place->destination = WORKER_ID(peer - self->out, peer->generation);
    uint8_t *to = (uint8_t *)(place + 1);
    if (header->name_length != 0)
        memcpy(to, name, header->name_length);
    uint64_t length = header->length - sizeof *header - header->name_length;
    if (length != 0)
        memcpy(to + header->name_length, body, length);
    ring_publish(&peer->ring);
    notify_ring(&peer->bell);
    return RING_OK;
}

/* ---- from router and peers ---- */

int endpoint_next_down(struct endpoint *self, struct record *header, const uint8_t **body) {
    for (;;) {
        enum ring_status status = ring_peek(&self->down, header, body);
        if (__builtin_expect(status != RING_OK, 0))
            return status;
        if (__builtin_expect(header->destination == self->id, 1))
            return RING_OK;
        count(&self->control->count.stale);
        ring_advance(&self->down, header);
    }
}

static bool is_plausible(const struct endpoint *self, const struct incoming *in, uint32_t peer,
                         const struct record *header) {
    uint64_t generation = WORKER_GENERATION(header->source);
    return WORKER_SLOT(header->source) == peer && generation >= in->generation && header->type >= RECORD_ALERT &&
           header->type < RECORD_TYPES && (header->flags & ~FLAGS_KNOWN) == 0 &&
           header->name_length <= header->length - sizeof *header &&
           (generation == in->generation || generation <= segment_generation(self->segment, peer));
}

int endpoint_next_direct(struct endpoint *self, uint32_t peer, struct record *header, const uint8_t **body) {
    struct incoming *in = &self->in[peer];
    for (;;) {
        enum ring_status status = ring_peek(&in->ring, header, body);
        if (status == RING_OK && !is_plausible(self, in, peer, header)) {
            status = ring_break(&in->ring);
        }
        if (status == RING_BROKEN) {
            uint64_t now = segment_generation(self->segment, peer);
            if (now != in->generation && (now & 1) != 0) { /* nothing of that one has been read */
                if (ring_in_restart(&in->ring, now) == RING_OK) {
                    in->generation = now;
                    in->room.answered = 0;
                    in->reported = false;
                    continue;
                }
                if (!segment_attached(self->segment, peer, now))
                    return RING_BROKEN; /* a predecessor's work; the router says when its successor is there */
            }
            ring_release(&in->ring); /* the router judges what stands at the head that it can see */
            endpoint_report(self, peer);
            return RING_BROKEN;
        }
        if (status != RING_OK)
            return status;
        if (WORKER_GENERATION(header->source) != in->generation) {
            in->generation = WORKER_GENERATION(header->source);
            in->room.answered = 0;
            in->reported = false;
        }
        if (__builtin_expect(header->destination == self->id, 1))
            return RING_OK;
        count(&self->control->count.stale);
        ring_advance(&in->ring, header);
    }
}

/* Wakes a waiting producer when half of the ring is free: it needs at most that, and stop and go costs more. */
static void tell_room(struct ring_in *ring, struct doorbell *room) {
    if (ring->head == ring->released)
        return;
    ring_release(ring);
    notify_fence();
    if (load(&ring->theirs->tail) - ring->head <= ring->capacity / 2 && notify_due(room))
        notify_write(room->fd);
}

void endpoint_release_down(struct endpoint *self) { tell_room(&self->down, &self->router_room); }
void endpoint_release_direct(struct endpoint *self, uint32_t peer) {
    tell_room(&self->in[peer].ring, &self->in[peer].room);
}

void endpoint_peer_here(struct endpoint *self, uint32_t slot) {
    if (slot == ROUTER_SLOT || slot >= self->segment->at.slots || slot == self->slot || self->in[slot].present)
        return;
    self->in[slot].present = true;
    self->peers[self->peer_count++] = slot;
}

void endpoint_peer_gone(struct endpoint *self, uint32_t slot) {
    if (slot >= self->segment->at.slots || !self->in[slot].present)
        return;
    self->in[slot].present = false;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < self->peer_count; i++)
        if (self->peers[i] != slot)
            self->peers[kept++] = self->peers[i];
    self->peer_count = kept;
}

void endpoint_rescan(struct endpoint *self) {
    for (uint32_t slot = 1; slot < self->segment->at.slots; slot++) {
        if (slot == self->slot)
            continue;
        if (segment_attached(self->segment, slot, segment_generation(self->segment, slot)))
            endpoint_peer_here(self, slot);
    }
}

/* ---- sleeping ---- */

static bool arrived(const struct ring_in *ring) {
    return !ring->broken && atomic_load_explicit(&ring->theirs->tail, memory_order_acquire) != ring->head;
}

bool endpoint_something(const struct endpoint *self) {
    if (arrived(&self->down))
        return true;
    for (uint32_t i = 0; i < self->peer_count; i++)
        if (arrived(&self->in[self->peers[i]].ring))
            return true;
    return false;
}

static uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

bool endpoint_look(const struct endpoint *self, uint64_t spin_ns) {
    if (endpoint_something(self))
        return true;
    if (spin_ns == 0)
        return false;
    uint64_t until = clock_ns() + spin_ns;
    do {
        sched_yield();
        if (endpoint_something(self))
            return true;
    } while (clock_ns() < until);
    return false;
}

bool endpoint_sleep(struct endpoint *self) {
    (void)notify_arm(&self->control->armed);
    if (endpoint_something(self)) {
        notify_disarm(&self->control->armed);
        return false;
    }
    return true;
}

void endpoint_awake(struct endpoint *self) { notify_disarm(&self->control->armed); }

static bool has_room(struct ring_out *ring, uint64_t length) {
    if (ring_refresh_head(ring) != RING_OK)
        return true; /* broken: the next put says so */
    uint64_t need = record_span(length);
    uint64_t to_end = ring->capacity - (ring->tail & (ring->capacity - 1));
    uint64_t pad = need > to_end ? to_end : 0;
    return ring->tail + pad + need - ring->head_seen <= ring->capacity;
}

static bool want(struct ring_out *ring, uint64_t *epoch, uint64_t length) {
    if ((*epoch & 1) == 0) {
        *epoch += 1;
        store(&ring->mine->want, *epoch);
    }
    notify_fence();
    return has_room(ring, length);
}

static void unwant(struct ring_out *ring, uint64_t *epoch) {
    if ((*epoch & 1) == 0)
        return;
    *epoch += 1;
    store(&ring->mine->want, *epoch);
}

bool endpoint_want_up(struct endpoint *self, uint64_t length) { return want(&self->up, &self->up_want, length); }
bool endpoint_want_peer(struct outgoing *peer, uint64_t length) { return want(&peer->ring, &peer->want, length); }
void endpoint_unwant_up(struct endpoint *self) { unwant(&self->up, &self->up_want); }
void endpoint_unwant_peer(struct outgoing *peer) { unwant(&peer->ring, &peer->want); }
