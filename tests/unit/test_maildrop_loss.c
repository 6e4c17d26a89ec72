/*
 * test_maildrop_loss.c - ways to lose mail that was acknowledged: each was seen once, or is what a
 * disk or a kill -9 does.
 */
#include "one_drop.h"

#include "between.h"
#include "store/handle.h"
#include "store/lock.h"
#include <errno.h>
#include <signal.h>
#include <time.h>

/* The disk's failures: writes and cuts of the WAL through SQLite's table of calls, syncs by
 * standing in for libc. */
static int fail_sync, fail_write, fail_write_after, fail_cut;
static bool fail_one_write;

int fdatasync(int fd)
{
    if (fail_sync == 0)
        return fsync(fd);
    errno = fail_sync;
    return -1;
}

static ssize_t failing_pwrite(int fd, const void *octets, size_t size, off_t offset)
{
    if (fail_write != 0 && fail_write_after-- <= 0) {
        errno = fail_write;
        if (fail_one_write)
            fail_write = 0;
        return -1;
    }
    return pwrite(fd, octets, size, offset);
}

static int (*real_ftruncate)(int, off_t);

static int failing_ftruncate(int fd, off_t size)
{
    struct stat this, wal;
    char path[80];

    test_drop_path(&drop, MAILDROP_WAL, path);
    if (fail_cut != 0 && fstat(fd, &this) == 0 && stat(path, &wal) == 0 &&
        this.st_ino == wal.st_ino) {
        errno = fail_cut;
        return -1;
    }
    return real_ftruncate(fd, size);
}

static void install_disk(void)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find("unix");

    real_ftruncate = (__typeof__(real_ftruncate))vfs->xGetSystemCall(vfs, "ftruncate");
    vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)failing_pwrite);
    vfs->xSetSystemCall(vfs, "ftruncate", (sqlite3_syscall_ptr)failing_ftruncate);
}

static void check_messages(uint64_t messages)
{
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *snapshot = test_snapshot(m);

    assert_int_equal(test_totals(m).messages, messages);
    assert_int_equal(maildrop_snapshot_count(snapshot), messages);
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
}

static int take_answer(void *context, int n, char **values, char **names)
{
    (void)n;
    (void)names;
    snprintf(context, 100, "%s", values[0]);
    return 0;
}

static void check_integrity(void)
{
    struct maildrop *m = test_drop_open(&drop);
    char answer[100] = "";

    assert_int_equal(sqlite3_exec(m->db, "PRAGMA integrity_check", take_answer, answer, NULL),
                     SQLITE_OK);
    assert_string_equal(answer, "ok");
    maildrop_close(m);
}

/* An SQLite that knows nothing of us is the last to close while a grant is on its way: it empties
 * and unlinks -wal and -shm. What would be committed through the grant, nobody would ever see. */
static void test_outside_closer_meets_grant(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    int fds[MAILDROP_FILES];

    (void)state;
    assert_int_equal(test_deliver_text(m, "acknowledged\n"), STORE_OK);
    maildrop_close(m);
    test_drop_grant(&drop, fds);
    test_outside(&drop, "SELECT count(*) FROM message");
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), -1);

    m = NULL;
    assert_int_equal(maildrop_open(fds, &m), STORE_STALE);
    assert_null(m);
    assert_non_null(strstr(maildrop_error(NULL), "removed"));
    m = test_drop_open(&drop);
    assert_int_equal(test_totals(m).messages, 1);
    assert_int_equal(test_deliver_text(m, "acknowledged too\n"), STORE_OK);
    maildrop_close(m);
    check_messages(2);
}

static void test_one_link_gone(void **state)
{
    char path[80];

    (void)state;
    for (unsigned file = MAILDROP_WAL; file <= MAILDROP_SHM; file++) {
        struct maildrop *m = NULL;
        int fds[MAILDROP_FILES];

        test_drop_grant(&drop, fds);
        test_drop_path(&drop, (enum maildrop_file)file, path);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(maildrop_open(fds, &m), STORE_STALE);
    }
    check_messages(0);
}

/* Once open, an outside closer takes nothing away. */
static void test_outside_closer_meets_session(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    test_outside(&drop, "SELECT count(*) FROM message");
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) >= 0);
    assert_true(test_drop_file_size(&drop, MAILDROP_SHM) > 0);
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_OK);
    maildrop_close(m);
    check_messages(2);
}

