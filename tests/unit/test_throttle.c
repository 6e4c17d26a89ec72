/*
 * test_throttle.c - who has to wait after failed logins, and who never has to.
 */
#include "daemon/base.h"
#include "daemon/throttle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct sockaddr_storage address_of(const char *text)
{
    struct sockaddr_storage address;
    socklen_t size;
    assert_true(address_parse(text, &address, &size));
    return address;
}

static struct address_source source_of(const char *text)
{
    struct sockaddr_storage address = address_of(text);
    return address_source(&address);
}

static void many_failures(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    struct address_source bad = source_of("192.0.2.1:1"), good = source_of("192.0.2.2:1");
    unsigned told[THROTTLE_USER + 1] = {0};
    uint64_t now = 1000000;
    for (uint64_t i = 0; i < 1000; i++)
        told[throttle_failed(t, &bad, "alice", i + 1, now)]++;
    assert_true(throttle_refuses(t, &bad, now));
    assert_int_equal(told[THROTTLE_SOURCE], 1);
    assert_int_equal(told[THROTTLE_USER], 1);
    assert_false(throttle_refuses(t, &good, now)); /* the same user, from elsewhere */
    assert_true(throttle_refuses(t, &bad, now + 10000));
    assert_false(throttle_refuses(t, &bad, now + 20 * 15000)); /* decay, however many they were */
    throttle_free(t);
}

static void a_few_failures(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    struct address_source s = source_of("192.0.2.1:1");
    for (uint64_t i = 0; i < 19; i++)
        assert_false(throttle_failed(t, &s, "alice", i + 1, 1000));
    assert_false(throttle_refuses(t, &s, 1000));
    assert_true(throttle_failed(t, &s, "alice", 99, 1000));
    assert_true(throttle_refuses(t, &s, 1000));
    throttle_free(t);
}

/* Without a digest of the secret no two failures are the same. */
static void failures_without_a_digest(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    struct address_source s = source_of("192.0.2.1:1");
    for (int i = 0; i < 20; i++)
        throttle_failed(t, &s, "alice", 0, 1000);
    assert_true(throttle_refuses(t, &s, 1000));
    throttle_free(t);
}

static void a_forgotten_client(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    struct address_source s = source_of("192.0.2.1:1");
    for (unsigned i = 0; i < 10000; i++)
        throttle_failed(t, &s, "alice", 7, 1000 + i);
    assert_false(throttle_refuses(t, &s, 11000));
    for (uint64_t i = 0; i < 20; i++) /* the same secret tried on many names is no such client */
        throttle_failed(t, &s, i % 2 ? "bob" : "carol", 7, 11000);
    assert_true(throttle_refuses(t, &s, 11000));
    throttle_free(t);
}

static void one_bucket_for_a_48(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    for (unsigned i = 0; i < 40; i++) {
        char text[64];
        snprintf(text, sizeof text, "[2001:db8:1:%x::%x]:1", i, i);
        struct address_source s = source_of(text);
        throttle_failed(t, &s, "alice", i + 1, 1000);
    }
    struct address_source same = source_of("[2001:db8:1:ffff::1]:1");
    struct address_source other = source_of("[2001:db8:2::1]:1");
    assert_true(throttle_refuses(t, &same, 1000));
    assert_false(throttle_refuses(t, &other, 1000));
    throttle_free(t);
}

static void an_attacked_name(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    for (unsigned i = 1; i <= 60; i++) {
        char text[64];
        snprintf(text, sizeof text, "198.51.100.%u:1", i);
        struct address_source s = source_of(text);
        assert_int_equal(throttle_failed(t, &s, "alice", i, 1000), i == 50 ? THROTTLE_USER : 0);
    }
    struct address_source late = source_of("203.0.113.1:1"), owner = source_of("192.0.2.1:1");
    for (uint64_t i = 0; i < 4; i++)
        throttle_failed(t, &late, "alice", i + 1, 1000);
    assert_true(throttle_refuses(t, &late, 1000)); /* four are enough now */
    assert_false(throttle_refuses(t, &owner, 1000));
    throttle_free(t);
}

static void bounded_table(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    struct address_source bad = source_of("192.0.2.1:1");
    for (uint64_t i = 0; i < 30; i++)
        throttle_failed(t, &bad, "alice", i + 1, 1000);
    for (unsigned i = 0; i < 200000; i++) {
        char text[64];
        snprintf(text, sizeof text, "10.%u.%u.%u:1", i >> 16, i >> 8 & 255, i & 255);
        struct address_source s = source_of(text);
        throttle_failed(t, &s, "x", i + 1, 1000);
    }
    assert_true(throttle_refuses(t, &bad, 1000)); /* a full bucket is not pushed out by drops */
    throttle_free(t);
}

static void from_everywhere(struct throttle *t, uint64_t now)
{
    for (unsigned i = 0; i < 50000; i++) {
        char text[64];
        snprintf(text, sizeof text, "10.%u.%u.%u:1", i >> 16, i >> 8 & 255, i & 255);
        struct address_source s = source_of(text);
        throttle_failed(t, &s, "x", i + 1, now);
    }
}

/* Where a login succeeded is not forgotten over a failure each from many places, be they of now or
 * of an hour ago. */
