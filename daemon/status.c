/*
 * status.c - the master's numbers, and its answers to who asks for them. Runs in the master. What
 * is sent are values: poplarctl makes tables and metrics of them.
 */
#include "daemon/status.h"
#include "daemon/base.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void status_login(struct master *m, unsigned outcome, uint64_t ms)
{
    unsigned class = 0;
    while (proto_latency_bound(class) && ms > proto_latency_bound(class))
        class ++;
    m->counts[proto_count_of(COUNT_LATENCY, class)]++;
    m->counts[COUNT_LOGIN_MS] += ms;
    m->counts[proto_count_of(COUNT_LOGIN, outcome)]++;
}

/* What holds now, beside what was counted. */
static void look(struct master *m)
{
    uint64_t *c = m->counts;
    memset(c + COUNT_NOW, 0, (COUNTS - COUNT_NOW) * sizeof *c);
    c[COUNT_STARTED] = m->started_at;
    c[COUNT_PID] = (uint64_t)getpid();
    c[COUNT_STOPPING] = m->stopping;
    c[COUNT_GENERATION] = m->current ? m->current->number : 0;
    c[COUNT_GENERATION_MS] = m->current ? base_now_ms() - m->current->born : 0;
    c[COUNT_SESSIONS] = m->n_sessions;
    c[COUNT_SESSIONS_MAX] = m->config ? m->config->workers.max_sessions : 0;
    c[COUNT_WAITING] = m->n_waiting;
    c[COUNT_WORKERS_IDLE] = m->n_idle;
    c[COUNT_WORKERS_STARTING] = m->n_starting;
    c[COUNT_AUTHS_MAX] = m->config ? m->config->auth.processes_max : 0;
    for (const struct worker *w = m->workers; w; w = w->next) {
        c[COUNT_LOGGED_IN] += w->channel.state == STATE_MAIL;
        c[COUNT_DELIVERING] += w->channel.state == STATE_DELIVERY;
        c[COUNT_LOGINS_QUEUED] += w->queued;
    }
    for (const struct auth *a = m->auths; a; a = a->next) {
        c[COUNT_AUTHS] += !a->retired;
        c[COUNT_AUTHS_BUSY] += a->channel.state == STATE_BUSY;
    }
}

void status_line(struct master *m, char *text, size_t size)
{
    const uint64_t *c = m->counts;
    uint64_t failed = 0;
    look(m);
    for (unsigned i = LOGIN_OK + 1; i < LOGIN_OUTCOMES; i++)
        failed += c[proto_count_of(COUNT_LOGIN, i)];
    const uint64_t logins = c[proto_count_of(COUNT_LOGIN, LOGIN_OK)];
    snprintf(text, size,
             "%" PRIu64 " session%s (%" PRIu64 " logged in), %" PRIu64 " waiting, %" PRIu64
             " idle worker%s, %" PRIu64 " auth process%s (%" PRIu64 " busy); since start: %" PRIu64
             " session%s, %" PRIu64 " login%s, %" PRIu64 " failed, %" PRIu64 " refused",
             c[COUNT_SESSIONS], base_plural(c[COUNT_SESSIONS]), c[COUNT_LOGGED_IN],
             c[COUNT_WAITING], c[COUNT_WORKERS_IDLE], base_plural(c[COUNT_WORKERS_IDLE]),
             c[COUNT_AUTHS], c[COUNT_AUTHS] == 1 ? "" : "es", c[COUNT_AUTHS_BUSY],
             c[COUNT_CONNECTIONS], base_plural(c[COUNT_CONNECTIONS]), logins, base_plural(logins),
             failed, c[COUNT_REFUSED]);
}

void status_announce(struct master *m)
{
    char status[256];
    m->announced = true;
    log_look();
    log_started();
    status_line(m, status, sizeof status);
    notify_state(m, "READY=1\nSTATUS=%s", status);
}

static bool put_count(struct master *m, uint64_t from, struct message *answer)
{
    if (from >= COUNTS)
        return false;
    if (from >= COUNT_NOW)
        look(m);
    message_begin(answer, PROTO_COUNT);
    message_put_u64(answer, from + 1);
    message_put_u32(answer, (uint32_t)from);
    message_put_u64(answer, m->counts[from]);
    return true;
}

static bool put_session(const struct master *m, uint64_t from, struct message *answer)
{
    const struct worker *next = NULL;
    for (const struct worker *w = m->workers; w; w = w->next)
        if (w->session && w->session >= from && (!next || w->session < next->session))
            next = w;
    if (!next)
        return false;
    message_begin(answer, PROTO_SESSION);
    message_put_u64(answer, next->session + 1);
    message_put_u64(answer, next->session);
    message_put_u32(answer, (uint32_t)next->pid);
    message_put_u32(answer, next->channel.state);
    message_put_u32(answer, next->client.door);
    message_put_text(answer, next->canonical);
    message_put_text(answer, next->peer_text);
    message_put_text(answer, next->tls);
    message_put_u64(answer, base_now_ms() - next->started);
    return true;
}

static bool put_item(struct message *answer, uint64_t next, const char *name, const char *detail,
                     uint64_t value)
{
    message_begin(answer, PROTO_ITEM);
    message_put_u64(answer, next);
    message_put_text(answer, name);
    message_put_text(answer, detail);
    message_put_u64(answer, value);
    return true;
}

