/*
 * test_sasl.c - the mechanisms of AUTH: their parsers at every cut and on garbage, then whole
 * exchanges (RFC 5034) against a real worker in its sandbox.
 */
#include "one_harness.h"

#include "worker/sasl.h"
#include <ctype.h>
#include <openssl/evp.h>

#define OCTETS(literal) (literal), (sizeof(literal) - 1)

/* ---- parsers ---- */

static char *encode(const void *octets, size_t size)
{
    char *text = base_alloc(size / 3 * 4 + 5);
    EVP_EncodeBlock((unsigned char *)text, octets, (int)size);
    return text;
}

static void test_names(void **state)
{
    enum sasl_mechanism mechanism;
    (void)state;
    for (int i = 0; i < SASL_MECHANISMS; i++) {
        char name[32];
        base_copy(name, sizeof name, sasl_name((enum sasl_mechanism)i));
        for (char *at = name; *at; at++)
            *at = (char)tolower((unsigned char)*at);
        assert_true(sasl_find(name, &mechanism));
        assert_int_equal(mechanism, i);
        assert_true(strlen("AUTH ") + strlen(name) + strlen(" \r\n") <= SASL_NAME_LINE_MAX);
    }
    assert_false(sasl_find("CRAM-MD5", &mechanism));
    assert_false(sasl_find("PLAI", &mechanism));
    assert_false(sasl_find("", &mechanism));
}

static void test_base64(void **state)
{
    (void)state;
    for (size_t size = 0; size < 400; size++) {
        unsigned char octets[400];
        size_t decoded = 999;
        base_random(octets, sizeof octets);
        char *text = encode(octets, size);
        assert_int_equal(strlen(text), sasl_encoded_size(size));
        assert_true(sasl_decode(text, strlen(text), &decoded));
        assert_int_equal(decoded, size);
        assert_memory_equal(text, octets, size);
        assert_int_equal(text[size], '\0');
        free(text);
    }
}

/* The octets are where the base64 was, and nothing else of it is left. */
static void test_base64_leaves_nothing(void **state)
{
    char text[] = "c2VjcmV0IHdvcmRz", rest[sizeof text] = "secret words";
    size_t decoded;
    (void)state;
    assert_true(sasl_decode(text, strlen(text), &decoded));
    assert_memory_equal(text, rest, sizeof text);
}

static void test_bad_base64(void **state)
{
    static const struct {
        const char *text;
        size_t size;
    } bad[] = {
        {OCTETS("A")},         {OCTETS("AA")},        {OCTETS("AAA")},      {OCTETS("AAAAA")},
        {OCTETS("=")},         {OCTETS("==")},        {OCTETS("====")},     {OCTETS("A===")},
        {OCTETS("AA=A")},      {OCTETS("AA==AAAA")},  {OCTETS("=AAA")},     {OCTETS("AAAA====")},
        {OCTETS(" AAA")},      {OCTETS("AAA ")},      {OCTETS("AA A")},     {OCTETS(" AAAA")},
        {OCTETS("AAAA ")},     {OCTETS("AAAA    ")},  {OCTETS("AAAA\r\n")}, {OCTETS("AAAA\t")},
        {OCTETS("AA-_")},      {OCTETS("AA\0A")},     {OCTETS("AAAA\0")},   {OCTETS("\0\0\0\0")},
        {OCTETS("AAA\303")},   {OCTETS("AAAA----")},  {OCTETS("*")},        {OCTETS("AAAA,AAA")},
        {OCTETS("AAAAAAA\n")}, {OCTETS("A\nAAAAA=")},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char text[20] = "";
        size_t decoded = 999;
        memcpy(text, bad[i].text, bad[i].size);
        if (sasl_decode(text, bad[i].size, &decoded))
            fail_msg("taken: '%s' (%zu)", bad[i].text, i);
        assert_int_equal(decoded, 999);
    }
}

static void test_challenges(void **state)
{
    char text[SASL_CHALLENGE_MAX / 3 * 4 + 1];
    (void)state;
    sasl_encode("", text);
    assert_string_equal(text, "");
    sasl_encode("Username:", text);
    assert_string_equal(text, "VXNlcm5hbWU6");
    for (int i = 0; i < SASL_MECHANISMS; i++)
        if (sasl_has_token((enum sasl_mechanism)i))
            sasl_encode(sasl_refusal((enum sasl_mechanism)i), text);
        else
            assert_null(sasl_refusal((enum sasl_mechanism)i));
}

