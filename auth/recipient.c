/*
 * recipient.c - whose maildrop a recipient's address means, and who may deliver to it.
 *
 * Runs in poplar-auth as root. PAM is not asked: an account whose password has expired still gets
 * its mail. Must never take a look-up that failed for a recipient that is not there: the sender's
 * queue would send the mail back.
 */
#include "auth/recipient.h"
#include "auth/canonical.h"
#include "daemon/base.h"

#include <stdio.h>

struct search {
    const struct config *config;
    const struct grant_root *root;
    uid_t peer;
    enum proto_service service;
    char *name; /* PROTO_USER_MAX + 1 octets */
    int *files;
    char *error;
    size_t error_size;
};

static enum login_outcome unavailable(struct search *s, const char *account)
{
    snprintf(s->error, s->error_size, "look-up of account '%s' failed (getpwnam)", account);
    return LOGIN_UNAVAILABLE;
}

/* Looked up each time, and only for who is neither root nor at home here: what was unknown when
 * this process began may be known now. */
static enum login_outcome check_trusted(struct search *s)
{
    const struct text_list *trusted = &s->config->delivery.trusted;
    const char *failed = NULL;
    for (size_t i = 0; i < trusted->n; i++) {
        uid_t uid;
        enum canonical_outcome outcome = canonical_uid(trusted->items[i], &uid);
        if (outcome == CANONICAL_OK && uid == s->peer)
            return LOGIN_OK;
        if (outcome == CANONICAL_UNAVAILABLE)
            failed = trusted->items[i];
    }
    return failed ? unavailable(s, failed) : LOGIN_FORBIDDEN;
}

static enum login_outcome open_maildrop(struct search *s)
{
    const struct config *config = s->config;
    bool may_make = config->store.create && config->delivery.accept != ACCEPT_MAILDROP;
    bool make = may_make && s->service == SERVE_DELIVER;
    int files[MAILDROP_FILES];
    if (!grant_has_room(s->root, config->store.max_message, s->error, s->error_size))
        return LOGIN_NO_ROOM;
    enum login_outcome outcome =
        grant_open(s->root, s->name, make, false, files, s->error, s->error_size);
    if (outcome == LOGIN_NO_MAILDROP) {
        s->error[0] = '\0';
        return may_make ? LOGIN_OK : LOGIN_NO_USER;
    }
    for (unsigned i = 0; outcome == LOGIN_OK && i < MAILDROP_FILES; i++) {
        if (s->service == SERVE_CHECK)
            base_close(files[i]);
        else
            s->files[i] = files[i];
    }
    return outcome;
}

/* One reading of the address. LOGIN_NO_USER: another may be tried. */
static enum login_outcome try_name(struct search *s, const char *given, bool last)
{
    unsigned accept = s->config->delivery.accept;
    uid_t uid = (uid_t)-1;
    enum canonical_outcome found = canonical_account(s->config, given, s->name, &uid);
    if (found == CANONICAL_UNAVAILABLE)
        return unavailable(s, given);
    bool account = found == CANONICAL_OK;
    /* Where any name will do, the one with a detail is the same maildrop as that without. */
    if (!account &&
        (found != CANONICAL_UNKNOWN || accept == ACCEPT_ACCOUNT || (accept == ACCEPT_ANY && !last)))
        return LOGIN_NO_USER;
    bool own = account && uid == s->peer;
    enum login_outcome outcome = s->peer == 0 || own ? LOGIN_OK : check_trusted(s);
    return outcome == LOGIN_OK ? open_maildrop(s) : outcome;
}

enum login_outcome recipient_open(const struct config *config, const struct grant_root *root,
                                  const char *address, uid_t peer, enum proto_service service,
                                  char name[PROTO_USER_MAX + 1], int files[MAILDROP_FILES],
                                  char *error, size_t error_size)
{
    struct search s = {config, root, peer, service, name, files, error, error_size};
    char shorter[PROTO_RECIPIENT_MAX + 1];
    bool detailed = canonical_without_detail(config, address, shorter);
    error[0] = name[0] = '\0';
    enum login_outcome outcome = try_name(&s, address, !detailed);
    if (outcome == LOGIN_NO_USER && detailed)
        outcome = try_name(&s, shorter, true);
    return outcome;
}
