/*
 * test_store_sandbox.c - the store's whole work under a filter that kills for any system call but
 * those that a logged-in worker has for it.
 *
 * The list below is the store's bill: what stands in it is needed, and nothing else is.
 */
#include "test_store.h"

#include "store/handle.h"
#include "store/lock.h"
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

enum { GRANT_FD = 6, REPORT_FD = 5 };

/* Calls on the granted descriptors only; two by the names that they have with 64 bits and with 32.
 */
static const char *const on_grant[] = {"pread64",     "pwrite64", "fdatasync", "ftruncate",
                                       "ftruncate64", "fcntl",    "fcntl64"};

/* Calls that name no descriptor, or take any. */
static const char *const anywhere[] = {
    "mremap",
    "munmap",
    "brk",           /* memory */
    "poll",          /* waiting for a lock */
    "clock_gettime", /* where the vDSO does not serve it */
    "clock_gettime64",
    "getrandom", /* UIDLs, WAL salt */
    "getpid",    /* SQLite looks whether it was forked */
    "close",
    /* the test's own: */
    "exit_group",
};

/* What this machine does not have is passed over. */
static bool allow(scmp_filter_ctx filter, const char *name, unsigned n,
                  const struct scmp_arg_cmp *arguments)
{
    const int number = seccomp_syscall_resolve_name(name);

    return number < 0 || seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, n, arguments) == 0;
}

static bool load_filter(void)
{
    const scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    struct scmp_arg_cmp fd = {.arg = 0, .op = SCMP_CMP_EQ};
    const struct scmp_arg_cmp not_exec = {
        .arg = 2, .op = SCMP_CMP_MASKED_EQ, .datum_a = PROT_EXEC, .datum_b = 0};
    bool built = filter != NULL;

    for (fd.datum_a = GRANT_FD; fd.datum_a < GRANT_FD + MAILDROP_FILES; fd.datum_a++) {
        const struct scmp_arg_cmp fstat_of[2] = {
            fd, {.arg = 3, .op = SCMP_CMP_EQ, .datum_a = AT_EMPTY_PATH}};
        const struct scmp_arg_cmp statx_of[2] = {
            fd, {.arg = 2, .op = SCMP_CMP_EQ, .datum_a = AT_NO_AUTOMOUNT | AT_EMPTY_PATH}};

        for (size_t i = 0; i < sizeof(on_grant) / sizeof(on_grant[0]); i++)
            built = built && allow(filter, on_grant[i], 1, &fd);
        /* maildrop_file_stat(), with 64 bits and with 32 */
        built = built && allow(filter, "newfstatat", 2, fstat_of) &&
                allow(filter, "statx", 2, statx_of);
    }
    for (size_t i = 0; i < sizeof(anywhere) / sizeof(anywhere[0]); i++)
        built = built && allow(filter, anywhere[i], 0, NULL);
    built = built && allow(filter, "mmap", 1, &not_exec) && allow(filter, "mmap2", 1, &not_exec);
    /* The test's own: its report, and nothing to the log or the maildrop. */
    fd.datum_a = REPORT_FD;
    built = built && allow(filter, "write", 1, &fd);
    return built && seccomp_load(filter) == 0;
}

/* Put the grant where a worker has it. */
static bool take_places(const struct test_drop *drop, int fds[MAILDROP_FILES], int report)
{
    int given[MAILDROP_FILES];

    test_drop_grant(drop, given);
    for (int i = 0; i < MAILDROP_FILES; i++) {
        const int high = fcntl(given[i], F_DUPFD_CLOEXEC, 50);
        close(given[i]);
        given[i] = high;
    }
    report = fcntl(report, F_DUPFD_CLOEXEC, 50);
    for (int i = 0; i < MAILDROP_FILES; i++) {
        fds[i] = GRANT_FD + i;
        if (dup2(given[i], fds[i]) != fds[i])
            return false;
        close(given[i]);
    }
    return dup2(report, REPORT_FD) == REPORT_FD && close(report) == 0;
}

/* In the sandbox: each step has a number, and the first that fails is the report. */
#define STEP(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return __LINE__;                                                                       \
    } while (0)

