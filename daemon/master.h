/*
 * master.h - the master's state and what its files call in each other. Master only.
 *
 * The master accepts, polices, assigns, supervises and is the switchboard. It never reads an octet
 * that a client sent, loads neither PAM nor TLS nor SQLite, and believes of its children only what
 * the kernel or a more trusted child confirms.
 */
#ifndef POPLAR_DAEMON_MASTER_H
#define POPLAR_DAEMON_MASTER_H

#include "daemon/address.h"
#include "daemon/channel.h"
#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/setup.h"
#include "daemon/throttle.h"
#include <systemd/sd-event.h>

enum {
    MASTER_LOGIN_ATTEMPTS = 3, /* failed logins on one connection */
    MASTER_LOGIN_REPEATS = 6,  /* and such as were no guess, for two more mechanisms */
    MASTER_START_MS = 30000,   /* for a nursery, a worker or an auth process to be ready */
    MASTER_LEAVE_MS = 5000,    /* for one to end after the end of its channel */
    MASTER_HELD = 16           /* clients that are held until their workers speak */
};

/* Who is at the other end of a connection: the kernel's word, or that of a proxy of ours. */
struct client {
    int fd; /* its socket; -1: a worker's alone */
    enum proto_door door;
    struct sockaddr_storage peer;
    struct address_source source;
    uid_t uid; /* LMTP: whose process the peer is */
};

/* A nursery and the workers forked from it: they share an address layout. */
struct generation {
    struct generation *next;
    struct master *master;
    unsigned number;
    struct channel channel;
    sd_event_source *io, *timer;
    pid_t pid;
    struct setup setup;
    bool ready, retired, awaiting_pong;
    uint64_t *expires; /* when each certificate does, seconds since the epoch; 0: unknown */
    size_t n_expires;
    uint64_t born;            /* base_now_ms() */
    unsigned forked;          /* workers ordered */
    unsigned workers;         /* worker structs that point here */
    enum retirement outlived; /* why the next one takes over, when it does */
    int status;               /* of poplard, where this one cannot even be told what to do */
    char last_error[512];     /* its last logged error, to explain its end */
};

/* A process that serves one session, from the fork order to the reaping. */
struct worker {
    struct worker *next, **link;
    struct master *master;
    struct generation *generation;
    struct channel channel;
    sd_event_source *io, *timer;
    pid_t pid; /* 0 until it is ready */
    bool ended_by_us, finishing;
    char tls[16]; /* by its own word; shown, and used for nothing */
    bool proxied; /* its peer is in proxy_from: the real address is still to come */
    bool summarised;

    /* From PROTO_ASSIGN on. */
    uint64_t session;
    struct client client; /* its socket only while that is held */
    char peer_text[PROTO_ADDRESS_MAX];
    uint64_t started, login_by;              /* by the configuration that it came under */
    char recipient[PROTO_RECIPIENT_MAX + 1]; /* LMTP: the one asked about */
    enum proto_service service;              /* LMTP: what for */
    char user[PROTO_USER_MAX * 4 + 1];       /* canonical, escaped; from auth only */
    char canonical[PROTO_USER_MAX + 1];
    uint64_t logged_in; /* when, base_now_ms() */

    /* While STATE_LOGIN. */
    char claimed[PROTO_USER_MAX + 1]; /* the name given, by its own word; shown, nothing else */
    struct auth *auth; /* owes this worker an outcome; also for a grant in STATE_MAIL */
    bool queued;       /* waits for an auth process */
    uint64_t asked;    /* when it asked, base_now_us() */
    bool trace_later;  /* it was told that it will hear whether it is traced */
    bool refused;      /* waits for the time at which its client is told that it failed */
    uint64_t denied;   /* auth's digest of the name and secret that were denied last; 0: none */
    unsigned failures, repeats, grants;
};

/* What auth was asked, by whom: a login counts though its worker is gone when it is decided. */
struct attempt {
    enum proto_service service;
    uint64_t session;
    struct client client;
    char peer_text[PROTO_ADDRESS_MAX];
    char claimed[PROTO_USER_MAX + 1]; /* as in the worker */
    uint64_t asked;                   /* base_now_us() */
};

/* One auth process. */
struct auth {
    struct auth *next, **link;
    struct master *master;
    struct config *config;
    struct channel channel;
    sd_event_source *io, *timer;
    pid_t pid;
    struct setup setup;
    bool retired, awaiting_pong, killed, served;
    bool owes;             /* the outcome of the exchange under way */
    struct worker *worker; /* whose outcome it owes; NULL if told, or that one is gone */
    struct attempt attempt;
    int exchange;          /* its end of that, -1: none; what its descendants hold goes by it */
    struct worker *holder; /* whose end it waits for ([session] lock=takeover) */
    uint64_t vacant_since;
    char last_error[512];
};

