/*
 * converse.c - walks conversation files (README.md in this folder says what may stand in them)
 * against a real nursery and a real worker in its real sandbox. For tests; plays the master, auth
 * and the client, runs as whoever runs the tests, opens no port.
 *
 *     converse [FILE or FOLDER]...     tests/protocol when there is none
 *
 * One test a file. A conversation that goes another way names file and line, what was expected and
 * what came.
 */
#include "tests/unit/worker_harness.h"

#include <dirent.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sysexits.h>

enum {
    FILES_MAX = 255,
    SETTINGS_MAX = 15,
    ACCOUNTS_MAX = 16,
    NAMES_MAX = 16,
    FILE_MAX = 1 << 16,   /* octets */
    OCTETS_MAX = 1 << 16, /* of what is said at once, a line heard, a message */
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

static struct walk {
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
} w;

static struct harness h;

static _Noreturn void wrong(const char *format, ...) PRINTF(1, 2);

static _Noreturn void wrong(const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_error("%s:%d: %s\n", w.path, w.line, text);
    w.finished = true; /* no need to say again where */
    fail();
    abort();
}

/* Octets as a person may read them. Valid until the next call. */
static const char *shown(const char *octets, size_t size)
{
    static char text[1024];
    size_t n = 0;
    for (size_t i = 0; i < size && n < sizeof text - 8; i++) {
        unsigned char c = (unsigned char)octets[i];
        if (c >= 0x20 && c != 0x7f)
            text[n++] = (char)c;
        else
            n += (size_t)snprintf(text + n, 5, "\\x%02x", c);
    }
    text[n] = '\0';
    return text;
}

static void add(struct octets *to, const char *octets, size_t size)
{
    if (size > sizeof to->at - to->size)
        wrong("too long");
    memcpy(to->at + to->size, octets, size);
    to->size += size;
}

/* ---- escapes: \r \n \t \0 \\ \xNN, and \[N TEXT], which is TEXT N times ---- */

static const char *add_escaped(struct octets *to, const char *text, char end);

static const char *add_repeated(struct octets *to, const char *text)
{
    char *from;
    const char *end = text;
    unsigned long times = strtoul(text, &from, 10);
    if (*from != ' ' || times == 0)
        wrong("a repetition is \\[N TEXT]");
    while (times-- > 0)
        end = add_escaped(to, from + 1, ']');
    return end + 1;
}

static const char *add_hex(struct octets *to, const char *text)
{
    char digits[3] = {text[0], text[0] ? text[1] : '\0', '\0'}, *end;
    char c = (char)strtoul(digits, &end, 16);
    if (end != digits + 2)
        wrong("an octet is \\xNN");
    add(to, &c, 1);
    return text + 2;
}

/* Up to `end`, which must be there; where it is. */
static const char *add_escaped(struct octets *to, const char *text, char end)
{
    static const char letters[] = "rnt0\\", octets[] = "\r\n\t\0\\";
    while (*text && *text != end) {
        const char *letter = *text == '\\' && text[1] ? strchr(letters, text[1]) : NULL;
        if (*text != '\\') {
            add(to, text++, 1);
        } else if (letter) {
            add(to, &octets[letter - letters], 1);
            text += 2;
        } else if (text[1] == 'x') {
            text = add_hex(to, text + 2);
        } else if (text[1] == '[') {
            text = add_repeated(to, text + 2);
        } else {
            wrong("not an escape: %.2s", text);
        }
    }
    if (*text != end)
        wrong("'%c' is missing", end);
    return text;
}

/* Up to the next blank that is not in a repetition. */
static size_t word_size(const char *text)
{
    size_t size = 0;
    while (text[size] && text[size] != ' ')
        size += text[size] == '\\' && text[size + 1] == '[' ? strcspn(text + size, "]") : 1;
    return size;
}

/* The next word of `text`, with its escapes resolved; freed by the caller. */
static char *next_word(const char **text)
{
    static struct octets word;
    size_t size = word_size(*text);
    if (size == 0)
        wrong("an argument is missing");
    char *raw = base_format("%.*s", (int)size, *text);
    *text += size + strspn(*text + size, " ");
    word.size = 0;
    add_escaped(&word, raw, '\0');
    add(&word, "", 1);
    free(raw);
    return base_strdup(word.at);
}

/* ---- master and auth ---- */

/* The outcome of this name; LOGIN_OUTCOMES if there is none. */
static unsigned find_outcome(const char *name)
{
    unsigned outcome = 0;
    while (outcome < LOGIN_OUTCOMES && strcmp(name, proto_outcome_name(outcome)) != 0)
        outcome++;
    return outcome;
}

/* Called with the credentials in hand: what auth says to them. "last" is a denial after which the
 * master wants the connection closed, "dies" none at all. */
static void decide(struct harness *harness)
{
    struct played *auth = &harness->auth;
    const char *answer = "denied";
    for (size_t i = 0; i < w.n_accounts; i++)
        if (strcmp(auth->user, w.accounts[i].name) == 0 &&
            strcmp(auth->secret, w.accounts[i].secret) == 0)
            answer = w.accounts[i].answer;
    auth->last = strcmp(answer, "last") == 0;
    auth->dies = strcmp(answer, "dies") == 0;
    auth->verdict = auth->last || auth->dies ? (unsigned)LOGIN_DENIED : find_outcome(answer);
}

static void begin(void)
{
    if (w.begun)
        return;
    w.begun = true;
    if (w.without_certificate)
        harness_start_clear(&h, w.settings);
    else
        harness_start(&h, w.settings);
}

static void connect_client(void)
{
    harness_connect(&h, w.door, w.peer);
    w.connected = true;
    h.auth.while_deciding = decide;
    h.auth.refusal = w.refusal;
}

static void deliver(void)
{
    if (!w.mailing)
        return;
    begin();
    harness_deliver_octets(&h, w.mail.at, w.mail.size);
    w.mailing = false;
    w.mail.size = 0;
}

/* Before anything is said or heard. */
static void in_session(void)
{
    deliver();
    begin();
    if (h.client >= 0)
        return;
    if (w.connected)
        wrong("the session is over; 'again' begins another");
    connect_client();
}

/* ---- saying ---- */

/* Until the worker has taken what was sent, or answers instead. */
static void await_taken(void)
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

static void send_said(void)
{
    in_session();
    size_t step = w.octet_by_octet ? 1 : w.say.size;
    for (size_t at = 0; at < w.say.size; at += step) {
        say_octets(&h, w.say.at + at, step);
        if (w.octet_by_octet)
            await_taken();
    }
    w.say.size = 0;
}

static void run_say(const char *text)
{
    add(&w.say, text, strlen(text));
    add(&w.say, "\r\n", 2);
}

static void run_say_raw(const char *text)
{
    add_escaped(&w.say, text, '\0');
}

static void run_cut(const char *text)
{
    (void)text;
    send_said();
    await_taken();
}

static void run_split(const char *text)
{
    (void)text;
    send_said();
    w.octet_by_octet = true;
}

static void run_whole(const char *text)
{
    (void)text;
    send_said();
    w.octet_by_octet = false;
}

/* ---- hearing ---- */

/* What {name} stands for must be there: the same text as before, or a new one that no other name
 * stands for. Its size, 0 if it is not. */
static size_t match_name(const char *name, size_t name_size, const char *line)
{
    size_t size = 0;
    while (line[size] > 0x20 && line[size] < 0x7f)
        size++;
    if (size == 0 || size > UIDL_MAX || name_size >= sizeof w.names[0].name)
        return 0;
    for (size_t i = 0; i < w.n_names; i++) {
        const struct named *n = &w.names[i];
        bool same_text = strlen(n->text) == size && memcmp(n->text, line, size) == 0;
        if (strlen(n->name) == name_size && memcmp(n->name, name, name_size) == 0)
            return same_text ? size : 0;
        if (same_text)
            return 0;
    }
    if (w.n_names == NAMES_MAX)
        wrong("too many names");
    struct named *n = &w.names[w.n_names++];
    snprintf(n->name, sizeof n->name, "%.*s", (int)name_size, name);
    snprintf(n->text, sizeof n->text, "%.*s", (int)size, line);
    return size;
}

static bool match(const char *pattern, const char *line)
{
    size_t n_names = w.n_names;
    for (;;) {
        const char *end = *pattern == '{' ? strchr(pattern, '}') : NULL;
        if (pattern[0] == '*' && pattern[1] == '\0')
            return true;
        if (end) {
            size_t size = match_name(pattern + 1, (size_t)(end - pattern - 1), line);
            if (size == 0)
                break;
            pattern = end + 1;
            line += size;
        } else if (*pattern != *line) {
            break;
        } else if (*pattern++ == '\0') {
            return true;
        } else {
            line++;
        }
    }
    w.n_names = n_names;
    return false;
}

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
    send_said();
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

static void run_hear(const char *pattern)
{
    char line[OCTETS_MAX];
    hear_one(line, sizeof line, pattern);
    if (!match(pattern, line))
        wrong("expected '%s', came '%s'", pattern, shown(line, strlen(line)));
}

static void run_hear_raw(const char *text)
{
    static struct octets expected;
    expected.size = 0;
    add_escaped(&expected, text, '\0');
    send_said();
    while (h.held < expected.size && !h.closed)
        harness_take(&h);
    size_t size = h.held < expected.size ? h.held : expected.size;
    if (size < expected.size || memcmp(h.input, expected.at, size) != 0)
        wrong("expected '%s', came '%s'", text, shown(h.input, size));
    h.held -= size;
    memmove(h.input, h.input + size, h.held);
}

/* Take in a multi-line reply up to its ".", once. */
static void run_list(const char *text)
{
    static char all[OCTETS_MAX];
    char line[OCTETS_MAX];
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
        if (match(pattern, line))
            return true;
    return false;
}

static void run_among(const char *pattern)
{
    if (!is_listed(pattern))
        wrong("not in the reply: '%s'", pattern);
}

static void run_lacks(const char *pattern)
{
    if (is_listed(pattern))
        wrong("in the reply: '%s'", pattern);
}

static void run_ascii(const char *text)
{
    run_list(text);
    for (const char *line = w.listed; line < w.listed_end; line += strlen(line) + 1)
        for (const char *c = line; *c; c++)
            if ((unsigned char)*c > 0x7f)
                wrong("not ASCII: '%s'", shown(line, strlen(line)));
}

/* The octets of a reply as RFC 1939 section 11 counts them. */
static void run_size(const char *pattern)
{
    size_t size = 0;
    char digits[24];
    run_list("");
    for (const char *line = w.listed; line < w.listed_end; line += strlen(line) + 1)
        size += strlen(line) + 2 - (line[0] == '.');
    snprintf(digits, sizeof digits, "%zu", size);
    if (!match(pattern, digits))
        wrong("expected a reply of %s octets, it has %s", pattern, digits);
}

/* ---- how connections begin and end ---- */

static void end_as(enum session_end end)
{
    expect_end_at(&h, end, w.path, w.line);
}

static void run_closed(const char *reason)
{
    char line[OCTETS_MAX];
    unsigned end = END_QUIT;
    while (*reason && end < END_REASONS && strcmp(proto_end_name(end), reason) != 0)
        end++;
    if (end == END_REASONS)
        wrong("not an end: %s", reason);
    send_said();
    hear(&h, line, sizeof line);
    if (line[0] || h.held > 0)
        wrong("expected the end, came '%s'", shown(line, strlen(line)));
    end_as((enum session_end)end);
}

/* At most a TLS alert, which OpenSSL sends on some errors and not on others: no text in the clear.
 */
static void run_alert(const char *text)
{
    (void)text;
    send_said();
    while (!h.closed)
        harness_take(&h);
    bool alert = h.held > 5 && h.input[0] == 0x15 && h.held == 5 + (size_t)h.input[4];
    if (h.held > 0 && !alert)
        wrong("expected a TLS alert, came '%s'", shown(h.input, h.held));
    end_as(END_TLS);
}

static void run_close(const char *text)
{
    (void)text;
    send_said();
    end_as(END_DISCONNECT);
}

static void run_again(const char *text)
{
    (void)text;
    deliver();
    if (h.client >= 0)
        wrong("the session before is not over");
    connect_client();
}

static void run_tls(const char *version)
{
    send_said();
    harness_start_tls(&h, NULL, strcmp(version, "1.2") == 0 ? TLS1_2_VERSION : 0);
    if (h.closed)
        wrong("the handshake failed");
}

/* The client forgets TLS; what it says from now on is not encrypted. */
static void run_clear(const char *text)
{
    (void)text;
    send_said();
    SSL_free(h.tls);
    SSL_CTX_free(h.tls_context);
    h.tls = NULL;
    h.tls_context = NULL;
}

/* ---- the head, and what the others do ---- */

static void run_set(const char *setting)
{
    if (w.begun || w.n_settings == SETTINGS_MAX)
        wrong("settings come first, %d at most", SETTINGS_MAX);
    w.settings[w.n_settings++] = base_strdup(setting);
}

static void run_certificate(const char *text)
{
    if (w.begun || strcmp(text, "none") != 0)
        wrong("'certificate none' comes first");
    w.without_certificate = true;
}

static void run_door(const char *name)
{
    bool tls = strcmp(name, "pop3s") == 0;
    if (!tls && strcmp(name, "pop3") != 0)
        wrong("a door is pop3 or pop3s");
    w.door = tls ? DOOR_POP3S : DOOR_POP3;
}

static void run_peer(const char *address)
{
    base_copy(w.peer, sizeof w.peer, address);
}

/* A later line for the same name and password replaces an earlier one. */
static void run_login(const char *text)
{
    if (w.n_accounts == ACCOUNTS_MAX)
        wrong("too many accounts");
    struct account *a = &w.accounts[w.n_accounts++];
    a->name = next_word(&text);
    a->secret = next_word(&text);
    a->answer = next_word(&text);
    if (find_outcome(a->answer) == LOGIN_OUTCOMES && strcmp(a->answer, "last") != 0 &&
        strcmp(a->answer, "dies") != 0)
        wrong("auth does not answer '%s'", a->answer);
}

static void run_master(const char *text)
{
    static const char *const words[] = {"willing", "busy", "throttled"};
    if (w.say.size > 0)
        send_said();
    for (uint32_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            h.auth.refusal = w.refusal = i;
            return;
        }
    }
    wrong("the master is willing, busy or throttled");
}

