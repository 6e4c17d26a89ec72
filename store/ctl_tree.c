/*
 * ctl_tree.c - import --all: which users a tree of mail belongs to. Runs in poplarctl, usually as
 * root, over directories that belong to users: only looks, and follows no link.
 */
#include "store/ctl_tree.h"
#include "daemon/base.h"
#include "store/ctl_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum what { NOTHING, MAILBOX, USER_DIRECTORY, OTHER_DIRECTORY };

/* Whether there is such an entry of a directory, and of which mode; `error` if that is not known.
 */
static bool has(int directory, const char *name, mode_t mode, int *error)
{
    struct stat about;
    if (fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) == 0)
        return (about.st_mode & S_IFMT) == mode;
    if (errno != ENOENT)
        *error = errno;
    return false;
}

static bool is_mailbox(int directory, int *error)
{
    return (has(directory, "cur", S_IFDIR, error) && has(directory, "new", S_IFDIR, error)) ||
           has(directory, "cyrus.index", S_IFREG, error);
}

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), wanted = strlen(end);
    return length > wanted && strcmp(name + length - wanted, end) == 0;
}

/* A directory below another; -1 if there is none, and `error` if that is not known. */
static int open_below(int parent, const char *name, int *error)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT && errno != ENOTDIR) /* also for a link, since O_DIRECTORY */
        *error = errno;
    return fd;
}

/* What an entry is; an open descriptor if it is a directory. */
static enum what look(int parent, const char *name, int *opened, int *error)
{
    struct stat about;
    *opened = -1;
    if (fstatat(parent, name, &about, AT_SYMLINK_NOFOLLOW) < 0) {
        *error = errno;
        return NOTHING;
    }
    if (S_ISREG(about.st_mode))
        return about.st_size > 0 && !ends_with(name, ".lock") ? MAILBOX : NOTHING;
    *opened = open_below(parent, name, error);
    if (*opened < 0)
        return NOTHING;
    if (is_mailbox(*opened, error))
        return MAILBOX;
    int below = open_below(*opened, "Maildir", error);
    bool maildir = below >= 0 && is_mailbox(below, error);
    base_close(below);
    return maildir ? USER_DIRECTORY : OTHER_DIRECTORY;
}

static void add(struct ctl_tree *tree, const char *name, const char *domain, char *path)
{
    char *user = domain ? base_format("%s@%s", name, domain) : base_strdup(name);
    tree->entries = base_grow(tree->entries, tree->n, sizeof *tree->entries);
    tree->entries[tree->n++] = (struct ctl_tree_entry){user, path};
}

static void pass_over(struct ctl_tree *tree, const char *path, int error)
{
    tree->passed = base_grow(tree->passed, tree->n_passed, sizeof *tree->passed);
    tree->passed[tree->n_passed++] = (struct ctl_tree_passed){base_strdup(path), error};
}

static bool walk(struct ctl_tree *tree, int directory, const char *path, const char *domain);

static void take(struct ctl_tree *tree, int parent, const char *path, const char *domain,
                 const char *name)
{
    int opened, error = 0;
    enum what what = look(parent, name, &opened, &error);
    char *full = base_format("%s/%s", path, name);
    size_t before = tree->n;
    if (what == MAILBOX)
        add(tree, name, domain, base_strdup(full));
    else if (what == USER_DIRECTORY)
        add(tree, name, domain, base_format("%s/Maildir", full));
    else if (!error && what == OTHER_DIRECTORY && !domain && !walk(tree, opened, full, name))
        error = errno;
    if (tree->n == before || error)
        pass_over(tree, full, error);
    base_close(opened);
    free(full);
}

static bool walk(struct ctl_tree *tree, int directory, const char *path, const char *domain)
{
    DIR *stream = ctl_path_list(directory, ".");
    const struct dirent *found;
    if (!stream)
        return false;
    while ((errno = 0, found = readdir(stream)))
        if (found->d_name[0] != '.')
            take(tree, directory, path, domain, found->d_name);
    int error = errno;
    closedir(stream);
    errno = error;
    return error == 0;
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct ctl_tree_entry *)a)->user,
                  ((const struct ctl_tree_entry *)b)->user);
}

bool ctl_tree_read(const char *path, struct ctl_tree *tree)
{
    char real[PATH_MAX] = "";
    *tree = (struct ctl_tree){0};
    int directory = ctl_path_open(path, O_RDONLY | O_DIRECTORY);
    if (directory < 0)
        return false;
    char *opened = base_format("/proc/self/fd/%d", directory);
    bool good = readlink(opened, real, sizeof real - 1) > 0 && walk(tree, directory, real, NULL);
    int error = errno;
    free(opened);
    close(directory);
    if (tree->n > 0)
        qsort(tree->entries, tree->n, sizeof *tree->entries, compare);
    errno = error;
    return good;
}

void ctl_tree_free(struct ctl_tree *tree)
{
    for (size_t i = 0; i < tree->n; i++) {
        free(tree->entries[i].user);
        free(tree->entries[i].path);
    }
    for (size_t i = 0; i < tree->n_passed; i++)
        free(tree->passed[i].path);
    free(tree->entries);
    free(tree->passed);
    *tree = (struct ctl_tree){0};
}
