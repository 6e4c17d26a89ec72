/*
 * failing.c - a library to preload, in which one call fails: the Nth of its kind that the program's
 * main() leads to, in the program itself or in a library of it.
 *
 * FAILING=NAME:N:ERROR makes the Nth call of NAME fail with ERROR, an errno or what the call has
 * for a result; below zero it is a signal that comes just then, and the call is made.
 * FAILING_LOG=FILE takes a line "NAME PLACE" for each call that is met; without FAILING for all of
 * them, so that a test can try every place once. PLACE is the way there through the program's own
 * code: offsets, innermost first.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { FRAMES = 64 };

static struct {
    bool armed, busy; /* busy: what this library itself calls does not count */
    char name[64];
    unsigned nth, count;
    int error, log;
    uintptr_t base, begin, end; /* of the program's code */
} failing = {.log = -1};

static void write_place(const char *name)
{
    char line[64 + 12 * FRAMES];
    void *frames[FRAMES];
    int n = backtrace(frames, FRAMES);
    size_t used = (size_t)snprintf(line, sizeof line, "%s", name);
    for (int i = 0; i < n; i++) {
        uintptr_t at = (uintptr_t)frames[i];
        if (at >= failing.begin && at < failing.end)
            used += (size_t)snprintf(line + used, sizeof line - used, "%c%jx",
                                     strchr(line, ' ') ? ',' : ' ', (uintmax_t)(at - failing.base));
    }
    line[used++] = '\n';
    syscall(SYS_write, failing.log, line, used);
}

/* Whether this call is the one. */
static bool fails(const char *name)
{
    if (!failing.armed || failing.busy || (failing.nth && strcmp(name, failing.name) != 0))
        return false;
    bool met = failing.nth && ++failing.count == failing.nth;
    if ((met || !failing.nth) && failing.log >= 0) {
        failing.busy = true;
        write_place(name);
        failing.busy = false;
    }
    if (met && failing.error < 0)
        raise(-failing.error);
    else if (met)
        errno = failing.error;
    return met && failing.error >= 0;
}

#define WRAP_AS(kind, type, name, parameters, arguments, failed)                                   \
    type name parameters;                                                                          \
    type name parameters                                                                           \
    {                                                                                              \
        static type(*real) parameters;                                                             \
        if (!real)                                                                                 \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                    \
        return fails(kind) ? (failed) : real arguments;                                            \
    }
#define WRAP(type, name, parameters, arguments, failed)                                            \
    WRAP_AS(#name, type, name, parameters, arguments, failed)

WRAP(ssize_t, read, (int fd, void *to, size_t size), (fd, to, size), -1)
WRAP(ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size), -1)
WRAP(ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at), -1)
WRAP_AS("pread", ssize_t, pread64, (int fd, void *to, size_t size, off_t at), (fd, to, size, at),
        -1)
WRAP(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), -1)
WRAP_AS("pwrite", ssize_t, pwrite64, (int fd, const void *from, size_t size, off_t at),
        (fd, from, size, at), -1)
WRAP(off_t, lseek, (int fd, off_t to, int from), (fd, to, from), -1)
WRAP(int, fsync, (int fd), (fd), -1)
WRAP(int, fdatasync, (int fd), (fd), -1)
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), -1)
WRAP_AS("ftruncate", int, ftruncate64, (int fd, off_t size), (fd, size), -1)
WRAP(int, fstat, (int fd, struct stat *to), (fd, to), -1)
WRAP_AS("fstat", int, fstat64, (int fd, struct stat64 *to), (fd, to), -1)
WRAP(int, stat, (const char *path, struct stat *to), (path, to), -1)
WRAP(int, lstat, (const char *path, struct stat *to), (path, to), -1)
WRAP(int, fstatat, (int dir, const char *path, struct stat *to, int how), (dir, path, to, how), -1)
WRAP(int, fstatfs, (int fd, struct statfs *to), (fd, to), -1)
WRAP(int, access, (const char *path, int how), (path, how), -1)
WRAP(int, faccessat, (int dir, const char *path, int how, int flags), (dir, path, how, flags), -1)
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), -1)
WRAP(int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), -1)
WRAP(int, rename, (const char *from, const char *to), (from, to), -1)
WRAP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), -1)
WRAP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned how),
     (a, from, b, to, how), -1)
