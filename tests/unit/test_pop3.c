/*
 * test_pop3.c - whole sessions against a real worker in its sandbox: the commands, their framing,
 * logins and their failures, timeouts, TLS on the way.
 */
#include "between.h"
#include "one_harness.h"

#define FIRST  "From: a@example.org\r\nSubject: one\r\n\r\nfirst line\r\n.second\r\n..\r\nlast\r\n"
#define SECOND "Subject: two\r\n\r\n"

static const char *const in_the_clear[] = {"tls.required=no", NULL};
static const char *const as_shipped[] = {NULL};

static int start_clear(void **state)
{
    (void)state;
    harness_start(&h, in_the_clear);
    harness_deliver(&h, FIRST);
    harness_deliver(&h, SECOND);
    return 0;
}

static int start_strict(void **state)
{
    (void)state;
    harness_start(&h, as_shipped);
    harness_deliver(&h, FIRST);
    return 0;
}

static void test_a_session(void **state)
{
    size_t size;
    (void)state;
    harness_logged_in(&h);
    assert_string_equal(h.auth.user, "alice");
    assert_string_equal(h.auth.secret, "secret");
    assert_string_equal(h.auth.mechanism, "PASS");
    say(&h, "STAT\r\n");
    expect(&h, "+OK 2 84\r\n");
    say(&h, "LIST\r\n");
    expect(&h, "+OK 2 messages\r\n");
    expect_lines(&h, "1 68\r\n2 16\r\n");
    say(&h, "LIST 2\r\n");
    expect(&h, "+OK 2 16\r\n");
    say(&h, "UIDL\r\n");
    expect(&h, "+OK");
    char *uidls = hear_lines(&h, &size);
    char line[200], expected[200];
    say(&h, "UIDL 1\r\n");
    hear(&h, line, sizeof line);
    snprintf(expected, sizeof expected, "%.*s", (int)(strchr(uidls, '\n') + 1 - uidls), uidls);
    assert_string_equal(line + 4, expected);
    free(uidls);
    say(&h, "RETR 1\r\n");
    expect(&h, "+OK 68 octets\r\n");
    expect_lines(&h, "From: a@example.org\r\nSubject: one\r\n\r\nfirst line\r\n..second\r\n...\r\n"
                     "last\r\n");
    say(&h, "TOP 1 0\r\n");
    expect(&h, "+OK");
    expect_lines(&h, "From: a@example.org\r\nSubject: one\r\n\r\n");
    say(&h, "TOP 1 2\r\n");
    expect(&h, "+OK");
    expect_lines(&h, "From: a@example.org\r\nSubject: one\r\n\r\nfirst line\r\n..second\r\n");
    say(&h, "NOOP\r\n");
    expect(&h, "+OK");
    expect_quit(&h);
    assert_int_equal(h.summary.retrieved, 1);
    assert_int_equal(h.summary.deleted, 0);
    assert_true(h.summary.in > 60 && h.summary.out > 400);
    assert_string_equal(h.summary.tls, "");
}

static void test_capabilities(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "CAPA\r\n");
    expect(&h, "+OK");
    expect_lines(&h, CAPABILITIES("STLS\r\nUSER\r\nSASL PLAIN LOGIN\r\n"));
    harness_log_in(&h);
    say(&h, "capa\r\n");
    expect(&h, "+OK");
    expect_lines(&h, CAPABILITIES("USER\r\nSASL PLAIN LOGIN\r\n"));
    expect_quit(&h);
}

static void test_credentials_need_tls(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "CAPA\r\nUSER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect_lines(&h, CAPABILITIES("STLS\r\n"));
    expect(&h, "-ERR [AUTH] logging in needs TLS");
    expect(&h, "-ERR [AUTH] logging in needs TLS");
    say(&h, "STLS\r\n");
    expect(&h, "+OK");
    harness_start_tls(&h, NULL, 0);
    say(&h, "CAPA\r\n");
    expect(&h, "+OK");
    expect_lines(&h, CAPABILITIES("USER\r\nSASL PLAIN LOGIN\r\n"));
    say(&h, "STLS\r\n");
    expect(&h, "-ERR");
    harness_log_in(&h);
    say(&h, "STLS\r\nSTAT\r\n");
    expect(&h, "-ERR");
    expect(&h, "+OK 1 68\r\n");
    expect_quit(&h);
    assert_int_equal(h.auth.asked, 1);
    assert_string_equal(h.summary.tls, "TLSv1.3");
    assert_string_equal(h.summary.cipher, "TLS_AES_256_GCM_SHA384");
}

