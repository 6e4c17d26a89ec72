/*
 * client.c - what the client of a conversation says, hears and does. For tests.
 */
#include "tests/protocol/walk.h"

#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>

/* ---- saying ---- */

/* Until the worker has taken what was sent, or answers instead. */
void client_await_taken(void)
{
    int left = 0;
    while (ioctl(h.client, SIOCOUTQ, &left) == 0 && left > 0) {
        struct pollfd watched[] = {{.fd = h.client, .events = POLLIN},
                                   {.fd = h.worker.fd, .events = POLLIN}};
        if (poll(watched, 2, 0) > 0 && watched[0].revents)
            return;
        if (watched[1].revents)
            played_master(&h);
        sched_yield();
    }
}

void client_send(void)
{
    world_in_session();
    size_t step = w.octet_by_octet ? 1 : w.say.size;
    for (size_t at = 0; at < w.say.size; at += step) {
        say_octets(&h, w.say.at + at, step);
        if (w.octet_by_octet)
            client_await_taken();
    }
    w.say.size = 0;
}

void run_say(const char *text)
{
    octets_add(&w.say, text, strlen(text));
    octets_add(&w.say, "\r\n", 2);
}

void run_say_raw(const char *text)
{
    octets_add_escaped(&w.say, text);
}

void run_cut(const char *text)
{
    (void)text;
    client_send();
    client_await_taken();
}

void run_split(const char *text)
{
    (void)text;
    client_send();
    w.octet_by_octet = true;
}

void run_whole(const char *text)
{
    (void)text;
    client_send();
    w.octet_by_octet = false;
}

/* ---- hearing ---- */

