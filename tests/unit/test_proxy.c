/*
 * test_proxy.c - PROXY headers: each at every cut and truncation, with octets changed, and then in
 * front of a real worker in its sandbox.
 */
#include "one_harness.h"

#include "worker/proxy.h"

#define OCTETS(literal) (literal), (sizeof(literal) - 1)
#define V2              "\r\n\r\n\0\r\nQUIT\n"
#define ADDRESSES_4     "\300\0\2\1\306\63\144\2\xdc\4\0\156" /* 192.0.2.1:56324, 198.51.100.2:110 */
#define ADDRESSES_6                                                                                \
    "\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\1\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\2\xdc\4\3\343"
#define ADDRESSES_MAPPED                                                                           \
    "\0\0\0\0\0\0\0\0\0\0\377\377\300\0\2\1\0\0\0\0\0\0\0\0\0\0\377\377\177\0\0\1\xdc\4\3\343"

struct header_case {
    const char *octets;
    size_t size;
    bool known, tls;
    const char *source;
};

static const struct header_case good[] = {
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 56324 110\r\n"), true, false, "192.0.2.1:56324"},
    {OCTETS("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), true, false,
     "255.255.255.255:65535"},
    {OCTETS("PROXY TCP6 2001:db8::1 2001:DB8:0:0::2 56324 995\r\n"), true, false,
     "[2001:db8::1]:56324"},
    {OCTETS("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
     true, false, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
    {OCTETS("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"), true, false, "192.0.2.1:1"},
    {OCTETS("PROXY UNKNOWN\r\n"), false, false, ""},
    {OCTETS("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), false, false, ""},
    {OCTETS("PROXY UNKNOWN xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx "
            "xx xx xx xx xx xx x\r\n"),
     false, false, ""},

    {OCTETS(V2 "\x21\x11\0\xc" ADDRESSES_4), true, false, "192.0.2.1:56324"},
    {OCTETS(V2 "\x21\x21\0\x24" ADDRESSES_6), true, false, "[2001:db8::1]:56324"},
    {OCTETS(V2 "\x21\x21\0\x24" ADDRESSES_MAPPED), true, false, "192.0.2.1:56324"},
    /* ALPN, a TLS client with a part of its own, an empty part */
    {OCTETS(V2 "\x21\x11\0\x28" ADDRESSES_4 "\1\0\4pop3\x20\0\xf\1\0\0\0\0\x21\0\7TLSv1.2\4\0\0"),
     true, true, "192.0.2.1:56324"},
    /* a certificate was shown to the proxy, but not on this connection */
    {OCTETS(V2 "\x21\x11\0\x14" ADDRESSES_4 "\x20\0\5\4\0\0\0\0"), true, false, "192.0.2.1:56324"},
    {OCTETS(V2 "\x20\0\0\0"), false, false, ""},
    {OCTETS(V2 "\x20\x11\0\xc" ADDRESSES_4), false, false, ""},
    {OCTETS(V2 "\x20\0\0\3xyz"), false, false, ""},
    {OCTETS(V2 "\x21\0\0\0"), false, false, ""},
    {OCTETS(V2 "\x21\0\0\3xyz"), false, false, ""},
    {OCTETS(V2 "\x21\x31\0\2xy"), false, false, ""},
};

static const struct {
    const char *octets;
    size_t size;
} bad[] = {
    {OCTETS("USER alice\r\n")},
    {OCTETS("proxy TCP4 192.0.2.1 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY tcp4 192.0.2.1 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP 192.0.2.1 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY UDP4 192.0.2.1 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY UNKNOWNS a b c\r\n")},
    {OCTETS("PROXY  TCP4 192.0.2.1 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1  198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 56324 110 \r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 56324 110 x\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2\t56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 56324 110\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 56324 110\rX")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2\n56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1\0 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.256 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.01 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP4 ::1 ::1 56324 110\r\n")},
    {OCTETS("PROXY TCP6 192.0.2.1 198.51.100.2 56324 110\r\n")},
    {OCTETS("PROXY TCP6 2001:db8::1%eth0 ::1 56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 0 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 65536 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 100000 110\r\n")}, /* no room for an end */
    {OCTETS("PROXY TCP6 0000:0000:0000:0000:0000:ffff:0192.000.002.001 ::1 56324 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 056 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 +56 110\r\n")},
    {OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 99999999999 110\r\n")},
    {OCTETS("PROXY UNKNOWN xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx xx "
            "xx xx xx xx xx xx xx\r\n")},
    {OCTETS("PROXY \r\n")},
    {OCTETS("PROXY\r\n\r\n\r\n\r\n\r\n")},

    {OCTETS("\r\n\r\n\0\r\nQUIT\r")},
    {OCTETS(V2 "\x11\x11\0\xc" ADDRESSES_4)},          /* version 1 */
    {OCTETS(V2 "\x22\x11\0\xc" ADDRESSES_4)},          /* a command that is none */
    {OCTETS(V2 "\x21\x12\0\xc" ADDRESSES_4)},          /* UDP */
    {OCTETS(V2 "\x21\x41\0\xc" ADDRESSES_4)},          /* a family that is none */
    {OCTETS(V2 "\x21\x11\0\xb" ADDRESSES_4)},          /* an octet too few, and one behind */
    {OCTETS(V2 "\x21\x21\0\xc" ADDRESSES_4)},          /* too small for its family */
    {OCTETS(V2 "\x21\x11\x8\0")},                      /* too large */
    {OCTETS(V2 "\x20\0\xff\xff")},                     /* too large */
    {OCTETS(V2 "\x21\x11\0\xd" ADDRESSES_4 "\x20")},   /* half a part */
    {OCTETS(V2 "\x21\x11\0\xf" ADDRESSES_4 "\4\0\1")}, /* a part larger than the rest */
    {OCTETS(V2 "\x21\x11\0\x13" ADDRESSES_4 "\x20\0\4\1\0\0\0")}, /* TLS, but too small */
    {OCTETS(V2 "\x21\x11\0\xc\0\0\0\0\0\0\0\0\0\0\0\156")},       /* port 0 */
};

/* In memory of exactly its size, so that a sanitizer sees an octet too many. */
static enum proxy_outcome parse(const char *octets, size_t size, struct proxy_header *header,
                                size_t *more)
{
    unsigned char *copy = malloc(size ? size : 1);
    memcpy(copy, octets, size);
    *more = 0;
    enum proxy_outcome outcome = proxy_parse(copy, size, header, more);
    free(copy);
    return outcome;
}

static void test_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct proxy_header header;
        size_t more;
        if (parse(good[i].octets, good[i].size, &header, &more) != PROXY_OK)
            fail_msg("case %zu", i);
        assert_int_equal(header.known, good[i].known);
        assert_int_equal(header.tls, good[i].tls);
        assert_string_equal(header.source, good[i].source);
    }
}

/* Every beginning of a header may be one, and what it is said to need is never more than the header
 * has: who reads by that reads it whole, and nothing behind it. */
static void test_truncated_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct proxy_header header;
        size_t more, size;
        for (size = 0; size < good[i].size; size++) {
            if (parse(good[i].octets, size, &header, &more) != PROXY_MORE)
                fail_msg("case %zu at %zu", i, size);
            assert_true(more > 0 && more <= good[i].size - size);
        }
        for (size = 0; parse(good[i].octets, size, &header, &more) == PROXY_MORE;)
            size += more;
        assert_int_equal(size, good[i].size);
        char longer[200] = "";
        memcpy(longer, good[i].octets, good[i].size);
        assert_int_equal(parse(longer, good[i].size + 1, &header, &more), PROXY_BAD);
    }
}

/* Read as a worker reads it, a bad one is found to be so before it has all come, or with it. */
static void test_bad_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct proxy_header header;
        size_t more, size = 0;
        enum proxy_outcome outcome;
        while ((outcome = parse(bad[i].octets, size, &header, &more)) == PROXY_MORE &&
               size < bad[i].size)
            size = size + more < bad[i].size ? size + more : bad[i].size;
        if (outcome == PROXY_OK || (outcome == PROXY_MORE && bad[i].octets[0] != 'P'))
            fail_msg("case %zu: %d after %zu", i, (int)outcome, size);
    }
}

/* No line of text goes on for ever. */
static void test_endless_line(void **state)
{
    char line[PROXY_TEXT_MAX + 10];
    struct proxy_header header;
    size_t more, size = 0;
    (void)state;
    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    while (parse(line, size, &header, &more) == PROXY_MORE) {
        size += more;
        assert_true(size <= PROXY_TEXT_MAX);
    }
    assert_int_equal(parse(line, size, &header, &more), PROXY_BAD);
}

static void test_garbage(void **state)
{
    (void)state;
    srandom(2048);
    for (int round = 0; round < 50000; round++) {
        const struct header_case *c = &good[(size_t)random() % ARRAY_SIZE(good)];
        char changed[200];
        struct proxy_header header;
        size_t more;
        memcpy(changed, c->octets, c->size);
        for (int n = 0; n < 3; n++)
            changed[(size_t)random() % c->size] = (char)random();
        if (parse(changed, c->size, &header, &more) == PROXY_OK)
            assert_true(header.known == (header.source[0] != '\0'));
    }
}

static void test_begins(void **state)
{
    static const unsigned char text[] = "PROXY x", binary[] = V2;
    (void)state;
    for (size_t size = 0; size < sizeof text; size++)
        assert_int_equal(proxy_begins(text, size), size >= 6);
    for (size_t size = 0; size < sizeof binary; size++)
        assert_int_equal(proxy_begins(binary, size), size >= 12);
    assert_false(proxy_begins((const unsigned char *)"PROXIES", 7));
}

/* ---- in front of a worker ---- */

static int set_up_with(const char *const *settings)
{
    harness_start(&h, settings);
    h.proxied = true;
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    return set_up_with((const char *[]){"tls.required=not-on-loopback", NULL});
}

static int set_up_assume(void **state)
{
    (void)state;
    return set_up_with((const char *[]){"listen.proxy_tls=assume", NULL});
}

static int set_up_impatient(void **state)
{
    (void)state;
    return set_up_with((const char *[]){"session.login_timeout=1s", NULL});
}

static void say_header(const char *octets, size_t size)
{
    harness_connect(&h, DOOR_POP3, "10.0.0.1:999");
    say_octets(&h, octets, size);
}

/* Each header, octet by octet, then at once with what follows it: nothing of that is lost. */
static void test_good_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        for (int slow = 0; slow < 2; slow++) {
            harness_connect(&h, DOOR_POP3, "10.0.0.1:999");
            for (size_t at = 0; slow && at < good[i].size; at++) {
                say_octets(&h, good[i].octets + at, 1);
                harness_pump(&h, POLLOUT);
            }
            char all[300];
            memcpy(all, good[i].octets, good[i].size);
            memcpy(all + good[i].size, "NOOP\r\nQUIT\r\n", 12);
            say_octets(&h, all + (slow ? good[i].size : 0), 12 + (slow ? 0 : good[i].size));
            expect(&h, "+OK Poplar at ");
            expect(&h, "-ERR");
            expect(&h, "+OK");
            expect_close(&h, END_QUIT);
            assert_string_equal(h.auth.real_peer, good[i].source);
            assert_string_equal(h.summary.tls, good[i].tls ? "proxy" : "");
        }
    }
}

