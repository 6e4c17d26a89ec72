/*
 * test_walindex.c - the WAL's index made without reading the WAL: the same that SQLite makes, or
 * none. And what a maildrop holds that is opened with an index that is old, new, or of another.
 */
#include "test_store.h"

#include "between.h"
#include "store/handle.h"
#include "store/walindex.h"
#include <dlfcn.h>
#include <endian.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>

enum {
    REGION = 32768,
    HEAD = 136,
    COMMIT = 48,
    VOUCHER = 120,
    PAGE = 4096,
    WAL_HEADER = 32,
    FRAMES_MAX = 4062
};
enum { FRAME = 24 + PAGE };
enum { VERSION = 0, READY = 3, FRAMES = 4, PAGES = 5, SUM = 6, SALT = 8 }; /* words of a commit */

static struct test_drop drop;
static int fds[MAILDROP_FILES]; /* our own, beside the maildrop's */
static bool no_randomness;

ssize_t getrandom(void *buffer, size_t size, unsigned flags)
{
    static uint64_t seed = 1;

    (void)flags;
    if (no_randomness)
        return -1;
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)buffer)[i] =
            (unsigned char)((seed = seed * 6364136223846793005 + 1) >> 56);
    return (ssize_t)size;
}

/* The nth read or write fails. */
static unsigned wrong_call;

static bool is_wrong(void)
{
    errno = EIO;
    return wrong_call > 0 && --wrong_call == 0;
}

ssize_t pread(int fd, void *octets, size_t size, off_t offset)
{
    static __typeof__(&pread) real;

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pread");
    return is_wrong() ? -1 : real(fd, octets, size, offset);
}

ssize_t pwrite(int fd, const void *octets, size_t size, off_t offset)
{
    static __typeof__(&pwrite) real;

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwrite");
    return is_wrong() ? -1 : real(fd, octets, size, offset);
}

/* Reads of whole frames of the WAL, which is what SQLite's recovery does. */
static unsigned frames_read;

static ssize_t counting_read(int fd, void *octets, size_t size, off_t offset)
{
    frames_read += size == FRAME;
    return pread(fd, octets, size, offset);
}

/* A text of about so many octets. */
static void deliver(struct maildrop *m, unsigned n, size_t size)
{
    char *text = malloc(size + 100);
    int length = snprintf(text, 100, "Subject: %u\r\n\r\n", n);

    memset(text + length, 'x', size);
    memcpy(text + length + size, "\r\n", 2);
    assert_int_equal(test_deliver(m, text, (size_t)length + size + 2, NULL), STORE_OK);
    free(text);
}

static uint64_t messages(void)
{
    struct maildrop *m = test_drop_open(&drop);
    const struct maildrop_totals totals = test_totals(m);

    maildrop_snapshot_free(test_snapshot(m));
    maildrop_close(m);
    return totals.messages;
}

static int set_up(void **state)
{
    (void)state;
    test_drop_make(&drop);
    test_drop_grant(&drop, fds);
    no_randomness = false;
    walindex_begin();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_drop_give_back(fds);
    test_drop_remove(&drop);
    return 0;
}

/* A maildrop with some messages in its WAL, and an index that is vouched for. */
static void fill(unsigned n)
{
    struct maildrop *m = test_drop_open(&drop);

    for (unsigned i = 0; i < n; i++)
        deliver(m, i, i * i * 300);
    maildrop_close(m);
}

static void checkpoint(void)
{
    struct maildrop *m = test_drop_open(&drop);

    handle_checkpoint(m);
    maildrop_close(m);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), 0);
}

static void read_index(unsigned char octets[REGION])
{
    assert_int_equal(pread(fds[MAILDROP_SHM], octets, REGION, 0), REGION);
}

static void write_index(const unsigned char octets[REGION])
{
    assert_int_equal(pwrite(fds[MAILDROP_SHM], octets, REGION, 0), REGION);
}

/* An outside SQLite that finds nobody else makes the index anew; it ends before it can remove it.
 */