/* What holds for the first line of every reply, whatever it says. */
static void check_reply(const char *line, size_t size)
{
    static const char *const codes[] = {"[AUTH] ",     "[IN-USE] ",   "[LOGIN-DELAY] ",
                                        "[SYS/TEMP] ", "[SYS/PERM] ", "[UTF8] "};
    if (size > REPLY_MAX)
        wrong("a reply of %zu octets", size);
    for (size_t i = 0; i < size - 2; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            wrong("a control character: '%s'", shown(line, size));
    const char *text = strchr(line, ' ');
    if (!text || text[1] != '[')
        return;
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
        if (strncmp(text + 1, codes[i], strlen(codes[i])) == 0)
            return;
    wrong("an unknown response code: '%s'", shown(line, size));
}

static _Noreturn void closed_instead(const char *expected)
{
    while (h.worker.fd >= 0)
        harness_pump(&h, 0);
    wrong("expected '%s', the worker ended: %s %s", expected,
          h.summary.given ? proto_end_name(h.summary.end) : "without a word", h.summary.detail);
}

/* The next line, without its end; `expected` for the case that there is none. */
static void hear_one(char *line, size_t size, const char *expected)
{
    client_send();
    hear(&h, line, size);
    size_t length = strlen(line);
    if (length == 0)
        closed_instead(expected);
    if (length < 2 || line[length - 2] != '\r')
        wrong("a line without CRLF: '%s'", shown(line, length));
    if (strncmp(line, "+OK", 3) == 0 || strncmp(line, "-ERR", 4) == 0)
        check_reply(line, length);
    line[length - 2] = '\0';
}

void run_hear(const char *pattern)
{
    char line[HEARD_MAX];
    hear_one(line, sizeof line, pattern);
    if (!pattern_match(pattern, line))
        wrong("expected '%s', came '%s'", pattern, shown(line, strlen(line)));
}

void run_hear_raw(const char *text)
{
    static struct octets expected;
    expected.size = 0;
    octets_add_escaped(&expected, text);
    client_send();
    for (size_t at = 0; at < expected.size;) {
        while (h.held == 0 && !h.closed)
            harness_take(&h);
        size_t left = expected.size - at;
        size_t size = h.held < left ? h.held : left;
        if (size == 0 || memcmp(h.input, expected.at + at, size) != 0)
            wrong("expected '%s', came after %zu octets '%s'", text, at, shown(h.input, size));
        h.held -= size;
        memmove(h.input, h.input + size, h.held);
        at += size;
    }
}

/* Take in a multi-line reply up to its ".", once. */
void run_list(const char *text)
{
    static char all[HEARD_MAX];
    char line[HEARD_MAX];
    size_t size = 0;
    (void)text;
    if (w.listed)
        return;
    w.listed = all;
    for (;;) {
        hear_one(line, sizeof line, "a multi-line reply");
        if (strcmp(line, ".") == 0)
            break;
        size_t length = strlen(line) + 1;
        if (size + length >= sizeof all)
            wrong("the reply is too long");
        memcpy(all + size, line, length);
        size += length;
    }
    w.listed_end = all + size;
}

static bool is_listed(const char *pattern)
{
    run_list("");
    for (const char *line = w.listed; line < w.listed_end; line += strlen(line) + 1)
        if (pattern_match(pattern, line))
            return true;
    return false;
}

void run_among(const char *pattern)
{
    if (!is_listed(pattern))
        wrong("not in the reply: '%s'", pattern);
}

void run_lacks(const char *pattern)
{
    if (is_listed(pattern))
        wrong("in the reply: '%s'", pattern);
}

void run_ascii(const char *text)
{
    run_list(text);
    for (const char *line = w.listed; line < w.listed_end; line += strlen(line) + 1)
        for (const char *c = line; *c; c++)
            if ((unsigned char)*c > 0x7f)
                wrong("not ASCII: '%s'", shown(line, strlen(line)));
}

/* The octets of a reply as RFC 1939 section 11 counts them. */
void run_size(const char *pattern)
{
    size_t size = 0;
    char digits[24];
    run_list("");
    for (const char *line = w.listed; line < w.listed_end; line += strlen(line) + 1)
        size += strlen(line) + 2 - (line[0] == '.');
    snprintf(digits, sizeof digits, "%zu", size);
    if (!pattern_match(pattern, digits))
        wrong("expected a reply of %s octets, it has %s", pattern, digits);
}

/* ---- how connections begin and end ---- */

static void end_as(enum session_end end)
{
    expect_end_at(&h, end, w.path, w.line);
}

void run_closed(const char *reason)
{
    char line[HEARD_MAX];
    unsigned end = END_QUIT;
    while (*reason && end < END_REASONS && strcmp(proto_end_name(end), reason) != 0)
        end++;
    if (end == END_REASONS)
        wrong("not an end: %s", reason);
    client_send();
    hear(&h, line, sizeof line);
    if (line[0] || h.held > 0)
        wrong("expected the end, came '%s'", shown(line, strlen(line)));
    end_as((enum session_end)end);
}

/* At most a TLS alert, which OpenSSL sends on some errors only: no text in the clear. */
void run_alert(const char *text)
{
    (void)text;
    client_send();
    while (!h.closed)
        harness_take(&h);
    bool alert = h.held > 5 && h.input[0] == 0x15 && h.held == 5 + (size_t)h.input[4];
    if (h.held > 0 && !alert)
        wrong("expected a TLS alert, came '%s'", shown(h.input, h.held));
    end_as(END_TLS);
}

void run_close(const char *text)
{
    (void)text;
    client_send();
    end_as(END_DISCONNECT);
}

void run_again(const char *text)
{
    (void)text;
    world_deliver();
    if (h.client >= 0)
        wrong("the session before is not over");
    world_connect();
}

void run_tls(const char *version)
{
    client_send();
    harness_start_tls(&h, NULL, strcmp(version, "1.2") == 0 ? TLS1_2_VERSION : 0);
    if (h.closed)
        wrong("the handshake failed");
}

/* The client forgets TLS; what it says from now on is not encrypted. */
void run_clear(const char *text)
{
    (void)text;
    client_send();
    SSL_free(h.tls);
    SSL_CTX_free(h.tls_context);
    h.tls = NULL;
    h.tls_context = NULL;
}
