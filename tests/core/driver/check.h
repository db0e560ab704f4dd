/* A test is a sentence; a failed check says where and what, and the test ends. */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void (*check_body)(void);
void check_register(const char *name, check_body body);
_Noreturn void check_failed(const char *file, int line, const char *what, uint64_t left, uint64_t right);

#define TEST(name)                                                                                                     \
    static void name(void);                                                                                            \
    __attribute__((constructor)) static void register_##name(void) { check_register(#name, name); }                    \
    static void name(void)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            check_failed(__FILE__, __LINE__, #condition, 0, 1);                                                        \
    } while (0)
#define CHECK_EQ(left, right)                                                                                          \
    do {                                                                                                               \
        uint64_t check_left = (uint64_t)(left), check_right = (uint64_t)(right);                                       \
        if (check_left != check_right)                                                                                 \
            check_failed(__FILE__, __LINE__, #left " == " #right, check_left, check_right);                            \
    } while (0)

#endif
