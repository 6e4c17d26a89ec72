/*
 * test_calls_auth.c - each call of poplar-auth fails at each of its places in turn, in a login with
 * PAM that makes a maildrop, and in the parts of it: the login works, or the worker is told that it
 * does not now and the log why; the next one works, and nothing half made is left.
 */
#include "auth/canonical.h"
#include "auth/grant.h"
#include "auth/pam.h"
#include "auth/recipient.h"
#include "auth/selfcheck.h"
#include "auth/service.h"
#include "daemon/base.h"
#include "daemon/child.h"
#include "daemon/pam_service.h"
#include "tests/calls/calls.h"
#include "tests/support/place.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <pwd.h>
#include <security/pam_appl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SKIPPED = 12, ABORTED = 13 }; /* an attempt's exit statuses */
enum { NOBODY = 65534 };

static const struct passwd *store;

static struct config *configure(void)
{
    struct config *config = config_new();
    const char *const settings[][3] = {
        {"auth", "pam_confdir", in_place("pam.d")},
        {"auth", "canonical", "pam"},
        {"auth", "require_nss", "no"},
        {"server", "state_dir", in_place("state")},
        {"server", "store_user", store->pw_name},
        {"server", "log_level", "debug"},
        {"delivery", "trusted", "daemon, no-such-account"},
        {"auth", "session", "yes"},
    };
    config_at(config, "test");
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        must_set(config, settings[i][0], "", settings[i][1], settings[i][2]);
    return config;
}

static void empty_state(void)
{
    calls_hold(true);
    remove_tree(in_place("state"));
    assert_int_equal(mkdir(in_place("state"), 0700), 0);
    if (geteuid() == 0)
        assert_int_equal(chown(in_place("state"), store->pw_uid, store->pw_gid), 0);
    calls_hold(false);
}

/* A maildrop. */

/* Nothing that a maker left behind. */
static bool is_tidy(void)
{
    return count_in_tree(in_place("state"), ".new-") == 0;
}

static enum login_outcome grant(struct config *config, char *error, size_t size)
{
    int files[MAILDROP_FILES];
    struct grant_root *root = grant_root_open(config, error, size);
    if (!root)
        return LOGIN_MISCONFIGURED;
    enum login_outcome outcome = grant_open(root, "alice", true, true, files, error, size);
    for (unsigned i = 0; outcome == LOGIN_OK && i < MAILDROP_FILES; i++)
        close(files[i]);
    grant_root_close(root);
    return outcome;
}

/* Once with what fails, then again. */
static int make_and_open(void)
{
    char error[600] = "";
    calls_hold(true);
    struct config *config = configure();
    calls_hold(false);
    enum login_outcome outcome = grant(config, error, sizeof error);
    calls_hold(true);
    if (outcome != LOGIN_OK)
        calls_say(error);
    if (!is_tidy() && !strstr(error, "fsync")) /* what could not be removed either */
        calls_say("something half made is left");
    enum login_outcome again = grant(config, error, sizeof error);
    if (again != LOGIN_OK) {
        calls_say(error);
        return CALLS_DONE_WRONG;
    }
    return outcome == LOGIN_OK ? 0 : CALLS_NOT_DONE;
}

static int make_new(void)
{
    empty_state();
    return make_and_open();
}

static int make_below_mail(void)
{
    empty_state();
    calls_hold(true);
    assert_int_equal(mkdir(in_place("state/mail"), 0700), 0);
    assert_int_equal(lchown(in_place("state/mail"), store->pw_uid, store->pw_gid), 0);
    calls_hold(false);
    return make_and_open();
}

/* A plain SQLite was here: it unlinks what it leaves empty. */
static int open_without_wal(void)
{
    char below[GRANT_PATH_MAX], wal[GRANT_PATH_MAX + 20];
    calls_hold(true);
    assert_true(grant_path("alice", below));
    snprintf(wal, sizeof wal, "state/%s/%s", below, maildrop_file_names[MAILDROP_WAL]);
    assert_int_equal(unlink(in_place(wal)), 0);
    calls_hold(false);
    return make_and_open();
}

