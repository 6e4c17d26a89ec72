/*
 * config.c - the table of settings, and what turns text into them; complete.c checks the whole.
 * Runs in the master, poplarctl and, fed by the master, in nursery and auth. Opens no file.
 */
#include "daemon/config.h"
#include "daemon/base.h"
#include "daemon/proto.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

/* Of what has no bound: SQLite and JSON have no larger numbers, and times become milliseconds. */
#define NUMBER_MAX INT64_MAX
#define TIME_MAX   (INT64_MAX / 1000)

/* Where a key was set that nobody set. */
#define BUILT_IN "built-in default"

enum kind {
    KIND_TEXT,   /* char * */
    KIND_PATH,   /* char *, absolute */
    KIND_FLAG,   /* bool: yes, no */
    KIND_NUMBER, /* uint64_t */
    KIND_TIME,   /* uint64_t, seconds */
    KIND_SIZE,   /* uint64_t, octets */
    KIND_WORD,   /* unsigned: which of `words` it is, counted from `low` on */
    KIND_LIST,   /* struct text_list, of `low` items at least */
};

struct setting {
    const char *section, *key;
    enum kind kind;
    size_t offset;
    const char *standard; /* NULL: set by config_complete(), or none */
    const char *words;    /* what it, or an item of a list, must be one of: in order of value */
    uint64_t low, high;   /* of numbers; high 0: no bound */
};

#define AT(member) offsetof(struct config, member)

