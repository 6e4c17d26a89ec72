/*
 * record.c - what was done to the files below a directory, and what a disk may hold of it after the
 * power was cut.
 *
 * The model is POSIX's and no file system's: a file's octets and size are safe after a sync of that
 * file that succeeded, a name after a sync of its directory; of everything else each part is there
 * or not by itself, in whole calls or in sectors, and where a lost write had made a file longer,
 * there may be zeros, or anything. What a failed sync should have made safe stays unsafe, since the
 * kernel takes those pages for clean, until somebody writes to the same page again.
 */
#include "tests/faults/disk.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NODES_MAX = 64, NAMES_MAX = 64, NAME_MAX_HERE = 40, PAGE = 4096 };

enum kind { MARK, WRITE, TRUNCATE, SYNC, SYNC_FAILED, MADE, RENAMED, REMOVED };

/* A file or directory. */
struct node {
    dev_t dev;
    ino_t ino;
    bool is_dir;
    char *octets; /* of a file, when the record began */
    size_t size;
};

struct name {
    int dir, node; /* node -1: removed */
    char text[NAME_MAX_HERE];
};

struct step {
    enum kind kind;
    int node;   /* the file written or synced, the directory changed */
    int number; /* of a mark; the node that was made or renamed */
    size_t size;
    off_t offset;
    char *octets;
    char name[NAME_MAX_HERE], to[NAME_MAX_HERE];
};

static struct {
    bool on;
    struct node nodes[NODES_MAX];
    int n_nodes;
    struct name names[NAMES_MAX]; /* when the record began */
    int n_names;
    struct step steps[DISK_STEPS_MAX];
    size_t n_steps;
    void (*watch)(size_t step);
} record;

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "record: %s: %s\n", what, strerror(errno));
    abort();
}

static void *copy_of(const void *octets, size_t size)
{
    void *copy = malloc(size + 1);

    must(copy != NULL, "no memory");
    memcpy(copy, octets, size);
    return copy;
}

static void set_name(char *to, const char *from)
{
    must(strlen(from) < NAME_MAX_HERE, "a name is too long");
    strcpy(to, from);
}

/* The node behind a descriptor; -1 for what is not ours. */
static int find_node(int fd)
{
    struct stat status;

    if (!record.on || fstat(fd, &status) < 0)
        return -1;
    /* The latest first: an inode's number may be used again. */
    for (int i = record.n_nodes; i-- > 0;) {
        if (record.nodes[i].ino == status.st_ino && record.nodes[i].dev == status.st_dev)
            return i;
    }
    return -1;
}

static int add_node(int fd)
{
    struct node *node = &record.nodes[record.n_nodes];
    struct stat status;

    must(record.n_nodes < NODES_MAX && fstat(fd, &status) == 0, "one file more");
    *node = (struct node){status.st_dev, status.st_ino, S_ISDIR(status.st_mode), NULL, 0};
    return record.n_nodes++;
}

static struct step *add_step(enum kind kind, int node)
{
    struct step *step = &record.steps[record.n_steps];

    if (record.watch)
        record.watch(record.n_steps);
    must(++record.n_steps < DISK_STEPS_MAX, "too many steps");
    *step = (struct step){.kind = kind, .node = node};
    return step;
}

static void take_file(int fd, struct node *node)
{
    struct stat status;

    must(fstat(fd, &status) == 0, "fstat");
    node->size = (size_t)status.st_size;
    node->octets = malloc(node->size + 1);
    must(node->octets && pread(fd, node->octets, node->size, 0) == (ssize_t)node->size, "read");
}

static void take_directory(int fd, int dir)
{
    DIR *stream = fdopendir(dup(fd));
    const struct dirent *entry;

    must(stream != NULL, "a directory");
    while ((entry = readdir(stream))) {
        struct name *name = &record.names[record.n_names];
        int below;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        must(record.n_names++ < NAMES_MAX, "too many names");
        below = openat(fd, entry->d_name, O_RDONLY | O_CLOEXEC);
        must(below >= 0, entry->d_name);
        name->dir = dir;
        name->node = add_node(below);
        set_name(name->text, entry->d_name);
        if (record.nodes[name->node].is_dir)
            take_directory(below, name->node);
        else
            take_file(below, &record.nodes[name->node]);
        close(below);
    }
    closedir(stream);
}

void disk_record(const char *top)
{
    const int fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    for (int i = 0; i < record.n_nodes; i++)
        free(record.nodes[i].octets);
    for (size_t i = 0; i < record.n_steps; i++)
        free(record.steps[i].octets);
    record.n_nodes = record.n_names = 0;
    record.n_steps = 0;
    must(fd >= 0, top);
    take_directory(fd, add_node(fd));
    close(fd);
    record.on = true;
}

