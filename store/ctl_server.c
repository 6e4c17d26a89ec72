/*
 * ctl_server.c - poplarctl status and reload: one question to the running master over its control
 * socket, one answer. The master decides by the peer's credentials who may ask what.
 */
#include "daemon/channel.h"
#include "store/ctl.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>

enum {
    STATUS_WAIT_MS = 10000,
    RELOAD_WAIT_MS = 120000, /* a new generation loads certificates and modules */
    REPLY_MAX = 8192
};

static int connect_failed(const char *path, int error)
{
    switch (error) {
    case ENOENT:
    case ECONNREFUSED:
        return ctl_fail(EX_UNAVAILABLE,
                        "%s: poplard does not run with this configuration; start it first", path);
    case EACCES:
    case EPERM:
        return ctl_fail(EX_NOPERM, "%s: %s; run poplarctl as root", path, strerror(error));
    default:
        return ctl_fail(EX_UNAVAILABLE, "%s: %s", path, strerror(error));
    }
}

static int connect_master(const struct ctl *ctl, struct channel *channel)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[sizeof address.sun_path];
    int length = snprintf(path, sizeof path, "%s/control", ctl->config->server.run_dir);
    if (length < 0 || (size_t)length >= sizeof path)
        return ctl_fail(EX_CONFIG, "[server] run_dir=%s: too long for a socket's path",
                        ctl->config->server.run_dir);
    memcpy(address.sun_path, path, sizeof path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ctl_fail(EX_OSERR, "socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        base_close(fd);
        return connect_failed(path, error);
    }
    channel_open(channel, fd, ROLE_CTL, ROLE_MASTER, STATE_IDLE);
    return 0;
}

static int wait_failed(enum channel_outcome outcome, const char *fault)
{
    switch (outcome) {
    case CHANNEL_AGAIN:
        return ctl_fail(EX_TEMPFAIL, "the server did not answer in time; its log may say why");
    case CHANNEL_END:
        return ctl_fail(EX_NOPERM,
                        "the server closed the connection without an answer: it ended, or it does "
                        "not take orders from this user; run poplarctl as root");
    case CHANNEL_BAD:
        return ctl_fail(EX_PROTOCOL,
                        "the server's answer was %s: it is of another version; restart it", fault);
    default:
        return ctl_fail(EX_IOERR, "the server's answer: %s", strerror(errno));
    }
}

/* The answer's text and the status that poplarctl exits with, if there is an answer in time. */
static int ask(struct channel *channel, struct message *m, int wait_ms, char text[REPLY_MAX],
               int *answer)
{
    const char *fault = "";
    struct pollfd poller = {.fd = channel->fd, .events = POLLIN};
    enum channel_outcome outcome = channel_send(channel, m, true);
    if (outcome == CHANNEL_OK) {
        uint64_t now = base_now_ms(), end = now + (uint64_t)wait_ms;
        while (now < end && poll(&poller, 1, (int)(end - now)) < 0 && errno == EINTR)
            now = base_now_ms();
        outcome = channel_receive(channel, m, false, &fault);
    }
    if (outcome == CHANNEL_OK && m->rule->type == PROTO_REPLY) {
        *answer = (int)message_get_u32(m);
        message_get_text(m, text, REPLY_MAX);
    }
    message_clear(m);
    return outcome == CHANNEL_OK ? 0 : wait_failed(outcome, fault);
}

static void print_answer(const struct ctl *ctl, const char *text, int answer)
{
    size_t length = strlen(text);
    if (ctl->options & CTL_JSON) {
        json_t *object = json_pack("{s:i, s:s%}", "status", answer, "text", text, length);
        if (object)
            json_dumpf(object, stdout, JSON_COMPACT);
        json_decref(object);
        putchar('\n');
    } else if (length > 0) {
        printf("%s%s", text, text[length - 1] == '\n' ? "" : "\n");
    }
}

static int exchange(const struct ctl *ctl, struct message *request, int wait_ms)
{
    struct channel channel;
    char text[REPLY_MAX] = "";
    int answer = EX_SOFTWARE;
    int status = connect_master(ctl, &channel);
    if (status)
        return status;
    status = ask(&channel, request, wait_ms, text, &answer);
    channel_close(&channel);
    if (status)
        return status;
    if (answer != 0 && !(ctl->options & CTL_JSON))
        return ctl_fail(answer, "%s", text);
    print_answer(ctl, text, answer);
    return answer;
}

int ctl_status(struct ctl *ctl)
{
    struct message m;
    message_begin(&m, PROTO_STATUS);
    return exchange(ctl, &m, STATUS_WAIT_MS);
}

int ctl_reload(struct ctl *ctl)
{
    struct message m;
    message_begin(&m, PROTO_RELOAD);
    return exchange(ctl, &m, RELOAD_WAIT_MS);
}

int ctl_debug(struct ctl *ctl)
{
    struct message m;
    char name[PROTO_USER_MAX + 1];
    bool on = strcmp(ctl->words[1], "on") == 0;
    if (!on && strcmp(ctl->words[1], "off") != 0)
        return ctl_fail(EX_USAGE, "debug %s %s: on or off; see poplarctl help debug", ctl->words[0],
                        ctl->words[1]);
    int status = ctl_open_user(ctl, ctl->words[0], name, NULL);
    if (status)
        return status;
    message_begin(&m, PROTO_DEBUG);
    message_put_text(&m, name);
    message_put_u32(&m, on);
    return exchange(ctl, &m, STATUS_WAIT_MS);
}
