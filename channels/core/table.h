/*
 * Channel name -> row with its bitmap of slots.
 *
 * The router alone writes; workers look up and count under a bounded seqlock.  An index of single words (hash tag and
 * row) leads to rows that never move, so a row's number is good for as long as its version stands.
 */
#ifndef CHANNELS_TABLE_H
#define CHANNELS_TABLE_H

#include <stdbool.h>

#include "segment.h"

#define ROW_NONE UINT32_MAX
#define TABLE_TRIES 64

enum table_status {
    TABLE_OK = 0,
    TABLE_ABSENT,
    TABLE_FULL,
    TABLE_BAD_NAME,
    TABLE_BUSY /* the router is in the middle of a change, or died there: ask again */
};

/* 1 to 255 bytes of valid UTF-8 without control characters (below 32, 127 to 159). */
bool table_name_ok(const uint8_t *name, size_t length);
uint64_t table_hash(const struct segment *segment, const uint8_t *name, size_t length, bool prefix);

/* ---- what a worker sees ---- */

struct row_view {
    uint32_t row;
    uint32_t generation; /* of the row: version / 2 */
    uint32_t members;    /* slots in the bitmap */
    bool exact;          /* somebody has joined this very name, not only a prefix of it */
};

static inline uint32_t row_generation(uint64_t version) { return (uint32_t)(version >> 1); }
static inline shared64 *row_bitmap(struct row *row) { return row->words; }
static inline shared64 *row_exact(const struct segment *segment, struct row *row) {
    return row->words + segment->at.slot_words;
}

/* Is the row still the one that was looked up, and how many slots listen? */
static inline enum table_status table_members(const struct segment *segment, uint32_t row_number, uint32_t generation,
                                              struct row_view *view) {
    struct row *row = segment_row(segment, row_number);
    uint64_t version = atomic_load_explicit(&row->version, memory_order_acquire);
    if (__builtin_expect((version & 1) != 0 || row_generation(version) != generation, 0))
        return TABLE_ABSENT;
    uint32_t members = 0;
    uint64_t exact = 0;
    for (uint32_t i = 0; i < segment->at.slot_words; i++) {
        for (uint64_t bits = atomic_load_explicit(&row->words[i], memory_order_relaxed); bits != 0; bits &= bits - 1)
            members++; /* few: cheaper than a population count without the instruction for it */
        exact |= atomic_load_explicit(&row->words[segment->at.slot_words + i], memory_order_relaxed);
    }
    atomic_thread_fence(memory_order_acquire);
    if (__builtin_expect(atomic_load_explicit(&row->version, memory_order_relaxed) != version, 0))
        return TABLE_ABSENT;
    view->row = row_number;
    view->generation = generation;
    view->members = members;
    view->exact = exact != 0;
    return TABLE_OK;
}

/* By name.  TABLE_ABSENT: no such row; `members` then counts the slots that joined a prefix of the name. */
enum table_status table_look(const struct segment *segment, const uint8_t *name, size_t length, uint64_t hash,
                             struct row_view *view);
/* The bitmap of a row as it stands, into SLOT_WORDS_MAX words. */
enum table_status table_bitmap(const struct segment *segment, uint32_t row_number, uint32_t generation,
                               uint64_t *bitmap);
/* The name of a row, into 256 bytes. */
enum table_status table_name(const struct segment *segment, uint32_t row_number, uint32_t generation, uint8_t *name,
                             uint32_t *length, uint64_t *epoch);

/* ---- what the router does ---- */

struct table {
    const struct segment *segment;
    uint32_t *free_rows; /* stack */
    uint32_t free_count;
    uint32_t *free_long;
    uint32_t free_long_count;
    uint32_t used;
    uint32_t prefixes[NAME_MAX_BYTES + 1]; /* prefix rows by length */
};

/* Builds the private part from the segment, repairing what a predecessor left half done. */
enum table_status table_open(struct table *self, const struct segment *segment);
void table_close(struct table *self);
uint32_t table_find(const struct table *self, const uint8_t *name, size_t length, bool prefix);
/* A new row with no slots in it but those of the prefixes that the name matches. */
enum table_status table_make(struct table *self, const uint8_t *name, size_t length, bool prefix, uint64_t epoch,
                             uint32_t *row);
/* A name of this length needs a place among the long names, and there is none. */
bool table_lacks_long(const struct table *self, size_t length);
void table_free(struct table *self, uint32_t row);
const uint8_t *table_row_name(const struct table *self, uint32_t row, uint32_t *length);
bool table_is_empty(const struct table *self, uint32_t row);

static inline bool table_is_used(const struct table *self, uint32_t row) {
    return (atomic_load_explicit(&segment_row(self->segment, row)->flags, memory_order_relaxed) & ROW_USED) != 0;
}
static inline bool table_is_long(const struct table *self, uint32_t row) {
    return (atomic_load_explicit(&segment_row(self->segment, row)->flags, memory_order_relaxed) & ROW_LONG_NAME) != 0;
}
static inline bool table_is_prefix(const struct table *self, uint32_t row) {
    return (atomic_load_explicit(&segment_row(self->segment, row)->flags, memory_order_relaxed) & ROW_PREFIX) != 0;
}

#endif
