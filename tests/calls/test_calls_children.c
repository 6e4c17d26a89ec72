/*
 * test_calls_children.c - the master's tables of workers, auth processes and waiting clients, with
 * this program in the place of the children: who says what must not be, is late, cannot be told, or
 * must give way.
 */
#include "daemon/base.h"
#include "daemon/master.h"
#include "daemon/status.h"
#include "tests/calls/calls.h"
#include "tests/support/place.h"
#include "tests/support/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <cmocka.h>

static struct master m;
static struct channel nursery; /* our end of the current generation's */
static struct message message;

/* Let the loop do what there is to do. */
static void turn(void)
{
    while (sd_event_run(m.event, 0) > 0)
        ;
}

/* A process to have a pid of, and to be killed. */
static pid_t make_victim(void)
{
    int begun[2];
    char octet;
    assert_int_equal(pipe(begun), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close_range(STDERR_FILENO + 1, ~0U, 0); /* what the master closes is closed */
        for (;;)
            pause();
    }
    close(begun[1]);
    assert_int_equal(read(begun[0], &octet, 1), 0); /* it has come as far as that */
    close(begun[0]);
    return pid;
}

static bool is_killed(pid_t pid)
{
    siginfo_t info;
    for (int i = 0; i < 20000; i++) {
        info.si_pid = 0;
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid)
            return info.si_code == CLD_KILLED && info.si_status == SIGKILL;
        usleep(1000);
    }
    return false;
}

static bool lives(pid_t pid)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

static struct generation *add_generation(struct channel *its)
{
    int ends[2];
    struct generation *g = base_alloc(sizeof *g);
    assert_int_equal(channel_pair(ends, true), 0);
    g->master = &m;
    channel_open(&g->channel, ends[0], ROLE_MASTER, ROLE_NURSERY, STATE_IDLE);
    channel_open(its, ends[1], ROLE_NURSERY, ROLE_MASTER, STATE_IDLE);
    assert_true(loop_watch(&m, &g->io, ends[0], generation_hear, g));
    g->ready = true;
    g->number = ++m.generation_number;
    g->pid = make_victim();
    g->born = base_now_ms();
    g->n_expires = 1;
    g->expires = base_alloc(sizeof *g->expires);
    g->next = m.generations;
    m.generations = g;
    return g;
}

static struct worker *add_worker(unsigned state, struct channel *its)
{
    int ends[2];
    assert_int_equal(channel_pair(ends, true), 0);
    workers_add(&m, m.generations, ends[0]);
    struct worker *w = m.workers;
    w->pid = make_victim();
    w->started = base_now_ms();
    m.n_starting--;
    *(state == STATE_IDLE ? &m.n_idle : &m.n_sessions) += 1;
    w->channel.state = state;
    if (state != STATE_IDLE) {
        w->session = ++m.last_session;
        w->client.door = state == STATE_DELIVERY ? DOOR_LMTP : DOOR_POP3;
    }
    channel_open(its, ends[1], ROLE_WORKER, ROLE_MASTER, state);
    return w;
}

static struct auth *add_auth(unsigned state, struct worker *w, struct channel *its)
{
    int ends[2];
    struct auth *a = base_alloc(sizeof *a);
    assert_int_equal(channel_pair(ends, true), 0);
    a->master = &m;
    channel_open(&a->channel, ends[0], ROLE_MASTER, ROLE_AUTH, state);
    channel_open(its, ends[1], ROLE_AUTH, ROLE_MASTER, state);
    assert_true(loop_watch(&m, &a->io, ends[0], auths_hear, a));
    a->config = m.config;
    a->exchange = -1;
    a->pid = make_victim();
    a->vacant_since = base_now_ms();
    a->worker = w;
    if (w)
        w->auth = a;
    a->next = m.auths;
    a->link = &m.auths;
    if (a->next)
        a->next->link = &a->next;
    m.auths = a;
    return a;
}

/* The type of the next record that the master sent; 0: none. */
static unsigned next_told(struct channel *its)
{
    return channel_receive(its, &message, false, NULL) == CHANNEL_OK ? message.rule->type : 0;
}

static void say(struct channel *its)
{
    assert_int_equal(channel_send(its, &message, true), CHANNEL_OK);
    turn();
}

static const char *logged(void)
{
    static char text[20000];
    int fd = open(in_place("log"), O_RDONLY);
    ssize_t got = fd < 0 ? 0 : pread(fd, text, sizeof text - 1, 0);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    return text;
}

static unsigned count_logged(const char *words)
{
    unsigned n = 0;
    for (const char *at = logged(); (at = strstr(at, words)) != NULL; at++)
        n++;
    return n;
}

/* Sessions and those who wait. */

static void test_trace(void **state)
{
    char name[32];
    struct channel its;
    struct worker *w = add_worker(STATE_MAIL, &its);
    (void)state;
    base_copy(w->canonical, sizeof w->canonical, "user-7");
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof name, "user-%d", i);
        assert_true(worker_trace_user(&m, name, true));
    }
    assert_int_equal(next_told(&its), PROTO_TRACE);
    assert_int_equal(message_get_u32(&message), 1);
    assert_false(worker_trace_user(&m, "one-too-many", true));
    assert_true(worker_trace_user(&m, "user-7", true)); /* he is already */
    assert_true(worker_trace_user(&m, "nobody", false));
    assert_int_equal(m.traced.n, 64);
    assert_true(worker_trace_user(&m, "user-7", false));
    assert_int_equal(m.traced.n, 63);
    channel_close(&w->channel); /* what cannot be told is not */
    assert_true(worker_trace_user(&m, "user-7", true));
}

static unsigned next_trace(struct channel *its)
{
    assert_int_equal(next_told(its), PROTO_TRACE);
    return message_get_u32(&message);
}

/* Who is told to wait for it is told in any case: its login may take until nobody is traced. */
static void test_trace_later(void **state)
{
    struct channel its;
    struct worker *w = add_worker(STATE_LOGIN, &its);
    (void)state;
    worker_trace_later(w);
    worker_trace_if_wanted(w);
    assert_int_equal(next_told(&its), 0); /* nobody is traced */
    base_copy(w->canonical, sizeof w->canonical, "alice");
    assert_true(worker_trace_user(&m, "alice", true));
    worker_trace_later(w);
    assert_int_equal(next_trace(&its), TRACE_LATER);
    worker_trace_if_wanted(w);
    assert_int_equal(next_trace(&its), TRACE_ON);
    assert_true(worker_trace_user(&m, "alice", false));
    worker_trace_later(w);
    assert_int_equal(next_told(&its), 0);
    worker_trace_if_wanted(w);
    assert_int_equal(next_trace(&its), TRACE_OFF);
}

static void test_finish(void **state)
{
    struct channel its, other;
    struct worker *w = add_worker(STATE_MAIL, &its), *deaf = add_worker(STATE_MAIL, &other);
    struct worker *gone = add_worker(STATE_MAIL, &other);
    (void)state;
    worker_finish(w, END_KICKED);
    worker_finish(w, END_TAKEOVER);
    assert_int_equal(next_told(&its), PROTO_FINISH);
    assert_int_equal(message_get_u32(&message), END_KICKED);
    assert_int_equal(next_told(&its), 0); /* once */
    calls_break("sendmsg", 1, ENOBUFS);
    worker_finish(deaf, END_KICKED);
    assert_true(calls_mend());
    assert_true(is_killed(deaf->pid));
    channel_close(&gone->channel);
    worker_finish(gone, END_KICKED);
    assert_true(is_killed(gone->pid));
    assert_true(lives(w->pid));
}

static void test_tick(void **state)
{
    struct channel its;
    pid_t idle[3];
    (void)state;
    must_set(m.config, "workers", "", "idle_min", "1");
    must_set(m.config, "workers", "", "idle_max", "1");
    for (size_t i = 0; i < 3; i++)
        idle[i] = add_worker(STATE_IDLE, &its)->pid;
    workers_tick(&m);
    unsigned killed = 0;
    for (unsigned turns = 0; killed < 2 && turns < 10000; turns++) {
        usleep(1000);
        killed = 0;
        for (size_t i = 0; i < 3; i++)
            killed += !lives(idle[i]);
    }
    assert_int_equal(killed, 2);
    workers_tick(&m); /* they are counted until they are reaped, and killed once */
}

