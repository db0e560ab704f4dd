/* driver [--list] [NAME...]: runs the named tests, or all; status 1 when one fails. */
#include "check.h"

#include <setjmp.h>
#include <string.h>

#include "fault.h"

#define TESTS_MAX 512

static struct {
    const char *name;
    check_body body;
} tests[TESTS_MAX];
static int test_count;
static jmp_buf failed;

void check_register(const char *name, check_body body) {
    if (test_count == TESTS_MAX)
        abort();
    tests[test_count].name = name;
    tests[test_count++].body = body;
}

_Noreturn void check_failed(const char *file, int line, const char *what, uint64_t left, uint64_t right) {
    printf("%s:%d: not so: %s (%" PRIu64 ", %" PRIu64 ")\n", file, line, what, left, right);
    fault_at = fault_refuse = 0;
    longjmp(failed, 1);
}

static bool is_wanted(const char *name, int argc, char **argv) {
    if (argc < 2)
        return true;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return false;
}

int main(int argc, char **argv) {
    volatile int ran = 0, broken = 0;
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (int i = 0; i < test_count; i++)
            puts(tests[i].name);
        return 0;
    }
    for (volatile int i = 0; i < test_count; i++) {
        if (!is_wanted(tests[i].name, argc, argv))
            continue;
        ran++;
        if (setjmp(failed) == 0) {
            tests[i].body();
            continue;
        }
        printf("FAILED %s\n", tests[i].name);
        broken++;
    }
    printf("%d tests, %d failed\n", ran, broken);
    return broken != 0 || ran == 0;
}
