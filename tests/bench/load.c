/*
 * load.c - the load generator: many POP3 or LMTP sessions from one process and one thread, as
 * cheaply as can be, so that the server under test has the machine to itself.
 *
 *   load [OPTIONS] SCRIPT       e.g. load --port 1110 "greeting user pass stat quit"
 *
 * Prints one JSON object: sessions, errors with the first one's words, octets, latencies. A session
 * that hears a no, an early end or other octets than it must is an error.
 */
#include "tests/bench/script.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { INPUT_SIZE = 1 << 18, WINDOW = 64, PATIENCE_MS = 60000 };

enum tls_mode { TLS_NONE, TLS_FULL, TLS_RESUME };

struct client {
    int fd;
    SSL *ssl;
    enum { UNCONNECTED, SHAKING, TALKING, LEAVING } phase;
    unsigned slot, round; /* of the concurrent ones, and its sessions so far */
    unsigned user;
    size_t word;          /* of the script */
    unsigned sent, heard; /* commands of this word, replies to them */
    unsigned messages;    /* by STAT */
    bool held;
    struct reader reader;
    char *out;
    size_t out_size, out_at, out_room;
    uint64_t octets; /* of messages retrieved, as they are on the wire */
    uint64_t started;
    uint32_t events; /* as epoll knows them */
};

static struct {
    const char *host, *path, *prefix;
    unsigned port, users, first, concurrency, deliveries;
    uint64_t sessions, octets;
    double seconds;
    enum tls_mode tls;
    bool pipeline, digest, spread;
    struct script script;
} options = {
    .host = "127.0.0.1", .prefix = "u", .users = 1, .first = 1, .concurrency = 1, .deliveries = 20};

/* Latencies of one kind, in nanoseconds. */
struct sample {
    uint64_t *values;
    size_t n, room;
};

static struct {
    int epoll;
    SSL_CTX *context;
    SSL_SESSION *ticket;
    EVP_MD_CTX *digest;
    char *message; /* for LMTP, dot-stuffed, with its end */
    size_t message_size;
    uint64_t begun, deadline, sessions_begun, sessions, errors, reused, octets, deliveries;
    unsigned live, held;
    bool released;
    char error[256];
    struct sample login, work;
} self;

static char input[INPUT_SIZE];

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static void *grow(void *memory, size_t size)
{
    memory = realloc(memory, size);
    if (!memory)
        die("memory");
    return memory;
}