struct parse_case {
    enum sasl_mechanism mechanism;
    const char *response;
    size_t size;
    enum sasl_outcome outcome;
    const char *user, *secret; /* of SASL_OK */
};

#define GOOD(mechanism, response, user, secret)                                                    \
    {                                                                                              \
        mechanism, OCTETS(response), SASL_OK, user, secret                                         \
    }
#define BAD(mechanism, response, outcome)                                                          \
    {                                                                                              \
        mechanism, OCTETS(response), outcome, NULL, NULL                                           \
    }

static const struct parse_case parse_cases[] = {
    GOOD(SASL_PLAIN, "\0alice\0secret", "alice", "secret"),
    GOOD(SASL_PLAIN, "alice\0alice\0secret", "alice", "secret"),
    GOOD(SASL_PLAIN, "\0alice\0", "alice", ""),
    GOOD(SASL_PLAIN, "\0\0secret", "", "secret"),
    GOOD(SASL_PLAIN, "\0al ice\0 se cret ", "al ice", " se cret "),
    BAD(SASL_PLAIN, "bob\0alice\0secret", SASL_FOREIGN),
    BAD(SASL_PLAIN, "alic\0alice\0secret", SASL_FOREIGN),
    BAD(SASL_PLAIN, "alice2\0alice\0secret", SASL_FOREIGN),
    BAD(SASL_PLAIN, "ALICE\0alice\0secret", SASL_FOREIGN),
    BAD(SASL_PLAIN, "", SASL_MALFORMED),
    BAD(SASL_PLAIN, "alice", SASL_MALFORMED),
    BAD(SASL_PLAIN, "alice\0secret", SASL_MALFORMED),
    BAD(SASL_PLAIN, "\0alice\0sec\0ret", SASL_MALFORMED),
    BAD(SASL_PLAIN, "\0alice\0secret\0", SASL_MALFORMED),

    GOOD(SASL_XOAUTH2, "user=alice\1auth=Bearer ya29.x\1\1", "alice", "ya29.x"),
    GOOD(SASL_XOAUTH2, "user=a@b\1auth=bearer  tok==\1\1", "a@b", "tok=="),
    BAD(SASL_XOAUTH2, "user=alice\1auth=\1\1", SASL_NO_TOKEN),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer \1\1", SASL_NO_TOKEN),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Basic dG9r\1\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer t t\1\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer t\n\1\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer t\0x\1\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer t\303\251\1\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer t\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer t\1\1x", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "user=alice\1auth=Bearer t\1x=y\1\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "auth=Bearer t\1user=alice\1\1", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "", SASL_MALFORMED),
    BAD(SASL_XOAUTH2, "\1", SASL_MALFORMED),

    GOOD(SASL_OAUTHBEARER, "n,a=alice,\1auth=Bearer t.o-k\1\1", "alice", "t.o-k"),
    GOOD(SASL_OAUTHBEARER, "y,a=alice,\1auth=Bearer t\1\1", "alice", "t"),
    GOOD(SASL_OAUTHBEARER,
         "n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer vF9dft4qmTc2==\1\1",
         "user@example.com", "vF9dft4qmTc2=="),
    GOOD(SASL_OAUTHBEARER, "n,a=a=2Cb=3Dc=3d,\1auth=Bearer t\1x=\1\1", "a,b=c=", "t"),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1host=h\1port=1\1auth=\1\1", SASL_NO_TOKEN),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1auth=Bearer\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1auth=\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1host=h\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,,\1auth=Bearer t\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "p=tls-unique,a=alice,\1auth=Bearer t\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=al=2Xice,\1auth=Bearer t\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice=2,\1auth=Bearer t\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice=,\1auth=Bearer t\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1auth=Bearer t\1auth=Bearer u\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1auth=Bearer t\1\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1auth=Bearer t\1\1x", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,\1what\1auth=Bearer t\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "n,a=alice,auth=Bearer t\1\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "\1", SASL_MALFORMED),
    BAD(SASL_OAUTHBEARER, "", SASL_MALFORMED),

    BAD(SASL_LOGIN, "\0alice\0secret", SASL_MALFORMED),
    BAD(SASL_EXTERNAL, "", SASL_MALFORMED),
};

