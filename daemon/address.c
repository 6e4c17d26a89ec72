/*
 * address.c - see address.h. Runs in the master; the addresses come from the kernel, from the
 * configuration and, as what a proxy's header says, from a worker, never from a client's octets.
 */
#include "daemon/address.h"
#include "daemon/base.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool parse_port(const char *text, in_port_t *port)
{
    char *end;
    long number = strtol(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || number < 1 || number > 65535)
        return false;
    *port = htons((uint16_t)number);
    return true;
}

bool address_parse(const char *text, struct sockaddr_storage *address, socklen_t *size)
{
    char host[PROTO_ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    in_port_t port;
    if (!colon || (size_t)(colon - text) >= sizeof host || !parse_port(colon + 1, &port))
        return false;
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    memset(address, 0, sizeof *address);

    size_t length = strlen(host);
    if (length > 2 && host[0] == '[' && host[length - 1] == ']') {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
        host[length - 1] = '\0';
        in6->sin6_family = AF_INET6;
        in6->sin6_port = port;
        *size = sizeof *in6;
        return inet_pton(AF_INET6, host + 1, &in6->sin6_addr) == 1;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)address;
    in->sin_family = AF_INET;
    in->sin_port = port;
    *size = sizeof *in;
    return strcmp(host, "*") == 0 || inet_pton(AF_INET, host, &in->sin_addr) == 1;
}

void address_unmap(struct sockaddr_storage *address)
{
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
    if (address->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
        return;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = in6->sin6_port};
    memcpy(&in.sin_addr, in6->sin6_addr.s6_addr + 12, 4);
    memset(address, 0, sizeof *address);
    memcpy(address, &in, sizeof in);
}

void address_print(const struct sockaddr_storage *address, bool with_port,
                   char text[PROTO_ADDRESS_MAX])
{
    char host[INET6_ADDRSTRLEN];
    bool v6 = address->ss_family == AF_INET6;
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    if (!v6 && address->ss_family != AF_INET) {
        base_copy(text, PROTO_ADDRESS_MAX, "unix");
        return;
    }
    const void *binary = v6 ? (const void *)&in6->sin6_addr : (const void *)&in->sin_addr;
    inet_ntop(address->ss_family, binary, host, sizeof host);
    if (with_port)
        snprintf(text, PROTO_ADDRESS_MAX, v6 ? "[%s]:%u" : "%s:%u", host,
                 ntohs(v6 ? in6->sin6_port : in->sin_port));
    else
        base_copy(text, PROTO_ADDRESS_MAX, host);
}

struct address_source address_source(const struct sockaddr_storage *address)
{
    struct address_source source = {0};
    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        memcpy(source.octets, in6->sin6_addr.s6_addr, 6);
    } else if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        memcpy(source.octets + 12, &in->sin_addr, 4);
        source.octets[10] = source.octets[11] = 0xff;
    }
    return source;
}

void address_print_source(const struct address_source *source, char text[PROTO_ADDRESS_MAX])
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    char host[INET6_ADDRSTRLEN] = "";
    bool four = memcmp(source->octets, mapped, sizeof mapped) == 0;
    inet_ntop(four ? AF_INET : AF_INET6, source->octets + (four ? sizeof mapped : 0), host,
              sizeof host);
    snprintf(text, PROTO_ADDRESS_MAX, "%s%s", host, four ? "" : "/48");
}

bool address_same_source(const struct address_source *a, const struct address_source *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* A prefix as sixteen octets, IPv4 mapped into IPv6, and its length in bits. */
static bool parse_prefix(const char *text, unsigned char octets[16], unsigned *bits)
{
    char host[INET6_ADDRSTRLEN + 1];
    const char *slash = strchr(text, '/');
    size_t length = slash ? (size_t)(slash - text) : strlen(text);
    if (length >= sizeof host)
        return false;
    memcpy(host, text, length);
    host[length] = '\0';
    memset(octets, 0, 16);
    bool v4 = inet_pton(AF_INET, host, octets + 12) == 1;
    if (v4)
        octets[10] = octets[11] = 0xff;
    else if (inet_pton(AF_INET6, host, octets) != 1)
        return false;
    unsigned long most = v4 ? 32 : 128, given = most;
    if (slash) {
        char *end;
        given = strtoul(slash + 1, &end, 10);
        if (!isdigit((unsigned char)slash[1]) || *end || given > most)
            return false;
    }
    *bits = (unsigned)given + (v4 ? 96 : 0);
    return true;
}

static bool within(const unsigned char *octets, const unsigned char *prefix, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    if (memcmp(octets, prefix, whole) != 0)
        return false;
    return rest == 0 || ((octets[whole] ^ prefix[whole]) >> (8 - rest)) == 0;
}

bool address_listed(const struct text_list *prefixes, const struct sockaddr_storage *address)
{
    unsigned char octets[16] = {0}, prefix[16];
    unsigned bits;
    if (address->ss_family == AF_INET6) {
        memcpy(octets, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
    } else if (address->ss_family == AF_INET) {
        octets[10] = octets[11] = 0xff;
        memcpy(octets + 12, &((const struct sockaddr_in *)address)->sin_addr, 4);
    } else {
        return false;
    }
    for (size_t i = 0; i < prefixes->n; i++)
        if (parse_prefix(prefixes->items[i], prefix, &bits) && within(octets, prefix, bits))
            return true;
    return false;
}

const char *address_bad_prefix(const struct text_list *prefixes)
{
    unsigned char prefix[16];
    unsigned bits;
    for (size_t i = 0; i < prefixes->n; i++)
        if (!parse_prefix(prefixes->items[i], prefix, &bits))
            return prefixes->items[i];
    return NULL;
}
