/*
 * listen.c - the doors: sockets passed by systemd or bound from the configuration, and accept().
 * Runs in the master, as root (ports below 1024).
 */
#include "daemon/base.h"
#include "daemon/check.h"
#include "daemon/master.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum {
    ACCEPTS_AT_ONCE = 128,
    PAUSE_MS = 200,        /* after accept() ran out of descriptors or memory */
    UNSENT_OCTETS = 131072 /* of an answer, in the kernel */
};

struct opening {
    const struct config *config;
    struct listener *old;
    size_t n_old;
    struct listener *made;
    size_t n;
    char *error;
    size_t error_size;
    int why; /* errno; 0: it is nothing that the system said */
};

static struct listener *add(struct opening *o, int fd, enum proto_door door, const char *text)
{
    o->made = base_grow(o->made, o->n, sizeof *o->made);
    o->made[o->n++] = (struct listener){.fd = fd, .door = door, .text = base_strdup(text)};
    return &o->made[o->n - 1];
}

/* The door of a descriptor's name; 0 for a name that is none. */
static enum proto_door door_named(const char *name)
{
    enum proto_door door = DOOR_POP3;
    while (door < DOORS && strcmp(proto_door_name(door), name) != 0)
        door++;
    return door < DOORS ? door : 0;
}

/* One passed socket: a listening TCP or unix socket by its name's door. systemd hands them over
 * blocking (NonBlocking= is off), and a second accept() would then hold up the loop. */
static bool take_passed(struct opening *o, int fd, const char *name)
{
    enum proto_door door = door_named(name);
    int flags = fcntl(fd, F_GETFL);
    if (door == 0)
        snprintf(
            o->error, o->error_size,
            "systemd passed a socket named '%s': set FileDescriptorName=pop3, pop3s or lmtp in "
            "its unit",
            name);
    else if (door == DOOR_LMTP && sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) <= 0)
        snprintf(
            o->error, o->error_size,
            "systemd passed as '%s' what is no listening unix socket: set ListenStream=PATH and "
            "Accept=no in its unit",
            name);
    else if (door != DOOR_LMTP && sd_is_socket(fd, AF_INET, SOCK_STREAM, 1) <= 0 &&
             sd_is_socket(fd, AF_INET6, SOCK_STREAM, 1) <= 0)
        snprintf(
            o->error, o->error_size,
            "systemd passed as '%s' what is no listening TCP socket: set ListenStream=PORT and "
            "Accept=no in its unit",
            name);
    else if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        o->why = errno;
        snprintf(o->error, o->error_size, "the socket '%s' passed by systemd: %s", name,
                 strerror(o->why));
    } else {
        add(o, fd, door, name)->passed = true;
        return true;
    }
    return false;
}

static bool passed_by_systemd(struct opening *o)
{
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names);
    bool good = n >= 0;
    if (n < 0) {
        o->why = -n;
        snprintf(o->error, o->error_size, "the sockets passed by systemd: %s", strerror(-n));
    }
    for (int i = 0; i < n; i++) {
        good = good && take_passed(o, SD_LISTEN_FDS_START + i, names[i]);
        free(names[i]);
    }
    free(names);
    return good;
}

/* A socket that serves already is not bound again. Its descriptor moves over at the commit. */
static int inherit(struct opening *o, enum proto_door door, const char *text)
{
    for (size_t i = 0; i < o->n_old; i++)
        if (o->old[i].door == door && !o->old[i].passed && strcmp(o->old[i].text, text) == 0)
            return dup(o->old[i].fd);
    return -1;
}

static int bind_address(const struct sockaddr_storage *address, socklen_t size)
{
    int on = 1;
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        (address->ss_family != AF_INET6 ||
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) == 0) &&
        bind(fd, (const struct sockaddr *)address, size) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    base_close(fd);
    return -1;
}

/* Of two addresses as configured. */
static bool same_port(const char *a, const char *b)
{
    const char *port_a = strrchr(a, ':'), *port_b = strrchr(b, ':');
    return port_a && port_b && strcmp(port_a, port_b) == 0;
}

static bool is_any(const char *text)
{
    return text[0] == '*' || strncmp(text, "[::]:", 5) == 0 || strncmp(text, "0.0.0.0:", 8) == 0;
}

/* Whether one of them is all addresses of its family, and the other one of these. */
static bool overlap(const char *a, const char *b)
{
    return same_port(a, b) && (a[0] == '[') == (b[0] == '[') && (is_any(a) || is_any(b));
}

static const char named_twice[] = "it is named twice under [listen]";

static bool is_made(const struct opening *o, const char *text)
{
    for (size_t i = 0; i < o->n; i++)
        if (!o->made[i].passed && strcmp(o->made[i].text, text) == 0)
            return true;
    return false;
}

