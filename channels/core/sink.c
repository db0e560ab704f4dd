/* See sink.h. */
#define _GNU_SOURCE
#include "sink.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define AT_ONCE 64 /* pieces in one system call */

size_t sink_send(struct sink *self, const uint8_t *data, size_t size) {
    if (self->gone || self->count != 0)
        return 0;
    for (;;) {
        ssize_t sent = send(self->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0)
            return (size_t)sent;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
            self->gone = true;
        return 0;
    }
}

uint32_t sink_fan(struct sink *const *sinks, uint32_t count, const uint8_t *data, size_t size,
                  struct sink_outcome *outcomes) {
    uint32_t noted = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t sent = sink_send(sinks[i], data, size);
        if (sent != size)
            outcomes[noted++] = (struct sink_outcome){i, sent};
    }
    return noted;
}

bool sink_hold(struct sink *self, void *holder, const uint8_t *data, size_t size) {
    if (self->count == self->capacity) {
        uint32_t capacity = self->capacity == 0 ? 4 : self->capacity * 2;
        struct sink_piece *grown = malloc(capacity * sizeof *grown);
        if (grown == NULL)
            return false;
        for (uint32_t i = 0; i < self->count; i++)
            grown[i] = self->pieces[(self->first + i) & (self->capacity - 1)];
        free(self->pieces);
        self->pieces = grown;
        self->first = 0;
        self->capacity = capacity;
    }
    self->pieces[(self->first + self->count) & (self->capacity - 1)] = (struct sink_piece){holder, data, size};
    self->count++;
    self->waiting += size;
    return true;
}

static void pop(struct sink *self, void (*release)(void *holder)) {
    void *holder = self->pieces[self->first].holder;
    self->first = (self->first + 1) & (self->capacity - 1);
    self->count--;
    release(holder);
}

bool sink_flush(struct sink *self, void (*release)(void *holder)) {
    while (self->count != 0 && !self->gone) {
        struct iovec parts[AT_ONCE];
        size_t used = 0, offered = 0;
        for (; used < AT_ONCE && used < self->count; used++) {
            struct sink_piece *piece = &self->pieces[(self->first + used) & (self->capacity - 1)];
            parts[used].iov_base = (void *)(uintptr_t)piece->at;
            parts[used].iov_len = piece->left;
            offered += piece->left;
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = used};
        ssize_t sent = sendmsg(self->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
                self->gone = true;
            break;
        }
        size_t left = (size_t)sent;
        self->waiting -= left;
        while (self->count != 0 && left >= self->pieces[self->first].left) {
            left -= self->pieces[self->first].left;
            pop(self, release);
        }
        if (left != 0) {
            self->pieces[self->first].at += left;
            self->pieces[self->first].left -= left;
        }
        if ((size_t)sent < offered)
            break;
    }
    if (self->count == 0 && self->capacity > 4) {
        free(self->pieces);
        self->pieces = NULL;
        self->capacity = self->first = 0;
    }
    return self->count == 0;
}

void sink_clear(struct sink *self, void (*release)(void *holder)) {
    while (self->count != 0)
        pop(self, release);
    free(self->pieces);
    self->pieces = NULL;
    self->capacity = self->first = 0;
    self->waiting = 0;
}
