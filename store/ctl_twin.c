/*
 * ctl_twin.c - see ctl_twin.h. Runs in poplarctl, with the caller's privilege, on files that may be
 * anybody's.
 */
#include "store/ctl_twin.h"
#include "store/ctl.h"
#include "store/ctl_path.h"
#include "store/ctl_signals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* Octets to read: what may have no end, or is waited for, is not read, and a file as far as it goes
 * now. */
static uint64_t size_of(int fd, const char *path)
{
    struct stat about;
    if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode))
        return (uint64_t)about.st_size;
    ctl_note("%s: is no file; going on without it", path);
    return 0;
}

/* Octet by octet; a file that is not there is as good as an empty one, and a page that cannot be
 * read as one of zeros. */
static int copy_file(const char *from, const char *to)
{
    char page[4096]; /* as the database has them: a bad place on the disk costs no more */
    int status = 0, why = 0, out = -1, in = ctl_path_open(from, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (in < 0 && errno != ENOENT)
        return ctl_fail(errno == EACCES ? EX_NOPERM : EX_IOERR, "%s: %s", from,
                        ctl_path_fault(errno));
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = out >= 0;
    uint64_t size = good && in >= 0 ? size_of(in, from) : 0, at = 0, unread = 0;
    while (good && at < size && !ctl_signals_met()) {
        size_t wanted = size - at < sizeof page ? (size_t)(size - at) : sizeof page;
        ssize_t got = pread(in, page, wanted, (off_t)at);
        if (got == 0) /* it was cut meanwhile */
            break;
        if (got < 0) {
            why = errno;
            unread += wanted;
            memset(page, 0, wanted);
        } else {
            wanted = (size_t)got;
        }
        good = ctl_write_all(out, page, wanted);
        at += wanted;
    }
    if (!good)
        status = ctl_fail(EX_CANTCREAT, "%s: %s; TMPDIR names another place", to, strerror(errno));
    else if (unread > 0)
        ctl_note("%s: %s; going on without %ju octets", from, strerror(why), (uintmax_t)unread);
    base_close(in);
    base_close(out);
    return !status && ctl_signals_met() ? EX_TEMPFAIL : status; /* the signal says it */
}

int ctl_twin_make(const char *path, struct ctl_twin *twin)
{
    static const char *const files[] = {"", "-wal"};
    const char *temporary = getenv("TMPDIR");
    int status = 0;
    twin->path = NULL;
    twin->folder = base_format("%s/poplar-copy-XXXXXX", temporary ? temporary : "/var/tmp");
    if (!mkdtemp(twin->folder)) {
        status = ctl_fail(EX_CANTCREAT, "%s: %s", twin->folder, strerror(errno));
        free(twin->folder);
        twin->folder = NULL;
        return status;
    }
    twin->path = base_format("%s/copy", twin->folder);
    for (size_t i = 0; !status && i < ARRAY_SIZE(files); i++) {
        char *from = base_format("%s%s", path, files[i]);
        char *to = base_format("%s%s", twin->path, files[i]);
        status = copy_file(from, to);
        free(from);
        free(to);
    }
    return status;
}

void ctl_twin_remove(struct ctl_twin *twin)
{
    static const char *const files[] = {"", "-wal", "-shm"};
    if (!twin->folder)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        char *path = base_format("%s%s", twin->path, files[i]);
        unlink(path);
        free(path);
    }
    rmdir(twin->folder);
    free(twin->folder);
    free(twin->path);
    *twin = (struct ctl_twin){0};
}