/* Who cannot come back from the store user's ids ends on the spot. */
static void told_or_ended(const char *what, const struct calls_end *end)
{
    const char *defect = strstr(end->said, "defect: ");
    if (defect && (strncmp(what, "set", 3) != 0 || !strstr(defect, "did not come back")))
        fail_msg("%s: %s", what, end->said);
    if (!defect || !WIFSIGNALED(end->status))
        calls_told_or_done(what, end);
}

static void test_grant(void **state)
{
    static const struct {
        int error;
        const char *said;
    } meanings[] = {{ENOSYS, "openat2() is denied"},
                    {EACCES, "Permission denied"},
                    {EPERM, "not permitted"},
                    {EXDEV, "Invalid cross-device link"},
                    {EMFILE, "Too many open files"}};
    struct calls_end end;
    (void)state;
    unsigned made = calls_walk(make_new, told_or_ended);
    unsigned opened = calls_walk(make_and_open, told_or_ended);
    print_message("%u and %u calls failed\n", made, opened);
    assert_true(made > 30 && opened > 10);
    for (size_t i = 0; i < ARRAY_SIZE(meanings); i++) {
        calls_break("syscall", 2, meanings[i].error); /* after the look at mail/ */
        calls_try(make_and_open, &end);
        assert_true(end.met);
        assert_non_null(strstr(end.said, meanings[i].said));
    }
    for (unsigned i = 0; i < 2; i++) { /* locks of other systems say EACCES */
        calls_break("fcntl", 1, i ? EACCES : EAGAIN);
        calls_try(make_and_open, &end);
        assert_non_null(strstr(end.said, "held by another session"));
    }
    for (unsigned i = 0; i < 2; i++) { /* somebody else was first */
        calls_break("renameat", 1, i ? EEXIST : ENOTEMPTY);
        calls_try(make_new, &end);
        assert_true(end.met);
        assert_int_equal(end.status, 0);
    }
    calls_break_from("renameat2", 1, EINVAL); /* a file system that knows no flags to it, ZFS say */
    calls_try(make_new, &end);
    assert_int_equal(end.status, 0);
    calls_break("write", 1, EINTR);
    calls_try(make_new, &end);
    assert_true(end.met);
    assert_int_equal(end.status, 0);
    calls_answer("write", 1, 0); /* nothing for ever is no way to go on */
    calls_try(make_new, &end);
    assert_true(end.met);
    assert_int_equal(WEXITSTATUS(end.status), CALLS_NOT_DONE);
    calls_break("fsync", 1, EIO); /* what is committed to it must be found after a power cut */
    calls_try(open_without_wal, &end);
    assert_true(end.met);
    assert_int_equal(WEXITSTATUS(end.status), CALLS_NOT_DONE);
    calls_break("syscall", 4, ENOENT); /* somebody else made mail/ a moment ago */
    calls_try(make_below_mail, &end);
    assert_true(end.met);
    assert_int_equal(end.status, 0);
}

/* As poplar-auth begins. */
static int use_root(void)
{
    char error[600] = "";
    calls_hold(true);
    struct config *config = configure();
    calls_hold(false);
    struct grant_root *root = grant_root_open(config, error, sizeof error);
    bool good = root && grant_root_is_usable(root, config, NOBODY, error, sizeof error);
    calls_hold(true);
    grant_root_close(root);
    if (geteuid() != (uid_t)syscall(SYS_getuid) || count_in_tree(in_place("state"), "spool-") > 0)
        return CALLS_DONE_WRONG;
    return good ? 0 : calls_say(error);
}

