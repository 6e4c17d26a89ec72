/*
 * test_calls_master.c - each call of the master, and of a child's first steps, fails at each of its
 * places in turn. What then cannot be done is told, with the name of what it is about; nothing
 * stays open or half made, and a second try works.
 */
#include "daemon/base.h"
#include "daemon/check.h"
#include "daemon/child.h"
#include "daemon/configfile.h"
#include "daemon/master.h"
#include "daemon/privileges.h"
#include "daemon/setup.h"
#include "daemon/spawn.h"
#include "tests/calls/calls.h"
#include "tests/support/place.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <netinet/in.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <cmocka.h>

static char build_dir[2048]; /* where the programs are */

/* Starting a child. */

static int start_true(void)
{
    struct channel channel = {.fd = -1};
    siginfo_t info = {0};
    pid_t pid = spawn_child("/bin", "true", -1, ROLE_AUTH, &channel);
    if (pid < 0)
        return channel.fd < 0 ? calls_say(strerror(errno)) : CALLS_DONE_WRONG;
    waitid(P_PID, (id_t)pid, &info, WEXITED);
    channel_close(&channel);
    return info.si_code == CLD_EXITED ? info.si_status : CALLS_DONE_WRONG;
}

/* From the program that was open since the start, on any number: it is the only other that stays.
 */
static int kept_on;

static int start_kept(void)
{
    struct channel channel = {.fd = -1};
    siginfo_t info = {0};
    int kept = spawn_keep("/bin", "true");
    if (kept < 0)
        return calls_say(strerror(errno));
    if (kept != kept_on && (dup3(kept, kept_on, O_CLOEXEC) != kept_on || close(kept) < 0))
        return CALLS_DONE_WRONG;
    pid_t pid = spawn_child("/nowhere", "true", kept_on, ROLE_AUTH, &channel);
    if (pid < 0)
        return channel.fd < 0 ? calls_say(strerror(errno)) : CALLS_DONE_WRONG;
    waitid(P_PID, (id_t)pid, &info, WEXITED);
    channel_close(&channel);
    return info.si_code == CLD_EXITED ? info.si_status : CALLS_DONE_WRONG;
}

/* What is offered to the OOM killer is no condition of a start. */
static void told_if_needed(const char *what, const struct calls_end *end)
{
    static const char *const offer[] = {"open, call 1", "read, call 1", "write, call 1"};
    bool needed = true;
    for (size_t i = 0; i < ARRAY_SIZE(offer); i++)
        needed = needed && strcmp(what, offer[i]) != 0;
    (needed ? calls_told : calls_told_or_done)(what, end);
}

static void test_spawn(void **state)
{
    (void)state;
    assert_true(calls_walk(start_true, told_if_needed) >= 10);
    kept_on = PROTO_FD_CONTROL + 1;
    assert_true(calls_walk(start_kept, calls_told_or_done) >= 10);
    kept_on = 40;
    assert_true(calls_walk(start_kept, calls_told_or_done) >= 10);
}

static int die_with_another(void)
{
    privileges_die_with(getppid() + 1);
    return CALLS_DONE_WRONG;
}

static void test_parent_gone(void **state)
{
    struct calls_end end;
    (void)state;
    calls_try(die_with_another, &end);
    assert_true(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 0);
}

/* Records. */

static struct channel ping_sender, ping_receiver;

static void open_pair(void)
{
    int ends[2];
    assert_int_equal(channel_pair(ends, true), 0);
    channel_open(&ping_sender, ends[0], ROLE_MASTER, ROLE_AUTH, STATE_IDLE);
    channel_open(&ping_receiver, ends[1], ROLE_AUTH, ROLE_MASTER, STATE_IDLE);
}

static enum channel_outcome send_ping(bool wait)
{
    struct message m;
    message_begin(&m, PROTO_PING);
    return channel_send(&ping_sender, &m, wait);
}

static enum channel_outcome receive_ping(bool wait)
{
    struct message m;
    enum channel_outcome outcome = channel_receive(&ping_receiver, &m, wait, NULL);
    message_clear(&m);
    return outcome;
}

static void test_channel(void **state)
{
    static const struct {
        int error;
        enum channel_outcome sent, received;
    } meanings[] = {{EAGAIN, CHANNEL_AGAIN, CHANNEL_AGAIN},
                    {ENOBUFS, CHANNEL_AGAIN, CHANNEL_AGAIN},
                    {EPIPE, CHANNEL_END, CHANNEL_END},
                    {ECONNRESET, CHANNEL_END, CHANNEL_OK}, /* of what was not taken; told once */
                    {ECONNRESET, CHANNEL_END, CHANNEL_END},
                    {ENOTCONN, CHANNEL_END, CHANNEL_END},
                    {ENOMEM, CHANNEL_ERROR, CHANNEL_ERROR},
                    {EINTR, CHANNEL_OK, CHANNEL_OK}}; /* tried again */
    (void)state;
    open_pair();
    for (size_t i = 0; i < ARRAY_SIZE(meanings); i++) {
        calls_break("sendmsg", 1, meanings[i].error);
        assert_int_equal(send_ping(false), meanings[i].sent);
        assert_true(calls_mend());
        if (meanings[i].sent != CHANNEL_OK)
            assert_int_equal(send_ping(false), CHANNEL_OK);
        calls_break("recvmsg", 1, meanings[i].error);
        assert_int_equal(receive_ping(false), meanings[i].received);
        assert_true(calls_mend());
        if (meanings[i].received != CHANNEL_OK)
            assert_int_equal(receive_ping(false), CHANNEL_OK);
    }
    calls_break("sendmsg", 1, ENOBUFS); /* then it waits for room, and there is */
    assert_int_equal(send_ping(true), CHANNEL_OK);
    assert_int_equal(receive_ping(true), CHANNEL_OK);
    while (send_ping(false) == CHANNEL_OK)
        ;
    calls_break("poll", 1, 0); /* to wait for room cannot be done */
    assert_int_equal(send_ping(true), CHANNEL_AGAIN);
    assert_true(calls_mend());
    channel_close(&ping_sender);
    channel_close(&ping_receiver);
}

