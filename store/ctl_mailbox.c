/*
 * ctl_mailbox.c - poplarctl mailbox list, show, create, set and upgrade. Runs as root or the store
 * user.
 */
#include "store/ctl_drops.h"
#include "store/ctl_json.h"
#include "store/manage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static void print_name(const char *name)
{
    char safe[4 * PROTO_USER_MAX + 1];
    base_escape(safe, sizeof safe, name);
    fputs(safe, stdout);
}

static json_t *make_limits(const struct manage_state *state)
{
    json_t *object = json_object();
    if (state->pop3_off)
        json_object_set_new(object, MAILDROP_POP3, json_string("off"));
    if (state->has_quota_octets)
        json_object_set_new(object, MAILDROP_QUOTA_OCTETS,
                            json_integer((json_int_t)state->quota_octets));
    if (state->has_quota_messages)
        json_object_set_new(object, MAILDROP_QUOTA_MESSAGES,
                            json_integer((json_int_t)state->quota_messages));
    return object;
}

static json_t *make_object(const char *name, const struct manage_state *state)
{
    char version[16];
    snprintf(version, sizeof version, "1.%d", state->minor);
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:o}", "user", ctl_json_name(name),
                     "messages", (json_int_t)state->totals.messages, "octets",
                     (json_int_t)state->totals.octets, "restorable", (json_int_t)state->restorable,
                     "restorable_octets", (json_int_t)state->restorable_octets, "file_octets",
                     (json_int_t)(state->pages * state->page_size), "free_octets",
                     (json_int_t)(state->free_pages * state->page_size), "version", version,
                     "limits", make_limits(state));
}

static int list_one(struct ctl *ctl, struct ctl_maildrop *maildrop, bool many)
{
    struct manage_state state;
    enum store_outcome outcome = manage_look(maildrop->store, &state);
    if (outcome != STORE_OK)
        return ctl_open_failed(maildrop, outcome, "list");
    if (ctl->options & CTL_JSON)
        return ctl_json_print(make_object(maildrop->name, &state), many);
    printf("%9ju  %14ju  %10ju  %14ju  ", (uintmax_t)state.totals.messages,
           (uintmax_t)state.totals.octets, (uintmax_t)state.restorable,
           (uintmax_t)(state.pages * state.page_size));
    print_name(maildrop->name);
    putchar('\n');
    return 0;
}

int ctl_mailbox_list(struct ctl *ctl)
{
    if (!(ctl->options & CTL_JSON))
        printf("%9s  %14s  %10s  %14s  %s\n", "Messages", "Octets", "Restorable", "File", "User");
    ctl->options |= CTL_ALL;
    return ctl_drops_each(ctl, list_one);
}

static void show_limit(const char *name, bool own, uint64_t value, uint64_t standard)
{
    uint64_t limit = own ? value : standard;
    printf("%-16s ", name);
    if (limit == 0)
        printf("none");
    else
        printf("%ju", (uintmax_t)limit);
    puts(own ? " (of its own)" : "");
}

static int show_one(struct ctl *ctl, struct ctl_maildrop *maildrop, bool many)
{
    struct manage_state state;
    enum store_outcome outcome = manage_look(maildrop->store, &state);
    if (outcome != STORE_OK)
        return ctl_open_failed(maildrop, outcome, "show");
    if (ctl->options & CTL_JSON)
        return ctl_json_print(make_object(maildrop->name, &state), many);
    char *path = ctl_drops_path(ctl, maildrop->name);
    printf("%-16s ", "user");
    print_name(maildrop->name);
    printf("\n%-16s ", "directory");
    print_name(path);
    printf("\n%-16s %ju, %ju octet%s\n", "messages", (uintmax_t)state.totals.messages,
           (uintmax_t)state.totals.octets, base_plural(state.totals.octets));
    printf("%-16s %ju, %ju octet%s\n", "restorable", (uintmax_t)state.restorable,
           (uintmax_t)state.restorable_octets, base_plural(state.restorable_octets));
    printf("%-16s %ju octets, %ju of them unused\n", "file",
           (uintmax_t)(state.pages * state.page_size),
           (uintmax_t)(state.free_pages * state.page_size));
    printf("%-16s 1.%d\n", "version", state.minor);
    show_limit(MAILDROP_QUOTA_OCTETS, state.has_quota_octets, state.quota_octets,
               ctl->config->store.quota_octets);
    show_limit(MAILDROP_QUOTA_MESSAGES, state.has_quota_messages, state.quota_messages,
               ctl->config->store.quota_messages);
    if (state.pop3_off)
        printf("%-16s off\n", MAILDROP_POP3);
    free(path);
    return 0;
}