static bool put_certificate(const struct master *m, uint64_t from, struct message *answer)
{
    const struct config_certificate *all = m->config->tls.certificates;
    uint64_t sent = 0; /* to the nursery, which counts so too */
    for (size_t i = 0; i < m->config->tls.n_certificates; i++)
        if (all[i].certificate && sent++ == from)
            return put_item(answer, from + 1, all[i].name, all[i].certificate,
                            m->current && from < m->current->n_expires ? m->current->expires[from]
                                                                       : 0);
    return false;
}

static bool put_throttled(const struct master *m, bool users, uint64_t from, struct message *answer)
{
    char name[PROTO_USER_MAX + 1];
    uint64_t left;
    size_t at = (size_t)from;
    return throttle_next(m->throttle, users, base_now_ms(), &at, name, &left) &&
           put_item(answer, at, name, "", left);
}

static bool put_traced(const struct master *m, uint64_t from, struct message *answer)
{
    return from < m->traced.n && put_item(answer, from + 1, m->traced.items[from], "", 0);
}

bool status_next(struct master *m, unsigned part, uint64_t from, struct message *answer)
{
    switch (part) {
    case STATUS_COUNTS:
        return put_count(m, from, answer);
    case STATUS_SESSIONS:
        return put_session(m, from, answer);
    case STATUS_CERTIFICATES:
        return put_certificate(m, from, answer);
    case STATUS_SOURCES:
    case STATUS_USERS:
        return put_throttled(m, part == STATUS_USERS, from, answer);
    case STATUS_TRACED:
        return put_traced(m, from, answer);
    default:
        return false;
    }
}

/* A text of a worker's as a value for the log, by base_value() or base_quote(); none when it is
 * longer than any of an honest one. False: it is empty. */
static bool take_text(struct message *message, void (*print)(char *, size_t, const char *),
                      char *seen, size_t size)
{
    char raw[512], escaped[512];
    if (!message_get_text(message, raw, sizeof raw))
        raw[0] = '\0';
    base_escape(escaped, sizeof escaped, raw);
    print(seen, size, escaped);
    return *raw != '\0';
}

/* A monitor, or a proxy on its own behalf, that asks every other second whether we live. */
static bool is_probe(const struct master *m, const struct worker *w, unsigned reason)
{
    const struct config *c = m->config;
    return w->client.door != DOOR_LMTP && !*w->user &&
           (reason == END_QUIT || reason == END_DISCONNECT) &&
           (address_listed(&c->auth.throttle_exempt, &w->client.peer) ||
            address_listed(&c->listen.proxy_from, &w->client.peer));
}

void status_summary(struct master *m, struct worker *w, struct message *message)
{
    char tls[32], cipher[64], detail[600], error[300], named[sizeof w->user + 2];
    char user[sizeof named + 8] = "", later[32] = "";
    bool lmtp = w->client.door == DOOR_LMTP;
    unsigned reason = message_get_u32(message);
    uint64_t done = message_get_u64(message), other = message_get_u64(message);
    uint64_t deferred = message_get_u64(message);
    uint64_t in = message_get_u64(message), out = message_get_u64(message);
    take_text(message, base_value, tls, sizeof tls);
    take_text(message, base_value, cipher, sizeof cipher);
    bool detailed = take_text(message, base_quote, detail, sizeof detail);
    bool refused = take_text(message, base_quote, error, sizeof error);
    base_value(named, sizeof named, w->user);
    m->counts[lmtp ? COUNT_COPIES_DELIVERED : COUNT_MESSAGES_RETRIEVED] += done;
    m->counts[lmtp ? COUNT_COPIES_REFUSED : COUNT_MESSAGES_DELETED] += other;
    m->counts[COUNT_COPIES_DEFERRED] += lmtp ? deferred : 0;
    m->counts[COUNT_OCTETS_IN] += in;
    m->counts[COUNT_OCTETS_OUT] += out;
    m->counts[proto_count_of(COUNT_ENDED, reason < END_REASONS ? reason : 0)]++;
    if (lmtp)
        snprintf(later, sizeof later, " deferred=%" PRIu64, deferred);
    else
        snprintf(user, sizeof user, " user=%s", named);
    struct log_about about = worker_about(w);
    about.reason = proto_end_name(reason);
    /* What a stranger begins with is his matter, and anybody may begin as he likes; not a proxy. */
    bool theirs = reason == END_TLS || (reason == END_FOREIGN && !w->proxied);
    int level = detailed && !theirs                               ? LOG_WARNING
                : !detailed && !refused && is_probe(m, w, reason) ? LOG_DEBUG
                                                                  : LOG_INFO;
    log_line(level, LOG_EVENT_SESSION, &about,
             "session ended: peer=%s door=%s%s reason=%s %s=%" PRIu64 " %s=%" PRIu64
             "%s in=%" PRIu64 " out=%" PRIu64 " ms=%" PRIu64 " tls=%s cipher=%s%s%s%s%s",
             w->peer_text, proto_door_name(w->client.door), user, about.reason,
             lmtp ? "delivered" : "retrieved", done, lmtp ? "refused" : "deleted", other, later, in,
             out, base_now_ms() - w->started, tls, cipher, detailed ? " detail=" : "",
             detailed ? detail : "", refused ? " error=" : "", refused ? error : "");
}
