/*
 * storm [SECONDS [SEED]]: the core under random SIGKILL and SIGSTOP.
 *
 * A router and four workers as processes, each of which may write its own region only; a supervisor that every few
 * milliseconds kills or stops one of them (a worker, or, one time in forty, the router), buries it and starts another.
 * Workers send to two channels and alerts to each other, and check what they get: numbers of a channel without a
 * hole, each sender's own numbers without a hole, bodies whole; at a GONE, that all of the dead worker's acknowledged
 * messages came; at a gap, that a router was killed for it.
 *
 * In the storm there is always somebody to wake a sleeper whom another has failed to wake.  So it calms down every ten
 * seconds: nobody is killed or stopped, and one token goes round, by a channel or by alerts, while everybody else
 * sleeps.  Whoever still sleeps after a second though something has come for it was woken late.
 *
 * Prints the figures; status 1 when something was lost, doubled, out of order, torn, or woken late, and when a run of
 * two minutes or more does not reach the numbers below.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "storm.h"

#define STORM_NS 10000000000ull /* between two calms */
#define CALM_US 1500000u        /* a token goes round for so long */
#define QUIET_US 50000u         /* for what the storm left on its way */

/* What a run of two minutes has to reach. */
#define SECONDS_ENOUGH 120
#define DELIVERIES_ENOUGH 400000000ul
#define KILLS_ENOUGH 20000ul
#define STOPS_ENOUGH 10000ul

struct storm_notes *notes;
struct segment segment;
int eventfds[SLOTS];

static uint64_t now_ns(void) { return router_clock_ns(CLOCK_MONOTONIC); }

/* ---- what all do ---- */

void fail(const char *what, uint64_t left, uint64_t right) {
    if (atomic_fetch_add(&notes->failures, 1) == 0)
        snprintf(notes->first_failure, sizeof notes->first_failure, "pid %d: %s (%lu, %lu)", getpid(), what,
                 (unsigned long)left, (unsigned long)right);
}