int ctl_mailbox_show(struct ctl *ctl)
{
    return ctl_drops_each(ctl, show_one);
}

int ctl_mailbox_create(struct ctl *ctl)
{
    struct ctl_maildrop maildrop;
    char name[PROTO_USER_MAX + 1];
    int status = ctl_open_user(ctl, ctl->words[0], name, NULL);
    if (status)
        return status;
    bool there = ctl_open_exists(ctl, name);
    status = ctl_open_maildrop(ctl, ctl->words[0], CTL_OPEN_CREATE, &maildrop);
    ctl_open_close(&maildrop);
    if (!status && ctl->options & CTL_JSON)
        return ctl_json_print(
            json_pack("{s:o, s:b}", "user", ctl_json_name(name), "created", !there), false);
    if (!status && there)
        ctl_note("%s: has a maildrop already", name);
    return status;
}

/* On is what there is without a setting. */
static int parse_switch(const char *word, const char *text, bool *clear, uint64_t *value)
{
    *clear = !*text || strcmp(text, "on") == 0;
    *value = 0;
    return *clear || strcmp(text, "off") == 0 ? 0
                                              : ctl_fail(EX_USAGE, "%s: must be on or off", word);
}

/* KEY=VALUE, taken apart and understood by the configuration's own rules for such a value. */
static int parse_setting(const char *word, const char **key, bool *clear, uint64_t *value)
{
    const char *const *keys = maildrop_settings;
    const char *equals = strchr(word, '=');
    char error[300];
    *key = NULL;
    for (size_t i = 0; equals && i < ARRAY_SIZE(maildrop_settings); i++)
        if (strlen(keys[i]) == (size_t)(equals - word) &&
            strncmp(word, keys[i], (size_t)(equals - word)) == 0)
            *key = keys[i];
    if (!*key)
        return ctl_fail(
            EX_USAGE, "%s: must be quota_octets=SIZE, quota_messages=NUMBER or pop3=on|off", word);
    if (strcmp(*key, MAILDROP_POP3) == 0)
        return parse_switch(word, equals + 1, clear, value);
    *clear = !equals[1];
    if (*clear)
        return 0;
    struct config *config = config_new();
    bool good = config_set(config, "store", "", *key, equals + 1, error, sizeof error);
    *value = strcmp(*key, keys[0]) == 0 ? config->store.quota_octets : config->store.quota_messages;
    config_free(config);
    return good ? 0 : ctl_fail(EX_USAGE, "%s", error);
}

int ctl_mailbox_set(struct ctl *ctl)
{
    struct ctl_maildrop maildrop;
    const char *key;
    bool clear = false;
    uint64_t value = 0;
    int status = 0;
    for (size_t i = 1; !status && i < ctl->n_words; i++)
        status = parse_setting(ctl->words[i], &key, &clear, &value);
    if (!status)
        status = ctl_open_maildrop(ctl, ctl->words[0], 0, &maildrop);
    if (status)
        return status;
    for (size_t i = 1; !status && i < ctl->n_words; i++) {
        parse_setting(ctl->words[i], &key, &clear, &value);
        enum store_outcome outcome = manage_set(maildrop.store, key, clear ? NULL : &value);
        if (outcome != STORE_OK)
            status = ctl_open_failed(&maildrop, outcome, "set");
    }
    if (!status && ctl->options & CTL_JSON)
        status = list_one(ctl, &maildrop, false);
    ctl_open_close(&maildrop);
    return status;
}

/* Opening did it; what could not be done then says so here. */
static int upgrade_one(struct ctl *ctl, struct ctl_maildrop *maildrop, bool many)
{
    struct manage_state state;
    enum store_outcome outcome = manage_look(maildrop->store, &state);
    if (outcome == STORE_OK && state.minor < state.newest_minor)
        outcome = STORE_BUSY;
    if (outcome != STORE_OK)
        return ctl_open_failed(maildrop, outcome, "upgrade");
    if (ctl->options & CTL_JSON)
        return ctl_json_print(make_object(maildrop->name, &state), many);
    print_name(maildrop->name);
    printf(": version 1.%d\n", state.minor);
    return 0;
}

int ctl_mailbox_upgrade(struct ctl *ctl)
{
    return ctl_drops_each(ctl, upgrade_one);
}