/* clang-format off */
static const struct setting settings[] = {
    {"server", "hostname", KIND_TEXT, AT(server.hostname), NULL, NULL, 0, 0},
    {"server", "local_domains", KIND_LIST, AT(server.local_domains), NULL, NULL, 0, 0},
    {"server", "state_dir", KIND_PATH, AT(server.state_dir), "/var/lib/poplar", NULL, 0, 0},
    {"server", "run_dir", KIND_PATH, AT(server.run_dir), "/run/poplar", NULL, 0, 0},
    {"server", "program_dir", KIND_PATH, AT(server.program_dir), NULL, NULL, 0, 0},
    {"server", "worker_user", KIND_TEXT, AT(server.worker_user), "poplar-worker", NULL, 0, 0},
    {"server", "store_user", KIND_TEXT, AT(server.store_user), "poplar", NULL, 0, 0},
    {"server", "languages", KIND_LIST, AT(server.languages), "en, fr", "en, fr", 1, 0},
    {"server", "log_to", KIND_WORD, AT(server.log_to), "auto", "auto, journal, syslog, stderr", 0, 0},
    {"server", "log_level", KIND_WORD, AT(server.log_level), "info", "error, warning, notice, info, debug", LOG_ERR, 0},
    {"server", "stop_grace", KIND_TIME, AT(server.stop_grace), "5s", NULL, 0, 3600},

    {"listen", "pop3", KIND_LIST, AT(listen.pop3), "127.0.0.1:110, [::1]:110", NULL, 0, 0},
    {"listen", "pop3s", KIND_LIST, AT(listen.pop3s), "127.0.0.1:995, [::1]:995", NULL, 0, 0},
    {"listen", "lmtp", KIND_LIST, AT(listen.lmtp), NULL, NULL, 0, 0},
    {"listen", "proxy_from", KIND_LIST, AT(listen.proxy_from), "", NULL, 0, 0},
    {"listen", "proxy_tls", KIND_WORD, AT(listen.proxy_tls), "header", "header, assume", 0, 0},

    {"workers", "idle_min", KIND_NUMBER, AT(workers.idle_min), "4", NULL, 1, 1024},
    {"workers", "idle_max", KIND_NUMBER, AT(workers.idle_max), "32", NULL, 1, 1024},
    {"workers", "max_sessions", KIND_NUMBER, AT(workers.max_sessions), "1024", NULL, 1, 60000},
    {"workers", "max_per_source", KIND_NUMBER, AT(workers.max_per_source), "64", NULL, 1, 60000},
    {"workers", "sessions_per_layout", KIND_NUMBER, AT(workers.sessions_per_layout), "0", NULL, 0, 0},
    {"workers", "layout_max_age", KIND_TIME, AT(workers.layout_max_age), "1h", NULL, 1, 0},
    {"workers", "landlock", KIND_WORD, AT(workers.landlock), "auto", "auto, require", 0, 0},
    {"workers", "seccomp", KIND_WORD, AT(workers.seccomp), "kill", "kill, log", 0, 0},

    {"tls", "required", KIND_WORD, AT(tls.required), "yes", "yes, not-on-loopback, no", 0, 0},
    {"tls", "minimum", KIND_WORD, AT(tls.minimum), "TLSv1.2", "TLSv1.2, TLSv1.3", 0, 0},
    {"tls", "ciphers", KIND_TEXT, AT(tls.ciphers), NULL, NULL, 0, 0},
    {"tls", "alpn", KIND_WORD, AT(tls.alpn), "strict", "strict, ignore", 0, 0},
    {"tls", "client_ca", KIND_PATH, AT(tls.client_ca), NULL, NULL, 0, 0},
    {"tls", "client_name", KIND_WORD, AT(tls.client_name), "email", "email, cn", 0, 0},

    {"auth", "mechanisms", KIND_LIST, AT(auth.mechanisms), "plain, login", "plain, login, external, xoauth2, oauthbearer", 0, 0},
    {"auth", "pam_service", KIND_TEXT, AT(auth.pam_service), "poplar", NULL, 0, 0},
    {"auth", "pam_confdir", KIND_PATH, AT(auth.pam_confdir), NULL, NULL, 0, 0},
    {"auth", "processes_min", KIND_NUMBER, AT(auth.processes_min), "2", NULL, 1, 1024},
    {"auth", "processes_max", KIND_NUMBER, AT(auth.processes_max), "32", NULL, 1, 1024},
    {"auth", "requests_per_process", KIND_NUMBER, AT(auth.requests_per_process), "1000", NULL, 1, 0},
    {"auth", "timeout", KIND_TIME, AT(auth.timeout), "30s", NULL, 1, 600},
    {"auth", "failure_delay", KIND_TIME, AT(auth.failure_delay), "2s", NULL, 0, 60},
    {"auth", "first_uid", KIND_NUMBER, AT(auth.first_uid), "1000", NULL, 1, UINT32_MAX},
    {"auth", "canonical", KIND_WORD, AT(auth.canonical), "nss", "nss, pam", 0, 0},
    {"auth", "require_nss", KIND_FLAG, AT(auth.require_nss), "yes", NULL, 0, 0},
    {"auth", "username", KIND_WORD, AT(auth.username), "lowercase", "lowercase, keep", 0, 0},
    {"auth", "strip_domain", KIND_WORD, AT(auth.strip_domain), "local", "local, always, never", 0, 0},
    {"auth", "session", KIND_FLAG, AT(auth.session), "no", NULL, 0, 0},
    {"auth", "token_max", KIND_NUMBER, AT(auth.token_max), "16384", NULL, 512, 32768},
    {"auth", "throttle_exempt", KIND_LIST, AT(auth.throttle_exempt), "", NULL, 0, 0},

    {"session", "login_timeout", KIND_TIME, AT(session.login_timeout), "60s", NULL, 1, 3600},
    {"session", "idle_timeout", KIND_TIME, AT(session.idle_timeout), "10m", NULL, 1, 86400},
    {"session", "lock", KIND_WORD, AT(session.lock), "refuse", "refuse, takeover", 0, 0},
    {"session", "last", KIND_FLAG, AT(session.last), "yes", NULL, 0, 0},
    {"session", "login_delay", KIND_TIME, AT(session.login_delay), "0", NULL, 0, 86400},
    {"session", "nul", KIND_WORD, AT(session.nul), "pass", "pass, replace", 0, 0},

    {"store", "create", KIND_FLAG, AT(store.create), "yes", NULL, 0, 0},
    {"store", "quota_octets", KIND_SIZE, AT(store.quota_octets), "0", NULL, 0, 0},
    {"store", "quota_messages", KIND_NUMBER, AT(store.quota_messages), "0", NULL, 0, 0},
    {"store", "over_quota", KIND_WORD, AT(store.over_quota), "defer", "defer, reject", 0, 0},
    {"store", "max_message", KIND_SIZE, AT(store.max_message), "50M", NULL, 1, 1000000000},
    {"store", "expire_after", KIND_TIME, AT(store.expire_after), "0", NULL, 0, 0},
    {"store", "undelete_for", KIND_TIME, AT(store.undelete_for), "7d", NULL, 0, 0},

    {"delivery", "accept", KIND_WORD, AT(delivery.accept), "account", "account, maildrop, any", 0, 0},
    {"delivery", "nul", KIND_WORD, AT(delivery.nul), "keep", "keep, reject", 0, 0},
    {"delivery", "recipient_delimiter", KIND_LIST, AT(delivery.recipient_delimiter), "+", NULL, 0, 0},
    {"delivery", "trusted", KIND_LIST, AT(delivery.trusted), "root, postfix, Debian-exim", NULL, 0, 0},
};
/* clang-format on */

