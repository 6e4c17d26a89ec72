/*
 * test_pool.c - the master's decisions, and the addresses they are about.
 */
#include "daemon/address.h"
#include "daemon/base.h"
#include "daemon/pool.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void forks(void **state)
{
    (void)state;
    assert_int_equal(pool_to_fork(4, 32, 0, 0, 0, 0, false), 4);
    assert_int_equal(pool_to_fork(4, 32, 0, 0, 3, 1, false), 0);
    assert_int_equal(pool_to_fork(4, 32, 0, 10, 0, 4, false), 10); /* ten wait */
    assert_int_equal(pool_to_fork(4, 32, 20, 0, 4, 0, false), 16); /* a busy second */
    assert_int_equal(pool_to_fork(4, 32, 500, 0, 0, 0, false), 32);
    assert_int_equal(pool_to_fork(4, 32, 0, 0, 40, 0, false), 0);
    /* not before three quarters are used up, unless somebody waits */
    assert_int_equal(pool_to_fork(4, 32, 0, 0, 2, 0, true), 0);
    assert_int_equal(pool_to_fork(4, 32, 0, 0, 0, 2, true), 0);
    assert_int_equal(pool_to_fork(4, 32, 0, 0, 1, 0, true), 3);
    assert_int_equal(pool_to_fork(4, 32, 0, 1, 3, 0, true), 2);
    assert_int_equal(pool_to_fork(1, 32, 0, 0, 0, 0, true), 1);
    assert_int_equal(pool_to_fork(4, 32, 500, 0, 9, 0, true), 0);
    assert_int_equal(pool_to_fork(4, 32, 500, 0, 8, 0, true), 24);
    assert_int_equal(pool_to_release(4, 32, 0, 40), 8);
    assert_int_equal(pool_to_release(4, 32, 32, 32), 0);
    assert_int_equal(pool_to_release(4, 32, 500, 32), 0);
    assert_int_equal(pool_to_release(4, 32, 20, 32), 1);
    assert_int_equal(pool_to_release(4, 32, 0, 5), 1);
    assert_int_equal(pool_to_release(4, 32, 0, 4), 0);
}

static void probes(void **state)
{
    (void)state;
    assert_true(pool_is_probe(SIGSEGV, false));
    assert_true(pool_is_probe(SIGSEGV, true));
    assert_true(pool_is_probe(SIGSYS, true));
    assert_true(pool_is_probe(SIGABRT, false));
    assert_true(pool_is_probe(SIGBUS, false));
    assert_false(pool_is_probe(SIGBUS, true)); /* a full disk under the shared memory file */
    assert_false(pool_is_probe(SIGKILL, false));
    assert_false(pool_is_probe(SIGTERM, false)); /* somebody's order */
    assert_false(pool_is_probe(SIGINT, false));
    assert_false(pool_is_probe(SIGHUP, false));
}

static void backoff(void **state)
{
    (void)state;
    assert_int_equal(pool_backoff_ms(0), 0);
    assert_int_equal(pool_backoff_ms(1), 100);
    assert_int_equal(pool_backoff_ms(2), 200);
    assert_int_equal(pool_backoff_ms(4), 800);
    assert_int_equal(pool_backoff_ms(8), 1000);
    assert_int_equal(pool_backoff_ms(4000000000U), 1000);
}

static void answers(void **state)
{
    (void)state;
    assert_int_equal(pool_answer_at(1000, 1001, 2000, 3), 3003);
    assert_int_equal(pool_answer_at(1000, 1001, 2000, 5000), 8000);
    assert_int_equal(pool_answer_at(1000, 1001, 2000, 5001), 3000);
    assert_int_equal(pool_answer_at(1000, 2999, 2000, 0), 3000);
    assert_int_equal(pool_answer_at(1000, 3001, 2000, 0), 5000);
    assert_int_equal(pool_answer_at(1000, 1700, 0, 5), 1700);
    assert_int_equal(pool_answer_at(1000, 1000, 2000, 0), 3000);
}

static struct address_source source_of(const char *text)
{
    struct sockaddr_storage address;
    socklen_t size;
    assert_true(address_parse(text, &address, &size));
    return address_source(&address);
}

static void victims(void **state)
{
    (void)state;
    const struct address_source a = source_of("192.0.2.1:1"), b = source_of("192.0.2.2:1"),
                                c = source_of("192.0.2.3:1");
    const struct pool_candidate all[] = {
        {.source = a, .arrival = 10, .counts = true, .may_go = true},
        {.source = b, .arrival = 30, .counts = true, .may_go = true},
        {.source = b, .arrival = 20, .counts = true, .may_go = true},
        {.source = c, .arrival = 5, .counts = true}, /* in the middle of a login */
        {.source = a, .arrival = 1},                 /* logged in, as is the next */
        {.source = a, .arrival = 2},
    };
    for (uint64_t seed = 0; seed < 100; seed++) {
        assert_int_equal(pool_victim(all, 6, seed), 2);
        assert_int_equal(pool_victim(all, 2, seed), 0); /* one each: the earlier */
        assert_int_equal(pool_victim(all + 3, 3, seed), -1);
        assert_int_equal(pool_victim(all, 0, seed), -1);
    }
    /* Those whose logins wait to be checked: of a source that has several. */
    const struct pool_candidate waiting[] = {
        {.source = a, .arrival = 1, .counts = true, .waits = true},
        {.source = b, .arrival = 3, .counts = true, .waits = true},
        {.source = b, .arrival = 2, .counts = true, .waits = true},
        {.source = c, .arrival = 4, .counts = true, .may_go = true},
    };
    assert_int_equal(pool_victim(waiting, 4, 1), 2);
    assert_int_equal(pool_victim(waiting, 2, 1), -1);
    assert_int_equal(pool_victim(waiting, 1, 1), -1);
    /* One that may go and is none of those who fill: there is nobody to compare it with. */
    const struct pool_candidate odd[] = {{.arrival = UINT64_MAX},
                                         {.source = a, .arrival = 1, .may_go = true}};
    assert_int_equal(pool_victim(odd + 1, 1, 1), -1);
}