/* Whether a process waits for something, or is no more. */
static bool is_asleep(pid_t pid)
{
    char path[40], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *stat = fopen(path, "r");
    bool known = stat && fscanf(stat, "%*d %*s %c", &state) == 1;
    if (stat)
        fclose(stat);
    return !known || state == 'S';
}

/* A signal while there is no room. */
static void test_channel_interrupted(void **state)
{
    (void)state;
    open_pair();
    while (send_ping(false) == CHANNEL_OK)
        ;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        while (!is_asleep(getppid()))
            usleep(100);
        while (receive_ping(false) == CHANNEL_OK)
            ;
        _exit(0);
    }
    calls_break("poll", 1, EINTR);
    assert_int_equal(send_ping(true), CHANNEL_OK);
    assert_true(calls_mend());
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    channel_close(&ping_sender);
    channel_close(&ping_receiver);
}

/* Privileges. */

static const struct passwd *nobody(void)
{
    const struct passwd *account = getpwnam("nobody");
    assert_non_null(account);
    return account;
}

static int drop_all(void)
{
    uid_t uid;
    gid_t gid;
    if (initgroups("nobody", nobody()->pw_gid) < 0 || !privileges_lookup("nobody", &uid, &gid))
        return CALLS_DONE_WRONG;
    privileges_drop(uid, gid);
    return getuid() == uid && getgid() == gid ? 0 : CALLS_DONE_WRONG;
}

static int drop_to_root(void)
{
    privileges_drop(0, 65534);
    return CALLS_DONE_WRONG;
}

static int drop_to_roots_group(void)
{
    privileges_drop(65534, 0);
    return CALLS_DONE_WRONG;
}

/* Whoever cannot give up all of it does not live on. */
static void is_dead(const char *what, const struct calls_end *end)
{
    if ((WIFEXITED(end->status) && WEXITSTATUS(end->status) != EX_OSERR) || !*end->said ||
        (WIFSIGNALED(end->status) && WTERMSIG(end->status) != SIGABRT))
        fail_msg("%s: wait status %x: %s", what, (unsigned)end->status, end->said);
}

static void is_noticed(int (*attempt)(void), const char *said)
{
    struct calls_end end;
    calls_try(attempt, &end);
    if (!WIFSIGNALED(end.status) || WTERMSIG(end.status) != SIGABRT || !strstr(end.said, said))
        fail_msg("'%s' was due: wait status %x: %s", said, (unsigned)end.status, end.said);
}

static void test_drop(void **state)
{
    static const struct {
        const char *name;
        unsigned nth;
        const char *said;
    } lies[] = {
        {"setgroups", 1, "groups are not gone"},     {"setresgid", 1, "privileges are not gone"},
        {"setresuid", 1, "privileges are not gone"}, {"setuid", 1, "privileges came back"},
        {"setgid", 1, "privileges came back"},       {"setgroups", 2, "privileges came back"},
    };
    (void)state;
    if (geteuid() != 0)
        skip();
    calls_break("setgroups", 1, 0);
    struct calls_end end;
    calls_try(drop_all, &end);
    is_dead("setgroups", &end);
    for (const char *const *name = (const char *const[]){"setresgid", "setresuid", "syscall",
                                                         "getresuid", "getresgid", NULL};
         *name; name++) {
        calls_break(*name, 1, 0);
        calls_try(drop_all, &end);
        assert_true(end.met);
        is_dead(*name, &end);
    }
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        calls_answer(lies[i].name, lies[i].nth, 0);
        is_noticed(drop_all, lies[i].said);
    }
    is_noticed(drop_to_root, "to root");
    is_noticed(drop_to_roots_group, "to root");
    calls_try(drop_all, &end);
    assert_int_equal(end.status, 0);
}

static int bound(void)
{
    static const int keep[] = {0, -1};
    privileges_bound(keep);
    return 0;
}

static int bound_by_nobody(void)
{
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
        return CALLS_DONE_WRONG;
    return bound();
}

/* The places in turn: a look that fails is taken for the last one, to drop must not fail. */
static void test_bound(void **state)
{
    struct calls_end end;
    unsigned fatal_ones = 0;
    (void)state;
    calls_break_from("prctl", 1, 0);
    calls_try(bound_by_nobody, &end);
    assert_int_equal(end.status, 0);
    assert_false(end.met); /* there is nothing to be had for who is not root */
    if (geteuid() != 0)
        skip();
    for (unsigned nth = 1; nth <= 8; nth++) {
        calls_break("prctl", nth, 0);
        calls_try(bound, &end);
        assert_true(end.met);
        if (end.status != 0) {
            is_dead("prctl", &end);
            assert_non_null(strstr(end.said, "cannot drop capability"));
            fatal_ones++;
        }
        calls_break("prctl", nth, EPERM); /* some sandboxes allow none of it */
        calls_try(bound, &end);
        assert_int_equal(end.status, 0);
    }
    assert_true(fatal_ones >= 3);
}

/* LMTP's sockets. */

static int bind_lmtp(void)
{
    char why[256] = "";
    int fd = local_bind(in_place("new/lmtp"), SOCK_STREAM, 0666, why, sizeof why);
    if (fd < 0)
        return calls_say(why);
    return fcntl(fd, F_GETFL) & O_NONBLOCK ? 0 : CALLS_DONE_WRONG;
}

/* What was there before is no reason to fail, nor may it go away when it cannot be known. */
static int bind_lmtp_again(void)
{
    char why[256] = "";
    struct stat st;
    int served = local_bind(in_place("served"), SOCK_STREAM, 0666, why, sizeof why);
    int fd = local_bind(in_place("served"), SOCK_STREAM, 0666, why, sizeof why);
    if (served < 0 || lstat(in_place("served"), &st) < 0)
        return calls_say("not even once");
    return fd < 0 ? calls_say(why) : CALLS_DONE_WRONG;
}

