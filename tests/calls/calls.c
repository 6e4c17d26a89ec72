/*
 * calls.c - see calls.h. The Makefile takes the names to wrap from the lines that begin with CALL.
 */
#include "tests/calls/calls.h"
#include "daemon/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pwd.h>
#include <seccomp.h>
#include <security/pam_appl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include <cmocka.h>

/* Shared with children. */
static struct plan {
    char name[64]; /* "": all is well */
    unsigned nth, count;
    bool for_ever, met, answers;
    int error;
    long answer;
} * plans; /* the one, and another that goes with it */

enum { PLANS = 2 };

static bool is_held;

/* How this call fails; NULL: it does not. */
static const struct plan *find_broken(const char *name, int usual)
{
    for (struct plan *p = plans; p && !is_held && p < plans + PLANS; p++) {
        if (strcmp(p->name, name) != 0)
            continue;
        p->count++;
        if (p->count != p->nth && !(p->for_ever && p->count > p->nth))
            continue;
        p->met = true;
        errno = p->error ? p->error : usual;
        return p;
    }
    return NULL;
}

long calls_file_system;

static const char *names[150];
static size_t n_names;

/* A function that gives `failure` when it fails; of a pointer that is NULL. */
#define CALL(type, name, failure, error, parameters, arguments)                                    \
    CALL_AS(type, name, parameters, failure, error, parameters, arguments)

/* One that is declared with other parameters. Those with "..." may keep arguments where only a
 * caller who knows of it has room for them (64-bit PowerPC). */
#define CALL_AS(type, name, declared, failure, error, parameters, arguments)                       \
    type __real_##name declared;                                                                   \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        const struct plan *broken = find_broken(#name, error);                                     \
        if (!broken)                                                                               \
            return __real_##name arguments;                                                        \
        return (type)(broken->answers ? broken->answer : (long)(failure));                         \
    }                                                                                              \
    __attribute__((constructor)) static void know_##name(void)                                     \
    {                                                                                              \
        names[n_names++] = #name;                                                                  \
    }

