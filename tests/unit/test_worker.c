/*
 * test_worker.c - nursery and workers as processes: how they are made, confined and ended; what
 * they hold and what they forget; timeouts; who may log in without TLS.
 */
#include "one_harness.h"

#include <linux/sockios.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sysexits.h>
#include <time.h>

static const char *const in_the_clear[] = {"tls.required=no", NULL};
static const char *const impatient[] = {"tls.required=no", "session.login_timeout=3s",
                                        "session.idle_timeout=3s", NULL};
static const char *const on_loopback[] = {"tls.required=not-on-loopback", NULL};

/* A field of /proc/PID/status, without what surrounds it. */
static void status_field(pid_t pid, const char *field, char *value, size_t size)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    *value = '\0';
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0 && line[strlen(field)] == ':')
            base_copy(value, size, line + strlen(field) + 2);
    fclose(file);
    value[strcspn(value, "\n")] = '\0';
}

static void assert_status(pid_t pid, const char *field, const char *expected)
{
    char value[128];
    status_field(pid, field, value, sizeof value);
    if (strcmp(value, expected) != 0)
        fail_msg("%s: %s, not %s", field, value, expected);
}

/* Descriptors open in a process, as "0 1 2 3". */
static void open_descriptors(pid_t pid, char *list, size_t size)
{
    char path[64], target[256];
    *list = '\0';
    for (int fd = 0; fd < 64; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
        size_t used = strlen(list);
        if (readlink(path, target, sizeof target) > 0)
            snprintf(list + used, size - used, "%s%d", used ? " " : "", fd);
    }
}

static void test_confinement(void **state)
{
    char list[200];
    (void)state;
    if (geteuid() != 0)
        skip();
    harness_start(&h, in_the_clear);
    harness_greeted(&h);
    static const char *const capabilities[] = {"CapInh", "CapPrm", "CapEff", "CapAmb"};
    for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++) {
        assert_status(h.worker_pid, capabilities[i], "0000000000000000");
        assert_status(h.nursery_pid, capabilities[i], "0000000000000000");
    }
    assert_status(h.worker_pid, "Seccomp", "2");
    assert_status(h.nursery_pid, "Seccomp", "2");
    assert_status(h.worker_pid, "NoNewPrivs", "1");
    assert_status(h.nursery_pid, "NoNewPrivs", "1");
    assert_status(h.worker_pid, "Uid", "65534\t65534\t65534\t65534");
    assert_status(h.worker_pid, "Groups", " ");
    open_descriptors(h.worker_pid, list, sizeof list);
    assert_string_equal(list, "0 1 2 3 4");
    harness_log_in(&h);
    open_descriptors(h.worker_pid, list, sizeof list);
    assert_string_equal(list, "0 1 2 3 4 6 7 8 9");
    open_descriptors(h.nursery_pid, list, sizeof list);
    assert_string_equal(list, "0 1 2 3 7"); /* an empty maildrop, for rehearsals */
    expect_quit(&h);
}

/* Before auth has decided, the worker has no password any more. */
static const char *secret_sent;

static void nap_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void look_for_the_secret(struct harness *at)
{
    assert_true(process_forgets(at->worker_pid, secret_sent));
}

/* The name shows that the search works. The secret is long, so that no later reply of the worker
 * happens to fall on all of it. */
static void test_the_password_is_forgotten(void **state)
{
    static const char secret[] = "Kiebitz-und-Pappel-7341";
    char line[500], filler[400];
    (void)state;
    if (geteuid() != 0)
        skip();
    harness_start(&h, in_the_clear);
    for (int with_tls = 0; with_tls < 2; with_tls++) {
        harness_connect(&h, with_tls ? DOOR_POP3S : DOOR_POP3, "192.0.2.1");
        if (with_tls)
            harness_start_tls(&h, NULL, 0);
        expect(&h, "+OK");
        say(&h, "USER Zaunkoenig-5519\r\n");
        expect(&h, "+OK");
        assert_true(process_remembers(h.worker_pid, "Zaunkoenig-5519"));
        memset(filler, 'x', sizeof filler);
        filler[sizeof filler - 1] = '\0';
        snprintf(line, sizeof line, "PASS %s%s\r\n", filler, secret);
        secret_sent = secret;
        h.auth.while_deciding = look_for_the_secret;
        say(&h, line);
        expect(&h, "+OK");
        assert_non_null(strstr(h.auth.secret, secret));
        assert_false(process_remembers(h.worker_pid, secret));
        expect_quit(&h);
    }
}

static void test_ping(void **state)
{
    (void)state;
    harness_start(&h, in_the_clear);
    for (int i = 0; i < 3; i++) {
        message_begin(&h.m, PROTO_PING);
        harness_send(&h.nursery, &h.m);
        harness_receive(&h.nursery, &h.m, PROTO_PONG);
    }
}

