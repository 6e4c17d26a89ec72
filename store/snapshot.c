/*
 * snapshot.c - the messages of a session: ids, sizes and UIDLs, taken once and kept in memory,
 * packed as store/listing.h has them: a hundred thousand are some pages then, not thousands.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. The read transaction ends before
 * this returns: a slow client must never hold one. It must never pass off a part of a damaged
 * maildrop as the whole.
 */
#include "store/listing.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    TYPICAL_ENTRY = 12,   /* octets, packed */
    FIRST_ROOM = 4 << 20, /* octets taken at once, at most */
    PAGES_KEPT = 8,
};

/* Packed entries in a row, each of which can be read when the one before it was. */
struct block {
    size_t index; /* of its first message */
    size_t at;    /* where that begins */
    int64_t before;
};

struct maildrop_snapshot {
    struct maildrop_totals totals; /* of what it holds */
    struct block *blocks;
    size_t n_blocks, blocks_room;
    unsigned char *packed; /* from mmap(); LISTING_SLACK octets longer than it is filled */
    size_t size, room;
};

/* A snapshot on its way. */
struct taking {
    struct maildrop *m;
    struct maildrop_snapshot *s;
    int64_t last_id;             /* of the session */
    struct maildrop_totals seen; /* all messages, later ones as well */
};

/* Memory for packed entries with so much room. All its pages are there at once: to be given them
 * one by one, as they are touched, costs more than filling them. */
