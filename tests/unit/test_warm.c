/*
 * test_warm.c - a connection made ready before there is a maildrop shows each maildrop as a cold
 * one would, or gives way to a cold one.
 *
 * The library keeps one state a process: each case runs in a child, as workers do.
 */
#include "test_store.h"

#include "store/handle.h"
#include "store/lock.h"
#include <dlfcn.h>
#include <errno.h>
#include <sys/resource.h>

enum { DATABASE_FD = 57, DELIVERY_FD = 58, COUNTER = 24 };

static const char letter[] = "Subject: one\r\n\r\nbody\r\n";

/* Grant a maildrop with its database under this number, in a child of the nursery. */
static enum store_outcome open_at(const struct test_drop *drop, int number, struct maildrop **m)
{
    int fds[MAILDROP_FILES];

    test_drop_grant(drop, fds);
    assert_int_equal(dup3(fds[MAILDROP_DB], number, O_CLOEXEC), number);
    close(fds[MAILDROP_DB]);
    fds[MAILDROP_DB] = number;
    return maildrop_open(fds, m);
}

static enum store_outcome make_ready(enum maildrop_use use, size_t size)
{
    const int number = use == MAILDROP_SESSIONS ? DATABASE_FD : DELIVERY_FD;

    return maildrop_library_warm(maildrop_template, size, use, number);
}

static enum store_outcome make_ready_at(size_t size, int number)
{
    return maildrop_library_warm(maildrop_template, size, MAILDROP_SESSIONS, number);
}

/* The lines of `work`, in a child; with a connection made ready, or one that makes its own. */
static void in_child_of(bool warm, void (*work)(const struct test_drop *),
                        const struct test_drop *drop)
{
    int status;
    const pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (warm) {
            assert_int_equal(make_ready(MAILDROP_SESSIONS, maildrop_template_size), STORE_OK);
            assert_int_equal(make_ready(MAILDROP_DELIVERIES, maildrop_template_size), STORE_OK);
            maildrop_library_rehearse();
        }
        maildrop_library_forget();
        work(drop);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void in_child(void (*work)(const struct test_drop *), const struct test_drop *drop)
{
    in_child_of(true, work, drop);
}

static struct maildrop *open_number(const struct test_drop *drop, int number, bool warm)
{
    struct maildrop *m = NULL;
    const enum store_outcome outcome = open_at(drop, number, &m);

    if (outcome != STORE_OK)
        fail_msg("open: %s: %s", maildrop_outcome_name(outcome), maildrop_error(NULL));
    assert_int_equal(m->schema != 0, warm);
    return m;
}

static struct maildrop *open_warm(const struct test_drop *drop, bool warm)
{
    return open_number(drop, DATABASE_FD, warm);
}

/* Read all, add one, delete the first. */
static void use(struct maildrop *m, uint64_t messages)
{
    struct maildrop_snapshot *snapshot;
    char octets[100];
    size_t got;
    int64_t first;

    assert_int_equal(test_totals(m).messages, messages);
    snapshot = test_snapshot(m);
    assert_int_equal(maildrop_snapshot_count(snapshot), messages);
    first = maildrop_snapshot_entry(snapshot, 0).id;
    assert_int_equal(maildrop_read(m, first, 0, octets, sizeof(octets), &got), STORE_OK);
    assert_int_equal(got, strlen(letter));
    assert_memory_equal(octets, letter, got);
    maildrop_snapshot_free(snapshot);
    assert_int_equal(test_deliver_text(m, letter), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, &first, 1, 0), STORE_OK);
    assert_int_equal(test_totals(m).messages, messages);
}

static void use_warm(const struct test_drop *drop)
{
    struct maildrop *m = open_warm(drop, true);

    use(m, 3);
    maildrop_close(m);
    m = open_warm(drop, false); /* a second one in the same process */
    use(m, 3);
    maildrop_close(m);
}

static void use_another_schema(const struct test_drop *drop)
{
    struct maildrop *m = open_warm(drop, false);

    use(m, 3);
    maildrop_close(m);
}

static void use_another_number(const struct test_drop *drop)
{
    struct maildrop *m = NULL;

    assert_int_equal(open_at(drop, DELIVERY_FD + 1, &m), STORE_OK);
    assert_int_equal(m->schema, 0);
    use(m, 3);
    maildrop_close(m);
}

/* The connection for deliveries, then others in the same process, one on the number for which
 * another was ready. */
static void use_for_deliveries(const struct test_drop *drop)
{
    struct maildrop *m = open_number(drop, DELIVERY_FD, true);

    use(m, 3);
    maildrop_close(m);
    for (int number = DATABASE_FD; number <= DELIVERY_FD; number++) {
        m = open_number(drop, number, false);
        use(m, 3);
        maildrop_close(m);
    }
}

static void use_and_leave(const struct test_drop *drop)
{
    struct maildrop *m = open_warm(drop, true);

    use(m, 3);
    maildrop_leave(m);
}