/* A nursery that makes nothing of its orders, or a worker that hangs before it is ready, would be
 * waited for by all who come. */
static void test_never_ready(void **state)
{
    struct channel its[2];
    struct worker *w[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        int ends[2];
        assert_int_equal(channel_pair(ends, true), 0);
        workers_add(&m, m.current, ends[0]);
        channel_open(&its[i], ends[1], ROLE_WORKER, ROLE_MASTER, STATE_STARTING);
        w[i] = m.workers;
    }
    m.config->workers.idle_min = m.config->workers.idle_max = 0;
    workers_tick(&m);
    assert_true(lives(m.current->pid));
    assert_int_equal(m.n_starting, 2);
    w[0]->started -= 2 * (uint64_t)MASTER_START_MS;
    workers_tick(&m);
    workers_tick(&m); /* nothing of that was heard yet */
    turn();
    assert_true(is_killed(m.current->pid));
    assert_int_equal(m.n_starting, 1);
    assert_int_equal(next_told(&its[0]), 0);
    assert_int_equal(count_logged("a worker was not ready in time"), 1);
    m.current->pid = 0; /* reaped */
    w[1]->started -= 2 * (uint64_t)MASTER_START_MS;
    workers_tick(&m);
    assert_true(w[1]->ended_by_us);
    assert_int_equal(count_logged("a worker was not ready in time"), 1);
}

/* Its time to log in is over: a login that came just in time counts. No reload takes time away. */
static void test_late(void **state)
{
    struct channel its;
    struct worker *in = add_worker(STATE_CLIENT, &its), *late = add_worker(STATE_CLIENT, &its);
    struct worker *early = add_worker(STATE_CLIENT, &its);
    (void)state;
    must_set(m.config, "session", "", "login_timeout", "1s");
    in->started = late->started = early->started = base_now_ms() - 20000;
    in->login_by = late->login_by = in->started + 1000;
    early->login_by = early->started + 60000;
    worker_may_log_in(in);
    worker_may_log_in(late);
    worker_may_log_in(early);
    worker_enter(in, STATE_MAIL);
    turn();
    assert_true(is_killed(late->pid));
    assert_true(lives(in->pid) && lives(early->pid));
    assert_non_null(strstr(logged(), "not logged in after the time to log in"));
}

static void test_crowded(void **state)
{
    struct channel its;
    struct worker *late = add_worker(STATE_CLIENT, &its), *fresh = add_worker(STATE_CLIENT, &its);
    struct worker *in = add_worker(STATE_MAIL, &its);
    (void)state;
    late->started = in->started = base_now_ms() - 20000;
    workers_tick(&m);
    assert_true(lives(late->pid)); /* there is room */
    must_set(m.config, "workers", "", "max_sessions", "3");
    workers_tick(&m);
    assert_true(is_killed(late->pid));
    assert_true(lives(fresh->pid) && lives(in->pid));
}

static struct sockaddr_storage address_of(const char *text)
{
    struct sockaddr_storage address;
    socklen_t size;
    assert_true(address_parse(text, &address, &size));
    return address;
}

static const struct client *client_of(int fd, enum proto_door door,
                                      const struct sockaddr_storage *peer)
{
    static struct client c;
    c = (struct client){.fd = fd, .door = door, .peer = *peer, .source = address_source(peer)};
    c.uid = door == DOOR_LMTP ? local_peer(fd) : 0;
    return &c;
}

/* A client's end; the other is the master's. */
static int connect_client(int *ours)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    *ours = ends[1];
    return ends[0];
}

static bool is_told_and_closed(int fd, const char *begins)
{
    char text[200] = "";
    ssize_t got = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    bool good = got > 0 && strncmp(text, begins, strlen(begins)) == 0 &&
                recv(fd, text, 1, MSG_DONTWAIT) == 0;
    close(fd);
    return good;
}

static void expect_waiting(unsigned n)
{
    turn();
    assert_int_equal(m.n_waiting, n);
}

/* A client that has left the queue, or a signal, is no reason to pause; what the kernel has not
 * got, or a security module forbids, is. And none of those who wait is forgotten at the end. */
static void test_doors(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), clients[3], code;
    (void)state;
    assert_int_equal(bind(door, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(door, 10), 0);
    assert_int_equal(getsockname(door, (struct sockaddr *)&address, &size), 0);
    m.listeners = base_alloc(sizeof *m.listeners);
    *m.listeners = (struct listener){.fd = door, .door = DOOR_POP3, .text = base_strdup("test")};
    m.n_listeners = 1;
    assert_true(listen_attach(&m));
    static const int errors[] = {ECONNABORTED, EINTR, EPERM};
    for (unsigned i = 0; i < 3; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(clients[i], (struct sockaddr *)&address, size), 0);
        calls_break("accept4", 1, errors[i]);
        expect_waiting(errors[i] == EPERM ? i : i + 1);
        assert_true(calls_mend());
    }
    assert_non_null(strstr(logged(), "accept: Operation not permitted; pausing"));
    while (m.n_waiting < 3)
        sd_event_run(m.event, 1000000);
    m.stopping = true;
    listen_detach(&m);
    loop_end_if_drained(&m);
    assert_int_equal(sd_event_get_exit_code(m.event, &code), -ENODATA);
    while (m.waiting) {
        struct waiting *w = admit_next(&m);
        close(w->client.fd);
        free(w);
    }
    loop_end_if_drained(&m);
    assert_int_equal(sd_event_get_exit_code(m.event, &code), 0);
    for (unsigned i = 0; i < 3; i++)
        close(clients[i]);
}

/* With every slot taken by who is logged in or ends, one that waits gives way to who comes. */
static void test_who_waits_gives_way(void **state)
{
    struct channel its;
    int first, mail, second;
    struct sockaddr_storage here = address_of("192.0.2.1:1"), there = address_of("192.0.2.2:1");
    (void)state;
    must_set(m.config, "workers", "", "max_sessions", "4");
    add_worker(STATE_MAIL, &its);
    struct worker *ended = add_worker(STATE_CLIENT, &its);
    worker_end(ended);
    admit_queue(&m, client_of(connect_client(&mail), DOOR_LMTP, &here));
    admit_queue(&m, client_of(connect_client(&first), DOOR_POP3, &here));
    int fd = connect_client(&second);
    assert_true(admit_allows(&m, client_of(fd, DOOR_POP3, &there)));
    assert_true(is_told_and_closed(first, "-ERR [SYS/TEMP]"));
    assert_non_null(strstr(logged(), "peer=192.0.2.1:1 gives way"));
    admit_queue(&m, client_of(fd, DOOR_LMTP, &there)); /* mail waits for nobody's sake */
    assert_false(admit_allows(&m, client_of(fd, DOOR_POP3, &there)));
    assert_non_null(strstr(logged(), "refused peer=192.0.2.2:1: [workers] max_sessions"));
    m.waiting->since = base_now_ms() - 120000;
    admit_tick(&m, base_now_ms());
    assert_int_equal(m.n_waiting, 1);
    assert_non_null(strstr(logged(), "refused peer=unix:"));
    m.stopping = true;
    assert_false(admit_allows(&m, client_of(fd, DOOR_POP3, &there)));
    m.stopping = false;
    close(mail);
    close(second);
}

/* Says that it is a worker and ready, and hangs up. */
static pid_t make_short_lived(int *master_end)
{
    int ends[2];
    assert_int_equal(channel_pair(ends, true), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct channel its;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        channel_open(&its, ends[1], ROLE_WORKER, ROLE_MASTER, STATE_STARTING);
        message_begin(&message, PROTO_READY);
        message_put_u64(&message, proto_fingerprint());
        channel_send(&its, &message, true);
        close_range(STDERR_FILENO + 1, ~0U, 0);
        for (;;)
            pause();
    }
    close(ends[1]);
    assert_int_equal(poll(&(struct pollfd){.fd = ends[0]}, 1, 20000), 1); /* hung up */
    *master_end = ends[0];
    return pid;
}

/* The worker that was ready for it has ended: a connection goes on to wait where and since when it
 * did. */
