/*
 * assign.c - a connection is given to a worker, and to another one if that ends before it took it.
 * Runs in the master; nothing is read from a connection.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* Of the last that were given to workers we have the socket as well, until its worker says its
 * first word or as many have come after it. */
static void hold(struct master *m, struct worker *w, int fd)
{
    struct worker **slot = &m->held[m->held_next++ % MASTER_HELD];
    if (*slot)
        assign_let_go(m, *slot);
    *slot = w;
    w->client.fd = fd;
}

/* Its socket, which is the caller's then; -1: it is not held. */
static int take_back(struct master *m, struct worker *w)
{
    int fd = w->client.fd;
    w->client.fd = -1;
    for (size_t i = 0; fd >= 0 && i < MASTER_HELD; i++)
        if (m->held[i] == w)
            m->held[i] = NULL;
    return fd;
}

void assign_let_go(struct master *m, struct worker *w)
{
    base_close(take_back(m, w));
}

/* What a local client may have put into its socket is the worker's to close from now on. */
static bool hand_over(struct worker *w)
{
    struct message message;
    w->channel.wary = true;
    message_begin(&message, PROTO_HANDED_OVER);
    return channel_send(&w->channel, &message, false) == CHANNEL_OK;
}

/* Hand a connection to an idle worker; false: it has ended meanwhile, or the kernel has no room for
 * that, and the descriptor is still the caller's. */
static bool assign(struct master *m, struct worker *w, const struct client *c)
{
    struct message message;
    bool lmtp = c->door == DOOR_LMTP;

    w->client = *c;
    w->client.fd = -1;
    admit_print(c, w->peer_text);
    w->session = ++m->last_session;
    w->proxied = address_listed(&m->config->listen.proxy_from, &c->peer);
    w->started = base_now_ms();
    w->login_by = w->started + m->config->session.login_timeout * 1000;

    message_begin(&message, PROTO_ASSIGN);
    message_put_u64(&message, w->session);
    message_put_u32(&message, c->door);
    message_put_text(&message, w->peer_text);
    message_put_octets(&message, m->ticket_key, lmtp ? 0 : sizeof m->ticket_key);
    message_put_octets(&message, m->old_ticket_key, lmtp ? 0 : sizeof m->old_ticket_key);
    message_put_u32(&message, w->proxied);
    message_put_fd(&message, c->fd);
    enum channel_outcome sent = channel_send(&w->channel, &message, false);
    explicit_bzero(message.data, message.size);
    if (sent != CHANNEL_OK) {
        w->session = 0;
        w->peer_text[0] = '\0';
        return false;
    }
    m->counts[COUNT_CONNECTIONS]++;
    if (lmtp) {
        base_close(c->fd);
        worker_enter(w, STATE_DELIVERY);
        if (!hand_over(w))
            worker_end(w);
    } else {
        hold(m, w, c->fd);
        worker_may_log_in(w);
    }
    return true;
}

/* Whether a worker can be given a connection. */
static bool stands_by(const struct master *m, const struct worker *w)
{
    return w->channel.state == STATE_IDLE && w->channel.fd >= 0 && w->generation == m->current &&
           !w->ended_by_us;
}

/* Hand it to any that is idle; false if there is none. */
static bool assign_to_any(struct master *m, const struct client *c)
{
    for (struct worker *w = m->workers; w; w = w->next)
        if (stands_by(m, w) && assign(m, w, c))
            return true;
    return false;
}

/* To whoever is idle, or into the queue. */
static void give(struct master *m, const struct client *c)
{
    if (m->waiting || !assign_to_any(m, c))
        admit_queue(m, c);
    generation_fill(m, true);
}

void assign_connection(struct master *m, const struct client *c)
{
    m->arrived++;
    if (admit_allows(m, c))
        give(m, c);
    else
        admit_refuse(m, c);
}

void assign_waiting(struct master *m, struct worker *w)
{
    if (m->waiting && stands_by(m, w) && assign(m, w, &m->waiting->client))
        free(admit_next(m));
}

/* To whom it was never given: it counts as idle until it is reaped. */
void assign_again(struct master *m, struct worker *w)
{
    struct client c = w->client;
    c.fd = take_back(m, w);
    if (c.fd < 0)
        return;
    m->counts[COUNT_CONNECTIONS]--;
    worker_enter(w, STATE_IDLE);
    w->session = 0;
    w->peer_text[0] = '\0';
    give(m, &c);
}

/* A client that its worker took must not have to wait for us when that closes it. Of a local socket
 * the kernel tells what its reader has not taken yet (unix(7)). */
static void let_go_of_taken(struct master *m)
{
    for (size_t i = 0; i < MASTER_HELD; i++) {
        int untaken = 1;
        if (m->held[i] && ioctl(m->held[i]->channel.fd, SIOCOUTQ, &untaken) == 0 && untaken == 0)
            assign_let_go(m, m->held[i]);
    }
}

void assign_tick(struct master *m)
{
    let_go_of_taken(m);
    for (struct worker *w = m->workers; w && m->waiting; w = w->next)
        assign_waiting(m, w); /* who could not be given to one when he came */
}
