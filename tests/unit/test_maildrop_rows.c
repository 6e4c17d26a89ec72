/*
 * test_maildrop_rows.c - one value after the other of a maildrop's rows is none: whoever reads it
 * is told of the damage, and of no message that is not there. And maildrops that are older, or in
 * use by others.
 */
#include "test_store.h"

#include "store/handle.h"
#include "store/lock.h"
#include "store/schema.h"
#include <limits.h>

static struct test_drop drop;

/* Three messages; the second has a surrogate. */
static int set_up(void **state)
{
    static const char utf8[] = "Subject: h\xc3\xa9\r\n\r\nbody\r\n";
    struct test_text text = {.octets = utf8, .size = sizeof(utf8) - 1};
    struct maildrop *m;

    (void)state;
    test_drop_make(&drop);
    m = test_drop_open(&drop);
    assert_int_equal(test_deliver_text(m, "Subject: one\n\nbody\n"), STORE_OK);
    assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){.utf8_headers = true},
                                      test_text_read, &text, NULL),
                     STORE_OK);
    assert_int_equal(test_deliver_text(m, "Subject: three\n\nbody\n"), STORE_OK);
    maildrop_close(m);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_drop_remove(&drop);
    return 0;
}

static void spoil(const char *sql)
{
    char all[600];

    snprintf(all, sizeof(all), "PRAGMA ignore_check_constraints=ON; %s", sql);
    test_outside(&drop, all);
}

static enum store_outcome list(struct maildrop *m)
{
    const struct maildrop_totals totals = test_totals(m);
    struct maildrop_snapshot *snapshot = NULL;
    const enum store_outcome outcome = maildrop_snapshot(m, &totals, &snapshot);

    assert_true(outcome == STORE_OK || snapshot == NULL);
    maildrop_snapshot_free(snapshot);
    return outcome;
}

/* As poplarctl lists them, from the first on. */
static enum store_outcome walk(struct maildrop *m)
{
    struct maildrop_message message = {0};
    enum store_outcome outcome;

    while ((outcome = maildrop_next(m, message.id, &message)) == STORE_OK)
        ;
    return outcome == STORE_END ? STORE_OK : outcome;
}

/* Below all ids that there may be. */
static enum store_outcome walk_from_below(struct maildrop *m)
{
    struct maildrop_message message = {0};

    return maildrop_next(m, INT64_MIN, &message);
}

static enum store_outcome top(struct maildrop *m)
{
    char octets[100];
    size_t got = 0;
    uint64_t header = 77;
    const enum store_outcome outcome =
        maildrop_read_first(m, 2, octets, sizeof(octets), &got, &header);

    assert_true(outcome == STORE_OK || header == 77);
    return outcome;
}

static enum store_outcome surrogate(struct maildrop *m)
{
    char *header = NULL;
    size_t size;
    uint64_t body;
    const enum store_outcome outcome = maildrop_surrogate(m, 2, &header, &size, &body);

    assert_true(outcome == STORE_OK || header == NULL);
    free(header);
    return outcome;
}

static enum store_outcome is_off(struct maildrop *m)
{
    bool off = true;

    return maildrop_pop3_off(m, &off);
}

