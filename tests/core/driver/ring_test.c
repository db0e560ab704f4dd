/* Corners of one ring. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "check.h"
#include "fault.h"
#include "notify.h"
#include "ring.h"

#define CAPACITY 4096u
#define NEAR_2_32 ((1ull << 32) - 512)
#define NEAR_2_63 ((1ull << 63) - 512)

struct ring {
    _Alignas(CONTROL_LINE) uint8_t data[CAPACITY];
    struct producer_line producer;
    struct consumer_line consumer;
    struct ring_out out;
    struct ring_in in;
};

static struct ring *ring_at(uint64_t position) {
    static struct ring ring;
    memset(&ring, 0x5a, sizeof ring.data);
    memset(&ring.producer, 0, sizeof ring - offsetof(struct ring, producer));
    atomic_init(&ring.producer.tail, position);
    atomic_init(&ring.consumer.head, position);
    ring.out = (struct ring_out){.data = ring.data,
                                 .capacity = CAPACITY,
                                 .tail = position,
                                 .published = position,
                                 .head_seen = position,
                                 .mine = &ring.producer,
                                 .theirs = &ring.consumer};
    ring.in = (struct ring_in){.data = ring.data,
                               .capacity = CAPACITY,
                               .head = position,
                               .released = position,
                               .tail_seen = position,
                               .mine = &ring.consumer,
                               .theirs = &ring.producer};
    return &ring;
}

static enum ring_status put(struct ring *ring, uint32_t body, uint8_t mark) {
    struct record *place;
    enum ring_status status = ring_claim(&ring->out, sizeof *place + body, &place);
    if (status != RING_OK)
        return status;
    *place = (struct record){.length = (uint32_t)sizeof *place + body, .type = RECORD_ALERT, .sequence = mark};
    memset(place + 1, mark, body);
    return RING_OK;
}

static void get(struct ring *ring, uint32_t body, uint8_t mark) {
    struct record header;
    const uint8_t *at;
    CHECK_EQ(ring_peek(&ring->in, &header, &at), RING_OK);
    CHECK_EQ(header.length, sizeof header + body);
    CHECK_EQ(header.sequence, mark);
    for (uint32_t i = 0; i < body; i++)
        CHECK_EQ(at[i], mark);
    ring_advance(&ring->in, &header);
}

static enum ring_status peek(struct ring *ring) {
    struct record header;
    const uint8_t *body;
    return ring_peek(&ring->in, &header, &body);
}

TEST(a_new_ring_is_empty) { CHECK_EQ(peek(ring_at(0)), RING_EMPTY); }

TEST(what_is_claimed_is_not_seen_before_it_is_published) {
    struct ring *ring = ring_at(0);
    CHECK_EQ(put(ring, 10, 1), RING_OK);
    CHECK_EQ(peek(ring), RING_EMPTY);
    ring_publish(&ring->out);
    get(ring, 10, 1);
    CHECK_EQ(peek(ring), RING_EMPTY);
}

TEST(a_batch_becomes_visible_at_once) {
    struct ring *ring = ring_at(0);
    for (uint8_t i = 0; i < 5; i++)
        CHECK_EQ(put(ring, i, i), RING_OK);
    ring_publish(&ring->out);
    for (uint8_t i = 0; i < 5; i++)
        get(ring, i, i);
    CHECK_EQ(peek(ring), RING_EMPTY);
}

TEST(a_rolled_back_claim_leaves_no_trace) {
    struct ring *ring = ring_at(0);
    CHECK_EQ(put(ring, 100, 9), RING_OK);
    ring_rollback(&ring->out);
    CHECK_EQ(put(ring, 10, 1), RING_OK);
    ring_publish(&ring->out);
    get(ring, 10, 1);
}

TEST(an_empty_body_travels) {
    struct ring *ring = ring_at(16);
    CHECK_EQ(put(ring, 0, 7), RING_OK);
    ring_publish(&ring->out);
    get(ring, 0, 7);
}

TEST(the_largest_record_fits_an_empty_ring_wherever_it_stands) {
    for (uint64_t position = 0; position < CAPACITY; position += RECORD_ALIGN) {
        struct ring *ring = ring_at(position);
        CHECK_EQ(put(ring, (uint32_t)ring_body_max(CAPACITY), 3), RING_OK);
        ring_publish(&ring->out);
        get(ring, (uint32_t)ring_body_max(CAPACITY), 3);
    }
}

TEST(one_byte_more_than_the_largest_is_too_big) {
    struct ring *ring = ring_at(0);
    CHECK_EQ(put(ring, (uint32_t)ring_body_max(CAPACITY) + 1, 3), RING_TOO_BIG);
    CHECK_EQ(put(ring, (uint32_t)ring_body_max(CAPACITY), 3), RING_OK);
}

TEST(a_length_near_2_to_the_64_is_too_big) {
    struct record *place;
    CHECK_EQ(ring_claim(&ring_at(0)->out, UINT64_MAX - 64, &place), RING_TOO_BIG);
}

TEST(a_record_that_fits_exactly_to_the_end_needs_no_pad) {
    struct ring *ring = ring_at(CAPACITY - 128);
    CHECK_EQ(put(ring, 128 - sizeof(struct record), 1), RING_OK);
    CHECK_EQ(ring->out.tail, CAPACITY);
    CHECK_EQ(put(ring, 5, 2), RING_OK);
    ring_publish(&ring->out);
    get(ring, 128 - sizeof(struct record), 1);
    get(ring, 5, 2);
}

TEST(one_byte_more_is_padded_to_the_start) {
    struct ring *ring = ring_at(CAPACITY - 128);
    CHECK_EQ(put(ring, 128 - sizeof(struct record) + 1, 1), RING_OK);
    CHECK_EQ(ring->out.tail, CAPACITY + 144);
    ring_publish(&ring->out);
    get(ring, 128 - sizeof(struct record) + 1, 1);
}

TEST(the_smallest_pad_has_room_for_its_two_fields_only) {
    struct ring *ring = ring_at(CAPACITY - RECORD_ALIGN);
    CHECK_EQ(put(ring, 1, 1), RING_OK);
    ring_publish(&ring->out);
    get(ring, 1, 1);
    CHECK_EQ(ring->in.head, CAPACITY + 64);
}

TEST(pad_and_record_become_visible_together) {
    struct ring *ring = ring_at(CAPACITY - RECORD_ALIGN);
    CHECK_EQ(put(ring, 1, 1), RING_OK);
    CHECK_EQ(peek(ring), RING_EMPTY);
    ring_publish(&ring->out);
    CHECK_EQ(peek(ring), RING_OK);
}

TEST(a_ring_can_be_filled_to_the_last_byte) {
    struct ring *ring = ring_at(0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(put(ring, (uint32_t)ring_body_max(CAPACITY), (uint8_t)i), RING_OK);
    CHECK_EQ(ring_used(&ring->out), CAPACITY);
    CHECK_EQ(put(ring, 0, 9), RING_FULL);
    ring_publish(&ring->out);
    for (int i = 0; i < 4; i++)
        get(ring, (uint32_t)ring_body_max(CAPACITY), (uint8_t)i);
}

TEST(what_is_read_gives_room_only_when_it_is_released) {
    struct ring *ring = ring_at(0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(put(ring, (uint32_t)ring_body_max(CAPACITY), (uint8_t)i), RING_OK);
    ring_publish(&ring->out);
    get(ring, (uint32_t)ring_body_max(CAPACITY), 0);
    CHECK_EQ(put(ring, 0, 9), RING_FULL);
    ring_release(&ring->in);
    CHECK_EQ(put(ring, 0, 9), RING_OK);
}

TEST(full_and_empty_are_told_apart_at_the_same_offset) {
    struct ring *ring = ring_at(CAPACITY * 3);
    CHECK_EQ(peek(ring), RING_EMPTY);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(put(ring, (uint32_t)ring_body_max(CAPACITY), 1), RING_OK);
    ring_publish(&ring->out);
    CHECK_EQ(peek(ring), RING_OK);
    CHECK_EQ(put(ring, 0, 1), RING_FULL);
}

static void run_through(uint64_t position) {
    struct ring *ring = ring_at(position);
    for (uint32_t i = 0; i < 1000; i++) {
        CHECK_EQ(put(ring, i * 7 % 900, (uint8_t)i), RING_OK);
        ring_publish(&ring->out);
        get(ring, i * 7 % 900, (uint8_t)i);
        ring_release(&ring->in);
    }
}

TEST(positions_pass_2_to_the_32) { run_through(NEAR_2_32); }
TEST(positions_pass_2_to_the_63) { run_through(NEAR_2_63); }

/* ---- what cannot be ---- */

