/*
 * test_maildrop_damage.c - files that are no sound maildrops: refused as such, never shown as an
 * empty maildrop, never a crash.
 */
#include "one_drop.h"

#include "store/handle.h"
#include "store/schema.h"

static int set_up(void **state)
{
    struct maildrop *m;
    char text[9000];

    (void)state;
    test_drop_make(&drop);
    m = test_drop_open(&drop);
    memset(text, 'a', sizeof(text));
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(test_deliver(m, text, sizeof(text) - 1000 * i, NULL), STORE_OK);
    maildrop_close(m);
    /* An outside closer leaves all in mail.db. */
    test_outside(&drop, "PRAGMA wal_checkpoint(TRUNCATE)");
    return 0;
}

static enum store_outcome try_open(void)
{
    struct maildrop *m = NULL;
    const enum store_outcome outcome = test_drop_try(&drop, &m);

    maildrop_close(m);
    return outcome;
}

static char *read_database(size_t *size)
{
    char path[80], *octets;
    int fd;

    *size = (size_t)test_drop_file_size(&drop, MAILDROP_DB);
    test_drop_path(&drop, MAILDROP_DB, path);
    octets = malloc(*size);
    fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, octets, *size), *size);
    close(fd);
    return octets;
}

static void write_database(const char *octets, size_t size)
{
    char path[80];

    test_drop_path(&drop, MAILDROP_DB, path);
    test_write_file(path, octets, size);
    test_drop_path(&drop, MAILDROP_WAL, path);
    test_write_file(path, "", 0);
    test_drop_path(&drop, MAILDROP_SHM, path);
    test_write_file(path, "", 0);
}

static void test_files_that_are_none(void **state)
{
    static const char text[] = "From alice@example.com: this was an mbox file once, and longer than"
                               " one hundred octets, so that it could be a header.\n";
    size_t size;
    char *sound = read_database(&size);

    (void)state;
    write_database("", 0);
    assert_int_equal(try_open(), STORE_DAMAGED);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_DB), 0);
    assert_string_equal(maildrop_error(NULL), "mail.db is empty");
    write_database(text, sizeof(text));
    assert_int_equal(try_open(), STORE_DAMAGED);
    write_database(sound, 60);
    assert_int_equal(try_open(), STORE_DAMAGED);
    for (size_t cut = 100; cut < size; cut += 4096) {
        write_database(sound, cut);
        assert_int_equal(try_open(), STORE_DAMAGED);
    }
    write_database(sound, size);
    assert_int_equal(try_open(), STORE_OK);
    free(sound);
}

/* Each statement makes a maildrop that must not be served. */
static void test_wrong_contents(void **state)
{
    static const char *const spoilers[] = {
        "PRAGMA journal_mode=DELETE",
        "PRAGMA application_id=7",
        "PRAGMA user_version=0",
        "DELETE FROM state",
        "DROP TABLE state",
        "ALTER TABLE state RENAME TO condition",
        "PRAGMA ignore_check_constraints=ON; UPDATE state SET messages = -1",
        "UPDATE state SET messages = 0",
        "UPDATE state SET messages = 0, octets = 0, last_id = 0",
        "PRAGMA ignore_check_constraints=ON; UPDATE state SET messages = 'many'",
        "UPDATE state SET guard = 0",
        "UPDATE state SET plain_octets = plain_octets + 1",
    };
    size_t size;
    char *sound = read_database(&size);

    (void)state;
    for (size_t i = 0; i < sizeof(spoilers) / sizeof(spoilers[0]); i++) {
        test_outside(&drop, spoilers[i]);
        assert_int_equal(try_open(), STORE_DAMAGED);
        write_database(sound, size);
    }
    assert_int_equal(try_open(), STORE_OK);
    free(sound);
}

static void test_versions_from_the_future(void **state)
{
    size_t size, now;
    char *before, *after, sql[80];

    (void)state;
    snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", (SCHEMA_MAJOR + 1) << 16);
    test_outside(&drop, sql);
    before = read_database(&size);
    assert_int_equal(try_open(), STORE_NEWER);
    after = read_database(&now);
    assert_int_equal(now, size);
    assert_memory_equal(before, after, size);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) <= 0);
    snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", SCHEMA_MAJOR << 16 | 99);
    test_outside(&drop, sql);
    assert_int_equal(try_open(), STORE_OK);
    free(before);
    free(after);
}

/* Rows that the totals know of are gone, or more than they know: not a shorter list. */
static void test_list_contradicts_totals(void **state)
{
    static const char *const spoilers[] = {
        "DELETE FROM message WHERE id = 3",
        "DELETE FROM message",
        "UPDATE message SET deleted = 1 WHERE id = 3",
        "UPDATE message SET size = size + 1 WHERE id = 3",
        "UPDATE message SET plain_size = plain_size + 1 WHERE id = 3",
        "PRAGMA ignore_check_constraints=ON; UPDATE message SET form = 3 WHERE id = 3",
        "UPDATE message SET uidl = 'a b' WHERE id = 3",
        "PRAGMA ignore_check_constraints=ON; UPDATE message SET uidl = '' WHERE id = 3",
        "UPDATE message SET id = 99 WHERE id = 3",
        "INSERT INTO message VALUES (99, 'x', 1, 1, 0, 1, 1, NULL, NULL, NULL)",
    };
    size_t size;
    char *sound = read_database(&size);

    (void)state;
    for (size_t i = 0; i < sizeof(spoilers) / sizeof(spoilers[0]); i++) {
        struct maildrop_snapshot *snapshot = NULL;
        struct maildrop_totals totals;
        struct maildrop *m;

        test_outside(&drop, spoilers[i]);
        m = test_drop_open(&drop);
        totals = test_totals(m);
        assert_int_equal(totals.messages, 8);
        assert_int_equal(maildrop_snapshot(m, &totals, &snapshot), STORE_DAMAGED);
        assert_null(snapshot);
        maildrop_close(m);
        write_database(sound, size);
    }
    free(sound);
}

