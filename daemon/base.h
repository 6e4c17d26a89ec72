/*
 * base.h - the floor under all processes: the two ways to die, and what every file needs.
 */
#ifndef POPLAR_DAEMON_BASE_H
#define POPLAR_DAEMON_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define ARRAY_SIZE(a)      (sizeof(a) / sizeof((a)[0]))
#define PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

/* The environment failed us: one line on stderr, exit with a status from sysexits.h. */
_Noreturn void fatal(int status, const char *format, ...) PRINTF(2, 3);

/* We are wrong: an impossible state in our own tables. One line on stderr, then abort(). */
_Noreturn void bug(const char *what);

/* The exit status for an errno: EX_OSERR where the system lacks something that it may have later,
 * so that it is of use to try again; else `usual`. */
int base_status(int error, int usual);

/* Memory or a fatal EX_OSERR. */
void *base_alloc(size_t size);                 /* zeroed */
void *base_realloc(void *memory, size_t size); /* size > 0 */
/* Room for one item more in a list of n, all of whose room came from here. */
void *base_grow(void *items, size_t n, size_t item_size);
char *base_strdup(const char *text);
char *base_format(const char *format, ...) PRINTF(1, 2);

/* Close if not -1, and leave errno alone. */
void base_close(int fd);

/* For a program that anybody may start: take those of descriptors 0 to 2 that are closed, or what
 * is opened next gets the number, and what is printed goes into it. Reading and writing fail on
 * them as before. */
void base_hold_standard(void);

/* At the end of a program that printed: what is on stdout has arrived, and `status` it is; or one
 * line on stderr says why not, and it is EX_IOERR. */
int base_printed(int status);

/* Whether what goes to stderr goes at once: a terminal that is stopped, or a pipe that nobody
 * reads, has no room. */
bool base_stderr_has_room(void);

/* CLOCK_MONOTONIC, in microseconds, and in milliseconds. */
uint64_t base_now_us(void);
uint64_t base_now_ms(void);

/* Fill with random octets from getrandom(2). */
void base_random(void *octets, size_t size);

/* Copy text into a buffer, cut where it does not fit, always ended by NUL. True if it was whole. */
bool base_copy(char *to, size_t size, const char *text);

/* Write a complaint for the caller to show, cut where it does not fit. Always false, so that a
 * check ends by `return base_refuse(...)`. */
bool base_refuse(char *error, size_t size, const char *format, ...) PRINTF(3, 4);

/* What to add where nothing is at a path: "", or in parentheses that it lies in a directory of
 * which poplar.service has none or another (ProtectHome=, PrivateTmp=), or is a link to there,
 * while who looks finds it. errno stays. */
const char *base_unseen(const char *path);

/* What a noun ends in after this number: "" for 1, else "s". */
const char *base_plural(uint64_t n);

/* Octets of the character at `text`, where `size` octets are; 0 if it is a control character, or
 * malformed UTF-8 (RFC 3629). */
size_t base_character(const char *text, size_t size);

/* Make text of such characters alone: a '?' in the place of each octet of another. */
void base_make_text(char *text, size_t size);

/* Print text for a log or a terminal: control characters and invalid UTF-8 become \xNN, a
 * backslash doubles. Cut where it does not fit, always ended by NUL. */
void base_escape(char *to, size_t size, const char *text);

/* Print a value of KEY=VALUE for a log, of text that went or goes through base_escape(): nothing in
 * it passes for another key. It is within quotes, and each that it has itself is doubled, where
 * there is a blank, a quote or, but for an <address>, a '='; an empty one is "-". base_quote() puts
 * it within quotes in any case. Cut where it does not fit, always ended by its quote and NUL. */
void base_value(char *to, size_t size, const char *text);
void base_quote(char *to, size_t size, const char *text);

/* One datagram to a socket of the file system, or with '@' in front to an abstract one. Never
 * waits: false where there is no room for it now. Who is not there is not told. */
bool base_tell(const char *path, const char *text);

#endif
