/*
 * channel.c - records over a socket pair, checked against the contract as they arrive. Runs in
 * every process; a receiver with more privilege relies on this file alone for the shape of what a
 * less trusted peer sends.
 */
#include "daemon/channel.h"
#include "daemon/base.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

int channel_pair(int ends[2], bool credentials)
{
    int on = 1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    if (!credentials || setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0)
        return 0;
    base_close(ends[0]);
    base_close(ends[1]);
    return -1;
}

void channel_open(struct channel *c, int fd, enum proto_role self, enum proto_role peer,
                  unsigned state)
{
    *c = (struct channel){.fd = fd, .self = self, .peer = peer, .state = state};
}

void channel_close(struct channel *c)
{
    base_close(c->fd);
    c->fd = -1;
}

static bool wait_for(int fd, short events)
{
    struct pollfd poller = {.fd = fd, .events = events};
    int ready;
    do
        ready = poll(&poller, 1, -1);
    while (ready < 0 && errno == EINTR);
    return ready > 0;
}

static enum channel_outcome failed(void)
{
    if (errno == EAGAIN || errno == ENOBUFS)
        return CHANNEL_AGAIN;
    return errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN ? CHANNEL_END : CHANNEL_ERROR;
}

enum channel_outcome channel_send(struct channel *c, const struct message *m, bool wait)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(PROTO_FDS_MAX * sizeof(int))];
    } control = {0};
    struct iovec vector = {.iov_base = (void *)(uintptr_t)m->data, .iov_len = m->size};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};

    if (!(m->rule->from & c->self) || !(m->rule->to & c->peer) || !(m->rule->states & c->state) ||
        m->field != strlen(m->rule->fields) || m->n_fds < m->rule->min_fds)
        bug(m->rule->name);
    if (m->n_fds > 0) {
        header.msg_control = control.space;
        header.msg_controllen = CMSG_SPACE(m->n_fds * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(m->n_fds * sizeof(int));
        memcpy(CMSG_DATA(&control.header), m->fds, m->n_fds * sizeof(int));
    }
    for (;;) {
        if (sendmsg(c->fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return CHANNEL_OK;
        if (errno == EINTR)
            continue;
        enum channel_outcome outcome = failed();
        if (outcome != CHANNEL_AGAIN || !wait || !wait_for(c->fd, POLLOUT))
            return outcome;
    }
}

/* Collect descriptors and the sender's credentials. The word for what is wrong with them, NULL if
 * nothing is: where no credentials come there is room for more descriptors than any row has. A unix
 * socket has no other level than SOL_SOCKET. */
static const char *take_control(struct message *m, struct msghdr *header)
{
    bool surplus = false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_type == SCM_RIGHTS) {
            size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < n; i++) {
                int fd;
                memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
                if (m->n_fds < PROTO_FDS_MAX) {
                    m->fds[m->n_fds++] = fd;
                } else {
                    base_close(fd);
                    surplus = true;
                }
            }
        } else if (c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(c), sizeof sender);
            m->sender = sender.pid;
        }
    }
    if (header->msg_flags & (MSG_CTRUNC | MSG_TRUNC))
        return "cut by the kernel";
    return surplus ? "with a wrong number of descriptors" : NULL;
}

/* The word for what is wrong with a record, NULL if nothing is. */
static const char *find_fault(const struct channel *c, struct message *m)
{
    const struct proto_rule *rule = m->rule = proto_rule(m->data[0]);
    if (!rule)
        return "of no known type";
    if (!(rule->from & c->peer) || !(rule->to & c->self))
        return "not this role's to send";
    if (!(rule->states & c->state))
        return "not allowed in this state";
    if (rule->once && c->seen & UINT64_C(1) << rule->type)
        return "sent twice";
    if (m->size > rule->max_size)
        return "too large";
    if (m->n_fds < rule->min_fds || m->n_fds > rule->max_fds)
        return "with a wrong number of descriptors";
    if (!message_well_formed(m))
        return "malformed";
    return NULL;
}

/* The sockets block: waiting in the call itself is one call, not three. That the peer has not taken
 * all before its end the kernel tells once, ahead of what the peer said. */
static ssize_t receive(struct channel *c, struct msghdr *header, bool wait)
{
    for (;;) {
        ssize_t got = recvmsg(c->fd, header, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
        bool told = got < 0 && errno == ECONNRESET && !c->untaken;
        c->untaken |= told;
        if (got >= 0 || (errno != EINTR && !told))
            return got;
    }
}

/* Whether descriptors come along with the next record, which stays where it is. There is room for
 * credentials, which come first, and which poplarctl's do without; what has none is told. */
static bool brings_descriptors(int fd, bool credentials)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    char octet;
    struct iovec vector = {.iov_base = &octet, .iov_len = sizeof octet};
    struct msghdr header = {.msg_iov = &vector,
                            .msg_iovlen = 1,
                            .msg_control = control.space,
                            .msg_controllen = credentials ? sizeof control.space : 0};
    return recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) >= 0 &&
           header.msg_flags & MSG_CTRUNC;
}

enum channel_outcome channel_receive(struct channel *c, struct message *m, bool wait,
                                     const char **fault)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(PROTO_FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec vector = {.iov_base = m->data, .iov_len = sizeof m->data};
    struct msghdr header = {.msg_iov = &vector,
                            .msg_iovlen = 1,
                            .msg_control = control.space,
                            .msg_controllen = sizeof control.space};

    m->size = 0;
    m->n_fds = 0;
    m->sender = 0;
    if (c->wary && brings_descriptors(c->fd, c->peer != ROLE_CTL)) {
        if (fault)
            *fault = "with a wrong number of descriptors";
        return CHANNEL_BAD;
    }
    ssize_t got = receive(c, &header, wait);
    if (got < 0)
        return failed();
    m->size = (size_t)got;
    const char *wrong = take_control(m, &header);
    if (got == 0 && m->sender == 0 && m->n_fds == 0) {
        message_clear(m);
        return CHANNEL_END;
    }
    /* An empty record looks like the end, but for what comes with it. */
    if (!wrong)
        wrong = got == 0 ? "empty" : find_fault(c, m);
    if (wrong) {
        message_clear(m);
        if (fault)
            *fault = wrong;
        return CHANNEL_BAD;
    }
    c->seen |= UINT64_C(1) << m->rule->type;
    return CHANNEL_OK;
}
