/*
 * message.h - one record of the contract: writing its fields, checking it whole, reading them.
 *
 * Used by every process. The row in proto.h names the fields; a writer that puts others is a
 * defect (bug()), a record received with others is refused whole by message_well_formed().
 */
#ifndef POPLAR_DAEMON_MESSAGE_H
#define POPLAR_DAEMON_MESSAGE_H

#include "daemon/proto.h"
#include <stdbool.h>
#include <sys/types.h>

/* A record in memory. `fds` are owned by the message when it was received: take them with
 * message_take_fd(), the rest is closed by message_clear(). When sending they stay the caller's. */
struct message {
    const struct proto_rule *rule;
    size_t size, position; /* octets in data; the next one to read */
    unsigned field;        /* fields written or read so far */
    unsigned n_fds;
    int fds[PROTO_FDS_MAX];
    pid_t sender; /* received: the sender's pid as the kernel tells it, 0 when it does not */
    unsigned char data[PROTO_MESSAGE_MAX];
};

/* Start an empty record of a type. */
void message_begin(struct message *m, enum proto_type type);

/* Append the next field. The row must have this kind of field here; the row's size must hold it. */
void message_put_u32(struct message *m, uint32_t value);
void message_put_u64(struct message *m, uint64_t value);
void message_put_text(struct message *m, const char *text);
void message_put_octets(struct message *m, const void *octets, size_t size);
/* Add a descriptor; it stays the caller's. */
void message_put_fd(struct message *m, int fd);

/* Whether data holds exactly the fields of the rule: sizes of numbers, no NUL in texts, nothing
 * short, nothing left over. Resets reading to the first field. */
bool message_well_formed(struct message *m);

/* Read the next field of a well-formed record. Asking for another kind is a defect. */
uint32_t message_get_u32(struct message *m);
uint64_t message_get_u64(struct message *m);
/* False, and nothing written, when the text with its NUL does not fit into `size` octets. */
bool message_get_text(struct message *m, char *text, size_t size);
/* The octets stay inside the message. */
const unsigned char *message_get_octets(struct message *m, size_t *size);
/* The next descriptor, now the caller's; -1 when there is none left. */
int message_take_fd(struct message *m);

/* Close descriptors not taken and wipe what was in the record: it may have held a password. */
void message_clear(struct message *m);

#endif
