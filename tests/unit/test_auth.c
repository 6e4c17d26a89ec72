/*
 * test_auth.c - poplar-auth's service whole, in a child: this program is its master and its
 * worker. Which records go where, what a bad worker gets, and what is left after a bad module.
 */
#include "auth/selfcheck.h"
#include "auth/service.h"
#include "between.h"
#include "tests/support/place.h"
#include "tests/support/remembers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include <cmocka.h>

static char module[4096]; /* pam_poplar_test.so, built beside this program */
static struct config *config;

/* The auth process of the test that runs, and our ends. */
static pid_t auth_pid;
static struct channel master, worker;
static struct message message;
static char logged[1200]; /* the last PROTO_LOG */

static void stack(const char *format, ...) PRINTF(1, 2);

/* The modules of service "poplar": "~" is our own. */
static void stack(const char *format, ...)
{
    char line[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    FILE *file = fopen(in_place("pam/poplar"), "we");
    assert_non_null(file);
    bool own = line[0] == '~';
    for (const char *const *phase = (const char *const[]){"auth", "account", "session", NULL};
         *phase; phase++)
        fprintf(file, "%s required %s%s\n", *phase, own ? module : "", line + own);
    assert_int_equal(fclose(file), 0);
}

static int set_up_group(void **state)
{
    (void)state;
    if (!place_make("/tmp", 0755) || mkdir(in_place("pam"), 0755) < 0)
        return -1;
    base_copy(module, sizeof module, beside_program("pam_poplar_test.so"));
    return access(module, R_OK);
}

/* "daemon" is an account with a small uid wherever Unix is. */
static int set_up(void **state)
{
    (void)state;
    const struct passwd *store = geteuid() == 0 ? getpwnam("mail") : getpwuid(geteuid());
    config = config_new();
    must_set(config, "auth", "", "pam_confdir", in_place("pam"));
    must_set(config, "auth", "", "first_uid", "1");
    must_set(config, "server", "", "state_dir", in_place("state"));
    must_set(config, "server", "", "store_user", store->pw_name);
    must_set(config, "server", "", "log_level", "debug");
    stack("pam_permit.so");
    logged[0] = '\0';
    auth_pid = -1;
    master.fd = worker.fd = -1;
    if (mkdir(in_place("state"), 0700) < 0)
        return -1;
    return geteuid() == 0 ? chown(in_place("state"), store->pw_uid, store->pw_gid) : 0;
}

static int tear_down(void **state)
{
    (void)state;
    channel_close(&master);
    channel_close(&worker);
    if (auth_pid > 0) {
        kill(auth_pid, SIGKILL);
        waitpid(auth_pid, NULL, 0);
    }
    config_free(config);
    return remove_tree(in_place("state"));
}

_Noreturn static void run_auth(int control)
{
    static struct child child;
    char error[512];
    pid_t parent = getppid();
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(control, PROTO_FD_CONTROL);
    signal(SIGSEGV, SIG_DFL); /* cmocka's */
    syscall(SYS_close_range, 4, ~0U, 0);
    service_harden(parent);
    umask(077);
    child = (struct child){.config = config};
    channel_open(&child.control, PROTO_FD_CONTROL, ROLE_AUTH, ROLE_MASTER, STATE_IDLE);
    const struct grant_root *root = grant_root_open(config, error, sizeof error);
    if (!root)
        fatal(99, "%s", error);
    service_run(&child, root, parent);
}

static void start(void)
{
    int ends[2];
    assert_return_code(channel_pair(ends, true), errno);
    auth_pid = fork();
    if (auth_pid == 0) {
        close(ends[0]);
        run_auth(ends[1]);
    }
    close(ends[1]);
    channel_open(&master, ends[0], ROLE_MASTER, ROLE_AUTH, STATE_IDLE);
}

/* Of an LMTP client, by the kernel's word. */
static uid_t peer_uid;

/* What the master says was denied last, and what auth said of the last that was. */
static uint64_t denied, digest;

static void serve(enum proto_service service, const char *user)
{
    int ends[2];
    assert_return_code(channel_pair(ends, false), errno);
    channel_open(&worker, ends[1], ROLE_WORKER, ROLE_AUTH, STATE_EXCHANGE);
    message_begin(&message, PROTO_SERVE);
    message_put_u64(&message, 4711);
    message_put_u32(&message, service);
    message_put_text(&message, user);
    message_put_text(&message, "192.0.2.7");
    message_put_u32(&message, peer_uid);
    message_put_u64(&message, denied);
    message_put_fd(&message, ends[0]);
    assert_int_equal(channel_send(&master, &message, true), CHANNEL_OK);
    close(ends[0]);
    master.state = STATE_BUSY;
}

static void begin(const char *mechanism, const char *user, const char *secret, size_t size)
{
    message_begin(&message, PROTO_BEGIN);
    message_put_text(&message, mechanism);
    message_put_text(&message, user);
    message_put_octets(&message, secret, size);
    assert_int_equal(channel_send(&worker, &message, true), CHANNEL_OK);
}

static void ask(const char *user, const char *secret)
{
    serve(SERVE_LOGIN, "");
    begin("PASS", user, secret, strlen(secret));
}

/* The next record from auth to the master that is not for the log. */
static enum channel_outcome next(void)
{
    for (;;) {
        enum channel_outcome got = channel_receive(&master, &message, true, NULL);
        if (got != CHANNEL_OK || message.rule->type != PROTO_LOG)
            return got;
        message_get_u32(&message);
        assert_true(message_get_text(&message, logged, sizeof logged));
    }
}

/* Whether a spool file comes along, and it. */
static bool expected_spool;
static int spool;

/* What the worker was told, and that the master was told the same before. Files that were granted
 * are the caller's, unless NULL. */
static void expect_files(enum login_outcome outcome, const char *user, bool expected, int *files)
{
    char told[PROTO_USER_MAX + 1];
    assert_int_equal(channel_receive(&worker, &message, true, NULL), CHANNEL_OK);
    assert_int_equal(message.rule->type, PROTO_VERDICT);
    assert_int_equal(message.n_fds, (expected ? MAILDROP_FILES : 0) + expected_spool);
    if (expected_spool)
        spool = message_take_fd(&message);
    for (unsigned i = 0; files && i < MAILDROP_FILES; i++)
        files[i] = message_take_fd(&message);
    uint32_t got = message_get_u32(&message);
    if (got != outcome) {
        next();
        fail_msg("outcome %s, not %s; logged: %s", proto_outcome_name(got),
                 proto_outcome_name(outcome), logged);
    }
    assert_true(message_get_text(&message, told, sizeof told));
    assert_string_equal(told, outcome == LOGIN_OK ? user : "");
    message_clear(&message);
    assert_int_equal(channel_receive(&worker, &message, true, NULL), CHANNEL_END);
    channel_close(&worker);

    struct pollfd poller = {.fd = master.fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, 0), 1);
    assert_int_equal(next(), CHANNEL_OK);
    assert_int_equal(message.rule->type, PROTO_OUTCOME);
    assert_int_equal(message_get_u64(&message), 4711);
    assert_int_equal(message_get_u32(&message), outcome);
    assert_true(message_get_text(&message, told, sizeof told));
    assert_string_equal(told, user);
    digest = message_get_u64(&message);
    message_clear(&message);
}

