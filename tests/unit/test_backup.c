/*
 * test_backup.c - backups: written while others deliver, opened, checked, put back.
 */
#include "store/backup.h"
#include "store/check.h"
#include "store/lock.h"
#include "store/manage.h"
#include "store/schema.h"
#include "tests/unit/test_store.h"
#include <signal.h>

static struct test_drop drop;
static char file[60];

static int enter(void **state)
{
    (void)state;
    if (maildrop_library_init(false) != STORE_OK)
        return -1;
    test_drop_make(&drop);
    snprintf(file, sizeof(file), "%s.backup", drop.folder);
    test_write_file(file, "", 0);
    return 0;
}

static int leave(void **state)
{
    (void)state;
    unlink(file);
    test_drop_remove(&drop);
    return 0;
}

static bool count_damage(void *context, const char *damage, uint64_t octets)
{
    (void)octets;
    *(int *)context += damage != NULL;
    return true;
}

static struct maildrop *open_backup(const char *path)
{
    struct maildrop *backup = NULL;
    char error[200] = "";

    if (backup_open(path, &backup, error, sizeof(error)) != STORE_OK)
        fail_msg("%s", error);
    return backup;
}

static void expect_sound(struct maildrop *m)
{
    int damages = 0;

    assert_int_equal(check_run(m, count_damage, &damages), STORE_OK);
    assert_int_equal(damages, 0);
}

static void deliver_some(struct maildrop *m, int n)
{
    char text[30000];

    memset(text, 'x', sizeof(text));
    for (int i = 0; i < n; i++)
        assert_int_equal(test_deliver(m, text, sizeof(text), NULL), STORE_OK);
}

/* Another process delivers for as long as we live. */
static pid_t deliver_beside(void)
{
    const pid_t pid = fork();

    if (pid == 0) {
        struct maildrop *m;
        maildrop_library_forget();
        m = test_drop_open(&drop);
        for (;;)
            if (test_deliver_text(m, "beside\n") != STORE_OK)
                _exit(1);
    }
    assert_true(pid > 0);
    return pid;
}

struct progress {
    struct test_drop *drop;
    int calls;
    int64_t wal;
};

/* The deliveries go on between two steps of the copy: wait until the WAL has grown again. */
static bool wait_for_delivery(void *context, uint64_t done, uint64_t pages)
{
    struct progress *p = context;

    assert_true(done <= pages);
    p->calls++;
    while (test_drop_file_size(p->drop, MAILDROP_WAL) == p->wal)
        lock_sleep(1);
    p->wal = test_drop_file_size(p->drop, MAILDROP_WAL);
    return true;
}

static void test_backup_while_writing(void **state)
{
    struct progress progress = {.drop = &drop};
    struct maildrop *m = test_drop_open(&drop), *backup;
    struct maildrop_totals saved;
    pid_t writer;

    (void)state;
    deliver_some(m, 300);
    maildrop_close(m);
    writer = deliver_beside();
    m = test_drop_open(&drop);
    assert_int_equal(backup_write(m, file, wait_for_delivery, &progress), STORE_OK);
    assert_true(progress.calls > 2);
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    maildrop_close(m);

    backup = open_backup(file);
    expect_sound(backup);
    saved = test_totals(backup);
    assert_true(saved.messages >= 300);
    backup_close(backup);
    m = test_drop_open(&drop);
    assert_true(test_totals(m).messages > saved.messages);
    expect_sound(m);
    maildrop_close(m);
}

static bool stop_at_once(void *context, uint64_t done, uint64_t pages)
{
    (void)context;
    (void)done;
    (void)pages;
    return false;
}

static void test_stopped(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    deliver_some(m, 100);
    assert_int_equal(backup_write(m, file, stop_at_once, NULL), STORE_SOURCE);
    assert_int_equal(test_deliver_text(m, "no transaction was left open\n"), STORE_OK);
    maildrop_close(m);
}

static void test_restore(void **state)
{
    struct maildrop *m = test_drop_open(&drop), *backup;
    struct maildrop_snapshot *snapshot;
    char uidl[MAILDROP_UIDL_MAX + 1];
    const uint64_t limit = 777;
    struct manage_state manage;

    (void)state;
    deliver_some(m, 10);
    assert_int_equal(manage_set(m, MAILDROP_QUOTA_MESSAGES, &limit), STORE_OK);
    assert_int_equal(backup_write(m, file, NULL, NULL), STORE_OK);
    snapshot = test_snapshot(m);
    snprintf(uidl, sizeof(uidl), "%s", test_uidl(snapshot, 9));
    maildrop_snapshot_free(snapshot);

    /* What came and went since. */
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){1}, 1, 0), STORE_OK);
    deliver_some(m, 500);
    assert_int_equal(manage_set(m, MAILDROP_QUOTA_MESSAGES, NULL), STORE_OK);

    backup = open_backup(file);
    assert_int_equal(backup_restore(m, backup, NULL, NULL), STORE_OK);
    backup_close(backup);
    maildrop_close(m);
    m = test_drop_open(&drop);
    expect_sound(m);
    assert_int_equal(test_totals(m).messages, 10);
    assert_int_equal(manage_look(m, &manage), STORE_OK);
    assert_int_equal(manage.quota_messages, 777);
    assert_true(test_drop_file_size(&drop, MAILDROP_DB) < 100 * 10000);
    snapshot = test_snapshot(m);
    assert_string_equal(test_uidl(snapshot, 9), uidl);
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
}

