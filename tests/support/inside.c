/*
 * inside.c - see inside.h. The numbers of descriptors are as in a worker, since the session insists
 * on them; whatever is the test's own lies above OURS.
 */
#include "tests/support/inside.h"
#include "daemon/base.h"
#include "daemon/channel.h"
#include "store/maildrop.h"
#include "tests/unit/certificates.h"
#include "worker/lmtp.h"
#include "worker/pop3.h"
#include "worker/tls.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OURS = 64 };

static struct {
    struct config *config;
    struct tls *tls;
    SSL_CTX *client_context;
    char folder[64];
    struct {
        unsigned char *octets;
        size_t size;
    } image[MAILDROP_FILES];

    bool turning;
    const struct inside_world *world;
    const unsigned char *said; /* what the client has still to say */
    size_t left;
    int client;
    SSL *client_tls;                 /* of a client that begins with it */
    struct channel worker, exchange; /* the master's end, auth's end */
    unsigned failures;
    struct message m;
    struct inside_result *result;
} self = {.client = -1};

void (*inside_acts)(bool acts);

static void act(bool acts)
{
    if (inside_acts)
        inside_acts(acts);
}

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "inside: %s: %s\n", what, strerror(errno));
    abort();
}

/* Out of the way of the numbers that a worker has. */
static int above(int fd)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, OURS);
    must(fd >= 0 && moved >= 0, "a descriptor");
    close(fd);
    return moved;
}

/* The numbers of a worker's descriptors are free in a session; nobody else gets them between two.
 */
static void free_numbers(bool now)
{
    static int holder = -1;
    if (holder < 0)
        holder = above(open("/dev/null", O_RDWR | O_CLOEXEC));
    for (int fd = PROTO_FD_CONTROL; fd < PROTO_FD_END; fd++)
        must(now ? close(fd) == 0 : dup3(holder, fd, O_CLOEXEC) == fd, "a worker's number");
}

static int open_file(int file, int flags)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", self.folder, maildrop_file_names[file]);
    return above(open(path, flags | O_CLOEXEC, 0600));
}

/* ---- master and auth ---- */

static void send_master(void)
{
    /* The worker may be gone, or not reading: both are its business. */
    channel_send(&self.worker, &self.m, false);
    message_clear(&self.m);
}

static void send_verdict(const char *user, bool spool_wanted, bool files_wanted)
{
    uint32_t verdict = self.world->verdict;
    message_begin(&self.m, PROTO_VERDICT);
    message_put_u32(&self.m, verdict);
    message_put_text(&self.m, user);
    if (verdict == LOGIN_OK && spool_wanted)
        message_put_fd(&self.m, above(memfd_create("spool", MFD_CLOEXEC)));
    for (int i = 0; verdict == LOGIN_OK && files_wanted && i < MAILDROP_FILES; i++)
        message_put_fd(&self.m, open_file(i, O_RDWR | O_CREAT));
    if (!self.world->auth_dies)
        channel_send(&self.exchange, &self.m, false);
    message_clear(&self.m); /* closes the files */
    channel_close(&self.exchange);
    if (verdict == LOGIN_OK && self.worker.state == STATE_LOGIN && !self.world->auth_dies)
        self.worker.state = STATE_MAIL;
}

/* Auth decides before it is asked: it has heard nothing that could change its mind. What the worker
 * then says stays in the socket that is gone. */
static void send_exchange(const char *user, bool spool_wanted, bool files_wanted)
{
    int ends[2], theirs;
    must(channel_pair(ends, false) == 0, "socketpair");
    theirs = above(ends[0]);
    channel_open(&self.exchange, above(ends[1]), ROLE_AUTH, ROLE_WORKER, STATE_EXCHANGE);
    message_begin(&self.m, PROTO_EXCHANGE);
    message_put_fd(&self.m, theirs);
    channel_send(&self.worker, &self.m, false);
    self.m.n_fds = 0;
    message_clear(&self.m);
    close(theirs);
    send_verdict(user, spool_wanted, files_wanted);
}

static void settle(void)
{
    bool failed = self.world->verdict != LOGIN_OK || self.world->auth_dies;
    if (!failed || self.worker.state != STATE_LOGIN)
        return;
    message_begin(&self.m, PROTO_SETTLED);
    message_put_u32(&self.m, ++self.failures == self.world->last);
    send_master();
    self.worker.state = STATE_CLIENT;
}

