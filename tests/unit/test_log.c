/*
 * test_log.c - the events of the log against the journal's catalog and the fail2ban filter: an
 * entry for each, and none for what is no event. Reads both from the source, from the top of which
 * it is run.
 */
#include "daemon/base.h"
#include "daemon/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *read_whole(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = NULL;
    size_t size = 0;
    if (!file || getdelim(&text, &size, '\0', file) < 0)
        fail_msg("%s cannot be read", path);
    fclose(file);
    return text;
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++)
        n++;
    return n;
}

static void every_event_has_an_id_of_its_own(void **state)
{
    (void)state;
    for (unsigned i = 0; i < LOG_EVENTS; i++) {
        const char *id = log_event_id(i);
        assert_non_null(id);
        assert_int_equal(strspn(id, "0123456789abcdef"), 32);
        assert_int_equal(strlen(id), 32);
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(id, log_event_id(k));
    }
}

static void the_catalog_explains_each(void **state)
{
    (void)state;
    char *catalog = read_whole("packaging/systemd/poplar.catalog");
    for (unsigned i = 0; i < LOG_EVENTS; i++) {
        char *entry = base_format("\n-- %s\nSubject: ", log_event_id(i));
        if (count(catalog, entry) != 1)
            fail_msg("the catalog has no entry, or more than one, for %s", log_event_id(i));
        free(entry);
    }
    assert_int_equal(count(catalog, "\n-- "), LOG_EVENTS);
    free(catalog);
}

static void the_filter_looks_for_failed_logins(void **state)
{
    (void)state;
    char *filter = read_whole("packaging/fail2ban/poplar.conf");
    assert_non_null(strstr(filter, log_event_id(LOG_EVENT_LOGIN_FAILED)));
    assert_int_equal(count(filter, "MESSAGE_ID="), 1);
    free(filter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_event_has_an_id_of_its_own),
        cmocka_unit_test(the_catalog_explains_each),
        cmocka_unit_test(the_filter_looks_for_failed_logins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