/* In memory of exactly its size, so that a sanitizer sees an octet too many. */
static enum sasl_outcome parse(enum sasl_mechanism mechanism, const char *response, size_t size,
                               char **copy, struct sasl_credentials *c)
{
    *copy = malloc(size ? size : 1);
    memcpy(*copy, response, size);
    return sasl_parse(mechanism, *copy, size, c);
}

static void test_responses(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(parse_cases); i++) {
        const struct parse_case *p = &parse_cases[i];
        struct sasl_credentials c;
        char *copy;
        enum sasl_outcome outcome = parse(p->mechanism, p->response, p->size, &copy, &c);
        if (outcome != p->outcome)
            fail_msg("case %zu: %d, not %d", i, (int)outcome, (int)p->outcome);
        if (outcome == SASL_OK) {
            assert_int_equal(c.user_size, strlen(p->user));
            assert_memory_equal(c.user, p->user, c.user_size);
            assert_int_equal(c.secret_size, strlen(p->secret));
            assert_memory_equal(c.secret, p->secret, c.secret_size);
        }
        free(copy);
    }
}

/* No beginning of a token's response is one itself, and PLAIN only from its second NUL on. */
static void test_truncated_responses(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(parse_cases); i++) {
        const struct parse_case *p = &parse_cases[i];
        for (size_t size = 0; p->outcome == SASL_OK && size < p->size; size++) {
            struct sasl_credentials c;
            char *copy;
            enum sasl_outcome outcome = parse(p->mechanism, p->response, size, &copy, &c);
            if (p->mechanism != SASL_PLAIN)
                assert_int_equal(outcome, SASL_MALFORMED);
            else if (size < p->size - strlen(p->secret))
                assert_int_equal(outcome, SASL_MALFORMED);
            free(copy);
        }
    }
}

/* Good responses with octets changed: whatever comes out stays inside the response. */
static void test_garbage_responses(void **state)
{
    (void)state;
    srandom(5034);
    for (int round = 0; round < 20000; round++) {
        const struct parse_case *p = &parse_cases[(size_t)random() % ARRAY_SIZE(parse_cases)];
        static const char octets[] = "\0\1=,a \377";
        char changed[200], *copy;
        struct sasl_credentials c;
        memcpy(changed, p->response, p->size);
        for (int n = 0; n < 3 && p->size > 0; n++)
            changed[(size_t)random() % p->size] = octets[(size_t)random() % (sizeof octets - 1)];
        if (parse(p->mechanism, changed, p->size, &copy, &c) == SASL_OK) {
            assert_true(c.user >= copy && c.user + c.user_size <= copy + p->size);
            assert_true(c.secret >= copy && c.secret + c.secret_size <= copy + p->size);
        }
        free(copy);
    }
}

/* ---- exchanges ---- */

/* A line: what comes before, then octets in base64. */
static void say_encoded(const char *before, const void *octets, size_t size)
{
    char *text = encode(octets, size);
    say(&h, before);
    say(&h, text);
    say(&h, "\r\n");
    free(text);
}

static void expect_asked(unsigned times, const char *mechanism, const char *user,
                         const char *secret)
{
    assert_int_equal(h.auth.asked, times);
    assert_string_equal(h.auth.mechanism, mechanism);
    assert_string_equal(h.auth.user, user);
    assert_string_equal(h.auth.secret, secret);
    assert_int_equal(h.auth.secret_size, strlen(secret));
}

static int set_up_with(const char *const *settings)
{
    harness_start(&h, settings);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    return set_up_with((const char *[]){"tls.required=no", "auth.mechanisms=plain, login", NULL});
}

static int set_up_tokens(void **state)
{
    (void)state;
    return set_up_with((const char *[]){"tls.required=no", "auth.token_max=32768",
                                        "auth.mechanisms=xoauth2, oauthbearer", NULL});
}

static int set_up_tls(void **state)
{
    (void)state;
    return set_up_with((const char *[]){"auth.mechanisms=login, plain, external", NULL});
}

