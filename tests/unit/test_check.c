/*
 * test_check.c - each of a list of damages is found, and a sound maildrop is called so.
 */
#include "store/check.h"
#include "store/digest.h"
#include "store/handle.h"
#include "store/schema.h"
#include "tests/unit/one_drop.h"

struct findings {
    int n;
    uint64_t octets;
    char all[8000]; /* one a line */
};

static bool take(void *context, const char *damage, uint64_t octets)
{
    struct findings *f = context;

    f->octets = octets;
    if (damage) {
        const size_t used = strlen(f->all);

        f->n++;
        snprintf(f->all + used, sizeof(f->all) - used, "%s\n", damage);
    }
    return true;
}

/* Messages of all sizes that matter, one deleted, one with a surrogate. */
static void fill(struct maildrop *m)
{
    static const char utf8[] = "Subject: h\xc3\xa9\n\nbody\n";
    const size_t sizes[] = {1, 1000, MAILDROP_CHUNK_SIZE - 2, MAILDROP_CHUNK_SIZE - 1, 200000};
    struct test_text text = {.octets = utf8, .size = sizeof(utf8) - 1};
    char *octets = malloc(200000);
    int64_t id = 0;

    memset(octets, 'x', 200000);
    memcpy(octets, "a: b\n\n", 6);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        assert_int_equal(test_deliver(m, octets, sizes[i], &id), STORE_OK);
    assert_int_equal(test_deliver(m, "", 0, NULL), STORE_OK);
    assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){.utf8_headers = true},
                                      test_text_read, &text, NULL),
                     STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){2}, 1, 1000), STORE_OK);
    free(octets);
}

static int enter(void **state)
{
    struct maildrop *m;

    (void)state;
    if (maildrop_library_init(false) != STORE_OK)
        return -1;
    test_drop_make(&drop);
    m = test_drop_open(&drop);
    fill(m);
    maildrop_close(m);
    test_outside(&drop, "PRAGMA wal_checkpoint(TRUNCATE)");
    return 0;
}

static void check(struct maildrop *m, struct findings *f)
{
    *f = (struct findings){0};
    assert_int_equal(check_run(m, take, f), STORE_OK);
}

static void test_sound(void **state)
{
    struct findings f;
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    check(m, &f);
    assert_string_equal(f.all, "");
    assert_int_equal(f.n, 0);
    assert_true(f.octets > 300000);
    assert_int_equal(test_deliver_text(m, "no transaction was left open\n"), STORE_OK);
    maildrop_close(m);
}

/* What somebody with an SQL shell can do, and what the check must say of it. */
static const struct damage {
    const char *sql, *finding;
} damages[] = {
    {"UPDATE message SET size = size + 1 WHERE id = 3", "message 3: chunk 1 has the wrong length"},
    {"UPDATE message SET size = size - 1 WHERE id = 5", "chunk 3 has the wrong length"},
    {"UPDATE message SET header_size = 5 WHERE id = 5", "its header has 8 octets"},
    {"UPDATE message SET plain_size = 5 WHERE id = 5", "two sizes for one form"},
    {"UPDATE message SET plain_size = 5 WHERE form = 1", "its form for old clients"},
    {"UPDATE message SET uidl = 'a b' WHERE id = 1", "its UIDL is none"},
    {"UPDATE message SET uidl = x'00' WHERE id = 1", "its UIDL is none"},
    {"UPDATE message SET received = 'noon' WHERE id = 1", "its time of receipt is none"},
    {"UPDATE message SET size = 'big' WHERE id = 1", "its sizes are none"},
    {"DELETE FROM chunk WHERE place = 5 << 20 | 1", "message 5: chunk 1 is missing"},
    {"DELETE FROM message WHERE id = 4", "content without a message"},
    {"INSERT INTO chunk VALUES (5 << 20 | 9, x'00')", "message 5: more chunks"},
    {"INSERT INTO chunk VALUES (99 << 20, x'00')", "content without a message: a chunk of "
                                                   "message 99"},
    {"UPDATE chunk SET content = CAST(replace(content, x'0d0a', x'0a0a') AS BLOB) WHERE place = 2 "
     "<< 20",
     "a line does not end in CRLF"},
    {"UPDATE chunk SET content = CAST(substr(content, 1, 100) || 'y' || substr(content, 102) AS "
     "BLOB)"
     " WHERE place = 5 << 20 | 1",
     "message 5: not what was stored"},
    {"UPDATE message SET received = received + 64 WHERE id = 1", "message 1: not what was stored"},
    {"UPDATE message SET form = 2 WHERE id = 4", "message 4: not what was stored"},
    {"UPDATE message SET uidl = replace(uidl, '.', '/') WHERE id = 6",
     "message 6: not what was stored"},
    {"UPDATE message SET digest = digest + 1 WHERE id = 3", "message 3: not what was stored"},
    {"UPDATE message SET digest = 'x' WHERE id = 3", "message 3: not what was stored"},
    {"UPDATE state SET messages = 4", "totals: the totals row contradicts"},
    {"UPDATE message SET deleted = 5 WHERE id = 1", "totals: messages 6, octets "},
    {"UPDATE message SET id = 99 WHERE id = 6", "message 99 is above the last id 7"},
    {"UPDATE message SET plain_size = 'x' WHERE id = 3", "message 3: its sizes are none"},
    {"UPDATE message SET form = 'x' WHERE id = 3", "message 3: its sizes are none"},
    {"UPDATE message SET form = 3 WHERE id = 3", "message 3: its sizes are none"},
    {"UPDATE message SET header_size = 'x' WHERE id = 3", "message 3: its sizes are none"},
    {"UPDATE message SET header_size = size + 1 WHERE id = 3", "message 3: its sizes are none"},
    {"UPDATE message SET id = -6 WHERE id = 6", "message -6: an id is above 0"},
    {"UPDATE message SET id = 1 << 43 WHERE id = 6", "is above the last id 7"},
    {"UPDATE chunk SET content = CAST(content AS TEXT) WHERE place = 5 << 20 | 1",
     "message 5: chunk 1 has the wrong length"},
    {"UPDATE chunk SET content = CAST(substr(content, 1, length(content) - 2) || 'xy' AS BLOB)"
     " WHERE place = 2 << 20",
     "message 2: a line does not end in CRLF"},
    {"CREATE TABLE mine(a)", "holds a table mine"},
    {"CREATE TRIGGER t AFTER DELETE ON message BEGIN SELECT 1; END", "holds a trigger t"},
    {"DROP INDEX message_received", "an index is missing"},
};