static void test_tls_from_the_first_octet(void **state)
{
    (void)state;
    harness_connect(&h, DOOR_POP3S, "192.0.2.1");
    harness_start_tls(&h, NULL, TLS1_2_VERSION);
    expect(&h, "+OK Poplar");
    harness_log_in(&h);
    say(&h, "RETR 1\r\n");
    expect(&h, "+OK 68 octets");
    free(hear_lines(&h, &(size_t){0}));
    expect_quit(&h);
    assert_string_equal(h.summary.tls, "TLSv1.2");
}

static void test_clear_text_on_the_tls_port(void **state)
{
    (void)state;
    harness_connect(&h, DOOR_POP3S, "192.0.2.1");
    say(&h, "CAPA\r\nUSER alice\r\n");
    harness_take(&h);
    while (!h.closed)
        harness_take(&h);
    assert_null(memmem(h.input, h.held, "+OK", 3));
    expect_end(&h, END_TLS);
    assert_true(strlen(h.summary.detail) > 0);
}

/* What came with STLS in one segment was said in the clear and is not a command inside TLS. */
static void test_stls_forgets_the_clear(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "USER alice\r\nSTLS\r\nCAPA\r\n");
    expect(&h, "+OK");
    expect(&h, "+OK begin TLS");
    harness_start_tls(&h, NULL, 0);
    say(&h, "PASS secret\r\n");
    expect(&h, "-ERR send USER first");
    assert_int_equal(h.held, 0);
    expect_quit(&h);
}

