/*
 * walindex.c - the WAL's index, -shm, made without reading the WAL: sqlite.org/walformat.html.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never list a frame that
 * SQLite's own recovery would not, nor leave one out: wherever that is not sure, it makes nothing.
 */
#include "store/walindex.h"
#include "store/files.h"
#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    VERSION = 3007000,                              /* of WAL and index */
    BIG_ENDIAN_SUMS = __BYTE_ORDER == __BIG_ENDIAN, /* as whoever writes a WAL makes them */
    WAL_MAGIC = 0x377f0682 | BIG_ENDIAN_SUMS,
    PAGE_MIN = 512, /* 65,536 is written as 1 */
    READERS = 5,
    FRAMES_MAX = 4062,  /* that the first region has room for */
    USUAL_FRAMES = 200, /* read at once */
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
struct region {
    struct head head;
    uint32_t pages[FRAMES_MAX]; /* of each frame */
    uint16_t slots[SLOTS];      /* frames, by hashes of their pages */
};

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
static_assert(offsetof(struct region, slots) == 16384 && sizeof(struct region) == WALINDEX_REGION,
              "all");
static_assert(sizeof(struct wal_header) == 32 && sizeof(struct frame_header) == 24, "the WAL");

static uint64_t key;

static uint64_t mix(uint64_t into, uint32_t word)
{
    into = (into ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return into ^ into >> 32;
}

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

/* What vouches for the last commit of an index and the pages of all frames; 0: nothing does. Told
 * from others by chance, not by malice. */
static uint64_t digest(const struct commit *c, const uint32_t *pages)
{
    uint64_t found = key;
    uint32_t words[sizeof(*c) / sizeof(uint32_t)];

    if (key == 0 || c->frames > FRAMES_MAX)
        return 0;
    memcpy(words, c, sizeof(words));
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        found = mix(found, words[i]);
    for (uint32_t i = 0; i < c->frames; i++)
        found = mix(found, pages[i]);
    return found;
}

void walindex_begin(void)
{
    if (getrandom(&key, sizeof(key), 0) != (ssize_t)sizeof(key))
        key = 0;
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

/* As a recovery leaves it. */
static void set_head(struct head *head)
{
    const uint32_t frames = head->commit[0].frames;

    head->copied = 0;
    head->copied_perhaps = frames;
    head->read_marks[0] = 0;
    head->read_marks[1] = frames > 0 ? frames : MARK_NOT_USED;
    for (size_t i = 2; i < READERS; i++)
        head->read_marks[i] = MARK_NOT_USED;
    head->unused = 0;
}

/* What else is in -shm, SQLite clears before it puts the first frame in. */
static bool make_empty(int shm)
{
    struct head head = {.commit[0] = {.version = VERSION, .ready = 1}};

    add_up(&head, offsetof(struct commit, sum), head.commit[0].sum);
    head.commit[1] = head.commit[0];
    set_head(&head);
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

/* Whether the last frame is the one that the index says, and none of this WAL follows. */
static bool is_last_frame(const struct commit *c, uint32_t page, int wal)
{
    const off_t at = offset_of(c->frames, c->page_size),
                next = offset_of(c->frames + 1, c->page_size);
    struct frame_header last, after;
    ssize_t got;

    if (pread(wal, &last, sizeof(last), at) != (ssize_t)sizeof(last) ||
        be32toh(last.page) != page || be32toh(last.pages) != c->pages || c->pages == 0 ||
        !is_sum(last.sum, c->frame_sum) || memcmp(last.salt, c->salt, sizeof(last.salt)) != 0)
        return false;
    got = pread(wal, &after, sizeof(after), next);
    return got >= 0 &&
           (got < (ssize_t)sizeof(after) || memcmp(after.salt, c->salt, sizeof(after.salt)) != 0);
}

/* Whether it is of this WAL, to its end. */
static bool is_of(const struct region *found, int wal, int64_t size)
{
    const struct commit *c = &found->head.commit[0];
    struct wal_header header;

    return c->big_endian == BIG_ENDIAN_SUMS && c->page_size >= PAGE_MIN &&
           (c->page_size & (c->page_size - 1)) == 0 &&
           offset_of(c->frames + 1, c->page_size) <= size &&
           pread(wal, &header, sizeof(header), 0) == (ssize_t)sizeof(header) &&
           is_wal_of(c, &header) && is_last_frame(c, found->pages[c->frames - 1], wal);
}

/* The old index, if it is whole and somebody vouches for it. */
static bool read_index(int shm, struct region *found)
{
    const struct commit *c = &found->head.commit[0];
    const size_t usual = sizeof(found->head) + USUAL_FRAMES * sizeof(found->pages[0]);
    struct stat status;
    size_t rest;

    if (key == 0 || maildrop_file_stat(shm, &status) < 0 ||
        status.st_size < (off_t)sizeof(*found) || pread(shm, found, usual, 0) != (ssize_t)usual ||
        !is_whole(&found->head) || c->frames == 0 || c->frames > FRAMES_MAX)
        return false;
    rest = c->frames <= USUAL_FRAMES ? 0 : (c->frames - USUAL_FRAMES) * sizeof(found->pages[0]);
    if (rest > 0 && pread(shm, found->pages + USUAL_FRAMES, rest, (off_t)usual) != (ssize_t)rest)
        return false;
    return found->head.voucher == digest(c, found->pages);
}

static void fill_slots(struct region *to)
{
    memset(to->slots, 0, sizeof(to->slots));
    for (uint32_t frame = 1; frame <= to->head.commit[0].frames; frame++) {
        unsigned slot = to->pages[frame - 1] * HASH % SLOTS;

        while (to->slots[slot] != 0)
            slot = (slot + 1) % SLOTS;
        to->slots[slot] = (uint16_t)frame;
    }
}

/* Make it of the list of frames that the old one has. */
static bool make_again(int wal, int64_t size, int shm)
{
    static struct region region;
    const size_t head = sizeof(region.head), slots = sizeof(region.slots);

    if (!read_index(shm, &region) || !is_of(&region, wal, size))
        return false;
    set_head(&region.head);
    fill_slots(&region);
    return pwrite(shm, region.slots, slots, offsetof(struct region, slots)) == (ssize_t)slots &&
           pwrite(shm, &region.head, head, 0) == (ssize_t)head;
}

bool walindex_make(int wal, int shm)
{
    struct stat status;

    if (maildrop_file_stat(wal, &status) < 0)
        return false;
    return status.st_size == 0 ? make_empty(shm) : make_again(wal, status.st_size, shm);
}

void walindex_vouch(void *region, uint32_t frames)
{
    struct region *index = region;
    const struct commit c = index->head.commit[0];

    /* An outside SQLite may have committed since. */
    index->head.voucher = c.frames == frames ? digest(&c, index->pages) : 0;
}

int64_t walindex_end(int shm)
{
    struct commit c;

    if (pread(shm, &c, sizeof(c), 0) != (ssize_t)sizeof(c) || c.version != VERSION || !c.ready)
        return -1;
    return c.frames == 0 ? 0 : offset_of(c.frames + 1, c.page_size);
}

int64_t walindex_pending(int shm)
{
    struct head head;

    if (pread(shm, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
        return -1;
    return (int64_t)head.commit[0].frames - head.copied;
}
