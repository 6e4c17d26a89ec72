/*
 * test_utf8.c - SASLprep by itself, and UTF8 and LANG in whole sessions against a real worker in
 * its sandbox: sizes, surrogates, names and passwords, the language of texts.
 */
#include "one_harness.h"

#include "worker/utf8.h"

#define HEADER  "From: Ren\xc3\xa9 <r@example.org>\r\nSubject: \xc3\xa9t\xc3\xa9\r\n\r\n"
#define PLAIN   "From: =?UTF-8?Q?Ren=C3=A9?= <r@example.org>\r\nSubject: =?UTF-8?B?w6l0w6k=?=\r\n\r\n"
#define BODY    "c\xc3\xb4t\xc3\xa9\r\n.\r\nlast\r\n"
#define STUFFED "c\xc3\xb4t\xc3\xa9\r\n..\r\nlast\r\n"
#define ASCII   "Subject: plain\r\n\r\nbody\r\n"

/* Message 2 comes as import delivers, where nobody vouches for the header. Message 4's header is
 * too large for a surrogate. */
static int start(void **state)
{
    static const char *const settings[] = {"tls.required=no", NULL};
    static const struct maildrop_delivery imported = {0};
    enum { LARGE = 1100000 };
    char *large = base_alloc(LARGE);
    (void)state;
    harness_start(&h, settings);
    harness_deliver(&h, HEADER BODY);
    harness_deliver_as(&h, &imported, HEADER BODY, strlen(HEADER BODY));
    harness_deliver(&h, ASCII);
    memset(large, 'x', LARGE);
    memcpy(large, "Subject: \xc3\xa9", 11);
    for (size_t i = 900; i + 3 < LARGE; i += 900)
        memcpy(large + i, "\r\n ", 3);
    memcpy(large + LARGE - 4, "\r\n\r\n", 4);
    harness_deliver_octets(&h, large, LARGE);
    free(large);
    return 0;
}

static int start_french(void **state)
{
    static const char *const settings[] = {"tls.required=no", "server.languages=fr", NULL};
    (void)state;
    harness_start(&h, settings);
    return 0;
}

/* What RETR sends must have the size that LIST, RETR and, with the others, STAT tell. */
static void expect_message(int number, size_t size, const char *lines)
{
    char command[40], answer[40];
    snprintf(command, sizeof command, "LIST %d\r\nRETR %d\r\n", number, number);
    say(&h, command);
    snprintf(answer, sizeof answer, "+OK %d %zu\r\n", number, size);
    expect(&h, answer);
    snprintf(answer, sizeof answer, "+OK %zu octets\r\n", size);
    expect(&h, answer);
    expect_lines(&h, lines);
}

static void expect_stat(size_t size)
{
    char answer[40];
    say(&h, "STAT\r\n");
    snprintf(answer, sizeof answer, "+OK 4 %zu\r\n", size + 1100000);
    expect(&h, answer);
}

static void test_without_utf8(void **state)
{
    (void)state;
    harness_logged_in(&h);
    expect_stat(strlen(PLAIN BODY HEADER BODY ASCII));
    expect_message(1, strlen(PLAIN BODY), PLAIN STUFFED);
    expect_message(2, strlen(HEADER BODY), HEADER STUFFED);
    expect_message(3, strlen(ASCII), ASCII);
    say(&h, "TOP 1 0\r\nTOP 1 1\r\nTOP 2 0\r\n");
    expect(&h, "+OK");
    expect_lines(&h, PLAIN);
    expect(&h, "+OK");
    expect_lines(&h, PLAIN "c\xc3\xb4t\xc3\xa9\r\n");
    expect(&h, "+OK");
    expect_lines(&h, HEADER);
    say(&h, "RETR 4\r\nTOP 4 0\r\nLIST 4\r\n");
    expect(&h, "-ERR [UTF8] this message can be had after UTF8 only\r\n");
    expect(&h, "-ERR [UTF8] ");
    expect(&h, "+OK 4 1100000\r\n");
    say(&h, "DELE 1\r\nRSET\r\nDELE 2\r\nSTAT\r\nRSET\r\n");
    for (int i = 0; i < 3; i++)
        expect(&h, "+OK");
    char answer[40];
    snprintf(answer, sizeof answer, "+OK 3 %zu\r\n", strlen(PLAIN BODY ASCII) + 1100000);
    expect(&h, answer);
    expect(&h, "+OK");
    expect_quit(&h);
}

static void expect_raw(void)
{
    expect_stat(strlen(HEADER BODY HEADER BODY ASCII));
    expect_message(1, strlen(HEADER BODY), HEADER STUFFED);
    expect_message(2, strlen(HEADER BODY), HEADER STUFFED);
    expect_message(3, strlen(ASCII), ASCII);
    say(&h, "TOP 1 1\r\nTOP 4 0\r\n");
    expect(&h, "+OK");
    expect_lines(&h, HEADER "c\xc3\xb4t\xc3\xa9\r\n");
    expect(&h, "+OK");
    free(hear_lines(&h, &(size_t){0}));
}

