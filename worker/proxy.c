/*
 * proxy.c - parses PROXY headers. Runs in a worker, inside its sandbox: the peer is in proxy_from,
 * but what it sends is still only octets. Strict, for a header that is misread names a false
 * client.
 */
#include "worker/proxy.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

/* ---- version 1: one line of text ---- */

static const char text_signature[] = "PROXY ";
enum {
    TEXT_SIGNATURE_SIZE = sizeof text_signature - 1,
    TEXT_MIN = 15, /* "PROXY UNKNOWN" and its line end, less than any header of version 2 */
};

/* ---- version 2: binary ---- */

static const unsigned char binary_signature[] = "\r\n\r\n\0\r\nQUIT\n";
enum {
    BINARY_SIGNATURE_SIZE = sizeof binary_signature - 1,
    FIXED_SIZE = 16, /* signature, version and command, family and transport, size of the rest */
    COMMAND_LOCAL = 0x20,
    COMMAND_PROXY = 0x21,
    FAMILY_UNSPECIFIED = 0x00,
    FAMILY_TCP4 = 0x11,
    FAMILY_TCP6 = 0x21,
    FAMILY_UNIX = 0x31,
    TYPE_SSL = 0x20,
    CLIENT_SSL = 0x01,
    SSL_SIZE = 5, /* of TYPE_SSL before its own parts: client, verify */
    PART_SIZE = 3 /* type and size of a part (TLV) */
};

/* An address as the master prints it: an IPv4-mapped one is IPv4. */
static bool print(int family, const void *address, unsigned port, char text[PROTO_ADDRESS_MAX])
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    char host[INET6_ADDRSTRLEN];
    if (port == 0)
        return false;
    if (family == AF_INET6 && memcmp(address, mapped, sizeof mapped) == 0) {
        family = AF_INET;
        address = (const unsigned char *)address + sizeof mapped;
    }
    if (!inet_ntop(family, address, host, sizeof host))
        return false;
    snprintf(text, PROTO_ADDRESS_MAX, family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, port);
    return true;
}

/* The next word of a line, which ends at one blank, or at the line's end if it is the last. */
static bool take_word(const char **at, bool last, char *word, size_t size)
{
    size_t length = strcspn(*at, " ");
    if (length == 0 || length >= size || ((*at)[length] == '\0') != last)
        return false;
    memcpy(word, *at, length);
    word[length] = '\0';
    *at += length + !last;
    return true;
}

static bool take_port(const char **at, bool last, unsigned *port)
{
    char word[6];
    if (!take_word(at, last, word, sizeof word) || word[0] == '0' ||
        word[strspn(word, "0123456789")] != '\0')
        return false;
    *port = 0;
    for (const char *digit = word; *digit; digit++)
        *port = *port * 10 + (unsigned)(*digit - '0');
    return *port <= 65535;
}

/* What stands behind "PROXY ": "TCP4 192.0.2.1 192.0.2.2 56324 110", or "UNKNOWN" and whatever. */
static bool parse_line(const char *at, struct proxy_header *header)
{
    char word[INET6_ADDRSTRLEN];
    unsigned char addresses[2][sizeof(struct in6_addr)];
    unsigned ports[2];
    if (strncmp(at, "UNKNOWN", 7) == 0 && (at[7] == '\0' || at[7] == ' '))
        return true;
    if (!take_word(&at, false, word, sizeof word))
        return false;
    int family = strcmp(word, "TCP4") == 0 ? AF_INET : AF_INET6;
    if (family == AF_INET6 && strcmp(word, "TCP6") != 0)
        return false;
    for (int i = 0; i < 2; i++)
        if (!take_word(&at, false, word, sizeof word) || inet_pton(family, word, addresses[i]) != 1)
            return false;
    if (!take_port(&at, false, &ports[0]) || !take_port(&at, true, &ports[1]))
        return false;
    header->known = true;
    return print(family, addresses[0], ports[0], header->source) && ports[1] > 0;
}

