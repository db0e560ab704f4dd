/* Workers that break the rules: what the router finds, and that nobody else is harmed. */
#include <string.h>

#include "world.h"

#define RING 4096u

static void check_quarantined(struct world *world, uint32_t slot, uint64_t reason) {
    struct router_event event;
    while (router_next_event(&world->router, &event))
        if (event.type == EVENT_QUARANTINE) {
            CHECK_EQ(event.slot, slot);
            CHECK_EQ(event.detail, reason);
            return;
        }
    CHECK(!"no quarantine");
}

static struct record *raw(struct world *world, uint32_t slot, uint8_t type, uint32_t body) {
    struct record *place;
    struct endpoint *endpoint = &world->worker[slot].endpoint;
    CHECK_EQ(ring_claim(&endpoint->up, sizeof *place + body, &place), RING_OK);
    *place = (struct record){.length = (uint32_t)sizeof *place + body, .type = type, .source = endpoint->id};
    return place;
}

static void check_offence(void (*spoil)(struct record *), uint64_t reason) {
    struct world *world = world_joined(RING, 2, "news");
    CHECK_EQ(world_send(world, 1, "news", 1, 8), RING_OK);
    spoil(raw(world, 1, RECORD_MESSAGE, 16));
    ring_publish(&world->worker[1].endpoint.up);
    CHECK_EQ(world_send(world, 2, "news", 2, 8), RING_OK);
    world_settle(world);
    check_quarantined(world, 1, reason);
    world_check_run(&world->worker[2], 1, 2); /* what was said before counts, others are undisturbed */
    /* Nothing more is read of it, neither by this router nor by the next. */
    world_forget_router(world);
    world_start_router(world);
    check_quarantined(world, 1, reason);
    CHECK(world->router.lane[1].quarantined);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 2);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    world_start_worker(world, 1);
    world_settle(world);
    CHECK(!world->router.lane[1].quarantined);
    CHECK_EQ(world_send(world, 1, "news", 3, 8), RING_OK);
    world_settle(world);
    CHECK_EQ(world->worker[2].seen_count, 3);
    world_free(world);
}

static void spoil_length(struct record *record) { record->length = 5; }
static void spoil_source(struct record *record) { record->source = WORKER_ID(2, 1); }
static void spoil_life(struct record *record) { record->source += 2; }
static void spoil_type(struct record *record) { record->type = RECORD_TYPES; }
static void spoil_way(struct record *record) { record->type = RECORD_JOINED; }
static void spoil_flags(struct record *record) { record->flags = 128; }
static void spoil_name(struct record *record) { record->name_length = 17; }
static void spoil_large(struct record *record) { record->flags = FLAG_LARGE; }

TEST(a_length_that_cannot_be_is_quarantined) { check_offence(spoil_length, BROKEN_RING); }
TEST(somebody_elses_name_is_quarantined) { check_offence(spoil_source, BROKEN_SOURCE); }
TEST(another_life_of_ones_own_name_is_quarantined) { check_offence(spoil_life, BROKEN_SOURCE); }
TEST(an_unknown_type_is_quarantined) { check_offence(spoil_type, BROKEN_RECORD); }
TEST(a_type_that_goes_down_is_quarantined_when_it_comes_up) { check_offence(spoil_way, BROKEN_RECORD); }
TEST(an_unknown_flag_is_quarantined) { check_offence(spoil_flags, BROKEN_RECORD); }
TEST(a_name_longer_than_its_record_is_quarantined) { check_offence(spoil_name, BROKEN_RECORD); }
TEST(a_large_message_without_its_payload_is_quarantined) { check_offence(spoil_large, BROKEN_RECORD); }

TEST(a_row_that_does_not_exist_is_counted_as_stale) {
    struct world *world = world_joined(RING, 1, "news");
    CHECK_EQ(endpoint_message(&world->worker[1].endpoint, UINT32_MAX, 1, "x", 1), RING_OK);
    CHECK_EQ(endpoint_message(&world->worker[1].endpoint, 63, 1, "x", 1), RING_OK);
    world_settle(world);
    CHECK_EQ(atomic_load(&world->router.control->count.stale), 2);
    CHECK(!world->router.lane[1].quarantined);
    world_free(world);
}

TEST(a_reader_with_a_cursor_that_cannot_be_is_quarantined) {
    struct world *world = world_joined(RING, 2, "news");
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(world_send(world, 1, "news", i, 900), RING_OK);
    atomic_store(&segment_worker(&world->segment, 2)->down.head, 1ull << 40);
    world_turn(world);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(world_send(world, 1, "news", i, 900), RING_OK);
    world_turn(world);
    world_drain(world, 1);
    world_turn(world);
    check_quarantined(world, 2, BROKEN_HEAD);
    world_free(world);
}

TEST(a_broken_direct_ring_is_reported_and_its_writer_quarantined) {
    struct world *world = world_joined(RING, 2, "news");
    struct endpoint *one = &world->worker[1].endpoint;
    struct outgoing *peer = endpoint_peer(one, 2, world->worker[2].generation);
    CHECK(peer != NULL);
    struct record header = {.length = sizeof header, .type = RECORD_ALERT, .flags = FLAG_FIRST | FLAG_LAST}, got;
    CHECK_EQ(endpoint_put(one, peer, &header, "", ""), RING_OK); /* a good one before, not given back when it is seen */
    struct record *place;
    CHECK_EQ(ring_claim(&peer->ring, sizeof *place, &place), RING_OK);
    *place = (struct record){.length = sizeof *place, .type = RECORD_JOINED, .source = one->id};
    ring_publish(&peer->ring);
    const uint8_t *body;
    struct endpoint *two = &world->worker[2].endpoint;
    CHECK_EQ(endpoint_next_direct(two, 1, &got, &body), RING_OK);
    ring_advance(&two->in[1].ring, &got);
    CHECK_EQ(endpoint_next_direct(two, 1, &got, &body), RING_BROKEN);
    place->type = RECORD_ALERT; /* mended after the fact: not believed */
    CHECK_EQ(endpoint_next_direct(two, 1, &got, &body), RING_BROKEN);
    place->type = RECORD_JOINED;
    world_turn(world);
    check_quarantined(world, 1, BROKEN_DIRECT);
    world_free(world);
}

