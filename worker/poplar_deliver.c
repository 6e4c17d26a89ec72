/*
 * poplar_deliver.c - poplar-deliver: a message on standard input into somebody's maildrop, for
 * transports that can run a program but speak no LMTP: .forward, procmail, mailbox_command, cron.
 *
 * Run by anybody, as himself, without any privilege: it speaks LMTP (RFC 2033) to poplard's socket,
 * and the server decides by its uid whose maildrop it may reach. The exit status is one of
 * sysexits.h, for the transport. Must never say that a message is delivered before the server did,
 * nor end one that it could not read to its end.
 */
#include "daemon/base.h"
#include "daemon/configfile.h"
#include "daemon/proto.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    PATIENCE_S = 600,
    REPLY_MAX = 1024,
    BEGINNING_MAX = 1024,
    SENDER_SIZE = PROTO_RECIPIENT_MAX + 1
};

static const char usage[] =
    "usage: poplar-deliver [-f SENDER] [--config FILE | --socket PATH] USER\n"
    "Put the message on standard input into USER's maildrop.\n"
    "  -f, --from SENDER  the envelope sender; without it, that of a \"From \" line or "
    "Return-Path\n"
    "                     before the message, or none (<>)\n"
    "  --config FILE      take the socket's path from here, not from " POPLAR_CONFIG "\n"
    "  --socket PATH      poplard's LMTP socket\n"
    "  -V, --version; -h, --help\n";

struct options {
    const char *sender, *config, *socket, *user;
};

/* The server's end: a stream to read replies from, and one to write to. */
struct server {
    FILE *in, *out;
    char reply[REPLY_MAX]; /* the last one's last line */
};

static void parse_options(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"from", required_argument, NULL, 'f'},   {"config", required_argument, NULL, 'c'},
        {"socket", required_argument, NULL, 's'}, {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "f:hV", known, NULL)) != -1) {
        switch (option) {
        case 'f':
            options->sender = optarg;
            break;
        case 'c':
            options->config = optarg;
            break;
        case 's':
            options->socket = optarg;
            break;
        case 'V':
            puts("poplar-deliver " POPLAR_VERSION);
            exit(base_printed(EX_OK));
        case 'h':
            fputs(usage, stdout);
            exit(base_printed(EX_OK));
        default:
            fputs(usage, stderr);
            exit(EX_USAGE);
        }
    }
    bool empty = (options->config && !*options->config) || (options->socket && !*options->socket);
    if (argc - optind != 1 || (options->config && options->socket) || empty) {
        fputs(usage, stderr);
        exit(EX_USAGE);
    }
    options->user = argv[optind];
}

/* What is wrong with a configuration is not the message's fault: the transport keeps it. */
static struct config *read_config(const struct options *options, const char *file)
{
    char error[2048];
    struct config *config = options->config ? configfile_read(file, error, sizeof error)
                                            : configfile_read_visible(file, error, sizeof error);
    if (!config)
        fatal(EX_TEMPFAIL, "%s", error);
    return config;
}

static char *find_socket(const struct options *options)
{
    if (options->socket)
        return base_strdup(options->socket);
    const char *file = options->config ? options->config : POPLAR_CONFIG;
    struct config *config = read_config(options, file);
    if (config->listen.lmtp.n == 0)
        fatal(EX_TEMPFAIL, "%s: [listen] lmtp is empty; name a socket by --socket", file);
    char *path = base_strdup(config->listen.lmtp.items[0]);
    config_free(config);
    return path;
}

static const char hangs[] = "no answer for ten minutes; does poplard hang? restart it";

