/*
 * lmtp.c - the loop and the commands of an LMTP session (RFC 2033, RFC 5321, RFC 3030). Runs in a
 * worker, inside its sandbox. Must never acknowledge a message to a recipient before it is on disk
 * there, nor take what follows a message, or a chunk, for anything but commands.
 */
#include "worker/lmtp.h"
#include "daemon/base.h"
#include "worker/lmtp_data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void answer(struct lmtp *l, enum lmtp_reply reply)
{
    struct session *s = l->s;
    if (lmtp_reply_is_bad(reply) && ++s->bad >= SESSION_BAD_AFTER_LOGIN) {
        reply = LMTP_TOO_MANY_BAD;
        session_end(s, END_BAD_COMMANDS);
    }
    stream_put_text(&s->stream, lmtp_reply_text(reply));
    stream_put_text(&s->stream, "\r\n");
}

static enum lmtp_reply reply_to_fault(enum lmtp_fault fault, enum lmtp_reply bad_path)
{
    switch (fault) {
    case LMTP_BAD_PATH:
        return bad_path;
    case LMTP_BAD_PARAMETER:
        return LMTP_UNKNOWN_PARAMETER;
    case LMTP_BAD_VALUE:
        return LMTP_PARAMETER_VALUE;
    default:
        return LMTP_SYNTAX;
    }
}

/* Forget the transaction. */
static void reset(struct lmtp *l)
{
    spool_clear(&l->spool);
    l->begun = l->chunked = l->too_large = l->has_nul = false;
    l->mail = (struct lmtp_mail){0};
    l->n = 0;
}

static void put_extensions(struct lmtp *l)
{
    struct stream *stream = &l->s->stream;
    stream_put_text(stream, "250-");
    stream_put_text(stream, l->s->config->server.hostname);
    stream_put_text(stream, "\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
                            "250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SIZE ");
    stream_put_number(stream, l->s->config->store.max_message);
    stream_put_text(stream, "\r\n");
}

static void run_lhlo(struct lmtp *l, const char *text)
{
    if (!lmtp_parse_name(text)) {
        answer(l, LMTP_SYNTAX);
        return;
    }
    base_copy(l->client, sizeof l->client, text);
    reset(l);
    put_extensions(l);
}

/* RFC 2033 section 4.1: they must not work. */
static void run_helo(struct lmtp *l, const char *text)
{
    (void)text;
    answer(l, LMTP_SAY_LHLO);
}

static void run_mail(struct lmtp *l, const char *text)
{
    struct lmtp_mail mail;
    enum lmtp_fault fault = lmtp_parse_mail(text, &mail);
    if (!*l->client) {
        answer(l, LMTP_LHLO_FIRST);
    } else if (l->begun) {
        answer(l, LMTP_MAIL_TWICE);
    } else if (fault != LMTP_PARSED) {
        answer(l, reply_to_fault(fault, LMTP_SENDER_SYNTAX));
    } else if (mail.size > l->s->config->store.max_message) {
        answer(l, LMTP_TOO_LARGE);
    } else {
        l->mail = mail;
        l->begun = true;
        answer(l, LMTP_SENDER_OK);
    }
}

/* One recipient's mail does not get in, for good or for now: into this session's totals. */
static void count_refusal(struct lmtp *l, enum lmtp_reply reply)
{
    if (lmtp_reply_text(reply)[0] == '4')
        l->s->deferred++;
    else
        l->s->deleted++;
}

static void run_rcpt(struct lmtp *l, const char *text)
{
    if (!l->begun) {
        answer(l, LMTP_MAIL_FIRST);
        return;
    }
    if (l->n == LMTP_RECIPIENTS_MAX) {
        answer(l, LMTP_TOO_MANY_RECIPIENTS);
        return;
    }
    struct lmtp_recipient *to = &l->to[l->n];
    enum lmtp_fault fault = lmtp_parse_rcpt(text, &to->path);
    if (fault != LMTP_PARSED) {
        answer(l, reply_to_fault(fault, LMTP_RECIPIENT_SYNTAX));
        return;
    }
    enum lmtp_reply reply = lmtp_check_recipient(l, to);
    if (l->s->end != 0)
        return;
    if (reply == LMTP_RECIPIENT_OK) {
        l->n++;
        l->mail.utf8 |= to->path.utf8;
    } else
        count_refusal(l, reply);
    answer(l, reply);
}

/* The reply to this recipient was found out before, when an earlier one has the same maildrop. */
static const struct lmtp_recipient *find_same(const struct lmtp *l, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (strcmp(l->to[i].name, l->to[at].name) == 0)
            return &l->to[i];
    return NULL;
}

