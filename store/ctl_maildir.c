/*
 * ctl_maildir.c - the Maildir reader of poplarctl import. The directory is usually its user's, and
 * the caller usually root: below the directory no link is followed, and only regular files are
 * read. Changes nothing there.
 */
#include "store/ctl_maildir.h"
#include "daemon/base.h"
#include "store/ctl_path.h"
#include "store/ctl_uidl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    TICK_MS = 20,       /* by which a directory's time of change may be wrong */
    LISTINGS_MAX = 10,  /* tries to find one that does not change */
    LOOKS_MAX = 1 << 26 /* entries that are looked at to find out how others are called by now */
};

static const char *const folders[2] = {"cur", "new"};

const char *ctl_maildir_folder(const struct ctl_maildir_entry *entry)
{
    return folders[entry->in_new];
}

int64_t ctl_maildir_seconds(const char *name)
{
    int64_t seconds = 0;
    for (; *name >= '0' && *name <= '9'; name++) {
        if (seconds > INT64_MAX / 10 - 1)
            return 0;
        seconds = seconds * 10 + (*name - '0');
    }
    return *name == '.' ? seconds : 0;
}

bool ctl_maildir_has_flag(const char *name, char flag)
{
    const char *flags = strstr(name, ":2,");
    return flags && strchr(flags + 3, flag);
}

/* For qsort(). */
static int compare(const void *a, const void *b)
{
    const struct ctl_maildir_entry *x = a, *y = b;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    if (x->seconds != y->seconds)
        return x->seconds < y->seconds ? -1 : 1;
    int order = strverscmp(x->name, y->name); /* "M90P1" before "M100P1": microseconds */
    return order ? order : x->in_new - y->in_new;
}

int64_t ctl_maildir_received(const struct ctl_maildir_entry *entry)
{
    if (entry->seconds <= 0 || (entry->mtime > 0 && entry->mtime < entry->seconds))
        return entry->mtime > 0 ? entry->mtime : 0;
    return entry->seconds;
}

