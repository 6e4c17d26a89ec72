/*
 * fuzz_lmtp.c - an LMTP session, from the first octet to the last.
 *
 * Promised: every reply is a line of RFC 5321's form; the session ends, with a reason; after it the
 * maildrop opens.
 */
#include "store/maildrop.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/inside.h"

static struct inside_result result;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    inside_begin((const char *[]){"store.max_message=100K", "store.quota_messages=3", NULL});
    inside_deliver("one\n", 4);
    inside_keep();
    atexit(inside_finish);
    return 0;
}

static void check_line(const char *line, size_t size)
{
    promise(size >= 6 && size <= 512 && line[size - 1] == '\r');
    promise(line[0] >= '2' && line[0] <= '5' && line[1] >= '0' && line[1] <= '5' &&
            line[2] >= '0' && line[2] <= '9' && (line[3] == ' ' || line[3] == '-'));
    for (size_t i = 0; i + 1 < size; i++)
        promise((unsigned char)line[i] >= 0x20 && (unsigned char)line[i] < 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t how = fuzz_octet(&data, &size), auth = fuzz_octet(&data, &size);
    const struct inside_world world = {
        .door = DOOR_LMTP,
        .peer = "uid 0",
        .piece = (const size_t[]){0, 1, 7, 4096}[how & 3],
        .verdict = auth % LOGIN_OUTCOMES,
        .refusal = auth >= 0xf0 ? 1 : 0,
        .auth_dies = auth == 0xef,
        .master_dies = auth == 0xee,
    };
    inside_serve(&world, data, size, &result);
    promise(result.end > 0 && result.end < END_REASONS);
    promise(result.size > 0 && result.output[result.size - 1] == '\n');
    for (char *at = result.output, *end; *at; at = end + 1) {
        end = strchr(at, '\n');
        promise(end);
        check_line(at, (size_t)(end - at));
    }
    if (strstr(result.output, "\r\n250 2."))
        inside_restore();
    return 0;
}