static void test_file_systems(void **state)
{
    static const long remote[] = {NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, 0xff534d42, 0xfe534d42};
    static const struct {
        const char *call;
        int error;
        const char *said;
    } lacks[] = {
        {"syscall", ENOSYS, "RestrictSUIDSGID=yes"}, /* systemd's filter for it */
        {"syscall", EPERM, "RestrictSUIDSGID=yes"},  /* a container engine's */
        {"mmap", ENODEV, "(mmap)"},
        {"mmap", EINVAL, "(mmap)"},
        {"fcntl", ENOLCK, "cannot be locked"},
        {"fcntl", ENOSYS, "cannot be locked"},
        {"fstat", EACCES, "allow_other"},
    };
    struct calls_end end;
    (void)state;
    empty_state();
    assert_true(calls_walk(use_root, told_or_ended) > 8);
    for (size_t i = 0; i < ARRAY_SIZE(lacks); i++) {
        if (geteuid() != 0 && lacks[i].error == EACCES)
            continue; /* who asks is the worker */
        /* Of state_dir itself everybody may know. */
        calls_break(lacks[i].call, strcmp(lacks[i].call, "fstat") == 0 ? 2 : 1, lacks[i].error);
        calls_try(use_root, &end);
        assert_true(end.met);
        if (!strstr(end.said, lacks[i].said))
            fail_msg("%s: not '%s', but: %s", lacks[i].call, lacks[i].said, end.said);
    }
    for (size_t i = 0; i < ARRAY_SIZE(remote); i++) {
        calls_file_system = remote[i];
        calls_break("fstatfs", 1, 0);
        calls_try(make_and_open, &end);
        assert_non_null(strstr(end.said, "lies on NFS or CIFS"));
    }
    calls_file_system = 0;
}

/* Some capabilities are gone: no maildrop is opened under root's ids, nor under one of them. */
static int grant_without(unsigned capabilities)
{
    char error[600] = "";
    struct config *config = configure();
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capget, &header, data) < 0)
        return CALLS_DONE_WRONG;
    data[0].effective &= ~capabilities;
    data[0].permitted &= ~capabilities;
    if (syscall(SYS_capset, &header, data) < 0)
        return CALLS_DONE_WRONG;
    return grant(config, error, sizeof error) == LOGIN_OK ? CALLS_DONE_WRONG : calls_say(error);
}

static int grant_without_setuid(void)
{
    return grant_without(1U << CAP_SETUID);
}

static int grant_without_setgid(void)
{
    return grant_without(1U << CAP_SETGID);
}

static int grant_without_both(void)
{
    return grant_without(1U << CAP_SETUID | 1U << CAP_SETGID);
}

static int grant_as_another(void)
{
    char error[600] = "";
    struct config *config = configure();
    if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
        return CALLS_DONE_WRONG;
    return grant(config, error, sizeof error) == LOGIN_OK ? CALLS_DONE_WRONG : calls_say(error);
}

static int grant_to_himself(void)
{
    empty_state();
    if (setresgid(store->pw_gid, store->pw_gid, store->pw_gid) < 0 ||
        setresuid(store->pw_uid, store->pw_uid, store->pw_uid) < 0)
        return CALLS_DONE_WRONG;
    return make_and_open();
}

static void test_ids(void **state)
{
    static int (*const without[])(void) = {grant_without_setuid, grant_without_setgid,
                                           grant_without_both};
    struct calls_end end;
    (void)state;
    if (geteuid() != 0)
        skip();
    for (size_t i = 0; i < ARRAY_SIZE(without); i++) {
        calls_try(without[i], &end);
        assert_non_null(strstr(end.said, "cannot take store_user's ids"));
    }
    calls_try(grant_as_another, &end);
    assert_non_null(strstr(end.said, "by root or this user only"));
    calls_try(grant_to_himself, &end);
    assert_int_equal(end.status, 0);
}