static void test_who_waits_keeps_the_place(void **state)
{
    int first, second, channel;
    struct sockaddr_storage here = address_of("192.0.2.1:1");
    (void)state;
    int fd = connect_client(&first);
    admit_queue(&m, client_of(fd, DOOR_POP3, &here));
    admit_queue(&m, client_of(connect_client(&second), DOOR_POP3, &here));
    uint64_t since = m.waiting->since -= 10000;
    pid_t pid = make_short_lived(&channel);
    workers_add(&m, m.current, channel);
    const struct worker *w = m.workers;
    turn();
    assert_int_equal(w->pid, pid);
    assert_int_equal(m.n_waiting, 2);
    assert_int_equal(m.waiting->client.fd, fd);
    assert_int_equal(m.waiting->since, since);
    close(first);
    close(second);
}

/* However many sessions there may be, only so many connections wait for a worker. */
static void test_too_many_wait(void **state)
{
    int first, second;
    struct sockaddr_storage here = address_of("192.0.2.1:1");
    (void)state;
    must_set(m.config, "workers", "", "max_sessions", "60000");
    admit_queue(&m, client_of(connect_client(&first), DOOR_POP3, &here));
    m.n_waiting = 1024; /* the others are not to be seen here */
    int fd = connect_client(&second);
    assert_true(admit_allows(&m, client_of(fd, DOOR_POP3, &here)));
    assert_true(is_told_and_closed(first, "-ERR [SYS/TEMP]"));
    m.n_waiting = 1024;
    assert_false(admit_allows(&m, client_of(fd, DOOR_POP3, &here)));
    assert_non_null(strstr(logged(), "too many connections wait for a worker"));
    m.n_waiting = 0;
    close(fd);
    close(second);
}

/* Who is to end gets no client, and is not killed twice. */
static void test_ended_is_not_idle(void **state)
{
    int client;
    struct channel its, other;
    struct sockaddr_storage here = address_of("192.0.2.1:1");
    struct worker *fit = add_worker(STATE_IDLE, &other), *ended = add_worker(STATE_IDLE, &its);
    (void)state;
    worker_end(ended);
    assign_connection(&m, client_of(connect_client(&client), DOOR_POP3, &here));
    assert_int_equal(next_told(&other), PROTO_ASSIGN);
    assert_int_equal(fit->channel.state, STATE_CLIENT);
    assert_int_equal(next_told(&its), 0);
    must_set(m.config, "workers", "", "idle_max", "1");
    m.n_idle = 2;
    workers_tick(&m);
    assert_true(lives(fit->pid));
    m.n_idle = 1;
    close(client);
}

/* One that ended before it took its client has that given to another; not one that did take it, or
 * was to end. No more are held than are counted on. */
static void test_clients_that_were_not_taken(void **state)
{
    enum { N = MASTER_HELD + 2 };
    struct channel its[N];
    struct worker *w[N];
    int clients[N];
    struct sockaddr_storage here = address_of("192.0.2.1:1");
    (void)state;
    for (size_t i = 0; i < N; i++) {
        w[i] = add_worker(STATE_IDLE, &its[i]);
        assign_connection(&m, client_of(connect_client(&clients[i]), DOOR_POP3, &here));
        assert_int_equal(w[i]->channel.state, STATE_CLIENT);
    }
    assert_true(w[0]->client.fd < 0 && w[1]->client.fd < 0 && w[2]->client.fd >= 0);
    assert_int_equal(next_told(&its[3]), PROTO_ASSIGN);
    message_clear(&message);
    its[3].state = STATE_CLIENT;
    message_begin(&message, PROTO_LOG);
    message_put_u32(&message, LOG_INFO);
    message_put_text(&message, "greeted");
    say(&its[3]);
    assert_true(w[3]->client.fd < 0);
    assert_int_equal(next_told(&its[4]), PROTO_ASSIGN);
    message_clear(&message);
    worker_end(w[5]);
    for (size_t i = 0; i < 7; i++) { /* but for the last, each for another reason */
        channel_close(&its[i]);
        turn();
        assert_int_equal(w[i]->channel.fd, -1);
        assert_int_equal(m.n_waiting, (i >= 2) + (i >= 6));
    }
    assert_int_equal(m.n_sessions, N - 2);
    assert_int_equal(m.counts[COUNT_CONNECTIONS], N - 2);
    for (size_t i = 0; i < N; i++) {
        close(clients[i]);
        assign_let_go(&m, w[i]);
    }
}

/* The socket of one that was not taken yet is held, also where that cannot be told. */
static void test_client_is_taken(void **state)
{
    struct channel its;
    int client;
    struct sockaddr_storage here = address_of("192.0.2.1:1");
    struct worker *w = add_worker(STATE_IDLE, &its);
    (void)state;
    assign_connection(&m, client_of(connect_client(&client), DOOR_POP3, &here));
    assign_tick(&m);
    assert_true(w->client.fd >= 0);
    assert_int_equal(next_told(&its), PROTO_ASSIGN);
    message_clear(&message);
    calls_break("ioctl", 1, 0);
    assign_tick(&m);
    assert_true(calls_mend());
    assert_true(w->client.fd >= 0);
    assign_tick(&m);
    assert_true(w->client.fd < 0);
    close(client);
}

/* Where the kernel has no room to give a connection to a worker, another may have it, or it waits.
 */
static void test_no_room_to_give(void **state)
{
    static const enum proto_door doors[] = {DOOR_POP3, DOOR_LMTP};
    struct channel its[2];
    int client;
    struct sockaddr_storage here = address_of("192.0.2.1:1");
    struct worker *second = add_worker(STATE_IDLE, &its[1]),
                  *first = add_worker(STATE_IDLE, &its[0]);
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(doors); i++) {
        calls_break_from("sendmsg", 1, ENOBUFS);
        assign_connection(&m, client_of(connect_client(&client), doors[i], &here));
        assert_true(calls_mend());
        assert_int_equal(m.n_waiting, 1);
        assert_int_equal(m.discarded.n, 0);
        struct waiting *waits = admit_next(&m);
        assert_int_equal(write(waits->client.fd, "x", 1), 1);
        close(waits->client.fd);
        free(waits);
        close(client);
        assert_int_equal(m.counts[COUNT_CONNECTIONS], 0);
    }
    calls_break("sendmsg", 1, ENOBUFS);
    assign_connection(&m, client_of(connect_client(&client), DOOR_POP3, &here));
    assert_true(calls_mend());
    assert_int_equal(first->channel.state, STATE_IDLE);
    assert_int_equal(first->session, 0);
    assert_int_equal(second->channel.state, STATE_CLIENT);
    assert_int_equal(next_told(&its[1]), PROTO_ASSIGN);
    assert_true(lives(first->pid));
    message_clear(&message);
    assign_let_go(&m, second);
    close(client);
    admit_queue(&m, client_of(connect_client(&client), DOOR_POP3, &here));
    workers_tick(&m); /* there is room now */
    assert_int_equal(m.n_waiting, 0);
    assert_int_equal(first->channel.state, STATE_CLIENT);
    assign_let_go(&m, first);
    close(client);
}

/* Mail's socket is the worker's alone, and no other descriptor of it is left, before it is told to
 * serve it: the last who closes may have to wait. */
static void test_mail_is_handed_over(void **state)
{
    struct channel its;
    int client;
    char octet;
    struct sockaddr_storage nowhere = {.ss_family = AF_UNIX};
    struct worker *w = add_worker(STATE_IDLE, &its);
    (void)state;
    must_set(m.config, "server", "", "state_dir", "/tmp");
    assign_connection(&m, client_of(connect_client(&client), DOOR_LMTP, &nowhere));
    assert_int_equal(w->channel.state, STATE_DELIVERY);
    assert_int_equal(channel_receive(&its, &message, false, NULL), CHANNEL_OK);
    assert_int_equal(message.rule->type, PROTO_ASSIGN);
    message_clear(&message); /* the worker's own */
    assert_int_equal(read(client, &octet, 1), 0);
    its.state = STATE_DELIVERY;
    assert_int_equal(next_told(&its), PROTO_HANDED_OVER);
    assert_int_equal(m.discarded.n, 0);
    close(client);
    calls_break("sendmsg", 2,
                ENOBUFS); /* it has the socket, and would not hear that it may begin */
    struct worker *deaf = add_worker(STATE_IDLE, &its);
    assign_connection(&m, client_of(connect_client(&client), DOOR_LMTP, &nowhere));
    assert_true(calls_mend());
    assert_true(is_killed(deaf->pid));
    close(client);
}

