/*
 * auths.c - auth processes: how many there are, what becomes of each. Runs in the master. What they
 * are asked is login.c's.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/pool.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>

enum {
    SPARE_MS = 60000,     /* an auth process above processes_min may idle so long */
    CLOSED_MS = 1000,     /* from the end of its channel to its own, when it is in an exchange */
    SHORT_LIFE_MS = 1000, /* an auth process that ends sooner, and served nobody, has failed */
    FORGIVEN_MS = 60000   /* after so long without a failure, earlier ones are forgotten */
};

/* What a line about it is about. */
static struct log_about about_exchange(const struct auth *a)
{
    return a->worker ? worker_about(a->worker) : (struct log_about){0};
}

/* For the worker, too, though a PAM module's daemon may hold the same end. A verdict that is on its
 * way arrives before. */
static void end_exchange(struct auth *a)
{
    if (a->exchange >= 0)
        shutdown(a->exchange, SHUT_RDWR);
    base_close(a->exchange);
    a->exchange = -1;
}

static void release(struct master *m, struct auth *a)
{
    end_exchange(a);
    *a->link = a->next;
    if (a->next)
        a->next->link = a->link;
    if (a->worker)
        a->worker->auth = NULL;
    if (m->trial && m->trial->auth == a)
        m->trial->auth = NULL;
    sd_event_source_disable_unref(a->io);
    sd_event_source_disable_unref(a->timer);
    channel_close(&a->channel);
    free(a);
}

static int on_overdue(sd_event_source *source, uint64_t usec, void *context)
{
    struct auth *a = context;
    const struct trial *trial = a->master->trial;
    struct log_about about = about_exchange(a);
    const char *why = "no answer in time ([auth] timeout); a PAM module or the directory behind it "
                      "hangs";
    (void)source;
    (void)usec;
    if (a->channel.state == STATE_STARTING)
        why = "an auth process was not ready in time; it hangs, or a PAM module does";
    else if (a->channel.fd < 0)
        why = "it goes on after the end of its channel";
    base_copy(a->last_error, sizeof a->last_error, why); /* for whom a trial waits */
    if (!trial || trial->auth != a)
        log_line(LOG_ERR, LOG_EVENT_STALLED, &about, "killing auth process %d: %s", a->pid, why);
    a->killed = true;
    kill(a->pid, SIGKILL);
    return 0;
}

void auths_deadline(struct auth *a, uint64_t ms)
{
    loop_timer(a->master, &a->timer, base_now_ms() + ms, on_overdue, a);
}

void auths_retire(struct auth *a)
{
    a->retired = true;
    if (a->channel.state == STATE_BUSY)
        return;
    a->io = sd_event_source_disable_unref(a->io);
    channel_close(&a->channel); /* it ends at end-of-file */
    auths_deadline(a, MASTER_LEAVE_MS);
}

void auths_retire_all(struct master *m, const struct config *config)
{
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->config == config)
            auths_retire(a);
}

void auths_kill(struct auth *a, const char *what)
{
    struct log_about about = about_exchange(a);
    log_line(LOG_ERR, LOG_EVENT_CONTRACT, &about, "killing auth process %d: it %s", a->pid, what);
    a->killed = true;
    kill(a->pid, SIGKILL);
}

struct auth *auths_idle(struct master *m)
{
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->channel.state == STATE_IDLE && !a->retired && !a->killed && a->config == m->config)
            return a;
    return NULL;
}

static void on_vacant(struct master *m, struct auth *a)
{
    a->timer = sd_event_source_disable_unref(a->timer);
    end_exchange(a);
    if (a->worker) /* no outcome */
        login_undecided(m, &a->attempt, a->worker, false);
    a->worker = NULL;
    a->holder = NULL;
    a->owes = false;
    a->channel.state = STATE_IDLE;
    a->served = true;
    m->auth_failures = 0;
    a->vacant_since = base_now_ms();
    if (a->retired)
        auths_retire(a);
    login_serve(m);
}

static void on_ready(struct master *m, struct auth *a, struct message *message)
{
    bool tried = m->trial && m->trial->auth == a;
    if (!setup_accept(&a->setup, message, "poplar-auth", a->last_error, sizeof a->last_error)) {
        m->outdated |= !a->setup.more && !tried;
        kill(a->pid, SIGKILL);
        return;
    }
    a->channel.state = STATE_IDLE;
    a->timer = sd_event_source_disable_unref(a->timer);
    a->vacant_since = base_now_ms();
    if (tried)
        trial_step(m);
    else
        login_serve(m);
}

static void set_up(struct auth *a)
{
    if (!loop_set_up(a->io, &a->setup, &a->channel, a->last_error, sizeof a->last_error))
        kill(a->pid, SIGKILL); /* it would wait for the rest; the reaping says why */
}

int auths_hear(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct auth *a = context;
    struct master *m = a->master;
    struct message message;
    struct log_about about;
    const char *fault = NULL;
    char broken[80];
    (void)source;
    (void)fd;
    if (events & EPOLLOUT)
        set_up(a);
    switch (channel_receive(&a->channel, &message, false, &fault)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_AGAIN:
        return 0;
    case CHANNEL_BAD:
        snprintf(broken, sizeof broken, "sent a record %s", fault);
        auths_kill(a, broken);
        /* fall through */
    default: /* it has ended, or ends, or has no further use */
        if (a->channel.state == STATE_BUSY)
            auths_deadline(a, CLOSED_MS); /* it may find out by itself, and say so */
        else
            kill(a->pid, SIGKILL);
        a->io = sd_event_source_disable_unref(a->io);
        channel_close(&a->channel);
        a->retired = true;
        return 0;
    }
    switch (message.rule->type) {
    case PROTO_READY:
        on_ready(m, a, &message);
        break;
    case PROTO_PONG:
        a->awaiting_pong = false;
        break;
    case PROTO_OUTCOME:
        login_outcome(m, a, &message);
        break;
    case PROTO_LOCKED:
        login_locked(m, a, &message);
        break;
    case PROTO_VACANT:
        on_vacant(m, a);
        break;
    default:
        about = about_exchange(a);
        loop_log(&message, "auth", &about, a->channel.state != STATE_STARTING, a->last_error,
                 sizeof a->last_error);
    }
    message_clear(&message);
    return 0;
}

