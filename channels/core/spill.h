/*
 * What did not fit into one destination's ring: a bounded first-in first-out store of whole records in private memory,
 * and notes of the channels from which the newest had to be dropped.
 *
 * Knows records as bytes only.  Bounds are the caller's.
 */
#ifndef CHANNELS_SPILL_H
#define CHANNELS_SPILL_H

#include <stdbool.h>

#include "layout.h"

struct spill_chunk;

struct spill_note {
    uint32_t row, row_generation;
    uint64_t sequence; /* the newest number lost */
};

#define SPILL_NOTES 64u

struct spill {
    struct spill_chunk *first, *last;
    uint64_t bytes;
    uint64_t soft_since_ns; /* above the soft bound since; 0: below it */
    struct spill_note notes[SPILL_NOTES];
    uint32_t note_count;
    bool notes_overflowed; /* more channels lost something than there is room for: tell about all */
};

/* Appends header and body.  False when there is no memory: the record is not in. */
bool spill_put(struct spill *self, const struct record *header, const void *body);
/* The oldest record, NULL when empty. */
const struct record *spill_peek(const struct spill *self);
void spill_pop(struct spill *self);
void spill_note_loss(struct spill *self, uint32_t row, uint32_t row_generation, uint64_t sequence);
/* All records one after the other, as they stand in a ring; `to` has room for `bytes`. */
void spill_copy(const struct spill *self, uint8_t *to);
void spill_clear(struct spill *self);

#endif
