/*
 * worker.c - what the master does to one worker: know it in the log, change its state, give it
 * time, tell it of a failed login, ask it to finish, trace it, kill it. Runs in the master.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/pool.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    FINISH_MS = 1000, /* what a session gets to end for another of its user */
    TRACED_MAX = 64,  /* users whose sessions are traced at a time */
    LATE_MS = 15000,  /* what a worker gets beyond its own deadline before it is killed */
    LEAVING_MS = 5000 /* from its summary to its end */
};

struct log_about worker_about(const struct worker *w)
{
    return (struct log_about){.session = w->session,
                              .peer = w->peer_text,
                              .user = w->user,
                              .door = w->session ? proto_door_name(w->client.door) : NULL};
}

void worker_tell_end(const struct worker *w)
{
    char named[sizeof w->user + 2];
    struct log_about about = worker_about(w);
    if (w->summarised || w->session == 0)
        return;
    base_value(named, sizeof named, w->user);
    about.reason = w->ended_by_us ? "ended" : "lost";
    log_line(LOG_NOTICE, LOG_EVENT_SESSION, &about, "session ended: peer=%s user=%s reason=%s",
             w->peer_text, named, about.reason);
}

unsigned *worker_counter(struct master *m, unsigned state)
{
    return state == STATE_STARTING ? &m->n_starting
           : state == STATE_IDLE   ? &m->n_idle
                                   : &m->n_sessions;
}

void worker_enter(struct worker *w, unsigned state)
{
    --*worker_counter(w->master, w->channel.state);
    ++*worker_counter(w->master, state);
    w->channel.state = state;
}

void worker_end(struct worker *w)
{
    w->ended_by_us = true;
    if (w->pid > 0)
        kill(w->pid, SIGKILL);
    else /* not ready: it ends when it finds its channel closed, we let go at end-of-file */
        shutdown(w->channel.fd, SHUT_RDWR);
}

static int on_late(sd_event_source *source, uint64_t usec, void *context)
{
    struct worker *w = context;
    struct log_about about = worker_about(w);
    (void)source;
    (void)usec;
    if (w->channel.state & (STATE_CLIENT | STATE_LOGIN | STATE_DONE)) {
        log_line(LOG_WARNING, LOG_EVENT_STALLED, &about, "killing worker %d: %s", w->pid,
                 w->channel.state == STATE_DONE ? "still there after the end of its session"
                                                : "not logged in after the time to log in");
        worker_end(w);
    }
    return 0;
}

void worker_may_log_in(struct worker *w)
{
    worker_enter(w, STATE_CLIENT);
    loop_timer(w->master, &w->timer, w->login_by + LATE_MS, on_late, w);
}

void worker_may_leave(struct worker *w)
{
    worker_enter(w, STATE_DONE);
    loop_timer(w->master, &w->timer, base_now_ms() + LEAVING_MS, on_late, w);
}

static int on_unfinished(sd_event_source *source, uint64_t usec, void *context)
{
    (void)source;
    (void)usec;
    worker_end(context);
    return 0;
}

void worker_finish(struct worker *w, unsigned why)
{
    struct message message;
    if (w->finishing)
        return;
    w->finishing = true;
    message_begin(&message, PROTO_FINISH);
    message_put_u32(&message, why);
    if (w->channel.fd < 0 || channel_send(&w->channel, &message, false) != CHANNEL_OK)
        worker_end(w);
    else
        loop_timer(w->master, &w->timer, base_now_ms() + FINISH_MS, on_unfinished, w);
}

static void tell_trace(struct worker *w, enum proto_trace on)
{
    struct message message;
    message_begin(&message, PROTO_TRACE);
    message_put_u32(&message, on);
    if (w->channel.fd >= 0)
        (void)channel_send(&w->channel, &message, false); /* a trace is not worth a session */
}

static size_t find_traced(const struct master *m, const char *user)
{
    size_t i = 0;
    while (i < m->traced.n && strcmp(m->traced.items[i], user) != 0)
        i++;
    return i;
}

void worker_trace_later(struct worker *w)
{
    if (w->master->traced.n == 0)
        return;
    w->trace_later = true;
    tell_trace(w, TRACE_LATER);
}

void worker_trace_if_wanted(struct worker *w)
{
    bool on = find_traced(w->master, w->canonical) < w->master->traced.n;
    if (on || w->trace_later)
        tell_trace(w, on ? TRACE_ON : TRACE_OFF);
}

bool worker_trace_user(struct master *m, const char *user, bool on)
{
    size_t at = find_traced(m, user);
    if (on && at == m->traced.n) {
        if (at >= TRACED_MAX)
            return false;
        m->traced.items = base_grow(m->traced.items, at, sizeof *m->traced.items);
        m->traced.items[m->traced.n++] = base_strdup(user);
    } else if (!on && at < m->traced.n) {
        free(m->traced.items[at]);
        m->traced.items[at] = m->traced.items[--m->traced.n];
    }
    for (struct worker *w = m->workers; w; w = w->next)
        if (w->channel.state == STATE_MAIL && strcmp(w->canonical, user) == 0)
            tell_trace(w, on ? TRACE_ON : TRACE_OFF);
    return true;
}

static void send_settled(struct worker *w)
{
    struct message message;
    w->refused = false;
    message_begin(&message, PROTO_SETTLED);
    message_put_u32(&message, w->master->stopping || w->failures >= MASTER_LOGIN_ATTEMPTS);
    if (channel_send(&w->channel, &message, false) != CHANNEL_OK)
        worker_end(w);
    else
        worker_may_log_in(w);
}

static int on_settle(sd_event_source *source, uint64_t usec, void *context)
{
    (void)source;
    (void)usec;
    send_settled(context);
    return 0;
}

void worker_count_failure(struct worker *w, bool guess)
{
    if (guess || ++w->repeats > MASTER_LOGIN_REPEATS)
        w->failures++;
}

void worker_settle(struct worker *w, bool failed)
{
    if (w->channel.state != STATE_LOGIN || w->channel.fd < 0)
        return;
    if (!failed) {
        send_settled(w);
        return;
    }
    uint32_t random;
    base_random(&random, sizeof random);
    w->refused = true;
    uint64_t at = pool_answer_at(w->asked, base_now_us(),
                                 w->master->config->auth.failure_delay * 1000000, random);
    loop_timer_exact(w->master, &w->timer, at, on_settle, w);
}
