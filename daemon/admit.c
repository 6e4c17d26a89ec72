/*
 * admit.c - connections until a worker has them: which are let in, which must give way, which wait.
 * Runs in the master, on what the kernel says of a connection; nothing is read from one.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/pool.h"
#include "daemon/status.h"

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
static void turn_away(struct master *m, int fd, enum proto_door door)
{
    const char *text = door == DOOR_LMTP    ? lmtp_refusal
                       : door == DOOR_POP3S ? tls_refusal
                                            : refusal;
    (void)!write(fd, text, door == DOOR_POP3S ? sizeof tls_refusal : strlen(text));
    if (door == DOOR_LMTP) {
        shutdown(fd, SHUT_RDWR);
        discard(m, fd);
    } else {
        base_close(fd);
    }
}

void admit_refuse(struct master *m, int fd, enum proto_door door)
{
    m->counts[COUNT_REFUSED]++;
    turn_away(m, fd, door);
}

unsigned admit_sessions_of(const struct master *m, const struct address_source *source)
{
    unsigned n = 0;
    for (const struct worker *w = m->workers; w; w = w->next)
        n += w->channel.state & (STATE_CLIENT | STATE_LOGIN | STATE_MAIL) &&
             address_same_source(&w->source, source);
    for (const struct waiting *waiting = m->waiting; waiting; waiting = waiting->next) {
        struct address_source other = address_source(&waiting->peer);
        n += waiting->door != DOOR_LMTP && address_same_source(&other, source);
    }
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

void admit_print(enum proto_door door, const struct sockaddr_storage *peer, uid_t uid,
                 char text[PROTO_ADDRESS_MAX])
{
    if (door == DOOR_LMTP)
        snprintf(text, PROTO_ADDRESS_MAX, "unix:%u", (unsigned)uid);
    else
        address_print(peer, true, text);
}

static void tell_refusal(int priority, enum proto_door door, const struct sockaddr_storage *peer,
                         uid_t uid, const char *why)
{
    char text[PROTO_ADDRESS_MAX];
    admit_print(door, peer, uid, text);
    struct log_about about = {.peer = text, .door = proto_door_name(door)};
    log_line(priority, LOG_EVENT_REFUSED, &about, "refused peer=%s: %s", text, why);
}

/* Who still waits is told why, where that can be said; no worker ever had it. */
static void send_away(struct master *m, struct waiting **at)
{
    struct waiting *gone = unqueue(m, at);
    char peer[PROTO_ADDRESS_MAX];
    admit_print(gone->door, &gone->peer, gone->uid, peer);
    tell_victim(&(struct log_about){.peer = peer, .door = proto_door_name(gone->door)});
    turn_away(m, gone->fd, gone->door);
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
            .source = w->source,
            .arrival = w->session,
            .counts = w->channel.state & (STATE_CLIENT | STATE_LOGIN) && !w->ended_by_us,
            .may_go = (w->channel.state == STATE_CLIENT || w->refused) && !w->ended_by_us,
            .waits = w->queued && w->channel.state == STATE_LOGIN && !w->ended_by_us};
    }
    for (struct waiting **at = &m->waiting; *at; at = &(*at)->next) {
        holders[n] = (struct holder){.waiting = at};
        candidates[n] = (struct pool_candidate){.source = address_source(&(*at)->peer),
                                                .arrival = UINT64_MAX / 2 + n,
                                                .counts = (*at)->door != DOOR_LMTP,
                                                .may_go = (*at)->door != DOOR_LMTP};
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
static bool has_too_many(const struct master *m, enum proto_door door,
                         const struct sockaddr_storage *peer, uid_t uid)
{
    if (door != DOOR_LMTP) {
        struct address_source source = address_source(peer);
        return !address_listed(&m->config->listen.proxy_from, peer) &&
               admit_sessions_of(m, &source) >= m->config->workers.max_per_source;
    }
    return uid != 0 && delivery_sessions_of(m, uid) >= m->config->workers.max_per_source;
}

bool admit_allows(struct master *m, int fd, enum proto_door door,
                  const struct sockaddr_storage *peer)
{
    const char *why = NULL;
    uid_t uid = door == DOOR_LMTP ? delivery_peer(fd) : 0;
    if (m->stopping)
        return false;
    if (has_too_many(m, door, peer, uid))
        why = "[workers] max_per_source";
    else if (m->n_sessions + m->n_waiting >= m->config->workers.max_sessions && !make_room(m))
        why = "[workers] max_sessions";
    else if (m->n_waiting >= WAITING_MAX && !make_room(m))
        why = "too many connections wait for a worker";
    if (why)
        tell_refusal(LOG_NOTICE, door, peer, uid, why);
    return !why;
}

void admit_queue(struct master *m, int fd, enum proto_door door,
                 const struct sockaddr_storage *peer)
{
    struct waiting *waiting = base_alloc(sizeof *waiting);
    *waiting = (struct waiting){.fd = fd,
                                .door = door,
                                .peer = *peer,
                                .uid = door == DOOR_LMTP ? delivery_peer(fd) : 0,
                                .since = base_now_ms()};
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
        tell_refusal(LOG_WARNING, old->door, &old->peer, old->uid, "no worker in time");
        admit_refuse(m, old->fd, old->door);
        free(old);
    }
}