static int make_spool(void)
{
    char error[600] = "";
    struct stat st = {0};
    struct config *config = configure();
    struct grant_root *root = grant_root_open(config, error, sizeof error);
    if (!root)
        return calls_say(error);
    int fd = grant_spool(root, error, sizeof error);
    calls_hold(true);
    if ((uid_t)setfsuid((uid_t)-1) != geteuid())
        return CALLS_DONE_WRONG;
    if (fd < 0)
        return calls_say(error);
    return fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && st.st_nlink == 0 && (st.st_mode & 077) == 0
               ? 0
               : CALLS_DONE_WRONG;
}

static void test_spool(void **state)
{
    static const int no_tmpfile[] = {EOPNOTSUPP, EISDIR, ENOENT};
    struct calls_end end;
    (void)state;
    empty_state();
    assert_true(calls_walk(make_spool, told_or_ended) >= 2);
    for (size_t i = 0; i < ARRAY_SIZE(no_tmpfile); i++) {
        calls_break("syscall", 2, no_tmpfile[i]); /* after the look at mail/ */
        calls_try(make_spool, &end);
        assert_true(end.met);
        assert_int_equal(end.status, 0);
    }
    assert_int_equal(count_in_tree(in_place("state"), "spool-"), 0);
    calls_break_from("syscall", 2, EISDIR); /* nor does what takes its place work */
    calls_try(make_spool, &end);
    assert_non_null(strstr(end.said, "no spool file can be made: Is a directory"));
    calls_break("syscall", 2, EISDIR);
    calls_break_too("unlinkat", 1, EROFS); /* nor the name that it has then go */
    calls_try(make_spool, &end);
    assert_true(end.met);
    assert_non_null(strstr(end.said, "no spool file can be made: Read-only file system"));
    empty_state();
}

/* Accounts. */

static void test_look_up(void **state)
{
    char name[PROTO_USER_MAX + 1] = "";
    uid_t uid;
    struct config *config = configure();
    (void)state;
    must_set(config, "auth", "", "first_uid", "1");
    for (size_t i = 0; i < 2; i++) { /* tried again, with more room */
        calls_answer("getpwnam_r", 1, i ? EINTR : ERANGE);
        assert_int_equal(canonical_account(config, "daemon", name, &uid), CANONICAL_OK);
        assert_true(calls_mend());
        assert_string_equal(name, "daemon");
    }
    calls_break_from("getpwnam_r", 1, 0);
    assert_int_equal(canonical_account(config, "daemon", name, &uid), CANONICAL_UNAVAILABLE);
    assert_int_equal(canonical_finish(config, "daemon", name), CANONICAL_UNAVAILABLE);
    assert_int_equal(canonical_uid("daemon", &uid), CANONICAL_UNAVAILABLE);
    assert_true(calls_mend());
    calls_answer_from("getpwnam_r", 1, ERANGE); /* no entry is as large as that */
    assert_int_equal(canonical_uid("daemon", &uid), CANONICAL_UNAVAILABLE);
    assert_true(calls_mend());
    config_free(config);
}

/* A look-up that fails is no "no such user": the sender keeps the mail. */
static void test_recipient(void **state)
{
    char name[PROTO_USER_MAX + 1], error[600];
    int files[MAILDROP_FILES];
    struct config *config = configure();
    (void)state;
    must_set(config, "delivery", "", "accept", "any");
    empty_state();
    struct grant_root *root = grant_root_open(config, error, sizeof error);
    for (unsigned nth = 1; nth <= 3; nth++) {
        calls_break("getpwnam_r", nth, 0);
        enum login_outcome outcome = recipient_open(config, root, "nobody-at-all", 4242,
                                                    SERVE_CHECK, name, files, error, sizeof error);
        assert_true(calls_mend());
        assert_int_equal(outcome, LOGIN_UNAVAILABLE);
        assert_non_null(strstr(error, "look-up of account"));
    }
    assert_int_equal(recipient_open(config, root, "nobody-at-all", 4242, SERVE_CHECK, name, files,
                                    error, sizeof error),
                     LOGIN_FORBIDDEN);
    grant_root_close(root);
    config_free(config);
}

/* PAM. */