static int wait_status(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void test_an_idle_worker_ends_with_its_channel(void **state)
{
    (void)state;
    harness_start(&h, in_the_clear);
    harness_make_worker(&h);
    channel_close(&h.worker);
    assert_int_equal(wait_status(h.worker_pid), 0);
}

static void test_a_record_out_of_order(void **state)
{
    (void)state;
    harness_start(&h, in_the_clear);
    harness_make_worker(&h);
    h.worker.state = STATE_LOGIN; /* the master is wrong about its worker */
    message_begin(&h.m, PROTO_SETTLED);
    message_put_u32(&h.m, 0);
    harness_send(&h.worker, &h.m);
    int status = wait_status(h.worker_pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == PROTO_EXIT_CONTRACT);
}

static void test_a_session_outlives_its_nursery(void **state)
{
    (void)state;
    harness_start(&h, in_the_clear);
    harness_deliver(&h, "Subject: x\r\n\r\n");
    harness_greeted(&h);
    kill(h.nursery_pid, SIGKILL);
    wait_status(h.nursery_pid);
    harness_log_in(&h);
    say(&h, "LIST\r\nDELE 1\r\nQUIT\r\n");
    expect(&h, "+OK 1 messages");
    expect_lines(&h, "1 14\r\n");
    expect(&h, "+OK");
    expect(&h, "+OK");
    expect_close(&h, END_QUIT);
    assert_int_equal(harness_count(&h), 0);
    channel_close(&h.nursery);
    test_drop_remove(&h.drop);
}

/* The master closes the channel, or is gone: the session ends without its deletions. */
static void test_the_master_ends_a_session(void **state)
{
    (void)state;
    harness_start(&h, in_the_clear);
    harness_deliver(&h, "Subject: x\r\n\r\n");
    harness_logged_in(&h);
    say(&h, "DELE 1\r\n");
    expect(&h, "+OK");
    channel_close(&h.worker);
    assert_int_equal(wait_status(h.worker_pid), 0);
    harness_hang_up(&h);
    assert_int_equal(harness_count(&h), 1);
}

/* Our end of the channel stays open, so it is not its end that tells the worker. */
static void test_workers_die_with_the_master(void **state)
{
    int ends[2];
    (void)state;
    assert_int_equal(channel_pair(ends, true), 0);
    pid_t master = fork();
    if (master == 0) {
        close(ends[0]);
        harness_start(&h, in_the_clear);
        test_drop_remove(&h.drop);
        message_begin(&h.m, PROTO_FORK);
        message_put_fd(&h.m, ends[1]);
        channel_send(&h.nursery, &h.m, true);
        close(ends[1]);
        pause();
    }
    close(ends[1]);
    channel_open(&h.worker, ends[0], ROLE_MASTER, ROLE_WORKER, STATE_STARTING);
    h.nursery.fd = -1;
    harness_receive(&h.worker, &h.m, PROTO_READY);
    kill(master, SIGKILL);
    wait_status(master);
    struct pollfd end = {.fd = h.worker.fd, .events = POLLIN};
    assert_int_equal(poll(&end, 1, HARNESS_PATIENCE_MS), 1);
    assert_int_equal(channel_receive(&h.worker, &h.m, false, NULL), CHANNEL_END);
}

/* kill -9: the lock is free at once, and nothing was deleted. */
static void test_a_killed_session_leaves_no_lock(void **state)
{
    int files[MAILDROP_FILES];
    (void)state;
    harness_start(&h, in_the_clear);
    harness_deliver(&h, "Subject: x\r\n\r\n");
    harness_logged_in(&h);
    say(&h, "DELE 1\r\n");
    expect(&h, "+OK");
    assert_false(harness_grant(&h, true, files));
    kill(h.worker_pid, SIGKILL);
    wait_status(h.worker_pid);
    assert_true(harness_grant(&h, true, files));
    test_drop_give_back(files);
    assert_int_equal(harness_count(&h), 1);
}

/* The time to log in is absolute: octets do not prolong it. */
static void test_login_timeout(void **state)
{
    uint64_t begun = base_now_ms();
    (void)state;
    harness_start(&h, impatient);
    harness_greeted(&h);
    struct pollfd answered = {.fd = h.client, .events = POLLIN};
    for (int i = 0; i < 200 && poll(&answered, 1, 200) == 0; i++)
        say(&h, "C");
    expect(&h, "-ERR logging in took too long");
    expect_close(&h, END_LOGIN_TIMEOUT);
    assert_true(base_now_ms() - begun >= 3000);
}

/* It is then the answer to PASS: without the code a client would take the password for wrong. */
static void test_login_timeout_during_a_login(void **state)
{
    (void)state;
    harness_start(&h, impatient);
    harness_greeted(&h);
    say(&h, "USER alice\r\n");
    expect(&h, "+OK");
    say(&h, "PASS secret\r\n");
    harness_receive(&h.worker, &h.m, PROTO_LOGIN_WANTED); /* and the master has no auth process */
    h.worker.state = STATE_LOGIN;
    expect(&h, "-ERR [SYS/TEMP] logging in took too long");
    expect_close(&h, END_LOGIN_TIMEOUT);
}

/* An auth process that told the master of a login and could not tell us: nobody says more, and
 * nobody waits for that until the time to log in is over. */
static void test_login_that_only_the_master_knows(void **state)
{
    (void)state;
    harness_start(&h, in_the_clear);
    harness_greeted(&h);
    h.auth.dies = h.auth.told = h.auth.traced = true;
    say(&h, "USER alice\r\nPASS secret\r\n");
    expect(&h, "+OK");
    expect(&h, "-ERR [SYS/TEMP] ");
    expect_close(&h, END_LOGIN_TIMEOUT);
    h.auth.dies = h.auth.told = h.auth.traced = false;
}

static void test_handshake_timeout(void **state)
{
    (void)state;
    harness_start(&h, impatient);
    harness_connect(&h, DOOR_POP3S, "192.0.2.1");
    say_octets(&h, "\x16\x03\x01", 3);
    expect_close(&h, END_LOGIN_TIMEOUT);
}

static void fill_with_noops(char *octets, size_t size)
{
    for (size_t i = 0; i < size; i++)
        octets[i] = "NOOP\r\n"[i % 6];
}

/* The time that a client needs to take its answers is none that it says nothing. */
static void test_idle_timeout(void **state)
{
    enum { NOOPS = 600, WHILE_MS = 1700 }; /* one read(2) of commands; two of these are too long */
    char noops[NOOPS * 6];
    (void)state;
    fill_with_noops(noops, sizeof noops);
    harness_start(&h, impatient);
    h.room = 4096;
    harness_deliver(&h, "Subject: x\r\n\r\n");
    harness_logged_in(&h);
    h.room = 0;
    say_octets(&h, noops, sizeof noops);
    nap_ms(WHILE_MS);
    for (int i = 0; i < NOOPS; i++)
        expect(&h, "+OK");
    nap_ms(WHILE_MS);
    say(&h, "DELE 1\r\n");
    expect(&h, "+OK");
    expect_close(&h, END_IDLE);
    assert_int_equal(harness_count(&h), 1);
}

static void await_taken(int fd)
{
    int left = 1;
    while (ioctl(fd, SIOCOUTQ, &left) == 0 && left > 0)
        nap_ms(1);
}

/* Asked to end while the client still takes an answer: that was the last. */
static void test_order_to_finish_behind_an_answer(void **state)
{
    enum { NOOPS = 600 };
    char noops[NOOPS * 6];
    (void)state;
    fill_with_noops(noops, sizeof noops);
    harness_start(&h, in_the_clear);
    h.room = 4096;
    harness_logged_in(&h);
    h.room = 0;
    say_octets(&h, noops, sizeof noops);
    await_taken(h.client);
    message_begin(&h.m, PROTO_FINISH);
    message_put_u32(&h.m, END_TAKEOVER);
    harness_send(&h.worker, &h.m);
    await_taken(h.worker.fd);
    for (int i = 0; i < NOOPS; i++)
        expect(&h, "+OK");
    expect_close(&h, END_TAKEOVER);
}

/* Commands without end from a client that never reads: bounded memory, a deadline. */
static void test_a_client_that_never_reads(void **state)
{
    char noops[6000];
    (void)state;
    fill_with_noops(noops, sizeof noops);
    harness_start(&h, impatient);
    harness_logged_in(&h);
    uint64_t until = base_now_ms() + HARNESS_PATIENCE_MS;
    while (!h.summary.given && base_now_ms() < until) {
        if (write(h.client, noops, sizeof noops) < 0)
            nap_ms(20);
        played_master(&h);
    }
    assert_true(h.summary.given);
    expect_end(&h, END_WRITE_TIMEOUT);
}

static void test_without_a_certificate(void **state)
{
    (void)state;
    harness_start_clear(&h, in_the_clear);
    harness_greeted(&h);
    say(&h, "CAPA\r\nSTLS\r\n");
    expect(&h, "+OK");
    expect_lines(&h, CAPABILITIES("USER\r\nSASL PLAIN LOGIN\r\n"));
    expect(&h, "-ERR TLS is not available here");
    expect_quit(&h);
    harness_connect(&h, DOOR_POP3S, "192.0.2.1");
    expect_close(&h, END_TLS);
}

static void test_loopback_needs_no_tls(void **state)
{
    static const struct {
        const char *peer;
        bool free;
    } peers[] = {
        {"127.0.0.1", true},    {"127.0.0.1:4711", true},     {"127.9.9.9", true},
        {"::1", true},          {"[::1]:4711", true},         {"192.0.2.1", false},
        {"1.27.0.1", false},    {"128.0.0.1:127", false},     {"::127.0.0.1", false},
        {"2001:db8::1", false}, {"[2001:db8::1]:995", false}, {"::12", false},
    };
    (void)state;
    harness_start(&h, on_loopback);
    for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
        harness_connect(&h, DOOR_POP3, peers[i].peer);
        expect(&h, "+OK");
        say(&h, "USER alice\r\nQUIT\r\n");
        expect(&h, peers[i].free ? "+OK now the password" : "-ERR [AUTH] ");
        expect(&h, "+OK goodbye");
        expect_close(&h, END_QUIT);
    }
}

