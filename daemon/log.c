/*
 * log.c - one line at a time to the journal, syslog or stderr. Runs in the master, as root; what it
 * writes was escaped before, and is limited here. A control character that got this far is some
 * child's attempt to write a line of its own.
 */
#define SD_JOURNAL_SUPPRESS_LOCATION /* where in log.c this is helps nobody */
#include "daemon/log.h"
#include "daemon/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

enum { LINES_PER_SECOND = 500 };

/* The one piece of global state in the master: where the log goes and how much it took. */
static struct {
    unsigned to, level;
    bool started;
    uint64_t second;
    unsigned in_second, dropped;
} state = {.to = LOG_TO_STDERR, .level = LOG_INFO};

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
    if (to == LOG_TO_SYSLOG)
        openlog("poplard", LOG_PID, LOG_MAIL);
    state.to = to;
    state.level = level;
}

void log_started(void)
{
    state.started = true;
}

/* Both libraries throw away what they cannot send, and do not say so. */
void log_look(void)
{
    const char *name = state.to == LOG_TO_JOURNAL ? "journal" : "syslog";
    const char *sink = state.to == LOG_TO_JOURNAL ? "/run/systemd/journal/socket" : "/dev/log";
    if (state.to != LOG_TO_STDERR && access(sink, F_OK) < 0)
        fprintf(stderr,
                "poplard: [server] log_to=%s: %s: %s; until it is there nothing is logged\n", name,
                sink, strerror(errno));
}

static void to_stderr(const struct log_about *about, const char *text)
{
    char where[128] = "";
    if (about && about->session)
        snprintf(where, sizeof where, "session %llu: ", (unsigned long long)about->session);
    fprintf(stderr, "poplard: %s%s\n", where, text);
}

static void to_journal(int priority, enum log_event event, const struct log_about *about,
                       const char *text)
{
    const struct log_about nothing = {0};
    char *fields[9];
    struct iovec vector[ARRAY_SIZE(fields)];
    int n = 0;
    if (!about)
        about = &nothing;
    fields[n++] = base_format("MESSAGE=%s", text);
    fields[n++] = base_format("PRIORITY=%d", priority);
    fields[n++] = base_format("SYSLOG_FACILITY=%d", LOG_MAIL >> 3);
    fields[n++] = base_format("MESSAGE_ID=%s", event_ids[event]);
    if (about->session)
        fields[n++] = base_format("POPLAR_SESSION=%llu", (unsigned long long)about->session);
    if (about->peer && *about->peer)
        fields[n++] = base_format("POPLAR_PEER=%s", about->peer);
    if (about->user && *about->user)
        fields[n++] = base_format("POPLAR_USER=%s", about->user);
    if (about->door)
        fields[n++] = base_format("POPLAR_DOOR=%s", about->door);
    if (about->reason)
        fields[n++] = base_format("POPLAR_REASON=%s", about->reason);
    for (int i = 0; i < n; i++)
        vector[i] = (struct iovec){fields[i], strlen(fields[i])};
    sd_journal_sendv(vector, n);
    for (int i = 0; i < n; i++)
        free(fields[i]);
}

static void emit(int priority, enum log_event event, const struct log_about *about,
                 const char *text)
{
    if (state.to == LOG_TO_JOURNAL)
        to_journal(priority, event, about, text);
    else if (state.to == LOG_TO_SYSLOG)
        syslog(priority, "%s", text);
    if (state.to == LOG_TO_STDERR || (!state.started && priority <= LOG_ERR))
        to_stderr(about, text);
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
        emit(LOG_WARNING, LOG_EVENT_DROPPED, NULL, text);
    }
    state.second = second;
    state.in_second = state.dropped = 0;
}

/* Whether this second still has room for a line. */
static bool admit(void)
{
    log_tick();
    if (state.in_second < LINES_PER_SECOND) {
        state.in_second++;
        return true;
    }
    state.dropped++;
    return false;
}

void log_line(int priority, enum log_event event, const struct log_about *about, const char *format,
              ...)
{
    char text[2048];
    if ((unsigned)priority > state.level || !admit())
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    emit(priority, event, about, text);
}
