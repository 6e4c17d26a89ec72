/*
 * generation.c - nurseries: started, filled with fork orders, replaced when they are old, used up,
 * crashed or dead. Runs in the master.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/pool.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <sysexits.h>

enum {
    FORKS_AT_ONCE = 16,  /* orders: with more the nursery's queue would hold up the loop */
    FORKS_AT_LEISURE = 2 /* under way while nobody waits: sessions need the processors, too */
};

static bool is_on_trial(const struct generation *g)
{
    return g->master->trial && g->master->trial->generation == g;
}

static int on_overdue(sd_event_source *source, uint64_t usec, void *context)
{
    struct generation *g = context;
    (void)source;
    (void)usec;
    if (g->pid <= 0)
        return 0;
    if (g->retired)
        log_line(LOG_ERR, LOG_EVENT_STALLED, NULL,
                 "killing the nursery %d: it goes on after the end of its channel", g->pid);
    else
        base_copy(g->last_error, sizeof g->last_error,
                  "the nursery (poplar-worker) was not ready in time; it hangs");
    kill(g->pid, SIGKILL);
    return 0;
}

/* It ends at end-of-file when that fails; the reaping says why. */
static void set_up(struct generation *g)
{
    if (loop_set_up(g->io, &g->setup, &g->channel, g->last_error, sizeof g->last_error))
        return;
    g->status = base_status(errno, EX_CONFIG);
    g->io = sd_event_source_disable_unref(g->io);
    channel_close(&g->channel);
    if (is_on_trial(g))
        trial_failed(g->master, g->status, g->last_error);
}

struct generation *generation_spawn(struct master *m, struct config *config, bool strict)
{
    struct generation *g = base_alloc(sizeof *g);
    g->master = m;
    g->channel.fd = -1;
    g->status = EX_OSERR;
    g->number = ++m->generation_number;
    g->born = base_now_ms();
    g->n_expires = config->tls.n_certificates;
    g->expires = base_alloc(g->n_expires * sizeof *g->expires);
    g->pid = trial_spawn(m, config, strict, ROLE_NURSERY, &g->channel);
    g->next = m->generations;
    m->generations = g;
    if (g->pid < 0)
        snprintf(g->last_error, sizeof g->last_error, "cannot start %s/poplar-worker: %s",
                 config->server.program_dir, strerror(errno));
    else {
        g->setup = (struct setup){.config = config, .strict = strict};
        loop_timer(m, &g->timer, g->born + MASTER_START_MS, on_overdue, g);
        if (loop_watch(m, &g->io, g->channel.fd, generation_hear, g)) {
            set_up(g);
        } else {
            base_copy(g->last_error, sizeof g->last_error, "the nursery cannot be heard");
            kill(g->pid, SIGKILL);
        }
    }
    if (!g->io)
        channel_close(&g->channel);
    return g;
}

void generation_release(struct master *m, struct generation *g)
{
    if (g->pid > 0 || g->workers > 0 || g == m->current || is_on_trial(g))
        return;
    for (struct generation **at = &m->generations; *at; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            break;
        }
    sd_event_source_disable_unref(g->io);
    sd_event_source_disable_unref(g->timer);
    channel_close(&g->channel);
    free(g->expires);
    free(g);
}

void generation_retire(struct master *m, struct generation *g, bool crash)
{
    g->retired = true;
    if (m->current == g)
        m->current = NULL;
    g->io = sd_event_source_disable_unref(g->io);
    channel_close(&g->channel); /* it ends at end-of-file */
    loop_timer(m, &g->timer, base_now_ms() + MASTER_LEAVE_MS, on_overdue, g);
    if (crash && g->pid > 0)
        kill(g->pid, SIGKILL);
    for (struct worker *w = m->workers; w; w = w->next) {
        bool logged_in = w->channel.state & (STATE_MAIL | STATE_DELIVERY | STATE_DONE);
        if (w->generation == g && crash && !logged_in)
            worker_end(w);
    }
    generation_release(m, g);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *context)
{
    struct master *m = context;
    (void)source;
    (void)usec;
    m->nursery_retry = sd_event_source_disable_unref(m->nursery_retry);
    generation_replace(m, NULL);
    return 0;
}

