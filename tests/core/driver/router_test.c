/* Routing, joining, being behind, and what a router's death between any two stores leaves. */
#include <string.h>

#include "world.h"

#define RING 4096u
#define BIG_RING 65536u

/* Workers 1 to `count` have joined `name`; whoever joined is told the number it starts behind. */
static struct world *joined(uint32_t ring_bytes, uint32_t count, const char *name) {
    struct world *world = world_new(ring_bytes, 64);
    for (uint32_t slot = 1; slot <= count; slot++)
        world_start_worker(world, slot);
    world_settle(world);
    for (uint32_t slot = 1; slot <= count; slot++)
        CHECK_EQ(world_join(world, slot, name, 0, 100 + slot), RING_OK);
    world_settle(world);
    for (uint32_t slot = 1; slot <= count; slot++) {
        CHECK_EQ(world->worker[slot].joined, 1);
        CHECK_EQ(world->worker[slot].joined_token, 100 + slot);
        CHECK_EQ(world->worker[slot].joined_status, JOIN_OK);
    }
    CHECK_EQ(world_members(world, name), count);
    return world;
}

TEST(a_message_reaches_every_worker_that_joined_and_no_other) {
    struct world *world = joined(RING, 2, "news");
    world_start_worker(world, 3);
    CHECK_EQ(world_send(world, 1, "news", 7, 10), RING_OK);
    world_settle(world);
    world_check_run(&world->worker[1], 1, 1);
    world_check_run(&world->worker[2], 1, 1);
    CHECK_EQ(world->worker[2].seen[0].payload, 7);
    CHECK_EQ(world->worker[3].seen_count, 0);
    world_free(world);
}

TEST(all_see_one_order_whoever_sends) {
    struct world *world = joined(BIG_RING, 3, "news");
    for (uint32_t i = 0; i < 300; i++) {
        CHECK_EQ(world_send(world, 1 + i % 3, "news", i, i % 200), RING_OK);
        if (i % 40 == 0)
            world_turn(world);
    }
    world_settle(world);
    for (uint32_t slot = 1; slot <= 3; slot++) {
        world_check_run(&world->worker[slot], 1, 300);
        for (uint32_t i = 0; i < 300; i++)
            CHECK_EQ(world->worker[slot].seen[i].payload, world->worker[1].seen[i].payload);
    }
    world_free(world);
}

TEST(who_joins_later_starts_behind_what_was_sent) {
    struct world *world = joined(RING, 1, "news");
    for (uint32_t i = 0; i < 5; i++)
        CHECK_EQ(world_send(world, 1, "news", i, 4), RING_OK);
    world_start_worker(world, 2);
    CHECK_EQ(world_join(world, 2, "news", 0, 9), RING_OK);
    world_settle(world);
    uint64_t start = world->worker[2].joined_sequence;
    CHECK_EQ(world_send(world, 1, "news", 6, 4), RING_OK);
    world_settle(world);
    CHECK(world->worker[2].seen_count >= 1);
    world_check_run(&world->worker[2], start + 1, world->worker[2].seen_count);
    world_free(world);
}

TEST(the_last_to_leave_frees_the_row) {
    struct world *world = joined(RING, 2, "news");
    CHECK_EQ(world_leave(world, 1, "news"), RING_OK);
    world_settle(world);
    CHECK_EQ(world_members(world, "news"), 1);
    CHECK_EQ(world_leave(world, 2, "news"), RING_OK);
    world_settle(world);
    CHECK(!world_is_row(world, "news"));
    world_free(world);
}

TEST(a_message_to_a_row_of_another_life_goes_nowhere) {
    struct world *world = joined(RING, 1, "news");
    uint32_t row = world->worker[1].joined_row, generation = world->worker[1].joined_row_generation;
    CHECK_EQ(world_leave(world, 1, "news"), RING_OK);
    CHECK_EQ(world_join(world, 1, "news", 0, 5), RING_OK);
    world_settle(world);
    CHECK_EQ(endpoint_message(&world->worker[1].endpoint, row, generation, "old", 3), RING_OK);
    CHECK_EQ(world_send(world, 1, "news", 8, 4), RING_OK);
    world_settle(world);
    world_check_run(&world->worker[1], 1, 1);
    CHECK_EQ(world->worker[1].seen[0].payload, 8);
    world_free(world);
}