static void test_bad_headers_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        say_header(bad[i].octets, bad[i].size);
        say(&h, "NOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\n"
                "NOOP\r\nNOOP\r\n");
        expect_close(&h, END_FOREIGN);
        assert_string_equal(h.auth.real_peer, "");
        assert_non_null(strstr(h.summary.detail, "header"));
    }
}

/* What stands behind the header belongs to TLS, though it came in one segment. */
static void test_tls_behind_a_header(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        harness_connect(&h, DOOR_POP3S, "10.0.0.1:999");
        say_octets(&h, good[i].octets, good[i].size);
        harness_start_tls(&h, NULL, 0);
        expect(&h, "+OK Poplar");
        expect_quit(&h);
        assert_string_equal(h.auth.real_peer, good[i].source);
        assert_string_equal(h.summary.tls, "TLSv1.3");
    }
}

/* And a client of this door that sends none, but TLS, is closed and told nothing. */
static void test_tls_without_a_header(void **state)
{
    (void)state;
    harness_connect(&h, DOOR_POP3S, "10.0.0.1:999");
    harness_start_tls(&h, NULL, 0);
    assert_true(h.closed);
    expect_end(&h, END_FOREIGN);
}

static void test_stls_behind_a_header(void **state)
{
    (void)state;
    say_header(OCTETS(V2 "\x21\x11\0\xc" ADDRESSES_4));
    expect(&h, "+OK Poplar");
    expect_capability(&h, "STLS", true);
    expect_capability(&h, "\r\nUSER\r\n", false);
    say(&h, "STLS\r\n");
    expect(&h, "+OK");
    harness_start_tls(&h, NULL, 0);
    harness_log_in(&h);
    expect_quit(&h);
    assert_string_equal(h.summary.tls, "TLSv1.3");
}