static int work(const int fds[MAILDROP_FILES], char *text, size_t size)
{
    struct test_text source = {.octets = text, .size = size};
    const struct maildrop_delivery any = {0};
    struct maildrop_snapshot *snapshot;
    struct maildrop_totals totals;
    struct maildrop *m;
    uint64_t octets;
    size_t got;
    int64_t id;

    STEP(maildrop_open(fds, &m) == STORE_OK);
    STEP(maildrop_totals(m, &totals) == STORE_OK && totals.messages == 0);
    for (int i = 0; i < 8; i++) {
        source.position = 0;
        STEP(maildrop_deliver(m, &any, test_text_read, &source, &id) == STORE_OK);
    }
    STEP(maildrop_batch_begin(m) == STORE_OK);
    for (int i = 0; i < 2; i++) {
        source.position = 0;
        STEP(maildrop_deliver(m, &any, test_text_read, &source, &id) == STORE_OK);
    }
    STEP(maildrop_batch_end(m, false) == STORE_OK);
    STEP(maildrop_totals(m, &totals) == STORE_OK && totals.messages == 8);
    STEP(maildrop_snapshot(m, &totals, &snapshot) == STORE_OK);
    id = maildrop_snapshot_entry(snapshot, 3).id;
    STEP(maildrop_read_first(m, id, text, size, &got, &octets) == STORE_OK && octets > 0);
    STEP(maildrop_read(m, id, 0, text, size, &got) == STORE_OK && got == size);
    STEP(maildrop_commit(m, &id, 1, &id, 1, 0) == STORE_OK);
    STEP(maildrop_commit(m, NULL, 0, &(int64_t){1}, 1, 86400) == STORE_OK);
    /* Whatever SQLite might want to open is refused without a system call. */
    STEP(sqlite3_exec(m->db,
                      "PRAGMA temp_store=FILE; CREATE TEMP TABLE t(a);"
                      "INSERT INTO t SELECT zeroblob(200000) FROM message a, message b",
                      NULL, NULL, NULL) != SQLITE_OK);
    STEP(sqlite3_exec(m->db, "VACUUM", NULL, NULL, NULL) != SQLITE_OK);
    STEP(sqlite3_exec(m->db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL) != SQLITE_OK);
    handle_checkpoint(m);
    STEP(m->wal_frames == 0);
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
    return 0;
}

static int elsewhere(void)
{
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2("/etc/passwd", &db, SQLITE_OPEN_READWRITE, "unix");

    STEP(rc == SQLITE_CANTOPEN);
    sqlite3_close(db);
    rc = sqlite3_open_v2("file:/etc/passwd?nolock=1", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI,
                         NULL);
    STEP(rc == SQLITE_CANTOPEN);
    sqlite3_close(db);
    rc = sqlite3_open_v2("/granted/mail.db", &db, SQLITE_OPEN_READWRITE, NULL);
    STEP(rc == SQLITE_CANTOPEN);
    sqlite3_close(db);
    return 0;
}

/* What SQLite asks of the system besides files: neither /dev/urandom nor nanosleep. */
static int system_services(void)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    char random[64];

    STEP(vfs->xRandomness(vfs, sizeof(random), random) == (int)sizeof(random));
    STEP(vfs->xSleep(vfs, 1500) == 1500);
    return 0;
}

static void sandboxed(const struct test_drop *drop, int report)
{
    const size_t size = 1000000;
    char *text = malloc(size);
    int fds[MAILDROP_FILES], line = 1;

    for (size_t i = 0; i < size; i++)
        text[i] = i % 80 == 79 ? '\n' : i % 80 == 78 ? '\r' : 'x';
    memcpy(text + size - 2, "\r\n", 2);
    if (take_places(drop, fds, report) && maildrop_library_init(true) == STORE_OK &&
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && load_filter()) {
        maildrop_library_forget();
        line = work(fds, text, size);
        if (line == 0)
            line = elsewhere();
        if (line == 0)
            line = system_services();
    }
    if (write(REPORT_FD, &line, sizeof(line)) != (ssize_t)sizeof(line))
        line = 1;
    _exit(line == 0 ? 0 : 1);
}

/* Hold the write lock for a moment, so that the child has to wait for it. */
static void hold_write_lock(const struct test_drop *drop, int ms)
{
    char path[80];
    int fd;

    test_drop_path(drop, MAILDROP_LOCK, path);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, lock_clock() + 5000), STORE_OK);
    lock_sleep((unsigned)ms);
    close(fd);
}

static void test_all_work_under_the_filter(void **state)
{
    struct test_drop drop;
    int ends[2], status, line = -1;
    pid_t pid;

    (void)state;
    test_drop_make(&drop);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0)
        sandboxed(&drop, ends[1]);
    close(ends[1]);
    hold_write_lock(&drop, 200);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        fail_msg("killed by signal %d: a system call that is not on the list", WTERMSIG(status));
    assert_int_equal(read(ends[0], &line, sizeof(line)), sizeof(line));
    if (line != 0)
        fail_msg("the step in line %d failed", line);
    close(ends[0]);
    test_drop_remove(&drop);
}

/* The filter does kill: else the test above would show nothing. */
static void test_the_filter_kills(void **state)
{
    int status;
    const pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (load_filter())
            open("/dev/null", O_RDONLY);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_filter_kills),
        cmocka_unit_test(test_all_work_under_the_filter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
