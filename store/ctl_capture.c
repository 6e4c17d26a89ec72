/*
 * ctl_capture.c - UIDLs from a live POP3 account, matched with messages by their order and sizes.
 * Runs in poplarctl; touches nothing but its arguments.
 */
#include "store/ctl_capture.h"
#include "daemon/base.h"
#include "store/ctl_uidl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEAR = 2 }; /* octets by which a server may be wrong about a size */

/* One list of a capture: the second words of its lines, by number. */
struct listing {
    char **words;
    size_t n;
};

/* A line that belongs to no list: empty, a reply, the end of one. */
static bool is_frame(const char *line)
{
    return !*line || strcmp(line, ".") == 0 || line[0] == '+' || line[0] == '#';
}

/* Numbers begin at 1 and go up; where they begin again, the second list does. */
static bool take_line(struct listing lists[2], int *at, size_t line_number, char *line, char *error,
                      size_t error_size)
{
    char *state = NULL, *first = strtok_r(line, " \t", &state),
         *second = strtok_r(NULL, " \t", &state);
    uint64_t number;
    if (!first || !second || strtok_r(NULL, " \t", &state) || !ctl_uidl_number(first, &number)) {
        snprintf(error, error_size, "line %zu: neither \"NUMBER UIDL\" nor \"NUMBER OCTETS\"",
                 line_number);
        return false;
    }
    if (number == 1 && lists[*at].n > 0 && *at == 0)
        *at = 1;
    struct listing *list = &lists[*at];
    if (number != list->n + 1) {
        snprintf(error, error_size, "line %zu: number %ju follows on %zu: a list must be whole",
                 line_number, (uintmax_t)number, list->n);
        return false;
    }
    list->words = base_grow(list->words, list->n, sizeof *list->words);
    list->words[list->n++] = second;
    return true;
}

static bool all_numbers(const struct listing *list)
{
    uint64_t value;
    for (size_t i = 0; i < list->n; i++)
        if (!ctl_uidl_number(list->words[i], &value))
            return false;
    return list->n > 0;
}

static bool build(const struct listing *uidls, const struct listing *sizes,
                  struct ctl_capture *capture, char *error, size_t error_size)
{
    if (sizes->n > 0 && sizes->n != uidls->n) {
        snprintf(error, error_size, "%zu UIDL%s, but %zu size%s", uidls->n, base_plural(uidls->n),
                 sizes->n, base_plural(sizes->n));
        return false;
    }
    capture->entries = base_alloc((uidls->n + 1) * sizeof *capture->entries);
    capture->n = uidls->n;
    capture->has_sizes = sizes->n > 0;
    for (size_t i = 0; i < uidls->n; i++) {
        struct ctl_capture_entry *entry = &capture->entries[i];
        if (!ctl_uidl_is_valid(uidls->words[i])) {
            snprintf(error, error_size, "message %zu: \"%s\" is no UIDL", i + 1, uidls->words[i]);
            return false;
        }
        base_copy(entry->uidl, sizeof entry->uidl, uidls->words[i]);
        if (sizes->n > 0 && !ctl_uidl_number(sizes->words[i], &entry->octets)) {
            snprintf(error, error_size, "message %zu: \"%s\" is no size", i + 1, sizes->words[i]);
            return false;
        }
    }
    return true;
}

bool ctl_capture_read(char *octets, struct ctl_capture *capture, char *error, size_t error_size)
{
    struct listing lists[2] = {{0}};
    int at = 0;
    bool good = true;
    size_t line_number = 0;
    *capture = (struct ctl_capture){0};
    for (char *next = octets, *line; good && (line = strsep(&next, "\n"));) {
        line[strcspn(line, "\r")] = '\0';
        line_number++;
        if (!is_frame(line))
            good = take_line(lists, &at, line_number, line, error, error_size);
    }
    /* LIST may stand first, where that can be seen. */
    bool swapped = all_numbers(&lists[0]) && lists[1].n > 0 && !all_numbers(&lists[1]);
    if (good)
        good = build(&lists[swapped], &lists[!swapped], capture, error, error_size);
    free(lists[0].words);
    free(lists[1].words);
    return good;
}

void ctl_capture_free(struct ctl_capture *capture)
{
    free(capture->entries);
    *capture = (struct ctl_capture){0};
}

/* A stretch of both lists that is to be matched. */
struct stretch {
    size_t entry, n_entries; /* of the capture */
    size_t message, n_messages;
};

struct matching {
    const struct ctl_capture *capture;
    const struct ctl_capture_size *sizes;
    int64_t *matches;
    size_t matched;
};

static bool is_size(uint64_t octets, const struct ctl_capture_size *size)
{
    return octets == size->octets || octets == size->raw_octets;
}

static void match(struct matching *m, size_t message, size_t entry)
{
    m->matches[message] = (int64_t)entry;
    m->matched++;
}

static bool is_near(uint64_t octets, const struct ctl_capture_size *size)
{
    uint64_t difference = octets > size->octets ? octets - size->octets : size->octets - octets;
    return difference <= NEAR;
}