/* A socket we accept on. */
struct listener {
    int fd;
    enum proto_door door;
    bool passed; /* by systemd */
    bool owned;  /* bound by us, and no other configuration's: its address goes with it */
    char *text;  /* the address as configured, or the descriptor's name */
    sd_event_source *io;
};

/* A connection that waits for a worker. */
struct waiting {
    struct waiting *next;
    struct client client;
    uint64_t since;
};

/* The children's programs, open: a package may put others in their places, which speak another
 * contract. -1: not there. */
struct programs {
    int worker, auth;
};

/* Descriptors that a child is to close for us. */
struct discarded {
    int *fds;
    size_t n;
    sd_event_source *timer;
};

/* A poplarctl that waits for the outcome of a reload. */
struct asker {
    struct asker *next;
    int fd;
};

/* A new configuration on trial: a nursery and an auth process run under it, nothing else changed
 * yet. Also the first start. */
struct trial {
    struct config *config;
    struct generation *generation;
    struct auth *auth;
    struct programs programs;
    struct listener *listeners;
    size_t n_listeners;
    struct asker *askers;
};

struct master {
    sd_event *event;
    const char *config_file;
    char *own_dir; /* where poplard is: its siblings' place unless configured */
    struct config *config;
    struct trial *trial;
    bool serving;   /* a configuration was committed */
    bool announced; /* READY=1 said of it */
    bool stopping;
    bool reload_again;        /* asked for while another was under way; once, however often */
    struct asker *askers;     /* who waits for that */
    struct programs programs; /* that the configuration was tried with */
    bool outdated;            /* others have their places: these are started */
    int exit_status;

    struct listener *listeners;
    size_t n_listeners;
    sd_event_source *accept_pause; /* while out of descriptors */
    struct discarded discarded;
    struct waiting *waiting, **waiting_end;
    unsigned n_waiting;

    struct generation *generations, *current;
    unsigned generation_number, nursery_failures;
    uint64_t nursery_failed_at; /* base_now_ms() of the last */
    uint64_t fork_failed;       /* when that it cannot fork was told last */
    uint64_t hung_up;           /* when a worker last did, before it was ready */
    uint64_t unready_told;      /* when such an end was told last */
    bool filling;               /* workers that stand by are being forked, a few at a time */
    sd_event_source *nursery_retry;

    struct worker *workers;
    struct text_list traced;                 /* canonical users whose sessions the log is told of */
    unsigned n_idle, n_starting, n_sessions; /* workers by state */
    struct worker *held[MASTER_HELD];        /* whose clients' sockets are held; NULL: nobody's */
    size_t held_next;
    uint64_t last_session;
    unsigned arrived;      /* connections since the last tick */
    unsigned arrived_peak; /* in the second before */

    struct auth *auths;
    unsigned auth_failures;
    uint64_t auth_retry_at;
    bool latest_first; /* whose turn it is among strangers that wait for an auth process */
    struct throttle *throttle;
    uint64_t digest_key;

    unsigned char ticket_key[PROTO_TICKET_KEY_SIZE], old_ticket_key[PROTO_TICKET_KEY_SIZE];
    uint64_t ticket_key_born;

    int control_fd;
    sd_event_source *control_io;
    unsigned guests; /* visitors of the control socket that may only look */
    sd_event_source *tick;
    uint64_t watchdog_ms, watchdog_fed;
    bool starved;            /* the watchdog was not fed when it was time */
    char status[256];        /* as systemd was told it last */
    char untold[2304];       /* to systemd, which had no room for it; "": nothing */
    uint64_t counts[COUNTS]; /* enum proto_count; from COUNT_NOW on, status.c's */
    uint64_t started_at;     /* seconds since the epoch */
};

/* loop.c: the event loop. */
/* A timer that fires once at `at` (base_now_ms()); replaces what `timer` held. */
void loop_timer(struct master *m, sd_event_source **timer, uint64_t at,
                sd_event_time_handler_t handler, void *context);
/* The same, at base_now_us(). */
void loop_timer_exact(struct master *m, sd_event_source **timer, uint64_t at,
                      sd_event_time_handler_t handler, void *context);
/* Tell a child what it is told at its start, now and whenever it has taken some of it; `io` hears
 * it already. False when that failed, with errno and one line in `error`. */
bool loop_set_up(sd_event_source *io, struct setup *setup, struct channel *channel, char *error,
                 size_t size);
/* Hear a channel. False, with a line in the log, when the kernel has no room for that. */
bool loop_watch(struct master *m, sd_event_source **io, int fd, sd_event_io_handler_t handler,
                void *context);
/* A line for the log, of a nursery or an auth process; its last error will explain its end. */
void loop_log(struct message *message, const char *who, const struct log_about *about, bool ready,
              char *last_error, size_t size);