size_t disk_stop(void)
{
    record.on = false;
    return record.n_steps;
}

void disk_watch(void (*watch)(size_t step))
{
    record.watch = watch;
}

void disk_mark(int number)
{
    if (record.on)
        add_step(MARK, -1)->number = number;
}

int disk_last_mark(size_t before, int none)
{
    while (before-- > 0) {
        if (record.steps[before].kind == MARK)
            return record.steps[before].number;
    }
    return none;
}

void disk_note_write(int fd, const void *octets, size_t size, off_t offset)
{
    const int node = find_node(fd);
    struct step *step;

    if (node < 0)
        return;
    step = add_step(WRITE, node);
    step->octets = copy_of(octets, size);
    step->size = size;
    step->offset = offset;
}

void disk_note_truncate(int fd, off_t size)
{
    const int node = find_node(fd);

    if (node >= 0)
        add_step(TRUNCATE, node)->size = (size_t)size;
}

void disk_note_sync(int fd, bool done)
{
    const int node = find_node(fd);

    if (node >= 0)
        add_step(done ? SYNC : SYNC_FAILED, node);
}

void disk_note_made(int dir, const char *name)
{
    const int node = find_node(dir);
    struct step *step;
    int made;

    if (node < 0)
        return;
    made = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    must(made >= 0, name);
    step = add_step(MADE, node);
    step->number = add_node(made);
    set_name(step->name, name);
    close(made);
}