uint64_t random_next(uint64_t *state) {
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

void sleep_until_called(uint32_t slot, int patience_ms, bool (*missed)(void *), void *about) {
    struct pollfd ask = {.fd = eventfds[slot], .events = POLLIN};
    uint64_t calm = atomic_load(&notes->calm);
    if (poll(&ask, 1, calm != 0 ? LATE_MS : patience_ms) != 0 || calm == 0 || !missed(about))
        return;
    if (poll(&ask, 1, MOMENT_MS) == 0 && atomic_load(&notes->calm) == calm)
        atomic_fetch_add(&notes->late[slot], 1);
}

/* ---- the router ---- */

static struct router router;

static bool router_missed(void *nothing) {
    (void)nothing;
    for (uint32_t i = 0; i < router.live_count; i++) {
        const struct lane *lane = &router.lane[router.live[i]];
        if (atomic_load(&lane->up.theirs->tail) != lane->up.head)
            return true;
    }
    return false;
}

static _Noreturn void run_router(void) {
    segment_enter(&segment, ROLE_ROUTER, ROUTER_SLOT);
    struct router_limits limits = {256, 256 * 1024, 64u << 20, 128u << 20, 60000000000ull, 1000000000ull};
    if (!router_open(&router, &segment, eventfds, &limits, NULL, now_ns(), now_ns()))
        _exit(9);
    bool promising = true;
    for (;;) {
        bool more;
        uint64_t generation = atomic_load(&notes->bury_generation);
        if (generation != 0 && atomic_load(&notes->buried) != generation) {
            router_bury(&router, (uint32_t)atomic_load(&notes->bury_slot), generation & GENERATION_MASK);
            atomic_store(&notes->buried, generation);
        }
        router_turn(&router, now_ns(), now_ns(), &more);
        struct router_event event;
        while (router_next_event(&router, &event))
            if (event.type == EVENT_QUARANTINE)
                fail("quarantined", event.slot, event.detail);
        if (more) {
            promising = true;
            continue;
        }
        if (promising && atomic_load(&notes->calm) == 0 && router_look(&router, 20000))
            continue;
        promising = false;
        if (router_sleep(&router))
            sleep_until_called(ROUTER_SLOT, LATE_MS, router_missed, NULL);
        notify_clear(eventfds[ROUTER_SLOT]);
        router_awake(&router);
    }
}

/* ---- the supervisor ---- */

static pid_t pids[SLOTS];
static uint64_t generations[SLOTS], kills, router_kills, stops, calms;

static void set_generation(uint32_t slot, uint64_t generation) {
    atomic_store_explicit(&segment_supervisor(&segment)->slot[slot].generation, generation, memory_order_release);
}

static void start(uint32_t slot, uint64_t *random) {
    if (slot != ROUTER_SLOT)
        set_generation(slot, ++generations[slot]);
    uint64_t seed = random_next(random);
    pids[slot] = fork();
    if (pids[slot] != 0)
        return;
    if (slot == ROUTER_SLOT)
        run_router();
    run_worker(slot, generations[slot], seed);
}

static void reap(uint32_t slot) {
    int status;
    waitpid(pids[slot], &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail("died by itself", slot, (uint64_t)status);
}

static void replace_router(uint64_t *random) {
    atomic_fetch_add(&notes->routers, 1);
    kill(pids[ROUTER_SLOT], SIGKILL);
    reap(ROUTER_SLOT);
    router_kills++;
    start(ROUTER_SLOT, random);
}

static void replace_worker(uint32_t slot, uint64_t *random) {
    siginfo_t info;
    kill(pids[slot], SIGKILL);
    waitid(P_PID, (id_t)pids[slot], &info, WEXITED | WNOWAIT);
    set_generation(slot, ++generations[slot]);
    /* A word to the router; a new router finds it there, too.  The slot stands in the upper bits: no two are alike. */
    uint64_t which = WORKER_ID(slot, generations[slot] - 1);
    atomic_store(&notes->bury_slot, slot);
    atomic_store(&notes->bury_generation, which);
    notify_write(eventfds[ROUTER_SLOT]);
    bool again = random_next(random) % 40 == 0;
    if (again)
        replace_router(random);
    for (uint64_t until = now_ns() + 20000000000ull; atomic_load(&notes->buried) != which;) {
        if (now_ns() > until) {
            fail("not buried", slot, generations[slot]);
            break;
        }
        usleep(100);
        notify_write(eventfds[ROUTER_SLOT]);
    }
    reap(slot);
    kills++;
    start(slot, random);
}

static void stop_for_a_moment(uint32_t slot, uint64_t *random) {
    kill(pids[slot], SIGSTOP);
    usleep((useconds_t)(random_next(random) % 1500));
    kill(pids[slot], SIGCONT);
    stops++;
}

static bool comes_true(bool (*what)(void), uint64_t seconds) {
    for (uint64_t until = now_ns() + seconds * 1000000000ull; !what(); usleep(200))
        if (now_ns() > until)
            return false;
    return true;
}

static bool all_have_joined(void) {
    bool all = true;
    for (uint32_t slot = 1; slot < SLOTS; slot++)
        all = all && atomic_load(&notes->joined[slot]) == generations[slot];
    return all;
}

static bool is_laid_down(void) { return atomic_load(&notes->laid_down) == calms; }

static void calm_down(uint64_t *random) {
    atomic_store(&notes->calm, ++calms);
    if (!comes_true(all_have_joined, 20))
        fail("not everybody has joined in a calm", calms, 0);
    usleep(QUIET_US);
    uint32_t slot = 1 + (uint32_t)random_next(random) % WORKERS;
    atomic_store(&notes->token_for, slot);
    notify_write(eventfds[slot]);
    usleep(CALM_US);
    atomic_store(&notes->last_calm, calms);
    if (!comes_true(is_laid_down, 20))
        fail("the token of a calm stands still", calms, slot);
    atomic_store(&notes->calm, 0);
}

static uint64_t sum(const _Atomic uint64_t *of_slots) {
    uint64_t total = 0;
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        total += of_slots[slot];
    return total;
}

static bool is_enough(const char *what, uint64_t found, uint64_t wanted) {
    if (found < wanted)
        printf("WRONG only %lu of %lu %s\n", (unsigned long)found, (unsigned long)wanted, what);
    return found >= wanted;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 120;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : now_ns();
    uint64_t random = seed;
    printf("seed %lu\n", (unsigned long)seed);
    fflush(stdout);
    notes = mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct segment_config config = {SLOTS, 1 << 18, 1 << 18, 1 << 14, 64};
    const uint64_t key[2] = {seed, ~seed};
    if (notes == MAP_FAILED || segment_create(&segment, &config, key, 1) != SEGMENT_OK)
        return 9;
    for (uint32_t i = 0; i < SLOTS; i++)
        eventfds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        start(slot, &random);
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9), storm = STORM_NS;
    if (seconds * 1e9 < 2 * STORM_NS) /* one calm at least, in the middle */
        storm = (uint64_t)(seconds * 1e9 / 2);
    for (uint64_t next = now_ns() + storm; now_ns() < end && atomic_load(&notes->failures) == 0;) {
        if (now_ns() >= next) {
            calm_down(&random);
            next = now_ns() + storm;
        }
        usleep((useconds_t)(random_next(&random) % 3000));
        uint32_t slot = 1 + (uint32_t)random_next(&random) % WORKERS;
        if (random_next(&random) % 3 == 0)
            stop_for_a_moment(random_next(&random) % 20 == 0 ? ROUTER_SLOT : slot, &random);
        else
            replace_worker(slot, &random);
    }
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        kill(pids[slot], SIGKILL);
        reap(slot);
    }
    uint64_t deliveries = sum(notes->deliveries), late = sum(notes->late), passes = sum(notes->passes);
    printf("FIGURES %lu deliveries, %lu alerts, %lu workers and %lu routers killed, %lu stops, %lu sleeps, %lu told as "
           "gaps; %lu times calm, a token passed %lu times, %lu woken late\n",
           (unsigned long)deliveries, (unsigned long)sum(notes->alerts), (unsigned long)kills,
           (unsigned long)router_kills, (unsigned long)stops, (unsigned long)sum(notes->sleeps),
           (unsigned long)sum(notes->gaps), (unsigned long)calms, (unsigned long)passes, (unsigned long)late);
    if (notes->failures != 0)
        printf("%lu FAILURES, the first: %s\n", (unsigned long)notes->failures, notes->first_failure);
    bool enough = is_enough("passes in a calm", passes, 1000 * calms) && is_enough("calms", calms, 1);
    if (seconds >= SECONDS_ENOUGH)
        enough = is_enough("deliveries", deliveries, DELIVERIES_ENOUGH) &
                 is_enough("workers killed", kills, KILLS_ENOUGH) & is_enough("stops", stops, STOPS_ENOUGH) & enough;
    return notes->failures != 0 || late != 0 || !enough;
}