void loop_end_if_drained(struct master *m); /* the end of a stop: nobody is served any more */

/* worker.c: one worker. */
struct log_about worker_about(const struct worker *w); /* its session as the log sees it */
/* The log's line of a session that had no last word of its own. */
void worker_tell_end(const struct worker *w);
/* A worker counts as starting, idle or a session until it is reaped. */
unsigned *worker_counter(struct master *m, unsigned state);
void worker_enter(struct worker *w, unsigned state);
void worker_may_log_in(struct worker *w); /* STATE_CLIENT, for the time that a login may take */
void worker_may_leave(struct worker *w);  /* STATE_DONE, from its summary to its end */
void worker_end(struct worker *w);        /* kill it; the reaping follows */
/* Ask a logged-in session to end at its next command (enum session_end: why); kill it if it does
 * not within a second. */
void worker_finish(struct worker *w, unsigned why);
/* A login failed: one less for this connection, sooner or later also if it was no guess. */
void worker_count_failure(struct worker *w, bool guess);
/* A login has an outcome that is no success: its client is told now or, when it `failed`, later. */
void worker_settle(struct worker *w, bool failed);
/* Begin or end the trace of one user's sessions, present and future. False: too many users. */
bool worker_trace_user(struct master *m, const char *user, bool on);
/* Before a login, while anybody is traced, and after: its user's trace misses no command. */
void worker_trace_later(struct worker *w);
void worker_trace_if_wanted(struct worker *w);

/* trial.c: the first start and every reload. */
/* The configuration as its file has it now, with a program_dir in any case. As configfile_read().
 */
struct config *trial_read(const struct master *m, char *error, size_t size);
/* Read the configuration, open its sockets, start a nursery and an auth process under it. What
 * fails at once or later ends in trial_failed(). While another is under way it comes after that:
 * who asks may have changed the files since that one read them. `reply_fd`: poplarctl waits there
 * for the outcome, or -1. */
void trial_begin(struct master *m, int reply_fd);
/* One more part of the trial is ready; with the last it becomes what is served. */
void trial_step(struct master *m);
/* Start the program of a role: on trial (`strict`) what has its name now, else what was tried. As
 * spawn_child(). */
pid_t trial_spawn(const struct master *m, const struct config *config, bool strict,
                  enum proto_role role, struct channel *channel);
/* At a start the end, with this exit status; at a reload all stays as it was. */
void trial_failed(struct master *m, int status, const char *why);

/* notify.c: systemd. */
/* Tell it how things stand, in lines of sd_notify(3). What it has no room for is kept, in place of
 * what was kept before. */
void notify_state(struct master *m, const char *format, ...) PRINTF(2, 3);
/* Tell something that need not be kept. False: no room; also while something is kept. */
bool notify_now(struct master *m, const char *format, ...) PRINTF(2, 3);

/* supervise.c: signals, reaping, housekeeping, systemd, the end. */
int supervise_run(struct master *m); /* the exit status of poplard */

/* generation.c: nurseries. The three ..._hear() take one record from a child's channel: the loop
 * calls them, and the reaping for what a child said last. */
struct generation *generation_spawn(struct master *m, struct config *config, bool strict);
void generation_serve(struct master *m, struct generation *g); /* it becomes m->current */
/* No new workers from it. `crash`: idle workers and those not logged in end with it. */
void generation_retire(struct master *m, struct generation *g, bool crash);
int generation_hear(sd_event_source *source, int fd, uint32_t events, void *context);
void generation_reaped(struct master *m, struct generation *g, int status);
void generation_release(struct master *m, struct generation *g); /* free when nothing is left */
void generation_replace(struct master *m, const char *why);
void generation_failed(struct master *m); /* the next one comes later, and later each time */
void generation_fill(struct master *m, bool may_wait); /* see pool_to_fork() */
/* Ask whether it lives. False: it has not answered the last time, or does not even take this. */
bool generation_ping(struct generation *g);

/* admit.c: connections until a worker has them. */
/* Whether the limits let a connection in; where every slot is taken another may have to go. */
bool admit_allows(struct master *m, const struct client *c);
void admit_refuse(struct master *m, const struct client *c); /* say no and close */
/* A client in words: its address and port, or whose process it is. */
void admit_print(const struct client *c, char text[PROTO_ADDRESS_MAX]);
void admit_queue(struct master *m, const struct client *c);
struct waiting *admit_next(struct master *m);    /* m->waiting, off the queue; free() it */
void admit_tick(struct master *m, uint64_t now); /* refuse what waited too long */
/* Sessions from where this one is, by LMTP of the same account, and connections that wait to become
 * one. */