static void forge_head(struct world *world, uint32_t from, uint32_t to) {
    struct endpoint *sender = &world->worker[from].endpoint;
    struct outgoing *peer = endpoint_peer(sender, to, world->worker[to].generation);
    CHECK(peer != NULL);
    struct record *place;
    CHECK_EQ(ring_claim(&peer->ring, sizeof *place + 96, &place), RING_OK);
    *place = (struct record){.length = sizeof *place + 96, .type = RECORD_ALERT, .source = sender->id};
    place->flags = FLAG_FIRST | FLAG_LAST;
    memset(place + 1, 0xff, 96);
    ring_publish(&peer->ring);
    atomic_store(&segment_direct_head(&world->segment, from, to)->head, sizeof *place);
    endpoint_report(&world->worker[to].endpoint, from);
    world_turn(world);
}

TEST(who_accuses_a_second_one_is_believed_a_minute_later) {
    struct world *world = world_joined(RING, 3, "news");
    forge_head(world, 2, 1);
    check_quarantined(world, 2, BROKEN_DIRECT);
    endpoint_report(&world->worker[3].endpoint, 2); /* what is known already is nobody's accusation */
    world_turn(world);
    CHECK_EQ(world->router.conduct[3].accused, 0);
    forge_head(world, 3, 1);
    CHECK(!world->router.lane[1].quarantined && !world->router.lane[3].quarantined);
    world->now_ns += 61000000000ull;
    endpoint_report_again(&world->worker[1].endpoint);
    endpoint_report(&world->worker[1].endpoint, 3);
    world_turn(world);
    check_quarantined(world, 3, BROKEN_DIRECT);
    CHECK(!world->router.lane[1].quarantined);
    world_free(world);
}

/* A successor that has said nothing yet, and its reader's complaint of what the predecessor left. */
static void check_inherited(uint64_t tail_left, bool reader_begins_meanwhile) {
    struct world *world = world_joined(RING, 2, "news");
    atomic_store(&segment_direct_tail(&world->segment, 1, 2)->tail, tail_left);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    if (reader_begins_meanwhile) {
        world_kill_worker(world, 2);
        world_bury(world, 2);
        world_start_worker(world, 2);
    }
    world_start_worker(world, 1);
    endpoint_report(&world->worker[2].endpoint, 1);
    world_settle(world);
    struct endpoint *one = &world->worker[1].endpoint, *two = &world->worker[2].endpoint;
    struct record header = {.length = sizeof header, .type = RECORD_ALERT, .flags = FLAG_FIRST | FLAG_LAST}, got;
    const uint8_t *body;
    CHECK(endpoint_next_direct(two, 1, &got, &body) != RING_OK); /* it was called when that one came */
    for (uint32_t i = 0; i < 1000; i++) {                        /* more than the ring holds at once */
        struct outgoing *peer = endpoint_peer(one, 2, world->worker[2].generation);
        CHECK(peer != NULL);
        header.sequence = i;
        CHECK_EQ(endpoint_put(one, peer, &header, "", ""), RING_OK);
        CHECK_EQ(endpoint_next_direct(two, 1, &got, &body), RING_OK);
        CHECK_EQ(got.sequence, i);
        ring_advance(&two->in[1].ring, &got);
        endpoint_release_direct(two, 1);
    }
    world_settle(world);
    CHECK(!world->router.lane[1].quarantined && !world->router.lane[2].quarantined);
    world_free(world);
}

TEST(what_a_predecessor_left_is_nobody_elses_work) {
    static const uint64_t left[] = {7, 16, 64, RING, 1ull << 40, 1ull << 63, UINT64_MAX - 15, UINT64_MAX};
    for (uint32_t i = 0; i < sizeof left / sizeof *left; i++) {
        check_inherited(left[i], false);
        check_inherited(left[i], true);
    }
}

TEST(who_is_harmed_by_one_slot_again_and_again_is_believed) {
    struct world *world = world_joined(RING, 3, "news");
    for (int life = 0; life < 3; life++) {
        struct endpoint *bad = &world->worker[2].endpoint;
        struct outgoing *peer = endpoint_peer(bad, 1, world->worker[1].generation);
        CHECK(peer != NULL);
        struct record *place, header;
        CHECK_EQ(ring_claim(&peer->ring, sizeof *place, &place), RING_OK);
        *place = (struct record){.length = sizeof *place, .type = RECORD_JOINED, .source = bad->id};
        ring_publish(&peer->ring);
        const uint8_t *body;
        while (endpoint_next_direct(&world->worker[1].endpoint, 2, &header, &body) == RING_OK)
            ring_advance(&world->worker[1].endpoint.in[2].ring, &header);
        world_turn(world);
        check_quarantined(world, 2, BROKEN_DIRECT);
        CHECK(!world->router.lane[1].quarantined);
        world_kill_worker(world, 2);
        world_bury(world, 2);
        world_start_worker(world, 2);
        world_settle(world);
    }
    world_free(world);
}

TEST(a_complaint_without_ground_ends_nobody) {
    struct world *world = world_joined(RING, 2, "news");
    endpoint_report(&world->worker[1].endpoint, 2);
    world_settle(world);
    CHECK(!world->router.lane[2].quarantined);
    world_free(world);
}
