/* A worker's end: direct rings between lives, room, sleeping. */
#include <string.h>
#include <unistd.h>

#include "world.h"

static struct world *pair(void) {
    struct world *world = world_new(4096, 16);
    world_start_worker(world, 1);
    world_start_worker(world, 2);
    world_settle(world);
    return world;
}

static int alert(struct world *world, uint32_t from, uint32_t to, uint32_t number, uint32_t size) {
    uint8_t body[1024];
    memset(body, (int)number, sizeof body);
    struct endpoint *endpoint = &world->worker[from].endpoint;
    struct outgoing *peer = endpoint_peer(endpoint, to, world->worker[to].generation);
    struct record header = {.length = (uint32_t)sizeof header + size, .type = RECORD_ALERT, .sequence = number};
    return peer == NULL ? ENDPOINT_GONE : endpoint_put(endpoint, peer, &header, "", body);
}

static int take(struct world *world, uint32_t by, uint32_t from, uint64_t *number) {
    struct record header;
    const uint8_t *body;
    struct endpoint *endpoint = &world->worker[by].endpoint;
    int status = endpoint_next_direct(endpoint, from, &header, &body);
    if (status == RING_OK) {
        *number = header.sequence;
        ring_advance(&endpoint->in[from].ring, &header);
        endpoint_release_direct(endpoint, from);
    }
    return status;
}

TEST(alerts_go_straight_from_worker_to_worker_in_order) {
    struct world *world = pair();
    uint64_t number;
    for (uint32_t i = 0; i < 1000; i++) {
        CHECK_EQ(alert(world, 1, 2, i, i % 900), RING_OK);
        CHECK_EQ(take(world, 2, 1, &number), RING_OK);
        CHECK_EQ(number, i);
    }
    CHECK_EQ(take(world, 2, 1, &number), RING_EMPTY);
    world_free(world);
}

TEST(there_is_no_ring_to_oneself_to_the_router_or_to_nobody) {
    struct world *world = pair();
    struct endpoint *one = &world->worker[1].endpoint;
    CHECK(endpoint_peer(one, 1, 1) == NULL);
    CHECK(endpoint_peer(one, ROUTER_SLOT, 1) == NULL);
    CHECK(endpoint_peer(one, 3, 1) == NULL);
    CHECK(endpoint_peer(one, WORLD_SLOTS, 1) == NULL);
    CHECK(endpoint_peer(one, 2, 3) == NULL);
    CHECK(endpoint_peer(one, 2, 1) != NULL);
    world_free(world);
}

TEST(what_a_dead_worker_had_committed_still_reaches_its_peer_once) {
    struct world *world = pair();
    uint64_t number;
    for (uint32_t i = 0; i < 5; i++)
        CHECK_EQ(alert(world, 1, 2, i, 10), RING_OK);
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    world_start_worker(world, 1);
    world_settle(world);
    CHECK_EQ(alert(world, 1, 2, 99, 10), RING_OK);
    for (uint32_t i = 1; i < 5; i++) {
        CHECK_EQ(take(world, 2, 1, &number), RING_OK);
        CHECK_EQ(number, i);
    }
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    CHECK_EQ(number, 99);
    CHECK_EQ(take(world, 2, 1, &number), RING_EMPTY);
    world_free(world);
}

TEST(a_successor_gets_nothing_that_was_meant_for_the_dead) {
    struct world *world = pair();
    uint64_t number;
    for (uint32_t i = 0; i < 5; i++)
        CHECK_EQ(alert(world, 1, 2, i, 10), RING_OK);
    world_kill_worker(world, 2);
    CHECK_EQ(alert(world, 1, 2, 6, 10), ENDPOINT_GONE);
    world_bury(world, 2);
    world_start_worker(world, 2);
    world_settle(world);
    CHECK_EQ(take(world, 2, 1, &number), RING_EMPTY);
    CHECK_EQ(alert(world, 1, 2, 7, 10), RING_OK);
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    CHECK_EQ(number, 7);
    world_free(world);
}

