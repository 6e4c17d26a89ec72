/*
 * salvage.c - what can still be read of a damaged maildrop.
 *
 * Runs in poplarctl only, over a copy of a file that may be damaged in any way. Three places know
 * of a message: its row, the index of UIDLs, and its chunks. Each is walked for itself, over the
 * parts that SQLite cannot read; chunks are also looked for page by page (leaf.h). It must never
 * pass off a part of a message as the whole.
 */
#include "store/salvage.h"
#include "store/digest.h"
#include "store/files.h"
#include "store/handle.h"
#include "store/leaf.h"
#include "store/schema.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PROBES_MAX = 1 << 22, /* failing reads before a walk is given up */
    FREE_LIST = 28, /* of the database header: size in pages, free pages (1.3 of its format) */
    FREE_LIST_SIZE = 12,
};

/* A message that left a trace. */
struct trace {
    int64_t id;
    char *uidl; /* as the index has it, NULL if it has none */
};

struct salvage {
    sqlite3 *db;
    sqlite3_stmt *row, *chunk;
    int fd; /* of the same file, to read what SQLite cannot find */
    struct leaf_chunk *leaves;
    size_t n_leaves;
    unsigned char content[MAILDROP_CHUNK_SIZE]; /* of the chunk at hand */
    uint64_t digest;                            /* of the content that was read last */
    struct trace *traces;
    size_t n, room;
};

static bool add_trace(struct salvage *s, int64_t id, const char *uidl)
{
    if (id <= 0 || id >> (63 - SCHEMA_CHUNK_BITS) > 0)
        return true;
    if (s->n == s->room) {
        const size_t room = s->room * 2 + 64;
        struct trace *traces = reallocarray(s->traces, room, sizeof(*traces));

        if (!traces)
            return false;
        s->traces = traces;
        s->room = room;
    }
    s->traces[s->n++] = (struct trace){.id = id, .uidl = uidl ? strdup(uidl) : NULL};
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct trace *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* In order, each id once, with its UIDL if any trace has one. */
static void settle(struct salvage *s)
{
    size_t kept = 0;

    if (s->n > 0)
        qsort(s->traces, s->n, sizeof(*s->traces), compare);
    for (size_t i = 0; i < s->n; i++) {
        if (kept > 0 && s->traces[kept - 1].id == s->traces[i].id) {
            if (s->traces[kept - 1].uidl)
                free(s->traces[i].uidl);
            else
                s->traces[kept - 1].uidl = s->traces[i].uidl;
        } else {
            s->traces[kept++] = s->traces[i];
        }
    }
    s->n = kept;
}

/* One number, 0 when it cannot be had. */
static int64_t ask(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t number = 0;

    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW &&
        sqlite3_column_type(statement, 0) == SQLITE_INTEGER)
        number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

/* Above every id that anything in the file speaks of. */
static int64_t end_of_ids(sqlite3 *db)
{
    const int64_t ids[] = {
        ask(db, "SELECT last_id FROM state"),
        ask(db, "SELECT id FROM message ORDER BY id DESC LIMIT 1"),
        ask(db, "SELECT place >> 20 FROM chunk ORDER BY place DESC LIMIT 1"),
    };
    int64_t end = 0;

    _Static_assert(SCHEMA_CHUNK_BITS == 20, "the SQL above says the same");
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        if (ids[i] > end)
            end = ids[i];
    }
    return end + 1;
}

/* Walk over a table by ids: `sql` gives the next one from ?1 on. Where that cannot be read, the
 * walk goes on one id further, until it is past the damage. */
static bool walk(struct salvage *s, const char *sql, int64_t end)
{
    sqlite3_stmt *statement = NULL;
    size_t probes = 0;
    int64_t id = 1;
    bool enough = true;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL);

    while (rc == SQLITE_OK && enough && id <= end && probes < PROBES_MAX) {
        int step;

        sqlite3_bind_int64(statement, 1, id);
        step = sqlite3_step(statement);
        if (step == SQLITE_DONE)
            break;
        if (step == SQLITE_ROW && sqlite3_column_int64(statement, 0) >= id) {
            id = sqlite3_column_int64(statement, 0);
            enough = add_trace(s, id, NULL);
        } else {
            probes++;
        }
        id++;
        sqlite3_reset(statement);
    }
    sqlite3_finalize(statement);
    return enough;
}

/* The index of UIDLs, as far as it can be read from one end and is in order: where it has a page in
 * two places there may be no end to it. */
