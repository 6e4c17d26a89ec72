/*
 * walk.h - one conversation on its way: what its file has said so far, and what the steps share.
 * For tests; README.md says what may stand in a file.
 */
#ifndef POPLAR_TESTS_PROTOCOL_WALK_H
#define POPLAR_TESTS_PROTOCOL_WALK_H

#include "tests/unit/worker_harness.h"

enum {
    FILES_MAX = 255,
    SETTINGS_MAX = 15,
    ACCOUNTS_MAX = 16,
    NAMES_MAX = 16,
    FILE_MAX = 1 << 16,   /* octets */
    OCTETS_MAX = 2 << 20, /* of what is said at once, a message */
    HEARD_MAX = 1 << 16,  /* of a line heard, a multi-line reply */
    REPLY_MAX = 512,      /* RFC 2449 section 4 */
    UIDL_MAX = 70         /* RFC 1939 section 7 */
};

struct octets {
    size_t size;
    char at[OCTETS_MAX];
};

/* What auth answers to one name and password. */
struct account {
    char *name, *secret, *answer;
};

/* What {name} stands for. */
struct named {
    char name[16];
    char text[UIDL_MAX + 1];
};

struct walk {
    const char *path;
    char *text; /* of the file, cut into lines on the way */
    int line;
    bool begun;     /* the nursery is there */
    bool connected; /* and a client */
    bool finished;

    const char *settings[SETTINGS_MAX + 1];
    size_t n_settings;
    bool without_certificate;
    enum proto_door door;
    char peer[PROTO_ADDRESS_MAX];
    struct account accounts[ACCOUNTS_MAX];
    size_t n_accounts;
    uint32_t refusal; /* enum login_refusal */

    bool octet_by_octet;
    struct octets say;  /* C: lines not sent yet */
    struct octets mail; /* a message not delivered yet */
    bool mailing;
    char *listed; /* the multi-line reply being looked at: lines, each with a NUL */
    char *listed_end;
    struct named names[NAMES_MAX];
    size_t n_names;
    int held[MAILDROP_FILES]; /* what "hold" opened */
    bool holding;
};

/* The one conversation, and its harness. */
extern struct walk w;
extern struct harness h;

/* End the test: file, line and this. */
_Noreturn void wrong(const char *format, ...) PRINTF(1, 2);

/* Octets as a person may read them. Valid until the next call. */
const char *shown(const char *octets, size_t size);

/* Append octets; those that `text` stands for: \r \n \t \0 \\ \xNN, and \[N TEXT], which is TEXT
 * N times. */
void octets_add(struct octets *to, const char *octets, size_t size);
void octets_add_escaped(struct octets *to, const char *text);

/* The next blank-separated word of `text`, with its escapes resolved; freed by the caller. */
char *word_next(const char **text);

/* Whether a line is as a pattern says: exact, but for a "*" at the end and {name}. What a name
 * stands for is kept when the line matches. */
bool pattern_match(const char *pattern, const char *line);

/* The nursery, a message that is complete, a client: there now, if they were not. */
void world_begin(void);
void world_deliver(void);
void world_connect(void);
void world_in_session(void);

/* Send what the client has said; until the worker has read it. */
void client_send(void);
void client_await_taken(void);

/* The steps; `text` is what stands behind their word. */
void run_say(const char *text);
void run_say_raw(const char *text);
void run_cut(const char *text);
void run_split(const char *text);
void run_whole(const char *text);
void run_hear(const char *pattern);
void run_hear_raw(const char *text);
void run_list(const char *text);
void run_among(const char *pattern);
void run_lacks(const char *pattern);
void run_ascii(const char *text);
void run_size(const char *pattern);
void run_closed(const char *reason);
void run_alert(const char *text);
void run_close(const char *text);
void run_again(const char *text);
void run_tls(const char *version);
void run_clear(const char *text);
void run_set(const char *setting);
void run_certificate(const char *text);
void run_door(const char *name);
void run_peer(const char *address);
void run_login(const char *text);
void run_master(const char *text);
void run_asked(const char *text);
void run_mail(const char *text);
void run_mail_line(const char *text);
void run_mail_raw(const char *text);
void run_messages(const char *text);
void run_release(const char *text);
void run_hold(const char *text);
void run_sql(const char *text);

#endif
