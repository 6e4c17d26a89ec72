/*
 * test_salvage_rows.c - what salvage makes of rows, chunks and indexes that contradict each other:
 * what it calls whole is what was stored, what it rebuilds is a whole text, and the rest is lost.
 */
#include "store/handle.h"
#include "store/salvage.h"
#include "tests/unit/test_store.h"

enum { MESSAGES = 4 };

static struct test_drop drop;
static char path[80];

/* A short one, one of exactly a chunk, a long one, one of nothing. */
static const size_t sizes[MESSAGES] = {1000, MAILDROP_CHUNK_SIZE, 150000, 0};

static char *make_text(size_t size)
{
    char *text = malloc(size + 3);

    for (size_t i = 0; i < size; i++)
        text[i] = (char)('a' + i % 26);
    if (size > 0)
        memcpy(text + size - 2, "\r\n", 2);
    return text;
}

static int set_up(void **state)
{
    struct maildrop *m;

    (void)state;
    test_drop_make(&drop);
    test_drop_path(&drop, MAILDROP_DB, path);
    m = test_drop_open(&drop);
    for (int i = 0; i < MESSAGES; i++) {
        char *text = make_text(sizes[i]);

        assert_int_equal(test_deliver(m, text, sizes[i], NULL), STORE_OK);
        free(text);
    }
    maildrop_close(m);
    test_outside(&drop, "PRAGMA wal_checkpoint(TRUNCATE)");
    return 0;
}

static int tear_down(void **state)
{
    int fds[MAILDROP_FILES];

    (void)state;
    test_drop_grant(&drop, fds); /* what salvage removed is there again */
    test_drop_give_back(fds);
    test_drop_remove(&drop);
    return 0;
}

/* What is said of each message, one letter each, in the order of their ids; texts that are not lost
 * are held against what was stored. */
static void salvage(char *said)
{
    static const char letters[] = {[SALVAGE_WHOLE] = 'W',
                                   [SALVAGE_ALTERED] = 'A',
                                   [SALVAGE_REBUILT] = 'R',
                                   [SALVAGE_LOST] = 'L'};
    static char octets[200000];
    struct salvage *s = NULL;
    char error[200] = "";

    if (salvage_open(path, &s, error, sizeof(error)) != STORE_OK)
        fail_msg("%s", error);
    for (size_t i = 0; i < salvage_count(s); i++) {
        struct maildrop_message message;
        const enum salvage_part part = salvage_message(s, i, &message);
        size_t size = 0, got = 0;

        *said++ = letters[part];
        assert_true(!message.uidl[0] || handle_is_uidl(message.uidl, strlen(message.uidl)));
        if (part == SALVAGE_WHOLE || part == SALVAGE_REBUILT) {
            char *text = make_text(sizes[message.id - 1]);

            do {
                assert_int_equal(salvage_read(s, message.id, size, octets + size, 60000, &got),
                                 STORE_OK);
                size += got;
            } while (got > 0);
            assert_int_equal(size, message.size);
            assert_int_equal(size, sizes[message.id - 1]);
            assert_memory_equal(octets, text, size);
            free(text);
        }
    }
    *said = '\0';
    salvage_close(s);
    salvage_close(NULL);
}

