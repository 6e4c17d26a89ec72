/*
 * exchange.c - see exchange.h. Runs in a worker, inside its sandbox. Auth is trusted more than we
 * are, but a process that died in the middle says nothing, and that is not a yes.
 */
#include "worker/exchange.h"
#include "daemon/base.h"

enum attempt exchange_take(struct session *s, struct channel *exchange, uint32_t *refusal)
{
    if (!session_hear_answer(s))
        return ATTEMPT_LOST;
    enum attempt attempt = ATTEMPT_VERDICT;
    if (s->record.rule->type == PROTO_EXCHANGE) {
        channel_open(exchange, message_take_fd(&s->record), ROLE_WORKER, ROLE_AUTH, STATE_EXCHANGE);
    } else if (s->record.rule->type == PROTO_LOGIN_REFUSED) {
        *refusal = message_get_u32(&s->record);
        attempt = ATTEMPT_REFUSED;
    } else {
        session_lost_master(s, CHANNEL_BAD, "not the answer to what was asked");
        attempt = ATTEMPT_LOST;
    }
    message_clear(&s->record);
    return attempt;
}

/* The store's system calls work on fixed numbers only, which are the lowest free ones here. */
static int take_file(struct session *s, int number)
{
    int fd = message_take_fd(&s->record);
    if (fd != number)
        bug("a granted descriptor has another number than the sandbox expects");
    return fd;
}

static void take_files(struct session *s, int files[MAILDROP_FILES])
{
    int first = PROTO_FD_GRANT + (s->door == DOOR_LMTP);
    for (int i = 0; i < MAILDROP_FILES; i++)
        files[i] = take_file(s, first + i);
}

/* Whether so many files can come with an outcome. */
static bool may_come(enum exchange_files expected, uint32_t outcome, unsigned n)
{
    return n == 0 ? outcome != LOGIN_OK || expected != FILES_COME
                  : n == MAILDROP_FILES && outcome == LOGIN_OK && expected != FILES_NONE;
}

uint32_t exchange_verdict(struct session *s, struct channel *exchange, enum exchange_files expected,
                          char *user, int *spool, int files[MAILDROP_FILES])
{
    struct message *m = &s->record;
    uint32_t outcome = LOGIN_UNAVAILABLE;
    for (int i = 0; expected != FILES_NONE && i < MAILDROP_FILES; i++)
        files[i] = -1;
    enum channel_outcome got = channel_receive(exchange, m, true, NULL);
    if (got == CHANNEL_OK && m->rule->type == PROTO_VERDICT) {
        char named[PROTO_USER_MAX + 1];
        outcome = message_get_u32(m);
        unsigned spools = spool && outcome == LOGIN_OK;
        if (!message_get_text(m, named, sizeof named) || outcome >= LOGIN_OUTCOMES ||
            m->n_fds < spools || !may_come(expected, outcome, m->n_fds - spools))
            outcome = LOGIN_UNAVAILABLE;
        if (outcome == LOGIN_OK && spool)
            *spool = take_file(s, PROTO_FD_SPOOL);
        if (outcome == LOGIN_OK && m->n_fds > spools)
            take_files(s, files);
        if (outcome == LOGIN_OK && user)
            base_copy(user, PROTO_USER_MAX + 1, named);
    }
    if (got == CHANNEL_OK)
        message_clear(m);
    else
        outcome = LOGIN_CRASHED;
    channel_close(exchange);
    return outcome;
}