static void test_plain(void **state)
{
    (void)state;
    harness_greeted(&h);
    say_encoded("AUTH PLAIN ", OCTETS("\0alice\0secret"));
    expect(&h, "+OK logged in");
    expect_asked(1, "PLAIN", "alice", "secret");
    say(&h, "AUTH PLAIN\r\n");
    expect(&h, "-ERR not after login");
    expect_quit(&h);
}

/* RFC 5034 section 4: an empty challenge is "+ ". */
static void test_plain_in_two_steps(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "auth plain\r\n");
    expect(&h, "+ \r\n");
    say_encoded("", OCTETS("alice\0alice\0 se cret "));
    expect(&h, "+OK logged in");
    expect_asked(1, "PLAIN", "alice", " se cret ");
    expect_quit(&h);
}

static void test_login(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "AUTH LOGIN\r\n");
    expect(&h, "+ VXNlcm5hbWU6\r\n");
    say_encoded("", OCTETS("alice"));
    expect(&h, "+ UGFzc3dvcmQ6\r\n");
    say_encoded("", OCTETS("pass\303\251"));
    expect(&h, "+OK logged in");
    expect_asked(1, "LOGIN", "alice", "pass\303\251");
    expect_quit(&h);
}

static void test_login_with_a_name_at_once(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "AUTH LOGIN YWxpY2U=\r\n");
    expect(&h, "+ UGFzc3dvcmQ6\r\n");
    say(&h, "c2VjcmV0\n");
    expect(&h, "+OK logged in");
    expect_asked(1, "LOGIN", "alice", "secret");
    expect_quit(&h);
}

/* Everything in one segment: responses are not commands, and what follows is none of them. */
static void test_pipelined(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "AUTH LOGIN\r\nYWxpY2U=\r\nc2VjcmV0\r\nSTAT\r\nAUTH\r\nQUIT\r\n");
    expect(&h, "+ VXNlcm5hbWU6\r\n");
    expect(&h, "+ UGFzc3dvcmQ6\r\n");
    expect(&h, "+OK logged in");
    expect(&h, "+OK 0 0\r\n");
    expect(&h, "-ERR not after login");
    expect(&h, "+OK");
    expect_close(&h, END_QUIT);
}

static void test_octet_by_octet(void **state)
{
    static const char said[] = "AUTH PLAIN\r\nAGFsaWNlAHNlY3JldA==\r\nQUIT\r\n";
    (void)state;
    harness_greeted(&h);
    for (size_t i = 0; i < sizeof said - 1; i++) {
        say_octets(&h, said + i, 1);
        harness_pump(&h, POLLOUT);
    }
    expect(&h, "+ \r\n");
    expect(&h, "+OK logged in");
    expect(&h, "+OK");
    expect_close(&h, END_QUIT);
    expect_asked(1, "PLAIN", "alice", "secret");
}

static void test_list(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "AUTH\r\nAUTH \r\n");
    for (int i = 0; i < 2; i++) {
        expect(&h, "+OK");
        expect_lines(&h, "PLAIN\r\nLOGIN\r\n");
    }
    expect_quit(&h);
}

/* Ways not to be a response, each answered once; "*" and refused identities are none of the bad
 * commands that end a session, the others are. */
