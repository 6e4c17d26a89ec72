/*
 * walindex.c - the WAL's index, -shm, made without reading the WAL: sqlite.org/walformat.html.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never list a frame that
 * SQLite's own recovery would not, nor leave one out: wherever that is not sure, it makes nothing.
 */
#include "store/walindex.h"
#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    VERSION = 3007000,                              /* of WAL and index */
    BIG_ENDIAN_SUMS = __BYTE_ORDER == __BIG_ENDIAN, /* as whoever writes a WAL makes them */
    WAL_MAGIC = 0x377f0682 | BIG_ENDIAN_SUMS,
    PAGE_MIN = 512, /* 65,536 is written as 1 */
    READERS = 5,
    FRAMES_MAX = 4062, /* that the first region has room for */
    SLOTS = 8192,
    HASH = 383,
};

#define MARK_NOT_USED UINT32_MAX

struct commit {
    uint32_t version, unused, change;
    uint8_t ready, big_endian;
    uint16_t page_size;
    uint32_t frames, pages;
    uint32_t frame_sum[2]; /* of the last frame, and with it of all before it */
    uint32_t salt[2];
    uint32_t sum[2];
};

struct head {
    struct commit commit[2]; /* a writer may die between them */
    uint32_t copied;         /* frames that are in the database */
    uint32_t read_marks[READERS];
    uint64_t voucher; /* in the room for locks, which is never read or written */
    uint32_t copied_perhaps, unused;
};

/* The first region of -shm, which is all of it unless the WAL is large. */
static struct region {
    struct head head;
    uint32_t pages[FRAMES_MAX];
    uint16_t slots[SLOTS];
} region;

struct wal_header {
    uint32_t magic, version, page_size, checkpoints;
    uint32_t salt[2];
    uint32_t sum[2];
};

struct frame_header {
    uint32_t page, pages; /* in the database; 0 if it is not a commit's last */
    uint32_t salt[2];
    uint32_t sum[2];
};

static_assert(offsetof(struct head, voucher) == 120 && sizeof(struct head) == 136, "the head");
static_assert(offsetof(struct region, slots) == 16384 && sizeof(struct region) == 32768, "all");
static_assert(sizeof(struct wal_header) == 32 && sizeof(struct frame_header) == 24, "the WAL");

static uint64_t key;

static void add_up(const void *octets, size_t size, uint32_t sum[2])
{
    const unsigned char *at = octets;
    uint32_t words[2];

    sum[0] = sum[1] = 0;
    for (; size > 0; size -= sizeof(words), at += sizeof(words)) {
        memcpy(words, at, sizeof(words));
        sum[0] += words[0] + sum[1];
        sum[1] += words[1] + sum[0];
    }
}

void walindex_begin(void)
{
    if (getrandom(&key, sizeof(key), 0) != (ssize_t)sizeof(key))
        key = 0;
}

/* What vouches for the index of this WAL, and of no other; 0: nothing does. */
static uint64_t voucher(const struct stat *wal)
{
    const uint64_t file = (uint64_t)wal->st_ino * UINT64_C(0x9e3779b97f4a7c15) + wal->st_dev;

    return key != 0 ? key ^ file : 0;
}

static int64_t offset_of(uint32_t frame, uint32_t page_size)
{
    return (int64_t)sizeof(struct wal_header) +
           (int64_t)(frame - 1) * (page_size + (int64_t)sizeof(struct frame_header));
}

/* Whether SQLite would take it for an index. */
static bool is_whole(const struct head *found)
{
    const struct commit *c = &found->commit[0];
    uint32_t sum[2];

    add_up(c, offsetof(struct commit, sum), sum);
    return memcmp(c, &found->commit[1], sizeof(*c)) == 0 && c->version == VERSION && c->ready &&
           memcmp(c->sum, sum, sizeof(sum)) == 0;
}

static void set_head(struct head *head, uint64_t vouches)
{
    const uint32_t frames = head->commit[0].frames;

    head->copied = 0;
    head->copied_perhaps = frames;
    head->read_marks[0] = 0;
    head->read_marks[1] = frames > 0 ? frames : MARK_NOT_USED;
    for (size_t i = 2; i < READERS; i++)
        head->read_marks[i] = MARK_NOT_USED;
    head->voucher = vouches;
    head->unused = 0;
}

/* What else is in -shm, SQLite clears before it puts the first frame in. */
static bool make_empty(int shm, uint64_t vouches)
{
    struct head head = {.commit[0] = {.version = VERSION, .ready = 1}};

    add_up(&head, offsetof(struct commit, sum), head.commit[0].sum);
    head.commit[1] = head.commit[0];
    set_head(&head, vouches);
    return pwrite(shm, &head, sizeof(head), 0) == (ssize_t)sizeof(head);
}

/* A checksum in a WAL, as it was added up. */
static bool is_sum(const uint32_t in_file[2], const uint32_t sum[2])
{
    return be32toh(in_file[0]) == sum[0] && be32toh(in_file[1]) == sum[1];
}