TEST(a_record_to_another_life_is_skipped_and_counted) {
    struct world *world = pair();
    uint64_t number;
    CHECK_EQ(alert(world, 1, 2, 1, 10), RING_OK);
    struct record *place;
    struct outgoing *peer = endpoint_peer(&world->worker[1].endpoint, 2, 1);
    CHECK_EQ(ring_claim(&peer->ring, sizeof *place, &place), RING_OK);
    *place = (struct record){.length = sizeof *place, .type = RECORD_ALERT, .source = world->worker[1].endpoint.id};
    place->destination = WORKER_ID(2, 77);
    ring_publish(&peer->ring);
    CHECK_EQ(alert(world, 1, 2, 2, 10), RING_OK);
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    CHECK_EQ(number, 2);
    CHECK_EQ(atomic_load(&segment_worker(&world->segment, 2)->count.stale), 1);
    world_free(world);
}

TEST(the_successor_of_one_who_wrote_garbage_is_heard) {
    struct world *world = pair();
    uint64_t number;
    CHECK_EQ(alert(world, 1, 2, 1, 10), RING_OK);
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    atomic_store(&segment_direct_tail(&world->segment, 1, 2)->tail, 1ull << 50);
    CHECK_EQ(take(world, 2, 1, &number), RING_BROKEN);
    world_turn(world);
    CHECK(world->router.lane[1].quarantined);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    world_start_worker(world, 1);
    world_settle(world);
    CHECK_EQ(alert(world, 1, 2, 5, 10), RING_OK);
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    CHECK_EQ(number, 5);
    CHECK(!world->router.lane[1].quarantined);
    world_free(world);
}

TEST(a_full_direct_ring_has_room_again_when_it_was_read) {
    struct world *world = pair();
    uint64_t number;
    uint32_t sent = 0;
    while (alert(world, 1, 2, sent, 500) == RING_OK)
        sent++;
    CHECK_EQ(alert(world, 1, 2, sent, 500), RING_FULL);
    struct outgoing *peer = endpoint_peer(&world->worker[1].endpoint, 2, 1);
    CHECK(!endpoint_want_peer(peer, 548));
    notify_clear(world->eventfds[1]);
    for (uint32_t i = 0; i < sent; i++)
        CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    uint64_t calls = 0;
    CHECK_EQ(read(world->eventfds[1], &calls, 8), 8);
    CHECK_EQ(calls, 1);
    endpoint_unwant_peer(peer);
    CHECK(endpoint_want_peer(peer, 548));
    endpoint_unwant_peer(peer);
    CHECK_EQ(alert(world, 1, 2, sent, 500), RING_OK);
    world_free(world);
}

TEST(a_full_up_ring_is_refused_and_its_sender_woken_when_half_is_free) {
    struct world *world = pair();
    CHECK_EQ(world_join(world, 1, "news", 0, 1), RING_OK);
    world_settle(world);
    uint32_t sent = 0;
    while (world_send(world, 1, "news", sent, 400) == RING_OK)
        sent++;
    CHECK_EQ(world_send(world, 1, "news", sent, 400), RING_FULL);
    CHECK(!endpoint_want_up(&world->worker[1].endpoint, 448));
    notify_clear(world->eventfds[1]);
    world_turn(world);
    uint64_t calls = 0;
    CHECK_EQ(read(world->eventfds[1], &calls, 8), 8);
    endpoint_unwant_up(&world->worker[1].endpoint);
    CHECK(endpoint_want_up(&world->worker[1].endpoint, 448));
    endpoint_unwant_up(&world->worker[1].endpoint);
    world_settle(world);
    world_check_run(&world->worker[1], 1, sent);
    world_free(world);
}

