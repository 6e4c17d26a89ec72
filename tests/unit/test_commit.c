/*
 * test_commit.c - the commit path over rows that are none: what a client asked for is done as a
 * whole or refused as a whole, and what cannot be removed for good stays deleted.
 */
#include "one_drop.h"

#include "store/handle.h"
#include "store/lock.h"
#include "store/manage.h"
#include "store/schema.h"

enum { MESSAGES = 8, DAY = 86400 };

static int set_up(void **state)
{
    struct maildrop *m;

    (void)state;
    test_drop_make(&drop);
    m = test_drop_open(&drop);
    for (int i = 0; i < MESSAGES; i++)
        assert_int_equal(test_deliver_text(m, "Subject: one\n\nbody\n"), STORE_OK);
    maildrop_close(m);
    return 0;
}

/* A totals row that says something else, with its check value right. */
static void set_totals(const struct maildrop_totals *totals)
{
    char sql[300];

    snprintf(sql, sizeof(sql),
             "UPDATE state SET messages = %llu, octets = %llu, plain_octets = %llu, last_id = %lld,"
             " guard = %lld",
             (unsigned long long)totals->messages, (unsigned long long)totals->octets,
             (unsigned long long)totals->plain_octets, (long long)totals->last_id,
             (long long)schema_guard(totals));
    test_outside(&drop, sql);
}

static enum store_outcome quit(struct maildrop *m)
{
    return maildrop_commit(m, (int64_t[]){1}, 1, (int64_t[]){2, 3}, 2, DAY);
}

static enum store_outcome purge(struct maildrop *m)
{
    uint64_t removed = 7;
    const enum store_outcome outcome = maildrop_purge(m, 0, &removed);

    assert_int_equal(removed, 0);
    return outcome;
}

static enum store_outcome expire(struct maildrop *m)
{
    uint64_t removed = 7;
    const enum store_outcome outcome = maildrop_expire(m, DAY, 0, &removed);

    assert_int_equal(removed, 0);
    return outcome;
}

static enum store_outcome log_in(struct maildrop *m)
{
    uint64_t wait;

    return maildrop_login(m, DAY, &wait);
}

/* It is damage, it is said which, and not one octet is written. */
static void expect_refusal(enum store_outcome (*ask)(struct maildrop *m), const char *words)
{
    struct maildrop *m = test_drop_open(&drop);
    const int64_t wal = test_drop_file_size(&drop, MAILDROP_WAL);

    assert_int_equal(ask(m), STORE_DAMAGED);
    assert_string_equal(maildrop_error(m), words);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), wal);
    assert_true(sqlite3_get_autocommit(m->db));
    assert_int_equal(lock_acquire(m->lock_fd, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    maildrop_close(m);
}

static void test_rows_that_are_none(void **state)
{
    static const struct {
        const char *sql;
        enum store_outcome (*ask)(struct maildrop *m);
        const char *words;
    } cases[] = {
        {"UPDATE message SET size = 'x' WHERE id = 3", quit, "message 3 has no size"},
        {"UPDATE message SET plain_size = -1 WHERE id = 3", quit, "message 3 has no size"},
        {"UPDATE message SET deleted = 1, id = -3 WHERE id = 3", purge,
         "a deleted message has no id or size"},
        {"UPDATE message SET deleted = 1, size = 'x' WHERE id = 3", purge,
         "a deleted message has no id or size"},
        {"UPDATE message SET received = 1, id = -3 WHERE id = 3", expire,
         "an old message has no id"},
        {"UPDATE message SET received = 1, size = 'x' WHERE id = 3", expire,
         "message 3 has no size"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        test_spoil(&drop, cases[i].sql);
        expect_refusal(cases[i].ask, cases[i].words);
        remove_drop(NULL);
        set_up(NULL);
    }
}

/* Totals never go below zero, nor round to something huge. */
static void test_totals_smaller_than_messages(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const struct maildrop_totals sound = test_totals(m);
    struct maildrop_totals totals;

    (void)state;
    maildrop_close(m);
    for (int i = 0; i < 3; i++) {
        totals = sound;
        *(uint64_t *[]){&totals.messages, &totals.octets, &totals.plain_octets}[i] = i > 0;
        set_totals(&totals);
        expect_refusal(quit, "the totals are smaller than the messages");
    }
    set_totals(&sound);
    m = test_drop_open(&drop);
    assert_int_equal(quit(m), STORE_OK);
    assert_int_equal(test_totals(m).messages, MESSAGES - 2);
    maildrop_close(m);
}

/* The row goes while a session is on. */
static void test_totals_row_goes(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    test_outside(&drop, "DELETE FROM state");
    assert_int_equal(log_in(m), STORE_DAMAGED);
    assert_string_equal(maildrop_error(m), "the totals row is missing");
    assert_int_equal(quit(m), STORE_DAMAGED);
    maildrop_close(m);
}

static int count_deleted(struct maildrop *m)
{
    struct maildrop_message message = {0};
    int deleted = 0;

    while (maildrop_next(m, message.id, &message) == STORE_OK)
        deleted += message.deleted != 0;
    return deleted;
}

/* Who did nothing writes nothing. */
static void test_nothing_to_do(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const int64_t wal = test_drop_file_size(&drop, MAILDROP_WAL);

    (void)state;
    assert_int_equal(maildrop_commit(m, NULL, 0, NULL, 0, 0), STORE_OK);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), wal);
    assert_int_equal(test_totals(m).messages, MESSAGES);
    maildrop_close(m);
}