static void test_with_utf8(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "UTF8\r\n");
    expect(&h, "+OK UTF-8 is in use\r\n");
    harness_log_in(&h);
    expect_raw();
    say(&h, "utf8\r\n");
    expect(&h, "+OK");
    expect_quit(&h);
}

/* Outlook: after login, which is in time until a size was told. */
static void test_utf8_after_login(void **state)
{
    static const char *const tell[] = {"STAT\r\n", "LIST 3\r\n", "RETR 3\r\n", "UIDL 3\r\n"};
    (void)state;
    harness_logged_in(&h);
    say(&h, "CAPA\r\nUTF8\r\n");
    expect(&h, "+OK");
    free(hear_lines(&h, &(size_t){0}));
    expect(&h, "+OK");
    expect_raw();
    expect_quit(&h);
    for (size_t i = 0; i < ARRAY_SIZE(tell); i++) {
        harness_logged_in(&h);
        say(&h, tell[i]);
        expect(&h, "+OK");
        if (tell[i][0] == 'R')
            free(hear_lines(&h, &(size_t){0}));
        say(&h, "UTF8\r\n");
        expect(&h, "-ERR too late");
        expect_message(1, strlen(PLAIN BODY), PLAIN STUFFED);
        expect_quit(&h);
    }
}

/* What was said in the clear is forgotten: UTF8, and the language. */
static void test_stls_forgets(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "UTF8\r\nLANG fr\r\nSTLS\r\n");
    expect(&h, "+OK");
    expect(&h, "+OK fr ");
    expect(&h, "+OK commencez TLS");
    harness_start_tls(&h, NULL, 0);
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK now the password");
    expect(&h, "+OK logged in");
    expect_message(1, strlen(PLAIN BODY), PLAIN STUFFED);
    expect_quit(&h);
}

/* Name and secret as a client sends them, and as auth gets them; NULL: it is not asked. */
static const struct login {
    bool utf8;
    const char *user, *secret, *got_user, *got_secret;
} logins[] = {
    /* Names always; ASCII never, whatever is in it. */
    {false, "jose\xcc\x81", "secret", "jos\xc3\xa9", "secret"},
    {true, "jose\xcc\x81", "a\tb \x01", "jos\xc3\xa9", "a\tb \x01"},
    {false, "al\xc2\xadice", "secret", "alice", "secret"},
    {true, "alice", "I\xc2\xadX", "alice", "IX"},
    {true, "alice", "\xe2\x85\xa8", "alice", "IX"},
    {true, "alice",
     "a\xc2\xa0"
     "b",
     "alice", "a b"},
    /* Unassigned in Unicode 3.2, which is what a query may hold. */
    {true, "alice", "\xc8\xa1", "alice", "\xc8\xa1"},
    /* Passwords before UTF8, as they are. */
    {false, "alice", "gr\xfc\xdf", "alice", "gr\xfc\xdf"},
    {false, "alice", "\xc2\xb4\xe2\x85\xa8", "alice", "\xc2\xb4\xe2\x85\xa8"},
    /* Prohibited, malformed, of two directions, nothing left; what becomes unfit. */
    {false, "a\xee\x80\x80", "secret", NULL, NULL},
    {false, "\xc2\xad", "secret", NULL, NULL},
    {false,
     "a\xef\xbc\x8f"
     "b",
     "secret", NULL, NULL},
    {false, "\xef\xbc\x8e\xef\xbc\x8e", "secret", NULL, NULL},
    {false,
     "\xd8\xa7"
     "1",
     "secret", NULL, NULL},
    {true, "alice", "a\xee\x80\x80", NULL, NULL},
    {true, "alice", "gr\xfc\xdf", NULL, NULL},
    {true, "alice", "\xc1\x81", NULL, NULL},
    {true, "alice", "\xc3\xa9\x01", NULL, NULL},
    {true, "alice", "\xc2\xad", NULL, NULL},
};

static void test_logins(void **state)
{
    char line[300];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(logins); i++) {
        const struct login *l = &logins[i];
        harness_greeted(&h);
        if (l->utf8) {
            say(&h, "UTF8\r\n");
            expect(&h, "+OK");
        }
        snprintf(line, sizeof line, "USER %s\r\nPASS %s\r\n", l->user, l->secret);
        say(&h, line);
        expect(&h, l->got_user || strcmp(l->user, "alice") == 0 ? "+OK" : "");
        expect(&h, l->got_user ? "+OK logged in" : "-ERR [AUTH] this cannot be a ");
        assert_int_equal(h.auth.asked, l->got_user ? 1 : 0);
        if (l->got_user) {
            assert_string_equal(h.auth.user, l->got_user);
            assert_string_equal(h.auth.secret, l->got_secret);
        }
        expect_quit(&h);
    }
}

