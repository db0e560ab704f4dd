/* Burials, and what a router's death between any two stores leaves. */
#include <string.h>
#include <unistd.h>

#include "world.h"

#define RING 4096u

/* ---- burial ---- */

TEST(what_the_dead_had_committed_is_routed_and_its_subscriptions_end) {
    struct world *world = world_joined(RING, 2, "news");
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
    struct world *world = world_joined(RING, 1, "news");
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

/* It may have died between its tail and its call: nobody armed knows of what it left. */
TEST(a_burial_calls_every_live_worker_asleep_or_not) {
    struct world *world = world_joined(RING, 3, "news");
    CHECK(endpoint_sleep(&world->worker[2].endpoint));
    for (uint32_t slot = 2; slot <= 3; slot++)
        notify_clear(world->eventfds[slot]);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    for (uint32_t slot = 2; slot <= 3; slot++) {
        uint64_t calls = 0;
        CHECK_EQ(read(world->eventfds[slot], &calls, 8), 8);
        CHECK(calls >= 1);
    }
    endpoint_awake(&world->worker[2].endpoint);
    world_free(world);
}

/* The dead worker's subscriptions end and its words come through, whatever store the router dies before, again and
 * again until one gets through. */
TEST(a_burial_is_finished_whatever_store_the_router_dies_before) {
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = world_joined(RING, 3, "news");
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
    struct world *world = world_joined(RING, 3, "news");
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

/* Its sender writes over a record that some have got already: nobody else gets it, and its number is not given again. */
TEST(a_number_given_before_a_router_died_is_not_given_again) {
    volatile uint32_t had_it = 0;
    const uint64_t span = record_span(sizeof(struct record) + 20);
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = world_joined(RING, 3, "news");
        CHECK_EQ(world_send(world, 1, "news", 1, 20), RING_OK);
        CHECK_EQ(world_send(world, 1, "news", 2, 20), RING_OK);
        uint64_t head = world->worker[1].endpoint.up.published - 2 * span;
        struct record *second = (struct record *)(segment_up_data(&world->segment, 1) + (head + span) % RING);
        bool died = DIES_BEFORE_STORE(store, world_turn(world));
        uint64_t current = atomic_load(&segment_router(&world->segment)->current);
        const struct op_log *op = &segment_router(&world->segment)->op[current & 1];
        bool open = died && current != 0 && op->begin == head &&
                    atomic_load(&segment_up_head(&world->segment, 1)->head) == head;
        if (open) {
            CHECK_EQ(second->type, RECORD_MESSAGE);
            second->row++;
        }
        if (died) {
            world_forget_router(world);
            world_start_router(world);
        }
        CHECK_EQ(world_send(world, 2, "news", 3, 20), RING_OK);
        world_settle(world);
        for (uint32_t slot = 1; open && slot <= 3; slot++) {
            const struct world_worker *worker = &world->worker[slot];
            CHECK(worker->seen_count == 2 || worker->seen_count == 3);
            had_it += worker->seen_count == 3;
            CHECK_EQ(worker->seen[worker->seen_count - 1].payload, 3);
            CHECK_EQ(worker->seen[worker->seen_count - 1].sequence, 3);
        }
        world_free(world);
        if (!died)
            break;
    }
    CHECK(had_it > 3);
}

/* Somebody reads late: a part is spilled when the router dies.  Then every number comes or is told as lost. */
TEST(what_a_dead_router_had_spilled_is_told_as_a_gap) {
    for (volatile uint64_t store = 1;; store += 3) {
        struct world *world = world_joined(RING, 2, "news");
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
    struct world *world = world_joined(RING, 1, "news");
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

/* The router is parked, another one goes on with what it had spilled for the slot; that, to be freed. */
static uint8_t *hand_over(struct world *world, uint32_t slot) {
    struct spill *spill = &world->router.lane[slot].spill;
    fanout_seal(&world->router, slot);
    uint64_t size = spill->bytes;
    uint8_t *copy = malloc(size);
    spill_copy(spill, copy);
    world_forget_router(world);
    bool imports[SLOTS_MAX] = {false};
    imports[slot] = true;
    CHECK(router_open(&world->router, &world->segment, world->eventfds, &world->limits, imports, world->now_ns,
                      world->now_ns));
    world->routing = true;
    CHECK(fanout_import(&world->router, slot, copy, size));
    return copy;
}

TEST(what_a_parked_router_had_spilled_is_imported_in_order) {
    struct world *world = world_joined(RING, 2, "news");
    for (uint32_t i = 0; i < 50; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, 300), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    uint8_t *copy = hand_over(world, 2);
    CHECK(!fanout_import(&world->router, 2, copy, 20));
    CHECK_EQ(world_send(world, 1, "news", 50, 300), RING_OK);
    world_settle(world);
    world_check_run(&world->worker[2], 1, 51);
    CHECK_EQ(world->worker[2].gaps, 0);
    free(copy);
    world_free(world);
}

TEST(what_a_parked_router_had_lost_is_told_by_the_next_though_nothing_more_comes) {
    struct world *world = world_joined(RING, 2, "news");
    world->limits.spill_hard_bytes = world->router.limits.spill_hard_bytes = 4096;
    for (uint32_t i = 0; i < 100; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, 300), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
    CHECK_EQ(world->router.lane[2].spill.note_count, 1);
    free(hand_over(world, 2));
    CHECK_EQ(world->router.lane[2].spill.note_count, 1); /* again, so that the row is not given away */
    world_settle(world);
    const struct world_worker *late = &world->worker[2];
    CHECK(late->seen_count < 100);
    CHECK_EQ(late->gap_sequence, 100);
    CHECK_EQ(late->untold, 0);
    world_free(world);
}

TEST(a_row_emptied_by_a_router_that_died_is_freed_by_the_next) {
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = world_joined(RING, 1, "news");
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
