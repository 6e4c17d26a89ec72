/*
 * fuzz_retrieve.c - a message through the store and a session: RETR and TOP against a simple model.
 *
 * The input is repeated, so that it also lies across the ends of the store's chunks. Promised:
 * octet for octet what RFC 1939 says of the message as it was delivered.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/model.h"
#include "tests/support/inside.h"

enum { SIZE_MAX_HERE = 200000 }; /* replies to two commands fit into what is kept of them */

static struct inside_result result;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    inside_begin((const char *[]){"tls.required=no", NULL});
    inside_keep();
    atexit(inside_finish);
    return 0;
}

/* The reply at `at`: "+OK", and what the model says. Where the next one begins. */
static const char *compare(const char *at, const struct text *content, uint64_t header,
                           uint64_t lines)
{
    struct text wanted = model_send(content, header, lines);
    promise(strncmp(at, "+OK ", 4) == 0);
    at = strchr(at, '\n') + 1;
    const size_t left = result.size - (size_t)(at - result.output);
    promise(left >= wanted.size && memcmp(at, wanted.octets, wanted.size) == 0);
    at += wanted.size;
    free(wanted.octets);
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct inside_world world = {.door = DOOR_POP3, .peer = "127.0.0.1:1"};
    const uint8_t lines = fuzz_octet(&data, &size), times = fuzz_octet(&data, &size);
    uint8_t *message;
    size_t n = 0;
    char said[200];
    if (size > SIZE_MAX_HERE)
        return 0;
    message = malloc(SIZE_MAX_HERE);
    for (int i = 0; i <= times && n + size <= SIZE_MAX_HERE; i++, n += size)
        memcpy(message + n, data, size);
    snprintf(said, sizeof said,
             "UTF8\r\nUSER a\r\nPASS b\r\nTOP 1 %d\r\nRETR 1\r\nLIST 1\r\nQUIT\r\n", lines);
    inside_restore();
    inside_deliver(message, n);
    inside_serve(&world, said, strlen(said), &result);

    struct text content = model_convert(message, n);
    const char *at = result.output;
    for (int i = 0; i < 4; i++) { /* greeting, UTF8, USER, PASS */
        promise(strncmp(at, "+OK ", 4) == 0);
        at = strchr(at, '\n') + 1;
    }
    at = compare(at, &content, model_header(&content), lines);
    at = compare(at, &content, content.size, 0);
    snprintf(said, sizeof said, "+OK 1 %zu\r\n+OK ", content.size);
    promise(strncmp(at, said, strlen(said)) == 0);
    free(content.octets);
    free(message);
    return 0;
}
