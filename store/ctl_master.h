/*
 * ctl_master.h - poplarctl's conversation with the running master over its control socket: orders
 * and their outcome, and the entries of its state. The master decides by the peer's credentials
 * who may do what.
 */
#ifndef POPLAR_STORE_CTL_MASTER_H
#define POPLAR_STORE_CTL_MASTER_H

#include "daemon/channel.h"
#include "store/ctl.h"

enum { CTL_MASTER_WAIT_MS = 10000 };

/* Connect to the master of this configuration. 0, or an exit status after saying why not. */
int ctl_master_connect(const struct ctl *ctl, struct channel *channel);

/* Give an order and wait for its outcome: the exit status that the master gives, or that of what
 * kept it from answering, which is said. `text` gets the master's words, "" when there are none. */
int ctl_master_order(struct channel *channel, struct message *order, int wait_ms, char *text,
                     size_t size);

/* Call `take` for each entry of a part of the state; it reads the entry's fields from the second
 * on. 0, or an exit status after saying why. */
typedef void ctl_master_entry(void *context, struct message *entry);
int ctl_master_walk(struct channel *channel, enum status_part part, ctl_master_entry *take,
                    void *context);

/* Every number of the master, by enum proto_count. */
int ctl_master_counts(struct channel *channel, uint64_t counts[COUNTS]);

/* One session of STATUS_SESSIONS. Texts are made safe for a terminal. */
struct ctl_session {
    uint64_t number, age_ms;
    unsigned pid, state, door;
    char user[PROTO_USER_MAX + 1]; /* as it is; "" before login */
    char seen[4 * PROTO_USER_MAX + 1], peer[PROTO_ADDRESS_MAX], tls[32];
};
void ctl_master_session(struct message *entry, struct ctl_session *session);

/* One named thing of the other parts. */
struct ctl_item {
    char name[4 * PROTO_USER_MAX + 1], detail[8192]; /* safe for a terminal */
    uint64_t value;
};
void ctl_master_item(struct message *entry, struct ctl_item *item);

#endif