void disk_note_renamed(int dir, const char *name, const char *to)
{
    const int node = find_node(dir);
    struct step *step;
    int renamed;

    if (node < 0)
        return;
    renamed = openat(dir, to, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    must(renamed >= 0, to);
    step = add_step(RENAMED, node);
    step->number = find_node(renamed);
    set_name(step->name, name);
    set_name(step->to, to);
    close(renamed);
}

void disk_note_removed(int dir, const char *name)
{
    const int node = find_node(dir);

    if (node >= 0)
        set_name(add_step(REMOVED, node)->name, name);
}

/* One cut: how much of what is not safe survives it, decided once, then call by call. */
struct cut {
    uint64_t random;
    unsigned keep; /* of 8 */
    size_t sector; /* 0: calls are whole */
    int fill;      /* what is where a file became longer without its octets; -1: anything */
    size_t before; /* the first step that is not done */
    bool safe[DISK_STEPS_MAX];
    bool forgotten[DISK_STEPS_MAX]; /* a sync failed that should have made it safe */
};

/* Which steps were followed by the sync that makes them safe. */
static void find_safe(struct cut *cut)
{
    bool synced_later[NODES_MAX] = {false}, failed_later[NODES_MAX] = {false};

    for (size_t i = cut->before; i-- > 0;) {
        const struct step *step = &record.steps[i];

        if (step->kind == MARK)
            continue;
        /* Going back in time: a good sync makes safe what is before it, up to a failed one. */
        if (step->kind == SYNC || step->kind == SYNC_FAILED) {
            synced_later[step->node] = step->kind == SYNC;
            failed_later[step->node] = step->kind == SYNC_FAILED;
        } else {
            cut->safe[i] = synced_later[step->node];
            cut->forgotten[i] = failed_later[step->node];
        }
    }
}

/* Whether a page was written to again, after step i, and that became safe. */
static bool is_rescued(const struct cut *cut, size_t i, size_t page)
{
    for (size_t k = i + 1; k < cut->before; k++) {
        const struct step *step = &record.steps[k];

        if (step->kind == WRITE && step->node == record.steps[i].node && cut->safe[k] &&
            (size_t)step->offset / PAGE <= page &&
            ((size_t)step->offset + step->size - 1) / PAGE >= page)
            return true;
    }
    return false;
}

static bool survives(struct cut *cut)
{
    return disk_random(&cut->random) % 8 < cut->keep;
}

static void grow(struct cut *cut, struct node *file, size_t size)
{
    if (size <= file->size)
        return;
    file->octets = realloc(file->octets, size + 1);
    must(file->octets != NULL, "no memory");
    for (size_t i = file->size; i < size; i++)
        file->octets[i] = (char)(cut->fill < 0 ? (int)disk_random(&cut->random) : cut->fill);
    file->size = size;
}

/* The part of a write that is there: all of it, or some of its sectors. */
static void redo_write(struct cut *cut, size_t i, struct node *file)
{
    const struct step *step = &record.steps[i];
    const bool safe = cut->safe[i], forgotten = cut->forgotten[i];
    size_t done = 0;
    const size_t start = (size_t)step->offset;
    const bool longer = disk_random(&cut->random) % 2;
    const bool whole = safe || (cut->sector == 0 && survives(cut));

    if (!whole && !forgotten && cut->sector == 0 && !longer)
        return;
    if (safe && start > file->size) { /* a hole is zeros */
        const int fill = cut->fill;

        cut->fill = 0;
        grow(cut, file, start);
        cut->fill = fill;
    }
    if (whole || longer)
        grow(cut, file, start + step->size);
    while (done < step->size && (whole || forgotten || cut->sector > 0)) {
        const size_t at = start + done, piece = cut->sector > 0 ? cut->sector : PAGE;
        size_t part = whole ? step->size : piece - at % piece;

        if (part > step->size - done)
            part = step->size - done;
        if (whole || (forgotten && is_rescued(cut, i, at / PAGE)) ||
            (cut->sector > 0 && survives(cut))) {
            grow(cut, file, at + part);
            memcpy(file->octets + at, step->octets + done, part);
        }
        done += part;
    }
}

static void redo_truncate(struct cut *cut, const struct step *step, struct node *file)
{
    const int fill = cut->fill;

    cut->fill = 0;
    grow(cut, file, step->size);
    cut->fill = fill;
    file->size = step->size;
}

static int find_name(const struct name *names, int n, int dir, const char *text)
{
    for (int i = 0; i < n; i++) {
        if (names[i].node >= 0 && names[i].dir == dir && strcmp(names[i].text, text) == 0)
            return i;
    }
    return -1;
}

/* A change of names. Renaming is atomic, whether the old name had become safe or not. */
static void redo_name(const struct step *step, struct name *names, int *n)
{
    const int at = find_name(names, *n, step->node, step->name);

    if (step->kind != MADE && at >= 0)
        names[at].node = -1;
    if (step->kind == REMOVED)
        return;
    must(*n < 3 * NAMES_MAX, "too many names");
    names[*n].dir = step->node;
    names[*n].node = step->number;
    set_name(names[(*n)++].text, step->kind == MADE ? step->name : step->to);
}

static void write_tree(const struct name *names, int n, const struct node *nodes, int dir, int to)
{
    for (int i = 0; i < n; i++) {
        const struct node *node = names[i].node >= 0 ? &nodes[names[i].node] : NULL;
        int fd;

        if (!node || names[i].dir != dir)
            continue;
        if (node->is_dir) {
            must(mkdirat(to, names[i].text, 0700) == 0, names[i].text);
            fd = openat(to, names[i].text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            write_tree(names, n, nodes, names[i].node, fd);
        } else {
            fd = openat(to, names[i].text, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            must(fd >= 0 && write(fd, node->octets, node->size) == (ssize_t)node->size,
                 names[i].text);
        }
        close(fd);
    }
}

void disk_cut(size_t before, uint64_t seed, const char *to)
{
    static const size_t sectors[] = {0, 512, 4096};
    static struct cut cut;
    struct node nodes[NODES_MAX];
    struct name names[3 * NAMES_MAX];
    int n = record.n_names, fd;

    memset(&cut, 0, sizeof(cut));
    cut.random = seed;
    cut.before = before;
    cut.keep = (unsigned)(disk_random(&cut.random) % 9);
    cut.sector = sectors[disk_random(&cut.random) % 3];
    cut.fill = disk_random(&cut.random) % 2 ? 0 : -1;
    find_safe(&cut);
    memcpy(names, record.names, sizeof(record.names));
    for (int i = 0; i < record.n_nodes; i++) {
        nodes[i] = record.nodes[i];
        nodes[i].octets = copy_of(nodes[i].octets ? nodes[i].octets : "", nodes[i].size);
    }
    for (size_t i = 0; i < before; i++) {
        const struct step *step = &record.steps[i];

        if (step->kind == WRITE)
            redo_write(&cut, i, &nodes[step->node]);
        else if (step->kind == TRUNCATE && (cut.safe[i] || survives(&cut)))
            redo_truncate(&cut, step, &nodes[step->node]);
        else if (step->kind >= MADE && (cut.safe[i] || survives(&cut)))
            redo_name(step, names, &n);
    }
    fd = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(fd >= 0, to);
    write_tree(names, n, nodes, 0, fd);
    close(fd);
    for (int i = 0; i < record.n_nodes; i++)
        free(nodes[i].octets);
}