static void add(struct ctl_maildir *maildir, bool in_new, const char *name)
{
    struct stat about;
    maildir->entries = base_grow(maildir->entries, maildir->n_entries, sizeof *maildir->entries);
    struct ctl_maildir_entry *entry = &maildir->entries[maildir->n_entries++];
    *entry = (struct ctl_maildir_entry){.in_new = in_new, .name = base_strdup(name)};
    entry->seconds = ctl_maildir_seconds(name);
    /* What cannot be looked at now is reported when its turn comes to be opened. */
    if (fstatat(maildir->directories[in_new], name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    entry->inode = about.st_ino;
    if (S_ISREG(about.st_mode)) {
        entry->mtime = about.st_mtime;
        entry->size = (uint64_t)about.st_size;
        maildir->octets += entry->size;
    }
}

static bool list_folder(struct ctl_maildir *maildir, bool in_new)
{
    DIR *stream = ctl_path_list(maildir->directories[in_new], ".");
    if (!stream)
        return false;
    const struct dirent *found;
    while ((errno = 0, found = readdir(stream)))
        if (found->d_name[0] != '.')
            add(maildir, in_new, found->d_name);
    int error = errno;
    closedir(stream);
    errno = error;
    return error == 0;
}

/* By the names without flags. */
static int compare_names(const struct ctl_maildir_entry *x, const struct ctl_maildir_entry *y)
{
    size_t length = ctl_uidl_base_length(x->name), other = ctl_uidl_base_length(y->name);
    int order = strncmp(x->name, y->name, length < other ? length : other);
    return order ? order : (length > other) - (length < other);
}

/* The same, and one file's stand together; what was gone again comes last. */
static int compare_bases(const void *a, const void *b)
{
    const struct ctl_maildir_entry *x = a, *y = b;
    int order = compare_names(x, y);
    return order ? order : (x->inode < y->inode) - (x->inode > y->inode);
}

/* Whether two entries of one name, next to each other in that order, are one message that was met
 * twice on its way. Two files of one name are none that a server makes, but two messages. */
static bool is_met_again(const struct ctl_maildir_entry *first,
                         const struct ctl_maildir_entry *next)
{
    return (next->inode == 0 || next->inode == first->inode) && compare_names(first, next) == 0;
}

/* A server that is in use moves messages from new to cur and changes their flags, which are in
 * their names: some were listed twice. */
static void drop_repeated(struct ctl_maildir *maildir)
{
    struct ctl_maildir_entry *entries = maildir->entries;
    size_t kept = 0;
    if (maildir->n_entries > 0)
        qsort(entries, maildir->n_entries, sizeof *entries, compare_bases);
    for (size_t i = 0; i < maildir->n_entries; i++) {
        if (kept == 0 || !is_met_again(&entries[kept - 1], &entries[i])) {
            entries[kept++] = entries[i];
            continue;
        }
        maildir->octets -= entries[i].size;
        free(entries[i].name);
    }
    maildir->n_entries = kept;
}

static int64_t to_ms(struct timespec time)
{
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* When what is in a directory changed last. */
static struct timespec changed(int directory)
{
    struct stat about = {.st_mtim = {0, 0}};
    fstat(directory, &about);
    return about.st_mtim;
}

/* Whether what was listed is what is there. */
static bool is_as_listed(const struct ctl_maildir *maildir)
{
    bool is = !maildir->unsteady;
    for (int i = 0; is && i < 2; i++) {
        const struct timespec now = changed(maildir->directories[i]), *then = &maildir->changed[i];
        is = now.tv_sec == then->tv_sec && now.tv_nsec == then->tv_nsec;
    }
    return is;
}

static bool list_both(struct ctl_maildir *maildir, const char **failed_at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < 2; i++)
        maildir->changed[i] = changed(maildir->directories[i]);
    for (int i = 1; i >= 0; i--) { /* new first: what moves meanwhile is met in cur */
        *failed_at = folders[i];
        if (!list_folder(maildir, i))
            return false;
    }
    maildir->unsteady = false;
    maildir->unsteady = !is_as_listed(maildir);
    for (int i = 0; i < 2; i++) {
        int64_t age = to_ms(now) - to_ms(maildir->changed[i]);
        maildir->unsteady |= age >= 0 && age < TICK_MS;
    }
    return true;
}

static void forget_entries(struct ctl_maildir *maildir)
{
    for (size_t i = 0; i < maildir->n_entries; i++)
        free(maildir->entries[i].name);
    free(maildir->entries);
    maildir->entries = NULL;
    maildir->n_entries = 0;
    maildir->octets = 0;
}

bool ctl_maildir_list(struct ctl_maildir *maildir, int directory, const char **failed_at)
{
    *maildir = (struct ctl_maildir){.directories = {-1, -1}};
    for (int i = 0; i < 2; i++) {
        *failed_at = folders[i];
        maildir->directories[i] =
            openat(directory, folders[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (maildir->directories[i] < 0)
            return false;
    }
    if (!list_both(maildir, failed_at))
        return false;
    for (int n = 1; maildir->unsteady && n < LISTINGS_MAX; n++) {
        poll(NULL, 0, TICK_MS);
        forget_entries(maildir);
        if (!list_both(maildir, failed_at))
            return false;
    }
    drop_repeated(maildir);
    if (maildir->n_entries > 0)
        qsort(maildir->entries, maildir->n_entries, sizeof *maildir->entries, compare);
    return true;
}

void ctl_maildir_arrange(struct ctl_maildir *maildir, const struct ctl_uidl_list *list)
{
    for (size_t i = 0; i < maildir->n_entries; i++) {
        struct ctl_maildir_entry *entry = &maildir->entries[i];
        entry->uidl = ctl_uidl_find(list, entry->name);
        entry->order = entry->uidl ? entry->uidl->order : list->unlisted;
    }
    if (maildir->n_entries > 0)
        qsort(maildir->entries, maildir->n_entries, sizeof *maildir->entries, compare);
}

void ctl_maildir_free(struct ctl_maildir *maildir)
{
    forget_entries(maildir);
    if (maildir->again)
        forget_entries(maildir->again);
    free(maildir->again);
    base_close(maildir->directories[0]);
    base_close(maildir->directories[1]);
    *maildir = (struct ctl_maildir){.directories = {-1, -1}};
}

static int open_name(int directory, const char *name)
{
    /* O_NONBLOCK: a FIFO must not hold us before fstat() tells what it is. */
    return openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* Look under which names files are by now, unless the last look shows that still. Who renames them
 * all the time has no end of it. False and errno. */
static bool list_again(struct ctl_maildir *maildir)
{
    struct ctl_maildir *now = maildir->again;
    const char *failed_at;
    errno = ENOENT;
    if (now && (is_as_listed(now) || maildir->looked > LOOKS_MAX))
        return false;
    if (!now) {
        maildir->again = now = base_alloc(sizeof *now);
        *now =
            (struct ctl_maildir){.directories = {maildir->directories[0], maildir->directories[1]}};
    }
    forget_entries(now);
    bool listed = list_both(now, &failed_at);
    if (now->n_entries > 0)
        qsort(now->entries, now->n_entries, sizeof *now->entries, compare_bases);
    maildir->looked += now->n_entries;
    return listed;
}

/* Open a file that differs in its flags or its folder only, as it was called when that was looked
 * at. Of two of one name it is the one that it was before. */
static int open_renamed(const struct ctl_maildir *now, const struct ctl_maildir_entry *entry)
{
    const struct ctl_maildir_entry *found = NULL;
    size_t low = 0, high = now ? now->n_entries : 0, end = high;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_names(&now->entries[middle], entry) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < end && compare_names(&now->entries[low], entry) == 0; low++)
        if (!found || now->entries[low].inode == entry->inode)
            found = &now->entries[low];
    errno = ENOENT;
    return found ? open_name(now->directories[found->in_new], found->name) : -1;
}

int ctl_maildir_open(struct ctl_maildir *maildir, const struct ctl_maildir_entry *entry)
{
    struct stat about;
    int fd = open_name(maildir->directories[entry->in_new], entry->name);
    if (fd < 0 && errno == ENOENT)
        fd = open_renamed(maildir->again, entry);
    if (fd < 0 && errno == ENOENT && list_again(maildir))
        fd = open_renamed(maildir->again, entry);
    if (fd < 0) {
        if (errno == ELOOP)
            errno = EINVAL;
        return -1;
    }
    if (fstat(fd, &about) == 0) {
        if (S_ISREG(about.st_mode))
            return fd;
        errno = EINVAL;
    }
    base_close(fd);
    return -1;
}
