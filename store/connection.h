/*
 * connection.h - SQLite's connection to the granted database; for who opens and closes maildrops.
 */
#ifndef POPLAR_STORE_CONNECTION_H
#define POPLAR_STORE_CONNECTION_H

#include "store/handle.h"

/* Open the granted database with the settings that need no file. After any other outcome than
 * STORE_OK, connection_close(). */
enum store_outcome connection_open(struct maildrop *m);

/* Count the WAL's frames. Only after PRAGMA wal_autocheckpoint, which uses the same hook and would
 * take it away. */
void connection_watch_wal(struct maildrop *m);

/* End it, with its statements; also one that was never made. */
void connection_close(struct maildrop *m);

#endif
