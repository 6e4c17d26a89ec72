/*
 * disk.c - stand-ins for the calls that reach a disk: they fail on demand, else they do what they
 * are for, and what they did is noted for a later cut of the power.
 */
#include "tests/faults/disk.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct {
    struct disk_fault fault;
    bool armed, met;
    unsigned count; /* calls of the fault's kind so far */
    int64_t now;
    uint64_t seed;
} self = {.now = 1000000000};

/* The calls as libc has them, each looked up when first needed. */
#define REAL(name)                                                                                 \
    static __typeof__(&(name)) real;                                                               \
    if (!real)                                                                                     \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

uint64_t disk_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

void disk_fail(const struct disk_fault *fault)
{
    self.armed = fault != NULL;
    self.count = 0;
    if (fault) {
        self.fault = *fault;
        self.met = false;
    }
}

bool disk_failed(void)
{
    return self.met;
}

void disk_set_clock(int64_t now)
{
    self.now = now;
}

void disk_set_seed(uint64_t seed)
{
    self.seed = seed;
}

bool disk_is_wrong(enum disk_call call)
{
    if (!self.armed || call != self.fault.call)
        return false;
    self.count++;
    if (self.count != self.fault.nth && !(self.fault.for_ever && self.count > self.fault.nth))
        return false;
    self.met = true;
    errno = self.fault.error;
    return true;
}

/* Half of what was asked, but something. */
static size_t half(size_t size)
{
    return size > 1 ? size / 2 : size;
}

static ssize_t read_at(int fd, void *octets, size_t size, off_t offset)
{
    if (disk_is_wrong(DISK_READ)) {
        if (self.fault.error != 0)
            return -1;
        size = half(size);
    }
    return pread(fd, octets, size, offset);
}

static ssize_t write_at(int fd, const void *octets, size_t size, off_t offset)
{
    ssize_t put;

    if (disk_is_wrong(DISK_WRITE)) {
        if (self.fault.error != 0)
            return -1;
        size = half(size);
    }
    put = pwrite(fd, octets, size, offset);
    if (put > 0)
        disk_note_write(fd, octets, (size_t)put, offset);
    return put;
}

void disk_install(void)
{
    static const struct {
        const char *name;
        sqlite3_syscall_ptr ours;
    } slots[] = {
        {"pread", (sqlite3_syscall_ptr)read_at},
        {"pread64", (sqlite3_syscall_ptr)read_at},
        {"pwrite", (sqlite3_syscall_ptr)write_at},
        {"pwrite64", (sqlite3_syscall_ptr)write_at},
    };
    sqlite3_vfs *vfs = sqlite3_vfs_find("unix");

    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        if (vfs->xSetSystemCall(vfs, slots[i].name, slots[i].ours) != SQLITE_OK)
            abort();
    }
}

/* From here on, in front of libc. Nothing is really synced: that would only cost time. */

static int sync_file(int fd)
{
    if (disk_is_wrong(DISK_SYNC)) {
        disk_note_sync(fd, false);
        return -1;
    }
    disk_note_sync(fd, true);
    return 0;
}

int ftruncate(int fd, off_t size)
{
    REAL(ftruncate);
    if (disk_is_wrong(DISK_TRUNCATE) && self.fault.error != 0)
        return -1;
    if (real(fd, size) < 0)
        return -1;
    disk_note_truncate(fd, size);
    return 0;
}

/* The name that SQLite calls it by: its slot is the store's. */
int ftruncate64(int fd, off_t size)
{
    return ftruncate(fd, size);
}

int fsync(int fd)
{
    return sync_file(fd);
}

int fdatasync(int fd)
{
    return sync_file(fd);
}

int fstatat(int dir, const char *restrict path, struct stat *restrict status, int flags)
{
    REAL(fstatat);
    return disk_is_wrong(DISK_STAT) ? -1 : real(dir, path, status, flags);
}

ssize_t write(int fd, const void *octets, size_t size)
{
    ssize_t put;

    REAL(write);
    if (disk_is_wrong(DISK_WRITE)) {
        if (self.fault.error != 0)
            return -1;
        size = half(size);
    }
    put = real(fd, octets, size);
    if (put > 0)
        disk_note_write(fd, octets, (size_t)put, lseek(fd, 0, SEEK_CUR) - put);
    return put;
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    REAL(mkdirat);
    if (disk_is_wrong(DISK_NAME) || real(dir, path, mode) < 0)
        return -1;
    disk_note_made(dir, path);
    return 0;
}

