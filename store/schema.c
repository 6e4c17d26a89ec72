/*
 * schema.c - what a maildrop's database looks like, and in which mode a connection uses it.
 *
 * Runs in a worker, in poplarctl, and at build time in mktemplate. The database file is not
 * trusted: nothing that it contains may run code (triggers, views, functions in its schema) or
 * make SQLite reach for another file.
 */
#include "store/schema.h"
#include "store/digest.h"
#include <stdlib.h>
#include <string.h>

/* Small rows for messages, content apart. A chunk's place keeps one message's chunks together and
 * in order without a second index. Totals are one row, changed in the transaction of every change;
 * plain is what sessions without UTF8 are told (enum maildrop_form). login is when a session began
 * last, 0 where nobody wants to know. */
static const char create_sql[] =
    "PRAGMA page_size=4096;"
    "PRAGMA auto_vacuum=INCREMENTAL;"
    "PRAGMA journal_mode=WAL;"
    "BEGIN;"
    "PRAGMA application_id=1347375180;"
    "PRAGMA user_version=65536;"
    "CREATE TABLE state("
    " one INTEGER PRIMARY KEY CHECK (one = 1),"
    " messages INTEGER NOT NULL CHECK (messages >= 0),"
    " octets INTEGER NOT NULL CHECK (octets >= 0),"
    " plain_octets INTEGER NOT NULL CHECK (plain_octets >= 0),"
    " last_id INTEGER NOT NULL CHECK (last_id >= messages),"
    " login INTEGER NOT NULL,"
    " guard INTEGER NOT NULL);"
    "CREATE TABLE message("
    " id INTEGER PRIMARY KEY,"
    " uidl TEXT NOT NULL UNIQUE CHECK (length(uidl) BETWEEN 1 AND 70),"
    " size INTEGER NOT NULL CHECK (size >= 0),"
    " plain_size INTEGER NOT NULL CHECK (plain_size >= 0),"
    " form INTEGER NOT NULL CHECK (form BETWEEN 0 AND 2),"
    " header_size INTEGER NOT NULL CHECK (header_size BETWEEN 0 AND size),"
    " received INTEGER NOT NULL,"
    " retrieved INTEGER,"
    " deleted INTEGER);"
    "CREATE INDEX message_deleted ON message(deleted) WHERE deleted IS NOT NULL;"
    "CREATE INDEX message_received ON message(received) WHERE deleted IS NULL;"
    "CREATE TABLE chunk("
    " place INTEGER PRIMARY KEY,"
    " content BLOB NOT NULL);";

/* What each minor version added to the one before; the first of them is made by create_sql. Later
 * versions only add: an older program serves them as they are.
 *
 * 1: setting, what an administrator set for this maildrop alone; imported, digests by which
 *    messages that moved in are known when they come again, also after they were deleted. kept
 *    says whether the message came with the UIDL of its old server.
 * 2: digest of a message (store/digest.h), for check and salvage; none for messages that were there
 *    before. In the row, so that a delivery writes no page more.
 * 3: listing, messages packed for listings (store/listing.h). A program that does not keep it
 *    changes the totals as well; then the groups are not believed, and made anew by the next
 *    session that changes anything. */
static const char *const minor_sql[] = {
    [1] = "CREATE TABLE setting("
          " name TEXT PRIMARY KEY,"
          " value INTEGER NOT NULL CHECK (value >= 0)) WITHOUT ROWID;"
          "CREATE TABLE imported("
          " key BLOB PRIMARY KEY CHECK (length(key) = 16),"
          " kept INTEGER NOT NULL) WITHOUT ROWID;"
          "PRAGMA user_version=65537;",
    [2] = "ALTER TABLE message ADD COLUMN digest INTEGER;"
          "PRAGMA user_version=65538;",
    [3] = "CREATE TABLE listing("
          " first INTEGER PRIMARY KEY,"
          " entries BLOB NOT NULL);"
          "PRAGMA user_version=65539;",
};

_Static_assert(SCHEMA_APPLICATION_ID == 1347375180, "the SQL above says the same");
_Static_assert((SCHEMA_MAJOR << 16 | SCHEMA_MINOR) == 65539, "the SQL above says the same");
_Static_assert(sizeof(minor_sql) / sizeof(minor_sql[0]) == SCHEMA_MINOR + 1, "a step for each");

int64_t schema_guard(const struct maildrop_totals *totals)
{
    const uint64_t parts[] = {totals->messages, totals->octets, totals->plain_octets,
                              (uint64_t)totals->last_id};
    uint64_t guard = DIGEST_START;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        guard = digest_number(guard, parts[i]);
    return (int64_t)guard;
}

int schema_create(sqlite3 *db)
{
    const struct maildrop_totals none = {0};
    char *insert = NULL;
    int rc = sqlite3_exec(db, create_sql, NULL, NULL, NULL);

    if (rc != SQLITE_OK)
        return rc;
    insert = sqlite3_mprintf("INSERT INTO state VALUES (1, 0, 0, 0, 0, 0, %lld);COMMIT;",
                             (long long)schema_guard(&none));
    if (!insert)
        return SQLITE_NOMEM;
    rc = sqlite3_exec(db, insert, NULL, NULL, NULL);
    sqlite3_free(insert);
    return rc == SQLITE_OK ? schema_upgrade(db, 0) : rc;
}

int schema_upgrade(sqlite3 *db, int minor)
{
    int rc = SQLITE_OK;

    while (rc == SQLITE_OK && minor < SCHEMA_MINOR)
        rc = sqlite3_exec(db, minor_sql[++minor], NULL, NULL, NULL);
    return rc;
}