/* What is past its time goes in passing, a part at each commit. */
static void test_bounded_purge(void **state)
{
    enum { MORE = 70, AT_ONCE = 64 };
    struct maildrop *m = test_drop_open(&drop);
    int64_t ids[MORE];

    (void)state;
    for (int i = 0; i < MORE; i++)
        assert_int_equal(test_deliver(m, "x", 1, &ids[i]), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, ids, MORE, DAY), STORE_OK);
    assert_int_equal(count_deleted(m), MORE);
    test_outside(&drop, "UPDATE message SET deleted = 1 WHERE deleted IS NOT NULL");
    assert_int_equal(quit(m), STORE_OK);
    assert_int_equal(count_deleted(m), MORE - AT_ONCE + 2);
    assert_int_equal(maildrop_commit(m, (int64_t[]){4}, 1, NULL, 0, DAY), STORE_OK);
    assert_int_equal(count_deleted(m), 2); /* these for a day yet */
    maildrop_close(m);
}

/* Another process that removes for good what was deleted, once it is told to; what it removed is
 * its exit status. */
static pid_t purge_beside(int told)
{
    const pid_t pid = fork();

    if (pid == 0) {
        uint64_t removed = 0;
        struct maildrop *m;
        if (read(told, &(char){0}, 1) != 1)
            _exit(100);
        maildrop_library_forget();
        m = test_drop_open(&drop);
        _exit(maildrop_purge(m, 0, &removed) == STORE_OK ? (int)removed : 101);
    }
    assert_true(pid > 0);
    return pid;
}

static void await_a_waiting(const struct maildrop *m)
{
    struct flock waiting;

    do {
        lock_sleep(1);
        waiting = (struct flock){.l_type = F_WRLCK, .l_start = MAILDROP_LOCK_WAITING, .l_len = 1};
        assert_int_equal(fcntl(m->lock_fd, F_OFD_GETLK, &waiting), 0);
    } while (waiting.l_type == F_UNLCK);
}

