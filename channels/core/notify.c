/* The system calls of notify.h. */
#include "notify.h"

#include <errno.h>
#include <unistd.h>

void notify_write(int fd) {
    const uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

void notify_clear(int fd) {
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}