/* Stopped half-way, a restore changes nothing, and takes no room on a disk that may be full. */
static void test_restore_stopped(void **state)
{
    struct maildrop *m = test_drop_open(&drop), *backup;
    int64_t wal;

    (void)state;
    deliver_some(m, 100);
    assert_int_equal(backup_write(m, file, NULL, NULL), STORE_OK);
    deliver_some(m, 1);
    backup = open_backup(file);
    wal = test_drop_file_size(&drop, MAILDROP_WAL);
    assert_int_equal(backup_restore(m, backup, stop_at_once, NULL), STORE_SOURCE);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) <= wal);
    backup_close(backup);
    maildrop_close(m);
    m = test_drop_open(&drop);
    assert_int_equal(test_totals(m).messages, 101);
    expect_sound(m);
    maildrop_close(m);
}

/* A raw copy of the directory, with mail still in the WAL. */
static void test_raw_copy_with_wal(void **state)
{
    struct maildrop *m = test_drop_open(&drop), *backup;
    char command[300], wal[80], shm[80];

    (void)state;
    assert_int_equal(test_deliver_text(m, "in the WAL\n"), STORE_OK);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) > 0);
    snprintf(wal, sizeof(wal), "%s-wal", file);
    snprintf(shm, sizeof(shm), "%s-shm", file);
    snprintf(command, sizeof(command), "cp %s/mail.db %s && cp %s/mail.db-wal %s", drop.folder,
             file, drop.folder, wal);
    assert_int_equal(system(command), 0);
    backup = open_backup(file);
    assert_int_equal(test_totals(backup).messages, 1);
    expect_sound(backup);
    backup_close(backup);
    maildrop_close(m);
    unlink(wal);
    unlink(shm);
}

static void test_not_a_backup(void **state)
{
    static const char *const contents[] = {"", "From a mbox\n"};
    struct maildrop *backup = NULL;
    char error[200];
    sqlite3 *other;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        test_write_file(file, contents[i], strlen(contents[i]));
        assert_int_not_equal(backup_open(file, &backup, error, sizeof(error)), STORE_OK);
        assert_true(strlen(error) > 0);
    }
    unlink(file);
    assert_int_not_equal(backup_open(file, &backup, error, sizeof(error)), STORE_OK);
    assert_int_equal(
        sqlite3_open_v2(file, &other, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "unix"),
        SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "CREATE TABLE t(a)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    assert_int_equal(backup_open(file, &backup, error, sizeof(error)), STORE_DAMAGED);
    assert_null(backup);
}

/* Any name is a name, as long as SQLite can take it; and what a newer Poplar wrote is left alone.
 */
static void test_names_and_versions(void **state)
{
    struct maildrop *m = test_drop_open(&drop), *backup = NULL;
    char error[200], strange[100], wal[110], *text = malloc(8000);
    sqlite3 *other;

    (void)state;
    assert_int_equal(backup_write(m, file, NULL, NULL), STORE_OK);
    maildrop_close(m);
    snprintf(strange, sizeof(strange), "%s ?a=%%41#b", file);
    assert_int_equal(rename(file, strange), 0);
    snprintf(wal, sizeof(wal), "%s-wal", strange);
    test_write_file(wal, "", 0); /* an empty one says nothing */
    backup_close(open_backup(strange));
    unlink(wal);
    assert_int_equal(rename(strange, file), 0);

    memset(text, 'x', 8000);
    for (size_t size = 4070; size < 4100; size += 1) {
        text[size] = '\0';
        assert_int_not_equal(backup_open(text, &backup, error, sizeof(error)), STORE_OK);
        assert_true(strlen(error) > 0);
        text[size] = 'x';
    }
    memset(text, '%', 8000);
    text[1400] = '\0';
    assert_int_equal(backup_open(text, &backup, error, sizeof(error)), STORE_IO);
    assert_non_null(strstr(error, "too long"));
    free(text);

    assert_int_equal(sqlite3_open_v2(file, &other, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "PRAGMA user_version=131072", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(other);
    assert_int_equal(backup_open(file, &backup, error, sizeof(error)), STORE_NEWER);
    assert_non_null(strstr(error, "newer version"));
    assert_null(backup);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_backup_while_writing, enter, leave),
        cmocka_unit_test_setup_teardown(test_stopped, enter, leave),
        cmocka_unit_test_setup_teardown(test_restore, enter, leave),
        cmocka_unit_test_setup_teardown(test_restore_stopped, enter, leave),
        cmocka_unit_test_setup_teardown(test_raw_copy_with_wal, enter, leave),
        cmocka_unit_test_setup_teardown(test_not_a_backup, enter, leave),
        cmocka_unit_test_setup_teardown(test_names_and_versions, enter, leave),
    };

    test_be_outside(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
