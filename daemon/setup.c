/*
 * setup.c - the configuration on its way to a child. Runs in the master, as root: it is the only
 * one to open key files, and hands them on open.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static bool send_or_say(struct channel *channel, const struct message *m, char *error, size_t size)
{
    if (channel_send(channel, m, true) == CHANNEL_OK)
        return true;
    snprintf(error, size, "%s did not take its configuration", proto_role_name(channel->peer));
    return false;
}

static int open_or_say(const struct config *config, const char *name, const char *key,
                       const char *path, char *error, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        snprintf(error, size, "%s: [tls%s%s] %s=%s: %s", config_where(config, "tls", name, key),
                 *name ? " " : "", name, key, path, strerror(errno));
    return fd;
}

static bool send_certificate(struct channel *channel, const struct config *config,
                             const struct config_certificate *c, char *error, size_t size)
{
    struct message message;
    bool sent = false;
    int chain = open_or_say(config, c->name, "certificate", c->certificate, error, size);
    int key = chain < 0 ? -1 : open_or_say(config, c->name, "key", c->key, error, size);
    if (key >= 0) {
        message_begin(&message, PROTO_CERTIFICATE);
        message_put_text(&message, c->name);
        message_put_text(&message, c->certificate);
        message_put_fd(&message, chain);
        message_put_fd(&message, key);
        sent = send_or_say(channel, &message, error, size);
    }
    base_close(chain);
    base_close(key);
    return sent;
}

bool setup_send(struct channel *channel, const struct config *config, bool certificates,
                unsigned generation, bool strict, char *error, size_t error_size)
{
    struct message message;
    for (size_t i = 0; i < config->n_given; i++) {
        const struct config_given *g = &config->given[i];
        message_begin(&message, PROTO_SETTING);
        message_put_text(&message, g->where);
        message_put_text(&message, g->section);
        message_put_text(&message, g->name);
        message_put_text(&message, g->key);
        message_put_text(&message, g->value);
        if (!send_or_say(channel, &message, error, error_size))
            return false;
    }
    for (size_t i = 0; certificates && i < config->tls.n_certificates; i++)
        if (config->tls.certificates[i].certificate &&
            !send_certificate(channel, config, &config->tls.certificates[i], error, error_size))
            return false;
    message_begin(&message, PROTO_START);
    message_put_u32(&message, generation);
    message_put_u32(&message, strict);
    return send_or_say(channel, &message, error, error_size);
}
