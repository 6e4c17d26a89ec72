/*
 * ctl_tally.c - what an import did, in numbers and reasons. Runs in poplarctl; names of files and
 * users in it are other people's words, and are escaped.
 */
#include "store/ctl_tally.h"
#include "daemon/base.h"
#include "store/ctl_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_SHOWN = 300 };

void ctl_tally_count(struct ctl_tally_reason reasons[CTL_TALLY_REASONS], const char *text,
                     const char *name)
{
    for (size_t i = 0; i < CTL_TALLY_REASONS; i++) {
        if (!reasons[i].text) {
            reasons[i].text = text;
            reasons[i].first = base_strdup(name);
        }
        if (strcmp(reasons[i].text, text) == 0) {
            reasons[i].messages++;
            return;
        }
    }
}

/* Pieces of a batch that failed are never counted, but what was met is: reasons are for people. */
static void print_reasons(const struct ctl_tally_reason *reasons, const char *verb)
{
    char safe[NAME_MAX_SHOWN];
    for (size_t i = 0; i < CTL_TALLY_REASONS && reasons[i].text; i++) {
        base_escape(safe, sizeof safe, reasons[i].first);
        printf("  %ju %s: %s (first: %s)\n", (uintmax_t)reasons[i].messages, verb, reasons[i].text,
               safe);
    }
}

static void print_text(const struct ctl_tally *tally, bool dry, const char *user)
{
    char safe[NAME_MAX_SHOWN] = "";
    if (user)
        base_escape(safe, sizeof safe, user);
    printf("%s%s%s %ju message%s, %ju octet%s, %ju skipped, %ju there already\n", safe,
           user ? ": " : "", dry ? "would import" : "imported", (uintmax_t)tally->messages,
           base_plural(tally->messages), (uintmax_t)tally->octets, base_plural(tally->octets),
           (uintmax_t)tally->skipped, (uintmax_t)tally->known);
    if (tally->kept > 0)
        printf("  %ju keep%s the UIDL of the old server\n", (uintmax_t)tally->kept,
               tally->kept == 1 ? "s" : "");
    if (tally->counts_gone)
        printf("  %ju %sdeleted: gone from the old server\n", (uintmax_t)tally->gone,
               dry ? "to be " : "");
    print_reasons(tally->fresh, "with a new UIDL");
    print_reasons(tally->there, "not imported");
}

static json_t *make_reasons(const struct ctl_tally_reason *reasons)
{
    json_t *array = json_array();
    char safe[NAME_MAX_SHOWN];
    for (size_t i = 0; i < CTL_TALLY_REASONS && reasons[i].text; i++) {
        base_escape(safe, sizeof safe, reasons[i].first);
        json_array_append_new(array,
                              json_pack("{s:s, s:I, s:s}", "reason", reasons[i].text, "messages",
                                        (json_int_t)reasons[i].messages, "first", safe));
    }
    return array;
}

int ctl_tally_print(const struct ctl_tally *tally, bool json, bool dry, const char *user)
{
    if (!json) {
        print_text(tally, dry, user);
        return 0;
    }
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:b}", "messages",
                  (json_int_t)tally->messages, "octets", (json_int_t)tally->octets, "skipped",
                  (json_int_t)tally->skipped, "known", (json_int_t)tally->known, "kept_uidls",
                  (json_int_t)tally->kept, "new_uidls", make_reasons(tally->fresh), "not_imported",
                  make_reasons(tally->there), "dry_run", (int)dry);
    char safe[NAME_MAX_SHOWN];
    if (tally->counts_gone)
        json_object_set_new(object, "gone", json_integer((json_int_t)tally->gone));
    if (user) {
        base_escape(safe, sizeof safe, user);
        json_object_set_new(object, "user", json_string(safe));
    }
    return ctl_json_print(object, user);
}

void ctl_tally_free(struct ctl_tally *tally)
{
    for (size_t i = 0; i < CTL_TALLY_REASONS; i++) {
        free(tally->fresh[i].first);
        free(tally->there[i].first);
    }
    *tally = (struct ctl_tally){0};
}
