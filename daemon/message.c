/*
 * message.c - the codec of records. Runs in every process, on octets that came from less trusted
 * ones: nothing is read here that message_well_formed() has not measured first.
 */
#include "daemon/message.h"
#include "daemon/base.h"

#include <string.h>

enum { LENGTH_SIZE = 4 };

static uint64_t load(const unsigned char *at, size_t size)
{
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;)
        value = value << 8 | at[i];
    return value;
}

static void store(unsigned char *at, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++, value >>= 8)
        at[i] = (unsigned char)value;
}

void message_begin(struct message *m, enum proto_type type)
{
    m->rule = proto_rule(type);
    if (!m->rule)
        bug("record of no type");
    m->data[0] = (unsigned char)type;
    m->size = m->position = 1;
    m->field = m->n_fds = 0;
    m->sender = 0;
}

/* The next field must be of this kind: in a record being written, and in one that was checked. */
static void expect(struct message *m, char kind)
{
    if (m->field >= strlen(m->rule->fields) || m->rule->fields[m->field] != kind)
        bug("field does not fit its record");
    m->field++;
}

static void put(struct message *m, char kind, const void *octets, size_t size)
{
    expect(m, kind);
    if (size > m->rule->max_size || m->size + LENGTH_SIZE + size > m->rule->max_size)
        bug("record larger than its row allows");
    store(m->data + m->size, size, LENGTH_SIZE);
    if (size > 0)
        memcpy(m->data + m->size + LENGTH_SIZE, octets, size);
    m->size += LENGTH_SIZE + size;
}

void message_put_u32(struct message *m, uint32_t value)
{
    unsigned char octets[4];
    store(octets, value, sizeof octets);
    put(m, 'u', octets, sizeof octets);
}

void message_put_u64(struct message *m, uint64_t value)
{
    unsigned char octets[8];
    store(octets, value, sizeof octets);
    put(m, 'q', octets, sizeof octets);
}

void message_put_text(struct message *m, const char *text)
{
    put(m, 's', text, strlen(text));
}

void message_put_octets(struct message *m, const void *octets, size_t size)
{
    put(m, 'b', octets, size);
}

void message_put_fd(struct message *m, int fd)
{
    if (m->n_fds >= m->rule->max_fds)
        bug("more descriptors than the row allows");
    m->fds[m->n_fds++] = fd;
}

static bool field_fits(char kind, const unsigned char *at, size_t size)
{
    switch (kind) {
    case 'u':
        return size == 4;
    case 'q':
        return size == 8;
    case 's':
        return memchr(at, '\0', size) == NULL;
    default:
        return true;
    }
}

bool message_well_formed(struct message *m)
{
    size_t at = 1;
    for (const char *kind = m->rule->fields; *kind; kind++) {
        if (m->size < at + LENGTH_SIZE)
            return false;
        size_t size = (size_t)load(m->data + at, LENGTH_SIZE);
        at += LENGTH_SIZE;
        if (size > m->size - at || !field_fits(*kind, m->data + at, size))
            return false;
        at += size;
    }
    m->position = 1;
    m->field = 0;
    return at == m->size;
}

static const unsigned char *get(struct message *m, char kind, size_t *size)
{
    expect(m, kind);
    *size = (size_t)load(m->data + m->position, LENGTH_SIZE);
    const unsigned char *octets = m->data + m->position + LENGTH_SIZE;
    m->position += LENGTH_SIZE + *size;
    return octets;
}

uint32_t message_get_u32(struct message *m)
{
    size_t size;
    const unsigned char *octets = get(m, 'u', &size);
    return (uint32_t)load(octets, size);
}

uint64_t message_get_u64(struct message *m)
{
    size_t size;
    const unsigned char *octets = get(m, 'q', &size);
    return load(octets, size);
}

bool message_get_text(struct message *m, char *text, size_t size)
{
    size_t length;
    const unsigned char *octets = get(m, 's', &length);
    if (length >= size)
        return false;
    memcpy(text, octets, length);
    text[length] = '\0';
    return true;
}

const unsigned char *message_get_octets(struct message *m, size_t *size)
{
    return get(m, 'b', size);
}

int message_take_fd(struct message *m)
{
    for (unsigned i = 0; i < m->n_fds; i++) {
        int fd = m->fds[i];
        if (fd >= 0) {
            m->fds[i] = -1;
            return fd;
        }
    }
    return -1;
}

void message_clear(struct message *m)
{
    for (unsigned i = 0; i < m->n_fds; i++)
        base_close(m->fds[i]);
    m->n_fds = 0;
    explicit_bzero(m->data, m->size);
    m->size = m->position = 0;
}
