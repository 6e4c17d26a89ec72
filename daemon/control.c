/*
 * control.c - poplarctl's socket. Runs in the master. The socket's mode decides who may connect:
 * root, and the group of store_user. The kernel's word on the peer decides what he may do: give
 * orders if he is root (or whoever runs poplard), else look.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/privileges.h"
#include "daemon/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

enum { GUESTS_MAX = 8 /* at a time: they must not take the descriptors that sessions need */ };

struct visitor {
    struct master *master;
    struct channel channel;
    sd_event_source *io;
    bool guest; /* may look, and no more */
};

static void leave(struct visitor *v)
{
    v->master->guests -= v->guest;
    sd_event_source_disable_unref(v->io);
    if (v->guest)
        discard(v->master, v->channel.fd);
    else
        channel_close(&v->channel);
    free(v);
}

static bool reply(struct channel *channel, int status, const char *text)
{
    struct message message;
    char cut[4096];
    base_copy(cut, sizeof cut, text);
    message_begin(&message, PROTO_REPLY);
    message_put_u32(&message, (uint32_t)status);
    message_put_text(&message, cut);
    return channel_send(channel, &message, false) == CHANNEL_OK;
}

void control_reply(int fd, int status, const char *text)
{
    struct channel channel;
    channel_open(&channel, fd, ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    (void)reply(&channel, status, text); /* a visitor that left misses it */
    channel_close(&channel);
}

static bool switch_trace(struct visitor *v, struct message *message)
{
    char user[PROTO_USER_MAX + 1];
    bool named = message_get_text(message, user, sizeof user);
    bool on = named && message_get_u32(message) != 0;
    if (!named || !worker_trace_user(v->master, user, on))
        return reply(&v->channel, EX_USAGE,
                     "the users traced are too many: end another trace first");
    return reply(&v->channel, EX_OK, on ? "traced from now on" : "no longer traced");
}

static bool show(struct visitor *v, struct message *message)
{
    if (message_get_u64(message) != proto_fingerprint())
        return reply(&v->channel, EX_PROTOCOL,
                     "poplarctl is of another version than the running poplard: restart poplard");
    unsigned part = message_get_u32(message);
    uint64_t from = message_get_u64(message);
    if (!status_next(v->master, part, from, message))
        return reply(&v->channel, EX_OK, "");
    return channel_send(&v->channel, message, false) == CHANNEL_OK;
}

/* A session that is logged in ends at its next command, or in a second; another one now. */
static bool kick(struct visitor *v, struct message *message)
{
    uint64_t session = message_get_u64(message);
    struct worker *w = v->master->workers;
    while (w && (w->session == 0 || w->session != session))
        w = w->next;
    if (!w)
        return reply(&v->channel, EX_NOINPUT, "there is no such session");
    char named[sizeof w->user + 2];
    struct log_about about = worker_about(w);
    base_value(named, sizeof named, w->user);
    log_line(LOG_NOTICE, LOG_EVENT_KICKED, &about, "kicked: peer=%s user=%s", w->peer_text, named);
    if (w->channel.state & (STATE_MAIL | STATE_DONE))
        worker_finish(w, END_KICKED);
    else
        worker_end(w);
    return reply(&v->channel, EX_OK, "");
}

/* False: the visitor leaves. */
static bool serve(struct visitor *v, struct message *message)
{
    enum proto_type type = message->rule->type;
    if (type == PROTO_STATUS)
        return show(v, message);
    if (v->guest)
        return reply(&v->channel, EX_NOPERM,
                     "only root may do this; members of the group may look");
    if (type == PROTO_KICK)
        return kick(v, message);
    if (type == PROTO_DEBUG)
        return switch_trace(v, message);
    int fd = v->channel.fd;
    v->io = sd_event_source_disable_unref(v->io);
    v->channel.fd = -1; /* goes with the outcome */
    trial_begin(v->master, fd);
    return false;
}

static int on_request(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct visitor *v = context;
    struct message message;
    (void)source;
    (void)fd;
    (void)events;
    enum channel_outcome outcome = channel_receive(&v->channel, &message, false, NULL);
    if (outcome == CHANNEL_AGAIN)
        return 0;
    bool stays = outcome == CHANNEL_OK && serve(v, &message);
    if (outcome == CHANNEL_OK)
        message_clear(&message);
    if (!stays)
        leave(v);
    return 0;
}

static void turn_away(struct master *m, int client)
{
    struct channel channel;
    channel_open(&channel, client, ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    (void)reply(&channel, EX_TEMPFAIL, "too many look at once, try again");
    discard(m, client);
}

static int on_visitor(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct master *m = context;
    (void)events;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            log_line(LOG_ERR, LOG_EVENT_SHORT, NULL, "control socket: %s", strerror(errno));
            sd_event_source_set_enabled(source, SD_EVENT_OFF); /* until control_tick() */
        }
        return 0;
    }
    uid_t uid = local_peer(client);
    bool guest = uid != 0 && uid != geteuid();
    if (guest && m->guests >= GUESTS_MAX) {
        turn_away(m, client);
        return 0;
    }
    struct visitor *v = base_alloc(sizeof *v);
    v->master = m;
    v->guest = guest;
    m->guests += guest;
    channel_open(&v->channel, client, ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    v->channel.wary = guest;
    if (sd_event_add_io(m->event, &v->io, client, EPOLLIN, on_request, v) < 0)
        leave(v);
    return 0;
}

/* Looking is for the store user's group, which the socket has from its beginning: no capability to
 * change owners is needed. */
static int bind_for_group(const struct config *config, char *why, size_t size)
{
    uid_t uid;
    gid_t gid;
    char *path = base_format("%s/control", config->server.run_dir);
    bool shared = geteuid() == 0 && privileges_lookup(config->server.store_user, &uid, &gid);
    mkdir(config->server.run_dir,
          0755); /* of no group; what keeps it from being made is told next */
    if (shared)
        setfsgid(gid);
    int fd = local_bind(path, SOCK_SEQPACKET, shared ? 0660 : 0600, why, size);
    int error = errno;
    setfsgid(getegid());
    free(path);
    errno = error;
    return fd;
}

bool control_open(struct master *m, char *error, size_t error_size)
{
    char why[256] = "it cannot be watched";
    const struct config *config = m->config;
    m->control_fd = bind_for_group(config, why, sizeof why);
    int watched = -errno;
    if (m->control_fd >= 0)
        watched = sd_event_add_io(m->event, &m->control_io, m->control_fd, EPOLLIN, on_visitor, m);
    if (watched >= 0)
        return true;
    config_refuse(config, "server", "", "run_dir", config->server.run_dir, error, error_size,
                  "control: %s", why);
    errno = -watched;
    return false;
}

void control_tick(struct master *m)
{
    sd_event_source_set_enabled(m->control_io, SD_EVENT_ON);
}

void control_close(struct master *m)
{
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    if (m->control_fd < 0 || !m->control_io)
        return;
    m->control_io = sd_event_source_disable_unref(m->control_io);
    if (getsockname(m->control_fd, (struct sockaddr *)&address, &size) == 0)
        unlink(address.sun_path);
    shutdown(m->control_fd, SHUT_RDWR);
    discard_now(m->control_fd); /* with who was not heard any more */
    m->control_fd = -1;
}
