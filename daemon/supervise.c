/*
 * supervise.c - the master's loop: signals, reaping, housekeeping, systemd, the end. Runs in the
 * master.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/spawn.h"
#include "daemon/status.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum {
    TICK_MS = 1000,
    TICKET_KEY_MS = 3600 * 1000,
    LAST_REAP_MS = 2000,
    AFTER_GRACE_S = 10, /* until all has ended that is left then, at most */
    LOOP_TRIES = 3,     /* in a row */
    LAST_WORDS = 4096,  /* records of a child that has ended: more than wait in a socket */
    PROVEN_MS = 10000   /* a nursery this old, and none since, ends a row of failures */
};

/* Take a record, if one is there. As in the loop, the source lives until its handler returns. */
static bool hear(sd_event_source *io, int fd, sd_event_io_handler_t handler)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    if (!io || poll(&poller, 1, 0) <= 0)
        return false;
    sd_event_source_ref(io);
    handler(io, fd, EPOLLIN, sd_event_source_get_userdata(io));
    sd_event_source_unref(io);
    return true;
}

/* What a child said before its end may have come since the loop looked last: its outcome or its
 * summary would be lost with its channel. A descendant of a PAM module's may hold that open, and go
 * on to speak: not for ever. */
static void hear_last_words(sd_event_source *const *io, const struct channel *channel,
                            sd_event_io_handler_t handler)
{
    for (int i = 0; i < LAST_WORDS && hear(*io, channel->fd, handler); i++)
        ;
}

/* A worker that was ready and has ended already: whose it was is known from its record only. */
static void hear_starting_workers(struct master *m)
{
    struct worker *next;
    for (struct worker *w = m->workers; w; w = next) {
        next = w->next; /* the end of one that was never ready is the end of it here, too */
        if (w->channel.state == STATE_STARTING)
            hear(w->io, w->channel.fd, workers_hear);
    }
}

static struct worker *find_worker(const struct master *m, pid_t pid)
{
    struct worker *w = m->workers;
    while (w && w->pid != pid)
        w = w->next;
    return w;
}

/* As process 1 we inherit strangers. */
static void reap(struct master *m, pid_t pid)
{
    struct worker *w = find_worker(m, pid);
    struct auth *a = m->auths;
    struct generation *g = m->generations;
    int status;
    while (a && a->pid != pid)
        a = a->next;
    while (g && g->pid != pid)
        g = g->next;
    if (!w && !a && !g) {
        hear_starting_workers(m);
        w = find_worker(m, pid);
    }
    if (w && !w->summarised)
        hear_last_words(&w->io, &w->channel, workers_hear);
    else if (a)
        hear_last_words(&a->io, &a->channel, auths_hear);
    else if (g)
        hear_last_words(&g->io, &g->channel, generation_hear);
    if (waitpid(pid, &status, WNOHANG) != pid)
        return;
    if (w)
        workers_reaped(m, w, status);
    else if (a)
        auths_reaped(m, a, status);
    else if (g)
        generation_reaped(m, g, status);
    else
        workers_unready(m, pid, status);
}

static int on_child(sd_event_source *source, const struct signalfd_siginfo *info, void *context)
{
    siginfo_t ended = {0};
    (void)source;
    (void)info;
    while (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid > 0) {
        reap(context, ended.si_pid);
        ended.si_pid = 0;
    }
    return 0;
}

static void rotate_ticket_keys(struct master *m, uint64_t now)
{
    if (now - m->ticket_key_born < TICKET_KEY_MS)
        return;
    memcpy(m->old_ticket_key, m->ticket_key, sizeof m->ticket_key);
    base_random(m->ticket_key, sizeof m->ticket_key);
    m->ticket_key_born = now;
}

/* Fed while the loop runs and nursery and auth answered the last ping; then they are asked anew. A
 * directory server that hangs keeps auth processes busy, and busy ones are not asked. */
static void feed_watchdog(struct master *m, uint64_t now)
{
    if (m->watchdog_ms == 0 || now - m->watchdog_fed < m->watchdog_ms / 3)
        return;
    bool nursery = !m->serving || (m->current && generation_ping(m->current));
    if (!nursery || !auths_ping(m)) {
        if (!m->starved)
            log_line(LOG_ERR, LOG_EVENT_STALLED, NULL,
                     "%s does not answer: systemd's watchdog is not fed until it does",
                     nursery ? "an idle auth process" : "the nursery");
        m->starved = true;
        return;
    }
    m->starved = false;
    if (notify_now(m, "WATCHDOG=1"))
        m->watchdog_fed = now;
}

static int on_tick(sd_event_source *source, uint64_t usec, void *context)
{
    struct master *m = context;
    char status[sizeof m->status];
    uint64_t now = base_now_ms();
    (void)source;
    (void)usec;
    log_tick();
    rotate_ticket_keys(m, now);
    if (m->serving) {
        if (m->current && now - m->current->born > PROVEN_MS &&
            now - m->nursery_failed_at > PROVEN_MS)
            m->nursery_failures = 0;
        if (m->current && now - m->current->born > m->config->workers.layout_max_age * 1000) {
            m->current->outlived = RETIRED_AGE;
            generation_replace(m, "layout_max_age is over");
        }
        workers_tick(m);
        auths_tick(m);
        login_tick(m);
        control_tick(m);
        status_line(m, status, sizeof status);
        if (strcmp(status, m->status) != 0 && notify_now(m, "STATUS=%s", status))
            base_copy(m->status, sizeof m->status, status);
    }
    feed_watchdog(m, now);
    loop_timer(m, &m->tick, now + TICK_MS, on_tick, m);
    return 0;
}

