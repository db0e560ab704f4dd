/*
 * An allocator that refuses what it is told to, for LD_PRELOAD: from the `refuse_from`-th allocation of this process on,
 * counted from 1 in `refuse_asked`, up to but without the `refuse_until`-th.  `refuse_from` of 0: none, nor counted.
 */
#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

long refuse_asked, refuse_from, refuse_until;

static int refused(void) {
    if (refuse_from == 0 || ++refuse_asked < refuse_from || refuse_asked >= refuse_until)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return refused() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return refused() ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return refused() ? NULL : __libc_realloc(old, size); }