/* A session would refuse some of them when it opens; the check must say what is wrong even so. */
static void test_damages(void **state)
{
    char sql[400];
    struct maildrop *m = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct findings f;
        int fds[MAILDROP_FILES];

        if (i > 0)
            assert_int_equal(enter(NULL), 0);
        snprintf(sql, sizeof(sql), "PRAGMA ignore_check_constraints=ON; %s", damages[i].sql);
        test_outside(&drop, sql);
        test_drop_grant(&drop, fds); /* what the outsider removed is there again */
        for (int k = 0; k < MAILDROP_FILES; k++)
            close(fds[k]);
        if (test_drop_try(&drop, &m) == STORE_OK) {
            check(m, &f);
            maildrop_close(m);
        } else {
            f = (struct findings){.n = 1};
            snprintf(f.all, sizeof(f.all), "totals: %s", maildrop_error(NULL));
        }
        if (f.n == 0 || !strstr(f.all, damages[i].finding))
            fail_msg("%s: found: %s", damages[i].sql, f.n ? f.all : "nothing");
        if (i + 1 < sizeof(damages) / sizeof(damages[0]))
            test_drop_remove(&drop);
    }
}

/* A page of a tree overwritten. */
static void test_torn_page(void **state)
{
    char path[80], page[SCHEMA_PAGE_SIZE];
    struct findings f;
    struct maildrop *m;
    int fd;

    (void)state;
    test_drop_path(&drop, MAILDROP_DB, path);
    fd = open(path, O_RDWR);
    memset(page, 0x55, sizeof(page));
    assert_int_equal(pwrite(fd, page, sizeof(page), 40 * SCHEMA_PAGE_SIZE), sizeof(page));
    close(fd);
    m = test_drop_open(&drop);
    check(m, &f);
    assert_true(f.n > 0);
    maildrop_close(m);
}

/* What a client sees of the maildrop, in one number; 0 if it is not shown all of it. */
static uint64_t look(void)
{
    static char content[MAILDROP_CHUNK_SIZE];
    struct maildrop_snapshot *snapshot = NULL;
    struct maildrop_totals totals;
    struct maildrop *m = NULL;
    uint64_t seen = 1;
    size_t got;

    if (test_drop_try(&drop, &m) != STORE_OK)
        return 0;
    if (maildrop_totals(m, &totals) != STORE_OK ||
        maildrop_snapshot(m, &totals, &snapshot) != STORE_OK)
        seen = 0;
    for (size_t i = 0; seen && i < maildrop_snapshot_count(snapshot); i++) {
        const struct maildrop_entry entry = maildrop_snapshot_entry(snapshot, i);
        const char *uidl = test_uidl(snapshot, i);
        const uint64_t numbers[] = {(uint64_t)entry.id, entry.size, entry.plain_size,
                                    (uint64_t)entry.form};

        for (size_t k = 0; k < 4; k++)
            seen = digest_number(seen, numbers[k]);
        seen = digest_octets(seen, uidl, strlen(uidl));
        uint64_t at = 0;
        do {
            if (maildrop_read(m, entry.id, at, content, sizeof(content), &got) != STORE_OK)
                seen = got = 0;
            else
                seen = digest_octets(seen, content, got);
            at += got;
        } while (got > 0);
    }
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
    return seen;
}