/* Sections that may carry a NAME, and their keys: every key is a text of its element. */
static const struct {
    const char *section, *key;
    size_t offset;
} named[] = {
    {"tls", "certificate", offsetof(struct config_certificate, certificate)},
    {"tls", "key", offsetof(struct config_certificate, key)},
    {"domain", "pam_service", offsetof(struct config_domain, pam_service)},
};

/* A decimal number with an optional unit letter of `units` (each with its factor; NULL: none). */
static bool parse_number(const char *text, const char *units, const uint64_t *factors,
                         uint64_t *value)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *rest;
    errno = 0;
    uint64_t number = strtoull(text, &rest, 10);
    uint64_t factor = 1;
    if (*rest) {
        const char *unit = units ? strchr(units, *rest) : NULL;
        if (!unit || rest[1])
            return false;
        factor = factors[unit - units];
    }
    return errno == 0 && !__builtin_mul_overflow(number, factor, value);
}

static bool set_number(const struct setting *s, uint64_t *target, const char *value, char *error,
                       size_t size)
{
    static const struct {
        const char *units, *hint;
        char unit[8];
        uint64_t factors[4];
    } forms[] = {
        [KIND_NUMBER] = {NULL, "a whole number", "", {0}},
        [KIND_TIME] = {"smhd",
                       "a time such as 30s, 10m, 1h or 7d",
                       " second",
                       {1, 60, 3600, 86400}},
        [KIND_SIZE] = {"KMG",
                       "a size such as 500K, 50M or 2G",
                       " octet",
                       {1 << 10, 1 << 20, 1 << 30}},
    };
    const char *unit = forms[s->kind].unit;
    uint64_t number;
    if (!parse_number(value, forms[s->kind].units, forms[s->kind].factors, &number))
        return base_refuse(error, size, "[%s] %s=%s: not %s", s->section, s->key, value,
                           forms[s->kind].hint);
    if (s->high && (number < s->low || number > s->high))
        return base_refuse(error, size, "[%s] %s=%s: must be between %llu and %llu%s%s", s->section,
                           s->key, value, (unsigned long long)s->low, (unsigned long long)s->high,
                           unit, *unit ? "s" : "");
    if (number < s->low)
        return base_refuse(error, size, "[%s] %s=%s: must be at least %llu%s", s->section, s->key,
                           value, (unsigned long long)s->low, unit);
    if (number > (s->kind == KIND_TIME ? TIME_MAX : NUMBER_MAX))
        return base_refuse(error, size, "[%s] %s=%s: too large", s->section, s->key, value);
    *target = number;
    return true;
}

