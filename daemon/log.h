/*
 * log.h - the master's log: the journal, syslog, or lines on stderr. Only the master logs;
 * children send it records.
 */
#ifndef POPLAR_DAEMON_LOG_H
#define POPLAR_DAEMON_LOG_H

#include "daemon/base.h"
#include <syslog.h>

/* What happened, for MESSAGE_ID in the journal; packaging/systemd/poplar.catalog explains each. */
enum log_event {
    LOG_EVENT_OTHER, /* no event of an own kind */
    LOG_EVENT_STARTED,
    LOG_EVENT_STOPPED,
    LOG_EVENT_SESSION,
    LOG_EVENT_LOGIN_FAILED,
    LOG_EVENT_REFUSED,
    LOG_EVENT_CRASH,
    LOG_EVENT_CONTRACT,
    LOG_EVENT_RELOADED,
    LOG_EVENT_RELOAD_FAILED,
    LOG_EVENT_NOT_STARTED, /* what kept poplard from starting */
    LOG_EVENT_THROTTLED,   /* a source's logins are refused for a while; a user is attacked */
    LOG_EVENT_KICKED,
    LOG_EVENT_STALLED,  /* a process that does not answer */
    LOG_EVENT_CHILD,    /* a line of a child's own */
    LOG_EVENT_REPLACED, /* a new nursery, for one that is old or used up */
    LOG_EVENT_SHORT,    /* the system has too little of something */
    LOG_EVENT_DROPPED,  /* lines of this log */
    LOG_EVENTS
};

/* What a line is about; NULL members are left out. */
struct log_about {
    uint64_t session; /* 0: none */
    const char *peer, *user, *door;
    const char *reason; /* why it ended or failed, in one word */
};

/* Choose the target (enum log_to) and the least important priority to log. */
void log_open(unsigned to, unsigned level);

/* Until this is called errors go to stderr too: whoever started us is still looking. */
void log_started(void);

/* Say on stderr when nobody listens where the log goes. */
void log_look(void);

/* The MESSAGE_ID of an event. */
const char *log_event_id(enum log_event event);

/* One line. Text from outside must have gone through base_escape(). More than a few hundred lines
 * a second, less where anybody can cause them, are dropped and counted, as is what the log cannot
 * take at once; the count is logged when there is room again. */
void log_line(int priority, enum log_event event, const struct log_about *about, const char *format,
              ...) PRINTF(4, 5);

/* Once a second: log the count also where no further line comes. */
void log_tick(void);

#endif