static void run_asked(const char *text)
{
    if (strcmp(text, "nothing") == 0) {
        if (h.auth.asked > 0)
            wrong("auth was asked about '%s'", h.auth.user);
        return;
    }
    char *mechanism = next_word(&text), *name = next_word(&text), *secret = next_word(&text);
    if (strcmp(mechanism, h.auth.mechanism) != 0 || strcmp(name, h.auth.user) != 0 ||
        strcmp(secret, h.auth.secret) != 0)
        wrong("auth was asked %s '%s' '%s'", h.auth.mechanism, h.auth.user, h.auth.secret);
    free(mechanism);
    free(name);
    free(secret);
}

static void run_mail(const char *text)
{
    (void)text;
    w.mailing = true;
}

static void run_mail_line(const char *text)
{
    if (!w.mailing)
        wrong("a message begins with 'mail'");
    add(&w.mail, text, strlen(text));
    add(&w.mail, "\r\n", 2);
}

static void run_mail_raw(const char *text)
{
    if (!w.mailing)
        wrong("a message begins with 'mail'");
    add_escaped(&w.mail, text, '\0');
}

static void run_messages(const char *text)
{
    unsigned long long there = harness_count(&h), expected = strtoull(text, NULL, 10);
    if (there != expected)
        wrong("expected %llu messages in the store, there are %llu", expected, there);
}