static void test_tls_hello_on_the_clear_port(void **state)
{
    (void)state;
    harness_greeted(&h);
    say_octets(&h, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\nab\n", 14);
    expect(&h, "-ERR this port begins in the clear");
    expect_close(&h, END_FOREIGN);
}

/* Everything of a long dialogue, in one write and octet by octet, is the same. */
static char *dialogue(const char *said, size_t step)
{
    char *all = base_alloc(sizeof h.input), line[1000];
    size_t size = strlen(said);
    harness_greeted(&h);
    for (size_t at = 0; at < size; at += step)
        say_octets(&h, said + at, size - at < step ? size - at : step);
    while (hear(&h, line, sizeof line)[0])
        strcat(all, line);
    expect_end(&h, END_QUIT);
    return all;
}

static void test_pipelined_and_octet_by_octet(void **state)
{
    static const char said[] =
        "CAPA\r\nUSER alice\nPASS secret\r\nSTAT\nLIST\r\nUIDL\r\nRETR 1\r\nTOP 1 1\nDELE 2\r\n"
        "LIST 2\r\nLIST\r\nRETR 2\nRSET\r\nSTAT\r\n\r\nlist   1  \r\nQUIT\n";
    (void)state;
    char *whole = dialogue(said, sizeof said);
    char *octets = dialogue(said, 1);
    assert_string_equal(whole, octets);
    assert_non_null(strstr(whole, "\r\n+OK 2 84\r\n"));
    assert_non_null(strstr(whole, "+OK 1 messages\r\n1 68\r\n.\r\n"));
    assert_non_null(strstr(whole, "-ERR unknown command\r\n+OK 1 68\r\n"));
    free(whole);
    free(octets);
}

struct exchange {
    const char *said, *answer;
};

/* Each in a session of its own, logged in; NOOP shows that exactly one reply was given. */
static void test_refused_after_login(void **state)
{
    static const char *const refused[] = {
        "RETR 0",
        "RETR 3",
        "RETR -1",
        "RETR +1",
        "RETR",
        "RETR 1 2",
        "RETR x",
        "RETR 1x",
        "UIDL -1",
        "DELE -1",
        "DELE 1 2",
        "LIST 4294967297",
        "STAT x",
        "QUIT x",
        "RSET 1",
        "NOOP 1",
        "TOP 1",
        "TOP 1 -1",
        "TOP",
        "TOP 1 2 3",
        "LAST 1",
        "UTF8 x",
        "LANG en fr",
        "LANG mul",
        "AUTH",
        "USER alice",
        "PASS secret",
        "STLS",
        "APOP a b",
        "XTND A",
        "LIST 1 2",
        "LIST\t1",
        "NOOP\r",
        "NO\rOP",
        "",
        " STAT",
        "ST\001AT",
        "UIDL \xff",
        "LIST \xc3\x28",
        "DELE 1\x7f",
        "CAPA x",
        "RETR 18446744073709551617",
        "LIST 99999999999999999999999999999999999999999999999",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        harness_logged_in(&h);
        say(&h, refused[i]);
        say(&h, "\r\nNOOP\r\n");
        expect(&h, "-ERR");
        expect(&h, "+OK nothing done");
        say(&h, "STAT\r\n");
        expect(&h, "+OK 2 84");
        expect_quit(&h);
    }
}

static void test_nul_in_a_command(void **state)
{
    (void)state;
    harness_greeted(&h);
    say_octets(&h, "ST\0AT\r\n", 7);
    expect(&h, "-ERR");
    say_octets(&h, "USER alice\0x\r\n", 14);
    expect(&h, "-ERR");
    say(&h, "USER alice\r\n");
    expect(&h, "+OK");
    say_octets(&h, "PASS sec\0ret\r\n", 14);
    expect(&h, "-ERR");
    expect_quit(&h);
    assert_int_equal(h.auth.asked, 0);
}

static void test_top_with_a_huge_count_is_the_whole(void **state)
{
    (void)state;
    harness_logged_in(&h);
    say(&h, "TOP 1 1000000000000000000000000000000\r\n");
    expect(&h, "+OK");
    expect_lines(&h, "From: a@example.org\r\nSubject: one\r\n\r\nfirst line\r\n..second\r\n...\r\n"
                     "last\r\n");
    expect_quit(&h);
    assert_int_equal(h.summary.retrieved, 0);
}

/* `word`, blanks to make `size` octets with the line end, which is `end`. */
static void say_padded(const char *word, char pad, size_t size, const char *end)
{
    char line[20000];
    size_t length = strlen(word);
    memset(line, pad, sizeof line);
    memcpy(line, word, length);
    memcpy(line + size - strlen(end), end, strlen(end));
    say_octets(&h, line, size);
}

static void test_line_limits(void **state)
{
    (void)state;
    harness_logged_in(&h);
    say_padded("NOOP", ' ', 255, "\r\n");
    expect(&h, "+OK nothing done");
    say_padded("NOOP", ' ', 255, "\n");
    expect(&h, "+OK nothing done");
    say_padded("NOOP", ' ', 256, "\r\n");
    expect(&h, "-ERR line too long");
    /* The tail, at the place where the line was cut and later, is no command. */
    say_padded("NOOP", ' ', 256, "DELE 1\r\n");
    expect(&h, "-ERR line too long");
    say_padded("NOOP", 'x', 10000, "\rDELE 1\r\n");
    expect(&h, "-ERR line too long");
    say(&h, "STAT\r\n");
    expect(&h, "+OK 2 84");
    expect_quit(&h);
}

static void test_credential_line_limits(void **state)
{
    (void)state;
    harness_greeted(&h);
    say_padded("user ", 'a', 257, "\r\n");
    expect(&h, "+OK");
    say_padded("USER ", 'a', 258, "\r\n");
    expect(&h, "-ERR this cannot be a user name");
    say_padded("USER ", 'a', 513, "\r\n");
    expect(&h, "-ERR line too long");
    say(&h, "USER alice\r\n");
    expect(&h, "+OK");
    say_padded("PASS ", 'p', 508, "\r\n");
    expect(&h, "-ERR [AUTH] this cannot be a password");
    assert_int_equal(h.auth.asked, 0);
    h.auth.verdict = LOGIN_DENIED;
    say(&h, "USER alice\r\n");
    expect(&h, "+OK");
    say_padded("PASS ", 'p', 507, "\r\n");
    expect(&h, "-ERR [AUTH]");
    assert_int_equal(h.auth.secret_size, PROTO_PASSWORD_MAX);
    say_padded("PASS ", 'p', 10000, "\r\n");
    expect(&h, "-ERR line too long");
    expect_quit(&h);
    assert_int_equal(h.auth.asked, 1);
}

static void test_a_line_without_end(void **state)
{
    char octets[1000];
    (void)state;
    memset(octets, 'a', sizeof octets);
    harness_greeted(&h);
    for (int i = 0; i < 66; i++)
        say_octets(&h, octets, sizeof octets);
    expect(&h, "-ERR line too long");
    expect_close(&h, END_LINE_TOO_LONG);
}

static void test_names_refused(void **state)
{
    static const char *const names[] = {
        "USER",           "USER ",
        "USER   ",        "USER .",
        "USER ..",        "USER ../../etc/x",
        "USER a/b",       "USER al\tice",
        "USER al\x01ice", "USER al\xc2\x85ice",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        harness_greeted(&h);
        say(&h, names[i]);
        say(&h, "\r\nPASS secret\r\n");
        expect(&h, "-ERR");
        expect(&h, "-ERR send USER first");
        expect_quit(&h);
        assert_int_equal(h.auth.asked, 0);
    }
    harness_greeted(&h);
    say(&h, "USER bob\r\nUSER a/b\r\nPASS secret\r\n"); /* nor is it bob */
    expect(&h, "+OK");
    expect(&h, "-ERR");
    expect(&h, "-ERR send USER first");
    expect_quit(&h);
}

static void test_names_taken_literally(void **state)
{
    static const char *const names[] = {"%u%{home}", "' OR 1=1--", "*)(uid=*", "b\xc3\xa4r",
                                        "alice@example.org"};
    char line[100];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        harness_greeted(&h);
        snprintf(line, sizeof line, "USER somebody.else@example.org\r\nUSER  %s  \r\nPASS x\r\n",
                 names[i]);
        say(&h, line);
        expect(&h, "+OK");
        expect(&h, "+OK");
        expect(&h, "+OK");
        assert_string_equal(h.auth.user, names[i]);
        expect_quit(&h);
    }
}