static const char *remedy(const struct opening *o, const char *text, int error)
{
    switch (error) {
    case EADDRINUSE:
        for (size_t i = 0; i < o->n_old; i++)
            if (same_port(o->old[i].text, text))
                return "this poplard has the port, by another address: restart it";
        if (is_made(o, text))
            return named_twice;
        for (size_t i = 0; i < o->n; i++)
            if (o->made[i].door != DOOR_LMTP && overlap(o->made[i].text, text))
                return "an address before it under [listen] has the port";
        return "another server holds this port: stop it, or choose another";
    case EACCES:
        return "ports below 1024 need root, or a socket unit";
    case EADDRNOTAVAIL:
        return "this host has no such address";
    default:
        return base_status(error, 0) ? "try again when the system has it"
                                     : "choose another address";
    }
}

static bool open_one(struct opening *o, enum proto_door door, const char *key, const char *text)
{
    struct sockaddr_storage address;
    socklen_t size;
    if (!address_parse(text, &address, &size))
        bug("an address that was checked is none");
    int fd = inherit(o, door, text);
    bool inherited = fd >= 0;
    if (!inherited)
        fd = bind_address(&address, size);
    if (fd >= 0) {
        add(o, fd, door, text)->owned = !inherited;
        return true;
    }
    /* Without IPv6, or in a container without loopback, the built-in addresses may lack one. */
    if (!config_is_given(o->config, "listen", "", key) &&
        (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT))
        return true;
    o->why = errno;
    return config_refuse(o->config, "listen", "", key, text, o->error, o->error_size, "%s; %s",
                         strerror(o->why), remedy(o, text, o->why));
}

static bool open_lmtp(struct opening *o)
{
    for (size_t i = 0; i < o->config->listen.lmtp.n; i++) {
        char why[256];
        const char *path = o->config->listen.lmtp.items[i];
        if (is_made(o, path))
            return config_refuse(o->config, "listen", "", "lmtp", path, o->error, o->error_size,
                                 named_twice);
        bool named = access(path, F_OK) == 0; /* nobody finds one that has lost its name */
        int fd = named ? inherit(o, DOOR_LMTP, path) : -1;
        bool inherited = fd >= 0;
        if (!inherited)
            fd = local_bind(path, SOCK_STREAM, 0666, why, sizeof why);
        if (fd >= 0) {
            add(o, fd, DOOR_LMTP, path)->owned = !inherited;
            continue;
        }
        o->why = errno;
        return config_refuse(o->config, "listen", "", "lmtp", path, o->error, o->error_size, "%s",
                             why);
    }
    return true;
}

static bool open_all(struct opening *o, enum proto_door door, const char *key,
                     const struct text_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        if (!open_one(o, door, key, list->items[i]))
            return false;
    return true;
}

/* Whether systemd passed sockets for mail that comes in, or for clients. */
static bool is_passed(const struct opening *o, bool lmtp)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->made[i].passed && (o->made[i].door == DOOR_LMTP) == lmtp)
            return true;
    return false;
}

static bool has_pop3(const struct opening *o)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->made[i].door != DOOR_LMTP)
            return true;
    return false;
}

/* False with words when one cannot be had; none may be there. */
static bool reuse_passed(struct opening *o)
{
    for (size_t i = 0; i < o->n_old; i++) {
        if (!o->old[i].passed)
            continue;
        int fd = dup(o->old[i].fd);
        if (fd < 0) {
            o->why = errno;
            return base_refuse(o->error, o->error_size, "the socket '%s' passed by systemd: %s",
                               o->old[i].text, strerror(o->why));
        }
        add(o, fd, o->old[i].door, o->old[i].text)->passed = true;
    }
    return true;
}

/* The key of sockets that systemd passed as well; NULL when there is none. */
static const char *find_twice(const struct opening *o)
{
    static const char *const keys[] = {"pop3", "pop3s"};
    for (size_t i = 0; is_passed(o, false) && i < ARRAY_SIZE(keys); i++)
        if (config_is_given(o->config, "listen", "", keys[i]))
            return keys[i];
    return is_passed(o, true) && config_is_given(o->config, "listen", "", "lmtp") ? "lmtp" : NULL;
}

/* What of the configuration does not go together, or not with what systemd passed. Told before a
 * port is bound: a port that is taken is no reason to look there first. */
static bool check(const struct opening *o)
{
    bool passed_tls = false;
    for (size_t i = 0; i < o->n; i++)
        passed_tls |= o->made[i].door == DOOR_POP3S;
    bool certificate = o->config->tls.certificates[0].certificate != NULL;
    const char *twice = find_twice(o);
    if (!check_doors(o->config, o->error, o->error_size))
        return false;
    if (twice)
        snprintf(o->error, o->error_size,
                 "%s: [listen] is set, and systemd passed sockets too: keep one of the two; "
                 "see Sockets in poplard(8)",
                 config_where(o->config, "listen", "", twice));
    else if (!certificate && passed_tls)
        snprintf(o->error, o->error_size,
                 "%s: [listen] pop3s (from systemd): needs a certificate: set [tls] certificate "
                 "and key, or remove pop3s",
                 o->config->where);
    else
        return true;
    return false;
}