/* What such a worker sends may hold what its client sent: it is not taken, but left to a child. */
static void test_descriptors_of_mail(void **state)
{
    struct channel its;
    struct worker *w = add_worker(STATE_DELIVERY, &its);
    int probe[2];
    char octet;
    (void)state;
    w->channel.wary = true;
    assert_int_equal(pipe(probe), 0);
    message_begin(&message, PROTO_LOG);
    message_put_u32(&message, LOG_INFO);
    message_put_text(&message, "x");
    raw_send(its.fd, message.data, message.size, probe[1], 1);
    close(probe[1]);
    assert_int_equal(fcntl(probe[0], F_SETFL, O_NONBLOCK), 0);
    workers_hear(w->io, w->channel.fd, EPOLLIN, w);
    assert_true(is_killed(w->pid));
    assert_non_null(strstr(logged(), "with a wrong number of descriptors"));
    assert_int_equal(m.discarded.n, 1);
    assert_true(read(probe[0], &octet, 1) < 0); /* still open, where it was sent to */
    for (int i = 0; i < 20000 && read(probe[0], &octet, 1) != 0; i++) {
        turn();
        usleep(1000);
    }
    assert_int_equal(m.discarded.n, 0);
    assert_int_equal(read(probe[0], &octet, 1), 0);
    close(probe[0]);
}

/* The same for what it said after its last word, which nobody hears. */
static void test_left_over_of_mail(void **state)
{
    struct channel its;
    struct worker *w = add_worker(STATE_DELIVERY, &its);
    pid_t pid = w->pid;
    (void)state;
    w->channel.wary = w->summarised = true;
    assert_int_equal(write(its.fd, "\xff", 1), 1);
    channel_close(&its);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    workers_reaped(&m, w, SIGKILL);
    assert_int_equal(m.discarded.n, 1);
    struct worker *silent = add_worker(STATE_DELIVERY, &its);
    pid = silent->pid;
    silent->channel.wary = silent->summarised = true;
    channel_close(&its);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    workers_reaped(&m, silent, SIGKILL);
    assert_int_equal(m.discarded.n, 1);
}

/* A descriptor of ours, and the end that tells when it is closed. */
static int make_probe(int *tells)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    *tells = ends[0];
    return ends[1];
}

static bool is_closed(int tells)
{
    char octet;
    for (int i = 0; i < 2000; i++) {
        if (read(tells, &octet, 1) == 0)
            return close(tells) == 0;
        turn();
        usleep(1000);
    }
    return false;
}

/* Without a child to leave them to, descriptors stay open until there is one: a close of our own
 * might not return. At the end it is that or nothing. */
static void test_discard_later(void **state)
{
    static const struct {
        const char *call, *said;
    } lacking[] = {{"pipe2", "1 connection cannot be closed yet: Too many open files"},
                   {"fork", "1 connection cannot be closed yet: Resource temporarily"}};
    enum { MANY = 256 };
    int tells[MANY];
    char octet;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(lacking); i++) {
        int fd = make_probe(&tells[0]);
        calls_break(lacking[i].call, 1, 0);
        discard(&m, fd);
        for (int n = 0; n < 2000 && !strstr(logged(), lacking[i].said); n++) {
            turn();
            usleep(1000);
        }
        assert_true(calls_mend());
        assert_int_equal(m.discarded.n, 1);
        assert_true(read(tells[0], &octet, 1) < 0); /* still open */
        assert_true(is_closed(tells[0]));
        assert_int_equal(m.discarded.n, 0);
        fd = make_probe(&tells[0]);
        calls_break(lacking[i].call, 1, 0);
        discard_now(fd);
        assert_true(calls_mend());
        assert_true(is_closed(tells[0]));
    }
    for (size_t i = 0; i < MANY; i++)
        discard(&m, make_probe(&tells[i]));
    assert_int_equal(m.discarded.n, 0); /* so many are not waited with */
    for (size_t i = 0; i < MANY; i++)
        assert_true(is_closed(tells[i]));
}

/* What a worker may claim. */

static void claim_address(struct channel *its, const char *peer)
{
    message_begin(&message, PROTO_REAL_ADDRESS);
    message_put_text(&message, peer);
    say(its);
}

static void test_claimed_addresses(void **state)
{
    static char long_text[100];
    const struct {
        bool proxied;
        const char *peer;
    } claims[] = {{false, "192.0.2.9:1"}, {true, long_text}, {true, "rubbish"}};
    struct channel its;
    (void)state;
    memset(long_text, '1', sizeof long_text - 1);
    for (size_t i = 0; i < ARRAY_SIZE(claims); i++) {
        struct worker *w = add_worker(STATE_CLIENT, &its);
        w->proxied = claims[i].proxied;
        claim_address(&its, claims[i].peer);
        if (!is_killed(w->pid))
            fail_msg("claim %zu was believed", i);
    }
    struct worker *w = add_worker(STATE_CLIENT, &its);
    w->proxied = true;
    message_begin(&message, PROTO_REAL_ADDRESS);
    message_put_text(&message, "192.0.2.9:1");
    assert_int_equal(channel_send(&its, &message, true), CHANNEL_OK);
    calls_break("sendmsg", 1, ENOBUFS);
    turn();
    assert_true(calls_mend());
    assert_true(is_killed(w->pid)); /* it waits for an answer that cannot be given */
}

/* Who says that he is ready is known from the kernel: it may be one that is something else. */
static void test_impostors(void **state)
{
    struct channel its, other;
    int ends[2];
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct worker *known = i == 0 ? add_worker(STATE_CLIENT, &other) : NULL;
        struct auth *a = i == 1 ? add_auth(STATE_IDLE, NULL, &other) : NULL;
        pid_t *named = known ? &known->pid : a ? &a->pid : &m.current->pid;
        assert_int_equal(channel_pair(ends, true), 0);
        workers_add(&m, m.current, ends[0]);
        struct worker *claimed = m.workers;
        kill(*named, SIGKILL);
        assert_int_equal(waitpid(*named, NULL, 0), *named);
        *named = fork();
        assert_true(*named >= 0);
        if (*named == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            channel_open(&its, ends[1], ROLE_WORKER, ROLE_MASTER, STATE_STARTING);
            message_begin(&message, PROTO_READY);
            message_put_u64(&message, proto_fingerprint());
            channel_send(&its, &message, true);
            for (;;)
                pause();
        }
        close(ends[1]);
        struct pollfd poller = {.fd = ends[0], .events = POLLIN};
        assert_int_equal(poll(&poller, 1, 10000), 1);
        workers_hear(claimed->io, ends[0], EPOLLIN, claimed);
        assert_true(is_killed(*named));
        assert_int_equal(claimed->channel.state, STATE_STARTING);
        assert_int_equal(claimed->pid, 0);
    }
    assert_non_null(strstr(logged(), "it is another worker\n"));
    assert_non_null(strstr(logged(), "it is an auth process\n"));
    assert_non_null(strstr(logged(), "it is a nursery\n"));
}

/* Of ends before READY those are told that can be a worker's: one was ordered, or hung up lately.
 */
static void test_ends_before_ready(void **state)
{
    const int crashed = SIGSEGV, failed = 71 << 8, killed = SIGKILL, done = 0;
    (void)state;
    m.hung_up = base_now_ms() - 60000;
    workers_unready(&m, 4001, crashed); /* a stranger */
    m.hung_up = base_now_ms();
    workers_unready(&m, 4002, killed);
    workers_unready(&m, 4003, done);
    assert_string_equal(logged(), "");
    assert_int_equal(m.counts[COUNT_CRASHES], 0);
    workers_unready(&m, 4004, crashed);
    workers_unready(&m, 4005, crashed); /* counted, and not told so soon */
    assert_int_equal(m.counts[COUNT_CRASHES], 2);
    m.hung_up = m.unready_told = 0;
    m.n_starting = 1;
    workers_unready(&m, 4006, failed);
    m.n_starting = 0;
    assert_int_equal(m.counts[COUNT_CRASHES], 2);
    assert_non_null(strstr(logged(), "worker 4004 ended before it was ready, by signal 11\n"));
    assert_non_null(strstr(logged(), "worker 4006 ended before it was ready, with status 71\n"));
    assert_int_equal(count_logged("ended before it was ready"), 2);
}