static void stack(const char *modules)
{
    place_put("pam.d/poplar",
              "auth %s\naccount required pam_permit.so\nsession required pam_permit.so\n", modules);
}

static int check_password(void)
{
    char problem[400] = "";
    calls_hold(true);
    struct config *config = configure();
    calls_hold(false);
    struct pam_login login = {.service = "poplar",
                              .confdir = config->auth.pam_confdir,
                              .user = "alice",
                              .secret = "secret",
                              .peer = "192.0.2.7"};
    if (!pam_service_find(login.service, login.confdir, problem, sizeof problem))
        return calls_say(problem);
    enum login_outcome outcome = pam_login_check(&login);
    if (outcome == LOGIN_OK && strcmp(login.name, "alice") != 0)
        return CALLS_DONE_WRONG;
    if (outcome == LOGIN_OK)
        outcome = pam_login_session(&login);
    pam_login_end(&login);
    if (outcome == LOGIN_UNAVAILABLE || outcome == LOGIN_MISCONFIGURED)
        return *login.problem ? calls_say(login.problem) : CALLS_DONE_WRONG;
    return outcome == LOGIN_OK ? 0 : calls_say(proto_outcome_name(outcome));
}

static void test_pam(void **state)
{
    struct calls_end end;
    (void)state;
    stack("required pam_permit.so");
    unsigned failed = calls_walk(check_password, calls_told_or_done);
    print_message("%u calls failed\n", failed);
    assert_true(failed > 10);
    calls_break("waitpid", 1, EINTR);
    calls_try(check_password, &end);
    assert_true(end.met);
    assert_int_equal(end.status, 0);
    calls_answer("pam_start_confdir", 1, PAM_ABORT);
    calls_try(check_password, &end);
    assert_non_null(strstr(end.said, "start: "));
    assert_non_null(strstr(end.said, "check the service's file"));
    calls_answer("pam_get_item", 1, PAM_SUCCESS); /* and no name in it */
    calls_try(check_password, &end);
    assert_non_null(strstr(end.said, "user name: "));
}

/* A module that asks, when there is no memory for the answer. */
static void test_conversation(void **state)
{
    char modules[1400];
    struct calls_end end;
    static const char *const questions[] = {"expect=secret", "conv=prompt", "conv=echo",
                                            "conv=error", "conv=mixed"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(questions); i++) {
        snprintf(modules, sizeof modules, "required %s %s", beside_program("pam_poplar_test.so"),
                 questions[i]);
        stack(modules);
        if (strcmp(questions[i], "conv=mixed") != 0)
            calls_walk(check_password, calls_told_or_done);
        calls_try(check_password, &end);
        calls_told_or_done(questions[i], &end);
    }
    assert_non_null(strstr(end.said, "denied")); /* the last, which nobody could answer */
    stack("required pam_permit.so");
}

static int pin_services(void)
{
    struct pam_pins pins = {0};
    calls_hold(true);
    struct config *config = configure();
    calls_hold(false);
    char problem[400];
    int status = pam_pins_add(&pins, "poplar", config->auth.pam_confdir, problem, sizeof problem)
                     ? 0
                     : calls_say(problem);
    pam_pins_release(&pins);
    return status;
}

static void test_pins(void **state)
{
    (void)state;
    assert_true(calls_walk(pin_services, calls_told_or_done) >= 2);
}

/* What a module may leave behind. */

static struct selfcheck recorded;

static int differs(const char *expected)
{
    char difference[80] = "";
    if (selfcheck_same(&recorded, difference, sizeof difference))
        return calls_say("nothing was noticed");
    return strcmp(difference, expected) == 0 ? 0 : calls_say(difference);
}

static int leave_directory(void)
{
    selfcheck_record(&recorded);
    return chdir(place) < 0 ? CALLS_DONE_WRONG : differs("working directory");
}

static int leave_mask(void)
{
    sigset_t set;
    selfcheck_record(&recorded);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return differs("signal mask");
}

