/*
 * ctl_cyrus.h - the messages of a Cyrus mailbox: a directory with cyrus.index and one file "UID."
 * a message, as pop3d of Cyrus lists them.
 */
#ifndef POPLAR_STORE_CTL_CYRUS_H
#define POPLAR_STORE_CTL_CYRUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ctl_cyrus_message {
    uint32_t uid;
    int64_t received;
};

struct ctl_cyrus {
    uint32_t uidvalidity;
    bool new_uidl; /* "UIDVALIDITY.UID", else the UID alone */
    struct ctl_cyrus_message *messages;
    size_t n;
};

/* Parse cyrus.index, versions 8 to 20; expunged messages, whose files may still be there, are left
 * out. False: it is none of these, or cut short. Free in any case. */
bool ctl_cyrus_read(const void *index, size_t size, struct ctl_cyrus *cyrus);
void ctl_cyrus_free(struct ctl_cyrus *cyrus);

#endif
