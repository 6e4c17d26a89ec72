/*
 * configfile.h - reads poplar.conf and poplar.conf.d with inih. Not for the worker.
 */
#ifndef POPLAR_DAEMON_CONFIGFILE_H
#define POPLAR_DAEMON_CONFIGFILE_H

#include "daemon/config.h"

/* Read FILE, then the .conf files of FILE.d in the order of their names, and complete the result.
 * NULL with one line in `error`: file, line, what is wrong and what to do; and in errno why a
 * file could not be read, or 0. The caller frees the result. */
struct config *configfile_read(const char *file, char *error, size_t error_size);

/* The same for a user's program: a file that is not there or not for him to read is passed over. */
struct config *configfile_read_visible(const char *file, char *error, size_t error_size);

#endif