static int leave_limit(void)
{
    struct rlimit limit;
    selfcheck_record(&recorded);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur--;
    setrlimit(RLIMIT_NOFILE, &limit);
    return differs("resource limits");
}

static int replace_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY);
    selfcheck_record(&recorded);
    dup3(open("/proc/self/status", O_RDONLY), fd, 0);
    char expected[40];
    snprintf(expected, sizeof expected, "descriptor %d", fd);
    return selfcheck_same_fds(&recorded) ? CALLS_DONE_WRONG : differs(expected);
}

/* The same device, another file. */
static int replace_file(void)
{
    char expected[40];
    int fd = open(in_place("pam.conf"), O_RDONLY | O_CREAT, 0600);
    selfcheck_record(&recorded);
    dup3(open(in_place("other.conf"), O_RDONLY | O_CREAT, 0600), fd, 0);
    snprintf(expected, sizeof expected, "descriptor %d", fd);
    return selfcheck_same_fds(&recorded) ? CALLS_DONE_WRONG : differs(expected);
}

static int close_last(void)
{
    char expected[40];
    int fd = fcntl(STDERR_FILENO, F_DUPFD, 500); /* none comes after it */
    selfcheck_record(&recorded);
    close(fd);
    snprintf(expected, sizeof expected, "descriptor %d", fd);
    return differs(expected);
}

static int leave_directory_open(void)
{
    char expected[40];
    selfcheck_record(&recorded);
    int fd = open("/tmp", O_RDONLY | O_CLOEXEC); /* no file, so nothing that a client keeps */
    snprintf(expected, sizeof expected, "descriptor %d", fd);
    return differs(expected);
}

/* Without /proc the descriptors are found by trying. */
static int look_without_proc(void)
{
    char difference[80];
    calls_break_from("opendir", 1, 0);
    selfcheck_record(&recorded);
    if (!selfcheck_same(&recorded, difference, sizeof difference) || recorded.n_fds < 3)
        return CALLS_DONE_WRONG;
    close(STDIN_FILENO);
    return differs("descriptor 0");
}

/* More groups than are compared: their number still is. */
static int many_groups(void)
{
    char difference[80];
    gid_t groups[SELFCHECK_GROUPS + 1];
    if (geteuid() != 0)
        return SKIPPED;
    for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
        groups[i] = (gid_t)(1000 + i);
    if (setgroups(ARRAY_SIZE(groups), groups) < 0)
        return CALLS_DONE_WRONG;
    selfcheck_record(&recorded);
    if (!selfcheck_same(&recorded, difference, sizeof difference))
        return CALLS_DONE_WRONG;
    if (setgroups(ARRAY_SIZE(groups) - 1, groups) < 0)
        return CALLS_DONE_WRONG;
    return differs("ids, groups or capabilities");
}

static int many_descriptors(void)
{
    char difference[80];
    while (dup(STDERR_FILENO) < SELFCHECK_FDS + 20)
        ;
    selfcheck_record(&recorded);
    return recorded.n_fds == SELFCHECK_FDS &&
                   selfcheck_same(&recorded, difference, sizeof difference)
               ? 0
               : CALLS_DONE_WRONG;
}

static void test_selfcheck(void **state)
{
    static int (*const attempts[])(void) = {leave_directory,      leave_mask,        leave_limit,
                                            replace_descriptor,   replace_file,      close_last,
                                            leave_directory_open, look_without_proc, many_groups,
                                            many_descriptors};
    struct calls_end end;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
        calls_try(attempts[i], &end);
        if (end.status != 0 && WEXITSTATUS(end.status) != SKIPPED)
            fail_msg("attempt %zu: wait status %x: %s", i, (unsigned)end.status, end.said);
    }
}

/* The service whole: what worker and master send is there before it begins. */

struct told {
    bool outcome, verdict, grant;
    uint32_t outcome_is, verdict_is;
};

