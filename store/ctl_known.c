/*
 * ctl_known.c - whether a message to be imported is in the maildrop already, or was. Runs in
 * poplarctl. Notes of what came are kept in the maildrop when the message itself is deleted: what a
 * user deleted must not come back with the next import.
 */
#include "store/ctl_known.h"
#include "daemon/base.h"

#include <stdlib.h>
#include <string.h>

void ctl_known_free(struct ctl_known *known)
{
    free(known->keys);
    free(known->counts);
    *known = (struct ctl_known){0};
}

/* The place of a key, or the free one where it belongs. Keys are digests: any octets of them are
 * as good as a hash. */
static size_t place_of(const struct ctl_known *known, const unsigned char key[CTL_KEY_SIZE])
{
    size_t at;
    memcpy(&at, key, sizeof at);
    for (at &= known->room - 1; known->counts[at] > 0; at = (at + 1) & (known->room - 1))
        if (memcmp(known->keys[at], key, CTL_KEY_SIZE) == 0)
            break;
    return at;
}

static void grow(struct ctl_known *known)
{
    struct ctl_known old = *known;
    known->room = old.room ? old.room * 2 : 256;
    known->keys = base_alloc(known->room * sizeof *known->keys);
    known->counts = base_alloc(known->room * sizeof *known->counts);
    for (size_t i = 0; i < old.room; i++)
        if (old.counts[i] > 0) {
            size_t at = place_of(known, old.keys[i]);
            memcpy(known->keys[at], old.keys[i], CTL_KEY_SIZE);
            known->counts[at] = old.counts[i];
        }
    free(old.keys);
    free(old.counts);
}

/* How often this key was met before in this run. */
static uint32_t count(struct ctl_known *known, const unsigned char key[CTL_KEY_SIZE])
{
    if (known->n * 2 >= known->room)
        grow(known);
    size_t at = place_of(known, key);
    if (known->counts[at] == 0) {
        memcpy(known->keys[at], key, CTL_KEY_SIZE);
        known->n++;
    }
    return known->counts[at]++;
}

void ctl_known_candidate(struct ctl_known *known, const struct ctl_inspected *inspected,
                         const char *uidl, const char *why_not, struct ctl_candidate *candidate)
{
    unsigned char key[CTL_KEY_SIZE];
    *candidate = (struct ctl_candidate){.why_not = why_not};
    memcpy(candidate->digest, inspected->digest, CTL_DIGEST_SIZE);
    ctl_inspect_key("content", 0, inspected->digest, CTL_DIGEST_SIZE, key);
    ctl_inspect_key("content", count(known, key), inspected->digest, CTL_DIGEST_SIZE,
                    candidate->content_key);
    if (!uidl)
        return;
    ctl_inspect_key("uidl", 0, uidl, strlen(uidl), candidate->uidl_key);
    if (count(known, candidate->uidl_key) > 0)
        candidate->why_not = "another message of the old server has this UIDL too";
    else
        base_copy(candidate->uidl, sizeof candidate->uidl, uidl);
}

/* Whether a stored message is what the candidate is. */
static enum store_outcome compare(struct maildrop *maildrop, int64_t id,
                                  const struct ctl_candidate *candidate, bool *same)
{
    char *chunk = base_alloc(MAILDROP_CHUNK_SIZE);
    struct ctl_inspect *inspect = ctl_inspect_begin();
    struct ctl_inspected stored;
    enum store_outcome outcome;
    uint64_t offset = 0;
    size_t got = 0;
    do {
        outcome = maildrop_read(maildrop, id, offset, chunk, MAILDROP_CHUNK_SIZE, &got);
        ctl_inspect_feed(inspect, chunk, outcome == STORE_OK ? got : 0);
        offset += got;
    } while (outcome == STORE_OK && got > 0);
    ctl_inspect_end(inspect, &stored);
    free(chunk);
    *same = memcmp(stored.digest, candidate->digest, CTL_DIGEST_SIZE) == 0;
    return outcome;
}

/* One with a UIDL. */
static enum store_outcome look_for_uidl(struct maildrop *maildrop, struct ctl_candidate *candidate,
                                        enum manage_import content, const char **known)
{
    enum manage_import uidl = MANAGE_NEW;
    bool same = true;
    int64_t id = 0;
    enum store_outcome outcome = manage_find_uidl(maildrop, candidate->uidl, &id);
    if (outcome == STORE_OK && content == MANAGE_NEW)
        outcome = compare(maildrop, id, candidate, &same);
    if (outcome == STORE_OK && same)
        *known = "its UIDL is there";
    if (outcome == STORE_OK && !same)
        uidl = MANAGE_KEPT;
    if (outcome == STORE_NOT_FOUND)
        outcome = manage_imported(maildrop, candidate->uidl_key, &uidl);
    if (outcome != STORE_OK || *known)
        return outcome;
    if (uidl != MANAGE_NEW && content != MANAGE_NEW) {
        *known = "imported before, and deleted since";
    } else if (uidl != MANAGE_NEW) {
        candidate->uidl[0] = '\0';
        candidate->why_not = "another message of the maildrop has, or had, this UIDL";
    } else if (content == MANAGE_OTHER) {
        *known = "imported before, with a new UIDL";
    }
    return STORE_OK;
}

enum store_outcome ctl_known_look(struct maildrop *maildrop, struct ctl_candidate *candidate,
                                  const char **known)
{
    enum manage_import content = MANAGE_NEW;
    enum store_outcome outcome;
    *known = NULL;
    if (!maildrop)
        return STORE_OK;
    outcome = manage_imported(maildrop, candidate->content_key, &content);
    if (outcome != STORE_OK)
        return outcome;
    if (candidate->uidl[0])
        return look_for_uidl(maildrop, candidate, content, known);
    if (content != MANAGE_NEW)
        *known = "imported before";
    return STORE_OK;
}

enum store_outcome ctl_known_gone(const struct ctl_known *known, struct maildrop *maildrop,
                                  const char *uidl, bool *gone)
{
    unsigned char key[CTL_KEY_SIZE];
    enum manage_import before = MANAGE_NEW;
    ctl_inspect_key("uidl", 0, uidl, strlen(uidl), key);
    enum store_outcome outcome = manage_imported(maildrop, key, &before);
    if (outcome == STORE_OK)
        *gone =
            before == MANAGE_KEPT && (known->room == 0 || known->counts[place_of(known, key)] == 0);
    return outcome;
}

enum store_outcome ctl_known_note(struct maildrop *maildrop, const struct ctl_candidate *candidate)
{
    bool kept = candidate->uidl[0];
    enum store_outcome outcome = manage_note_import(maildrop, candidate->content_key, kept);
    if (outcome == STORE_OK && kept)
        outcome = manage_note_import(maildrop, candidate->uidl_key, kept);
    return outcome;
}