static void sample_add(struct sample *s, uint64_t value)
{
    if (s->n == s->room) {
        s->room = s->room * 2 + 1024;
        s->values = grow(s->values, s->room * sizeof *s->values);
    }
    s->values[s->n++] = value;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void sample_print(const char *name, struct sample *s)
{
    if (s->n == 0)
        return;
    qsort(s->values, s->n, sizeof *s->values, by_value);
    printf(", \"%s\": {\"p50\": %.4f, \"p99\": %.4f, \"max\": %.4f}", name,
           (double)s->values[s->n / 2] / 1e6, (double)s->values[s->n * 99 / 100] / 1e6,
           (double)s->values[s->n - 1] / 1e6);
}

static void begin(struct client *c);

static bool may_begin(void)
{
    if (options.sessions > 0)
        return self.sessions_begun < options.sessions;
    return now_ns() < self.deadline;
}

static void finish(struct client *c, const char *error)
{
    if (error) {
        if (self.errors++ == 0)
            snprintf(self.error, sizeof self.error, "%s", error);
    } else {
        self.sessions++;
    }
    /* Or OpenSSL takes the session for a broken one, whose ticket is not to be used. */
    if (c->ssl)
        SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(c->ssl);
    c->ssl = NULL;
    close(c->fd);
    c->fd = -1;
    self.live--;
    c->round++;
    if (may_begin())
        begin(c);
}

static void watch(struct client *c, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (events == c->events)
        return;
    if (epoll_ctl(self.epoll, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e) < 0)
        die("epoll_ctl");
    c->events = events;
}

static void put(struct client *c, const char *octets, size_t size)
{
    if (c->out_size + size > c->out_room) {
        c->out_room = (c->out_size + size) * 2;
        c->out = grow(c->out, c->out_room);
    }
    memcpy(c->out + c->out_size, octets, size);
    c->out_size += size;
}

/* No two sessions at once have the same user; where there are enough for all, none has one that
 * another had. */
static unsigned choose_user(const struct client *c)
{
    unsigned rounds = options.users / options.concurrency;
    if (options.sessions > 0 && options.sessions <= options.users)
        return options.first + (unsigned)self.sessions_begun - 1;
    return options.first + c->slot + options.concurrency * (c->round % rounds);
}

/* One step of a delivery: the envelope is pipelined, the text goes after the 354. */
static unsigned put_delivery(struct client *c)
{
    char text[256];
    if (c->sent % 4 == 3) {
        put(c, self.message, self.message_size);
        return 1;
    }
    unsigned further = options.spread ? c->sent / 4 * options.concurrency : 0;
    int size = snprintf(
        text, sizeof text, "MAIL FROM:<bench@bench.example>\r\nRCPT TO:<%s%04u>\r\nDATA\r\n",
        options.prefix, options.first + (c->user - options.first + further) % options.users);
    put(c, text, (size_t)size);
    return 3;
}

/* Commands in this word altogether. */
static unsigned wanted(const struct client *c)
{
    switch (options.script.words[c->word]->repeat) {
    case WORD_EACH:
        return c->messages;
    case WORD_DELIVER:
        return options.deliveries * 4;
    default:
        return 1;
    }
}

/* Format as the word's command says: %s is the user, %u the message. */
static void put_command(struct client *c, const char *format)
{
    char text[64];
    const char *hole = strchr(format, '%');
    if (!hole) {
        put(c, format, strlen(format));
        return;
    }
    put(c, format, (size_t)(hole - format));
    int size = hole[1] == 's' ? snprintf(text, sizeof text, "%s%04u", options.prefix, c->user)
                              : snprintf(text, sizeof text, "%u", c->sent + 1);
    put(c, text, (size_t)size);
    put(c, hole + 2, strlen(hole + 2));
}

/* Say what may be said now. */
static void speak(struct client *c)
{
    const struct word *word = options.script.words[c->word];
    unsigned window = options.pipeline && word->repeat == WORD_EACH ? WINDOW : 1;
    if (word->repeat == WORD_EACH && c->sent - c->heard > window / 2)
        return;
    while (c->sent < wanted(c) && c->sent - c->heard < window) {
        if (word->repeat == WORD_DELIVER) {
            c->sent += put_delivery(c);
            continue;
        }
        if (word->command)
            put_command(c, word->command);
        c->sent++;
    }
}

static void start_word(struct client *c)
{
    const struct script *s = &options.script;
    while (c->word < s->n) {
        c->sent = c->heard = 0;
        if (s->words[c->word]->repeat == WORD_HOLD && !self.released) {
            c->held = true;
            if (++self.held == options.concurrency) {
                puts("held");
                fflush(stdout);
            }
            return;
        }
        if (s->words[c->word]->repeat != WORD_HOLD && wanted(c) > 0) {
            reader_begin(&c->reader, s->words[c->word]->reply);
            speak(c);
            return;
        }
        c->word++;
    }
    c->phase = LEAVING; /* the server closes */
}

static const char *heard(struct client *c)
{
    const struct word *word = options.script.words[c->word];
    if (!reader_good(&c->reader) && strcmp(word->name, "capa") != 0) /* which not all have */
        return c->reader.line;
    if (strcmp(word->name, "pass") == 0)
        sample_add(&self.login, now_ns() - c->started);
    if (strcmp(word->name, "stat") == 0)
        c->messages = (unsigned)strtoul(c->reader.line + 4, NULL, 10);
    if (word->repeat == WORD_DELIVER && c->heard % 4 == 3)
        self.deliveries++;
    if (++c->heard < wanted(c)) {
        reader_begin(&c->reader, word->reply);
        speak(c);
        return NULL;
    }
    c->word++;
    if (c->word + 1 == options.script.n)
        sample_add(&self.work, now_ns() - c->started);
    start_word(c);
    return NULL;
}

static bool is_retrieval(const struct client *c)
{
    return strcmp(options.script.words[c->word]->name, "retr") == 0;
}

/* Octets from the server; words on what is wrong with them. */
static const char *listen_to(struct client *c, const char *octets, size_t size)
{
    while (size > 0) {
        size_t used, text_size;
        const char *text = NULL, *error;
        if (c->phase != TALKING || c->held)
            return "octets that nobody asked for";
        bool whole = reader_take(&c->reader, octets, size, &used, &text, &text_size);
        if (whole && is_retrieval(c)) /* without the line that ends it */
            c->octets += c->reader.text_octets;
        if (self.digest && text_size > 0 && is_retrieval(c))
            EVP_DigestUpdate(self.digest, text, text_size);
        octets += used;
        size -= used;
        if (whole && (error = heard(c)) != NULL)
            return error;
    }
    return NULL;
}

/* How many octets came or went; 0: none now, wait for `events`; -1: the end. */
static ssize_t tls_result(struct client *c, int result, uint32_t *events)
{
    switch (SSL_get_error(c->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        *events = EPOLLIN;
        return 0;
    case SSL_ERROR_WANT_WRITE:
        *events = EPOLLOUT;
        return 0;
    default:
        ERR_clear_error();
        return -1;
    }
}

static ssize_t receive(struct client *c, uint32_t *events)
{
    if (c->ssl) {
        int got = SSL_read(c->ssl, input, sizeof input);
        return got > 0 ? got : tls_result(c, got, events);
    }
    ssize_t got = recv(c->fd, input, sizeof input, 0);
    *events = EPOLLIN;
    return got > 0 ? got : got < 0 && errno == EAGAIN ? 0 : -1;
}

static ssize_t transmit(struct client *c, uint32_t *events)
{
    const char *from = c->out + c->out_at;
    size_t size = c->out_size - c->out_at;
    if (c->ssl) {
        int got = SSL_write(c->ssl, from, (int)size);
        return got > 0 ? got : tls_result(c, got, events);
    }
    ssize_t got = send(c->fd, from, size, MSG_NOSIGNAL);
    *events = EPOLLOUT;
    return got > 0 ? got : got < 0 && errno == EAGAIN ? 0 : -1;
}

/* True: the socket takes no more now; words in `error` when it never will. */
static bool flush(struct client *c, uint32_t *events, const char **error)
{
    while (c->out_at < c->out_size) {
        ssize_t got = transmit(c, events);
        if (got < 0)
            *error = "the server is gone";
        if (got <= 0)
            return true;
        c->out_at += (size_t)got;
    }
    c->out_at = c->out_size = 0;
    return false;
}

static bool is_right(const struct client *c)
{
    return options.octets == 0 || c->octets == options.octets;
}

static void talk(struct client *c)
{
    const char *error = NULL;
    for (;;) {
        uint32_t events = EPOLLIN, in_events = EPOLLIN;
        bool full = flush(c, &events, &error);
        ssize_t got = error ? 0 : receive(c, &in_events);
        if (got < 0 && c->phase == LEAVING) {
            self.octets += c->octets;
            finish(c, is_right(c) ? NULL : "wrong octets");
            return;
        }
        if (got < 0 && !error)
            error = "the server closed";
        if (!error && got > 0)
            error = listen_to(c, input, (size_t)got);
        if (error) {
            finish(c, error);
            return;
        }
        if (got == 0) {
            watch(c, full ? events | EPOLLIN : in_events);
            return;
        }
    }
}

static void shake_hands(struct client *c)
{
    int result = SSL_do_handshake(c->ssl);
    if (result == 1) {
        self.reused += SSL_session_reused(c->ssl) == 1;
        c->phase = TALKING;
        start_word(c);
        talk(c);
        return;
    }
    uint32_t events = EPOLLIN;
    if (tls_result(c, result, &events) < 0)
        finish(c, "TLS handshake failed");
    else
        watch(c, events);
}

static void on_event(struct client *c)
{
    if (c->phase == UNCONNECTED) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) {
            finish(c, strerror(error));
            return;
        }
        c->phase = options.tls ? SHAKING : TALKING;
        if (c->phase == TALKING)
            start_word(c);
    }
    if (c->phase == SHAKING)
        shake_hands(c);
    else
        talk(c);
}