static bool walk_uidls(struct salvage *s, const char *sql, bool rising)
{
    sqlite3_stmt *statement = NULL;
    bool enough = true, ordered = true;
    char uidl[MAILDROP_UIDL_MAX + 1], before[sizeof(uidl)] = "";

    if (!rising)
        before[0] = '\x7f'; /* no UIDL is above it */
    if (sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL) != SQLITE_OK)
        return true;
    while (enough && ordered && sqlite3_step(statement) == SQLITE_ROW) {
        const bool sound = handle_column_uidl(statement, 0, uidl);

        ordered = sound && (rising ? strcmp(before, uidl) < 0 : strcmp(before, uidl) > 0);
        enough = add_trace(s, sqlite3_column_int64(statement, 1), sound ? uidl : NULL);
        memcpy(before, uidl, sound ? strlen(uidl) + 1 : 0);
    }
    sqlite3_finalize(statement);
    return enough;
}

static bool walk_leaves(struct salvage *s)
{
    bool enough = leaf_find_chunks(s->fd, &s->leaves, &s->n_leaves);

    for (size_t i = 0; enough && i < s->n_leaves; i++) {
        if (i == 0 ||
            s->leaves[i].place >> SCHEMA_CHUNK_BITS != s->leaves[i - 1].place >> SCHEMA_CHUNK_BITS)
            enough = add_trace(s, s->leaves[i].place >> SCHEMA_CHUNK_BITS, NULL);
    }
    return enough;
}

static bool find_traces(struct salvage *s)
{
    const int64_t end = end_of_ids(s->db);
    const bool enough =
        walk_leaves(s) &&
        walk(s, "SELECT id FROM message WHERE id >= ?1 ORDER BY id LIMIT 1", end) &&
        walk(s, "SELECT place >> 20 FROM chunk WHERE place >= ?1 << 20 ORDER BY place LIMIT 1",
             end) &&
        walk_uidls(s, "SELECT uidl, id FROM message ORDER BY uidl", true) &&
        walk_uidls(s, "SELECT uidl, id FROM message ORDER BY uidl DESC", false);

    settle(s);
    return enough;
}

/* A file of minor version 1 has no digests. */
static bool prepare_row(struct salvage *s)
{
    static const char *const sql[] = {
        "SELECT uidl, size, header_size, received, coalesce(retrieved, 0), coalesce(deleted, 0),"
        " plain_size, form, digest FROM message WHERE id = ?1",
        "SELECT uidl, size, header_size, received, coalesce(retrieved, 0), coalesce(deleted, 0),"
        " plain_size, form, NULL FROM message WHERE id = ?1",
    };

    return sqlite3_prepare_v2(s->db, sql[0], -1, &s->row, NULL) == SQLITE_OK ||
           sqlite3_prepare_v2(s->db, sql[1], -1, &s->row, NULL) == SQLITE_OK;
}

/* Whether SQLite can use the file at all. */
static bool open_database(struct salvage *s, const char *path)
{
    sqlite3_finalize(s->row);
    sqlite3_finalize(s->chunk);
    sqlite3_close(s->db);
    s->db = NULL;
    s->row = s->chunk = NULL;
    return sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE, "unix") == SQLITE_OK &&
           schema_harden(s->db) == STORE_OK && prepare_row(s) &&
           sqlite3_prepare_v2(s->db, "SELECT content FROM chunk WHERE place = ?1", -1, &s->chunk,
                              NULL) == SQLITE_OK;
}

/* The first page holds the header and the schema, which are the same in every maildrop: tables
 * begin on the same pages, since they were made in the same order. Nothing is written later, so
 * nobody misses the list of free pages. */
static bool repair_first_page(const char *path)
{
    unsigned char page[SCHEMA_PAGE_SIZE];
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool repaired;

    memcpy(page, maildrop_template, sizeof(page));
    memset(page + FREE_LIST, 0, FREE_LIST_SIZE);
    repaired = fd >= 0 && pwrite(fd, page, sizeof(page), 0) == (ssize_t)sizeof(page);
    if (fd >= 0)
        close(fd);
    return repaired;
}

/* A WAL may hold a damaged first page as well; without it the file is older, but readable. */
static bool drop_wal(const char *path)
{
    char wal[4096];

    return snprintf(wal, sizeof(wal), "%s-wal", path) < (int)sizeof(wal) && truncate(wal, 0) == 0;
}