static void test_passwords_verbatim(void **state)
{
    static const char *const secrets[] = {" lead",      "trail  ",          "in  side", "a\tb\t",
                                          "gr\xfc\xdf", "\xc3\xa9\x01\x7f", " "};
    char line[100];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(secrets); i++) {
        harness_greeted(&h);
        snprintf(line, sizeof line, "USER alice\r\nPASS %s\r\n", secrets[i]);
        say(&h, line);
        expect(&h, "+OK");
        expect(&h, "+OK");
        assert_string_equal(h.auth.secret, secrets[i]);
        expect_quit(&h);
    }
}

static void test_password_missing(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "PASS x\r\n");
    expect(&h, "-ERR send USER first");
    say(&h, "USER alice\r\nPASS \r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [AUTH] the password is empty");
    say(&h, "USER alice\r\nPASS\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [AUTH] the password is empty");
    expect_quit(&h);
    assert_int_equal(h.auth.asked, 0);
}

static void test_login_outcomes(void **state)
{
    static const struct {
        enum login_outcome verdict;
        const char *answer;
    } outcomes[] = {
        {LOGIN_DENIED, "-ERR [AUTH] user name or password is wrong\r\n"},
        {LOGIN_EXPIRED, "-ERR [AUTH] the password has expired"},
        {LOGIN_ACCOUNT, "-ERR [AUTH] this account"},
        {LOGIN_UNAVAILABLE, "-ERR [SYS/TEMP] "},
        {LOGIN_MISCONFIGURED, "-ERR [SYS/PERM] "},
        {LOGIN_IN_USE, "-ERR [IN-USE] "},
        {LOGIN_NO_MAILDROP, "-ERR [AUTH] "},
        {LOGIN_STORE_TEMP, "-ERR [SYS/TEMP] "},
        {LOGIN_STORE_PERM, "-ERR [SYS/PERM] "},
    };
    (void)state;
    harness_greeted(&h);
    for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
        h.auth.verdict = outcomes[i].verdict;
        say(&h, "USER alice\r\nPASS secret\r\n");
        expect(&h, "+OK");
        expect(&h, outcomes[i].answer);
        say(&h, "PASS secret\r\n");
        expect(&h, "-ERR send USER first");
    }
    h.auth.verdict = LOGIN_OK;
    h.auth.dies = true;
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/TEMP] ");
    h.auth.dies = false;
    /* What came of the files the worker gives back: the next login finds them free. */
    for (h.auth.short_by = MAILDROP_FILES; h.auth.short_by > 0; h.auth.short_by--) {
        say(&h, "USER alice\r\nPASS secret\r\n");
        expect(&h, "+OK");
        expect(&h, "-ERR [SYS/TEMP] ");
    }
    h.auth.refusal = REFUSED_BUSY;
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/TEMP] too many logins at once");
    h.auth.refusal = REFUSED_THROTTLED;
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/TEMP] too many failed logins");
    h.auth.refusal = 0;
    harness_log_in(&h);
    expect_quit(&h);
}

