/*
 * test_ctl_server.c - poplarctl status and reload against a control socket of our own: the answer,
 * its status, and every way in which there is none.
 */
#include "daemon/channel.h"
#include "store/ctl.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/poplar-test-ctl-XXXXXX";

static int enter_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink("control");
    unlink("output");
    return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

enum behaviour { ANSWER, HANG_UP, BABBLE };

/* What the master would do with one caller. */
static void serve(int listener, enum behaviour behaviour, enum proto_type asked, unsigned status,
                  const char *text)
{
    struct channel c;
    static struct message m;
    int fd = accept(listener, NULL, NULL);
    channel_open(&c, fd, ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    if (channel_receive(&c, &m, true, NULL) != CHANNEL_OK || m.rule->type != asked)
        _exit(1);
    if (behaviour == BABBLE && write(fd, "\xff?", 2) != 2)
        _exit(1);
    if (behaviour == ANSWER) {
        message_begin(&m, PROTO_REPLY);
        message_put_u32(&m, status);
        message_put_text(&m, text);
        if (channel_send(&c, &m, true) != CHANNEL_OK)
            _exit(1);
    }
    _exit(0);
}

static pid_t start_master(enum behaviour behaviour, enum proto_type asked, unsigned status,
                          const char *text)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "control"};
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    unlink("control");
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 1), 0);
    pid_t child = fork();
    if (child == 0)
        serve(listener, behaviour, asked, status, text);
    close(listener);
    return child;
}

/* Run a command with its output in a file; returns its status, `text` gets what it printed. */
static int run(int (*command)(struct ctl *), unsigned options, char *text, size_t size)
{
    struct ctl ctl = {.options = options, .config = config_new()};
    char error[200];
    assert_true(config_set(ctl.config, "server", "", "run_dir", folder, error, sizeof error));
    fflush(stdout);
    int kept = dup(STDOUT_FILENO);
    int file = open("output", O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDOUT_FILENO);
    int status = command(&ctl);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    ssize_t got = pread(file, text, size - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    close(file);
    config_free(ctl.config);
    return status;
}

static void expect(enum behaviour behaviour, enum proto_type type, unsigned options, unsigned reply,
                   const char *text, int status, const char *output)
{
    char printed[9000];
    int ended;
    pid_t master = start_master(behaviour, type, reply, text);
    int (*command)(struct ctl *) = type == PROTO_STATUS ? ctl_status : ctl_reload;
    assert_int_equal(run(command, options, printed, sizeof printed), status);
    assert_string_equal(printed, output);
    assert_int_equal(waitpid(master, &ended, 0), master);
    assert_int_equal(ended, 0);
}

static void passes_the_answer_on(void **state)
{
    (void)state;
    expect(ANSWER, PROTO_STATUS, 0, EX_PROTOCOL, "another version", EX_PROTOCOL, "");
    expect(ANSWER, PROTO_RELOAD, 0, 0, "", 0, "");
    expect(ANSWER, PROTO_RELOAD, 0, 0, "reloaded", 0, "reloaded\n");
    expect(ANSWER, PROTO_RELOAD, 0, EX_CONFIG, "poplar.conf:3: no such key", EX_CONFIG, "");
    expect(ANSWER, PROTO_RELOAD, CTL_JSON, EX_CONFIG, "line 3", EX_CONFIG,
           "{\"status\":78,\"text\":\"line 3\"}\n");
}

static void survives_a_bad_master(void **state)
{
    (void)state;
    expect(HANG_UP, PROTO_STATUS, 0, 0, "", EX_UNAVAILABLE, "");
    expect(BABBLE, PROTO_RELOAD, 0, 0, "", EX_PROTOCOL, "");
}

static void says_when_nobody_is_there(void **state)
{
    (void)state;
    char printed[100];
    unlink("control");
    assert_int_equal(run(ctl_status, 0, printed, sizeof printed), EX_UNAVAILABLE);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "control"};
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    close(listener); /* a socket that a killed master left behind */
    assert_int_equal(run(ctl_reload, 0, printed, sizeof printed), EX_UNAVAILABLE);
    assert_string_equal(printed, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_the_answer_on),
        cmocka_unit_test(survives_a_bad_master),
        cmocka_unit_test(says_when_nobody_is_there),
    };
    return cmocka_run_group_tests(tests, enter_folder, remove_folder);
}