static struct record *one_record(struct ring *ring) {
    struct record *place = (struct record *)(void *)(ring->data + (ring->out.tail & (CAPACITY - 1)));
    CHECK_EQ(put(ring, 64, 1), RING_OK);
    ring_publish(&ring->out);
    return place;
}

static void check_broken(struct ring *ring) {
    CHECK_EQ(peek(ring), RING_BROKEN);
    CHECK(ring->in.broken);
}

TEST(a_length_below_the_header_is_broken) {
    struct ring *ring = ring_at(0);
    one_record(ring)->length = sizeof(struct record) - 1;
    check_broken(ring);
}
TEST(a_length_beyond_the_tail_is_broken) {
    struct ring *ring = ring_at(0);
    one_record(ring)->length = sizeof(struct record) + 65;
    check_broken(ring);
}
TEST(a_length_beyond_a_quarter_of_the_ring_is_broken) {
    struct ring *ring = ring_at(0);
    struct record *first = one_record(ring);
    for (int i = 0; i < 20; i++)
        (void)one_record(ring);
    first->length = CAPACITY / 4 + 16;
    check_broken(ring);
}
TEST(a_length_near_2_to_the_32_is_broken) {
    struct ring *ring = ring_at(0);
    one_record(ring)->length = UINT32_MAX;
    check_broken(ring);
}
TEST(a_record_across_the_end_is_broken) {
    struct ring *ring = ring_at(CAPACITY - 112);
    struct record *first = one_record(ring);
    (void)one_record(ring);
    first->length = 128;
    check_broken(ring);
}
TEST(a_pad_that_does_not_reach_the_end_is_broken) {
    struct ring *ring = ring_at(0);
    one_record(ring)->type = RECORD_PAD;
    check_broken(ring);
}
TEST(a_pad_beyond_the_tail_is_broken) {
    struct ring *ring = ring_at(CAPACITY - 256);
    struct record *first = one_record(ring);
    first->type = RECORD_PAD;
    first->length = 256;
    check_broken(ring);
}
TEST(a_tail_more_than_a_ring_ahead_is_broken) {
    struct ring *ring = ring_at(0);
    atomic_store(&ring->producer.tail, CAPACITY + RECORD_ALIGN);
    check_broken(ring);
}
TEST(a_tail_that_goes_back_is_broken) {
    struct ring *ring = ring_at(CAPACITY);
    atomic_store(&ring->producer.tail, CAPACITY - RECORD_ALIGN);
    check_broken(ring);
}
TEST(a_crooked_tail_is_broken) {
    struct ring *ring = ring_at(0);
    atomic_store(&ring->producer.tail, 72);
    check_broken(ring);
}
TEST(a_tail_that_ends_inside_a_header_is_broken) {
    struct ring *ring = ring_at(0);
    (void)one_record(ring);
    atomic_store(&ring->producer.tail, 32);
    check_broken(ring);
}