/* An account's own, and those of it that wait; no other's, nor who waits at another door. */
static void test_deliveries_of_an_account(void **state)
{
    struct channel its;
    int client[3];
    struct sockaddr_storage here = address_of("192.0.2.1:1"), nowhere = {.ss_family = AF_UNIX};
    struct worker *w = add_worker(STATE_DELIVERY, &its);
    (void)state;
    w->client.uid = 4001;
    add_worker(STATE_DELIVERY, &its)->client.uid = 4002;
    add_worker(STATE_MAIL, &its)->client.uid = 4001;
    admit_queue(&m, client_of(connect_client(&client[0]), DOOR_POP3, &here));
    admit_queue(&m, client_of(connect_client(&client[1]), DOOR_LMTP, &nowhere));
    admit_queue(&m, client_of(connect_client(&client[2]), DOOR_LMTP, &nowhere));
    m.waiting->client.uid = m.waiting->next->client.uid = 4001;
    m.waiting->next->next->client.uid = 4002;
    assert_int_equal(admit_sessions_of(&m, &(struct client){.door = DOOR_LMTP, .uid = 4001}), 2);
    assert_int_equal(admit_sessions_of(&m, &(struct client){.door = DOOR_LMTP, .uid = 4002}), 2);
    assert_int_equal(admit_sessions_of(&m, &(struct client){.door = DOOR_LMTP, .uid = 4003}), 0);
    for (size_t i = 0; i < ARRAY_SIZE(client); i++)
        close(client[i]);
}

static void test_summary(void **state)
{
    static char long_text[600];
    static const char *const said[] = {"tls=- cipher=text", "tls=text cipher=-",
                                       "tls=text cipher=text error", "detail=\"text\"\n",
                                       "error=\"text\"\n"};
    struct channel its;
    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    for (size_t too_long = 0; too_long < 5; too_long++) {
        add_worker(STATE_CLIENT, &its);
        uint64_t before = m.counts[COUNT_ENDED];
        message_begin(&message, PROTO_SUMMARY);
        message_put_u32(&message, 9999); /* there is no such reason */
        for (int i = 0; i < 5; i++)
            message_put_u64(&message, 1);
        for (size_t i = 0; i < 4; i++)
            message_put_text(&message, i == too_long ? long_text : "text");
        say(&its);
        assert_int_equal(m.counts[COUNT_ENDED], before + 1);
        assert_non_null(strstr(logged(), said[too_long]));
        assert_null(strstr(logged(), "xxxx"));
    }
}

static void say_over(struct channel *its)
{
    message_begin(&message, PROTO_SUMMARY);
    message_put_u32(&message, END_LOGIN_TIMEOUT);
    for (int i = 0; i < 5; i++)
        message_put_u64(&message, 0);
    for (int i = 0; i < 4; i++)
        message_put_text(&message, "");
    say(its);
}

/* Whoever says that he is over before auth has decided gets no maildrop: nobody would know. */
static void test_over_before_its_verdict(void **state)
{
    struct channel its, auth, verdict;
    struct worker *w = add_worker(STATE_LOGIN, &its);
    struct auth *a = add_auth(STATE_IDLE, NULL, &auth);
    (void)state;
    login_wanted(&m, w);
    assert_int_equal(next_told(&its), PROTO_EXCHANGE);
    int exchange = message_take_fd(&message);
    assert_int_equal(next_told(&auth), PROTO_SERVE);
    channel_open(&verdict, message_take_fd(&message), ROLE_AUTH, ROLE_WORKER, STATE_EXCHANGE);
    say_over(&its);
    assert_null(a->worker);
    assert_true(a->owes);
    message_begin(&message, PROTO_VERDICT);
    message_put_u32(&message, LOGIN_OK);
    message_put_text(&message, "alice");
    assert_int_equal(channel_send(&verdict, &message, false), CHANNEL_END);
    channel_close(&verdict);
    close(exchange);
}

/* A client that waited to be told of a failure has left: who is over has no place to give. */
static void test_refused_and_over(void **state)
{
    struct channel its;
    struct sockaddr_storage here = address_of("192.0.2.9:1");
    int client;
    struct worker *w = add_worker(STATE_LOGIN, &its);
    (void)state;
    must_set(m.config, "workers", "", "max_sessions", "1");
    w->asked = base_now_us();
    worker_settle(w, true);
    say_over(&its);
    assert_int_equal(w->channel.state, STATE_DONE);
    assign_connection(&m, client_of(connect_client(&client), DOOR_POP3, &here));
    assert_true(is_told_and_closed(client, "-ERR [SYS/TEMP]"));
    assert_true(lives(w->pid));
}

/* However much is there, when nothing can be watched: a record takes no room that the one before
 * has.
 */
static void test_edges_without_end(void **state)
{
    struct channel its;
    struct rlimit usual, small;
    (void)state;
    add_worker(STATE_CLIENT, &its);
    log_open(LOG_TO_STDERR, LOG_ERR); /* what is heard does not matter */
    message_begin(&message, PROTO_LOG);
    message_put_u32(&message, LOG_DEBUG);
    message_put_text(&message, "x");
    while (channel_send(&its, &message, false) == CHANNEL_OK)
        ;
    assert_int_equal(getrlimit(RLIMIT_STACK, &usual), 0);
    small = usual;
    small.rlim_cur = 1 << 20;
    assert_int_equal(setrlimit(RLIMIT_STACK, &small), 0);
    calls_break_from("sd_event_source_set_io_events", 1, 0);
    turn();
    assert_true(calls_mend());
    assert_int_equal(setrlimit(RLIMIT_STACK, &usual), 0);
    assert_int_equal(channel_send(&its, &message, false), CHANNEL_OK);
}

/* Whether the kernel watches it again or not: two records are heard. */
static void test_edge(void **state)
{
    struct channel its;
    (void)state;
    add_worker(STATE_CLIENT, &its);
    for (int i = 0; i < 2; i++) {
        message_begin(&message, PROTO_LOG);
        message_put_u32(&message, LOG_WARNING);
        message_put_text(&message, i ? "second" : "first");
        assert_int_equal(channel_send(&its, &message, true), CHANNEL_OK);
    }
    calls_break("sd_event_source_set_io_events", 1, 0);
    turn();
    assert_true(calls_mend());
    assert_non_null(strstr(logged(), ": first\n"));
    assert_non_null(strstr(logged(), ": second\n"));
}

/* Logins. */

static void test_login_without_outcome(void **state)
{
    struct channel worker, auth;
    struct worker *w = add_worker(STATE_LOGIN, &worker);
    struct auth *a = add_auth(STATE_BUSY, w, &auth);
    (void)state;
    w->asked = base_now_us();
    a->owes = true;
    message_begin(&message, PROTO_VACANT);
    say(&auth);
    assert_null(w->auth);
    assert_null(a->worker);
    assert_int_equal(next_told(&worker), PROTO_SETTLED);
    assert_false(a->owes);
}

/* What is lacking between the two costs one login at most: its client is told, or loses its worker
 * when even that cannot be done; the auth process goes on, if it can be told of the next. */
static void test_login_is_not_paired(void **state)
{
    struct channel worker[3], auth;
    struct worker *w[3];
    struct auth *a = add_auth(STATE_IDLE, NULL, &auth);
    static const struct {
        const char *call;
        unsigned nth;
    } lacking[] = {{"socketpair", 1}, {"sendmsg", 1}, {"sendmsg", 2}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(lacking); i++) {
        w[i] = add_worker(STATE_LOGIN, &worker[i]);
        calls_break(lacking[i].call, lacking[i].nth, 0);
        login_wanted(&m, w[i]);
        assert_true(calls_mend());
        assert_false(w[i]->queued);
        assert_null(w[i]->auth);
        assert_null(a->worker);
        assert_int_equal(a->retired, i == 2);
    }
    assert_non_null(strstr(logged(), "cannot pair a login: Too many open files"));
    assert_int_equal(next_told(&worker[0]), PROTO_LOGIN_REFUSED);
    assert_int_equal(message_get_u32(&message), REFUSED_BUSY);
    assert_int_equal(w[0]->channel.state, STATE_CLIENT);
    assert_true(is_killed(w[1]->pid));
    assert_int_equal(next_told(&worker[2]), PROTO_EXCHANGE);
    message_clear(&message);
    worker[2].state = STATE_LOGIN;
    assert_int_equal(next_told(&worker[2]), PROTO_SETTLED);
    assert_int_equal(channel_receive(&auth, &message, false, NULL), CHANNEL_END);
    assert_true(lives(w[0]->pid) && lives(w[2]->pid) && lives(a->pid));
}