void generation_failed(struct master *m)
{
    m->nursery_failures++;
    m->nursery_failed_at = base_now_ms();
}

/* Start the nursery that follows; the present one, if any, serves until the next is ready. */
void generation_replace(struct master *m, const char *why)
{
    if (m->stopping || !m->serving || m->nursery_retry)
        return; /* the last: its time comes */
    for (struct generation *g = m->generations; g; g = g->next)
        if (g != m->current && !g->retired && !is_on_trial(g))
            return; /* one is starting */
    unsigned wait = pool_backoff_ms(m->nursery_failures);
    if (wait > 0 && why) {
        log_line(LOG_WARNING, LOG_EVENT_CRASH, NULL, "new nursery in %u ms: %s", wait, why);
        loop_timer(m, &m->nursery_retry, base_now_ms() + wait, on_retry, m);
        return;
    }
    if (why)
        log_line(LOG_INFO, LOG_EVENT_REPLACED, NULL, "starting a new nursery: %s", why);
    struct generation *g = generation_spawn(m, m->config, false);
    if (g->channel.fd < 0 && g->pid < 0) {
        char text[sizeof g->last_error];
        base_copy(text, sizeof text, g->last_error);
        generation_failed(m);
        g->retired = true;
        generation_release(m, g);
        generation_replace(m, text);
    }
}

void generation_serve(struct master *m, struct generation *g)
{
    m->nursery_retry = sd_event_source_disable_unref(m->nursery_retry);
    if (m->current)
        m->counts[proto_count_of(COUNT_RETIRED, m->current->outlived)]++;
    m->current = g;
    /* Also one that was started meanwhile, by the configuration before, and is not ready yet. */
    for (struct generation *other = m->generations, *next; other; other = next) {
        next = other->next;
        if (other != g && !other->retired && !is_on_trial(other))
            generation_retire(m, other, false);
    }
    generation_fill(m, false);
}

static void on_ready(struct master *m, struct generation *g, struct message *message)
{
    if (!setup_accept(&g->setup, message, "poplar-worker", g->last_error, sizeof g->last_error)) {
        m->outdated |= !g->setup.more && !is_on_trial(g);
        kill(g->pid, SIGKILL);
        return;
    }
    g->ready = true;
    g->timer = sd_event_source_disable_unref(g->timer);
    g->channel.state = STATE_IDLE;
    if (is_on_trial(g))
        trial_step(m);
    else
        generation_serve(m, g);
}

static void on_expires(struct generation *g, struct message *message)
{
    uint32_t which = message_get_u32(message);
    if (which < g->n_expires)
        g->expires[which] = message_get_u64(message);
}

/* The nursery could not fork: out of processes or memory. The housekeeping tick tries again, and
 * has it told as often. */
static void on_fork_failed(struct master *m, struct message *message)
{
    uint64_t now = base_now_ms();
    generation_failed(m);
    if (now - m->fork_failed < 1000)
        return;
    m->fork_failed = now;
    log_line(LOG_ERR, LOG_EVENT_SHORT, NULL, "the nursery cannot fork a worker: %s",
             strerror((int)message_get_u32(message)));
}

