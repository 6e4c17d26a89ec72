/*
 * ctl_drops.c - all maildrops there are. Runs in poplarctl as root or the store user, over
 * directories of the store user: what does not look like a maildrop is none.
 */
#include "store/ctl_drops.h"
#include "auth/grant.h"
#include "store/ctl_json.h"
#include "store/ctl_path.h"
#include "store/ctl_signals.h"
#include "store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum { LOCK_PATIENCE_MS = 10000 };

struct list {
    struct text_list names;
    char *closed; /* what could not be looked into, below state_dir */
};

/* Undo grant_path()'s encoding of a name; false if it is none. */
static bool decode(const char *encoded, char name[PROTO_USER_MAX + 1])
{
    char digits[3] = "", *end;
    size_t length = 0;
    for (; *encoded; encoded++) {
        char c = *encoded;
        if (c == '%') {
            if (!encoded[1] || !encoded[2])
                return false;
            memcpy(digits, encoded + 1, 2);
            c = (char)strtol(digits, &end, 16);
            if (*end || !c)
                return false;
            encoded += 2;
        }
        if (length == PROTO_USER_MAX)
            return false;
        name[length++] = c;
    }
    name[length] = '\0';
    return length > 0;
}

bool ctl_drops_named(const char *directory, char name[PROTO_USER_MAX + 1])
{
    char path[GRANT_PATH_MAX];
    return decode(directory, name) && grant_path(name, path) &&
           strcmp(strrchr(path, '/') + 1, directory) == 0;
}

/* A directory is a maildrop if its name leads to just this place. */
static void take(struct list *list, const char *path, const char *encoded)
{
    char name[PROTO_USER_MAX + 1], wanted[GRANT_PATH_MAX];
    if (encoded[0] == '.')
        return;
    if (decode(encoded, name) && grant_path(name, wanted) && strcmp(path, wanted) == 0)
        textlist_add(&list->names, name, strlen(name));
    else
        ctl_note("%s: no maildrop; passed over", path);
}

static bool walk(struct list *list, int parent, const char *path, int level);

/* One entry. Where mail/ is a file system of its own, lost+found is there, root's alone. False and
 * errno. */
static bool look_into(struct list *list, int parent, const char *path, const char *name, int level)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
        (level == 0 && strcmp(name, "lost+found") == 0))
        return true;
    char *below = base_format("%s/%s", path, name);
    bool good = true;
    if (level == 2)
        take(list, below, name);
    else
        good = walk(list, parent, below, level + 1);
    if (!good && errno == ENOTDIR)
        ctl_note("%s: no maildrop; passed over", below);
    good = good || errno == ENOTDIR || errno == ENOENT;
    int error = errno;
    free(below);
    errno = error;
    return good;
}

/* The entries of mail/, then of the two levels below it. False and errno. */
static bool walk(struct list *list, int parent, const char *path, int level)
{
    DIR *stream = ctl_path_list(parent, path);
    const struct dirent *found;
    bool good = stream != NULL;
    while (good && (errno = 0, found = readdir(stream)))
        good = look_into(list, parent, path, found->d_name, level);
    int error = errno;
    if (!list->closed && error != 0 && error != ENOENT && (error != ENOTDIR || level == 0))
        list->closed = base_format("/%s", path);
    if (stream)
        closedir(stream);
    errno = error;
    return good && error == 0;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int ctl_drops_list(const struct ctl *ctl, struct text_list *names)
{
    struct list list = {0};
    const char *state = ctl->config->server.state_dir;
    int root = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = root >= 0 && (walk(&list, root, "mail", 0) || errno == ENOENT);
    int error = errno;
    base_close(root);
    if (!good) {
        textlist_clear(&list.names);
        const char *closed = list.closed ? list.closed : "";
        int status =
            error == EACCES
                ? ctl_fail(EX_NOPERM,
                           "%s%s: %s; run poplarctl as root, or as %s, who must own all there",
                           state, closed, strerror(error), ctl->config->server.store_user)
                : ctl_fail(EX_OSFILE, "%s%s: %s", state, closed, strerror(error));
        free(list.closed);
        return status;
    }
    if (list.names.n > 0)
        qsort(list.names.items, list.names.n, sizeof *list.names.items, compare);
    *names = list.names;
    return 0;
}

char *ctl_drops_path(const struct ctl *ctl, const char *name)
{
    char below[GRANT_PATH_MAX];
    return grant_path(name, below) ? base_format("%s/%s", ctl->config->server.state_dir, below)
                                   : NULL;
}

static int open_lock(const char *path, int flags, int *fd)
{
    char *file = base_format("%s/%s", path, maildrop_file_names[MAILDROP_LOCK]);
    *fd = open(file, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); /* a FIFO would be waited for */
    int status = *fd >= 0 || errno == ENOENT ? 0
                                             : ctl_fail(errno == EACCES ? EX_NOPERM : EX_OSFILE,
                                                        "%s: %s", file, strerror(errno));
    free(file);
    return status;
}

static bool is_lock_of(const char *path, int fd)
{
    char *file = base_format("%s/%s", path, maildrop_file_names[MAILDROP_LOCK]);
    bool is = ctl_path_leads_to(AT_FDCWD, file, fd);
    free(file);
    return is;
}

static int let_go(int *fd, const char *name, const char *why)
{
    base_close(*fd);
    *fd = -1;
    return ctl_fail(EX_TEMPFAIL, "%s: %s", name, why);
}

static const char writes[] = "another process writes to the maildrop; try again";

int ctl_drops_lock(const char *name, const char *path, int *fd)
{
    int status = open_lock(path, O_RDWR, fd);
    if (*fd >= 0 && lock_acquire(*fd, MAILDROP_LOCK_SESSION, 0) != STORE_OK)
        return let_go(fd, name, "a session holds the maildrop; try again when it is over");
    if (*fd >= 0 &&
        lock_acquire(*fd, MAILDROP_LOCK_WRITE, lock_clock() + LOCK_PATIENCE_MS) != STORE_OK)
        return let_go(fd, name, writes);
    if (*fd >= 0 && !is_lock_of(path, *fd))
        return let_go(fd, name, "another process just deleted the maildrop; try again");
    return status;
}

int ctl_drops_keep(const char *name, const char *path, int *fd)
{
    int status = open_lock(path, O_RDONLY, fd);
    if (*fd >= 0 &&
        lock_share(*fd, MAILDROP_LOCK_WRITE, lock_clock() + LOCK_PATIENCE_MS) != STORE_OK)
        return let_go(fd, name, writes);
    return status;
}

static int run_one(struct ctl *ctl, const char *name, bool many, ctl_drops_one *one)
{
    struct ctl_maildrop maildrop;
    int status = ctl_open_maildrop(ctl, name, many ? CTL_OPEN_NAMED : 0, &maildrop);
    if (many && status == EX_NOUSER)
        return 0;
    if (!status)
        status = one(ctl, &maildrop, many);
    ctl_open_close(&maildrop);
    return status;
}

int ctl_drops_each(struct ctl *ctl, ctl_drops_one *one)
{
    struct text_list names = {0};
    if (!(ctl->options & CTL_ALL))
        return run_one(ctl, ctl->words[0], false, one);
    int status = ctl_drops_list(ctl, &names);
    if (status)
        return status;
    ctl_signals_catch();
    ctl_json_begin(ctl);
    for (size_t i = 0; i < names.n && !ctl_signals_met(); i++) {
        int failed = run_one(ctl, names.items[i], true, one);
        status = status ? status : failed;
    }
    int printed = ctl_json_end(ctl);
    textlist_clear(&names);
    return ctl_signals_end(status ? status : printed);
}