static void known_in_a_full_table(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    struct address_source first = source_of("192.0.2.1:1"), second = source_of("192.0.2.2:1");
    throttle_succeeded(t, &first, 1000);
    from_everywhere(t, 1000);
    assert_int_equal(throttle_rank(t, &first, 1000), 0);
    throttle_succeeded(t, &second, 3600000);
    for (unsigned i = 0; i < 1000; i++) {
        char text[64];
        snprintf(text, sizeof text, "172.16.%u.%u:1", i >> 8, i & 255);
        struct address_source s = source_of(text);
        throttle_succeeded(t, &s, 3600000);
    }
    assert_int_equal(throttle_rank(t, &first, 3600000), 0);
    assert_int_equal(throttle_rank(t, &second, 3600000), 0);
    throttle_free(t);
}

static void who_comes_first(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    struct address_source known = source_of("192.0.2.1:1"), stranger = source_of("192.0.2.2:1");
    const uint64_t day = 24 * 3600 * 1000;
    throttle_succeeded(t, &known, 1000);
    assert_int_equal(throttle_rank(t, &known, 1000), 0);
    assert_int_equal(throttle_rank(t, &stranger, 1000), 1);
    throttle_failed(t, &known, "alice", 1, 1000);
    throttle_failed(t, &known, "alice", 2, 1000);
    throttle_failed(t, &stranger, "alice", 1, 1000);
    assert_int_equal(throttle_rank(t, &known, 1000), 2);
    assert_int_equal(throttle_rank(t, &stranger, 1000), 2);
    assert_int_equal(throttle_rank(t, &known, 1000 + 2 * 15000), 0);
    assert_int_equal(throttle_rank(t, &known, 1000 + day), 1); /* forgotten */
    for (uint64_t i = 0; i < 40; i++)                          /* success is no excuse */
        throttle_failed(t, &known, "alice", i + 1, 1000);
    assert_true(throttle_refuses(t, &known, 1000));
    throttle_succeeded(t, &known, 1000);
    assert_true(throttle_refuses(t, &known, 1000));
    throttle_free(t);
}

/* What an administrator sees of it: who, and for how long still. */
static void shown(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    const char *const sources[] = {"192.0.2.1:1", "[2001:db8:5:6::7]:1"};
    char name[PROTO_USER_MAX + 1], names[600] = "";
    uint64_t left;
    size_t at = 0;
    assert_false(throttle_next(t, false, 1000, &at, name, &left));
    for (unsigned i = 0; i < 60; i++) {
        struct address_source s = source_of(sources[i % 2]);
        throttle_failed(t, &s, "alice", i + 1, 1000);
    }
    for (at = 0; throttle_next(t, false, 1000, &at, name, &left);) {
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s ", name);
        assert_true(left > 0 && left <= 15000);
    }
    assert_true(strcmp(names, "192.0.2.1 2001:db8:5::/48 ") == 0 ||
                strcmp(names, "2001:db8:5::/48 192.0.2.1 ") == 0);
    at = 0;
    assert_true(throttle_next(t, true, 1000, &at, name, &left));
    assert_string_equal(name, "alice");
    assert_true(throttle_refuses(t, &(struct address_source){.octets = {0x20, 1, 0xd, 0xb8, 0, 5}},
                                 1000 + left - 1));
    for (at = 0; throttle_next(t, false, 1000 + 15000, &at, name, &left);)
        fail_msg("%s is still throttled", name);
    throttle_free(t);
}

static void prefixes(void **state)
{
    (void)state;
    char *items[] = {"192.0.2.0/25", "2001:db8::/32", "198.51.100.7"};
    const struct text_list list = {3, items};
    static const struct {
        const char *address;
        bool exempt;
    } cases[] = {
        {"192.0.2.1:1", true},       {"192.0.2.127:1", true},    {"192.0.2.128:1", false},
        {"[2001:db8:9::1]:1", true}, {"[2001:db9::1]:1", false}, {"198.51.100.7:1", true},
        {"198.51.100.8:1", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct sockaddr_storage address = address_of(cases[i].address);
        assert_int_equal(address_listed(&list, &address), cases[i].exempt);
    }
    assert_null(address_bad_prefix(&list));
    static const char *const bad[] = {"192.0.2.0/33", "192.0.2", "x",
                                      "::1/129",      "::1/",    "1.2.3.4/-1"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char *one[] = {(char *)(uintptr_t)bad[i]};
        const struct text_list wrong = {1, one};
        if (!address_bad_prefix(&wrong))
            fail_msg("%s was taken", bad[i]);
    }
}

/* Where no name is known none is attacked: the sources alone have their limits. */
static void without_a_name(void **state)
{
    (void)state;
    struct throttle *t = throttle_new();
    char text[32];
    for (unsigned i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "192.0.2.%u:1", i);
        struct address_source s = source_of(text);
        assert_int_equal(throttle_failed(t, &s, "", 0, 1000), 0);
    }
    struct address_source s = source_of("192.0.2.0:1");
    for (unsigned i = 1; i < 20; i++) {
        assert_false(throttle_refuses(t, &s, 1000));
        throttle_failed(t, &s, "", 0, 1000);
    }
    assert_true(throttle_refuses(t, &s, 1000));
    throttle_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_failures),
        cmocka_unit_test(a_few_failures),
        cmocka_unit_test(failures_without_a_digest),
        cmocka_unit_test(a_forgotten_client),
        cmocka_unit_test(one_bucket_for_a_48),
        cmocka_unit_test(an_attacked_name),
        cmocka_unit_test(without_a_name),
        cmocka_unit_test(bounded_table),
        cmocka_unit_test(known_in_a_full_table),
        cmocka_unit_test(who_comes_first),
        cmocka_unit_test(prefixes),
        cmocka_unit_test(shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
