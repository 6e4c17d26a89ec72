/*
 * connection.c - SQLite's connection to the granted database: made in the mode that the store
 * relies on, and ended.
 *
 * Runs in a worker (sandboxed, no privilege), in the nursery and in poplarctl. Opens nothing but
 * the grant.
 */
#include "store/connection.h"
#include "store/lock.h"
#include "store/schema.h"
#include "store/vfs.h"
#include "store/walindex.h"
#include <stdio.h>
#include <string.h>

/* SQLite's busy handler: sleeps in growing steps until the call's deadline. */
static int wait_for_others(void *context, int count)
{
    const struct maildrop *m = context;

    if (lock_clock() >= m->deadline)
        return 0;
    lock_sleep(count < 5 ? 1u << count : 25u);
    return 1;
}

/* The next who opens need not read the WAL, of which all was synced just now. */
static void vouch(sqlite3 *db, uint32_t frames)
{
    sqlite3_file *file = NULL;
    void volatile *index = NULL;

    if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK &&
        file->pMethods->xShmMap(file, 0, WALINDEX_REGION, 0, &index) == SQLITE_OK && index)
        walindex_vouch((void *)index, frames);
}

static int note_wal_frames(void *context, sqlite3 *db, const char *name, int frames)
{
    struct maildrop *m = context;

    (void)db;
    (void)name;
    m->wal_frames = frames;
    vouch(db, (uint32_t)frames);
    return SQLITE_OK;
}

enum store_outcome connection_open(struct maildrop *m)
{
    const char *name = maildrop_file_names[MAILDROP_DB];
    char path[sizeof(VFS_FOLDER) + 16];
    int rc;

    snprintf(path, sizeof(path), "%s%s", VFS_FOLDER, name);
    rc = sqlite3_open_v2(path, &m->db, SQLITE_OPEN_READWRITE, VFS_NAME);
    if (!m->db)
        return handle_fail(m, STORE_MEMORY, "no memory for SQLite");
    if (rc != SQLITE_OK)
        return handle_outcome(m, rc);
    sqlite3_extended_result_codes(m->db, 1);
    sqlite3_busy_handler(m->db, wait_for_others, m);
    if (schema_harden(m->db) != STORE_OK)
        return handle_fail(m, STORE_REFUSED, "SQLite does not take a setting the store needs");
    return STORE_OK;
}

void connection_watch_wal(struct maildrop *m)
{
    sqlite3_wal_hook(m->db, note_wal_frames, m);
}

void connection_close(struct maildrop *m)
{
    for (size_t i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(m->statements[i]);
    memset(m->statements, 0, sizeof(m->statements));
    sqlite3_close(m->db);
    m->db = NULL;
}
