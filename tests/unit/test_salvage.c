/*
 * test_salvage.c - damage in every place of a maildrop's file, one page after the other: all
 * messages that do not lie in it come back, octet for octet.
 */
#include "store/salvage.h"
#include "store/schema.h"
#include "tests/unit/test_store.h"

enum { MESSAGES = 60 };

static struct test_drop drop;
static char copy[60], wal[80];
static char uidls[MESSAGES + 1][MAILDROP_UIDL_MAX + 1];

/* Message n: told apart by its text, of a size of its own; in wire form. */
static size_t make_text(int n, char *text)
{
    size_t size = (size_t)sprintf(text, "Subject: %d\r\n\r\n", n);
    const size_t wanted = n % 10 == 0 ? 150000 : (size_t)(n * 97);

    while (size < wanted)
        size += (size_t)sprintf(text + size, "message %d line %zu\r\n", n, size);
    return size;
}

static int enter(void **state)
{
    char *text = malloc(200000);
    struct maildrop_snapshot *snapshot;
    struct maildrop *m;

    (void)state;
    if (maildrop_library_init(false) != STORE_OK)
        return -1;
    test_drop_make(&drop);
    snprintf(copy, sizeof(copy), "%s.copy", drop.folder);
    snprintf(wal, sizeof(wal), "%s-wal", copy);
    m = test_drop_open(&drop);
    for (int n = 1; n <= MESSAGES; n++)
        assert_int_equal(test_deliver(m, text, make_text(n, text), NULL), STORE_OK);
    snapshot = test_snapshot(m);
    for (int n = 1; n <= MESSAGES; n++)
        strcpy(uidls[n], test_uidl(snapshot, (size_t)n - 1));
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
    test_outside(&drop, "PRAGMA wal_checkpoint(TRUNCATE)");
    free(text);
    return 0;
}

static int leave(void **state)
{
    char path[80];

    (void)state;
    unlink(copy);
    unlink(wal);
    snprintf(path, sizeof(path), "%s-shm", copy);
    unlink(path);
    test_drop_remove(&drop);
    return 0;
}

static void copy_drop(void)
{
    char command[300];

    snprintf(command, sizeof(command), "rm -f %s*; cp %s/mail.db %s; touch %s", copy, drop.folder,
             copy, wal);
    assert_int_equal(system(command), 0);
}

struct found {
    int whole, altered, rebuilt, lost, with_uidl;
};

/* Read all that comes back; whatever is not called lost must be right. */
static struct found salvage_all(void)
{
    struct salvage *s = NULL;
    struct found found = {0};
    char error[200] = "", *text = malloc(200000), *wanted = malloc(200000);

    if (salvage_open(copy, &s, error, sizeof(error)) != STORE_OK)
        fail_msg("%s", error);
    for (size_t i = 0; i < salvage_count(s); i++) {
        struct maildrop_message message;
        const enum salvage_part part = salvage_message(s, i, &message);
        size_t size = 0, got = 1;

        found.whole += part == SALVAGE_WHOLE;
        found.altered += part == SALVAGE_ALTERED;
        found.rebuilt += part == SALVAGE_REBUILT;
        found.lost += part == SALVAGE_LOST;
        if (part == SALVAGE_LOST || part == SALVAGE_ALTERED)
            continue;
        found.with_uidl += strcmp(message.uidl, uidls[message.id]) == 0;
        while (got > 0) {
            assert_int_equal(salvage_read(s, message.id, size, text + size, 5000, &got), STORE_OK);
            size += got;
        }
        assert_int_equal(size, make_text((int)message.id, wanted));
        assert_memory_equal(text, wanted, size);
    }
    salvage_close(s);
    free(text);
    free(wanted);
    return found;
}

static void test_sound_file(void **state)
{
    struct found found;

    (void)state;
    copy_drop();
    found = salvage_all();
    assert_int_equal(found.whole, MESSAGES);
    assert_int_equal(found.with_uidl, MESSAGES);
    assert_int_equal(found.lost + found.rebuilt, 0);
}

