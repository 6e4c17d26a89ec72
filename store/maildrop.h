/*
 * maildrop.h - the store: one user's messages in one SQLite file, reached through descriptors.
 *
 * A library for the worker and for poplarctl. The only SQL in the tree is behind this header. It
 * never logs, never exits, never opens a path, never keeps a transaction open between two calls.
 * Every function may be called with a slow client in between.
 */
#ifndef POPLAR_STORE_MAILDROP_H
#define POPLAR_STORE_MAILDROP_H

#include "store/files.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum store_outcome {
    STORE_OK = 0,
    STORE_END,        /* nothing more to read */
    STORE_DAMAGED,    /* not a database, or not a sound one; nothing was changed */
    STORE_NEWER,      /* the schema's major version is from the future; untouched */
    STORE_STALE,      /* -wal or -shm lost its last link: give the grant back, ask again */
    STORE_BUSY,       /* somebody else held a lock for too long */
    STORE_FULL,       /* no space, or the system's quota */
    STORE_IO,         /* the disk failed; this handle writes no more. What the call wanted is not
                       * visible; after a failed sync a power cut may yet bring it back */
    STORE_OVER_QUOTA, /* the maildrop's own limits */
    STORE_TOO_LARGE,  /* one message above max_message */
    STORE_SOURCE,     /* the caller's read function failed; nothing was stored */
    STORE_NOT_FOUND,  /* no such message */
    STORE_EXISTS,     /* a message with this UIDL is there already */
    STORE_REFUSED,    /* an unfit SQLite, a UIDL that is none, a call out of order, a maildrop
                       * while this process has one open already */
    STORE_MEMORY
};

enum {
    MAILDROP_UIDL_MAX = 70,      /* octets, RFC 1939 section 7 */
    MAILDROP_CHUNK_SIZE = 65536, /* octets of content read or written at a time */
};

struct maildrop; /* one open maildrop */

/* How a message goes to a session without UTF8 (RFC 6856). A session with it gets every message as
 * it is stored. */
enum maildrop_form {
    MAILDROP_AS_IS,     /* as it is stored, whatever that is */
    MAILDROP_SURROGATE, /* with the header that maildrop_surrogate() makes, and the same body */
    MAILDROP_UTF8_ONLY, /* not at all: its header is too large to make a surrogate of */
};

/* What STAT says, and where the session's view ends. */
struct maildrop_totals {
    uint64_t messages, octets;
    uint64_t plain_octets; /* as sessions without UTF8 get the messages */
    int64_t last_id;       /* messages delivered later have larger ids: not this session's */
};

/* One message of a snapshot. */
struct maildrop_entry {
    int64_t id;
    uint64_t size;       /* octets on the wire, without dot-stuffing and terminator */
    uint64_t plain_size; /* the same for a session without UTF8; `size` unless it is a surrogate */
    enum maildrop_form form;
    unsigned char uidl_size;   /* 0: a UIDL of the store's own making */
    const unsigned char *uidl; /* as the snapshot holds it, for maildrop_entry_uidl() */
};

/* The messages of a session in the order of their ids. Memory grows with their number only. */
struct maildrop_snapshot;

/* A walk over them, from the first. */
struct maildrop_walk {
    const struct maildrop_snapshot *snapshot;
    size_t index, block; /* of the next */
    const unsigned char *at;
    struct maildrop_entry entry; /* the one before */
};

/* A message to deliver. `uidl` NULL: the store makes one. `received` in seconds since the epoch,
 * 0: now; `retrieved`: a client has fetched it already, from another server.
 *
 * `utf8_headers`: the caller knows this for a new message as of RFC 6532, whose header may be
 * UTF-8. If it is, sessions without UTF8 get a surrogate (RFC 6858), and its size is settled here.
 * Without the flag a message is served as it is, for ever: one that moves in from another server
 * was shown to clients already, with these octets and this size, and must not change under their
 * eyes. */
struct maildrop_delivery {
    const char *uidl;
    int64_t received;
    bool retrieved;
    bool utf8_headers;
    uint64_t max_message;                  /* octets; 0: none */
    uint64_t quota_octets, quota_messages; /* 0: none; the maildrop's own settings go before them */
    bool no_limits;                        /* neither these nor the maildrop's own */
};

/* Settings that a maildrop may have of its own; 0: no limit, or off. */
#define MAILDROP_QUOTA_OCTETS   "quota_octets"
#define MAILDROP_QUOTA_MESSAGES "quota_messages"
#define MAILDROP_POP3           "pop3"
static const char *const maildrop_settings[] = {MAILDROP_QUOTA_OCTETS, MAILDROP_QUOTA_MESSAGES,
                                                MAILDROP_POP3};

/* Supplies raw message text: up to `size` octets, 0 at the end, -1 on an error. */
typedef ssize_t maildrop_source(void *context, void *buffer, size_t size);

