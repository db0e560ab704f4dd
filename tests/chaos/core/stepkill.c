/*
 * stepkill [POINTS [SEED]]: a process is killed, or stopped, after so and so many machine instructions.
 *
 * A fabric is built (driver/world.h), a child goes through one path of it under single steps and ends, or stands, after
 * k of them; then healthy peers must be able to work, everything committed must come whole, once and in order, and
 * nobody may be deaf.  For each of six states of the rings every so many-th k, which is the stride, beginning at one
 * that the seed chooses: about POINTS (420) values of k for a path of 3,000 instructions, more for a shorter one, fewer
 * for a longer.  Prints one line per path; status 1 when one fails, or when fewer than 5,000 points are reached with
 * 420.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "world.h"

#define POINTS_ASKED 420u   /* a whole run */
#define POINTS_ENOUGH 5000u /* which it has to reach */

enum fate { KILLED, STOPPED };

struct path {
    const char *name;
    bool is_router; /* else worker 1 */
    bool stop_too;
    struct world *(*prepare)(uint32_t offset);
    void (*act)(struct world *world);
    void (*check)(struct world *world, enum fate fate);
};

static const char *now_path;
static uint64_t now_step;

void check_register(const char *name, check_body body) { (void)name, (void)body; }

_Noreturn void check_failed(const char *file, int line, const char *what, uint64_t left, uint64_t right) {
    printf("%s, after instruction %" PRIu64 ": %s:%d: not so: %s (%" PRIu64 ", %" PRIu64 ")\n", now_path, now_step,
           file, line, what, left, right);
    fflush(stdout);
    _exit(1);
}

/* ---- what stands before each path ---- */

static bool is_called(int fd) {
    struct pollfd ask = {.fd = fd, .events = POLLIN};
    return poll(&ask, 1, 0) == 1;
}

static int alert(struct world *world, uint32_t from, uint32_t to, uint32_t number) {
    struct endpoint *endpoint = &world->worker[from].endpoint;
    struct outgoing *peer = endpoint_peer(endpoint, to, world->worker[to].generation);
    struct record header = {.length = sizeof header + 4, .type = RECORD_ALERT, .sequence = number};
    return peer == NULL ? ENDPOINT_GONE : endpoint_put(endpoint, peer, &header, "", &number);
}

static uint32_t take_alerts(struct world *world, uint32_t by, uint32_t from, uint32_t first) {
    struct record header;
    const uint8_t *body;
    struct endpoint *endpoint = &world->worker[by].endpoint;
    uint32_t taken = 0, number;
    while (endpoint_next_direct(endpoint, from, &header, &body) == RING_OK) {
        memcpy(&number, body, sizeof number);
        CHECK_EQ(header.sequence, first + taken);
        CHECK_EQ(number, first + taken);
        ring_advance(&endpoint->in[from].ring, &header);
        taken++;
    }
    CHECK(!endpoint->in[from].ring.broken);
    endpoint_release_direct(endpoint, from);
    return taken;
}

/* Three workers in "news"; `offset` messages of 100 bytes have gone through the rings. */
static struct world *three(uint32_t offset) {
    struct world *world = world_new(4096, 16);
    for (uint32_t slot = 1; slot <= 3; slot++)
        world_start_worker(world, slot);
    world_settle(world);
    for (uint32_t slot = 1; slot <= 3; slot++)
        CHECK_EQ(world_join(world, slot, "news", 0, slot), RING_OK);
    world_settle(world);
    for (uint32_t i = 0; i < offset; i++) {
        CHECK_EQ(world_send(world, 1, "news", i, 100), RING_OK);
        CHECK_EQ(alert(world, 1, 2, i), RING_OK);
        world_settle(world);
        CHECK_EQ(take_alerts(world, 2, 1, i), 1);
    }
    for (uint32_t slot = 1; slot <= 3; slot++)
        world->worker[slot].seen_count = world->worker[slot].gone = 0;
    struct router_event event;
    while (router_next_event(&world->router, &event))
        ;
    for (uint32_t i = 0; i < WORLD_SLOTS; i++)
        notify_clear(world->eventfds[i]);
    return world;
}