static void has_remedy(const char *what, const struct calls_end *end)
{
    calls_told_or_done(what, end);
    if (WEXITSTATUS(end->status) == CALLS_NOT_DONE && !strstr(end->said, "; ") &&
        !strstr(end->said, "Too many open files"))
        fail_msg("%s: no remedy: %s", what, end->said);
}

static void test_bind(void **state)
{
    static const struct {
        int error;
        const char *remedy;
    } remedies[] = {{ENOENT, "make the directory"},
                    {EACCES, "must be able to write there"},
                    {EPERM, "must be able to write there"},
                    {EROFS, "must be able to write there"},
                    {EADDRINUSE, "name another path"}};
    struct calls_end end;
    (void)state;
    assert_true(calls_walk(bind_lmtp, has_remedy) >= 5);
    for (size_t i = 0; i < ARRAY_SIZE(remedies); i++) {
        calls_break("bind", 1, remedies[i].error);
        calls_try(bind_lmtp, &end);
        assert_non_null(strstr(end.said, remedies[i].remedy));
    }
}

/* A socket that is served stays, whatever fails while it is looked at. */
static void test_bind_over_another(void **state)
{
    static const int answers[] = {EAGAIN, EPROTOTYPE};
    struct calls_end end;
    (void)state;
    calls_try(bind_lmtp_again, &end);
    assert_non_null(strstr(end.said, "another server holds this socket"));
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        unlink(in_place("served"));
        calls_break("connect", 1, answers[i]);
        calls_try(bind_lmtp_again, &end);
        assert_non_null(strstr(end.said, "another server holds this socket"));
    }
    unlink(in_place("served"));
    calls_break("socket", 2, 0);
    calls_try(bind_lmtp_again, &end);
    assert_true(end.met);
    assert_non_null(strstr(end.said, "Too many open files"));
    unlink(in_place("served"));
}

static struct config *config_of(const char *key, const char *value)
{
    struct config *config = config_new();
    must_set(config, "server", "", key, value);
    return config;
}

/* The sockets of a configuration. */

static uint16_t port; /* kept for us, see set_up() */

static struct config *listening_config(void)
{
    char error[256], address[64];
    struct config *config = config_of("hostname", "pop.example.test");
    snprintf(address, sizeof address, "127.0.0.1:%u, [::1]:%u", port, port);
    must_set(config, "listen", "", "pop3", address);
    must_set(config, "listen", "", "pop3s", "");
    must_set(config, "listen", "", "lmtp", in_place("lmtp"));
    must_set(config, "tls", "", "required", "no");
    if (!config_complete(config, error, sizeof error))
        fail_msg("%s", error);
    return config;
}

static bool is_gone(const char *name)
{
    struct stat st;
    return lstat(in_place(name), &st) < 0;
}

static int open_listeners_once(void)
{
    char error[512] = "";
    size_t n = 0;
    struct listener *listeners = NULL;
    struct config *config = listening_config();
    bool good = listen_open(config, NULL, 0, &listeners, &n, error, sizeof error);
    config_free(config);
    if (!good)
        return n == 0 ? calls_say(error) : CALLS_DONE_WRONG;
    listen_close(listeners, n);
    return n == 3 ? 0 : CALLS_DONE_WRONG;
}

/* A name that could not be removed is in nobody's way the next time. */
static int twice(int (*once)(void), const char *socket)
{
    int status = once();
    if (status != 0 || is_gone(socket))
        return status;
    calls_hold(true);
    return once() == 0 && is_gone(socket) ? 0 : CALLS_DONE_WRONG;
}

static int open_listeners(void)
{
    return twice(open_listeners_once, "lmtp");
}

/* As at a reload: sockets of before, one of them passed by systemd. */
static int take_over_listeners(void)
{
    char error[512] = "";
    size_t n = 0;
    struct listener old[] = {{.fd = socket(AF_INET, SOCK_STREAM, 0),
                              .door = DOOR_POP3,
                              .passed = true,
                              .text = (char[]){"pop3"}}};
    struct listener *listeners = NULL;
    if (old[0].fd < 0)
        return calls_say("no socket");
    struct config *config = config_of("hostname", "pop.example.test");
    if (!config_set(config, "tls", "", "required", "no", error, sizeof error) ||
        !config_set(config, "listen", "", "lmtp", in_place("lmtp"), error, sizeof error) ||
        !config_complete(config, error, sizeof error))
        return CALLS_DONE_WRONG;
    bool good = listen_open(config, old, 1, &listeners, &n, error, sizeof error);
    config_free(config);
    if (!good)
        return calls_say(error);
    for (size_t i = 0; i < n; i++)
        if (listeners[i].fd < 0)
            return CALLS_DONE_WRONG;
    listen_close(listeners, n);
    return n == 2 ? 0 : CALLS_DONE_WRONG;
}

static void test_listen(void **state)
{
    static const struct {
        int error;
        const char *remedy;
    } remedies[] = {{EADDRINUSE, "another server holds this port"},
                    {EACCES, "need root, or a socket unit"},
                    {EADDRNOTAVAIL, "no such address"},
                    {EINVAL, "choose another address"},
                    {ENOMEM, "try again when the system has it"}};
    struct calls_end end;
    (void)state;
    assert_true(calls_walk(open_listeners, calls_told_or_done) >= 10);
    assert_true(calls_walk(take_over_listeners, calls_told_or_done) >= 3);
    for (size_t i = 0; i < ARRAY_SIZE(remedies); i++) {
        calls_break("bind", 1, remedies[i].error);
        calls_try(open_listeners, &end);
        assert_non_null(strstr(end.said, remedies[i].remedy));
    }
}

/* Which address has the port, where it is not another server's. */
static const char *both;

static int open_both(void)
{
    char error[512] = "", addresses[200];
    size_t n = 0;
    struct listener *listeners = NULL;
    struct config *config = listening_config();
    snprintf(addresses, sizeof addresses, both, port, port);
    must_set(config, "listen", "", "pop3", addresses);
    must_set(config, "listen", "", "lmtp", "");
    return listen_open(config, NULL, 0, &listeners, &n, error, sizeof error) ? 0 : calls_say(error);
}