static void test_refused(void **state)
{
    static const struct {
        const char *said, *heard;
        bool bad;
    } refused[] = {
        {"AUTH PLAIN *\r\n", "-ERR this is not what the mechanism says", true},
        {"AUTH PLAIN\r\n*\r\n", "-ERR cancelled", false},
        {"AUTH LOGIN\r\n*\r\n", "-ERR cancelled", false},
        {"AUTH LOGIN YWxpY2U=\r\n*\r\n", "-ERR cancelled", false},
        {"AUTH PLAIN =\r\n", "-ERR this is not", true},
        {"AUTH PLAIN\r\n\r\n", "-ERR this is not", true},
        {"AUTH PLAIN\r\n=\r\n", "-ERR this is not", true},
        {"AUTH PLAIN AGFsaWNlAHNlY3JldA=\r\n", "-ERR this is not", true},
        {"AUTH PLAIN\r\nAGFsaWNl AHNlY3JldA==\r\n", "-ERR this is not", true},
        {"AUTH PLAIN\r\nAGFsaWNlAHNlY3JldA== \r\n", "-ERR this is not", true},
        {"AUTH PLAIN\r\nQUIT\r\n", "-ERR this is not", true},
        {"AUTH PLAIN\r\nCAPA\r\n", "-ERR this is not", true},
        {"AUTH PLAIN\r\nSTAT x\r\n", "-ERR this is not", true},
        {"AUTH PLAIN YWxpY2UAc2VjcmV0\r\n", "-ERR this is not", true},
        {"AUTH PLAIN Ym9iAGFsaWNlAHNlY3JldA==\r\n", "-ERR [AUTH] users act for", false},
        {"AUTH PLAIN AGFsaWNlAA==\r\n", "-ERR [AUTH] the password is empty", false},
        {"AUTH PLAIN AABzZWNyZXQ=\r\n", "-ERR [AUTH] this cannot be a user name", false},
        {"AUTH PLAIN AGEvYgBzZWNyZXQ=\r\n", "-ERR [AUTH] this cannot be a user name", false},
        {"AUTH PLAIN AGEKYgBzZWNyZXQ=\r\n", "-ERR [AUTH] this cannot be a user name", false},
        {"AUTH PLAIN AGFsaWNlAGEKYg==\r\n", "-ERR [AUTH] this cannot be a password", false},
        {"AUTH LOGIN =\r\n", "-ERR [AUTH] this cannot be a user name", false},
        {"AUTH LOGIN YWxpY2U=\r\n\r\n", "-ERR [AUTH] the password is empty", false},
        {"AUTH LOGIN YWxpY2U=\r\nc2VjcmV\r\n", "-ERR this is not", true},
        {"AUTH PLAIN AAAA AAAA\r\n", "-ERR wrong arguments", true},
        {"AUTH PLAIN\tAAAA\r\n", "-ERR a command is", true},
        {"AUTH CRAM-MD5\r\n", "-ERR no such mechanism", false},
        {"AUTH XOAUTH2 dXNlcj1h\r\n", "-ERR no such mechanism", false},
        {"AUTH EXTERNAL =\r\n", "-ERR no such mechanism", false},
        {"AUTH *\r\n", "-ERR no such mechanism", false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        harness_greeted(&h);
        for (int n = 1; n <= 3; n++) {
            bool last = refused[i].bad && n == 3;
            say(&h, refused[i].said);
            for (const char *at = strstr(refused[i].said, "\r\n") + 2; *at;
                 at = strstr(at, "\r\n") + 2)
                expect(&h, "+ ");
            expect(&h, last ? "-ERR too many bad commands" : refused[i].heard);
        }
        if (refused[i].bad)
            expect_close(&h, END_BAD_COMMANDS);
        else
            expect_quit(&h);
        assert_int_equal(h.auth.asked, 0);
    }
}

/* A response with a NUL in its line, and one with none of base64's octets. */
static void test_binary_responses(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "AUTH PLAIN\r\n");
    expect(&h, "+ \r\n");
    say_octets(&h, OCTETS("AAAA\0AAA\r\n"));
    expect(&h, "-ERR this is not");
    say(&h, "AUTH PLAIN\r\n");
    expect(&h, "+ \r\n");
    say_octets(&h, OCTETS("\377\0\1\2\r\n"));
    expect(&h, "-ERR this is not");
    expect_quit(&h);
}

/* Too long, by one octet and by far: one -ERR, and no part of the line is a command. */
static void test_too_long(void **state)
{
    static const size_t sizes[] = {2400, 10000, 60000};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        char *line = base_alloc(sizes[i] + 20);
        memset(line, 'A', sizes[i]);
        memcpy(line + sizes[i] - 8, "\rQUIT   ", 8);
        memcpy(line + sizes[i], "\r\n", 3);
        harness_greeted(&h);
        say(&h, "AUTH PLAIN\r\n");
        expect(&h, "+ \r\n");
        say(&h, line);
        expect(&h, "-ERR line too long");
        say(&h, "AUTH ");
        say(&h, line);
        expect(&h, "-ERR line too long");
        expect_quit(&h);
        free(line);
    }
}

static void test_endless(void **state)
{
    char line[4096];
    (void)state;
    memset(line, 'A', sizeof line);
    harness_greeted(&h);
    say(&h, "AUTH PLAIN\r\n");
    expect(&h, "+ \r\n");
    for (int i = 0; i < 40; i++)
        say_octets(&h, line, sizeof line);
    expect(&h, "-ERR line too long");
    expect_close(&h, END_LINE_TOO_LONG);
}