/* At rest: whoever else writes to its files, by SQLite or past it, is found out. */
static void test_at_rest(void **state)
{
    char path[80], octet;
    struct maildrop *m = test_drop_open(&drop);
    int fds[MAILDROP_FILES];

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    maildrop_rest(m);
    assert_int_equal(maildrop_resume(m), STORE_OK);
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_OK);
    maildrop_rest(m);
    test_outside(&drop, "UPDATE state SET login = 1");
    assert_int_equal(maildrop_resume(m), STORE_STALE);
    for (unsigned file = MAILDROP_DB; file <= MAILDROP_WAL; file++) {
        maildrop_rest(m);
        assert_int_equal(maildrop_resume(m), STORE_OK);
        test_drop_path(&drop, (enum maildrop_file)file, path);
        fds[file] = open(path, O_RDWR | O_CLOEXEC);
        assert_int_equal(pread(fds[file], &octet, 1, 0), 1);
        assert_int_equal(pwrite(fds[file], &octet, 1, 0), 1);
        assert_int_equal(maildrop_resume(m), STORE_STALE);
    }
    maildrop_close(m);
    close(fds[MAILDROP_DB]); /* which would have ended this process's locks */
    close(fds[MAILDROP_WAL]);
    check_messages(2);
}

/* Closing the descriptors of a second grant would end SQLite's POSIX locks on the first, an
 * outside closer would then unlink -wal, and the next commit would go nowhere. */
static void test_second_open_in_one_process(void **state)
{
    struct maildrop *m = test_drop_open(&drop), *second = NULL;

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(test_drop_try(&drop, &second), STORE_REFUSED);
    assert_null(second);
    test_outside(&drop, "SELECT count(*) FROM message");
    assert_int_equal(test_deliver_text(m, "acknowledged\n"), STORE_OK);
    maildrop_close(m);
    check_messages(2);
}

/* Neither refused nor stale grants leave descriptors behind, once the first is closed. */
static void test_no_descriptor_stays(void **state)
{
    struct maildrop *m, *second = NULL;
    const int before = dup(0);

    (void)state;
    close(before);
    for (int i = 0; i < 5; i++) {
        m = test_drop_open(&drop);
        assert_int_equal(test_drop_try(&drop, &second), STORE_REFUSED);
        maildrop_close(m);
        test_outside_closer_meets_grant(NULL);
        m = test_drop_open(&drop);
        assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){2 * i + 1, 2 * i + 2}, 2, 0),
                         STORE_OK);
        maildrop_close(m);
    }
    assert_int_equal(dup(0), before);
    close(before);
}

/* A child delivers and deletes, reporting what it was told is done, until it is killed. */
static void deliver_until_killed(int report)
{
    struct maildrop *m = NULL;
    char text[30000];
    int64_t id;

    memset(text, 'x', sizeof(text));
    if (test_drop_try(&drop, &m) != STORE_OK)
        _exit(1);
    for (;;) {
        if (test_deliver(m, text, sizeof(text), &id) != STORE_OK ||
            write(report, &id, sizeof(id)) != (ssize_t)sizeof(id))
            _exit(1);
        if (id % 3 == 0) {
            const int64_t gone[2] = {id, id - 1}, told[2] = {-id, 1 - id};
            if (maildrop_commit(m, NULL, 0, gone, 2, id % 2 ? 0 : 1000) != STORE_OK ||
                write(report, told, sizeof(told)) != (ssize_t)sizeof(told))
                _exit(1);
        }
    }
}

/* The next report into `live`, whether the message with that id is there; false: no more comes. */
static bool take_report(int from, char *live, size_t size)
{
    int64_t id;

    if (read(from, &id, sizeof(id)) != (ssize_t)sizeof(id))
        return false;
    assert_true((size_t)llabs(id) < size);
    live[llabs(id)] = id > 0;
    return true;
}

/* Let a child work for a time, kill it, and put what it reported into `live`. The time is that from
 * its start, or from its first report, to which a slow machine takes longer. */
static void kill_worker(bool reported, unsigned us, char *live, size_t size)
{
    int ends[2], status;
    pid_t pid;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0)
        deliver_until_killed(ends[1]);
    close(ends[1]);
    if (reported)
        assert_true(take_report(ends[0], live, size));
    usleep(us);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    while (take_report(ends[0], live, size))
        continue;
    close(ends[0]);
}