static void expect(enum login_outcome outcome, const char *user, int *files)
{
    expect_files(outcome, user, outcome == LOGIN_OK, files);
}

static void expect_vacant(void)
{
    if (next() != CHANNEL_OK)
        fail_msg("auth ended: %s", logged);
    assert_int_equal(message.rule->type, PROTO_VACANT);
    message_clear(&message);
    master.state = STATE_IDLE;
}

static int end_status(void)
{
    int status;
    assert_int_equal(next(), CHANNEL_END);
    assert_int_equal(waitpid(auth_pid, &status, 0), auth_pid);
    auth_pid = -1;
    return status;
}

static void expect_end(int status)
{
    int ended = end_status();
    assert_true(WIFEXITED(ended));
    assert_int_equal(WEXITSTATUS(ended), status);
}

static void expect_logged(const char *word)
{
    if (!strstr(logged, word))
        fail_msg("no '%s' in: %s", word, logged);
}

static void close_all(int files[MAILDROP_FILES])
{
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        close(files[i]);
}

static void test_login(void **state)
{
    (void)state;
    int files[MAILDROP_FILES], again[MAILDROP_FILES];
    stack("~ items=%s expect=right", in_place("items"));
    start();
    ask("Daemon@LOCALHOST", "right"); /* not local here: hostname is not completed */
    expect(LOGIN_DENIED, "daemon@localhost", NULL);
    expect_vacant();
    ask("Daemon", "right");
    expect(LOGIN_OK, "daemon", files);
    expect_vacant();
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        assert_int_equal(fcntl(files[i], F_GETFL) & O_ACCMODE, O_RDWR);

    char line[200] = "";
    FILE *items = fopen(in_place("items"), "re");
    assert_non_null(fgets(line, sizeof line, items));
    fclose(items);
    assert_string_equal(line, "service=poplar user=daemon rhost=192.0.2.7 tty=poplar ruser=\n");

    /* The session lives as long as the worker's descriptors, whatever auth does. */
    ask("daemon", "right");
    expect(LOGIN_IN_USE, "daemon", NULL);
    expect_vacant();
    close_all(files);
    ask("daemon", "right");
    expect(LOGIN_OK, "daemon", again);
    expect_vacant();
    close_all(again);

    ask("daemon", "wrong");
    expect(LOGIN_DENIED, "daemon", NULL);
    expect_vacant();
    channel_close(&master);
    int status;
    waitpid(auth_pid, &status, 0);
    auth_pid = -1;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == PROTO_EXIT_DONE);
}

