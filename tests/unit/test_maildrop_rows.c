/*
 * test_maildrop_rows.c - one value after the other of a maildrop's rows is none: whoever reads it
 * is told of the damage, and of no message that is not there. And maildrops that are older, or in
 * use by others.
 */
#include "one_drop.h"

#include "store/check.h"
#include "store/digest.h"
#include "store/handle.h"
#include "store/listing.h"
#include "store/lock.h"
#include "store/schema.h"
#include <endian.h>
#include <limits.h>

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

/* The last that a session retrieved, for LAST. */
static enum store_outcome last(struct maildrop *m)
{
    int64_t id = 77;
    const enum store_outcome outcome = maildrop_last_retrieved(m, INT64_MAX, &id);

    assert_true(outcome == STORE_OK || id == 77);
    return outcome;
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
        {"UPDATE message SET id = -2, retrieved = 1 WHERE id = 2", {last}},
        {"UPDATE message SET id = 1 << 43 WHERE id = 2", {list}},
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

        test_spoil(&drop, cases[i].sql);
        m = test_drop_open(&drop);
        for (size_t n = 0; n < 4 && cases[i].ask[n]; n++) {
            if (cases[i].ask[n](m) != STORE_DAMAGED)
                fail_msg("%s: question %zu is answered", cases[i].sql, n);
            assert_true(strlen(maildrop_error(m)) > 0);
        }
        assert_int_equal(test_deliver_text(m, "no transaction was left open\n"), STORE_OK);
        maildrop_close(m);
        remove_drop(NULL);
        set_up(NULL);
    }
}

/* On the page of the rows the third has the number of the first. */
static void test_rows_out_of_order(void **state)
{
    enum { PAGE = 4096, CELLS = 8 };
    struct maildrop *m = test_drop_open(&drop);
    unsigned char page[PAGE];
    sqlite3_stmt *statement;
    char path[80];

    (void)state;
    assert_int_equal(sqlite3_prepare_v2(m->db,
                                        "SELECT rootpage FROM sqlite_master WHERE name = 'message'",
                                        -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    const off_t at = (sqlite3_column_int64(statement, 0) - 1) * PAGE;
    sqlite3_finalize(statement);
    maildrop_close(m);
    test_outside(&drop, "PRAGMA wal_checkpoint(TRUNCATE)");
    test_drop_path(&drop, MAILDROP_DB, path);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, page, PAGE, at), PAGE);
    assert_int_equal(page[0], 0x0d); /* a leaf of a table: after the size of a cell is its number */
    const size_t third = (size_t)(page[CELLS + 4] << 8 | page[CELLS + 5]);
    assert_true(page[third] < 0x80 && page[third + 1] == 3);
    page[third + 1] = 1;
    assert_int_equal(pwrite(fd, page, PAGE, at), PAGE);
    close(fd);
    m = test_drop_open(&drop);
    assert_int_equal(list(m), STORE_DAMAGED);
    assert_non_null(strstr(maildrop_error(m), "the row after message 2"));
    maildrop_close(m);
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
    test_spoil(&drop, "DELETE FROM chunk WHERE place >> 20 = 2;"
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
        test_spoil(&drop, sql);
        assert_int_equal(test_drop_try(&drop, &m), STORE_DAMAGED);
        assert_string_equal(maildrop_error(NULL), "the totals row holds what are no counts");
        remove_drop(NULL);
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
    test_spoil(&drop, sql);
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

/* Of nothing, there is nothing to walk over. */
static void test_empty_list(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *snapshot;
    struct maildrop_walk walk;

    (void)state;
    assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){1, 2, 3}, 3, 0), STORE_OK);
    snapshot = test_snapshot(m);
    assert_int_equal(maildrop_snapshot_count(snapshot), 0);
    walk = maildrop_snapshot_walk(snapshot);
    assert_null(maildrop_walk_next(&walk));
    assert_int_equal(maildrop_snapshot_position(snapshot, 5), 0);
    maildrop_snapshot_free(snapshot);
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
    assert_string_equal(maildrop_error(NULL), "mail.db cannot be read: Bad file descriptor");
    assert_null(m);
}

/* Put octets in the place of a group of packed messages, as the file's owner could. */
static void set_group(struct maildrop *m, const unsigned char *octets, size_t size)
{
    sqlite3_stmt *statement;

    assert_int_equal(sqlite3_prepare_v2(m->db, "UPDATE listing SET entries = ?1 WHERE first = 0",
                                        -1, &statement, NULL),
                     SQLITE_OK);
    sqlite3_bind_blob(statement, 1, octets, (int)size, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(statement), SQLITE_DONE);
    sqlite3_finalize(statement);
}

static bool note_damage(void *context, const char *damage, uint64_t octets)
{
    (void)octets;
    *(unsigned *)context += damage != NULL;
    return true;
}

/* A group whose check value is right, but which says something else than its messages: a session
 * gets neither fewer nor other messages than the totals say. What it would believe the check finds.
 */