WRAP(int, unlink, (const char *path), (path), -1)
WRAP(int, unlinkat, (int dir, const char *path, int how), (dir, path, how), -1)
WRAP(int, rmdir, (const char *path), (path), -1)
WRAP(int, truncate, (const char *path, off_t size), (path, size), -1)
WRAP(ssize_t, readlinkat, (int dir, const char *path, char *to, size_t size), (dir, path, to, size),
     -1)
WRAP(int, scandir,
     (const char *path, struct dirent ***to, int (*wanted)(const struct dirent *),
      int (*order)(const struct dirent **, const struct dirent **)),
     (path, to, wanted, order), -1)
WRAP(int, futimens, (int fd, const struct timespec times[2]), (fd, times), -1)
WRAP(DIR *, fdopendir, (int fd), (fd), NULL)
WRAP(struct dirent *, readdir, (DIR * stream), (stream), NULL)
WRAP(FILE *, tmpfile, (void), (), NULL)
WRAP(int, fflush, (FILE * stream), (stream), EOF)
WRAP(char *, mkdtemp, (char *path), (path), NULL)
WRAP(char *, realpath, (const char *path, char *to), (path, to), NULL)
WRAP(int, gethostname, (char *to, size_t size), (to, size), -1)
WRAP(struct tm *, localtime_r, (const time_t *when, struct tm *to), (when, to), NULL)
WRAP(int, socket, (int family, int type, int protocol), (family, type, protocol), -1)
WRAP(int, connect, (int fd, const struct sockaddr *to, socklen_t size), (fd, to, size), -1)
WRAP(int, poll, (struct pollfd * fds, nfds_t n, int ms), (fds, n, ms), -1)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int how), (fd, message, how), -1)
WRAP(ssize_t, recvmsg, (int fd, struct msghdr *message, int how), (fd, message, how), -1)
WRAP(int, dup, (int fd), (fd), -1)
WRAP(FILE *, fdopen, (int fd, const char *how), (fd, how), NULL)

/* What these do inside does not count: the C library itself crashes where it looks for an account
 * and has no memory. */
struct passwd *getpwnam(const char *name)
{
    static struct passwd *(*real)(const char *);
    if (!real)
        real = (struct passwd * (*)(const char *)) dlsym(RTLD_NEXT, "getpwnam");
    if (fails("getpwnam"))
        return NULL;
    failing.busy = true;
    struct passwd *found = real(name);
    failing.busy = false;
    return found;
}

int getpwnam_r(const char *name, struct passwd *to, char *buffer, size_t size,
               struct passwd **found)
{
    static int (*real)(const char *, struct passwd *, char *, size_t, struct passwd **);
    if (!real)
        real = (int (*)(const char *, struct passwd *, char *, size_t, struct passwd **))dlsym(
            RTLD_NEXT, "getpwnam_r");
    if (fails("getpwnam_r"))
        return failing.error;
    failing.busy = true;
    int status = real(name, to, buffer, size, found);
    failing.busy = false;
    return status;
}

/* The store's ways into SQLite, and the digests' into libcrypto: they fail without having begun. */
WRAP(int, sqlite3_open_v2, (const char *path, sqlite3 **db, int how, const char *vfs),
     (path, db, how, vfs), (*db = NULL, failing.error))
WRAP_AS("sqlite3_prepare", int, sqlite3_prepare_v2,
        (sqlite3 * db, const char *sql, int size, sqlite3_stmt **to, const char **rest),
        (db, sql, size, to, rest), (*to = NULL, failing.error))
WRAP_AS("sqlite3_prepare", int, sqlite3_prepare_v3,
        (sqlite3 * db, const char *sql, int size, unsigned how, sqlite3_stmt **to,
         const char **rest),
        (db, sql, size, how, to, rest), (*to = NULL, failing.error))
WRAP(int, sqlite3_step, (sqlite3_stmt * statement), (statement), failing.error)
WRAP(int, sqlite3_exec,
     (sqlite3 * db, const char *sql, int (*row)(void *, int, char **, char **), void *context,
      char **error),
     (db, sql, row, context, error), failing.error)
