/*
 * rogue.c - a child that breaks the contract. Installed by the system tests under the name of
 * poplar-worker or poplar-auth, it starts as that program does, and follows the rules until the
 * file `script` beside it tells the role it has just then to do otherwise.
 *
 * The script's first line is "ROLE MOMENT": "nursery starting|idle|fork", "worker
 * starting|idle|client", "auth starting|idle|busy". Whoever is that takes the script, by renaming
 * it to "script.PID", runs it, and waits to be killed:
 *
 *     send N HEX       this record with N descriptors, to the master
 *     exchange N HEX   the same, on the exchange with auth (worker) or with a worker (auth)
 *     steal N HEX      the same, on the new worker's own channel (nursery, at "fork")
 *     spawn            a process that is not the master's child plays the worker ("fork")
 *     await TYPE       drop records from the master until one of this type
 *     verdict          drop what auth says in the exchange; say what it was on stderr
 *     close            close the channel to the master
 *     exit STATUS
 *
 * `rogue --rows` prints the table of the contract, `rogue --names` a few of its numbers.
 */
#include "daemon/child.h"
#include "tests/support/raw.h"
#include "worker/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <unistd.h>

enum { LOOK_EVERY_MS = 10, RECORD_MAX = 131072 };

static const char *directory;
static int exchange_fd = -1; /* of the exchange under way */
static uint32_t answer;      /* the first number of the record that came last */
static int worker_fd = -1;   /* of the worker that the nursery is to make */

static void send_raw(int fd, const unsigned char *octets, size_t size, unsigned n_fds)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (raw_send(fd, octets, size, null, n_fds) < 0)
        fprintf(stderr, "rogue: sendmsg: %s\n", strerror(errno));
    base_close(null);
}

static void send_hex(int fd, const char *arguments)
{
    static unsigned char octets[RECORD_MAX];
    unsigned n_fds = 0;
    int skip = 0;
    if (sscanf(arguments, "%u %n", &n_fds, &skip) < 1)
        fatal(EX_DATAERR, "no number of descriptors: %s", arguments);
    send_raw(fd, octets, raw_octets(arguments + skip, octets, RECORD_MAX), n_fds);
}

/* Without the contract's checks: what the master says is not what is tested here. */
static unsigned receive_raw(int fd, int *passed)
{
    unsigned char octets[PROTO_MESSAGE_MAX];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(PROTO_FDS_MAX * sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = octets, .iov_len = sizeof octets};
    struct msghdr header = {.msg_iov = &vector,
                            .msg_iovlen = 1,
                            .msg_control = control.space,
                            .msg_controllen = sizeof control.space};
    ssize_t got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
    if (got <= 0)
        return 0;
    if (got >= 9)
        memcpy(&answer, octets + 5, sizeof answer);
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        base_close(*passed);
        memcpy(passed, CMSG_DATA(c), sizeof(int));
    }
    return octets[0];
}

static void await_type(unsigned wanted)
{
    for (unsigned type = 0; type != wanted;) {
        type = receive_raw(PROTO_FD_CONTROL, &exchange_fd);
        if (type == 0)
            exit(PROTO_EXIT_DONE);
    }
}

static void take_verdict(void)
{
    int file = -1;
    unsigned type = receive_raw(exchange_fd, &file);
    fprintf(stderr, "rogue: verdict %s, %s\n", proto_outcome_name(type ? answer : LOGIN_OK),
            file < 0 ? "no files" : "files");
}

static void spawn_stranger(void);

static void run_line(const char *line)
{
    char verb[16] = "";
    int skip = 0;
    sscanf(line, "%15s %n", verb, &skip);
    if (strcmp(verb, "send") == 0)
        send_hex(PROTO_FD_CONTROL, line + skip);
    else if (strcmp(verb, "exchange") == 0)
        send_hex(exchange_fd, line + skip);
    else if (strcmp(verb, "steal") == 0)
        send_hex(worker_fd, line + skip);
    else if (strcmp(verb, "spawn") == 0)
        spawn_stranger();
    else if (strcmp(verb, "await") == 0)
        await_type((unsigned)atoi(line + skip));
    else if (strcmp(verb, "verdict") == 0)
        take_verdict();
    else if (strcmp(verb, "close") == 0)
        close(PROTO_FD_CONTROL);
    else if (strcmp(verb, "exit") == 0)
        _exit(atoi(line + skip));
    else
        fatal(EX_DATAERR, "unknown verb: %s", verb);
}

/* Take the script if it is for this role and moment; then it never returns. */
static void look(const char *role, const char *moment)
{
    static char line[2 * RECORD_MAX + 64];
    char wanted[64], mine[4096], taken[4200];
    snprintf(mine, sizeof mine, "%s/script", directory);
    snprintf(taken, sizeof taken, "%s/script.%d", directory, (int)getpid());
    snprintf(wanted, sizeof wanted, "%s %s\n", role, moment);
    FILE *script = fopen(mine, "re");
    if (!script)
        return;
    bool ours = fgets(line, sizeof line, script) && strcmp(line, wanted) == 0;
    if (!ours || rename(mine, taken) < 0) {
        fclose(script);
        return;
    }
    while (fgets(line, sizeof line, script))
        run_line(line);
    for (;;)
        pause();
}

/* Wait for the master, looking for a script all the time; false at its end. */
static bool wait_for_master(const char *role, const char *moment)
{
    struct pollfd poller = {.fd = PROTO_FD_CONTROL, .events = POLLIN};
    while (poll(&poller, 1, LOOK_EVERY_MS) <= 0)
        look(role, moment);
    return true;
}

