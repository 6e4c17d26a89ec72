/*
 * test_power_cuts.c - the power goes at any step of what the store does: what was not synced is
 * lost, kept or torn.
 *
 * After each cut the maildrop opens by plain recovery and shows one of two states: the last that
 * was acknowledged, or the one whose change was under way. A run is a chain of lives, each of which
 * begins with what the cut before it left; its seed repeats it:
 *
 *     CUT_SEED=n build/tests/test_power_cuts     CUTS=n: how many      LONG=1: 100,000
 */
#include "store/backup.h"
#include "store/listing.h"
#include "store/manage.h"
#include "store/walindex.h"
#include "tests/faults/cuts.h"
#include "tests/faults/disk.h"
#include "tests/faults/witness.h"
#include <errno.h>

enum {
    NOW = 1000000000,
    LIVES = 6,
    CHANGES = 8, /* of one life */
    CUTS_OF_LIFE = 40,
    INDEX = 32768,
    INDEX_LIST = 16384,
};

static struct test_drop drop, after_cut, aside;

/* Of the life under way: all that the maildrop was, or could have become. */
static struct witness states[2 * CHANGES + 1];
static int latest;

/* What a mark stands for: any of states[from] to states[to] is right after a cut. */
static struct {
    int from, to;
} marks[3 * CHANGES + 1];
static int n_marks;

static unsigned cuts_done, failures, believed;

/* The index at each step of the life under way: its head and list of frames. One is as the step
 * before unless it has octets. */
static unsigned char *indices[DISK_STEPS_MAX];
static unsigned char last_index[INDEX_LIST];
static int index_fd; /* closed only when nobody has a lock on the file */

static char backup_path[80];
static bool was_put_back;

/* Messages of all sizes, most of them small. */
static size_t some_size(uint64_t *random)
{
    static const size_t most[] = {40, 3000, 3000, 9000, 9000, 70000, 200000};

    return disk_random(random) % most[disk_random(random) % 7];
}

/* Some of what is there, in the order of the list. */
static size_t choose(uint64_t *random, const struct witness *w, int64_t *ids)
{
    const uint64_t of = 1 + disk_random(random) % 6;
    size_t n = 0;

    for (size_t i = 0; i < w->n; i++) {
        if (disk_random(random) % of == 0)
            ids[n++] = w->messages[i].id;
    }
    return n;
}

static enum store_outcome import(struct maildrop *m, uint64_t *random)
{
    enum store_outcome outcome = maildrop_batch_begin(m);
    const bool keep = disk_random(random) % 4 > 0;

    for (uint64_t n = 1 + disk_random(random) % 6; n > 0 && outcome == STORE_OK; n--) {
        const uint64_t seed = disk_random(random);
        unsigned char key[MANAGE_KEY_SIZE] = {0};

        memcpy(key, &seed, sizeof(seed));
        outcome = witness_deliver(m, seed, some_size(random), NULL);
        if (outcome == STORE_OK)
            outcome = manage_note_import(m, key, true);
    }
    return outcome == STORE_OK ? maildrop_batch_end(m, keep) : outcome;
}

/* A backup of some time before, put in the place of everything. The handle is of no more use. */
static enum store_outcome put_back(struct maildrop *m)
{
    struct maildrop *backup = NULL;
    char error[200];
    enum store_outcome outcome = backup_open(backup_path, &backup, error, sizeof(error));

    if (outcome != STORE_OK)
        fail_msg("the backup: %s", error);
    outcome = backup_restore(m, backup, NULL, NULL);
    backup_close(backup);
    was_put_back = true;
    return outcome;
}

static void back_up(void)
{
    struct maildrop *m = test_drop_open(&drop);

    snprintf(backup_path, sizeof(backup_path), "%s/backup", aside.folder);
    test_write_file(backup_path, "", 0);
    assert_int_equal(backup_write(m, backup_path, NULL, NULL), STORE_OK);
    maildrop_close(m);
}

/* Something that the store does, with success. */
static enum store_outcome change(struct maildrop *m, uint64_t *random, const struct witness *now)
{
    static int64_t retrieved[WITNESS_MESSAGES], deleted[WITNESS_MESSAGES];
    size_t n_retrieved, n_deleted;
    uint64_t n;