static void ask_for_lock(struct channel *auth, uint64_t session, const char *user)
{
    message_begin(&message, PROTO_LOCKED);
    message_put_u64(&message, session);
    message_put_text(&message, user);
    say(auth);
}

static void expect_retry(struct channel *auth, unsigned retry)
{
    assert_int_equal(next_told(auth), PROTO_RETRY);
    assert_int_equal(message_get_u32(&message), retry);
}

static void test_takeover(void **state)
{
    static char long_name[300];
    struct channel worker, holder_end, left_end, auth;
    struct worker *w = add_worker(STATE_LOGIN, &worker);
    struct worker *holder = add_worker(STATE_MAIL, &holder_end);
    struct worker *left = add_worker(STATE_DONE, &left_end);
    struct auth *a = add_auth(STATE_BUSY, w, &auth);
    (void)state;
    memset(long_name, 'x', sizeof long_name - 1);
    base_copy(holder->canonical, sizeof holder->canonical, "alice");
    base_copy(left->canonical, sizeof left->canonical, "alice");
    ask_for_lock(&auth, w->session, "alice"); /* [session] lock=refuse */
    expect_retry(&auth, 0);
    must_set(m.config, "session", "", "lock", "takeover");
    ask_for_lock(&auth, w->session + 100, "alice");
    expect_retry(&auth, 0);
    ask_for_lock(&auth, w->session, long_name);
    expect_retry(&auth, 0);
    ask_for_lock(&auth, w->session, "bob"); /* a tool has it */
    expect_retry(&auth, 0);
    a->worker = NULL; /* who asked is gone */
    ask_for_lock(&auth, w->session, "alice");
    expect_retry(&auth, 0);
    a->worker = w;
    ask_for_lock(&auth, w->session, "alice");
    assert_ptr_equal(a->holder, holder);
    assert_int_equal(next_told(&holder_end), PROTO_FINISH);
    calls_break("sendmsg", 1, ENOBUFS);
    login_holder_gone(&m, holder);
    assert_true(calls_mend());
    assert_true(is_killed(a->pid)); /* it would wait for ever */
    a->holder = holder;
    channel_close(&a->channel);
    login_holder_gone(&m, holder);
    assert_null(a->holder);
    a->worker = NULL;
    w->auth = NULL;
}

/* Who says that it is set up before it can be would be told the rest when it must not be. */
static void test_ready_too_early(void **state)
{
    struct channel nursery_end, auth;
    struct generation *g = add_generation(&nursery_end);
    struct auth *a = add_auth(STATE_STARTING, NULL, &auth);
    (void)state;
    g->ready = false;
    g->channel.state = nursery_end.state = STATE_STARTING;
    g->setup.more = a->setup.more = true;
    for (int i = 0; i < 2; i++) {
        message_begin(&message, PROTO_READY);
        message_put_u64(&message, proto_fingerprint());
        say(i ? &auth : &nursery_end);
    }
    assert_true(is_killed(g->pid) && is_killed(a->pid));
    assert_false(g->ready);
    assert_int_equal(a->channel.state, STATE_STARTING);
}

/* It asked whether the holder may be ended, and did not wait for that. */
static void test_takeover_given_up(void **state)
{
    struct channel worker, holder_end, auth;
    struct worker *w = add_worker(STATE_LOGIN, &worker);
    struct worker *holder = add_worker(STATE_MAIL, &holder_end);
    struct auth *a = add_auth(STATE_BUSY, w, &auth);
    (void)state;
    base_copy(holder->canonical, sizeof holder->canonical, "alice");
    must_set(m.config, "session", "", "lock", "takeover");
    ask_for_lock(&auth, w->session, "alice");
    assert_ptr_equal(a->holder, holder);
    message_begin(&message, PROTO_VACANT);
    say(&auth);
    assert_int_equal(a->channel.state, STATE_IDLE);
    login_holder_gone(&m, holder);
    auth.state = STATE_IDLE;
    assert_int_equal(next_told(&auth), 0);
}

static void test_login_waits_too_long(void **state)
{
    struct channel its, other;
    struct worker *w = add_worker(STATE_LOGIN, &its), *deaf = add_worker(STATE_LOGIN, &other);
    struct worker *grant = add_worker(STATE_MAIL, &other);
    (void)state;
    must_set(m.config, "auth", "", "processes_max", "1");
    w->queued = true;
    w->asked = base_now_us() - 3600000000;
    login_tick(&m);
    assert_int_equal(next_told(&its), PROTO_LOGIN_REFUSED);
    assert_int_equal(message_get_u32(&message), REFUSED_BUSY);
    assert_int_equal(w->channel.state, STATE_CLIENT);
    deaf->queued = true;
    deaf->asked = w->asked;
    calls_break("sendmsg", 1, ENOBUFS);
    login_tick(&m);
    assert_true(calls_mend());
    assert_true(is_killed(deaf->pid));
    grant->queued = true;
    grant->asked = w->asked;
    login_tick(&m);
    assert_int_equal(grant->channel.state, STATE_MAIL);
    assert_int_equal(next_told(&other), PROTO_LOGIN_REFUSED);
    grant->queued = true;
    grant->asked = base_now_us();
    m.serving = true;
    login_tick(&m);
    assert_non_null(strstr(logged(), "cannot start /nowhere/poplar-auth"));
    assert_true(grant->queued); /* it waits for the next try */
}

/* Who cannot be told that its login failed would wait for that. */
static void test_settled_is_not_told(void **state)
{
    struct channel its;
    struct worker *w = add_worker(STATE_LOGIN, &its);
    (void)state;
    calls_break("sendmsg", 1, ENOBUFS);
    worker_settle(w, false);
    assert_true(calls_mend());
    assert_true(is_killed(w->pid));
}

/* One on trial says by its end how that went; what is served is not touched by it. */
static void test_auth_on_trial(void **state)
{
    static const char *const words[] = {"was not ready in time", "is of another version"};
    struct channel its;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        struct auth *a = add_auth(STATE_STARTING, NULL, &its);
        struct trial trial = {.auth = a};
        m.trial = &trial;
        if (i == 0) {
            auths_deadline(a, 0);
            usleep(2000);
            turn();
        } else {
            message_begin(&message, PROTO_READY);
            message_put_u64(&message, proto_fingerprint() + 1);
            say(&its);
        }
        assert_true(is_killed(a->pid));
        assert_non_null(strstr(a->last_error, words[i]));
        assert_false(m.outdated);
        m.trial = NULL;
    }
    assert_string_equal(logged(), "");
    struct auth *a = add_auth(STATE_STARTING, NULL, &its); /* one of those that are served */
    message_begin(&message, PROTO_READY);
    message_put_u64(&message, proto_fingerprint() + 1);
    say(&its);
    assert_true(is_killed(a->pid));
    assert_true(m.outdated);
}

static void test_spare_auths(void **state)
{
    struct channel its[3];
    struct auth *a[3];
    (void)state;
    must_set(m.config, "auth", "", "processes_min", "2");
    for (size_t i = 0; i < 3; i++) {
        a[i] = add_auth(STATE_IDLE, NULL, &its[i]);
        a[i]->vacant_since = base_now_ms() - 3600000;
    }
    auths_tick(&m);
    assert_int_equal(a[0]->retired + a[1]->retired + a[2]->retired, 1);
    assert_true(auths_ping(&m));
    assert_false(auths_ping(&m)); /* the first has not answered */
    for (size_t i = 0; i < 3; i++)
        a[i]->retired = true;
    assert_true(auths_ping(&m)); /* those do not count */
}

static void test_auth_says(void **state)
{
    static char logs[900] = "auth: ";
    char *says = logs + strlen(logs);
    struct channel its;
    struct auth *a = add_auth(STATE_IDLE, NULL, &its);
    (void)state;
    memset(says, 'x', sizeof logs - 1 - strlen(logs)); /* and none of it is lost */
    message_begin(&message, PROTO_LOG);
    message_put_u32(&message, LOG_ERR);
    message_put_text(&message, says);
    say(&its);
    assert_non_null(strstr(logged(), logs));
    assert_int_equal(auths_hear(NULL, 0, 0, a), 0); /* nothing is there */
    calls_break("sendmsg", 1, ENOBUFS);
    assert_true(auths_ping(&m)); /* what was not asked is not waited for */
    assert_true(calls_mend());
    assert_true(auths_ping(&m));
    assert_int_equal(next_told(&its), PROTO_PING);
    assert_true(lives(a->pid));
}