/* clang-format off */
/* The kernel's. */
CALL(int, accept4, -1, EMFILE, (int a, void *b, void *c, int d), (a, b, c, d))
CALL(int, access, -1, EACCES, (const char *a, int b), (a, b))
CALL(int, bind, -1, EADDRINUSE, (int a, const void *b, socklen_t c), (a, b, c))
CALL(int, chdir, -1, EACCES, (const char *a), (a))
CALL(int, chroot, -1, EPERM, (const char *a), (a))
CALL(int, close_range, -1, ENOSYS, (unsigned a, unsigned b, int c), (a, b, c))
CALL(int, connect, -1, ECONNREFUSED, (int a, const void *b, socklen_t c), (a, b, c))
CALL(int, dup, -1, EMFILE, (int a), (a))
CALL(int, dup2, -1, EMFILE, (int a, int b), (a, b))
CALL(int, execv, -1, ENOMEM, (const char *a, char *const *b), (a, b))
CALL(int, fchdir, -1, EACCES, (int a), (a))
CALL(int, fchmod, -1, EPERM, (int a, mode_t b), (a, b))
CALL_AS(int, fcntl, (int a, int b, ...), -1, ENOLCK, (int a, int b, void *c), (a, b, c))
CALL(int, fexecve, -1, ENOMEM, (int a, char *const *b, char *const *c), (a, b, c))
CALL(pid_t, fork, -1, EAGAIN, (void), ())
CALL(int, fstat, -1, EIO, (int a, struct stat *b), (a, b))
CALL(int, fstatfs, calls_file_system ? (b->f_type = (__typeof__(b->f_type))calls_file_system, 0) : -1, EIO, (int a, struct statfs *b), (a, b))
CALL(int, fsync, -1, EIO, (int a), (a))
CALL(int, ftruncate, -1, EIO, (int a, off_t b), (a, b))
CALL(int, getgroups, -1, EINVAL, (int a, gid_t *b), (a, b))
CALL(ssize_t, getrandom, -1, ENOSYS, (void *a, size_t b, unsigned c), (a, b, c))
CALL(int, getresgid, -1, EFAULT, (gid_t *a, gid_t *b, gid_t *c), (a, b, c))
CALL(int, getresuid, -1, EFAULT, (uid_t *a, uid_t *b, uid_t *c), (a, b, c))
CALL(int, getrlimit, -1, EFAULT, (int a, struct rlimit *b), (a, b))
CALL(int, getsockname, -1, ENOBUFS, (int a, void *b, socklen_t *c), (a, b, c))
CALL(int, getsockopt, -1, EBADF, (int a, int b, int c, void *d, socklen_t *e), (a, b, c, d, e))
CALL_AS(int, ioctl, (int a, unsigned long b, ...), -1, ENOTTY, (int a, unsigned long b, void *c), (a, b, c))
CALL(int, listen, -1, EADDRINUSE, (int a, int b), (a, b))
CALL(int, lstat, -1, EACCES, (const char *a, struct stat *b), (a, b))
CALL(int, memfd_create, -1, EMFILE, (const char *a, unsigned b), (a, b))
CALL(int, mkdir, -1, EACCES, (const char *a, mode_t b), (a, b))
CALL(int, mkdirat, -1, ENOSPC, (int a, const char *b, mode_t c), (a, b, c))
CALL(void *, mmap, -1, ENOMEM, (void *a, size_t b, int c, int d, int e, off_t f), (a, b, c, d, e, f))
CALL_AS(int, open, (const char *a, int b, ...), -1, EMFILE, (const char *a, int b, mode_t c), (a, b, c))
CALL(int, pipe2, -1, EMFILE, (int *a, int b), (a, b))
CALL(int, poll, -1, ENOMEM, (struct pollfd *a, nfds_t b, int c), (a, b, c))
CALL_AS(int, prctl, (int a, ...), -1, EINVAL, (int a, unsigned long b, unsigned long c, unsigned long d, unsigned long e), (a, b, c, d, e))
CALL(ssize_t, pread, -1, EIO, (int a, void *b, size_t c, off_t d), (a, b, c, d))
CALL(ssize_t, pwrite, -1, EIO, (int a, const void *b, size_t c, off_t d), (a, b, c, d))
CALL(ssize_t, read, -1, EIO, (int a, void *b, size_t c), (a, b, c))
CALL(ssize_t, readlink, -1, ENOENT, (const char *a, char *b, size_t c), (a, b, c))
CALL(ssize_t, recv, -1, ENOMEM, (int a, void *b, size_t c, int d), (a, b, c, d))
CALL(ssize_t, recvmsg, -1, ENOMEM, (int a, struct msghdr *b, int c), (a, b, c))
CALL(int, renameat, -1, EIO, (int a, const char *b, int c, const char *d), (a, b, c, d))
CALL(int, renameat2, -1, EIO, (int a, const char *b, int c, const char *d, unsigned e), (a, b, c, d, e))
CALL(int, rmdir, -1, EROFS, (const char *a), (a))
CALL(ssize_t, sendmsg, -1, ENOMEM, (int a, const struct msghdr *b, int c), (a, b, c))
CALL(ssize_t, sendto, -1, ENOBUFS, (int a, const void *b, size_t c, int d, const void *e, socklen_t f), (a, b, c, d, e, f))
CALL(int, seteuid, -1, EAGAIN, (uid_t a), (a))
CALL(int, setfsgid, -1, EPERM, (gid_t a), (a))
CALL(int, setfsuid, -1, EPERM, (uid_t a), (a))
CALL(int, setgid, -1, EPERM, (gid_t a), (a))
CALL(int, setgroups, -1, EPERM, (size_t a, const gid_t *b), (a, b))
CALL(int, setresgid, -1, EPERM, (gid_t a, gid_t b, gid_t c), (a, b, c))
CALL(int, setresuid, -1, EPERM, (uid_t a, uid_t b, uid_t c), (a, b, c))
CALL(int, setrlimit, -1, EPERM, (int a, const struct rlimit *b), (a, b))
CALL(int, setsockopt, -1, ENOMEM, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
CALL(int, setuid, -1, EPERM, (uid_t a), (a))
CALL(int, shutdown, -1, ENOTCONN, (int a, int b), (a, b))
CALL(ssize_t, sendfile, -1, EIO, (int a, int b, off_t *c, size_t d), (a, b, c, d))
CALL(int, socket, -1, EMFILE, (int a, int b, int c), (a, b, c))
CALL(int, socketpair, -1, EMFILE, (int a, int b, int c, int *d), (a, b, c, d))
CALL(int, stat, -1, EACCES, (const char *a, struct stat *b), (a, b))
CALL_AS(long, syscall, (long n, ...), -1, ENOSYS, (long n, long a, long b, long c, long d, long e, long f), (n, a, b, c, d, e, f))
CALL(int, unlink, -1, EROFS, (const char *a), (a))
CALL(int, unlinkat, -1, EROFS, (int a, const char *b, int c), (a, b, c))
CALL(int, unshare, -1, ENOSPC, (int a), (a))
CALL(pid_t, waitpid, -1, ECHILD, (pid_t a, int *b, int c), (a, b, c))
CALL(ssize_t, write, -1, ENOSPC, (int a, const void *b, size_t c), (a, b, c))

/* The C library's. */
CALL(void *, calloc, 0, ENOMEM, (size_t a, size_t b), (a, b))
CALL(FILE *, fdopen, 0, ENOMEM, (int a, const char *b), (a, b))
CALL(int, gethostname, -1, ENAMETOOLONG, (char *a, size_t b), (a, b))
CALL(int, getpwnam_r, EIO, EIO, (const char *a, struct passwd *b, char *c, size_t d, struct passwd **e), (a, b, c, d, e))
CALL(struct passwd *, getpwnam, 0, 0, (const char *a), (a))
CALL(void *, malloc, 0, ENOMEM, (size_t a), (a))
CALL(char *, mkdtemp, 0, ENOSPC, (char *a), (a))
CALL(int, mkostemp, -1, ENOSPC, (char *a, int b), (a, b))
CALL(DIR *, opendir, 0, EMFILE, (const char *a), (a))
CALL(void *, realloc, 0, ENOMEM, (void *a, size_t b), (a, b))
CALL(char *, strdup, 0, ENOMEM, (const char *a), (a))
CALL(int, __vasprintf_chk, -1, ENOMEM, (char **a, int b, const char *c, va_list d), (a, b, c, d))
CALL(int, vasprintf, -1, ENOMEM, (char **a, const char *b, va_list c), (a, b, c))

/* Of other libraries. */
CALL(int, sd_event_add_io, -ENOMEM, ENOMEM, (sd_event *a, sd_event_source **b, int c, uint32_t d, sd_event_io_handler_t e, void *f), (a, b, c, d, e, f))
CALL(int, sd_event_add_signal, -ENOMEM, ENOMEM, (sd_event *a, sd_event_source **b, int c, sd_event_signal_handler_t d, void *e), (a, b, c, d, e))
CALL(int, sd_event_add_time, -ENOMEM, ENOMEM, (sd_event *a, sd_event_source **b, clockid_t c, uint64_t d, uint64_t e, sd_event_time_handler_t f, void *g), (a, b, c, d, e, f, g))
CALL(int, sd_event_run, -ENOMEM, ENOMEM, (sd_event *a, uint64_t b), (a, b))
CALL(int, sd_event_new, -ENOMEM, ENOMEM, (sd_event **a), (a))
CALL(int, sd_event_source_set_io_events, -ENOMEM, ENOMEM, (sd_event_source *a, uint32_t b), (a, b))
CALL(int, sd_event_source_set_priority, -ENOMEM, ENOMEM, (sd_event_source *a, int64_t b), (a, b))
CALL(int, sd_is_socket, -EINVAL, EINVAL, (int a, int b, int c, int d), (a, b, c, d))
CALL(int, sd_listen_fds_with_names, -ENOMEM, ENOMEM, (int a, char ***b), (a, b))
CALL(scmp_filter_ctx, seccomp_init, 0, 0, (uint32_t a), (a))
CALL(int, seccomp_attr_set, -EINVAL, EINVAL, (scmp_filter_ctx a, enum scmp_filter_attr b, uint32_t c), (a, b, c))
CALL(int, seccomp_export_bpf, -ENOMEM, ENOMEM, (const scmp_filter_ctx a, int b), (a, b))
CALL_AS(int, seccomp_rule_add, (scmp_filter_ctx a, uint32_t b, int c, unsigned d, ...), -ENOMEM, ENOMEM, (scmp_filter_ctx a, uint32_t b, int c, unsigned d), (a, b, c, d))
CALL(int, seccomp_rule_add_array, -ENOMEM, ENOMEM, (scmp_filter_ctx a, uint32_t b, int c, unsigned d, const struct scmp_arg_cmp *e), (a, b, c, d, e))
CALL(int, seccomp_syscall_resolve_name, -1, 0, (const char *a), (a))
CALL(int, pam_set_item, PAM_BUF_ERR, 0, (pam_handle_t *a, int b, const void *c), (a, b, c))
CALL(int, pam_get_item, PAM_SYSTEM_ERR, 0, (const pam_handle_t *a, int b, const void **c), (a, b, c))
CALL(int, pam_start_confdir, PAM_BUF_ERR, 0, (const char *a, const char *b, const struct pam_conv *c, const char *d, pam_handle_t **e), (a, b, c, d, e))
CALL(BIO *, BIO_new, 0, 0, (const BIO_METHOD *a), (a))
CALL(BIO *, BIO_new_mem_buf, 0, 0, (const void *a, int b), (a, b))
CALL(int, BIO_new_bio_pair, 0, 0, (BIO **a, size_t b, BIO **c, size_t d), (a, b, c, d))
CALL(int, EVP_CipherInit_ex, 0, 0, (EVP_CIPHER_CTX *a, const EVP_CIPHER *b, ENGINE *c, const unsigned char *d, const unsigned char *e, int f), (a, b, c, d, e, f))
CALL(int, EVP_DigestFinal, 0, 0, (EVP_MD_CTX *a, unsigned char *b, unsigned *c), (a, b, c))
CALL(int, EVP_DigestInit, 0, 0, (EVP_MD_CTX *a, const EVP_MD *b), (a, b))
CALL(int, EVP_DigestUpdate, 0, 0, (EVP_MD_CTX *a, const void *b, size_t c), (a, b, c))
CALL(int, EVP_MAC_CTX_set_params, 0, 0, (EVP_MAC_CTX *a, const OSSL_PARAM *b), (a, b))
CALL(EVP_MD_CTX *, EVP_MD_CTX_new, 0, 0, (void), ())
CALL(int, OPENSSL_sk_push, 0, 0, (OPENSSL_STACK *a, const void *b), (a, b))
CALL(OPENSSL_STACK *, OPENSSL_sk_new_null, 0, 0, (void), ())
CALL(int, RAND_bytes, 0, 0, (unsigned char *a, int b), (a, b))
CALL(long, SSL_CTX_ctrl, 0, 0, (SSL_CTX *a, int b, long c, void *d), (a, b, c, d))
CALL(int, SSL_CTX_add_client_CA, 0, 0, (SSL_CTX *a, X509 *b), (a, b))
CALL(SSL_CTX *, SSL_CTX_new, 0, 0, (const SSL_METHOD *a), (a))
CALL(int, SSL_CTX_set_session_id_context, 0, 0, (SSL_CTX *a, const unsigned char *b, unsigned c), (a, b, c))
CALL(int, SSL_CTX_use_PrivateKey, 0, 0, (SSL_CTX *a, EVP_PKEY *b), (a, b))
CALL(int, SSL_CTX_use_certificate, 0, 0, (SSL_CTX *a, X509 *b), (a, b))
CALL(SSL *, SSL_new, 0, 0, (SSL_CTX *a), (a))
CALL(int, SSL_do_handshake, -1, 0, (SSL *a), (a))
CALL(int, SSL_read, -1, 0, (SSL *a, void *b, int c), (a, b, c))
CALL(int, SSL_read_ex, 0, 0, (SSL *a, void *b, size_t c, size_t *d), (a, b, c, d))
CALL(int, SSL_set_ex_data, 0, 0, (SSL *a, int b, void *c), (a, b, c))
CALL(int, SSL_write, -1, 0, (SSL *a, const void *b, int c), (a, b, c))
CALL(int, SSL_write_ex, 0, 0, (SSL *a, const void *b, size_t c, size_t *d), (a, b, c, d))
CALL(int, X509_STORE_add_cert, 0, 0, (X509_STORE *a, X509 *b), (a, b))
CALL(X509_STORE *, X509_STORE_new, 0, 0, (void), ())
CALL(int, X509_digest, 0, 0, (const X509 *a, const EVP_MD *b, unsigned char *c, unsigned *d), (a, b, c, d))
CALL(int, X509_verify_cert, 0, 0, (X509_STORE_CTX *a), (a))
CALL(int, ASN1_TIME_to_tm, 0, 0, (const ASN1_TIME *a, struct tm *b), (a, b))
/* clang-format on */

static void set_plan(size_t which, struct plan wanted, const char *name)
{
    bool known = false;
    for (size_t i = 0; i < n_names; i++)
        known = known || strcmp(names[i], name) == 0;
    if (!known)
        fail_msg("calls.c has no %s", name);
    if (!plans)
        plans = __real_mmap(NULL, PLANS * sizeof *plans, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (size_t i = which; i < PLANS; i++)
        plans[i] = (struct plan){.name = ""};
    plans[which] = wanted;
    base_copy(plans[which].name, sizeof plans[which].name, name);
}

void calls_break(const char *name, unsigned nth, int error)
{
    set_plan(0, (struct plan){.nth = nth, .error = error}, name);
}

void calls_break_from(const char *name, unsigned nth, int error)
{
    set_plan(0, (struct plan){.nth = nth, .error = error, .for_ever = true}, name);
}

void calls_break_too(const char *name, unsigned nth, int error)
{
    set_plan(1, (struct plan){.nth = nth, .error = error}, name);
}

void calls_answer(const char *name, unsigned nth, long value)
{
    set_plan(0, (struct plan){.nth = nth, .answers = true, .answer = value}, name);
}

void calls_answer_from(const char *name, unsigned nth, long value)
{
    set_plan(0, (struct plan){.nth = nth, .answers = true, .answer = value, .for_ever = true},
             name);
}

bool calls_mend(void)
{
    bool met = plans != NULL;
    for (struct plan *p = plans; p && p < plans + PLANS; p++) {
        met = met && (p->met || p->nth == 0);
        p->name[0] = '\0';
    }
    return met;
}

unsigned calls_descriptors(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += __real_fcntl(fd, F_GETFD, NULL) >= 0;
    return n;
}

void calls_hold(bool held)
{
    is_held = held;
}

int calls_say(const char *why)
{
    fprintf(stderr, "%s\n", why);
    return CALLS_NOT_DONE;
}

void calls_told(const char *what, const struct calls_end *end)
{
    if (!WIFEXITED(end->status) || WEXITSTATUS(end->status) == 0 ||
        WEXITSTATUS(end->status) == CALLS_DONE_WRONG || !*end->said)
        fail_msg("%s: wait status %x: %s", what, (unsigned)end->status, end->said);
}

void calls_told_or_done(const char *what, const struct calls_end *end)
{
    if (!WIFEXITED(end->status) || WEXITSTATUS(end->status) != 0)
        calls_told(what, end);
}

const char *calls_stop_at;

void calls_try(int (*attempt)(void), struct calls_end *end)
{
    int said[2];
    size_t size = 0;
    assert_int_equal(pipe(said), 0);
    fflush(stdout);
    pid_t pid = __real_fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit none = {0, 0};
        __real_setrlimit(RLIMIT_CORE, &none);
        __real_dup2(said[1], STDERR_FILENO);
        close(said[0]);
        close(said[1]);
        signal(SIGABRT, SIG_DFL);
        setenv("CMOCKA_TEST_ABORT", "1", 1); /* an assertion here must not go on with the tests */
        alarm(60);
        int status = attempt();
        fflush(NULL);
        _exit(status);
    }
    close(said[1]);
    while (size < sizeof end->said - 1) {
        ssize_t got = __real_read(said[0], end->said + size, sizeof end->said - 1 - size);
        if (got <= 0)
            break;
        size += (size_t)got;
        end->said[size] = '\0';
        if (calls_stop_at && strstr(end->said, calls_stop_at))
            kill(pid, SIGTERM);
    }
    end->said[size] = '\0';
    close(said[0]);
    assert_int_equal(__real_waitpid(pid, &end->status, 0), pid);
    end->met = calls_mend();
}

unsigned calls_walk(int (*attempt)(void),
                    void (*judge)(const char *what, const struct calls_end *end))
{
    static struct calls_end end;
    const unsigned before = calls_descriptors();
    unsigned failed = 0;
    for (size_t i = 0; i < n_names; i++)
        for (unsigned nth = 1;; nth++) {
            char what[100];
            calls_break(names[i], nth, 0);
            calls_try(attempt, &end);
            if (!end.met)
                break;
            snprintf(what, sizeof what, "%s, call %u", names[i], nth);
            judge(what, &end);
            failed++;
        }
    if (!WIFEXITED(end.status) || WEXITSTATUS(end.status) != 0)
        fail_msg("with nothing failing: %x: %s", (unsigned)end.status, end.said);
    assert_int_equal(calls_descriptors(), before);
    return failed;
}
