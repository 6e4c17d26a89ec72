/*
 * warm.c - a connection made ready before there is a maildrop to connect to.
 *
 * Runs in the nursery, before it is confined, and in a worker. Most of what opening a maildrop
 * costs is the same for all of them: some thirty settings, the schema's SQL, our statements. The
 * nursery does that, once for sessions and once for deliveries, on a stand-in: an empty maildrop in
 * memory, not in WAL mode, so that SQLite opens neither -wal nor -shm. The worker's grant then
 * comes under the stand-in's descriptor number, and to SQLite it looks as if another process had
 * changed the file: it throws its page cache away, finds WAL mode, and goes on with the schema it
 * knows if the schema's version is the same.
 *
 * Two things that SQLite does not look at are made sure of here: that the cache is thrown away
 * (the stand-in has a change counter that no maildrop has), and that the schema is the same (a
 * version may be equal by chance). The stand-in's inode is what SQLite's locks are filed under: one
 * file at a time in a process, so that is a name and nothing more.
 */
#include "store/warm.h"
#include "store/connection.h"
#include "store/digest.h"
#include "store/schema.h"
#include "store/vfs.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* The database header, sqlite.org/fileformat.html 1.3: two versions, of who writes and who reads.
 */
enum { VERSIONS = 18, CHANGE_COUNTER = 24, VERSION_ROLLBACK = 1 };

/* One for each number that a grant's database can have. */
static struct {
    struct maildrop *maildrop;
    int number;
} ready[MAILDROP_USES];

/* What a maildrop is asked when it is opened. */
static const enum statement opening[] = {
    STATEMENT_STATE,
    STATEMENT_APPLICATION,
    STATEMENT_VERSION,
    STATEMENT_SCHEMA,
};

/* What sessions need between login and QUIT. */
static const enum statement for_sessions[] = {
    STATEMENT_SETTING, STATEMENT_BEGIN_READ,  STATEMENT_ROLLBACK,
    STATEMENT_GROUPS,  STATEMENT_SNAPSHOT,    STATEMENT_HEADER,
    STATEMENT_CONTENT, STATEMENT_BEGIN_WRITE, STATEMENT_COMMIT,
};

static const enum statement for_deliveries[] = {
    STATEMENT_BEGIN_WRITE, STATEMENT_COMMIT,    STATEMENT_HAS_UIDL,    STATEMENT_SETTING,
    STATEMENT_ADD_CHUNK,   STATEMENT_SET_STATE, STATEMENT_ADD_MESSAGE,
};

/* A digest of all that statements depend on. A hostile file may have any schema it likes and lie
 * about it: it is read as one of ours then, as any damaged file is. */
static enum store_outcome digest_schema(struct maildrop *m, uint64_t *digest)
{
    sqlite3_stmt *statement = m->statements[STATEMENT_SCHEMA]; /* prepared by make_ready() */
    uint64_t found = DIGEST_START;
    enum store_outcome outcome;

    while ((outcome = handle_step(m, statement)) == STORE_OK) {
        found = digest_number(found, (uint64_t)sqlite3_column_int64(statement, 0));
        for (int column = 1; column <= 2; column++) {
            const void *text = sqlite3_column_text(statement, column);

            found = digest_octets(found, text ? text : "",
                                  (size_t)sqlite3_column_bytes(statement, column));
        }
    }
    *digest = found;
    return outcome == STORE_END ? STORE_OK : outcome;
}

/* Copy the empty maildrop into a file in memory, as the stand-in, under the number. */
static bool place_stand_in(const unsigned char *octets, size_t size, int number)
{
    static const unsigned char counter[] = {0xff, 0xff, 0xff, 0xff};
    static const unsigned char rollback[] = {VERSION_ROLLBACK, VERSION_ROLLBACK};
    int fd;
    bool placed;

    if (fcntl(number, F_GETFD) >= 0) /* somebody else's */
        return false;
    fd = memfd_create("maildrop", MFD_CLOEXEC);
    placed = fd >= 0 && write(fd, octets, size) == (ssize_t)size &&
             pwrite(fd, rollback, sizeof(rollback), VERSIONS) == (ssize_t)sizeof(rollback) &&
             pwrite(fd, counter, sizeof(counter), CHANGE_COUNTER) == (ssize_t)sizeof(counter) &&
             (fd == number || dup3(fd, number, O_CLOEXEC) == number);
    if (fd >= 0 && fd != number)
        close(fd);
    return placed;
}

static enum store_outcome prepare(struct maildrop *m, const enum statement *list, size_t n)
{
    enum store_outcome outcome = STORE_OK;

    for (size_t i = 0; outcome == STORE_OK && i < n; i++) {
        sqlite3_stmt *statement;

        outcome = handle_prepare(m, list[i], &statement);
    }
    return outcome;
}

static enum store_outcome make_ready(struct maildrop *m, enum maildrop_use use)
{
    static const struct {
        const enum statement *list;
        size_t n;
    } wanted[] = {
        [MAILDROP_SESSIONS] = {for_sessions, sizeof(for_sessions) / sizeof(for_sessions[0])},
        [MAILDROP_DELIVERIES] = {for_deliveries,
                                 sizeof(for_deliveries) / sizeof(for_deliveries[0])},
    };
    struct maildrop_totals totals;
    enum store_outcome outcome = connection_open(m);
    int rc = SQLITE_OK;