static void test_damaged_content(void **state)
{
    static const char *const spoilers[] = {
        "DELETE FROM chunk WHERE place = 3 << 20",
        "UPDATE chunk SET content = substr(content, 1, 100) WHERE place = 3 << 20",
        "UPDATE chunk SET content = content || x'00' WHERE place = 3 << 20",
        "UPDATE chunk SET content = CAST(content AS TEXT) WHERE place = 3 << 20",
        "UPDATE message SET size = size + 1 WHERE id = 3",
        "UPDATE message SET size = 'x' WHERE id = 3",
    };
    size_t size, got = 77;
    char *sound = read_database(&size), buffer[1000];

    (void)state;
    for (size_t i = 0; i < sizeof(spoilers) / sizeof(spoilers[0]); i++) {
        char sql[200];
        struct maildrop *m;

        snprintf(sql, sizeof(sql), "PRAGMA ignore_check_constraints=ON; %s", spoilers[i]);
        test_outside(&drop, sql);
        m = test_drop_open(&drop);
        assert_int_equal(maildrop_read(m, 3, 0, buffer, sizeof(buffer), &got), STORE_DAMAGED);
        assert_int_equal(got, 77);
        assert_int_equal(maildrop_read(m, 4, 0, buffer, sizeof(buffer), &got), STORE_OK);
        got = 77;
        maildrop_close(m);
        write_database(sound, size);
    }
    free(sound);
}

/* A view that tells a convincing tale. */
static void test_view_for_table(void **state)
{
    const struct maildrop_totals none = {0};
    char sql[200];

    (void)state;
    snprintf(sql, sizeof(sql),
             "DROP TABLE state; CREATE VIEW state AS SELECT 1 AS one, 0 AS messages, 0 AS octets,"
             " 0 AS plain_octets, 0 AS last_id, %lld AS guard",
             (long long)schema_guard(&none));
    test_outside(&drop, sql);
    assert_int_equal(try_open(), STORE_DAMAGED);
}

/* What a hostile database would run if it could. */
static void test_schema_runs_nothing(void **state)
{
    struct maildrop *m;

    (void)state;
    test_outside(&drop, "CREATE TRIGGER evil AFTER INSERT ON message BEGIN"
                        " DELETE FROM message; END");
    m = test_drop_open(&drop);
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    maildrop_snapshot_free(test_snapshot(m));
    assert_int_equal(test_totals(m).messages, 9);
    maildrop_close(m);
}

/* Everything a session and a delivery do. Any outcome is good but a crash and a lie. */
static void use(struct maildrop *m)
{
    struct maildrop_snapshot *snapshot = NULL;
    struct maildrop_totals totals;
    static char buffer[20000];
    size_t got;

    if (maildrop_totals(m, &totals) != STORE_OK)
        return;
    assert_int_equal(totals.messages, 8);
    if (maildrop_snapshot(m, &totals, &snapshot) == STORE_OK) {
        assert_int_equal(maildrop_snapshot_count(snapshot), 8);
        for (size_t i = 0; i < 8; i++) {
            const struct maildrop_entry entry = maildrop_snapshot_entry(snapshot, i);
            if (maildrop_read(m, entry.id, 0, buffer, sizeof(buffer), &got) == STORE_OK)
                assert_int_equal(got, entry.size);
        }
    }
    maildrop_snapshot_free(snapshot);
    test_deliver(m, buffer, 15000, NULL);
    maildrop_commit(m, (int64_t[]){1}, 1, (int64_t[]){2, 3}, 2, 0);
    handle_checkpoint(m);
}

static void test_flipped_bits(void **state)
{
    unsigned outcomes[STORE_MEMORY + 1] = {0};
    size_t size;
    char *sound = read_database(&size), *spoiled = malloc(size);

    (void)state;
    srandom(4711);
    for (int round = 0; round < 1500; round++) {
        const size_t range = round % 3 == 0 ? 100 : round % 3 == 1 ? 6 * 4096 : size;
        struct maildrop *m = NULL;
        enum store_outcome outcome;

        memcpy(spoiled, sound, size);
        for (long flips = 1 + random() % 8; flips > 0; flips--)
            spoiled[(size_t)random() % range] ^= (char)(1 << random() % 8);
        write_database(spoiled, size);
        outcome = test_drop_try(&drop, &m);
        outcomes[outcome]++;
        if (outcome == STORE_OK) {
            m->patience_ms = 100;
            use(m);
        }
        maildrop_close(m);
    }
    assert_true(outcomes[STORE_OK] > 100);
    assert_true(outcomes[STORE_DAMAGED] > 100);
    assert_int_equal(outcomes[STORE_STALE] + outcomes[STORE_REFUSED] + outcomes[STORE_MEMORY], 0);
    free(sound);
    free(spoiled);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_files_that_are_none, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_wrong_contents, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_versions_from_the_future, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_list_contradicts_totals, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_damaged_content, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_view_for_table, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_schema_runs_nothing, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_flipped_bits, set_up, remove_drop),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