/* The proxy says that it ended TLS: that counts as TLS, and there is none to begin. */
static void test_tls_of_the_proxy(void **state)
{
    (void)state;
    say_header(OCTETS(V2 "\x21\x11\0\x14" ADDRESSES_4 "\x20\0\5\1\0\0\0\0"));
    expect(&h, "+OK Poplar");
    expect_capability(&h, "STLS", false);
    expect_capability(&h, "\r\nUSER\r\nSASL PLAIN LOGIN\r\n", true);
    say(&h, "STLS\r\n");
    expect(&h, "-ERR TLS is in use already");
    harness_log_in(&h);
    expect_quit(&h);
    assert_string_equal(h.summary.tls, "proxy");
}

static void test_assumed_tls(void **state)
{
    static const char *const headers[] = {
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 110\r\n",
        "PROXY UNKNOWN\r\n",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
        say_header(headers[i], strlen(headers[i]));
        expect(&h, "+OK Poplar");
        expect_capability(&h, "STLS", false);
        harness_log_in(&h);
        expect_quit(&h);
        assert_string_equal(h.summary.tls, "proxy");
    }
    h.proxied = false; /* of others nothing is assumed */
    harness_connect(&h, DOOR_POP3, "192.0.2.1:1");
    expect(&h, "+OK Poplar");
    expect_capability(&h, "\r\nUSER\r\n", false);
    expect_capability(&h, "STLS", true);
    expect_quit(&h);
}