/* Without root: everything that needs none, and one line about the rest. */
static void test_without_root(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    harness_as_nobody = true;
    harness_log[0] = '\0';
    harness_start(&h, in_the_clear);
    harness_as_nobody = false;
    assert_non_null(strstr(harness_log, "workers run without: a user of their own"));
    harness_deliver(&h, "Subject: x\r\n\r\n");
    harness_logged_in(&h);
    assert_status(h.worker_pid, "Seccomp", "2");
    assert_status(h.worker_pid, "NoNewPrivs", "1");
    say(&h, "RETR 1\r\nQUIT\r\n");
    expect(&h, "+OK 14 octets");
    expect_lines(&h, "Subject: x\r\n\r\n");
    expect(&h, "+OK");
    expect_close(&h, END_QUIT);
}

/* A fork that fails is the master's to know, with the reason; the nursery goes on. */
static void test_a_fork_that_fails(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    harness_as_nobody = harness_barren = true;
    harness_start(&h, in_the_clear);
    harness_as_nobody = harness_barren = false;
    for (int i = 0; i < 2; i++) {
        harness_order_worker(&h);
        harness_receive(&h.nursery, &h.m, PROTO_FORK_FAILED);
        assert_int_equal(message_get_u32(&h.m), EAGAIN);
        assert_int_equal(channel_receive(&h.worker, &h.m, true, NULL), CHANNEL_END);
        channel_close(&h.worker);
    }
}

