/*
 * check.c - whether a maildrop is sound: SQLite's own check, then what the store promises.
 *
 * Runs in poplarctl only, over a file that may be damaged in any way. It must never change it, and
 * never call sound what a session would refuse.
 */
#include "store/check.h"
#include "store/digest.h"
#include "store/handle.h"
#include "store/listing.h"
#include "store/schema.h"
#include "store/wire.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBLEMS_MAX = 100 }; /* that SQLite's own check may find before it gives up */

/* One check under way. */
struct check {
    struct maildrop *m;
    check_report *report;
    void *context;
    enum store_outcome outcome;
    bool ended; /* `report` wants no more, or there is none to be had */
    uint64_t octets;
    struct maildrop_totals seen;   /* of messages that are not deleted; last_id of all */
    struct maildrop_totals listed; /* as the maildrop says them */
    bool listed_all;               /* and that was held against the groups */
    int64_t message, chunk, group; /* keys of the rows that were met last */
    char scratch[2 * MAILDROP_CHUNK_SIZE];
};

static void found(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void found(struct check *c, const char *format, ...)
{
    char damage[300];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(damage, sizeof(damage), format, arguments);
    va_end(arguments);
    /* Of a disk that cannot be read, everything looks like damage. */
    if (!c->ended && handle_outcome(c->m, SQLITE_CORRUPT) == STORE_IO) {
        c->outcome = STORE_IO;
        c->ended = true;
    }
    if (!c->ended)
        c->ended = !c->report(c->context, damage, c->octets);
}

static void progress(struct check *c, uint64_t octets)
{
    c->octets += octets;
    if (!c->ended)
        c->ended = !c->report(c->context, NULL, c->octets);
}

/* A statement; a failure is a damage as well, and ends this part of the check only. */
static sqlite3_stmt *prepare(struct check *c, const char *sql, const char *what)
{
    sqlite3_stmt *statement = NULL;

    if (sqlite3_prepare_v2(c->m->db, sql, -1, &statement, NULL) == SQLITE_OK)
        return statement;
    found(c, "%s: %s", what, sqlite3_errmsg(c->m->db));
    return NULL;
}

/* Whether there is a row; a failure is reported. */
static bool step(struct check *c, sqlite3_stmt *statement, const char *what)
{
    const int rc = sqlite3_step(statement);

    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        found(c, "%s: %s", what, sqlite3_errmsg(c->m->db));
    return rc == SQLITE_ROW;
}

/* The next row of a walk from key to key. A tree that has a page in two places shows its rows
 * again, and where somebody made it so there is no end to them. */
static bool step_up(struct check *c, sqlite3_stmt *statement, const char *what, int64_t *key)
{
    const int64_t before = *key;

    if (!step(c, statement, what))
        return false;
    *key = sqlite3_column_int64(statement, 0);
    if (*key <= before)
        found(c, "%s: key %lld follows %lld; the rest was not looked at", what, (long long)*key,
              (long long)before);
    return *key > before;
}

/* One answer of SQLite's, which may be of several lines: "ok", a headline, findings. */
static void found_lines(struct check *c, const char *text)
{
    while (text && *text) {
        const size_t length = strcspn(text, "\n");

        if (strcmp(text, "ok") != 0 && strncmp(text, "*** in database", 15) != 0)
            found(c, "SQLite: %.*s", (int)length, text);
        text += length;
        text += *text == '\n';
    }
}

/* Pages, trees, indexes, constraints: SQLite knows best. */
static void check_integrity(struct check *c)
{
    char sql[48];
    sqlite3_stmt *statement;

    snprintf(sql, sizeof(sql), "PRAGMA integrity_check(%d)", PROBLEMS_MAX);
    if (!(statement = prepare(c, sql, "integrity")))
        return;
    while (!c->ended && step(c, statement, "integrity"))
        found_lines(c, (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
}

/* What the schema must consist of. Whatever else is there was put there by somebody. */
static const char *const tables[] = {"state", "message", "chunk", "setting", "imported", "listing"};
static const size_t tables_of_minor[] = {3, 5, 5, 6};
static const char *const indexes[] = {"message_deleted", "message_received"};

static bool is_listed(const char *const *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i], name) == 0)
            return true;
    }
    return false;
}