TEST(a_broken_ring_is_not_read_on_when_the_garbage_is_mended) {
    struct ring *ring = ring_at(0);
    struct record *first = one_record(ring);
    first->length = 3;
    check_broken(ring);
    first->length = sizeof *first + 64;
    check_broken(ring);
    (void)one_record(ring);
    check_broken(ring);
}
TEST(a_broken_ring_is_not_read_on_when_the_tail_is_mended) {
    struct ring *ring = ring_at(0);
    (void)one_record(ring);
    atomic_store(&ring->producer.tail, CAPACITY * 2);
    check_broken(ring);
    atomic_store(&ring->producer.tail, ring->out.tail);
    check_broken(ring);
}

TEST(the_header_that_was_checked_is_the_one_that_is_used) {
    struct ring *ring = ring_at(0);
    struct record *place = one_record(ring);
    struct record header;
    const uint8_t *body;
    CHECK_EQ(ring_peek(&ring->in, &header, &body), RING_OK);
    place->length = UINT32_MAX;
    CHECK_EQ(header.length, sizeof header + 64);
    ring_advance(&ring->in, &header);
    CHECK_EQ(peek(ring), RING_EMPTY);
}

static enum ring_status full_claim(struct ring *ring) {
    for (int i = 0; i < 4; i++)
        CHECK_EQ(put(ring, (uint32_t)ring_body_max(CAPACITY), 1), RING_OK);
    ring_publish(&ring->out);
    return put(ring, 0, 1);
}
TEST(a_head_beyond_what_was_published_is_broken) {
    struct ring *ring = ring_at(0);
    atomic_store(&ring->consumer.head, CAPACITY + RECORD_ALIGN);
    CHECK_EQ(full_claim(ring), RING_BROKEN);
}
TEST(a_head_that_goes_back_is_broken) {
    struct ring *ring = ring_at(CAPACITY);
    atomic_store(&ring->consumer.head, 0);
    CHECK_EQ(full_claim(ring), RING_BROKEN);
}
TEST(a_crooked_head_is_broken) {
    struct ring *ring = ring_at(0);
    atomic_store(&ring->consumer.head, 8);
    CHECK_EQ(full_claim(ring), RING_BROKEN);
}
TEST(a_broken_head_stays_broken_when_it_is_mended) {
    struct ring *ring = ring_at(0);
    atomic_store(&ring->consumer.head, 8);
    CHECK_EQ(full_claim(ring), RING_BROKEN);
    atomic_store(&ring->consumer.head, CAPACITY);
    CHECK_EQ(put(ring, 0, 1), RING_BROKEN);
}