int generation_hear(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct generation *g = context;
    struct master *m = g->master;
    struct message message;
    const char *fault = NULL;
    (void)source;
    (void)fd;
    if (events & EPOLLOUT)
        set_up(g);
    if (!g->io && g->channel.fd < 0)
        return 0;
    switch (channel_receive(&g->channel, &message, false, &fault)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_AGAIN:
        return 0;
    case CHANNEL_BAD:
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, NULL, "killing the nursery: it sent a record %s",
                 fault);
        /* fall through */
    default: /* it has ended, or ends, or has no further use; the reaping says the rest */
        if (g->pid > 0)
            kill(g->pid, SIGKILL);
        g->io = sd_event_source_disable_unref(g->io);
        channel_close(&g->channel);
        return 0;
    }
    switch (message.rule->type) {
    case PROTO_READY:
        on_ready(m, g, &message);
        break;
    case PROTO_EXPIRES:
        on_expires(g, &message);
        break;
    case PROTO_PONG:
        g->awaiting_pong = false;
        break;
    case PROTO_FORK_FAILED:
        on_fork_failed(m, &message);
        break;
    default:
        loop_log(&message, "nursery", NULL, g->ready, g->last_error, sizeof g->last_error);
    }
    message_clear(&message);
    return 0;
}

void generation_reaped(struct master *m, struct generation *g, int status)
{
    char why[640];
    g->pid = 0;
    bool crashed = WIFSIGNALED(status) && pool_is_probe(WTERMSIG(status), false);
    if (WIFSIGNALED(status) && (g->ready || !*g->last_error))
        snprintf(why, sizeof why, "the nursery was ended by signal %d", WTERMSIG(status));
    else
        snprintf(why, sizeof why, "%s",
                 *g->last_error ? g->last_error : "the nursery ended by itself");
    if (is_on_trial(g)) {
        m->trial->generation = NULL;
        g->retired = true;
        trial_failed(m, WIFEXITED(status) ? WEXITSTATUS(status) : EX_SOFTWARE, why);
        generation_release(m, g);
        return;
    }
    if (g->retired) {
        generation_release(m, g);
        return;
    }
    if (!g->ready || base_now_ms() - g->born < 1000)
        generation_failed(m);
    log_line(LOG_ERR, LOG_EVENT_CRASH, NULL, "%s", why);
    m->counts[proto_count_of(COUNT_RETIRED, RETIRED_LOST)] += g == m->current;
    generation_retire(m, g, crashed);
    generation_replace(m, why);
}

static bool order_fork(struct master *m, struct generation *g)
{
    struct message message;
    int ends[2];
    if (channel_pair(ends, true) < 0)
        return false;
    message_begin(&message, PROTO_FORK);
    message_put_fd(&message, ends[1]);
    bool sent = channel_send(&g->channel, &message, false) == CHANNEL_OK;
    base_close(ends[1]);
    if (sent) {
        g->forked++;
        workers_add(m, g, ends[0]);
    } else {
        base_close(ends[0]);
    }
    return sent;
}

void generation_fill(struct master *m, bool may_wait)
{
    uint64_t limit = m->config->workers.sessions_per_layout;
    if ((m->stopping && m->n_waiting == 0) || !m->current || m->current->channel.fd < 0)
        return;
    unsigned arrived = m->arrived > m->arrived_peak ? m->arrived : m->arrived_peak;
    unsigned n = pool_to_fork(m->config->workers.idle_min, m->config->workers.idle_max, arrived,
                              m->n_waiting, m->n_idle, m->n_starting, may_wait && !m->filling);
    unsigned most = m->n_waiting > 0                   ? FORKS_AT_ONCE
                    : m->n_starting < FORKS_AT_LEISURE ? FORKS_AT_LEISURE - m->n_starting
                                                       : 0;
    m->filling = n > most; /* each that is ready has the next one ordered */
    for (unsigned i = 0; i < n && i < most; i++) {
        if (limit > 0 && m->current->forked >= limit) {
            m->current->outlived = RETIRED_SESSIONS;
            generation_replace(m, NULL);
            return;
        }
        if (!order_fork(m, m->current))
            return;
    }
}

bool generation_ping(struct generation *g)
{
    struct message message;
    message_begin(&message, PROTO_PING);
    if (g->awaiting_pong || channel_send(&g->channel, &message, false) != CHANNEL_OK)
        return false;
    g->awaiting_pong = true;
    return true;
}
