/*
 * ctl_inspect.c - what one message says about itself, before it is imported.
 *
 * Runs in poplarctl over what anybody may have written: any octets, lines of any length, in
 * constant memory. Pure but for libcrypto's digests.
 */
#include "store/ctl_inspect.h"
#include "daemon/base.h"
#include "store/ctl_uidl.h"
#include "store/wire.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>

enum { LINE_ROOM = 1024 };

/* Fields that mean something here. Those from FIELD_STATUS on are written by servers. */
enum field {
    FIELD_OTHER,
    FIELD_SUBJECT,
    FIELD_RECEIVED,
    FIELD_DELIVERED_TO,
    FIELD_DATE,
    FIELD_MESSAGE_ID,
    FIELD_X_DELIVERY_ID,
    FIELD_STATUS,
    FIELD_X_STATUS,
    FIELD_X_KEYWORDS,
    FIELD_CONTENT_LENGTH,
    FIELD_X_UIDL,
    FIELD_X_UID,
    FIELD_X_IMAP,
    FIELD_X_IMAPBASE,
    FIELDS
};

static const char *const names[FIELDS] = {
    [FIELD_SUBJECT] = "Subject",
    [FIELD_RECEIVED] = "Received",
    [FIELD_DELIVERED_TO] = "Delivered-To",
    [FIELD_DATE] = "Date",
    [FIELD_MESSAGE_ID] = "Message-ID",
    [FIELD_X_DELIVERY_ID] = "X-Delivery-ID",
    [FIELD_STATUS] = "Status",
    [FIELD_X_STATUS] = "X-Status",
    [FIELD_X_KEYWORDS] = "X-Keywords",
    [FIELD_CONTENT_LENGTH] = "Content-Length",
    [FIELD_X_UIDL] = "X-UIDL",
    [FIELD_X_UID] = "X-UID",
    [FIELD_X_IMAP] = "X-IMAP",
    [FIELD_X_IMAPBASE] = "X-IMAPbase",
};

struct ctl_inspect {
    struct ctl_inspected found;
    struct wire wire;
    EVP_MD_CTX *digest, *popa3d; /* popa3d NULL: this libcrypto has no MD5 */
    char line[LINE_ROOM];
    size_t used;
    bool in_body, inside; /* the line at hand goes on from an earlier piece of it */
    enum field field;     /* of the line at hand */
    bool received, fixed; /* popa3d: a Received was seen; this line is of its digest */
    bool internal_subject;
};

static EVP_MD_CTX *begin_digest(const EVP_MD *kind)
{
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    if (digest && EVP_DigestInit_ex(digest, kind, NULL) == 1)
        return digest;
    EVP_MD_CTX_free(digest);
    return NULL;
}

static void add(EVP_MD_CTX *digest, const void *octets, size_t size)
{
    if (digest && size > 0 && EVP_DigestUpdate(digest, octets, size) != 1)
        fatal(EX_SOFTWARE, "libcrypto: a digest failed");
}

static EVP_MD_CTX *begin_sha256(void)
{
    EVP_MD_CTX *digest = begin_digest(EVP_sha256());
    if (!digest)
        fatal(EX_SOFTWARE, "libcrypto: no SHA-256");
    return digest;
}

struct ctl_inspect *ctl_inspect_begin(void)
{
    struct ctl_inspect *in = base_alloc(sizeof *in);
    in->digest = begin_sha256();
    in->popa3d = begin_digest(EVP_md5());
    return in;
}

static enum field field_of(const char *line, size_t size)
{
    for (int i = FIELD_OTHER + 1; i < FIELDS; i++) {
        size_t length = strlen(names[i]);
        if (size > length && line[length] == ':' && strncasecmp(line, names[i], length) == 0)
            return (enum field)i;
    }
    return FIELD_OTHER;
}

/* popa3d takes some fields for fixed over the life of a message: of the trace only the first
 * Received, and what stands there anyhow only if no Received came before. */
static bool is_fixed(struct ctl_inspect *in, const char *line)
{
    bool before = in->received;
    switch (in->field) {
    case FIELD_RECEIVED:
        in->received = true;
        return !before;
    case FIELD_DATE:
    case FIELD_MESSAGE_ID:
        return !before;
    case FIELD_DELIVERED_TO:
        return true;
    case FIELD_X_DELIVERY_ID:
        return line[0] == 'X'; /* the one name that popa3d looks for in this case only */
    default:
        return false;
    }
}

/* What a field says, from after its colon, without blanks at both ends. */
static void value_of(const char *line, size_t size, char *value, size_t room)
{
    const char *from = memchr(line, ':', size), *end = line + size;
    size_t length = 0;
    for (from++; from < end && (*from == ' ' || *from == '\t'); from++)
        ;
    for (; from < end && *from && length + 1 < room; from++)
        value[length++] = *from;
    while (length > 0 && strchr(" \t\r\n", value[length - 1]))
        length--;
    value[length] = '\0';
}

