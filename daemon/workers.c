/*
 * workers.c - workers from the fork order to the reaping. Runs in the master. What a worker says of
 * itself is gossip: only its summary's totals are taken, and only for the log.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/pool.h"
#include "daemon/spawn.h"
#include "daemon/status.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
    CROWDED_LOGIN_MS = 10000, /* the time to log in while every slot is taken */
    TOGETHER_MS = 1000,       /* at most, from the end of a channel to that of its worker */
    TOLD_MS = 1000            /* between lines on workers that are never ready */
};

/* What is left in it is not heard any more; a descriptor that a local client gave to a worker of
 * his may be in there. `ended`: nothing can come after. */
static void close_channel(struct master *m, struct worker *w, bool ended)
{
    char octet;
    struct channel *c = &w->channel;
    if (c->wary && (!ended || recv(c->fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT) > 0)) {
        discard(m, c->fd);
        c->fd = -1;
    }
    channel_close(c);
}

static void release(struct master *m, struct worker *w)
{
    struct generation *g = w->generation;
    login_forget(w);
    login_holder_gone(m, w);
    assign_let_go(m, w);
    --*worker_counter(m, w->channel.state);
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    sd_event_source_disable_unref(w->io);
    sd_event_source_disable_unref(w->timer);
    close_channel(m, w, true);
    free(w);
    g->workers--;
    if (g->retired)
        generation_release(m, g);
    loop_end_if_drained(m);
}

static void release_surplus(struct master *m)
{
    unsigned surplus = pool_to_release(m->config->workers.idle_min, m->config->workers.idle_max,
                                       m->arrived_peak, m->n_idle);
    for (struct worker *w = m->workers; w && surplus > 0; w = w->next)
        if (w->channel.state == STATE_IDLE && !w->ended_by_us) {
            worker_end(w);
            surplus--;
        }
}

/* Idle workers of a generation that is no more served from can get no client. */
static void release_stranded(struct master *m)
{
    for (struct worker *w = m->workers; w; w = w->next)
        if (w->channel.state == STATE_IDLE && w->generation->retired && !w->ended_by_us)
            worker_end(w);
}

/* A nursery that does not fork when it is told to, or forks what hangs, would be waited for without
 * end. One a second: with the nursery go the orders that it has. */
static void end_unready(struct master *m, uint64_t now)
{
    struct worker *w = m->workers;
    while (w && (w->channel.state != STATE_STARTING || w->ended_by_us ||
                 now - w->started <= MASTER_START_MS))
        w = w->next;
    if (!w)
        return;
    worker_end(w);
    if (w->generation->pid <= 0)
        return;
    log_line(LOG_ERR, LOG_EVENT_STALLED, NULL,
             "killing the nursery %d: a worker was not ready in time", w->generation->pid);
    kill(w->generation->pid, SIGKILL);
}

void workers_tick(struct master *m)
{
    uint64_t now = base_now_ms();
    admit_tick(m, now);
    end_unready(m, now);
    if (m->n_sessions + m->n_waiting >= m->config->workers.max_sessions)
        for (struct worker *w = m->workers; w; w = w->next)
            if (w->channel.state == STATE_CLIENT && now - w->started > CROWDED_LOGIN_MS)
                worker_end(w);
    m->arrived_peak = m->arrived;
    m->arrived = 0;
    assign_tick(m);
    release_surplus(m);
    release_stranded(m);
    generation_fill(m, false);
}

/* The pid behind a ready message is the kernel's word; still, a process may have sent it that was
 * never forked as a worker. The word for what it is instead, NULL for a worker. */
static const char *find_imposture(const struct master *m, pid_t pid)
{
    if (!spawn_is_child(pid))
        return "not the master's child";
    for (const struct worker *w = m->workers; w; w = w->next)
        if (w->pid == pid)
            return "another worker";
    for (const struct generation *g = m->generations; g; g = g->next)
        if (g->pid == pid)
            return "a nursery";
    for (const struct auth *a = m->auths; a; a = a->next)
        if (a->pid == pid)
            return "an auth process";
    return NULL;
}

static void on_ready(struct master *m, struct worker *w, struct message *message)
{
    const char *imposture = find_imposture(m, message->sender);
    if (imposture) {
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, NULL, "dropping worker %d: it is %s", message->sender,
                 imposture);
        if (spawn_is_child(message->sender))
            kill(message->sender, SIGKILL);
        worker_end(w);
        return;
    }
    w->pid = message->sender;
    if (message_get_u64(message) != proto_fingerprint())
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, NULL,
                 "killing worker %d: it is of another version than its nursery", w->pid);
    else if (!w->ended_by_us) /* else meanwhile */
        worker_enter(w, STATE_IDLE);
    if (w->channel.state != STATE_IDLE) {
        worker_end(w);
        return;
    }
    assign_waiting(m, w);
    generation_fill(m, true); /* the nursery's queue may have been full when the last client came */
    if (!m->announced)
        status_announce(m);
}