static void run_release(const char *text)
{
    (void)text;
    for (int i = 0; w.holding && i < MAILDROP_FILES; i++)
        close(w.held[i]);
    w.holding = false;
}

static void run_hold(const char *text)
{
    (void)text;
    begin();
    if (!harness_grant(&h, true, w.held))
        wrong("the maildrop is in use");
    w.holding = true;
}

static void run_sql(const char *text)
{
    if (w.say.size > 0)
        send_said();
    harness_sql(&h, text);
}

/* ---- the walk ---- */

static const struct step {
    const char *word;
    void (*run)(const char *text);
} steps[] = {
    {"set", run_set},
    {"certificate", run_certificate},
    {"door", run_door},
    {"peer", run_peer},
    {"login", run_login},
    {"mail", run_mail},
    {"M:", run_mail_line},
    {"M-raw:", run_mail_raw},
    {"C:", run_say},
    {"C-raw:", run_say_raw},
    {"cut", run_cut},
    {"split", run_split},
    {"whole", run_whole},
    {"S:", run_hear},
    {"S-raw:", run_hear_raw},
    {"S-lines", run_list},
    {"S-among:", run_among},
    {"S-lacks:", run_lacks},
    {"S-close", run_closed},
    {"S-alert", run_alert},
    {"TLS", run_tls},
    {"clear", run_clear},
    {"close", run_close},
    {"again", run_again},
    {"master", run_master},
    {"asked", run_asked},
    {"messages", run_messages},
    {"hold", run_hold},
    {"release", run_release},
    {"sql", run_sql},
    {"S-ascii", run_ascii},
    {"S-size", run_size},
};

