/*
 * memory.h - memory in a test's hands: with a fault DISK_MEMORY (disk.h) the nth allocation fails.
 *
 * The linker puts the functions of memory.c in the place of the product's calls of malloc() and its
 * kin; SQLite and OpenSSL have hooks for the same.
 */
#ifndef POPLAR_TESTS_MEMORY_H
#define POPLAR_TESTS_MEMORY_H

#include <stdbool.h>

/* Before anything else is done. */
bool memory_install(void);

/* What the test itself allocates in the midst of it does not count. */
void memory_pause(bool paused);

/* How many blocks were not given back. */
int memory_live(void);

#endif
