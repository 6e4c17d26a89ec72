/*
 * status.h - the master's numbers: counted where things happen, told to who asks. Master only.
 */
#ifndef POPLAR_DAEMON_STATUS_H
#define POPLAR_DAEMON_STATUS_H

#include "daemon/master.h"

/* A login ended, so many milliseconds after it was asked for. */
void status_login(struct master *m, unsigned outcome, uint64_t ms);

/* A worker's last word: count it, and write the session's one line. */
void status_summary(struct master *m, struct worker *w, struct message *message);

/* The state in one line, for systemd. */
void status_line(struct master *m, char *text, size_t size);
/* Tell systemd that clients are served from now on. */
void status_announce(struct master *m);

/* The entry at `from`, or the next after it, of a part of the state (enum status_part), as a record
 * for poplarctl. False: there is none, and nothing was written. */
bool status_next(struct master *m, unsigned part, uint64_t from, struct message *answer);

#endif
