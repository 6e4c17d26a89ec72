/*
 * calls.h - calls of the product into the system and its libraries that fail when a test says so.
 *
 * The linker puts the functions of calls.c in the place of those that the product's own objects
 * call; what libraries call among themselves goes where it always went. Counted are the calls of a
 * test's children, too.
 */
#ifndef POPLAR_TESTS_CALLS_H
#define POPLAR_TESTS_CALLS_H

#include <stdbool.h>
#include <stddef.h>

/* From now on let the nth call of `name` fail, as it does when there is too little of something, or
 * with this errno. */
void calls_break(const char *name, unsigned nth, int error);
/* The same, and all that follow it. */
void calls_break_from(const char *name, unsigned nth, int error);
/* Beside what one of the others broke, this one once. */
void calls_break_too(const char *name, unsigned nth, int error);
/* Let it give this without having done anything. */
void calls_answer(const char *name, unsigned nth, long value);
void calls_answer_from(const char *name, unsigned nth, long value);
/* What fstatfs(), broken, tells instead of a failure; 0: that it failed. */
extern long calls_file_system;
/* All is well again. Whether it had come to that call, or to both. */
bool calls_mend(void);

/* How a child ended in which something failed. */
struct calls_end {
    int status;      /* as waitpid() has it */
    bool met;        /* it came to the call that fails */
    char said[4096]; /* on stderr */
};

/* Exit statuses of attempts: it did not do what it should, and said why; it did something else. */
enum { CALLS_NOT_DONE = 10, CALLS_DONE_WRONG = 11 };

/* Say on stderr what a caller of the attempt would; CALLS_NOT_DONE. */
int calls_say(const char *why);
/* It must have ended in order, without having done it, and have said why. */
void calls_told(const char *what, const struct calls_end *end);
/* The same, or it did it all the same. */
void calls_told_or_done(const char *what, const struct calls_end *end);

/* What this process calls does not count for the time being, or does again. */
void calls_hold(bool held);

/* When a child says this, it gets SIGTERM; NULL: never. */
extern const char *calls_stop_at;

/* Run `attempt` in a child that ends with what it returns; the call broken before is mended. */
void calls_try(int (*attempt)(void), struct calls_end *end);

/* Each call of each name fails in turn in a child that runs `attempt`, until one goes through
 * untouched; `judge` sees how each ended. How many failed; nothing of it is left open. */
unsigned calls_walk(int (*attempt)(void),
                    void (*judge)(const char *what, const struct calls_end *end));

/* Descriptors that are open in this process. */
unsigned calls_descriptors(void);

#endif
