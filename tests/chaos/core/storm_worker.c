/* What a worker of storm.c does: joins, sends, takes and checks; in a calm, passes the token on.  See storm.c. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storm.h"

static const char *const names[CHANNELS] = {"north", "south"};

/* ---- what comes ---- */

static struct endpoint me;
static struct {
    bool joined;
    uint32_t row, row_generation;
    uint64_t last;                   /* number of the channel */
    uint64_t by[SLOTS], life[SLOTS]; /* each sender's own number, and which life of it */
    uint64_t known[SLOTS];           /* every life after this one began to send after we began to listen */
    uint64_t gaps;                   /* told to us */
} channel[CHANNELS];
static uint64_t alert_by[SLOTS], alert_life[SLOTS], routers_before;
static bool holding; /* the token */

static void listens_from_now(uint32_t c) {
    memset(channel[c].life, 0, sizeof channel[c].life);
    for (uint32_t slot = 1; slot < SLOTS; slot++)
        channel[c].known[slot] = segment_generation(&segment, slot);
}

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
    bool token = size > 8 && body[8] == (uint8_t)~number;
    for (uint32_t i = 8; i < size; i++)
        if (body[i] != (uint8_t)(token ? ~number : number))
            return fail("torn", number, body[i]);
    holding = holding || (token && 1 + header->sequence % WORKERS == me.slot);
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
        holding = holding || header.sequence != 0;
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
                listens_from_now((uint32_t)joined.token);
            }
            if (channel[0].joined && channel[1].joined)
                atomic_store(&notes->joined[me.slot], me.generation);
            break;
        case RECORD_GAP: /* only a killed router's spill, once for each: told, so not lost in silence */
            for (uint32_t c = 0; c < CHANNELS; c++)
                if (channel[c].joined && header.row == channel[c].row && header.sequence > channel[c].last) {
                    atomic_fetch_add(&notes->gaps[me.slot], header.sequence - channel[c].last);
                    channel[c].last = header.sequence;
                    listens_from_now(c);
                    if (++channel[c].gaps > atomic_load(&notes->routers) - routers_before)
                        fail("a gap for which no router was killed", channel[c].gaps, header.sequence);
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
                uint64_t wanted = atomic_load(&notes->acknowledged[from][life / 2 % LIVES][c]);
                uint64_t came = channel[c].life[from] == life ? channel[c].by[from] : 0;
                /* Of a life in which nothing came, all of it must have been before we listened. */
                if (came < wanted && (came != 0 || (channel[c].joined && life > channel[c].known[from])))
                    fail("acknowledged and lost", came, wanted);
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

/* ---- what a worker sends ---- */

static uint64_t sent[CHANNELS], random_of_life;

static bool send_message(uint32_t c, uint32_t size, bool token) {
    uint8_t body[128];
    uint64_t number = sent[c] + 1;
    memset(body, (int)(uint8_t)(token ? ~number : number), sizeof body);
    memcpy(body, &number, 8);
    if (endpoint_message(&me, channel[c].row, channel[c].row_generation, body, size) != RING_OK)
        return false;
    atomic_store(&notes->acknowledged[me.slot][me.generation / 2 % LIVES][c], sent[c] = number);
    return true;
}

static int send_alert(struct outgoing *peer, uint64_t *number, bool token) {
    uint64_t next = *number + 1;
    struct record header = {.length = sizeof header + 8, .type = RECORD_ALERT, .sequence = token};
    int status = endpoint_put(&me, peer, &header, "", &next);
    if (status == RING_OK)
        *number = next;
    return status;
}

static bool worker_missed(void *waits_for) {
    return endpoint_something(&me) ||
           (waits_for != NULL && endpoint_want_peer((struct outgoing *)waits_for, sizeof(struct record) + 8));
}

static void lie_down(int patience_ms, struct outgoing *waits_for) {
    if (endpoint_sleep(&me)) {
        atomic_fetch_add_explicit(&notes->sleeps[me.slot], 1, memory_order_relaxed);
        sleep_until_called(me.slot, patience_ms, worker_missed, waits_for);
    }
    notify_clear(eventfds[me.slot]);
    endpoint_awake(&me);
}

/* To everyone in a channel, of whom the number chooses one; or to one by an alert, now and then behind so many that it
 * has to wait for room. */
static void pass_on(uint64_t alerted[SLOTS]) {
    for (uint64_t pause = random_next(&random_of_life) % 2048; pause != 0; pause--)
        atomic_signal_fence(memory_order_seq_cst);
    holding = false;
    atomic_fetch_add_explicit(&notes->passes[me.slot], 1, memory_order_relaxed);
    uint32_t to = me.peer_count == 0 ? 0 : me.peers[random_next(&random_of_life) % me.peer_count];
    struct outgoing *peer = to == 0 || random_next(&random_of_life) % 2 != 0
                                ? NULL
                                : endpoint_peer(&me, to, segment_generation(&segment, to));
    if (peer == NULL) {
        holding = !send_message((uint32_t)random_next(&random_of_life) % CHANNELS,
                                9 + (uint32_t)random_next(&random_of_life) % 120, true);
        return;
    }
    for (uint64_t left = random_next(&random_of_life) % 16 == 0 ? 600 : 1; left != 0;) {
        int status = send_alert(peer, &alerted[to], left == 1);
        if (status == RING_OK)
            left--;
        else if (status != RING_FULL)
            return fail("no alert in a calm", (uint64_t)status, to);
        else if (!endpoint_want_peer(peer, sizeof(struct record) + 8)) {
            lie_down(LATE_MS, peer);
            (void)drain();
        }
        endpoint_unwant_peer(peer);
    }
}

static void in_a_calm(uint64_t alerted[SLOTS]) {
    uint64_t mine = me.slot;
    if (atomic_compare_exchange_strong(&notes->token_for, &mine, 0))
        holding = true;
    if (!holding) {
        lie_down(LATE_MS, NULL);
    } else if (atomic_load(&notes->last_calm) == atomic_load(&notes->calm)) {
        holding = false;
        atomic_store(&notes->laid_down, notes->calm);
    } else {
        pass_on(alerted);
    }
}

_Noreturn void run_worker(uint32_t slot, uint64_t generation, uint64_t seed) {
    routers_before = atomic_load(&notes->routers);
    segment_enter(&segment, ROLE_WORKER, slot);
    if (!endpoint_open(&me, &segment, eventfds, slot, generation))
        _exit(9);
    for (uint32_t c = 0; c < CHANNELS; c++) {
        struct record ask = {.length = (uint32_t)(sizeof ask + strlen(names[c])), .type = RECORD_JOIN, .sequence = c};
        (void)endpoint_send(&me, &ask, "", names[c]);
    }
    uint64_t alerted[SLOTS] = {0};
    random_of_life = seed;
    for (uint64_t round = 0;; round++) {
        uint32_t taken = drain();
        if (atomic_load(&notes->calm) != 0) {
            in_a_calm(alerted);
            continue;
        }
        bool full = false;
        for (uint32_t i = 0; i < 48 && !full; i++) {
            uint32_t c = (uint32_t)random_next(&random_of_life) % CHANNELS,
                     size = 8 + (uint32_t)random_next(&random_of_life) % 121;
            full = channel[c].joined && !send_message(c, size, false);
        }
        for (uint32_t i = 0; i < me.peer_count; i++) {
            uint32_t to = me.peers[i];
            struct outgoing *peer = endpoint_peer(&me, to, segment_generation(&segment, to));
            if (peer != NULL)
                (void)send_alert(peer, &alerted[to], false);
        }
        if (taken != 0 && !full && round % 64 != 0)
            continue;
        /* Sometimes on purpose, and always when there is no room: lie down. */
        if (!full || !endpoint_want_up(&me, 200))
            lie_down(full ? LATE_MS : 5, NULL);
        if (full)
            endpoint_unwant_up(&me);
    }
}
