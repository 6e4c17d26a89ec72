/*
 * ctl_master.c - see ctl_master.h. Runs in poplarctl with the caller's privilege.
 */
#include "store/ctl_master.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>

static int wait_failed(enum channel_outcome outcome, const char *fault)
{
    switch (outcome) {
    case CHANNEL_AGAIN:
        return ctl_fail(EX_TEMPFAIL, "the server did not answer in time; its log may say why");
    case CHANNEL_END:
        return ctl_fail(EX_UNAVAILABLE,
                        "the server closed the connection without an answer: it has ended");
    case CHANNEL_BAD:
        return ctl_fail(EX_PROTOCOL,
                        "the server's answer was %s: it is of another version; restart it", fault);
    default:
        return ctl_fail(EX_IOERR, "the server's answer: %s", strerror(errno));
    }
}

static int connect_failed(const char *path, int error)
{
    switch (error) {
    case EAGAIN: /* as many wait as may */
        return wait_failed(CHANNEL_AGAIN, "");
    case ENOENT:
    case ECONNREFUSED:
        return ctl_fail(EX_UNAVAILABLE,
                        "%s: poplard does not run with this configuration; start it first, or "
                        "restart it if run_dir has changed",
                        path);
    case EACCES:
    case EPERM:
        return ctl_fail(EX_NOPERM,
                        "%s: %s; run poplarctl as root (the socket's group may look, too)", path,
                        strerror(error));
    default:
        return ctl_fail(EX_UNAVAILABLE, "%s: %s", path, strerror(error));
    }
}

int ctl_master_connect(const struct ctl *ctl, struct channel *channel)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[sizeof address.sun_path];
    int length = snprintf(path, sizeof path, "%s/control", ctl->config->server.run_dir);
    if ((size_t)length >= sizeof path)
        return ctl_fail(EX_CONFIG, "[server] run_dir=%s: too long for a socket's path",
                        ctl->config->server.run_dir);
    memcpy(address.sun_path, path, sizeof path);
    const struct timeval patience = {.tv_sec = CTL_MASTER_WAIT_MS / 1000}; /* of connect(), too */
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0)
        return ctl_fail(EX_OSERR, "socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        base_close(fd);
        return connect_failed(path, error);
    }
    channel_open(channel, fd, ROLE_CTL, ROLE_MASTER, STATE_IDLE);
    return 0;
}

/* Send a record and wait for the answer, which is in `m` then. 0, or an exit status. */
static int ask(struct channel *channel, struct message *m, int wait_ms)
{
    const char *fault = "";
    struct pollfd poller = {.fd = channel->fd, .events = POLLIN};
    enum channel_outcome outcome = channel_send(channel, m, true);
    /* Who is refused at once has an answer, though nobody took the question. */
    if (outcome == CHANNEL_OK || outcome == CHANNEL_END) {
        uint64_t now = base_now_ms(), end = now + (uint64_t)wait_ms;
        while (now < end && poll(&poller, 1, (int)(end - now)) < 0 && errno == EINTR)
            now = base_now_ms();
        outcome = channel_receive(channel, m, false, &fault);
    }
    return outcome == CHANNEL_OK ? 0 : wait_failed(outcome, fault);
}

int ctl_master_order(struct channel *channel, struct message *order, int wait_ms, char *text,
                     size_t size)
{
    text[0] = '\0';
    int status = ask(channel, order, wait_ms);
    if (status)
        return status;
    if (order->rule->type != PROTO_REPLY)
        status = ctl_fail(EX_PROTOCOL, "the server answered something else; restart it");
    else {
        status = (int)message_get_u32(order);
        message_get_text(order, text, size);
    }
    message_clear(order);
    return status;
}

int ctl_master_walk(struct channel *channel, enum status_part part, ctl_master_entry *take,
                    void *context)
{
    struct message m;
    uint64_t from = 0;
    for (;;) {
        message_begin(&m, PROTO_STATUS);
        message_put_u64(&m, proto_fingerprint());
        message_put_u32(&m, part);
        message_put_u64(&m, from);
        int status = ask(channel, &m, CTL_MASTER_WAIT_MS);
        if (status)
            return status;
        if (m.rule->type == PROTO_REPLY) {
            char text[4096] = "";
            status = (int)message_get_u32(&m);
            message_get_text(&m, text, sizeof text);
            message_clear(&m);
            return status ? ctl_fail(status, "%s", text) : 0;
        }
        from = message_get_u64(&m);
        take(context, &m);
        message_clear(&m);
    }
}

static void take_count(void *context, struct message *entry)
{
    uint64_t *counts = context;
    unsigned which = message_get_u32(entry);
    if (which < COUNTS)
        counts[which] = message_get_u64(entry);
}

int ctl_master_counts(struct channel *channel, uint64_t counts[COUNTS])
{
    memset(counts, 0, COUNTS * sizeof *counts);
    return ctl_master_walk(channel, STATUS_COUNTS, take_count, counts);
}

static void take_safe(struct message *entry, char *text, size_t size)
{
    char raw[8192] = "";
    message_get_text(entry, raw, sizeof raw);
    base_escape(text, size, raw);
}

void ctl_master_session(struct message *entry, struct ctl_session *session)
{
    *session = (struct ctl_session){.number = message_get_u64(entry)};
    session->pid = message_get_u32(entry);
    session->state = message_get_u32(entry);
    session->door = message_get_u32(entry);
    message_get_text(entry, session->user, sizeof session->user);
    base_escape(session->seen, sizeof session->seen, session->user);
    take_safe(entry, session->peer, sizeof session->peer);
    take_safe(entry, session->tls, sizeof session->tls);
    session->age_ms = message_get_u64(entry);
}

void ctl_master_item(struct message *entry, struct ctl_item *item)
{
    take_safe(entry, item->name, sizeof item->name);
    take_safe(entry, item->detail, sizeof item->detail);
    item->value = message_get_u64(entry);
}
