/* The handshake: who sleeps, who wakes, how often. */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "fault.h"
#include "notify.h"

static shared64 epoch;

static struct doorbell bell_of(int fd) { return (struct doorbell){.epoch = &epoch, .fd = fd}; }

static uint64_t count_of(int fd) {
    uint64_t count = 0;
    return read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

static int fresh(void) {
    atomic_init(&epoch, 0);
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

TEST(who_is_awake_is_not_called) {
    int fd = fresh();
    struct doorbell bell = bell_of(fd);
    notify_ring(&bell);
    CHECK_EQ(count_of(fd), 0);
    close(fd);
}

TEST(who_sleeps_is_called_once_however_often_it_is_rung) {
    int fd = fresh();
    struct doorbell bell = bell_of(fd);
    notify_arm(&epoch);
    for (int i = 0; i < 5; i++)
        notify_ring(&bell);
    CHECK_EQ(count_of(fd), 1);
    close(fd);
}

TEST(the_next_sleep_is_another_call) {
    int fd = fresh();
    struct doorbell bell = bell_of(fd);
    for (int i = 0; i < 3; i++) {
        notify_arm(&epoch);
        notify_ring(&bell);
        CHECK_EQ(count_of(fd), 1);
        notify_disarm(&epoch);
        notify_ring(&bell);
        CHECK_EQ(count_of(fd), 0);
    }
    close(fd);
}

TEST(two_callers_each_call_once) {
    int fd = fresh();
    struct doorbell one = bell_of(fd), two = bell_of(fd);
    notify_arm(&epoch);
    notify_ring(&one);
    notify_ring(&two);
    notify_ring(&one);
    CHECK_EQ(count_of(fd), 2);
    close(fd);
}

TEST(a_caller_that_dies_before_its_call_makes_nobody_deaf_to_others) {
    int fd = fresh();
    struct doorbell dead = bell_of(fd), other = bell_of(fd);
    notify_arm(&epoch);
    CHECK(notify_due(&dead)); /* and is killed here */
    notify_ring(&other);
    CHECK_EQ(count_of(fd), 1);
    close(fd);
}

TEST(a_caller_of_a_new_life_calls_again) {
    int fd = fresh();
    struct doorbell before = bell_of(fd);
    notify_arm(&epoch);
    notify_ring(&before);
    struct doorbell after = bell_of(fd);
    notify_ring(&after);
    CHECK_EQ(count_of(fd), 2);
    close(fd);
}

TEST(arming_twice_is_a_new_epoch_and_stays_odd) {
    close(fresh());
    uint64_t first = notify_arm(&epoch), second = notify_arm(&epoch);
    CHECK_EQ(first & 1, 1);
    CHECK_EQ(second & 1, 1);
    CHECK(second > first);
}

TEST(disarming_who_is_awake_changes_nothing) {
    close(fresh());
    notify_disarm(&epoch);
    CHECK_EQ(atomic_load(&epoch), 0);
    notify_arm(&epoch);
    notify_disarm(&epoch);
    notify_disarm(&epoch);
    CHECK_EQ(atomic_load(&epoch), 2);
}

TEST(clearing_makes_the_eventfd_silent_and_a_full_one_is_no_error) {
    int fd = fresh();
    const uint64_t most = UINT64_MAX - 1;
    CHECK_EQ(write(fd, &most, sizeof most), sizeof most);
    notify_write(fd); /* EAGAIN: it is readable anyway */
    notify_clear(fd);
    struct pollfd ask = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&ask, 1, 0), 0);
    close(fd);
}

/* ---- sleeper and caller at once ---- */

static uint64_t rounds(void) { /* NOTIFY_ROUNDS: more of them, where a fence is looked for that is not there */
    const char *given = getenv("NOTIFY_ROUNDS");
    return given != NULL ? strtoull(given, NULL, 10) : 20000;
}

static _Alignas(CONTROL_LINE) shared64 said;
static _Alignas(CONTROL_LINE) shared64 heard;
static shared64 deaf;

/* Says one thing at a time, at about the moment at which the other lies down, and waits until it was heard. */
static void *call_often(void *argument) {
    struct doorbell bell = bell_of(*(int *)argument);
    const uint64_t last = rounds();
    for (uint64_t i = 1; i <= last; i++) {
        for (uint64_t pause = i * 2654435761u % 128; pause != 0; pause--)
            atomic_signal_fence(memory_order_seq_cst);
        __atomic_store_n((uint64_t *)&said, i, __ATOMIC_RELEASE);
        notify_ring(&bell);
        for (uint64_t spins = 0; atomic_load_explicit(&heard, memory_order_acquire) != i; spins++) {
            if (atomic_load_explicit(&deaf, memory_order_relaxed) != 0)
                return NULL;
            if (spins > 2000)
                sched_yield();
        }
    }
    return NULL;
}

TEST(nobody_sleeps_through_what_is_said_while_he_lies_down) {
    int fd = fresh();
    atomic_store(&said, 0);
    atomic_store(&heard, 0);
    atomic_store(&deaf, 0);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, call_often, &fd), 0);
    const uint64_t last = rounds();
    for (uint64_t done = 0; done < last;) {
        for (uint64_t pause = done * 40503u % 128; pause != 0; pause--)
            atomic_signal_fence(memory_order_seq_cst);
        notify_arm(&epoch);
        uint64_t now = atomic_load_explicit(&said, memory_order_acquire);
        if (now == done) {
            struct pollfd ask = {.fd = fd, .events = POLLIN};
            if (poll(&ask, 1, 3000) == 0 && atomic_load(&said) != done) {
                atomic_store(&deaf, 1);
                break;
            }
            notify_clear(fd);
        }
        notify_disarm(&epoch);
        done = now;
        __atomic_store_n((uint64_t *)&heard, now, __ATOMIC_RELEASE);
    }
    pthread_join(thread, NULL);
    CHECK_EQ(atomic_load(&deaf), 0);
    close(fd);
}