WRAP(int, sqlite3_column_type, (sqlite3_stmt * statement, int n), (statement, n), failing.error)
WRAP(int, sqlite3_value_type, (sqlite3_value * value), (value), failing.error)
WRAP(sqlite3_backup *, sqlite3_backup_init,
     (sqlite3 * to, const char *a, sqlite3 *from, const char *b), (to, a, from, b), NULL)
WRAP(int, sqlite3_backup_step, (sqlite3_backup * copy, int pages), (copy, pages), failing.error)
WRAP(int, sqlite3_libversion_number, (void), (), failing.error)
WRAP(EVP_MD_CTX *, EVP_MD_CTX_new, (void), (), NULL)
WRAP(int, EVP_DigestInit_ex, (EVP_MD_CTX * context, const EVP_MD *kind, ENGINE *engine),
     (context, kind, engine), 0)
WRAP(int, EVP_DigestUpdate, (EVP_MD_CTX * context, const void *octets, size_t size),
     (context, octets, size), 0)
WRAP(int, EVP_DigestFinal_ex, (EVP_MD_CTX * context, unsigned char *to, unsigned *size),
     (context, to, size), 0)

/* What takes more arguments than it names. */
static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name, parameters, ...)                                                                \
    int name parameters;                                                                           \
    int name parameters                                                                            \
    {                                                                                              \
        static int(*real) parameters;                                                              \
        va_list rest;                                                                              \
        if (!real)                                                                                 \
            real = (int(*) parameters)dlsym(RTLD_NEXT, #name);                                     \
        va_start(rest, flags);                                                                     \
        mode_t mode = mode_of(flags, rest);                                                        \
        va_end(rest);                                                                              \
        return fails("open") ? -1 : real(__VA_ARGS__, mode);                                       \
    }

OPEN(open, (const char *path, int flags, ...), path, flags)
OPEN(open64, (const char *path, int flags, ...), path, flags)
OPEN(openat, (int dir, const char *path, int flags, ...), dir, path, flags)

int fcntl(int fd, int what, ...)
{
    static int (*real)(int, int, ...);
    va_list rest;
    if (!real)
        real = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    va_start(rest, what);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    bool failed = what == F_DUPFD_CLOEXEC ? fails("dup") : what == F_OFD_SETLK && fails("lock");
    return failed ? -1 : real(fd, what, argument);
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list rest;
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_openat2 && fails("open"))
        return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* The C library's own, under its other names: whoever looks for the next one allocates. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size)
{
    return fails("malloc") ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return fails("malloc") ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return fails("malloc") ? NULL : __libc_realloc(old, size);
}

static int find_program(struct dl_phdr_info *about, size_t size, void *context)
{
    (void)size, (void)context;
    failing.base = about->dlpi_addr;
    for (int i = 0; i < about->dlpi_phnum; i++)
        if (about->dlpi_phdr[i].p_type == PT_LOAD && about->dlpi_phdr[i].p_flags & PF_X) {
            failing.begin = about->dlpi_addr + about->dlpi_phdr[i].p_vaddr;
            failing.end = failing.begin + about->dlpi_phdr[i].p_memsz;
        }
    return 1; /* the first is the program */
}

static int (*program)(int argc, char **argv, char **environment);

static int run(int argc, char **argv, char **environment)
{
    void *frame;
    const char *spec = getenv("FAILING"), *log = getenv("FAILING_LOG");
    if (spec)
        sscanf(spec, "%63[^:]:%u:%d", failing.name, &failing.nth, &failing.error);
    if (log) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        failing.log = fcntl(fd, F_DUPFD_CLOEXEC, 500); /* no number that the program would get */
        close(fd);
    }
    dl_iterate_phdr(find_program, NULL);
    backtrace(&frame, 1); /* loads a library at its first call */
    failing.armed = true;
    int status = program(argc, argv, environment);
    failing.armed = false;
    return status;
}

typedef int start_main(int (*main)(int, char **, char **), int argc, char **argv,
                       void (*init)(void), void (*fini)(void), void (*rtld_fini)(void),
                       void *stack_end);
start_main __libc_start_main;

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    start_main *real = (start_main *)dlsym(RTLD_NEXT, "__libc_start_main");
    program = main;
    return real(run, argc, argv, init, fini, rtld_fini, stack_end);
}