static void index_of_sqlite(unsigned char octets[REGION])
{
    char path[80];
    int status;
    const pid_t pid = fork();

    test_drop_path(&drop, MAILDROP_DB, path);
    if (pid == 0) {
        sqlite3 *db;

        _exit(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix") == SQLITE_OK &&
                      sqlite3_exec(db, "SELECT * FROM state", NULL, NULL, NULL) == SQLITE_OK
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    read_index(octets);
}

/* All but what does not matter: the counter of changes, with the checksum that it is in, and what
 * vouches. */
static void assert_same_index(unsigned char *one, unsigned char *other)
{
    for (int copy = 0; copy < 2; copy++) {
        memcpy(one + copy * COMMIT + 8, other + copy * COMMIT + 8, 4);
        memcpy(one + copy * COMMIT + 40, other + copy * COMMIT + 40, 8);
    }
    memcpy(one + VOUCHER, other + VOUCHER, 8);
    assert_memory_equal(one, other, REGION);
}

static bool make(void)
{
    return walindex_make(fds[MAILDROP_WAL], fds[MAILDROP_SHM]);
}

static void test_same_as_sqlite(void **state)
{
    static unsigned char ours[REGION], theirs[REGION];

    (void)state;
    for (unsigned n = 0; n < 14; n++) {
        fill(n);
        if (n % 5 == 4)
            checkpoint();
        read_index(ours);
        index_of_sqlite(theirs);
        write_index(ours);
        assert_true(make());
        read_index(ours);
        if (test_drop_file_size(&drop, MAILDROP_WAL) == 0) /* the rest is never read */
            memcpy(ours + HEAD, theirs + HEAD, REGION - HEAD);
        assert_same_index(ours, theirs);
    }
}

/* What a test does to the files, for which no index can be made then. */
static unsigned char octet_at(int fd, off_t offset)
{
    unsigned char octet;

    assert_int_equal(pread(fd, &octet, 1, offset), 1);
    return octet;
}

static void change(int fd, off_t offset)
{
    const unsigned char other = octet_at(fd, offset) ^ 1;

    assert_int_equal(pwrite(fd, &other, 1, offset), 1);
}

static void add_up(const uint32_t *words, unsigned n, uint32_t sum[2])
{
    sum[0] = sum[1] = 0;
    for (unsigned i = 0; i < n; i += 2) {
        sum[0] += words[i] + sum[1];
        sum[1] += words[i + 1] + sum[0];
    }
}

/* As if the commit in the index were one that is just done. */
static void vouch_for(uint32_t frames)
{
    void *region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fds[MAILDROP_SHM], 0);

    assert_true(region != MAP_FAILED);
    walindex_vouch(region, frames);
    munmap(region, REGION);
}

static void vouch(void)
{
    uint32_t frames;

    assert_int_equal(pread(fds[MAILDROP_SHM], &frames, sizeof(frames), 4 * FRAMES), sizeof(frames));
    vouch_for(frames);
}

/* A word of both commits in the index, made good. */
static void change_commit(unsigned word, uint32_t by)
{
    uint32_t commit[COMMIT / 4];

    assert_int_equal(pread(fds[MAILDROP_SHM], commit, COMMIT, 0), COMMIT);
    commit[word] += by;
    add_up(commit, 10, &commit[10]);
    for (int copy = 0; copy < 2; copy++)
        assert_int_equal(pwrite(fds[MAILDROP_SHM], commit, COMMIT, copy * COMMIT), COMMIT);
    vouch();
}

/* Its word of three fields. */
static void change_shape(uint8_t ready, uint8_t big_endian, uint16_t page_size)
{
    struct {
        uint8_t ready, big_endian;
        uint16_t page_size;
    } shape;
    uint32_t before, after;

    assert_int_equal(pread(fds[MAILDROP_SHM], &shape, 4, 4 * READY), 4);
    memcpy(&before, &shape, 4);
    shape.ready += ready;
    shape.big_endian ^= big_endian;
    shape.page_size += page_size;
    memcpy(&after, &shape, 4);
    change_commit(READY, after - before);
}

/* The same in the WAL's header. */
static void change_wal(off_t offset)
{
    uint32_t header[WAL_HEADER / 4], sum[2];

    change(fds[MAILDROP_WAL], offset);
    assert_int_equal(pread(fds[MAILDROP_WAL], header, WAL_HEADER, 0), WAL_HEADER);
    add_up(header, 6, sum);
    header[6] = htobe32(sum[0]);
    header[7] = htobe32(sum[1]);
    assert_int_equal(pwrite(fds[MAILDROP_WAL], header, WAL_HEADER, 0), WAL_HEADER);
}

static off_t frame(unsigned n)
{
    return WAL_HEADER + (off_t)(n - 1) * FRAME;
}

static off_t end_of_wal(void)
{
    return (off_t)test_drop_file_size(&drop, MAILDROP_WAL);
}

static void cut(enum maildrop_file file, off_t by)
{
    assert_int_equal(ftruncate(fds[file], test_drop_file_size(&drop, file) - by), 0);
}

/* One more frame at the end, as if of this WAL, or of the one before. */
static void add_frame(bool of_this)
{
    static unsigned char octets[FRAME];
    const off_t end = end_of_wal();

    assert_int_equal(pread(fds[MAILDROP_WAL], octets, FRAME, frame(1)), FRAME);
    octets[8] ^= !of_this;
    assert_int_equal(pwrite(fds[MAILDROP_WAL], octets, FRAME, end), FRAME);
}

static void end_no_commit(off_t last)
{
    uint32_t pages;

    assert_int_equal(pread(fds[MAILDROP_SHM], &pages, 4, 4 * PAGES), 4);
    change_commit(PAGES, -pages);
    assert_int_equal(pwrite(fds[MAILDROP_WAL], (uint32_t[]){0}, 4, last + 4), 4);
}

static void no_key(void)
{
    no_randomness = true;
    walindex_begin();
}

static void spoil(unsigned how)
{
    const int wal = fds[MAILDROP_WAL], shm = fds[MAILDROP_SHM];
    const off_t last = end_of_wal() - FRAME;

    switch (how) {
    case 0:
        return walindex_begin();
    case 1:
        no_key();
        return vouch();
    case 2: /* the page of a frame */
        return change(shm, HEAD + 4);
    case 3: /* less than a region; where pages are of 64 kB SQLite makes two at once */
        return cut(MAILDROP_SHM, test_drop_file_size(&drop, MAILDROP_SHM) - REGION + 1);
    case 4:
        return change(shm, VOUCHER);
    case 5: /* a writer died between the two */
        change(shm, 8);
        return vouch();
    case 6:
        return change(shm, COMMIT + 16);
    case 7: /* both changed, and the checksum not */
        change(shm, 8);
        change(shm, COMMIT + 8);
        return vouch();
    case 8:
        return change_commit(VERSION, 1);
    case 9: /* not ready */
        return change_shape((uint8_t)-1, 0, 0);
    case 10: /* the other byte order */
        return change_shape(0, 1, 0);
    case 11:
        return change_shape(0, 0, 4096); /* pages of 8,192 */
    case 12:
        return change_shape(0, 0, 3); /* of no power of two */
    case 13:
        return change_commit(FRAMES, 1);
    case 14:
        return change_commit(FRAMES, (uint32_t)-1);
    case 15:
        return change_commit(FRAMES, 1 << 20);
    case 16:
        return change_commit(PAGES, 1);
    case 17:
        return change_commit(SUM, 1);
    case 18:
        return change_commit(SUM + 1, 1);
    case 19:
        return change_commit(SALT, 1);
    case 20:
        return cut(MAILDROP_WAL, 1);
    case 21:
        return cut(MAILDROP_WAL, FRAME);
    case 22:
        return cut(MAILDROP_WAL, end_of_wal() - 10);
    case 23: /* a commit that the index does not have yet */
        return add_frame(true);
    case 24: /* magic: no WAL */
        return change_wal(0);
    case 25: /* magic: the other byte order */
        return change_wal(3);
    case 26: /* version */
        return change_wal(7);
    case 27: /* page size */
        return change_wal(10);
    case 28: /* salt */
        return change_wal(16);
    case 29: /* what only the checksum tells */
        return change(wal, 12);
    case 30: /* the last frame: its page */
        return change(wal, last + 3);
    case 31:
        return change(wal, last + 8);
    case 32:
        return change(wal, last + 7);
    case 33:
        return change(wal, last + 19);
    case 34:
        return change(wal, last + 23);
    case 35: /* commits that are not in the index at all */
        return change_commit(FRAMES, -(uint32_t)((last + FRAME) / FRAME));
    case 36: /* somebody else committed before we could vouch */
        return vouch_for(1);
    case 37: /* pages of 256 */
        return change_commit(READY, (uint32_t)(256 - PAGE) << 16);
    case 38: /* the last frame is no commit's, and the index says so, too */
        return end_no_commit(last);
    default:
        fail();
    }
}

enum { SPOILINGS = 39 };

/* Each is noticed; and what the maildrop then shows is what SQLite makes of the WAL. */
static void test_not_believed(void **state)
{
    (void)state;
    for (unsigned how = 0; how < SPOILINGS; how++) {
        tear_down(NULL);
        set_up(NULL);
        fill(5);
        assert_true(make());
        spoil(how);
        if (make())
            fail_msg("spoiling %u goes unnoticed", how);
    }
}

/* What comes after the commits in a WAL that began anew is of the one before. */
static void test_remains_of_an_older_wal(void **state)
{
    (void)state;
    fill(5);
    add_frame(false);
    assert_true(make());
    assert_int_equal(messages(), 5);
    cut(MAILDROP_WAL, FRAME - 10);
    assert_true(make());
    assert_int_equal(messages(), 5);
}

/* As many frames as the first region has room for, and one more. */
static void test_as_many_as_there_is_room_for(void **state)
{
    static unsigned char index[REGION];
    unsigned char octets[24];
    uint32_t frames;

    (void)state;
    fill(5);
    read_index(index);
    memcpy(&frames, index + 4 * FRAMES, sizeof(frames));
    assert_int_equal(pread(fds[MAILDROP_WAL], octets, 24, frame(frames)), 24);
    while (frames < FRAMES_MAX + 1) {
        const uint32_t page = ++frames * 5, on_disk = htobe32(page);

        assert_int_equal(pwrite(fds[MAILDROP_SHM], &page, 4, HEAD + 4 * (frames - 1)), 4);
        change_commit(FRAMES, 1);
        memcpy(octets, &on_disk, sizeof(page));
        assert_int_equal(pwrite(fds[MAILDROP_WAL], octets, 24, frame(frames)), 24);
        assert_int_equal(ftruncate(fds[MAILDROP_WAL], frame(frames + 1)), 0);
        if (frames < 150 || frames > FRAMES_MAX - 3)
            assert_int_equal(make(), frames <= FRAMES_MAX);
    }
    read_index(index);
    for (unsigned n = 1; n <= FRAMES_MAX; n++) { /* each is found where SQLite looks for it */
        uint32_t page;
        uint16_t slot;
        unsigned at;

        memcpy(&page, index + HEAD + 4 * (n - 1), sizeof(page));
        at = page * 383 % 8192;
        do {
            memcpy(&slot, index + 16384 + 2 * at, sizeof(slot));
            at = (at + 1) % 8192;
        } while (slot != n && slot != 0);
        assert_int_equal(slot, n);
    }
}

/* A maildrop that was closed, or whose last opener was killed, is opened without reading its WAL.
 */
static void test_wal_is_not_read(void **state)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find("unix");
    const sqlite3_syscall_ptr before = vfs->xGetSystemCall(vfs, "pread64");

    (void)state;
    assert_int_equal(vfs->xSetSystemCall(vfs, "pread", (sqlite3_syscall_ptr)counting_read),
                     SQLITE_OK);
    assert_int_equal(vfs->xSetSystemCall(vfs, "pread64", (sqlite3_syscall_ptr)counting_read),
                     SQLITE_OK);
    fill(5);
    frames_read = 0;
    assert_int_equal(messages(), 5);
    assert_int_equal(frames_read, 0);

    walindex_begin(); /* another nursery */
    assert_int_equal(messages(), 5);
    assert_true(frames_read > 5);
    frames_read = 0;
    assert_int_equal(messages(), 5); /* nobody has vouched for what the disk may not have */
    assert_true(frames_read > 5);
    fill(1);
    frames_read = 0;
    assert_int_equal(messages(), 6);
    assert_int_equal(frames_read, 0);
    vfs->xSetSystemCall(vfs, "pread", before);
    vfs->xSetSystemCall(vfs, "pread64", before);
}