static void send_empty(int fd, enum proto_type type)
{
    unsigned char octet = (unsigned char)type;
    send_raw(fd, &octet, 1, 0);
}

_Noreturn static void live_as_worker(int control)
{
    struct child child = {0};
    dup2(control, PROTO_FD_CONTROL);
    close_range(PROTO_FD_CONTROL + 1, ~0U, 0);
    channel_open(&child.control, PROTO_FD_CONTROL, ROLE_WORKER, ROLE_MASTER, STATE_STARTING);
    look("worker", "starting");
    child_ready(&child);
    wait_for_master("worker", "idle");
    int client = -1;
    if (receive_raw(PROTO_FD_CONTROL, &client) == 0)
        _exit(PROTO_EXIT_DONE);
    look("worker", "client");
    _exit(PROTO_EXIT_DONE);
}

/* The master is to think that this is its worker; it is the child of a process that is gone. */
static void spawn_stranger(void)
{
    if (fork() == 0) {
        if (fork() == 0)
            live_as_worker(worker_fd);
        _exit(0);
    }
    close(worker_fd);
}

static bool drop_certificate(void *context, const char *name, const char *path, int chain_fd,
                             int key_fd, char *error, size_t error_size)
{
    (void)context, (void)name, (void)path, (void)error, (void)error_size;
    base_close(chain_fd);
    base_close(key_fd);
    return true;
}

_Noreturn static void live_as_nursery(void)
{
    static struct child child;
    child_begin(&child, ROLE_NURSERY, drop_certificate, NULL);
    look("nursery", "starting");
    child_ready(&child);
    while (wait_for_master("nursery", "idle")) {
        unsigned type = receive_raw(PROTO_FD_CONTROL, &worker_fd);
        if (type == 0)
            exit(PROTO_EXIT_DONE);
        if (type == PROTO_PING)
            send_empty(PROTO_FD_CONTROL, PROTO_PONG);
        if (type != PROTO_FORK)
            continue;
        look("nursery", "fork");
        if (filter_fork() == 0) {
            prctl(PR_SET_PDEATHSIG,
                  SIGKILL); /* the master's; a stranger has no parent to die with */
            live_as_worker(worker_fd);
        }
        base_close(worker_fd);
        worker_fd = -1;
    }
    abort();
}

/* No login can be checked. */
static void serve(struct message *m)
{
    struct channel worker;
    uint64_t session = message_get_u64(m);
    (void)message_get_u32(m);
    exchange_fd = message_take_fd(m);
    message_clear(m);
    look("auth", "busy");
    struct channel master = {
        .fd = PROTO_FD_CONTROL, .self = ROLE_AUTH, .peer = ROLE_MASTER, .state = STATE_BUSY};
    message_begin(m, PROTO_OUTCOME);
    message_put_u64(m, session);
    message_put_u32(m, LOGIN_UNAVAILABLE);
    message_put_text(m, "");
    message_put_u64(m, 0);
    channel_send(&master, m, true);
    channel_open(&worker, exchange_fd, ROLE_AUTH, ROLE_WORKER, STATE_EXCHANGE);
    message_begin(m, PROTO_VERDICT);
    message_put_u32(m, LOGIN_UNAVAILABLE);
    message_put_text(m, "");
    channel_send(&worker, m, true);
    channel_close(&worker);
    exchange_fd = -1;
    send_empty(PROTO_FD_CONTROL, PROTO_VACANT);
}

_Noreturn static void live_as_auth(void)
{
    static struct child child;
    static struct message m;
    child_begin(&child, ROLE_AUTH, NULL, NULL);
    look("auth", "starting");
    child_ready(&child);
    while (wait_for_master("auth", "idle")) {
        const char *fault = NULL;
        enum channel_outcome got = channel_receive(&child.control, &m, true, &fault);
        if (got != CHANNEL_OK)
            child_lost_master(got, fault);
        if (m.rule->type == PROTO_PING)
            send_empty(PROTO_FD_CONTROL, PROTO_PONG);
        else if (m.rule->type == PROTO_SERVE)
            serve(&m);
        message_clear(&m);
    }
    abort();
}

static int print_rows(void)
{
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *r = proto_rule(type);
        printf("%u %s %u %u %u %zu %u %u %d \"%s\"\n", type, r->name, r->from, r->to, r->states,
               r->max_size, r->min_fds, r->max_fds, r->once, r->fields);
    }
    return 0;
}

static int print_names(void)
{
    printf("nursery %d\nworker %d\nauth %d\nctl %d\nmaster %d\n", ROLE_NURSERY, ROLE_WORKER,
           ROLE_AUTH, ROLE_CTL, ROLE_MASTER);
    printf("starting %d\nidle %d\nclient %d\nlogin %d\nmail %d\nbusy %d\ndone %d\nexchange %d\n"
           "delivery %d\n",
           STATE_STARTING, STATE_IDLE, STATE_CLIENT, STATE_LOGIN, STATE_MAIL, STATE_BUSY,
           STATE_DONE, STATE_EXCHANGE, STATE_DELIVERY);
    printf("fingerprint %llu\nmessage_max %d\n", (unsigned long long)proto_fingerprint(),
           PROTO_MESSAGE_MAX);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--rows") == 0)
        return print_rows();
    if (argc == 2 && strcmp(argv[1], "--names") == 0)
        return print_names();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    directory = dirname(base_strdup(argv[0]));
    if (strcmp(basename(base_strdup(argv[0])), "poplar-auth") == 0)
        live_as_auth();
    live_as_nursery();
}