static void test_the_last_attempt(void **state)
{
    (void)state;
    harness_greeted(&h);
    h.auth.verdict = LOGIN_DENIED;
    h.auth.last = true;
    say(&h, "USER alice\r\nPASS wrong\r\nCAPA\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [AUTH]");
    expect_close(&h, END_LOGIN_FAILURES);
}

static void test_the_last_attempt_throttled(void **state)
{
    (void)state;
    harness_greeted(&h);
    h.auth.refusal = REFUSED_LAST;
    say(&h, "USER alice\r\nPASS secret\r\nCAPA\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/TEMP] too many failed logins");
    expect_close(&h, END_LOGIN_FAILURES);
    assert_non_null(strstr(h.summary.error, "too many failed logins"));
}

static void test_second_session_in_use(void **state)
{
    int files[MAILDROP_FILES];
    (void)state;
    assert_true(harness_grant(&h, true, files));
    harness_greeted(&h);
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [IN-USE]");
    test_drop_give_back(files);
    harness_log_in(&h);
    say(&h, "QUIT\r\n");
    expect(&h, "+OK");
    /* QUIT was answered after the lock was free. */
    assert_true(harness_grant(&h, true, files));
    test_drop_give_back(files);
    expect_close(&h, END_QUIT);
}

static void test_bad_commands_before_login(void **state)
{
    (void)state;
    harness_greeted(&h);
    say_padded("STAT\r\nfoo\r\nCAPA x\r\nQUIT\r\n", 'x', 15000, "\r\n");
    expect(&h, "-ERR log in first");
    expect(&h, "-ERR unknown command");
    expect(&h, "-ERR too many bad commands");
    expect_close(&h, END_BAD_COMMANDS);
    assert_false(h.reset); /* although it did not read all of it */
}

/* Good ones as well: a stranger could have the list of capabilities for as long as he may log in.
 */
static void test_commands_without_login(void **state)
{
    (void)state;
    harness_greeted(&h);
    for (int i = 0; i < 100; i++) {
        say(&h, "USER alice\r\n");
        expect(&h, "+OK");
    }
    say(&h, "CAPA\r\nCAPA\r\n");
    expect(&h, "-ERR too many commands without a login");
    expect_close(&h, END_BAD_COMMANDS);
}

/* Who logs in with the last of them may go on. */
static void test_commands_before_login(void **state)
{
    (void)state;
    harness_greeted(&h);
    for (int i = 0; i < 98; i++) {
        say(&h, "USER alice\r\n");
        expect(&h, "+OK");
    }
    harness_log_in(&h);
    say(&h, "NOOP\r\nNOOP\r\n");
    expect(&h, "+OK");
    expect(&h, "+OK");
    expect_quit(&h);
}

static void test_bad_commands_after_login(void **state)
{
    (void)state;
    harness_logged_in(&h);
    for (int i = 0; i < 19; i++) {
        say(&h, "foo\r\n");
        expect(&h, "-ERR unknown command");
    }
    say(&h, "LIST 7\r\n");
    expect(&h, "-ERR no such message");
    say(&h, "DELE 1\r\nfoo\r\nNOOP\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR too many bad commands");
    expect_close(&h, END_BAD_COMMANDS);
    assert_int_equal(harness_count(&h), 2);
}

static void test_other_protocols(void **state)
{
    static const char *const said[] = {
        "GET / HTTP/1.1\r\n",     "POST /a HTTP/1.1\r\nHost: x\r\n", "CONNECT x:1 HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.0\r\n", "DELETE /x HTTP/1.1\r\n",          "PRI * HTTP/2.0\r\n"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
        harness_greeted(&h);
        say(&h, said[i]);
        expect_close(&h, END_FOREIGN);
    }
}