/* The order that the master gives, which a test may alter. */
static struct {
    const char *named, *peer;
    bool takeover; /* the session that holds the maildrop may be ended */
    bool pings;    /* instead of an answer to what it is asked */
} order = {.named = "", .peer = "192.0.2.7"};

static void send_request(struct channel *master, struct channel *worker)
{
    int ends[2];
    struct message m;
    assert_int_equal(channel_pair(ends, false), 0);
    channel_open(worker, ends[1], ROLE_WORKER, ROLE_AUTH, STATE_EXCHANGE);
    message_begin(&m, PROTO_SERVE);
    message_put_u64(&m, 77);
    message_put_u32(&m, SERVE_LOGIN);
    message_put_text(&m, order.named);
    message_put_text(&m, order.peer);
    message_put_u32(&m, 0);
    message_put_u64(&m, 0);
    message_put_fd(&m, ends[0]);
    assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
    close(ends[0]);
    if (order.pings) {
        message_begin(&m, PROTO_PING);
        assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
    }
    message_begin(&m, PROTO_BEGIN);
    message_put_text(&m, "PASS");
    message_put_text(&m, "alice");
    message_put_octets(&m, "secret", 6);
    assert_int_equal(channel_send(worker, &m, true), CHANNEL_OK);
}

static void hear_all(struct channel *channel, struct told *told)
{
    struct message m;
    while (channel_receive(channel, &m, false, NULL) == CHANNEL_OK) {
        char text[1024];
        switch (m.rule->type) {
        case PROTO_LOG:
            (void)message_get_u32(&m);
            if (message_get_text(&m, text, sizeof text))
                fprintf(stderr, "log: %s\n", text);
            break;
        case PROTO_OUTCOME:
            told->outcome = message_get_u64(&m) == 77;
            told->outcome_is = message_get_u32(&m);
            break;
        case PROTO_VERDICT:
            told->grant = m.n_fds > 0;
            told->verdict = true;
            told->verdict_is = message_get_u32(&m);
            break;
        default:
            break;
        }
        message_clear(&m);
    }
}

static int serve_once(struct told *told)
{
    int ends[2];
    struct channel master, worker;
    siginfo_t info = {0};
    static struct child child;
    char error[600] = "";
    *told = (struct told){0};
    child = (struct child){.config = configure()};
    if (order.takeover)
        must_set(child.config, "session", "", "lock", "takeover");
    struct grant_root *root = grant_root_open(child.config, error, sizeof error);
    assert_non_null(root);
    assert_int_equal(channel_pair(ends, true), 0);
    channel_open(&master, ends[0], ROLE_MASTER, ROLE_AUTH, STATE_IDLE);
    send_request(&master, &worker);
    shutdown(ends[0], SHUT_WR);
    pid_t parent = getpid(), pid = _Fork();
    if (pid == 0) {
        channel_open(&child.control, ends[1], ROLE_AUTH, ROLE_MASTER, STATE_IDLE);
        calls_hold(false);
        service_harden(parent);
        service_run(&child, root, parent);
    }
    close(ends[1]);
    waitid(P_PID, (id_t)pid, &info, WEXITED);
    master.state = STATE_BUSY;
    hear_all(&master, told);
    hear_all(&worker, told);
    channel_close(&master);
    channel_close(&worker);
    grant_root_close(root);
    config_free(child.config);
    if (info.si_code == CLD_EXITED)
        return info.si_status;
    return info.si_status == SIGABRT ? ABORTED : CALLS_DONE_WRONG; /* see told_or_ended() */
}

