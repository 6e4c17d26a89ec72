/*
 * login.c - auth processes, and the pairing of a worker that wants to log in with one of them.
 * Runs in the master. It sees who logged in, never with what: credentials pass it by.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/pool.h"
#include "daemon/setup.h"
#include "daemon/spawn.h"
#include "daemon/status.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>

enum {
    GRANTS_MAX = 3,       /* PROTO_GRANT_AGAIN in one session */
    SPARE_MS = 60000,     /* an auth process above processes_min may idle so long */
    SETTLING_MS = 10000,  /* from the outcome to PROTO_VACANT */
    CLOSED_MS = 1000,     /* from the end of its channel to its own, when it is in an exchange */
    SHORT_LIFE_MS = 1000, /* an auth process that ends sooner, and served nobody, has failed */
    FORGIVEN_MS = 60000   /* after so long without a failure, earlier ones are forgotten */
};

static void release(struct master *m, struct auth *a)
{
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

/* Its end follows at end-of-file. */
static void retire(struct auth *a)
{
    a->retired = true;
    if (a->channel.state == STATE_BUSY)
        return;
    a->io = sd_event_source_disable_unref(a->io);
    channel_close(&a->channel);
}

void login_retire_all(struct master *m, const struct config *config)
{
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->config == config)
            retire(a);
}

static int on_overdue(sd_event_source *source, uint64_t usec, void *context)
{
    struct auth *a = context;
    const struct trial *trial = a->master->trial;
    struct log_about about = a->worker ? worker_about(a->worker) : (struct log_about){0};
    const char *why = "no answer in time ([auth] timeout); a PAM module or the directory behind it "
                      "hangs";
    (void)source;
    (void)usec;
    if (a->channel.state == STATE_STARTING)
        why = "an auth process was not ready in time; it hangs, or a PAM module does";
    else if (a->channel.fd < 0)
        why = "a PAM module closed its channel";
    base_copy(a->last_error, sizeof a->last_error, why); /* for whom a trial waits */
    if (!trial || trial->auth != a)
        log_line(LOG_ERR, LOG_EVENT_STALLED, &about, "killing auth process %d: %s", a->pid, why);
    a->killed = true;
    kill(a->pid, SIGKILL);
    return 0;
}

static void deadline(struct auth *a, uint64_t ms)
{
    loop_timer(a->master, &a->timer, base_now_ms() + ms, on_overdue, a);
}

static void refuse(struct master *m, struct worker *w, enum login_refusal why)
{
    struct message message;
    w->queued = false;
    if (w->channel.state == STATE_LOGIN)
        m->counts[why == REFUSED_THROTTLED ? COUNT_LOGINS_THROTTLED : COUNT_LOGINS_BUSY]++;
    message_begin(&message, PROTO_LOGIN_REFUSED);
    message_put_u32(&message, why);
    if (channel_send(&w->channel, &message, false) != CHANNEL_OK)
        worker_end(w);
    else if (w->channel.state == STATE_LOGIN)
        w->channel.state = STATE_CLIENT; /* both count as a session */
}

/* Ask an auth process for what a worker wants. */
static bool ask(struct auth *a, const struct worker *w, enum proto_service service, int exchange_fd)
{
    struct message message;
    char peer[PROTO_ADDRESS_MAX];
    address_print(&w->peer, false, peer);
    message_begin(&message, PROTO_SERVE);
    message_put_u64(&message, w->session);
    message_put_u32(&message, service);
    message_put_text(&message, service == SERVE_GRANT   ? w->canonical
                               : service == SERVE_LOGIN ? ""
                                                        : w->recipient);
    message_put_text(&message, peer);
    message_put_u32(&message, w->door);
    message_put_u32(&message, w->uid);
    message_put_fd(&message, exchange_fd);
    return channel_send(&a->channel, &message, false) == CHANNEL_OK;
}

/* Give one end of a fresh socket pair to each side: the worker's first, so that what it says may be
 * there when auth looks. */
static void pair(struct master *m, struct auth *a, struct worker *w)
{
    struct message message;
    int ends[2];
    enum proto_service service = w->channel.state == STATE_MAIL       ? SERVE_GRANT
                                 : w->channel.state == STATE_DELIVERY ? w->service
                                                                      : SERVE_LOGIN;
    if (channel_pair(ends, false) < 0) {
        log_line(LOG_ERR, LOG_EVENT_SHORT, NULL, "cannot pair a login: %s", strerror(errno));
        refuse(m, w, REFUSED_BUSY);
        return;
    }
    w->queued = false;
    if (service == SERVE_LOGIN)
        worker_trace_later(w);
    message_begin(&message, PROTO_EXCHANGE);
    message_put_fd(&message, ends[1]);
    if (channel_send(&w->channel, &message, false) != CHANNEL_OK) {
        worker_end(w);
    } else if (!ask(a, w, service, ends[0])) {
        retire(a);
        worker_settle(w, false); /* to it, auth has ended */
    } else {
        w->auth = a;
        a->worker = w;
        a->owes = true;
        a->attempt = (struct attempt){.service = service,
                                      .session = w->session,
                                      .door = w->door,
                                      .peer = w->peer,
                                      .asked = w->asked};
        base_copy(a->attempt.peer_text, sizeof a->attempt.peer_text, w->peer_text);
        a->channel.state = STATE_BUSY;
        deadline(a, m->config->auth.timeout * 1000);
    }
    base_close(ends[0]);
    base_close(ends[1]);
}

