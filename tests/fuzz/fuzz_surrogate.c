/*
 * fuzz_surrogate.c - headers in UTF-8 made readable to clients that never heard of it.
 *
 * Promised: what is made is ASCII, line by line in wire form, with the same end; always the same;
 * and what is ASCII already is not changed.
 */
#include "store/surrogate.h"
#include "store/wire.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

/* In wire form, as deliveries bring it. */
static char *wire_form(const uint8_t *data, size_t size, size_t *made)
{
    struct wire wire = {0};
    size_t used = 0;
    char *out = malloc(2 * size + 3);
    *made = wire_convert(&wire, data, size, out, 2 * size + 3, &used);
    promise(used == size);
    if (wire_unfinished(&wire))
        *made += wire_convert(&wire, wire_line_end, 2, out + *made, 3, &used);
    *made = (size_t)wire_header(&wire);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct surrogate_scan scan = {0};
    char *made = NULL, *again = NULL;
    size_t n = 0, made_size = 0, again_size = 0;
    char *text = wire_form(data, size, &n);
    char *header = fuzz_copy((const uint8_t *)text, n, false);
    free(text);
    surrogate_scan(&scan, header, n / 2);
    surrogate_scan(&scan, header + n / 2, n - n / 2);
    const bool ascii = !scan.high;
    if (!surrogate_needed(&scan) && !ascii)
        goto out;
    if (surrogate_make(header, n, &made, &made_size) != SURROGATE_OK)
        goto out;
    promise(surrogate_make(header, n, &again, &again_size) == SURROGATE_OK);
    promise(made_size == again_size && (made_size == 0 || memcmp(made, again, made_size) == 0));
    promise(!ascii || (made_size == n && (n == 0 || memcmp(made, header, n) == 0)));
    for (size_t i = 0; i < made_size; i++)
        promise((unsigned char)made[i] < 0x80 &&
                (made[i] != '\n' || (i > 0 && made[i - 1] == '\r')));
    promise(made_size == 0 || made[made_size - 1] == '\n');
    if (n >= 4 && memcmp(header + n - 4, "\r\n\r\n", 4) == 0)
        promise(made_size >= 2 && memcmp(made + made_size - 2, "\r\n", 2) == 0 &&
                (made_size == 2 || memcmp(made + made_size - 4, "\r\n\r\n", 4) == 0));
    free(made);
    free(again);
out:
    free(header);
    return 0;
}
