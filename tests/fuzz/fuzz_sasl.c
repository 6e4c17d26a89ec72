/*
 * fuzz_sasl.c - base64, the mechanisms' responses, and SASLprep.
 *
 * Promised: base64 that is taken is what its octets give when they are encoded, but for the bits of
 * the last letter that stand for nothing; credentials lie within the response; what SASLprep makes
 * it makes of itself again.
 */
#include "tests/fuzz/fuzz.h"
#include "worker/sasl.h"
#include "worker/utf8.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

/* RFC 4648 section 4, without a thought for speed. */
static char *encode(const unsigned char *octets, size_t size)
{
    char *text = malloc(size / 3 * 4 + 5), *to = text;
    for (size_t i = 0; i < size; i += 3) {
        const size_t n = size - i < 3 ? size - i : 3;
        uint32_t bits = (uint32_t)octets[i] << 16;
        bits |= n > 1 ? (uint32_t)octets[i + 1] << 8 : 0;
        bits |= n > 2 ? octets[i + 2] : 0;
        for (size_t k = 0; k < 4; k++)
            *to++ = k <= n ? alphabet[bits >> (18 - 6 * k) & 63] : '=';
    }
    *to = '\0';
    return text;
}

static void try_base64(const uint8_t *data, size_t size)
{
    char *text = fuzz_copy(data, size, true), *again;
    size_t decoded = 0;
    if (sasl_decode(text, size, &decoded)) {
        promise(decoded <= size && text[decoded] == '\0');
        again = encode((unsigned char *)text, decoded);
        promise(strlen(again) == size);
        for (size_t i = 0; i < size; i++)
            promise(again[i] == (char)data[i] || (i + 1 < size && again[i + 1] == '='));
        free(again);
    }
    free(text);
    /* And what was encoded is taken. */
    again = encode(data, size);
    promise(sasl_decode(again, strlen(again), &decoded) && decoded == size);
    promise(size == 0 || memcmp(again, data, size) == 0);
    free(again);
}

static void try_response(enum sasl_mechanism mechanism, const uint8_t *data, size_t size)
{
    char *response = fuzz_copy(data, size, true);
    struct sasl_credentials c = {0};
    if (sasl_parse(mechanism, response, size, &c) == SASL_OK) {
        promise(c.user >= response && c.user + c.user_size <= response + size);
        promise(c.secret >= response && c.secret + c.secret_size <= response + size);
    }
    free(response);
}

static void try_prepare(const uint8_t *data, size_t size)
{
    char *text = fuzz_copy(data, size, false), *made = malloc(500), *again = malloc(500);
    size_t n = 0, m = 0;
    if (utf8_prepare(text, size, made, 500, &n)) {
        promise(n <= 500);
        if (utf8_prepare(made, n, again, 500, &m))
            promise(n == m && memcmp(made, again, n) == 0);
    }
    free(again);
    free(made);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t what = fuzz_octet(&data, &size) % 6;
    if (what == 0)
        try_base64(data, size);
    else if (what == 1)
        try_prepare(data, size);
    else
        try_response(what == 2   ? SASL_PLAIN
                     : what == 3 ? SASL_XOAUTH2
                                 : SASL_OAUTHBEARER,
                     data, size);
    return 0;
}