int renameat(int from, const char *path, int to, const char *name)
{
    REAL(renameat);
    if (from != to)
        abort(); /* nobody does */
    if (disk_is_wrong(DISK_NAME) || real(from, path, to, name) < 0)
        return -1;
    disk_note_renamed(from, path, name);
    return 0;
}

int unlinkat(int dir, const char *path, int flags)
{
    REAL(unlinkat);
    if (disk_is_wrong(DISK_NAME) || real(dir, path, flags) < 0)
        return -1;
    disk_note_removed(dir, path);
    return 0;
}

/* openat2(2) has no function of its own. Nothing here calls one of more than five arguments. */
long syscall(long number, ...)
{
    long a[5], result;
    bool makes;
    va_list arguments;

    REAL(syscall);
    va_start(arguments, number);
    for (size_t i = 0; i < 5; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    makes = number == SYS_openat2 && ((const struct open_how *)a[2])->flags & O_CREAT &&
            faccessat((int)a[0], (const char *)a[1], F_OK, AT_SYMLINK_NOFOLLOW) < 0;
    if (makes && disk_is_wrong(DISK_NAME))
        return -1;
    result = real(number, a[0], a[1], a[2], a[3], a[4]);
    if (makes && result >= 0)
        disk_note_made((int)a[0], (const char *)a[1]);
    return result;
}

ssize_t getrandom(void *buffer, size_t size, unsigned flags)
{
    unsigned char *octets = buffer;

    (void)flags;
    if (disk_is_wrong(DISK_RANDOM))
        return -1;
    for (size_t i = 0; i < size; i++)
        octets[i] = (unsigned char)disk_random(&self.seed);
    return (ssize_t)size;
}

time_t time(time_t *out)
{
    if (out)
        *out = (time_t)self.now;
    return (time_t)self.now;
}

/* In the place of the product's calls of SQLite, by the linker. SQLite's own of the same are left
 * alone: sqlite3_exec() would forget a failure that its statement does not know of. */

int __real_sqlite3_prepare_v2(sqlite3 *db, const char *sql, int size, sqlite3_stmt **ready,
                              const char **rest);
int __real_sqlite3_prepare_v3(sqlite3 *db, const char *sql, int size, unsigned flags,
                              sqlite3_stmt **ready, const char **rest);
int __real_sqlite3_step(sqlite3_stmt *statement);
int __real_sqlite3_exec(sqlite3 *db, const char *sql, sqlite3_callback each, void *context,
                        char **error);
int __wrap_sqlite3_prepare_v2(sqlite3 *db, const char *sql, int size, sqlite3_stmt **ready,
                              const char **rest);
int __wrap_sqlite3_prepare_v3(sqlite3 *db, const char *sql, int size, unsigned flags,
                              sqlite3_stmt **ready, const char **rest);
int __wrap_sqlite3_step(sqlite3_stmt *statement);
int __wrap_sqlite3_exec(sqlite3 *db, const char *sql, sqlite3_callback each, void *context,
                        char **error);

int __wrap_sqlite3_prepare_v2(sqlite3 *db, const char *sql, int size, sqlite3_stmt **ready,
                              const char **rest)
{
    return disk_is_wrong(DISK_STATEMENT) ? self.fault.error
                                         : __real_sqlite3_prepare_v2(db, sql, size, ready, rest);
}

int __wrap_sqlite3_prepare_v3(sqlite3 *db, const char *sql, int size, unsigned flags,
                              sqlite3_stmt **ready, const char **rest)
{
    return disk_is_wrong(DISK_STATEMENT)
               ? self.fault.error
               : __real_sqlite3_prepare_v3(db, sql, size, flags, ready, rest);
}

int __wrap_sqlite3_step(sqlite3_stmt *statement)
{
    return disk_is_wrong(DISK_STATEMENT) ? self.fault.error : __real_sqlite3_step(statement);
}

int __wrap_sqlite3_exec(sqlite3 *db, const char *sql, sqlite3_callback each, void *context,
                        char **error)
{
    return disk_is_wrong(DISK_STATEMENT) ? self.fault.error
                                         : __real_sqlite3_exec(db, sql, each, context, error);
}
