/*
 * test_maildrop_session.c - what a maildrop keeps for its sessions beside the mail: the form in
 * which old clients get messages with UTF-8 headers, what was retrieved, the age of messages, the
 * last login.
 */
#include "one_drop.h"

#include "between.h"
#include "store/lock.h"
#include "store/surrogate.h"
#include <sys/wait.h>
#include <time.h>

#define DAY 86400

#define RAW                                                                                        \
    "From: Ren\xc3\xa9 <r@example.org>\nSubject: x\n\nb\xc3\xb6"                                   \
    "dy\n.\n"
#define WIRE                                                                                       \
    "From: Ren\xc3\xa9 <r@example.org>\r\nSubject: x\r\n\r\nb\xc3\xb6"                             \
    "dy\r\n.\r\n"
#define PLAIN "From: =?UTF-8?Q?Ren=C3=A9?= <r@example.org>\r\nSubject: x\r\n\r\n"
#define BODY                                                                                       \
    "b\xc3\xb6"                                                                                    \
    "dy\r\n.\r\n"

static int64_t deliver(struct maildrop *m, const char *octets, size_t size, bool utf8_headers,
                       int64_t received)
{
    const struct maildrop_delivery delivery = {.utf8_headers = utf8_headers, .received = received};
    struct test_text text = {.octets = octets, .size = size, .step = 7};
    int64_t id = 0;

    assert_int_equal(maildrop_deliver(m, &delivery, test_text_read, &text, &id), STORE_OK);
    return id;
}

static struct maildrop_entry last_entry(const struct maildrop_snapshot *snapshot)
{
    return maildrop_snapshot_entry(snapshot, maildrop_snapshot_count(snapshot) - 1);
}

/* Deliver and tell the form and the size for old clients. */
static void expect_form(const char *octets, bool utf8_headers, enum maildrop_form form)
{
    struct maildrop *m = test_drop_open(&drop);
    const struct maildrop_totals before = test_totals(m);
    struct maildrop_snapshot *snapshot;
    struct maildrop_totals after;

    deliver(m, octets, strlen(octets), utf8_headers, 0);
    after = test_totals(m);
    snapshot = test_snapshot(m);
    assert_int_equal(last_entry(snapshot).form, form);
    assert_int_equal(last_entry(snapshot).size, after.octets - before.octets);
    assert_int_equal(last_entry(snapshot).plain_size, after.plain_octets - before.plain_octets);
    if (form != MAILDROP_SURROGATE)
        assert_int_equal(last_entry(snapshot).plain_size, last_entry(snapshot).size);
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
}

static void test_forms(void **state)
{
    (void)state;
    expect_form(RAW, true, MAILDROP_SURROGATE);
    expect_form(RAW, false, MAILDROP_AS_IS);
    expect_form("Subject: x\n\nb\xc3\xb6"
                "dy\n",
                true, MAILDROP_AS_IS);
    expect_form("Subject: \xe9\n\nbody\n", true, MAILDROP_AS_IS);
    expect_form("Subject: \xc3\xa9 \xe9\n\nbody\n", true, MAILDROP_AS_IS);
    expect_form("Subject: \xc3\xa9", true, MAILDROP_SURROGATE);
    expect_form("", true, MAILDROP_AS_IS);
}