TEST(a_bad_name_is_answered_and_harms_nobody) {
    struct world *world = joined(RING, 1, "news");
    CHECK_EQ(world_join(world, 1, "new\ns", 0, 77), RING_OK);
    world_settle(world);
    CHECK_EQ(world->worker[1].joined_token, 77);
    CHECK_EQ(world->worker[1].joined_status, JOIN_BAD_NAME);
    CHECK(!world->router.lane[1].quarantined);
    world_free(world);
}

TEST(a_full_table_is_told_to_that_caller) {
    struct world *world = world_new(BIG_RING, 16);
    world_start_worker(world, 1);
    world_settle(world);
    for (uint32_t i = 0; i < 17; i++) {
        char name[8];
        snprintf(name, sizeof name, "r%u", i);
        CHECK_EQ(world_join(world, 1, name, 0, i), RING_OK);
    }
    world_settle(world);
    CHECK_EQ(world->worker[1].joined, 17);
    CHECK_EQ(world->worker[1].joined_status, JOIN_TABLE_FULL);
    world_free(world);
}

static uint32_t join_many(struct world *world, uint32_t slot, const char *letter, uint32_t count) {
    uint32_t done = 0;
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%s%u", letter, i);
        CHECK_EQ(world_join(world, slot, name, 0, i), RING_OK);
        world_settle(world);
        done += world->worker[slot].joined_status == JOIN_OK;
    }
    return done;
}

TEST(a_worker_that_takes_all_it_can_leaves_rows_to_the_others) {
    struct world *world = world_new(BIG_RING, 64);
    world_start_worker(world, 1);
    world_start_worker(world, 2);
    world_settle(world);
    CHECK_EQ(join_many(world, 1, "a", 80), 56);
    CHECK_EQ(join_many(world, 2, "b", 10), 8);
    for (uint32_t i = 0; i < 40; i++) { /* who gives back what it took may take again */
        char name[16];
        snprintf(name, sizeof name, "a%u", i);
        CHECK_EQ(world_leave(world, 1, name), RING_OK);
    }
    world_settle(world);
    CHECK_EQ(world->router.conduct[1].made, 16);
    CHECK_EQ(join_many(world, 1, "c", 60), 32);
    CHECK_EQ(world->router.conduct[1].made, 48);
    world_free(world);
}

TEST(rows_of_a_dead_worker_are_nobodys_and_a_new_router_counts_them_again) {
    struct world *world = world_new(BIG_RING, 64);
    for (uint32_t slot = 1; slot <= 2; slot++)
        world_start_worker(world, slot);
    world_settle(world);
    CHECK_EQ(join_many(world, 1, "a", 20), 20);
    CHECK_EQ(join_many(world, 2, "a", 10), 10); /* rows that are there */
    CHECK_EQ(world->router.conduct[2].made, 0);
    world_forget_router(world);
    world_start_router(world);
    world_settle(world);
    CHECK_EQ(world->router.conduct[1].made, 20);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    CHECK_EQ(world->router.table.used, 10);
    world_start_worker(world, 1);
    world_settle(world);
    CHECK_EQ(world->router.conduct[1].made, 0);
    CHECK_EQ(join_many(world, 1, "b", 80), 46);
    CHECK_EQ(join_many(world, 2, "c", 80), 8);
    world_free(world);
}

/* ---- prefixes ---- */

static void answer_prefix(struct world *world, uint32_t slot) {
    struct router_event event;
    while (router_next_event(&world->router, &event))
        if (event.type == EVENT_PREFIX && event.slot == slot) {
            uint32_t rows[64], count = 0;
            for (uint32_t row = 0; row < 64; row++)
                rows[count++] = row; /* more than match: the core looks itself */
            router_prefix(&world->router, slot, rows, count);
        }
}