static void check_schema(struct check *c)
{
    const size_t n_tables = sizeof(tables) / sizeof(tables[0]);
    const int minor = c->m->minor < SCHEMA_MINOR ? c->m->minor : SCHEMA_MINOR;
    const size_t n_indexes = sizeof(indexes) / sizeof(indexes[0]);
    sqlite3_stmt *statement = prepare(c, "SELECT type, name FROM sqlite_schema", "schema");
    size_t tables_seen = 0, indexes_seen = 0;

    while (statement && !c->ended && step(c, statement, "schema")) {
        const char *type = (const char *)sqlite3_column_text(statement, 0);
        const char *name = (const char *)sqlite3_column_text(statement, 1);

        if (!type || !name)
            found(c, "schema: an entry without a name");
        else if (strcmp(type, "table") == 0 && is_listed(tables, n_tables, name))
            tables_seen++;
        else if (strcmp(type, "index") == 0 && is_listed(indexes, n_indexes, name))
            indexes_seen++;
        else if (strncmp(name, "sqlite_", 7) != 0 && c->m->minor <= SCHEMA_MINOR)
            found(c, "schema: holds a %s %s that is not Poplar's", type, name);
    }
    sqlite3_finalize(statement);
    if (!statement || c->ended)
        return;
    if (tables_seen < tables_of_minor[minor])
        found(c, "schema: a table is missing");
    if (indexes_seen < n_indexes)
        found(c, "schema: an index is missing");
}

/* One message's row, as far as it can be believed. */
struct row {
    int64_t id, size, plain_size, form, header_size, received, digest;
    bool deleted, sound;
    bool digested; /* the digest is known: the message is younger than that */
    char uidl[MAILDROP_UIDL_MAX + 1];
};

static void take_row(struct check *c, sqlite3_stmt *statement, struct row *row)
{
    *row = (struct row){.id = sqlite3_column_int64(statement, 0)};
    row->deleted = sqlite3_column_type(statement, 6) != SQLITE_NULL;
    row->sound =
        handle_column(statement, 1, &row->size) && handle_column(statement, 2, &row->plain_size) &&
        handle_column(statement, 3, &row->form) && handle_column(statement, 4, &row->header_size) &&
        row->header_size <= row->size && row->form <= MAILDROP_UTF8_ONLY;
    if (!row->sound)
        found(c, "message %lld: its sizes are none", (long long)row->id);
    if (row->id <= 0)
        found(c, "message %lld: an id is above 0", (long long)row->id);
    row->digested = sqlite3_column_type(statement, 8) != SQLITE_NULL;
    row->digest = sqlite3_column_int64(statement, 8);
    if (!handle_column_uidl(statement, 5, row->uidl)) {
        found(c, "message %lld: its UIDL is none", (long long)row->id);
        row->digested = false;
    }
    if (!handle_column(statement, 7, &row->received)) {
        found(c, "message %lld: its time of receipt is none", (long long)row->id);
        row->digested = false;
    }
    if (row->sound && row->form == MAILDROP_AS_IS && row->plain_size != row->size)
        found(c, "message %lld: two sizes for one form", (long long)row->id);
    if (row->id > c->seen.last_id)
        c->seen.last_id = row->id;
    if (row->deleted || !row->sound)
        return;
    c->seen.messages++;
    c->seen.octets += (uint64_t)row->size;
    c->seen.plain_octets += (uint64_t)row->plain_size;
}

/* Line ends are as the store keeps them where converting adds nothing. */
static bool is_wire_text(struct check *c, struct wire *wire, const void *text, size_t size)
{
    size_t used = 0;

    return wire_convert(wire, text, size, c->scratch, sizeof(c->scratch), &used) == size;
}

/* The chunk that the walk stands on: whether it is the one that is due, and as long as it must be.
 */
static bool check_chunk(struct check *c, const struct row *row, sqlite3_stmt *chunks, bool more,
                        int64_t number, int64_t length)
{
    if (!more || sqlite3_column_int64(chunks, 0) != (row->id << SCHEMA_CHUNK_BITS) + number) {
        found(c, "message %lld: chunk %lld is missing", (long long)row->id, (long long)number);
        return false;
    }
    if (sqlite3_column_type(chunks, 1) != SQLITE_BLOB ||
        sqlite3_column_bytes(chunks, 1) != length) {
        found(c, "message %lld: chunk %lld has the wrong length", (long long)row->id,
              (long long)number);
        return false;
    }
    return true;
}