/* What must be refused before any module hears of it. */
static void test_bounds(void **state)
{
    (void)state;
    char secret[20000];
    memset(secret, 'x', sizeof secret);
    static const struct {
        const char *mechanism, *user;
        size_t size;
        const char *secret; /* NULL: so many x */
        bool asked;
    } cases[] = {
        {"PASS", "daemon", 500, NULL, true},
        {"PASS", "daemon", 501, NULL, false},
        {"PASS", "daemon", 0, "", false},
        {"PASS", "daemon", 7, "sec\0ret", false},
        {"PASS", "daemon", 7, "sec\rret", false},
        {"PASS", "daemon", 7, "sec\nret", false},
        {"PASS", "daemon", 7, "sec\tret", true},
        {"XOAUTH2", "daemon", 16384, NULL, true},
        {"XOAUTH2", "daemon", 16385, NULL, false},
        {"OAUTHBEARER", "daemon", 16384, NULL, true},
        {"PASS", "", 3, NULL, false},
        {"PASS", "..", 3, NULL, false},
        {"PASS", "../../etc/x", 3, NULL, false},
        {"PASS", "dae\tmon", 3, NULL, false},
        {"PASS", "%u%{home}", 3, NULL, true},
    };
    stack("~ items=%s conv=prompt", in_place("asked"));
    must_set(config, "auth", "", "mechanisms", "plain, xoauth2, oauthbearer");
    start();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        unlink(in_place("asked"));
        serve(SERVE_LOGIN, "");
        begin(cases[i].mechanism, cases[i].user, cases[i].secret ? cases[i].secret : secret,
              cases[i].size);
        bool good = cases[i].asked && strcmp(cases[i].user, "daemon") == 0;
        bool legal = !strpbrk(cases[i].user, "/\t") && strcmp(cases[i].user, "..") != 0;
        bool folded = legal && (cases[i].asked || strcmp(cases[i].user, "daemon") != 0);
        expect(good ? LOGIN_OK : LOGIN_DENIED, folded ? cases[i].user : "", NULL);
        expect_vacant();
        if ((access(in_place("asked"), F_OK) == 0) != cases[i].asked)
            fail_msg("case %zu", i);
    }
    char name[PROTO_USER_MAX + 2];
    memset(name, 'n', sizeof name);
    name[PROTO_USER_MAX + 1] = '\0';
    ask(name, "secret");
    expect(LOGIN_DENIED, "", NULL);
    expect_vacant();
}

