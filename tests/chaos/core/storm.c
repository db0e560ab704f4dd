/*
 * storm [SECONDS [SEED]]: the core under random SIGKILL and SIGSTOP.
 *
 * A router and four workers as processes, each of which may write its own region only; a supervisor that every few
 * milliseconds kills or stops one of them (a worker, or, one time in forty, the router), buries it and starts another.
 * Workers send to two channels and alerts to each other, and check what they get: numbers of a channel without a
 * hole, each sender's own numbers without a hole, bodies whole; at a GONE, that all of the dead worker's acknowledged
 * messages came.  Prints the figures; status 1 when something was lost, doubled, out of order, torn, or woken late.
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

#include "endpoint.h"
#include "router.h"

#define WORKERS 4u
#define SLOTS (WORKERS + 1)
#define LIVES 65536u
#define CHANNELS 2u

static struct shared_notes { /* of the test, not of the fabric: each word has one writer, but `first_failure` */
    _Atomic uint64_t acknowledged[SLOTS][LIVES][CHANNELS];
    _Atomic uint64_t deliveries[SLOTS], alerts[SLOTS], late[SLOTS], sleeps[SLOTS], gaps[SLOTS];
    _Atomic uint64_t bury_slot, bury_generation, buried; /* supervisor, supervisor, router */
    _Atomic uint64_t failures;
    char first_failure[256];
} * notes;

static struct segment segment;
static int eventfds[SLOTS];
static const char *const names[CHANNELS] = {"north", "south"};

static uint64_t now_ns(void) { return router_clock_ns(CLOCK_MONOTONIC); }

static void fail(const char *what, uint64_t left, uint64_t right) {
    if (atomic_fetch_add(&notes->failures, 1) == 0)
        snprintf(notes->first_failure, sizeof notes->first_failure, "pid %d: %s (%lu, %lu)", getpid(), what,
                 (unsigned long)left, (unsigned long)right);
}

static uint64_t random_next(uint64_t *state) {
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

/* ---- the router ---- */

static struct router router;

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
        if (promising && router_look(&router, 20000))
            continue;
        promising = false;
        if (router_sleep(&router)) {
            struct pollfd ask = {.fd = eventfds[ROUTER_SLOT], .events = POLLIN};
            if (poll(&ask, 1, 1000) == 0)
                for (uint32_t i = 0; i < router.live_count; i++)
                    if (atomic_load(&router.lane[router.live[i]].up.theirs->tail) !=
                        router.lane[router.live[i]].up.head)
                        atomic_fetch_add(&notes->late[0], 1);
        }
        notify_clear(eventfds[ROUTER_SLOT]);
        router_awake(&router);
    }
}

/* ---- a worker ---- */

static struct endpoint me;
static uint64_t seed_of_life;
static struct {
    bool joined;
    uint32_t row, row_generation;
    uint64_t last;                   /* number of the channel */
    uint64_t by[SLOTS], life[SLOTS]; /* each sender's own number, and which life of it */
} channel[CHANNELS];
static uint64_t alert_by[SLOTS], alert_life[SLOTS];