static void test_deletions(void **state)
{
    (void)state;
    harness_deliver(&h, "Subject: goes\r\n\r\n.\r\n");
    harness_logged_in(&h);
    say(&h, "DELE 3\r\nDELE 3\r\nRETR 3\r\nTOP 3 1\r\nUIDL 3\r\nLIST 3\r\nSTAT\r\n");
    expect(&h, "+OK");
    for (int i = 0; i < 5; i++)
        expect(&h, "-ERR no such message");
    expect(&h, "+OK 2 84\r\n");
    say(&h, "RSET\r\nSTAT\r\nDELE 3\r\n");
    expect(&h, "+OK");
    expect(&h, "+OK 3 104\r\n");
    expect(&h, "+OK");
    expect_quit(&h);
    assert_int_equal(h.summary.deleted, 1);
    assert_int_equal(harness_count(&h), 2);
}

static void test_without_quit_nothing_is_deleted(void **state)
{
    (void)state;
    harness_logged_in(&h);
    say(&h, "DELE 1\r\nDELE 2\r\n");
    expect(&h, "+OK");
    expect(&h, "+OK");
    expect_end(&h, END_DISCONNECT);
    assert_int_equal(h.summary.deleted, 0);
    assert_int_equal(harness_count(&h), 2);
}

/* What arrives during a session is not in its list. */
static void test_the_list_does_not_move(void **state)
{
    (void)state;
    harness_logged_in(&h);
    harness_deliver(&h, "Subject: late\r\n\r\n");
    say(&h, "STAT\r\nLIST\r\nRETR 3\r\n");
    expect(&h, "+OK 2 84\r\n");
    expect(&h, "+OK 2 messages\r\n");
    expect_lines(&h, "1 68\r\n2 16\r\n");
    expect(&h, "-ERR no such message");
    expect_quit(&h);
    harness_logged_in(&h);
    say(&h, "STAT\r\nDELE 3\r\n");
    expect(&h, "+OK 3 101\r\n");
    expect(&h, "+OK");
    expect_quit(&h);
}

/* The files under a grant were replaced while it was on its way: ask again, up to three times. */
static void test_stale_grants(void **state)
{
    (void)state;
    harness_greeted(&h);
    h.auth.stale = 3;
    harness_log_in(&h);
    assert_int_equal(h.auth.again, 3);
    assert_int_equal(h.auth.asked, 1);
    expect_quit(&h);
    harness_greeted(&h);
    h.auth.stale = 5;
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/TEMP]");
    expect_close(&h, END_STORE);
    assert_int_equal(h.auth.again, 3);
    assert_true(strlen(h.summary.detail) > 0);
}

static void expect_refused_again(void)
{
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/TEMP]");
    expect_close(&h, END_STORE);
    assert_int_equal(h.auth.again, 1);
    assert_string_equal(h.summary.detail, "the maildrop could not be granted again");
}

static void leave_the_worker(struct harness *harness)
{
    channel_close(&harness->worker);
}

/* And then there is none to be had, nor anybody who could be asked for one. */
static void test_no_grant_again(void **state)
{
    (void)state;
    harness_greeted(&h);
    h.auth.stale = 1;
    h.auth.verdict_again = LOGIN_STORE_TEMP;
    expect_refused_again();
    harness_greeted(&h);
    h.auth.stale = 1;
    h.auth.refusal_again = REFUSED_BUSY;
    expect_refused_again();
    harness_greeted(&h);
    h.auth.stale = 1;
    h.auth.while_deciding = leave_the_worker;
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    while (!h.closed)
        harness_take(&h);
    assert_int_equal(h.auth.again, 0);
}