/* What an administrator brings back while somebody waits to remove it stays. */
static void test_restored_before_it_goes(void **state)
{
    struct maildrop *m;
    int64_t ids[] = {2, 3};
    int tell[2], status;
    pid_t other;

    (void)state;
    assert_int_equal(pipe(tell), 0);
    other = purge_beside(tell[0]);
    m = test_drop_open(&drop);
    assert_int_equal(quit(m), STORE_OK);
    assert_int_equal(lock_acquire(m->lock_fd, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    assert_int_equal(write(tell[1], "", 1), 1);
    await_a_waiting(m);
    assert_int_equal(manage_undelete(m, ids, 1), STORE_OK);
    assert_int_equal(waitpid(other, &status, 0), other);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_int_equal(manage_undelete(m, ids + 1, 1), STORE_NOT_FOUND);
    assert_int_equal(maildrop_commit(m, NULL, 0, ids, 1, DAY), STORE_OK);
    assert_int_equal(test_totals(m).messages, MESSAGES - 2);
    maildrop_close(m);
    close(tell[0]);
    close(tell[1]);
}

/* With nothing to be kept all of it goes, but a client does not wait for ever for its answer. */
static void test_purge_within_patience(void **state)
{
    enum { MANY = 200, AT_ONCE = 64 };
    struct maildrop *m = test_drop_open(&drop);
    const unsigned patience = m->patience_ms;
    int64_t ids[MANY];

    (void)state;
    for (int i = 0; i < MANY; i++)
        assert_int_equal(test_deliver(m, "x", 1, &ids[i]), STORE_OK);
    m->patience_ms = 0;
    assert_int_equal(maildrop_commit(m, NULL, 0, ids, MANY, 0), STORE_OK);
    assert_int_equal(count_deleted(m), MANY - AT_ONCE);
    m->patience_ms = patience;
    assert_int_equal(maildrop_commit(m, (int64_t[]){4}, 1, NULL, 0, 0), STORE_OK);
    assert_int_equal(count_deleted(m), 0);
    maildrop_close(m);
}

/* Nor for its login: what is due is taken the oldest first, and the rest by those that follow. */
static void test_expire_within_patience(void **state)
{
    enum { MANY = 300, AT_ONCE = 256 };
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_message message;
    uint64_t removed;

    (void)state;
    for (int i = 0; i < MANY; i++)
        assert_int_equal(test_deliver(m, "x", 1, NULL), STORE_OK);
    test_outside(&drop, "UPDATE message SET received = 100000 - id");
    m->patience_ms = 0;
    assert_int_equal(maildrop_expire(m, DAY, DAY, &removed), STORE_OK);
    assert_int_equal(removed, AT_ONCE);
    assert_int_equal(test_totals(m).messages, MESSAGES + MANY - AT_ONCE);
    maildrop_snapshot_free(test_snapshot(m));
    assert_int_equal(maildrop_next(m, MESSAGES + MANY - AT_ONCE, &message), STORE_OK);
    assert_int_not_equal(message.deleted, 0);
    assert_int_equal(maildrop_expire(m, DAY, DAY, &removed), STORE_OK);
    assert_int_equal(removed, MESSAGES + MANY - AT_ONCE);
    assert_int_equal(maildrop_expire(m, DAY, DAY, &removed), STORE_OK);
    assert_int_equal(removed, 0);
    maildrop_close(m);
}

/* A window that began before the clock did: nothing is past its time. */
static void test_kept_for_ever(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    uint64_t removed = 7;

    (void)state;
    assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){2, 3}, 2, UINT64_MAX), STORE_OK);
    assert_int_equal(test_totals(m).messages, MESSAGES - 2);
    assert_int_equal(maildrop_purge(m, UINT64_MAX, &removed), STORE_OK);
    assert_int_equal(removed, 0);
    assert_int_equal(count_deleted(m), 2);
    maildrop_close(m);
}

/* Deliver and delete messages, of 102 octets each, one after the other. */
static void pass_through(struct maildrop *m, int n)
{
    char octets[100];

    memset(octets, 'x', sizeof(octets));
    for (int i = 0; i < n; i++) {
        int64_t id;
        assert_int_equal(test_deliver(m, octets, sizeof(octets), &id), STORE_OK);
        assert_int_equal(maildrop_commit(m, NULL, 0, &id, 1, DAY), STORE_OK);
    }
}

/* A quota holds for what can be restored as well: deliveries and deletions in turn fill no disk.
 * What was deleted first goes first. */