static int keep_ticket(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(self.ticket);
    self.ticket = session;
    return 1;
}

static int open_socket(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int one = 1, family = options.path ? AF_UNIX : AF_INET;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int result;
    if (options.path) {
        snprintf(un.sun_path, sizeof un.sun_path, "%s", options.path);
        result = connect(fd, (struct sockaddr *)&un, sizeof un);
    } else {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        result = connect(fd, (struct sockaddr *)&in, sizeof in);
    }
    if (result < 0 && errno != EINPROGRESS)
        die("connect");
    return fd;
}

static void begin(struct client *c)
{
    self.sessions_begun++;
    self.live++;
    c->user = choose_user(c);
    c->started = now_ns();
    c->phase = UNCONNECTED;
    c->word = c->sent = c->heard = 0;
    c->messages = 0;
    c->held = false;
    c->out_size = c->out_at = 0;
    c->octets = 0;
    c->events = 0;
    c->fd = open_socket();
    if (options.tls) {
        c->ssl = SSL_new(self.context);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_connect_state(c->ssl);
        if (options.tls == TLS_RESUME && self.ticket)
            SSL_set_session(c->ssl, self.ticket);
    }
    watch(c, EPOLLOUT | EPOLLIN);
}

/* A letter of so many octets, in lines, some of which begin with a dot. */
static void make_message(size_t size)
{
    static const char line[] =
        "The quick brown fox jumps over the lazy dog, and does so again and again.\r\n";
    static const char head[] = "From: bench@bench.example\r\nTo: u@bench.example\r\n"
                               "Subject: a letter\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\n";
    self.message = grow(NULL, size + 1024);
    memcpy(self.message, head, sizeof head - 1);
    self.message_size = sizeof head - 1;
    while (self.message_size < size) {
        memcpy(self.message + self.message_size, line, sizeof line - 1);
        self.message_size += sizeof line - 1;
    }
    memcpy(self.message + self.message_size, ".\r\n", 3);
    self.message_size += 3;
}

