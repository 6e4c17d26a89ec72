/*
 * fuzz_names.c - user names, recipients, addresses, and what of them is put into the log.
 *
 * Promised: a canonical name is the canonical name of itself, and its maildrop's path leads nowhere
 * but one level below two hash directories; an address that is parsed and printed is parsed again;
 * what is escaped for the log has no control characters.
 */
#include "auth/canonical.h"
#include "auth/grant.h"
#include "daemon/address.h"
#include "daemon/base.h"
#include "tests/fuzz/fuzz.h"

static struct config *config;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const settings[][3] = {
        {"server", "local_domains", "example.org, localhost"},
        {"server", "hostname", "mail.example.org"},
        {"auth", "canonical", "pam"},
        {"auth", "require_nss", "no"},
        {"delivery", "recipient_delimiter", "+-"},
    };
    char error[300];
    (void)argc, (void)argv;
    config = config_new();
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        promise(config_set(config, settings[i][0], "", settings[i][1], settings[i][2], error,
                           sizeof error));
    promise(config_set(config, "domain", "virtual.example", "pam_service", "virtual", error,
                       sizeof error));
    promise(config_complete(config, error, sizeof error));
    return 0;
}

static void check_path(const char *name)
{
    char path[GRANT_PATH_MAX];
    unsigned first, second;
    int length = 0;
    if (!grant_path(name, path))
        return;
    promise(sscanf(path, "mail/%2x/%2x/%n", &first, &second, &length) == 2 && length == 11);
    const char *last = path + length;
    promise(*last && *last != '.' && !strchr(last, '/') && strlen(last) <= 255);
}

static void try_name(const char *given)
{
    char name[PROTO_USER_MAX + 1], again[PROTO_USER_MAX + 1];
    const char *service = NULL;
    check_path(given);
    if (canonical_fold(config, given, name, &service) != CANONICAL_OK)
        return;
    promise(service && *service && strlen(name) > 0 && strlen(name) <= PROTO_USER_MAX);
    promise(!strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
    for (const char *at = name; *at; at++)
        promise((unsigned char)*at >= 0x20 && *at != 0x7f);
    const char *service_again = NULL;
    promise(canonical_fold(config, name, again, &service_again) == CANONICAL_OK);
    promise(strcmp(name, again) == 0 && service == service_again);
    check_path(name);
}

static void try_recipient(const char *given)
{
    char shorter[PROTO_RECIPIENT_MAX + 1];
    if (strlen(given) <= PROTO_RECIPIENT_MAX && canonical_without_detail(config, given, shorter))
        promise(strlen(shorter) < strlen(given) && *shorter);
}

static void try_address(const char *given)
{
    struct sockaddr_storage address, again;
    socklen_t size = 0, size_again = 0;
    char text[PROTO_ADDRESS_MAX], second[PROTO_ADDRESS_MAX];
    char *item = base_strdup(given);
    const struct text_list list = {.n = 1, .items = &item};
    const bool bad = address_bad_prefix(&list) != NULL;
    if (address_parse(given, &address, &size)) {
        address_unmap(&address);
        address_print(&address, true, text);
        promise(address_parse(text, &again, &size_again));
        address_print(&again, true, second);
        promise(strcmp(text, second) == 0);
        if (!bad)
            address_listed(&list, &address);
    }
    free(item);
}

static void try_escape(const char *given)
{
    for (size_t room = 1; room < 60; room += 7) {
        char *escaped = malloc(room);
        base_escape(escaped, room, given);
        promise(strlen(escaped) < room);
        for (const char *at = escaped; *at; at++)
            promise((unsigned char)*at >= 0x20 && *at != 0x7f);
        free(escaped);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *given = fuzz_copy(data, size, true);
    try_name(given);
    try_recipient(given);
    try_address(given);
    try_escape(given);
    free(given);
    return 0;
}
