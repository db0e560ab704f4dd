/*
 * The segment as one process sees it: create or attach, find the parts, allow writing to one's own region only.
 *
 * Knows where things lie, not what they mean.
 */
#ifndef CHANNELS_SEGMENT_H
#define CHANNELS_SEGMENT_H

#include <stdbool.h>

#include "layout.h"

enum segment_status {
    SEGMENT_OK = 0,
    SEGMENT_BAD_SIZES,   /* the settings cannot be laid out */
    SEGMENT_SYSTEM,      /* a system call failed: errno */
    SEGMENT_NOT_OURS,    /* no seals, no magic, or a size that does not fit */
    SEGMENT_OTHER_LAYOUT /* made by another version */
};

struct segment_config {
    uint32_t slots; /* the router's included */
    uint32_t up_bytes, down_bytes, direct_bytes;
    uint32_t rows;
};

enum segment_role { ROLE_SUPERVISOR, ROLE_ROUTER, ROLE_WORKER, ROLE_OBSERVER };

struct segment {
    uint8_t *base;
    struct geometry at; /* private copy: never read again from shared memory */
    uint64_t hash_key[2];
    uint64_t epoch_us;
    volatile uint32_t *cookie; /* in a page that a fork wipes; NULL where forks inherit on purpose */
    int fd;
};

#define SEGMENT_COOKIE 0x6b6f6f63u

enum segment_status segment_geometry(const struct segment_config *config, struct geometry *at);
enum segment_status segment_create(struct segment *self, const struct segment_config *config,
                                   const uint64_t hash_key[2], uint64_t epoch_us);
enum segment_status segment_attach(struct segment *self, int fd);
/* Own region writable, everything else read-only; children of anyone but the supervisor inherit nothing.  Whoever keeps
 * no descriptor of the segment (see Segment.forget_fd) cannot undo it. */
enum segment_status segment_enter(struct segment *self, enum segment_role role, uint32_t slot);
void segment_unmap(struct segment *self);

/* False in a process that was forked by a worker or the router: their mapping is not there. */
static inline bool segment_here(const struct segment *self) {
    return self->base != NULL && (self->cookie == NULL || *self->cookie == SEGMENT_COOKIE);
}

/* True in a process that was forked by who had attached. */
static inline bool segment_forked(const struct segment *self) {
    return self->cookie != NULL && *self->cookie != SEGMENT_COOKIE;
}

static inline struct supervisor_region *segment_supervisor(const struct segment *self) {
    return (struct supervisor_region *)(self->base + self->at.supervisor_offset);
}
static inline struct router_control *segment_router(const struct segment *self) {
    return (struct router_control *)(self->base + self->at.router_offset);
}
static inline uint8_t *segment_worker_base(const struct segment *self, uint32_t slot) {
    return self->base + self->at.workers_offset + (uint64_t)(slot - 1) * self->at.worker_size;
}
static inline struct worker_control *segment_worker(const struct segment *self, uint32_t slot) {
    return (struct worker_control *)segment_worker_base(self, slot);
}
static inline struct fanout_mark *segment_mark(const struct segment *self, uint32_t slot) {
    return (struct fanout_mark *)(self->base + self->at.marks_offset) + slot;
}
static inline struct consumer_line *segment_up_head(const struct segment *self, uint32_t slot) {
    return (struct consumer_line *)(self->base + self->at.up_heads_offset) + slot;
}
static inline struct producer_line *segment_down_tail(const struct segment *self, uint32_t slot) {
    return (struct producer_line *)(self->base + self->at.down_tails_offset) + slot;
}
static inline uint8_t *segment_down_data(const struct segment *self, uint32_t slot) {
    return self->base + self->at.down_data_offset + (uint64_t)slot * self->at.down_bytes;
}
static inline uint8_t *segment_up_data(const struct segment *self, uint32_t slot) {
    return segment_worker_base(self, slot) + self->at.up_data_offset;
}
/* The direct ring from one worker to another: its tail and data are the sender's, its head is the receiver's. */
static inline struct producer_line *segment_direct_tail(const struct segment *self, uint32_t from, uint32_t to) {
    return (struct producer_line *)(segment_worker_base(self, from) + self->at.direct_tails_offset) + to;
}
static inline struct consumer_line *segment_direct_head(const struct segment *self, uint32_t from, uint32_t to) {
    return (struct consumer_line *)(segment_worker_base(self, to) + self->at.direct_heads_offset) + from;
}
static inline uint8_t *segment_direct_data(const struct segment *self, uint32_t from, uint32_t to) {
    return segment_worker_base(self, from) + self->at.direct_data_offset + (uint64_t)to * self->at.direct_bytes;
}
static inline shared64 *segment_index(const struct segment *self) {
    return (shared64 *)(self->base + self->at.index_offset);
}
static inline struct row *segment_row(const struct segment *self, uint32_t row) {
    return (struct row *)(self->base + self->at.rows_offset + (uint64_t)row * self->at.row_stride);
}
static inline uint8_t *segment_long_name(const struct segment *self, uint32_t place) {
    return self->base + self->at.long_names_offset + (uint64_t)place * LONG_NAME_STRIDE;
}
/* The epoch word by which a slot says that it sleeps. */
static inline shared64 *segment_armed(const struct segment *self, uint32_t slot) {
    return slot == ROUTER_SLOT ? &segment_router(self)->armed : &segment_worker(self, slot)->armed;
}
static inline uint64_t segment_generation(const struct segment *self, uint32_t slot) {
    return atomic_load_explicit(&segment_supervisor(self)->slot[slot].generation, memory_order_acquire);
}
/* Held by a worker that has set its cursors, so that rings to it may be used. */
static inline bool segment_attached(const struct segment *self, uint32_t slot, uint64_t generation) {
    return (generation & 1) != 0 &&
           atomic_load_explicit(&segment_worker(self, slot)->attached, memory_order_acquire) == generation;
}

#endif