/* Which of a setting's words this is. */
static bool find_word(const struct setting *s, const char *value, unsigned *n)
{
    *n = 0;
    for (const char *word = s->words; *word; ++*n) {
        size_t length = strcspn(word, ",");
        if (strlen(value) == length && strncmp(value, word, length) == 0)
            return true;
        word += length + strspn(word + length, ", ");
    }
    return false;
}

static bool refuse_word(const struct setting *s, const char *value, char *error, size_t size)
{
    return base_refuse(error, size, "[%s] %s=%s: must be one of %s", s->section, s->key, value,
                       s->words);
}

static bool set_word(const struct setting *s, unsigned *target, const char *value, char *error,
                     size_t size)
{
    unsigned n;
    if (!find_word(s, value, &n))
        return refuse_word(s, value, error, size);
    *target = (unsigned)s->low + n;
    return true;
}

static bool set_list(const struct setting *s, struct text_list *target, const char *value,
                     char *error, size_t size)
{
    unsigned n;
    textlist_set(target, value);
    for (size_t i = 0; s->words && i < target->n; i++)
        if (!find_word(s, target->items[i], &n))
            return refuse_word(s, target->items[i], error, size);
    return target->n >= s->low || refuse_word(s, "", error, size);
}

static bool set_value(struct config *config, const struct setting *s, const char *value,
                      char *error, size_t size)
{
    void *target = (char *)config + s->offset;
    switch (s->kind) {
    case KIND_PATH:
        if (value[0] != '/')
            return base_refuse(error, size, "[%s] %s=%s: must be an absolute path", s->section,
                               s->key, value);
        /* fall through */
    case KIND_TEXT:
        if (!*value)
            return base_refuse(error, size, "[%s] %s=: must not be empty", s->section, s->key);
        free(*(char **)target);
        *(char **)target = base_strdup(value);
        return true;
    case KIND_FLAG:
        if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
            return base_refuse(error, size, "[%s] %s=%s: must be yes or no", s->section, s->key,
                               value);
        *(bool *)target = value[0] == 'y';
        return true;
    case KIND_WORD:
        return set_word(s, target, value, error, size);
    case KIND_LIST:
        return set_list(s, target, value, error, size);
    default:
        return set_number(s, target, value, error, size);
    }
}

static struct config_certificate new_certificate(const char *name)
{
    return (struct config_certificate){
        .name = base_strdup(name), .certificate_fd = -1, .key_fd = -1};
}

struct config *config_new(void)
{
    char error[256];
    struct config *config = base_alloc(sizeof *config);
    config->tls.certificates = base_alloc(sizeof *config->tls.certificates);
    config->tls.certificates[0] = new_certificate("");
    config->tls.n_certificates = 1;
    config->tls.client_ca_fd = -1;
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        if (settings[i].standard &&
            !set_value(config, &settings[i], settings[i].standard, error, sizeof error))
            bug(error);
    return config;
}

void config_free(struct config *config)
{
    if (!config)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
        void *target = (char *)config + settings[i].offset;
        if (settings[i].kind == KIND_LIST)
            textlist_clear(target);
        else if (settings[i].kind == KIND_TEXT || settings[i].kind == KIND_PATH)
            free(*(char **)target);
    }
    for (size_t i = 0; i < config->tls.n_certificates; i++) {
        free(config->tls.certificates[i].name);
        free(config->tls.certificates[i].certificate);
        free(config->tls.certificates[i].key);
        base_close(config->tls.certificates[i].certificate_fd);
        base_close(config->tls.certificates[i].key_fd);
    }
    base_close(config->tls.client_ca_fd);
    free(config->tls.certificates);
    for (size_t i = 0; i < config->auth.n_domains; i++) {
        free(config->auth.domains[i].name);
        free(config->auth.domains[i].pam_service);
    }
    free(config->auth.domains);
    for (size_t i = 0; i < config->n_given; i++) {
        free(config->given[i].where);
        free(config->given[i].section);
        free(config->given[i].name);
        free(config->given[i].key);
        free(config->given[i].value);
    }
    free(config->given);
    free(config->where);
    free(config);
}