/* What makes a nursery give up is one line for the log and a status. */
static void test_a_nursery_that_cannot_start(void **state)
{
    static const char *const no_user[] = {"tls.required=no", "server.worker_user=no-such-user",
                                          NULL};
    (void)state;
    if (geteuid() != 0)
        skip();
    harness_begin(&h, no_user);
    harness_send_start(&h);
    assert_int_equal(channel_receive(&h.nursery, &h.m, true, NULL), CHANNEL_OK);
    assert_int_equal(h.m.rule->type, PROTO_LOG);
    message_get_u32(&h.m);
    assert_true(message_get_text(&h.m, harness_log, sizeof harness_log));
    assert_non_null(strstr(harness_log, "test: [server] worker_user=no-such-user: "));
    int status = wait_status(h.nursery_pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == EX_CONFIG);
    channel_close(&h.nursery);
    test_drop_remove(&h.drop);
}

int main(void)
{
#define PROCESS(name) cmocka_unit_test_teardown(name, stop_harness)
    const struct CMUnitTest tests[] = {
        PROCESS(test_confinement),
        PROCESS(test_the_password_is_forgotten),
        PROCESS(test_ping),
        PROCESS(test_an_idle_worker_ends_with_its_channel),
        PROCESS(test_a_record_out_of_order),
        PROCESS(test_a_session_outlives_its_nursery),
        PROCESS(test_the_master_ends_a_session),
        PROCESS(test_workers_die_with_the_master),
        PROCESS(test_a_killed_session_leaves_no_lock),
        PROCESS(test_login_timeout),
        PROCESS(test_login_timeout_during_a_login),
        PROCESS(test_login_that_only_the_master_knows),
        PROCESS(test_handshake_timeout),
        PROCESS(test_idle_timeout),
        PROCESS(test_order_to_finish_behind_an_answer),
        PROCESS(test_a_client_that_never_reads),
        PROCESS(test_without_a_certificate),
        PROCESS(test_loopback_needs_no_tls),
        PROCESS(test_without_root),
        PROCESS(test_a_fork_that_fails),
        PROCESS(test_a_nursery_that_cannot_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
