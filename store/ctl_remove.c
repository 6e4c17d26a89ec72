/*
 * ctl_remove.c - poplarctl mailbox delete. Runs as root (then under the store user's file-system
 * ids, so that a planted link reaches no further than that user's own files) or as the store user.
 *
 * A directory is renamed while both bytes of its lock are held, then emptied: whoever waits for the
 * lock meets files without a name, and nobody finds half a maildrop under its own.
 */
#include "store/ctl_remove.h"
#include "daemon/privileges.h"
#include "store/ctl_ask.h"
#include "store/ctl_drops.h"
#include "store/ctl_json.h"
#include "store/ctl_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum { LEFTOVER_AGE = 3600 }; /* seconds after which nobody is at work on it any more */

/* For the rest of the process, whatever it touches on disk. */
static int become_store_user(const struct ctl *ctl)
{
    uid_t uid;
    gid_t gid;
    const char *user = ctl->config->server.store_user;
    if (!privileges_lookup(user, &uid, &gid))
        return ctl_fail(EX_CONFIG, "[server] store_user=%s: no such account", user);
    if (geteuid() != 0)
        return 0;
    setfsgid(gid);
    setfsuid(uid);
    return (uid_t)setfsuid((uid_t)-1) == uid && (gid_t)setfsgid((gid_t)-1) == gid
               ? 0
               : ctl_fail(EX_NOPERM, "cannot take the ids of %s", user);
}

/* Empty a directory of files and remove it. False and errno. */
static bool remove_directory(int parent, const char *name)
{
    DIR *stream = ctl_path_list(parent, name);
    const struct dirent *found;
    bool good = true;
    if (!stream)
        return false;
    while (good && (found = readdir(stream)))
        if (strcmp(found->d_name, ".") != 0 && strcmp(found->d_name, "..") != 0)
            good = unlinkat(dirfd(stream), found->d_name, 0) == 0;
    int error = errno;
    closedir(stream);
    errno = error;
    return good && unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

/* Away with it; the locks are held. */
static int remove_locked(const char *path)
{
    char gone[40];
    uint64_t random;
    char *parent_path = base_strdup(path), *name = strrchr(parent_path, '/');
    *name++ = '\0';
    base_random(&random, sizeof random);
    /* No encoded name begins with a dot. */
    snprintf(gone, sizeof gone, ".gone-%016jx", (uintmax_t)random);
    int parent = open(parent_path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool renamed = parent >= 0 && renameat(parent, name, parent, gone) == 0 && fsync(parent) == 0;
    int status = 0;
    if (!renamed)
        status = ctl_fail(EX_OSFILE, "%s: %s", path, strerror(errno));
    /* Where a file system of a program's keeps what somebody has open, as we the lock, under
     * another name, the directory stays: it goes as a leftover does. */
    else if ((!remove_directory(parent, gone) && errno != ENOTEMPTY) || fsync(parent) < 0)
        status = ctl_fail(EX_OSFILE, "%s/%s: %s; the maildrop is deleted, remove this by hand",
                          parent_path, gone, strerror(errno));
    base_close(parent);
    free(parent_path);
    return status;
}

static int delete_maildrop(const struct ctl *ctl, const char *name)
{
    int lock = -1;
    char *path = ctl_drops_path(ctl, name);
    int status = become_store_user(ctl);
    if (!status)
        status = ctl_drops_lock(name, path, &lock);
    if (!status)
        status = remove_locked(path);
    base_close(lock);
    free(path);
    return status;
}

int ctl_mailbox_delete(struct ctl *ctl)
{
    char name[PROTO_USER_MAX + 1];
    /* A name of the list is just that one: one that no login means any more would stay for ever,
     * and what the rules make of its name would go instead. */
    const char *given = ctl->words[0];
    bool listed = base_copy(name, sizeof name, given) && ctl_open_exists(ctl, given);
    int status = listed ? 0 : ctl_open_name(ctl, given, name);
    if (!status && !ctl_open_exists(ctl, name))
        status = ctl_fail(EX_NOUSER, "%s: no maildrop", name);
    if (!status)
        status = ctl_ask(ctl, "Delete the maildrop of %s with all its mail", name);
    if (!status)
        status = delete_maildrop(ctl, name);
    if (!status && ctl->options & CTL_JSON)
        status = ctl_json_print(json_pack("{s:o, s:b}", "user", ctl_json_name(name), "deleted", 1),
                                false);
    return status;
}

/* ".gone-…" and ".new-…" directories of one folder of maildrops. */
static void sweep(const char *path)
{
    DIR *stream = ctl_path_list(AT_FDCWD, path);
    const int parent = stream ? dirfd(stream) : -1;
    const struct dirent *found;
    struct stat about;
    while (stream && (found = readdir(stream)))
        if ((strncmp(found->d_name, ".gone-", 6) == 0 || strncmp(found->d_name, ".new-", 5) == 0) &&
            fstatat(parent, found->d_name, &about, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(about.st_mode) && about.st_mtime < time(NULL) - LEFTOVER_AGE)
            remove_directory(parent, found->d_name);
    if (stream)
        closedir(stream);
}

void ctl_remove_leftovers(const struct ctl *ctl)
{
    const char *state = ctl->config->server.state_dir;
    if (become_store_user(ctl))
        return;
    for (unsigned hash = 0; hash < 65536; hash++) {
        char *path = base_format("%s/mail/%02x/%02x", state, hash >> 8, hash & 0xff);
        sweep(path);
        free(path);
    }
}