enum store_outcome salvage_open(const char *path, struct salvage **opened, char *error,
                                size_t error_size)
{
    struct salvage *s = calloc(1, sizeof(*s));

    if (!s) {
        snprintf(error, error_size, "no memory");
        return STORE_MEMORY;
    }
    s->fd = -1;
    if (!open_database(s, path) && !(repair_first_page(path) && open_database(s, path)) &&
        !(drop_wal(path) && open_database(s, path))) {
        snprintf(error, error_size, "%s", s->db ? sqlite3_errmsg(s->db) : "no memory for SQLite");
        salvage_close(s);
        return STORE_DAMAGED;
    }
    /* What stands in the WAL goes into the file, so that all of it lies in one place. */
    sqlite3_wal_checkpoint_v2(s->db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!find_traces(s)) {
        snprintf(error, error_size, "no memory for a list of %zu messages", s->n);
        salvage_close(s);
        return STORE_MEMORY;
    }
    *opened = s;
    return STORE_OK;
}

void salvage_close(struct salvage *salvage)
{
    if (!salvage)
        return;
    sqlite3_finalize(salvage->row);
    sqlite3_finalize(salvage->chunk);
    sqlite3_close(salvage->db);
    for (size_t i = 0; i < salvage->n; i++)
        free(salvage->traces[i].uidl);
    free(salvage->traces);
    free(salvage->leaves);
    if (salvage->fd >= 0)
        close(salvage->fd);
    free(salvage);
}

size_t salvage_count(const struct salvage *salvage)
{
    return salvage->n;
}

static int compare_place(const void *key, const void *leaf)
{
    const int64_t place = *(const int64_t *)key, at = ((const struct leaf_chunk *)leaf)->place;

    return place < at ? -1 : place > at;
}

/* As SQLite reads it. */
static int64_t ask_chunk(struct salvage *s, int64_t place)
{
    int64_t size = -1;
    int rc;

    sqlite3_reset(s->chunk);
    sqlite3_bind_int64(s->chunk, 1, place);
    rc = sqlite3_step(s->chunk);
    if (rc == SQLITE_DONE) {
        size = 0;
    } else if (rc == SQLITE_ROW && sqlite3_column_type(s->chunk, 0) == SQLITE_BLOB) {
        const void *content = sqlite3_column_blob(s->chunk, 0);

        size = sqlite3_column_bytes(s->chunk, 0);
        if (!content || size > MAILDROP_CHUNK_SIZE)
            size = -1;
        else
            memcpy(s->content, content, (size_t)size);
    }
    sqlite3_reset(s->chunk);
    return size;
}

/* Get a chunk into s->content. Its octets; 0 when there is none, -1 when it cannot be read. Our own
 * reader goes first: it sees where the chain of a chunk does not end as it should. */
static int64_t read_chunk(struct salvage *s, int64_t id, int64_t number)
{
    const int64_t place = (id << SCHEMA_CHUNK_BITS) + number;
    const struct leaf_chunk *leaf = NULL;

    if (s->n_leaves > 0)
        leaf = bsearch(&place, s->leaves, s->n_leaves, sizeof(*s->leaves), compare_place);
    if (!leaf)
        return ask_chunk(s, place);
    return leaf_read_chunk(s->fd, leaf, s->content) ? (int64_t)leaf->size : -1;
}

/* Octets of content, all chunks read, up to the size that the row says or, if none does (-1), the
 * first chunk that is not full. -1 if one cannot be read. */
static int64_t content_size(struct salvage *s, int64_t id, int64_t said)
{
    int64_t total = 0, size = MAILDROP_CHUNK_SIZE;

    s->digest = DIGEST_START;
    for (int64_t number = 0; size == MAILDROP_CHUNK_SIZE && total != said; number++) {
        size = number >> SCHEMA_CHUNK_BITS ? 0 : read_chunk(s, id, number);
        if (size < 0 && (said >= 0 || number == 0))
            return -1;
        if (size > 0)
            s->digest = digest_octets(s->digest, s->content, (size_t)size);
        total += size > 0 ? size : 0;
    }
    return total;
}

/* What a row says beside what everybody is told. */
struct row {
    int64_t plain_size, form, digest;
    bool digested;
};

/* What the row says; false if it says nothing that can be believed. */
static bool read_row(struct salvage *s, int64_t id, struct maildrop_message *message,
                     struct row *row)
{
    int64_t numbers[7];
    bool sound;