static void test_addresses_within_others(void **state)
{
    static const struct {
        const char *both, *said; /* NULL: they go together */
    } cases[] = {{"0.0.0.0:%u, 127.0.0.1:%u", "an address before it"},
                 {"127.0.0.1:%u, 0.0.0.0:%u", "an address before it"},
                 {"*:%u, 127.0.0.1:%u", "an address before it"},
                 {"127.0.0.1:%u, 127.0.0.1:%u", "named twice"},
                 {"[::]:%u, [::1]:%u", "an address before it"},
                 {"0.0.0.0:%u, [::]:%u", NULL},
                 {"127.0.0.1:%u, 127.0.0.2:%u", NULL}};
    struct calls_end end;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        both = cases[i].both;
        calls_try(open_both, &end);
        if (strchr(both, '[') && strstr(end.said, "not supported"))
            continue; /* no IPv6 here */
        if (cases[i].said ? !strstr(end.said, cases[i].said) : end.status != 0)
            fail_msg("%s: wait status %x: %s", both, (unsigned)end.status, end.said);
    }
    both = "127.0.0.1:%u, 127.0.0.2:%u";
    calls_break("bind", 2, EADDRINUSE);
    calls_try(open_both, &end);
    assert_non_null(strstr(end.said, "another server holds this port"));
}

/* Of the addresses that are built in, one that the machine does not have is left out. */
static int open_built_in(void)
{
    char error[512] = "";
    size_t n = 0;
    struct listener *listeners = NULL;
    struct config *config = config_of("hostname", "pop.example.test");
    if (!config_set(config, "tls", "", "required", "no", error, sizeof error) ||
        !config_set(config, "listen", "", "lmtp", "", error, sizeof error) ||
        !config_complete(config, error, sizeof error))
        return CALLS_DONE_WRONG;
    bool good = listen_open(config, NULL, 0, &listeners, &n, error, sizeof error);
    if (!good)
        return calls_say(error);
    return (int)n == 2 ? 0 : (int)n + 20;
}

static void test_built_in_addresses(void **state)
{
    static const int lacking[] = {EADDRNOTAVAIL, EAFNOSUPPORT};
    struct calls_end end;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(lacking); i++) {
        calls_break_from("socket", 1, lacking[i]);
        calls_try(open_built_in, &end);
        assert_non_null(strstr(end.said, "nothing to listen on"));
    }
    calls_break_from("socket", 1, ENOMEM);
    calls_try(open_built_in, &end);
    assert_non_null(strstr(end.said, "[listen] pop3=127.0.0.1:110: Cannot allocate memory"));
}

/* poplarctl's socket. */

static int open_control_once(void)
{
    char error[512] = "";
    struct master m = {.control_fd = -1, .config = config_of("run_dir", in_place("run"))};
    if (sd_event_new(&m.event) < 0)
        return calls_say("no event loop");
    if (!control_open(&m, error, sizeof error))
        return calls_say(error);
    control_close(&m);
    config_free(m.config);
    sd_event_unref(m.event);
    return 0;
}

static int open_control(void)
{
    return twice(open_control_once, "run/control");
}

static int open_control_too_long(void)
{
    char error[512] = "", dir[200];
    memset(dir, 'x', sizeof dir - 1);
    dir[0] = '/';
    dir[sizeof dir - 1] = '\0';
    struct master m = {.control_fd = -1, .config = config_of("run_dir", dir)};
    return control_open(&m, error, sizeof error) ? CALLS_DONE_WRONG : calls_say(error);
}

static void test_control(void **state)
{
    static const int unwritable[] = {EACCES, EPERM, EROFS, ENOENT};
    struct calls_end end;
    (void)state;
    assert_true(calls_walk(open_control, calls_told_or_done) >= 6);
    for (size_t i = 0; i < ARRAY_SIZE(unwritable); i++) {
        calls_break("bind", 1, unwritable[i]);
        calls_try(open_control, &end);
        assert_non_null(strstr(end.said, "[server] run_dir="));
        assert_non_null(strstr(end.said, "; "));
    }
    calls_try(open_control_too_long, &end);
    assert_non_null(strstr(end.said, "longer than the"));
}

/* The configuration: read, checked, sent to a child, taken there. */

static void write_config(void)
{
    place_put("poplar.conf",
              "[server]\nhostname=pop.example.test\nstate_dir=%s\nrun_dir=%s\n"
              "program_dir=%s\nlog_to=stderr\nworker_user=nobody\nstore_user=%s\nstop_grace=0\n"
              "[listen]\npop3=127.0.0.1:%u\npop3s=\nlmtp=\n"
              "[tls]\nrequired=no\ncertificate=%s\nkey=%s\n"
              "[auth]\npam_confdir=%s\nprocesses_min=1\n[domain example.net]\npam_service=poplar\n"
              "[workers]\nidle_min=1\nmax_sessions=100\n", /* of descriptors a login has 1,024 */
              in_place("state"), in_place("run"), build_dir,
              geteuid() == 0 ? "mail" : getpwuid(geteuid())->pw_name, port, in_place("cert.pem"),
              in_place("key.pem"), in_place("pam.d"));
}

static int read_config(void)
{
    char error[512] = "";
    struct config *config = configfile_read(in_place("poplar.conf"), error, sizeof error);
    config_free(config);
    return config ? 0 : calls_say(error);
}

/* The exit status of a start that could not read it. */
static int status_of_config(void)
{
    char error[512] = "";
    struct config *config = configfile_read(in_place("poplar.conf"), error, sizeof error);
    return config ? 0 : base_status(errno, EX_CONFIG);
}

static int status_of_listeners(void)
{
    char error[512] = "";
    size_t n = 0;
    struct listener *listeners = NULL;
    struct config *config = listening_config();
    return listen_open(config, NULL, 0, &listeners, &n, error, sizeof error)
               ? 0
               : base_status(errno, EX_CONFIG);
}

