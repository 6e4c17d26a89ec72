/*
 * login.c - the pairing of a worker that wants to log in with an auth process, and what comes of
 * it. Runs in the master. It sees who logged in, never with what: credentials pass it by.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/status.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

enum {
    GRANTS_MAX = 3,     /* PROTO_GRANT_AGAIN in one session */
    SETTLING_MS = 10000 /* from the outcome to PROTO_VACANT */
};

static void refuse(struct master *m, struct worker *w, enum login_refusal why)
{
    struct message message;
    w->queued = false;
    if (w->channel.state == STATE_LOGIN)
        m->counts[why == REFUSED_BUSY ? COUNT_LOGINS_BUSY : COUNT_LOGINS_THROTTLED]++;
    message_begin(&message, PROTO_LOGIN_REFUSED);
    message_put_u32(&message, why);
    if (channel_send(&w->channel, &message, false) != CHANNEL_OK)
        worker_end(w);
    else if (w->channel.state == STATE_LOGIN)
        w->channel.state = STATE_CLIENT; /* both count as a session */
}

/* Who is answered at once must not ask without end. */
static void refuse_throttled(struct master *m, struct worker *w)
{
    worker_count_failure(w, false);
    refuse(m, w, w->failures >= MASTER_LOGIN_ATTEMPTS ? REFUSED_LAST : REFUSED_THROTTLED);
}

/* Ask an auth process for what a worker wants. */
static bool ask(struct auth *a, const struct worker *w, enum proto_service service, int exchange_fd)
{
    struct message message;
    char peer[PROTO_ADDRESS_MAX];
    address_print(&w->client.peer, false, peer);
    message_begin(&message, PROTO_SERVE);
    message_put_u64(&message, w->session);
    message_put_u32(&message, service);
    message_put_text(&message, service == SERVE_GRANT   ? w->canonical
                               : service == SERVE_LOGIN ? ""
                                                        : w->recipient);
    message_put_text(&message, peer);
    message_put_u32(&message, w->client.uid);
    message_put_u64(&message, service == SERVE_LOGIN ? w->denied : 0);
    message_put_fd(&message, exchange_fd);
    return channel_send(&a->channel, &message, false) == CHANNEL_OK;
}

/* Give one end of a fresh socket pair to each side: the worker's first, so that what it says may be
 * there when auth looks. Auth's we hold as well, to end the exchange when that one has ended. */
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
        auths_retire(a);
        worker_settle(w, false); /* to it, auth has ended */
    } else {
        w->auth = a;
        a->worker = w;
        a->owes = true;
        a->exchange = ends[0];
        ends[0] = -1;
        a->attempt = (struct attempt){
            .service = service, .session = w->session, .client = w->client, .asked = w->asked};
        base_copy(a->attempt.peer_text, sizeof a->attempt.peer_text, w->peer_text);
        base_copy(a->attempt.claimed, sizeof a->attempt.claimed, w->claimed);
        a->channel.state = STATE_BUSY;
        auths_deadline(a, m->config->auth.timeout * 1000);
    }
    base_close(ends[0]);
    base_close(ends[1]);
}

static bool is_throttled(const struct master *m, const struct worker *w)
{
    return w->channel.state == STATE_LOGIN &&
           throttle_refuses(m->throttle, &w->client.source, base_now_ms()) &&
           !address_listed(&m->config->auth.throttle_exempt, &w->client.peer);
}

void login_serve(struct master *m)
{
    for (;;) {
        struct auth *a = auths_idle(m);
        struct worker *w = a ? queue_next(m) : NULL;
        if (!w)
            break;
        if (is_throttled(m, w)) /* by those of its source that were served meanwhile */
            refuse_throttled(m, w);
        else
            pair(m, a, w);
    }
    auths_grow(m);
}

void login_wanted(struct master *m, struct worker *w)
{
    w->asked = base_now_us();
    /* A delivery that could not hear how the last one ended may ask again, and waits for that. */
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
        refuse_throttled(m, w);
        return;
    }
    w->queued = true;
    login_serve(m);
}

void login_forget(struct worker *w)
{
    w->queued = false;
    if (w->auth) {
        shutdown(w->auth->exchange, SHUT_RDWR); /* it gets no maildrop that nobody knows of */
        w->auth->worker = NULL;
    }
    w->auth = NULL;
}