    maildrop_limit(m, 0, disk_random(random) % 2 ? 0 : 5); /* of what is kept */
    switch (disk_random(random) % 10) {
    case 0:
        n_retrieved = choose(random, now, retrieved);
        n_deleted = choose(random, now, deleted);
        return maildrop_commit(m, retrieved, n_retrieved, deleted, n_deleted,
                               disk_random(random) % 2 ? 0 : 500);
    case 1:
        return import(m, random);
    case 2:
        return maildrop_expire(m, 1 + disk_random(random) % 1000, disk_random(random) % 2 ? 0 : 500,
                               &n);
    case 3:
        return maildrop_purge(m, disk_random(random) % 1000, &n);
    case 4:
        return manage_compact_some(m, &n);
    case 5:
        return maildrop_login(m, 1, &n);
    case 6:
        return put_back(m);
    default:
        return witness_deliver(m, disk_random(random), some_size(random), NULL);
    }
}

static struct maildrop *open_again(const char *when)
{
    struct maildrop *m = NULL;
    const enum store_outcome outcome = test_drop_try(&drop, &m);

    if (outcome != STORE_OK)
        FAIL("%s: %s: %s", when, maildrop_outcome_name(outcome), maildrop_error(NULL));
    return m;
}

static void look(struct maildrop *m, struct witness *w, const char *when)
{
    const enum store_outcome outcome = witness_look(m, w);

    if (outcome != STORE_OK)
        FAIL("%s: %s: %s", when, maildrop_outcome_name(outcome), maildrop_error(m));
}

static void mark(int from)
{
    marks[n_marks].from = from;
    marks[n_marks].to = latest;
    disk_mark(n_marks++);
}

/* What a change would make of the maildrop: tried on a copy, with the same randomness. */
static void foresee(uint64_t random, const struct witness *now, struct witness *then)
{
    const struct test_drop living = drop;
    struct image image;
    struct maildrop *m;

    image_take(&drop, &image);
    image_put(&image, &aside);
    image_free(&image);
    drop = aside;
    m = open_again("foreseeing");
    change(m, &random, now);
    look(m, then, "foreseeing");
    maildrop_close(m);
    drop = living;
}

/* What may go wrong during a change. */
static struct disk_fault some_fault(uint64_t *random)
{
    static const struct disk_fault faults[] = {
        {.call = DISK_SYNC, .nth = 3, .error = EIO},
        {.call = DISK_SYNC, .nth = 3, .error = ENOSPC},
        {.call = DISK_WRITE, .nth = 60, .error = EIO},
        {.call = DISK_WRITE, .nth = 60, .error = ENOSPC, .for_ever = true},
        {.call = DISK_TRUNCATE, .nth = 2, .error = EIO},
    };
    struct disk_fault fault = faults[disk_random(random) % 5];

    fault.nth = 1 + (unsigned)(disk_random(random) % fault.nth);
    return fault;
}

/* A change during which the disk may fail: the handle is given up then, as a session's is. */
static struct maildrop *change_badly(struct maildrop *m, uint64_t *random, int *now, int *sure)
{
    const uint64_t seed = disk_random(random);
    const struct disk_fault fault = some_fault(random);
    static struct witness seen;
    enum store_outcome outcome;

    maildrop_close(m);
    disk_set_seed(seed);
    foresee(*random, &states[*now], &states[++latest]);
    m = open_again("opening again");
    mark(*sure);
    disk_set_seed(seed);
    disk_fail(&fault);
    outcome = change(m, random, &states[*now]);
    disk_fail(NULL);
    if (outcome == STORE_OK) {
        *now = *sure = latest;
        mark(*sure);
        if (disk_failed() || was_put_back) { /* a checkpoint's */
            maildrop_close(m);
            m = open_again("opening after a failure");
        }
    } else if (outcome == STORE_IO || outcome == STORE_FULL) {
        failures++;
        maildrop_close(m);
        m = open_again("opening after a failure");
        look(m, &seen, "living");
        if (!witness_same(&seen, &states[*now]))
            FAIL("%s", "what was refused is seen by the next who opens");
    } else {
        FAIL("%s: %s", maildrop_outcome_name(outcome), maildrop_error(m));
    }
    return m;
}

/* Another process that has the maildrop open, as most often one has: then nobody recovers when it
 * is opened once more, and -shm goes on. It only looks. */
static struct {
    pid_t pid;
    int hold; /* it leaves when this is closed */
} companion;

static void companion_leave(void)
{
    if (companion.pid == 0)
        return;
    close(companion.hold);
    assert_int_equal(waitpid(companion.pid, NULL, 0), companion.pid);
    companion.pid = 0;
}