/* Whether this looks at the multi-line reply that the line before looked at. */
static bool is_about_list(const char *word)
{
    static const char *const words[] = {"S-among:", "S-lacks:", "S-ascii", "S-size"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(word, words[i]) == 0)
            return true;
    return false;
}

static void walk_line(char *line)
{
    size_t size = strcspn(line, " ");
    const char *text = line + size + (line[size] ? 1 : 0);
    if (line[0] == '\0' || line[0] == '#')
        return;
    line[size] = '\0';
    if (strncmp(line, "M", 1) != 0)
        deliver();
    if (!is_about_list(line))
        w.listed = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        if (strcmp(line, steps[i].word) == 0) {
            steps[i].run(text);
            return;
        }
    }
    wrong("'%s' is not known here", line);
}

/* The whole file: the nursery's process must not share its offset. NULL and errno if it cannot be
 * read; freed by the caller. */
static char *read_file(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = base_alloc(FILE_MAX + 1);
    if (!file || (fread(text, 1, FILE_MAX, file) == 0 && ferror(file))) {
        free(text);
        text = NULL;
    }
    if (file)
        fclose(file);
    return text;
}

static void test_conversation(void **state)
{
    w = (struct walk){.path = *state, .door = DOOR_POP3, .peer = "192.0.2.7:4711"};
    h.client = h.worker.fd = h.exchange.fd = h.nursery.fd = -1;
    w.text = read_file(w.path);
    if (!w.text)
        wrong("%s", strerror(errno));
    for (char *line = w.text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        w.line++;
        walk_line(line);
    }
    if (h.client >= 0)
        wrong("the conversation ends before the session does");
    if (!w.connected)
        wrong("nothing was said");
    w.finished = true;
}

