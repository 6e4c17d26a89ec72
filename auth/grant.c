/*
 * grant.c - the open files of one user's maildrop, and no others.
 *
 * Runs in poplar-auth (root) and poplarctl (root or the store user), on a name that came through
 * canonical.c. Everything is opened beneath the directory that was opened at start, under the
 * store user's file-system ids, without following a link: a wrong name or a planted file cannot
 * reach further than the store user's own files. Never reads a maildrop, never unlinks one.
 */
#include "auth/grant.h"
#include "daemon/base.h"
#include "daemon/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum {
    ATTEMPTS_MAX = 5,  /* a maildrop replaced under our hands this often is not one */
    NAME_OCTETS = 255, /* of a file name */
    RESERVE_MB = 16    /* not for mail: deleting 100,000 messages writes 9 MB */
};

struct grant_root {
    int fd;   /* state_dir */
    int mail; /* what is below it at the start; held so that, where it is a file system of its own,
               * nobody unmounts it and meets new maildrops in its place */
    char *path;
    uid_t uid; /* store_user's */
    gid_t gid;
};

/* One grant in the making. */
struct grant {
    const struct grant_root *root;
    char path[GRANT_PATH_MAX]; /* "mail/H1/H2/NAME" */
    char *error;
    size_t error_size;
};

static const char no_openat2[] = "openat2() is denied, by a filter of system calls (systemd's "
                                 "RestrictSUIDSGID=yes, a container engine's) or by a kernel "
                                 "before Linux 5.6";

static enum login_outcome refuse(struct grant *g, enum login_outcome outcome, const char *file,
                                 const char *what)
{
    snprintf(g->error, g->error_size, "%s/%s%s%s: %s", g->root->path, g->path, *file ? "/" : "",
             file, what);
    return outcome;
}

/* What errno means: something is not what it must be, or there is too little of something. */
static enum login_outcome refuse_errno(struct grant *g, const char *file)
{
    switch (errno) {
    case ENOSYS:
        return refuse(g, LOGIN_STORE_PERM, file, no_openat2);
    case ELOOP:
        return refuse(g, LOGIN_STORE_PERM, file, "a symbolic link; put the real file there");
    case ENOENT:
        return refuse(g, LOGIN_STORE_PERM, file, "missing; " MAILDROP_REMEDY);
    case EACCES:
        return refuse(g, LOGIN_STORE_PERM, file,
                      "Permission denied; all under state_dir must belong to store_user: chown it; "
                      "or AppArmor or SELinux is in the way");
    case EPERM:
    case ENOTDIR:
    case EISDIR:
    case ENXIO:
    case EXDEV:
        return refuse(g, LOGIN_STORE_PERM, file, strerror(errno));
    default:
        return refuse(g, LOGIN_STORE_TEMP, file, strerror(errno));
    }
}

static int open_beneath(int dir, const char *path, int flags)
{
    bool creates = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
    struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC | O_NOFOLLOW),
                           .mode = creates ? 0600 : 0,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
}

/* Become the store user for the file system only, or come back; the calls themselves report
 * nothing, so a second one asks. Without root we are the store user already. */
static bool switch_ids(uid_t uid, gid_t gid)
{
    setfsgid(gid);
    setfsuid(uid);
    return (uid_t)setfsuid((uid_t)-1) == uid && (gid_t)setfsgid((gid_t)-1) == gid;
}

static bool take_ids(const struct grant_root *root)
{
    return geteuid() != 0 || switch_ids(root->uid, root->gid);
}

static void return_ids(void)
{
    if (geteuid() == 0 && !switch_ids(0, getegid()))
        bug("file-system ids did not come back");
}

static bool is_remote(long type)
{
    switch ((unsigned long)type & 0xffffffff) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
        return true;
    default:
        return false;
    }
}

