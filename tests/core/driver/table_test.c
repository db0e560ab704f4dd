/* The channel table: names, the index while it moves, repair by a successor. */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "fault.h"
#include "table.h"

#define ROWS 64u

static struct segment segment;
static struct table table;

static void begin(uint32_t rows) {
    struct segment_config config = {4, 4096, 4096, 4096, rows};
    const uint64_t key[2] = {3, 4};
    CHECK_EQ(segment_create(&segment, &config, key, 1), SEGMENT_OK);
    CHECK_EQ(table_open(&table, &segment), TABLE_OK);
}

static void end(void) {
    table_close(&table);
    close(segment.fd);
    segment_unmap(&segment);
}

static uint32_t make(const char *name, bool prefix) {
    uint32_t row = ROW_NONE;
    (void)table_make(&table, (const uint8_t *)name, strlen(name), prefix, 1, &row);
    return row;
}

static enum table_status look(const char *name, struct row_view *view) {
    const uint8_t *text = (const uint8_t *)name;
    return table_look(&segment, text, strlen(name), table_hash(&segment, text, strlen(name), false), view);
}

static const char *numbered(uint32_t number) {
    static char name[32];
    snprintf(name, sizeof name, "room:%u", number);
    return name;
}

static bool good(const char *name) { return table_name_ok((const uint8_t *)name, strlen(name)); }

TEST(names_are_short_utf8_without_controls) {
    CHECK(good("a"));
    CHECK(good("r\xc3\xb6om \xf0\x9f\x90\xb3"));
    CHECK(!good(""));
    CHECK(!good("a\nb"));
    CHECK(!good("a\x7f"));
    CHECK(!good("\xc2\x85"));         /* C1 control */
    CHECK(!good("\xc0\xaf"));         /* overlong */
    CHECK(!good("\xe0\x80\xaf"));     /* overlong */
    CHECK(!good("\xed\xa0\x80"));     /* surrogate */
    CHECK(!good("\xf4\x90\x80\x80")); /* above U+10FFFF */
    CHECK(!good("\xe2\x82"));         /* cut off */
    CHECK(!good("\x80"));
    char longest[257];
    memset(longest, 'x', sizeof longest);
    CHECK(table_name_ok((const uint8_t *)longest, 255));
    CHECK(!table_name_ok((const uint8_t *)longest, 256));
}

TEST(a_row_is_found_by_its_name_and_by_no_other) {
    begin(ROWS);
    uint32_t row = make("news", false);
    struct row_view view;
    CHECK_EQ(look("news", &view), TABLE_OK);
    CHECK_EQ(view.row, row);
    CHECK_EQ(view.members, 0);
    CHECK_EQ(look("new", &view), TABLE_ABSENT);
    CHECK_EQ(look("newss", &view), TABLE_ABSENT);
    end();
}

TEST(a_prefix_is_another_row_than_the_channel_of_the_same_name) {
    begin(ROWS);
    uint32_t channel = make("news", false), prefix = make("news", true);
    CHECK(channel != prefix);
    CHECK_EQ(table_find(&table, (const uint8_t *)"news", 4, true), prefix);
    CHECK_EQ(table_find(&table, (const uint8_t *)"news", 4, false), channel);
    end();
}

TEST(a_new_row_inherits_the_members_of_its_prefixes) {
    begin(ROWS);
    uint32_t prefix = make("news:", true);
    atomic_store(&segment_row(&segment, prefix)->words[0], 6);
    struct row_view view;
    CHECK_EQ(look("news:1", &view), TABLE_ABSENT);
    CHECK_EQ(view.members, 2);
    (void)make("news:1", false);
    (void)make("other", false);
    CHECK_EQ(look("news:1", &view), TABLE_OK);
    CHECK_EQ(view.members, 2);
    CHECK(!view.exact);
    CHECK_EQ(look("other", &view), TABLE_OK);
    CHECK_EQ(view.members, 0);
    end();
}

TEST(long_names_have_places_of_their_own_and_give_them_back) {
    begin(ROWS);
    char name[256];
    for (int round = 0; round < 500; round++) {
        memset(name, 'a' + round % 26, sizeof name);
        name[255] = 0;
        uint32_t row = make(name, false);
        CHECK(row != ROW_NONE);
        struct row_view view;
        CHECK_EQ(look(name, &view), TABLE_OK);
        table_free(&table, row);
        CHECK_EQ(look(name, &view), TABLE_ABSENT);
    }
    end();
}