static int status_of_control(void)
{
    char error[512] = "";
    struct master m = {.control_fd = -1, .config = config_of("run_dir", in_place("run"))};
    if (sd_event_new(&m.event) < 0)
        return CALLS_DONE_WRONG;
    return control_open(&m, error, sizeof error) ? 0 : base_status(errno, EX_CANTCREAT);
}

static int status_of_certificate(void)
{
    char error[512] = "";
    struct config *config = config_of("hostname", "pop.example.test");
    must_set(config, "tls", "", "certificate", in_place("cert.pem"));
    must_set(config, "tls", "", "key", in_place("key.pem"));
    return setup_keep(config, error, sizeof error) ? 0 : base_status(errno, EX_CONFIG);
}

/* What the machine lacks for a while is no fault of the configuration, after which nobody tries
 * again. */
static void test_status(void **state)
{
    static const struct {
        int (*attempt)(void);
        const char *call;
        unsigned nth;
        int error, status;
    } cases[] = {
        {status_of_config, "open", 1, ENFILE, EX_OSERR},
        {status_of_config, "open", 1, EIO, EX_OSERR},
        {status_of_config, "open", 1, EACCES, EX_CONFIG},
        {status_of_config, "fdopen", 1, ENOMEM, EX_OSERR},
        {status_of_config, "fstat", 1, EIO, EX_OSERR},
        {status_of_listeners, "socket", 1, EMFILE, EX_OSERR},
        {status_of_listeners, "socket", 3, ENFILE, EX_OSERR},
        {status_of_listeners, "bind", 1, EADDRINUSE, EX_CONFIG},
        {status_of_listeners, "bind", 1, EACCES, EX_CONFIG},
        {status_of_listeners, "bind", 3, ENOSPC, EX_OSERR},
        {status_of_listeners, "bind", 3, EROFS, EX_CONFIG},
        {status_of_control, "bind", 1, ENOSPC, EX_OSERR},
        {status_of_control, "socket", 1, ENFILE, EX_OSERR},
        {status_of_control, "sd_event_add_io", 1, ENOMEM, EX_OSERR},
        {status_of_control, "bind", 1, EACCES, EX_CANTCREAT},
        {status_of_certificate, "open", 1, ENFILE, EX_OSERR},
        {status_of_certificate, "open", 2, ENOENT, EX_CONFIG},
        {status_of_certificate, "memfd_create", 1, ENFILE, EX_OSERR},
        {status_of_certificate, "sendfile", 2, ENOSPC, EX_OSERR},
    };
    struct calls_end end;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        calls_break(cases[i].call, cases[i].nth, cases[i].error);
        calls_try(cases[i].attempt, &end);
        if (!end.met || !WIFEXITED(end.status) || WEXITSTATUS(end.status) != cases[i].status)
            fail_msg("case %zu: wait status %x: %s", i, (unsigned)end.status, end.said);
    }
}

/* A regular file that is there, may be opened, and cannot be read. */
static int read_in_vain(void)
{
    char error[512] = "";
    struct config *config = configfile_read("/proc/self/mem", error, sizeof error);
    if (config || !strstr(error, "/proc/self/mem:") || !strstr(error, "cannot be read"))
        return CALLS_DONE_WRONG;
    return base_status(errno, EX_CONFIG) == EX_OSERR ? calls_say(error) : CALLS_DONE_WRONG;
}

/* What may not be seen is an error; not for one who asks for as much as he may see. */
static int read_half_visible(void)
{
    char error[512] = "";
    if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
        return CALLS_DONE_WRONG;
    struct config *config = configfile_read(in_place("half.conf"), error, sizeof error);
    if (config || !strstr(error, "half.conf.d: Permission denied"))
        return CALLS_DONE_WRONG;
    if (base_status(errno, EX_CONFIG) != EX_CONFIG)
        return CALLS_DONE_WRONG;
    config = configfile_read_visible(in_place("half.conf"), error, sizeof error);
    return config && strcmp(config->server.hostname, "half.example.test") == 0 ? 0
                                                                               : calls_say(error);
}

static void test_config_not_seen(void **state)
{
    struct calls_end end;
    (void)state;
    calls_try(read_in_vain, &end);
    assert_int_equal(WEXITSTATUS(end.status), CALLS_NOT_DONE);
    if (geteuid() != 0)
        skip();
    place_put("half.conf", "[server]\nhostname=half.example.test\n[tls]\nrequired=no\n");
    assert_int_equal(chmod(in_place("half.conf"), 0644), 0);
    assert_int_equal(mkdir(in_place("half.conf.d"), 0700), 0);
    place_put("half.conf.d/1.conf", "[server]\nhostname=whole.example.test\n");
    calls_try(read_half_visible, &end);
    if (end.status != 0)
        fail_msg("wait status %x: %s", (unsigned)end.status, end.said);
}

static int check_config(void)
{
    char error[512] = "";
    struct config *config = configfile_read(in_place("poplar.conf"), error, sizeof error);
    if (!config)
        return calls_say(error);
    return check_all(config) == 0 ? 0 : CALLS_NOT_DONE;
}

static void test_config(void **state)
{
    (void)state;
    assert_true(calls_walk(read_config, calls_told) >= 20);
    if (geteuid() == 0)
        assert_true(calls_walk(check_config, calls_told_or_done) >= 30);
}

static int override; /* which of the cases below */

static const struct {
    const char *section, *key, *value, *said;
} overrides[] = {
    {"server", "state_dir", "/etc/passwd", "must be a directory that is"},
    {"server", "state_dir", "/tmp", "must be a directory that is"},
    {"server", "state_dir", "/nowhere", "make it: install -d"},
    {"server", "worker_user", "mail", "is store_user, too"},
    {"server", "worker_user", "root", "is root"},
    {"server", "worker_user", "no-such-account", "no such account"},
    {"auth", "pam_service", "no-such-service", "pam_service=no-such-service: no readable file"},
    {"tls", "client_ca", "/nowhere/ca.pem", "client_ca=/nowhere/ca.pem: No such file"},
    {"auth", "mechanisms", "external", "mechanisms=external: no client can use it"},
};