static void test_groups_that_lie(void **state)
{
    static unsigned char sound[LISTING_GROUP_MAX], group[LISTING_GROUP_MAX + 100];
    struct maildrop *m = test_drop_open(&drop);
    size_t size = 0, lies = 0;

    (void)state;
    for (int i = 3; i < LISTING_SPAN + 2; i++)
        assert_int_equal(test_deliver_text(m, "Subject: x\n\nbody\n"), STORE_OK);
    assert_int_equal(listing_make(m, 0, sound, &size), STORE_OK);
    size -= LISTING_DIGEST;
    for (size_t i = 0; i < 60; i++) {
        static const unsigned char values[] = {0x00, 0x01, 0x20, 0x40, 0x7f, 0x80, 0xff};

        for (size_t k = 0; k < sizeof(values); k++, lies++) {
            unsigned damages = 0;
            uint64_t digest;

            memcpy(group, sound, size);
            group[i] = (unsigned char)(k % 2 ? values[k] : group[i] ^ values[k]);
            digest = htole64(digest_octets(digest_number(DIGEST_START, 0), group, size));
            memcpy(group + size, &digest, sizeof(digest));
            set_group(m, group, size + LISTING_DIGEST);
            assert_int_equal(list(m), STORE_OK);
            if (memcmp(group, sound, size) != 0) {
                assert_int_equal(check_run(m, note_damage, &damages), STORE_OK);
                assert_true(m->groups_astray || damages > 0);
            }
        }
    }
    assert_true(lies > 400);
    for (size_t i = 0; i < 2; i++) { /* too short, too long */
        set_group(m, group, i ? sizeof(group) : LISTING_DIGEST - 1);
        assert_int_equal(list(m), STORE_OK);
    }
    maildrop_close(m);
}

/* A group with a row that is none is given up by whoever deletes from it; what is asked of a
 * maildrop of an older version is done without groups. */
static void test_groups_given_up(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    for (int i = 3; i < LISTING_SPAN + 2; i++)
        assert_int_equal(test_deliver_text(m, "x\n"), STORE_OK);
    maildrop_close(m);
    test_spoil(&drop, "UPDATE message SET uidl = x'00' WHERE id = 2");
    m = test_drop_open(&drop);
    assert_int_equal(list(m), STORE_OK); /* as it was packed */
    assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){5}, 1, 0), STORE_OK);
    assert_int_equal(list(m), STORE_DAMAGED);
    m->minor = 2;
    assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){6}, 1, 0), STORE_OK);
    assert_int_equal(test_totals(m).messages, LISTING_SPAN);
    maildrop_close(m);
}

/* All messages are in groups when an older maildrop gets its groups. */
static void test_groups_of_an_older_version(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    int64_t last[3];

    (void)state;
    for (int i = 3; i < LISTING_SPAN + 2; i++)
        assert_int_equal(test_deliver(m, "x", 1, &last[i % 3]), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, last, 3, 0), STORE_OK);
    maildrop_close(m);
    test_outside(&drop, TEST_VERSION_1_0);
    m = test_drop_open(&drop);
    assert_int_equal(list(m), STORE_OK);
    assert_int_equal(test_totals(m).messages, LISTING_SPAN - 1);
    maildrop_close(m);
}

/* Whether sessions are switched off. */
static void test_switch(void **state)
{
    struct maildrop *m;
    bool off;

    (void)state;
    for (int value = 1; value >= 0; value--) {
        char sql[80];

        snprintf(sql, sizeof(sql), "INSERT OR REPLACE INTO setting VALUES ('pop3', %d)", value);
        test_outside(&drop, sql);
        m = test_drop_open(&drop);
        assert_int_equal(maildrop_pop3_off(m, &off), STORE_OK);
        assert_int_equal(off, value == 0);
        maildrop_close(m);
    }
}

/* An outside SQLite that writes for a while knows nothing of our lock: it is waited for. */
static void test_outside_writer(void **state)
{
    char path[80], octet;
    struct maildrop *m = test_drop_open(&drop);
    int in[2], status;
    pid_t pid;

    (void)state;
    test_drop_path(&drop, MAILDROP_DB, path);
    assert_int_equal(pipe(in), 0);
    pid = fork();
    if (pid == 0) {
        /* of another process, so that nothing of ours is in its hands */
        dup2(in[1], 1);
        _exit(test_run_self("writer", path, ""));
    }
    assert_int_equal(read(in[0], &octet, 1), 1);
    assert_int_equal(test_deliver_text(m, "four\n"), STORE_OK);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(in[0]);
    close(in[1]);
    assert_int_equal(test_totals(m).messages, 4);
    maildrop_close(m);
}

static int write_for_a_while(const char *path)
{
    sqlite3 *db = NULL;

    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix") != SQLITE_OK ||
        sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK || write(1, "", 1) != 1)
        return 1;
    lock_sleep(200);
    return sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK &&
                   sqlite3_close(db) == SQLITE_OK
               ? 0
               : 1;
}

/* The lock file is gone, or no file at all. */
static void test_lock_file(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char path[80];

    (void)state;
    test_drop_path(&drop, MAILDROP_LOCK, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(test_deliver_text(m, "four\n"), STORE_STALE);
    assert_int_equal(dup2(open("/", O_PATH), m->lock_fd), m->lock_fd);
    assert_int_equal(test_deliver_text(m, "four\n"), STORE_IO);
    assert_string_equal(maildrop_error(m), "the lock file cannot be locked");
    assert_int_equal(test_totals(m).messages, 3);
    maildrop_close(m);
    test_write_file(path, "", 0);
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
        cmocka_unit_test_setup_teardown(test_values_that_are_none, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_rows_out_of_order, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_surrogate_too_large, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_totals_row, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_last_id, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_source_that_lies, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_smaller_limit, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_empty_list, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_list_in_a_batch, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_older_version, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_somebody_else_upgrades, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_large_wal_in_use, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_index_of_another_wal, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_unreadable_database, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_groups_that_lie, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_groups_given_up, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_groups_of_an_older_version, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_switch, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_outside_writer, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_lock_file, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_outcomes, set_up, remove_drop),
    };

    test_be_outside(argc, argv);
    if (argc == 4 && strcmp(argv[1], "writer") == 0)
        return write_for_a_while(argv[2]);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