TEST(a_full_table_says_so_and_takes_again_when_a_row_is_freed) {
    begin(ROWS);
    for (uint32_t i = 0; i < ROWS; i++)
        CHECK(make(numbered(i), false) != ROW_NONE);
    CHECK_EQ(make("one more", false), ROW_NONE);
    table_free(&table, table_find(&table, (const uint8_t *)"room:5", 6, false));
    CHECK(make("one more", false) != ROW_NONE);
    end();
}

TEST(a_freed_row_is_another_generation_when_it_comes_back) {
    begin(ROWS);
    struct row_view before, after;
    (void)make("news", false);
    CHECK_EQ(look("news", &before), TABLE_OK);
    table_free(&table, before.row);
    CHECK_EQ(table_members(&segment, before.row, before.generation, &after), TABLE_ABSENT);
    CHECK_EQ(make("news", false), before.row);
    CHECK_EQ(table_members(&segment, before.row, before.generation, &after), TABLE_ABSENT);
    CHECK_EQ(look("news", &after), TABLE_OK);
    CHECK(after.generation != before.generation);
    end();
}

static void check_index(uint32_t present, uint32_t absent) {
    uint32_t used = 0;
    for (uint32_t at = 0; at < segment.at.index_entries; at++)
        used += atomic_load(&segment_index(&segment)[at]) != 0;
    CHECK_EQ(used, table.used);
    struct row_view view;
    for (uint32_t i = 0; i < present; i++)
        CHECK_EQ(look(numbered(i), &view), TABLE_OK);
    for (uint32_t i = present; i < present + absent; i++)
        CHECK_EQ(look(numbered(i), &view), TABLE_ABSENT);
}

TEST(names_that_come_and_go_leave_nothing_in_the_index) {
    begin(1024);
    for (uint32_t i = 0; i < 500; i++)
        CHECK(make(numbered(i), false) != ROW_NONE);
    for (uint32_t i = 0; i < 20000; i++) {
        char name[32];
        snprintf(name, sizeof name, "passing:%u", i);
        uint32_t row = make(name, false);
        CHECK(row != ROW_NONE);
        table_free(&table, row);
    }
    check_index(500, 100);
    end();
}

TEST(every_other_name_stays_when_names_are_removed_from_crowded_places) {
    begin(ROWS); /* 64 rows in 128 places: many neighbours */
    uint64_t random = 7;
    bool is_there[96] = {false};
    for (uint32_t round = 0; round < 20000; round++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        uint32_t number = (uint32_t)(random >> 33) % 96;
        const char *name = numbered(number);
        if (is_there[number])
            table_free(&table, table_find(&table, (const uint8_t *)name, strlen(name), false));
        else if (make(name, false) == ROW_NONE)
            continue;
        is_there[number] = !is_there[number];
        struct row_view view;
        for (uint32_t i = 0; i < 96; i++)
            CHECK_EQ(look(numbered(i), &view), is_there[i] ? TABLE_OK : TABLE_ABSENT);
    }
    end();
}

TEST(a_reader_is_told_to_ask_again_while_the_index_moves) {
    begin(ROWS);
    (void)make("news", false);
    shared64 *version = &segment_router(&segment)->index_version;
    atomic_store(version, atomic_load(version) + 1);
    struct row_view view;
    CHECK_EQ(look("news", &view), TABLE_OK); /* what is found is sure */
    CHECK_EQ(look("nobody", &view), TABLE_BUSY);
    end();
}

TEST(a_row_that_never_changes_is_found_whatever_store_the_router_dies_before) {
    for (volatile uint64_t store = 1;; store++) {
        begin(ROWS);
        for (uint32_t i = 0; i < 60; i++)
            CHECK(make(numbered(i), false) != ROW_NONE);
        struct row_view view;
        bool died = DIES_BEFORE_STORE(store, {
            for (uint32_t i = 40; i < 60; i++) {
                const char *name = numbered(i);
                table_free(&table, table_find(&table, (const uint8_t *)name, strlen(name), false));
            }
            (void)make("fresh", true);
        });
        for (uint32_t i = 0; i < 40; i++) /* with the router dead */
            CHECK(look(numbered(i), &view) != TABLE_ABSENT);
        table_close(&table);
        CHECK_EQ(table_open(&table, &segment), TABLE_OK);
        for (uint32_t i = 0; i < 40; i++)
            CHECK_EQ(look(numbered(i), &view), TABLE_OK);
        uint32_t used = 0;
        for (uint32_t i = 0; i < ROWS; i++)
            used += table_is_used(&table, i);
        CHECK_EQ(used, table.used);
        check_index(40, 0);
        CHECK_EQ(ROWS, table.used + table.free_count);
        end();
        if (!died)
            break;
    }
}

