/*
 * setup.c - the configuration on its way to a child. Runs in the master, as root: it is the only
 * one to open key files, and hands them on open.
 */
#include "daemon/setup.h"
#include "daemon/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* A child that has ended is no failure here: it is told with its last words and its exit status,
 * when it is reaped, and not by chance before. */
static bool send_or_say(struct channel *channel, const struct message *m, char *error, size_t size)
{
    enum channel_outcome sent = channel_send(channel, m, true);
    if (sent == CHANNEL_OK || sent == CHANNEL_END)
        return true;
    return base_refuse(error, size, "%s did not take its configuration",
                       proto_role_name(channel->peer));
}

/* What stands in the way of reading a certificate or key; NULL: nothing. */
static const char *find_fault(int fd)
{
    struct stat st;
    if (fd < 0 && (errno == EACCES || errno == EPERM))
        return "Permission denied; poplard must be able to read it";
    if (fd < 0 && errno == ENOENT)
        return "No such file or directory; put it there, or name another";
    if (fd < 0 || fstat(fd, &st) < 0)
        return strerror(errno);
    return S_ISREG(st.st_mode) ? NULL : "not a file; name the PEM file";
}

int setup_open(const struct config *config, const char *name, const char *key, const char *path,
               char *error, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    const char *fault = find_fault(fd);
    if (!fault)
        return fd;
    snprintf(error, size, "%s: [tls%s%s] %s=%s: %s", config_where(config, "tls", name, key),
             *name ? " " : "", name, key, path, fault);
    base_close(fd);
    return -1;
}

static bool send_certificate(struct channel *channel, const struct config *config,
                             const struct config_certificate *c, char *error, size_t size)
{
    struct message message;
    bool sent = false;
    int chain = setup_open(config, c->name, "certificate", c->certificate, error, size);
    int key = chain < 0 ? -1 : setup_open(config, c->name, "key", c->key, error, size);
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

/* Who may issue certificates of clients: one file, but the row wants two descriptors. */
static bool send_client_ca(struct channel *channel, const struct config *config, char *error,
                           size_t size)
{
    struct message message;
    const char *path = config->tls.client_ca;
    int fd = path ? setup_open(config, "", "client_ca", path, error, size) : -1;
    if (fd < 0)
        return !path;
    message_begin(&message, PROTO_CERTIFICATE);
    message_put_text(&message, " ca");
    message_put_text(&message, path);
    message_put_fd(&message, fd);
    message_put_fd(&message, fd);
    bool sent = send_or_say(channel, &message, error, size);
    base_close(fd);
    return sent;
}

bool setup_send(struct channel *channel, const struct config *config, const uint64_t *digest_key,
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
    for (size_t i = 0; channel->peer == ROLE_NURSERY && i < config->tls.n_certificates; i++)
        if (config->tls.certificates[i].certificate &&
            !send_certificate(channel, config, &config->tls.certificates[i], error, error_size))
            return false;
    if (channel->peer == ROLE_NURSERY && !send_client_ca(channel, config, error, error_size))
        return false;
    message_begin(&message, PROTO_START);
    message_put_u32(&message, generation);
    message_put_u32(&message, strict);
    message_put_octets(&message, digest_key, digest_key ? sizeof *digest_key : 0);
    return send_or_say(channel, &message, error, error_size);
}