/* A bit flipped, here and there in the whole file: it is found, or makes no difference. */
static void test_flipped_bits(void **state)
{
    enum { APART = 61 };
    const int64_t size = test_drop_file_size(&drop, MAILDROP_DB);
    const uint64_t whole = look();
    size_t harmless = 0;
    char path[80];

    (void)state;
    assert_true(whole);
    test_drop_path(&drop, MAILDROP_DB, path);
    const int fd = open(path, O_RDWR);
    for (int64_t at = 0; at < size; at += APART) {
        struct maildrop *m = NULL;
        struct findings f = {.n = 1};
        unsigned char octet, flipped;

        assert_int_equal(pread(fd, &octet, 1, at), 1);
        flipped = (unsigned char)(octet ^ 1 << at % 8);
        assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
        if (test_drop_try(&drop, &m) == STORE_OK) {
            check(m, &f);
            maildrop_close(m);
        }
        harmless += f.n == 0;
        if (f.n == 0 && look() != whole)
            fail_msg("bit %d of octet %d is not found", (int)(at % 8), (int)at);
        assert_int_equal(pwrite(fd, &octet, 1, at), 1);
    }
    close(fd);
    assert_int_equal(look(), whole);
    assert_true(harmless < (size_t)(size / APART) / 4); /* free room */
}

/* What a newer version added is none of this one's business, and what a version had not yet is not
 * missing. */
static void test_other_versions(void **state)
{
    struct findings f;
    struct maildrop *m;
    char sql[100];

    (void)state;
    snprintf(sql, sizeof(sql), "CREATE TABLE newer(a); PRAGMA user_version=%d",
             SCHEMA_MAJOR << 16 | (SCHEMA_MINOR + 1));
    test_outside(&drop, sql);
    m = test_drop_open(&drop);
    check(m, &f);
    assert_string_equal(f.all, "");
    maildrop_close(m);
    test_outside(&drop, "DROP TABLE newer;" TEST_VERSION_1_0);
    m = test_drop_open(&drop); /* which brings it up to date */
    test_outside(&drop, TEST_VERSION_1_0);
    m->minor = 0;
    check(m, &f);
    assert_string_equal(f.all, "");
    maildrop_close(m);
}

/* Ends the check after so many calls. */
struct patience {
    unsigned left, calls;
};

static bool lose_patience(void *context, const char *damage, uint64_t octets)
{
    struct patience *patience = context;

    (void)damage, (void)octets;
    patience->calls++;
    return --patience->left > 0;
}

/* Wherever it is, it says no word more. */
static void test_can_be_stopped_anywhere(void **state)
{
    struct patience patience;
    struct maildrop *m;
    unsigned after = 1;

    (void)state;
    test_outside(&drop, "PRAGMA ignore_check_constraints=ON;"
                        "CREATE TABLE mine(a);"
                        "CREATE TABLE yours(a);"
                        "DELETE FROM message WHERE id = 5;"
                        "UPDATE message SET uidl = x'00', received = 'x' WHERE id = 1;"
                        "INSERT INTO chunk VALUES (3 << 20 | 9, x'00'), (3 << 20 | 10, x'00');"
                        "UPDATE message SET size = 'x' WHERE id = 4");
    m = test_drop_open(&drop);
    for (;; after++) {
        patience = (struct patience){.left = after};
        assert_int_equal(check_run(m, lose_patience, &patience), STORE_OK);
        if (patience.left > 0)
            break;
        assert_int_equal(patience.calls, after);
    }
    assert_true(after > 12);
    assert_int_equal(test_deliver_text(m, "no transaction was left open\n"), STORE_OK);
    maildrop_close(m);
}

static bool stop_at_once(void *context, const char *damage, uint64_t octets)
{
    (void)damage;
    (void)octets;
    ++*(int *)context;
    return false;
}

static void test_can_be_stopped(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    int calls = 0;

    (void)state;
    assert_int_equal(check_run(m, stop_at_once, &calls), STORE_OK);
    assert_int_equal(calls, 1);
    maildrop_close(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sound, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_damages, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_torn_page, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_flipped_bits, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_other_versions, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_can_be_stopped, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_can_be_stopped_anywhere, enter, remove_drop),
    };

    test_be_outside(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
