/*
 * ctl_tree.c - import --all: which users a tree of mail belongs to. Runs in poplarctl, usually as
 * root, over directories that belong to users: only looks, and follows no link.
 */
#include "store/ctl_tree.h"
#include "daemon/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum what { NOTHING, MAILBOX, USER_DIRECTORY, OTHER_DIRECTORY };

static bool has(int directory, const char *name, bool is_directory)
{
    struct stat about;
    return fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) == 0 &&
           (is_directory ? S_ISDIR(about.st_mode) : S_ISREG(about.st_mode));
}

static bool is_mailbox(int directory)
{
    return (has(directory, "cur", true) && has(directory, "new", true)) ||
           has(directory, "cyrus.index", false);
}

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), wanted = strlen(end);
    return length > wanted && strcmp(name + length - wanted, end) == 0;
}

/* What an entry is; an open descriptor if it is a directory. */
static enum what look(int parent, const char *name, int *opened)
{
    struct stat about;
    *opened = -1;
    if (fstatat(parent, name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return NOTHING;
    if (S_ISREG(about.st_mode))
        return about.st_size > 0 && !ends_with(name, ".lock") ? MAILBOX : NOTHING;
    *opened = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*opened < 0)
        return NOTHING;
    if (is_mailbox(*opened))
        return MAILBOX;
    int below = openat(*opened, "Maildir", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool maildir = below >= 0 && is_mailbox(below);
    base_close(below);
    return maildir ? USER_DIRECTORY : OTHER_DIRECTORY;
}

static void add(struct ctl_tree *tree, const char *name, const char *domain, char *path)
{
    if (tree->n == tree->room) {
        tree->room = tree->room * 2 + 64;
        tree->entries = base_realloc(tree->entries, tree->room * sizeof *tree->entries);
    }
    char *user = domain ? base_format("%s@%s", name, domain) : base_strdup(name);
    tree->entries[tree->n++] = (struct ctl_tree_entry){user, path};
}

static void pass_over(struct ctl_tree *tree, const char *path)
{
    tree->passed = base_realloc(tree->passed, (tree->n_passed + 1) * sizeof *tree->passed);
    tree->passed[tree->n_passed++] = base_strdup(path);
}

static bool walk(struct ctl_tree *tree, int directory, const char *path, const char *domain);

static void take(struct ctl_tree *tree, int parent, const char *path, const char *domain,
                 const char *name)
{
    int opened;
    enum what what = look(parent, name, &opened);
    char *full = base_format("%s/%s", path, name);
    size_t before = tree->n;
    if (what == MAILBOX)
        add(tree, name, domain, base_strdup(full));
    else if (what == USER_DIRECTORY)
        add(tree, name, domain, base_format("%s/Maildir", full));
    else if (what == OTHER_DIRECTORY && !domain)
        walk(tree, opened, full, name);
    if (tree->n == before)
        pass_over(tree, full);
    base_close(opened);
    free(full);
}

static bool walk(struct ctl_tree *tree, int directory, const char *path, const char *domain)
{
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *found;
    if (!stream) {
        base_close(copy);
        return false;
    }
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
    *tree = (struct ctl_tree){0};
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return false;
    bool good = walk(tree, directory, path, NULL);
    int error = errno;
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
        free(tree->passed[i]);
    free(tree->entries);
    free(tree->passed);
    *tree = (struct ctl_tree){0};
}
