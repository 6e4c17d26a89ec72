/*
 * schema.h - what a maildrop's database looks like, and in which mode a connection uses it.
 */
#ifndef POPLAR_STORE_SCHEMA_H
#define POPLAR_STORE_SCHEMA_H

#include "store/maildrop.h"
#include <sqlite3.h>

enum {
    SCHEMA_APPLICATION_ID = 0x504f504c, /* "POPL" */
    SCHEMA_MAJOR = 1,                   /* a newer one is refused untouched */
    SCHEMA_MINOR = 3,                   /* a newer one is served, an older one brought up to it */
    SCHEMA_PAGE_SIZE = 4096,

    /* The place of a chunk: the message's id shifted by this, plus the chunk's number. */
    SCHEMA_CHUNK_BITS = 20,
};

/* Make the tables of an empty maildrop in an empty database, in WAL mode (mktemplate). SQLite's
 * result code. */
int schema_create(sqlite3 *db);

/* The minor version of a maildrop whose major one is ours. SQLite's result code. */
int schema_minor(sqlite3 *db, int *minor);

/* Bring a maildrop of an older minor version up to ours: to be called in a write transaction.
 * SQLite's result code. */
int schema_upgrade(sqlite3 *db, int minor);

/* Bring a fresh connection into the mode that the store relies on, each setting read back. A
 * setting that does not take is STORE_REFUSED. Reads nothing from the file. */
enum store_outcome schema_harden(sqlite3 *db);

/* The settings that do read the file, each read back as well. */
enum store_outcome schema_settle(sqlite3 *db, int *rc);

/* These settings, and the file's identity: WAL mode, application_id, user_version.
 * STORE_OK, STORE_DAMAGED, STORE_NEWER, or `*rc` when SQLite failed (then STORE_IO). */
enum store_outcome schema_check(sqlite3 *db, int *rc);

/* What the two numbers of an identity mean. */
enum store_outcome schema_identity(int64_t application_id, int64_t version);

/* Of these the identity alone: all that can be asked of a backup, which nobody writes to. */
enum store_outcome schema_identify(sqlite3 *db, int *rc);

/* A check value over the totals row: a flipped bit there would show an empty maildrop to a client,
 * which then forgets its UIDLs. */
int64_t schema_guard(const struct maildrop_totals *totals);

#endif