static struct auth *idle_auth(struct master *m)
{
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->channel.state == STATE_IDLE && !a->retired && !a->killed && a->config == m->config)
            return a;
    return NULL;
}

/* Start what is missing: processes_min, and one for each login that waits, up to processes_max. */
static void grow(struct master *m)
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
        if (!login_spawn(m, m->config, false))
            return;
        there++;
        starting++;
    }
}

static bool is_throttled(const struct master *m, const struct worker *w)
{
    return w->channel.state == STATE_LOGIN &&
           throttle_refuses(m->throttle, &w->source, base_now_ms()) &&
           !address_listed(&m->config->auth.throttle_exempt, &w->peer);
}

static void serve_queue(struct master *m)
{
    for (;;) {
        struct auth *a = idle_auth(m);
        struct worker *w = a ? queue_next(m) : NULL;
        if (!w)
            break;
        if (is_throttled(m, w)) /* by those of its source that were served meanwhile */
            refuse(m, w, REFUSED_THROTTLED);
        else
            pair(m, a, w);
    }
    grow(m);
}

void login_wanted(struct master *m, struct worker *w)
{
    w->asked = base_now_us();
    /* An auth process that died is known to the worker, by end-of-file, before it is to us: a
     * delivery that asks again then waits until that one is reaped. */
    bool owed = w->auth && w->channel.state != STATE_DELIVERY;
    if (owed || w->queued || w->failures >= MASTER_LOGIN_ATTEMPTS ||
        (w->channel.state == STATE_MAIL && ++w->grants > GRANTS_MAX)) {
        struct log_about about = worker_about(w);
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, &about, "killing worker %d: it asks too often",
                 w->pid);
        worker_end(w);
        return;
    }
    if (is_throttled(m, w)) {
        refuse(m, w, REFUSED_THROTTLED);
        return;
    }
    w->queued = true;
    serve_queue(m);
}

void login_forget(struct master *m, struct worker *w)
{
    (void)m;
    w->queued = false;
    if (w->auth)
        w->auth->worker = NULL;
    w->auth = NULL;
}

static void login_succeeded(struct master *m, struct worker *w, const char *user)
{
    base_copy(w->canonical, sizeof w->canonical, user);
    base_escape(w->user, sizeof w->user, user);
    w->channel.state = STATE_MAIL;
    throttle_succeeded(m->throttle, &w->source, base_now_ms());
    worker_trace_if_wanted(w);
    w->timer = sd_event_source_disable_unref(w->timer);
}

static bool is_delayed(unsigned outcome)
{
    return outcome == LOGIN_DENIED || outcome == LOGIN_EXPIRED || outcome == LOGIN_ACCOUNT ||
           outcome == LOGIN_CRASHED;
}

/* What may be repeated only so often. A secret that crashes a module costs everybody an auth
 * process. */
static bool is_throttling(unsigned outcome)
{
    return outcome == LOGIN_DENIED || outcome == LOGIN_CRASHED;
}

/* Told to the log and to the throttle, whatever has become of the worker: who could leave before
 * the outcome would have his guesses for nothing. */
static void count_failure(struct master *m, const struct attempt *t, const char *user,
                          unsigned outcome, uint64_t digest)
{
    char seen[PROTO_USER_MAX * 4 + 1];
    unsigned filled = 0;
    base_escape(seen, sizeof seen, user);
    struct log_about about = {.session = t->session,
                              .peer = t->peer_text,
                              .user = seen,
                              .door = proto_door_name(t->door),
                              .reason = proto_outcome_name(outcome)};
    log_line(is_delayed(outcome) || outcome == LOGIN_IN_USE ? LOG_NOTICE : LOG_ERR,
             LOG_EVENT_LOGIN_FAILED, &about, "login failed: peer=%s user=%s reason=%s",
             t->peer_text, *seen ? seen : "-", about.reason);
    if (is_throttling(outcome) && !address_listed(&m->config->auth.throttle_exempt, &t->peer)) {
        struct address_source source = address_source(&t->peer);
        filled = throttle_failed(m->throttle, &source, user, digest, base_now_ms());
    }
    if (filled & THROTTLE_SOURCE)
        log_line(LOG_NOTICE, LOG_EVENT_THROTTLED, &about,
                 "throttled: peer=%s failed too often, its logins are refused for a while",
                 t->peer_text);
    if (filled & THROTTLE_USER)
        log_line(LOG_NOTICE, LOG_EVENT_THROTTLED, &about,
                 "attacked: user=%s, too many logins failed; sources that go on are throttled soon",
                 *seen ? seen : "-");
}