/* A password as long as may be, and one octet more. */
static void test_longest_password(void **state)
{
    char response[250 + 250 + 2 + 501];
    (void)state;
    memset(response, 'u', sizeof response);
    response[250] = response[501] = '\0';
    harness_greeted(&h);
    say_encoded("AUTH PLAIN ", response, sizeof response);
    expect(&h, "-ERR [AUTH] this cannot be a password");
    say_encoded("AUTH PLAIN ", response, sizeof response - 1);
    expect(&h, "+OK");
    assert_int_equal(h.auth.secret_size, 500);
    assert_int_equal(strlen(h.auth.user), 250);
    expect_quit(&h);
}

static void test_denied(void **state)
{
    (void)state;
    harness_greeted(&h);
    h.auth.verdict = LOGIN_DENIED;
    say_encoded("AUTH PLAIN ", OCTETS("\0alice\0wrong"));
    expect(&h, "-ERR [AUTH] user name or password is wrong");
    h.auth.last = true;
    say(&h, "AUTH LOGIN YWxpY2U=\r\nd3Jvbmc=\r\n");
    expect(&h, "+ UGFzc3dvcmQ6\r\n");
    expect(&h, "-ERR [AUTH] user name or password is wrong");
    expect_close(&h, END_LOGIN_FAILURES);
    expect_asked(2, "LOGIN", "alice", "wrong");
}

static void test_disconnect_in_an_exchange(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "AUTH LOGIN\r\n");
    expect(&h, "+ ");
    expect_end(&h, END_DISCONNECT);
    assert_int_equal(h.auth.asked, 0);
}

/* USER's name is forgotten by AUTH, as by anything else that asks for one. */
static void test_user_is_forgotten(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "USER alice\r\nAUTH PLAIN\r\n*\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "+ \r\n");
    expect(&h, "-ERR cancelled");
    expect(&h, "-ERR send USER first");
    expect_quit(&h);
}

#define SECRET "Kiebitz-und-Pappel-7341-in-der-Feldmark-zu-Grasdorf"

/* Neither it, nor a piece of base64 that no reply happens to fall on all of. */
static void look_for_the_secret(struct harness *at)
{
    assert_true(process_forgets(at->worker_pid, SECRET));
    assert_true(process_forgets(
        at->worker_pid, "S2llYml0ei11bmQtUGFwcGVsLTczNDEtaW4tZGVyLUZlbGRtYXJrLXp1LUdyYXNkb3Jm"));
}

/* However an exchange ends, and before auth has decided, the worker has no secret any more. The
 * secret stands where a group of base64 begins. */
static void test_secrets_are_forgotten(void **state)
{
    static const struct {
        const char *said, *encoded; /* and behind it this, in base64 */
        size_t size;
        const char *heard;
    } cases[] = {
        {"AUTH PLAIN ", OCTETS("\0u\0" SECRET), "+OK"},
        {"AUTH PLAIN\r\n", OCTETS("\0u\0" SECRET), "+OK"},
        {"AUTH LOGIN dQ==\r\n", OCTETS(SECRET), "+OK"},
        {"AUTH PLAIN ", OCTETS("\0other\0u\0" SECRET), "-ERR"},
        {"AUTH PLAIN ", OCTETS(SECRET), "-ERR"},
        {"AUTH PLAIN ", OCTETS("b\0u\0xx" SECRET), "-ERR"},
        {"AUTH LOGIN dQ==\r\n", OCTETS(SECRET "\n"), "-ERR"},
        {"AUTH CRAM-MD5 ", OCTETS(SECRET), "-ERR"},
        {"AUTH PLAIN =", OCTETS(SECRET), "-ERR"},
        {"AUTH PLAIN\r\n=", OCTETS(SECRET), "-ERR"},
    };
    (void)state;
    if (geteuid() != 0)
        skip();
    for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
        size_t n = i / 2;
        harness_connect(&h, i % 2 ? DOOR_POP3S : DOOR_POP3, "192.0.2.1");
        if (i % 2)
            harness_start_tls(&h, NULL, 0);
        expect(&h, "+OK");
        h.auth.while_deciding = look_for_the_secret;
        say(&h, cases[n].said);
        if (strstr(cases[n].said, "\r\n"))
            expect(&h, "+ ");
        say_encoded("", cases[n].encoded, cases[n].size);
        expect(&h, cases[n].heard);
        assert_int_equal(h.auth.asked, cases[n].heard[0] == '+');
        look_for_the_secret(&h);
        expect_quit(&h);
    }
}