static enum proxy_outcome parse_text(const unsigned char *octets, size_t size,
                                     struct proxy_header *header, size_t *more)
{
    char line[PROXY_TEXT_MAX + 1];
    const unsigned char *end = memchr(octets, '\r', size);
    if (size < TEXT_MIN && !end) {
        *more = TEXT_MIN - size;
        return PROXY_MORE;
    }
    if (size > PROXY_TEXT_MAX || (!end && size >= PROXY_TEXT_MAX - 1) ||
        memchr(octets, '\0', size) || memchr(octets, '\n', end ? (size_t)(end - octets) : size))
        return PROXY_BAD;
    size_t length = end ? (size_t)(end - octets) : 0;
    if (!end || size == length + 1) {
        *more = end ? 1 : 2;
        return PROXY_MORE;
    }
    if (size != length + 2 || end[1] != '\n')
        return PROXY_BAD;
    memcpy(line, octets, length);
    line[length] = '\0';
    return parse_line(line + TEXT_SIGNATURE_SIZE, header) ? PROXY_OK : PROXY_BAD;
}

static unsigned get_16(const unsigned char *octets)
{
    return (unsigned)octets[0] << 8 | octets[1];
}

/* The parts behind the addresses. Those of no use here are passed over (also the checksum: TCP has
 * its own), but must be whole. */
static bool parse_parts(const unsigned char *at, size_t left, struct proxy_header *header)
{
    while (left > 0) {
        if (left < PART_SIZE || left - PART_SIZE < get_16(at + 1))
            return false;
        size_t size = get_16(at + 1);
        const unsigned char *value = at + PART_SIZE;
        if (at[0] == TYPE_SSL) {
            if (size < SSL_SIZE)
                return false;
            header->tls = (value[0] & CLIENT_SSL) != 0;
        }
        at += PART_SIZE + size;
        left -= PART_SIZE + size;
    }
    return true;
}

static bool parse_addresses(int family, size_t width, const unsigned char *at, size_t size,
                            struct proxy_header *header)
{
    size_t taken = 2 * width + 4;
    if (size < taken)
        return false;
    header->known = true;
    return print(family, at, get_16(at + 2 * width), header->source) &&
           get_16(at + 2 * width + 2) > 0 && parse_parts(at + taken, size - taken, header);
}

static enum proxy_outcome parse_binary(const unsigned char *octets, size_t size,
                                       struct proxy_header *header, size_t *more)
{
    if (size < FIXED_SIZE) {
        *more = FIXED_SIZE - size;
        return PROXY_MORE;
    }
    unsigned command = octets[12], family = octets[13];
    size_t rest = get_16(octets + 14);
    bool good = command == COMMAND_LOCAL || command == COMMAND_PROXY;
    if (!good || rest > PROXY_HEADER_MAX - FIXED_SIZE || size > FIXED_SIZE + rest)
        return PROXY_BAD;
    if (size < FIXED_SIZE + rest) {
        *more = FIXED_SIZE + rest - size;
        return PROXY_MORE;
    }
    octets += FIXED_SIZE;
    /* The proxy for itself, or for somebody whose address it cannot say: nothing else counts. */
    if (command == COMMAND_LOCAL || family == FAMILY_UNSPECIFIED || family == FAMILY_UNIX)
        return PROXY_OK;
    if (family == FAMILY_TCP4)
        good = parse_addresses(AF_INET, sizeof(struct in_addr), octets, rest, header);
    else if (family == FAMILY_TCP6)
        good = parse_addresses(AF_INET6, sizeof(struct in6_addr), octets, rest, header);
    else
        good = false;
    return good ? PROXY_OK : PROXY_BAD;
}

static bool agree(const unsigned char *octets, size_t size, const void *signature,
                  size_t signature_size)
{
    return memcmp(octets, signature, size < signature_size ? size : signature_size) == 0;
}

enum proxy_outcome proxy_parse(const unsigned char *octets, size_t size,
                               struct proxy_header *header, size_t *more)
{
    struct proxy_header found = {0};
    enum proxy_outcome outcome = PROXY_BAD;
    if (size == 0) {
        *more = TEXT_MIN;
        return PROXY_MORE;
    }
    if (agree(octets, size, text_signature, TEXT_SIGNATURE_SIZE))
        outcome = parse_text(octets, size, &found, more);
    else if (agree(octets, size, binary_signature, BINARY_SIGNATURE_SIZE))
        outcome = parse_binary(octets, size, &found, more);
    if (outcome == PROXY_OK)
        *header = found;
    return outcome;
}

bool proxy_begins(const unsigned char *octets, size_t size)
{
    return (size >= TEXT_SIGNATURE_SIZE &&
            agree(octets, size, text_signature, TEXT_SIGNATURE_SIZE)) ||
           (size >= BINARY_SIGNATURE_SIZE &&
            agree(octets, size, binary_signature, BINARY_SIGNATURE_SIZE));
}
