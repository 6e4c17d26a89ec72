/*
 * disk.h - the disk under the store and the grant, in a test's hands: it fails where it is told to,
 * and when its power is cut, what was not synced is lost, kept or torn.
 *
 * Stands between the product and the kernel: in SQLite's slots for pread and pwrite, and in front
 * of libc for what the product calls itself (fstatat, write, ftruncate, fsync, fdatasync, mkdirat,
 * renameat, unlinkat, openat2). Clock and randomness are the test's too, so that a seed repeats a
 * run.
 *
 * Two more things may fail in the same way: SQLite's statements, and memory (memory.h).
 */
#ifndef POPLAR_TESTS_DISK_H
#define POPLAR_TESTS_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { DISK_STEPS_MAX = 60000 }; /* of a record */

enum disk_call {
    DISK_READ,
    DISK_STAT,
    DISK_WRITE,
    DISK_SYNC,
    DISK_TRUNCATE,
    DISK_NAME,
    DISK_STATEMENT,  /* prepared or stepped; it is not done, and `error` is SQLite's */
    DISK_MEMORY,     /* any allocation */
    DISK_OUR_MEMORY, /* the product's own: SQLite and OpenSSL have theirs */
    DISK_RANDOM,
    DISK_CALLS
};

/* The nth call of a kind (from 1) goes wrong, and with `for_ever` every later one. `error` 0: it is
 * done by half, as read(2) and write(2) may; the next one is whole again. */
struct disk_fault {
    enum disk_call call;
    unsigned nth;
    bool for_ever;
    int error;
};

/* After maildrop_library_init(). */
void disk_install(void);

/* From now on; NULL: all is well again. */
void disk_fail(const struct disk_fault *fault);

/* Whether the fault was met since disk_fail(). */
bool disk_failed(void);

/* For the stand-ins: whether this call is to go wrong. */
bool disk_is_wrong(enum disk_call call);

/* The clock stands still unless it is moved; randomness comes from the seed. */
void disk_set_clock(int64_t now);
void disk_set_seed(uint64_t seed);

/* A generator of the test's own decisions. */
uint64_t disk_random(uint64_t *state);

/* Begin a record of all that is done to the files below `top`; what is there now is safe on disk.
 * disk_mark() notes a number in it. disk_stop() ends it and returns how many steps it has. */
void disk_record(const char *top);
void disk_mark(int number);
size_t disk_stop(void);

/* Called at each step of the record, when it was done and nothing that follows; NULL: nobody is. */
void disk_watch(void (*watch)(size_t step));

/* What the last mark before a step says; `none` if there is none. */
int disk_last_mark(size_t before, int none);

/* Cut the power before a step: write to the directory `to`, which is empty, what a disk may then
 * hold. All that was synced is there; of the rest any part, by whole calls or by sectors. */
void disk_cut(size_t before, uint64_t seed, const char *to);

/* For the stand-ins: note what was done with success. */
void disk_note_write(int fd, const void *octets, size_t size, off_t offset);
void disk_note_truncate(int fd, off_t size);
void disk_note_sync(int fd, bool done);
void disk_note_made(int dir, const char *name);
void disk_note_renamed(int dir, const char *name, const char *to);
void disk_note_removed(int dir, const char *name);

#endif