static void on_log(struct worker *w, struct message *message)
{
    char text[1024];
    struct log_about about = worker_about(w);
    int priority = (int)message_get_u32(message) & LOG_PRIMASK;
    if (message_get_text(message, text, sizeof text)) {
        char seen[1024];
        base_escape(seen, sizeof seen, text);
        log_line(priority < LOG_WARNING ? LOG_WARNING : priority, LOG_EVENT_CHILD, &about,
                 "worker %d: %s", w->pid, seen);
    }
}

/* A proxy's header, as the worker read it: the one claim of a worker that is used, for limits and
 * the log, and only where the kernel says that the peer is a proxy of ours. */
static void on_real_address(struct master *m, struct worker *w, struct message *message)
{
    char peer[PROTO_ADDRESS_MAX];
    struct client c = w->client;
    struct log_about about = worker_about(w);
    socklen_t size;
    if (!w->proxied || !message_get_text(message, peer, sizeof peer) ||
        !address_parse(peer, &c.peer, &size)) {
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, &about, "killing worker %d: it claims an address",
                 w->pid);
        worker_end(w);
        return;
    }
    address_unmap(&c.peer);
    c.source = address_source(&c.peer);
    bool taken = admit_sessions_of(m, &c) < m->config->workers.max_per_source;
    log_line(taken ? LOG_DEBUG : LOG_NOTICE, taken ? LOG_EVENT_OTHER : LOG_EVENT_REFUSED, &about,
             "%s peer=%s behind proxy=%s%s", taken ? "serving" : "refused", peer, w->peer_text,
             taken ? "" : ": [workers] max_per_source");
    w->proxied = false;
    w->client = c;
    admit_print(&c, w->peer_text);
    message_clear(message);
    message_begin(message, PROTO_ADDRESS_TAKEN);
    message_put_u32(message, taken);
    message_put_text(message, w->peer_text);
    if (channel_send(&w->channel, message, false) != CHANNEL_OK)
        worker_end(w);
}

/* A recipient is text to pass on to auth, which decides. */
static void on_recipient(struct master *m, struct worker *w, struct message *message)
{
    char recipient[sizeof w->recipient];
    bool fits = message_get_text(message, recipient, sizeof recipient);
    uint32_t service = fits ? message_get_u32(message) : 0;
    if (service < SERVE_CHECK || service > SERVE_FIRST) {
        struct log_about about = worker_about(w);
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, &about,
                 "killing worker %d: it asks about a recipient that cannot be", w->pid);
        worker_end(w);
        return;
    }
    base_copy(w->recipient, sizeof w->recipient, recipient);
    w->service = service;
    login_wanted(m, w);
}

static void dispatch(struct master *m, struct worker *w, struct message *message)
{
    switch (message->rule->type) {
    case PROTO_READY:
        on_ready(m, w, message);
        break;
    case PROTO_LOGIN_WANTED:
        if (!message_get_text(message, w->tls, sizeof w->tls))
            w->tls[0] = '\0';
        if (!message_get_text(message, w->claimed, sizeof w->claimed))
            w->claimed[0] = '\0';
        worker_enter(w, STATE_LOGIN);
        login_wanted(m, w);
        break;
    case PROTO_GRANT_AGAIN:
        login_wanted(m, w);
        break;
    case PROTO_REAL_ADDRESS:
        on_real_address(m, w, message);
        break;
    case PROTO_RECIPIENT:
        on_recipient(m, w, message);
        break;
    case PROTO_SUMMARY:
        status_summary(m, w, message);
        w->summarised = true;
        login_forget(w);
        worker_may_leave(w);
        break;
    default:
        on_log(w, message);
    }
}

/* Told once of each record: sd-event dispatches one source a turn and asks the kernel anew in each,
 * which would name every worker that still waits to be heard, a thousand of them a thousand times.
 * Setting the edge again asks whether there is more; one record a turn it stays, so that an auth
 * process which spoke first is heard first. False: there may be more, and nobody will say so. */
static bool set_edge(struct worker *w)
{
    return !w->io || sd_event_source_set_io_events(w->io, EPOLLIN | EPOLLET) >= 0;
}

static enum channel_outcome hear_one(struct worker *w, struct message *message)
{
    const char *fault = NULL;
    enum channel_outcome outcome = channel_receive(&w->channel, message, false, &fault);
    if (outcome == CHANNEL_OK) {
        assign_let_go(w->master, w);
        dispatch(w->master, w, message);
        message_clear(message);
    } else if (outcome == CHANNEL_BAD) {
        struct log_about about = worker_about(w);
        if (w->pid == 0 &&
            spawn_is_child(message->sender)) /* not ready: known from this record only */
            kill(message->sender, SIGKILL);
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, &about, "killing worker %d: it sent a record %s",
                 w->pid ? w->pid : message->sender, fault);
    }
    return outcome;
}