/* What stands against the message so far, whoever it is for; LMTP_OK: nothing. */
static enum lmtp_reply find_hindrance(const struct lmtp *l)
{
    if (l->too_large)
        return LMTP_TOO_LARGE;
    if (l->has_nul)
        return LMTP_NUL;
    if (l->spool.error != 0)
        return l->spool.error == ENOSPC || l->spool.error == EDQUOT ? LMTP_NO_ROOM : LMTP_TRY_LATER;
    return LMTP_OK;
}

static enum lmtp_reply deliver_one(struct lmtp *l, const struct lmtp_recipient *to)
{
    enum lmtp_reply hindrance = find_hindrance(l);
    return hindrance == LMTP_OK ? lmtp_deliver(l, to) : hindrance;
}

/* The whole message is here: one reply a recipient, in their order, each after its own commit and
 * sent at once (RFC 2033 section 4.2). Who has left hears none, and comes again for the rest: it
 * would be there twice. */
static void finish_message(struct lmtp *l)
{
    enum lmtp_reply replies[LMTP_RECIPIENTS_MAX];
    for (size_t i = 0; i < l->n && l->s->end == 0 && l->s->stream.failure == STREAM_OK; i++) {
        const struct lmtp_recipient *same = find_same(l, i);
        replies[i] = same ? replies[same - l->to] : deliver_one(l, &l->to[i]);
        if (l->s->end != 0)
            break;
        l->s->retrieved += replies[i] == LMTP_DELIVERED && !same; /* delivered, in the totals */
        if (replies[i] != LMTP_DELIVERED)
            count_refusal(l, replies[i]);
        answer(l, replies[i]);
        stream_flush(&l->s->stream);
    }
    reset(l);
}

/* Message text that came in: what is too much, or cannot be kept, is dropped; the client still says
 * all of it. */
static void add_text(struct lmtp *l, const unsigned char *octets, size_t size)
{
    if (spool_size(&l->spool) + size > l->s->config->store.max_message)
        l->too_large = true;
    if (l->s->config->delivery.nul && memchr(octets, '\0', size))
        l->has_nul = true;
    if (l->too_large || l->has_nul)
        spool_clear(&l->spool);
    else if (l->spool.error == 0) {
        spool_add(&l->spool, octets, size);
        if (l->spool.error != 0)
            lmtp_tell_lost(l);
    }
}

static void hear_more(struct lmtp *l)
{
    if (stream_flush(&l->s->stream) == STREAM_OK)
        lmtp_idle(l);
    session_read_more(l->s);
}

/* The client's octets past the command, at least one; NULL when the session is over. */
static const unsigned char *hear_octets(struct lmtp *l, size_t *size)
{
    struct session *s = l->s;
    const unsigned char *held = NULL;
    line_release(&s->input);
    for (*size = 0; s->end == 0;) {
        held = line_held(&s->input, size);
        if (*size > 0)
            return held;
        hear_more(l);
    }
    return NULL;
}

static void run_data(struct lmtp *l, const char *text)
{
    unsigned char clear[LINE_BUFFER_SIZE + 1];
    struct lmtp_data data = {0};
    size_t size, used;
    const unsigned char *octets;
    if (*text || l->n == 0 || l->chunked) {
        answer(l, *text ? LMTP_SYNTAX : l->chunked ? LMTP_CHUNKS_BEGAN : LMTP_NO_RECIPIENTS);
        return;
    }
    answer(l, LMTP_GO_AHEAD);
    while (data.state != LMTP_DATA_END && (octets = hear_octets(l, &size)) != NULL) {
        size_t put = lmtp_data_take(&data, octets, size, clear, &used);
        add_text(l, clear, put);
        line_take(&l->s->input, used);
    }
    if (data.state == LMTP_DATA_END)
        finish_message(l);
}

/* What a chunk announces is read, whether it can be used or not (RFC 3030 section 2). */
static void take_chunk(struct lmtp *l, uint64_t left, bool keep)
{
    size_t size;
    const unsigned char *octets;
    while (left > 0 && (octets = hear_octets(l, &size)) != NULL) {
        if (size > left)
            size = (size_t)left;
        if (keep)
            add_text(l, octets, size);
        line_take(&l->s->input, size);
        left -= size;
    }
}

static void run_bdat(struct lmtp *l, const char *text)
{
    uint64_t size;
    bool last;
    if (lmtp_parse_bdat(text, &size, &last) != LMTP_PARSED) {
        /* Nobody knows where the chunk ends and commands begin again. */
        answer(l, LMTP_CHUNK_SYNTAX);
        session_end(l->s, END_BAD_COMMANDS);
        return;
    }
    l->chunked = l->n > 0;
    take_chunk(l, size, l->n > 0);
    if (l->s->end != 0)
        return;
    if (l->n == 0)
        answer(l, LMTP_NO_RECIPIENTS);
    else if (last)
        finish_message(l);
    else {
        enum lmtp_reply hindrance = find_hindrance(l);
        answer(l, hindrance == LMTP_OK ? LMTP_CHUNK_OK : hindrance);
    }
}