static void test_surrogate(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const int64_t id = deliver(m, RAW, strlen(RAW), true, 0);
    const int64_t other = deliver(m, RAW, strlen(RAW), false, 0);
    struct maildrop_snapshot *snapshot;
    char body[100], *header = NULL;
    uint64_t at = 0;
    size_t size = 0, got = 0;

    (void)state;
    snapshot = test_snapshot(m);
    assert_int_equal(maildrop_snapshot_entry(snapshot, 0).size, strlen(WIRE));
    assert_int_equal(maildrop_snapshot_entry(snapshot, 0).plain_size, strlen(PLAIN BODY));
    maildrop_snapshot_free(snapshot);
    assert_int_equal(maildrop_surrogate(m, id, &header, &size, &at), STORE_OK);
    assert_int_equal(size, strlen(PLAIN));
    assert_memory_equal(header, PLAIN, size);
    assert_int_equal(maildrop_read(m, id, at, body, sizeof(body), &got), STORE_OK);
    assert_int_equal(got, strlen(BODY));
    assert_memory_equal(body, BODY, got);
    free(header);
    header = NULL;
    assert_int_equal(maildrop_surrogate(m, other, &header, &size, &at), STORE_DAMAGED);
    assert_int_equal(maildrop_surrogate(m, 99, &header, &size, &at), STORE_NOT_FOUND);
    assert_null(header);
    maildrop_close(m);
    /* What was told to clients is not what comes out: a damaged row, or other code. */
    test_outside(&drop, "UPDATE message SET plain_size = plain_size - 1 WHERE id = 1;"
                        "UPDATE message SET plain_size = plain_size + 1 WHERE id = 2");
    m = test_drop_open(&drop);
    assert_int_equal(maildrop_surrogate(m, id, &header, &size, &at), STORE_DAMAGED);
    assert_null(header);
    maildrop_close(m);
}

/* Headers over chunk boundaries, up to the largest that has a surrogate, and beyond. */
static void test_large_headers(void **state)
{
    static const size_t sizes[] = {65536, 65537, SURROGATE_HEADER_MAX, SURROGATE_HEADER_MAX + 1,
                                   SURROGATE_HEADER_MAX + 100000};
    char *text = malloc(SURROGATE_HEADER_MAX + 100100), *header = NULL;
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const size_t size = sizes[i];
        const bool fits = size <= SURROGATE_HEADER_MAX;
        struct maildrop_snapshot *snapshot;
        uint64_t body = 0;
        size_t made = 0;
        int64_t id;

        memset(text, 'x', size);
        memcpy(text, "A: ", 3);
        memcpy(text + size - 17, "\r\nSubject: \xc3\xa9\r\n\r\n", 17);
        memcpy(text + size, "body\r\n", 6);
        id = deliver(m, text, size + 6, true, 0);
        snapshot = test_snapshot(m);
        assert_int_equal(last_entry(snapshot).form, fits ? MAILDROP_SURROGATE : MAILDROP_UTF8_ONLY);
        assert_int_equal(last_entry(snapshot).size, size + 6);
        maildrop_snapshot_free(snapshot);
        assert_int_equal(maildrop_surrogate(m, id, &header, &made, &body),
                         fits ? STORE_OK : STORE_DAMAGED);
        if (fits) {
            assert_int_equal(body, size);
            assert_memory_equal(header + made - 4, "\r\n\r\n", 4);
        }
        free(header);
        header = NULL;
    }
    maildrop_close(m);
    free(text);
}

/* A message goes, its surrogate's octets with it. */
static void test_plain_totals(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const int64_t id = deliver(m, RAW, strlen(RAW), true, 0);

    (void)state;
    deliver(m, "A: b\n\n", 6, true, 0);
    assert_int_equal(test_totals(m).octets, strlen(WIRE) + 8);
    assert_int_equal(test_totals(m).plain_octets, strlen(PLAIN BODY) + 8);
    assert_int_equal(maildrop_commit(m, NULL, 0, &id, 1, 0), STORE_OK);
    assert_int_equal(test_totals(m).octets, 8);
    assert_int_equal(test_totals(m).plain_octets, 8);
    maildrop_close(m);
}