/* The index of one moment beside the WAL of another: what the WAL has is what is there. */
static void test_index_of_another_time(void **state)
{
    enum { TIMES = 8 };
    static unsigned char index[TIMES][REGION];
    static char wal[TIMES][400000];
    static ssize_t size[TIMES];
    static char db[TIMES][200000];
    static ssize_t db_size[TIMES];

    (void)state;
    for (unsigned i = 0; i < TIMES; i++) {
        fill(1);
        if (i == 4)
            checkpoint();
        read_index(index[i]);
        size[i] = pread(fds[MAILDROP_WAL], wal[i], sizeof(wal[i]), 0);
        db_size[i] = pread(fds[MAILDROP_DB], db[i], sizeof(db[i]), 0);
        assert_true(size[i] < (ssize_t)sizeof(wal[i]) && db_size[i] < (ssize_t)sizeof(db[i]));
    }
    for (unsigned i = 0; i < TIMES; i++) {
        for (unsigned j = 0; j < TIMES; j++) {
            assert_int_equal(ftruncate(fds[MAILDROP_WAL], 0), 0);
            assert_int_equal(pwrite(fds[MAILDROP_WAL], wal[i], (size_t)size[i], 0), size[i]);
            assert_int_equal(pwrite(fds[MAILDROP_DB], db[i], (size_t)db_size[i], 0), db_size[i]);
            write_index(index[j]);
            if (messages() != i + 1)
                fail_msg("of %u messages the index of %u shows other", i + 1, j + 1);
        }
    }
}