static void run_rset(struct lmtp *l, const char *text)
{
    if (!*text)
        reset(l);
    answer(l, *text ? LMTP_SYNTAX : LMTP_OK);
}

static void run_noop(struct lmtp *l, const char *text)
{
    (void)text; /* RFC 5321 section 4.1.1.9: to be ignored */
    answer(l, LMTP_OK);
}

static void run_vrfy(struct lmtp *l, const char *text)
{
    answer(l, *text ? LMTP_CANNOT_VERIFY : LMTP_SYNTAX);
}

static void run_quit(struct lmtp *l, const char *text)
{
    answer(l, *text ? LMTP_SYNTAX : LMTP_BYE);
    if (!*text)
        session_end(l->s, END_QUIT);
}

enum {
    LINE_OCTETS = 512, /* RFC 5321 section 4.5.3.1.4 */
    MAIL_OCTETS = 4096 /* a sender may be as long as a transport takes it */
};

static const struct command {
    const char *word;
    size_t limit; /* octets of the line */
    void (*run)(struct lmtp *l, const char *text);
} commands[] = {
    {"LHLO", LINE_OCTETS, run_lhlo}, {"MAIL", MAIL_OCTETS, run_mail},
    {"RCPT", LINE_OCTETS, run_rcpt}, {"DATA", LINE_OCTETS, run_data},
    {"BDAT", LINE_OCTETS, run_bdat}, {"RSET", LINE_OCTETS, run_rset},
    {"NOOP", LINE_OCTETS, run_noop}, {"VRFY", LINE_OCTETS, run_vrfy},
    {"QUIT", LINE_OCTETS, run_quit}, {"HELO", LINE_OCTETS, run_helo},
    {"EHLO", LINE_OCTETS, run_helo},
};

static const struct command *find(const char *text, size_t size)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (size == strlen(commands[i].word) && strncasecmp(commands[i].word, text, size) == 0)
            return &commands[i];
    return NULL;
}

static size_t limit(const void *context, const char *beginning, size_t size)
{
    (void)context;
    const struct command *command = find(beginning, line_word(beginning, size));
    return command ? command->limit : LINE_OCTETS;
}

static void run_line(struct lmtp *l, struct line *line)
{
    size_t word = line_word(line->text, line->size);
    const struct command *command = find(line->text, word);
    if (command && command->run == run_mail) /* see lmtp_parse_mail() */
        base_make_text(line->text, line->size);
    if (!line_is_text(line->text, line->size)) {
        answer(l, LMTP_MALFORMED);
        return;
    }
    while (line->size > 0 && line->text[line->size - 1] == ' ')
        line->text[--line->size] = '\0';
    if (command)
        command->run(l, line->text + word + strspn(line->text + word, " "));
    else
        answer(l, LMTP_UNKNOWN_COMMAND);
}

static void step(struct lmtp *l)
{
    struct session *s = l->s;
    struct line line;
    switch (line_next(&s->input, limit, NULL, &line)) {
    case LINE_OK:
        run_line(l, &line);
        line_release(&s->input);
        break;
    case LINE_MORE:
        hear_more(l);
        break;
    case LINE_TOO_LONG:
        answer(l, LMTP_LINE_TOO_LONG);
        break;
    case LINE_ENDLESS:
        answer(l, LMTP_LINE_TOO_LONG);
        session_end(s, END_LINE_TOO_LONG);
        break;
    }
    session_check_stream(s);
}

static void greet(struct session *s)
{
    stream_put_text(&s->stream, "220 ");
    stream_put_text(&s->stream, s->config->server.hostname);
    stream_put_text(&s->stream, " Poplar LMTP\r\n");
}

void lmtp_serve(struct session *s)
{
    struct lmtp *l = calloc(1, sizeof *l);
    if (!l) {
        session_end(s, END_STORE);
        return;
    }
    l->s = s;
    spool_open(&l->spool, -1, s->chunk); /* the file comes with the first recipient */
    s->logged_in = true;                 /* nobody logs in here: the peer's uid stands for it */
    greet(s);
    while (s->end == 0)
        step(l);
    if (s->end == END_IDLE) {
        /* The deadline was for reading; one line that the socket takes at once may go. */
        s->stream.failure = STREAM_OK;
        answer(l, LMTP_IDLE_TOO_LONG);
    }
    stream_close(&s->stream);
    if (s->last)
        maildrop_leave(l->held.maildrop);
    else
        lmtp_release(l);
    free(l);
}