/* One message as poplarctl lists it. Times are seconds since the epoch, 0: never. */
struct maildrop_message {
    int64_t id;
    uint64_t size, header_size; /* octets on the wire; header with the empty line that ends it */
    int64_t received, retrieved, deleted;
    char uidl[MAILDROP_UIDL_MAX + 1];
};

/* Call once in a process before anything else; a second call may only add `granted_only`: no path
 * is ever opened, not even by mistake (the worker); else paths that are not grants reach the file
 * system (poplarctl). Makes SQLite single-threaded and takes over its default VFS. */
enum store_outcome maildrop_library_init(bool granted_only);
/* Call last before forks, or in each child: SQLite forgets its randomness, which parent and
 * children would share; who needs some then asks the kernel first. */
void maildrop_library_forget(void);

/* What a connection is made ready for. */
enum maildrop_use { MAILDROP_SESSIONS, MAILDROP_DELIVERIES, MAILDROP_USES };

/* Call before a fork, once for each use, on numbers of their own: the first maildrop_open() of each
 * child then finds a connection ready, its settings made, the schema read, statements prepared, if
 * the descriptor of the database that it is granted has this number. `octets` is an empty maildrop
 * (store/files.h). For sessions the number stays taken, by what stands in for a database. */
enum store_outcome maildrop_library_warm(const unsigned char *octets, size_t size,
                                         enum maildrop_use use, int database_fd);

/* Call in such a child before it meets anybody: some of what an opening asks is asked of the
 * stand-in, so that the memory for it is there when a client waits. Then the number is free. */
void maildrop_library_rehearse(void);

/* A short English word or phrase for logs. */
const char *maildrop_outcome_name(enum store_outcome outcome);

/* Open the maildrop behind four descriptors (enum maildrop_file), which belong to it from now on,
 * also when this fails. One maildrop at a time in a process: SQLite's POSIX locks do not survive
 * the closing of a second descriptor of the same file. Reads once, then checks that -wal and -shm
 * still have a link. That the files are on a local file system is the opener's to check. */
enum store_outcome maildrop_open(const int files[MAILDROP_FILES], struct maildrop **opened);
/* A maildrop that stays open while nothing is done with it: note what its files are like, and see
 * that nobody else has written to them since, and that all of ours went well, or STORE_STALE: it is
 * closed and opened again then. Other connections could be lived with; who puts a file back by
 * hand would meet what SQLite remembers of the one before. */
void maildrop_rest(struct maildrop *maildrop);
enum store_outcome maildrop_resume(struct maildrop *maildrop);
/* Close, without checkpoint; -wal and -shm stay. NULL is legal. */
void maildrop_close(struct maildrop *maildrop);
/* Give the grant and its locks back in a process that ends next: frees no memory. Checkpoints what
 * others left in -wal, if nothing was committed here. NULL is legal. */
void maildrop_leave(struct maildrop *maildrop);
/* Words on the last failure, for the log; of maildrop_open() when `maildrop` is NULL. Never NULL,
 * valid until the next call. */
const char *maildrop_error(const struct maildrop *maildrop);

/* One row, at any size of the maildrop. */
enum store_outcome maildrop_totals(struct maildrop *maildrop, struct maildrop_totals *totals);

/* Whether sessions are switched off for this maildrop; deliveries never are. */
enum store_outcome maildrop_pop3_off(struct maildrop *maildrop, bool *off);

/* Messages up to totals->last_id. Free with maildrop_snapshot_free(). */
enum store_outcome maildrop_snapshot(struct maildrop *maildrop,
                                     const struct maildrop_totals *totals,
                                     struct maildrop_snapshot **taken);
void maildrop_snapshot_free(struct maildrop_snapshot *snapshot); /* NULL is legal */
size_t maildrop_snapshot_count(const struct maildrop_snapshot *snapshot);
/* What it holds, summed up; last_id is that of the last message. */
struct maildrop_totals maildrop_snapshot_totals(const struct maildrop_snapshot *snapshot);
/* index from 0; must be below the count. Costs a search: who wants many in order walks. */
struct maildrop_entry maildrop_snapshot_entry(const struct maildrop_snapshot *snapshot,
                                              size_t index);
/* How many of its messages have ids up to this one. */
size_t maildrop_snapshot_position(const struct maildrop_snapshot *snapshot, int64_t id);

struct maildrop_walk maildrop_snapshot_walk(const struct maildrop_snapshot *snapshot);
/* The next message, valid until the next call; NULL at the end. */
const struct maildrop_entry *maildrop_walk_next(struct maildrop_walk *walk);

/* The UIDL, 1-70 octets of 0x21-0x7E, NUL-ended; returns how many. The snapshot must live still. */
size_t maildrop_entry_uidl(const struct maildrop_entry *entry, char uidl[MAILDROP_UIDL_MAX + 1]);

