/*
 * channel.h - one end of a SOCK_SEQPACKET pair between two roles, held to the contract.
 *
 * Used by every process. Low layer: returns outcomes, logs nothing. What follows from a bad record
 * is the role's decision: a less trusted peer is killed, for a more trusted one the receiver ends.
 */
#ifndef POPLAR_DAEMON_CHANNEL_H
#define POPLAR_DAEMON_CHANNEL_H

#include "daemon/message.h"

struct channel {
    int fd; /* -1: closed */
    enum proto_role self, peer;
    unsigned state; /* enum proto_state; set by the role as things happen */
    uint64_t seen;  /* types received, by bit, for the rows that may come once */
    bool untaken;   /* the peer ended, and had not taken all that was sent; unknown if wary */
    bool wary;      /* look whether descriptors come along before they are taken, and closed */
};

enum channel_outcome {
    CHANNEL_OK = 0,
    CHANNEL_AGAIN, /* nothing to read, or the peer's queue is full */
    CHANNEL_END,   /* the peer closed or died */
    CHANNEL_BAD,   /* the record breaks the contract; `fault` of channel_receive() says how */
    CHANNEL_ERROR  /* errno */
};

/* Two connected close-on-exec sockets, or -1 and errno. With `credentials`, ends[0] (the master's)
 * is told each sender's pid and uid by the kernel. */
int channel_pair(int ends[2], bool credentials);

/* Put a channel around a socket, which it owns from now on. */
void channel_open(struct channel *c, int fd, enum proto_role self, enum proto_role peer,
                  unsigned state);
/* Close the socket; legal on a closed channel. */
void channel_close(struct channel *c);

/* Send one record, complete by its row. `wait`: block when the queue is full. */
enum channel_outcome channel_send(struct channel *c, const struct message *m, bool wait);

/* Receive one record and check it against its row: role, state, size, descriptors, once, fields.
 * On CHANNEL_OK the caller reads the fields and calls message_clear(). On any other outcome the
 * message is empty. `fault`, if not NULL, gets a static word for the log on CHANNEL_BAD.
 *
 * On a `wary` channel no descriptor is taken: the last close of one can last for as long as who
 * sent it likes. The record stays where it is, so that the socket's own close waits as well. */
enum channel_outcome channel_receive(struct channel *c, struct message *m, bool wait,
                                     const char **fault);

#endif
