/* The segment's making, attaching and protecting.  See segment.h. */
#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) & ~(to - 1); }

static bool is_ring_size(uint32_t bytes) { return bytes >= 4096 && bytes <= (1u << 30) && (bytes & (bytes - 1)) == 0; }

enum segment_status segment_geometry(const struct segment_config *config, struct geometry *at) {
    if (config->slots < 2 || config->slots > SLOTS_MAX || config->rows < 16 || config->rows > (1u << 26) ||
        !is_ring_size(config->up_bytes) || !is_ring_size(config->down_bytes) || !is_ring_size(config->direct_bytes) ||
        config->down_bytes < config->up_bytes) /* every record that came up must fit down */
        return SEGMENT_BAD_SIZES;
    memset(at, 0, sizeof *at);
    at->slots = config->slots;
    at->slot_words = (config->slots + 63) / 64;
    at->up_bytes = config->up_bytes;
    at->down_bytes = config->down_bytes;
    at->direct_bytes = config->direct_bytes;
    at->rows = config->rows;
    at->index_entries = 32;
    while (at->index_entries < config->rows * 2ull)
        at->index_entries *= 2;
    at->long_names = config->rows / 16 + 64;
    at->row_stride = at->slot_words <= 2 ? 128 : 192;

    uint64_t here = REGION_ALIGN; /* the header's page */
    at->supervisor_offset = here;
    here = align_up(here + sizeof(struct supervisor_region), REGION_ALIGN);

    at->router_offset = here;
    here = align_up(here + sizeof(struct router_control), CONTROL_LINE);
    at->marks_offset = here;
    here = align_up(here + (uint64_t)at->slots * sizeof(struct fanout_mark), CONTROL_LINE);
    at->up_heads_offset = here;
    here += (uint64_t)at->slots * sizeof(struct consumer_line);
    at->down_tails_offset = here;
    here += (uint64_t)at->slots * sizeof(struct producer_line);
    at->index_offset = here;
    here = align_up(here + (uint64_t)at->index_entries * sizeof(shared64), CONTROL_LINE);
    at->rows_offset = here;
    here += (uint64_t)at->rows * at->row_stride;
    at->long_names_offset = here;
    here = align_up(here + (uint64_t)at->long_names * LONG_NAME_STRIDE, REGION_ALIGN);
    at->down_data_offset = here;
    here = align_up(here + (uint64_t)at->slots * at->down_bytes, REGION_ALIGN);
    at->router_size = here - at->router_offset;

    uint64_t inside = align_up(sizeof(struct worker_control), CONTROL_LINE);
    at->direct_tails_offset = inside;
    inside += (uint64_t)at->slots * sizeof(struct producer_line);
    at->direct_heads_offset = inside;
    inside = align_up(inside + (uint64_t)at->slots * sizeof(struct consumer_line), REGION_ALIGN);
    at->up_data_offset = inside;
    inside += at->up_bytes;
    at->direct_data_offset = inside;
    inside += (uint64_t)at->slots * at->direct_bytes;
    at->worker_size = align_up(inside, REGION_ALIGN);
    at->workers_offset = here;
    at->size = here + (uint64_t)(at->slots - 1) * at->worker_size;
    return SEGMENT_OK;
}

static enum segment_status map(struct segment *self, uint64_t size, int fd, int protection) {
    void *base = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return SEGMENT_SYSTEM;
    (void)madvise(base, size, MADV_DONTDUMP); /* a crash of N processes should not write N segments */
    self->base = base;
    self->fd = fd;
    self->cookie = NULL;
    return SEGMENT_OK;
}