TEST(who_joined_a_prefix_gets_channels_that_are_there_and_those_that_come) {
    struct world *world = joined(RING, 1, "news:old");
    world_start_worker(world, 2);
    world_settle(world);
    CHECK_EQ(world_join(world, 2, "news:", FLAG_PREFIX, 3), RING_OK);
    world_turn(world);
    answer_prefix(world, 2);
    world_settle(world);
    CHECK_EQ(world->worker[2].joined_status, JOIN_OK);
    CHECK_EQ(world_members(world, "news:old"), 2);
    CHECK_EQ(world_members(world, "news:new"), 1);
    CHECK_EQ(world_join(world, 1, "news:new", FLAG_OPEN, 4), RING_OK);
    world_settle(world);
    CHECK_EQ(world_send(world, 1, "news:new", 5, 4), RING_OK);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 1);
    CHECK_EQ(world->worker[1].seen_count, 0);
    world_free(world);
}

TEST(a_row_that_only_prefixes_keep_stays_while_a_message_of_it_waits_in_a_spill) {
    struct world *world = world_new(RING, 16);
    world_start_worker(world, 1);
    world_start_worker(world, 2);
    world_settle(world);
    CHECK_EQ(world_join(world, 2, "p:", FLAG_PREFIX, 3), RING_OK);
    world_turn(world);
    answer_prefix(world, 2);
    CHECK_EQ(world_join(world, 1, "p:x", FLAG_OPEN, 4), RING_OK);
    world_settle(world);
    for (uint32_t i = 0; i < 20; i++) { /* worker 2 does not read */
        CHECK_EQ(world_send(world, 1, "p:x", i, 900), RING_OK);
        world_turn(world);
    }
    CHECK(world->router.lane[2].behind);
    struct row_view view;
    const uint8_t *name = (const uint8_t *)"p:x";
    CHECK_EQ(table_look(&world->segment, name, 3, table_hash(&world->segment, name, 3, false), &view), TABLE_OK);
    world->now_ns += 1000000000; /* idle for long, as far as the router's clock and heartbeats tell */
    for (uint32_t slot = 1; slot <= 2; slot++)
        atomic_store(&segment_worker(&world->segment, slot)->heartbeat_ns, world->now_ns);
    for (uint32_t i = 0; i < 40; i++) { /* more rows than there are */
        char other[8];
        snprintf(other, sizeof other, "r%u", i);
        (void)world_join(world, 1, other, 0, i);
        world_turn(world);
        world_drain(world, 1);
    }
    CHECK_EQ(world->worker[1].joined_status, JOIN_TABLE_FULL);
    uint8_t kept[256];
    uint32_t length;
    uint64_t epoch;
    CHECK_EQ(table_name(&world->segment, view.row, view.generation, kept, &length, &epoch), TABLE_OK);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 20);
    CHECK_EQ(world->router.shadow[view.row].waiting, 0);
    world_free(world);
}

/* ---- who is behind ---- */

TEST(who_does_not_read_gets_everything_in_order_later) {
    struct world *world = joined(RING, 2, "news");
    for (uint32_t i = 0; i < 200; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, 500), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    world_check_run(&world->worker[1], 1, 200);
    CHECK(world->router.lane[2].behind);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 200);
    CHECK(!world->router.lane[2].behind);
    CHECK_EQ(world->router.spilling, 0);
    CHECK_EQ(atomic_load(&segment_mark(&world->segment, 2)->spilled), 0);
    world_free(world);
}

TEST(a_small_message_does_not_overtake_a_large_one_that_is_spilled) {
    struct world *world = joined(RING, 2, "news");
    for (uint32_t i = 0; i < 8; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, i == 4 ? 900 : i < 4 ? 850 : 10), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    CHECK(world->router.lane[2].behind);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 8);
    world_free(world);
}

