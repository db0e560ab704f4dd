/* The store of what did not fit. */
#include <string.h>

#include "check.h"
#include "fault.h"
#include "ring.h"
#include "spill.h"

static void put(struct spill *spill, uint32_t number, uint32_t size) {
    uint8_t body[70000];
    memset(body, (int)number, size);
    struct record header = {.length = (uint32_t)sizeof header + size, .type = RECORD_MESSAGE, .sequence = number};
    CHECK(spill_put(spill, &header, body));
}

TEST(a_spill_gives_back_in_order_over_many_chunks) {
    struct spill spill = {0};
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < 3000; i++) {
        put(&spill, i, i % 700);
        bytes += record_span(sizeof(struct record) + i % 700);
    }
    CHECK_EQ(spill.bytes, bytes);
    for (uint32_t i = 0; i < 3000; i++) {
        const struct record *record = spill_peek(&spill);
        CHECK_EQ(record->sequence, i);
        CHECK_EQ(record->length, sizeof *record + i % 700);
        spill_pop(&spill);
    }
    CHECK(spill_peek(&spill) == NULL);
    CHECK_EQ(spill.bytes, 0);
}

TEST(a_spill_is_emptied_and_filled_again_and_again) {
    struct spill spill = {0};
    for (uint32_t round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < 10; i++)
            put(&spill, i, 60000);
        for (uint32_t i = 0; i < 10; i++) {
            CHECK_EQ(spill_peek(&spill)->sequence, i);
            spill_pop(&spill);
        }
        CHECK(spill.first == NULL && spill.last == NULL);
    }
}

TEST(a_spill_copies_out_as_it_would_stand_in_a_ring) {
    struct spill spill = {0};
    for (uint32_t i = 0; i < 12; i++)
        put(&spill, i, 50000 + i);
    spill_pop(&spill);
    uint8_t *copy = malloc(spill.bytes);
    spill_copy(&spill, copy);
    uint64_t at = 0;
    for (uint32_t i = 1; i < 12; i++) {
        struct record header;
        memcpy(&header, copy + at, sizeof header);
        CHECK_EQ(header.sequence, i);
        CHECK_EQ(copy[at + sizeof header], i);
        at += record_span(header.length);
    }
    CHECK_EQ(at, spill.bytes);
    free(copy);
    spill_clear(&spill);
    CHECK_EQ(spill.bytes, 0);
}

TEST(losses_are_noted_once_per_channel_with_the_newest_number) {
    struct spill spill = {0};
    spill_note_loss(&spill, 1, 1, 10);
    spill_note_loss(&spill, 2, 1, 20);
    spill_note_loss(&spill, 1, 1, 11);
    CHECK_EQ(spill.note_count, 2);
    CHECK_EQ(spill.notes[0].sequence, 11);
}

TEST(more_channels_with_losses_than_notes_are_told_in_general) {
    struct spill spill = {0};
    for (uint32_t i = 0; i < SPILL_NOTES; i++)
        spill_note_loss(&spill, i, 1, 1);
    CHECK(!spill.notes_overflowed);
    spill_note_loss(&spill, SPILL_NOTES, 1, 1);
    CHECK(spill.notes_overflowed);
}