static void look_and_leave(const struct test_drop *drop)
{
    struct maildrop *m = open_warm(drop, true);

    assert_int_equal(test_totals(m).messages, 3);
    maildrop_leave(m);
}

/* Whose disk failed writes no more, not even this. */
static void fail_and_leave(const struct test_drop *drop)
{
    struct maildrop *m = open_warm(drop, true);
    const int64_t wal = test_drop_file_size(drop, MAILDROP_WAL);

    assert_true(wal > 0);
    m->disk_failed = true;
    maildrop_leave(m);
    assert_int_equal(test_drop_file_size(drop, MAILDROP_WAL), wal);
}

static void meet_damage(const struct test_drop *drop)
{
    struct maildrop *m = NULL;

    assert_int_equal(open_at(drop, DATABASE_FD, &m), STORE_DAMAGED);
}

static void meet_newer(const struct test_drop *drop)
{
    struct maildrop *m = NULL;

    assert_int_equal(open_at(drop, DATABASE_FD, &m), STORE_NEWER);
}

static void fill(const struct test_drop *drop)
{
    struct maildrop *m = test_drop_open(drop);

    for (int i = 0; i < 3; i++)
        assert_int_equal(test_deliver_text(m, letter), STORE_OK);
    maildrop_close(m);
}

/* What cannot be made ready takes nothing from what was. */
static void test_one_made_ready(void **state)
{
    struct test_drop drop;
    int status;
    pid_t pid;

    (void)state;
    test_drop_make(&drop);
    fill(&drop);
    pid = fork();
    if (pid == 0) {
        struct maildrop *m;

        assert_int_equal(make_ready(MAILDROP_SESSIONS, maildrop_template_size), STORE_OK);
        assert_int_not_equal(make_ready(MAILDROP_DELIVERIES, 4096), STORE_OK);
        m = open_warm(&drop, true);
        use(m, 3);
        maildrop_close(m);
        m = open_number(&drop, DELIVERY_FD, false);
        use(m, 3);
        maildrop_close(m);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    test_drop_remove(&drop);
}

/* The nth pwrite(2) fails. */
static int wrong_write;

ssize_t pwrite(int fd, const void *octets, size_t size, off_t offset)
{
    static __typeof__(&pwrite) real;

    if (wrong_write > 0 && --wrong_write == 0) {
        errno = ENOSPC;
        return -1;
    }
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwrite");
    return real(fd, octets, size, offset);
}

/* Each number stays whose it was, and a cold connection serves. */
static void make_ready_in_vain(const struct test_drop *drop)
{
    const int other = open("/dev/null", O_RDONLY);
    struct rlimit before, none;
    struct maildrop *m;

    assert_int_not_equal(make_ready_at(4096, DATABASE_FD), STORE_OK);
    assert_int_equal(make_ready_at(COUNTER, DATABASE_FD), STORE_IO);
    assert_int_equal(make_ready_at(maildrop_template_size, 1 << 30), STORE_IO);
    assert_int_equal(make_ready_at(maildrop_template_size, other), STORE_IO);
    assert_true(fcntl(other, F_GETFD) >= 0);
    for (int nth = 1; nth <= 2; nth++) {
        wrong_write = nth;
        assert_int_equal(make_ready_at(maildrop_template_size, DATABASE_FD), STORE_IO);
        assert_int_equal(wrong_write, 0);
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(make_ready_at(maildrop_template_size, DATABASE_FD), STORE_IO);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(fcntl(DATABASE_FD, F_GETFD), -1);
    m = open_warm(drop, false);
    assert_int_equal(make_ready_at(maildrop_template_size, other + 40), STORE_REFUSED);
    use(m, 3);
    maildrop_close(m);
}

/* Memory may get that very number from the system. */
static void use_next_number(const struct test_drop *drop)
{
    const int next = dup(0);
    struct maildrop *m = NULL;

    close(next);
    assert_int_equal(make_ready_at(maildrop_template_size, next), STORE_OK);
    assert_int_not_equal(fcntl(next, F_GETFD), -1);
    maildrop_library_rehearse();
    assert_int_equal(fcntl(next, F_GETFD), -1);
    assert_int_equal(dup2(0, next), next); /* so that no other file of the grant gets it */
    assert_int_equal(open_at(drop, next, &m), STORE_OK);
    assert_int_not_equal(m->schema, 0);
    use(m, 3);
    maildrop_close(m);
}

/* What cannot be made ready keeps nobody from a cold one. */
static void test_not_made_ready(void **state)
{
    struct test_drop drop;

    (void)state;
    if (getenv("MEMCHECK")) /* it keeps the limit of descriptors for itself */
        skip();
    test_drop_make(&drop);
    fill(&drop);
    in_child_of(false, make_ready_in_vain, &drop);
    in_child_of(false, use_next_number, &drop);
    test_drop_remove(&drop);
}

static void test_serves(void **state)
{
    struct test_drop drop;

    (void)state;
    test_drop_make(&drop);
    fill(&drop);
    in_child(use_warm, &drop);
    in_child(use_for_deliveries, &drop);
    in_child(use_and_leave, &drop);
    in_child(use_another_number, &drop);
    test_drop_remove(&drop);
}

/* What a child draws first, when its parent had drawn some and forgot it. */
static uint64_t draw_in_child(void)
{
    uint64_t drawn = 0;
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    if (fork() == 0) {
        sqlite3_randomness(sizeof(drawn), &drawn);
        _exit(write(ends[1], &drawn, sizeof(drawn)) != (ssize_t)sizeof(drawn));
    }
    assert_int_equal(read(ends[0], &drawn, sizeof(drawn)), sizeof(drawn));
    close(ends[0]);
    close(ends[1]);
    wait(NULL);
    return drawn;
}

static void test_no_shared_randomness(void **state)
{
    uint64_t drawn;

    (void)state;
    sqlite3_randomness(sizeof(drawn), &drawn);
    assert_int_equal(draw_in_child(), draw_in_child()); /* else this shows nothing */
    maildrop_library_forget();
    assert_int_not_equal(draw_in_child(), draw_in_child());
}

/* Who only looks leaves no WAL for the next to read, unless somebody else is writing. */
static void test_left_without_wal(void **state)
{
    struct test_drop drop;
    char path[80];
    int writer;

    (void)state;
    test_drop_make(&drop);
    fill(&drop);
    in_child(use_and_leave, &drop);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) > 0);
    test_drop_path(&drop, MAILDROP_LOCK, path);
    writer = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(lock_acquire(writer, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    in_child(look_and_leave, &drop);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) > 0);
    close(writer);
    in_child(fail_and_leave, &drop);
    in_child(look_and_leave, &drop);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), 0);
    in_child(use_warm, &drop);
    test_drop_remove(&drop);
}