/* not-on-loopback means the client, and a way to it that does not leave the machine. */
static void test_loopback(void **state)
{
    static const struct {
        const char *proxy, *header;
        bool may;
    } cases[] = {
        {"127.0.0.1:9", "PROXY TCP4 192.0.2.1 127.0.0.1 56324 110\r\n", false},
        {"127.0.0.1:9", "PROXY TCP4 127.0.0.1 127.0.0.1 56324 110\r\n", true},
        {"[::1]:9", "PROXY TCP6 ::1 ::1 56324 110\r\n", true},
        {"10.0.0.1:9", "PROXY TCP4 127.0.0.1 127.0.0.1 56324 110\r\n", false},
        {"127.0.0.1:9", "PROXY UNKNOWN\r\n", false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        harness_connect(&h, DOOR_POP3, cases[i].proxy);
        say(&h, cases[i].header);
        expect(&h, "+OK Poplar");
        expect_capability(&h, "\r\nUSER\r\n", cases[i].may);
        say(&h, "USER alice\r\n");
        expect(&h, cases[i].may ? "+OK" : "-ERR [AUTH]");
        expect_quit(&h);
    }
}

static void test_address_refused(void **state)
{
    (void)state;
    harness_connect(&h, DOOR_POP3, "10.0.0.1:999");
    h.auth.refuses_address = true;
    say(&h, "PROXY TCP4 192.0.2.1 198.51.100.2 56324 110\r\nCAPA\r\n");
    expect(&h, "-ERR [SYS/TEMP] too many connections, wait and try again");
    expect_close(&h, END_SHUTDOWN);
    assert_string_equal(h.auth.real_peer, "192.0.2.1:56324");
}

/* Nothing is said in the clear where TLS is due. */
static void test_address_refused_before_tls(void **state)
{
    (void)state;
    harness_connect(&h, DOOR_POP3S, "10.0.0.1:999");
    h.auth.refuses_address = true;
    say(&h, "PROXY TCP4 192.0.2.1 198.51.100.2 56324 110\r\nCAPA\r\n");
    expect_close(&h, END_SHUTDOWN);
    assert_string_equal(h.auth.real_peer, "192.0.2.1:56324");
}

/* What no master would say ends the session. */
static void test_address_too_long(void **state)
{
    char address[PROTO_ADDRESS_MAX + 1] = "";
    (void)state;
    memset(address, '1', sizeof address - 1);
    for (int less = 1; less >= 0; less--) {
        harness_connect(&h, DOOR_POP3, "10.0.0.1:999");
        h.auth.taken = address + less;
        say(&h, "PROXY TCP4 192.0.2.1 198.51.100.2 56324 110\r\n");
        if (less) {
            expect(&h, "+OK Poplar");
            expect_quit(&h);
        } else {
            while (!h.closed)
                harness_take(&h);
            assert_int_equal(h.held, 0); /* nobody is greeted */
            assert_false(h.summary.given);
        }
    }
}

static void test_header_that_does_not_come(void **state)
{
    static const enum proto_door doors[] = {DOOR_POP3, DOOR_POP3S};
    char line[600];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(doors); i++) {
        harness_connect(&h, doors[i], "10.0.0.1:999");
        say(&h, "PROXY TCP4");
        hear(&h, line, sizeof line);
        /* In the clear one word may go, where TLS is expected none. */
        assert_true(strncmp(line, doors[i] == DOOR_POP3 ? "-ERR" : "", 4) == 0);
        expect_close(&h, END_LOGIN_TIMEOUT);
        assert_non_null(strstr(h.summary.detail, "proxy"));
    }
}