struct auth *auths_spawn(struct master *m, struct config *config, bool strict)
{
    struct auth *a = base_alloc(sizeof *a);
    a->master = m;
    a->config = config;
    a->exchange = -1;
    a->pid = trial_spawn(m, config, strict, ROLE_AUTH, &a->channel);
    if (a->pid < 0) {
        m->auth_retry_at = base_now_ms() + pool_backoff_ms(++m->auth_failures);
        log_line(LOG_ERR, LOG_EVENT_SHORT, NULL, "cannot start %s/poplar-auth: %s",
                 config->server.program_dir, strerror(errno));
        free(a);
        return NULL;
    }
    a->next = m->auths;
    a->link = &m->auths;
    if (a->next)
        a->next->link = &a->next;
    m->auths = a;
    if (!loop_watch(m, &a->io, a->channel.fd, auths_hear, a)) {
        kill(a->pid, SIGKILL); /* the reaping says the rest */
        return a;
    }
    /* An outcome is told to us before the worker: it must be heard before what that one says next.
     */
    sd_event_source_set_priority(a->io, SD_EVENT_PRIORITY_IMPORTANT);
    a->setup = (struct setup){.config = config, .digest_key = &m->digest_key, .strict = strict};
    set_up(a);
    auths_deadline(a, MASTER_START_MS);
    return a;
}

void auths_grow(struct master *m)
{
    unsigned there = 0, starting = 0, queued;
    if (m->stopping || !m->serving || base_now_ms() < m->auth_retry_at)
        return; /* before a first start is through there is no configuration to go by */
    queued = queue_length(m);
    for (struct auth *a = m->auths; a; a = a->next) {
        bool ours = !a->retired && a->config == m->config; /* not of a trial */
        there += ours;
        starting += ours && a->channel.state == STATE_STARTING;
    }
    while (there < m->config->auth.processes_max &&
           (there < m->config->auth.processes_min || starting < queued)) {
        if (!auths_spawn(m, m->config, false))
            return;
        there++;
        starting++;
    }
}

/* The next one is started later, and later each time. */
static void back_off(struct master *m)
{
    unsigned wait = pool_backoff_ms(++m->auth_failures);
    m->auth_retry_at = base_now_ms() + wait;
    log_line(LOG_WARNING, LOG_EVENT_CRASH, NULL, "new auth process in %u ms", wait);
}

void auths_reaped(struct master *m, struct auth *a, int status)
{
    char why[640];
    struct worker *w = a->worker;
    struct attempt attempt = a->attempt;
    bool sent = WIFSIGNALED(status) && !pool_is_probe(WTERMSIG(status), false);
    bool crashed = a->owes && !a->killed && !sent;
    bool trial = m->trial && m->trial->auth == a;
    bool recycled = WIFEXITED(status) && (WEXITSTATUS(status) == PROTO_EXIT_DONE ||
                                          WEXITSTATUS(status) == PROTO_EXIT_RECYCLE);
    bool started = a->channel.state != STATE_STARTING;
    struct log_about about = about_exchange(a);

    if (WIFSIGNALED(status) && (started || !*a->last_error))
        snprintf(why, sizeof why, "auth process %d was ended by signal %d", a->pid,
                 WTERMSIG(status));
    else
        snprintf(why, sizeof why, "%s",
                 *a->last_error && !started ? a->last_error : "an auth process ended by itself");
    if (!trial && !a->killed && (!started || w || !recycled))
        log_line(LOG_ERR, LOG_EVENT_CRASH, &about, "%s", why);
    bool short_lived = !recycled && !a->served && base_now_ms() - a->vacant_since < SHORT_LIFE_MS;
    bool ours = m->serving && a->config == m->config; /* not of a trial that failed */
    release(m, a);
    login_undecided(m, &attempt, w, crashed);
    if (trial) {
        trial_failed(m, WIFEXITED(status) ? WEXITSTATUS(status) : EX_SOFTWARE, why);
        return;
    }
    if (ours && (!started || short_lived))
        back_off(m);
    login_serve(m);
}

void auths_tick(struct master *m)
{
    uint64_t now = base_now_ms();
    unsigned there = 0;
    if (now > m->auth_retry_at + FORGIVEN_MS)
        m->auth_failures = 0;
    for (struct auth *a = m->auths; a; a = a->next)
        there += !a->retired;
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->channel.state == STATE_IDLE && !a->retired && now - a->vacant_since > SPARE_MS &&
            there > m->config->auth.processes_min) {
            auths_retire(a);
            there--;
        }
}

bool auths_ping(struct master *m)
{
    struct message message;
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->awaiting_pong && a->channel.state == STATE_IDLE && !a->retired)
            return false;
    struct auth *a = auths_idle(m);
    message_begin(&message, PROTO_PING);
    if (a && channel_send(&a->channel, &message, false) == CHANNEL_OK)
        a->awaiting_pong = true;
    return true;
}
