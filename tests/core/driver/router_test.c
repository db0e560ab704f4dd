/* Routing, joining, and being behind. */
#include <string.h>
#include <unistd.h>

#include "world.h"

#define RING 4096u
#define BIG_RING 65536u

TEST(a_message_reaches_every_worker_that_joined_and_no_other) {
    struct world *world = world_joined(RING, 2, "news");
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
    struct world *world = world_joined(BIG_RING, 3, "news");
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
    struct world *world = world_joined(RING, 1, "news");
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
    struct world *world = world_joined(RING, 2, "news");
    CHECK_EQ(world_leave(world, 1, "news"), RING_OK);
    world_settle(world);
    CHECK_EQ(world_members(world, "news"), 1);
    CHECK_EQ(world_leave(world, 2, "news"), RING_OK);
    world_settle(world);
    CHECK(!world_is_row(world, "news"));
    world_free(world);
}

TEST(a_message_to_a_row_of_another_life_goes_nowhere) {
    struct world *world = world_joined(RING, 1, "news");
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
    struct world *world = world_joined(RING, 1, "news");
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
    struct world *world = world_joined(RING, 1, "news:old");
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

/* Workers of whom the second has joined the prefix "p:", and the row "p:x", which that alone keeps. */
static struct world *world_prefixed(uint32_t rows, uint32_t workers) {
    struct world *world = world_new(RING, rows);
    for (uint32_t slot = 1; slot <= workers; slot++)
        world_start_worker(world, slot);
    world_settle(world);
    CHECK_EQ(world_join(world, 2, "p:", FLAG_PREFIX, 3), RING_OK);
    world_turn(world);
    answer_prefix(world, 2);
    CHECK_EQ(world_join(world, 1, "p:x", FLAG_OPEN, 4), RING_OK);
    world_settle(world);
    return world;
}

/* Every row has been idle for long, as far as the router's clock and heartbeats tell. */
static void pass_time(struct world *world, uint32_t workers) {
    world->now_ns += 1000000000;
    for (uint32_t slot = 1; slot <= workers; slot++)
        atomic_store(&segment_worker(&world->segment, slot)->heartbeat_ns, world->now_ns);
}

/* Everyone has its share of the table: all of it but one row. */
static struct world *world_full(uint32_t workers) {
    struct world *world = world_prefixed(16, workers);
    for (uint32_t i = 0; world->router.table.used < 15; i++) {
        char other[8];
        snprintf(other, sizeof other, "r%u", i);
        CHECK_EQ(world_join(world, 1 + i % 3, other, 0, i), RING_OK);
        world_settle(world);
    }
    pass_time(world, workers);
    return world;
}

TEST(a_row_that_only_prefixes_keep_stays_while_a_message_to_it_is_on_its_way) {
    for (uint32_t sender = 1; sender <= 3; sender += 2) {
        struct world *world = world_full(3);
        CHECK_EQ(world_send(world, sender, "p:x", 7, 100), RING_OK);
        CHECK_EQ(world_join(world, 4 - sender, "one more", 0, 50), RING_OK); /* read before it, or behind it */
        world_settle(world);
        world_check_run(&world->worker[2], 1, 1);
        CHECK_EQ(world->worker[4 - sender].joined_status, JOIN_TABLE_FULL);
        pass_time(world, 3);
        CHECK_EQ(world_join(world, 4 - sender, "one more", 0, 51), RING_OK);
        world_settle(world);
        CHECK_EQ(world->worker[4 - sender].joined_status, JOIN_OK); /* nothing is, and it goes */
        world_free(world);
    }
}

TEST(nor_does_it_go_while_one_is_of_a_worker_that_the_router_has_not_seen_yet) {
    struct world *world = world_full(3);
    world_turn(world);
    world_start_worker(world, 4);
    CHECK_EQ(world_send(world, 4, "p:x", 7, 100), RING_OK);
    CHECK_EQ(world_join(world, 1, "one more", 0, 50), RING_OK);
    world_turn(world);
    CHECK_EQ(world->router.live_count, 3);
    world_settle(world);
    CHECK_EQ(world->worker[1].joined_status, JOIN_TABLE_FULL);
    world_check_run(&world->worker[2], 1, 1);
    world_free(world);
}

TEST(where_long_names_lack_a_place_no_row_with_a_short_one_is_given_away) {
    const char *most = "a name with more bytes than a row of the table has room for, whatever the number of slots ";
    struct world *world = world_prefixed(1024, 2);
    for (uint32_t i = 0; world->router.table.free_long_count != 0; i++) {
        char other[128];
        snprintf(other, sizeof other, "%s%u", most, i);
        CHECK_EQ(world_join(world, 1, other, 0, i), RING_OK);
        world_settle(world);
    }
    pass_time(world, 2);
    CHECK_EQ(world_join(world, 1, most, 0, 50), RING_OK);
    world_settle(world);
    CHECK_EQ(world->worker[1].joined_status, JOIN_TABLE_FULL);
    CHECK(world_is_row(world, "p:x"));
    world_free(world);
}

TEST(a_row_that_only_prefixes_keep_stays_while_a_message_of_it_waits_in_a_spill) {
    struct world *world = world_prefixed(16, 2);
    for (uint32_t i = 0; i < 20; i++) { /* worker 2 does not read */
        CHECK_EQ(world_send(world, 1, "p:x", i, 900), RING_OK);
        world_turn(world);
    }
    CHECK(world->router.lane[2].behind);
    struct row_view view;
    const uint8_t *name = (const uint8_t *)"p:x";
    CHECK_EQ(table_look(&world->segment, name, 3, table_hash(&world->segment, name, 3, false), &view), TABLE_OK);
    pass_time(world, 2);
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

TEST(whoever_sleeps_has_been_called_when_the_turn_ends_and_once_for_all_of_it) {
    struct world *world = world_joined(RING, 3, "news");
    CHECK(endpoint_sleep(&world->worker[2].endpoint));
    for (uint32_t slot = 1; slot <= 3; slot++)
        notify_clear(world->eventfds[slot]);
    for (uint32_t i = 0; i < 9; i++)
        CHECK_EQ(world_send(world, 1, "news", i, 20), RING_OK);
    world_turn(world);
    uint64_t calls = 0;
    CHECK_EQ(read(world->eventfds[2], &calls, 8), 8);
    CHECK_EQ(calls, 1);
    CHECK_EQ(read(world->eventfds[3], &calls, 8), -1); /* who is awake looks by itself */
    endpoint_awake(&world->worker[2].endpoint);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 9);
    world_free(world);
}

/* ---- who is behind ---- */

TEST(who_does_not_read_gets_everything_in_order_later) {
    struct world *world = world_joined(RING, 2, "news");
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
    struct world *world = world_joined(RING, 2, "news");
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
    struct world *world = world_joined(RING, 2, "news");
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

TEST(above_the_soft_bound_the_newest_is_dropped_when_its_time_is_over) {
    struct world *world = world_joined(RING, 2, "news");
    const struct world_worker *late = &world->worker[2];
    shared64 *dropped = &world->router.control->count.dropped;
    world->router.limits.spill_soft_bytes = 10000;
    uint32_t sent = 0;
    for (; sent < 60; sent++) { /* well beyond it, and within its time: all is kept */
        CHECK_EQ(world_send(world, 1, "news", sent, 500), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    CHECK(world->router.lane[2].spill.bytes > 2 * world->router.limits.spill_soft_bytes);
    CHECK_EQ(atomic_load(dropped), 0);
    world->now_ns += world->router.limits.spill_soft_ns;
    uint64_t kept = world->router.lane[2].spill.bytes;
    for (; sent < 70; sent++) {
        CHECK_EQ(world_send(world, 1, "news", sent, 500), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    CHECK_EQ(world->router.lane[2].spill.bytes, kept);
    CHECK_EQ(atomic_load(dropped), 10);
    world_settle(world);
    world_check_run(late, 1, 60);
    CHECK_EQ(late->gaps, 1);
    CHECK_EQ(late->gap_sequence, 70);
    CHECK_EQ(world_send(world, 1, "news", sent, 500), RING_OK); /* who has caught up is as before */
    world_settle(world);
    CHECK_EQ(late->seen_count, 61);
    world_free(world);
}
