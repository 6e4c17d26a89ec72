/*
 * test_calls_session.c - each call of a worker's session fails at each of its places in turn: of
 * POP3 sessions and of a delivery, whole, in this process. The session may end, but in order, and
 * nothing is lost or done without a word; what was said to the client is true.
 */
#include "daemon/base.h"
#include "store/maildrop.h"
#include "tests/calls/calls.h"
#include "tests/support/inside.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { DONE_WRONG = 11, MESSAGES = 3 };

static const struct inside_world *world;
static const char *said;
static struct inside_result result;

static int count_messages(uint64_t *n)
{
    int files[MAILDROP_FILES];
    char path[200];
    struct maildrop *maildrop = NULL;
    struct maildrop_totals totals;
    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", inside_folder(), maildrop_file_names[i]);
        files[i] = open(path, O_RDWR | O_CLOEXEC);
    }
    bool good = maildrop_open(files, &maildrop) == STORE_OK &&
                maildrop_totals(maildrop, &totals) == STORE_OK;
    if (good)
        *n = totals.messages;
    maildrop_close(maildrop);
    return good;
}

static int wrong(const char *what)
{
    fprintf(stderr, "%s; end %u, said: %s\n", what, result.end, result.output);
    return DONE_WRONG;
}

static const char *last_line(void)
{
    const char *at = result.output + strlen(result.output);
    if (at > result.output)
        at--;
    while (at > result.output && at[-1] != '\n')
        at--;
    return at;
}

static int serve(void)
{
    uint64_t n = 0;
    calls_hold(true);
    inside_restore();
    inside_acts = calls_hold;
    inside_serve(world, said, strlen(said), &result);
    calls_hold(true);
    calls_mend();
    if (!count_messages(&n))
        return wrong("the maildrop opens no more");
    if (world->door == DOOR_LMTP) {
        bool taken = strstr(result.output, "\r\n250 2.0.0 ") != NULL;
        return n == MESSAGES + 1 || (n == MESSAGES && !taken) ? 0 : wrong("mail is missing");
    }
    bool acknowledged = result.end == END_QUIT && strncmp(last_line(), "+OK", 3) == 0;
    uint64_t expected = MESSAGES - (acknowledged ? result.deleted : 0);
    if (n != expected)
        return wrong("other messages are there than the client knows of");
    return 0;
}

/* What has no memory for its end may die of it with a line; nothing else may. */
static void is_orderly(const char *what, const struct calls_end *end)
{
    if (!WIFEXITED(end->status) || WEXITSTATUS(end->status) == DONE_WRONG)
        fail_msg("%s: wait status %x: %s", what, (unsigned)end->status, end->said);
}

static void walk(const struct inside_world *in, const char *octets, unsigned least)
{
    world = in;
    said = octets;
    unsigned failed = calls_walk(serve, is_orderly);
    print_message("%u calls failed\n", failed);
    assert_true(failed >= least);
}

static void test_pop3(void **state)
{
    static const struct inside_world in = {.door = DOOR_POP3, .peer = "192.0.2.1:1024"};
    (void)state;
    walk(&in,
         "CAPA\r\nUSER alice\r\nPASS secret\r\nSTAT\r\nLIST\r\nUIDL\r\nTOP 1 3\r\nRETR 2\r\n"
         "DELE 1\r\nRSET\r\nDELE 3\r\nQUIT\r\n",
         30);
}

static void test_failed_login(void **state)
{
    static const struct inside_world in = {
        .door = DOOR_POP3, .peer = "192.0.2.1:1024", .verdict = LOGIN_DENIED, .last = 2};
    (void)state;
    walk(&in, "USER alice\r\nPASS wrong\r\nUSER alice\r\nPASS wrong\r\nQUIT\r\n", 10);
}

static void test_behind_a_proxy(void **state)
{
    static const struct inside_world in = {
        .door = DOOR_POP3, .peer = "192.0.2.1:1024", .proxied = true};
    (void)state;
    walk(&in,
         "PROXY TCP4 198.51.100.7 192.0.2.1 40000 110\r\nCAPA\r\nUSER alice\r\nPASS "
         "secret\r\nQUIT\r\n",
         10);
}

static void test_lmtp(void **state)
{
    static const struct inside_world in = {.door = DOOR_LMTP, .peer = "unix:0"};
    (void)state;
    walk(&in,
         "LHLO example.org\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<alice>\r\nDATA\r\n"
         "Subject: four\r\n\r\nbody\r\n.\r\nQUIT\r\n",
         20);
}

static int enter(void **state)
{
    (void)state;
    inside_begin((const char *[]){"tls.required=no", "store.undelete_for=0", NULL});
    inside_deliver("Subject: one\r\n\r\nbody\r\n", 22);
    inside_deliver("two\r\n", 5);
    inside_deliver("three\r\n", 7);
    inside_keep();
    return 0;
}

static int leave(void **state)
{
    (void)state;
    inside_finish();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pop3),
        cmocka_unit_test(test_failed_login),
        cmocka_unit_test(test_behind_a_proxy),
        cmocka_unit_test(test_lmtp),
    };
    alarm(300); /* what waits for ever is no test */
    return cmocka_run_group_tests(tests, enter, leave);
}