TEST(beyond_the_bound_the_newest_is_dropped_and_told_with_its_number) {
    struct world *world = joined(RING, 2, "news");
    world->router.limits.spill_soft_bytes = world->router.limits.spill_hard_bytes = 10000;
    for (uint32_t i = 0; i < 100; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, 500), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    world_settle(world);
    const struct world_worker *late = &world->worker[2];
    CHECK(late->seen_count < 100);
    world_check_run(late, 1, late->seen_count);
    CHECK_EQ(late->gaps, 1);
    CHECK_EQ(late->gap_sequence, 100);
    CHECK_EQ(atomic_load(&world->router.control->count.dropped), 100 - late->seen_count);
    world_free(world);
}

/* ---- workers that break the rules ---- */

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
    struct world *world = joined(RING, 2, "news");
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
    struct world *world = joined(RING, 1, "news");
    CHECK_EQ(endpoint_message(&world->worker[1].endpoint, UINT32_MAX, 1, "x", 1), RING_OK);
    CHECK_EQ(endpoint_message(&world->worker[1].endpoint, 63, 1, "x", 1), RING_OK);
    world_settle(world);
    CHECK_EQ(atomic_load(&world->router.control->count.stale), 2);
    CHECK(!world->router.lane[1].quarantined);
    world_free(world);
}

TEST(a_reader_with_a_cursor_that_cannot_be_is_quarantined) {
    struct world *world = joined(RING, 2, "news");
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
    struct world *world = joined(RING, 2, "news");
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

TEST(who_accuses_one_after_the_other_is_quarantined_itself) {
    struct world *world = joined(RING, 3, "news");
    forge_head(world, 2, 1);
    check_quarantined(world, 2, BROKEN_DIRECT);
    endpoint_report(&world->worker[3].endpoint, 2); /* what is known already is nobody's accusation */
    world_turn(world);
    CHECK_EQ(world->router.conduct[3].accusations, 0);
    forge_head(world, 3, 1);
    check_quarantined(world, 1, BROKEN_DIRECT);
    CHECK(!world->router.lane[3].quarantined);
    world_free(world);
}

TEST(a_complaint_without_ground_ends_nobody) {
    struct world *world = joined(RING, 2, "news");
    endpoint_report(&world->worker[1].endpoint, 2);
    world_settle(world);
    CHECK(!world->router.lane[2].quarantined);
    world_free(world);
}

/* ---- burial ---- */

TEST(what_the_dead_had_committed_is_routed_and_its_subscriptions_end) {
    struct world *world = joined(RING, 2, "news");
    for (uint32_t i = 0; i < 5; i++)
        CHECK_EQ(world_send(world, 1, "news", i, 8), RING_OK);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 5);
    CHECK_EQ(world->worker[2].gone, 1);
    CHECK_EQ(world_members(world, "news"), 1);
    world_start_worker(world, 1);
    world_settle(world);
    CHECK_EQ(world->worker[1].seen_count, 0);
    CHECK_EQ(world_members(world, "news"), 1);
    world_free(world);
}

TEST(a_worker_that_died_before_any_router_saw_it_is_buried_whole) {
    struct world *world = joined(RING, 1, "news");
    world_start_worker(world, 2);
    CHECK_EQ(world_join(world, 2, "brief", 0, 1), RING_OK);
    CHECK_EQ(world_send(world, 2, "news", 9, 8), RING_OK);
    world_kill_worker(world, 2);
    world_bury(world, 2);
    world_settle(world);
    world_check_run(&world->worker[1], 1, 1);
    CHECK(!world_is_row(world, "brief"));
    world_free(world);
}

/* The dead worker's subscriptions end and its words come through, whatever store the router dies before, again and
 * again until one gets through. */
