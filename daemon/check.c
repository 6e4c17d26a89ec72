/*
 * check.c - see check.h. Runs in the master, mostly in one that an administrator called by hand.
 */
#include "daemon/check.h"
#include "daemon/address.h"
#include "daemon/base.h"
#include "daemon/pam_service.h"
#include "daemon/privileges.h"
#include "daemon/setup.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    OTHER_DESCRIPTORS = 80 /* the log, timers, poplarctl, workers that start, clients that none has
                            * yet, files on their way */
};

bool check_prefixes(const struct config *config, char *error, size_t size)
{
    const struct {
        const char *section, *key;
        const struct text_list *prefixes;
    } lists[] = {{"auth", "throttle_exempt", &config->auth.throttle_exempt},
                 {"listen", "proxy_from", &config->listen.proxy_from}};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        const char *bad = address_bad_prefix(lists[i].prefixes);
        if (bad)
            return config_refuse(config, lists[i].section, "", lists[i].key, bad, error, size,
                                 "must be an address or a prefix such as 192.0.2.0/24");
    }
    return true;
}

/* A channel to each worker or a connection that waits for one, and to each auth process, with its
 * end of an exchange; sockets and what is kept of certificates twice, while a reload tries its own.
 */
static uint64_t count_descriptors(const struct config *config)
{
    size_t sockets = config->listen.pop3.n + config->listen.pop3s.n + config->listen.lmtp.n;
    size_t certificates = 2 * config->tls.n_certificates + 1;
    return OTHER_DESCRIPTORS + 2 * (sockets + certificates) + 2 * config->auth.processes_max +
           config->workers.max_sessions + config->workers.idle_max;
}

bool check_descriptors(const struct config *config, char *error, size_t size)
{
    struct rlimit limit;
    uint64_t wanted = count_descriptors(config);
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
        return true;
    return base_refuse(error, size,
                       "%s: [workers] max_sessions=%ju: wants %ju descriptors with all else, the "
                       "limit is %ju; raise it (ulimit -Hn, or LimitNOFILE= of the service), or "
                       "set max_sessions lower",
                       config_where(config, "workers", "", "max_sessions"),
                       (uintmax_t)config->workers.max_sessions, (uintmax_t)wanted,
                       (uintmax_t)limit.rlim_cur);
}

static bool check_addresses(const struct config *config, const char *key,
                            const struct text_list *addresses, char *error, size_t size)
{
    for (size_t i = 0; i < addresses->n; i++) {
        struct sockaddr_storage address;
        socklen_t length;
        if (!address_parse(addresses->items[i], &address, &length))
            return config_refuse(config, "listen", "", key, addresses->items[i], error, size,
                                 "must be ADDRESS:PORT, [IPv6]:PORT or *:PORT, in digits");
    }
    return true;
}

bool check_doors(const struct config *config, char *error, size_t size)
{
    bool given_tls = config_is_given(config, "listen", "", "pop3s") && config->listen.pop3s.n > 0;
    bool certificate = config->tls.certificates[0].certificate != NULL;
    if (!certificate && config->tls.required == TLS_REQUIRED_YES)
        return base_refuse(error, size,
                           "%s: [tls] certificate and key are not set: name a certificate, or "
                           "allow logins without TLS by [tls] required=not-on-loopback",
                           config->where);
    if (!certificate && given_tls)
        return base_refuse(error, size,
                           "%s: [listen] pop3s: needs a certificate: set [tls] certificate and "
                           "key, or remove pop3s",
                           config_where(config, "listen", "", "pop3s"));
    for (size_t i = 0; i < config->listen.lmtp.n; i++)
        if (config->listen.lmtp.items[i][0] != '/')
            return config_refuse(config, "listen", "", "lmtp", config->listen.lmtp.items[i], error,
                                 size, "must be an absolute path");
    return check_addresses(config, "pop3", &config->listen.pop3, error, size) &&
           check_addresses(config, "pop3s", &config->listen.pop3s, error, size);
}

bool check_use(const struct config *config, char *error, size_t size)
{
    bool external = textlist_has(&config->auth.mechanisms, "external");
    bool ca = config->tls.client_ca != NULL;
    if (external && !ca)
        return config_refuse(config, "auth", "", "mechanisms", "external", error, size,
                             "no client can use it without [tls] client_ca; name the issuers' file "
                             "there, or leave external out");
    if (ca && !external)
        return config_refuse(config, "tls", "", "client_ca", config->tls.client_ca, error, size,
                             "is for AUTH EXTERNAL, and keeps nobody out; add external to [auth] "
                             "mechanisms, or leave it out");
    return true;
}

/* Whether who is neither root nor we can make and remove names there. Of a directory that is not
 * run_dir the owner may be a mail server. */
static bool is_others(const char *dir, bool run_dir)
{
    struct stat st;
    return stat(dir, &st) == 0 &&
           (st.st_mode & S_IWOTH || (run_dir && st.st_uid != 0 && st.st_uid != geteuid()));
}

/* Files of maildrops that were copied from elsewhere may be open to all. */
static bool check_closed(const struct config *config, char *error, size_t size)
{
    const char *dir = config->server.state_dir;
    struct stat st;
    return stat(dir, &st) < 0 || !(st.st_mode & 077) ||
           config_refuse(config, "server", "", "state_dir", dir, error, size,
                         "others may look into it (mode %04o), and mail may be open to them; chmod "
                         "0700 %s",
                         (unsigned)st.st_mode & 07777, dir);
}

