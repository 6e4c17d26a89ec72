/*
 * utf8.h - UTF8 and LANG (RFC 6856), and the preparation of names and passwords (SASLprep, RFC
 * 4013) that UTF8 brings.
 */
#ifndef POPLAR_WORKER_UTF8_H
#define POPLAR_WORKER_UTF8_H

#include "worker/commands.h"

/* The session is in ASCII, and in the language that is the administrator's first: at its start, and
 * again after STLS, for what was said in the clear may have been somebody else's. */
void utf8_begin(struct session *s);

/* UTF8 (RFC 6856 section 2.1). After login, where the RFC has no place for it but Outlook sends it,
 * it works until the first size was told: sizes must not move within a session, and "+OK" is not
 * said to what is not done. */
enum command_outcome utf8_run(struct session *s, const struct command_arguments *arguments);

/* LANG (RFC 6856 section 3): lists languages, or chooses one. */
enum command_outcome utf8_run_lang(struct session *s, const struct command_arguments *arguments);

/* SASLprep of a name or a password as a query string (RFC 6856 section 2.2). False: malformed
 * UTF-8, or a character that is prohibited; or `to` is too small. Leaves no copy of it in memory
 * that is not the caller's. */
bool utf8_prepare(const char *text, size_t size, char *to, size_t room, size_t *prepared);

#endif