static bool bind_all(struct opening *o)
{
    bool tls = o->config->tls.certificates[0].certificate != NULL;
    if (is_passed(o, false))
        return true;
    if (!open_all(o, DOOR_POP3, "pop3", &o->config->listen.pop3) ||
        (tls && !open_all(o, DOOR_POP3S, "pop3s", &o->config->listen.pop3s)))
        return false;
    if (!has_pop3(o))
        snprintf(o->error, o->error_size,
                 "%s: nothing to listen on: set [listen] pop3 or pop3s, or start a socket unit",
                 o->config->where);
    return has_pop3(o);
}

bool listen_open(const struct config *config, struct listener *old, size_t n_old,
                 struct listener **listeners, size_t *n, char *error, size_t error_size)
{
    struct opening o = {
        .config = config, .old = old, .n_old = n_old, .error = error, .error_size = error_size};
    bool good = reuse_passed(&o) && (o.n > 0 || passed_by_systemd(&o)) && check(&o) &&
                bind_all(&o) && (is_passed(&o, true) || open_lmtp(&o));
    if (!good) {
        listen_close(o.made, o.n);
        errno = o.why;
        return false;
    }
    *listeners = o.made;
    *n = o.n;
    return true;
}

void listen_close(struct listener *listeners, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        sd_event_source_disable_unref(listeners[i].io);
        if (listeners[i].owned) /* a child that ends what discard() was given may have a copy */
            shutdown(listeners[i].fd, SHUT_RDWR);
        if (listeners[i].door == DOOR_LMTP) /* with who connected and was not accepted */
            discard_now(listeners[i].fd);
        else
            base_close(listeners[i].fd);
        if (listeners[i].owned && listeners[i].door == DOOR_LMTP)
            unlink(listeners[i].text);
        free(listeners[i].text);
    }
    free(listeners);
}

void listen_replace(struct listener *old, size_t n_old, struct listener *fresh, size_t n)
{
    for (size_t i = 0; i < n_old; i++)
        for (size_t k = 0; k < n; k++)
            if (old[i].owned && old[i].door == fresh[k].door &&
                strcmp(old[i].text, fresh[k].text) == 0) {
                fresh[k].owned = true;
                old[i].owned = false;
            }
    listen_close(old, n_old);
}

static void enable_all(struct master *m, int enabled)
{
    for (size_t i = 0; i < m->n_listeners; i++)
        sd_event_source_set_enabled(m->listeners[i].io, enabled);
}

static int on_pause_over(sd_event_source *source, uint64_t usec, void *context)
{
    (void)source;
    (void)usec;
    enable_all(context, SD_EVENT_ON);
    return 0;
}

/* Out of descriptors or memory, or forbidden by a security module: the connection stays in the
 * kernel's queue; come back later instead of spinning over it. */
static void pause_accepting(struct master *m, int error)
{
    log_line(LOG_ERR, LOG_EVENT_SHORT, NULL, "accept: %s; pausing", strerror(error));
    enable_all(m, SD_EVENT_OFF);
    loop_timer(m, &m->accept_pause, base_now_ms() + PAUSE_MS, on_pause_over, m);
}

/* As the worker wants the client's socket, and may not make it itself. The kernel would take
 * megabytes of an answer and then nothing until a third of them has gone: to whoever writes, a slow
 * client seems to take nothing for minutes. */
static void set_options(int client)
{
    const int on = 1, unsent = UNSENT_OCTETS;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(client, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

static int on_connection(sd_event_source *source, int fd, uint32_t events, void *context)
{
    struct master *m = context;
    enum proto_door door = DOOR_POP3;
    (void)source;
    (void)events;
    for (size_t i = 0; i < m->n_listeners; i++)
        if (m->listeners[i].fd == fd)
            door = m->listeners[i].door;
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        struct client c = {.door = door};
        socklen_t size = sizeof c.peer;
        c.fd = accept4(fd, (struct sockaddr *)&c.peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (c.fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue; /* that one is gone from the queue */
            if (errno != EAGAIN)
                pause_accepting(m, errno);
            return 0;
        }
        set_options(c.fd);
        address_unmap(&c.peer);
        c.source = address_source(&c.peer);
        c.uid = door == DOOR_LMTP ? local_peer(c.fd) : 0;
        assign_connection(m, &c);
    }
    return 0;
}

bool listen_attach(struct master *m)
{
    for (size_t i = 0; i < m->n_listeners; i++)
        if (sd_event_add_io(m->event, &m->listeners[i].io, m->listeners[i].fd, EPOLLIN,
                            on_connection, m) < 0)
            return false;
    return true;
}

void listen_detach(struct master *m)
{
    m->accept_pause = sd_event_source_disable_unref(m->accept_pause);
    listen_close(m->listeners, m->n_listeners);
    m->listeners = NULL;
    m->n_listeners = 0;
}