static void test_a_large_message(void **state)
{
    enum { LINES = 60000 };
    static const char line[] = ".a line of a large message, which begins with a dot\r\n";
    size_t length = sizeof line - 1, size;
    char *content = base_alloc(16 + LINES * length);
    (void)state;
    memcpy(content, "Subject: big\r\n\r\n", 16);
    for (size_t i = 0; i < LINES; i++)
        memcpy(content + 16 + i * length, line, length);
    harness_deliver_octets(&h, content, 16 + LINES * length);
    harness_logged_in(&h);
    say(&h, "RETR 3\r\nDELE 3\r\n");
    expect(&h, "+OK 3180016 octets\r\n");
    char got[100];
    for (int i = 0; i < 2; i++)
        hear(&h, got, sizeof got);
    for (size = 0; strcmp(hear(&h, got, sizeof got), ".\r\n") != 0; size++) {
        assert_true(got[0] == '.');
        assert_string_equal(got + 1, line);
    }
    assert_int_equal(size, LINES);
    expect(&h, "+OK");
    expect_quit(&h);
    free(content);
}

/* What is read in chunks ends with a whole one, or with an octet of one. */
static void test_a_message_of_a_chunk(void **state)
{
    (void)state;
    for (int more = -1; more <= 1; more++) {
        size_t size = (size_t)(MAILDROP_CHUNK_SIZE + more), heard = 0;
        char *content = base_alloc(size), line[1200], wanted[64];
        for (size_t i = 0; i < size; i++)
            content[i] = i % 1000 == 998 ? '\r' : i % 1000 == 999 ? '\n' : 'x';
        memcpy(content + size - 2, "\r\n", 2);
        harness_deliver_octets(&h, content, size);
        harness_logged_in(&h);
        snprintf(wanted, sizeof wanted, "+OK %zu octets\r\n", size);
        say(&h, "RETR 3\r\nDELE 3\r\n");
        expect(&h, wanted);
        while (strcmp(hear(&h, line, sizeof line), ".\r\n") != 0) {
            assert_memory_equal(content + heard, line, strlen(line));
            heard += strlen(line);
        }
        assert_int_equal(heard, size);
        expect(&h, "+OK");
        expect_quit(&h);
        free(content);
    }
}

/* A part of a message is gone: what came before it was sent, a terminator must not follow. */
static void test_a_torn_message(void **state)
{
    enum { SIZE = 200000 };
    char *content = base_alloc(SIZE), line[4096];
    size_t heard = 0;
    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        content[i] = i % 100 == 98 ? '\r' : i % 100 == 99 ? '\n' : 'x';
    harness_deliver_octets(&h, content, SIZE);
    harness_logged_in(&h);
    say(&h, "STAT\r\nLIST 3\r\n");
    expect(&h, "+OK 3 ");
    expect(&h, "+OK 3 200000");
    harness_sql(&h, "DELETE FROM chunk WHERE place = (SELECT max(place) - 1 FROM chunk)");
    say(&h, "RETR 3\r\nNOOP\r\n");
    expect(&h, "+OK 200000 octets");
    while (hear(&h, line, sizeof line)[0]) {
        assert_string_not_equal(line, ".\r\n");
        heard += strlen(line);
    }
    assert_true(heard + h.held > 0 && heard < SIZE);
    expect_end(&h, END_STORE);
    print_message("detail: %s\n", h.summary.detail);
    assert_int_equal(h.summary.retrieved, 0);
    free(content);
    harness_logged_in(&h);
    say(&h, "DELE 3\r\n");
    expect(&h, "+OK");
    expect_quit(&h);
}

