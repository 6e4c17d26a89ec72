/*
 * log.c - one line at a time to the journal, syslog or stderr. Runs in the master, as root; what it
 * writes was escaped before, and is limited here. A control character that got this far is some
 * child's attempt to write a line of its own, and of what is not UTF-8 the journal shows nothing.
 *
 * Never waits: journald behind a disk that hangs, or a pipe that nobody reads, would hold up
 * everybody. That is why the libraries' own calls, which wait, are not used.
 */
#include "daemon/log.h"
#include "daemon/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Who connects often enough fills the log with sessions; what is said of guessed passwords, and of
 * what went wrong here, must have room even so. */
enum {
    LINES_PER_SECOND = 500,
    LINES_OF_LOGINS = 450, /* those of failed logins, and the following */
    LINES_OF_ALL = 300,    /* those that anybody makes by coming and going */
    LINE_MAX_OCTETS = 2048 /* with its NUL; its other fields together are shorter */
};

/* The one piece of global state in the master: where the log goes and how much it took. */
static struct {
    unsigned to, level;
    bool started;
    uint64_t second;
    unsigned in_second, dropped;
    int sink;     /* a socket for the journal or syslog; -1: none yet */
    bool reached; /* by the last line */
} state = {.to = LOG_TO_STDERR, .level = LOG_INFO, .sink = -1};

