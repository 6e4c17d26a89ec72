/*
 * test_pam.c - auth/pam.c against real Linux-PAM stacks in a directory of their own: pam_permit,
 * pam_deny, pam_debug, pam_matrix, and a module of ours that misbehaves. Nothing under /etc.
 */
#include "auth/pam.h"
#include "daemon/pam_service.h"
#include "tests/support/place.h"

#include <errno.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char module[4096]; /* pam_poplar_test.so, built beside this program */

static char *read_text(const char *name)
{
    static char text[400];
    memset(text, 0, sizeof text);
    FILE *file = fopen(in_place(name), "re");
    if (!file)
        return NULL;
    size_t got = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[got] = '\0';
    return text;
}

/* Make service "poplar" of these modules. */
static void stack(const char *auth, const char *account)
{
    place_put("poplar", "auth required %s\naccount required %s\nsession required pam_permit.so\n",
              auth, account);
}

static const char *ours(const char *arguments)
{
    static char text[2][sizeof module + 400];
    static unsigned next;
    char *at = text[next++ % 2];
    snprintf(at, sizeof text[0], "%s %s", module, arguments);
    return at;
}

static void put_other(void)
{
    place_put("other", "auth required pam_permit.so\naccount required pam_permit.so\n");
}

static int set_up_group(void **state)
{
    (void)state;
    if (!place_make("/tmp", 0700))
        return -1;
    base_copy(module, sizeof module, beside_program("pam_poplar_test.so"));
    put_other();
    return access(module, R_OK);
}

static struct pam_login last;

static enum login_outcome check(const char *user, const char *secret)
{
    last = (struct pam_login){
        .service = "poplar", .confdir = place, .user = user, .secret = secret, .peer = "192.0.2.7"};
    enum login_outcome outcome = pam_login_check(&last);
    pam_login_end(&last);
    pam_login_end(&last);
    bool explained = outcome == LOGIN_UNAVAILABLE || outcome == LOGIN_MISCONFIGURED;
    if (explained != (last.problem[0] != '\0'))
        fail_msg("outcome %u with problem '%s'", outcome, last.problem);
    return outcome;
}

