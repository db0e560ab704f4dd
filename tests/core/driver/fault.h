/*
 * Death between any two stores to shared memory, and memory that is refused, for tests: this header stands before every
 * source of the core when the driver is compiled, and every atomic store counts, and every allocation.  The store
 * before which the process "dies" leaves by longjmp.
 */
#ifndef FAULT_H
#define FAULT_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define FAULT_WORD __attribute__((weak)) _Thread_local /* every source that includes this shares it */

FAULT_WORD uint64_t fault_stores; /* since it was armed */
FAULT_WORD uint64_t fault_at;     /* die before this one, counted from 1; 0: never */
FAULT_WORD jmp_buf fault_exit;

static inline void fault_point(void) {
    if (__builtin_expect(fault_at != 0, 0) && ++fault_stores == fault_at) {
        fault_at = 0;
        longjmp(fault_exit, 1);
    }
}

FAULT_WORD uint64_t fault_allocations; /* since fault_refuse was set */
FAULT_WORD uint64_t fault_refuse;      /* refuse this one, counted from 1; 0: never */

static inline bool fault_refuses(void) { return fault_refuse != 0 && ++fault_allocations == fault_refuse; }

#define malloc(size) (fault_refuses() ? NULL : (malloc)(size))
#define calloc(count, size) (fault_refuses() ? NULL : (calloc)((count), (size)))
#define realloc(old, size) (fault_refuses() ? NULL : (realloc)((old), (size)))

#ifdef __clang__
#define FAULT_STORE __c11_atomic_store
#else
#define FAULT_STORE __atomic_store_n
#endif

#undef atomic_store_explicit
#define atomic_store_explicit(place, value, order)                                                                     \
    __extension__({                                                                                                    \
        fault_point();                                                                                                 \
        FAULT_STORE((place), (value), (order));                                                                        \
    })

/* Runs `statement`; true when it died before its `number`th store, false when it has fewer. */
#define DIES_BEFORE_STORE(number, statement)                                                                           \
    __extension__({                                                                                                    \
        volatile bool fault_died = true;                                                                               \
        if (setjmp(fault_exit) == 0) {                                                                                 \
            fault_stores = 0;                                                                                          \
            fault_at = (number);                                                                                       \
            statement;                                                                                                 \
            fault_at = 0;                                                                                              \
            fault_died = false;                                                                                        \
        }                                                                                                              \
        fault_died;                                                                                                    \
    })

#endif