/* The element of [tls NAME] or [domain NAME], made when it is new. */
static void *element(struct config *config, const char *section, const char *name)
{
    if (strcmp(section, "tls") == 0) {
        size_t n = config->tls.n_certificates;
        for (size_t i = 0; i < n; i++)
            if (strcmp(config->tls.certificates[i].name, name) == 0)
                return &config->tls.certificates[i];
        config->tls.certificates =
            base_grow(config->tls.certificates, n, sizeof *config->tls.certificates);
        config->tls.certificates[n] = new_certificate(name);
        config->tls.n_certificates = n + 1;
        return &config->tls.certificates[n];
    }
    size_t n = config->auth.n_domains;
    for (size_t i = 0; i < n; i++)
        if (strcmp(config->auth.domains[i].name, name) == 0)
            return &config->auth.domains[i];
    config->auth.domains = base_grow(config->auth.domains, n, sizeof *config->auth.domains);
    config->auth.domains[n] = (struct config_domain){.name = base_strdup(name)};
    config->auth.n_domains = n + 1;
    return &config->auth.domains[n];
}

static void remember(struct config *config, const char *section, const char *name, const char *key,
                     const char *value)
{
    config->given = base_grow(config->given, config->n_given, sizeof *config->given);
    config->given[config->n_given++] =
        (struct config_given){base_strdup(config->where ? config->where : ""), base_strdup(section),
                              base_strdup(name), base_strdup(key), base_strdup(value)};
}

void config_at(struct config *config, const char *where)
{
    free(config->where);
    config->where = base_strdup(where);
}

const char *config_where(const struct config *config, const char *section, const char *name,
                         const char *key)
{
    for (size_t i = config->n_given; i-- > 0;) {
        const struct config_given *g = &config->given[i];
        if (strcmp(g->section, section) == 0 && strcmp(g->name, name) == 0 &&
            strcmp(g->key, key) == 0)
            return g->where;
    }
    return BUILT_IN;
}

bool config_refuse(const struct config *config, const char *section, const char *name,
                   const char *key, const char *value, char *error, size_t size, const char *format,
                   ...)
{
    va_list arguments;
    base_refuse(error, size, "%s: [%s%s%s] %s=%s: ", config_where(config, section, name, key),
                section, *name ? " " : "", name, key, value);
    size_t used = strlen(error);
    va_start(arguments, format);
    vsnprintf(error + used, size - used, format, arguments);
    va_end(arguments);
    return false;
}

bool config_is_given(const struct config *config, const char *section, const char *name,
                     const char *key)
{
    return strcmp(config_where(config, section, name, key), BUILT_IN) != 0;
}

static bool known_section(const char *section, bool with_name)
{
    for (size_t i = 0; i < ARRAY_SIZE(named); i++)
        if (strcmp(named[i].section, section) == 0)
            return with_name || strcmp(section, "domain") != 0;
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        if (strcmp(settings[i].section, section) == 0)
            return !with_name;
    return false;
}

/* Both tables as one. */
static const char *section_at(size_t n, const char **key)
{
    struct config_key row;
    if (!config_key(n, &row))
        return NULL;
    *key = row.key;
    return row.section;
}

