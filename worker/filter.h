/*
 * filter.h - the system calls of a worker: a table, made into seccomp filters once in the nursery.
 * A worker is confined to the table by what the nursery loaded and what it loads itself, before it
 * sees a client: neither is enough alone.
 */
#ifndef POPLAR_WORKER_FILTER_H
#define POPLAR_WORKER_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

struct filter; /* the compiled programs */

/* Compile the table. With `log_only`, what is not in it is logged by the kernel instead of killing:
 * for finding out what is missing, never for service. NULL with one line in `error`. */
struct filter *filter_compile(bool log_only, char *error, size_t error_size);
void filter_free(struct filter *filter); /* NULL is legal */

/* Confine this process, for good. Needs no_new_privs. False and errno. The nursery: to the table
 * and what it takes to make a worker. The worker, which inherits that: to the table. */
bool filter_load_nursery(const struct filter *filter);
bool filter_load_worker(const struct filter *filter);

/* fork(2) as the nursery may: the child is the master's, not ours. By the raw call, so that nothing
 * of the C library runs in between; one thread forks, so nothing of it needs to. */
pid_t filter_fork(void);

/* The table, for people and tests: how many system calls it allows; of these, how many work before
 * login, while the numbers from PROTO_FD_GRANT on are empty. */
size_t filter_count(void);
size_t filter_count_before_login(void);

/* The kernel's number and the name of the n-th system call, and whether it works before login;
 * false past the last. */
bool filter_call(size_t n, int *number, const char **name, bool *before_login);

/* Print the table with the reason of each row, and the counts. */
void filter_print(FILE *to);

#endif
