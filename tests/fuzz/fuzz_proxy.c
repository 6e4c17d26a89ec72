/*
 * fuzz_proxy.c - the PROXY header, read as a worker reads it: no octet more than belongs to it.
 *
 * Promised: reading comes to its end within PROXY_HEADER_MAX octets; what it asks for is never
 * taken back when more has come; a header that is known names two addresses of this machine's kind.
 */
#include "daemon/base.h"
#include "tests/fuzz/fuzz.h"
#include "worker/proxy.h"

#include <arpa/inet.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

static void check_address(const char *text)
{
    char host[PROTO_ADDRESS_MAX];
    unsigned char octets[16];
    unsigned port = 0;
    const bool v6 = text[0] == '[';
    promise(sscanf(text, v6 ? "[%63[^]]]:%u" : "%63[^:]:%u", host, &port) == 2 && port <= 65535);
    promise(inet_pton(v6 ? AF_INET6 : AF_INET, host, octets) == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t held = 0;
    for (;;) {
        struct proxy_header header = {0};
        size_t more = 0;
        unsigned char *copy = (unsigned char *)fuzz_copy(data, held, false);
        const enum proxy_outcome outcome = proxy_parse(copy, held, &header, &more);
        proxy_begins(copy, held);
        free(copy);
        if (outcome == PROXY_OK && header.known)
            check_address(header.source);
        if (outcome != PROXY_MORE)
            break;
        promise(more > 0 && held + more <= PROXY_HEADER_MAX);
        if (held == size)
            break;
        held = held + more < size ? held + more : size;
    }
    /* All at once, whatever it is. */
    struct proxy_header header = {0};
    size_t more = 0;
    unsigned char *copy = (unsigned char *)fuzz_copy(data, size, false);
    if (proxy_parse(copy, size, &header, &more) == PROXY_OK && header.known)
        check_address(header.source);
    free(copy);
    return 0;
}