bool check_places(const struct config *config, char *error, size_t size)
{
    static const char fault[] = "others can put a socket in the place of poplard's there, and get "
                                "the mail; name a directory of root's, mode 0755";
    const char *dir = config->server.run_dir;
    if (is_others(dir, true))
        return config_refuse(config, "server", "", "run_dir", dir, error, size, fault);
    for (size_t i = 0; i < config->listen.lmtp.n; i++) {
        const char *path = config->listen.lmtp.items[i];
        char *copy = base_strdup(path);
        dir = dirname(copy);
        bool good = !is_others(dir, false) ||
                    config_refuse(config, "listen", "", "lmtp", path, error, size, fault);
        free(copy);
        if (!good)
            return false;
    }
    return check_closed(config, error, size);
}

bool check_mechanisms(const struct config *config, char *error, size_t size)
{
    const struct text_list *list = &config->auth.mechanisms;
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i], "external") != 0)
            return true;
    return list->n == 0 || config->tls.client_ca || check_use(config, error, size);
}

bool check_programs(const struct config *config, char *error, size_t size)
{
    static const char *const programs[] = {"poplar-worker", "poplar-auth"};
    const char *dir = config->server.program_dir;
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        char *path = base_format("%s/%s", dir, programs[i]);
        bool there = access(path, X_OK) == 0;
        free(path);
        if (!there)
            return config_refuse(config, "server", "", "program_dir", dir, error, size,
                                 "%s: %s; it must be where poplar-worker and poplar-auth are",
                                 programs[i], strerror(errno));
    }
    return true;
}

static bool check_state_dir(const struct config *config, uid_t owner, char *error, size_t size)
{
    const char *dir = config->server.state_dir, *user = config->server.store_user;
    struct stat st;
    if (stat(dir, &st) < 0)
        return config_refuse(config, "server", "", "state_dir", dir, error, size,
                             "%s; make it: install -d -o %s -m 0700 %s", strerror(errno), user,
                             dir);
    if (!S_ISDIR(st.st_mode) || st.st_uid != owner || st.st_mode & 022)
        return config_refuse(config, "server", "", "state_dir", dir, error, size,
                             "must be a directory that is %s's alone; name one, or if this is for "
                             "maildrops only: chown -R %s: %s; chmod 0700 %s",
                             user, user, dir, dir);
    char *mail = base_format("%s/mail", dir);
    bool good = lstat(mail, &st) < 0 || /* it is made when it is wanted */
                (S_ISDIR(st.st_mode) && st.st_uid == owner && !(st.st_mode & 022)) ||
                config_refuse(config, "server", "", "state_dir", dir, error, size,
                              "%s: must be a directory that is %s's alone, and no link; mount one "
                              "there that lies elsewhere",
                              mail, user);
    free(mail);
    return good;
}

static bool check_service(const struct config *config, const char *section, const char *name,
                          const char *service, char *error, size_t size)
{
    char problem[400];
    return pam_service_find(service, config->auth.pam_confdir, problem, sizeof problem) ||
           base_refuse(error, size, "%s: [%s%s%s] %s",
                       config_where(config, section, name, "pam_service"), section,
                       *name ? " " : "", name, problem);
}

/* Counts faults, and says them. */
static void tell(unsigned *faults, bool good, const char *error)
{
    if (good)
        return;
    fprintf(stderr, "poplard: %s\n", error);
    ++*faults;
}

static void check_file(const struct config *config, const char *name, const char *key,
                       const char *path, unsigned *faults)
{
    char error[2048];
    if (!path)
        return;
    int fd = setup_open(config, name, key, path, error, sizeof error);
    if (fd < 0 && errno == EACCES && geteuid() != 0)
        fprintf(stderr, "poplard: %s: only root can check this\n", path);
    else
        tell(faults, fd >= 0, error);
    base_close(fd);
}

unsigned check_all(const struct config *config)
{
    char error[2048];
    unsigned faults = 0;
    uid_t uid;
    gid_t gid;
    tell(&faults, check_prefixes(config, error, sizeof error), error);
    tell(&faults, check_doors(config, error, sizeof error), error);
    tell(&faults, check_mechanisms(config, error, sizeof error), error);
    tell(&faults, check_programs(config, error, sizeof error), error);
    tell(&faults, privileges_find_worker(config, &uid, &gid, error, sizeof error), error);
    bool stored = privileges_find_store(config, &uid, &gid, error, sizeof error);
    tell(&faults, stored, error);
    if (stored && uid != 0)
        tell(&faults, check_state_dir(config, uid, error, sizeof error), error);
    tell(&faults, check_service(config, "auth", "", config->auth.pam_service, error, sizeof error),
         error);
    for (size_t i = 0; i < config->auth.n_domains; i++)
        tell(&faults,
             check_service(config, "domain", config->auth.domains[i].name,
                           config->auth.domains[i].pam_service, error, sizeof error),
             error);
    for (size_t i = 0; i < config->tls.n_certificates; i++) {
        const struct config_certificate *c = &config->tls.certificates[i];
        check_file(config, c->name, "certificate", c->certificate, &faults);
        check_file(config, c->name, "key", c->key, &faults);
    }
    check_file(config, "", "client_ca", config->tls.client_ca, &faults);
    if (faults == 0 && !check_use(config, error, sizeof error))
        fprintf(stderr, "poplard: %s\n", error);
    if (faults == 0 && !check_places(config, error, sizeof error))
        fprintf(stderr, "poplard: %s\n", error);
    return faults;
}