unsigned admit_sessions_of(const struct master *m, const struct client *c);

/* assign.c: connections and the workers they are given to. */
/* One that came: it is served, waits or is refused. */
void assign_connection(struct master *m, const struct client *c);
void assign_waiting(struct master *m, struct worker *w); /* if idle, it gets who waits, if any */
/* The worker has its client: what is held of that for another worker goes. */
void assign_let_go(struct master *m, struct worker *w);
/* The worker has ended, and not all that it was told was taken by it: if a client is held that it
 * never had, which so cannot have been greeted, that is another's. */
void assign_again(struct master *m, struct worker *w);
/* Who waits although a worker is idle gets it; whom his worker took a while ago is let go. */
void assign_tick(struct master *m);

/* workers.c: workers, whom they serve aside. */
void workers_add(struct master *m, struct generation *g, int channel_fd);
void workers_tick(struct master *m);
int workers_hear(sd_event_source *source, int fd, uint32_t events, void *context);
void workers_reaped(struct master *m, struct worker *w, int status);
/* A child ended that nobody knows: a worker whose pid was to come with its first word, or, where
 * strangers are inherited, one of these. */
void workers_unready(struct master *m, pid_t pid, int status);
/* The master stops: sessions that are there only to be told of a failure end now. */
void workers_end_refused(struct master *m);

/* queue.c: workers that are `queued` for an auth process. */
struct worker *queue_next(struct master *m);   /* who has the next one; NULL: nobody may */
unsigned queue_length(const struct master *m); /* those for whom another process is of use */

/* auths.c: auth processes. */
struct auth *auths_spawn(struct master *m, struct config *config, bool strict);
struct auth *auths_idle(struct master *m); /* one that may be asked; NULL: none is free */
/* Start what is missing: processes_min, and one for each login that waits, up to processes_max. */
void auths_grow(struct master *m);
/* It must say something within `ms`, or is killed. */
void auths_deadline(struct auth *a, uint64_t ms);
void auths_retire(struct auth *a); /* after its exchange; its end follows at end-of-file */
void auths_retire_all(struct master *m, const struct config *config);
void auths_kill(struct auth *a, const char *what); /* it broke the contract; `what`: "sent ..." */
int auths_hear(sd_event_source *source, int fd, uint32_t events, void *context);
void auths_reaped(struct master *m, struct auth *a, int status);
void auths_tick(struct master *m);
bool auths_ping(struct master *m); /* the same of an idle one, if there is one */

/* login.c: the exchanges that they serve. */
void login_wanted(struct master *m, struct worker *w);
void login_serve(struct master *m);  /* who waits gets the auth processes that are free */
void login_forget(struct worker *w); /* the worker is gone, or says that it is over */
void login_holder_gone(struct master *m, struct worker *w); /* a lock may be free now */
/* What an auth process says of the exchange that it serves. */
void login_outcome(struct master *m, struct auth *a, struct message *message);
void login_locked(struct master *m, struct auth *a, struct message *message);
/* The exchange is over without an outcome. `w`: who asked, or NULL; `crashed`: by auth's own end.
 */
void login_undecided(struct master *m, const struct attempt *t, struct worker *w, bool crashed);
void login_tick(struct master *m);

/* discard.c */
/* Close, a moment later and without ever waiting for it, what a local client may have put
 * descriptors into. */
void discard(struct master *m, int fd);
/* The same, now; where there is no process for it that may have to wait. */
void discard_now(int fd);

/* listen.c */
/* The sockets of a configuration, or those that systemd passed. Sockets of `old` with the same
 * address are shared until listen_replace(). False with one line in `error`, and in errno what
 * the system said, or 0. */
bool listen_open(const struct config *config, struct listener *old, size_t n_old,
                 struct listener **listeners, size_t *n, char *error, size_t error_size);
void listen_close(struct listener *listeners, size_t n);
/* Close those of the configuration before; sockets that go on belong to `fresh` from now on. */
void listen_replace(struct listener *old, size_t n_old, struct listener *fresh, size_t n);
bool listen_attach(struct master *m); /* start accepting */
void listen_detach(struct master *m);

/* local.c: unix sockets. */
/* One of this type and mode that listens, its directory made if it is missing. -1, errno, and words
 * and a remedy in `why`. */
int local_bind(const char *path, int type, mode_t mode, char *why, size_t size);
/* Whose process is at the other end, by the kernel. */
uid_t local_peer(int fd);

/* control.c: poplarctl's socket: root's; to look, store_user's group's too. */
/* False, errno, and one line in `error`. */
bool control_open(struct master *m, char *error, size_t error_size);
void control_tick(struct master *m); /* listen again, after a lack of descriptors */
void control_close(struct master *m);
void control_reply(int fd, int status, const char *text); /* closes fd */

#endif
