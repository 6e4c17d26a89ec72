/*
 * fuzz_session.c - a POP3 session, from the first octet to the last, PROXY header included.
 *
 * Promised: every reply ends in CRLF and holds no NUL but a message's, up to STLS; without QUIT
 * nothing is deleted; the session ends, with a reason.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/support/inside.h"

#include <strings.h>

static struct inside_result result;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char first[] = "Subject: one\r\n\r\n.\r\n..dots\r\n.\r\nend";
    static const char utf8[] = "Subject: h\xc3\xa9llo\nFrom: h\xc3\xa9 <a@b>\n\nbody\n";
    (void)argc, (void)argv;
    inside_begin((const char *[]){"tls.required=no",
                                  "auth.mechanisms=plain, login, xoauth2, oauthbearer",
                                  "session.login_delay=0", NULL});
    inside_certify();
    inside_deliver(first, sizeof first - 1);
    inside_deliver(utf8, sizeof utf8 - 1);
    inside_deliver("", 0);
    inside_keep();
    atexit(inside_finish);
    return 0;
}

/* Then TLS may begin, and what is said is no text. */
static bool has_stls(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 4 <= size; i++)
        if (strncasecmp((const char *)data + i, "STLS", 4) == 0)
            return true;
    return false;
}

static void check_replies(void)
{
    promise(result.size == 0 || result.size > INSIDE_OUTPUT_MAX ||
            result.output[result.size - 1] == '\n');
    for (size_t i = 0; i < result.size && i < INSIDE_OUTPUT_MAX; i++)
        promise(result.output[i] != '\0' &&
                (result.output[i] != '\n' || (i > 0 && result.output[i - 1] == '\r')));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t how = fuzz_octet(&data, &size), auth = fuzz_octet(&data, &size);
    const struct inside_world world = {
        .door = DOOR_POP3,
        .peer = how & 1 ? "127.0.0.1:1024" : "192.0.2.1:1024",
        .proxied = how & 2,
        .piece = (const size_t[]){0, 1, 7, 4096}[how >> 2 & 3],
        .verdict = auth % LOGIN_OUTCOMES,
        .refusal = auth >= 0xf0 ? 1 + auth % 2 : 0,
        .auth_dies = auth == 0xef,
        .master_dies = auth == 0xee,
        .last = 3,
    };
    inside_serve(&world, data, size, &result);
    promise(result.end > 0 && result.end < END_REASONS);
    if (!has_stls(data, size))
        check_replies();
    promise(result.deleted == 0 || result.end == END_QUIT);
    if (result.deleted > 0 || result.end == END_QUIT)
        inside_restore();
    return 0;
}