static int check_override(void)
{
    char error[512] = "";
    struct config *config = configfile_read(in_place("poplar.conf"), error, sizeof error);
    if (!config || !config_set(config, overrides[override].section, "", overrides[override].key,
                               overrides[override].value, error, sizeof error))
        return CALLS_DONE_WRONG;
    return check_all(config) == 1 ? CALLS_NOT_DONE : CALLS_DONE_WRONG;
}

/* Where nothing else is said the services are the system's, which has none by this name. */
static int check_system_services(void)
{
    char error[512] = "";
    place_put("other.conf",
              "[server]\nprogram_dir=%s\n[tls]\nrequired=no\n"
              "[auth]\npam_service=no-such-poplar\n"
              "[domain a.example]\npam_service=no-such-poplar\n",
              build_dir);
    struct config *config = configfile_read(in_place("other.conf"), error, sizeof error);
    if (!config)
        return calls_say(error);
    check_all(config);
    return CALLS_NOT_DONE;
}

static int check_as_nobody(void)
{
    if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
        return CALLS_DONE_WRONG;
    if (access(build_dir, X_OK) < 0) /* built in root's home, say */
        return CALLS_NOT_DONE;
    return check_config();
}

static void test_check(void **state)
{
    struct calls_end end;
    (void)state;
    if (geteuid() != 0)
        skip();
    for (override = 0; override < (int)ARRAY_SIZE(overrides); override++) {
        calls_try(check_override, &end);
        if (WEXITSTATUS(end.status) != CALLS_NOT_DONE ||
            !strstr(end.said, overrides[override].said))
            fail_msg("case %d: wait status %x: %s", override, (unsigned)end.status, end.said);
    }
    calls_try(check_system_services, &end);
    assert_non_null(
        strstr(end.said, "[auth] pam_service=no-such-poplar: no readable file /etc/pam.d/"));
    assert_non_null(strstr(end.said, "[domain a.example] pam_service=no-such-poplar: no readable"));
    calls_try(check_as_nobody, &end); /* nobody may read the key: that is no fault */
    if (WEXITSTATUS(end.status) != CALLS_NOT_DONE) {
        assert_non_null(strstr(end.said, "key.pem: only root can check this"));
        assert_int_equal(end.status, 0);
    }
    calls_break("open", 5, EACCES); /* of root it is one; configuration and services come first */
    calls_try(check_config, &end);
    assert_non_null(strstr(end.said, "key.pem: Permission denied"));
    calls_break("gethostname", 1, 0);
    struct config *config = config_new();
    char error[256];
    must_set(config, "tls", "", "required", "no");
    assert_true(config_complete(config, error, sizeof error));
    assert_true(calls_mend());
    assert_string_equal(config->server.hostname, "localhost");
    config_free(config);
    calls_answer("gethostname", 1, 0); /* a host without a name */
    config = config_new();
    assert_true(config_complete(config, error, sizeof error) || *error);
    assert_true(calls_mend());
    assert_string_equal(config->server.hostname, "localhost");
    config_free(config);
}

/* The child whose first steps are taken here, by the process that tells it its configuration. */
static int begin_child(void)
{
    static struct child child;
    char error[512] = "";
    int ends[2];
    struct channel master;
    struct config *config = listening_config();
    if (channel_pair(ends, true) < 0)
        return calls_say(strerror(errno));
    if (ends[1] != PROTO_FD_CONTROL && dup3(ends[1], PROTO_FD_CONTROL + 20, 0) < 0)
        return CALLS_DONE_WRONG;
    channel_open(&master, fcntl(ends[0], F_DUPFD, 40), ROLE_MASTER, ROLE_AUTH, STATE_STARTING);
    dup3(PROTO_FD_CONTROL + 20, PROTO_FD_CONTROL, 0);
    struct setup setup = {.config = config, .digest_key = &(uint64_t){42}, .strict = true};
    if (setup_send(&setup, &master, error, sizeof error) != SETUP_DONE)
        return calls_say(error);
    child_begin(&child, ROLE_AUTH, NULL, NULL);
    child_ready(&child);
    return child.strict && child.digest_key == 42 &&
                   strcmp(child.config->server.hostname, "pop.example.test") == 0
               ? 0
               : CALLS_DONE_WRONG;
}

static void test_child(void **state)
{
    (void)state;
    assert_true(calls_walk(begin_child, calls_told) >= 10);
}

/* What a master of another build, or one that is taken over, may say instead. */

static void (*tell_child)(struct channel *master);

static int begin_told_child(void)
{
    static struct child child;
    int ends[2];
    struct channel master;
    assert_int_equal(channel_pair(ends, true), 0);
    channel_open(&master, ends[0], ROLE_MASTER, ROLE_NURSERY, STATE_STARTING);
    tell_child(&master);
    shutdown(ends[0], SHUT_WR);
    pid_t pid = _Fork();
    if (pid == 0) {
        if (ends[1] != PROTO_FD_CONTROL)
            dup3(ends[1], PROTO_FD_CONTROL, 0);
        child_begin(&child, ROLE_NURSERY, NULL, NULL);
        _exit(CALLS_DONE_WRONG);
    }
    siginfo_t info = {0};
    struct message m;
    waitid(P_PID, (id_t)pid, &info, WEXITED);
    while (channel_receive(&master, &m, false, NULL) == CHANNEL_OK) {
        char text[1024];
        (void)message_get_u32(&m);
        if (message_get_text(&m, text, sizeof text))
            calls_say(text);
        message_clear(&m);
    }
    return info.si_code == CLD_EXITED ? info.si_status : CALLS_DONE_WRONG;
}

static char long_text[5000];

static void tell_setting(struct channel *master, size_t which, const char *text)
{
    struct message m;
    const char *fields[] = {"poplar.conf:1", "server", "", "hostname", "a.example"};
    fields[which] = text;
    message_begin(&m, PROTO_SETTING);
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        message_put_text(&m, fields[i]);
    assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
}

static void tell_long_place(struct channel *master)
{
    tell_setting(master, 0, long_text);
}