static uint64_t last_number(struct world *world) {
    return atomic_load(&segment_row(&world->segment, world->worker[2].joined_row)->sequence);
}

/* ---- worker 1 says something ---- */

static uint64_t numbered; /* before the path */
static uint32_t alerted;

static struct world *before_publish(uint32_t offset) {
    struct world *world = three(offset);
    numbered = last_number(world), alerted = offset;
    CHECK(endpoint_sleep(&world->worker[2].endpoint));
    CHECK(router_sleep(&world->router));
    return world;
}

static void publish(struct world *world) {
    for (uint32_t i = 0; i < 3; i++) {
        (void)world_send(world, 1, "news", i, 60);
        (void)alert(world, 1, 2, alerted + i);
    }
}

static void batch(struct world *world) {
    struct endpoint *endpoint = &world->worker[1].endpoint;
    struct record *place;
    for (uint32_t i = 0; i < 4; i++)
        if (ring_claim(&endpoint->up, sizeof *place + 64, &place) == RING_OK) {
            *place = (struct record){.length = sizeof *place + 64, .type = RECORD_MESSAGE, .source = endpoint->id};
            place->row = world->worker[1].joined_row;
            place->row_generation = world->worker[1].joined_row_generation;
            memset(place + 1, (int)i, 64);
            memcpy(place + 1, &i, sizeof i);
        }
    ring_publish(&endpoint->up);
    notify_ring(&endpoint->router_bell);
}

static void nobody_is_deaf(struct world *world) {
    CHECK_EQ(world_send(world, 3, "news", 77, 8), RING_OK);
    CHECK(is_called(world->eventfds[ROUTER_SLOT]));
    CHECK_EQ(alert(world, 3, 2, 0), RING_OK);
    CHECK(is_called(world->eventfds[2]));
    endpoint_awake(&world->worker[2].endpoint);
    router_awake(&world->router);
}

static void after_publish(struct world *world, enum fate fate) {
    if (fate == KILLED) {
        nobody_is_deaf(world);
        world_kill_worker(world, 1);
        world_bury(world, 1);
    }
    world->worker[1].alive = false;
    world_settle(world);
    for (uint32_t slot = 2; slot <= 3; slot++) {
        const struct world_worker *worker = &world->worker[slot];
        world_check_run(worker, numbered + 1, worker->seen_count);
        uint32_t next = 0, others = 0;
        for (uint32_t i = 0; i < worker->seen_count; i++)
            if (worker->seen[i].payload == 77)
                others++;
            else
                CHECK_EQ(worker->seen[i].payload, next++);
        CHECK_EQ(others, 1);
        CHECK_EQ(worker->seen_count, world->worker[2].seen_count);
    }
    CHECK(take_alerts(world, 2, 1, alerted) <= 3);
    CHECK_EQ(take_alerts(world, 2, 3, 0), 1);
    if (fate == KILLED) {
        CHECK_EQ(world_members(world, "news"), 2);
        world_start_worker(world, 1);
        world_settle(world);
        CHECK_EQ(world->worker[1].seen_count, 0);
        CHECK_EQ(alert(world, 1, 2, 5), RING_OK);
        CHECK_EQ(take_alerts(world, 2, 1, 5), 1);
    }
}

/* ---- worker 1 takes, and lies down ---- */

static struct world *before_take(uint32_t offset) {
    struct world *world = three(offset);
    numbered = last_number(world), alerted = 0;
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(world_send(world, 2, "news", i, 60), RING_OK);
        CHECK_EQ(alert(world, 2, 1, i), RING_OK);
    }
    world_turn(world);
    CHECK(router_sleep(&world->router));
    CHECK(endpoint_sleep(&world->worker[3].endpoint) || true);
    return world;
}

