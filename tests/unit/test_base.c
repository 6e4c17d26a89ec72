/*
 * test_base.c - the floor: text for logs, copies that are cut, the two ways to die, the way to who
 * is never waited for.
 */
#include "daemon/base.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <cmocka.h>

static void expect_escaped(const char *text, const char *expected)
{
    char seen[200];
    base_escape(seen, sizeof seen, text);
    assert_string_equal(seen, expected);
}

static void test_escape(void **state)
{
    (void)state;
    expect_escaped("plain ~", "plain ~");
    expect_escaped("a\\b", "a\\\\b");
    expect_escaped("\x1b[1m\r\n\x7f", "\\x1b[1m\\x0d\\x0a\\x7f");
    /* UTF-8 of two, three and four octets, its first and last characters (RFC 3629). */
    expect_escaped("\xc2\xa0\xdf\xbf", "\xc2\xa0\xdf\xbf");
    expect_escaped("\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80", "\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80");
    expect_escaped("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
    /* Control characters of two octets. */
    expect_escaped("\xc2\x9bm", "\\xc2\\x9bm");
    /* Overlong, surrogates, beyond the last, cut short, stray. */
    expect_escaped("\xc0\xaf", "\\xc0\\xaf");
    expect_escaped("\xe0\x80\xaf", "\\xe0\\x80\\xaf");
    expect_escaped("\xed\xa0\x80", "\\xed\\xa0\\x80");
    expect_escaped("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80");
    expect_escaped("\xe2\x82", "\\xe2\\x82");
    expect_escaped("\xf0\x90\x80.", "\\xf0\\x90\\x80.");
    expect_escaped("\x80\xff", "\\x80\\xff");
}

static void test_escape_cuts_between_characters(void **state)
{
    char seen[8];
    (void)state;
    base_escape(seen, 6, "abcd\xc3\xa9");
    assert_string_equal(seen, "abcd");
    base_escape(seen, 7, "abcd\xc3\xa9");
    assert_string_equal(seen, "abcd\xc3\xa9");
    base_escape(seen, 4, "\x01");
    assert_string_equal(seen, "");
}

static void expect_shown(const char *text, const char *expected)
{
    char seen[40];
    base_value(seen, sizeof seen, text);
    assert_string_equal(seen, expected);
}

static void test_value(void **state)
{
    (void)state;
    expect_shown("", "-");
    expect_shown("-", "\"-\"");
    expect_shown("alice", "alice");
    expect_shown("o'brien\\\\x", "o'brien\\\\x");
    expect_shown("a b", "\"a b\"");
    expect_shown("a=b", "\"a=b\"");
    expect_shown("\"", "\"\"\"\"");
    expect_shown("a\" b=\"c", "\"a\"\" b=\"\"c\"");
    expect_shown("<a=b@c>", "<a=b@c>");
    expect_shown("<\"a b\"@c>", "\"<\"\"a b\"\"@c>\"");
}

static void test_quote(void **state)
{
    char seen[20];
    (void)state;
    base_quote(seen, sizeof seen, "a");
    assert_string_equal(seen, "\"a\"");
    /* Cut, it still ends: what follows is none of it. */
    for (size_t size = 3; size < sizeof seen; size++) {
        size_t quotes = 0;
        base_quote(seen, size, "a \"\"b c\"d \"efghijklmn");
        assert_true(strlen(seen) < size && seen[0] == '"');
        for (const char *at = seen; *at; at++)
            quotes += *at == '"';
        assert_int_equal(quotes % 2, 0);
        assert_int_equal(seen[strlen(seen) - 1], '"');
    }
}

static void test_copy(void **state)
{
    char copy[4];
    (void)state;
    assert_true(base_copy(copy, sizeof copy, "abc"));
    assert_string_equal(copy, "abc");
    assert_false(base_copy(copy, sizeof copy, "abcd"));
    assert_string_equal(copy, "abc");
}

static void test_random(void **state)
{
    unsigned char octets[2][64] = {{0}};
    (void)state;
    base_random(octets[0], sizeof octets[0]);
    base_random(octets[1], sizeof octets[1]);
    assert_memory_not_equal(octets[0], octets[1], sizeof octets[0]);
}

static int end_of(void (*die)(void))
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        close(STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        die();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void die_of_the_environment(void)
{
    fatal(EX_OSERR, "nothing works");
}

static void die_of_a_defect(void)
{
    bug("impossible");
}

static void test_ends(void **state)
{
    (void)state;
    int status = end_of(die_of_the_environment);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == EX_OSERR);
    status = end_of(die_of_a_defect);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* By a path, or by a name of the kernel's own; where nobody is, or nobody can be, it counts as
 * told; where there is no room it does not. */
static void test_tell(void **state)
{
    char endless[200], text[8] = "", named[40];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)state;
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    assert_true(base_tell(endless, "text"));
    assert_true(base_tell("/nowhere/socket", "text"));
    int length = snprintf(named, sizeof named, "@poplar-test-%d", getpid());
    memcpy(address.sun_path, named, (size_t)length);
    address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    size_t size = offsetof(struct sockaddr_un, sun_path) + (size_t)length;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, (socklen_t)size), 0);
    assert_true(base_tell(named, "READY=1"));
    assert_int_equal(recv(fd, text, sizeof text, 0), 7);
    assert_memory_equal(text, "READY=1", 7);
    int told = 0;
    while (told < 100000 && base_tell(named, "READY=1"))
        told++;
    assert_true(told > 0 && told < 100000);
    for (; told > 0; told--)
        assert_int_equal(recv(fd, text, sizeof text, 0), 7);
    assert_true(recv(fd, text, sizeof text, 0) < 0);
    assert_true(base_tell(named, "READY=1"));
    close(fd);
}

static void test_unseen(void **state)
{
    char dir[] = "/tmp/poplar-unseen-XXXXXX";
    (void)state;
    assert_string_not_equal(base_unseen("/root/x"), "");
    assert_string_equal(base_unseen("/rooted/x"), "");
    assert_string_equal(base_unseen("/etc/x"), "");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    assert_int_equal(symlink("/etc/x", "there") | symlink("/home/mail", "home"), 0);
    errno = ENOENT;
    const char *there = base_unseen("there"), *home = base_unseen("home"),
               *none = base_unseen("none");
    assert_int_equal(errno, ENOENT);
    assert_int_equal(unlink("there") | unlink("home") | rmdir(dir), 0);
    assert_string_equal(there, "");
    assert_string_equal(none, "");
    assert_string_not_equal(home, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape), cmocka_unit_test(test_escape_cuts_between_characters),
        cmocka_unit_test(test_value),  cmocka_unit_test(test_quote),
        cmocka_unit_test(test_copy),   cmocka_unit_test(test_random),
        cmocka_unit_test(test_ends),   cmocka_unit_test(test_tell),
        cmocka_unit_test(test_unseen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