static void kill_liar(struct auth *a, const char *what)
{
    struct log_about about = a->worker ? worker_about(a->worker) : (struct log_about){0};
    log_line(LOG_ERR, LOG_EVENT_CONTRACT, &about, "killing auth process %d: it %s", a->pid, what);
    a->killed = true;
    kill(a->pid, SIGKILL);
}

/* The outcome of what was asked for `w`; NULL: that one is gone, and only guesses count. */
static void settle(struct master *m, const struct attempt *t, struct worker *w, const char *user,
                   unsigned outcome, uint64_t digest)
{
    if (w && outcome == LOGIN_BROKEN) {
        struct log_about about = worker_about(w);
        log_line(LOG_ERR, LOG_EVENT_CONTRACT, &about,
                 "killing worker %d: it sent a bad record to auth", w->pid);
        worker_end(w);
        return;
    }
    if (w && w->channel.state == STATE_DELIVERY)
        m->counts[COUNT_RECIPIENT + outcome]++;
    if (t->service != SERVE_LOGIN || (!w && !is_delayed(outcome)))
        return; /* of a grant, nobody's state changes */
    status_login(m, outcome, (base_now_us() - t->asked) / 1000);
    if (outcome != LOGIN_OK)
        count_failure(m, t, user, outcome, digest);
    if (w && outcome == LOGIN_OK)
        login_succeeded(m, w, user);
    else if (w)
        worker_settle(w, is_delayed(outcome));
}

static void on_outcome(struct master *m, struct auth *a, struct message *message)
{
    char user[PROTO_USER_MAX + 1];
    uint64_t session = message_get_u64(message);
    unsigned outcome = message_get_u32(message);
    bool named = message_get_text(message, user, sizeof user);
    uint64_t digest = named ? message_get_u64(message) : 0;
    struct worker *w = a->worker;
    if (!a->owes) {
        kill_liar(a, "told of a login twice");
        return;
    }
    a->owes = false;
    if (session != a->attempt.session || outcome >= LOGIN_OUTCOMES || !named ||
        (outcome == LOGIN_OK && !*user)) {
        kill_liar(a, "told of a login that cannot be");
        return;
    }
    a->worker = NULL; /* what follows is between the two of them */
    if (w)
        w->auth = NULL;
    deadline(a, SETTLING_MS);
    settle(m, &a->attempt, w, user, outcome, digest);
}

static void tell_retry(struct auth *a, bool retry)
{
    struct message message;
    a->holder = NULL;
    message_begin(&message, PROTO_RETRY);
    message_put_u32(&message, retry);
    if (a->channel.fd >= 0 && channel_send(&a->channel, &message, false) != CHANNEL_OK)
        kill(a->pid, SIGKILL);
}

/* [session] lock=takeover: the older session ends, if it is one of ours and past its login; a
 * tool's lock stays. */
static void on_locked(struct master *m, struct auth *a, struct message *message)
{
    char user[PROTO_USER_MAX + 1];
    uint64_t session = message_get_u64(message);
    struct worker *w = m->workers;
    if (!message_get_text(message, user, sizeof user) || !a->worker ||
        a->worker->session != session || m->config->session.lock != LOCK_TAKEOVER)
        w = NULL;
    while (w && !(w != a->worker && w->channel.state & (STATE_MAIL | STATE_DONE) &&
                  strcmp(w->canonical, user) == 0))
        w = w->next;
    if (!w) {
        tell_retry(a, false);
        return;
    }
    struct log_about about = worker_about(w);
    log_line(LOG_INFO, LOG_EVENT_OTHER, &about, "gives way to session %llu of user=%s",
             (unsigned long long)session, w->user);
    a->holder = w;
    worker_finish(w, END_TAKEOVER);
}

void login_holder_gone(struct master *m, struct worker *w)
{
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->holder == w)
            tell_retry(a, true);
}

static void on_vacant(struct master *m, struct auth *a)
{
    a->timer = sd_event_source_disable_unref(a->timer);
    if (a->worker) { /* no outcome: the worker broke the exchange off */
        a->worker->auth = NULL;
        worker_settle(a->worker, false);
    }
    a->worker = NULL;
    a->channel.state = STATE_IDLE;
    a->served = true;
    m->auth_failures = 0;
    a->vacant_since = base_now_ms();
    if (a->retired)
        retire(a);
    serve_queue(m);
}