/* What is wrong with a directory, and the remedy; NULL if nothing is. Freed by the caller. */
static char *find_fault_in(int fd, const char *path, uid_t uid, const char *user)
{
    struct stat st;
    struct statfs fs;
    if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
        return base_strdup(strerror(errno));
    if (st.st_uid != uid)
        return base_format("belongs to uid %u, not to %s; name another, or if this is for "
                           "maildrops only: chown -R %s: %s; chmod 0700 %s",
                           (unsigned)st.st_uid, user, user, path, path);
    if (st.st_mode & 022)
        return base_format("others may write to it (mode %04o); chmod 0700 %s",
                           (unsigned)st.st_mode & 07777, path);
    if (is_remote(fs.f_type))
        return base_strdup("lies on NFS or CIFS, where SQLite's locks do not hold; use a local "
                           "file system");
    return NULL;
}

/* The directory of all maildrops, on which a file system of its own may be mounted; -1 and errno.
 */
static int open_mail(const struct grant_root *root)
{
    int fd = take_ids(root) ? open_beneath(root->fd, "mail", O_PATH | O_DIRECTORY) : -1;
    return_ids();
    return fd;
}

/* The same for it, if it is there already. */
static char *find_fault_below(struct grant_root *root, const char *user)
{
    int fd = root->mail = open_mail(root);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        return base_strdup(no_openat2);
    if (fd < 0 && errno != ELOOP && errno != ENOTDIR)
        return NULL; /* whatever it is, the first maildrop tells */
    char *path = base_format("%s/mail", root->path);
    char *fault = fd >= 0 ? find_fault_in(fd, path, root->uid, user)
                          : base_strdup("no directory, or a link, which nobody follows; make a "
                                        "directory and mount the other there (mount --bind)");
    char *whole = fault ? base_format("%s: %s", path, fault) : NULL;
    free(path);
    free(fault);
    return whole;
}

/* What is wrong with state_dir, and the remedy; NULL if nothing is. Freed by the caller. */
static char *find_fault(struct grant_root *root, const char *user)
{
    if (root->fd < 0 && base_status(errno, 0))
        return base_strdup(strerror(errno));
    if (root->fd < 0)
        return base_format("%s; make it: install -d -o %s -m 0700 %s%s", strerror(errno), user,
                           root->path, errno == ENOENT ? base_unseen(root->path) : "");
    char *fault = find_fault_in(root->fd, root->path, root->uid, user);
    return fault ? fault : find_fault_below(root, user);
}

struct grant_root *grant_root_open(const struct config *config, char *error, size_t error_size)
{
    const char *user = config->server.store_user, *path = config->server.state_dir;
    uid_t uid;
    gid_t gid;
    if (!privileges_find_store(config, &uid, &gid, error, error_size))
        return NULL;
    if (geteuid() != 0 && geteuid() != uid) {
        errno = EPERM;
        config_refuse(config, "server", "", "store_user", user, error, error_size,
                      "maildrops are opened by root or this user only; be one of them, or name "
                      "yourself");
        return NULL;
    }
    struct grant_root *root = base_alloc(sizeof *root);
    *root = (struct grant_root){.fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC),
                                .mail = -1,
                                .path = base_strdup(path),
                                .uid = uid,
                                .gid = gid};
    int why = root->fd < 0 ? errno : EINVAL;
    char *fault = find_fault(root, user);
    if (!fault)
        return root;
    config_refuse(config, "server", "", "state_dir", path, error, error_size, "%s", fault);
    free(fault);
    grant_root_close(root);
    errno = why;
    return NULL;
}

void grant_root_close(struct grant_root *root)
{
    if (!root)
        return;
    base_close(root->fd);
    base_close(root->mail);
    free(root->path);
    free(root);
}