/* Every slot has a source of its own, many times over. */
static void victims_of_a_crowd(void **state)
{
    (void)state;
    enum { CROWD = 4096 };
    static struct pool_candidate all[CROWD];
    for (unsigned i = 0; i < CROWD; i++) {
        char text[64];
        snprintf(text, sizeof text, "10.0.%u.%u:1", i / 256, i % 256);
        all[i] = (struct pool_candidate){
            .source = source_of(text), .arrival = CROWD - i, .counts = true, .may_go = true};
    }
    for (uint64_t seed = 0; seed < 1000; seed++)
        assert_int_equal(pool_victim(all, CROWD, seed), CROWD - 1);
    all[17].source = all[16].source;
    assert_int_equal(pool_victim(all, CROWD, 1), 17);
}

static void addresses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *printed; /* NULL: refused */
    } cases[] = {
        {"127.0.0.1:110", "127.0.0.1:110"},
        {"[::1]:995", "[::1]:995"},
        {"[2001:DB8::1]:1", "[2001:db8::1]:1"},
        {"[::ffff:192.0.2.7]:110", "192.0.2.7:110"},
        {"*:110", "0.0.0.0:110"},
        {"127.0.0.1", NULL},
        {"127.0.0.1:", NULL},
        {"127.0.0.1:0", NULL},
        {"127.0.0.1:65536", NULL},
        {"127.0.0.1:110x", NULL},
        {"::1:110", NULL},
        {"localhost:110", NULL},
        {"", NULL},
        {"[2001:db8:0000000000000000000000000000000000000000000000000000000000::1]:110", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct sockaddr_storage address;
        socklen_t size;
        char text[PROTO_ADDRESS_MAX];
        bool good = address_parse(cases[i].text, &address, &size);
        assert_int_equal(good, cases[i].printed != NULL);
        if (!good)
            continue;
        address_unmap(&address);
        address_print(&address, true, text);
        assert_string_equal(text, cases[i].printed);
    }
}

static void prefixes(void **state)
{
    static char *bad[] = {"192.0.2.0/",   "192.0.2.0/24x",
                          "192.0.2.0/33", "2001:db8::/129",
                          "host",         "2001:db8:0000000000000000000000000000000000000::/32"};
    static char *good[] = {"192.0.2.0/24", "192.0.2.1", "2001:db8::/32", "0.0.0.0/0"};
    struct sockaddr_storage address;
    socklen_t size;
    (void)state;
    assert_true(address_parse("192.0.2.1:1", &address, &size));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        const struct text_list list = {.n = 1, .items = &bad[i]};
        assert_string_equal(address_bad_prefix(&list), bad[i]);
        assert_false(address_listed(&list, &address)); /* nor does it name anybody */
    }
    const struct text_list list = {.n = ARRAY_SIZE(good), .items = good};
    assert_null(address_bad_prefix(&list));
    assert_true(address_listed(&list, &address));
}

static bool same(const char *a, const char *b)
{
    struct sockaddr_storage one, other;
    socklen_t size;
    assert_true(address_parse(a, &one, &size) && address_parse(b, &other, &size));
    struct address_source x = address_source(&one), y = address_source(&other);
    return address_same_source(&x, &y);
}

static void sources(void **state)
{
    (void)state;
    assert_true(same("192.0.2.1:1", "192.0.2.1:2"));
    assert_false(same("192.0.2.1:1", "192.0.2.2:1"));
    assert_true(same("[2001:db8:1:2::1]:1", "[2001:db8:1:ffff:1::9]:1")); /* one /48 */
    assert_false(same("[2001:db8:1::1]:1", "[2001:db8:2::1]:1"));
}

static void escapes(void **state)
{
    (void)state;
    static const struct {
        const char *raw, *seen;
    } cases[] = {
        {"plain", "plain"},
        {"a\nb\tc", "a\\x0ab\\x09c"},
        {"back\\slash", "back\\\\slash"},
        {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
        {"\xc3(", "\\xc3("},
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* a surrogate */
        {"\xc2\x9b"
         "31m",
         "\\xc2\\x9b31m"}, /* a control sequence in two octets */
        {"\xf0\x9f\x93\xa7", "\xf0\x9f\x93\xa7"},
        {"\x7f", "\\x7f"},
    };
    char seen[64];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        base_escape(seen, sizeof seen, cases[i].raw);
        assert_string_equal(seen, cases[i].seen);
    }
    base_escape(seen, 6, "ab\ncd");
    assert_string_equal(seen, "ab"); /* never half an escape */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forks),     cmocka_unit_test(probes),
        cmocka_unit_test(backoff),   cmocka_unit_test(answers),
        cmocka_unit_test(victims),   cmocka_unit_test(victims_of_a_crowd),
        cmocka_unit_test(addresses), cmocka_unit_test(prefixes),
        cmocka_unit_test(sources),   cmocka_unit_test(escapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