static void on_ready(struct master *m, struct auth *a, struct message *message)
{
    if (message_get_u64(message) != proto_fingerprint()) {
        base_copy(a->last_error, sizeof a->last_error,
                  "poplar-auth is of another version than the running poplard: restart poplard");
        m->outdated |= !m->trial || m->trial->auth != a;
        kill(a->pid, SIGKILL);
        return;
    }
    a->channel.state = STATE_IDLE;
    a->timer = sd_event_source_disable_unref(a->timer);
    a->vacant_since = base_now_ms();
    if (m->trial && m->trial->auth == a)
        trial_step(m);
    else
        serve_queue(m);
}

static void on_log(struct auth *a, struct message *message)
{
    struct log_about about = a->worker ? worker_about(a->worker) : (struct log_about){0};
    char text[sizeof a->last_error];
    int priority = (int)message_get_u32(message) & LOG_PRIMASK;
    if (!message_get_text(message, text, sizeof text))
        base_copy(text, sizeof text, "(a line too long)");
    if (priority <= LOG_ERR)
        base_copy(a->last_error, sizeof a->last_error, text);
    if (a->channel.state != STATE_STARTING || priority > LOG_ERR)
        log_line(priority, LOG_EVENT_CHILD, &about, "auth: %s", text);
}

int login_hear(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct auth *a = context;
    struct master *m = a->master;
    struct message message;
    const char *fault = NULL;
    char broken[80];
    (void)source;
    (void)fd;
    (void)events;
    switch (channel_receive(&a->channel, &message, false, &fault)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_AGAIN:
        return 0;
    case CHANNEL_BAD:
        snprintf(broken, sizeof broken, "sent a record %s", fault);
        kill_liar(a, broken);
        /* fall through */
    default: /* it has ended, or ends, or has no further use */
        if (a->channel.state == STATE_BUSY)
            deadline(a, CLOSED_MS); /* it may find out by itself, and say so */
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
        on_outcome(m, a, &message);
        break;
    case PROTO_LOCKED:
        on_locked(m, a, &message);
        break;
    case PROTO_VACANT:
        on_vacant(m, a);
        break;
    default:
        on_log(a, &message);
    }
    message_clear(&message);
    return 0;
}

struct auth *login_spawn(struct master *m, struct config *config, bool strict)
{
    struct auth *a = base_alloc(sizeof *a);
    a->master = m;
    a->config = config;
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
    if (!loop_watch(m, &a->io, a->channel.fd, login_hear, a)) {
        kill(a->pid, SIGKILL); /* the reaping says the rest */
        return a;
    }
    /* An outcome is told to us before the worker: it must be heard before what that one says next.
     */
    sd_event_source_set_priority(a->io, SD_EVENT_PRIORITY_IMPORTANT);
    if (!setup_send(&a->channel, config, &m->digest_key, 0, strict, a->last_error,
                    sizeof a->last_error))
        kill(a->pid, SIGKILL); /* it would wait for the rest; the reaping says why */
    deadline(a, MASTER_START_MS);
    return a;
}

/* The next one is started later, and later each time. */
static void back_off(struct master *m)
{
    unsigned wait = pool_backoff_ms(++m->auth_failures);
    m->auth_retry_at = base_now_ms() + wait;
    log_line(LOG_WARNING, LOG_EVENT_CRASH, NULL, "new auth process in %u ms", wait);
}

void login_reaped(struct master *m, struct auth *a, int status)
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
    struct log_about about = w ? worker_about(w) : (struct log_about){0};

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
    if (crashed)
        settle(m, &attempt, w, "", LOGIN_CRASHED, 0);
    else if (w)
        worker_settle(w, false);
    if (trial) {
        trial_failed(m, WIFEXITED(status) ? WEXITSTATUS(status) : EX_SOFTWARE, why);
        return;
    }
    if (ours && (!started || short_lived))
        back_off(m);
    serve_queue(m);
}

void login_tick(struct master *m)
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
            retire(a);
            there--;
        }
    for (struct worker *w = m->workers; w; w = w->next)
        if (w->queued && now - w->asked / 1000 > m->config->auth.timeout * 1000)
            refuse(m, w, REFUSED_BUSY);
    serve_queue(m);
}

bool login_ping(struct master *m)
{
    struct message message;
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->awaiting_pong && a->channel.state == STATE_IDLE && !a->retired)
            return false;
    struct auth *a = idle_auth(m);
    message_begin(&message, PROTO_PING);
    if (a && channel_send(&a->channel, &message, false) == CHANNEL_OK)
        a->awaiting_pong = true;
    return true;
}