/* ---- another life in the slot ---- */

TEST(a_successor_goes_on_where_its_predecessor_published) {
    struct ring *ring = ring_at(0);
    (void)one_record(ring);
    CHECK_EQ(put(ring, 10, 66), RING_OK); /* claimed, never published */
    ring_out_adopt(&ring->out, 3);
    CHECK_EQ(put(ring, 20, 2), RING_OK);
    ring_publish(&ring->out);
    get(ring, 64, 1);
    get(ring, 20, 2);
    CHECK_EQ(peek(ring), RING_EMPTY);
}

TEST(a_successor_of_garbage_begins_beyond_it_and_its_reader_follows) {
    struct ring *ring = ring_at(0);
    one_record(ring)->length = 1;
    check_broken(ring);
    atomic_store(&ring->producer.tail, 7);
    ring_out_adopt(&ring->out, 3);
    CHECK_EQ(put(ring, 20, 2), RING_OK);
    ring_publish(&ring->out);
    check_broken(ring);
    CHECK_EQ(ring_in_restart(&ring->in, 5), RING_EMPTY); /* not there yet */
    CHECK_EQ(ring_in_restart(&ring->in, 3), RING_OK);
    get(ring, 20, 2);
}

TEST(garbage_of_the_generation_that_is_there_is_met_again) {
    struct ring *ring = ring_at(0);
    ring_out_adopt(&ring->out, 3);
    one_record(ring)->length = 1;
    check_broken(ring);
    CHECK_EQ(ring_in_restart(&ring->in, 3), RING_OK);
    check_broken(ring);
}

TEST(a_reader_that_began_beyond_its_producer_comes_back_to_where_that_one_began) {
    struct ring *ring = ring_at(0);
    ring->in.head = ring->in.tail_seen = UINT64_MAX - 15; /* a spoilt tail was there when it began */
    ring_out_adopt(&ring->out, 3);
    CHECK_EQ(put(ring, 20, 2), RING_OK);
    ring_publish(&ring->out);
    check_broken(ring);
    CHECK_EQ(ring_in_restart(&ring->in, 3), RING_OK);
    get(ring, 20, 2);
}

TEST(a_producer_that_dies_before_any_store_shows_nothing_half) {
    for (volatile uint64_t store = 1;; store++) {
        struct ring *ring = ring_at(CAPACITY - 64);
        bool died = DIES_BEFORE_STORE(store, {
            (void)put(ring, 100, 1);
            (void)put(ring, 50, 2);
            ring_publish(&ring->out);
            (void)put(ring, 10, 3);
            ring_publish(&ring->out);
        });
        ring_out_adopt(&ring->out, 3);
        CHECK_EQ(put(ring, 30, 4), RING_OK);
        ring_publish(&ring->out);
        if (store > 1) {
            get(ring, 100, 1);
            get(ring, 50, 2);
        }
        if (store > 2)
            get(ring, 10, 3);
        get(ring, 30, 4);
        CHECK_EQ(peek(ring), RING_EMPTY);
        if (!died)
            break;
    }
}

/* ---- producer and consumer at once ---- */

static uint32_t thread_records(void) {
    const char *asked = getenv("RING_RECORDS");
    return asked == NULL ? 200000u : (uint32_t)strtoul(asked, NULL, 10);
}

static void *produce(void *argument) {
    struct ring *ring = argument;
    uint32_t count = thread_records();
    for (uint32_t i = 0; i < count;) {
        enum ring_status status = put(ring, i % 120, (uint8_t)i);
        if (status == RING_OK) {
            i++;
            if (i % 3 == 0 || i == count)
                ring_publish(&ring->out);
        } else {
            ring_publish(&ring->out);
            sched_yield();
        }
    }
    return NULL;
}

TEST(two_threads_pass_records_in_order_and_whole) {
    struct ring *ring = ring_at(NEAR_2_32);
    uint32_t count = thread_records();
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, produce, ring), 0);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < count;) {
        struct record header;
        const uint8_t *body;
        enum ring_status status = ring_peek(&ring->in, &header, &body);
        if (status == RING_OK) {
            wrong += header.sequence != (uint8_t)i || header.length != sizeof header + i % 120;
            for (uint32_t k = 0; k < i % 120 && wrong == 0; k++)
                wrong += body[k] != (uint8_t)i;
            ring_advance(&ring->in, &header);
            if (++i % 5 == 0)
                ring_release(&ring->in);
        } else if (status == RING_EMPTY) {
            ring_release(&ring->in);
            sched_yield();
        } else {
            wrong++;
            break;
        }
        if (wrong != 0)
            break;
    }
    if (wrong == 0)
        pthread_join(thread, NULL);
    CHECK_EQ(wrong, 0);
}
