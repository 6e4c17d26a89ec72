/*
 * spawn.h - starting a program of Poplar's own with a channel to it. Runs in the master, as root.
 */
#ifndef POPLAR_DAEMON_SPAWN_H
#define POPLAR_DAEMON_SPAWN_H

#include "daemon/channel.h"

/* Exec DIR/PROGRAM, or where `kept` is not -1 what spawn_keep() opened, with descriptor 3 as its
 * end of a new channel, 0 and 1 on /dev/null, nothing else open, no signal blocked; it dies with
 * this process. The pid, or -1 and errno. `channel` becomes the master's end, in STATE_STARTING. */
pid_t spawn_child(const char *dir, const char *program, int kept, enum proto_role role,
                  struct channel *channel);

/* A program, open to be started when it has no name any more; -1 and errno. */
int spawn_keep(const char *dir, const char *program);

/* Whether this is a child of ours, not reaped yet: its pid is surely still its own. */
bool spawn_is_child(pid_t pid);

#endif