static void test_kill_at_any_moment(void **state)
{
    static char live[100000];
    size_t acknowledged = 0;

    (void)state;
    srandom((unsigned)time(NULL));
    memset(live, 0, sizeof(live));
    for (int round = 0; round < 30; round++) {
        struct maildrop_snapshot *snapshot;
        struct maildrop *m;
        size_t i = 0;

        kill_worker(round % 2 == 0, 5000 + (unsigned)random() % 40000, live, sizeof(live));
        m = test_drop_open(&drop);
        snapshot = test_snapshot(m);
        /* What was acknowledged is as it was acknowledged; the last step may be done as well. */
        for (int64_t id = 1; id <= test_totals(m).last_id; id++) {
            const bool there = i < maildrop_snapshot_count(snapshot) &&
                               maildrop_snapshot_entry(snapshot, i).id == id;

            if (there)
                i++;
            if (live[id] && !there)
                assert_true(id >= test_totals(m).last_id - 1);
            acknowledged += live[id] != 0;
            live[id] = there;
        }
        assert_int_equal(i, maildrop_snapshot_count(snapshot));
        maildrop_snapshot_free(snapshot);
        maildrop_close(m);
    }
    assert_true(acknowledged > 0);
    check_integrity();
}

/* Several processes deliver and delete at once: nothing is lost and nothing is damaged. */
static void deliver_many(int n)
{
    struct maildrop *m = NULL;
    char text[9000];
    int64_t id;

    memset(text, 'y', sizeof(text));
    for (int i = 0; i < n; i++) {
        if (i % 10 == 0) {
            maildrop_close(m);
            if (test_drop_try(&drop, &m) != STORE_OK) {
                fprintf(stderr, "open: %s\n", maildrop_error(NULL));
                _exit(1);
            }
        }
        if (test_deliver(m, text, sizeof(text), &id) != STORE_OK ||
            (i % 2 && maildrop_commit(m, NULL, 0, &id, 1, 0) != STORE_OK))
            _exit(2);
    }
    _exit(0);
}

static void test_many_processes(void **state)
{
    enum { PROCESSES = 4, EACH = 100 };
    int failures = 0;

    (void)state;
    for (int i = 0; i < PROCESSES; i++) {
        if (fork() == 0)
            deliver_many(EACH);
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        assert_true(wait(&status) > 0);
        failures += status != 0;
    }
    assert_int_equal(failures, 0);
    check_messages(PROCESSES * EACH / 2);
    check_integrity();
}

/* Another writes batch after batch, as an import does: whoever waits has a turn between two. */
static void test_batch_after_batch(void **state)
{
    struct maildrop *m;
    int ready[2];
    pid_t pid;
    char octet;

    (void)state;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    if ((pid = fork()) == 0) {
        if (test_drop_try(&drop, &m) != STORE_OK)
            _exit(1);
        for (;;) {
            if (maildrop_batch_begin(m) != STORE_OK || test_deliver_text(m, "x\n") != STORE_OK ||
                write(ready[1], "", 1) != 1)
                _exit(1);
            lock_sleep(30);
            if (maildrop_batch_end(m, true) != STORE_OK)
                _exit(1);
        }
    }
    m = test_drop_open(&drop);
    m->patience_ms = 2000;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(read(ready[0], &octet, 1), 1);
        assert_int_equal(test_deliver_text(m, "y\n"), STORE_OK);
    }
    maildrop_close(m);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(ready[0]);
    close(ready[1]);
}

static void test_disk_full(void **state)
{
    static const int errors[] = {ENOSPC, EDQUOT};
    struct maildrop *m;
    char text[200000];

    (void)state;
    memset(text, 'z', sizeof(text));
    for (size_t i = 0; i < 2; i++) {
        for (int after = 0; after < 60; after += 7) {
            m = test_drop_open(&drop);
            fail_write = errors[i];
            fail_write_after = after;
            assert_int_equal(test_deliver(m, text, sizeof(text), NULL), STORE_FULL);
            fail_write = 0;
            assert_int_equal(test_totals(m).messages, 0);
            maildrop_close(m);
        }
    }
    /* Room again: the same handle goes on. */
    m = test_drop_open(&drop);
    fail_write = ENOSPC;
    fail_write_after = 3;
    assert_int_equal(test_deliver(m, text, sizeof(text), NULL), STORE_FULL);
    fail_write = 0;
    assert_int_equal(test_deliver(m, text, sizeof(text), NULL), STORE_OK);
    maildrop_close(m);
    check_messages(1);
    check_integrity();
}

/* A batch that the disk ended stays ended: the rest must not pass for stored. */
static void test_disk_full_in_batch(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char *text = malloc(3000000);

    (void)state;
    memset(text, 'z', 3000000);
    assert_int_equal(test_deliver_text(m, "before\n"), STORE_OK);
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(test_deliver_text(m, "in it\n"), STORE_OK);
    fail_write = ENOSPC;
    fail_write_after = 10;
    assert_int_equal(test_deliver(m, text, 3000000, NULL), STORE_FULL);
    fail_write = 0;
    free(text);
    if (m->batch_outcome != STORE_OK) {
        assert_int_equal(test_deliver_text(m, "after\n"), STORE_FULL);
        assert_int_equal(maildrop_batch_end(m, true), STORE_FULL);
        maildrop_close(m);
        check_messages(1);
    } else {
        assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
        maildrop_close(m);
        check_messages(2);
    }
    check_integrity();
}