/* Nothing in the clear, all in the configured order after STLS; EXTERNAL never without client_ca.
 */
static void test_needs_tls(void **state)
{
    (void)state;
    harness_greeted(&h);
    expect_capability(&h, "SASL", false);
    say(&h, "AUTH\r\n");
    expect(&h, "+OK");
    expect_lines(&h, "");
    say_encoded("AUTH PLAIN ", OCTETS("\0alice\0secret"));
    expect(&h, "-ERR [AUTH] logging in needs TLS");
    say(&h, "AUTH LOGIN\r\n");
    expect(&h, "-ERR [AUTH] logging in needs TLS");
    say(&h, "AUTH EXTERNAL\r\n");
    expect(&h, "-ERR no certificate came");
    say(&h, "STLS\r\n");
    expect(&h, "+OK");
    harness_start_tls(&h, NULL, 0);
    expect_capability(&h, "\r\nSASL LOGIN PLAIN\r\n", true);
    say(&h, "AUTH EXTERNAL =\r\n");
    expect(&h, "-ERR no certificate came");
    assert_int_equal(h.auth.asked, 0);
    say(&h, "AUTH PLAIN\r\n");
    expect(&h, "+ \r\n");
    say_encoded("", OCTETS("\0alice\0secret"));
    expect(&h, "+OK");
    expect_capability(&h, "\r\nSASL LOGIN PLAIN\r\n", true);
    expect_quit(&h);
}

/* ---- tokens ---- */

static void test_xoauth2(void **state)
{
    (void)state;
    harness_greeted(&h);
    expect_capability(&h, "\r\nSASL XOAUTH2 OAUTHBEARER\r\n", true);
    say_encoded("AUTH XOAUTH2 ", OCTETS("user=alice@example.org\1auth=Bearer ya29.T\1\1"));
    expect(&h, "+OK logged in");
    expect_asked(1, "XOAUTH2", "alice@example.org", "ya29.T");
    expect_quit(&h);
}

/* The challenge says why, the client answers anything at all, then comes the -ERR. */
static void test_refused_tokens(void **state)
{
    static const struct {
        const char *mechanism, *response, *challenge;
        size_t size;
    } cases[] = {
        {"XOAUTH2", "user=alice\1auth=Bearer t\1\1",
         "+ eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIn0=\r\n", 26},
        {"OAUTHBEARER", "n,a=alice,\1auth=Bearer t\1\1",
         "+ eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0=\r\n", 26},
    };
    static const char *const heard[] = {"AQ==\r\n", "\r\n", "*\r\n", "QUIT\r\n", "\001\r\n"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases) * ARRAY_SIZE(heard); i++) {
        char command[32];
        size_t n = i % ARRAY_SIZE(cases);
        harness_greeted(&h);
        h.auth.verdict = LOGIN_DENIED;
        h.auth.last = i % 3 == 0;
        snprintf(command, sizeof command, "AUTH %s ", cases[n].mechanism);
        say_encoded(command, cases[n].response, strlen(cases[n].response));
        expect(&h, cases[n].challenge);
        expect_asked(1, cases[n].mechanism, "alice", "t");
        say(&h, heard[i / ARRAY_SIZE(cases)]);
        expect(&h, "-ERR [AUTH] ");
        if (h.auth.last)
            expect_close(&h, END_LOGIN_FAILURES);
        else
            expect_quit(&h);
    }
}

/* What is no verdict about the token is no reason for a challenge. */
static void test_tokens_that_cannot_be_checked(void **state)
{
    (void)state;
    harness_greeted(&h);
    h.auth.verdict = LOGIN_UNAVAILABLE;
    say_encoded("AUTH OAUTHBEARER ", OCTETS("n,a=alice,\1auth=Bearer t\1\1"));
    expect(&h, "-ERR [SYS/TEMP] ");
    h.auth.refusal = REFUSED_THROTTLED;
    say_encoded("AUTH XOAUTH2 ", OCTETS("user=alice\1auth=Bearer t\1\1"));
    expect(&h, "-ERR [SYS/TEMP] ");
    expect_quit(&h);
}