static void take_and_sleep(struct world *world) {
    world_drain(world, 1);
    (void)take_alerts(world, 1, 2, 0);
    struct endpoint *endpoint = &world->worker[1].endpoint;
    while (endpoint_sleep(endpoint)) {
        uint64_t until = router_clock_ns(CLOCK_MONOTONIC) + 5000000000ull;
        while (!is_called(world->eventfds[1])) /* not one long call: it is stepped through */
            if (router_clock_ns(CLOCK_MONOTONIC) > until)
                _exit(3); /* nobody called, though somebody did say something */
        notify_clear(world->eventfds[1]);
        endpoint_awake(endpoint);
    }
    _exit(take_alerts(world, 1, 3, 0) == 1 ? 0 : 4);
}

static void after_take(struct world *world, enum fate fate) {
    router_awake(&world->router);
    endpoint_awake(&world->worker[3].endpoint);
    if (fate == KILLED) {
        world_kill_worker(world, 1);
        world_bury(world, 1);
    }
    world->worker[1].alive = false;
    world_settle(world);
    for (uint32_t slot = 2; slot <= 3; slot++)
        world_check_run(&world->worker[slot], numbered + 1, 3);
    if (fate == STOPPED)
        return;
    world_start_worker(world, 1);
    world_settle(world);
    CHECK_EQ(world->worker[1].seen_count, 0);
    CHECK_EQ(take_alerts(world, 1, 2, 0), 0);
    CHECK_EQ(world_join(world, 1, "news", 0, 8), RING_OK);
    world_settle(world);
    CHECK_EQ(world_send(world, 2, "news", 9, 60), RING_OK);
    CHECK_EQ(alert(world, 2, 1, 9), RING_OK);
    world_settle(world);
    world_check_run(&world->worker[1], numbered + 4, 1);
    CHECK_EQ(take_alerts(world, 1, 2, 9), 1);
}

/* ---- worker 1 begins ---- */

static struct world *before_start(uint32_t offset) {
    struct world *world = three(offset);
    numbered = last_number(world);
    CHECK_EQ(alert(world, 2, 1, 0), RING_OK); /* for the dead */
    world_kill_worker(world, 1);
    world_bury(world, 1);
    world->worker[1].generation++;
    atomic_store(&segment_supervisor(&world->segment)->slot[1].generation, world->worker[1].generation);
    world_settle(world);
    return world;
}

static void start(struct world *world) {
    struct endpoint fresh;
    (void)endpoint_open(&fresh, &world->segment, world->eventfds, 1, world->worker[1].generation);
}

static void after_start(struct world *world, enum fate fate) {
    CHECK_EQ(world_send(world, 3, "news", 1, 60), RING_OK);
    world_settle(world);
    world_kill_worker(world, 1);
    world_bury(world, 1);
    world_start_worker(world, 1);
    world_settle(world);
    for (uint32_t slot = 2; slot <= 3; slot++)
        world_check_run(&world->worker[slot], numbered + 1, 1);
    CHECK_EQ(take_alerts(world, 1, 2, 0), 0);
    CHECK_EQ(alert(world, 2, 1, 3), RING_OK);
    CHECK_EQ(take_alerts(world, 1, 2, 3), 1);
    CHECK_EQ(world_join(world, 1, "news", 0, 8), RING_OK);
    world_settle(world);
    CHECK_EQ(world_send(world, 1, "news", 9, 60), RING_OK);
    world_settle(world);
    world_check_run(&world->worker[1], numbered + 2, 1);
}

/* ---- the router routes, buries, begins ---- */

static struct world *before_turn(uint32_t offset) {
    struct world *world = three(offset);
    numbered = last_number(world);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(world_send(world, 1 + i, "news", i, 60 + i), RING_OK);
    CHECK_EQ(world_join(world, 2, "talk", 0, 5), RING_OK);
    CHECK_EQ(world_send(world, 1, "news", 3, 60), RING_OK);
    CHECK_EQ(world_leave(world, 2, "talk"), RING_OK);
    return world;
}

static void turn(struct world *world) { world_turn(world); }