    if (outcome == STORE_OK)
        outcome = schema_settle(m->db, &rc);
    if (outcome == STORE_OK)
        outcome = prepare(m, opening, sizeof(opening) / sizeof(opening[0]));
    if (outcome == STORE_OK)
        outcome = prepare(m, wanted[use].list, wanted[use].n);
    if (outcome == STORE_OK)
        outcome = handle_state(m, &totals);
    if (outcome == STORE_OK)
        outcome = digest_schema(m, &m->schema);
    if (outcome != STORE_OK)
        return outcome;
    connection_watch_wal(m);
    sqlite3_db_release_memory(m->db);
    return STORE_OK;
}

enum store_outcome maildrop_library_warm(const unsigned char *octets, size_t size,
                                         enum maildrop_use use, int database_fd)
{
    struct maildrop *m = NULL;
    enum store_outcome outcome;

    if (size <= CHANGE_COUNTER || !place_stand_in(octets, size, database_fd))
        return STORE_IO;
    if ((outcome = vfs_expect(database_fd)) != STORE_OK)
        return outcome; /* which keeps the descriptor */
    m = calloc(1, sizeof(*m));
    if (!m) {
        vfs_revoke();
        return STORE_MEMORY;
    }
    m->lock_fd = -1;
    m->patience_ms = HANDLE_PATIENCE_MS;
    handle_begin_call(m);
    if ((outcome = make_ready(m, use)) != STORE_OK) {
        maildrop_close(m);
        return outcome;
    }
    if (use != MAILDROP_SESSIONS) /* else for maildrop_library_rehearse() */
        close(database_fd);
    ready[use].maildrop = m;
    ready[use].number = database_fd;
    return STORE_OK;
}

/* The pages that these write to are the process's own from then on, and those of the text are
 * mapped: to be given them takes a sixth of the time of a login otherwise. */
void maildrop_library_rehearse(void)
{
    static const enum statement asked[] = {STATEMENT_VERSION, STATEMENT_SCHEMA,
                                           STATEMENT_APPLICATION, STATEMENT_STATE,
                                           STATEMENT_SETTING};
    const size_t n = sizeof(asked) / sizeof(asked[0]);
    const struct maildrop *m = ready[MAILDROP_SESSIONS].maildrop;

    if (!m)
        return;
    for (size_t i = 0; i < n; i++)
        sqlite3_step(m->statements[asked[i]]);
    for (size_t i = 0; i < n; i++)
        sqlite3_reset(m->statements[asked[i]]);
    sqlite3_db_release_memory(m->db);
    close(ready[MAILDROP_SESSIONS].number);
}

/* The others are left alone for good: to close them would be to use them. */
struct maildrop *warm_take(const int files[MAILDROP_FILES])
{
    struct maildrop *m = NULL;

    for (size_t i = 0; i < MAILDROP_USES; i++) {
        if (ready[i].number == files[MAILDROP_DB])
            m = ready[i].maildrop;
        ready[i].maildrop = NULL;
    }
    vfs_fulfil(files, m != NULL);
    return m;
}

/* The number that a statement's row is; the row stays. */
static enum store_outcome ask(struct maildrop *m, enum statement which, int64_t *number)
{
    sqlite3_stmt *statement = m->statements[which]; /* prepared by make_ready() */
    const enum store_outcome outcome = handle_step(m, statement);

    if (outcome == STORE_OK)
        *number = sqlite3_column_int64(statement, 0);
    return outcome;
}

/* What PRAGMA journal_mode would say: while a read transaction is open, SQLite has either the WAL
 * open, or no journal at all. */
static bool is_in_wal_mode(const struct maildrop *m)
{
    sqlite3_file *journal = NULL;

    sqlite3_file_control(m->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &journal);
    return journal && journal->pMethods;
}

/* All that a cold open asks, in one transaction, so that the locks are taken once: it lasts until
 * the row of the version is let go. After any other outcome than STORE_OK the connection is closed
 * next, and what SQLite said is still wanted. */
enum store_outcome warm_check(struct maildrop *m)
{
    int64_t application_id = 0, version = 0;
    struct maildrop_totals totals;
    uint64_t schema = 0;
    enum store_outcome outcome;

    if ((outcome = ask(m, STATEMENT_VERSION, &version)) != STORE_OK)
        return outcome;
    /* The schema first: what is asked next may be answered from an index that is another's. */
    if ((outcome = digest_schema(m, &schema)) != STORE_OK)
        return outcome;
    if (schema != m->schema)
        return STORE_REFUSED;
    if ((outcome = ask(m, STATEMENT_APPLICATION, &application_id)) != STORE_OK)
        return outcome;
    outcome = is_in_wal_mode(m) ? schema_identity(application_id, version) : STORE_DAMAGED;
    m->minor = (int)(version & 0xffff);
    if (outcome != STORE_OK)
        return handle_fail(m, outcome,
                           outcome == STORE_NEWER
                               ? "mail.db was written by a newer version of Poplar"
                               : "mail.db is not a maildrop");
    if ((outcome = handle_state(m, &totals)) != STORE_OK)
        return outcome;
    sqlite3_reset(m->statements[STATEMENT_APPLICATION]);
    sqlite3_reset(m->statements[STATEMENT_VERSION]);
    return STORE_OK;
}