static int on_reload(sd_event_source *source, const struct signalfd_siginfo *info, void *context)
{
    (void)source;
    (void)info;
    trial_begin(context, -1);
    return 0;
}

static int on_grace_over(sd_event_source *source, uint64_t usec, void *context)
{
    struct master *m = context;
    (void)source;
    (void)usec;
    for (struct worker *w = m->workers; w; w = w->next)
        worker_end(w);
    sd_event_exit(m->event, m->exit_status);
    return 0;
}

static int on_stop(sd_event_source *source, const struct signalfd_siginfo *info, void *context)
{
    struct master *m = context;
    (void)source;
    (void)info;
    if (m->stopping || !m->serving) { /* asked twice, or before there was anything to end */
        sd_event_exit(m->event, m->exit_status);
        return 0;
    }
    m->stopping = true;
    if (m->trial) /* it would open the doors again */
        trial_failed(m, EX_TEMPFAIL, "poplard is stopping");
    notify_state(m, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu\nSTATUS=Waiting for sessions to end",
                 (unsigned long long)(m->config->server.stop_grace + AFTER_GRACE_S) * 1000000);
    listen_detach(m);
    log_line(LOG_NOTICE, LOG_EVENT_STOPPED, NULL, "stopping, %u session%s under way", m->n_sessions,
             base_plural(m->n_sessions));
    workers_tick(m); /* who was accepted is served, also who still waits for a worker */
    workers_end_refused(m);
    loop_timer(m, &m->tick, base_now_ms() + m->config->server.stop_grace * 1000, on_grace_over, m);
    loop_end_if_drained(m);
    return 0;
}

/* All with the priority of everything else: what comes after connections would never come in a
 * flood of them. */
static void add_signal(struct master *m, int number, sd_event_signal_handler_t handler)
{
    sd_event_source *source = NULL;
    if (sd_event_add_signal(m->event, &source, number, handler, m) < 0)
        bug("a signal cannot be watched");
    sd_event_source_set_floating(source, true);
    sd_event_source_unref(source);
}

/* End what is left: children see end-of-file or die with us; wait so that none is left behind. */
static void end_children(struct master *m)
{
    uint64_t until = base_now_ms() + LAST_REAP_MS;
    for (struct worker *w = m->workers; w; w = w->next) {
        worker_end(w);
        worker_tell_end(w);
    }
    for (struct auth *a = m->auths; a; a = a->next)
        channel_close(&a->channel);
    for (struct generation *g = m->generations; g; g = g->next)
        channel_close(&g->channel);
    while (base_now_ms() < until && (waitpid(-1, NULL, WNOHANG) >= 0 || errno == EINTR))
        usleep(1000);
    for (struct auth *a = m->auths; a; a = a->next)
        if (spawn_is_child(a->pid))
            kill(a->pid, SIGKILL);
}

/* A call of the loop's own that fails once, for want of memory say, is made again: sessions need
 * not end for that. */
static int run(sd_event *event)
{
    int result = 0, code = 0;
    unsigned failed = 0;
    while (failed < LOOP_TRIES && sd_event_get_state(event) != SD_EVENT_FINISHED) {
        result = sd_event_run(event, UINT64_MAX);
        failed = result < 0 ? failed + 1 : 0;
    }
    return result < 0 ? result : sd_event_get_exit_code(event, &code);
}

int supervise_run(struct master *m)
{
    static const int signals[] = {SIGCHLD, SIGHUP, SIGTERM, SIGINT};
    sigset_t blocked;
    uint64_t usec = 0;
    sigemptyset(&blocked);
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        sigaddset(&blocked, signals[i]);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    /* Whoever started us may have ignored it: children would then vanish without a word. */
    signal(SIGCHLD, SIG_DFL);
    if (sd_event_new(&m->event) < 0)
        bug("no event loop");
    add_signal(m, SIGCHLD, on_child);
    add_signal(m, SIGHUP, on_reload);
    add_signal(m, SIGTERM, on_stop);
    add_signal(m, SIGINT, on_stop);
    if (sd_watchdog_enabled(1, &usec) > 0)
        m->watchdog_ms = usec / 1000;
    base_random(m->ticket_key, sizeof m->ticket_key);
    base_random(m->old_ticket_key, sizeof m->old_ticket_key);
    m->ticket_key_born = base_now_ms();
    base_random(&m->digest_key, sizeof m->digest_key);
    m->throttle = throttle_new();
    m->started_at = (uint64_t)time(NULL);
    m->waiting_end = &m->waiting;
    m->control_fd = -1;
    m->programs = (struct programs){-1, -1};
    loop_timer(m, &m->tick, base_now_ms() + TICK_MS, on_tick, m);

    trial_begin(m, -1);
    int result = run(m->event);
    if (result < 0) {
        log_line(LOG_ERR, LOG_EVENT_STOPPED, NULL, "the event loop failed: %s", strerror(-result));
        m->exit_status = EX_OSERR;
    }
    listen_detach(m);
    end_children(m);
    control_close(m);
    if (m->serving)
        log_line(LOG_NOTICE, LOG_EVENT_STOPPED, NULL, "stopped");
    free(m->discarded.fds); /* they end with us */
    throttle_free(m->throttle);
    while (m->traced.n > 0)
        free(m->traced.items[--m->traced.n]);
    free(m->traced.items);
    return m->exit_status;
}
