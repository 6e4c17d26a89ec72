/*
 * ctl.h - what poplarctl's commands share: one invocation, how errors are said, a user's maildrop.
 *
 * poplarctl runs as root or as the store user, called by the administrator. A command returns an
 * exit status from sysexits.h; whoever finds an error says it, in one line, once.
 */
#ifndef POPLAR_STORE_CTL_H
#define POPLAR_STORE_CTL_H

#include "daemon/base.h"
#include "daemon/config.h"
#include "daemon/proto.h"
#include "store/maildrop.h"

#include <sys/types.h>

/* The options that were given, and those that a command takes. */
enum ctl_option {
    CTL_CONFIG = 1 << 0,
    CTL_JSON = 1 << 1,
    CTL_HELP = 1 << 2,
    CTL_VERSION = 1 << 3,
    CTL_DRY_RUN = 1 << 4,
    CTL_FORMAT = 1 << 5,
    CTL_NO_LIMITS = 1 << 6,
    CTL_CRLF = 1 << 7,
    CTL_YES = 1 << 8,
    CTL_ALL = 1 << 9,
    CTL_UIDL = 1 << 10,
    CTL_UIDL_TEMPLATE = 1 << 11,
    CTL_UIDL_CAPTURE = 1 << 12,
    CTL_DELETED = 1 << 13,
    CTL_DELETE_GONE = 1 << 14,
    CTL_LISTED_ONLY = 1 << 15,
};

/* One invocation. */
struct ctl {
    unsigned options;                           /* set of enum ctl_option */
    const char *config_file;                    /* --config */
    const char *format;                         /* --format; NULL: not given */
    const char *uidl, *uidl_format, *uidl_list; /* the same */
    size_t n_words; /* everything else; after parsing, the command's own arguments */
    const char **words;
    struct config *config; /* NULL for commands that need none */
};

/* One line on stderr: "poplarctl: " and the text, made safe for a terminal. */
void ctl_note(const char *format, ...) PRINTF(1, 2);
/* The same for an error; returns `status`, for `return ctl_fail(EX_…, …)`. */
int ctl_fail(int status, const char *format, ...) PRINTF(2, 3);

/* Say that a file cannot be written; EX_TEMPFAIL where there is no room, else EX_CANTCREAT. */
int ctl_write_failed(const char *path, int error);

/* Whether [store] expire_after takes a message that was received then away at the next login; 0:
 * now. And what is said of so many of them to whoever just brought them. */
bool ctl_is_overdue(const struct ctl *ctl, int64_t received);
void ctl_note_overdue(const char *name, uint64_t n);

/* read() and write(), whatever signals come; written is all of it, or false and errno. */
ssize_t ctl_read(int fd, void *buffer, size_t size);
bool ctl_write_all(int fd, const char *octets, size_t size);

/* A user's maildrop, open. */
struct ctl_maildrop {
    char name[PROTO_USER_MAX + 1]; /* the canonical user */
    struct maildrop *store;
    bool in_use; /* it was not opened, since a session holds it */
};

/* From a name to the canonical one, by the rules of the configuration. `pam_service` may be NULL.
 * 0, or an exit status after saying which rule forbids the name. */
int ctl_open_user(const struct ctl *ctl, const char *given, char name[PROTO_USER_MAX + 1],
                  const char **pam_service);

/* The same of a user who may be gone, but not his sessions: the name as far as the rules lead, and
 * whether they lead to a user. 0, or an exit status after saying why no user has such a name. */
int ctl_open_guess(const struct ctl *ctl, const char *given, char name[PROTO_USER_MAX + 1],
                   bool *known);

/* How to open a maildrop; nothing of these: as it is, to add and to read. */
enum ctl_open {
    CTL_OPEN_CREATE = 1 << 0,  /* make it if there is none */
    CTL_OPEN_SESSION = 1 << 1, /* take the session byte of its lock: what a client sees changes */
    CTL_OPEN_NAMED = 1 << 2,   /* it was there just now: EX_NOUSER in silence if it has gone */
    CTL_OPEN_QUIET = 1 << 3,   /* say nothing when a session holds it */
};

/* Whether the caller may open maildrops: root may, and the store user. 0, or an exit status after
 * saying who may; asked before anything else, for what cannot be seen is not missing. */
int ctl_open_may(const struct ctl *ctl);

/* Open the maildrop of a user named as above. One that is there can be opened when its account is
 * gone. 0, or an exit status after saying why; EX_TEMPFAIL when a session holds it. */
int ctl_open_maildrop(const struct ctl *ctl, const char *given, unsigned how,
                      struct ctl_maildrop *opened);
/* Whether there is a maildrop of this canonical name. What may not be seen is not; where it cannot
 * be told for another reason it may be: who opens it then hears why. */
bool ctl_open_exists(const struct ctl *ctl, const char *name);
/* As far as the name: of a maildrop that is there, or an account. */
int ctl_open_name(const struct ctl *ctl, const char *given, char name[PROTO_USER_MAX + 1]);
void ctl_open_close(struct ctl_maildrop *opened);

/* Say that the store failed while `doing` (NULL: opening), and return the exit status for it. */
int ctl_open_failed(const struct ctl_maildrop *maildrop, enum store_outcome outcome,
                    const char *doing);

/* The commands (table: ctl_command.c). */
int ctl_help(struct ctl *ctl);
int ctl_status(struct ctl *ctl);
int ctl_sessions(struct ctl *ctl);
int ctl_kick(struct ctl *ctl);
int ctl_metrics(struct ctl *ctl);
int ctl_reload(struct ctl *ctl);
int ctl_debug(struct ctl *ctl);
int ctl_user(struct ctl *ctl);
int ctl_import(struct ctl *ctl);
int ctl_export(struct ctl *ctl);
int ctl_message_add(struct ctl *ctl);
int ctl_message_list(struct ctl *ctl);
int ctl_message_show(struct ctl *ctl);
int ctl_message_delete(struct ctl *ctl);
int ctl_message_restore(struct ctl *ctl);
int ctl_mailbox_list(struct ctl *ctl);
int ctl_mailbox_show(struct ctl *ctl);
int ctl_mailbox_create(struct ctl *ctl);
int ctl_mailbox_delete(struct ctl *ctl);
int ctl_mailbox_set(struct ctl *ctl);
int ctl_mailbox_check(struct ctl *ctl);
int ctl_mailbox_backup(struct ctl *ctl);
int ctl_mailbox_restore(struct ctl *ctl);
int ctl_mailbox_compact(struct ctl *ctl);
int ctl_mailbox_salvage(struct ctl *ctl);
int ctl_mailbox_upgrade(struct ctl *ctl);
int ctl_expire(struct ctl *ctl);

#endif