static void message(const struct record *header, const uint8_t *body) {
    uint32_t c = header->row == channel[0].row ? 0 : 1, size = header->length - (uint32_t)sizeof *header;
    uint32_t by = WORKER_SLOT(header->source);
    uint64_t life = WORKER_GENERATION(header->source), number;
    if (!channel[c].joined || header->row != channel[c].row || size < 8)
        return fail("a message of no channel of mine", header->row, size);
    if (header->sequence <= channel[c].last)
        return fail("doubled", header->sequence, channel[c].last);
    if (header->sequence != channel[c].last + 1)
        fail("lost in the channel", header->sequence, channel[c].last);
    channel[c].last = header->sequence;
    memcpy(&number, body, 8);
    for (uint32_t i = 8; i < size; i++)
        if (body[i] != (uint8_t)number)
            return fail("torn", number, body[i]);
    if (channel[c].life[by] == life ? number != channel[c].by[by] + 1 : life < channel[c].life[by])
        fail("out of a sender's order", number, channel[c].by[by]);
    channel[c].life[by] = life;
    channel[c].by[by] = number;
    atomic_store_explicit(&notes->deliveries[me.slot],
                          atomic_load_explicit(&notes->deliveries[me.slot], memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

static uint32_t drain_peer(uint32_t peer) {
    struct record header;
    const uint8_t *body;
    uint32_t taken = 0;
    int status;
    while ((status = endpoint_next_direct(&me, peer, &header, &body)) == RING_OK) {
        uint64_t number, life = WORKER_GENERATION(header.source);
        memcpy(&number, body, 8);
        if (alert_life[peer] == life ? number != alert_by[peer] + 1 : life < alert_life[peer])
            fail("an alert out of order", number, alert_by[peer]);
        alert_life[peer] = life;
        alert_by[peer] = number;
        ring_advance(&me.in[peer].ring, &header);
        taken++;
    }
    if (status == RING_BROKEN)
        fail("a broken direct ring", peer, 0);
    endpoint_release_direct(&me, peer);
    atomic_fetch_add_explicit(&notes->alerts[me.slot], taken, memory_order_relaxed);
    return taken;
}

static uint32_t drain(void) {
    struct record header;
    struct joined_payload joined;
    const uint8_t *body;
    uint32_t taken = 0;
    int status;
    while (taken < 2048 && (status = endpoint_next_down(&me, &header, &body)) == RING_OK) {
        uint32_t from = WORKER_SLOT(header.source);
        switch (header.type) {
        case RECORD_MESSAGE:
            message(&header, body);
            break;
        case RECORD_JOINED:
            memcpy(&joined, body, sizeof joined);
            if (joined.status != JOIN_OK)
                fail("a join refused", joined.status, 0);
            if (!channel[joined.token].joined) {
                channel[joined.token].joined = true;
                channel[joined.token].row = header.row;
                channel[joined.token].row_generation = header.row_generation;
                channel[joined.token].last = header.sequence;
            }
            break;
        case RECORD_GAP: /* only a killed router's spill: told, so not lost in silence */
            for (uint32_t c = 0; c < CHANNELS; c++)
                if (channel[c].joined && header.row == channel[c].row && header.sequence > channel[c].last) {
                    atomic_fetch_add(&notes->gaps[me.slot], header.sequence - channel[c].last);
                    channel[c].last = header.sequence;
                    memset(channel[c].life, 0, sizeof channel[c].life);
                }
            break;
        case RECORD_HERE:
            endpoint_peer_here(&me, from);
            break;
        case RECORD_GONE:
            drain_peer(from);
            endpoint_peer_gone(&me, from);
            for (uint32_t c = 0; c < CHANNELS; c++) {
                uint64_t life = WORKER_GENERATION(header.source);
                if (channel[c].life[from] == life &&
                    channel[c].by[from] < atomic_load(&notes->acknowledged[from][life / 2 % LIVES][c]))
                    fail("acknowledged and lost", channel[c].by[from], notes->acknowledged[from][life / 2 % LIVES][c]);
            }
            break;
        case RECORD_RESYNC:
            endpoint_rescan(&me);
            for (uint32_t c = 0; c < CHANNELS; c++)
                if (!channel[c].joined) {
                    struct record ask = {
                        .length = (uint32_t)(sizeof ask + strlen(names[c])), .type = RECORD_JOIN, .sequence = c};
                    (void)endpoint_send(&me, &ask, "", names[c]);
                }
            break;
        default:
            fail("a type that does not come down", header.type, 0);
        }
        ring_advance(&me.down, &header);
        taken++;
    }
    endpoint_release_down(&me);
    for (uint32_t i = 0; i < me.peer_count; i++)
        taken += drain_peer(me.peers[i]);
    return taken;
}

static _Noreturn void run_worker(uint32_t slot, uint64_t generation) {
    segment_enter(&segment, ROLE_WORKER, slot);
    if (!endpoint_open(&me, &segment, eventfds, slot, generation))
        _exit(9);
    for (uint32_t c = 0; c < CHANNELS; c++) {
        struct record ask = {.length = (uint32_t)(sizeof ask + strlen(names[c])), .type = RECORD_JOIN, .sequence = c};
        (void)endpoint_send(&me, &ask, "", names[c]);
    }
    uint64_t sent[CHANNELS] = {0}, alerts[SLOTS] = {0}, told[SLOTS] = {0}, random = seed_of_life;
    uint8_t body[128];
    for (uint64_t round = 0;; round++) {
        uint32_t taken = drain();
        bool full = false;
        for (uint32_t i = 0; i < 48 && !full; i++) {
            uint32_t c = (uint32_t)random_next(&random) % CHANNELS, size = 8 + (uint32_t)random_next(&random) % 121;
            if (!channel[c].joined)
                continue;
            uint64_t number = sent[c] + 1;
            memset(body, (int)(uint8_t)number, sizeof body);
            memcpy(body, &number, 8);
            full = endpoint_message(&me, channel[c].row, channel[c].row_generation, body, size) != RING_OK;
            if (!full)
                atomic_store(&notes->acknowledged[slot][generation / 2 % LIVES][c], sent[c] = number);
        }
        for (uint32_t i = 0; i < me.peer_count; i++) {
            uint32_t to = me.peers[i];
            struct outgoing *peer = endpoint_peer(&me, to, segment_generation(&segment, to));
            if (peer == NULL)
                continue;
            if (told[to] != peer->generation)
                told[to] = peer->generation;
            uint64_t number = alerts[to] + 1;
            struct record header = {.length = sizeof header + 8, .type = RECORD_ALERT};
            if (endpoint_put(&me, peer, &header, "", &number) == RING_OK)
                alerts[to] = number;
        }
        if (taken != 0 && !full && round % 64 != 0)
            continue;
        /* Sometimes on purpose, and always when there is no room: lie down. */
        if (full && endpoint_want_up(&me, 200)) {
            endpoint_unwant_up(&me);
            continue;
        }
        if (endpoint_sleep(&me)) {
            struct pollfd ask = {.fd = eventfds[slot], .events = POLLIN};
            atomic_fetch_add_explicit(&notes->sleeps[slot], 1, memory_order_relaxed);
            if (poll(&ask, 1, full ? 1000 : 5) == 0 && full && endpoint_something(&me))
                atomic_fetch_add(&notes->late[slot], 1);
        }
        notify_clear(eventfds[slot]);
        endpoint_awake(&me);
        if (full)
            endpoint_unwant_up(&me);
    }
}

/* ---- the supervisor ---- */

static pid_t pids[SLOTS];
static uint64_t generations[SLOTS], kills, router_kills, stops;

static void set_generation(uint32_t slot, uint64_t generation) {
    atomic_store_explicit(&segment_supervisor(&segment)->slot[slot].generation, generation, memory_order_release);
}

static void start(uint32_t slot, uint64_t *random) {
    if (slot != ROUTER_SLOT)
        set_generation(slot, ++generations[slot]);
    seed_of_life = random_next(random);
    pids[slot] = fork();
    if (pids[slot] != 0)
        return;
    if (slot == ROUTER_SLOT)
        run_router();
    run_worker(slot, generations[slot]);
}

static void reap(uint32_t slot) {
    int status;
    waitpid(pids[slot], &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail("died by itself", slot, (uint64_t)status);
}

static void replace_router(uint64_t *random) {
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
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end && atomic_load(&notes->failures) == 0) {
        usleep((useconds_t)(random_next(&random) % 3000));
        uint32_t slot = 1 + (uint32_t)random_next(&random) % WORKERS;
        if (random_next(&random) % 3 == 0)
            stop_for_a_moment(random_next(&random) % 20 == 0 ? ROUTER_SLOT : slot, &random);
        else
            replace_worker(slot, &random);
    }
    uint64_t deliveries = 0, alerts = 0, late = 0, sleeps = 0, gaps = 0;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        kill(pids[slot], SIGKILL);
        reap(slot);
        deliveries += notes->deliveries[slot], alerts += notes->alerts[slot], late += notes->late[slot];
        sleeps += notes->sleeps[slot], gaps += notes->gaps[slot];
    }
    printf("FIGURES %lu deliveries, %lu alerts, %lu workers and %lu routers killed, %lu stops, %lu sleeps, %lu late, %lu told "
           "as gaps\n",
           (unsigned long)deliveries, (unsigned long)alerts, (unsigned long)kills, (unsigned long)router_kills,
           (unsigned long)stops, (unsigned long)sleeps, (unsigned long)late, (unsigned long)gaps);
    if (notes->failures != 0)
        printf("%lu FAILURES, the first: %s\n", (unsigned long)notes->failures, notes->first_failure);
    return notes->failures != 0 || late != 0;
}