enum segment_status segment_create(struct segment *self, const struct segment_config *config,
                                   const uint64_t hash_key[2], uint64_t epoch_us) {
    enum segment_status status = segment_geometry(config, &self->at);
    if (status != SEGMENT_OK)
        return status;
    int fd = memfd_create("channels", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return SEGMENT_SYSTEM;
    int error = 0;
    if (ftruncate(fd, (off_t)self->at.size) != 0 || fcntl(fd, F_ADD_SEALS, SEALS) != 0)
        error = errno;
    else
        error = posix_fallocate(fd, 0, (off_t)self->at.size); /* no SIGBUS later for want of memory */
    if (error == 0 && map(self, self->at.size, fd, PROT_READ | PROT_WRITE) != SEGMENT_OK)
        error = errno;
    if (error != 0) {
        close(fd);
        errno = error;
        return SEGMENT_SYSTEM;
    }
    memcpy(self->hash_key, hash_key, sizeof self->hash_key);
    self->epoch_us = epoch_us;
    struct segment_header *header = (struct segment_header *)self->base;
    header->major = LAYOUT_MAJOR;
    header->minor = LAYOUT_MINOR;
    header->layout_id = LAYOUT_ID;
    header->epoch_us = epoch_us;
    memcpy(header->hash_key, hash_key, sizeof header->hash_key);
    header->geometry = self->at;
    header->magic = LAYOUT_MAGIC;
    return SEGMENT_OK;
}

enum segment_status segment_attach(struct segment *self, int fd) {
    struct stat info;
    if (fstat(fd, &info) != 0)
        return SEGMENT_SYSTEM;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || info.st_size < (off_t)sizeof(struct segment_header))
        return SEGMENT_NOT_OURS;
    if (map(self, (uint64_t)info.st_size, fd, PROT_READ | PROT_WRITE) != SEGMENT_OK)
        return SEGMENT_SYSTEM;
    struct segment_header header;
    memcpy(&header, self->base, sizeof header);
    struct segment_config config = {.slots = header.geometry.slots,
                                    .up_bytes = header.geometry.up_bytes,
                                    .down_bytes = header.geometry.down_bytes,
                                    .direct_bytes = header.geometry.direct_bytes,
                                    .rows = header.geometry.rows};
    enum segment_status status = SEGMENT_OK;
    if (header.magic != LAYOUT_MAGIC)
        status = SEGMENT_NOT_OURS;
    else if (header.major != LAYOUT_MAJOR || header.layout_id != LAYOUT_ID)
        status = SEGMENT_OTHER_LAYOUT;
    else if (segment_geometry(&config, &self->at) != SEGMENT_OK || self->at.size != (uint64_t)info.st_size ||
             memcmp(&self->at, &header.geometry, sizeof self->at) != 0)
        status = SEGMENT_NOT_OURS;
    if (status != SEGMENT_OK) {
        munmap(self->base, (size_t)info.st_size);
        self->base = NULL;
        return status;
    }
    memcpy(self->hash_key, header.hash_key, sizeof self->hash_key);
    self->epoch_us = header.epoch_us;
    return SEGMENT_OK;
}

/* Read-only for good: what is mapped from a descriptor that cannot write, mprotect() cannot make writable.  Where /proc
 * is not mounted there is no such descriptor, and the mapping is merely protected. */
static bool map_read_only(struct segment *self, uint64_t from, uint64_t to) {
    if (from == to)
        return true;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", self->fd);
    int fd = self->fd < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return mprotect(self->base + from, to - from, PROT_READ) == 0;
    void *mapped = mmap(self->base + from, to - from, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)from);
    int error = errno;
    close(fd);
    errno = error;
    return mapped != MAP_FAILED;
}

enum segment_status segment_enter(struct segment *self, enum segment_role role, uint32_t slot) {
    uint64_t own = self->at.size, end = self->at.size;
    if (role == ROLE_SUPERVISOR) {
        own = self->at.supervisor_offset;
        end = self->at.router_offset;
    } else if (role == ROLE_ROUTER) {
        own = self->at.router_offset;
        end = own + self->at.router_size;
    } else if (role == ROLE_WORKER) {
        if (slot == ROUTER_SLOT || slot >= self->at.slots)
            return SEGMENT_BAD_SIZES;
        own = (uint64_t)(segment_worker_base(self, slot) - self->base);
        end = own + self->at.worker_size;
    }
    if (role == ROLE_SUPERVISOR) { /* its children are the ones who inherit on purpose */
        bool done = mprotect(self->base, self->at.size, PROT_READ) == 0 &&
                    mprotect(self->base + own, end - own, PROT_READ | PROT_WRITE) == 0;
        return done ? SEGMENT_OK : SEGMENT_SYSTEM;
    }
    if (!map_read_only(self, 0, own) || !map_read_only(self, end, self->at.size) ||
        (own != end && mprotect(self->base + own, end - own, PROT_READ | PROT_WRITE) != 0))
        return SEGMENT_SYSTEM;
    (void)madvise(self->base, self->at.size, MADV_DONTDUMP);
    /* Whatever a worker forks must not be able to write here: then "reaped" means "no writer left" (docs/hazards.md,
     * H11). */
    if (madvise(self->base, self->at.size, MADV_DONTFORK) != 0)
        return SEGMENT_SYSTEM;
    void *page = mmap(NULL, REGION_ALIGN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return SEGMENT_SYSTEM;
    if (madvise(page, REGION_ALIGN, MADV_WIPEONFORK) != 0) {
        munmap(page, REGION_ALIGN);
        return SEGMENT_SYSTEM;
    }
    self->cookie = page;
    *self->cookie = SEGMENT_COOKIE;
    return SEGMENT_OK;
}

void segment_unmap(struct segment *self) {
    if (!segment_here(self))
        return; /* in a forked child these addresses may belong to somebody else by now */
    munmap(self->base, self->at.size);
    self->base = NULL;
    if (self->cookie != NULL)
        munmap((void *)(uintptr_t)self->cookie, REGION_ALIGN);
    self->cookie = NULL;
}