static void answer_login(void)
{
    if (self.worker.state == STATE_CLIENT)
        self.worker.state = STATE_LOGIN;
    if (self.world->refusal == 0) {
        send_exchange("alice", false, true);
        settle();
        return;
    }
    message_begin(&self.m, PROTO_LOGIN_REFUSED);
    message_put_u32(&self.m, self.world->refusal);
    send_master();
    self.worker.state = STATE_CLIENT;
}

static void answer_recipient(void)
{
    char recipient[PROTO_RECIPIENT_MAX + 1];
    must(message_get_text(&self.m, recipient, sizeof recipient), "a recipient's size");
    uint32_t service = message_get_u32(&self.m);
    if (self.world->refusal == 0) {
        send_exchange("alice", service == SERVE_FIRST, service != SERVE_CHECK);
        return;
    }
    message_begin(&self.m, PROTO_LOGIN_REFUSED);
    message_put_u32(&self.m, self.world->refusal);
    send_master();
}

static void answer_address(void)
{
    char peer[PROTO_ADDRESS_MAX];
    must(message_get_text(&self.m, peer, sizeof peer), "an address's size");
    message_begin(&self.m, PROTO_ADDRESS_TAKEN);
    message_put_u32(&self.m, self.world->refusal == 0);
    message_put_text(&self.m, peer);
    send_master();
}

/* One record from the worker; false if there is none. */
static bool turn_master(void)
{
    const char *fault = "";
    if (self.worker.fd < 0)
        return false;
    enum channel_outcome outcome = channel_receive(&self.worker, &self.m, false, &fault);
    if (outcome == CHANNEL_BAD) {
        fprintf(stderr, "inside: the worker sent a record %s\n", fault);
        abort();
    }
    if (outcome != CHANNEL_OK)
        return false;
    enum proto_type type = self.m.rule->type;
    if (self.world->master_dies && type != PROTO_LOG)
        channel_close(&self.worker);
    else if (type == PROTO_LOGIN_WANTED || type == PROTO_GRANT_AGAIN)
        answer_login();
    else if (type == PROTO_RECIPIENT)
        answer_recipient();
    else if (type == PROTO_REAL_ADDRESS)
        answer_address();
    message_clear(&self.m);
    return true;
}

/* ---- the client ---- */

static ssize_t hear(void *octets, size_t size)
{
    if (!self.client_tls)
        return read(self.client, octets, size);
    if (!SSL_is_init_finished(self.client_tls) && SSL_do_handshake(self.client_tls) != 1)
        return -1;
    return SSL_read(self.client_tls, octets, (int)size);
}

static ssize_t say(const void *octets, size_t size)
{
    if (!self.client_tls)
        return send(self.client, octets, size, MSG_NOSIGNAL);
    return SSL_write(self.client_tls, octets, (int)size);
}

static void listen_to_worker(void)
{
    static char octets[65536];
    ssize_t got;
    while (self.client >= 0 && (got = hear(octets, sizeof octets)) > 0) {
        struct inside_result *r = self.result;
        size_t room = r->size < INSIDE_OUTPUT_MAX ? INSIDE_OUTPUT_MAX - r->size : 0;
        memcpy(r->output + (INSIDE_OUTPUT_MAX - room), octets,
               (size_t)got < room ? (size_t)got : room);
        r->size += (size_t)got;
    }
}

/* The next words; false when all is said. */
static bool speak(void)
{
    if (self.client < 0)
        return false;
    if (self.left == 0 || (self.client_tls && !SSL_is_init_finished(self.client_tls))) {
        shutdown(self.client, SHUT_WR);
        return false;
    }
    const unsigned char *end = memchr(self.said, '\n', self.left);
    size_t size = end ? (size_t)(end - self.said) + 1 : self.left;
    if (self.world->piece > 0)
        size = self.world->piece < self.left ? self.world->piece : self.left;
    ssize_t put = say(self.said, size);
    if (put <= 0)
        return false;
    self.said += put;
    self.left -= (size_t)put;
    return true;
}

static int (*real_poll)(struct pollfd *, nfds_t, int);

/* Let the others act until what the session waits for is there. */
static int turn(struct pollfd *watched, nfds_t n)
{
    bool over = false;
    for (;;) {
        while (turn_master())
            ;
        listen_to_worker();
        int ready = real_poll(watched, n, 0);
        if (ready != 0 || over)
            return ready;
        if (n == 2 && watched[0].events & POLLIN && speak())
            continue;
        /* Nobody will say anything more. */
        over = self.left == 0 || n != 2;
        if (n != 2 && self.worker.fd >= 0)
            channel_close(&self.worker);
    }
}

