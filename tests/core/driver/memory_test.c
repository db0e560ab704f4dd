/* Memory that is refused, at every allocation in turn. */
#include <string.h>

#include "world.h"

#define RING 4096u
#define MESSAGES 300u

static void refuse(uint64_t number) {
    fault_allocations = 0;
    fault_refuse = number;
}

/* What a supervisor does when a router could not start. */
static void replace_router(struct world *world) {
    world_forget_router(world);
    while (!router_open(&world->router, &world->segment, world->eventfds, &world->limits, NULL, world->now_ns,
                        world->now_ns))
        ;
    world->routing = true;
}

/* Worker 1 sends, 2 dies, 3 stands still until its ring overflows, 4 begins; and the router is replaced. */
static void much_happens(struct world *world) {
    replace_router(world);
    world->router.journal_on = true;
    world_kill_worker(world, 2);
    while (!router_bury(&world->router, 2, world->worker[2].generation - 1))
        ;
    CHECK_EQ(world_join(world, 4, "news", 0, 104), RING_OK);
    CHECK_EQ(world_join(world, 4, "late", 0, 105), RING_OK);
    for (uint32_t i = 0; i < MESSAGES; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, 100), RING_OK);
        world_turn(world);
        world_drain(world, 1);
    }
}

TEST(memory_refused_at_any_allocation_costs_no_more_than_what_is_told) {
    for (uint64_t number = 1;; number++) {
        struct world *world = world_joined(RING, 3, "news");
        world_start_worker(world, 4);
        refuse(number);
        much_happens(world);
        bool refused = fault_allocations >= number;
        refuse(0);
        world_settle(world);
        CHECK_EQ(world->worker[1].seen_count, MESSAGES);
        CHECK_EQ(world->worker[1].gaps, 0);
        for (uint32_t slot = 1; slot <= 4; slot++) {
            const struct world_worker *worker = &world->worker[slot];
            if (slot == 2)
                continue;
            CHECK_EQ(worker->untold, 0);
            CHECK(worker->gone >= 1);
            CHECK(world_members(world, "news") == 3);
        }
        CHECK_EQ(world->worker[3].heard, MESSAGES);
        CHECK_EQ(world_send(world, 3, "news", 7, 8), RING_OK);
        world_settle(world);
        for (uint32_t slot = 1; slot <= 4; slot++)
            if (slot != 2)
                CHECK_EQ(world->worker[slot].seen[world->worker[slot].seen_count - 1].payload, 7);
        world_free(world);
        if (!refused)
            break;
    }
}

TEST(a_worker_that_gets_no_memory_does_not_attach_and_the_next_one_does) {
    struct world *world = world_joined(RING, 1, "news");
    for (uint64_t number = 1; number <= 2; number++) {
        struct endpoint endpoint;
        refuse(number);
        CHECK(!endpoint_open(&endpoint, &world->segment, world->eventfds, 2, 1));
        refuse(0);
        CHECK(!segment_attached(&world->segment, 2, 1));
    }
    world_start_worker(world, 2);
    world_settle(world);
    CHECK_EQ(world_join(world, 2, "news", 0, 1), RING_OK);
    world_settle(world);
    CHECK_EQ(world_members(world, "news"), 2);
    world_free(world);
}
