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

/* What is said, with `lines` lines more at the beginning of the first message: larger than any
 * buffer on its way. The caller frees. */
static char *with_lines(const uint8_t *data, size_t size, size_t lines, size_t *said)
{
    static const char line[] = ".. not too short a line of the message\r\n",
                      data_command[] = "DATA\r\n";
    const uint8_t *at = memmem(data, size, data_command, sizeof data_command - 1);
    const size_t before = at ? (size_t)(at - data) + sizeof data_command - 1 : size;
    char *text = malloc(size + lines * (sizeof line - 1) + 1);
    promise(text);
    if (before > 0)
        memcpy(text, data, before);
    *said = before;
    for (size_t i = 0; i < lines; i++, *said += sizeof line - 1)
        memcpy(text + *said, line, sizeof line - 1);
    if (size > before)
        memcpy(text + *said, data + before, size - before);
    *said += size - before;
    return text;
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
    size_t said_size;
    char *said = with_lines(data, size, how & 0x80 ? (size_t)(how >> 2 & 31) * 100 : 0, &said_size);
    inside_serve(&world, said, said_size, &result);
    free(said);
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