TEST(who_goes_to_sleep_looks_once_more) {
    struct world *world = pair();
    struct endpoint *two = &world->worker[2].endpoint;
    uint64_t number;
    CHECK(endpoint_sleep(two));
    CHECK_EQ(alert(world, 1, 2, 1, 10), RING_OK); /* a call */
    uint64_t calls = 0;
    CHECK_EQ(read(world->eventfds[2], &calls, 8), 8);
    endpoint_awake(two);
    CHECK(!endpoint_sleep(two)); /* it is still there */
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    CHECK(endpoint_sleep(two));
    endpoint_awake(two);
    world_free(world);
}

TEST(who_is_called_for_nothing_sleeps_on_and_hears_the_next_call) {
    struct world *world = pair();
    struct endpoint *two = &world->worker[2].endpoint;
    uint64_t number, calls = 0;
    CHECK(endpoint_sleep(two));
    notify_write(world->eventfds[2]);
    notify_clear(world->eventfds[2]); /* as whoever wakes up does, before it looks */
    endpoint_awake(two);
    CHECK_EQ(take(world, 2, 1, &number), RING_EMPTY);
    CHECK(endpoint_sleep(two));
    CHECK_EQ(alert(world, 1, 2, 7, 10), RING_OK);
    CHECK_EQ(read(world->eventfds[2], &calls, 8), 8);
    CHECK_EQ(calls, 1);
    endpoint_awake(two);
    CHECK_EQ(take(world, 2, 1, &number), RING_OK);
    CHECK_EQ(number, 7);
    world_free(world);
}

TEST(a_worker_that_dies_before_any_store_of_a_send_leaves_all_or_nothing) {
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = pair();
        CHECK_EQ(world_join(world, 2, "news", 0, 1), RING_OK);
        world_settle(world);
        bool died = DIES_BEFORE_STORE(store, {
            for (uint32_t i = 0; i < 3; i++) {
                (void)world_send(world, 1, "news", i, 100);
                (void)alert(world, 1, 2, i, 50);
            }
        });
        world_kill_worker(world, 1);
        world_bury(world, 1);
        world_settle(world);
        world_check_run(&world->worker[2], 1, world->worker[2].seen_count);
        CHECK_EQ(world->worker[2].seen_count, died ? store / 2 : 3);
        uint64_t number;
        for (uint32_t i = 0; i < (died ? (store - 1) / 2 : 3); i++) {
            CHECK_EQ(take(world, 2, 1, &number), RING_OK);
            CHECK_EQ(number, i);
        }
        CHECK_EQ(take(world, 2, 1, &number), RING_EMPTY);
        world_free(world);
        if (!died)
            break;
    }
}

TEST(a_worker_that_dies_before_any_store_of_its_start_is_succeeded) {
    for (volatile uint64_t store = 1;; store++) {
        struct world *world = pair();
        CHECK_EQ(world_join(world, 2, "news", 0, 1), RING_OK);
        world_settle(world);
        world_kill_worker(world, 1);
        world_bury(world, 1);
        bool died = DIES_BEFORE_STORE(store, world_start_worker(world, 1));
        if (died) { /* the first store is the supervisor's own */
            world_kill_worker(world, 1);
            world->worker[1].generation |= 1;
            world_kill_worker(world, 1);
            world_bury(world, 1);
            world_start_worker(world, 1);
        }
        world_settle(world);
        CHECK_EQ(world_send(world, 1, "news", 4, 10), RING_OK);
        CHECK_EQ(alert(world, 1, 2, 5, 10), RING_OK);
        CHECK_EQ(alert(world, 2, 1, 6, 10), RING_OK);
        world_settle(world);
        world_check_run(&world->worker[2], 1, 1);
        uint64_t number;
        CHECK_EQ(take(world, 2, 1, &number), RING_OK);
        CHECK_EQ(number, 5);
        CHECK_EQ(take(world, 1, 2, &number), RING_OK);
        CHECK_EQ(number, 6);
        world_free(world);
        if (!died)
            break;
    }
}
