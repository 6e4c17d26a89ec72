/*
 * admit.c - connections until a worker has them: which are let in, which must give way, which wait.
 * Runs in the master, on what the kernel says of a connection; nothing is read from one.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    WAITING_MAX = 1024, /* connections that wait for a worker */
    WAITING_MS = 20000, /* for so long at most */
};

static const char refusal[] = "-ERR [SYS/TEMP] Too many connections, wait and try again\r\n";
static const char lmtp_refusal[] = "421 4.3.2 Too many connections, try again later\r\n";

/* Before a handshake TLS has no words but a fatal alert, and a handshake would cost us more than
 * the client whom we turn away for costing too much. internal_error is what it has for "not your
 * fault, and no matter of the protocol" (RFC 8446 section 6). */
static const char tls_refusal[] = {21, 3, 3, 0, 2, 2, 80};

/* Say no on a connection. A client that cannot even take this has left. */
static void turn_away(struct master *m, const struct client *c)
{
    const char *text = c->door == DOOR_LMTP    ? lmtp_refusal
                       : c->door == DOOR_POP3S ? tls_refusal
                                               : refusal;
    (void)!write(c->fd, text, c->door == DOOR_POP3S ? sizeof tls_refusal : strlen(text));
    if (c->door == DOOR_LMTP) {
        shutdown(c->fd, SHUT_RDWR);
        discard(m, c->fd);
    } else {
        base_close(c->fd);
    }
}

void admit_refuse(struct master *m, const struct client *c)
{
    m->counts[COUNT_REFUSED]++;
    turn_away(m, c);
}

static bool is_from_same(const struct client *a, const struct client *b)
{
    bool lmtp = a->door == DOOR_LMTP;
    return (b->door == DOOR_LMTP) == lmtp &&
           (lmtp ? a->uid == b->uid : address_same_source(&a->source, &b->source));
}

unsigned admit_sessions_of(const struct master *m, const struct client *c)
{
    const unsigned served = STATE_CLIENT | STATE_LOGIN | STATE_MAIL | STATE_DELIVERY;
    unsigned n = 0;
    for (const struct worker *w = m->workers; w; w = w->next)
        n += w->channel.state & served && is_from_same(&w->client, c);
    for (const struct waiting *waiting = m->waiting; waiting; waiting = waiting->next)
        n += is_from_same(&waiting->client, c);
    return n;
}

/* Take the connection that waits behind `at` off the queue; the caller frees it. */
static struct waiting *unqueue(struct master *m, struct waiting **at)
{
    struct waiting *found = *at;
    *at = found->next;
    if (!found->next)
        m->waiting_end = at;
    m->n_waiting--;
    return found;
}

static void tell_victim(const struct log_about *about)
{
    log_line(LOG_NOTICE, LOG_EVENT_REFUSED, about,
             "peer=%s gives way, every slot is taken and it has not logged in", about->peer);
}

void admit_print(const struct client *c, char text[PROTO_ADDRESS_MAX])
{
    if (c->door == DOOR_LMTP)
        snprintf(text, PROTO_ADDRESS_MAX, "unix:%u", (unsigned)c->uid);
    else
        address_print(&c->peer, true, text);
}

static void tell_refusal(int priority, const struct client *c, const char *why)
{
    char text[PROTO_ADDRESS_MAX];
    admit_print(c, text);
    struct log_about about = {.peer = text, .door = proto_door_name(c->door)};
    log_line(priority, LOG_EVENT_REFUSED, &about, "refused peer=%s: %s", text, why);
}

/* Who still waits is told why, where that can be said; no worker ever had it. */
static void send_away(struct master *m, struct waiting **at)
{
    struct waiting *gone = unqueue(m, at);
    char peer[PROTO_ADDRESS_MAX];
    admit_print(&gone->client, peer);
    tell_victim(&(struct log_about){.peer = peer, .door = proto_door_name(gone->client.door)});
    turn_away(m, &gone->client);
    free(gone);
}

/* Every slot is taken: end the session, or the waiting connection, that must give way. Those came
 * after all sessions. False if none may. */
static bool make_room(struct master *m)
{
    struct holder {
        struct worker *worker;
        struct waiting **waiting; /* one of the two */
    };
    size_t all = m->n_sessions + m->n_waiting, n = 0;
    struct pool_candidate *candidates = base_alloc(all * sizeof *candidates);
    struct holder *holders = base_alloc(all * sizeof *holders);
    for (struct worker *w = m->workers; w && n < m->n_sessions; w = w->next) {
        if (w->channel.state & (STATE_STARTING | STATE_IDLE))
            continue;
        holders[n] = (struct holder){.worker = w};
        candidates[n++] = (struct pool_candidate){
            .source = w->client.source,
            .arrival = w->session,
            .counts = w->channel.state & (STATE_CLIENT | STATE_LOGIN) && !w->ended_by_us,
            .may_go = (w->channel.state == STATE_CLIENT || w->refused) && !w->ended_by_us,
            .waits = w->queued && w->channel.state == STATE_LOGIN && !w->ended_by_us};
    }
    for (struct waiting **at = &m->waiting; *at; at = &(*at)->next) {
        holders[n] = (struct holder){.waiting = at};
        const struct client *c = &(*at)->client;
        candidates[n] = (struct pool_candidate){.source = c->source,
                                                .arrival = UINT64_MAX / 2 + n,
                                                .counts = c->door != DOOR_LMTP,
                                                .may_go = c->door != DOOR_LMTP};
        n++;
    }
    uint64_t seed;
    base_random(&seed, sizeof seed);
    long victim = pool_victim(candidates, n, seed);
    if (victim >= 0 && holders[victim].worker) {
        struct log_about about = worker_about(holders[victim].worker);
        tell_victim(&about);
        worker_end(holders[victim].worker);
    } else if (victim >= 0) {
        send_away(m, holders[victim].waiting);
    }
    free(candidates);
    free(holders);
    return victim >= 0;
}

/* Whether a source has as many sessions as it may. On a unix socket it is an account, and root's
 * own transports are not counted: nobody else may take every slot. */
static bool has_too_many(const struct master *m, const struct client *c)
{
    bool limited = c->door == DOOR_LMTP ? c->uid != 0
                                        : !address_listed(&m->config->listen.proxy_from, &c->peer);
    return limited && admit_sessions_of(m, c) >= m->config->workers.max_per_source;
}

bool admit_allows(struct master *m, const struct client *c)
{
    const char *why = NULL;
    if (m->stopping)
        return false;
    if (has_too_many(m, c))
        why = "[workers] max_per_source";
    else if (m->n_sessions + m->n_waiting >= m->config->workers.max_sessions && !make_room(m))
        why = "[workers] max_sessions";
    else if (m->n_waiting >= WAITING_MAX && !make_room(m))
        why = "too many connections wait for a worker";
    if (why)
        tell_refusal(LOG_NOTICE, c, why);
    return !why;
}

void admit_queue(struct master *m, const struct client *c)
{
    struct waiting *waiting = base_alloc(sizeof *waiting);
    *waiting = (struct waiting){.client = *c, .since = base_now_ms()};
    *m->waiting_end = waiting;
    m->waiting_end = &waiting->next;
    m->n_waiting++;
}

struct waiting *admit_next(struct master *m)
{
    return unqueue(m, &m->waiting);
}

void admit_tick(struct master *m, uint64_t now)
{
    while (m->waiting && now - m->waiting->since > WAITING_MS) {
        struct waiting *old = admit_next(m);
        tell_refusal(LOG_WARNING, &old->client, "no worker in time");
        admit_refuse(m, &old->client);
        free(old);
    }
}
