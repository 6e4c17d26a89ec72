/*
 * complete.c - what a configuration lacks when its last key is read, and whether what belongs
 * together fits. Runs where config.c does. Opens no file.
 */
#include "daemon/base.h"
#include "daemon/config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHORTEST_EXPIRY = 86400 }; /* seconds: EXPIRE counts in days, and 0 means something else */

/* The settings' place in a file: the first of these keys that was given. */
static const char *where_given(const struct config *config, const char *section, const char *name,
                               const char *key, const char *other_key)
{
    bool first = config_is_given(config, section, name, key);
    return config_where(config, section, name, first ? key : other_key);
}

static bool check_certificates(const struct config *config, char *error, size_t size)
{
    for (size_t i = 0; i < config->tls.n_certificates; i++) {
        const struct config_certificate *c = &config->tls.certificates[i];
        if (!c->certificate != !c->key)
            return base_refuse(error, size, "%s: [tls%s%s] %s is set without %s; set both",
                               where_given(config, "tls", c->name, "key", "certificate"),
                               *c->name ? " " : "", c->name, c->key ? "key" : "certificate",
                               c->key ? "certificate" : "key");
    }
    bool any = config->tls.certificates[0].certificate != NULL;
    if (!any && config->tls.n_certificates > 1)
        return base_refuse(
            error, size, "%s: [tls %s]: set certificate and key in [tls] first",
            config_where(config, "tls", config->tls.certificates[1].name, "certificate"),
            config->tls.certificates[1].name);
    return true;
}

static bool is_service_name(const char *name)
{
    return *name && name[0] != '.' && !strchr(name, '/');
}

static bool check_services(const struct config *config, char *error, size_t size)
{
    static const char fault[] = "must be a file name, not a path";
    if (!is_service_name(config->auth.pam_service))
        return config_refuse(config, "auth", "", "pam_service", config->auth.pam_service, error,
                             size, fault);
    for (size_t i = 0; i < config->auth.n_domains; i++) {
        const struct config_domain *d = &config->auth.domains[i];
        if (!is_service_name(d->pam_service))
            return config_refuse(config, "domain", d->name, "pam_service", d->pam_service, error,
                                 size, fault);
    }
    return true;
}

/* It stands in greetings and in Received lines, which are ASCII (RFC 5321 section 4.4); also a
 * literal address may. */
static bool is_hostname(const char *name)
{
    static const char fit[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._[:]";
    return *name && name[strspn(name, fit)] == '\0';
}

static bool check_hostname(const struct config *config, char *error, size_t size)
{
    return is_hostname(config->server.hostname) ||
           config_refuse(config, "server", "", "hostname", config->server.hostname, error, size,
                         "must be letters, digits, dots and hyphens, others as xn--");
}

/* Of names, none of which has a blank or a semicolon: who puts these between them, and no comma,
 * would else have named nobody. */
static bool check_words(const struct config *config, const char *section, const char *key,
                        const struct text_list *list, char *error, size_t size)
{
    for (size_t i = 0; i < list->n; i++) {
        const char *unfit = strpbrk(list->items[i], " \t;");
        if (unfit)
            return config_refuse(config, section, "", key, list->items[i], error, size,
                                 "has a %s in it; put commas between names",
                                 *unfit == ';' ? "semicolon" : "blank");
    }
    return true;
}

static bool check_domains(const struct config *config, char *error, size_t size)
{
    const struct text_list *list = &config->server.local_domains;
    for (size_t i = 0; i < list->n; i++)
        if (strchr(list->items[i], '@'))
            return config_refuse(config, "server", "", "local_domains", list->items[i], error, size,
                                 "must be a domain, which is what follows the @");
    for (size_t i = 0; i < config->auth.n_domains; i++)
        if (strpbrk(config->auth.domains[i].name, "@,; \t"))
            return base_refuse(
                error, size, "%s: [domain %s]: must be one domain, which is what follows the @",
                config_where(config, "domain", config->auth.domains[i].name, "pam_service"),
                config->auth.domains[i].name);
    return check_words(config, "server", "local_domains", list, error, size);
}

static bool check_order(const struct config *config, const char *section, const char *min_key,
                        uint64_t min, const char *max_key, uint64_t max, char *error, size_t size)
{
    return min <= max ||
           base_refuse(error, size, "%s: [%s] %s is larger than %s (%llu and %llu)",
                       where_given(config, section, "", min_key, max_key), section, min_key,
                       max_key, (unsigned long long)min, (unsigned long long)max);
}

bool config_complete(struct config *config, char *error, size_t error_size)
{
    if (!config->server.hostname) {
        char name[256] = "";
        if (gethostname(name, sizeof name - 1) < 0 || !is_hostname(name))
            base_copy(name, sizeof name, "localhost");
        config->server.hostname = base_strdup(name);
    }
    if (!config_is_given(config, "server", "", "local_domains")) {
        textlist_clear(&config->server.local_domains);
        textlist_add(&config->server.local_domains, config->server.hostname,
                     strlen(config->server.hostname));
        textlist_add(&config->server.local_domains, "localhost", strlen("localhost"));
    }
    if (!config_is_given(config, "listen", "", "lmtp")) {
        char *path = base_format("%s/lmtp.sock", config->server.run_dir);
        textlist_clear(&config->listen.lmtp);
        textlist_add(&config->listen.lmtp, path, strlen(path));
        free(path);
    }
    if (!check_order(config, "workers", "idle_min", config->workers.idle_min, "idle_max",
                     config->workers.idle_max, error, error_size) ||
        !check_order(config, "auth", "processes_min", config->auth.processes_min, "processes_max",
                     config->auth.processes_max, error, error_size))
        return false;
    if (config->store.expire_after > 0 && config->store.expire_after < SHORTEST_EXPIRY)
        return base_refuse(
            error, error_size,
            "%s: [store] expire_after is less than a day, which POP3 cannot announce "
            "(RFC 2449 section 6.7): set 0 for never, or 1d and more",
            config_where(config, "store", "", "expire_after"));
    return check_hostname(config, error, error_size) && check_domains(config, error, error_size) &&
           check_words(config, "delivery", "trusted", &config->delivery.trusted, error,
                       error_size) &&
           check_services(config, error, error_size) &&
           check_certificates(config, error, error_size);
}