    sqlite3_reset(s->row);
    sqlite3_bind_int64(s->row, 1, id);
    sound = sqlite3_step(s->row) == SQLITE_ROW && handle_column_uidl(s->row, 0, message->uidl);
    for (int i = 0; sound && i < 7; i++)
        sound = handle_column(s->row, i + 1, &numbers[i]);
    row->digested = sound && sqlite3_column_type(s->row, 8) != SQLITE_NULL;
    row->digest = row->digested ? sqlite3_column_int64(s->row, 8) : 0;
    sqlite3_reset(s->row);
    if (!sound || numbers[1] > numbers[0])
        return false;
    message->size = (uint64_t)numbers[0];
    message->header_size = (uint64_t)numbers[1];
    message->received = numbers[2];
    message->retrieved = numbers[3];
    message->deleted = numbers[4];
    row->plain_size = numbers[5];
    row->form = numbers[6];
    return true;
}

/* Whether message and content are those that were stored, as far as that is known. */
static bool is_unaltered(const struct salvage *s, const struct maildrop_message *message,
                         const struct row *row)
{
    const struct digest_row about = {.uidl = message->uidl,
                                     .size = (int64_t)message->size,
                                     .plain_size = row->plain_size,
                                     .form = row->form,
                                     .header_size = (int64_t)message->header_size,
                                     .received = message->received};

    return !row->digested || digest_message(s->digest, &about) == row->digest;
}

/* Without a row nobody says how long the content was: no chunk may be known from further on, and
 * every message ends with a line end. */
static bool is_whole_text(struct salvage *s, int64_t id, int64_t size)
{
    const int64_t last = (id << SCHEMA_CHUNK_BITS) + (size - 1) / MAILDROP_CHUNK_SIZE;
    char end[2] = {0};
    size_t got = 0;

    if (size < (int64_t)sizeof(end))
        return false;
    for (size_t i = 0; i < s->n_leaves; i++) {
        if (s->leaves[i].place > last && s->leaves[i].place >> SCHEMA_CHUNK_BITS == id)
            return false;
    }
    for (int i = 0; i < 2; i++) {
        if (salvage_read(s, id, (uint64_t)(size - 2 + i), end + i, 1, &got) != STORE_OK || got != 1)
            return false;
    }
    return end[0] == '\r' && end[1] == '\n';
}

enum salvage_part salvage_message(struct salvage *salvage, size_t n,
                                  struct maildrop_message *message)
{
    const struct trace *trace = &salvage->traces[n];
    struct row row;
    int64_t size;

    *message = (struct maildrop_message){.id = trace->id};
    if (read_row(salvage, trace->id, message, &row)) {
        size = content_size(salvage, trace->id, (int64_t)message->size);
        return size != (int64_t)message->size         ? SALVAGE_LOST
               : is_unaltered(salvage, message, &row) ? SALVAGE_WHOLE
                                                      : SALVAGE_ALTERED;
    }
    *message = (struct maildrop_message){.id = trace->id};
    if (trace->uidl)
        memcpy(message->uidl, trace->uidl, strlen(trace->uidl) + 1);
    size = content_size(salvage, trace->id, -1);
    if (!is_whole_text(salvage, trace->id, size))
        return SALVAGE_LOST;
    message->size = (uint64_t)size;
    return SALVAGE_REBUILT;
}

enum store_outcome salvage_read(struct salvage *salvage, int64_t id, uint64_t offset, void *buffer,
                                size_t size, size_t *got)
{
    const int64_t length = read_chunk(salvage, id, (int64_t)(offset / MAILDROP_CHUNK_SIZE));
    const size_t start = (size_t)(offset % MAILDROP_CHUNK_SIZE);

    if (length < 0)
        return STORE_DAMAGED;
    *got = (size_t)length > start ? (size_t)length - start : 0;
    if (*got > size)
        *got = size;
    memcpy(buffer, salvage->content + start, *got);
    return STORE_OK;
}

int64_t salvage_setting(struct salvage *salvage, const char *name)
{
    sqlite3_stmt *statement = NULL;
    int64_t value = -1;

    if (sqlite3_prepare_v2(salvage->db, "SELECT value FROM setting WHERE name = ?1", -1, &statement,
                           NULL) == SQLITE_OK) {
        sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
        if (sqlite3_step(statement) != SQLITE_ROW || !handle_column(statement, 0, &value))
            value = -1;
    }
    sqlite3_finalize(statement);
    return value;
}