/* Generations. */

static void test_nursery_says(void **state)
{
    static char logs[900] = "nursery: ";
    char *says = logs + strlen(logs);
    (void)state;
    memset(says, 'x', sizeof logs - 1 - strlen(logs)); /* and none of it is lost */
    message_begin(&message, PROTO_LOG);
    message_put_u32(&message, LOG_ERR);
    message_put_text(&message, says);
    say(&nursery);
    assert_non_null(strstr(logged(), logs));
    m.current->channel.state = nursery.state = STATE_STARTING;
    for (unsigned which = 0; which < 2; which++) {
        message_begin(&message, PROTO_EXPIRES);
        message_put_u32(&message, which);
        message_put_u64(&message, 1234 + which);
        say(&nursery);
    }
    assert_int_equal(m.current->expires[0], 1234); /* there is no other */
    m.current->channel.state = nursery.state = STATE_IDLE;
    assert_true(generation_ping(m.current));
    assert_false(generation_ping(m.current));
    assert_int_equal(next_told(&nursery), PROTO_PING);
    assert_int_equal(next_told(&nursery), 0); /* the first has not been answered */
    m.current->awaiting_pong = false;
    calls_break("sendmsg", 1, ENOBUFS);
    assert_false(generation_ping(m.current));
    assert_true(calls_mend());
    assert_false(m.current->awaiting_pong);
    assert_int_equal(generation_hear(NULL, 0, 0, m.current), 0); /* nothing is there */
    assert_true(lives(m.current->pid));
}

/* It was reaped before what it said last was heard. */
static void test_nursery_gone(void **state)
{
    (void)state;
    kill(m.current->pid, SIGKILL);
    assert_int_equal(waitpid(m.current->pid, NULL, 0), m.current->pid);
    m.current->pid = 0;
    assert_int_equal(write(nursery.fd, "\xff", 1), 1);
    turn();
    assert_non_null(strstr(logged(), "killing the nursery: it sent a record of no known type"));
    assert_int_equal(m.current->channel.fd, -1);
    assert_null(m.current->io);
}

static void test_no_nursery(void **state)
{
    (void)state;
    generation_replace(&m, "a test"); /* not before something is served */
    assert_null(strstr(logged(), "a test"));
    m.serving = true;
    generation_replace(&m, "a test");
    assert_non_null(strstr(logged(), "starting a new nursery: a test"));
    assert_non_null(strstr(logged(), "new nursery in 100 ms: cannot start /nowhere/poplar-worker"));
    assert_non_null(m.nursery_retry);
    unsigned tried = m.generation_number;
    generation_replace(&m, NULL); /* as for each connection that a used-up layout cannot serve */
    generation_replace(&m, "it is old, too");
    assert_int_equal(m.generation_number, tried);
    m.stopping = true;
    generation_replace(&m, "another test");
    assert_null(strstr(logged(), "another test"));
}

static struct worker *add_queued(const char *peer, struct channel *its)
{
    struct worker *w = add_worker(STATE_LOGIN, its);
    const struct sockaddr_storage address = address_of(peer);
    w->client = *client_of(-1, DOOR_POP3, &address);
    w->queued = true;
    w->asked = w->session;
    return w;
}

/* Of the half that strangers may have, checks whose workers are gone take their part; and of
 * strangers the oldest and the newest have their turns. */
static void test_queue(void **state)
{
    struct channel its[3], busy[3], ended_end;
    struct worker *w[3];
    const struct sockaddr_storage gone = address_of("192.0.2.8:1");
    const struct sockaddr_storage known = address_of("192.0.2.9:1");
    (void)state;
    must_set(m.config, "auth", "", "processes_max", "3");
    throttle_succeeded(m.throttle, &client_of(-1, DOOR_POP3, &known)->source, base_now_ms());
    for (unsigned i = 0; i < 3; i++) {
        char peer[32];
        snprintf(peer, sizeof peer, "192.0.2.%u:1", i + 1);
        w[i] = add_queued(peer, &its[i]);
    }
    struct worker *ended = add_queued("192.0.2.4:1", &ended_end);
    worker_end(ended); /* its turn comes no more */
    struct worker *first = queue_next(&m), *second = queue_next(&m);
    assert_true((first == w[0] && second == w[2]) || (first == w[2] && second == w[0]));
    assert_int_equal(queue_length(&m), 2);
    for (unsigned i = 0; i < 3; i++) { /* one began when there might be more */
        struct auth *a = add_auth(STATE_BUSY, NULL, &busy[i]);
        a->owes = true;
        a->attempt =
            (struct attempt){.service = SERVE_LOGIN, .client = *client_of(-1, DOOR_POP3, &gone)};
    }
    assert_null(queue_next(&m));
    assert_int_equal(queue_length(&m), 0);
    w[1]->client = *client_of(-1, DOOR_POP3, &known);
    assert_ptr_equal(queue_next(&m), w[1]);
    for (unsigned i = 0; i < 3; i++)
        w[i]->queued = false;
    ended->queued = false;
}

/* One that was started meanwhile is not needed any more. */
static void test_generation_overtaken(void **state)
{
    struct channel its, fresh_end;
    struct generation *starting = add_generation(&its), *fresh = add_generation(&fresh_end);
    (void)state;
    m.serving = true;
    generation_replace(&m, "one is starting");
    assert_null(strstr(logged(), "one is starting"));
    struct generation *before = m.current;
    generation_serve(&m, fresh);
    assert_ptr_equal(m.current, fresh);
    assert_true(starting->retired && before->retired);
    assert_int_equal(next_told(&its), 0);
    assert_int_equal(channel_receive(&its, &message, false, NULL), CHANNEL_END);
}

/* One that is on trial is: it goes on, whatever becomes of the present one. */
static void test_generation_on_trial(void **state)
{
    struct channel its, fresh_end;
    struct generation *tried = add_generation(&its), *fresh = add_generation(&fresh_end);
    struct trial trial = {.generation = tried};
    (void)state;
    m.serving = true;
    m.trial = &trial;
    generation_serve(&m, fresh);
    assert_false(tried->retired);
    pid_t pid = tried->pid;
    tried->pid = 0;
    generation_release(&m, tried); /* it is needed to say how the trial went */
    assert_int_equal(tried->number, 2);
    tried->pid = pid;
    m.trial = NULL;
}

/* A long word of a worker's is not shown; when poplard stops, a failed login is the last. */
static void test_login_while_stopping(void **state)
{
    struct channel worker, auth;
    struct worker *w = add_worker(STATE_CLIENT, &worker);
    (void)state;
    message_begin(&message, PROTO_LOGIN_WANTED);
    char endless[PROTO_USER_MAX + 2];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    message_put_text(&message, "a version of TLS that nobody has");
    message_put_text(&message, endless);
    say(&worker);
    assert_string_equal(w->tls, "");
    assert_string_equal(w->claimed, "");
    assert_int_equal(w->channel.state, STATE_LOGIN);
    w->queued = false;
    add_auth(STATE_BUSY, w, &auth);
    m.stopping = true;
    message_begin(&message, PROTO_VACANT);
    say(&auth);
    worker.state = STATE_LOGIN;
    assert_int_equal(next_told(&worker), PROTO_SETTLED);
    assert_int_equal(message_get_u32(&message), 1);
    m.stopping = false;
}

/* One is under way: whoever asks is told of the next, or that there will be none. */
static void test_reload_put_off(void **state)
{
    struct channel ctl[2];
    struct trial under_way = {.askers = NULL};
    char text[200];
    (void)state;
    m.trial = &under_way;
    for (size_t i = 0; i < ARRAY_SIZE(ctl); i++) {
        int ends[2];
        assert_int_equal(channel_pair(ends, true), 0);
        channel_open(&ctl[i], ends[1], ROLE_CTL, ROLE_MASTER, STATE_IDLE);
        trial_begin(&m, ends[0]);
        assert_true(m.reload_again);
        assert_int_equal(next_told(&ctl[i]), 0);
    }
    m.trial = NULL;
    m.stopping = true;
    trial_begin(&m, -1);
    for (size_t i = 0; i < ARRAY_SIZE(ctl); i++) {
        assert_int_equal(next_told(&ctl[i]), PROTO_REPLY);
        assert_int_equal(message_get_u32(&message), EX_TEMPFAIL);
        assert_true(message_get_text(&message, text, sizeof text));
        assert_string_equal(text, "poplard is stopping");
        channel_close(&ctl[i]);
    }
    assert_null(m.askers);
    m.stopping = m.reload_again = false;
}

