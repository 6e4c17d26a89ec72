/*
 * ctl_user.c - poplarctl user and help. `user` runs the same function as a login does, so that an
 * administrator sees which maildrop a name means before mail is in the wrong one.
 */
#include "auth/grant.h"
#include "store/ctl.h"
#include "store/ctl_command.h"
#include "store/ctl_json.h"
#include "store/manage.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

static const char unseen[] = "only root can see";

/* "there", "none yet", or why that cannot be told. */
static const char *state_of(const char *path)
{
    struct stat about;
    if (lstat(path, &about) == 0)
        return S_ISDIR(about.st_mode) ? "there" : "not a directory";
    if (errno == ENOENT)
        return "none yet";
    return errno == EACCES ? unseen : strerror(errno);
}

/* A limit, and whether the maildrop's own goes before the configuration's. */
static void print_limit(const char *name, uint64_t value, bool own)
{
    printf("%-12s ", name);
    if (value == 0)
        printf("no limit");
    else
        printf("%ju", (uintmax_t)value);
    puts(own ? " (of this maildrop)" : "");
}

/* What the name maps to, for people; `holds` is NULL when that cannot be seen. */
static void print_text(const struct ctl *ctl, const char *name, const char *service,
                       const char *path, const char *state, const struct manage_state *holds)
{
    char safe[4 * PROTO_USER_MAX + 1], place[4 * PATH_MAX + 1];
    base_escape(safe, sizeof safe, name);
    base_escape(place, sizeof place, path);
    printf("user         %s\nPAM service  %s\nmaildrop     %s (%s)\n", safe, service, place, state);
    if (!holds)
        return;
    printf("messages     %ju, %ju octet%s\n", (uintmax_t)holds->totals.messages,
           (uintmax_t)holds->totals.octets, base_plural(holds->totals.octets));
    print_limit("quota", holds->quota_octets, holds->has_quota_octets);
    print_limit("  messages", holds->quota_messages, holds->has_quota_messages);
    print_limit("max_message", ctl->config->store.max_message, false);
    printf("%-12s %s\n", MAILDROP_POP3, holds->pop3_off ? "off (of this maildrop)" : "on");
}

static int print_json(const struct ctl *ctl, const char *name, const char *service,
                      const char *path, const char *state, const struct manage_state *holds)
{
    json_t *all = json_pack("{s:o, s:s, s:o, s:s}", "user", ctl_json_name(name), "pam_service",
                            service, "maildrop", ctl_json_name(path), "state", state);
    json_t *seen = holds ? json_pack("{s:I, s:I, s:I, s:I, s:I, s:b}", "messages",
                                     (json_int_t)holds->totals.messages, "octets",
                                     (json_int_t)holds->totals.octets, "quota_octets",
                                     (json_int_t)holds->quota_octets, "quota_messages",
                                     (json_int_t)holds->quota_messages, "max_message",
                                     (json_int_t)ctl->config->store.max_message, MAILDROP_POP3,
                                     !holds->pop3_off)
                         : NULL;
    if (seen)
        json_object_update(all, seen);
    json_decref(seen);
    return ctl_json_print(all, false);
}

/* What the maildrop holds and which limits it has; those of the configuration if there is none. */
static int look(const struct ctl *ctl, const char *name, struct manage_state *holds)
{
    struct ctl_maildrop maildrop = {.store = NULL};
    int status = ctl_open_exists(ctl, name)
                     ? ctl_open_maildrop(ctl, name, CTL_OPEN_NAMED, &maildrop)
                     : EX_NOUSER;
    enum store_outcome outcome = status ? STORE_OK : manage_look(maildrop.store, holds);
    if (outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, "look");
    ctl_open_close(&maildrop);
    if (status && status != EX_NOUSER)
        return status;
    if (!holds->has_quota_octets)
        holds->quota_octets = ctl->config->store.quota_octets;
    if (!holds->has_quota_messages)
        holds->quota_messages = ctl->config->store.quota_messages;
    return 0;
}

int ctl_user(struct ctl *ctl)
{
    char name[PROTO_USER_MAX + 1], below[GRANT_PATH_MAX];
    struct manage_state holds = {.minor = 0};
    const char *service;
    int status = ctl_open_user(ctl, ctl->words[0], name, &service);
    if (status)
        return status;
    if (!grant_path(name, below))
        return ctl_fail(EX_NOUSER, "%s: too long for a maildrop's name; choose a shorter one",
                        name);
    char *path = base_format("%s/%s", ctl->config->server.state_dir, below);
    const char *state = state_of(path);
    bool seen = strcmp(state, unseen) != 0 && (status = look(ctl, name, &holds)) == 0;
    if (ctl->options & CTL_JSON) {
        int printed = print_json(ctl, name, service, path, state, seen ? &holds : NULL);
        status = status ? status : printed;
    } else
        print_text(ctl, name, service, path, state, seen ? &holds : NULL);
    free(path);
    return status;
}

int ctl_help(struct ctl *ctl)
{
    char error[512];
    size_t used;
    const struct ctl_command *command = NULL;
    const char *group = NULL;
    if (ctl->n_words == 1 && ctl_command_is_group(ctl->words[0])) {
        group = ctl->words[0];
    } else if (ctl->n_words > 0) {
        command = ctl_command_find(ctl->words, ctl->n_words, &used, error, sizeof error);
        if (!command)
            return ctl_fail(EX_USAGE, "%s", error);
    }
    ctl_command_help(stdout, command, group);
    return 0;
}