static void check_digest(struct check *c, const struct row *row, uint64_t content)
{
    const struct digest_row about = {.uidl = row->uidl,
                                     .size = row->size,
                                     .plain_size = row->plain_size,
                                     .form = row->form,
                                     .header_size = row->header_size,
                                     .received = row->received};

    if (row->digested && digest_message(content, &about) != row->digest)
        found(c, "message %lld: not what was stored: its text or its row has changed",
              (long long)row->id);
}

/* A message's chunks, from the statement that walks all of them in order; `more` says whether it
 * stands on one. False if any is not right. */
static bool check_chunks(struct check *c, const struct row *row, sqlite3_stmt *chunks, bool *more)
{
    uint64_t digest = DIGEST_START;
    struct wire wire = {0};
    bool bare = false;

    for (int64_t left = row->size, number = 0; left > 0; number++) {
        const int64_t length = left < MAILDROP_CHUNK_SIZE ? left : MAILDROP_CHUNK_SIZE;

        if (!check_chunk(c, row, chunks, *more, number, length))
            return false;
        bare |= !is_wire_text(c, &wire, sqlite3_column_blob(chunks, 1), (size_t)length);
        digest = digest_octets(digest, sqlite3_column_blob(chunks, 1), (size_t)length);
        left -= length;
        progress(c, (uint64_t)length);
        *more = !c->ended && step_up(c, chunks, "content", &c->chunk);
    }
    if (bare || wire_unfinished(&wire))
        found(c, "message %lld: a line does not end in CRLF", (long long)row->id);
    else if ((int64_t)wire_header(&wire) != row->header_size)
        found(c, "message %lld: its header has %llu octets, its row says %lld", (long long)row->id,
              (unsigned long long)wire_header(&wire), (long long)row->header_size);
    check_digest(c, row, digest);
    return true;
}

/* Chunks below a place that belong to nobody. */
static void check_orphans(struct check *c, sqlite3_stmt *chunks, bool *more, int64_t below)
{
    int64_t said = -1;

    while (*more && !c->ended && sqlite3_column_int64(chunks, 0) < below) {
        const int64_t id = sqlite3_column_int64(chunks, 0) >> SCHEMA_CHUNK_BITS;

        if (id != said)
            found(c, "content without a message: a chunk of message %lld", (long long)id);
        said = id;
        *more = step_up(c, chunks, "content", &c->chunk);
    }
}

/* What a session without UTF8 was told of a message must be what it will get. */
static void check_surrogate(struct check *c, const struct row *row)
{
    char *header = NULL;
    size_t size;
    uint64_t body;

    if (row->form != MAILDROP_SURROGATE)
        return;
    if (maildrop_surrogate(c->m, row->id, &header, &size, &body) != STORE_OK)
        found(c, "message %lld: its form for old clients has another size", (long long)row->id);
    free(header);
}

/* Messages and chunks side by side: both are in the order of their ids. */
static void check_messages(struct check *c)
{
    sqlite3_stmt *rows =
        prepare(c,
                c->m->minor >= 2 ? "SELECT id, size, plain_size, form, header_size, uidl, deleted,"
                                   " received, digest FROM message ORDER BY id"
                                 : "SELECT id, size, plain_size, form, header_size, uidl, deleted,"
                                   " received, NULL FROM message ORDER BY id",
                "messages");
    sqlite3_stmt *chunks = prepare(c, "SELECT place, content FROM chunk ORDER BY place", "content");
    bool more = chunks && step_up(c, chunks, "content", &c->chunk);

    while (rows && chunks && !c->ended && step_up(c, rows, "messages", &c->message)) {
        struct row row;

        take_row(c, rows, &row);
        if (row.id <= 0 || row.id >> (63 - SCHEMA_CHUNK_BITS) > 0)
            continue;
        check_orphans(c, chunks, &more, row.id << SCHEMA_CHUNK_BITS);
        if (row.sound && check_chunks(c, &row, chunks, &more)) {
            check_surrogate(c, &row);
            if (more && !c->ended && sqlite3_column_int64(chunks, 0) >> SCHEMA_CHUNK_BITS == row.id)
                found(c, "message %lld: more chunks than its size has", (long long)row.id);
        }
        while (more && !c->ended && sqlite3_column_int64(chunks, 0) >> SCHEMA_CHUNK_BITS == row.id)
            more = step_up(c, chunks, "content", &c->chunk);
    }
    if (rows && chunks)
        check_orphans(c, chunks, &more, INT64_MAX);
    sqlite3_finalize(rows);
    sqlite3_finalize(chunks);
}