static void test_outcomes(void **state)
{
    (void)state;
    static const struct {
        const char *auth, *account;
        enum login_outcome outcome;
    } cases[] = {
        {"pam_permit.so", "pam_permit.so", LOGIN_OK},
        {"pam_deny.so", "pam_permit.so", LOGIN_DENIED},
        {"pam_permit.so", "pam_deny.so", LOGIN_ACCOUNT},
        {"pam_debug.so auth=success", "pam_debug.so acct=success", LOGIN_OK},
        {"pam_debug.so auth=auth_err", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=user_unknown", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=maxtries", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=perm_denied", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=cred_insufficient", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=acct_expired", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=authtok_expired", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=cred_expired", "pam_permit.so", LOGIN_DENIED},
        {"pam_debug.so auth=new_authtok_reqd", "pam_permit.so", LOGIN_EXPIRED},
        {"pam_debug.so auth=authinfo_unavail", "pam_permit.so", LOGIN_UNAVAILABLE},
        {"pam_debug.so auth=service_err", "pam_permit.so", LOGIN_UNAVAILABLE},
        {"pam_debug.so auth=system_err", "pam_permit.so", LOGIN_UNAVAILABLE},
        {"pam_debug.so auth=buf_err", "pam_permit.so", LOGIN_UNAVAILABLE},
        {"pam_debug.so auth=conv_err", "pam_permit.so", LOGIN_UNAVAILABLE},
        {"pam_debug.so auth=abort", "pam_permit.so", LOGIN_UNAVAILABLE},
        {"pam_debug.so auth=symbol_err", "pam_permit.so", LOGIN_MISCONFIGURED},
        {"pam_permit.so", "pam_debug.so acct=new_authtok_reqd", LOGIN_EXPIRED},
        {"pam_permit.so", "pam_debug.so acct=authtok_expired", LOGIN_EXPIRED},
        {"pam_permit.so", "pam_debug.so acct=acct_expired", LOGIN_ACCOUNT},
        {"pam_permit.so", "pam_debug.so acct=perm_denied", LOGIN_ACCOUNT},
        {"pam_permit.so", "pam_debug.so acct=auth_err", LOGIN_ACCOUNT},
        {"pam_permit.so", "pam_debug.so acct=user_unknown", LOGIN_DENIED},
        {"pam_permit.so", "pam_debug.so acct=authinfo_unavail", LOGIN_UNAVAILABLE},
        {"pam_no_such_module.so", "pam_permit.so", LOGIN_MISCONFIGURED},
        {"pam_permit.so", "pam_no_such_module.so", LOGIN_MISCONFIGURED},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        stack(cases[i].auth, cases[i].account);
        enum login_outcome outcome = check("alice", "secret");
        if (outcome != cases[i].outcome)
            fail_msg("%s, %s: outcome %u, not %u", cases[i].auth, cases[i].account, outcome,
                     cases[i].outcome);
        assert_string_equal(last.name, outcome == LOGIN_OK ? "alice" : "");
    }
}

static void test_conversation(void **state)
{
    (void)state;
    static const char *const impossible[] = {"conv=none", "conv=many", "conv=binary", "conv=null"};
    for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
        stack(ours(impossible[i]), "pam_permit.so");
        assert_int_equal(check("alice", "secret"), LOGIN_UNAVAILABLE);
        assert_non_null(strstr(last.problem, "onversation"));
    }
    stack(ours("conv=prompt"), "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_string_equal(last.remark, "");
    stack(ours("conv=text"), "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_string_equal(last.remark, "Your cat\nis on fire");
    /* "New password:" must not be answered with the old one. */
    stack("pam_permit.so", ours("account-prompt"));
    assert_int_equal(check("alice", "secret"), LOGIN_UNAVAILABLE);
}

static void test_items(void **state)
{
    (void)state;
    char *arguments = base_format("items=%s", in_place("items"));
    stack(ours(arguments), "pam_permit.so");
    free(arguments);
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_string_equal(read_text("items"),
                        "service=poplar user=alice rhost=192.0.2.7 tty=poplar ruser=\n");
}

static void test_rename(void **state)
{
    (void)state;
    char arguments[300] = "rename=", name[PROTO_USER_MAX + 2];
    stack(ours("rename=bob"), "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_string_equal(last.name, "bob");
    stack(ours("rename=../../etc/x"), "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_string_equal(last.name, "../../etc/x"); /* canonical_finish() refuses it */
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(arguments, sizeof arguments, "rename=%s", name);
    stack(ours(arguments), "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_string_equal(last.name, "");
}

/* Not one octet of a password is changed on its way. */
static void test_blanks_in_passwords(void **state)
{
    (void)state;
    stack(ours("[expect=  a~b  c ]"), "pam_permit.so");
    assert_int_equal(check("alice", "  a\tb  c "), LOGIN_OK);
    assert_int_equal(check("alice", "a\tb  c"), LOGIN_DENIED);
    stack(ours("expect=\\%n\xff"), "pam_permit.so");
    assert_int_equal(check("alice", "\\%n\xff"), LOGIN_OK);
}

static void test_matrix(void **state)
{
    (void)state;
    glob_t found;
    if (glob("/usr/lib*/{,*/}pam_wrapper/pam_matrix.so", GLOB_BRACE, NULL, &found) != 0)
        skip(); /* package libpam-wrapper */
    char *line =
        base_format("%s passdb=%s", found.gl_pathv[0], place_put("passdb", "alice:right:poplar\n"));
    globfree(&found);
    stack(line, line);
    free(line);
    assert_int_equal(check("alice", "right"), LOGIN_OK);
    assert_int_equal(check("alice", "wrong"), LOGIN_DENIED);
    assert_int_equal(check("alice", "right "), LOGIN_DENIED);
    assert_int_equal(check("carol", "right"), LOGIN_DENIED);
}

static bool is_mapped(void)
{
    char line[5000];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (!found && fgets(line, sizeof line, maps))
        found = strstr(line, "pam_poplar_test.so") != NULL;
    fclose(maps);
    return found;
}

/* The pin keeps modules mapped, and a change of the file counts from the next login on. */
static void test_pins(void **state)
{
    (void)state;
    struct pam_pins pins = {0};
    stack(ours(""), "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_false(is_mapped());
    char problem[400];
    assert_true(pam_pins_add(&pins, "poplar", place, problem, sizeof problem));
    assert_string_equal(problem, "");
    assert_true(is_mapped());
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_true(is_mapped());

    stack("pam_deny.so", "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_DENIED);
    stack(ours("rename=bob"), "pam_permit.so");
    assert_int_equal(check("alice", "secret"), LOGIN_OK);
    assert_string_equal(last.name, "bob");
    pam_pins_release(&pins);
    assert_false(is_mapped());
}

static void test_session_that_fails(void **state)
{
    (void)state;
    static const struct {
        const char *module;
        enum login_outcome outcome;
    } cases[] = {{"pam_permit.so", LOGIN_OK},
                 {"pam_deny.so", LOGIN_UNAVAILABLE},
                 {"pam_poplar_nix.so", LOGIN_MISCONFIGURED}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        place_put("poplar",
                  "auth required pam_permit.so\naccount required pam_permit.so\n"
                  "session required %s\n",
                  cases[i].module);
        last = (struct pam_login){.service = "poplar",
                                  .confdir = place,
                                  .user = "root",
                                  .secret = "x",
                                  .peer = "192.0.2.7"};
        assert_int_equal(pam_login_check(&last), LOGIN_OK);
        assert_int_equal(pam_login_session(&last), cases[i].outcome);
        assert_int_equal(last.problem[0] != '\0', cases[i].outcome != LOGIN_OK);
        pam_login_end(&last);
    }
}

static void test_find_service(void **state)
{
    (void)state;
    char problem[400] = "";
    place_put("empty", "%s", "");
    assert_return_code(mkdir(in_place("directory"), 0700), errno);
    stack("pam_permit.so", "pam_permit.so");
    assert_true(pam_service_find("poplar", place, problem, sizeof problem));
    assert_true(pam_service_find("Poplar", place, problem, sizeof problem)); /* as PAM does */
    assert_string_equal(problem, "");
    static const char *const wrong[] = {"missing", "empty", "directory", "../poplar", ".", ""};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        problem[0] = '\0';
        assert_false(pam_service_find(wrong[i], place, problem, sizeof problem));
        assert_non_null(strstr(problem, "pam_service"));
    }
    assert_false(pam_service_find("missing", place, problem, sizeof problem));
    assert_non_null(strstr(problem, place));
    assert_false(pam_service_find("poplar-no-such-service", NULL, problem, sizeof problem));
    assert_non_null(strstr(problem, "/etc/pam.d/poplar-no-such-service"));
    assert_true(pam_service_find("other", NULL, problem, sizeof problem));
}

/* What libpam would take for its end: a file that cannot be read to it, here or included. */
static void test_service_that_cannot_be_read(void **state)
{
    (void)state;
    char problem[400] = "";
    static const char *const includes[] = {"@include ", "auth include ", "session substack "};
    static const char unreadable[] = "/sys/class/net/lo/speed"; /* a file; EINVAL */
    if (access(unreadable, R_OK) < 0)
        skip();
    for (size_t i = 0; i < ARRAY_SIZE(includes); i++) {
        char *text =
            base_format("auth required pam_permit.so\naccount required pam_permit.so\n%s%s\n",
                        includes[i], unreadable);
        place_put("poplar", "%s", text);
        assert_false(pam_service_find("poplar", place, problem, sizeof problem));
        assert_non_null(
            strstr(problem, "pam_service=poplar: a file of the service cannot be read"));
        free(text);
    }
    place_put("poplar", "-auth required pam_permit.so\n-account required pam_permit.so\n");
    assert_true(pam_service_find("poplar", place, problem, sizeof problem));
    place_put("poplar", "auth required pam_permit.so\n# include\naccount required pam_permit.so\n"
                        "#auth include nothing\nsession include nothing\n");
    assert_true(pam_service_find("poplar", place, problem, sizeof problem));
}

struct useless_line {
    const char *line, *said;
};

/* libpam ends with an error, or lets nobody pass as if every password were wrong, and tells the log
 * alone. */
static void expect_useless(const struct useless_line *wrong)
{
    struct pam_pins pins = {0};
    char problem[400] = "";
    place_put("poplar", "auth required pam_permit.so\naccount required pam_permit.so\n%s\n",
              wrong->line);
    assert_true(pam_service_find("poplar", place, problem, sizeof problem));
    if (pam_pins_add(&pins, "poplar", place, problem, sizeof problem))
        fail_msg("%s is held", wrong->line);
    if (!strstr(problem, "pam_service=poplar: ") || !strstr(problem, wrong->said))
        fail_msg("%s: %s", wrong->line, problem);
    assert_int_equal(check("root", "x"), LOGIN_MISCONFIGURED);
    if (!strstr(last.problem, wrong->said))
        fail_msg("%s: %s", wrong->line, last.problem);
    pam_pins_release(&pins);
}

/* In a process that nobody asks for what it did not free: libpam forgets that where it cannot
 * start. */
static void test_service_that_libpam_cannot_use(void **state)
{
    (void)state;
    static const struct useless_line wrong[] = {
        {"@include nix", "unable to open config for"},
        {"auth include nix", "unable to open config for"},
        {"-auth substack nix", "unable to open config for"},
        {"auth requird pam_permit.so", "requird"},
        {"-Account requird", "requird"},
        {"account requird=1 pam_permit.so", "expecting"},
        {"auth [success=one] pam_permit.so", "expecting"},
        {"auht required pam_permit.so", "illegal module type: auht"},
        {"\r", "illegal module type"},
        {"auth required", "no module name supplied"}};
    int status;
    const pid_t pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
            expect_useless(&wrong[i]);
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_service_that_libpam_can_use(void **state)
{
    (void)state;
    static const struct {
        const char *line, *said;
    } right[] = {{"auth REQUIRED pam_permit.so", NULL},
                 {"auth\trequisite\tpam_permit.so", NULL},
                 {"-auth required pam_permit.so", NULL},
                 {"-account optional pam_nix.so", NULL},
                 {"account [success=ok default=bad] pam_permit.so", NULL},
                 {"auth \\\n required pam_permit.so", NULL},
                 {"#auth requird \\", NULL},
                 {"auth optional pam_nix.so", "unable to dlopen(pam_nix.so)"},
                 {"auth optional pam_permit.so\r", "cannot open shared object file"}};
    for (size_t i = 0; i < ARRAY_SIZE(right); i++) {
        struct pam_pins pins = {0};
        char problem[400] = "";
        place_put("poplar", "auth required pam_permit.so\n%s\naccount required pam_permit.so\n",
                  right[i].line);
        assert_true(pam_service_find("poplar", place, problem, sizeof problem));
        if (!pam_pins_add(&pins, "poplar", place, problem, sizeof problem))
            fail_msg("%s: %s", right[i].line, problem);
        if (right[i].said ? !strstr(problem, right[i].said) : *problem)
            fail_msg("%s: %s", right[i].line, problem);
        assert_int_equal(check("root", "x"), LOGIN_OK);
        pam_pins_release(&pins);
    }
}

/* libpam reads it after every service. */
static void test_other_that_libpam_cannot_use(void **state)
{
    (void)state;
    static const char *const wrong[] = {"auht required pam_permit.so", "auth requird pam_deny.so"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct pam_pins pins = {0};
        char problem[400] = "";
        place_put("other", "%s\n", wrong[i]);
        stack("pam_permit.so", "pam_debug.so acct=perm_denied");
        if (!pam_pins_add(&pins, "poplar", place, problem, sizeof problem) || *problem)
            fail_msg("%s: %s", wrong[i], problem);
        assert_int_equal(check("root", "x"), LOGIN_ACCOUNT);
        place_put("poplar", "auht\nauth required pam_permit.so\naccount required pam_permit.so\n");
        assert_false(pam_pins_add(&pins, "poplar", place, problem, sizeof problem));
        assert_int_equal(check("root", "x"), LOGIN_MISCONFIGURED);
        pam_pins_release(&pins);
    }
    put_other();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_service_that_libpam_cannot_use),
        cmocka_unit_test(test_service_that_libpam_can_use),
        cmocka_unit_test(test_other_that_libpam_cannot_use),
        cmocka_unit_test(test_service_that_cannot_be_read),
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_session_that_fails),
        cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_rename),
        cmocka_unit_test(test_blanks_in_passwords),
        cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_find_service),
    };
    return cmocka_run_group_tests_name("pam", tests, set_up_group, leave_place);
}
