/*
 * canonical.c - whose maildrop a name means: folding, domains, the account's own spelling.
 *
 * Runs in poplar-auth (root) and poplarctl, on names that clients chose and PAM modules changed.
 * Looks accounts up; never opens a maildrop, never decides by a password.
 */
#include "auth/canonical.h"
#include "daemon/base.h"

#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

enum {
    UID_NOBODY = 65534,       /* also what file servers and containers show for "unmapped" */
    ENTRY_SIZE_MAX = 1 << 20, /* octets of one passwd entry; groupware stores novels in gecos */
};

static bool acceptable(const char *name)
{
    size_t length = strnlen(name, PROTO_USER_MAX + 1);
    bool blank = name[strspn(name, " ")] == '\0';
    if (blank || length > PROTO_USER_MAX || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c == 0x7f || c == '/')
            return false;
    }
    return true;
}

/* ASCII only and by hand: tolower() follows the locale, and a maildrop's name must not. */
static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool same_domain(const char *a, const char *b)
{
    while (*a && lower(*a) == lower(*b)) {
        a++;
        b++;
    }
    return lower(*a) == lower(*b);
}

static const struct config_domain *find_virtual(const struct config *config, const char *domain)
{
    for (size_t i = 0; i < config->auth.n_domains; i++)
        if (same_domain(config->auth.domains[i].name, domain))
            return &config->auth.domains[i];
    return NULL;
}

static bool is_stripped(const struct config *config, const char *domain)
{
    if (config->auth.strip_domain != STRIP_LOCAL)
        return config->auth.strip_domain == STRIP_ALWAYS;
    for (size_t i = 0; i < config->server.local_domains.n; i++)
        if (same_domain(config->server.local_domains.items[i], domain))
            return true;
    return false;
}

enum canonical_outcome canonical_fold(const struct config *config, const char *given,
                                      char name[PROTO_USER_MAX + 1], const char **pam_service)
{
    if (!acceptable(given))
        return CANONICAL_MALFORMED;
    char folded[PROTO_USER_MAX + 1];
    base_copy(folded, sizeof folded, given);
    char *at;
    const struct config_domain *virtual = NULL;
    /* All that is to be stripped, at once: what comes out is folded again after PAM, and must then
     * be what PAM was asked about, by the service that its domain has. */
    while ((at = strrchr(folded, '@')) && !(virtual = find_virtual(config, at + 1)) &&
           is_stripped(config, at + 1))
        *at = '\0';
    if (at == folded)
        return CANONICAL_MALFORMED;

    /* A domain has no case; of a virtual one, two spellings must not become two maildrops. */
    char *from = config->auth.username == USERNAME_LOWERCASE ? folded : virtual ? at : NULL;
    for (; from && *from; from++)
        *from = lower(*from);
    if (!acceptable(folded))
        return CANONICAL_MALFORMED;

    base_copy(name, PROTO_USER_MAX + 1, folded);
    *pam_service = virtual ? virtual->pam_service : config->auth.pam_service;
    return CANONICAL_OK;
}

/* The account's own spelling and uid. */
static enum canonical_outcome look_up(const char *name, char spelled[PROTO_USER_MAX + 1],
                                      uid_t *uid)
{
    struct passwd entry, *found;
    char *memory = NULL;
    size_t size = 1024;
    int error;
    do {
        memory = base_realloc(memory, size);
        found = NULL;
        error = getpwnam_r(name, &entry, memory, size, &found);
        if (error == ERANGE)
            size *= 2;
    } while ((error == ERANGE && size <= ENTRY_SIZE_MAX) || error == EINTR);

    enum canonical_outcome outcome = CANONICAL_OK;
    /* Who is not there is no error here, whatever else is: nslcd that is down says ENOENT. */
    if (error != 0)
        outcome = CANONICAL_UNAVAILABLE;
    else if (!found)
        outcome = CANONICAL_UNKNOWN;
    else if (!acceptable(found->pw_name))
        outcome = CANONICAL_MALFORMED;
    else {
        base_copy(spelled, PROTO_USER_MAX + 1, found->pw_name);
        *uid = found->pw_uid;
    }
    free(memory);
    return outcome;
}

enum canonical_outcome canonical_account(const struct config *config, const char *given,
                                         char name[PROTO_USER_MAX + 1], uid_t *uid)
{
    char folded[PROTO_USER_MAX + 1], spelled[PROTO_USER_MAX + 1];
    const char *service;
    enum canonical_outcome outcome = canonical_fold(config, given, folded, &service);
    if (outcome != CANONICAL_OK)
        return outcome;
    outcome = look_up(folded, spelled, uid);
    if (outcome == CANONICAL_OK &&
        (*uid == 0 || *uid == UID_NOBODY || *uid < config->auth.first_uid))
        return CANONICAL_REFUSED;
    bool by_account = outcome == CANONICAL_OK && config->auth.canonical == CANONICAL_NSS;
    base_copy(name, PROTO_USER_MAX + 1, by_account ? spelled : folded);
    return outcome;
}

enum canonical_outcome canonical_uid(const char *account, uid_t *uid)
{
    char spelled[PROTO_USER_MAX + 1];
    return look_up(account, spelled, uid);
}

bool canonical_without_detail(const struct config *config, const char *given,
                              char shorter[PROTO_RECIPIENT_MAX + 1])
{
    const struct text_list *delimiters = &config->delivery.recipient_delimiter;
    const char *domain = strrchr(given, '@');
    size_t local = domain ? (size_t)(domain - given) : strlen(given), kept = local;
    for (size_t i = 0; i < delimiters->n; i++) {
        size_t before = strcspn(given, delimiters->items[i]);
        kept = before < kept ? before : kept;
    }
    if (kept == 0 || kept == local || strlen(given) > PROTO_RECIPIENT_MAX)
        return false;
    memcpy(shorter, given, kept);
    base_copy(shorter + kept, PROTO_RECIPIENT_MAX + 1 - kept, given + local);
    return true;
}

enum canonical_outcome canonical_finish(const struct config *config, const char *pam_user,
                                        char name[PROTO_USER_MAX + 1])
{
    char found[PROTO_USER_MAX + 1];
    uid_t uid;
    enum canonical_outcome outcome = canonical_account(config, pam_user, found, &uid);
    if (outcome == CANONICAL_UNKNOWN && config->auth.canonical == CANONICAL_PAM &&
        !config->auth.require_nss)
        outcome = CANONICAL_OK;
    if (outcome == CANONICAL_OK)
        base_copy(name, PROTO_USER_MAX + 1, found);
    return outcome;
}
