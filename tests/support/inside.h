/*
 * inside.h - a worker's whole session inside the test's own process: no fork, no sandbox, the real
 * code from the first octet to the last, over real sockets that nobody waits for.
 *
 * A stand-in for poll(2) is where the world turns: whenever the session waits, the client says its
 * next words and takes what was said to it, and master and auth answer. When nobody has anything
 * more to say, the client leaves. For fuzzing, and for failing the nth allocation.
 */
#ifndef POPLAR_TESTS_INSIDE_H
#define POPLAR_TESTS_INSIDE_H

#include "daemon/proto.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INSIDE_OUTPUT_MAX = 1 << 20 };

/* The world of one session. */
struct inside_world {
    enum proto_door door; /* DOOR_POP3S after inside_certify() */
    const char *peer;
    bool proxied;
    size_t piece;     /* octets that the client says at a time; 0: whole lines */
    uint32_t verdict; /* enum login_outcome */
    uint32_t refusal; /* enum login_refusal instead of an exchange; 0: none */
    bool auth_dies;   /* in the middle of an exchange */
    bool master_dies; /* when it is asked for something */
    unsigned last;    /* the failed login that is the last one; 0: none is */
};

/* What came of it. */
struct inside_result {
    unsigned end; /* enum session_end; 0: there was no memory for a session */
    uint64_t retrieved, deleted;
    size_t size; /* octets said to the client, of which `output` holds the first */
    char output[INSIDE_OUTPUT_MAX + 1];
};

/* Once: settings "section.key=value" up to NULL, and an empty maildrop. */
void inside_begin(const char *const *settings);

/* Then, for a client with TLS: a certificate, which this client does not check. */
void inside_certify(void);

/* Called when the world begins to act in the session's place, and when it has: what is allocated in
 * between is not the session's. NULL: nobody wants to know. */
extern void (*inside_acts)(bool acts);

/* Put a message into the maildrop. */
void inside_deliver(const void *octets, size_t size);

/* Remember the maildrop as it is now, and make it so again. */
void inside_keep(void);
void inside_restore(void);

/* Where the maildrop's files are. */
const char *inside_folder(void);

/* One session with a client that says `octets`. */
void inside_serve(const struct inside_world *world, const void *octets, size_t size,
                  struct inside_result *result);

/* What was answered to the last command; "" if nothing was. Into the result's output. */
const char *inside_last_line(const struct inside_result *result);

/* Remove the maildrop. */
void inside_finish(void);

/* The same for cmocka, as what comes after a group. */
static inline int inside_leave(void **state)
{
    (void)state;
    inside_finish();
    return 0;
}

#endif
