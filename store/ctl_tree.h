/*
 * ctl_tree.h - import --all: which users a tree of mail belongs to, and where each one's mail lies.
 *
 * One rule, entry by entry of DIR:
 *     a file                        the mbox of the user of this name (/var/mail)
 *     a directory that is a mailbox the user's: a Maildir, or a Cyrus mailbox
 *     a directory with Maildir/     the user's (/home)
 *     any other directory           a domain: the same rule over its entries, for NAME@DOMAIN
 * Names that begin with a dot, lock files and empty files are passed over. No symbolic link is
 * followed: the tree belongs to users, the caller is root.
 */
#ifndef POPLAR_STORE_CTL_TREE_H
#define POPLAR_STORE_CTL_TREE_H

#include <stdbool.h>
#include <stddef.h>

struct ctl_tree_entry {
    char *user, *path;
};

struct ctl_tree_passed {
    char *path;
    int error; /* why it cannot be told what it is; 0: it is no mailbox */
};

struct ctl_tree {
    struct ctl_tree_entry *entries; /* by user */
    size_t n;
    struct ctl_tree_passed *passed; /* what is neither, for people to see */
    size_t n_passed;
};

/* Look through DIR; on the way there links are followed as by ctl_path_open(), and paths of entries
 * have none (/var/mail is often a link itself). False and errno if it cannot be read. Free in any
 * case. */
bool ctl_tree_read(const char *path, struct ctl_tree *tree);
void ctl_tree_free(struct ctl_tree *tree);

#endif