/* poplarctl. */

static void visit(struct channel *ctl)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/control", place);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    channel_open(ctl, fd, ROLE_CTL, ROLE_MASTER, STATE_IDLE);
}

static void ask_for_trace(struct channel *ctl, const char *user, bool on)
{
    message_begin(&message, PROTO_DEBUG);
    message_put_text(&message, user);
    message_put_u32(&message, on);
    say(ctl);
}

static void expect_reply(struct channel *ctl, int status)
{
    assert_int_equal(next_told(ctl), PROTO_REPLY);
    assert_int_equal(message_get_u32(&message), status);
}

static void test_visitors(void **state)
{
    static char long_name[300];
    struct channel ctl, unheard;
    char error[600], name[32];
    (void)state;
    memset(long_name, 'x', sizeof long_name - 1);
    must_set(m.config, "server", "", "run_dir", place);
    must_set(m.config, "server", "", "store_user", "no-such-account"); /* then it is root's alone */
    if (!control_open(&m, error, sizeof error))
        fail_msg("%s", error);
    visit(&ctl);
    for (int i = 0; i < 2; i++) { /* gone before it was looked at, or a signal came: once more */
        calls_break("accept4", 1, i == 0 ? EAGAIN : EINTR);
        assert_true(sd_event_run(m.event, 0) > 0);
        assert_true(calls_mend());
        assert_string_equal(logged(), "");
    }
    calls_break("accept4", 1, EMFILE); /* it waits until there is room */
    assert_true(sd_event_run(m.event, 0) > 0);
    assert_true(calls_mend());
    assert_non_null(strstr(logged(), "control socket: Too many open files"));
    assert_int_equal(sd_event_run(m.event, 0), 0); /* nobody looks until the tick */
    control_tick(&m);
    ask_for_trace(&ctl, "alice", true);
    expect_reply(&ctl, EX_OK);
    ask_for_trace(&ctl, "alice", false);
    expect_reply(&ctl, EX_OK);
    ask_for_trace(&ctl, long_name, true);
    expect_reply(&ctl, EX_USAGE);
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof name, "user-%d", i);
        assert_true(worker_trace_user(&m, name, true));
    }
    ask_for_trace(&ctl, "one-too-many", true);
    expect_reply(&ctl, EX_USAGE);
    /* Named by the kernel, and then nothing is there. */
    calls_break("recvmsg", 1, EAGAIN);
    ask_for_trace(&ctl, "user-1", false);
    expect_reply(&ctl, EX_OK);
    calls_mend();
    visit(&unheard);
    calls_break("sd_event_add_io", 1, 0);
    turn();
    assert_true(calls_mend());
    assert_int_equal(channel_receive(&unheard, &message, false, NULL), CHANNEL_END);
    calls_break("getsockopt", 1, 0); /* who it is is not known: no more than a guest */
    channel_close(&unheard);
    visit(&unheard);
    turn();
    assert_true(calls_mend());
    assert_int_equal(m.guests, 1);
    ask_for_trace(&unheard, "alice", true);
    expect_reply(&unheard, EX_NOPERM);
    channel_close(&unheard);
    turn();
    assert_int_equal(m.guests, 0);
    channel_close(&ctl);
    turn();
    control_close(&m);
}

static int quiet_stderr = -1;

static int set_up(void **state)
{
    char error[256];
    (void)state;
    m = (struct master){.control_fd = -1};
    m.waiting_end = &m.waiting;
    m.config = config_new();
    config_at(m.config, "test");
    must_set(m.config, "workers", "", "idle_min", "1");
    must_set(m.config, "server", "", "state_dir", place);
    must_set(m.config, "server", "", "program_dir", "/nowhere");
    must_set(m.config, "tls", "", "required", "no");
    if (!config_complete(m.config, error, sizeof error))
        return -1;
    m.throttle = throttle_new();
    if (sd_event_new(&m.event) < 0)
        return -1;
    quiet_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
    int fd = open(in_place("log"), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    dup3(fd, STDERR_FILENO, 0);
    close(fd);
    log_open(LOG_TO_STDERR, LOG_DEBUG);
    m.current = add_generation(&nursery);
    return 0;
}

/* What every kind of child has, but for the memory of it. */
static void end_child(pid_t pid, struct channel *channel, sd_event_source *io,
                      sd_event_source *timer)
{
    if (pid > 0) /* else it was only ordered, or is gone */
        kill(pid, SIGKILL);
    sd_event_source_disable_unref(io);
    sd_event_source_disable_unref(timer);
    channel_close(channel);
}

static int tear_down(void **state)
{
    (void)state;
    calls_mend();
    for (struct worker *w = m.workers, *next; w; w = next) {
        next = w->next;
        end_child(w->pid, &w->channel, w->io, w->timer);
        free(w);
    }
    for (struct auth *a = m.auths, *next; a; a = next) {
        next = a->next;
        end_child(a->pid, &a->channel, a->io, a->timer);
        free(a);
    }
    for (struct generation *g = m.generations, *next; g; g = next) {
        next = g->next;
        end_child(g->pid, &g->channel, g->io, g->timer);
        free(g->expires);
        free(g);
    }
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    while (m.waiting) {
        struct waiting *w = admit_next(&m);
        close(w->client.fd);
        free(w);
    }
    while (m.traced.n > 0)
        free(m.traced.items[--m.traced.n]);
    free(m.traced.items);
    sd_event_source_disable_unref(m.nursery_retry);
    sd_event_source_disable_unref(m.tick);
    control_close(&m);
    sd_event_source_disable_unref(m.discarded.timer);
    while (m.discarded.n > 0)
        close(m.discarded.fds[--m.discarded.n]);
    free(m.discarded.fds);
    throttle_free(m.throttle);
    config_free(m.config);
    sd_event_unref(m.event);
    dup3(quiet_stderr, STDERR_FILENO, 0);
    close(quiet_stderr);
    return 0;
}

static int set_up_group(void **state)
{
    (void)state;
    return place_make("/tmp", 0700) ? 0 : -1;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_trace),
        TEST(test_trace_later),
        TEST(test_finish),
        TEST(test_tick),
        TEST(test_late),
        TEST(test_never_ready),
        TEST(test_crowded),
        TEST(test_doors),
        TEST(test_who_waits_gives_way),
        TEST(test_clients_that_were_not_taken),
        TEST(test_client_is_taken),
        TEST(test_no_room_to_give),
        TEST(test_mail_is_handed_over),
        TEST(test_descriptors_of_mail),
        TEST(test_left_over_of_mail),
        TEST(test_discard_later),
        TEST(test_claimed_addresses),
        TEST(test_impostors),
        TEST(test_ends_before_ready),
        TEST(test_deliveries_of_an_account),
        TEST(test_summary),
        TEST(test_edge),
        TEST(test_edges_without_end),
        TEST(test_over_before_its_verdict),
        TEST(test_refused_and_over),
        TEST(test_login_without_outcome),
        TEST(test_login_is_not_paired),
        TEST(test_takeover),
        TEST(test_takeover_given_up),
        TEST(test_ready_too_early),
        TEST(test_login_waits_too_long),
        TEST(test_settled_is_not_told),
        TEST(test_auth_on_trial),
        TEST(test_spare_auths),
        TEST(test_auth_says),
        TEST(test_nursery_says),
        TEST(test_nursery_gone),
        TEST(test_no_nursery),
        TEST(test_queue),
        TEST(test_generation_overtaken),
        TEST(test_who_waits_keeps_the_place),
        TEST(test_too_many_wait),
        TEST(test_ended_is_not_idle),
        TEST(test_generation_on_trial),
        TEST(test_login_while_stopping),
        TEST(test_reload_put_off),
        TEST(test_visitors),
    };
    alarm(600); /* what waits for ever is no test */
    return cmocka_run_group_tests(tests, set_up_group, leave_place);
}