static void tell_long_section(struct channel *master)
{
    tell_setting(master, 1, long_text);
}

static void tell_long_name(struct channel *master)
{
    tell_setting(master, 2, long_text);
}

static void tell_long_key(struct channel *master)
{
    tell_setting(master, 3, long_text);
}

static void tell_unknown_key(struct channel *master)
{
    tell_setting(master, 3, "no_such_key");
}

static void tell_certificate(struct channel *master, const char *name, const char *path)
{
    struct message m;
    message_begin(&m, PROTO_CERTIFICATE);
    message_put_text(&m, name);
    message_put_text(&m, path);
    message_put_fd(&m, STDERR_FILENO);
    message_put_fd(&m, STDERR_FILENO);
    assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
}

static void tell_long_certificate_name(struct channel *master)
{
    tell_certificate(master, long_text, "/etc/a.pem");
}

static void tell_long_certificate_path(struct channel *master)
{
    tell_certificate(master, "", long_text);
}

static void tell_unwanted_certificate(struct channel *master)
{
    tell_certificate(master, "", "/etc/a.pem");
}

static void tell_incomplete(struct channel *master)
{
    struct message m;
    static const char *const half[] = {"poplar.conf:1", "tls", "", "certificate", "/etc/a.pem"};
    message_begin(&m, PROTO_SETTING);
    for (size_t i = 0; i < ARRAY_SIZE(half); i++)
        message_put_text(&m, half[i]);
    assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
    message_begin(&m, PROTO_START);
    message_put_u32(&m, 1);
    message_put_octets(&m, "", 0);
    assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
}

static void tell_nonsense(struct channel *master)
{
    assert_int_equal(send(master->fd, "\xff", 1, 0), 1);
}

static void tell_nothing(struct channel *master)
{
    (void)master;
}

static void test_child_is_told_nonsense(void **state)
{
    static const struct {
        void (*tell)(struct channel *);
        int status;
        const char *said;
    } cases[] = {
        {tell_long_place, EX_CONFIG, "a setting is too long"},
        {tell_long_section, EX_CONFIG, "a setting is too long"},
        {tell_long_name, EX_CONFIG, "a setting is too long"},
        {tell_long_key, EX_CONFIG, "a setting is too long"},
        {tell_unknown_key, EX_CONFIG, "no_such_key"},
        {tell_long_certificate_name, EX_CONFIG, "path is too long"},
        {tell_long_certificate_path, EX_CONFIG, "path is too long"},
        {tell_unwanted_certificate, EX_CONFIG, "unexpected certificate"},
        {tell_incomplete, EX_CONFIG, "key"},
        {tell_nonsense, PROTO_EXIT_CONTRACT, "of no known type"},
        {tell_nothing, PROTO_EXIT_DONE, ""},
    };
    struct calls_end end;
    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        tell_child = cases[i].tell;
        calls_try(begin_told_child, &end);
        if (!WIFEXITED(end.status) || WEXITSTATUS(end.status) != cases[i].status ||
            !strstr(end.said, cases[i].said))
            fail_msg("case %zu: wait status %x: %s", i, (unsigned)end.status, end.said);
    }
}

/* By hand, it has no master: not even where descriptor 3 is a socket of another kind. */
static int begin_by_hand(void)
{
    static struct child child;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        return CALLS_DONE_WRONG;
    dup3(ends[0] == PROTO_FD_CONTROL ? ends[1] : ends[0], PROTO_FD_CONTROL, 0);
    child_begin(&child, ROLE_AUTH, NULL, NULL);
    return CALLS_DONE_WRONG;
}

/* Who cannot tell the master tells stderr. */
static int log_without_master(void)
{
    int ends[2];
    struct channel control = {.fd = -1};
    child_log(&control, LOG_ERR, "first\nline");
    assert_int_equal(channel_pair(ends, true), 0);
    channel_open(&control, ends[1], ROLE_AUTH, ROLE_MASTER, STATE_IDLE);
    calls_break("sendmsg", 1, ENOMEM);
    child_log(&control, LOG_ERR, "second line");
    calls_mend();
    close(ends[0]);
    child_log(&control, LOG_ERR, "third line");
    return 0;
}

static void test_child_alone(void **state)
{
    struct calls_end end;
    (void)state;
    calls_try(begin_by_hand, &end);
    assert_int_equal(WEXITSTATUS(end.status), EX_USAGE);
    assert_non_null(strstr(end.said, "is started by poplard only"));
    calls_try(log_without_master, &end);
    assert_int_equal(end.status, 0);
    assert_non_null(strstr(end.said, ": first\\x0aline\n"));
    assert_non_null(strstr(end.said, ": second line\n"));
    assert_null(strstr(end.said, "third")); /* a master that hung up knows what it needs */
}

/* Where lines go. */

static int log_to_journal(void)
{
    char name[64];
    struct stat st;
    assert_int_equal(fstatat(STDERR_FILENO, "", &st, AT_EMPTY_PATH), 0);
    snprintf(name, sizeof name, "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", name, 1);
    log_open(LOG_TO_AUTO, LOG_INFO);
    log_line(LOG_ERR, LOG_EVENT_OTHER, NULL, "shown until it has started");
    log_started();
    log_line(LOG_ERR, LOG_EVENT_OTHER, NULL, "journal's alone");
    return 0;
}

static int log_to_stderr(void)
{
    static const char *const streams[] = {"", "8", "0:0", "%s:0"};
    struct stat st;
    char name[64];
    log_started();
    assert_int_equal(fstatat(STDERR_FILENO, "", &st, AT_EMPTY_PATH), 0);
    for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
        base_copy(name, sizeof name, streams[i]);
        if (streams[i][0] == '%') /* the device is the same, the file another */
            snprintf(name, sizeof name, "%llu:1", (unsigned long long)st.st_dev);
        setenv("JOURNAL_STREAM", name, 1);
        log_open(LOG_TO_AUTO, LOG_INFO);
        log_line(LOG_INFO, LOG_EVENT_OTHER, NULL, "seen with '%s'", streams[i]);
    }
    setenv("JOURNAL_STREAM", "1:1", 1);
    calls_break("fstat", 1, 0);
    log_open(LOG_TO_AUTO, LOG_INFO);
    log_line(LOG_INFO, LOG_EVENT_OTHER, NULL, "seen\twithout\x7f");
    log_line(LOG_DEBUG, LOG_EVENT_OTHER, NULL, "not asked for");
    return 0;
}