static int clean_up(void **state)
{
    (void)state;
    if (!w.finished)
        print_error("%s:%d: stopped here\n", w.path, w.line);
    run_release("");
    harness_hang_up(&h);
    channel_close(&h.worker);
    channel_close(&h.exchange);
    if (w.begun)
        harness_stop(&h);
    for (size_t i = 0; i < w.n_settings; i++)
        free((char *)(uintptr_t)w.settings[i]);
    for (size_t i = 0; i < w.n_accounts; i++) {
        free(w.accounts[i].name);
        free(w.accounts[i].secret);
        free(w.accounts[i].answer);
    }
    free(w.text);
    w = (struct walk){0};
    return 0;
}

/* The unused entries at the end are no tests to cmocka. */
static struct CMUnitTest tests[FILES_MAX];
static size_t n_tests;

static void add_file(const char *path)
{
    if (n_tests == FILES_MAX)
        fatal(EX_USAGE, "too many conversations");
    char *copy = base_strdup(path);
    const char *slash = strrchr(copy, '/');
    tests[n_tests++] = (struct CMUnitTest){.name = slash ? slash + 1 : copy,
                                           .test_func = test_conversation,
                                           .teardown_func = clean_up,
                                           .initial_state = copy};
}

static int is_conversation(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".txt") == 0;
}

static void add_path(const char *path)
{
    struct dirent **entries;
    int n = scandir(path, &entries, is_conversation, alphasort);
    if (n < 0)
        add_file(path);
    for (int i = 0; i < n; i++) {
        char *file = base_format("%s/%s", path, entries[i]->d_name);
        add_file(file);
        free(file);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        add_path("tests/protocol");
    for (int i = 1; i < argc; i++)
        add_path(argv[i]);
    int failed = cmocka_run_group_tests_name("conversations", tests, NULL, NULL);
    for (size_t i = 0; i < n_tests; i++)
        free(tests[i].initial_state);
    return failed > 0 || n_tests == 0;
}