/* RFC 7628 section 4.3: a client that asks what is needed. Auth is not bothered. */
static void test_no_token(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "AUTH OAUTHBEARER\r\n");
    expect(&h, "+ \r\n");
    say_encoded("", OCTETS("n,a=alice,\1host=h\1port=110\1auth=\1\1"));
    expect(&h, "+ eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0=\r\n");
    say(&h, "AQ==\r\n");
    expect(&h, "-ERR [AUTH] a token is needed");
    assert_int_equal(h.auth.asked, 0);
    say_encoded("AUTH OAUTHBEARER ", OCTETS("\1"));
    expect(&h, "-ERR this is not");
    expect_quit(&h);
}

static void test_disconnect_after_a_refusal(void **state)
{
    (void)state;
    harness_greeted(&h);
    h.auth.verdict = LOGIN_DENIED;
    say_encoded("AUTH XOAUTH2 ", OCTETS("user=alice\1auth=Bearer t\1\1"));
    expect(&h, "+ ");
    expect_end(&h, END_DISCONNECT);
    harness_greeted(&h);
    say_encoded("AUTH OAUTHBEARER ", OCTETS("n,a=alice,\1auth=\1\1")); /* without a token */
    expect(&h, "+ ");
    expect_end(&h, END_DISCONNECT);
    assert_int_equal(h.auth.asked, 0);
}

/* token_max octets are a token, in one line or as a response; one more are not. */
static void test_longest_token(void **state)
{
    enum { SIZE = 32768 };
    static const char before[] = "n,a=alice,\1auth=Bearer ";
    char *response = base_alloc(sizeof before + SIZE + 3);
    (void)state;
    for (int more = 0; more < 2; more++) {
        size_t size = sizeof before - 1;
        memcpy(response, before, size);
        memset(response + size, 't', SIZE + (size_t)more);
        size += SIZE + (size_t)more;
        response[size++] = '\1';
        response[size++] = '\1';
        for (int step = 0; step < 2; step++) {
            harness_greeted(&h);
            if (step == 1) {
                say(&h, "AUTH OAUTHBEARER\r\n");
                expect(&h, "+ \r\n");
            }
            say_encoded(step == 0 ? "AUTH OAUTHBEARER " : "", response, size);
            expect(&h, more ? "-ERR [AUTH] this cannot be a password" : "+OK");
            assert_int_equal(h.auth.secret_size, more ? 0 : SIZE);
            expect_quit(&h);
        }
    }
    free(response);
}

#define WITH(set_up, test) cmocka_unit_test_setup_teardown(test, set_up, stop_harness)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_base64_leaves_nothing),
        cmocka_unit_test(test_bad_base64),
        cmocka_unit_test(test_challenges),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_truncated_responses),
        cmocka_unit_test(test_garbage_responses),
        WITH(set_up, test_plain),
        WITH(set_up, test_plain_in_two_steps),
        WITH(set_up, test_login),
        WITH(set_up, test_login_with_a_name_at_once),
        WITH(set_up, test_pipelined),
        WITH(set_up, test_octet_by_octet),
        WITH(set_up, test_list),
        WITH(set_up, test_refused),
        WITH(set_up, test_binary_responses),
        WITH(set_up, test_too_long),
        WITH(set_up, test_endless),
        WITH(set_up, test_longest_password),
        WITH(set_up, test_denied),
        WITH(set_up, test_disconnect_in_an_exchange),
        WITH(set_up, test_user_is_forgotten),
        WITH(set_up, test_secrets_are_forgotten),
        WITH(set_up_tls, test_needs_tls),
        WITH(set_up_tokens, test_xoauth2),
        WITH(set_up_tokens, test_refused_tokens),
        WITH(set_up_tokens, test_tokens_that_cannot_be_checked),
        WITH(set_up_tokens, test_no_token),
        WITH(set_up_tokens, test_disconnect_after_a_refusal),
        WITH(set_up_tokens, test_longest_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