/* While this process has it closed. Not if it would clean up a large WAL: that is not recorded. */
static void companion_come(void)
{
    int hold[2], ready[2];
    char octet = 0;

    if (companion.pid != 0 || test_drop_file_size(&drop, MAILDROP_WAL) > 1 << 20)
        return;
    assert_true(pipe2(hold, O_CLOEXEC) == 0 && pipe2(ready, O_CLOEXEC) == 0);
    companion.pid = fork();
    if (companion.pid == 0) {
        struct maildrop *m = NULL;

        close(hold[1]);
        if (test_drop_try(&drop, &m) == STORE_OK && write(ready[1], &octet, 1) == 1)
            (void)!read(hold[0], &octet, 1);
        _exit(0);
    }
    close(hold[0]);
    close(ready[1]);
    companion.hold = hold[1];
    assert_int_equal(read(ready[0], &octet, 1), 1);
    close(ready[0]);
}

static void note_index(size_t step)
{
    unsigned char now[INDEX_LIST] = {0};

    if (pread(index_fd, now, sizeof(now), 0) < 0)
        abort();
    free(indices[step]);
    indices[step] = NULL;
    if (step > 0 && memcmp(now, last_index, sizeof(now)) == 0)
        return;
    indices[step] = malloc(sizeof(now));
    assert_non_null(indices[step]);
    memcpy(indices[step], now, sizeof(now));
    memcpy(last_index, now, sizeof(now));
}

static void watch_index(void)
{
    char path[80];

    test_drop_path(&drop, MAILDROP_SHM, path);
    index_fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(index_fd >= 0);
    disk_watch(note_index);
}

/* Live a life on what is in `drop`, recorded; returns how many steps it had. */
static size_t live(uint64_t *random, bool badly)
{
    struct maildrop *m;
    size_t steps;
    int now = 0, sure = 0; /* what there is; the last that was acknowledged */

    latest = n_marks = 0;
    watch_index();
    disk_record(drop.folder);
    m = open_again("opening");
    look(m, &states[0], "opening");
    mark(sure);
    for (int i = 0; i < CHANGES; i++) {
        enum store_outcome outcome;

        disk_set_clock(NOW + at.life * 1000 + i * 100);
        if (badly && disk_random(random) % 2 == 0) {
            m = change_badly(m, random, &now, &sure);
            continue;
        }
        latest++;
        mark(sure);
        outcome = change(m, random, &states[now]);
        if (outcome != STORE_OK)
            FAIL("change %d: %s: %s", i, maildrop_outcome_name(outcome), maildrop_error(m));
        look(m, &states[latest], "living");
        now = sure = latest;
        mark(sure);
        if (disk_random(random) % 4 == 0 || was_put_back) {
            maildrop_close(m);
            if (disk_random(random) % 3 == 0)
                companion_leave();
            else
                companion_come();
            m = open_again("opening again");
            was_put_back = false;
        }
    }
    maildrop_close(m);
    companion_leave();
    steps = disk_stop();
    note_index(steps);
    close(index_fd);
    return steps;
}

/* The folder in which a cut's files are put; the shared memory file is whatever it is. */
static void empty_folder(const struct test_drop *folder)
{
    char path[80];

    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        test_drop_path(folder, (enum maildrop_file)i, path);
        unlink(path);
    }
}

static void put_index(const struct test_drop *folder, const unsigned char octets[INDEX],
                      size_t size)
{
    char path[80];

    test_drop_path(folder, MAILDROP_SHM, path);
    test_write_file(path, octets, size);
}

static const unsigned char *index_at(size_t step)
{
    while (!indices[step])
        step--;
    return indices[step];
}

/* What it was at some step before the cut, or of two such in part, as a disk may have it that was
 * gone for a moment only: whoever vouched for it is there still. The rest of it is anything. */
static void put_old_index(const struct test_drop *folder, uint64_t random,
                          unsigned char octets[INDEX])
{
    const size_t back = disk_random(&random) % 2 ? 40 : at.step + 1;
    const size_t step = at.step - disk_random(&random) % (back < at.step ? back : at.step + 1);
    int fds[MAILDROP_FILES];

    memcpy(octets, index_at(step), INDEX_LIST);
    if (disk_random(&random) % 4 == 0) {
        const size_t sectors = 512 * (1 + disk_random(&random) % 4);

        memcpy(octets + sectors, index_at(disk_random(&random) % (step + 1)) + sectors,
               INDEX_LIST - sectors);
    }
    put_index(folder, octets, INDEX);
    if (test_drop_file_size(folder, MAILDROP_WAL) <= 0)
        return;
    test_drop_grant(folder, fds);
    believed += walindex_make(fds[MAILDROP_WAL], fds[MAILDROP_SHM]);
    test_drop_give_back(fds);
    put_index(folder, octets, INDEX);
}