/* Whether the WAL is the one that the index is of. */
static bool is_wal_of(const struct commit *c, const struct wal_header *wal)
{
    uint32_t sum[2];

    add_up(wal, offsetof(struct wal_header, sum), sum);
    return be32toh(wal->magic) == WAL_MAGIC && be32toh(wal->version) == VERSION &&
           be32toh(wal->page_size) == c->page_size && is_sum(wal->sum, sum) &&
           memcmp(wal->salt, c->salt, sizeof(wal->salt)) == 0;
}

static void put_in(uint32_t frame, uint32_t page)
{
    unsigned slot = page * HASH % SLOTS;

    while (region.slots[slot] != 0)
        slot = (slot + 1) % SLOTS;
    region.slots[slot] = (uint16_t)frame;
    region.pages[frame - 1] = page;
}

/* From the headers of the frames. False, if one is not of this WAL, the last is another than the
 * index says, or there is one more. */
static bool read_frames(const struct commit *c, const unsigned char *wal, size_t size)
{
    struct frame_header frame;

    memset(region.slots, 0, sizeof(region.slots));
    for (uint32_t n = 1; n <= c->frames; n++) {
        memcpy(&frame, wal + offset_of(n, c->page_size), sizeof(frame));
        if (memcmp(frame.salt, c->salt, sizeof(frame.salt)) != 0 || frame.page == 0)
            return false;
        put_in(n, be32toh(frame.page));
    }
    if (c->pages == 0 || be32toh(frame.pages) != c->pages || !is_sum(frame.sum, c->frame_sum))
        return false;
    const size_t end = (size_t)offset_of(c->frames + 1, c->page_size);
    if (size - end < sizeof(frame))
        return true;
    memcpy(&frame, wal + end, sizeof(frame));
    return memcmp(frame.salt, c->salt, sizeof(frame.salt)) != 0;
}

static bool read_wal(const struct commit *c, int wal, int64_t size)
{
    const int64_t next =
        offset_of(c->frames + 1, c->page_size) + (int64_t)sizeof(struct frame_header);
    const size_t mapped = (size_t)(size < next ? size : next);
    struct wal_header header;
    bool good;

    /* By far the most of a frame is its page, which is not read. */
    unsigned char *octets = mmap(NULL, mapped, PROT_READ, MAP_SHARED, wal, 0);
    if (octets == MAP_FAILED)
        return false;
    memcpy(&header, octets, sizeof(header));
    good = is_wal_of(c, &header) && read_frames(c, octets, mapped);
    munmap(octets, mapped);
    return good;
}

/* Whether what the old index says can be true. */
static bool is_likely(const struct head *found, int64_t size)
{
    const struct commit *c = &found->commit[0];

    return is_whole(found) && c->big_endian == BIG_ENDIAN_SUMS && c->page_size >= PAGE_MIN &&
           (c->page_size & (c->page_size - 1)) == 0 && c->frames > 0 && c->frames <= FRAMES_MAX &&
           offset_of(c->frames + 1, c->page_size) <= size;
}

/* Make it of the frames that the old index lists. */
static bool make_again(int wal, int64_t size, int shm, uint64_t vouches)
{
    const size_t head = sizeof(region.head), slots = sizeof(region.slots);
    const struct commit *c = &region.head.commit[0];
    struct stat status;

    if (vouches == 0 || fstat(shm, &status) < 0 || status.st_size < (off_t)sizeof(region) ||
        pread(shm, &region.head, head, 0) != (ssize_t)head || region.head.voucher != vouches ||
        !is_likely(&region.head, size) || !read_wal(c, wal, size))
        return false;
    set_head(&region.head, vouches);
    const size_t used = head + c->frames * sizeof(region.pages[0]);
    return pwrite(shm, region.slots, slots, offsetof(struct region, slots)) == (ssize_t)slots &&
           pwrite(shm, &region, used, 0) == (ssize_t)used;
}

bool walindex_make(int wal, int shm)
{
    struct stat status;

    if (fstat(wal, &status) < 0)
        return false;
    return status.st_size == 0 ? make_empty(shm, voucher(&status))
                               : make_again(wal, status.st_size, shm, voucher(&status));
}

void walindex_vouch(int wal, int shm)
{
    struct stat status;

    if (fstat(wal, &status) < 0)
        return;
    const uint64_t vouches = voucher(&status);
    /* If this fails, the WAL is read once more. */
    (void)!pwrite(shm, &vouches, sizeof(vouches), offsetof(struct head, voucher));
}

int64_t walindex_end(int shm)
{
    struct commit c;

    if (pread(shm, &c, sizeof(c), 0) != (ssize_t)sizeof(c) || c.version != VERSION || !c.ready)
        return -1;
    return c.frames == 0 ? 0 : offset_of(c.frames + 1, c.page_size);
}