static void test_disconnect_in_a_header(void **state)
{
    (void)state;
    say_header(OCTETS(V2 "\x21"));
    expect_end(&h, END_DISCONNECT);
}

/* From somebody who is no proxy of ours: closed, whatever it says, and nothing is answered. */
static void test_unexpected_headers(void **state)
{
    (void)state;
    h.proxied = false;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        harness_connect(&h, DOOR_POP3, "192.0.2.1:1");
        expect(&h, "+OK Poplar");
        say_octets(&h, good[i].octets, good[i].size);
        say(&h, "CAPA\r\n");
        expect_close(&h, END_FOREIGN);
    }
    /* Also when it was not the first thing said, and when it comes in pieces. */
    harness_connect(&h, DOOR_POP3, "192.0.2.1:1");
    expect(&h, "+OK Poplar");
    say(&h, "CAPA\r\nproxy unknown\r\nCAPA\r\n");
    expect(&h, "+OK");
    free(hear_lines(&h, &(size_t){0}));
    expect_close(&h, END_FOREIGN);
    harness_connect(&h, DOOR_POP3, "192.0.2.1:1");
    expect(&h, "+OK Poplar");
    for (int i = 0; i < 2; i++) {
        say(&h, "\r\n");
        expect(&h, "-ERR");
    }
    say_octets(&h, OCTETS("\0\r\nQUIT\n"));
    expect(&h, "-ERR too many bad commands");
    expect_close(&h, END_BAD_COMMANDS);
}

#define WITH(set_up, test) cmocka_unit_test_setup_teardown(test, set_up, stop_harness)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_truncated_headers),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_endless_line),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_begins),
        WITH(set_up, test_good_headers),
        WITH(set_up, test_bad_headers_close),
        WITH(set_up, test_tls_behind_a_header),
        WITH(set_up, test_tls_without_a_header),
        WITH(set_up, test_stls_behind_a_header),
        WITH(set_up, test_tls_of_the_proxy),
        WITH(set_up_assume, test_assumed_tls),
        WITH(set_up, test_loopback),
        WITH(set_up, test_address_refused),
        WITH(set_up, test_address_refused_before_tls),
        WITH(set_up, test_address_too_long),
        WITH(set_up_impatient, test_header_that_does_not_come),
        WITH(set_up, test_disconnect_in_a_header),
        WITH(set_up, test_unexpected_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
