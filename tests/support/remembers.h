/*
 * remembers.h - what stands in the memory of another process. For tests of what is to be forgotten;
 * whoever is not dumpable is looked at by root only.
 */
#ifndef POPLAR_TESTS_REMEMBERS_H
#define POPLAR_TESTS_REMEMBERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/base.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Whether the octets are anywhere in what the process may write to. */
static inline bool process_remembers(pid_t pid, const char *octets)
{
    char path[64], line[5000];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int memory = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(maps && memory >= 0);
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, rights) != 3 || rights[1] != 'w' ||
            end - start > 1UL << 30) /* a sanitizer's books */
            continue;
        char *copy = base_alloc(end - start);
        ssize_t got = pread(memory, copy, end - start, (off_t)start);
        found = got > 0 && memmem(copy, (size_t)got, octets, strlen(octets));
        free(copy);
    }
    fclose(maps);
    close(memory);
    return found;
}

/* It may take a process a moment from sending what it knows to forgetting it. */
static inline bool process_forgets(pid_t pid, const char *octets)
{
    enum { PATIENCE_MS = 30000 };
    uint64_t deadline = base_now_ms() + PATIENCE_MS;
    while (process_remembers(pid, octets))
        if (base_now_ms() > deadline)
            return false;
    return true;
}

#endif
