/*
 * ctl_target.c - a Maildir being written. Runs in poplarctl, usually as root, in a directory that
 * may belong to a user: below it no link is followed and no file is overwritten.
 */
#include "store/ctl_target.h"
#include "store/ctl.h"
#include "store/ctl_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum { TMP, NEW, CUR, FOLDERS };
static const char *const folders[FOLDERS] = {[TMP] = "tmp", [NEW] = "new", [CUR] = "cur"};
#define LIST "dovecot-uidlist"

struct ctl_target {
    char *path;
    int directory, folder[FOLDERS];
    bool was_empty; /* so that a list of UIDLs can name all that is there */
    time_t started;
    uint32_t random; /* each container may have the same processes and host */
    char host[65];
    size_t number;
    FILE *list; /* the lines of the list, until it is written; NULL: none */
};

static int write_failed(const struct ctl_target *target, const char *name, int error)
{
    char *path = base_format("%s/%s", target->path, name);
    int status = ctl_write_failed(path, error);
    free(path);
    return status;
}

static bool is_empty(int directory)
{
    DIR *stream = ctl_path_list(directory, ".");
    const struct dirent *found;
    bool empty = true;
    if (!stream)
        return false;
    while (empty && (found = readdir(stream)))
        empty = strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0;
    closedir(stream);
    return empty;
}

/* Make or open DIR and the three folders of a Maildir in it. */
static int open_folders(struct ctl_target *target)
{
    target->directory = ctl_path_open(target->path, O_RDONLY | O_DIRECTORY | O_CREAT);
    if (target->directory < 0)
        return ctl_fail(EX_CANTCREAT, "%s: %s", target->path, ctl_path_fault(errno));
    target->was_empty = is_empty(target->directory);
    if (faccessat(target->directory, "cur", F_OK, AT_SYMLINK_NOFOLLOW) < 0 && !target->was_empty)
        return ctl_fail(EX_CANTCREAT, "%s: neither empty nor a Maildir; name another directory",
                        target->path);
    for (int i = 0; i < FOLDERS; i++) {
        if (mkdirat(target->directory, folders[i], 0700) == 0 || errno == EEXIST)
            target->folder[i] = openat(target->directory, folders[i],
                                       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (target->folder[i] < 0)
            return write_failed(target, folders[i], errno);
    }
    return 0;
}

int ctl_target_open(const char *path, struct ctl_target **opened)
{
    struct ctl_target *target = base_alloc(sizeof *target);
    *target = (struct ctl_target){
        .path = base_strdup(path), .directory = -1, .folder = {-1, -1, -1}, .started = time(NULL)};
    base_random(&target->random, sizeof target->random);
    /* A Maildir name holds neither '/' nor ':'. */
    if (gethostname(target->host, sizeof target->host - 1) < 0)
        base_copy(target->host, sizeof target->host, "localhost");
    for (char *c = target->host; *c; c++)
        if (*c == '/' || *c == ':')
            *c = '_';
    int status = open_folders(target);
    if (!status && target->was_empty && !(target->list = tmpfile()))
        status = ctl_fail(EX_CANTCREAT, "temporary file: %s", strerror(errno));
    if (status)
        ctl_target_close(target);
    else
        *opened = target;
    return status;
}

void ctl_target_close(struct ctl_target *target)
{
    if (!target)
        return;
    if (target->list)
        fclose(target->list);
    base_close(target->directory);
    for (int i = 0; i < FOLDERS; i++)
        base_close(target->folder[i]);
    free(target->path);
    free(target);
}

/* What a client has fetched goes to cur/ as seen, the rest is new. False and errno. */
static bool move_into_place(const struct ctl_target *target, const char *name, bool seen)
{
    char *final = base_format("%s%s", name, seen ? ":2,S" : "");
    bool moved = renameat(target->folder[TMP], name, target->folder[seen ? CUR : NEW], final) == 0;
    int error = errno;
    free(final);
    errno = error;
    return moved;
}

static bool set_time_and_sync(int fd, int64_t received)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)received}};
    return (received <= 0 || futimens(fd, times) == 0) && fsync(fd) == 0;
}

int ctl_target_add(struct ctl_target *target, const struct ctl_copy *copy,
                   const struct maildrop_message *message, enum store_outcome *outcome)
{
    int status = 0, error = 0;
    /* In the order of the maildrop, also when sorted by name; unique by time, chance, number. */
    char *name = base_format("%jd.R%08jxQ%08zu.%s", (intmax_t)target->started,
                             (uintmax_t)target->random, ++target->number, target->host);
    int fd = openat(target->folder[TMP], name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    0600);
    *outcome = STORE_OK;
    if (fd < 0) {
        status = write_failed(target, folders[TMP], errno);
        goto out;
    }
    *outcome = ctl_copy_message(copy, message->id, fd, &error);
    if (*outcome == STORE_OK && !error &&
        (!set_time_and_sync(fd, message->received) ||
         !move_into_place(target, name, message->retrieved > 0)))
        error = errno;
    if (*outcome == STORE_OK && !error) {
        if (target->list && message->uidl[0])
            fprintf(target->list, "%zu P%s :%s\n", target->number, message->uidl, name);
        goto out;
    }
    unlinkat(target->folder[TMP], name, 0);
    status = *outcome == STORE_OK ? write_failed(target, name, error) : -1;
out:
    base_close(fd);
    free(name);
    return status;
}

/* "3 V<uidvalidity> N<next uid> G<any 16 octets>", then the lines. */
static bool write_list(struct ctl_target *target)
{
    unsigned char guid[16];
    char hex[2 * sizeof guid + 1], buffer[16384];
    size_t got;
    int fd = openat(target->directory, LIST, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    base_random(guid, sizeof guid);
    for (size_t i = 0; i < sizeof guid; i++)
        snprintf(hex + 2 * i, 3, "%02x", guid[i]);
    int length = snprintf(buffer, sizeof buffer, "3 V%jd N%zu G%s\n", (intmax_t)target->started,
                          target->number + 1, hex);
    bool good = fflush(target->list) == 0 && !ferror(target->list) &&
                ctl_write_all(fd, buffer, (size_t)length);
    rewind(target->list);
    while (good && (got = fread(buffer, 1, sizeof buffer, target->list)) > 0)
        good = ctl_write_all(fd, buffer, got);
    good = good && !ferror(target->list) && fsync(fd) == 0;
    base_close(fd);
    return good;
}

int ctl_target_finish(struct ctl_target *target)
{
    for (int i = 0; i < FOLDERS; i++)
        if (fsync(target->folder[i]) < 0)
            return write_failed(target, folders[i], errno);
    if (target->list && !write_list(target))
        return write_failed(target, LIST, errno);
    if (!target->list)
        ctl_note("%s: held mail before, so no list of UIDLs was written there", target->path);
    return fsync(target->directory) == 0 ? 0 : write_failed(target, "", errno);
}
