/*
 * test_session.c - what a session keeps over its end, and what the administrator makes it do: LAST,
 * LOGIN-DELAY, EXPIRE, NULs. Against a real worker in its sandbox.
 */
#include "one_harness.h"

#include "store/schema.h"

#include <time.h>

#define DAY 86400

static void start(const char *setting)
{
    harness_start(&h, (const char *[]){"tls.required=no", setting, NULL});
}

/* Say a command, hear its answer, and what follows if it is more than one line. */
static void run(const char *command, const char *answer, bool lines)
{
    say(&h, command);
    say(&h, "\r\n");
    expect(&h, answer);
    if (lines)
        free(hear_lines(&h, &(size_t){0}));
}

static void deliver(const char *text, int64_t received)
{
    harness_deliver_as(&h, &(struct maildrop_delivery){.received = received}, text, strlen(text));
}

/* RFC 1460: the highest number, not the latest; RSET undoes what this session did to it. */
static void test_last(void **state)
{
    (void)state;
    start("session.last=yes");
    for (int i = 0; i < 4; i++)
        harness_deliver(&h, "Subject: x\r\n\r\n");
    harness_greeted(&h);
    run("LAST", "-ERR log in first", false);
    harness_log_in(&h);
    run("LAST", "+OK 0\r\n", false);
    run("RETR 3", "+OK", true);
    run("LAST", "+OK 3\r\n", false);
    run("RETR 2", "+OK", true);
    run("TOP 4 0", "+OK", true);
    run("LIST", "+OK", true);
    run("DELE 2", "+OK", false);
    run("LAST", "+OK 3\r\n", false);
    expect_quit(&h);
    /* Two is gone, so three is two. */
    harness_logged_in(&h);
    run("LAST", "+OK 2\r\n", false);
    run("RETR 3", "+OK", true);
    run("LAST", "+OK 3\r\n", false);
    run("RSET", "+OK", false);
    run("LAST", "+OK 2\r\n", false);
    expect_quit(&h);
    harness_logged_in(&h);
    run("LAST", "+OK 2\r\n", false);
    run("RETR 3", "+OK", true);
    expect_end(&h, END_DISCONNECT);
    harness_logged_in(&h);
    run("LAST", "+OK 2\r\n", false);
    run("RETR 3", "+OK", true);
    run("DELE 3", "+OK", false);
    run("LAST", "+OK 3\r\n", false);
    expect_quit(&h);
    harness_logged_in(&h);
    run("LAST", "+OK 2\r\n", false);
    expect_capability(&h, "\r\nLAST\r\n", false);
    expect_quit(&h);
}

static void test_no_last(void **state)
{
    (void)state;
    start("session.last=no");
    harness_logged_in(&h);
    run("LAST", "-ERR unknown command\r\n", false);
    expect_quit(&h);
}

static void test_login_delay(void **state)
{
    (void)state;
    start("session.login_delay=1000s");
    harness_greeted(&h);
    expect_capability(&h, "\r\nLOGIN-DELAY 1000\r\n", true);
    h.auth.verdict = LOGIN_DENIED;
    say(&h, "USER alice\r\nPASS wrong\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [AUTH]");
    h.auth.verdict = LOGIN_OK;
    harness_log_in(&h);
    expect_capability(&h, "\r\nLOGIN-DELAY 1000\r\n", true);
    expect_quit(&h);
    for (int i = 0; i < 2; i++) {
        harness_greeted(&h);
        say(&h, "USER alice\r\nPASS secret\r\nSTAT\r\n");
        expect(&h, "+OK");
        expect(&h, "-ERR [LOGIN-DELAY] ");
        expect_close(&h, END_LOGIN_DELAY);
    }
    harness_sql(&h, "UPDATE state SET login = login - 1000");
    harness_logged_in(&h);
    expect_quit(&h);
}

static void test_no_login_delay(void **state)
{
    (void)state;
    start("session.login_delay=0");
    harness_logged_in(&h);
    expect_capability(&h, "LOGIN-DELAY", false);
    expect_capability(&h, "\r\nEXPIRE NEVER\r\n", true);
    expect_quit(&h);
    harness_logged_in(&h);
    expect_quit(&h);
}

/* Gone before anything is told, and marked as deleted: it can be restored. */
static void test_expire(void **state)
{
    const int64_t now = (int64_t)time(NULL);
    (void)state;
    start("store.expire_after=60h");
    deliver("Subject: old\r\n\r\n", now - 3 * DAY);
    deliver("Subject: new\r\n\r\n", now - 2 * DAY);
    deliver("Subject: older\r\n\r\n", now - 9 * DAY);
    harness_greeted(&h);
    expect_capability(&h, "\r\nEXPIRE 2\r\n", true);
    harness_log_in(&h);
    run("STAT", "+OK 1 16\r\n", false);
    run("RETR 1", "+OK 16 octets", true);
    run("RETR 2", "-ERR no such message", false);
    expect_capability(&h, "\r\nEXPIRE 2\r\n", true);
    expect_quit(&h);
    assert_int_equal(h.summary.deleted, 0);
    assert_int_equal(harness_count(&h), 1);
    harness_sql(&h, "UPDATE message SET deleted = 7 / (deleted > 1000000) WHERE deleted NOT NULL");
}