static bool grow(struct maildrop_snapshot *s, size_t room)
{
    void *packed;

    if (s->packed)
        packed = mremap(s->packed, s->room, room, MREMAP_MAYMOVE);
    else
        packed = mmap(NULL, room, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (packed == MAP_FAILED)
        return false;
    s->packed = packed;
    s->room = room;
    return true;
}

/* Room for one block and so many octets more; grows by half as much again. */
static bool make_room(struct maildrop_snapshot *s, size_t size)
{
    if (s->n_blocks == s->blocks_room) {
        const size_t room = s->blocks_room + s->blocks_room / 2 + 64;
        struct block *blocks = reallocarray(s->blocks, room, sizeof(*blocks));

        if (!blocks)
            return false;
        s->blocks = blocks;
        s->blocks_room = room;
    }
    size += LISTING_SLACK;
    return s->room - s->size >= size || grow(s, s->room + s->room / 2 + size + LISTING_ENTRY_MAX);
}

/* What so many messages with UIDLs of our own may need; not more than it costs nothing to be wrong
 * about. */
static size_t room_for(const struct maildrop_totals *totals)
{
    const uint64_t most = FIRST_ROOM / TYPICAL_ENTRY;

    return (size_t)(totals->messages < most ? totals->messages : most) * TYPICAL_ENTRY;
}

static void begin_block(struct maildrop_snapshot *s, int64_t before)
{
    s->blocks[s->n_blocks++] =
        (struct block){.index = (size_t)s->totals.messages, .at = s->size, .before = before};
}

static void add(struct maildrop_totals *totals, const struct maildrop_entry *entry)
{
    totals->messages++;
    totals->octets += entry->size;
    totals->plain_octets += entry->plain_size;
    totals->last_id = entry->id;
}

static enum store_outcome no_memory(struct taking *t)
{
    return handle_fail(t->m, STORE_MEMORY, "no memory for a list of %llu messages",
                       (unsigned long long)t->seen.messages);
}

/* The message of the current row. */
static enum store_outcome take_row(struct taking *t, sqlite3_stmt *row)
{
    struct maildrop_snapshot *s = t->s;
    struct maildrop_entry entry;
    size_t put;

    if (!make_room(s, LISTING_ENTRY_MAX))
        return no_memory(t);
    put = listing_put(row, t->seen.last_id, s->packed + s->size, &entry);
    if (put == 0)
        return handle_fail(t->m, STORE_DAMAGED, "the row after message %lld is no message",
                           (long long)t->seen.last_id);
    if (entry.id <= t->last_id) {
        if (s->n_blocks == 0 ||
            s->totals.messages - s->blocks[s->n_blocks - 1].index >= LISTING_SPAN)
            begin_block(s, t->seen.last_id);
        s->size += put;
        add(&s->totals, &entry);
    }
    add(&t->seen, &entry);
    return STORE_OK;
}

/* The messages with ids from one to another, row by row. */
static enum store_outcome take_rows(struct taking *t, int64_t first, int64_t last)
{
    sqlite3_stmt *rows;
    enum store_outcome outcome = handle_prepare(t->m, STATEMENT_SNAPSHOT, &rows);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(rows, 1, first);
    sqlite3_bind_int64(rows, 2, last);
    while ((outcome = handle_step(t->m, rows)) == STORE_OK) {
        if ((outcome = take_row(t, rows)) != STORE_OK) {
            sqlite3_reset(rows);
            return outcome;
        }
    }
    return outcome == STORE_END ? STORE_OK : outcome;
}

/* Unpack what was just put behind the rest, to see that it can be, and count it. */
static bool take_entries(struct taking *t, int64_t first, size_t size)
{
    struct maildrop_snapshot *s = t->s;
    const unsigned char *at = s->packed + s->size, *const end = at + size;
    struct maildrop_entry entry = {.id = first - 1};

    while (at < end) {
        if (!listing_take(&at, end, &entry) || entry.id >= first + LISTING_SPAN)
            return false;
        if (entry.id <= t->last_id) {
            add(&s->totals, &entry);
            s->size = (size_t)(at - s->packed);
        }
        add(&t->seen, &entry);
    }
    return true;
}

/* The messages of the current group. */
static enum store_outcome take_group(struct taking *t, sqlite3_stmt *row, int64_t first)
{
    struct maildrop_snapshot *s = t->s;
    const void *group = sqlite3_column_blob(row, 1);
    size_t size = (size_t)sqlite3_column_bytes(row, 1);
    bool sound = group && listing_sound(first, group, &size);

    if (sound && !make_room(s, size))
        return no_memory(t);
    if (sound) {
        const size_t before = (size_t)s->totals.messages;

        memcpy(s->packed + s->size, group, size);
        begin_block(s, first - 1);
        sound = take_entries(t, first, size);
        if (before == s->totals.messages) /* nothing in it is the session's */
            s->n_blocks--;
    }
    return sound ? STORE_OK
                 : handle_fail(t->m, STORE_DAMAGED, "the group of message %lld is none",
                               (long long)first);
}

/* SQLite keeps the page of each group, of which none is read again: it takes them back before it
 * asks the system for more, which is what costs most of reading one. */
static void let_pages_go(struct taking *t)
{
    if (t->s->n_blocks % PAGES_KEPT == 0)
        sqlite3_db_release_memory(t->m->db);
}

/* Groups, and between them rows. */
static enum store_outcome take_groups(struct taking *t)
{
    int64_t next = 0, first;
    sqlite3_stmt *groups;
    enum store_outcome outcome = handle_prepare(t->m, STATEMENT_GROUPS, &groups);

    if (outcome != STORE_OK)
        return outcome;
    while ((outcome = handle_step(t->m, groups)) == STORE_OK) {
        if (!handle_column(groups, 0, &first) || first < next || first % LISTING_SPAN != 0)
            outcome = handle_fail(t->m, STORE_DAMAGED, "no group begins after message %lld",
                                  (long long)next - 1);
        if (outcome == STORE_OK && first > next)
            outcome = take_rows(t, next, first - 1);
        if (outcome == STORE_OK)
            outcome = take_group(t, groups, first);
        if (outcome != STORE_OK) {
            sqlite3_reset(groups);
            return outcome;
        }
        next = first + LISTING_SPAN;
        let_pages_go(t);
    }
    return outcome == STORE_END ? take_rows(t, next, INT64_MAX) : outcome;
}

/* All messages, held against the totals of the same moment. */
static enum store_outcome take_all(struct taking *t, bool by_groups)
{
    struct maildrop_totals now;
    enum store_outcome outcome = handle_state(t->m, &now);

    if (outcome == STORE_OK && !make_room(t->s, room_for(&now)))
        outcome = no_memory(t);
    if (outcome == STORE_OK)
        outcome = by_groups ? take_groups(t) : take_rows(t, INT64_MIN, INT64_MAX);
    if (outcome != STORE_OK)
        return outcome;
    if (t->seen.messages != now.messages || t->seen.octets != now.octets ||
        t->seen.plain_octets != now.plain_octets || t->seen.last_id > now.last_id) {
        t->m->groups_astray = by_groups;
        return handle_fail(t->m, STORE_DAMAGED, "messages by the totals: %llu, counted: %llu",
                           (unsigned long long)now.messages, (unsigned long long)t->seen.messages);
    }
    return STORE_OK;
}

/* Groups are an abridgement: where they are not sound, or contradict the totals, since a program
 * that does not know them has written, the rows are asked themselves. */
static enum store_outcome take(struct maildrop *m, int64_t last_id, struct maildrop_snapshot *s)
{
    struct taking t = {.m = m, .s = s, .last_id = last_id};
    enum store_outcome outcome = STORE_DAMAGED;

    m->groups_astray = false;
    if (m->minor >= 3)
        outcome = take_all(&t, true);
    if (outcome != STORE_DAMAGED)
        return outcome;
    t.seen = s->totals = (struct maildrop_totals){0};
    s->n_blocks = s->size = 0;
    return take_all(&t, false);
}

/* What was read is kept whatever becomes of this. The statement is ready in a worker. */
static void end_reading(struct maildrop *m)
{
    if (handle_run(m, STATEMENT_ROLLBACK) != STORE_OK)
        sqlite3_exec(m->db, "ROLLBACK", NULL, NULL, NULL);
}

enum store_outcome maildrop_snapshot(struct maildrop *maildrop,
                                     const struct maildrop_totals *totals,
                                     struct maildrop_snapshot **taken)
{
    struct maildrop_snapshot *s = calloc(1, sizeof(*s));
    enum store_outcome outcome = STORE_OK;
    const bool own = sqlite3_get_autocommit(maildrop->db) != 0;

    if (!s)
        return handle_fail(maildrop, STORE_MEMORY, "no memory for a list of messages");
    handle_begin_call(maildrop);
    if (own)
        outcome = handle_run(maildrop, STATEMENT_BEGIN_READ);
    if (outcome == STORE_OK)
        outcome = take(maildrop, totals->last_id, s);
    if (own && !sqlite3_get_autocommit(maildrop->db))
        end_reading(maildrop);
    if (outcome != STORE_OK) {
        maildrop_snapshot_free(s);
        return outcome;
    }
    *taken = s;
    return STORE_OK;
}

void maildrop_snapshot_free(struct maildrop_snapshot *snapshot)
{
    if (!snapshot)
        return;
    free(snapshot->blocks);
    if (snapshot->packed)
        munmap(snapshot->packed, snapshot->room);
    free(snapshot);
}

size_t maildrop_snapshot_count(const struct maildrop_snapshot *snapshot)
{
    return (size_t)snapshot->totals.messages;
}

struct maildrop_totals maildrop_snapshot_totals(const struct maildrop_snapshot *snapshot)
{
    return snapshot->totals;
}

/* A walk that begins with a block. */
static struct maildrop_walk walk_from(const struct maildrop_snapshot *snapshot, size_t block)
{
    struct maildrop_walk walk = {.snapshot = snapshot, .block = block};

    if (block < snapshot->n_blocks)
        walk.index = snapshot->blocks[block].index;
    return walk;
}

struct maildrop_walk maildrop_snapshot_walk(const struct maildrop_snapshot *snapshot)
{
    return walk_from(snapshot, 0);
}

const struct maildrop_entry *maildrop_walk_next(struct maildrop_walk *walk)
{
    const struct maildrop_snapshot *s = walk->snapshot;

    if (walk->index == s->totals.messages)
        return NULL;
    if (walk->block < s->n_blocks && walk->index == s->blocks[walk->block].index) {
        walk->at = s->packed + s->blocks[walk->block].at;
        walk->entry.id = s->blocks[walk->block].before;
        walk->block++;
    }
    listing_take(&walk->at, s->packed + s->size, &walk->entry);
    walk->index++;
    return &walk->entry;
}

/* The last block for which this holds: it begins at or before the index, or its messages after the
 * id. The first block always counts as one. */
static size_t find_block(const struct maildrop_snapshot *s, size_t index, int64_t id)
{
    size_t low = 0, high = s->n_blocks;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;

        if (s->blocks[middle].index <= index && s->blocks[middle].before < id)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct maildrop_entry maildrop_snapshot_entry(const struct maildrop_snapshot *snapshot,
                                              size_t index)
{
    struct maildrop_walk walk = walk_from(snapshot, find_block(snapshot, index, INT64_MAX));

    while (walk.index <= index && maildrop_walk_next(&walk))
        ;
    return walk.entry;
}

size_t maildrop_snapshot_position(const struct maildrop_snapshot *snapshot, int64_t id)
{
    struct maildrop_walk walk = walk_from(snapshot, find_block(snapshot, SIZE_MAX, id));
    const struct maildrop_entry *entry;

    while ((entry = maildrop_walk_next(&walk)) != NULL && entry->id <= id)
        ;
    return entry ? walk.index - 1 : walk.index;
}

enum store_outcome maildrop_last_retrieved(struct maildrop *maildrop, int64_t last_id, int64_t *id)
{
    int64_t found = 0;
    sqlite3_stmt *statement;
    enum store_outcome outcome;

    handle_begin_call(maildrop);
    if ((outcome = handle_prepare(maildrop, STATEMENT_RETRIEVED, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, last_id);
    outcome = handle_step(maildrop, statement);
    if (outcome == STORE_OK && !handle_column(statement, 0, &found))
        outcome = handle_fail(maildrop, STORE_DAMAGED, "a retrieved message has no id");
    sqlite3_reset(statement);
    if (outcome == STORE_OK || outcome == STORE_END)
        *id = found;
    return outcome == STORE_END ? STORE_OK : outcome;
}