/* A worker that lies: its exchange ends, auth lives. */
static void test_bad_worker(void **state)
{
    (void)state;
#define RECORD(text)                                                                               \
    {                                                                                              \
        sizeof text - 1, text                                                                      \
    }
    static const struct {
        size_t size;
        const char *octets;
    } records[] = {
        RECORD("\x14\x04\0\0\0PASS\x06\0\0\0daem"),                    /* truncated */
        RECORD("\x14\x04\0\0\0PASS\x06\0\0\0daemon\x01\0\0\0x\x01"),   /* trailing octets */
        RECORD("\x14\x04\0\0\0PA\0S\x06\0\0\0daemon\x01\0\0\0x"),      /* NUL in a text */
        RECORD("\x14\xff\xff\xff\xffPASS\x06\0\0\0daemon\x01\0\0\0x"), /* a huge length */
        RECORD("\x05"),                                                /* somebody else's */
        RECORD("\xff"),                                                /* nobody's */
    };
    static const char good[] = "\x14\x04\0\0\0PASS\x06\0\0\0daemon\x01\0\0\0x";
    start();
    assert_int_equal(PROTO_BEGIN, 0x14);
    for (size_t i = 0; i < ARRAY_SIZE(records); i++) {
        serve(SERVE_LOGIN, "");
        logged[0] = '\0';
        assert_int_equal(write(worker.fd, records[i].octets, records[i].size), records[i].size);
        expect(LOGIN_BROKEN, "", NULL);
        expect_vacant();
        expect_logged("credentials are");
    }
    serve(SERVE_LOGIN, "");
    assert_int_equal(write(worker.fd, good, sizeof good - 1), sizeof good - 1);
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    /* Descriptors where none belong. */
    serve(SERVE_LOGIN, "");
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.header), &master.fd, sizeof(int));
    struct iovec vector = {(void *)(uintptr_t)good, sizeof good - 1};
    struct msghdr header = {.msg_iov = &vector,
                            .msg_iovlen = 1,
                            .msg_control = control.space,
                            .msg_controllen = sizeof control.space};
    assert_true(sendmsg(worker.fd, &header, 0) > 0);
    expect(LOGIN_BROKEN, "", NULL);
    expect_vacant();
    expect_logged("descriptors");

    /* Gone without a word, and gone between the question and the answer. */
    serve(SERVE_LOGIN, "");
    channel_close(&worker);
    assert_int_equal(next(), CHANNEL_OK);
    assert_int_equal(message.rule->type, PROTO_OUTCOME);
    expect_vacant();
    ask("daemon", "secret");
    channel_close(&worker);
    assert_int_equal(next(), CHANNEL_OK);
    assert_int_equal(message.rule->type, PROTO_OUTCOME);
    expect_vacant();
    ask("daemon", "secret"); /* no lock stayed */
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
}

static void test_silent_worker(void **state)
{
    (void)state;
    start();
    serve(SERVE_LOGIN, "");
    uint64_t then = base_now_ms();
    expect(LOGIN_UNAVAILABLE, "", NULL);
    assert_true(is_between(base_now_ms() - then, 4000, 60000));
    expect_vacant();
    expect_logged("not there in time");
}