/* In all of these it is message 2, and everybody who needs the value says so. */
static void test_values_that_are_none(void **state)
{
    static const struct {
        const char *sql;
        enum store_outcome (*ask[4])(struct maildrop *m); /* up to NULL */
    } cases[] = {
        {"UPDATE message SET id = -2 WHERE id = 2", {list, walk_from_below}},
        {"UPDATE message SET size = 'x' WHERE id = 2", {list, walk, top, surrogate}},
        {"UPDATE message SET size = -1 WHERE id = 2", {list, walk, top, surrogate}},
        {"UPDATE message SET plain_size = 'x' WHERE id = 2", {list, surrogate}},
        {"UPDATE message SET form = 'x' WHERE id = 2", {list, surrogate}},
        {"UPDATE message SET form = 3 WHERE id = 2", {list, surrogate}},
        {"UPDATE message SET header_size = 'x' WHERE id = 2", {walk, top, surrogate}},
        {"UPDATE message SET header_size = size + 1 WHERE id = 2", {walk, top, surrogate}},
        {"UPDATE message SET received = 'x' WHERE id = 2", {walk}},
        {"UPDATE message SET retrieved = 'x' WHERE id = 2", {walk}},
        {"UPDATE message SET deleted = 'x' WHERE id = 2", {walk}},
        {"UPDATE message SET uidl = x'00' WHERE id = 2", {list, walk}},
        {"UPDATE message SET uidl = printf('%071d', 1) WHERE id = 2", {list, walk}},
        {"UPDATE message SET size = 2000000, header_size = 1500000 WHERE id = 2", {surrogate}},
        {"INSERT INTO setting VALUES ('pop3', 'x')", {is_off}},
        {"INSERT INTO setting VALUES ('pop3', -1)", {is_off}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct maildrop *m;

        spoil(cases[i].sql);
        m = test_drop_open(&drop);
        for (size_t n = 0; n < 4 && cases[i].ask[n]; n++) {
            if (cases[i].ask[n](m) != STORE_DAMAGED)
                fail_msg("%s: question %zu is answered", cases[i].sql, n);
            assert_true(strlen(maildrop_error(m)) > 0);
        }
        assert_int_equal(test_deliver_text(m, "no transaction was left open\n"), STORE_OK);
        maildrop_close(m);
        tear_down(NULL);
        set_up(NULL);
    }
}

/* A header that has no surrogate within bounds stands where one was that has: all its octets are
 * commas and addresses that become many times as long. */
static void test_surrogate_too_large(void **state)
{
    enum { SIZE = 600000 };
    char *text = malloc(SIZE + 100);
    size_t at = (size_t)sprintf(text, "To: ");
    struct test_text source = {.octets = text};
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *snapshot;
    struct maildrop_entry entry;

    (void)state;
    while (at < SIZE)
        at += (size_t)sprintf(text + at, "\xc3\xa9,\r\n ");
    at += (size_t)sprintf(text + at, "x\r\n\r\n");
    source.size = at;
    assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){.utf8_headers = true},
                                      test_text_read, &source, NULL),
                     STORE_OK);
    free(text);
    snapshot = test_snapshot(m);
    entry = maildrop_snapshot_entry(snapshot, 3);
    assert_int_equal(entry.form, MAILDROP_UTF8_ONLY);
    assert_int_equal(entry.plain_size, entry.size);
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
    spoil("DELETE FROM chunk WHERE place >> 20 = 2;"
          "UPDATE chunk SET place = place - (2 << 20) WHERE place >> 20 = 4;"
          "UPDATE message SET size = (SELECT size FROM message WHERE id = 4),"
          " header_size = (SELECT header_size FROM message WHERE id = 4) WHERE id = 2");
    m = test_drop_open(&drop);
    assert_int_equal(surrogate(m), STORE_DAMAGED);
    maildrop_close(m);
}

static void test_totals_row(void **state)
{
    static const char *const columns[] = {"messages", "octets", "plain_octets", "last_id", "guard"};
    struct maildrop *m = NULL;
    char sql[100];

    (void)state;
    for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
        snprintf(sql, sizeof(sql), "UPDATE state SET %s = 'x'", columns[i]);
        spoil(sql);
        assert_int_equal(test_drop_try(&drop, &m), STORE_DAMAGED);
        assert_string_equal(maildrop_error(NULL), "the totals row holds what are no counts");
        tear_down(NULL);
        set_up(NULL);
    }
}

/* No id is left for another message. */
static void test_last_id(void **state)
{
    const int64_t last = (INT64_C(1) << (63 - SCHEMA_CHUNK_BITS)) - 1;
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_totals totals = test_totals(m);
    char sql[100];

    (void)state;
    maildrop_close(m);
    totals.last_id = last;
    snprintf(sql, sizeof(sql), "UPDATE state SET last_id = %lld, guard = %lld", (long long)last,
             (long long)schema_guard(&totals));
    spoil(sql);
    m = test_drop_open(&drop);
    assert_int_equal(test_deliver_text(m, "one more\n"), STORE_DAMAGED);
    assert_string_equal(maildrop_error(m), "the last message's id is out of all bounds");
    assert_int_equal(test_totals(m).messages, 3);
    maildrop_close(m);
}

static ssize_t give_too_much(void *context, void *buffer, size_t size)
{
    (void)context;
    memset(buffer, 'x', size);
    return (ssize_t)size + 1;
}

static void test_source_that_lies(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){0}, give_too_much, NULL, NULL),
                     STORE_SOURCE);
    assert_int_equal(test_totals(m).messages, 3);
    maildrop_close(m);
}

