/*
 * test_calls_session.c - each call of a worker's session fails at each of its places in turn: of
 * POP3 sessions and of a delivery, whole, in this process. The session may end, but in order, and
 * nothing is lost or done without a word; what was said to the client is true.
 */
#include "daemon/base.h"
#include "store/maildrop.h"
#include "tests/calls/calls.h"
#include "tests/support/inside.h"
#include "worker/exchange.h"
#include "worker/session.h"

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

enum { MESSAGES = 3 };

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
    return CALLS_DONE_WRONG;
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
    bool acknowledged = result.end == END_QUIT && strncmp(inside_last_line(&result), "+OK", 3) == 0;
    uint64_t expected = MESSAGES - (acknowledged ? result.deleted : 0);
    if (n != expected)
        return wrong("other messages are there than the client knows of");
    return 0;
}

/* What has no memory for its end may die of it with a line; nothing else may. */
static void is_orderly(const char *what, const struct calls_end *end)
{
    if (!WIFEXITED(end->status) || WEXITSTATUS(end->status) == CALLS_DONE_WRONG)
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

/* What only a master or an auth process that is taken over, or another version, would say. */

static struct session *session;
static struct channel master, auth;
static struct message m;

static void begin(unsigned state)
{
    int ends[2];
    session = calloc(1, sizeof *session);
    session->config = config_new();
    session->stream.fd = -1;
    assert_int_equal(channel_pair(ends, true), 0);
    channel_open(&master, ends[0], ROLE_MASTER, ROLE_WORKER, state);
    channel_open(&session->control, ends[1], ROLE_WORKER, ROLE_MASTER, state);
}

static void finish(void)
{
    channel_close(&master);
    channel_close(&session->control);
    config_free((struct config *)(uintptr_t)session->config);
    free(session);
}

static void say_number(enum proto_type type, uint32_t number)
{
    message_begin(&m, type);
    message_put_u32(&m, number);
    assert_int_equal(channel_send(&master, &m, true), CHANNEL_OK);
}

static void test_orders(void **state)
{
    (void)state;
    begin(STATE_LOGIN);
    assert_true(session_hear_master(session)); /* nothing */
    say_number(PROTO_SETTLED, 0);              /* nobody asked */
    assert_false(session_hear_master(session));
    assert_int_equal(session->end, END_SHUTDOWN);
    assert_non_null(strstr(session->detail, "not what may be said now"));
    session_trace(session, "NOOP"); /* to nobody */
    finish();

    begin(STATE_MAIL);
    say_number(PROTO_TRACE, 1);
    say_number(PROTO_FINISH, END_KICKED);
    assert_true(session_hear_master(session));
    assert_true(session->stream.tracing);
    assert_true(session_hear_master(session));
    assert_int_equal(session->finishing, END_KICKED);
    assert_int_equal(write(master.fd, "\xff", 1), 1);
    assert_false(session_hear_master(session));
    assert_non_null(strstr(session->detail, "of no known type"));
    finish();
}

static void test_answers(void **state)
{
    struct channel exchange;
    uint32_t refusal = 0;
    (void)state;
    begin(STATE_MAIL);
    say_number(PROTO_TRACE, 1); /* between */
    say_number(PROTO_LOGIN_REFUSED, REFUSED_BUSY);
    assert_int_equal(exchange_take(session, &exchange, &refusal), ATTEMPT_REFUSED);
    assert_int_equal(refusal, REFUSED_BUSY);
    assert_int_equal(write(master.fd, "\xff", 1), 1);
    assert_int_equal(exchange_take(session, &exchange, &refusal), ATTEMPT_LOST);
    assert_int_equal(session->end, END_SHUTDOWN);
    finish();

    begin(STATE_LOGIN);
    say_number(PROTO_SETTLED, 1);
    assert_int_equal(exchange_take(session, &exchange, &refusal), ATTEMPT_LOST);
    assert_non_null(strstr(session->detail, "not the answer to what was asked"));
    finish();

    begin(STATE_LOGIN); /* nobody answers, and the time to log in is over */
    session->stream.deadline = base_now_ms() - 1;
    assert_int_equal(exchange_take(session, &exchange, &refusal), ATTEMPT_LOST);
    assert_int_equal(session->end, END_LOGIN_TIMEOUT);
    finish();
}

static void verdict(uint32_t outcome, const char *user)
{
    message_begin(&m, PROTO_VERDICT);
    message_put_u32(&m, outcome);
    message_put_text(&m, user);
    assert_int_equal(channel_send(&auth, &m, true), CHANNEL_OK);
}

static uint32_t hear_verdict(struct channel *exchange, enum exchange_files expected)
{
    char user[PROTO_USER_MAX + 1];
    int files[MAILDROP_FILES];
    uint32_t outcome = exchange_verdict(session, exchange, expected, user, NULL, files);
    channel_close(&auth);
    return outcome;
}

static void open_exchange(struct channel *exchange)
{
    int ends[2];
    assert_int_equal(channel_pair(ends, false), 0);
    channel_open(&auth, ends[0], ROLE_AUTH, ROLE_WORKER, STATE_EXCHANGE);
    channel_open(exchange, ends[1], ROLE_WORKER, ROLE_AUTH, STATE_EXCHANGE);
}

/* No "yes" but a whole one. */
static void test_verdicts(void **state)
{
    static char long_name[PROTO_USER_MAX + 2];
    struct channel exchange;
    (void)state;
    memset(long_name, 'x', sizeof long_name - 1);
    begin(STATE_LOGIN);
    open_exchange(&exchange);
    verdict(LOGIN_OUTCOMES, "alice");
    assert_int_equal(hear_verdict(&exchange, FILES_NONE), LOGIN_UNAVAILABLE);
    open_exchange(&exchange);
    verdict(LOGIN_OK, long_name);
    assert_int_equal(hear_verdict(&exchange, FILES_NONE), LOGIN_UNAVAILABLE);
    open_exchange(&exchange);
    verdict(LOGIN_OK, "alice"); /* without files */
    assert_int_equal(hear_verdict(&exchange, FILES_COME), LOGIN_UNAVAILABLE);
    open_exchange(&exchange);
    message_begin(&m, PROTO_VERDICT); /* files that nobody asked for */
    message_put_u32(&m, LOGIN_OK);
    message_put_text(&m, "alice");
    for (int i = 0; i < MAILDROP_FILES; i++)
        message_put_fd(&m, STDERR_FILENO);
    assert_int_equal(channel_send(&auth, &m, true), CHANNEL_OK);
    const unsigned before = calls_descriptors();
    assert_int_equal(hear_verdict(&exchange, FILES_NONE), LOGIN_UNAVAILABLE);
    assert_int_equal(calls_descriptors(), before - 2);
    open_exchange(&exchange);
    verdict(LOGIN_OK, "alice");
    assert_int_equal(hear_verdict(&exchange, FILES_NONE), LOGIN_OK);
    finish();
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pop3),           cmocka_unit_test(test_failed_login),
        cmocka_unit_test(test_behind_a_proxy), cmocka_unit_test(test_lmtp),
        cmocka_unit_test(test_orders),         cmocka_unit_test(test_answers),
        cmocka_unit_test(test_verdicts),
    };
    alarm(1200); /* what waits for ever is no test */
    return cmocka_run_group_tests(tests, enter, inside_leave);
}