/* Its row says, after the first of its octets was sent, that there are no more than that chunk. */
static void test_a_shortened_message(void **state)
{
    enum { SIZE = 2 * MAILDROP_CHUNK_SIZE };
    char *content = base_alloc(SIZE), line[4096], sql[200];
    size_t heard = 0;
    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        content[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : 'x';
    memcpy(content, "S: x\r\n\r\n", 8);
    harness_deliver_octets(&h, content, SIZE);
    free(content);
    harness_logged_in(&h);
    say(&h, "LIST 3\r\n");
    expect(&h, "+OK 3 131072");
    snprintf(sql, sizeof sql, "UPDATE message SET size = %d WHERE size = %d", MAILDROP_CHUNK_SIZE,
             SIZE);
    harness_sql(&h, sql);
    say(&h, "RETR 3\r\nNOOP\r\n");
    expect(&h, "+OK 131072 octets");
    while (hear(&h, line, sizeof line)[0]) {
        assert_string_not_equal(line, ".\r\n");
        heard += strlen(line);
    }
    assert_true(is_between(heard, 1, MAILDROP_CHUNK_SIZE));
    expect_end(&h, END_STORE);
    snprintf(sql, sizeof sql, "UPDATE message SET size = %d WHERE size = %d", SIZE,
             MAILDROP_CHUNK_SIZE);
    harness_sql(&h, sql);
    harness_logged_in(&h);
    say(&h, "DELE 3\r\n");
    expect(&h, "+OK");
    expect_quit(&h);
}

/* The whole file is overwritten under the session. */
static void test_damage_on_the_way(void **state)
{
    unsigned char junk[8192];
    (void)state;
    memset(junk, 0xa5, sizeof junk);
    int fd = harness_file(&h, MAILDROP_DB, O_RDWR);
    off_t size = lseek(fd, 0, SEEK_END);
    unsigned char *before = base_alloc((size_t)size);
    harness_logged_in(&h);
    say(&h, "LIST 1\r\n");
    expect(&h, "+OK");
    assert_int_equal(pread(fd, before, (size_t)size, 0), size);
    for (off_t at = 0; at < size; at += (off_t)sizeof junk)
        assert_true(pwrite(fd, junk, sizeof junk, at) > 0);
    int wal = harness_file(&h, MAILDROP_WAL, O_RDWR);
    unsigned char *log = base_alloc(1 << 24);
    ssize_t log_size = pread(wal, log, 1 << 24, 0);
    for (off_t at = 0; at < log_size; at += (off_t)sizeof junk)
        assert_true(pwrite(wal, junk, sizeof junk, at) > 0);
    say(&h, "RETR 1\r\n");
    expect(&h, "-ERR [SYS/PERM] the maildrop cannot be used");
    expect_close(&h, END_STORE);
    print_message("detail: %s\n", h.summary.detail);
    assert_int_equal(h.summary.retrieved, 0);
    assert_int_equal(pwrite(fd, before, (size_t)size, 0), size);
    assert_int_equal(ftruncate(fd, size), 0);
    assert_int_equal(pwrite(wal, log, (size_t)log_size, 0), log_size);
    assert_int_equal(ftruncate(wal, log_size), 0);
    free(before);
    free(log);
    close(fd);
    close(wal);
}

int main(void)
{
#define SESSION(name) cmocka_unit_test_teardown(name, abandon_session)
    const struct CMUnitTest clear[] = {
        SESSION(test_a_session),
        SESSION(test_capabilities),
        SESSION(test_pipelined_and_octet_by_octet),
        SESSION(test_refused_after_login),
        SESSION(test_nul_in_a_command),
        SESSION(test_top_with_a_huge_count_is_the_whole),
        SESSION(test_line_limits),
        SESSION(test_credential_line_limits),
        SESSION(test_a_line_without_end),
        SESSION(test_names_refused),
        SESSION(test_names_taken_literally),
        SESSION(test_passwords_verbatim),
        SESSION(test_password_missing),
        SESSION(test_login_outcomes),
        SESSION(test_the_last_attempt),
        SESSION(test_the_last_attempt_throttled),
        SESSION(test_second_session_in_use),
        SESSION(test_bad_commands_before_login),
        SESSION(test_commands_without_login),
        SESSION(test_commands_before_login),
        SESSION(test_bad_commands_after_login),
        SESSION(test_other_protocols),
        SESSION(test_deletions),
        SESSION(test_without_quit_nothing_is_deleted),
        SESSION(test_the_list_does_not_move),
        SESSION(test_stale_grants),
        SESSION(test_no_grant_again),
        SESSION(test_a_large_message),
        SESSION(test_a_message_of_a_chunk),
        SESSION(test_a_torn_message),
        SESSION(test_a_shortened_message),
        SESSION(test_stls_forgets_the_clear),
        SESSION(test_damage_on_the_way),
    };
    const struct CMUnitTest strict[] = {
        SESSION(test_credentials_need_tls),
        SESSION(test_tls_from_the_first_octet),
        SESSION(test_clear_text_on_the_tls_port),
        SESSION(test_tls_hello_on_the_clear_port),
    };
    int failed = cmocka_run_group_tests_name("pop3, clear", clear, start_clear, stop_harness);
    return failed + cmocka_run_group_tests_name("pop3, strict", strict, start_strict, stop_harness);
}