static void expect_damage_at_login(void)
{
    harness_greeted(&h);
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/PERM] ");
    expect_close(&h, END_STORE);
    assert_true(strlen(h.summary.detail) > 0);
}

/* What is damaged is said before anything else is. */
static void test_damage_at_login(void **state)
{
    (void)state;
    start("store.expire_after=60h");
    deliver("Subject: old\r\n\r\n", (int64_t)time(NULL) - 3 * DAY);
    harness_sql(&h, "PRAGMA ignore_check_constraints = ON; UPDATE message SET size = 'x'");
    expect_damage_at_login();
    assert_non_null(strstr(h.summary.detail, "has no size"));
    harness_sql(&h, "PRAGMA ignore_check_constraints = ON;"
                    "INSERT INTO setting(name, value) VALUES('pop3', 'x')");
    expect_damage_at_login();
    assert_non_null(strstr(h.summary.detail, "setting pop3 is no number"));
}

/* The totals are what STAT tells, and the rows what LIST tells: if they differ, the first that
 * needs both says so. */
static void test_totals_of_other_rows(void **state)
{
    struct maildrop_totals totals;
    char sql[300];
    (void)state;
    start(NULL);
    deliver("Subject: one\r\n\r\n", 0);
    struct maildrop *m = test_drop_open(&h.drop);
    const struct maildrop_totals sound = test_totals(m);
    maildrop_close(m);
    for (int i = 0; i < 3; i++) {
        totals = sound;
        ++*(uint64_t *[]){&totals.messages, &totals.octets, &totals.plain_octets}[i];
        snprintf(sql, sizeof sql,
                 "PRAGMA ignore_check_constraints = ON;"
                 "UPDATE state SET messages = %d, octets = %d, plain_octets = %d, guard = %lld",
                 (int)totals.messages, (int)totals.octets, (int)totals.plain_octets,
                 (long long)schema_guard(&totals));
        harness_sql(&h, sql);
        harness_logged_in(&h);
        run("STAT", "+OK ", false);
        say(&h, "LIST\r\n");
        expect(&h, "-ERR [SYS/PERM] ");
        expect_close(&h, END_STORE);
    }
}

#define NULS "Subject: a\0b\r\n\r\n\0\0c\0\r\n.\0\r\n"

static void retrieve_nuls(const char *stuffed, size_t size)
{
    char got[200];
    size_t length = 0;
    harness_deliver_octets(&h, NULS, sizeof NULS - 1);
    harness_logged_in(&h);
    for (int i = 0; i < 2; i++) {
        say(&h, i == 0 ? "RETR 1\r\n" : "TOP 1 99\r\n");
        expect(&h, i == 0 ? "+OK 26 octets" : "+OK");
        while (h.held < size)
            harness_take(&h);
        length = h.held < sizeof got ? h.held : sizeof got;
        memcpy(got, h.input, length);
        h.held = 0;
        assert_int_equal(length, size);
        assert_memory_equal(got, stuffed, size);
    }
    expect_quit(&h);
}

static void test_nuls_pass(void **state)
{
    static const char stuffed[] = "Subject: a\0b\r\n\r\n\0\0c\0\r\n..\0\r\n.\r\n";
    (void)state;
    start("session.nul=pass");
    retrieve_nuls(stuffed, sizeof stuffed - 1);
}

/* The size that was told stays. */
static void test_nuls_replaced(void **state)
{
    static const char stuffed[] = "Subject: a?b\r\n\r\n??c?\r\n..?\r\n.\r\n";
    (void)state;
    start("session.nul=replace");
    retrieve_nuls(stuffed, sizeof stuffed - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_last, stop_harness),
        cmocka_unit_test_teardown(test_no_last, stop_harness),
        cmocka_unit_test_teardown(test_login_delay, stop_harness),
        cmocka_unit_test_teardown(test_no_login_delay, stop_harness),
        cmocka_unit_test_teardown(test_expire, stop_harness),
        cmocka_unit_test_teardown(test_damage_at_login, stop_harness),
        cmocka_unit_test_teardown(test_totals_of_other_rows, stop_harness),
        cmocka_unit_test_teardown(test_nuls_pass, stop_harness),
        cmocka_unit_test_teardown(test_nuls_replaced, stop_harness),
    };
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
