/*
 * Into the rings: staging a batch under the operation log, committing it, and the spill of those who are behind.
 *
 * Internal to the router.
 */
#ifndef CHANNELS_FANOUT_H
#define CHANNELS_FANOUT_H

#include "router.h"

static inline uint64_t shared_load(const shared64 *word) { return atomic_load_explicit(word, memory_order_relaxed); }
static inline void shared_store(shared64 *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}
static inline void shared_add(shared64 *word, uint64_t value) { shared_store(word, shared_load(word) + value); }

static inline bool bit_get(const shared64 *words, uint32_t bit) {
    return (shared_load(&words[bit / 64]) >> (bit % 64) & 1) != 0;
}
static inline void bit_set(shared64 *words, uint32_t bit) {
    shared_store(&words[bit / 64], shared_load(&words[bit / 64]) | 1ull << (bit % 64));
}
static inline void bit_clear(shared64 *words, uint32_t bit) {
    shared_store(&words[bit / 64], shared_load(&words[bit / 64]) & ~(1ull << (bit % 64)));
}

/* One message from the up-ring, into everyone's ring behind its tail: visible to nobody yet. */
void fanout_stage(struct router *self, const struct record *header, const uint8_t *body);
/* Makes the staged batch visible and gives the up-ring's bytes back, up to `end`. */
void fanout_commit(struct router *self, uint32_t source, uint64_t end);
/* A record of the router's own to one slot; never dropped, visible at once or spilled. */
void fanout_control(struct router *self, uint32_t slot, struct record *header, const void *body);
/* Move what was spilled into the rings, as far as it goes.  True: something moved. */
bool fanout_flush(struct router *self);
/* Tell the slot what it lost, or may have lost: every channel it is in, up to the number given last. */
void fanout_tell_all_gaps(struct router *self, uint32_t slot);
/* Does a message of this row, or the news that one was lost, still wait in a spill? */
bool fanout_row_is_awaited(const struct router *self, uint32_t row);
/* Turn the notes of what was lost into records behind what is spilled: before it is handed to a successor. */
void fanout_seal(struct router *self, uint32_t slot);
void fanout_drop_spill(struct router *self, uint32_t slot);
/* What a predecessor had spilled for this slot, in the form of spill_copy.  False: it cannot be that; what came before
 * stays. */
bool fanout_import(struct router *self, uint32_t slot, const uint8_t *data, uint64_t size);
/* Finish the operation that a predecessor left open. */
void fanout_recover(struct router *self);
/* Wake those whose rings were touched. */
void fanout_notify(struct router *self);

#endif
