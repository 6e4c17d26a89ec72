/*
 * control.c - poplarctl's socket. Runs in the master. Who may connect is decided by the kernel's
 * word on the peer's uid: root, or whoever runs poplard.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

struct visitor {
    struct master *master;
    struct channel channel;
    sd_event_source *io;
};

static void leave(struct visitor *v)
{
    sd_event_source_disable_unref(v->io);
    channel_close(&v->channel);
    free(v);
}

void control_reply(int fd, int status, const char *text)
{
    struct channel channel;
    struct message message;
    char cut[4096];
    if (fd < 0)
        return;
    base_copy(cut, sizeof cut, text);
    channel_open(&channel, fd, ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    message_begin(&message, PROTO_REPLY);
    message_put_u32(&message, (uint32_t)status);
    message_put_text(&message, cut);
    (void)channel_send(&channel, &message, false); /* a visitor that left misses it */
    channel_close(&channel);
}

static void switch_trace(struct master *m, struct message *message, int reply)
{
    char user[PROTO_USER_MAX + 1];
    bool named = message_get_text(message, user, sizeof user);
    bool on = named && message_get_u32(message) != 0;
    if (!named || !workers_trace(m, user, on))
        control_reply(reply, EX_USAGE, "the users traced are too many: end another trace first");
    else
        control_reply(reply, EX_OK, on ? "traced from now on" : "no longer traced");
}

static int on_request(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct visitor *v = context;
    struct message message;
    char text[4096];
    (void)source;
    (void)fd;
    (void)events;
    enum channel_outcome outcome = channel_receive(&v->channel, &message, false, NULL);
    if (outcome == CHANNEL_AGAIN)
        return 0;
    if (outcome == CHANNEL_OK) {
        int reply = v->channel.fd;
        v->io = sd_event_source_disable_unref(v->io);
        v->channel.fd = -1; /* goes with the reply */
        if (message.rule->type == PROTO_RELOAD) {
            trial_begin(v->master, reply);
        } else if (message.rule->type == PROTO_DEBUG) {
            switch_trace(v->master, &message, reply);
        } else {
            supervise_status(v->master, text, sizeof text);
            control_reply(reply, 0, text);
        }
        message_clear(&message);
    }
    leave(v);
    return 0;
}

static int on_visitor(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct master *m = context;
    struct ucred peer;
    socklen_t size = sizeof peer;
    (void)source;
    (void)events;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return 0;
    if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
        (peer.uid != 0 && peer.uid != geteuid())) {
        control_reply(client, 77, "only root may ask this");
        return 0;
    }
    struct visitor *v = base_alloc(sizeof *v);
    v->master = m;
    channel_open(&v->channel, client, ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    if (sd_event_add_io(m->event, &v->io, client, EPOLLIN, on_request, v) < 0)
        leave(v);
    return 0;
}

static const char *remedy(int error)
{
    switch (error) {
    case ENOENT:
        return "make the directory it is in, or set run_dir";
    case EACCES:
    case EPERM:
    case EROFS:
        return "poplard must be able to write there, or set run_dir";
    default:
        return "set run_dir to another directory";
    }
}

static bool say(const struct config *config, char *error, size_t size)
{
    int why = errno;
    return base_refuse(error, size, "%s: [server] run_dir=%s: %s; %s",
                       config_where(config, "server", "", "run_dir"), config->server.run_dir,
                       strerror(why), remedy(why));
}

bool control_open(struct master *m, char *error, size_t error_size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *dir = m->config->server.run_dir;
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/control", dir);
    if (length < 0 || (size_t)length >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return say(m->config, error, error_size);
    }
    if (mkdir(dir, 0755) < 0 && errno != EEXIST)
        return say(m->config, error, error_size);
    m->control_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (m->control_fd < 0)
        return say(m->config, error, error_size);
    if (connect(m->control_fd, (struct sockaddr *)&address, sizeof address) == 0) {
        return base_refuse(
            error, error_size,
            "%s: [server] run_dir=%s: another poplard serves there: stop it, or set run_dir",
            config_where(m->config, "server", "", "run_dir"), dir);
    }
    unlink(address.sun_path); /* of a poplard that is gone; bind() says what cannot be removed */
    mode_t before = umask(0077);
    int bound = bind(m->control_fd, (struct sockaddr *)&address, sizeof address);
    umask(before);
    if (bound < 0 || listen(m->control_fd, 16) < 0 ||
        sd_event_add_io(m->event, &m->control_io, m->control_fd, EPOLLIN, on_visitor, m) < 0)
        return say(m->config, error, error_size);
    return true;
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
    base_close(m->control_fd);
    m->control_fd = -1;
}