static void test_languages(void **state)
{
    (void)state;
    harness_greeted(&h);
    say(&h, "LANG\r\nLANG de\r\nLANG *\r\nLANG FR-ca\r\nLANG\r\nLANG de\r\n");
    expect(&h, "+OK languages follow\r\n");
    expect_lines(&h, "en English\r\nfr Fran\xc3\xa7"
                     "ais\r\n");
    expect(&h, "-ERR this language is not available here\r\n");
    expect(&h, "+OK en texts are in English\r\n");
    expect(&h, "+OK fr les textes sont en fran\xc3\xa7"
               "ais\r\n");
    expect(&h, "+OK voici les langues\r\n");
    expect_lines(&h, "en English\r\nfr Fran\xc3\xa7"
                     "ais\r\n");
    expect(&h, "-ERR cette langue n'est pas disponible ici\r\n");
    say(&h, "USER alice\r\nPASS secret\r\nSTAT x\r\nLIST\r\nLANG en\r\nNOOP\r\n");
    expect(&h, "+OK le mot de passe");
    expect(&h, "+OK vous \xc3\xaates connect\xc3\xa9\r\n");
    expect(&h, "-ERR arguments incorrects\r\n");
    expect(&h, "+OK 4 messages\r\n");
    free(hear_lines(&h, &(size_t){0}));
    expect(&h, "+OK en ");
    expect(&h, "+OK nothing done\r\n");
    expect_quit(&h);
}

/* The administrator's language, in ASCII until the client is known to read UTF-8. */
static void test_french_server(void **state)
{
    (void)state;
    harness_connect(&h, DOOR_POP3, "192.0.2.1");
    expect(&h, "+OK Poplar at mail.example.org pret\r\n");
    say(&h, "LANG\r\nLANG en\r\nUSER\r\nUTF8\r\nUSER alice\r\nPASS secret\r\n");
    expect(&h, "+OK voici les langues\r\n");
    expect_lines(&h, "fr Fran\xc3\xa7"
                     "ais\r\n");
    expect(&h, "-ERR cette langue");
    expect(&h, "-ERR arguments incorrects");
    expect(&h, "+OK UTF-8 est actif\r\n");
    expect(&h, "+OK le mot de passe, s'il vous pla\xc3\xaet\r\n");
    expect(&h, "+OK vous \xc3\xaates connect\xc3\xa9\r\n");
    expect_quit(&h);
}

/* ---- SASLprep by itself ---- */

/* Whether these octets are anywhere in this process's heap. */
static bool is_in_heap(const void *octets, size_t size)
{
    char line[200];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        if (strstr(line, "[heap]") && sscanf(line, "%lx-%lx", &from, &to) == 2)
            found |= memmem((const void *)from, to - from, octets, size) != NULL; // NOLINT
    }
    fclose(maps);
    return found;
}

/* libidn works on copies: none of them stays, as UTF-8 or as characters, short or long. */
static void test_leaves_nothing_behind(void **state)
{
    if (getenv("MEMCHECK") || getenv("SANITIZED")) /* the heap is theirs */
        skip();
    static char text[600], to[600];
    static uint32_t characters[4];
    size_t size;
    (void)state;
    for (size_t length = 8; length <= PROTO_PASSWORD_MAX; length += 41) {
        memset(text, 'x', length);
        memcpy(text, "\xc3\xa9", 2);
        for (size_t i = 2; i < length; i++)
            text[i] = (char)('a' + (i * 7 + length) % 26);
        for (size_t i = 0; i < 4; i++)
            characters[i] = (uint32_t)text[i + 3];
        assert_true(utf8_prepare(text, length, to, sizeof to, &size));
        assert_int_equal(size, length);
        assert_memory_equal(to, text, size);
        assert_false(is_in_heap(text + 3, 5));
        assert_false(is_in_heap(characters, sizeof characters));
    }
    /* And this search would find it. */
    char *copy = base_strdup(text + 3);
    assert_true(is_in_heap(text + 3, 5));
    explicit_bzero(copy, strlen(copy));
    free(copy);
}

static void test_room(void **state)
{
    char to[8];
    size_t size;
    (void)state;
    assert_true(utf8_prepare("\xc2\xbd", 2, to, 5, &size));
    assert_int_equal(size, 5);
    assert_memory_equal(to,
                        "1\xe2\x81\x84"
                        "2",
                        5);
    assert_false(utf8_prepare("\xc2\xbd", 2, to, 4, &size));
}

int main(void)
{
#define SESSION(name) cmocka_unit_test_teardown(name, abandon_session)
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(test_leaves_nothing_behind),
        cmocka_unit_test(test_room),
    };
    const struct CMUnitTest sessions[] = {
        SESSION(test_without_utf8), SESSION(test_with_utf8), SESSION(test_utf8_after_login),
        SESSION(test_stls_forgets), SESSION(test_logins),    SESSION(test_languages),
    };
    const struct CMUnitTest french[] = {SESSION(test_french_server)};
    int failed = cmocka_run_group_tests_name("utf8, alone", alone, NULL, NULL);
    failed += cmocka_run_group_tests_name("utf8, sessions", sessions, start, stop_harness);
    return failed + cmocka_run_group_tests_name("utf8, french", french, start_french, stop_harness);
}
