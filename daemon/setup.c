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
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

/* A child that has ended is no failure here: it is told with its last words and its exit status,
 * when it is reaped, and not by chance before. */
static enum setup_outcome send_one(struct channel *channel, const struct message *m, char *error,
                                   size_t size)
{
    switch (channel_send(channel, m, false)) {
    case CHANNEL_OK:
    case CHANNEL_END:
        return SETUP_DONE;
    case CHANNEL_AGAIN:
        return SETUP_MORE;
    default:
        snprintf(error, size, "%s did not take its configuration: %s",
                 channel->peer == ROLE_AUTH ? "auth" : "nursery", strerror(errno));
        return SETUP_FAILED;
    }
}

/* What stands in the way of reading a certificate or key; NULL: nothing. */
static const char *find_fault(int fd)
{
    static const char not_a_file[] = "not a file; name the PEM file";
    struct stat st;
    if (fd < 0 && (errno == EACCES || errno == EPERM))
        return geteuid() == 0
                   ? "Permission denied; poplard must be able to read it, also for AppArmor or "
                     "SELinux"
                   : "Permission denied; start poplard as root (no User= in its unit), or give "
                     "its user one that he may read";
    if (fd < 0 && errno == ENOENT)
        return "No such file or directory; put it there, or name another";
    if (fd < 0 && errno == ENXIO)
        return not_a_file; /* a socket */
    if (fd < 0 || fstat(fd, &st) < 0)
        return strerror(errno);
    if (!S_ISREG(st.st_mode))
        return not_a_file;
    return st.st_size > PROTO_PEM_MAX ? "more than 1 MiB; name the PEM file" : NULL;
}

/* errno stays. */
static void refuse(const struct config *config, const char *name, const char *key, const char *path,
                   const char *fault, char *error, size_t size)
{
    int why = errno;
    config_refuse(config, "tls", name, key, path, error, size, "%s%s", fault,
                  why == ENOENT ? base_unseen(path) : "");
    errno = why;
}

int setup_open(const struct config *config, const char *name, const char *key, const char *path,
               char *error, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    const char *fault = find_fault(fd);
    if (!fault)
        return fd;
    if (fd >= 0)
        errno = EINVAL;
    refuse(config, name, key, path, fault, error, size);
    base_close(fd);
    return -1;
}

/* A copy in memory, open to whom the file is, that nobody can change. The octets of keys do not
 * pass through us. -1 and errno. */
static int copy_file(int from)
{
    const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    struct stat st;
    int copy = memfd_create("pem", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    size_t room = PROTO_PEM_MAX;
    ssize_t got = copy < 0 ? -1 : 1;
    while (got > 0 && room > 0) {
        got = sendfile(copy, from, NULL, room);
        room -= got > 0 ? (size_t)got : 0;
    }
    if (got >= 0 && fstat(from, &st) == 0 && fchmod(copy, st.st_mode & 0666) == 0 &&
        fcntl(copy, F_ADD_SEALS, seals) == 0)
        return copy;
    base_close(copy);
    return -1;
}

static bool keep_file(const struct config *config, const char *name, const char *key,
                      const char *path, int *kept, char *error, size_t size)
{
    int fd = path ? setup_open(config, name, key, path, error, size) : -1;
    if (fd < 0)
        return !path;
    *kept = copy_file(fd);
    if (*kept < 0)
        refuse(config, name, key, path, strerror(errno), error, size);
    base_close(fd);
    return *kept >= 0;
}

bool setup_keep(struct config *config, char *error, size_t size)
{
    bool kept = true;
    for (size_t i = 0; kept && i < config->tls.n_certificates; i++) {
        struct config_certificate *c = &config->tls.certificates[i];
        kept = keep_file(config, c->name, "certificate", c->certificate, &c->certificate_fd, error,
                         size) &&
               keep_file(config, c->name, "key", c->key, &c->key_fd, error, size);
    }
    return kept && keep_file(config, "", "client_ca", config->tls.client_ca,
                             &config->tls.client_ca_fd, error, size);
}

static enum setup_outcome send_setting(struct channel *channel, const struct config_given *g,
                                       char *error, size_t size)
{
    struct message message;
    message_begin(&message, PROTO_SETTING);
    message_put_text(&message, g->where);
    message_put_text(&message, g->section);
    message_put_text(&message, g->name);
    message_put_text(&message, g->key);
    message_put_text(&message, g->value);
    return send_one(channel, &message, error, size);
}

/* Nothing, where no path is set. */
static enum setup_outcome send_certificate(struct channel *channel, const char *name,
                                           const char *path, int chain, int key, char *error,
                                           size_t size)
{
    struct message message;
    if (!path)
        return SETUP_DONE;
    message_begin(&message, PROTO_CERTIFICATE);
    message_put_text(&message, name);
    message_put_text(&message, path);
    message_put_fd(&message, chain);
    message_put_fd(&message, key);
    return send_one(channel, &message, error, size);
}

/* Who may issue certificates of clients: one file, but the row wants two descriptors. */
static enum setup_outcome send_client_ca(struct channel *channel, const struct config *config,
                                         char *error, size_t size)
{
    int fd = config->tls.client_ca_fd;
    return send_certificate(channel, " ca", config->tls.client_ca, fd, fd, error, size);
}

static enum setup_outcome send_start(const struct setup *s, struct channel *channel, char *error,
                                     size_t size)
{
    struct message message;
    message_begin(&message, PROTO_START);
    message_put_u32(&message, s->strict);
    message_put_octets(&message, s->digest_key, s->digest_key ? sizeof *s->digest_key : 0);
    return send_one(channel, &message, error, size);
}

/* All settings; to the nursery each certificate, and the clients'; the start. */
enum setup_outcome setup_send(struct setup *s, struct channel *channel, char *error, size_t size)
{
    const struct config *config = s->config;
    const size_t settings = config->n_given;
    const size_t certificates = channel->peer == ROLE_NURSERY ? config->tls.n_certificates + 1 : 0;
    enum setup_outcome sent = SETUP_DONE;
    for (; sent == SETUP_DONE && s->told <= settings + certificates;
         s->told += sent == SETUP_DONE) {
        size_t n = s->told;
        if (n < settings)
            sent = send_setting(channel, &config->given[n], error, size);
        else if (n == settings + certificates)
            sent = send_start(s, channel, error, size);
        else if (n - settings == config->tls.n_certificates)
            sent = send_client_ca(channel, config, error, size);
        else {
            const struct config_certificate *c = &config->tls.certificates[n - settings];
            sent = send_certificate(channel, c->name, c->certificate, c->certificate_fd, c->key_fd,
                                    error, size);
        }
    }
    s->more = sent == SETUP_MORE;
    return sent;
}

bool setup_accept(const struct setup *setup, struct message *ready, const char *program,
                  char *error, size_t size)
{
    if (message_get_u64(ready) != proto_fingerprint())
        return base_refuse(error, size,
                           "%s is of another version than the running poplard: restart poplard",
                           program);
    return !setup->more || base_refuse(error, size, "%s is ready before it was told all", program);
}