static void test_retrieved(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const int64_t first = deliver(m, "A: b\n\n", 6, false, 0);
    int64_t last = -1;

    (void)state;
    deliver(m, "A: b\n\n", 6, false, 0);
    assert_int_equal(maildrop_last_retrieved(m, first + 1, &last), STORE_OK);
    assert_int_equal(last, 0);
    assert_int_equal(maildrop_commit(m, &first, 1, NULL, 0, 0), STORE_OK);
    maildrop_close(m);
    m = test_drop_open(&drop);
    assert_int_equal(maildrop_last_retrieved(m, first + 1, &last), STORE_OK);
    assert_int_equal(last, first);
    assert_int_equal(maildrop_last_retrieved(m, first - 1, &last), STORE_OK);
    assert_int_equal(last, 0);
    assert_int_equal(maildrop_commit(m, NULL, 0, &first, 1, 100), STORE_OK);
    assert_int_equal(maildrop_last_retrieved(m, first + 1, &last), STORE_OK);
    assert_int_equal(last, 0);
    maildrop_close(m);
}

static uint64_t expire(struct maildrop *m, uint64_t expire_after, uint64_t undelete_for)
{
    uint64_t removed = 99;

    assert_int_equal(maildrop_expire(m, expire_after, undelete_for, &removed), STORE_OK);
    return removed;
}

/* By age, whatever the order of arrival; as if deleted; for good when nothing is kept. */
static void test_expire(void **state)
{
    const int64_t now = (int64_t)time(NULL);
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_message message;

    (void)state;
    deliver(m, "A: 1\n\n", 6, false, now - 2 * DAY);
    deliver(m, "A: 2\n\n", 6, false, now);
    deliver(m, RAW, strlen(RAW), true, now - 40 * DAY);
    assert_int_equal(expire(m, 0, 7 * DAY), 0);
    assert_int_equal(expire(m, 41 * DAY, 7 * DAY), 0);
    assert_int_equal(expire(m, UINT64_MAX, 7 * DAY), 0);
    assert_int_equal(test_totals(m).messages, 3);
    assert_int_equal(expire(m, 30 * DAY, 7 * DAY), 1);
    assert_int_equal(expire(m, 30 * DAY, 7 * DAY), 0);
    assert_int_equal(test_totals(m).messages, 2);
    assert_int_equal(test_totals(m).octets, 16);
    assert_int_equal(test_totals(m).plain_octets, 16);
    maildrop_snapshot_free(test_snapshot(m));
    assert_int_equal(maildrop_next(m, 2, &message), STORE_OK);
    assert_true(message.deleted >= now);
    assert_int_equal(expire(m, DAY, 0), 1);
    assert_int_equal(test_totals(m).messages, 1);
    assert_int_equal(maildrop_next(m, 0, &message), STORE_OK);
    assert_int_equal(message.id, 2);
    assert_int_equal(maildrop_next(m, 2, &message), STORE_END);
    maildrop_close(m);
}

/* More than one transaction takes. */
static void test_expire_many(void **state)
{
    const int64_t now = (int64_t)time(NULL);
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    for (int i = 0; i < 700; i++)
        deliver(m, "A: b\n\n", 6, false, i % 10 == 9 ? now : now - 2 * DAY - i);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    assert_int_equal(expire(m, DAY, 7 * DAY), 630);
    assert_int_equal(test_totals(m).messages, 70);
    maildrop_snapshot_free(test_snapshot(m));
    maildrop_close(m);
}

/* Nothing due is found in an index, not by looking at every message. */
static void test_expire_uses_an_index(void **state)
{
    char path[80];
    sqlite3 *db = NULL;
    sqlite3_stmt *plan = NULL;

    (void)state;
    test_drop_path(&drop, MAILDROP_DB, path);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "EXPLAIN QUERY PLAN SELECT id FROM message WHERE deleted IS"
                                        " NULL AND received < ?1 ORDER BY received LIMIT ?2",
                                        -1, &plan, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(plan), SQLITE_ROW);
    assert_non_null(strstr((const char *)sqlite3_column_text(plan, 3), "message_received"));
    assert_int_equal(sqlite3_step(plan), SQLITE_DONE);
    sqlite3_finalize(plan);
    sqlite3_close(db);
}