/* The last message up to `last_id` that was retrieved in a session which ended with QUIT, and is
 * not deleted; 0: none. */
enum store_outcome maildrop_last_retrieved(struct maildrop *maildrop, int64_t last_id, int64_t *id);

/* The message with the smallest id above `after` (0: the first), deleted ones that can still be
 * restored included. STORE_END when there is none. Messages may come and go between two calls. */
enum store_outcome maildrop_next(struct maildrop *maildrop, int64_t after,
                                 struct maildrop_message *message);

/* Up to `size` octets of a message's content from `offset` on; `got` is less than `size` only where
 * the message ends. Cheapest in whole chunks (MAILDROP_CHUNK_SIZE). Messages that can still be
 * restored can be read. */
enum store_outcome maildrop_read(struct maildrop *maildrop, int64_t id, uint64_t offset,
                                 void *buffer, size_t size, size_t *got);

/* The same from the beginning on, and how many octets the header has with the empty line that ends
 * it, for TOP. */
enum store_outcome maildrop_read_first(struct maildrop *maildrop, int64_t id, void *buffer,
                                       size_t size, size_t *got, uint64_t *header);

/* The header under which a message of the form MAILDROP_SURROGATE goes to a session without UTF8,
 * with the empty line at its end; the body follows in the content, from `body` on. The caller frees
 * `header`. */
enum store_outcome maildrop_surrogate(struct maildrop *maildrop, int64_t id, char **header,
                                      size_t *size, uint64_t *body);

/* A session begins (RFC 2449 section 6.5): unless one began less than `delay` seconds ago, note
 * when this one did, durably. `wait` is 0, or how many seconds are left, and then nothing was
 * noted. A note from the future is a clock put right, and counts as none. */
enum store_outcome maildrop_login(struct maildrop *maildrop, uint64_t delay, uint64_t *wait);

/* How much of what was deleted may be kept, of which the maildrop's own limits go before; 0: no
 * limit, as before the call. What was deleted first is then gone first, though it could be restored
 * for longer: else quotas would bound what a client sees, and not the disk. */
void maildrop_limit(struct maildrop *maildrop, uint64_t quota_octets, uint64_t quota_messages);

/* Delete what was received longer ago than `expire_after` seconds (0: nothing ever is), as a client
 * would: it can be restored for `undelete_for`. Costs one look into an index when nothing is due;
 * else commits some hundred messages at a time, the oldest first, for some seconds at most.
 * `removed` says how many went, also on a failure; the rest is left to the next call. STORE_OK and
 * 0: nothing was left. Not during a session's view: call before maildrop_totals(), with the session
 * byte of the lock. */
enum store_outcome maildrop_expire(struct maildrop *maildrop, uint64_t expire_after,
                                   uint64_t undelete_for, uint64_t *removed);

/* What a session did, committed at once and durably: `retrieved` are marked with the time,
 * `deleted` become invisible (and go for good when `undelete_for` seconds are over, 0: now, or
 * more of them are kept than maildrop_limit() allows).
 * All or nothing: STORE_NOT_FOUND if one of `deleted` is not there. Needs the session byte of the
 * lock (the opener took it). The removal for good of what is past its time follows in transactions
 * of its own, for some seconds at most; what they leave, a later commit takes, or
 * maildrop_purge(). */
enum store_outcome maildrop_commit(struct maildrop *maildrop, const int64_t *retrieved,
                                   size_t n_retrieved, const int64_t *deleted, size_t n_deleted,
                                   uint64_t undelete_for);

/* Store one message, durably when this returns STORE_OK. Line ends become CRLF, a last line
 * without one gets it; everything else is kept octet for octet. Constant memory. The source is
 * read inside a write transaction, so it must not wait for anybody. `id` may be NULL. */
enum store_outcome maildrop_deliver(struct maildrop *maildrop,
                                    const struct maildrop_delivery *delivery,
                                    maildrop_source *source, void *context, int64_t *id);

/* Several messages in one commit (import): between begin and end, deliveries are not durable yet,
 * and nobody else can write. A delivery that fails undoes itself only, except where the disk
 * failed: then every further call of the batch says so too. maildrop_batch_end() with commit false
 * undoes them all. */
enum store_outcome maildrop_batch_begin(struct maildrop *maildrop);
enum store_outcome maildrop_batch_end(struct maildrop *maildrop, bool commit);

/* Remove for good some of what was deleted `undelete_for` seconds ago or earlier, or is more than
 * maildrop_limit() allows, in one bounded transaction, and give room back to the system. `removed`
 * 0: nothing was left. */
enum store_outcome maildrop_purge(struct maildrop *maildrop, uint64_t undelete_for,
                                  uint64_t *removed);

#endif