TEST(a_successor_that_dies_while_it_rebuilds_is_succeeded_too) {
    for (volatile uint64_t store = 1;; store++) {
        begin(16);
        for (uint32_t i = 0; i < 12; i++)
            CHECK(make(numbered(i), false) != ROW_NONE);
        atomic_fetch_add(&segment_router(&segment)->index_version, 1); /* as a death in a removal leaves it */
        table_close(&table);
        bool died = DIES_BEFORE_STORE(store, CHECK_EQ(table_open(&table, &segment), TABLE_OK));
        if (died) {
            free(table.free_rows);
            free(table.free_long);
        } else
            table_close(&table);
        CHECK_EQ(table_open(&table, &segment), TABLE_OK);
        check_index(12, 10);
        end();
        if (!died)
            break;
    }
}

/* A table whose index is crowded by choice under one key: what a stranger can do who knows the key, and only then. */
TEST(names_chosen_to_collide_under_one_key_are_spread_under_another) {
    begin(ROWS);
    uint32_t mask = segment.at.index_entries - 1, chosen[ROWS], count = 0, most = 0, places[1024] = {0};
    CHECK(mask < 1024);
    for (uint32_t i = 0; count < ROWS; i++)
        if ((table_hash(&segment, (const uint8_t *)numbered(i), strlen(numbered(i)), false) & mask) == 5)
            chosen[count++] = i;
    struct row_view view;
    for (uint32_t i = 0; i < ROWS; i++) /* slow, and right all the same */
        CHECK(make(numbered(chosen[i]), false) != ROW_NONE);
    for (uint32_t i = 0; i < ROWS; i++)
        CHECK_EQ(look(numbered(chosen[i]), &view), TABLE_OK);
    for (uint32_t half = 0; half < 2; half++) { /* each half of the key counts */
        memset(places, 0, sizeof places);
        most = 0;
        segment.hash_key[half] ^= 0x9e3779b97f4a7c15;
        for (uint32_t i = 0; i < ROWS; i++) {
            const char *name = numbered(chosen[i]);
            uint32_t here = ++places[table_hash(&segment, (const uint8_t *)name, strlen(name), false) & mask];
            most = here > most ? here : most;
        }
        segment.hash_key[half] ^= 0x9e3779b97f4a7c15;
        CHECK(most <= 5);
    }
    end();
}

/* ---- readers beside the writer ---- */

static shared64 stop;

static void *churn(void *argument) {
    uint32_t rounds = 0;
    while (atomic_load(&stop) == 0) {
        char name[32];
        snprintf(name, sizeof name, "churn:%u", rounds++ % 50);
        uint32_t row = table_find(&table, (const uint8_t *)name, strlen(name), false);
        if (row != ROW_NONE)
            table_free(&table, row);
        else
            (void)make(name, false);
    }
    return NULL;
}

TEST(readers_never_miss_a_row_that_stands_while_others_come_and_go) {
    begin(ROWS);
    for (uint32_t i = 0; i < 30; i++)
        CHECK(make(numbered(i), false) != ROW_NONE);
    uint64_t hash[30];
    for (uint32_t i = 0; i < 30; i++)
        hash[i] = table_hash(&segment, (const uint8_t *)numbered(i), strlen(numbered(i)), false);
    atomic_store(&stop, 0);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, churn, NULL), 0);
    uint32_t missed = 0;
    for (uint32_t i = 0; i < 300000 && missed == 0; i++) {
        struct row_view view;
        const char *name = numbered(i % 30);
        missed += table_look(&segment, (const uint8_t *)name, strlen(name), hash[i % 30], &view) == TABLE_ABSENT;
    }
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    CHECK_EQ(missed, 0);
    end();
}