static uint64_t log_in(uint64_t delay)
{
    struct maildrop *m = test_drop_open(&drop);
    uint64_t wait = 99999;

    assert_int_equal(maildrop_login(m, delay, &wait), STORE_OK);
    maildrop_close(m);
    return wait;
}

static void test_login_delay(void **state)
{
    (void)state;
    assert_int_equal(log_in(1000), 0);
    assert_true(is_between(log_in(1000), 900, 1000));
    test_outside(&drop, "UPDATE state SET login = login - 999");
    /* A refusal was not a login. */
    assert_true(is_between(log_in(2000), 1, 1001));
    test_outside(&drop, "UPDATE state SET login = login - 1");
    assert_int_equal(log_in(1000), 0);
    assert_true(is_between(log_in(1000), 900, 1000));
    /* A clock that was wrong, and no time at all. */
    test_outside(&drop, "UPDATE state SET login = login + 100000");
    assert_int_equal(log_in(1000), 0);
    test_outside(&drop, "UPDATE state SET login = 'never'");
    assert_int_equal(log_in(1000), 0);
    assert_true(is_between(log_in(1000), 900, 1000));
}

/* Whoever passed the lock on still has it for a moment; the session is over all the same. */
static void test_lock_ends_with_the_session(void **state)
{
    char path[80];
    int fds[MAILDROP_FILES];
    struct maildrop *m = NULL;

    (void)state;
    test_drop_grant(&drop, fds);
    const int copy = dup(fds[MAILDROP_LOCK]);
    assert_int_equal(lock_acquire(copy, MAILDROP_LOCK_SESSION, 0), STORE_OK);
    assert_int_equal(maildrop_open(fds, &m), STORE_OK);
    test_drop_path(&drop, MAILDROP_LOCK, path);
    const int other = open(path, O_RDWR);
    assert_int_equal(lock_acquire(other, MAILDROP_LOCK_SESSION, 0), STORE_BUSY);
    maildrop_close(m);
    assert_int_equal(lock_acquire(other, MAILDROP_LOCK_SESSION, 0), STORE_OK);
    lock_release(other, MAILDROP_LOCK_SESSION);
    close(copy);
    close(other);
}

/* Nor does a process that leaves it leave the lock with them. */
static void test_lock_ends_with_the_process(void **state)
{
    char path[80];
    int fds[MAILDROP_FILES], status;
    struct maildrop *m = NULL;

    (void)state;
    test_drop_grant(&drop, fds);
    assert_int_equal(lock_acquire(fds[MAILDROP_LOCK], MAILDROP_LOCK_SESSION, 0), STORE_OK);
    const pid_t pid = fork();
    if (pid == 0) {
        if (maildrop_open(fds, &m) != STORE_OK)
            _exit(1);
        maildrop_leave(m);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    test_drop_path(&drop, MAILDROP_LOCK, path);
    const int other = open(path, O_RDWR);
    assert_int_equal(lock_acquire(other, MAILDROP_LOCK_SESSION, 0), STORE_OK);
    close(other);
    test_drop_give_back(fds);
}

int main(int argc, char **argv)
{
#define WITH_DROP(test) cmocka_unit_test_setup_teardown(test, make_drop, remove_drop)
    const struct CMUnitTest tests[] = {
        WITH_DROP(test_forms),
        WITH_DROP(test_surrogate),
        WITH_DROP(test_large_headers),
        WITH_DROP(test_plain_totals),
        WITH_DROP(test_retrieved),
        WITH_DROP(test_expire),
        WITH_DROP(test_expire_many),
        WITH_DROP(test_expire_uses_an_index),
        WITH_DROP(test_login_delay),
        WITH_DROP(test_lock_ends_with_the_session),
        WITH_DROP(test_lock_ends_with_the_process),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(false) != STORE_OK)
        return 1;
    return cmocka_run_group_tests_name("maildrop, sessions", tests, NULL, NULL);
}