/* The smaller of two limits says what is wrong. */
static void test_smaller_limit(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const struct maildrop_totals totals = test_totals(m);
    struct maildrop_delivery limits = {.max_message = 10, .quota_octets = totals.octets + 1000};
    struct test_text text = {.octets = "twelve octets\n", .size = 14};

    (void)state;
    assert_int_equal(maildrop_deliver(m, &limits, test_text_read, &text, NULL), STORE_TOO_LARGE);
    limits.quota_octets = totals.octets + 5;
    text.position = 0;
    assert_int_equal(maildrop_deliver(m, &limits, test_text_read, &text, NULL), STORE_OVER_QUOTA);
    maildrop_close(m);
}

/* In a batch, the list is the batch's own. */
static void test_list_in_a_batch(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *snapshot;

    (void)state;
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(test_deliver_text(m, "four\n"), STORE_OK);
    snapshot = test_snapshot(m);
    assert_int_equal(maildrop_snapshot_count(snapshot), 4);
    maildrop_snapshot_free(snapshot);
    assert_int_equal(test_deliver_text(m, "five: the batch is still open\n"), STORE_OK);
    assert_int_equal(maildrop_batch_end(m, false), STORE_OK);
    assert_int_equal(test_totals(m).messages, 3);
    maildrop_close(m);
}

/* Another process with the write lock, which it has by now and gives back when `out` is closed. It
 * may then open the maildrop itself. */
struct other {
    pid_t pid;
    int out;
};

static struct other begin_other(bool opens)
{
    struct other other;
    int in[2], out[2];
    char path[80], octet;

    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    other.pid = fork();
    assert_true(other.pid >= 0);
    if (other.pid == 0) {
        close(out[1]);
        test_drop_path(&drop, MAILDROP_LOCK, path);
        const int fd = open(path, O_RDWR);
        if (lock_acquire(fd, MAILDROP_LOCK_WRITE, 0) != STORE_OK || write(in[1], "", 1) != 1 ||
            read(out[0], &octet, 1) < 0)
            _exit(1);
        if (opens) {
            lock_sleep(50); /* the other one waits for us by now, or it is no different test */
            lock_release(fd, MAILDROP_LOCK_WRITE);
            maildrop_close(test_drop_open(&drop));
        }
        _exit(0);
    }
    close(in[1]);
    close(out[0]);
    assert_int_equal(read(in[0], &octet, 1), 1);
    close(in[0]);
    other.out = out[1];
    return other;
}

static void end_other(const struct other *other)
{
    int status = 0;

    close(other->out);
    assert_int_equal(waitpid(other->pid, &status, 0), other->pid);
    assert_int_equal(status, 0);
}

/* A maildrop of the first version that nobody can bring up to date now is served as it is. */
static void test_older_version(void **state)
{
    static const char utf8[] = "Subject: h\xc3\xa9\r\n\r\n";
    struct test_text text = {.octets = utf8, .size = sizeof(utf8) - 1};
    struct other other;
    struct maildrop *m;
    bool off = true;

    (void)state;
    test_outside(&drop, TEST_VERSION_1_0);
    other = begin_other(false);
    m = test_drop_open(&drop); /* waits until its patience is over */
    assert_int_equal(m->minor, 0);
    assert_int_equal(maildrop_pop3_off(m, &off), STORE_OK);
    assert_false(off);
    assert_int_equal(list(m), STORE_OK);
    end_other(&other);
    assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){.utf8_headers = true},
                                      test_text_read, &text, NULL),
                     STORE_OK);
    assert_int_equal(test_totals(m).messages, 4);
    maildrop_close(m);
    m = test_drop_open(&drop);
    assert_int_equal(m->minor, SCHEMA_MINOR);
    assert_int_equal(list(m), STORE_OK);
    maildrop_close(m);
}

/* Two bring it up to date at once: the second finds it done. */
static void test_somebody_else_upgrades(void **state)
{
    struct other other;
    struct maildrop *m;

    (void)state;
    test_outside(&drop, TEST_VERSION_1_0);
    other = begin_other(true);
    close(other.out);
    m = test_drop_open(&drop);
    assert_int_equal(m->minor, SCHEMA_MINOR);
    assert_int_equal(test_deliver_text(m, "four\n"), STORE_OK);
    maildrop_close(m);
    other.out = -1;
    end_other(&other);
}

/* Cleaning up a large WAL is not worth waiting for. */
static void test_large_wal_in_use(void **state)
{
    enum { LARGE = 3 << 20 };
    char *octets = malloc(LARGE);
    struct maildrop *m = test_drop_open(&drop);
    struct other other;

    (void)state;
    memset(octets, 'x', LARGE);
    m->wal_frames = INT_MIN / 2;
    sqlite3_wal_hook(m->db, NULL, NULL); /* no checkpoint at the commit */
    assert_int_equal(test_deliver(m, octets, LARGE, NULL), STORE_OK);
    free(octets);
    maildrop_close(m);
    other = begin_other(false);
    m = test_drop_open(&drop);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) > LARGE);
    maildrop_close(m);
    end_other(&other);
    m = test_drop_open(&drop);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), 0);
    assert_int_equal(test_totals(m).messages, 4);
    maildrop_close(m);
}