static void login_succeeded(struct master *m, struct worker *w, const char *user)
{
    base_copy(w->canonical, sizeof w->canonical, user);
    base_escape(w->user, sizeof w->user, user);
    w->channel.state = STATE_MAIL;
    w->logged_in = base_now_ms();
    throttle_succeeded(m->throttle, &w->client.source, base_now_ms());
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
 * the outcome would have his guesses for nothing. `repeated`: it is none, PAM was not asked again.
 */
static void count_failure(struct master *m, const struct attempt *t, const char *user,
                          unsigned outcome, uint64_t digest, bool repeated)
{
    char seen[PROTO_USER_MAX * 4 + 1], named[sizeof seen + 2];
    char claimed[sizeof seen] = "", given[sizeof named] = "";
    unsigned filled = 0;
    base_escape(seen, sizeof seen, user);
    base_value(named, sizeof named, seen);
    if (outcome == LOGIN_CRASHED) { /* auth did not live to say who it was */
        base_escape(claimed, sizeof claimed, t->claimed);
        base_value(given, sizeof given, claimed);
    }
    struct log_about about = {.session = t->session,
                              .peer = t->peer_text,
                              .user = seen,
                              .door = proto_door_name(t->client.door),
                              .reason = proto_outcome_name(outcome)};
    log_line(is_delayed(outcome) || outcome == LOGIN_IN_USE ? LOG_NOTICE : LOG_ERR,
             LOG_EVENT_LOGIN_FAILED, &about, "login failed: peer=%s user=%s reason=%s%s%s%s",
             t->peer_text, named, about.reason, *given ? " claimed=" : "", given,
             repeated ? " repeated=yes" : "");
    if (is_throttling(outcome) &&
        !address_listed(&m->config->auth.throttle_exempt, &t->client.peer))
        filled = throttle_failed(m->throttle, &t->client.source, user, digest, base_now_ms());
    if (filled & THROTTLE_SOURCE)
        log_line(LOG_NOTICE, LOG_EVENT_THROTTLED, &about,
                 "throttled: peer=%s failed too often, its logins are refused for a while",
                 t->peer_text);
    if (filled & THROTTLE_USER)
        log_line(LOG_NOTICE, LOG_EVENT_THROTTLED, &about,
                 "attacked: user=%s, too many logins failed; sources that go on are throttled soon",
                 named);
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
        m->counts[proto_count_of(COUNT_RECIPIENT, outcome)]++;
    if (t->service != SERVE_LOGIN || (!w && !is_delayed(outcome)))
        return; /* of a grant, nobody's state changes */
    status_login(m, outcome, (base_now_us() - t->asked) / 1000);
    bool repeated = w && digest && digest == w->denied;
    if (outcome != LOGIN_OK)
        count_failure(m, t, user, outcome, digest, repeated);
    if (!w)
        return;
    if (outcome == LOGIN_DENIED)
        w->denied = digest;
    if (is_delayed(outcome))
        worker_count_failure(w, is_throttling(outcome) && !repeated);
    if (outcome == LOGIN_OK)
        login_succeeded(m, w, user);
    else
        worker_settle(w, is_delayed(outcome));
}

void login_outcome(struct master *m, struct auth *a, struct message *message)
{
    char user[PROTO_USER_MAX + 1];
    uint64_t session = message_get_u64(message);
    unsigned outcome = message_get_u32(message);
    bool named = message_get_text(message, user, sizeof user);
    uint64_t digest = named ? message_get_u64(message) : 0;
    struct worker *w = a->worker;
    if (!a->owes) {
        auths_kill(a, "told of a login twice");
        return;
    }
    a->owes = false;
    if (session != a->attempt.session || outcome >= LOGIN_OUTCOMES || !named ||
        (outcome == LOGIN_OK && !*user)) {
        auths_kill(a, "told of a login that cannot be");
        return;
    }
    a->worker = NULL; /* what follows is between the two of them */
    if (w)
        w->auth = NULL;
    auths_deadline(a, SETTLING_MS);
    settle(m, &a->attempt, w, user, outcome, digest);
}

void login_undecided(struct master *m, const struct attempt *t, struct worker *w, bool crashed)
{
    if (w)
        w->auth = NULL;
    if (crashed)
        settle(m, t, w, "", LOGIN_CRASHED, 0);
    else if (w)
        worker_settle(w, false);
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

/* Its worker will refuse who logs in so soon after another: for that nobody loses his session. */
static bool is_too_soon(const struct master *m, const struct worker *after)
{
    return base_now_ms() - after->logged_in < m->config->session.login_delay * 1000;
}

/* Whose the lock is; else who has given it back meanwhile, and is about to end. */
static struct worker *find_holder(const struct master *m, const struct worker *asker,
                                  const char *user)
{
    struct worker *leaving = NULL;
    for (struct worker *w = m->workers; w; w = w->next) {
        if (w == asker || strcmp(w->canonical, user) != 0)
            continue;
        if (w->channel.state == STATE_MAIL)
            return w;
        if (w->channel.state == STATE_DONE)
            leaving = w;
    }
    return leaving;
}

/* [session] lock=takeover: the older session ends, if it is one of ours and past its login; a
 * tool's lock stays. */
void login_locked(struct master *m, struct auth *a, struct message *message)
{
    char user[PROTO_USER_MAX + 1];
    uint64_t session = message_get_u64(message);
    struct worker *w = NULL;
    if (message_get_text(message, user, sizeof user) && a->worker &&
        a->worker->session == session && m->config->session.lock == LOCK_TAKEOVER)
        w = find_holder(m, a->worker, user);
    if (!w || is_too_soon(m, w)) {
        tell_retry(a, false);
        return;
    }
    char named[sizeof w->user + 2];
    struct log_about about = worker_about(w);
    base_value(named, sizeof named, w->user);
    log_line(LOG_INFO, LOG_EVENT_OTHER, &about, "gives way to session %llu of user=%s",
             (unsigned long long)session, named);
    a->holder = w;
    worker_finish(w, END_TAKEOVER);
}

void login_holder_gone(struct master *m, struct worker *w)
{
    for (struct auth *a = m->auths; a; a = a->next)
        if (a->holder == w)
            tell_retry(a, true);
}

void login_tick(struct master *m)
{
    uint64_t now = base_now_ms();
    for (struct worker *w = m->workers; w; w = w->next)
        if (w->queued && now - w->asked / 1000 > m->config->auth.timeout * 1000)
            refuse(m, w, REFUSED_BUSY);
    login_serve(m);
}
