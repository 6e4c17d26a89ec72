/*
 * log.h - the master's log: the journal, syslog, or lines on stderr. Only the master logs;
 * children send it records.
 */
#ifndef POPLAR_DAEMON_LOG_H
#define POPLAR_DAEMON_LOG_H

#include "daemon/base.h"
#include <syslog.h>

/* What happened, for MESSAGE_ID in the journal; see packaging/ for the catalog. */
enum log_event {
    LOG_EVENT_OTHER,
    LOG_EVENT_STARTED,
    LOG_EVENT_STOPPED,
    LOG_EVENT_SESSION,
    LOG_EVENT_LOGIN_FAILED,
    LOG_EVENT_REFUSED,
    LOG_EVENT_CRASH,
    LOG_EVENT_CONTRACT,
    LOG_EVENT_RELOADED,
    LOG_EVENT_RELOAD_FAILED,
    LOG_EVENTS
};

/* What a line is about; NULL members are left out. */
struct log_about {
    uint64_t session; /* 0: none */
    const char *peer, *user;
};

/* Choose the target (enum log_to) and the least important priority to log. */
void log_open(unsigned to, unsigned level);

/* Until this is called errors go to stderr too: whoever started us is still looking. */
void log_started(void);

/* One line. Text from outside must have gone through base_escape(). More than a few hundred lines
 * a second are dropped and counted; the count is logged when there is room again. */
void log_line(int priority, enum log_event event, const struct log_about *about, const char *format,
              ...) PRINTF(4, 5);

#endif
