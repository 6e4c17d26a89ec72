/*
 * ctl_maildir.h - lists the messages of a Maildir in their order, and opens them one by one.
 *
 * Only new/ and cur/ of the directory itself: subfolders are not a POP3 maildrop's. Memory grows
 * with the number of messages, not with their size.
 */
#ifndef POPLAR_STORE_CTL_MAILDIR_H
#define POPLAR_STORE_CTL_MAILDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct ctl_uidl;
struct ctl_uidl_list;

struct ctl_maildir_entry {
    bool in_new; /* else in cur/ */
    char *name;
    int64_t seconds; /* at the beginning of the name; 0: none */
    int64_t mtime;
    uint64_t size;
    uint64_t inode;              /* 0: it was gone again when it was looked at */
    const struct ctl_uidl *uidl; /* what a list says of it, owned by the list; NULL: nothing */
    uint64_t order;              /* the list's; before all else */
};

struct ctl_maildir {
    int directories[2]; /* cur, new */
    struct ctl_maildir_entry *entries;
    size_t n_entries;
    uint64_t octets; /* of all */
    bool unsteady;   /* it never stayed the same while it was listed: some may be missing */
    struct timespec changed[2]; /* the directories, before it was listed */
    struct ctl_maildir *again;  /* as it was later, by the names without flags; NULL: not needed */
    uint64_t looked;            /* entries of that, each time it was needed */
};

/* List the Maildir behind a directory descriptor, which stays the caller's. False and errno; then
 * `failed_at` says where: "cur", "new". What is renamed meanwhile, as for each change of a flag,
 * may not be met under either name; so one that changes is listed again, a few times. Free with
 * ctl_maildir_free() in any case. */
bool ctl_maildir_list(struct ctl_maildir *maildir, int directory, const char **failed_at);
void ctl_maildir_free(struct ctl_maildir *maildir);

/* Put the entries into the order of a server's list, which must live as long. */
void ctl_maildir_arrange(struct ctl_maildir *maildir, const struct ctl_uidl_list *list);

/* "new" or "cur". */
const char *ctl_maildir_folder(const struct ctl_maildir_entry *entry);

/* Open one message for reading; -1 and errno, EINVAL for what is no regular file. If it was renamed
 * since it was listed, as a server that is in use does to change its flags, it is found again.
 * Symbolic links are not followed: root reads what its owner could have put there. */
int ctl_maildir_open(struct ctl_maildir *maildir, const struct ctl_maildir_entry *entry);

/* When it was received: the earlier of the name's seconds and the file's mtime, for copying a
 * file loses the one, and appending over IMAP sets only the other. */
int64_t ctl_maildir_received(const struct ctl_maildir_entry *entry);

/* Pure: the seconds that a name begins with, 0 if it does not; whether its flags hold one, as S
 * (seen). */
int64_t ctl_maildir_seconds(const char *name);
bool ctl_maildir_has_flag(const char *name, char flag);

#endif
