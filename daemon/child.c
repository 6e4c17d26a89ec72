/*
 * child.c - the first steps of nursery and auth. Runs as root, before either has met anything but
 * the master.
 */
#include "daemon/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <syslog.h>

void child_log(struct channel *control, int priority, const char *format, ...)
{
    char raw[700], text[900];
    struct message m;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    base_escape(text, sizeof text, raw);

    message_begin(&m, PROTO_LOG);
    message_put_u32(&m, (uint32_t)priority);
    message_put_text(&m, text);
    enum channel_outcome sent = control->fd < 0 ? CHANNEL_ERROR : channel_send(control, &m, false);
    if (sent != CHANNEL_OK && sent != CHANNEL_END) /* a master that hung up knows what it needs */
        fprintf(stderr, "%s: %s\n", program_invocation_short_name, text);
}

void child_lost_master(enum channel_outcome outcome, const char *fault)
{
    if (outcome == CHANNEL_END)
        exit(PROTO_EXIT_DONE);
    if (outcome == CHANNEL_BAD)
        fatal(PROTO_EXIT_CONTRACT, "a record from the master is %s", fault);
    fatal(EX_OSERR, "channel to the master: %s", strerror(errno));
}

_Noreturn static void give_up(struct child *child, const char *error)
{
    child_log(&child->control, LOG_ERR, "%s", error);
    exit(EX_CONFIG);
}

static void take_setting(struct child *child, struct message *m)
{
    char where[1024], section[32], name[256], key[64], value[PROTO_VALUE_MAX + 1], error[512];
    if (!message_get_text(m, where, sizeof where) ||
        !message_get_text(m, section, sizeof section) || !message_get_text(m, name, sizeof name) ||
        !message_get_text(m, key, sizeof key) || !message_get_text(m, value, sizeof value))
        give_up(child, "a setting is too long");
    config_at(child->config, where);
    if (!config_set(child->config, section, name, key, value, error, sizeof error))
        give_up(child, error);
}

static void take_certificate(struct child *child, struct message *m, child_certificate *certificate,
                             void *context)
{
    char name[256], path[4096], error[512] = "unexpected certificate";
    if (!message_get_text(m, name, sizeof name) || !message_get_text(m, path, sizeof path))
        give_up(child, "a certificate's path is too long");
    int chain = message_take_fd(m);
    int key = message_take_fd(m);
    if (!certificate || !certificate(context, name, path, chain, key, error, sizeof error))
        give_up(child, error);
}

static void take_start(struct child *child, struct message *m)
{
    size_t size;
    child->strict = message_get_u32(m) != 0;
    const unsigned char *key = message_get_octets(m, &size);
    if (size == sizeof child->digest_key)
        memcpy(&child->digest_key, key, size);
}

void child_begin(struct child *child, enum proto_role self, child_certificate *certificate,
                 void *context)
{
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(PROTO_FD_CONTROL, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
        type != SOCK_SEQPACKET)
        fatal(EX_USAGE, "is started by poplard only; see poplard(8)");
    /* A program that a PAM module starts must not speak for us. */
    if (fcntl(PROTO_FD_CONTROL, F_SETFD, FD_CLOEXEC) < 0)
        fatal(EX_OSERR, "descriptor 3: %s", strerror(errno));
    *child = (struct child){.config = config_new()};
    channel_open(&child->control, PROTO_FD_CONTROL, self, ROLE_MASTER, STATE_STARTING);

    for (bool complete = false; !complete;) {
        struct message m;
        const char *fault = NULL;
        enum channel_outcome outcome = channel_receive(&child->control, &m, true, &fault);
        if (outcome != CHANNEL_OK)
            child_lost_master(outcome, fault);
        if (m.rule->type == PROTO_SETTING)
            take_setting(child, &m);
        else if (m.rule->type == PROTO_CERTIFICATE)
            take_certificate(child, &m, certificate, context);
        else {
            take_start(child, &m);
            complete = true;
        }
        message_clear(&m);
    }
    char error[512];
    if (!config_complete(child->config, error, sizeof error))
        give_up(child, error);
}

void child_ready(struct child *child)
{
    struct message m;
    message_begin(&m, PROTO_READY);
    message_put_u64(&m, proto_fingerprint());
    enum channel_outcome sent = channel_send(&child->control, &m, true);
    if (sent != CHANNEL_OK)
        child_lost_master(sent, NULL);
    child->control.state = STATE_IDLE;
}