static void test_grant_and_ping(void **state)
{
    (void)state;
    start();
    serve(SERVE_GRANT, "daemon");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    message_begin(&message, PROTO_PING);
    assert_int_equal(channel_send(&master, &message, true), CHANNEL_OK);
    assert_int_equal(next(), CHANNEL_OK);
    assert_int_equal(message.rule->type, PROTO_PONG);
}

/* Mail comes in: whom auth means, and which of the questions the files of a maildrop answer. */
static void test_recipient(void **state)
{
    static const struct {
        enum proto_service service;
        bool granted;
    } asked[] = {
        {SERVE_CHECK, false},  {SERVE_TAKE, false}, {SERVE_CHECK, false}, /* nothing was made */
        {SERVE_DELIVER, true}, {SERVE_TAKE, true},  {SERVE_CHECK, false}, {SERVE_DELIVER, true},
    };
    struct stat st;
    (void)state;
    must_set(config, "auth", "", "first_uid", "1");
    start();
    for (size_t i = 0; i < ARRAY_SIZE(asked); i++) {
        serve(asked[i].service, "games+detail");
        expect_files(LOGIN_OK, "games", asked[i].granted, NULL);
        expect_vacant();
    }
    serve(SERVE_TAKE, "no-such-account");
    expect(LOGIN_NO_USER, "no-such-account", NULL);
    expect_vacant();
    /* With a spool, whether the maildrop is there or not. */
    serve(SERVE_FIRST, "no-such-account");
    expect(LOGIN_NO_USER, "no-such-account", NULL);
    expect_vacant();
    for (unsigned i = 0; i < 2; i++) {
        serve(SERVE_FIRST, i ? "games" : "man");
        expected_spool = true;
        expect_files(LOGIN_OK, i ? "games" : "man", i, NULL);
        expected_spool = false;
        assert_int_equal(fstat(spool, &st), 0);
        assert_int_equal(st.st_nlink, 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        close(spool);
        expect_vacant();
    }
}

static void test_no_maildrop(void **state)
{
    (void)state;
    must_set(config, "store", "", "create", "no");
    start();
    ask("daemon", "secret");
    expect(LOGIN_NO_MAILDROP, "daemon", NULL);
    expect_vacant();
}

/* What was denied is not asked again, whatever PAM would say by now; anything else is. */
static void test_denied_before(void **state)
{
    (void)state;
    start();
    stack("~ expect=right");
    ask("daemon", "wrong");
    expect(LOGIN_DENIED, "daemon", NULL);
    expect_vacant();
    denied = digest;
    assert_int_not_equal(denied, 0);
    stack("~ expect=wrong");
    ask("DAEMON", "wrong");
    expect(LOGIN_DENIED, "daemon", NULL);
    assert_true(digest == denied);
    expect_vacant();
    denied ^= 1;
    ask("daemon", "wrong");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    denied = 0;
}

static void test_refused_accounts(void **state)
{
    (void)state;
    static const char *const names[] = {"root", "nobody", "no-such-account", "../daemon"};
    start();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        stack("~ rename=%s", names[i]);
        ask("daemon", "secret");
        expect(LOGIN_DENIED, "daemon", NULL);
        expect_vacant();
    }
    stack("~ rename=DAEMON");
    ask("somebody", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
}

static void test_service_file(void **state)
{
    (void)state;
    start();
    unlink(in_place("pam/poplar"));
    ask("daemon", "secret");
    expect(LOGIN_MISCONFIGURED, "daemon", NULL);
    expect_vacant();
    expect_logged(in_place("pam/poplar"));
    stack("pam_permit.so"); /* it appears: no restart is needed */
    ask("daemon", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    stack("pam_deny.so");
    ask("daemon", "secret");
    expect(LOGIN_DENIED, "daemon", NULL);
    expect_vacant();
    stack("pam_no_such_module.so");
    ask("daemon", "secret");
    expect(LOGIN_MISCONFIGURED, "daemon", NULL);
    expect_vacant();
    expect_logged("modules are installed");
}

/* The module that most will use, on an account without a password: it logs, looks up accounts
 * and leaves the process as it was. */
static void test_pam_unix(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* cannot read shadow */
    stack("pam_unix.so");
    start();
    for (int i = 0; i < 2; i++) {
        ask("daemon", "secret");
        expect(LOGIN_DENIED, "daemon", NULL);
        expect_vacant();
        ask("no-such-account", "secret");
        expect(LOGIN_DENIED, "no-such-account", NULL);
        expect_vacant();
    }
}

/* A module's text is for the log, on one line. */
static void test_module_talks(void **state)
{
    (void)state;
    stack("~ stdout conv=text");
    start();
    ask("daemon", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    expect_logged("Your cat\\x0ais on fire");
}

/* What a module left behind costs the process, not the login; foreign ids cost the login too. */
static void test_module_changes_process(void **state)
{
    (void)state;
    static const struct {
        const char *argument, *word;
        enum login_outcome outcome;
    } cases[] = {
        {"leak", "descriptor", LOGIN_OK},         {"umask", "umask", LOGIN_OK},
        {"chdir", "working directory", LOGIN_OK}, {"signal", "signal", LOGIN_OK},
        {"ids", "ids", LOGIN_UNAVAILABLE},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (geteuid() != 0 && cases[i].outcome != LOGIN_OK)
            continue;
        stack("~ %s", cases[i].argument);
        start();
        ask("daemon", "secret");
        expect(cases[i].outcome, "daemon", NULL);
        expect_end(PROTO_EXIT_RECYCLE);
        expect_logged(cases[i].word);
        channel_close(&master);
    }
}

/* An end in the middle is end-of-file for this one worker. */
static void test_module_ends_process(void **state)
{
    (void)state;
    static const char *const deaths[] = {"exit", "crash", "close=3"};
    for (size_t i = 0; i < ARRAY_SIZE(deaths); i++) {
        stack("~ %s", deaths[i]);
        start();
        ask("daemon", "secret");
        assert_int_equal(channel_receive(&worker, &message, true, NULL), CHANNEL_END);
        int status = end_status();
        if (strcmp(deaths[i], "crash") == 0)
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        else
            assert_true(WIFEXITED(status));
        channel_close(&master);
        channel_close(&worker);
    }
    stack("~ hang");
    start();
    ask("daemon", "secret");
    struct pollfd poller = {.fd = worker.fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, 100), 0);
    kill(auth_pid, SIGKILL); /* as the master does at [auth] timeout */
    assert_int_equal(channel_receive(&worker, &message, true, NULL), CHANNEL_END);
}

static void ask_by(const char *mechanism, const char *user, const char *secret)
{
    serve(SERVE_LOGIN, "");
    begin(mechanism, user, secret, strlen(secret));
}

/* PAM is not asked by what is not configured; a reload may have taken it away, so that nobody is
 * told that his password is wrong. PASS is always there. */
static void test_closed_mechanisms(void **state)
{
    static const char *const closed[] = {"LOGIN", "XOAUTH2", "EXTERNAL", "", "NTLM"};
    (void)state;
    stack("~ items=%s", in_place("asked"));
    must_set(config, "auth", "", "mechanisms", "plain, external"); /* but no client_ca */
    unlink(in_place("asked"));
    start();
    for (size_t i = 0; i < ARRAY_SIZE(closed); i++) {
        ask_by(closed[i], "daemon", strcmp(closed[i], "EXTERNAL") == 0 ? "" : "secret");
        expect(LOGIN_UNAVAILABLE, "", NULL);
        expect_vacant();
        assert_int_equal(access(in_place("asked"), F_OK), -1);
    }
    expect_logged("a reload took it away");
    ask_by("PLAIN", "daemon", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    ask("daemon", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    unlink(in_place("asked"));
}

/* A certificate's name: canonical as any other, no authentication, but the account phase. */
static void test_external(void **state)
{
    (void)state;
    stack("~ items=%s", in_place("asked"));
    must_set(config, "auth", "", "mechanisms", "external");
    must_set(config, "tls", "", "client_ca", "/ca.pem");
    start();
    ask_by("EXTERNAL", "Daemon", "");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    assert_int_equal(access(in_place("asked"), F_OK), -1);
    ask_by("EXTERNAL", "daemon", "secret");
    expect(LOGIN_DENIED, "", NULL);
    expect_vacant();
    ask_by("EXTERNAL", "root", "");
    expect(LOGIN_DENIED, "root", NULL);
    expect_vacant();
    ask_by("EXTERNAL", "no-such-account", "");
    expect(LOGIN_DENIED, "no-such-account", NULL);
    expect_vacant();
    stack("pam_deny.so");
    ask_by("EXTERNAL", "daemon", "");
    expect(LOGIN_ACCOUNT, "daemon", NULL);
    expect_vacant();
    ask("daemon", "secret");
    expect(LOGIN_DENIED, "daemon", NULL);
    expect_vacant();
    stack("~ account-prompt");
    ask_by("EXTERNAL", "daemon", "");
    expect(LOGIN_UNAVAILABLE, "daemon", NULL);
    expect_vacant();
}

static void test_recycling(void **state)
{
    (void)state;
    must_set(config, "auth", "", "requests_per_process", "2");
    start();
    ask("daemon", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    ask("daemon", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_end(PROTO_EXIT_RECYCLE);
}

static void test_session(void **state)
{
    (void)state;
    must_set(config, "auth", "", "session", "yes");
    stack("~ session=%s", in_place("session"));
    start();
    ask("daemon", "secret");
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant(); /* the module's umask(0) stayed in the child */
    char pid[20] = "";
    FILE *file = fopen(in_place("session"), "re");
    assert_non_null(fgets(pid, sizeof pid, file));
    fclose(file);
    assert_true(atoi(pid) > 0 && atoi(pid) != auth_pid);
    stack("~ session-fail");
    ask("daemon", "secret");
    expect(LOGIN_UNAVAILABLE, "daemon", NULL);
    expect_vacant();
    expect_logged("session");
}

static void test_secret_is_wiped(void **state)
{
    if (getenv("SANITIZED")) /* it keeps a while what was freed */
        skip();
    (void)state;
    if (geteuid() != 0)
        skip(); /* auth is not dumpable: only root may look */
    char line[300];
    snprintf(line, sizeof line, "~ conv=prompt until=%.200s", in_place("go"));
    stack("%s", line);
    start();
    /* Made from halves, or this program's own copy in the child would be found. */
    char secret[30];
    snprintf(secret, sizeof secret, "%s%s", "correct-horse-", "battery-staple");
    ask("daemon", secret);
    bool held = false;
    for (int i = 0; i < 3000 && !held; i++) {
        usleep(10000);
        held = process_remembers(auth_pid, secret);
    }
    assert_true(held);
    close(creat(in_place("go"), 0600));
    expect(LOGIN_OK, "daemon", NULL);
    expect_vacant();
    assert_false(process_remembers(auth_pid, secret));
}

/* Opening a maildrop changes ids for a moment, which makes the kernel forget to end us with our
 * parent. */
static void test_hardened_after_exchange(void **state)
{
    (void)state;
    int alive[2], over[2];
    char octet;
    assert_return_code(pipe(alive), errno);
    assert_return_code(pipe(over), errno);
    pid_t between = fork(); /* stands for the master */
    if (between == 0) {
        int ends[2] = {-1, -1};
        close(alive[0]);
        close(over[1]);
        if (channel_pair(ends, false) < 0)
            _exit(1);
        auth_pid = fork();
        if (auth_pid == 0) {
            dup2(alive[1], 0); /* run_auth() replaces 0 and 1; 2 keeps the pipe open */
            dup2(alive[1], 2);
            run_auth(ends[1]);
        }
        close(ends[1]);
        channel_open(&master, ends[0], ROLE_MASTER, ROLE_AUTH, STATE_IDLE);
        ask("daemon", "secret");
        expect(LOGIN_OK, "daemon", NULL);
        expect_vacant();
        /* The channel stays open in a process of its own: only the signal can end auth. */
        if (fork() == 0) {
            close(alive[1]);
            _exit(read(over[0], &octet, 1) != 0);
        }
        _exit(0);
    }
    close(alive[1]);
    close(over[0]);
    int status;
    assert_int_equal(waitpid(between, &status, 0), between);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct pollfd poller = {.fd = alive[0], .events = POLLIN};
    assert_int_equal(poll(&poller, 1, 30000), 1);
    assert_int_equal(read(alive[0], &octet, 1), 0);
    close(alive[0]);
    close(over[1]);
}

/* What no client of a name service keeps; -1 past the last. */
static int leak(int kind)
{
    switch (kind) {
    case 0:
        return open("/etc/passwd", O_RDONLY);
    case 1:
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    case 2:
        return open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    case 3:
        return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    case 4:
        return socket(AF_UNIX, SOCK_STREAM, 0);
    default:
        return -1;
    }
}

/* What the client of a name service keeps may come and go; anything else may not. */
static void test_kept_descriptors(void **state)
{
    (void)state;
    static struct selfcheck self;
    char difference[80];
    int ours = open("/dev/null", O_RDONLY), kept[SELFCHECK_FDS_KEPT], odd;
    selfcheck_record(&self);
    assert_true(selfcheck_same(&self, difference, sizeof difference));
    for (int i = 0; i < SELFCHECK_FDS_KEPT; i++) {
        kept[i] = i % 2 ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
                        : open("/etc/passwd", O_RDONLY | O_CLOEXEC);
        assert_true(kept[i] >= 0);
        assert_true(selfcheck_same(&self, difference, sizeof difference));
    }
    odd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_false(selfcheck_same(&self, difference, sizeof difference)); /* one too many */
    close(odd);
    close(kept[0]); /* the service began anew */
    assert_true(dup3(kept[1], kept[0], O_CLOEXEC) >= 0);
    assert_true(selfcheck_same(&self, difference, sizeof difference));
    assert_true(selfcheck_same_fds(&self));
    for (int i = 0; i < SELFCHECK_FDS_KEPT; i++)
        close(kept[i]);

    for (int kind = 0; (odd = leak(kind)) >= 0; kind++, close(odd)) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "descriptor %d", odd);
        assert_false(selfcheck_same(&self, difference, sizeof difference));
        assert_string_equal(difference, wanted);
    }
    assert_true(selfcheck_same(&self, difference, sizeof difference));
    assert_true((odd = open("/etc/passwd", O_RDONLY)) >= 0 && dup2(odd, ours) == ours);
    close(odd);
    assert_false(selfcheck_same_fds(&self));
    assert_false(selfcheck_same(&self, difference, sizeof difference));
    close(ours);
    assert_false(selfcheck_same(&self, difference, sizeof difference));
    syslog(LOG_DEBUG, "%s", ""); /* libc's own descriptor is not held against anybody */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_descriptors),
        cmocka_unit_test_setup_teardown(test_login, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bounds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_silent_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_grant_and_ping, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_recipient, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_maildrop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_denied_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused_accounts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_service_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pam_unix, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_module_talks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_module_changes_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_module_ends_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_closed_mechanisms, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_external, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_recycling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_session, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_secret_is_wiped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hardened_after_exchange, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("auth", tests, set_up_group, leave_place);
}