static void spoil_index(const struct test_drop *folder, uint64_t random)
{
    static unsigned char octets[INDEX];

    for (size_t i = 0; i < sizeof(octets); i++)
        octets[i] = (unsigned char)disk_random(&random);
    if (random % 4 > 1)
        put_old_index(folder, random, octets);
    else if (random % 4 == 1)
        put_index(folder, octets, random % sizeof(octets));
}

/* Whether this is right after a cut. */
static bool is_allowed(const struct witness *now)
{
    const int n = disk_last_mark(at.step, 0);

    for (int i = marks[n].from; i <= marks[n].to; i++) {
        if (witness_same(now, &states[i]))
            return true;
    }
    return false;
}

/* What a cut left must be the last state that was acknowledged, or one that was not refused for
 * certain; sound, and good for more mail. Works on `after_cut`, whose files it leaves as recovered.
 */
static void judge(void)
{
    static struct witness now;
    const struct test_drop living = drop;
    struct maildrop *m;
    int64_t id = 0;

    drop = after_cut;
    m = open_again("recovery");
    look(m, &now, "recovery");
    if (!is_allowed(&now))
        FAIL("%zu messages, which is no state of mark %d", now.n, disk_last_mark(at.step, 0));
    if (!witness_check(m))
        FAIL("%s", "the check finds damage");
    if (witness_deliver(m, at.cut, 5000, &id) != STORE_OK)
        FAIL("then nothing can be delivered: %s", maildrop_error(m));
    if (now.n > 0 && id <= now.messages[now.n - 1].id)
        FAIL("id %lld is there already", (long long)id);
    look(m, &now, "after a delivery");
    maildrop_close(m);
    drop = living;
}

/* Ids go on from just below where a group of the listing is whole: it is made, and made anew. */
static void begin_near_a_group(uint64_t seed)
{
    struct maildrop *m = open_again("beginning");
    struct maildrop_totals totals = {.last_id = LISTING_SPAN - 2 - (int64_t)(seed % 9)};

    assert_int_equal(handle_begin_write(m), STORE_OK);
    assert_int_equal(handle_set_state(m, &totals), STORE_OK);
    assert_int_equal(handle_end_write(m, STORE_OK), STORE_OK);
    maildrop_close(m);
}

static void chain(uint64_t seed, bool badly)
{
    uint64_t random = seed;
    struct image left;

    at.seed = seed;
    disk_set_seed(seed);
    sqlite3_randomness(0, NULL);
    test_drop_make(&drop);
    test_drop_make(&after_cut);
    test_drop_make(&aside);
    if (seed % 3 > 0)
        begin_near_a_group(seed);
    if (seed % 4 == 0) { /* the first life brings it up to date */
        test_outside(&drop, TEST_VERSION_1_0);
        image_take(&drop, &left); /* -wal and -shm are there again, before the record begins */
        image_free(&left);
    }
    for (at.life = 0; at.life < LIVES; at.life++) {
        size_t steps;

        back_up();
        steps = live(&random, badly);

        for (int i = 0; i < CUTS_OF_LIFE; i++) {
            at.cut = disk_random(&random);
            at.step = disk_random(&random) % (steps + 1);
            empty_folder(&after_cut);
            disk_cut(at.step, at.cut, after_cut.folder);
            spoil_index(&after_cut, at.cut);
            judge();
            cuts_done++;
        }
        image_take(&after_cut, &left);
        image_put(&left, &drop);
        image_free(&left);
    }
    unlink(backup_path);
    test_drop_remove(&aside);
    test_drop_remove(&after_cut);
    test_drop_remove(&drop);
}

static void run(unsigned wanted, bool badly)
{
    const uint64_t first = number_from("CUT_SEED", 1);

    cuts_done = believed = 0;
    if (getenv("CUT_SEED"))
        chain(first, badly);
    for (uint64_t seed = first; !getenv("CUT_SEED") && cuts_done < wanted; seed++)
        chain(seed, badly);
}

static void test_store(void **state)
{
    (void)state;
    run(cuts_wanted(), false);
    printf("%u cuts, %u with an index that was believed\n", cuts_done, believed);
    assert_true(believed > 0);
}

/* The disk fails, which sessions are told; what others are told later must hold all the same. */
static void test_store_on_a_bad_disk(void **state)
{
    (void)state;
    run(cuts_wanted() / 4, true);
    printf("%u cuts, %u failures of the disk\n", cuts_done, failures);
    assert_true(failures > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store),
        cmocka_unit_test(test_store_on_a_bad_disk),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(false) != STORE_OK) /* a backup is opened by its path */
        return 1;
    disk_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
