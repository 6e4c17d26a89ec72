/*
 * lock.h - the byte-range locks of a maildrop, and the store's patience.
 *
 * Open-file-description locks: they belong to the open file, travel with its descriptor between
 * processes, and end with its last copy, however the holder dies.
 */
#ifndef POPLAR_STORE_LOCK_H
#define POPLAR_STORE_LOCK_H

#include "store/maildrop.h"

/* CLOCK_MONOTONIC in milliseconds: deadlines are points on it. */
uint64_t lock_clock(void);

/* Sleep for about `ms`, by poll(2), which is the only way to sleep that a worker's sandbox has. */
void lock_sleep(unsigned ms);

/* Take one byte of the lock file for writing, trying again until `deadline` (a past one: a single
 * try). STORE_OK, STORE_BUSY, or STORE_IO when the file cannot be locked at all. */
enum store_outcome lock_acquire(int fd, enum maildrop_lock_byte byte, uint64_t deadline);

/* The same for reading, on a descriptor that is open for no more: nobody has it for writing then.
 */
enum store_outcome lock_share(int fd, enum maildrop_lock_byte byte, uint64_t deadline);

/* Give it back. */
void lock_release(int fd, enum maildrop_lock_byte byte);

/* Before the write byte is taken again, which was given back at `since`: let who waits for it have
 * a turn. They look now and then only, and would hardly find the moment in between. */
void lock_yield(int fd, uint64_t since);

#endif