static void after_turn(struct world *world, enum fate fate) {
    if (fate == STOPPED)
        return; /* the whole of it is in that process; its memory is not ours */
    world_forget_router(world);
    world_start_router(world);
    world_settle(world);
    for (uint32_t slot = 1; slot <= 3; slot++) {
        world_check_run(&world->worker[slot], numbered + 1, 4);
        for (uint32_t i = 0; i < 4; i++)
            CHECK_EQ(world->worker[slot].seen[i].payload, world->worker[1].seen[i].payload);
        CHECK_EQ(world->worker[slot].gaps, 0);
    }
    CHECK(!world_is_row(world, "talk"));
}

static struct world *before_burial(uint32_t offset) {
    struct world *world = before_turn(offset);
    world_kill_worker(world, 1);
    return world;
}

static void bury(struct world *world) { world_bury(world, 1); }

static void after_burial(struct world *world, enum fate fate) {
    if (fate == STOPPED)
        return;
    world_forget_router(world);
    world_start_router(world);
    world_bury(world, 1);
    world_settle(world);
    for (uint32_t slot = 2; slot <= 3; slot++) {
        world_check_run(&world->worker[slot], numbered + 1, 4);
        CHECK(world->worker[slot].gone >= 1);
    }
    CHECK_EQ(world_members(world, "news"), 2);
    CHECK_EQ(world->router.table.used, 1);
}

/* ---- a successor begins with what the predecessor has handed over ---- */

static uint8_t handed[1 << 16];
static uint64_t handed_size;

static struct world *before_handover(uint32_t offset) {
    struct world *world = three(offset);
    numbered = last_number(world);
    for (uint32_t i = 0; i < 50; i++) { /* more than the ring of 3 holds, who does not look */
        CHECK_EQ(world_send(world, 1, "news", i, 100), RING_OK);
        world_turn(world);
        world_drain(world, 1);
        world_drain(world, 2);
    }
    const struct spill *spill = &world->router.lane[3].spill;
    handed_size = spill->bytes;
    CHECK(handed_size != 0 && handed_size <= sizeof handed);
    spill_copy(spill, handed);
    world_forget_router(world);
    for (uint32_t i = 50; i < 53; i++)
        CHECK_EQ(world_send(world, 1, "news", i, 100), RING_OK);
    return world;
}

static void take_over(struct world *world) {
    bool imports[SLOTS_MAX] = {[3] = true};
    if (!router_open(&world->router, &world->segment, world->eventfds, &world->limits, imports, world->now_ns,
                     world->now_ns) ||
        !fanout_import(&world->router, 3, handed, handed_size))
        _exit(3);
    world_turn(world);
}

static void after_handover(struct world *world, enum fate fate) {
    (void)fate;
    world_start_router(world); /* what was handed over has died with the one who took it */
    world_settle(world);
    for (uint32_t slot = 1; slot <= 2; slot++) {
        world_check_run(&world->worker[slot], numbered + 1, 53);
        for (uint32_t i = 0; i < 53; i++)
            CHECK_EQ(world->worker[slot].seen[i].payload, i);
        CHECK_EQ(world->worker[slot].gaps, 0);
    }
    const struct world_worker *three = &world->worker[3];
    CHECK_EQ(three->heard, numbered + 53);
    CHECK_EQ(three->untold, 0);
    for (uint32_t i = 0; i < three->seen_count; i++) {
        CHECK_EQ(three->seen[i].sequence, numbered + 1 + three->seen[i].payload);
        CHECK(i == 0 || three->seen[i].payload > three->seen[i - 1].payload);
    }
    CHECK_EQ(world_members(world, "news"), 3);
}

static const struct path paths[] = {
    {"publish", false, true, before_publish, publish, after_publish},
    {"batch", false, true, before_publish, batch, after_publish},
    {"take and sleep", false, true, before_take, take_and_sleep, after_take},
    {"worker's start", false, false, before_start, start, after_start},
    {"routing turn", true, false, before_turn, turn, after_turn},
    {"burial", true, false, before_burial, bury, after_burial},
    {"hand-over", true, false, before_handover, take_over, after_handover},
};