/* In front of libc's. */
int poll(struct pollfd *watched, nfds_t n, int timeout)
{
    if (!real_poll)
        *(void **)&real_poll = dlsym(RTLD_NEXT, "poll");
    if (!self.turning || n == 0 || timeout == 0)
        return real_poll(watched, n, timeout);
    act(true);
    int ready = turn(watched, n);
    ERR_clear_error(); /* the session's thread is the client's too */
    act(false);
    return ready;
}

/* What a compiler that checks sizes makes of it, at some levels of optimisation. */
int __poll_chk(struct pollfd *watched, nfds_t n, int timeout, size_t size);
int __poll_chk(struct pollfd *watched, nfds_t n, int timeout, size_t size)
{
    must(n <= size / sizeof *watched, "the size of what is polled");
    return poll(watched, n, timeout);
}

/* ---- sessions ---- */

void inside_begin(const char *const *settings)
{
    char section[32], key[64], error[300];
    signal(SIGPIPE, SIG_IGN);
    must(maildrop_library_init(true) == STORE_OK, "SQLite");
    self.config = config_new();
    must(config_set(self.config, "server", "", "hostname", "mail.example.org", error, sizeof error),
         error);
    for (; *settings; settings++) {
        must(sscanf(*settings, "%31[^.].%63[^=]", section, key) == 2, *settings);
        must(config_set(self.config, section, "", key, strchr(*settings, '=') + 1, error,
                        sizeof error),
             error);
    }
    must(config_complete(self.config, error, sizeof error), error);
    self.tls = tls_new();
    free_numbers(false);
    const char *scratch = getenv("FUZZ_SCRATCH"); /* libFuzzer leaves without a word */
    if (!scratch)
        scratch = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(self.folder, sizeof self.folder, "%s/poplar-inside-XXXXXX", scratch);
    must(mkdtemp(self.folder) != NULL, "a folder");
    for (int i = 0; i < MAILDROP_FILES; i++) {
        int fd = open_file(i, O_RDWR | O_CREAT | O_TRUNC);
        must(i != MAILDROP_DB || write(fd, maildrop_template, maildrop_template_size) ==
                                     (ssize_t)maildrop_template_size,
             "mail.db");
        close(fd);
    }
}

void inside_certify(void)
{
    char error[512] = "";
    int fds[2];
    certificate_make("mail.example.org", fds);
    must(tls_add(self.tls, "", "/test/chain.pem", fds[0], fds[1], error, sizeof error), error);
    must(tls_complete(self.tls, self.config, error, sizeof error), error);
    self.client_context = SSL_CTX_new(TLS_client_method());
    must(self.client_context != NULL, "a client's TLS");
}

void inside_finish(void)
{
    char path[128];
    for (int i = 0; i < MAILDROP_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", self.folder, maildrop_file_names[i]);
        unlink(path);
        free(self.image[i].octets);
        self.image[i].octets = NULL;
    }
    rmdir(self.folder);
    SSL_CTX_free(self.client_context);
    tls_free(self.tls);
    config_free(self.config);
}

const char *inside_folder(void)
{
    return self.folder;
}

void inside_keep(void)
{
    for (int i = 0; i < MAILDROP_FILES; i++) {
        struct stat st;
        int fd = open_file(i, O_RDONLY);
        must(fstat(fd, &st) == 0, "fstat");
        self.image[i].size = i == MAILDROP_SHM ? 0 : (size_t)st.st_size;
        free(self.image[i].octets);
        self.image[i].octets = malloc(self.image[i].size + 1);
        must(self.image[i].octets &&
                 read(fd, self.image[i].octets, self.image[i].size) == (ssize_t)self.image[i].size,
             "read");
        close(fd);
    }
}

void inside_restore(void)
{
    for (int i = 0; i < MAILDROP_FILES; i++) {
        int fd = open_file(i, O_WRONLY | O_CREAT | O_TRUNC);
        must(!self.image[i].octets ||
                 write(fd, self.image[i].octets, self.image[i].size) == (ssize_t)self.image[i].size,
             "write");
        close(fd);
    }
}

struct octets {
    const unsigned char *at;
    size_t left;
};

static ssize_t read_text(void *context, void *buffer, size_t size)
{
    struct octets *text = context;
    size = size < text->left ? size : text->left;
    if (size > 0)
        memcpy(buffer, text->at, size);
    text->at += size;
    text->left -= size;
    return (ssize_t)size;
}