/* The stand-in's pages are in SQLite's cache, and this file claims to be unchanged since. */
static void test_cache_is_thrown_away(void **state)
{
    static const unsigned char counter[] = {0xff, 0xff, 0xff, 0xff};
    struct test_drop drop;
    unsigned char header[16];
    char path[80];
    int fd;

    (void)state;
    test_drop_make(&drop);
    fill(&drop);
    test_outside(&drop, "PRAGMA wal_checkpoint(TRUNCATE)");
    test_drop_path(&drop, MAILDROP_DB, path);
    fd = open(path, O_RDWR);
    memcpy(header, maildrop_template + COUNTER, sizeof(header));
    memcpy(header, counter, sizeof(counter));
    assert_int_equal(pwrite(fd, header, 4, COUNTER), 4);
    assert_int_equal(pwrite(fd, header + 8, 8, COUNTER + 8), 8);
    close(fd);
    in_child(use_warm, &drop);
    test_drop_remove(&drop);
}

/* Tables in other places than in the stand-in, under the same version of the schema; under
 * another; and a schema with more in it. */
static void test_schema_is_another(void **state)
{
    static const char *const changes[] = {
        "DROP INDEX message_deleted; DROP TABLE imported;"
        "CREATE TABLE imported(key BLOB PRIMARY KEY CHECK (length(key) = 16),"
        " kept INTEGER NOT NULL) WITHOUT ROWID;"
        "CREATE INDEX message_deleted ON message(deleted) WHERE deleted IS NOT NULL;",
        "CREATE TABLE more(one INTEGER PRIMARY KEY);",
    };
    char sql[600];

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
        for (int same = 0; same < 2; same++) {
            struct test_drop drop;
            int version = maildrop_template[42] << 8 | maildrop_template[43];

            test_drop_make(&drop);
            fill(&drop);
            snprintf(sql, sizeof(sql), "%s PRAGMA schema_version=%d", changes[i],
                     same ? version : version + 100);
            test_outside(&drop, sql);
            in_child(use_another_schema, &drop);
            test_drop_remove(&drop);
        }
}

static void test_not_a_maildrop(void **state)
{
    static const struct {
        const char *sql;
        void (*meet)(const struct test_drop *);
    } cases[] = {
        {"PRAGMA application_id=1", meet_damage},
        {"PRAGMA user_version=131072", meet_newer},
        {"PRAGMA user_version=0", meet_damage},
        {"PRAGMA journal_mode=DELETE", meet_damage},
        {"UPDATE state SET messages = 0, octets = 0, plain_octets = 0", meet_damage},
        {"DELETE FROM state", meet_damage},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_drop drop;

        test_drop_make(&drop);
        fill(&drop);
        test_outside(&drop, cases[i].sql);
        in_child(cases[i].meet, &drop);
        test_drop_remove(&drop);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serves),
        cmocka_unit_test(test_left_without_wal),
        cmocka_unit_test(test_no_shared_randomness),
        cmocka_unit_test(test_one_made_ready),
        cmocka_unit_test(test_not_made_ready),
        cmocka_unit_test(test_cache_is_thrown_away),
        cmocka_unit_test(test_schema_is_another),
        cmocka_unit_test(test_not_a_maildrop),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