bool grant_path(const char *user, char path[GRANT_PATH_MAX])
{
    char name[NAME_OCTETS + 1];
    size_t length = 0;
    uint32_t hash = UINT32_C(0x811c9dc5); /* FNV-1a: spreads names, keeps nobody out */
    for (const char *at = user; *at; at++) {
        unsigned char c = (unsigned char)*at;
        bool plain = c > 0x1f && c != 0x7f && c != '%' && c != '/' && (c != '.' || at > user);
        size_t wanted = plain ? 1 : 3;
        if (length + wanted > NAME_OCTETS)
            return false;
        snprintf(name + length, sizeof name - length, plain ? "%c" : "%%%02X", c);
        length += wanted;
        hash = (hash ^ c) * UINT32_C(0x01000193);
    }
    if (length == 0)
        return false;
    hash ^= hash >> 16; /* the upper half is the better mixed one */
    snprintf(path, GRANT_PATH_MAX, "mail/%02x/%02x/%s", hash >> 8 & 0xff, hash & 0xff, name);
    return true;
}

/* Take, for as long as the description of the lock file is open, its session byte. */
static enum login_outcome lock_session(struct grant *g, int lock)
{
    struct flock range = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = MAILDROP_LOCK_SESSION, .l_len = 1};
    if (fcntl(lock, F_OFD_SETLK, &range) == 0)
        return LOGIN_OK;
    if (errno == EAGAIN || errno == EACCES)
        return refuse(g, LOGIN_IN_USE, "lock", "held by another session or tool");
    return refuse_errno(g, "lock");
}

static enum login_outcome check_file(struct grant *g, int fd, enum maildrop_file which)
{
    const char *file = maildrop_file_names[which];
    struct stat st;
    if (fstat(fd, &st) < 0)
        return refuse_errno(g, file);
    if (!S_ISREG(st.st_mode))
        return refuse(g, LOGIN_STORE_PERM, file, "not a regular file");
    if (st.st_nlink > 1)
        return refuse(g, LOGIN_STORE_PERM, file, "has a second hard link; remove that");
    if (st.st_uid != g->root->uid)
        return refuse(g, LOGIN_STORE_PERM, file, "does not belong to store_user; chown it");
    if (which == MAILDROP_DB && st.st_size == 0)
        return refuse(g, LOGIN_STORE_PERM, file, "empty, so not a database; " MAILDROP_REMEDY);
    return LOGIN_OK;
}

/* Where a change goes to another place on the disk (btrfs) it may find no room. In the index that
 * would be SIGBUS, and who only reads changes it, too: there it stays in place, as far as the file
 * system can do that. Of no use once something is in it. */
