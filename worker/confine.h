/*
 * confine.h - what nursery and workers give up, before either has met a client.
 */
#ifndef POPLAR_WORKER_CONFINE_H
#define POPLAR_WORKER_CONFINE_H

#include "daemon/config.h"
#include "store/files.h"

/* Once, in the nursery: own user without capabilities, no file system (Landlock, and chroot to an
 * empty directory where that is permitted), no new privileges, no dumps. What could not be done for
 * want of privilege or kernel is put in `missing` (empty: nothing). False with one line in `error`
 * when something failed that must not, or that the configuration requires. */
bool confine_process(const struct config *config, char *missing, size_t missing_size, char *error,
                     size_t error_size);

/* In each worker, after its descriptors are in place: no further descriptor, no further process. */
bool confine_worker(void);

#endif