/* One page after the other overwritten. A page of content holds no more than a few messages; that
 * of rows or the root of a tree must cost nothing but what only stood there. */
static void test_every_page(void **state)
{
    const int64_t pages = test_drop_file_size(&drop, MAILDROP_DB) / SCHEMA_PAGE_SIZE;
    char page[SCHEMA_PAGE_SIZE];

    (void)state;
    memset(page, 0xa5, sizeof(page));
    for (int64_t n = 0; n < pages; n++) {
        struct found found;
        int fd;

        copy_drop();
        fd = open(copy, O_WRONLY);
        assert_int_equal(pwrite(fd, page, sizeof(page), n * SCHEMA_PAGE_SIZE), sizeof(page));
        close(fd);
        found = salvage_all();
        if (found.whole + found.rebuilt < MESSAGES - 8)
            fail_msg("page %d: %d whole, %d rebuilt, %d lost", (int)n + 1, found.whole,
                     found.rebuilt, found.lost);
    }
}

/* The row and the content of a message, but not its entry in the index. */
static void test_row_lost(void **state)
{
    struct found found;

    (void)state;
    copy_drop();
    test_outside_at(copy, "DELETE FROM message WHERE id BETWEEN 11 AND 20");
    found = salvage_all();
    assert_int_equal(found.whole, MESSAGES - 10);
    assert_int_equal(found.rebuilt, 10);
}

static void test_chunk_lost(void **state)
{
    struct found found;

    (void)state;
    copy_drop();
    test_outside_at(copy, "DELETE FROM chunk WHERE place = 10 << 20 | 1;"
                          "DELETE FROM message WHERE id = 20;"
                          "DELETE FROM chunk WHERE place = 20 << 20 | 2");
    found = salvage_all();
    assert_int_equal(found.whole, MESSAGES - 2);
    assert_int_equal(found.lost, 2);
}

/* SQLite has nothing to say against a changed octet in a text. */
static void test_text_changed(void **state)
{
    struct found found;

    (void)state;
    copy_drop();
    test_outside_at(copy, "UPDATE chunk SET content = CAST(replace(content, ' 10 line',"
                          " ' 10 lime') AS BLOB) WHERE place >> 20 = 10;"
                          "UPDATE message SET received = received + 1 WHERE id = 11");
    found = salvage_all();
    assert_int_equal(found.whole, MESSAGES - 2);
    assert_int_equal(found.altered, 2);
}

/* A file of version 1.1 has no digests, and nothing is held against it. */
static void test_older_file(void **state)
{
    struct found found;

    (void)state;
    copy_drop();
    test_outside_at(copy, "ALTER TABLE message DROP COLUMN digest;"
                          "PRAGMA user_version=65537");
    found = salvage_all();
    assert_int_equal(found.whole, MESSAGES);
}

static void test_cut_short(void **state)
{
    struct found found;

    (void)state;
    copy_drop();
    assert_int_equal(truncate(copy, test_drop_file_size(&drop, MAILDROP_DB) / 2), 0);
    found = salvage_all();
    assert_true(found.whole + found.rebuilt >= MESSAGES / 3);
}

static void test_nothing_left(void **state)
{
    struct salvage *s = NULL;
    char error[200];

    (void)state;
    copy_drop();
    assert_int_equal(truncate(copy, 0), 0);
    if (salvage_open(copy, &s, error, sizeof(error)) == STORE_OK) {
        assert_int_equal(salvage_count(s), 0);
        salvage_close(s);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound_file),   cmocka_unit_test(test_every_page),
        cmocka_unit_test(test_row_lost),     cmocka_unit_test(test_chunk_lost),
        cmocka_unit_test(test_text_changed), cmocka_unit_test(test_older_file),
        cmocka_unit_test(test_cut_short),    cmocka_unit_test(test_nothing_left),
    };

    test_be_outside(argc, argv);
    return cmocka_run_group_tests(tests, enter, leave);
}