static void keep_in_place(int fd, enum maildrop_file which)
{
    int flags = 0;
    if (fd < 0 || which != MAILDROP_SHM || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
        return;
    flags |= FS_NOCOW_FL;
    ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

/* A directory held by O_PATH. */
static bool sync_directory(int dir)
{
    int fd = open_beneath(dir, ".", O_RDONLY | O_DIRECTORY);
    bool good = fd >= 0 && fsync(fd) == 0;
    base_close(fd);
    return good;
}

/* A plain SQLite that closed last unlinks -wal and -shm. Whoever makes them meets the same file:
 * without O_EXCL a second maker finds the first one's. What will be committed to it is nowhere
 * else: its name is on disk before. */
static int make_again(int dir, enum maildrop_file which)
{
    int fd = open_beneath(dir, maildrop_file_names[which], O_RDWR | O_CREAT);
    keep_in_place(fd, which);
    if (fd >= 0 && !sync_directory(dir)) {
        base_close(fd);
        return -1;
    }
    return fd;
}

static enum login_outcome open_file(struct grant *g, int dir, enum maildrop_file which, int *opened)
{
    const char *name = maildrop_file_names[which];
    int fd = open_beneath(dir, name, O_RDWR);
    if (fd < 0 && errno == ENOENT && (which == MAILDROP_WAL || which == MAILDROP_SHM))
        fd = make_again(dir, which);
    if (fd < 0)
        return refuse_errno(g, name);
    *opened = fd;
    return check_file(g, fd, which);
}

/* Whether the path still leads to the lock file that we hold: a maildrop is deleted by renaming
 * its directory away, and may be made anew. `current` is set with LOGIN_OK only. */
static enum login_outcome look_again(struct grant *g, int lock, bool *current)
{
    char path[GRANT_PATH_MAX + 8];
    struct stat held, there;
    snprintf(path, sizeof path, "%s/%s", g->path, maildrop_file_names[MAILDROP_LOCK]);
    int fd = open_beneath(g->root->fd, path, O_PATH);
    if (fd < 0 && errno != ENOENT)
        return refuse_errno(g, maildrop_file_names[MAILDROP_LOCK]);
    *current = fd >= 0 && fstat(fd, &there) == 0 && fstat(lock, &held) == 0 &&
               held.st_dev == there.st_dev && held.st_ino == there.st_ino;
    base_close(fd);
    return LOGIN_OK;
}

/* Open what is there. `current` false with LOGIN_OK: it was replaced meanwhile, nothing is open. Of
 * one that is in use, too, all is looked at: for who will be refused nobody's session is to end. */
static enum login_outcome open_existing(struct grant *g, int dir, bool session,
                                        int files[MAILDROP_FILES], bool *current)
{
    int fds[MAILDROP_FILES] = {-1, -1, -1, -1};
    enum login_outcome outcome = LOGIN_OK, locked = LOGIN_OK;
    for (unsigned i = 0; outcome == LOGIN_OK && i < MAILDROP_FILES; i++) {
        outcome = open_file(g, dir, i, &fds[i]);
        if (outcome == LOGIN_OK && i == MAILDROP_LOCK && session)
            locked = lock_session(g, fds[i]);
    }
    if (outcome == LOGIN_OK)
        outcome = locked;
    *current = true;
    if (fds[MAILDROP_LOCK] >= 0) {
        enum login_outcome seen = look_again(g, fds[MAILDROP_LOCK], current);
        outcome = outcome == LOGIN_OK ? seen : outcome;
    }
    if (outcome == LOGIN_OK && *current) {
        memcpy(files, fds, sizeof fds);
        return LOGIN_OK;
    }
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        base_close(fds[i]);
    return outcome;
}

/* One directory further down, made if need be. It is on disk when this returns, whoever made it:
 * a maildrop that is acknowledged must not hang from a directory that is not. */
static int descend(int parent, const char *name)
{
    int fd = open_beneath(parent, name, O_RDONLY | O_DIRECTORY);
    if (fd < 0 && errno == ENOENT && (mkdirat(parent, name, 0700) == 0 || errno == EEXIST))
        fd = open_beneath(parent, name, O_RDONLY | O_DIRECTORY);
    if (fd >= 0 && fsync(parent) < 0) {
        base_close(fd);
        fd = -1;
    }
    return fd;
}

/* The directory that maildrops with this hash lie in; -1 and errno. */
static int open_hash_dir(const struct grant *g)
{
    char path[GRANT_PATH_MAX], *rest = path;
    base_copy(path, sizeof path, g->path);
    /* state_dir itself is held by O_PATH, which cannot be synced. */
    int fd = open_beneath(g->root->fd, ".", O_RDONLY | O_DIRECTORY);
    for (int level = 0; level < 3 && fd >= 0; level++) {
        int next = descend(fd, strsep(&rest, "/"));
        base_close(fd);
        fd = next;
    }
    return fd;
}

static bool write_file(int dir, enum maildrop_file which)
{
    size_t size = which == MAILDROP_DB ? maildrop_template_size : 0;
    int fd = open_beneath(dir, maildrop_file_names[which], O_WRONLY | O_CREAT | O_EXCL);
    bool good = fd >= 0;
    keep_in_place(fd, which);
    for (size_t done = 0; good && done < size;) {
        ssize_t got = write(fd, maildrop_template + done, size - done);
        good = got > 0 || (got < 0 && errno == EINTR);
        done += got > 0 ? (size_t)got : 0;
    }
    good = good && fsync(fd) == 0;
    base_close(fd);
    return good;
}

static bool fill_maildrop(int dir)
{
    bool good = true;
    for (unsigned i = 0; good && i < MAILDROP_FILES; i++)
        good = write_file(dir, i);
    return good && fsync(dir) == 0;
}

static void remove_unfinished(int hash_dir, const char *name, int dir)
{
    int saved = errno;
    for (unsigned i = 0; dir >= 0 && i < MAILDROP_FILES; i++)
        unlinkat(dir, maildrop_file_names[i], 0);
    unlinkat(hash_dir, name, AT_REMOVEDIR);
    errno = saved;
}

/* Make an empty maildrop under a temporary name, then give it its own. Somebody else being first
 * is as good: the caller opens what is there. */
static enum login_outcome make_maildrop(struct grant *g)
{
    enum login_outcome outcome = LOGIN_OK;
    char unfinished[32];
    uint64_t random;
    base_random(&random, sizeof random);
    /* No encoded name begins with a dot. */
    snprintf(unfinished, sizeof unfinished, ".new-%016llx", (unsigned long long)random);

    int dir = -1, hash_dir = open_hash_dir(g);
    if (hash_dir < 0 || mkdirat(hash_dir, unfinished, 0700) < 0) {
        outcome = refuse_errno(g, "");
        goto out;
    }
    dir = open_beneath(hash_dir, unfinished, O_RDONLY | O_DIRECTORY);
    /* A directory takes the place of an empty one at most: no flag is needed, which not every file
     * system knows. */
    bool renamed = dir >= 0 && fill_maildrop(dir) &&
                   renameat(hash_dir, unfinished, hash_dir, strrchr(g->path, '/') + 1) == 0;
    if (!renamed)
        remove_unfinished(hash_dir, unfinished, dir);
    if (renamed ? fsync(hash_dir) < 0 : errno != EEXIST && errno != ENOTEMPTY)
        outcome = refuse_errno(g, "");
out:
    base_close(dir);
    base_close(hash_dir);
    return outcome;
}

static enum login_outcome open_or_make(struct grant *g, bool create, bool session,
                                       int files[MAILDROP_FILES])
{
    for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        enum login_outcome outcome;
        bool current = false;
        int dir = open_beneath(g->root->fd, g->path, O_PATH | O_DIRECTORY);
        if (dir >= 0) {
            outcome = open_existing(g, dir, session, files, &current);
            base_close(dir);
            if (current)
                return outcome;
        } else if (errno != ENOENT) {
            return refuse_errno(g, "");
        } else if (!create) {
            return refuse(g, LOGIN_NO_MAILDROP, "", "no maildrop, and [store] create=no");
        } else if ((outcome = make_maildrop(g)) != LOGIN_OK) {
            return outcome;
        }
    }
    return refuse(g, LOGIN_STORE_TEMP, "", "replaced again and again while it was opened");
}

enum login_outcome grant_open(const struct grant_root *root, const char *user, bool create,
                              bool session, int files[MAILDROP_FILES], char *error,
                              size_t error_size)
{
    struct grant g = {.root = root, .error = error, .error_size = error_size};
    if (!grant_path(user, g.path))
        return refuse(&g, LOGIN_STORE_PERM, "", "the user name is too long for a file name");
    enum login_outcome outcome;
    if (take_ids(root))
        outcome = open_or_make(&g, create, session, files);
    else
        outcome = refuse(&g, LOGIN_STORE_TEMP, "", "cannot take store_user's ids (CAP_SETUID?)");
    return_ids();
    return outcome;
}

/* Where the file system has no files without a name, one that loses it at once. */
static int open_unnamed(int dir)
{
    char name[40];
    uint64_t random;
    int fd = open_beneath(dir, ".", O_TMPFILE | O_RDWR);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
        return fd;
    base_random(&random, sizeof random);
    snprintf(name, sizeof name, "spool-%016llx", (unsigned long long)random);
    fd = open_beneath(dir, name, O_RDWR | O_CREAT | O_EXCL);
    if (fd >= 0 && unlinkat(dir, name, 0) < 0) { /* mail with a name would stay */
        base_close(fd);
        return -1;
    }
    return fd;
}

static bool is_writable(const struct grant_root *root, bool *below)
{
    struct statfs fs;
    int mail = open_mail(root);
    *below = mail >= 0 && fstatfs(mail, &fs) == 0 && fs.f_flags & ST_RDONLY;
    base_close(mail);
    return !*below && (fstatfs(root->fd, &fs) < 0 || !(fs.f_flags & ST_RDONLY));
}

/* Whether a worker may ask what he was handed how large it is. */
static bool is_seen_by(uid_t worker, int fd)
{
    struct stat st;
    if (geteuid() != 0 || seteuid(worker) < 0)
        return true;
    bool seen = fstat(fd, &st) == 0;
    if (seteuid(0) < 0)
        bug("the effective user did not come back");
    return seen;
}

/* What some file systems have not, as those of programs (FUSE) and of hosts of virtual machines,
 * tried on a file without a name; NULL: it is all there, or cannot be tried now. */
static const char *find_lack(const struct grant_root *root, uid_t worker)
{
    const char *lack = NULL;
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    int fd = take_ids(root) ? open_unnamed(root->mail >= 0 ? root->mail : root->fd) : -1;
    return_ids();
    if (fd < 0 || ftruncate(fd, 1) < 0) {
        base_close(fd);
        return NULL;
    }
    void *shared = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED && errno != ENOMEM)
        lack = "no memory can be shared by its files (mmap); use another";
    else if (fcntl(fd, F_OFD_SETLK, &range) < 0)
        lack = "its files cannot be locked; use another";
    else if (!is_seen_by(worker, fd))
        lack = "it serves only who mounted it; mount it with allow_other, or use another";
    if (shared != MAP_FAILED)
        munmap(shared, 1);
    base_close(fd);
    return lack;
}