static void set_up_tls(void)
{
    self.context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(self.context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(self.context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                       SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(self.context, 1);
    if (options.tls == TLS_RESUME) {
        SSL_CTX_set_session_cache_mode(self.context,
                                       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(self.context, keep_ticket);
    }
}

static _Noreturn void usage(void)
{
    fputs("usage: load [--host A] --port N | --unix PATH  [--tls none|full|resume] [--users N]\n"
          "  [--first N] [--prefix TEXT] [--concurrency N] [--seconds S | --sessions N]\n"
          "  [--pipeline] [--octets N] [--digest] [--size OCTETS] [--deliveries N] [--spread] "
          "SCRIPT\n",
          stderr);
    exit(64);
}

static void take_options(int argc, char **argv)
{
    static const struct option known[] = {{"host", 1, NULL, 'h'},
                                          {"port", 1, NULL, 'p'},
                                          {"unix", 1, NULL, 'u'},
                                          {"tls", 1, NULL, 't'},
                                          {"users", 1, NULL, 'n'},
                                          {"first", 1, NULL, 'f'},
                                          {"prefix", 1, NULL, 'x'},
                                          {"concurrency", 1, NULL, 'c'},
                                          {"seconds", 1, NULL, 's'},
                                          {"sessions", 1, NULL, 'k'},
                                          {"pipeline", 0, NULL, 'l'},
                                          {"octets", 1, NULL, 'o'},
                                          {"digest", 0, NULL, 'd'},
                                          {"size", 1, NULL, 'z'},
                                          {"deliveries", 1, NULL, 'm'},
                                          {"spread", 0, NULL, 'r'},
                                          {NULL, 0, NULL, 0}};
    size_t size = 10000;
    const char *bad;
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        unsigned number = optarg ? (unsigned)strtoul(optarg, NULL, 10) : 0;
        switch (o) {
        case 'h':
            options.host = optarg;
            break;
        case 'p':
            options.port = number;
            break;
        case 'u':
            options.path = optarg;
            break;
        case 't':
            options.tls = strcmp(optarg, "full") == 0     ? TLS_FULL
                          : strcmp(optarg, "resume") == 0 ? TLS_RESUME
                                                          : TLS_NONE;
            break;
        case 'n':
            options.users = number;
            break;
        case 'f':
            options.first = number;
            break;
        case 'x':
            options.prefix = optarg;
            break;
        case 'c':
            options.concurrency = number;
            break;
        case 's':
            options.seconds = strtod(optarg, NULL);
            break;
        case 'k':
            options.sessions = number;
            break;
        case 'l':
            options.pipeline = true;
            break;
        case 'o':
            options.octets = strtoull(optarg, NULL, 10);
            break;
        case 'd':
            options.digest = true;
            break;
        case 'z':
            size = number;
            break;
        case 'm':
            options.deliveries = number;
            break;
        case 'r': /* each delivery of a session to the next user */
            options.spread = true;
            break;
        default:
            usage();
        }
    }
    if (optind != argc - 1 || !options.concurrency ||
        !script_parse(argv[optind], &options.script, &bad))
        usage();
    if (options.users < options.concurrency)
        options.users = options.concurrency;
    make_message(size);
}

static void release(struct client *clients)
{
    self.released = true;
    for (unsigned i = 0; i < options.concurrency; i++)
        if (clients[i].held) {
            clients[i].held = false;
            start_word(&clients[i]);
            talk(&clients[i]);
        }
}

/* Until all sessions are over. Held ones go on when our standard input ends. */
static void run(struct client *clients)
{
    struct epoll_event ready[256];
    while (self.live > 0) {
        int n = epoll_wait(self.epoll, ready, 256, PATIENCE_MS);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        if (n == 0 && self.held == 0) {
            self.errors += self.live;
            snprintf(self.error, sizeof self.error, "%u sessions hang", self.live);
            return;
        }
        for (int i = 0; i < n; i++) {
            if (ready[i].data.ptr) {
                on_event(ready[i].data.ptr);
            } else if (read(STDIN_FILENO, input, sizeof input) <= 0) {
                epoll_ctl(self.epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
                release(clients);
            }
        }
    }
}

static void report(double seconds)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"sessions\": %llu, \"errors\": %llu, \"error\": \"%s\", \"seconds\": %.6f, "
           "\"octets\": %llu, \"reused\": %llu, \"deliveries\": %llu, \"own_cpu\": %.6f",
           (unsigned long long)self.sessions, (unsigned long long)self.errors, self.error, seconds,
           (unsigned long long)self.octets, (unsigned long long)self.reused,
           (unsigned long long)self.deliveries,
           (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    sample_print("login_ms", &self.login);
    sample_print("work_ms", &self.work);
    if (self.digest) {
        unsigned char octets[EVP_MAX_MD_SIZE];
        unsigned size = 0;
        EVP_DigestFinal_ex(self.digest, octets, &size);
        printf(", \"digest\": \"");
        for (unsigned i = 0; i < size; i++)
            printf("%02x", octets[i]);
        printf("\"");
    }
    printf("}\n");
}

int main(int argc, char **argv)
{
    take_options(argc, argv);
    struct client *clients = calloc(options.concurrency, sizeof *clients);
    struct epoll_event in = {.events = EPOLLIN};
    self.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || self.epoll < 0)
        die("start");
    if (options.tls)
        set_up_tls();
    if (options.digest && (self.digest = EVP_MD_CTX_new()) != NULL)
        EVP_DigestInit_ex(self.digest, EVP_sha256(), NULL);
    epoll_ctl(self.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &in); /* not if it is a file */
    self.begun = now_ns();
    self.deadline = self.begun + (uint64_t)(options.seconds * 1e9);
    for (unsigned i = 0; i < options.concurrency; i++) {
        clients[i].slot = i;
        if (options.seconds > 0 || self.sessions_begun < options.sessions)
            begin(&clients[i]);
    }
    run(clients);
    report((double)(now_ns() - self.begun) / 1e9);
    return self.errors > 0;
}