/* After a failed sync nobody knows what the disk holds: no further write may pass for durable. */
static void test_failed_sync(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    fail_sync = EIO;
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_IO);
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){1}, 1, 0), STORE_IO);
    fail_sync = 0;
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_IO);
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){1}, 1, 0), STORE_IO);
    assert_int_equal(maildrop_batch_begin(m), STORE_IO);
    assert_int_equal(test_totals(m).messages, 1);
    maildrop_close(m);
    m = test_drop_open(&drop);
    assert_true(is_between(test_totals(m).messages, 1, 2));
    maildrop_close(m);
}

static void test_failed_write(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    fail_write = EIO;
    fail_write_after = 0;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_IO);
    fail_write = 0;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_IO);
    maildrop_close(m);
    check_messages(0);
}

/* A checkpoint that fails takes nothing back: the commit before it is on disk, in the WAL. */
static void test_failed_checkpoint(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    fail_write = EIO;
    fail_write_after = 0;
    handle_checkpoint(m);
    fail_write = 0;
    maildrop_rest(m);
    assert_int_equal(maildrop_resume(m), STORE_STALE);
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_IO);
    maildrop_close(m);
    check_messages(1);
    check_integrity();
}

/* A file system may want room to make a file shorter, or a quota's leave. All was copied by then,
 * and counts; the WAL has begun anew. */
static void test_wal_not_cut(void **state)
{
    static const int errors[] = {ENOSPC, EDQUOT, EIO};
    static const char letter[] = "one\n";

    (void)state;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct maildrop *m = test_drop_open(&drop);
        const enum store_outcome outcome = errors[i] == EIO ? STORE_IO : STORE_FULL;
        char text[200000];

        memset(text, 'z', sizeof(text));
        assert_int_equal(test_deliver(m, text, sizeof(text), NULL), STORE_OK);
        fail_cut = errors[i];
        assert_int_equal(handle_checkpoint(m), outcome);
        assert_int_equal(handle_checkpoint(m), outcome); /* with nothing to copy */
        fail_cut = 0;
        assert_int_equal(test_deliver_text(m, letter), outcome == STORE_IO ? STORE_IO : STORE_OK);
        maildrop_close(m);
        check_messages((i + 1) * 2 - (outcome == STORE_IO));
        check_integrity();
    }
}

/* Waits, in a process of its own, inside a transaction that has read. */
static pid_t read_on(int *end)
{
    int ends[2];
    char one;

    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct maildrop *m = test_drop_open(&drop);

        if (handle_run(m, STATEMENT_BEGIN_READ) != STORE_OK)
            _exit(1);
        test_totals(m);
        if (write(ends[1], "x", 1) != 1)
            _exit(1);
        pause();
    }
    assert_int_equal(read(ends[0], &one, 1), 1);
    close(ends[1]);
    *end = ends[0];
    return pid;
}

/* A WAL that a reader has kept from being copied is copied before the next delivery. Where that
 * fails for good, nothing is taken in. */
static void test_failed_checkpoint_before_delivery(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char *text = malloc(2000000);
    int end;

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    maildrop_close(m);
    const pid_t reader = read_on(&end);
    m = test_drop_open(&drop);
    memset(text, 'z', 2000000);
    assert_int_equal(test_deliver(m, text, 2000000, NULL), STORE_OK);
    free(text);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) > 2000000);
    kill(reader, SIGKILL);
    assert_int_equal(waitpid(reader, NULL, 0), reader);
    close(end);
    fail_one_write = true;
    fail_write = EIO;
    fail_write_after = 0;
    assert_int_equal(test_deliver_text(m, "three\n"), STORE_IO);
    fail_one_write = false;
    assert_int_equal(fail_write, 0);
    assert_int_equal(test_deliver_text(m, "three\n"), STORE_IO);
    maildrop_close(m);
    check_messages(2);
    check_integrity();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_outside_closer_meets_grant, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_one_link_gone, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_outside_closer_meets_session, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_at_rest, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_second_open_in_one_process, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_no_descriptor_stays, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_kill_at_any_moment, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_many_processes, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_batch_after_batch, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_disk_full, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_disk_full_in_batch, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_failed_sync, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_failed_write, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_failed_checkpoint, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_wal_not_cut, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_failed_checkpoint_before_delivery, make_drop,
                                        remove_drop),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    install_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