static void connect_to(struct server *server, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    if (!base_copy(address.sun_path, sizeof address.sun_path, path))
        fatal(EX_USAGE, "%s: too long for the path of a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected =
        fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 && /* of this: */
        connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (!connected && errno == EAGAIN) /* as many wait as may */
        fatal(EX_TEMPFAIL, "%s: %s", path, hangs);
    if (!connected)
        fatal(EX_TEMPFAIL, "%s: %s; is poplard running?", path, strerror(errno));
    server->in = fdopen(fd, "r");
    server->out = fdopen(dup(fd), "w");
    if (!server->in || !server->out)
        fatal(EX_TEMPFAIL, "%s", strerror(errno));
}

/* A reply to its last line; its code. Whatever keeps it from us, nothing was delivered. */
static int hear(struct server *server)
{
    char *line = server->reply;
    fflush(server->out); /* what did not go has no answer */
    do {
        if (!fgets(line, REPLY_MAX, server->in))
            fatal(EX_TEMPFAIL, "%s",
                  ferror(server->in) && errno == EAGAIN ? hangs : "the server is gone");
    } while (strlen(line) > 3 && line[3] == '-');
    line[strcspn(line, "\r\n")] = '\0';
    return atoi(line);
}

static bool reply_has(const struct server *server, const char *enhanced)
{
    return strlen(server->reply) > 4 && strncmp(server->reply + 4, enhanced, strlen(enhanced)) == 0;
}

/* The transport's view of a refusal. */
static int status_of(const struct server *server, int code)
{
    if (code / 100 != 5)
        return EX_TEMPFAIL;
    if (reply_has(server, "5.1.1"))
        return EX_NOUSER;
    if (reply_has(server, "5.7.1"))
        return EX_NOPERM;
    if (reply_has(server, "5.2.2"))
        return EX_CANTCREAT;
    if (reply_has(server, "5.1.3") || reply_has(server, "5.1.7") || reply_has(server, "5.6.7"))
        return EX_DATAERR;
    return EX_UNAVAILABLE;
}

/* Who pipes a message in is told by the exit status, and has to come to the end of it first: a pipe
 * that breaks is to some a failure that passes, whatever the status. Nobody types in vain. */
static void hear_out(void)
{
    char octets[4096];
    while (!isatty(STDIN_FILENO) && fread(octets, 1, sizeof octets, stdin) > 0)
        ;
}

_Noreturn static void give_up(const struct server *server, int code)
{
    char seen[REPLY_MAX];
    hear_out();
    base_escape(seen, sizeof seen, server->reply);
    fatal(status_of(server, code), "%s", seen);
}

static void expect(struct server *server, int expected)
{
    int code = hear(server);
    if (code / 100 != expected)
        give_up(server, code);
}

static bool has_high_bit(const char *text)
{
    while (*text && !((unsigned char)*text & 0x80))
        text++;
    return *text;
}

static bool has_control(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return true;
    return false;
}

/* An address in brackets, its local part quoted where it must be (RFC 5321 section 4.1.2). Brackets
 * that are there already do not count. */
static void put_path(FILE *out, const char *address)
{
    size_t size = strlen(address);
    if (size >= 2 && address[0] == '<' && address[size - 1] == '>') {
        address++;
        size -= 2;
    }
    const char *at = memrchr(address, '@', size);
    size_t local = at ? (size_t)(at - address) : size;
    size_t plain = strcspn(address, "<>()[],;:@\\\" ");
    bool quoted = size > 0 && (plain < local || local == 0) && address[0] != '"';
    fputc('<', out);
    if (quoted)
        fputc('"', out);
    for (size_t i = 0; i < local; i++) {
        if (quoted && (address[i] == '"' || address[i] == '\\'))
            fputc('\\', out);
        fputc(address[i], out);
    }
    if (quoted)
        fputc('"', out);
    fwrite(address + local, 1, size - local, out);
    fputc('>', out);
}

static int say_sender(struct server *server, const char *sender, bool utf8)
{
    fputs("MAIL FROM:", server->out);
    put_path(server->out, sender);
    fprintf(server->out, " BODY=8BITMIME%s\r\n", utf8 ? " SMTPUTF8" : "");
    return hear(server);
}

/* `found` is the sender as the message has it: one that is no address is no reason to send the
 * message back to it. */
static void begin(struct server *server, const struct options *options, const char *found)
{
    const char *sender = options->sender ? options->sender : found;
    if (strcmp(sender, "MAILER-DAEMON") == 0) /* a transport's word for nobody */
        sender = "";
    bool utf8 = has_high_bit(sender) || has_high_bit(options->user);
    if (has_control(sender) || has_control(options->user) || !*options->user)
        fatal(EX_DATAERR, "an address with control characters, or none");
    expect(server, 2);
    fputs("LHLO localhost\r\n", server->out);
    expect(server, 2);
    int code = say_sender(server, sender, utf8);
    if (code / 100 == 5 && sender == found && *found)
        code = say_sender(server, "", utf8);
    if (code / 100 != 2)
        give_up(server, code);
    fputs("RCPT TO:", server->out);
    put_path(server->out, options->user);
    fputs("\r\n", server->out);
    expect(server, 2);
    fputs("DATA\r\n", server->out);
    expect(server, 3);
}

/* The beginning of the message: its first line, or what fits of a longer one. */
struct beginning {
    size_t size;
    char octets[BEGINNING_MAX];
};

static bool is_whole_line(const struct beginning *first)
{
    return first->size > 0 && first->octets[first->size - 1] == '\n';
}

static void read_beginning(struct beginning *first)
{
    int c;
    first->size = 0;
    while (first->size < BEGINNING_MAX && !is_whole_line(first) && (c = getchar()) != EOF)
        first->octets[first->size++] = (char)c;
}

/* An address that ends with the first blank outside quotes. */
static void take_sender(const char *text, size_t size, char sender[SENDER_SIZE])
{
    bool quoted = false;
    size_t n = 0;
    for (; n < size && text[n] != '\r' && text[n] != '\n' && (quoted || text[n] != ' '); n++)
        quoted ^= text[n] == '"' && (n == 0 || text[n - 1] != '\\');
    if (n >= 2 && text[0] == '<' && text[n - 1] == '>') {
        text++;
        n -= 2;
    }
    if (n > PROTO_RECIPIENT_MAX || quoted)
        return;
    memcpy(sender, text, n);
    sender[n] = '\0';
    if (strlen(sender) < n || has_control(sender))
        sender[0] = '\0';
}

/* Whose the message is by its first line. Programs that keep mail in mbox files put a "From " line
 * there, which is none of the message and goes; final delivery elsewhere put a Return-Path, in
 * whose place the server puts its own. */
static void find_sender(struct beginning *first, char sender[SENDER_SIZE])
{
    static const char mbox[] = "From ", field[] = "Return-Path:";
    const char *text = first->octets;
    size_t size = first->size, skip = strlen(field);
    if (size >= strlen(mbox) && memcmp(text, mbox, strlen(mbox)) == 0) {
        take_sender(text + strlen(mbox), size - strlen(mbox), sender);
        for (int c = is_whole_line(first) ? '\n' : 0; c != '\n' && c != EOF;)
            c = getchar();
        first->size = 0;
    } else if (size >= skip && strncasecmp(text, field, skip) == 0) {
        while (skip < size && isblank((unsigned char)text[skip]))
            skip++;
        take_sender(text + skip, size - skip, sender);
    }
}

/* The message on its way out, an octet at a time. */
struct copy {
    FILE *out;
    int last; /* the octet before; a line begins after LF */
};

static void put_octet(struct copy *copy, int c)
{
    if (c == '.' && copy->last == '\n')
        putc_unlocked('.', copy->out);
    if (c == '\n' && copy->last != '\r')
        putc_unlocked('\r', copy->out);
    putc_unlocked(c, copy->out);
    copy->last = c;
}

/* Line ends become CR LF, dots at the beginning of lines double (RFC 5321 section 4.5.2). */
static void send_message(struct server *server, const struct beginning *first)
{
    struct copy copy = {server->out, '\n'};
    int c;
    for (size_t i = 0; i < first->size; i++)
        put_octet(&copy, (unsigned char)first->octets[i]);
    while (!ferror(server->out) && (c = getc_unlocked(stdin)) != EOF)
        put_octet(&copy, c);
    if (ferror(stdin))
        fatal(EX_TEMPFAIL, "the message cannot be read: %s", strerror(errno));
    if (copy.last != '\n') {
        put_octet(&copy, '\r');
        put_octet(&copy, '\n');
    }
    fputs(".\r\n", server->out);
    expect(server, 2);
    fputs("QUIT\r\n", server->out);
    fflush(server->out); /* what is said to that changes nothing */
}

int main(int argc, char **argv)
{
    struct options options = {0};
    struct server server;
    struct beginning first;
    char sender[SENDER_SIZE] = "";
    base_hold_standard();
    parse_options(argc, argv, &options);
    signal(SIGPIPE, SIG_IGN);
    char *path = find_socket(&options);
    read_beginning(&first);
    find_sender(&first, sender);
    connect_to(&server, path);
    free(path);
    begin(&server, &options, sender);
    send_message(&server, &first);
    fclose(server.in);
    fclose(server.out);
    return EX_OK;
}