static int log_to_syslog(void)
{
    struct log_about about = {.session = 7};
    log_open(LOG_TO_SYSLOG, LOG_INFO);
    log_line(LOG_ERR, LOG_EVENT_OTHER, &about, "shown until it has started");
    log_line(LOG_INFO, LOG_EVENT_OTHER, &about, "syslog's");
    log_started();
    log_line(LOG_ERR, LOG_EVENT_OTHER, &about, "syslog's, too");
    return 0;
}

static unsigned count_lines(const char *text, char kind)
{
    const char line[] = {':', ' ', kind, '\n', '\0'};
    unsigned n = 0;
    for (; (text = strstr(text, line)); text++)
        n++;
    return n;
}

/* Lines that anybody can cause leave room for what matters more, and that for what matters most. */
static int log_a_flood(void)
{
    static const enum log_event kinds[] = {LOG_EVENT_SESSION, LOG_EVENT_LOGIN_FAILED,
                                           LOG_EVENT_CRASH};
    static char text[65536];
    int fd = memfd_create("log", 0);
    if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
        return CALLS_DONE_WRONG;
    log_started();
    log_open(LOG_TO_STDERR, LOG_INFO);
    uint64_t second = base_now_ms() / 1000;
    while (base_now_ms() / 1000 == second) /* all of it in one */
        usleep(1000);
    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
        for (int i = 0; i < 600; i++)
            log_line(LOG_INFO, kinds[k], NULL, "%c", "abc"[k]);
    if (pread(fd, text, sizeof text - 1, 0) < 0)
        return CALLS_DONE_WRONG;
    return count_lines(text, 'a') >= 200 && count_lines(text, 'b') >= 100 &&
                   count_lines(text, 'c') >= 50
               ? 0
               : CALLS_DONE_WRONG;
}

static void test_log_flood(void **state)
{
    struct calls_end end;
    (void)state;
    calls_try(log_a_flood, &end);
    assert_int_equal(end.status, 0);
}

static void test_log(void **state)
{
    struct calls_end end;
    (void)state;
    calls_try(log_to_journal, &end);
    assert_string_equal(end.said, "poplard: shown until it has started\n");
    calls_try(log_to_syslog, &end);
    assert_string_equal(end.said, "poplard: session 7: shown until it has started\n");
    calls_try(log_to_stderr, &end);
    assert_string_equal(end.said, "poplard: seen with ''\npoplard: seen with '8'\n"
                                  "poplard: seen with '0:0'\npoplard: seen with '%s:0'\n"
                                  "poplard: seen?without?\n");
}

/* The whole of a start and a stop. */

static int serve(void)
{
    struct master m = {.control_fd = -1};
    m.config_file = in_place("poplar.conf");
    log_open(LOG_TO_STDERR, LOG_INFO);
    return supervise_run(&m);
}

/* It came up, and down again, or it ended with a line that says why; not by a signal, but for what
 * it holds to be impossible. */
static void is_orderly(const char *what, const struct calls_end *end)
{
    bool aborted = WIFSIGNALED(end->status) && WTERMSIG(end->status) == SIGABRT;
    if ((aborted && !strstr(end->said, "defect: ")) || (WIFSIGNALED(end->status) && !aborted) ||
        !*end->said || strstr(end->said, "poplard: \n"))
        fail_msg("%s: wait status %x: %s", what, (unsigned)end->status, end->said);
}

static void test_serve(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    calls_stop_at = ": serving\n";
    unsigned failed = calls_walk(serve, is_orderly);
    calls_stop_at = NULL;
    print_message("%u calls failed\n", failed);
    assert_true(failed > 100);
}

static int set_up(void **state)
{
    (void)state;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int on = 1;
    char self[1024] = "";
    if (!place_make("/tmp", 0755) || readlink("/proc/self/exe", self, 1023) < 0)
        return -1;
    snprintf(build_dir, sizeof build_dir, "%s", dirname(dirname(self)));
    mkdir(in_place("state"), 0700);
    mkdir(in_place("pam.d"), 0755);
    const struct passwd *store = getpwnam("mail");
    if (geteuid() == 0 && (!store || chown(in_place("state"), store->pw_uid, store->pw_gid) < 0))
        return -1;
    place_put("pam.d/poplar", "auth required pam_permit.so\naccount required pam_permit.so\n");
    char *command = base_format(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 "
        "-subj /CN=pop.example.test -keyout %s -out %s 2>/dev/null",
        in_place("key.pem"), in_place("cert.pem"));
    int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (system(command) != 0 || chmod(in_place("key.pem"), 0600) < 0 ||
        bind(probe, (struct sockaddr *)&address, sizeof address) < 0 ||
        getsockname(probe, (struct sockaddr *)&address, &size) < 0 ||
        setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        return -1;
    free(command);
    /* It stays bound: the kernel gives the port to nobody, and whoever means to reuse it may. */
    port = ntohs(address.sin_port);
    write_config();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spawn),
        cmocka_unit_test(test_parent_gone),
        cmocka_unit_test(test_channel),
        cmocka_unit_test(test_channel_interrupted),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_bind),
        cmocka_unit_test(test_bind_over_another),
        cmocka_unit_test(test_listen),
        cmocka_unit_test(test_addresses_within_others),
        cmocka_unit_test(test_built_in_addresses),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_not_seen),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_child),
        cmocka_unit_test(test_child_is_told_nonsense),
        cmocka_unit_test(test_child_alone),
        cmocka_unit_test(test_log_flood),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_serve),
    };
    alarm(1200); /* what waits for ever is no test */
    return cmocka_run_group_tests(tests, set_up, leave_place);
}
