/*
 * test_manual.c - poplar.conf(5) against the settings table: every key under its section, with its
 * default and with the values that the table takes, and none besides; poplard(8) against the
 * reasons of failed logins and of ends. Reads the pages from the source, from the top of which it
 * is run.
 */
#include "daemon/base.h"
#include "daemon/config.h"
#include "daemon/proto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGE        "packaging/man/poplar.conf.5"
#define MASTER_PAGE "packaging/man/poplard.8"

enum { ITEM_MAX = 400 };

/* What the table says to a value: "" if it takes it. */
static const char *complaint(const struct config_key *k, const char *value)
{
    static char error[400];
    struct config *config = config_new();
    const char *name = strcmp(k->section, "domain") == 0 ? "example.org" : "";
    error[0] = '\0';
    config_set(config, k->section, name, k->key, value, error, sizeof error);
    config_free(config);
    return error;
}

static const char *print_time(unsigned long long seconds, char text[32])
{
    static const struct {
        unsigned long long factor;
        char unit;
    } units[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
    size_t i = 0;
    while (seconds % units[i].factor != 0)
        i++;
    snprintf(text, 32, "%llu%c", seconds / units[i].factor, units[i].unit);
    return text;
}

/* ", 1 to 1024" and the like, from what the table says to numbers that are out of bounds. */
static void add_bounds(const struct config_key *k, bool time, char *values, size_t size)
{
    unsigned long long low = 0, high = 0;
    const char *huge = "18446744073709551615", *said = strstr(complaint(k, huge), "between ");
    char low_text[32], high_text[32];
    size_t used = strlen(values);
    if (said && sscanf(said, "between %llu and %llu", &low, &high) != 2)
        fail_msg("%s", said);
    if (!said && (said = strstr(complaint(k, "0"), "at least ")) != NULL)
        low = strtoull(said + strlen("at least "), NULL, 10);
    if (time) {
        print_time(low, low_text);
        print_time(high, high_text);
    } else {
        snprintf(low_text, sizeof low_text, "%llu", low);
        snprintf(high_text, sizeof high_text, "%llu", high);
    }
    if (high == 0 && low > 0)
        snprintf(values + used, size - used, ", at least %s", low_text);
    else if (high > 0 && low > 0)
        snprintf(values + used, size - used, ", %s to %s", low_text, high_text);
    else if (high > 0)
        snprintf(values + used, size - used, ", up to %s", high_text);
}

/* "a, b, c" as "a | b | c". */
static void list_words(const char *words, char *values, size_t size)
{
    values[0] = '\0';
    for (const char *at = words; *at; at += strcspn(at, ","), at += strspn(at, ", ")) {
        size_t used = strlen(values);
        snprintf(values + used, size - used, "%s%.*s", used ? " | " : "", (int)strcspn(at, ","),
                 at);
    }
}

/* The words in parentheses for what the table takes. */
static void print_values(const struct config_key *k, char *values, size_t size)
{
    static const char one_of[] = "must be one of ";
    char odd[400];
    base_copy(odd, sizeof odd, complaint(k, "\x01"));
    const char *words = strstr(odd, one_of);
    if (k->list)
        snprintf(values, size, "list");
    else if (words)
        list_words(words + strlen(one_of), values, size);
    else if (strstr(odd, "must be yes or no"))
        snprintf(values, size, "yes or no");
    else if (strstr(odd, "absolute path"))
        snprintf(values, size, "path");
    else if (*odd == '\0')
        snprintf(values, size, "text");
    else if (strstr(odd, "a whole number"))
        snprintf(values, size, "number");
    else if (strstr(odd, "a time such as"))
        snprintf(values, size, "time");
    else if (strstr(odd, "a size such as"))
        snprintf(values, size, "size");
    else
        fail_msg("[%s] %s: %s", k->section, k->key, odd);
    if (strcmp(values, "number") == 0 || strcmp(values, "time") == 0 || strcmp(values, "size") == 0)
        add_bounds(k, values[0] == 't', values, size);
}

/* The line that must head a key's description. */
static void print_item(const struct config_key *k, char item[ITEM_MAX])
{
    char values[200];
    print_values(k, values, sizeof values);
    snprintf(item, ITEM_MAX, ".It Cm %s Ns =%s Pq %s\n", k->key, k->standard, values);
}

static char *read_page(const char *path)
{
    static char page[100000];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t size = fread(page, 1, sizeof page - 1, file);
    fclose(file);
    page[size] = '\0';
    return page;
}

/* The page's part for a section; the caller frees it. */
static char *find_section(const char *section)
{
    const char *name = strcmp(section, "domain") == 0 ? " NAME" : "";
    char *heading = base_format("\n.Ss [%s%s]\\&\n", section, name);
    const char *begin = strstr(read_page(PAGE), heading);
    if (!begin)
        fail_msg(PAGE " has no section [%s%s]", section, name);
    begin += strlen(heading);
    const char *end = strstr(begin, "\n.Ss "), *last = strstr(begin, "\n.Sh ");
    assert_non_null(last);
    free(heading);
    return base_format("%.*s", (int)((end && end < last ? end : last) - begin + 1), begin);
}

static void every_key_is_told(void **state)
{
    struct config_key k;
    (void)state;
    for (size_t n = 0; config_key(n, &k); n++) {
        char item[ITEM_MAX], *section = find_section(k.section);
        print_item(&k, item);
        if (!strstr(section, item))
            fail_msg(PAGE ": [%s] has no line %s", k.section, item);
        free(section);
    }
}

/* As many items as keys: with the test above, no other. */
static void no_other_key_is_told(void **state)
{
    struct config_key k;
    size_t keys = 0, items = 0;
    const char *begin = strstr(read_page(PAGE), "\n.Ss [server]\\&\n");
    const char *end = begin ? strstr(begin, "\n.Sh ") : NULL;
    (void)state;
    assert_non_null(end);
    while (config_key(keys, &k))
        keys++;
    for (const char *at = begin; (at = strstr(at, "\n.It ")) && at < end; at++)
        items++;
    assert_int_equal(items, keys);
}

/* Whether a word, as the log has it, is an item of a list or one of several that share a text. */
static bool is_item(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = strstr(list, word); at; at = strstr(at + 1, word)) {
        const char *line = at;
        while (line[-1] != '\n')
            line--;
        if (strncmp(line, ".It ", 4) == 0 && at[-1] == ' ' &&
            (at[length] == '\n' || strncmp(at + length, " ,", 2) == 0))
            return true;
    }
    return false;
}

static const char *find_list(const char *before)
{
    const char *list = strstr(read_page(MASTER_PAGE), before);
    assert_non_null(list);
    *strstr((char *)(uintptr_t)list, "\n.El\n") = '\0';
    return list + 1;
}

/* The reasons of failed logins, as the log has them, are explained in poplard(8). */
static void every_reason_is_told(void **state)
{
    const char *list = find_list("\nThe reason of a failed login is\n");
    (void)state;
    for (unsigned outcome = LOGIN_DENIED; outcome <= LOGIN_STORE_PERM; outcome++)
        if (!is_item(list, proto_outcome_name(outcome)))
            fail_msg(MASTER_PAGE " does not explain reason=%s", proto_outcome_name(outcome));
}

/* And those of the ends of sessions. */
static void every_end_is_told(void **state)
{
    const char *list = find_list("\nThe reason of a session's end is\n");
    (void)state;
    for (unsigned end = END_QUIT; end < END_REASONS; end++)
        if (!is_item(list, proto_end_name(end)))
            fail_msg(MASTER_PAGE " does not explain reason=%s", proto_end_name(end));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_told),
        cmocka_unit_test(no_other_key_is_told),
        cmocka_unit_test(every_reason_is_told),
        cmocka_unit_test(every_end_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
