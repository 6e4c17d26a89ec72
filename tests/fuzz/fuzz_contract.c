/*
 * fuzz_contract.c - records between the processes, as each role receives them in each state.
 *
 * Promised: what is received well is by its row, field for field, and the same again when it is
 * written anew; no descriptor stays open.
 */
#include "daemon/channel.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/raw.h"

#include <fcntl.h>
#include <unistd.h>

static int ends[2];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    promise(channel_pair(ends, true) == 0);
    return 0;
}

/* Read each field, write it again. */
static void read_fields(struct message *m)
{
    static struct message again;
    char text[PROTO_MESSAGE_MAX];
    const unsigned char *octets;
    size_t size;
    message_begin(&again, m->rule->type);
    for (const char *kind = m->rule->fields; *kind; kind++) {
        switch (*kind) {
        case 'u':
            message_put_u32(&again, message_get_u32(m));
            break;
        case 'q':
            message_put_u64(&again, message_get_u64(m));
            break;
        case 's':
            promise(message_get_text(m, text, sizeof text));
            message_put_text(&again, text);
            break;
        default:
            octets = message_get_octets(m, &size);
            message_put_octets(&again, octets, size);
        }
    }
    promise(again.size == m->size && memcmp(again.data, m->data, m->size) == 0);
    message_clear(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct message m;
    struct channel c;
    const int lowest = dup(0);
    const uint8_t roles = fuzz_octet(&data, &size);
    close(lowest);
    channel_open(&c, ends[0], 1U << roles % 5, 1U << roles / 5 % 5,
                 1U << fuzz_octet(&data, &size) % 9);
    while (size > 0) {
        const char *fault = NULL;
        unsigned n_fds = fuzz_octet(&data, &size) % 7;
        size_t wanted = fuzz_octet(&data, &size);
        wanted = wanted < size ? wanted : size;
        if (size < 3 || wanted == 0)
            wanted = size;
        promise(raw_send(ends[1], data, wanted, ends[1], n_fds) >= 0);
        data += wanted;
        size -= wanted;
        enum channel_outcome outcome = channel_receive(&c, &m, false, &fault);
        promise(outcome == CHANNEL_OK || outcome == CHANNEL_BAD || outcome == CHANNEL_END);
        promise(outcome != CHANNEL_BAD || fault);
        if (outcome != CHANNEL_OK)
            continue;
        promise(m.rule->from & c.peer && m.rule->to & c.self && m.rule->states & c.state);
        promise(m.n_fds >= m.rule->min_fds && m.n_fds <= m.rule->max_fds);
        read_fields(&m);
        if (m.n_fds > 1)
            close(message_take_fd(&m));
        message_clear(&m);
    }
    const int now = dup(0);
    close(now);
    promise(now == lowest);
    return 0;
}