static int serve_login(void)
{
    struct told told;
    empty_state();
    calls_hold(true);
    int status = serve_once(&told);
    if (status == CALLS_DONE_WRONG || (status == ABORTED && told.verdict))
        return CALLS_DONE_WRONG;
    /* The master knows before the worker does, and files come with "yes" only. */
    if (told.verdict && (!told.outcome || told.outcome_is != told.verdict_is))
        return CALLS_DONE_WRONG;
    if (told.grant && told.outcome_is != LOGIN_OK)
        return CALLS_DONE_WRONG;
    bool good = told.verdict && told.verdict_is == LOGIN_OK && told.grant;
    if (!good)
        fprintf(stderr, "outcome %u, verdict %u, status %d\n", told.outcome_is, told.verdict_is,
                status);
    calls_mend();
    int again = serve_once(&told);
    if (again != 0 || !told.verdict || told.verdict_is != LOGIN_OK || !told.grant) {
        fprintf(stderr, "again: outcome %u, verdict %u, status %d\n", told.outcome_is,
                told.verdict_is, again);
        return CALLS_DONE_WRONG;
    }
    return good ? 0 : CALLS_NOT_DONE;
}

static void test_service(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    unsigned failed = calls_walk(serve_login, told_or_ended);
    print_message("%u calls failed\n", failed);
    assert_true(failed > 50);
}

static int serve_order(void)
{
    struct told told;
    int status = serve_once(&told);
    if (told.verdict || told.outcome)
        return CALLS_DONE_WRONG;
    return status;
}

static void expect_no_service(int status, const char *why)
{
    struct calls_end end;
    calls_try(serve_order, &end);
    assert_true(WIFEXITED(end.status));
    assert_int_equal(WEXITSTATUS(end.status), status);
    if (!strstr(end.said, why))
        fail_msg("not '%s', but: %s", why, end.said);
}

/* By a master of another build, or one that is taken over; or one that is gone. Nobody is let in.
 */
static void test_service_without_master(void **state)
{
    char longest[PROTO_RECIPIENT_MAX + 2] = "", error[600] = "";
    int files[MAILDROP_FILES];
    (void)state;
    if (geteuid() != 0)
        skip();
    empty_state();
    memset(longest, 'x', sizeof longest - 1);
    order.named = longest;
    expect_no_service(PROTO_EXIT_CONTRACT, "with a text too long");
    order.named = "";
    order.peer = longest + PROTO_RECIPIENT_MAX - PROTO_ADDRESS_MAX;
    expect_no_service(PROTO_EXIT_CONTRACT, "with a text too long");
    order.peer = "192.0.2.7";

    struct config *config = configure();
    struct grant_root *root = grant_root_open(config, error, sizeof error);
    assert_int_equal(grant_open(root, "alice", true, true, files, error, sizeof error), LOGIN_OK);
    order.takeover = true; /* of this one */
    expect_no_service(PROTO_EXIT_DONE, "");
    order.pings = true;
    expect_no_service(PROTO_EXIT_CONTRACT, "not the answer to what was asked");
    order.takeover = order.pings = false;
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        close(files[i]);
    grant_root_close(root);
    config_free(config);
}

static int set_up(void **state)
{
    (void)state;
    store = geteuid() == 0 ? getpwnam("mail") : getpwuid(geteuid());
    /* In memory: what is synced costs nothing. */
    if (!store || !place_make("/dev/shm", 0755) || mkdir(in_place("pam.d"), 0755) < 0 ||
        mkdir(in_place("state"), 0700) < 0)
        return -1;
    struct passwd *kept = base_alloc(sizeof *kept);
    *kept = *store;
    kept->pw_name = base_strdup(store->pw_name);
    store = kept;
    place_put("pam.d/other", "auth required pam_deny.so\naccount required pam_deny.so\n");
    stack("required pam_permit.so");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grant),   cmocka_unit_test(test_file_systems),
        cmocka_unit_test(test_ids),     cmocka_unit_test(test_spool),
        cmocka_unit_test(test_look_up), cmocka_unit_test(test_recipient),
        cmocka_unit_test(test_pam),     cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_pins),    cmocka_unit_test(test_selfcheck),
        cmocka_unit_test(test_service), cmocka_unit_test(test_service_without_master),
    };
    return cmocka_run_group_tests(tests, set_up, leave_place);
}