static void test_contradictions(void **state)
{
    static const struct {
        const char *sql, *said;
    } cases[] = {
        {"SELECT 1", "WWWW"},
        /* Ids that no message can have leave no trace. */
        {"UPDATE message SET id = -1 WHERE id = 1; DELETE FROM chunk WHERE place >> 20 = 1", "WWW"},
        {"UPDATE message SET id = 1 << 43 WHERE id = 1; DELETE FROM chunk WHERE place >> 20 = 1",
         "WWW"},
        /* Rows that cannot be believed: only the text is left, if it is one. */
        {"UPDATE message SET uidl = x'00' WHERE id = 1", "RWWW"},
        {"UPDATE message SET uidl = printf('%071d', 1) WHERE id = 1", "RWWW"},
        {"UPDATE message SET uidl = 'x' || char(10) || '2 Px' WHERE id = 1", "RWWW"},
        {"UPDATE message SET header_size = size + 1 WHERE id = 2", "WRWW"},
        {"UPDATE message SET size = 'x' WHERE id = 3", "WWRW"},
        {"UPDATE message SET size = 'x' WHERE id = 4", "WWWL"},
        {"UPDATE message SET size = size - 1, header_size = 0 WHERE id = 1", "LWWW"},
        {"UPDATE message SET size = size + 1 WHERE id = 2", "WLWW"},
        {"UPDATE message SET size = 0, header_size = 0 WHERE id = 1", "AWWW"},
        /* The same without the end, the middle, or the line end of the text. */
        {"DELETE FROM message WHERE id = 3; DELETE FROM chunk WHERE place = 3 << 20 | 2", "WWLW"},
        {"DELETE FROM message WHERE id = 3; DELETE FROM chunk WHERE place = 3 << 20 | 1", "WWLW"},
        {"DELETE FROM message WHERE id = 3; DELETE FROM chunk WHERE place = 3 << 20", "WWLW"},
        {"DELETE FROM message WHERE id = 3; UPDATE chunk SET content = CAST(content AS TEXT)"
         " WHERE place = 3 << 20 | 1",
         "WWLW"},
        {"DELETE FROM message WHERE id = 1; UPDATE chunk SET content = x'610d61'"
         " WHERE place = 1 << 20",
         "LWWW"},
        {"DELETE FROM message WHERE id = 1; UPDATE chunk SET content = x'6161610a'"
         " WHERE place = 1 << 20",
         "LWWW"},
        /* Chunks that are none, with a row that says what they should be. */
        {"UPDATE chunk SET content = CAST(content AS TEXT) WHERE place = 1 << 20", "LWWW"},
        {"UPDATE chunk SET content = zeroblob(70000) WHERE place = 2 << 20", "WLWW"},
        /* Chunks that only SQLite can read. */
        {"ALTER TABLE chunk ADD COLUMN more; UPDATE chunk SET more = 1", "WWWW"},
        {"ALTER TABLE chunk ADD COLUMN more; UPDATE chunk SET more = 1, content = zeroblob(70000)"
         " WHERE place = 2 << 20",
         "WLWW"},
        /* What the totals say is not needed. */
        {"UPDATE state SET last_id = 'x'", "WWWW"},
        {"DROP TABLE state", "WWWW"},
        {"DELETE FROM chunk", "LLLW"},
        {"DELETE FROM message; DELETE FROM chunk", ""},
        {"DELETE FROM message", "RRR"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char sql[400], said[20];

        snprintf(sql, sizeof(sql), "PRAGMA ignore_check_constraints=ON; %s", cases[i].sql);
        test_outside(&drop, sql);
        salvage(said);
        if (strcmp(said, cases[i].said) != 0)
            fail_msg("%s: %s, not %s", cases[i].sql, said, cases[i].said);
        tear_down(NULL);
        set_up(NULL);
    }
}

/* A chunk that cannot be read is said to be so, not called an end. */
static void test_unreadable_chunk(void **state)
{
    struct salvage *s = NULL;
    char error[200], octets[10];
    size_t got = 77;

    (void)state;
    test_outside(&drop, "UPDATE chunk SET content = CAST(content AS TEXT) WHERE place = 1 << 20");
    assert_int_equal(salvage_open(path, &s, error, sizeof(error)), STORE_OK);
    assert_int_equal(salvage_read(s, 1, 0, octets, sizeof(octets), &got), STORE_DAMAGED);
    assert_int_equal(got, 77);
    assert_int_equal(salvage_read(s, 2, 0, octets, sizeof(octets), &got), STORE_OK);
    assert_int_equal(got, sizeof(octets));
    salvage_close(s);
}

/* A table that is gone is had again from where it is in every maildrop, if its pages are there. */
static void test_table_dropped(void **state)
{
    static const char *const tables[] = {"message", "chunk"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct salvage *s = NULL;
        char sql[100], error[200] = "";

        snprintf(sql, sizeof(sql), "DROP TABLE %s", tables[i]);
        test_outside(&drop, sql);
        assert_int_equal(salvage_open(path, &s, error, sizeof(error)), STORE_OK);
        for (size_t n = 0; n < salvage_count(s); n++) {
            struct maildrop_message message;

            if (salvage_message(s, n, &message) != SALVAGE_LOST)
                assert_int_equal(message.size, sizes[message.id - 1]);
        }
        salvage_close(s);
        tear_down(NULL);
        set_up(NULL);
    }
}

/* In the WAL, by somebody who ended in the midst of it. */
static void write_wal(const char *sql)
{
    const pid_t pid = fork();
    int status;

    if (pid == 0) {
        sqlite3 *db = NULL;

        _exit(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix") == SQLITE_OK &&
                      sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* A damaged schema that stands in the WAL goes with the WAL. */
static void test_damage_in_the_wal(void **state)
{
    char said[20];

    (void)state;
    write_wal("PRAGMA writable_schema=ON;"
              "UPDATE sqlite_schema SET sql = 'nonsense' WHERE name = 'message'");
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) > 0);
    salvage(said);
    assert_string_equal(said, "WWWW");
}

static void test_no_file(void **state)
{
    char error[200] = "", none[120], *far = malloc(5000);
    struct salvage *s = NULL;

    (void)state;
    snprintf(none, sizeof(none), "%s/none", drop.folder);
    assert_int_equal(salvage_open(none, &s, error, sizeof(error)), STORE_DAMAGED);
    assert_true(strlen(error) > 0);
    memset(far, '/', 4999);
    far[4999] = '\0';
    assert_int_equal(salvage_open(far, &s, error, sizeof(error)), STORE_DAMAGED);
    assert_null(s);
    free(far);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_contradictions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unreadable_chunk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_table_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage_in_the_wal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_file, set_up, tear_down),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(false) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