/* Switches of a connection that need no file. */
static const struct {
    int option, value;
} switches[] = {
    {SQLITE_DBCONFIG_DEFENSIVE, 1},      /* no writing to the schema or shadow tables */
    {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0}, /* functions in the schema: only harmless ones */
    {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, /* we have none: whoever put one there is hostile */
    {SQLITE_DBCONFIG_ENABLE_VIEW, 0},    /* the same */
    {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
    {SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0},
    {SQLITE_DBCONFIG_DQS_DML, 0},
    {SQLITE_DBCONFIG_DQS_DDL, 0},
    {SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1}, /* closing must not write without the write lock */
};

static const struct {
    int limit, value;
} limits[] = {
    {SQLITE_LIMIT_ATTACHED, 0},
    {SQLITE_LIMIT_LENGTH, 4 * MAILDROP_CHUNK_SIZE}, /* no value is larger than a chunk */
    {SQLITE_LIMIT_SQL_LENGTH, 4096},
    {SQLITE_LIMIT_COLUMN, 16},
    {SQLITE_LIMIT_EXPR_DEPTH, 20},
    {SQLITE_LIMIT_COMPOUND_SELECT, 2},
    {SQLITE_LIMIT_VARIABLE_NUMBER, 16},
    {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
    {SQLITE_LIMIT_WORKER_THREADS, 0},
};

/* Pragmas: what is run, what then reads it back (NULL: the first answers itself), the answer. */
struct setting {
    const char *set, *get, *answer;
};

static const struct setting settings[] = {
    {"PRAGMA cell_size_check=ON", "PRAGMA cell_size_check", "1"},
    {"PRAGMA temp_store=MEMORY", "PRAGMA temp_store", "2"},
    {"PRAGMA mmap_size=0", NULL, "0"},
};

/* These look at the file first, or make no sense for one that is only read. */
static const struct setting file_settings[] = {
    {"PRAGMA locking_mode=NORMAL", NULL, "normal"},
    {"PRAGMA synchronous=FULL", "PRAGMA synchronous", "2"},
    {"PRAGMA wal_autocheckpoint=0", NULL, "0"},
    {"PRAGMA journal_size_limit=1048576", NULL, "1048576"},
    {"PRAGMA secure_delete=ON", NULL, "1"},
    {"PRAGMA cache_size=-256", "PRAGMA cache_size", "-256"},
};

/* Run one statement and keep what its first row says; "" when there is none. */
static int ask(sqlite3 *db, const char *sql, char *answer, size_t size)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);

    answer[0] = '\0';
    if (rc == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(statement, 0);
        if (text && strlen(text) < size)
            memcpy(answer, text, strlen(text) + 1);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_finalize(statement);
    return rc;
}

static enum store_outcome apply(sqlite3 *db, const struct setting *list, size_t n, int *rc)
{
    char answer[24];

    for (size_t i = 0; i < n; i++) {
        *rc = ask(db, list[i].set, answer, sizeof(answer));
        if (*rc == SQLITE_OK && list[i].get)
            *rc = ask(db, list[i].get, answer, sizeof(answer));
        if (*rc != SQLITE_OK)
            return STORE_IO;
        if (strcmp(answer, list[i].answer) != 0)
            return STORE_REFUSED;
    }
    return STORE_OK;
}

enum store_outcome schema_harden(sqlite3 *db)
{
    int persistent = 1, answer = 0, rc;

    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        sqlite3_limit(db, limits[i].limit, limits[i].value);
        if (sqlite3_limit(db, limits[i].limit, -1) != limits[i].value)
            return STORE_REFUSED;
    }
    for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++) {
        rc = sqlite3_db_config(db, switches[i].option, switches[i].value, &answer);
        if (rc != SQLITE_OK || answer != switches[i].value)
            return STORE_REFUSED;
    }
    /* The last to close must leave -wal and -shm: another grant of them may be on its way. */
    rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &persistent);
    persistent = -1;
    if (rc == SQLITE_OK)
        rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &persistent);
    if (rc != SQLITE_OK || persistent != 1)
        return STORE_REFUSED;
    return apply(db, settings, sizeof(settings) / sizeof(settings[0]), &rc);
}

enum store_outcome schema_settle(sqlite3 *db, int *rc)
{
    return apply(db, file_settings, sizeof(file_settings) / sizeof(file_settings[0]), rc);
}

enum store_outcome schema_check(sqlite3 *db, int *rc)
{
    char mode[24];
    enum store_outcome outcome;

    if ((outcome = schema_settle(db, rc)) != STORE_OK)
        return outcome;
    if ((*rc = ask(db, "PRAGMA journal_mode", mode, sizeof(mode))) != SQLITE_OK)
        return STORE_IO;
    return strcmp(mode, "wal") == 0 ? schema_identify(db, rc) : STORE_DAMAGED;
}

enum store_outcome schema_identity(int64_t application_id, int64_t version)
{
    if (application_id != SCHEMA_APPLICATION_ID)
        return STORE_DAMAGED;
    if (version >> 16 > SCHEMA_MAJOR)
        return STORE_NEWER;
    return version >> 16 == SCHEMA_MAJOR ? STORE_OK : STORE_DAMAGED;
}

enum store_outcome schema_identify(sqlite3 *db, int *rc)
{
    char identity[24], version[24];

    if ((*rc = ask(db, "PRAGMA application_id", identity, sizeof(identity))) != SQLITE_OK ||
        (*rc = ask(db, "PRAGMA user_version", version, sizeof(version))) != SQLITE_OK)
        return STORE_IO;
    return schema_identity(atol(identity), atol(version));
}

int schema_minor(sqlite3 *db, int *minor)
{
    char version[24];
    const int rc = ask(db, "PRAGMA user_version", version, sizeof(version));

    if (rc == SQLITE_OK)
        *minor = (int)(atol(version) & 0xffff);
    return rc;
}
