/*
 * text.h - every text that a person may read in a reply: one table for each language, a row for
 * each text in both. English and French; RFC 6856 section 3 chooses between them.
 */
#ifndef POPLAR_WORKER_TEXT_H
#define POPLAR_WORKER_TEXT_H

#include <stdbool.h>
#include <stddef.h>

enum text_language { TEXT_ENGLISH, TEXT_FRENCH, TEXT_LANGUAGES };

enum { TEXT_MAX = 400 }; /* octets of any text, so that its reply stays within 512 */

enum text {
    TEXT_READY,
    TEXT_TOO_MANY_SESSIONS,
    TEXT_CAPABILITIES,
    TEXT_TLS_BEGINS,
    TEXT_TLS_ALREADY,
    TEXT_TLS_NOT_HERE,
    TEXT_TLS_FIRST,
    TEXT_TLS_ON_CLEAR_PORT,
    TEXT_NAME_ACCEPTED,
    TEXT_NAME_UNFIT,
    TEXT_NAME_FIRST,
    TEXT_PASSWORD_EMPTY,
    TEXT_PASSWORD_UNFIT,
    TEXT_AUTH_MECHANISMS,
    TEXT_AUTH_UNKNOWN,
    TEXT_AUTH_NO_CERTIFICATE,
    TEXT_AUTH_CANCELLED,
    TEXT_AUTH_MALFORMED,
    TEXT_AUTH_FOREIGN,
    TEXT_AUTH_NO_TOKEN,
    TEXT_LOGGED_IN,
    TEXT_LOGIN_DENIED,
    TEXT_LOGIN_EXPIRED,
    TEXT_LOGIN_ACCOUNT,
    TEXT_LOGIN_UNAVAILABLE,
    TEXT_LOGIN_MISCONFIGURED,
    TEXT_LOGIN_IN_USE,
    TEXT_LOGIN_NO_MAILDROP,
    TEXT_LOGIN_BUSY,
    TEXT_LOGIN_THROTTLED,
    TEXT_LOGIN_TIMEOUT,
    TEXT_LOGIN_DELAY,
    TEXT_LOGIN_POP3_OFF,
    TEXT_STORE_TEMP,
    TEXT_STORE_PERM,
    TEXT_NOT_DELETED,
    TEXT_MESSAGES,
    TEXT_OCTETS,
    TEXT_TOP_FOLLOWS,
    TEXT_DELETED,
    TEXT_RESET,
    TEXT_NOTHING_DONE,
    TEXT_NO_SUCH_MESSAGE,
    TEXT_UTF8_ON,
    TEXT_UTF8_TOO_LATE,
    TEXT_UTF8_ONLY,
    TEXT_LANGUAGES_FOLLOW,
    TEXT_LANGUAGE_CHOSEN,
    TEXT_LANGUAGE_UNKNOWN,
    TEXT_BYE,
    TEXT_UNKNOWN_COMMAND,
    TEXT_NOT_BEFORE_LOGIN,
    TEXT_NOT_AFTER_LOGIN,
    TEXT_ARGUMENTS,
    TEXT_MALFORMED,
    TEXT_LINE_TOO_LONG,
    TEXT_TOO_MANY_BAD,
    TEXT_TOO_MANY_COMMANDS,
    TEXTS
};

/* Never NULL; UTF-8, without line end, at most TEXT_MAX octets, never beginning with '['. */
const char *text_get(enum text_language language, enum text text);

/* The language's tag (RFC 5646), and its name in itself, in UTF-8. */
const char *text_tag(enum text_language language);
const char *text_name(enum text_language language);

/* The language that a basic language range asks for, by the lookup of RFC 4647 section 3.4: "fr-CA"
 * and "FR" find fr. False if we speak no such language. */
bool text_find_language(const char *range, enum text_language *language);

/* The text without its accents, for clients that were promised nothing but ASCII (RFC 1939
 * section 3). `to` has room for TEXT_MAX + 1 octets. */
const char *text_fold(const char *text, char *to);

#endif
