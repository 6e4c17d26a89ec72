/*
 * loop.c - what the master's files ask of its event loop. Runs in the master.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sysexits.h>

void loop_timer_exact(struct master *m, sd_event_source **timer, uint64_t at,
                      sd_event_time_handler_t handler, void *context)
{
    sd_event_source_disable_unref(*timer);
    *timer = NULL;
    int result = sd_event_add_time(m->event, timer, CLOCK_MONOTONIC, at, 1, handler, context);
    if (result < 0) /* every deadline hangs on it */
        fatal(EX_OSERR, "a timer cannot be set: %s", strerror(-result));
}

void loop_timer(struct master *m, sd_event_source **timer, uint64_t at,
                sd_event_time_handler_t handler, void *context)
{
    loop_timer_exact(m, timer, at * 1000, handler, context);
}

bool loop_watch(struct master *m, sd_event_source **io, int fd, sd_event_io_handler_t handler,
                void *context)
{
    int result = sd_event_add_io(m->event, io, fd, EPOLLIN, handler, context);
    if (result < 0)
        log_line(LOG_ERR, LOG_EVENT_OTHER, NULL, "a child's channel cannot be watched: %s",
                 strerror(-result));
    return result >= 0;
}

void loop_log(struct message *message, const char *who, const struct log_about *about, bool ready,
              char *last_error, size_t size)
{
    char text[1024] = ""; /* more than fits into the record */
    int priority = (int)message_get_u32(message) & LOG_PRIMASK;
    (void)message_get_text(message, text, sizeof text);
    if (priority <= LOG_ERR)
        base_copy(last_error, size, text);
    if (ready || priority > LOG_ERR) /* errors before are told once, with the end */
        log_line(priority, LOG_EVENT_CHILD, about, "%s: %s", who, text);
}

void loop_end_if_drained(struct master *m)
{
    if (m->stopping && m->n_sessions == 0 && m->n_waiting == 0)
        sd_event_exit(m->event, m->exit_status);
}

bool loop_set_up(sd_event_source *io, struct setup *setup, struct channel *channel, char *error,
                 size_t size)
{
    enum setup_outcome outcome = setup_send(setup, channel, error, size);
    uint32_t events = outcome == SETUP_MORE ? EPOLLIN | EPOLLOUT : EPOLLIN;
    if (outcome == SETUP_FAILED)
        return false;
    int result = sd_event_source_set_io_events(io, events);
    errno = result < 0 ? -result : 0;
    return result >= 0 || base_refuse(error, size, "a child's channel cannot be watched");
}