/* The section is none: say which there are. */
static bool refuse_section(const char *section, const char *name, char *error, size_t size)
{
    char known[128] = "";
    const char *before = "", *key, *at;
    for (size_t n = 0; (at = section_at(n, &key)) != NULL; before = at, n++)
        if (strcmp(at, before) != 0 && known_section(at, false) && !strstr(known, at))
            textlist_add_word(known, sizeof known, at);
    if (!*section && !*name)
        return base_refuse(error, size,
                           "stands below no [section]; there are %s, tls NAME and domain NAME",
                           known);
    return base_refuse(error, size,
                       "[%s%s%s]: no such section; there are %s, tls NAME and domain NAME", section,
                       *name ? " " : "", name, known);
}

/* The key is none here: say where it belongs, or which there are. */
static bool refuse_key(const char *section, const char *name, const char *key, char *error,
                       size_t size)
{
    char known[320] = "";
    const char *k, *at;
    const char *blank = *name ? " " : "";
    for (size_t n = 0; (at = section_at(n, &k)) != NULL; n++) {
        if (strcmp(at, section) != 0 && strcmp(k, key) == 0)
            return base_refuse(error, size, "[%s%s%s] %s: no such key; it belongs in [%s]", section,
                               blank, name, key, at);
        bool has_name = n >= ARRAY_SIZE(settings);
        if (strcmp(at, section) == 0 && (!*name || has_name))
            textlist_add_word(known, sizeof known, k);
    }
    return base_refuse(error, size, "[%s%s%s] %s: no such key; the section has %s", section, blank,
                       name, key, known);
}

/* Domains that differ in nothing else are one, and the second of two would never be asked. */
static bool check_case(const struct config *config, const char *section, const char *name,
                       char *error, size_t size)
{
    for (size_t i = 0; i < config->n_given; i++) {
        const struct config_given *g = &config->given[i];
        if (strcmp(g->section, section) == 0 && strcasecmp(g->name, name) == 0 &&
            strcmp(g->name, name) != 0)
            return base_refuse(error, size, "[%s %s] and [%s %s], at %s, differ only in case",
                               section, name, section, g->name, g->where);
    }
    return true;
}

bool config_set(struct config *config, const char *section, const char *name, const char *key,
                const char *value, char *error, size_t error_size)
{
    const char *blank = *name ? " " : "";
    if (!known_section(section, *name != '\0'))
        return refuse_section(section, name, error, error_size);
    if (strlen(value) > PROTO_VALUE_MAX) /* no child could be told of it */
        return base_refuse(error, error_size, "[%s%s%s] %s: longer than %d octets", section, blank,
                           name, key, PROTO_VALUE_MAX);
    for (size_t i = 0; i < ARRAY_SIZE(named); i++) {
        if (strcmp(named[i].section, section) != 0 || strcmp(named[i].key, key) != 0)
            continue;
        if (strcmp(section, "tls") == 0 && value[0] != '/')
            return base_refuse(error, error_size, "[%s%s%s] %s=%s: must be an absolute path",
                               section, blank, name, key, value);
        if (!check_case(config, section, name, error, error_size))
            return false;
        char **target = (char **)((char *)element(config, section, name) + named[i].offset);
        free(*target);
        *target = base_strdup(value);
        remember(config, section, name, key, value);
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(settings) && !*name; i++) {
        if (strcmp(settings[i].section, section) != 0 || strcmp(settings[i].key, key) != 0)
            continue;
        if (!set_value(config, &settings[i], value, error, error_size))
            return false;
        remember(config, section, name, key, value);
        return true;
    }
    return refuse_key(section, name, key, error, error_size);
}

bool config_key(size_t n, struct config_key *key)
{
    if (n < ARRAY_SIZE(settings)) {
        *key = (struct config_key){settings[n].section, settings[n].key,
                                   settings[n].standard ? settings[n].standard : "",
                                   settings[n].kind == KIND_LIST};
        return true;
    }
    n -= ARRAY_SIZE(settings);
    if (n >= ARRAY_SIZE(named))
        return false;
    *key = (struct config_key){named[n].section, named[n].key, "", false};
    return true;
}