/* ---- stepping ---- */

static pid_t begin(const struct path *path, struct world *world) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        path->act(world);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSTOPPED(status));
    return child;
}

/* True when it still runs after `steps`. */
static bool step(pid_t child, uint64_t steps, int *status) {
    for (uint64_t i = 0; i < steps; i++) {
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
        CHECK_EQ(waitpid(child, status, 0), child);
        if (WIFEXITED(*status))
            return false;
        CHECK(WIFSTOPPED(*status));
    }
    return true;
}

static uint64_t length_of(const struct path *path, uint32_t offset) {
    struct world *world = path->prepare(offset);
    pid_t child = begin(path, world);
    if (path->act == take_and_sleep)
        CHECK_EQ(alert(world, 3, 1, 0), RING_OK);
    int status = 0;
    uint64_t steps = 0;
    while (step(child, 1, &status))
        steps++;
    CHECK_EQ(WEXITSTATUS(status), 0);
    world_free(world);
    return path->act == take_and_sleep ? steps + 150 : steps; /* and while it sleeps */
}

static void one(const struct path *path, uint32_t offset, uint64_t steps, enum fate fate) {
    int status = 0;
    now_step = steps;
    struct world *world = path->prepare(offset);
    pid_t child = begin(path, world);
    bool runs = step(child, steps, &status);
    if (fate == KILLED) {
        if (runs) {
            CHECK_EQ(kill(child, SIGKILL), 0);
            CHECK_EQ(waitpid(child, &status, 0), child);
        }
        path->check(world, KILLED);
    } else {
        /* It stands.  Others go on; then it does, and nothing is missing. */
        if (path->act == take_and_sleep)
            CHECK_EQ(alert(world, 3, 1, 0), RING_OK);
        else
            nobody_is_deaf(world);
        if (runs) {
            CHECK_EQ(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
            CHECK_EQ(waitpid(child, &status, 0), child);
        }
        CHECK(WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), 0);
        path->check(world, STOPPED);
    }
    world_free(world);
}

int main(int argc, char **argv) {
    uint64_t most = argc > 1 ? strtoull(argv[1], NULL, 10) : POINTS_ASKED, points = 0,
             seed = argc > 2 ? strtoull(argv[2], NULL, 10) : router_clock_ns(CLOCK_REALTIME);
    printf("seed %" PRIu64 "\n", seed);
    static const uint32_t offsets[] = {0, 27, 7, 13, 20, 26};
    size_t states = most >= POINTS_ASKED ? sizeof offsets / sizeof *offsets : 2; /* a short run takes fewer */
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        const struct path *path = &paths[p];
        uint64_t killed = 0, stopped = 0, length = 0, stride = 0;
        now_path = path->name;
        for (size_t o = 0; o < states; o++) {
            length = length_of(path, offsets[o]);
            stride = length * length * 6 / (most * 3000) + 1;
            for (uint64_t steps = 1 + (o + seed) % stride; steps <= length; steps += stride) {
                one(path, offsets[o], steps, KILLED);
                killed++;
                if (path->stop_too) {
                    one(path, offsets[o], steps, STOPPED);
                    stopped++;
                }
            }
        }
        printf("%-18s %5" PRIu64 " instructions, one in %5" PRIu64 ": killed at %5" PRIu64
               " points, stopped at %5" PRIu64 "\n",
               path->name, length, stride, killed, stopped);
        fflush(stdout);
        points += killed + stopped;
    }
    printf("FIGURES %" PRIu64 " points: nothing torn, nobody deaf, nothing committed lost, nothing twice\n", points);
    if (most >= POINTS_ASKED && points < POINTS_ENOUGH) {
        printf("WRONG only %" PRIu64 " of %" PRIu64 " points\n", points, (uint64_t)POINTS_ENOUGH);
        return 1;
    }
    return 0;
}