static void take_value(struct ctl_inspect *in, const char *line, size_t size)
{
    char value[200];
    if (in->field < FIELD_X_UIDL && in->field != FIELD_SUBJECT && in->field != FIELD_STATUS)
        return;
    value_of(line, size, value, sizeof value);
    switch (in->field) {
    case FIELD_STATUS:
        in->found.seen = strchr(value, 'R') != NULL;
        break;
    case FIELD_X_UIDL:
        if (ctl_uidl_is_valid(value))
            base_copy(in->found.x_uidl, sizeof in->found.x_uidl, value);
        break;
    case FIELD_X_UID:
        in->found.x_uid = strtoull(value, NULL, 10);
        break;
    case FIELD_X_IMAP:
    case FIELD_X_IMAPBASE:
        in->found.uidvalidity = strtoull(value, NULL, 10);
        break;
    default:
        in->internal_subject = strncmp(value, "DON'T DELETE THIS MESSAGE", 25) == 0;
    }
}

/* A line of the header, or a piece of a long one. `ended`: its line end is there. */
static void take_line(struct ctl_inspect *in, bool ended)
{
    size_t text = in->used;
    if (ended)
        text -= text >= 2 && in->line[text - 2] == '\r' ? 2 : 1;
    if (!in->inside && in->line[0] != ' ' && in->line[0] != '\t') {
        in->field = field_of(in->line, in->used);
        in->fixed = is_fixed(in, in->line);
        take_value(in, in->line, in->used);
    }
    if (in->fixed)
        add(in->popa3d, in->line, in->used);
    if (in->field < FIELD_STATUS) {
        add(in->digest, in->line, text);
        if (ended)
            add(in->digest, "\r\n", 2);
    }
    in->in_body = ended && text == 0 && !in->inside;
    in->inside = !ended;
    in->used = 0;
}

/* Take in what belongs to the header; the octets used. */
static size_t take_header(struct ctl_inspect *in, const char *octets, size_t size)
{
    size_t i = 0;
    while (i < size && !in->in_body) {
        char c = octets[i++];
        in->line[in->used++] = c;
        if (c == '\n')
            take_line(in, true);
        else if (in->used == LINE_ROOM - 1 && c != '\r') /* a CR may belong to the line end */
            take_line(in, false);
        else if (in->used == LINE_ROOM)
            take_line(in, false);
    }
    return i;
}

/* Convert to wire form, to count it; of the body, to digest it too. */
static void convert(struct ctl_inspect *in, const char *octets, size_t size, bool body)
{
    char out[4096];
    while (size > 0) {
        size_t used, put = wire_convert(&in->wire, octets, size, out, sizeof out, &used);
        if (body)
            add(in->digest, out, put);
        octets += used;
        size -= used;
    }
}

void ctl_inspect_feed(struct ctl_inspect *inspect, const void *octets, size_t size)
{
    size_t header = take_header(inspect, octets, size);
    inspect->found.raw_octets += size;
    convert(inspect, octets, header, false);
    convert(inspect, (const char *)octets + header, size - header, true);
}

static void finish(EVP_MD_CTX *digest, unsigned char *octets)
{
    if (EVP_DigestFinal_ex(digest, octets, NULL) != 1)
        fatal(EX_SOFTWARE, "libcrypto: a digest failed");
    EVP_MD_CTX_free(digest);
}

void ctl_inspect_end(struct ctl_inspect *inspect, struct ctl_inspected *found)
{
    unsigned char md5[16];
    if (inspect->used > 0)
        take_line(inspect, false);
    if (wire_unfinished(&inspect->wire))
        convert(inspect, wire_line_end, sizeof wire_line_end, true);
    finish(inspect->digest, inspect->found.digest);
    if (inspect->popa3d) {
        finish(inspect->popa3d, md5);
        /* popa3d takes the digest for two numbers of the machine, the smaller end first. */
        snprintf(inspect->found.popa3d, sizeof inspect->found.popa3d,
                 "%02x%02x%02x%02x%02x%02x%02x%02x", md5[3], md5[2], md5[1], md5[0], md5[7], md5[6],
                 md5[5], md5[4]);
    }
    inspect->found.octets = inspect->wire.octets;
    inspect->found.internal = inspect->internal_subject && inspect->found.uidvalidity > 0;
    *found = inspect->found;
    free(inspect);
}

void ctl_inspect_key(const char *what, uint64_t number, const void *octets, size_t size,
                     unsigned char key[CTL_KEY_SIZE])
{
    unsigned char whole[CTL_DIGEST_SIZE], bytes[8];
    EVP_MD_CTX *digest = begin_sha256();
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(number >> (56 - 8 * i));
    add(digest, what, strlen(what) + 1);
    add(digest, bytes, sizeof bytes);
    add(digest, octets, size);
    finish(digest, whole);
    memcpy(key, whole, CTL_KEY_SIZE);
}