/* As many on both sides, and each of the size of its counterpart. Some servers miscount by an octet
 * or two: where most sizes are right, such a one is too. */
static bool match_whole(struct matching *m, const struct stretch *s)
{
    size_t exact = 0, near = 0;
    if (s->n_entries != s->n_messages)
        return false;
    for (size_t i = 0; i < s->n_entries; i++) {
        uint64_t octets = m->capture->entries[s->entry + i].octets;
        if (is_size(octets, &m->sizes[s->message + i]))
            exact++;
        else if (is_near(octets, &m->sizes[s->message + i]))
            near++;
        else
            return false;
    }
    if (near > exact + 1)
        return false;
    for (size_t i = 0; i < s->n_entries; i++)
        match(m, s->message + i, s->entry + i);
    return true;
}

/* A size with its place, to find those that occur once. */
struct sized {
    uint64_t octets;
    size_t at;
    bool entry;
};

static int compare_sizes(const void *a, const void *b)
{
    const struct sized *x = a, *y = b;
    if (x->octets != y->octets)
        return x->octets < y->octets ? -1 : 1;
    return x->entry - y->entry;
}

struct pair {
    size_t entry, message;
};

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    return x->entry < y->entry ? -1 : x->entry > y->entry;
}

/* Pairs of an entry and a message whose size neither list has a second time, in the order of the
 * entries. Both sizes of a message count, so that neither can be another's by chance. */
static size_t find_pairs(const struct matching *m, const struct stretch *s, struct pair *pairs)
{
    struct sized *all = base_alloc((s->n_entries + 2 * s->n_messages + 1) * sizeof *all);
    size_t n = 0, found = 0;
    for (size_t i = 0; i < s->n_entries; i++)
        all[n++] = (struct sized){m->capture->entries[s->entry + i].octets, s->entry + i, true};
    for (size_t i = 0; i < s->n_messages; i++) {
        const struct ctl_capture_size *size = &m->sizes[s->message + i];
        all[n++] = (struct sized){size->octets, s->message + i, false};
        if (size->raw_octets != size->octets)
            all[n++] = (struct sized){size->raw_octets, s->message + i, false};
    }
    qsort(all, n, sizeof *all, compare_sizes);
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && all[end].octets == all[i].octets)
            end++;
        if (end - i == 2 && !all[i].entry && all[i + 1].entry)
            pairs[found++] = (struct pair){all[i + 1].at, all[i].at};
        i = end;
    }
    free(all);
    if (found > 0)
        qsort(pairs, found, sizeof *pairs, compare_pairs);
    return found;
}

/* Keep the longest run of pairs whose messages are in order too; returns how many. */
static size_t keep_ordered(struct pair *pairs, size_t n)
{
    size_t *tails = base_alloc((n + 1) * sizeof *tails),
           *before = base_alloc((n + 1) * sizeof *before);
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        size_t low = 0, high = length;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (pairs[tails[middle]].message < pairs[i].message)
                low = middle + 1;
            else
                high = middle;
        }
        before[i] = low > 0 ? tails[low - 1] : SIZE_MAX;
        tails[low] = i;
        if (low == length)
            length++;
    }
    struct pair *kept = base_alloc((length + 1) * sizeof *kept);
    size_t at = length > 0 ? tails[length - 1] : 0;
    for (size_t i = length; i > 0; i--) {
        kept[i - 1] = pairs[at];
        at = before[at];
    }
    memcpy(pairs, kept, length * sizeof *kept);
    free(kept);
    free(tails);
    free(before);
    return length;
}

/* What is certain in a stretch; then the stretches between. Every pair ends two of them, so this
 * comes to an end. */
static void match_stretch(struct matching *m, struct stretch s)
{
    if (s.n_entries == 0 || s.n_messages == 0 || match_whole(m, &s))
        return;
    struct pair *pairs = base_alloc((s.n_entries + 1) * sizeof *pairs);
    size_t n = keep_ordered(pairs, find_pairs(m, &s, pairs));
    size_t entry = s.entry, message = s.message;
    for (size_t i = 0; i < n; i++) {
        match(m, pairs[i].message, pairs[i].entry);
        match_stretch(m, (struct stretch){entry, pairs[i].entry - entry, message,
                                          pairs[i].message - message});
        entry = pairs[i].entry + 1;
        message = pairs[i].message + 1;
    }
    if (n > 0)
        match_stretch(m, (struct stretch){entry, s.entry + s.n_entries - entry, message,
                                          s.message + s.n_messages - message});
    free(pairs);
}

size_t ctl_capture_match(const struct ctl_capture *capture, const struct ctl_capture_size *sizes,
                         size_t n_sizes, int64_t *matches)
{
    struct matching m = {.capture = capture, .sizes = sizes, .matches = matches};
    for (size_t i = 0; i < n_sizes; i++)
        matches[i] = CTL_CAPTURE_NONE;
    if (capture->has_sizes)
        match_stretch(&m, (struct stretch){0, capture->n, 0, n_sizes});
    else if (capture->n == n_sizes)
        for (size_t i = 0; i < n_sizes; i++)
            match(&m, i, i);
    return m.matched;
}