/* Somebody else keeps an index of a WAL that is not there any more, or not all of it: what it lists
 * cannot be read. With no WAL at all the files want to be opened anew, and that is no damage. */
static void test_index_of_another_wal(void **state)
{
    char path[80], octet = 0;
    int in[2], out[2], status;
    struct maildrop *m = NULL;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    pid = fork();
    if (pid == 0) {
        close(out[1]);
        m = test_drop_open(&drop);
        _exit(test_deliver_text(m, "four\n") == STORE_OK && write(in[1], "", 1) == 1 &&
                      read(out[0], &octet, 1) == 0
                  ? 0
                  : 1);
    }
    close(out[0]);
    assert_int_equal(read(in[0], &octet, 1), 1);
    test_drop_path(&drop, MAILDROP_WAL, path);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(test_drop_try(&drop, &m), STORE_DAMAGED);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(test_drop_try(&drop, &m), STORE_STALE);
    assert_string_equal(maildrop_error(NULL), "mail.db-shm belongs to a WAL that was removed");
    close(out[1]);
    close(in[0]);
    close(in[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    m = test_drop_open(&drop); /* as it was before the WAL */
    maildrop_close(m);
}

static void test_unreadable_database(void **state)
{
    int fds[MAILDROP_FILES];
    struct maildrop *m = NULL;
    char path[80];

    (void)state;
    test_drop_grant(&drop, fds);
    close(fds[MAILDROP_DB]);
    test_drop_path(&drop, MAILDROP_DB, path);
    fds[MAILDROP_DB] = open(path, O_WRONLY);
    assert_int_equal(maildrop_open(fds, &m), STORE_IO);
    assert_string_equal(maildrop_error(NULL), "mail.db cannot be read");
    assert_null(m);
}

/* What each of SQLite's codes means to whoever asked. */
static void test_outcomes(void **state)
{
    static const struct {
        int rc;
        enum store_outcome outcome;
    } cases[] = {
        {SQLITE_OK, STORE_OK},
        {SQLITE_ROW, STORE_OK},
        {SQLITE_DONE, STORE_END},
        {SQLITE_BUSY, STORE_BUSY},
        {SQLITE_BUSY_SNAPSHOT, STORE_BUSY},
        {SQLITE_LOCKED, STORE_BUSY},
        {SQLITE_PROTOCOL, STORE_BUSY},
        {SQLITE_FULL, STORE_FULL},
        {SQLITE_NOMEM, STORE_MEMORY},
        {SQLITE_CORRUPT, STORE_DAMAGED},
        {SQLITE_NOTADB, STORE_DAMAGED},
        {SQLITE_CONSTRAINT_CHECK, STORE_DAMAGED},
        {SQLITE_ERROR, STORE_DAMAGED},
        {SQLITE_SCHEMA, STORE_DAMAGED},
        {SQLITE_TOOBIG, STORE_DAMAGED},
        {SQLITE_CANTOPEN, STORE_DAMAGED},
        {SQLITE_IOERR, STORE_IO},
        {SQLITE_READONLY, STORE_IO},
        {SQLITE_INTERRUPT, STORE_IO},
    };
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        m->disk_failed = false;
        assert_int_equal(handle_outcome(m, cases[i].rc), cases[i].outcome);
        assert_int_equal(m->disk_failed, cases[i].outcome == STORE_IO);
    }
    maildrop_close(m);
    for (int i = STORE_OK; i <= STORE_MEMORY; i++)
        assert_string_not_equal(maildrop_outcome_name((enum store_outcome)i), "unknown");
    assert_string_equal(maildrop_outcome_name((enum store_outcome)(STORE_MEMORY + 1)), "unknown");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values_that_are_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_surrogate_too_large, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_totals_row, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_last_id, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_source_that_lies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_smaller_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_list_in_a_batch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_older_version, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_somebody_else_upgrades, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_large_wal_in_use, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_index_of_another_wal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unreadable_database, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_outcomes, set_up, tear_down),
    };

    if (argc == 4 && strcmp(argv[1], "outside") == 0)
        return test_outside_sqlite(argv[2], argv[3]);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