static const char *const event_ids[LOG_EVENTS] = {
    [LOG_EVENT_OTHER] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a10",
    [LOG_EVENT_STARTED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a01",
    [LOG_EVENT_STOPPED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a02",
    [LOG_EVENT_SESSION] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a03",
    [LOG_EVENT_LOGIN_FAILED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a04",
    [LOG_EVENT_REFUSED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a05",
    [LOG_EVENT_CRASH] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a06",
    [LOG_EVENT_CONTRACT] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a07",
    [LOG_EVENT_RELOADED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a08",
    [LOG_EVENT_RELOAD_FAILED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a09",
    [LOG_EVENT_NOT_STARTED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a0a",
    [LOG_EVENT_THROTTLED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a0b",
    [LOG_EVENT_KICKED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a0c",
    [LOG_EVENT_STALLED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a0d",
    [LOG_EVENT_CHILD] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a0e",
    [LOG_EVENT_REPLACED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a0f",
    [LOG_EVENT_SHORT] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a11",
    [LOG_EVENT_DROPPED] = "2b8f1b6a0d0f4d8f9d6f3a1c5e7b9a12",
};

const char *log_event_id(enum log_event event)
{
    return event_ids[event];
}

/* Whether stderr is the journal already: systemd names its socket in $JOURNAL_STREAM. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    unsigned long long device, inode;
    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

void log_open(unsigned to, unsigned level)
{
    if (to == LOG_TO_AUTO)
        to = stderr_is_journal() ? LOG_TO_JOURNAL : LOG_TO_STDERR;
    state.to = to;
    state.level = level;
}

void log_started(void)
{
    state.started = true;
}

static const char *sink_path(void)
{
    return state.to == LOG_TO_JOURNAL ? "/run/systemd/journal/socket" : "/dev/log";
}

/* One datagram. False: there is no room for it now, or nobody. By name each time: who listened
 * there may have been started anew. The socket is kept for when there are no descriptors left. */
static bool send_to_sink(const char *text)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    base_copy(address.sun_path, sizeof address.sun_path, sink_path());
    if (state.sink < 0)
        state.sink = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    state.reached =
        state.sink >= 0 && sendto(state.sink, text, strlen(text), MSG_NOSIGNAL,
                                  (const struct sockaddr *)&address, sizeof address) >= 0;
    return state.reached;
}

/* To a pipe or socket that has room, a line goes at once. */
static bool to_stderr(const struct log_about *about, const char *text)
{
    char where[128] = "";
    if (!base_stderr_has_room())
        return false;
    if (about && about->session)
        snprintf(where, sizeof where, "session %llu: ", (unsigned long long)about->session);
    fprintf(stderr, "poplard: %s%s\n", where, text);
    return true;
}

/* Where nobody has ever been, no count of what is lost is ever told. */
void log_look(void)
{
    char text[200];
    const char *name = state.to == LOG_TO_JOURNAL ? "journal" : "syslog";
    if (state.to == LOG_TO_STDERR || access(sink_path(), F_OK) == 0)
        return;
    snprintf(text, sizeof text, "[server] log_to=%s: %s: %s; until it is there nothing is logged",
             name, sink_path(), strerror(errno));
    (void)to_stderr(NULL, text);
}

/* RFC 3164, as syslog(3) writes it to this socket. */
static bool to_syslog(int priority, const char *text)
{
    char line[LINE_MAX_OCTETS + 80], when[32] = "";
    const time_t now = time(NULL);
    struct tm local;
    if (localtime_r(&now, &local))
        strftime(when, sizeof when, "%b %e %T ", &local);
    snprintf(line, sizeof line, "<%d>%spoplard[%d]: %s", LOG_MAIL | priority, when, (int)getpid(),
             text);
    return send_to_sink(line);
}

/* A line NAME=VALUE for each field: no value has a line end. */
static bool to_journal(int priority, enum log_event event, const struct log_about *about,
                       const char *text)
{
    static const struct log_about nothing;
    char fields[2 * LINE_MAX_OCTETS], session[24] = "";
    if (!about)
        about = &nothing;
    const char *const more[][2] = {{"SESSION", session},
                                   {"PEER", about->peer},
                                   {"USER", about->user},
                                   {"DOOR", about->door},
                                   {"REASON", about->reason}};
    if (about->session)
        snprintf(session, sizeof session, "%llu", (unsigned long long)about->session);
    size_t used = (size_t)snprintf(fields, sizeof fields,
                                   "MESSAGE=%s\nPRIORITY=%d\nSYSLOG_FACILITY=%d\nMESSAGE_ID=%s\n"
                                   "SYSLOG_IDENTIFIER=poplard\n",
                                   text, priority, LOG_MAIL >> 3, event_ids[event]);
    for (size_t i = 0; i < ARRAY_SIZE(more) && used < sizeof fields; i++)
        if (more[i][1] && *more[i][1])
            used += (size_t)snprintf(fields + used, sizeof fields - used, "POPLAR_%s=%s\n",
                                     more[i][0], more[i][1]);
    return send_to_sink(fields);
}

/* False: it has not taken that. */
static bool emit(int priority, enum log_event event, const struct log_about *about,
                 const char *text)
{
    bool sent = true;
    if (state.to == LOG_TO_JOURNAL)
        sent = to_journal(priority, event, about, text);
    else if (state.to == LOG_TO_SYSLOG)
        sent = to_syslog(priority, text);
    /* Who starts it by hand reads why it does not; a journal that has it needs it once. */
    bool has_it = state.to == LOG_TO_JOURNAL && state.reached && stderr_is_journal();
    if (state.to == LOG_TO_STDERR || (!state.started && !has_it && priority <= LOG_ERR))
        sent = to_stderr(about, text) && sent;
    return sent;
}

void log_tick(void)
{
    uint64_t second = base_now_ms() / 1000;
    if (second == state.second)
        return;
    if (state.dropped > 0) {
        char text[64];
        snprintf(text, sizeof text, "%u log line%s dropped", state.dropped,
                 base_plural(state.dropped));
        if (emit(LOG_WARNING, LOG_EVENT_DROPPED, NULL, text))
            state.dropped = 0;
    }
    state.second = second;
    state.in_second = 0;
}

static unsigned share_of(enum log_event event)
{
    switch (event) {
    case LOG_EVENT_OTHER:
    case LOG_EVENT_SESSION:
    case LOG_EVENT_REFUSED:
    case LOG_EVENT_CHILD:
        return LINES_OF_ALL;
    case LOG_EVENT_LOGIN_FAILED:
    case LOG_EVENT_THROTTLED:
        return LINES_OF_LOGINS;
    default:
        return LINES_PER_SECOND;
    }
}

/* Whether this second still has room for a line. */
static bool admit(enum log_event event)
{
    log_tick();
    if (state.in_second < share_of(event)) {
        state.in_second++;
        return true;
    }
    state.dropped++;
    return false;
}

void log_line(int priority, enum log_event event, const struct log_about *about, const char *format,
              ...)
{
    char text[LINE_MAX_OCTETS];
    if ((unsigned)priority > state.level || !admit(event))
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    base_make_text(text, strlen(text));
    if (!emit(priority, event, about, text))
        state.dropped++;
}