static void test_a_quota_of_what_is_kept(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const uint64_t own = 210;

    (void)state;
    pass_through(m, 10);
    assert_int_equal(count_deleted(m), 10);
    test_outside(&drop, "UPDATE message SET deleted = deleted - 100");
    maildrop_limit(m, 0, 7);
    pass_through(m, 1);
    assert_int_equal(count_deleted(m), 7);
    maildrop_limit(m, 520, 0);
    pass_through(m, 1);
    assert_int_equal(count_deleted(m), 5);
    maildrop_limit(m, 10000, 100);
    pass_through(m, 1);
    assert_int_equal(count_deleted(m), 6);

    assert_int_equal(manage_set(m, MAILDROP_QUOTA_OCTETS, &own), STORE_OK); /* goes before */
    assert_int_equal(maildrop_commit(m, (int64_t[]){4}, 1, NULL, 0, UINT64_MAX), STORE_OK);
    assert_int_equal(count_deleted(m), 2);
    test_spoil(&drop, "DELETE FROM message WHERE deleted IS NOT NULL AND id >= 20");
    assert_int_equal(count_deleted(m), 0); /* the last two to be deleted had been left */
    assert_int_equal(test_totals(m).messages, MESSAGES);
    maildrop_close(m);
}

/* poplarctl takes what a client had no patience for. */
static void test_a_quota_in_parts(void **state)
{
    enum { MANY = 150, AT_ONCE = 64 };
    struct maildrop *m = test_drop_open(&drop);
    uint64_t removed = 0;

    (void)state;
    pass_through(m, MANY);
    maildrop_limit(m, 0, 10);
    assert_int_equal(maildrop_purge(m, DAY, &removed), STORE_OK);
    assert_int_equal(removed, AT_ONCE);
    assert_int_equal(maildrop_purge(m, DAY, &removed), STORE_OK);
    assert_int_equal(removed, AT_ONCE);
    assert_int_equal(maildrop_purge(m, DAY, &removed), STORE_OK);
    assert_int_equal(removed, MANY - 10 - 2 * AT_ONCE);
    assert_int_equal(maildrop_purge(m, DAY, &removed), STORE_OK);
    assert_int_equal(removed, 0);
    assert_int_equal(sqlite3_stmt_status(m->statements[STATEMENT_KEPT], SQLITE_STMTSTATUS_RUN, 0),
                     1); /* it looked at all of them once */
    maildrop_close(m);
}

/* What ends a transaction of its own has no place in another's. */
static void test_not_in_a_batch(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    uint64_t removed;

    (void)state;
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(quit(m), STORE_REFUSED);
    assert_int_equal(maildrop_expire(m, DAY, 0, &removed), STORE_REFUSED);
    assert_int_equal(maildrop_purge(m, 0, &removed), STORE_REFUSED);
    assert_string_equal(maildrop_error(m), "a batch of deliveries is open");
    assert_int_equal(test_deliver_text(m, "the batch goes on\n"), STORE_OK);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    assert_int_equal(test_totals(m).messages, MESSAGES + 1);
    maildrop_close(m);
}

/* Large messages go a few at a time, so that the WAL stays small. */
static void test_large_messages_go_in_parts(void **state)
{
    enum { LARGE = 9 << 20 };
    struct maildrop *m = test_drop_open(&drop);
    char *octets = malloc(LARGE);
    uint64_t removed = 0;
    int64_t ids[3];

    (void)state;
    memset(octets, 'x', LARGE);
    for (int i = 0; i < 3; i++)
        assert_int_equal(test_deliver(m, octets, LARGE, &ids[i]), STORE_OK);
    free(octets);
    assert_int_equal(maildrop_commit(m, NULL, 0, ids, 3, DAY), STORE_OK);
    assert_int_equal(maildrop_purge(m, 0, &removed), STORE_OK);
    assert_int_equal(removed, 2);
    assert_int_equal(maildrop_purge(m, 0, &removed), STORE_OK);
    assert_int_equal(removed, 1);
    assert_int_equal(maildrop_purge(m, 0, &removed), STORE_OK);
    assert_int_equal(removed, 0);
    assert_int_equal(test_totals(m).messages, MESSAGES);
    maildrop_close(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows_that_are_none, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_totals_smaller_than_messages, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_totals_row_goes, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_nothing_to_do, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_bounded_purge, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_restored_before_it_goes, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_purge_within_patience, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_expire_within_patience, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_kept_for_ever, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_a_quota_of_what_is_kept, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_a_quota_in_parts, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_not_in_a_batch, set_up, remove_drop),
        cmocka_unit_test_setup_teardown(test_large_messages_go_in_parts, set_up, remove_drop),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