void inside_deliver(const void *octets, size_t size)
{
    int files[MAILDROP_FILES];
    struct maildrop *maildrop;
    struct octets text = {octets, size};
    const struct maildrop_delivery delivery = {.utf8_headers = true};
    for (int i = 0; i < MAILDROP_FILES; i++)
        files[i] = open_file(i, O_RDWR | O_CREAT);
    must(maildrop_open(files, &maildrop) == STORE_OK, "maildrop_open");
    must(maildrop_deliver(maildrop, &delivery, read_text, &text, NULL) == STORE_OK, "delivery");
    maildrop_close(maildrop);
}

/* As the worker's take_client(). */
static void set_up(struct session *s, const struct inside_world *world)
{
    int ends[2], sockets[2];
    uint64_t idle = s->config->session.idle_timeout * 1000;
    must(channel_pair(ends, true) == 0, "socketpair");
    channel_open(&self.worker, above(ends[0]), ROLE_MASTER, ROLE_WORKER, STATE_CLIENT);
    must(ends[1] == PROTO_FD_CONTROL || dup2(ends[1], PROTO_FD_CONTROL) == PROTO_FD_CONTROL,
         "dup2");
    if (ends[1] != PROTO_FD_CONTROL)
        close(ends[1]);
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) == 0,
         "socketpair");
    self.client = above(sockets[0] == PROTO_FD_CLIENT ? sockets[0] : sockets[1]);
    if (sockets[0] != PROTO_FD_CLIENT)
        must(dup2(sockets[0], PROTO_FD_CLIENT) == PROTO_FD_CLIENT && close(sockets[0]) == 0,
             "dup2");
    else
        must(dup2(sockets[1], PROTO_FD_CLIENT) == PROTO_FD_CLIENT && close(sockets[1]) == 0,
             "dup2");
    channel_open(&s->control, PROTO_FD_CONTROL, ROLE_WORKER, ROLE_MASTER, STATE_CLIENT);
    s->number = 1;
    s->door = world->door;
    s->proxied = world->proxied;
    base_copy(s->peer, sizeof s->peer, world->peer);
    stream_open(&s->stream, PROTO_FD_CLIENT, PROTO_FD_CONTROL, idle);
    if (world->door == DOOR_LMTP)
        self.worker.state = s->control.state = STATE_DELIVERY;
}

/* The client begins with TLS. */
static void set_up_tls(struct session *s)
{
    memset(s->ticket_keys.octets[0], 'k', sizeof s->ticket_keys.octets[0]);
    s->ticket_keys.n = 1;
    self.client_tls = SSL_new(self.client_context);
    must(self.client_tls && SSL_set_fd(self.client_tls, self.client) == 1, "a client's TLS");
    SSL_set_connect_state(self.client_tls);
}

static bool hear_master(void *session)
{
    return session_hear_master(session);
}

void inside_serve(const struct inside_world *world, const void *octets, size_t size,
                  struct inside_result *result)
{
    struct session *s =
        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(s != MAP_FAILED, "mmap");
    self.world = world;
    self.said = octets;
    self.left = size;
    self.failures = 0;
    self.result = result;
    result->size = 0;
    s->config = self.config;
    s->tls = self.tls;
    free_numbers(true);
    set_up(s, world);
    s->stream.on_control = hear_master;
    s->stream.control_context = s;

    if (world->door == DOOR_POP3S)
        set_up_tls(s);
    self.turning = true;
    act(false);
    if (world->door == DOOR_LMTP)
        lmtp_serve(s);
    else
        pop3_serve(s);
    session_report(s);
    act(true);
    while (turn_master())
        ;
    self.turning = false;
    listen_to_worker();
    result->output[result->size < INSIDE_OUTPUT_MAX ? result->size : INSIDE_OUTPUT_MAX] = '\0';
    result->end = s->end;
    result->retrieved = s->retrieved;
    result->deleted = s->deleted;
    channel_close(&s->control);
    channel_close(&self.worker);
    SSL_free(self.client_tls);
    self.client_tls = NULL;
    ERR_clear_error();
    close(self.client);
    self.client = -1;
    if (world->door == DOOR_LMTP)
        close(PROTO_FD_SPOOL);
    free_numbers(false);
    munmap(s, sizeof *s);
}

const char *inside_last_line(const struct inside_result *result)
{
    const char *at = result->output + strlen(result->output);
    if (at > result->output)
        at--;
    while (at > result->output && at[-1] != '\n')
        at--;
    return at;
}