/* Whether sessions ask the rows themselves, since an older program wrote: until groups are made
 * anew, those that are left behind do no harm. All of them tell, so it is asked only if one is. */
static bool groups_are_astray(struct check *c)
{
    struct maildrop_snapshot *snapshot = NULL;

    if (!c->listed_all) /* what fails here was said already */
        maildrop_snapshot(c->m, &c->listed, &snapshot);
    c->listed_all = true;
    maildrop_snapshot_free(snapshot);
    return c->m->groups_astray;
}

/* A group says what the rows say. */
static void check_group(struct check *c, int64_t first, const void *group, size_t size)
{
    static unsigned char made[LISTING_GROUP_MAX];
    size_t made_size = 0, entries_size = size;
    enum store_outcome outcome;

    if (first < 0 || first % LISTING_SPAN != 0 || first + LISTING_SPAN - 1 > c->listed.last_id) {
        found(c, "listing: no group begins with message %lld", (long long)first);
        return;
    }
    outcome = listing_make(c->m, first, made, &made_size);
    if (outcome != STORE_OK && outcome != STORE_END)
        found(c, "listing: %s", maildrop_error(c->m));
    else if ((outcome == STORE_END || size != made_size || !group ||
              memcmp(group, made, size) != 0) &&
             !(group && listing_sound(first, group, &entries_size) && groups_are_astray(c)))
        found(c, "listing: the group of message %lld is not what its messages say",
              (long long)first);
}

static void check_listing(struct check *c)
{
    sqlite3_stmt *groups;

    if (c->m->minor < 3 || handle_state(c->m, &c->listed) != STORE_OK) /* which was said already */
        return;
    groups = prepare(c, "SELECT first, entries FROM listing ORDER BY first", "listing");
    while (groups && !c->ended && step_up(c, groups, "listing", &c->group))
        check_group(c, sqlite3_column_int64(groups, 0), sqlite3_column_blob(groups, 1),
                    (size_t)sqlite3_column_bytes(groups, 1));
    sqlite3_finalize(groups);
}

static void check_totals(struct check *c)
{
    struct maildrop_totals totals;

    if (handle_state(c->m, &totals) != STORE_OK) {
        found(c, "totals: %s", maildrop_error(c->m));
        return;
    }
    if (totals.messages != c->seen.messages || totals.octets != c->seen.octets)
        found(c, "totals: messages %llu, octets %llu; counted: %llu, %llu",
              (unsigned long long)totals.messages, (unsigned long long)totals.octets,
              (unsigned long long)c->seen.messages, (unsigned long long)c->seen.octets);
    else if (totals.plain_octets != c->seen.plain_octets)
        found(c, "totals: octets for old clients %llu; counted: %llu",
              (unsigned long long)totals.plain_octets, (unsigned long long)c->seen.plain_octets);
    if (c->seen.last_id > totals.last_id)
        found(c, "totals: message %lld is above the last id %lld", (long long)c->seen.last_id,
              (long long)totals.last_id);
}

enum store_outcome check_run(struct maildrop *maildrop, check_report *report, void *context)
{
    struct check *c = calloc(1, sizeof(*c));
    enum store_outcome outcome;

    if (!c)
        return handle_fail(maildrop, STORE_MEMORY, "no memory for a check");
    c->m = maildrop;
    c->report = report;
    c->context = context;
    c->message = c->chunk = c->group = INT64_MIN;
    handle_begin_call(maildrop);
    if ((outcome = handle_run(maildrop, STATEMENT_BEGIN_READ)) != STORE_OK)
        goto out;
    check_integrity(c);
    if (!c->ended)
        check_schema(c);
    if (!c->ended)
        check_messages(c);
    if (!c->ended)
        check_totals(c);
    if (!c->ended)
        check_listing(c);
    outcome = c->outcome;
out:
    if (!sqlite3_get_autocommit(maildrop->db))
        sqlite3_exec(maildrop->db, "ROLLBACK", NULL, NULL, NULL);
    free(c);
    return outcome;
}