bool grant_root_is_usable(const struct grant_root *root, const struct config *config, uid_t worker,
                          char *error, size_t error_size)
{
    bool below;
    if (!is_writable(root, &below)) {
        char *path = base_format("%s%s", root->path, below ? "/mail" : "");
        config_refuse(config, "server", "", "state_dir", path, error, error_size,
                      "Read-only file system; mount it for writing, or in a unit of systemd's that "
                      "may write to little, as poplar.service and poplar-expire.service, add "
                      "ReadWritePaths=-%s (systemctl edit)",
                      root->path);
        free(path);
        return false;
    }
    const char *lack = find_lack(root, worker); /* of all else the first maildrop tells */
    return !lack || config_refuse(config, "server", "", "state_dir", root->path, error, error_size,
                                  "its file system does not do: %s", lack);
}

int grant_spool(const struct grant_root *root, char *error, size_t error_size)
{
    int fd = take_ids(root) ? open_unnamed(root->fd) : -1;
    if (fd < 0)
        snprintf(error, error_size, "%s: no spool file can be made: %s", root->path,
                 strerror(errno));
    return_ids();
    return fd;
}

static bool has_room(const struct grant_root *root, int fd, const char *below, uint64_t size,
                     char *error, size_t error_size)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0 || fs.f_blocks == 0) /* it does not tell */
        return true;
    uint64_t left = ((uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize) >> 20;
    uint64_t wanted = RESERVE_MB + ((size + (1 << 20) - 1) >> 20);
    return left >= wanted ||
           base_refuse(error, error_size,
                       "%s%s: %llu MB of room are left, mail is taken from %llu on", root->path,
                       below, (unsigned long long)left, (unsigned long long)wanted);
}

bool grant_has_room(const struct grant_root *root, uint64_t size, char *error, size_t error_size)
{
    int mail = open_mail(root); /* not there yet: made in the other */
    bool has = has_room(root, root->fd, "", size, error, error_size) &&
               (mail < 0 || has_room(root, mail, "/mail", size, error, error_size));
    base_close(mail);
    return has;
}