TEST(a_burial_is_finished_whatever_store_the_router_dies_before) {
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = joined(RING, 3, "news");
        CHECK_EQ(world_join(world, 1, "alone", 0, 1), RING_OK);
        CHECK_EQ(world_join(world, 1, "news:long", 0, 2), RING_OK);
        world_settle(world);
        for (uint32_t i = 0; i < 5; i++)
            CHECK_EQ(world_send(world, 1, "news", i, 8), RING_OK);
        CHECK_EQ(world_join(world, 1, "late", 0, 1), RING_OK);
        world_kill_worker(world, 1);
        bool died = DIES_BEFORE_STORE(store, world_bury(world, 1));
        if (died) {
            world_forget_router(world);
            world_start_router(world);
            world_bury(world, 1); /* the supervisor asks again whoever has not answered */
        }
        world_settle(world);
        for (uint32_t slot = 2; slot <= 3; slot++) {
            world_check_run(&world->worker[slot], 1, 5);
            CHECK(world->worker[slot].gone >= 1);
        }
        CHECK_EQ(world_members(world, "news"), 2);
        CHECK(!world_is_row(world, "alone"));
        CHECK(!world_is_row(world, "news:long"));
        CHECK(!world_is_row(world, "late"));
        CHECK_EQ(world->router.table.used, 1);
        world_free(world);
        if (!died)
            break;
    }
}

/* ---- the router's death ---- */

static uint64_t router_deaths;

static void send_some(struct world *world) {
    for (uint32_t i = 0; i < 9; i++) {
        CHECK_EQ(world_send(world, 1 + i % 3, i % 4 == 3 ? "talk" : "news", i, 20 + i), RING_OK);
        if (i == 4)
            CHECK_EQ(world_join(world, 4, "news", 0, 55), RING_OK);
        if (i == 6)
            CHECK_EQ(world_leave(world, 2, "talk"), RING_OK);
    }
}

static void check_orders(struct world *world) {
    for (uint32_t slot = 1; slot <= 4; slot++) {
        const struct world_worker *worker = &world->worker[slot];
        uint64_t last[64] = {0};
        for (uint32_t i = 0; i < worker->seen_count; i++) {
            const struct seen *seen = &worker->seen[i];
            if (last[seen->row] != 0)
                CHECK_EQ(seen->sequence, last[seen->row] + 1);
            last[seen->row] = seen->sequence;
            if (slot == 1) /* joined both from the start: gets all, from 1 on */
                continue;
            for (uint32_t k = 0; k < world->worker[1].seen_count; k++)
                if (world->worker[1].seen[k].row == seen->row && world->worker[1].seen[k].sequence == seen->sequence)
                    CHECK_EQ(world->worker[1].seen[k].payload, seen->payload);
        }
    }
    CHECK_EQ(world->worker[1].seen_count, 9);
    CHECK_EQ(world->worker[3].seen_count, 9);
}

static struct world *busy(void) {
    struct world *world = joined(RING, 3, "news");
    for (uint32_t slot = 1; slot <= 3; slot++)
        CHECK_EQ(world_join(world, slot, "talk", 0, 200 + slot), RING_OK);
    world_start_worker(world, 4);
    world_settle(world);
    send_some(world);
    return world;
}

static void finish(struct world *world) {
    world_settle(world);
    check_orders(world);
    CHECK_EQ(world_members(world, "news"), 4);
    CHECK_EQ(world_members(world, "talk"), 2);
    for (uint32_t slot = 1; slot <= 4; slot++)
        CHECK_EQ(world->worker[slot].gaps, 0);
    CHECK(world->worker[4].joined >= 1);
    world_free(world);
}

TEST(a_router_that_dies_before_any_store_is_succeeded_without_loss_or_double) {
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = busy();
        bool died = DIES_BEFORE_STORE(store, world_turn(world));
        if (died) {
            router_deaths++;
            world_forget_router(world);
            world_start_router(world);
        }
        finish(world);
        if (!died)
            break;
    }
    CHECK(router_deaths > 60);
}