int workers_hear(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct worker *w = context;
    struct master *m = w->master;
    struct message message;
    enum channel_outcome outcome;
    (void)source;
    (void)fd;
    (void)events;
    do
        outcome = hear_one(w, &message);
    while (outcome == CHANNEL_OK && !set_edge(w));
    if (outcome == CHANNEL_OK || outcome == CHANNEL_AGAIN)
        return 0;

    bool expected = w->ended_by_us;
    if (outcome == CHANNEL_BAD)
        worker_end(w);
    else if (w->pid > 0 && !w->summarised)
        kill(w->pid, SIGKILL); /* it has ended, or ends, or has no further use */
    w->io = sd_event_source_disable_unref(w->io);
    close_channel(m, w, outcome == CHANNEL_END);
    if (w->channel.untaken && !w->ended_by_us)
        assign_again(m, w);
    if (w->pid == 0) { /* never ready: see workers_unready() */
        if (!expected) {
            generation_failed(m);
            m->hung_up = base_now_ms();
        }
        release(m, w);
    }
    return 0;
}

void workers_add(struct master *m, struct generation *g, int channel_fd)
{
    struct worker *w = base_alloc(sizeof *w);
    w->master = m;
    w->generation = g;
    w->client.fd = -1;
    w->started = base_now_ms();
    g->workers++;
    channel_open(&w->channel, channel_fd, ROLE_MASTER, ROLE_WORKER, STATE_STARTING);
    m->n_starting++;
    w->next = m->workers;
    w->link = &m->workers;
    if (w->next)
        w->next->link = &w->next;
    m->workers = w;
    if (!loop_watch(m, &w->io, channel_fd, workers_hear, w))
        release(m, w); /* with its channel goes the worker, whose pid is not known yet */
    else
        (void)set_edge(w); /* without it, it is named more often than need be */
}

void workers_reaped(struct master *m, struct worker *w, int status)
{
    struct generation *g = w->generation;
    struct log_about about = worker_about(w);
    char named[sizeof w->user + 2];
    bool logged_in = w->channel.state & (STATE_MAIL | STATE_DELIVERY | STATE_DONE);
    bool signalled = WIFSIGNALED(status);
    bool probe = signalled && !w->ended_by_us && pool_is_probe(WTERMSIG(status), logged_in);
    pid_t pid = w->pid;

    m->counts[COUNT_CRASHES] += signalled && !w->ended_by_us;
    m->counts[COUNT_ENDED] += w->session && !w->summarised;
    base_value(named, sizeof named, w->user);
    if (signalled && !w->ended_by_us)
        log_line(LOG_ERR, LOG_EVENT_CRASH, &about, "worker %d was ended by signal %d, user=%s", pid,
                 WTERMSIG(status), named);
    else
        worker_tell_end(w);
    g->workers++; /* keep the generation past the worker's release */
    release(m, w);
    g->workers--;
    if (probe) {
        bool served = !g->retired;
        base_random(m->ticket_key, sizeof m->ticket_key);
        base_random(m->old_ticket_key, sizeof m->old_ticket_key);
        if (served && base_now_ms() - g->born < 1000)
            generation_failed(m);
        m->counts[proto_count_of(COUNT_RETIRED, RETIRED_CRASH)] += served;
        generation_retire(m, g, true); /* who shares the layout ends, also of one retired before */
        if (served)
            generation_replace(m, "a worker crashed");
    } else {
        generation_release(m, g);
    }
    generation_fill(m, true);
}

void workers_unready(struct master *m, pid_t pid, int status)
{
    char how[40];
    uint64_t now = base_now_ms();
    bool crashed = WIFSIGNALED(status) && pool_is_probe(WTERMSIG(status), false);
    bool failed = WIFEXITED(status) && WEXITSTATUS(status) != 0;
    if ((!crashed && !failed) || (m->n_starting == 0 && now - m->hung_up > TOGETHER_MS))
        return;
    m->counts[COUNT_CRASHES] += crashed;
    if (now - m->unready_told < TOLD_MS)
        return;
    m->unready_told = now;
    snprintf(how, sizeof how, crashed ? "by signal %d" : "with status %d",
             crashed ? WTERMSIG(status) : WEXITSTATUS(status));
    log_line(LOG_ERR, LOG_EVENT_CRASH, NULL, "worker %d ended before it was ready, %s", pid, how);
}

void workers_end_refused(struct master *m)
{
    for (struct worker *w = m->workers; w; w = w->next)
        if (w->refused)
            worker_end(w);
}