/* Where nothing can be written, or looked at, SQLite is left to do what it can. */
static void test_files_that_fail(void **state)
{
    char path[80];

    (void)state;
    for (unsigned n = 0; n < 6; n += 5) {
        fill(n);
        assert_true(make());
        test_drop_path(&drop, MAILDROP_SHM, path);
        const int reading = open(path, O_RDONLY | O_CLOEXEC);
        assert_false(walindex_make(fds[MAILDROP_WAL], reading));
        assert_false(walindex_make(-1, fds[MAILDROP_SHM]));
        assert_false(walindex_make(fds[MAILDROP_WAL], -1));
        assert_true(make());
        close(reading);
    }
}

/* Each of its reads and writes fails in turn, in a WAL with more frames than are usual: it makes
 * nothing, and what there is stays good. */
static void test_calls_that_fail(void **state)
{
    unsigned nth = 1, n = 0;
    bool met = true;
    uint32_t frames;

    (void)state;
    do {
        struct maildrop *m = test_drop_open(&drop);

        deliver(m, n++, 10);
        maildrop_close(m);
        assert_int_equal(pread(fds[MAILDROP_SHM], &frames, 4, 4 * FRAMES), 4);
    } while (frames < 210);
    for (; met; nth++) {
        wrong_call = nth;
        const bool made = make();
        met = wrong_call == 0;
        wrong_call = 0;
        assert_int_equal(made, !met);
    }
    assert_true(is_between(nth, 8, 10));
    assert_int_equal(messages(), n);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_as_sqlite, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_not_believed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_remains_of_an_older_wal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_as_many_as_there_is_room_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wal_is_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_index_of_another_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_files_that_fail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_calls_that_fail, set_up, tear_down),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(false) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