TEST(a_successor_that_dies_before_any_store_is_succeeded_too) {
    volatile uint64_t deaths = 0;
    for (volatile uint64_t first = 1;; first++) {
        bool ended = false;
        for (volatile uint64_t second = 1;; second += first % 7 == 0 ? 1 : 9) {
            struct world *world = busy();
            ended = !DIES_BEFORE_STORE(first, world_turn(world));
            if (ended) {
                finish(world);
                break;
            }
            world_forget_router(world);
            bool died = DIES_BEFORE_STORE(second, {
                world_start_router(world);
                world_turn(world);
            });
            if (died) {
                deaths++;
                world_forget_router(world);
                world_start_router(world);
            }
            finish(world);
            if (!died)
                break;
        }
        if (ended)
            break;
    }
    CHECK(deaths > 1000);
}

/* Somebody reads late: a part is spilled when the router dies.  Then every number comes or is told as lost. */
TEST(what_a_dead_router_had_spilled_is_told_as_a_gap) {
    for (volatile uint64_t store = 1;; store += 3) {
        struct world *world = joined(RING, 2, "news");
        bool died = false;
        for (volatile uint32_t i = 0; i < 30; i++) {
            CHECK_EQ(world_send(world, 1, "news", i, 400), RING_OK);
            if (i == 20)
                died = DIES_BEFORE_STORE(store, {
                    world_turn(world);
                    world_drain(world, 2);
                    world_turn(world);
                });
            else
                world_turn(world);
            if (died && i == 20) {
                world_forget_router(world);
                world_start_router(world);
            }
            world_drain(world, 1);
        }
        world_settle(world);
        world_check_run(&world->worker[1], 1, 30);
        const struct world_worker *late = &world->worker[2];
        for (uint32_t i = 1; i < late->seen_count; i++)
            CHECK(late->seen[i].sequence > late->seen[i - 1].sequence);
        uint64_t last = late->seen[late->seen_count - 1].sequence;
        CHECK_EQ(last > late->gap_sequence ? last : late->gap_sequence, 30);
        if (late->seen_count < 30)
            CHECK(late->gaps > 0);
        CHECK_EQ(late->untold, 0); /* and told before the next one came */
        world_free(world);
        if (!died)
            break;
    }
}

TEST(a_worker_that_attached_unseen_is_announced_by_the_next_router) {
    struct world *world = joined(RING, 1, "news");
    world_forget_router(world);
    world_start_worker(world, 2);
    world_start_router(world);
    world_settle(world);
    CHECK(world->worker[1].here >= 1);
    CHECK_EQ(world->worker[1].resync, 1);
    CHECK_EQ(world_join(world, 2, "news", 0, 2), RING_OK);
    world_settle(world);
    CHECK_EQ(world_members(world, "news"), 2);
    world_free(world);
}

TEST(what_a_parked_router_had_spilled_is_imported_in_order) {
    struct world *world = joined(RING, 2, "news");
    for (uint32_t i = 0; i < 50; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, 300), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    struct spill *spill = &world->router.lane[2].spill;
    uint64_t size = spill->bytes;
    uint8_t *copy = malloc(size);
    spill_copy(spill, copy);
    world_forget_router(world);
    bool imports[SLOTS_MAX] = {[2] = true};
    CHECK(router_open(&world->router, &world->segment, world->eventfds, &world->limits, imports, world->now_ns,
                      world->now_ns));
    world->routing = true;
    CHECK(fanout_import(&world->router, 2, copy, size));
    CHECK(!fanout_import(&world->router, 2, copy, 20));
    CHECK_EQ(world_send(world, 1, "news", 50, 300), RING_OK);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 51);
    CHECK_EQ(world->worker[2].gaps, 0);
    free(copy);
    world_free(world);
}

TEST(a_row_emptied_by_a_router_that_died_is_freed_by_the_next) {
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = joined(RING, 1, "news");
        CHECK_EQ(world_leave(world, 1, "news"), RING_OK);
        CHECK_EQ(world_join(world, 1, "other", FLAG_OPEN, 1), RING_OK);
        bool died = DIES_BEFORE_STORE(store, world_turn(world));
        if (died) {
            world_forget_router(world);
            world_start_router(world);
        }
        world_settle(world);
        CHECK_EQ(world->router.table.used, 0);
        world_free(world);
        if (!died)
            break;
    }
}
